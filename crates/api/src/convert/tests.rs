//! What users write, and what they are told.

use model::Reason;
use model::policy::{EgressChoice, PodSelection};
use model::port_lease::LeaseName;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::v1beta1::{EgressClusterPolicy, EgressGateway, EgressPolicy, EgressPortLease, EgressTunnel};

fn read<T: serde::de::DeserializeOwned>(yaml: &str) -> T {
    serde_saphyr::from_str(yaml).unwrap()
}

fn gateway_problem(spec: &str) -> String {
    let object: EgressGateway = read(&format!("metadata: {{name: g}}\nspec: {spec}"));
    gateway(&object).unwrap_err().to_string()
}

fn policy_problem(spec: &str) -> String {
    let object: EgressPolicy = read(&format!("metadata: {{name: p, namespace: n}}\nspec: {spec}"));
    policy(&object).unwrap_err().to_string()
}

#[test]
fn a_gateway_is_read_as_its_user_wrote_it() {
    let object: EgressGateway = read(
        r#"
apiVersion: egressgateway.spidernet.io/v1beta1
kind: EgressGateway
metadata:
  name: default
spec:
  clusterDefault: true
  ippools:
    ipv4: ["10.6.168.201-10.6.168.205"]
  nodeSelector:
    selector:
      matchLabels:
        egressgateway: "true"
"#,
    );
    let gateway = gateway(&object).unwrap();
    assert!(gateway.cluster_default);
    assert_eq!(gateway.pool_v4.count(), 5);
    assert!(gateway.nodes.matches(&[("egressgateway".to_owned(), "true".to_owned())].into()));
    assert_eq!(gateway.named_default(), None);
}

#[test]
fn a_wrong_gateway_is_told_the_field_and_the_fix() {
    let selector = "nodeSelector: {selector: {matchLabels: {a: b}}}";
    insta::assert_snapshot!(
        [
            gateway_problem(&format!("{{{selector}, ippools: {{ipv4: [10.6.1.1, 10.6.1.300]}}}}")),
            gateway_problem(&format!("{{{selector}, ippools: {{ipv4: [10.6.1.9-10.6.1.2]}}}}")),
            gateway_problem(&format!("{{{selector}, ippools: {{ipv6: [10.6.1.9]}}}}")),
            gateway_problem(&format!("{{{selector}, ippools: {{ipv4DefaultEIP: 10.6.1}}}}")),
            gateway_problem("{ippools: {ipv4: [10.6.1.1]}}"),
            gateway_problem("{nodeSelector: {selector: {matchExpressions: [{key: a, operator: Equals}]}}}"),
        ]
        .join("\n"),
        @"
    spec.ippools.ipv4[1]: `10.6.1.300` is not an address, an `a-b` range or a CIDR
    spec.ippools.ipv4[0]: `10.6.1.9-10.6.1.2` is a reversed range: write the lower address first
    spec.ippools.ipv6[0]: `10.6.1.9` is not IPv6
    spec.ippools.ipv4DefaultEIP: `10.6.1` is not an IPv4 address; write one like 10.6.1.55
    spec.nodeSelector.selector: selects no node; give matchLabels or matchExpressions, for instance matchLabels: {egressgateway: \"true\"}
    spec.nodeSelector.selector.matchExpressions[0]: operator `Equals` is unknown; write In, NotIn, Exists or DoesNotExist
    "
    );
}

#[test]
fn a_wrong_policy_is_told_the_field_and_the_fix() {
    let pods = "appliedTo: {podSelector: {matchLabels: {app: x}}}";
    insta::assert_snapshot!(
        [
            policy_problem("{}"),
            policy_problem("{appliedTo: {podSelector: {matchLabels: {app: x}}, podSubnet: [10.0.0.0/24]}}"),
            policy_problem("{appliedTo: {podSubnet: [10.0.0/24]}}"),
            policy_problem(&format!("{{{pods}, destSubnet: [10.0.0.0/8, 10.6.1.92]}}")),
            policy_problem(&format!("{{{pods}, destSubnet: [everything]}}")),
            policy_problem(&format!("{{{pods}, egressIP: {{ipv4: 10.6.1, useNodeIP: true}}}}")),
            policy_problem(&format!("{{{pods}, egressIP: {{ipv4: 10.6.1.1, useNodeIP: true}}}}")),
            policy_problem(&format!("{{{pods}, egressIP: {{ipv6: \"::ffff:10.6.1.1\"}}}}")),
            policy_problem(&format!("{{{pods}, egressIP: {{allocatorPolicy: random}}}}")),
            policy_problem(&format!("{{{pods}, priority: -1}}")),
        ]
        .join("\n"),
        @"
    spec.appliedTo: give a podSelector with matchLabels or matchExpressions, or a podSubnet
    spec.appliedTo: podSelector and podSubnet can't be combined; remove one
    spec.appliedTo.podSubnet[0]: `10.0.0/24` is neither an address nor a CIDR; write one like 10.0.0.0/16 or 10.0.0.7
    spec.destSubnet[1]: `10.6.1.92` is not a CIDR; write `10.6.1.92/32`
    spec.destSubnet[0]: `everything` is not a CIDR; write one like 192.0.2.0/24 or 2001:db8::/32
    spec.egressIP.ipv4: `10.6.1` is not an IPv4 address; write one like 10.6.1.55
    spec.egressIP: useNodeIP excludes ipv4 and ipv6; remove the addresses or set useNodeIP to false
    spec.egressIP.ipv6: `::ffff:10.6.1.1` is not an IPv6 address; write one like fd00::55
    spec.egressIP.allocatorPolicy: `random` is unknown; write `default` or `rr`
    spec.priority: is negative; write 0 or more
    "
    );
}

#[test]
fn null_and_empty_text_count_as_absent() {
    let object: EgressPolicy = read(
        "metadata: {name: p, namespace: n}
spec:
  egressGatewayName: ''
  egressIP: {ipv4: '', ipv6: '', useNodeIP: false}
  appliedTo: {podSelector: {matchLabels: {app: x}}}
  destSubnet: null",
    );
    let policy = policy(&object).unwrap();
    assert_eq!((policy.gateway, policy.egress), (None, EgressChoice::Default));
    assert!(policy.destinations.is_empty());
}

#[test]
fn a_cluster_policy_is_for_all_namespaces_or_chosen_ones() {
    let object = |extra: &str| -> EgressClusterPolicy {
        read(&format!("spec: {{appliedTo: {{podSelector: {{matchLabels: {{app: x}}}}{extra}}}}}"))
    };
    let namespaces = |extra: &str| match cluster_policy(&object(extra)).unwrap().pods {
        PodSelection::Labels(namespaces, _) | PodSelection::Subnets(namespaces, _) => namespaces,
    };
    let team = [("team".to_owned(), "a".to_owned())].into();
    assert!(namespaces("").contain("any", None));
    let chosen = namespaces(", namespaceSelector: {matchLabels: {team: a}}");
    assert!(chosen.contain("any", Some(&team)));
    assert!(!chosen.contain("any", None));
}

#[test]
fn what_cannot_be_read_of_a_tunnel_counts_as_absent() {
    let object: EgressTunnel = read(
        "status:
  tunnel: {ipv4: 172.31.0.1, ipv6: <nil>, mac: 'no', parent: {name: eth0, ipv4: 10.6.0.1}}
  mark: '0x26000001'
  phase: Sleeping
  claims: [{eip: 10.6.1.1, epoch: 3}, {eip: x, epoch: 4}]
  conditions: [{type: Ready, status: 'True', reason: r, message: m, lastTransitionTime: 2024-01-01T00:00:00Z}]",
    );
    let tunnel = tunnel(&object);
    assert_eq!(tunnel.ipv4, "172.31.0.1".parse().ok());
    assert_eq!((tunnel.ipv6, tunnel.mac, tunnel.phase), (None, None, None));
    assert_eq!(tunnel.mark, Some(0x2600_0001));
    assert_eq!(tunnel.claims.len(), 1);
    assert_eq!(tunnel.programmed, Some(true));
    assert_eq!(mark(0x2600_0001), "0x26000001");
}

#[test]
fn leases_read_back_as_they_are_written() {
    let object: EgressPortLease = read(
        "spec:
  generation: 3
  leases:
  - {gateway: g, ipv4: 10.6.1.1, blocks: [{first: 4096, size: 4096, state: Active, role: Source}]}
  - {gateway: g, ipv4: 10.6.1.2, blocks: [{first: 4097, size: 4096, state: Active, role: Source}]}
  - {gateway: g, blocks: []}",
    );
    let lease = port_lease(&object);
    assert_eq!(lease.leases.len(), 2, "a lease of nothing is none");
    assert_eq!(lease.block_count(), 1, "a block that is not aligned is none");
    let name = LeaseName::new("n", 2);
    let mut again = EgressPortLease::named(&name.object());
    again.spec = port_lease_spec(&name, &lease);
    assert_eq!((port_lease(&again), lease_name(&again)), (lease, name));
}

#[test]
fn a_lease_is_of_the_node_that_it_says_unless_it_is_named_otherwise() {
    let named = |name: &str, spec: &str| {
        let mut object: EgressPortLease = read(spec);
        object.metadata.name = Some(name.to_owned());
        lease_name(&object)
    };
    assert_eq!(named("n", "spec: {}"), LeaseName::new("n", 0));
    assert_eq!(named("n", "spec: {nodeName: other}"), LeaseName::new("n", 0));
    assert_eq!(named("n.part-1", "spec: {nodeName: n, part: 1}"), LeaseName::new("n", 1));
    assert_eq!(named("n.part-1", "spec: {nodeName: n, part: -1}"), LeaseName::new("n.part-1", 0));
}

#[test]
fn what_a_lease_says_twice_of_an_eip_counts_together() {
    let object: EgressPortLease = read(
        "spec:
  leases:
  - {gateway: g, ipv4: 10.6.1.1, blocks: [{first: 8192, size: 64}]}
  - {gateway: g, ipv4: 10.6.1.1, blocks: [{first: 4096, size: 64}]}",
    );
    let lease = port_lease(&object);
    let of_eip = lease.of_eip("10.6.1.1".parse().unwrap()).unwrap();
    assert_eq!((lease.leases.len(), of_eip.blocks.len()), (1, 2));
}

proptest! {
    /// Whatever text is in the fields, it is read or refused with the field's path.
    #[test]
    fn any_text_is_read_or_refused(texts in proptest::collection::vec(".{0,20}|[0-9a-f.:/-]{0,40}", 8)) {
        let text = |index: usize| texts[index].clone();
        let object: EgressGateway = serde_json::from_value(json!({"metadata": {"name": "g"}, "spec": {
            "ippools": {"ipv4": [text(0)], "ipv6": [text(1)], "ipv4DefaultEIP": text(2), "ipv6DefaultEIP": text(3)},
            "nodeSelector": {"selector": {"matchExpressions": [{"key": text(4), "operator": text(5), "values": [text(6)]}]}},
        }})).unwrap();
        if let Err(reason) = gateway(&object) {
            prop_assert!(reason.to_string().starts_with("spec."), "{}", reason);
        }
        let object: EgressPolicy = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
            "egressIP": {"ipv4": text(0), "ipv6": text(1), "allocatorPolicy": text(2)},
            "appliedTo": {"podSubnet": [text(3)]}, "destSubnet": [text(4), text(5)],
        }})).unwrap();
        if let Err(reason) = policy(&object) {
            prop_assert!(reason.to_string().starts_with("spec."), "{}", reason);
        }
        let object: EgressTunnel = serde_json::from_value(json!({"status": {
            "tunnel": {"ipv4": text(0), "ipv6": text(1), "mac": text(2), "parent": {"ipv4": text(3), "ipv6": text(4)}},
            "mark": text(5), "phase": text(6), "claims": [{"eip": text(7), "epoch": 1}],
        }})).unwrap();
        let _ = tunnel(&object);
        let _ = networks(&serde_json::from_value(json!({"spec": {"extraCidr": texts}})).unwrap());
    }

    /// Whatever numbers are in a lease, what is read of it are valid blocks.
    #[test]
    fn any_block_is_read_or_left_out(first in any::<i64>(), size in any::<i64>(), log2 in 0u32..20) {
        for size in [size, 1 << log2] {
            let object: EgressPortLease = serde_json::from_value(json!({"spec": {"leases": [
                {"gateway": "g", "ipv4": "10.6.1.1", "blocks": [{"first": first, "size": size}, {"first": first & 0xffc0, "size": size}]},
            ]}})).unwrap();
            for leased in port_lease(&object).leases.iter().flat_map(|lease| &lease.blocks) {
                prop_assert!(leased.block.first() >= 1024 && leased.block.size() >= 64);
            }
        }
    }
}

#[test]
fn reasons_are_the_vocabularys_own() {
    let object: EgressPolicy = read("spec: {}");
    assert_eq!(policy(&object), Err(Reason::SelectsNothing));
}

#[test]
fn networks_of_plug_ins_are_read_and_what_is_no_pods_is_left_out() {
    use crate::plugins::{CalicoPool, CiliumNode, CiliumPool, SpiderCoordinator, SpiderPool};
    fn read<T: serde::de::DeserializeOwned>(yaml: &str) -> T {
        serde_saphyr::from_str(yaml).unwrap()
    }
    fn text(nets: std::collections::BTreeSet<ipnet::IpNet>) -> String {
        nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }
    let calico = |more: &str| read::<CalicoPool>(&format!("{{spec: {{cidr: 10.233.0.0/16{more}}}}}"));
    assert_eq!(text(super::calico_pool(&calico(""))), "10.233.0.0/16");
    assert_eq!(text(super::calico_pool(&calico(", disabled: true"))), "");
    let node: CiliumNode =
        read("{spec: {ipam: {podCIDRs: [10.0.1.0/24], pools: {allocated: [{cidrs: [10.9.0.0/24]}]}}}}");
    assert_eq!(text(super::cilium_node(&node)), "10.0.1.0/24 10.9.0.0/24");
    let pool: CiliumPool = read("{spec: {ipv4: {cidrs: [10.9.0.0/16]}, ipv6: {cidrs: ['fd00::/104']}}}");
    assert_eq!(text(super::cilium_pool(&pool)), "10.9.0.0/16 fd00::/104");
    let spider: SpiderPool =
        read("{spec: {subnet: 10.6.0.0/16, ips: [10.6.1.0-10.6.1.3, bad], excludeIPs: [10.6.1.1]}}");
    assert_eq!(text(super::spider_pool(&spider)), "10.6.1.0/32 10.6.1.2/31");
    let coordinator = |phase: &str| {
        let yaml = format!(
            "{{status: {{phase: {phase}, overlayPodCIDR: [10.244.0.0/16], serviceCIDR: [10.96.0.0/12]}}}}"
        );
        super::spider_coordinator(&read::<SpiderCoordinator>(&yaml)).map(text)
    };
    assert_eq!(coordinator("Synced").as_deref(), Some("10.96.0.0/12 10.244.0.0/16"));
    assert_eq!(coordinator("NotReady"), None);
}
