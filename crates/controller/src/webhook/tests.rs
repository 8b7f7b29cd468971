//! Acceptance cases of admission, as an API server asks; each test's name begins with the case's ID.

use std::collections::BTreeMap;

use plan::{ClusterSnapshot, Event, Settings};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::review::{self, Answer, Path, Review};
use super::*;

mod policies;
mod serving;

/// Gateways and namespaces that are there already.
struct World {
    snapshot: ClusterSnapshot,
}

impl World {
    fn of(settings: Settings) -> Self {
        Self { snapshot: ClusterSnapshot::new(settings) }
    }

    fn new() -> Self {
        Self::of(Settings::default())
    }

    fn dual_stack() -> Self {
        Self::of(Settings { ipv6: true, ..Settings::default() })
    }

    fn with(mut self, name: &str, gateway: Value) -> Self {
        let read: EgressGateway = serde_json::from_value(gateway).unwrap();
        self.snapshot.absorb(Event::Gateway(name.to_owned(), Some(record::gateway(&read))));
        self
    }

    fn namespace(mut self, name: &str, gateway: &str) -> Self {
        let labels = BTreeMap::from([(api::names::LABEL_DEFAULT_GATEWAY.to_owned(), gateway.to_owned())]);
        self.snapshot.absorb(Event::Namespace(name.to_owned(), Some(labels)));
        self
    }

    fn ask(&self, path: Path, operation: &str, kind: &str, old: Value, new: Value) -> Answer {
        let object = if new.is_null() { &old } else { &new };
        let review = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "1", "operation": operation,
                "kind": {"group": api::names::GROUP, "version": "v1beta1", "kind": kind},
                "name": object["metadata"]["name"], "namespace": object["metadata"]["namespace"].as_str().unwrap_or(""),
                "object": new, "oldObject": old,
            },
        });
        let review = Review::read(review.to_string().as_bytes()).unwrap();
        let answer = review::answer(path, &review, &self.snapshot);
        assert_eq!(answer.to_review(&review)["response"]["uid"], "1");
        answer
    }

    /// What somebody reads who creates it; nothing if they may.
    fn create(&self, kind: &str, object: Value) -> String {
        told(self.ask(Path::Validate, "CREATE", kind, Value::Null, object))
    }

    fn update(&self, kind: &str, old: &Value, new: &Value) -> String {
        told(self.ask(Path::Validate, "UPDATE", kind, old.clone(), new.clone()))
    }

    /// What is filled in when it is created, by path.
    fn filled(&self, kind: &str, object: Value) -> Vec<(String, Value)> {
        operations(&self.ask(Path::Mutate, "CREATE", kind, Value::Null, object))
    }
}

fn told(answer: Answer) -> String {
    let message = answer.refusal.map(|refusal| refusal.message).unwrap_or_default();
    let start = message.find("is invalid: ").map_or(0, |at| at + "is invalid: ".len());
    message[start..].to_owned()
}

fn operations(answer: &Answer) -> Vec<(String, Value)> {
    let operation = |it: &Value| (it["path"].as_str().unwrap().to_owned(), it["value"].clone());
    answer.patch.iter().map(operation).collect()
}

fn gateway(name: &str, pools: Value) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"ippools": pools, "nodeSelector": {"selector": {"matchLabels": {"egress": "true"}}}},
    })
}

fn policy(more: Value) -> Value {
    object("n", json!({"podSelector": {"matchLabels": {"app": "x"}}}), more)
}

fn object(namespace: &str, applied_to: Value, more: Value) -> Value {
    let mut spec = json!({"appliedTo": applied_to, "egressGatewayName": "g"});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"metadata": {"name": "p", "namespace": namespace}, "spec": spec})
}

/// A gateway that has given EIPs to a policy.
fn in_use(pools: Value, eips: Value) -> Value {
    let mut gateway = gateway("g", pools);
    let eips: Vec<Value> = eips
        .as_array()
        .unwrap()
        .iter()
        .map(|eip| {
            let mut eip = eip.clone();
            eip["policies"] = json!([{"name": "p", "namespace": "n"}]);
            eip
        })
        .collect();
    gateway["status"] = json!({"nodeList": [{"name": "a", "status": "Ready", "eips": eips}]});
    gateway
}

const POLICIES: [&str; 2] = ["EgressPolicy", "EgressClusterPolicy"];

#[test]
fn g00001_g00009_an_invalid_pool_item_is_named_with_its_place() {
    let bad = gateway("g", json!({"ipv4": ["10.6.1.1", "10.6.1.300", "10.6.1.9-10.6.1.2"]}));
    let expected = "[spec.ippools.ipv4[1]: Invalid value: \"10.6.1.300\": is not an address, an `a-b` range or a CIDR, \
                    spec.ippools.ipv4[2]: Invalid value: \"10.6.1.9-10.6.1.2\": is a reversed range: write the lower address first]";
    assert_eq!(World::new().create("EgressGateway", bad.clone()), expected);
    assert_eq!(
        World::new().update("EgressGateway", &gateway("g", json!({"ipv4": ["10.6.1.1"]})), &bad),
        expected
    );
}

#[test]
fn g00002_a_selector_of_no_node_is_refused() {
    for selector in [json!({}), json!({"selector": {}}), json!({"selector": {"matchLabels": {}}})] {
        let object = json!({"metadata": {"name": "g"}, "spec": {"nodeSelector": selector}});
        let told = World::new().create("EgressGateway", object);
        assert!(
            told.starts_with("spec.nodeSelector.selector: Invalid value: selects no node; give"),
            "{told}"
        );
    }
}

#[test]
fn g00003_a_default_eip_outside_the_pool_is_refused() {
    let object = gateway("g", json!({"ipv4": ["10.6.1.0/28"], "ipv4DefaultEIP": "10.6.1.15"}));
    let told = World::new().create("EgressGateway", object);
    assert!(
        told.starts_with(
            "spec.ippools.ipv4DefaultEIP: Invalid value: \"10.6.1.15\": is not in spec.ippools.ipv4; add"
        ),
        "{told}"
    );
}

#[test]
fn g00004_g00011_pools_of_different_size_are_refused() {
    let even = gateway("g", json!({"ipv4": ["10.6.1.1"], "ipv6": ["fd00::1"]}));
    let uneven = gateway("g", json!({"ipv4": ["10.6.1.1-10.6.1.3"], "ipv6": ["fd00::1-fd00::2"]}));
    let world = World::dual_stack();
    for told in [world.create("EgressGateway", uneven.clone()), world.update("EgressGateway", &even, &uneven)]
    {
        assert!(told.starts_with("spec.ippools: Invalid value: 3 IPv4 and 2 IPv6 addresses; "), "{told}");
    }
}

#[test]
fn g00005_default_eips_are_filled_with_the_lowest_address_and_the_finalizer_is_added() {
    let pools = json!({"ipv4": ["10.6.1.9", "10.6.1.0/30"], "ipv6": ["fd00::5-fd00::7"]});
    let finalizer = json!([api::names::FINALIZER_GATEWAY]);
    assert_eq!(
        World::dual_stack().filled("EgressGateway", gateway("g", pools.clone())),
        [
            ("/spec/ippools/ipv4DefaultEIP".to_owned(), json!("10.6.1.1")),
            ("/spec/ippools/ipv6DefaultEIP".to_owned(), json!("fd00::5")),
            ("/metadata/finalizers".to_owned(), finalizer),
        ]
    );
    // A family that is off is left alone, and finalizers of others stay.
    let mut object = gateway("g", pools);
    object["metadata"]["finalizers"] = json!(["example.com/mine"]);
    assert_eq!(
        World::new().filled("EgressGateway", object),
        [
            ("/spec/ippools/ipv4DefaultEIP".to_owned(), json!("10.6.1.1")),
            ("/metadata/finalizers/-".to_owned(), json!(api::names::FINALIZER_GATEWAY)),
        ]
    );
    // What was chosen once stays when a manifest without it is written over it.
    let old = gateway("g", json!({"ipv4": ["10.6.1.1-10.6.1.9"], "ipv4DefaultEIP": "10.6.1.5"}));
    let new = gateway("g", json!({"ipv4": ["10.6.1.1-10.6.1.7"]}));
    let answer = World::new().ask(Path::Mutate, "UPDATE", "EgressGateway", old, new);
    assert_eq!(operations(&answer), [("/spec/ippools/ipv4DefaultEIP".to_owned(), json!("10.6.1.5"))]);
}

#[test]
fn g00006_g00007_g00008_g00018_pools_of_every_form_and_none_are_accepted() {
    for pools in [
        json!({"ipv4": ["10.6.1.1"]}),
        json!({"ipv4": ["10.6.1.1-10.6.1.9"]}),
        json!({"ipv4": ["10.6.1.0/24"]}),
        json!({}),
    ] {
        assert_eq!(World::new().create("EgressGateway", gateway("g", pools)), "");
    }
}

#[test]
fn g00010_an_address_in_use_can_not_be_taken_out_of_its_pool() {
    let old = in_use(json!({"ipv4": ["10.6.1.1-10.6.1.5"]}), json!([{"ipv4": "10.6.1.4"}]));
    let mut new = old.clone();
    new["spec"]["ippools"]["ipv4"] = json!(["10.6.1.1-10.6.1.3"]);
    let told = World::new().update("EgressGateway", &old, &new);
    assert!(
        told.starts_with("spec.ippools.ipv4: Forbidden: \"10.6.1.4\": is in use and can't be taken out"),
        "{told}"
    );
    assert!(told.contains("`n/p`, 1 in all"), "{told}");
}

#[test]
fn g00012_g00013_addresses_can_be_added() {
    let old = in_use(
        json!({"ipv4": ["10.6.1.1"], "ipv6": ["fd00::1"]}),
        json!([{"ipv4": "10.6.1.1", "ipv6": "fd00::1"}]),
    );
    let mut new = old.clone();
    new["spec"]["ippools"] = json!({"ipv4": ["10.6.1.1-10.6.1.4"], "ipv6": ["fd00::1-fd00::4"]});
    assert_eq!(World::dual_stack().update("EgressGateway", &old, &new), "");
}

#[test]
fn x_g1_there_is_one_default_gateway_and_it_can_be_edited() {
    let mut first = gateway("first", json!({"ipv4": ["10.6.1.1"]}));
    first["spec"]["clusterDefault"] = true.into();
    let mut second = gateway("second", json!({"ipv4": ["10.6.1.2"]}));
    second["spec"]["clusterDefault"] = true.into();
    let world = World::new().with("first", first.clone());
    let answer = world.ask(Path::Validate, "CREATE", "EgressGateway", Value::Null, second);
    assert_eq!(answer.gateways, ["first".to_owned()].into());
    assert!(told(answer).starts_with(
        "spec.clusterDefault: Forbidden: EgressGateway `first` is the cluster's default already"
    ));
    let mut edited = first.clone();
    edited["spec"]["ippools"]["ipv4"] = json!(["10.6.1.1", "10.6.1.9"]);
    assert_eq!(world.update("EgressGateway", &first, &edited), "");
}

#[test]
fn x_g2_an_address_of_another_gateway_is_refused_and_both_are_named() {
    let world = World::dual_stack()
        .with("v4", gateway("v4", json!({"ipv4": ["10.6.1.0/28"]})))
        .with("v6", gateway("v6", json!({"ipv6": ["fd00::10-fd00::20"]})))
        .with("unreadable", gateway("unreadable", json!({"ipv4": ["x"]})));
    for (pools, address, gateway_name) in [
        (json!({"ipv4": ["10.6.1.14"]}), "10.6.1.14", "v4"),
        (json!({"ipv4": ["10.6.1.8-10.6.1.99"]}), "10.6.1.8", "v4"),
        (json!({"ipv6": ["fd00::20/124"]}), "fd00::20", "v6"),
    ] {
        let told = world.create("EgressGateway", gateway("g", pools));
        let expected = format!(
            "spec.ippools: Duplicate value: {address:?}: {address} is also in the pool of EgressGateway `{gateway_name}`"
        );
        assert!(told.starts_with(&expected), "{told}");
    }
    // The network address of a CIDR is in no pool.
    assert_eq!(world.create("EgressGateway", gateway("g", json!({"ipv4": ["10.6.1.15"]}))), "");
    // What was so before does not keep a gateway from being mended step by step.
    let old = gateway("g", json!({"ipv4": ["10.6.1.1-10.6.1.3"]}));
    let less = gateway("g", json!({"ipv4": ["10.6.1.1-10.6.1.2"]}));
    assert_eq!(world.update("EgressGateway", &old, &less), "");
}

#[test]
fn x_g3_a_pool_of_a_family_that_is_off_is_refused() {
    let told = World::new().create("EgressGateway", gateway("g", json!({"ipv6": ["fd00::1"]})));
    assert!(
        told.starts_with("spec.ippools.ipv6: Invalid value: IPv6 is not enabled here; remove the pool"),
        "{told}"
    );
}

#[test]
fn x_g4_a_second_family_is_refused_while_eips_of_the_first_are_in_use() {
    let pools = json!({"ipv4": ["10.6.1.1"]});
    let old = in_use(pools.clone(), json!([{"ipv4": "10.6.1.1"}]));
    let mut new = old.clone();
    new["spec"]["ippools"]["ipv6"] = json!(["fd00::1"]);
    let told = World::dual_stack().update("EgressGateway", &old, &new);
    assert!(
        told.starts_with("spec.ippools.ipv6: Forbidden: a first IPv6 pool can't be added while"),
        "{told}"
    );
    // Nobody is harmed where none is.
    let both = gateway("g", json!({"ipv4": ["10.6.1.1"], "ipv6": ["fd00::1"]}));
    assert_eq!(World::dual_stack().update("EgressGateway", &gateway("g", pools), &both), "");
    assert_eq!(World::dual_stack().update("EgressGateway", &gateway("g", json!({})), &both), "");
}

#[test]
fn x_g5_the_largest_pools_and_lists_are_judged_at_once() {
    // Whoever goes through the addresses does not come back.
    let many: Vec<String> =
        (0..100_000_u32).map(|n| std::net::Ipv4Addr::from(0x0a00_0001 + 2 * n).to_string()).collect();
    let odd: Vec<String> = (0..100_000).map(|n| format!("{n}-{}", "é".repeat(20))).collect();
    let world = World::dual_stack()
        .with("huge", gateway("huge", json!({"ipv4": ["11.0.0.0/8"], "ipv6": ["fd01::/16"]})));
    assert_eq!(world.create("EgressGateway", gateway("g", json!({"ipv6": ["fd00::/64"]}))), "");
    assert_eq!(world.create("EgressGateway", gateway("g", json!({"ipv4": many}))), "");
    let told = world.create("EgressGateway", gateway("g", json!({"ipv4": odd})));
    assert!(told.len() < 8192 && told.starts_with("[spec.ippools.ipv4[0]: "), "{} bytes", told.len());
    let long = "a".repeat(1 << 20);
    let told = world.create("EgressPolicy", policy(json!({"destSubnet": [long]})));
    assert!(told.len() < 1024, "{} bytes", told.len());
    let filled =
        world.filled("EgressGateway", gateway("g", json!({"ipv4": ["0.0.0.0/0"], "ipv6": ["::/0"]})));
    assert_eq!(filled[0].1, "0.0.0.1");
}

#[test]
fn i00007_the_cluster_info_that_is_read_can_not_be_deleted() {
    let delete = |name: &str| {
        let old = json!({"metadata": {"name": name}});
        told(World::new().ask(Path::Validate, "DELETE", "EgressClusterInfo", old, Value::Null))
    };
    assert!(delete("default").contains("metadata.name: Forbidden: \"default\": may not be deleted"));
    assert_eq!(delete("other"), "");
}

#[test]
fn i00005_extra_networks_are_cidrs_or_addresses_and_other_names_are_refused() {
    let info = |name: &str, extra: Value| json!({"metadata": {"name": name}, "spec": {"extraCidr": extra}});
    let create = |object| World::new().create("EgressClusterInfo", object);
    assert_eq!(create(info("default", json!(["10.0.0.0/8", "10.10.10.1"]))), "");
    assert!(
        create(info("default", json!(["10.0.0/8"])))
            .starts_with("spec.extraCidr[0]: Invalid value: \"10.0.0/8\"")
    );
    assert!(
        create(info("other", json!([])))
            .starts_with("metadata.name: Invalid value: \"other\": nobody reads it")
    );
}

/// What is stored can be labelled and let go, however wrong it is.
#[test]
fn an_update_that_leaves_the_spec_alone_is_never_refused() {
    let world = World::new().with("other", gateway("other", json!({"ipv4": ["10.6.1.1"]})));
    for (kind, old) in [
        ("EgressGateway", gateway("g", json!({"ipv4": ["10.6.1.1", "x"], "ipv6": ["fd00::1"]}))),
        ("EgressGateway", gateway("g", json!({"ipv4": ["10.6.1.1"]}))),
        ("EgressPolicy", object("n", json!({}), json!({"egressIP": {"ipv4": "x"}, "egressGatewayName": ""}))),
        ("EgressClusterInfo", json!({"metadata": {"name": "other"}, "spec": {"extraCidr": ["x"]}})),
    ] {
        let mut new = old.clone();
        new["metadata"]["finalizers"] = json!([]);
        assert_eq!(world.update(kind, &old, &new), "");
    }
}

#[test]
fn deletions_other_kinds_and_statuses_are_none_of_our_business() {
    let world = World::new();
    for kind in ["EgressGateway", "EgressPolicy", "EgressClusterPolicy"] {
        let old = gateway("g", json!({"ipv4": ["x"]}));
        assert_eq!(told(world.ask(Path::Validate, "DELETE", kind, old.clone(), Value::Null)), "");
        assert!(world.ask(Path::Mutate, "DELETE", kind, old, Value::Null).patch.is_empty());
    }
    assert_eq!(world.create("EgressTunnel", json!({"metadata": {"name": "a"}})), "");
    assert_eq!(
        told(world.ask(Path::Validate, "CONNECT", "EgressGateway", Value::Null, gateway("g", json!({})))),
        ""
    );
}

#[test]
fn a_body_that_is_no_review_is_not_answered() {
    for body in [
        "",
        "{}",
        "[]",
        r#"{"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview", "request": {"uid": "1", "kind": {"kind": "x"}, "operation": "CREATE"}}"#,
    ] {
        assert!(Review::read(body.as_bytes()).is_err(), "{body}");
    }
    // What has the wrong type is the API server's to refuse first.
    let wrong = json!({"metadata": {"name": "g"}, "spec": {"ippools": {"ipv4": "10.6.1.1"}}});
    let world = World::new();
    let mutated = world.ask(Path::Mutate, "CREATE", "EgressGateway", Value::Null, wrong.clone());
    assert_eq!(mutated, Answer::default());
    assert!(world.create("EgressGateway", wrong).starts_with("spec: Invalid value: can't be read: "));
}

proptest! {
    /// What is admitted is what the plan can use: no condition says later what could have been said at once.
    #[test]
    fn what_is_admitted_can_be_read(
        texts in proptest::collection::vec("10\\.6\\.1\\.[0-9]{1,3}|fd00::[0-9]|[0-9a-f.:/-]{0,20}|\\PC{0,9}", 6),
        node in any::<bool>(),
    ) {
        let text = |index: usize| texts[index].clone();
        let world = World::dual_stack();
        let object = gateway("g", json!({"ipv4": [text(0)], "ipv6": [text(1)], "ipv4DefaultEIP": text(2)}));
        let read: EgressGateway = serde_json::from_value(object.clone()).unwrap();
        let told = world.create("EgressGateway", object.clone());
        prop_assert_eq!(told.is_empty(), {
            let mut judged = World::dual_stack().with("g", object.clone());
            judged.snapshot.absorb(Event::Now(1));
            let plan = plan::plan(&judged.snapshot);
            let code = plan.gateways["g"].reason.code().to_owned();
            api::convert::gateway(&read).is_ok() && code != "InvalidField" && code != "PoolSizesDiffer"
        }, "{}", told);
        let object = policy(json!({"egressIP": {"ipv4": text(3), "useNodeIP": node}, "destSubnet": [text(4)]}));
        let read: api::v1beta1::EgressPolicy = serde_json::from_value(object.clone()).unwrap();
        let told = world.create("EgressPolicy", object);
        if told.is_empty() {
            prop_assert!(api::convert::policy(&read).is_ok());
        }
    }
}
