//! Random packets through all nodes of random clusters, both families: where each one ends, with which source, and what was
//! counted on its way, against what a reader of the policies would say. What no policy selects is held against the same
//! cluster without us.

#![expect(
    clippy::indexing_slicing,
    reason = "clippy takes only what is inside of a test function for a test"
)]

use std::net::Ipv6Addr;

use datapath::compile::names;
use datapath::trace::{SCTP, Tuple, UDP_LITE};
use model::policy::Precedence;

use super::*;

/// Clusters in a run, and packets through each: ten thousand in all.
const CLUSTERS: u32 = 400;
const PACKETS: usize = 25;

const GRE: u8 = 47;
/// A pod that the agent does not know yet.
const STRANGER: u8 = 5;
const SERVICE_PORT: u16 = 80;
const NEVER_OUTSIDE: [&str; 9] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/4",
    "255.255.255.255/32",
    "::/128",
    "::1/128",
    "fe80::/10",
    "ff00::/8",
];

/// Addresses of one thing in both families.
type Both = (Ipv4Addr, Ipv6Addr);

fn pod_both(node: &str, n: u8) -> Both {
    (pod_address(node, n), Ipv6Addr::new(0xfd00, 0, 0, number(node).into(), 0, 0, 0, n.into()))
}

fn node_both(node: &str) -> Both {
    (underlay(node), Ipv6Addr::new(0xfd06, 0, 0, 0, 0, 0, 0, 0x10 + u16::from(number(node))))
}

/// Services: one leads to a pod, one leads outside.
fn service(outside: bool) -> Both {
    let last = if outside { 11 } else { 10 };
    (Ipv4Addr::new(10, 96, 0, last), Ipv6Addr::new(0xfd00, 0, 0, 0x96, 0, 0, 0, last.into()))
}

fn backend(outside: bool) -> Both {
    if outside { ([1, 1, 1, 1].into(), "fd99::1".parse().unwrap()) } else { pod_both("node-2", 1) }
}

fn pick(both: Both, v6: bool) -> IpAddr {
    if v6 { both.1.into() } else { both.0.into() }
}

/// One EIP of IPv4 only, one pair, one of IPv6 only.
fn eips() -> [EipPair; 3] {
    let v6 = |n: u16| Some(Ipv6Addr::new(0xfd06, 0, 0, 0, 0, 0, 2, n));
    [eip(1), EipPair::new(eip(2).v4(), v6(2)).unwrap(), EipPair::new(None, v6(3)).unwrap()]
}

fn of_family(eip: EipPair, v6: bool) -> Option<IpAddr> {
    if v6 { eip.v6().map(IpAddr::from) } else { eip.v4().map(IpAddr::from) }
}

#[derive(Clone, Copy, Debug)]
enum To {
    Server,
    Far,
    Named,
    Pod,
    Node,
    Service { outside: bool },
    Eip(usize),
    LinkLocal,
    Any(u32),
}

impl To {
    fn address(self, v6: bool) -> Option<IpAddr> {
        let both: Both = match self {
            Self::Server => (SERVER, "fd06::63".parse().unwrap()),
            Self::Far => ([9, 9, 9, 9].into(), "fd98::9".parse().unwrap()),
            Self::Named => ([1, 1, 1, 1].into(), "fd99::1".parse().unwrap()),
            Self::Pod => pod_both("node-2", 2),
            Self::Node => node_both("node-2"),
            Self::Service { outside } => service(outside),
            Self::LinkLocal => ([169, 254, 169, 254].into(), "fe80::a9fe".parse().unwrap()),
            Self::Any(bits) => (
                Ipv4Addr::from(bits),
                Ipv6Addr::from((u128::from(bits) << 96) | u128::from(bits.reverse_bits())),
            ),
            Self::Eip(n) => return of_family(eips()[n], v6),
        };
        Some(pick(both, v6))
    }
}

/// A packet of a pod.
#[derive(Clone, Copy, Debug)]
struct Sent {
    node: usize,
    pod: u8,
    v6: bool,
    to: To,
    protocol: u8,
    port: u16,
}

fn any_sent() -> impl Strategy<Value = Sent> {
    let to = prop_oneof![
        3 => Just(To::Server),
        2 => Just(To::Named),
        1 => Just(To::Far),
        1 => Just(To::Pod),
        1 => Just(To::Node),
        1 => any::<bool>().prop_map(|outside| To::Service { outside }),
        1 => (0usize..3).prop_map(To::Eip),
        1 => Just(To::LinkLocal),
        1 => any::<u32>().prop_map(To::Any),
    ];
    let protocol =
        proptest::sample::select(&[TCP, TCP, UDP, UDP, datapath::trace::ICMP, UDP_LITE, SCTP, GRE][..]);
    let port = prop_oneof![Just(SERVICE_PORT), Just(443u16), 1u16..];
    (0usize..4, 1u8..=STRANGER, any::<bool>(), to, protocol, port)
        .prop_map(|(node, pod, v6, to, protocol, port)| Sent { node, pod, v6, to, protocol, port })
}

/// What an EIP of a random cluster is like.
#[derive(Clone, Debug)]
struct Placed {
    carrier: Option<&'static str>,
    /// Whether each node holds a block
    blocks: [bool; 4],
    overflow: bool,
}

fn any_placed() -> impl Strategy<Value = Placed> {
    let carrier = proptest::option::weighted(0.8, proptest::sample::select(&["node-3", "node-4"][..]));
    (carrier, proptest::array::uniform4(proptest::bool::weighted(0.7)), any::<bool>())
        .prop_map(|(carrier, blocks, overflow)| Placed { carrier, blocks, overflow })
}

fn any_policies() -> impl Strategy<Value = Vec<PolicyView>> {
    const SUBNETS: [&str; 8] = [
        "0.0.0.0/0",
        "::/0",
        "1.0.0.0/8",
        "1.1.1.1/32",
        "10.6.0.0/16",
        "169.254.169.254/32",
        "fd99::/64",
        "fd06::/64",
    ];
    let subnets = prop_oneof![Just(Vec::new()), proptest::sample::subsequence(&SUBNETS[..], 1..=3)];
    let pods = proptest::sample::subsequence(&["p1", "p2", "p3"][..], 0..=3);
    let any =
        (pods, subnets, proptest::option::weighted(0.9, 0usize..3), proptest::option::of(0u64..2), 0i64..2);
    proptest::collection::vec(any, 0..5).prop_map(|policies| {
        let view =
            |(n, (pods, subnets, eip, priority, created_at)): (usize, (Vec<&str>, Vec<&str>, _, _, _))| {
                let mut view =
                    policy(&format!("p{n}"), &pods, &subnets, Option::map(eip, |n: usize| eips()[n]));
                view.precedence = Precedence { priority, created_at, ..view.precedence };
                view
            };
        policies.into_iter().enumerate().map(view).collect()
    })
}

fn block_of(node: &str) -> PortRange {
    let block = block(4096 * u16::from(number(node)), 4096);
    block.first()..=block.last()
}

fn overflow_of(node: &str) -> Lease {
    Lease { role: LeaseRole::Overflow, ..lease(node, 49152 + 4096 * (u16::from(number(node)) - 1), 1024) }
}

type PortRange = std::ops::RangeInclusive<u16>;

fn cluster(policies: &[PolicyView], placed: &[Placed; 3], action: NoGatewayAction) -> Cluster {
    let mut cluster = Cluster::new();
    for (name, host) in &mut cluster.network.hosts {
        host.addresses.extend([IpAddr::from(node_both(name).1), tunnel6(name).into()]);
        for n in 1..=STRANGER {
            host.routes.push(route(&format!("{}/128", pod_both(name, n).1), &veth(n)));
        }
        host.routes.push(route("fd06::/64", "eth0"));
        host.routes.push(route("::/0", "eth0"));
        host.masquerade.push("fd00::/48".parse().unwrap());
        for (outside, v6) in [(false, false), (false, true), (true, false), (true, true)] {
            let (from, to) = (pick(service(outside), v6), pick(backend(outside), v6));
            host.services.insert((from, SERVICE_PORT), (to, SERVICE_PORT));
        }
    }
    cluster.change(|view| {
        view.settings.ipv6 = true;
        view.settings.no_gateway_action = action;
        view.uplink.as_mut().unwrap().ipv6 = Some(node_both(&view.node).1);
        view.node_addresses.extend(NODES.map(|node| IpAddr::from(node_both(node).1)));
        let pod = |n: u8| {
            let (v4, v6) = pod_both(&view.node, n);
            let addresses = BTreeSet::from([IpAddr::from(v4), v6.into()]);
            (pod_key(&format!("p{n}")), Pod { addresses, interface: Some(u32::from(n) + 10) })
        };
        view.pods = (1..STRANGER).map(pod).collect();
        view.policies = policies.to_vec();
        view.all_eips = eips().into();
        view.eips.clear();
        view.gateway_eips.clear();
        let own = usize::from(number(&view.node)) - 1;
        for (eip, placed) in eips().into_iter().zip(placed) {
            let source = SourceEip {
                carrier: placed.carrier.map(str::to_owned),
                candidates: ["node-3", "node-4"].map(str::to_owned).into(),
                block: placed.blocks[own].then(|| block(*block_of(&view.node).start(), 4096)),
                overflow: placed.overflow,
                ..SourceEip::default()
            };
            view.eips.insert(eip, source);
            if own >= 2 {
                let holders = NODES.iter().zip(placed.blocks).filter(|(_, holds)| *holds);
                let mut leases: BTreeSet<Lease> =
                    holders.map(|(node, _)| lease(node, *block_of(node).start(), 4096)).collect();
                if placed.overflow {
                    leases.extend(["node-3", "node-4"].map(overflow_of));
                }
                let answers = placed.carrier == Some(view.node.as_str());
                view.gateway_eips.insert(eip, GatewayEip { answers, leases });
            }
        }
    });
    cluster
}

/// Whether an address is of the cluster, of a link or of a host.
fn is_inside(view: &NodeView, to: IpAddr) -> bool {
    let never = NEVER_OUTSIDE.iter().any(|net| net.parse::<ipnet::IpNet>().unwrap().contains(&to));
    never || view.cluster_cidrs.iter().any(|net| net.contains(&to)) || view.node_addresses.contains(&to)
}

/// The policy that decides, by asking one after the other.
fn deciding<'a>(view: &'a NodeView, pod: &PodKey, to: IpAddr) -> Option<&'a PolicyView> {
    let inside = is_inside(view, to);
    let prefix = |policy: &PolicyView| match &policy.destinations {
        Destinations::Outside => (!inside).then_some(0),
        Destinations::Subnets(nets) => {
            let holding = nets.iter().filter(|net| net.contains(&to) && (net.prefix_len() > 0 || !inside));
            holding.map(|net| net.prefix_len()).max()
        }
    };
    let of_pod = view.policies.iter().filter(|policy| policy.pods.contains(pod));
    let able = of_pod.filter(|policy| policy.eip.is_none_or(|eip| of_family(eip, to.is_ipv6()).is_some()));
    let place = |prefix: u8, policy: &PolicyView| {
        let precedence = &policy.precedence;
        (
            precedence.priority.unwrap_or(u64::MAX),
            std::cmp::Reverse(prefix),
            precedence.created_at,
            precedence.key.clone(),
        )
    };
    let selecting = able.filter_map(|policy| Some((place(prefix(policy)?, policy), policy)));
    selecting.min_by(|(a, _), (b, _)| a.cmp(b)).map(|(_, policy)| policy)
}

/// What must become of a packet, and what must be counted.
#[derive(Debug)]
enum Expected {
    /// It leaves with this address and one of these ports
    Leaves(IpAddr, PortRange, &'static [&'static str]),
    /// It does not leave its node; whether its sender hears of it
    Ends { answered: bool, counted: &'static str },
    /// Whatever becomes of it without us
    AsWithoutUs(&'static [&'static str]),
    /// It goes to an EIP like anybody's: nobody forwards it
    Stray,
}

fn expected(view: &NodeView, placed: &[Placed; 3], sent: &Sent, to: IpAddr) -> Expected {
    let action = view.settings.no_gateway_action;
    let refused = |counted: &'static str| match action {
        NoGatewayAction::Reject => Expected::Ends { answered: true, counted },
        NoGatewayAction::Drop => Expected::Ends { answered: false, counted },
        NoGatewayAction::Direct => Expected::AsWithoutUs(&[names::DIRECT]),
    };
    let is_eip = eips().iter().any(|eip| eip.contains(to));
    if sent.pod == STRANGER {
        return if is_eip {
            Expected::Stray
        } else if !view.policies.is_empty() && !is_inside(view, to) {
            Expected::Ends { answered: false, counted: names::DROP_UNKNOWN_POD }
        } else {
            Expected::AsWithoutUs(&[])
        };
    }
    let pod = pod_key(&format!("p{}", sent.pod));
    let is_selected = view.policies.iter().any(|policy| policy.pods.contains(&pod));
    if is_eip {
        return if is_selected {
            let answered = action != NoGatewayAction::Drop;
            Expected::Ends { answered, counted: names::REFUSE_TO_EIP }
        } else {
            Expected::Stray
        };
    }
    let Some(policy) = deciding(view, &pod, to) else { return Expected::AsWithoutUs(&[]) };
    if sent.protocol == GRE {
        return refused(names::REFUSE_PROTOCOL);
    }
    let Some(eip) = policy.eip else { return refused(names::REFUSE_NO_GATEWAY) };
    let number = eips().iter().position(|own| *own == eip).unwrap();
    let (placed, own) = (&placed[number], usize::from(self::number(&view.node)) - 1);
    let at_home = placed.carrier == Some(view.node.as_str());
    let ports = if placed.blocks[own] {
        Some((block_of(&view.node), &[][..]))
    } else if placed.overflow && own >= 2 {
        // A gateway's own pods leave with its own overflow block.
        let block = overflow_of(&view.node).block;
        Some((block.first()..=block.last(), &[names::OVERFLOW][..]))
    } else if placed.overflow && !at_home {
        let block = overflow_of(placed.carrier.unwrap_or("node-3")).block;
        Some((block.first()..=block.last(), &[names::OVERFLOW, names::OVERFLOW][..]))
    } else {
        None
    };
    match (ports, placed.carrier) {
        (None, _) if action == NoGatewayAction::Direct => Expected::AsWithoutUs(&[names::DIRECT]),
        (None, _) => Expected::Ends { answered: false, counted: names::HOLD_NO_LEASE },
        (Some((_, counted)), None) => {
            // What leaves with a gateway's ports is counted as that before its way is looked for.
            match (refused(names::REFUSE_NO_GATEWAY), counted.is_empty()) {
                (Expected::AsWithoutUs(_), false) => Expected::AsWithoutUs(&[names::DIRECT, names::OVERFLOW]),
                (other, _) => other,
            }
        }
        (Some((ports, counted)), Some(_)) => {
            Expected::Leaves(of_family(eip, sent.v6).unwrap(), ports, counted)
        }
    }
}

/// What was counted by all nodes, by name.
fn counted(network: &Network) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for (name, count) in network.hosts.values().flat_map(|host| &host.counters) {
        *all.entry(name.clone()).or_default() += count;
    }
    all
}

fn difference(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> Vec<String> {
    let more = |(name, count): (&String, &u64)| {
        let more = count - before.get(name).copied().unwrap_or_default();
        vec![name.clone(); usize::try_from(more).unwrap()]
    };
    after.iter().flat_map(more).collect()
}

fn transport(sent: &Sent, n: u16) -> Transport {
    match sent.protocol {
        GRE => Transport::Other(GRE),
        datapath::trace::ICMP => ping(30_000 + n),
        protocol => Transport::Ports {
            protocol,
            source: 30_000 + n,
            destination: sent.port,
            flags: if protocol == TCP { SYN } else { 0 },
        },
    }
}

fn check(
    cluster: &mut Cluster,
    bare: &mut Network,
    placed: &[Placed; 3],
    sent: &Sent,
    n: u16,
) -> Result<(), TestCaseError> {
    let node = NODES[sent.node];
    let view = cluster.views[node].clone();
    let Some(to) = sent.to.address(sent.v6) else { return Ok(()) };
    // Addresses of the host itself, and broadcasts: other tests.
    if cluster.network.hosts[node].addresses.contains(&to)
        || matches!(to, IpAddr::V4(v4) if v4.is_broadcast())
    {
        return Ok(());
    }
    let from = pick(pod_both(node, sent.pod), sent.v6);
    let packet = Packet::new(from, to, transport(sent, n));
    let is_service = matches!(sent.to, To::Service { .. });
    let is_translated = is_service
        && sent.port == SERVICE_PORT
        && sent.protocol != GRE
        && sent.protocol != datapath::trace::ICMP;
    let real = match sent.to {
        To::Service { outside } if is_translated => pick(backend(outside), sent.v6),
        _ => to,
    };
    let expected = expected(&view, placed, sent, real);
    let is_known =
        cluster.network.hosts[node].flows.iter().any(|flow| Some(flow.original) == Tuple::of(&packet));
    let before = counted(&cluster.network);
    let end = cluster.network.receive(node, &veth(sent.pod), packet.clone());
    let mut reasons = difference(&before, &counted(&cluster.network));
    reasons.sort();
    let without = bare.receive(node, &veth(sent.pod), packet.clone());
    match expected {
        Expected::Leaves(source, ports, counted) => {
            let left = match &end {
                End::Outside { packet, .. } | End::Process { packet, .. } => packet,
                end => return Err(TestCaseError::fail(format!("{end:?}, {reasons:?}"))),
            };
            prop_assert_eq!(left.source, source);
            prop_assert!(ports.contains(&left.source_port().unwrap()), "{:?}", left);
            prop_assert_eq!(left.destination, real);
            prop_assert_eq!(reasons, counted);
            if let End::Outside { packet: left, .. } = &end {
                let back = cluster.network.send_from_outside(left.reply());
                let Some(End::Behind { node: at, device, packet: back }) = back else {
                    return Err(TestCaseError::fail(format!("the answer: {back:?}")));
                };
                prop_assert_eq!((at.as_str(), device), (node, veth(sent.pod)));
                prop_assert_eq!((back.source, back.destination), (to, from));
                prop_assert_eq!(back.transport, packet.reply().transport);
            }
        }
        Expected::Ends { answered, counted } => {
            let End::Lost { node: at, outcome } = &end else {
                return Err(TestCaseError::fail(format!("{end:?}, {reasons:?}")));
            };
            prop_assert_eq!(at, node);
            prop_assert_eq!(matches!(outcome, Outcome::Rejected(_)), answered, "{:?}", outcome);
            let reasons: Vec<&String> = reasons.iter().filter(|name| *name != names::OVERFLOW).collect();
            prop_assert_eq!(reasons, [counted]);
        }
        Expected::AsWithoutUs(counted) => {
            // Without us there are more flows without ports, which others' NAT can't tell apart.
            if !matches!(&without, End::Lost { outcome: Outcome::Clash, .. }) {
                prop_assert_eq!(end, without);
            }
            // What has no ports is one flow with what went there before, and counted once.
            prop_assert_eq!(reasons, if is_known { &[] } else { counted });
        }
        Expected::Stray => match &end {
            // Nobody answers for it, or a ping is answered.
            End::Outside { packet, .. } => prop_assert!(view.node_addresses.contains(&packet.source)),
            End::Process { .. } => prop_assert_eq!(sent.protocol, datapath::trace::ICMP),
            End::Lost { outcome, .. } => {
                prop_assert_eq!(outcome, &Outcome::Dropped);
                prop_assert_eq!(reasons.len(), 1, "{:?}", reasons);
            }
            end => return Err(TestCaseError::fail(format!("{end:?}"))),
        },
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CLUSTERS, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn ten_thousand_packets_end_as_the_policies_say_and_for_the_reason_that_is_counted(
        policies in any_policies(),
        placed in proptest::array::uniform3(any_placed()),
        action in proptest::sample::select(&[NoGatewayAction::Reject, NoGatewayAction::Drop, NoGatewayAction::Direct][..]),
        sent in proptest::collection::vec(any_sent(), PACKETS),
    ) {
        let mut cluster = cluster(&policies, &placed, action);
        let mut bare = cluster.network.clone();
        for host in bare.hosts.values_mut() {
            host.state = datapath::state::DatapathState::default();
        }
        for (n, sent) in (0u16..).zip(&sent) {
            check(&mut cluster, &mut bare, &placed, sent, n)
                .map_err(|error| TestCaseError::fail(format!("{error}\npacket {sent:?}")))?;
        }
    }
}
