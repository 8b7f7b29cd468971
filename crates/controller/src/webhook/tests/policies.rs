//! EgressPolicies and EgressClusterPolicies.

use super::*;

#[test]
fn g00017_p00002_p00003_a_policy_takes_its_namespaces_gateway_before_the_clusters() {
    let mut default = gateway("cluster", json!({"ipv4": ["10.6.1.1"]}));
    default["spec"]["clusterDefault"] = true.into();
    let world = World::new().with("cluster", default).namespace("labelled", "tenant");
    let nameless = |namespace: &str| {
        object(
            namespace,
            json!({"podSubnet": ["10.0.0.0/8"]}),
            json!({"egressGatewayName": "", "egressIP": {"allocatorPolicy": "rr"}}),
        )
    };
    let name = |value: &str| vec![("/spec/egressGatewayName".to_owned(), json!(value))];
    assert_eq!(world.filled("EgressPolicy", nameless("other")), name("cluster"));
    assert_eq!(world.filled("EgressPolicy", nameless("labelled")), name("tenant"));
    assert_eq!(world.filled("EgressClusterPolicy", nameless("")), name("cluster"));
    // An update keeps what is stored, whatever the default is now.
    let mut old = nameless("other");
    old["spec"]["egressGatewayName"] = "former".into();
    let answer = world.ask(Path::Mutate, "UPDATE", "EgressPolicy", old, nameless("other"));
    assert_eq!(operations(&answer), name("former"));
    // Without any default it is refused, and may be judged again a moment later.
    let none = World::new().ask(Path::Mutate, "CREATE", "EgressPolicy", Value::Null, nameless("other"));
    assert!(none.patch.is_empty() && none.misses_default);
    let told = World::new().create("EgressPolicy", nameless("other"));
    assert!(told.starts_with("spec.egressGatewayName: Required value: not given, and neither"), "{told}");
}

#[test]
fn g00019_a_gateway_without_pools_is_for_node_addresses_only() {
    let world = World::new().with("g", gateway("g", json!({})));
    for kind in POLICIES {
        let told = world.create(kind, policy(json!({})));
        assert!(
            told.starts_with(
                "spec.egressGatewayName: Invalid value: \"g\": EgressGateway `g` has no pool; add"
            ),
            "{told}"
        );
        assert_eq!(world.create(kind, policy(json!({"egressIP": {"useNodeIP": true}}))), "");
    }
}

#[test]
fn p00001_p00004_an_address_that_is_none_or_in_no_pool_is_refused() {
    let world =
        World::dual_stack().with("g", gateway("g", json!({"ipv4": ["10.6.1.0/28"], "ipv6": ["fd00::/124"]})));
    for kind in POLICIES {
        for (egress, expected) in [
            (
                json!({"ipv4": "10.6.1"}),
                "spec.egressIP.ipv4: Invalid value: \"10.6.1\": is not an IPv4 address; write one like",
            ),
            (
                json!({"ipv6": "::ffff:10.6.1.1"}),
                "spec.egressIP.ipv6: Invalid value: \"::ffff:10.6.1.1\": is not an IPv6 address",
            ),
            (
                json!({"ipv4": "10.6.9.9"}),
                "spec.egressIP: Invalid value: \"10.6.9.9\": 10.6.9.9 is in no pool of EgressGateway `g`; add",
            ),
            (json!({"ipv4": "10.6.1.15"}), "spec.egressIP: Invalid value: \"10.6.1.15\""),
            (json!({"ipv4": "10.6.1.3", "ipv6": "fd09::1"}), "spec.egressIP: Invalid value: \"fd09::1\""),
        ] {
            let told = world.create(kind, policy(json!({"egressIP": egress})));
            assert!(told.starts_with(expected), "{told}");
        }
        assert_eq!(world.create(kind, policy(json!({"egressIP": {"ipv4": "10.6.1.3"}}))), "");
    }
    // W10: of a family that is off none can be had.
    let told = World::new()
        .with("g", gateway("g", json!({"ipv4": ["10.6.1.1"]})))
        .create("EgressPolicy", policy(json!({"egressIP": {"ipv6": "fd00::1"}})));
    assert!(
        told.starts_with("spec.egressIP.ipv6: Forbidden: \"fd00::1\": IPv6 is not enabled here"),
        "{told}"
    );
}

#[test]
fn p00005_p00006_pods_are_selected_one_way() {
    let world = World::new().with("g", gateway("g", json!({"ipv4": ["10.6.1.1"]})));
    let expression = json!({"matchExpressions": [{"key": "app", "operator": "Exists"}]});
    for kind in POLICIES {
        for applied_to in [
            json!({}),
            json!({"podSelector": {}}),
            json!({"podSelector": {"matchLabels": {}}, "podSubnet": []}),
        ] {
            let told = world.create(kind, object("n", applied_to, json!({})));
            assert!(told.starts_with("spec.appliedTo: Required value: give a podSelector"), "{told}");
        }
        for selector in [json!({"matchLabels": {"a": "b"}}), expression.clone()] {
            let applied_to = json!({"podSelector": selector, "podSubnet": ["10.0.0.0/8"]});
            let told = world.create(kind, object("n", applied_to, json!({})));
            assert!(
                told.starts_with("spec.appliedTo: Forbidden: podSelector and podSubnet can't be combined"),
                "{told}"
            );
        }
    }
}

#[test]
fn p00007_pods_can_be_selected_by_subnet() {
    let world = World::new().with("g", gateway("g", json!({"ipv4": ["10.6.1.1"]})));
    assert_eq!(
        world.create(
            "EgressPolicy",
            object("n", json!({"podSubnet": ["10.0.0.0/24", "10.0.1.7"]}), json!({}))
        ),
        ""
    );
    let told = world.create("EgressPolicy", object("n", json!({"podSubnet": ["10.0.0/24"]}), json!({})));
    assert!(told.starts_with("spec.appliedTo.podSubnet[0]: Invalid value: \"10.0.0/24\""), "{told}");
}

#[test]
fn p00008_an_egress_ip_that_says_nothing_is_the_default_one() {
    let world = World::new().with("g", gateway("g", json!({"ipv4": ["10.6.1.1"]})));
    let filled = world.filled("EgressPolicy", policy(json!({})));
    assert_eq!(filled, [("/spec/egressIP".to_owned(), json!({"allocatorPolicy": "default"}))]);
}

#[test]
fn p00017_a_node_address_excludes_an_eip() {
    let world = World::new().with("g", gateway("g", json!({"ipv4": ["10.6.1.1"]})));
    for kind in POLICIES {
        let told = world.create(kind, policy(json!({"egressIP": {"useNodeIP": true, "ipv4": "10.6.1.1"}})));
        assert!(
            told.starts_with("spec.egressIP: Invalid value: useNodeIP excludes ipv4 and ipv6; remove"),
            "{told}"
        );
    }
}

#[test]
fn p00018_p00019_x_p5_what_decides_the_address_is_immutable() {
    let world = World::dual_stack()
        .with("g", gateway("g", json!({"ipv4": ["10.6.1.1-10.6.1.9"], "ipv6": ["fd00::1-fd00::9"]})));
    let old =
        policy(json!({"egressIP": {"ipv4": "10.6.1.1", "ipv6": "fd00::1", "allocatorPolicy": "default"}}));
    for kind in POLICIES {
        for (pointer, value, field) in [
            ("/spec/egressGatewayName", json!("other"), "spec.egressGatewayName"),
            ("/spec/egressIP/ipv4", json!("10.6.1.2"), "spec.egressIP.ipv4"),
            ("/spec/egressIP/ipv4", json!(""), "spec.egressIP.ipv4"),
            ("/spec/egressIP/ipv6", json!("fd00::2"), "spec.egressIP.ipv6"),
            ("/spec/egressIP/allocatorPolicy", json!("rr"), "spec.egressIP.allocatorPolicy"),
        ] {
            let mut new = old.clone();
            *new.pointer_mut(pointer).unwrap() = value;
            let told = world.update(kind, &old, &new);
            assert!(
                told.starts_with(&format!("{field}: Invalid value: "))
                    && told.contains("is immutable, and was"),
                "{told}"
            );
        }
        let node = policy(json!({"egressIP": {"useNodeIP": true}}));
        let told = world.update(kind, &node, &policy(json!({"egressIP": {"useNodeIP": false}})));
        assert!(
            told.starts_with("spec.egressIP.useNodeIP: Invalid value: \"false\": is immutable"),
            "{told}"
        );
        // Another spelling is no change, and everything else may change.
        let mut new = old.clone();
        new["spec"]["egressIP"]["ipv6"] = "fd00:0::1".into();
        new["spec"]["egressIP"]["allocatorPolicy"] = "".into();
        new["spec"]["destSubnet"] = json!(["192.0.2.0/24"]);
        new["spec"]["priority"] = 7.into();
        new["spec"]["appliedTo"] = json!({"podSubnet": ["10.0.0.0/8"]});
        assert_eq!(world.update(kind, &old, &new), "");
    }
}

#[test]
fn x_p2_a_destination_that_is_no_cidr_is_refused_with_what_to_write() {
    let world = World::new().with("g", gateway("g", json!({"ipv4": ["10.6.1.1"]})));
    let told =
        world.create("EgressPolicy", policy(json!({"destSubnet": ["10.0.0.0/8", "1.2.3.4", "nowhere"]})));
    assert_eq!(
        told,
        "[spec.destSubnet[1]: Invalid value: \"1.2.3.4\": is not a CIDR; write `1.2.3.4/32`, \
         spec.destSubnet[2]: Invalid value: \"nowhere\": is not a CIDR; write one like 192.0.2.0/24 or 2001:db8::/32]"
    );
}

#[test]
fn x_p3_x_p4_addresses_of_a_pair_are_asked_for_together() {
    let pools = json!({
        "ipv4": ["10.6.1.1-10.6.1.9"], "ipv6": ["fd00::1-fd00::9"],
        "ipv4DefaultEIP": "10.6.1.1", "ipv6DefaultEIP": "fd00::1",
    });
    let world =
        World::dual_stack().with("g", in_use(pools, json!([{"ipv4": "10.6.1.5", "ipv6": "fd00::6"}])));
    let ask = |egress: Value| world.create("EgressPolicy", policy(json!({"egressIP": egress})));
    for (egress, pair) in [
        (json!({"ipv4": "10.6.1.1"}), "10.6.1.1+fd00::1 is a fixed pair"),
        (json!({"ipv6": "fd00::1", "ipv4": "10.6.1.2"}), "10.6.1.1+fd00::1 is a fixed pair"),
        (json!({"ipv4": "10.6.1.5"}), "10.6.1.5+fd00::6 is a fixed pair"),
        (json!({"ipv4": "10.6.1.4", "ipv6": "fd00::6"}), "10.6.1.5+fd00::6 is a fixed pair"),
    ] {
        let told = ask(egress);
        assert!(told.starts_with("spec.egressIP: Invalid value: ") && told.contains(pair), "{told}");
    }
    for egress in [
        json!({"ipv4": "10.6.1.1", "ipv6": "fd00::1"}),
        json!({"ipv4": "10.6.1.5", "ipv6": "fd00::6"}),
        json!({"ipv4": "10.6.1.2"}),
    ] {
        assert_eq!(ask(egress), "");
    }
}

#[test]
fn w9_a_node_address_policy_may_come_before_its_gateway_with_a_warning() {
    let answer = World::new().ask(
        Path::Validate,
        "CREATE",
        "EgressPolicy",
        Value::Null,
        policy(json!({"egressIP": {"useNodeIP": true}})),
    );
    assert!(answer.refusal.is_none());
    assert_eq!(
        answer.warnings,
        ["spec.egressGatewayName: EgressGateway `g` does not exist; create it or name another"]
    );
    let told = World::new().create("EgressPolicy", policy(json!({})));
    assert!(told.starts_with("spec.egressGatewayName: Not found: \"g\""), "{told}");
}
