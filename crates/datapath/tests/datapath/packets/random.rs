//! Any packet of any pod under any policies, against asking one policy after the other.

use super::*;

/// Whether an address is of the cluster or of a link.
fn is_inside(view: &NodeView, to: Ipv4Addr) -> bool {
    let never: [&str; 5] =
        ["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32"];
    let to = IpAddr::from(to);
    view.cluster_cidrs.iter().any(|net| net.contains(&to))
        || view.node_addresses.contains(&to)
        || never.iter().any(|net| net.parse::<ipnet::IpNet>().unwrap().contains(&to))
}

/// What a policy says about a destination, by asking one after the other.
fn naive<'a>(view: &'a NodeView, pod: &PodKey, to: Ipv4Addr) -> Option<&'a PolicyView> {
    let inside = is_inside(view, to);
    let to = IpAddr::from(to);
    let specific = |policy: &PolicyView| match &policy.destinations {
        Destinations::Outside => (!inside).then_some(0),
        Destinations::Subnets(nets) => nets
            .iter()
            .filter(|net| net.contains(&to) && (net.prefix_len() > 0 || !inside))
            .map(|net| net.prefix_len())
            .max(),
    };
    view.policies
        .iter()
        .filter(|policy| policy.pods.contains(pod))
        .filter(|policy| policy.eip.is_none_or(|eip| eip.v4().is_some()))
        .filter_map(|policy| Some((specific(policy)?, policy)))
        .min_by(|(a, p), (b, q)| {
            let priority = |p: &PolicyView| (p.precedence.priority.is_none(), p.precedence.priority);
            priority(p).cmp(&priority(q)).then(b.cmp(a)).then(p.precedence.cmp(&q.precedence))
        })
        .map(|(_, policy)| policy)
}

/// The address and ports that a new connection leaves with; `None`: it waits for ports.
fn leaves_with(
    view: &NodeView,
    eip: EipPair,
    source: &SourceEip,
) -> Option<(Option<Ipv4Addr>, std::ops::RangeInclusive<u16>)> {
    let at_home = source.carrier.as_ref() == Some(&view.node);
    if source.node_address {
        let uplink = view.uplink.as_ref().and_then(|uplink| uplink.ipv4);
        let tunnel = view.tunnel.as_ref().and_then(|tunnel| tunnel.ipv4);
        return Some((if at_home { uplink } else { tunnel }, 1024..=65535));
    }
    let gateway = view.gateway_eips.get(&eip);
    let own = gateway
        .into_iter()
        .flat_map(|gateway| &gateway.leases)
        .find(|lease| lease.node == view.node && lease.role == LeaseRole::Overflow && !lease.draining);
    let block = source.block.or(own.map(|lease| lease.block));
    let ports = match block {
        Some(block) => block.first()..=block.last(),
        None if source.overflow && !at_home => 49152..=65535,
        None => return None,
    };
    Some((eip.v4(), ports))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_packet_of_any_pod_leaves_as_the_policies_say(
        view in any_view(),
        pod in 1u8..5,
        to in prop_oneof![
            Just(Ipv4Addr::new(1, 1, 1, 1)), Just(Ipv4Addr::new(1, 1, 2, 2)), Just(Ipv4Addr::new(1, 2, 3, 4)),
            Just(Ipv4Addr::new(9, 9, 9, 9)), Just(SERVER), Just(Ipv4Addr::new(169, 254, 169, 254)),
            any::<u32>().prop_map(Ipv4Addr::from),
        ],
        transport in prop_oneof![Just(tcp(5000, 443)), Just(udp(5000, 53)), Just(ping(5)), Just(Transport::Other(47))],
    ) {
        let addresses: BTreeSet<_> = view.pods.values().map(|pod| &pod.addresses).collect();
        prop_assume!(addresses.len() == view.pods.len());
        prop_assume!(!view.all_eips.iter().any(|eip| eip.contains(to.into())));
        let state = compile(&view, &numbered(&view));
        prop_assert_eq!(datapath::violations::violations(&view, &state), []);
        let mut host = host(&view);
        host.state = state;
        let from = IpAddr::from(pod_address("node-1", pod));
        prop_assume!(!host.addresses.contains(&to.into()) && !to.is_broadcast());
        let owner = view.pods.iter().find(|(_, pod)| pod.addresses.contains(&from));
        let device = match owner.and_then(|(_, pod)| pod.interface) {
            // The same index as the pod says.
            Some(index) => { host.devices.insert("own".to_owned(), index); "own".to_owned() }
            None => veth(pod),
        };
        let packet = Packet::new(from, to, transport.clone());
        let outcome = host.receive(&device, packet);
        let chosen = owner.and_then(|(key, _)| naive(&view, key, to));
        let Some(policy) = chosen else {
            if owner.is_none() && !view.policies.is_empty() && view.uplink.is_some() && !is_inside(&view, to) {
                prop_assert_eq!(outcome, Outcome::Dropped);
                return Ok(());
            }
            // As if we were not there.
            if let Outcome::Sent { packet, .. } = &outcome {
                prop_assert!(packet.source == from || view.node_addresses.contains(&packet.source));
                return Ok(());
            }
            prop_assert!(false, "{:?}", outcome);
            return Ok(());
        };
        let source = policy.eip.and_then(|eip| Some((eip, view.eips.get(&eip)?)));
        let way = source.and_then(|(eip, source)| {
            let carrier = source.carrier.as_ref()?;
            let own = *carrier == view.node;
            let home = if source.node_address { view.uplink.is_some() } else { view.gateway_eips.contains_key(&eip) };
            let with = leaves_with(&view, eip, source)?;
            (!own || home).then_some((with, source, own))
        });
        let translatable = !matches!(transport, Transport::Other(_));
        let waits = source.is_some_and(|(eip, source)| leaves_with(&view, eip, source).is_none());
        match (&way, translatable, &outcome) {
            (Some(((address, ports), source, own)), true, Outcome::Sent { device, packet, next_hop }) => {
                prop_assert_eq!(packet.source, IpAddr::from(address.unwrap()));
                prop_assert!(ports.contains(&packet.source_port().unwrap()));
                prop_assert_eq!(device.as_str(), if *own { "eth0" } else { "egress.vxlan" });
                prop_assert_eq!(packet.mark, 0);
                if !own {
                    prop_assert_eq!(*next_hop, IpAddr::from(tunnel4(source.carrier.as_ref().unwrap())));
                }
            }
            (Some((_, _, false)), true, Outcome::Unreachable) => {
                prop_assert!(view.tunnel.is_none() || view.uplink.is_none());
            }
            (_, _, Outcome::Sent { packet, .. }) => {
                prop_assert_eq!(view.settings.no_gateway_action, NoGatewayAction::Direct);
                prop_assert!(way.is_none() || !translatable);
                prop_assert!(view.node_addresses.contains(&packet.source));
            }
            (None, ..) | (_, false, _) => match view.settings.no_gateway_action {
                // Ports are on their way; the sender tries again.
                NoGatewayAction::Reject
                    if translatable && waits =>
                {
                    prop_assert_eq!(outcome, Outcome::Dropped);
                }
                NoGatewayAction::Reject => prop_assert!(matches!(outcome, Outcome::Rejected(_))),
                NoGatewayAction::Drop => prop_assert_eq!(outcome, Outcome::Dropped),
                NoGatewayAction::Direct => prop_assert!(false, "{:?}", outcome),
            },
            (_, _, outcome) => prop_assert!(false, "{:?}", outcome),
        }
        let guarded: u64 = GUARD.iter().filter_map(|name| host.counters.get(*name)).sum();
        prop_assert_eq!(guarded, 0, "the guard is never needed");
    }
}
