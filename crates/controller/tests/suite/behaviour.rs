//! What a user of the API sees.

use std::collections::BTreeMap;
use std::time::Instant;

use api::v1beta1::{
    EgressClusterInfo, EgressEndpointSlice, EgressGateway, EgressPolicy, EgressPortLease, EgressTunnel,
};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::harness::{Cluster, policy};

/// Nodes of the harness's cluster.
const NODES: usize = 3;

async fn ready_policy(cluster: &Cluster, name: &str) -> EgressPolicy {
    let policies: Api<EgressPolicy> = cluster.namespaced("default");
    cluster
        .eventually("policy in force", || async {
            let policy = policies.get(name).await.ok()?;
            let is_ready = policy.status.as_ref().is_some_and(|status| !status.node.is_empty());
            is_ready.then_some(policy)
        })
        .await
}

/// Waits until every node's tunnel has its address: tunnels of nodes that carry nothing may be written after a policy is in force.
async fn all_tunnels(cluster: &Cluster) {
    let tunnels: Api<EgressTunnel> = cluster.api();
    cluster
        .eventually("addresses of all tunnels", || async {
            let listed = tunnels.list(&ListParams::default()).await.ok()?.items;
            let is_addressed = |tunnel: &EgressTunnel| {
                tunnel.status.as_ref().is_some_and(|status| !status.tunnel.ipv4.is_empty())
            };
            (listed.len() == NODES && listed.iter().all(is_addressed)).then_some(())
        })
        .await;
}

async fn reason(cluster: &Cluster, name: &str) -> String {
    let policies: Api<EgressPolicy> = cluster.namespaced("default");
    cluster
        .eventually("a condition", || async {
            let condition = policies.get(name).await.ok()?.status?.conditions.first()?.clone();
            Some(format!("{} {}: {}", condition.status, condition.reason, condition.message))
        })
        .await
}

/// Versions of all objects but those of the policy `late`.
async fn versions<K>(api: &Api<K>) -> BTreeMap<String, String>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let listed = api.list(&ListParams::default()).await.expect("listed");
    let versions = listed.items.iter().map(|it| (it.name_any(), it.resource_version().unwrap_or_default()));
    versions.filter(|(name, _)| !name.starts_with("late")).collect()
}

/// Acceptance: G00005, G00007, P00008, I00001
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_is_put_in_force_with_everything_that_it_needs() {
    let (cluster, controller) = Cluster::at_work().await;
    cluster.pod("default", "web", "c", "10.244.3.7").await;
    cluster.gateway("default", "10.6.168.201-10.6.168.205").await;
    let applied = Instant::now();
    cluster.policy("test", "default").await;
    let policy = ready_policy(&cluster, "test").await;
    println!("policy in force after {:?}", applied.elapsed());
    let status = policy.status.unwrap();
    assert_eq!((status.eip.ipv4.as_str(), status.node.as_str()), ("10.6.168.201", "a"));
    assert_eq!(
        (status.conditions[0].status.as_str(), status.conditions[0].reason.as_str()),
        ("True", "Assigned")
    );

    let gateway = cluster.api::<EgressGateway>().get("default").await.unwrap();
    assert_eq!(gateway.spec.ippools.ipv4_default_eip, "10.6.168.201");
    assert_eq!(gateway.finalizers(), ["egressgateway.spidernet.io/egressgateway"]);
    let status = gateway.status.unwrap();
    let nodes: Vec<_> =
        status.node_list.iter().map(|node| (node.name.as_str(), node.status.as_str())).collect();
    assert_eq!(nodes, [("a", "Ready"), ("b", "Ready")]);
    assert_eq!(status.node_list[0].eips[0].policies[0].name, "test");
    assert_eq!((status.ip_usage.ipv4_total, status.ip_usage.ipv4_free), (5, 4));

    // Gateways hold ports for those that have none, too.
    for (node, count) in [("a", 2), ("b", 2), ("c", 1)] {
        let lease = cluster.api::<EgressPortLease>().get(node).await.unwrap();
        let blocks = &lease.spec.leases[0].blocks;
        assert_eq!((lease.spec.generation, lease.spec.block_count, blocks[0].size), (1, count, 4096));
    }
    let slices: Api<EgressEndpointSlice> = cluster.namespaced("default");
    let slice = cluster.eventually("a slice", || async { slices.get("test-0").await.ok() }).await;
    assert_eq!((slice.endpoints[0].pod.as_str(), slice.endpoints[0].node.as_str()), ("web", "c"));
    assert_eq!(slice.labels()["spidernet.io/policy-name"], "test");

    let infos: Api<EgressClusterInfo> = cluster.api();
    let info = cluster.eventually("cluster info", || async { infos.get("default").await.ok()?.status }).await;
    assert_eq!((info.node_ip["a"].ipv4[0].as_str(), info.pod_cidr_mode.as_str()), ("10.6.0.1", "k8s"));
    assert_eq!(info.extra_cidr, ["192.0.2.7"]);

    let tunnel = cluster.api::<EgressTunnel>().get("a").await.unwrap().status.unwrap();
    assert_eq!((tunnel.phase.as_str(), tunnel.mark.as_str()), ("Ready", "0x26000001"));
    assert_eq!(tunnel.tunnel.parent.name, "eth0", "the agent's part stays");

    let events: Api<Event> = cluster.namespaced("default");
    cluster
        .eventually("an event of the policy", || async {
            let listed = events.list(&ListParams::default()).await.ok()?;
            let told = |event: &&Event| {
                event.involved_object.name.as_deref() == Some("test")
                    && event.reason.as_deref() == Some("Assigned")
            };
            listed.items.iter().find(told).map(drop)
        })
        .await;
    controller.stop().await;
    let lease = cluster.namespaced::<Lease>("kube-system").get("egressgateway").await.unwrap();
    assert_eq!(lease.spec.unwrap().holder_identity.as_deref(), Some(""), "the next one need not wait");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_objects_are_told_why_and_harm_no_other() {
    let (cluster, controller) = Cluster::at_work().await;
    cluster.gateway("default", "10.6.168.201-10.6.168.205").await;
    cluster.policy("unknown", "nowhere").await;
    let outside = json!({"egressGatewayName": "default", "egressIP": {"ipv4": "10.9.9.9"}});
    cluster.create(policy("outside", outside)).await.unwrap();
    cluster.gateway("reversed", "10.6.168.9-10.6.168.2").await;
    cluster.policy("refused", "reversed").await;
    cluster.policy("good", "default").await;
    ready_policy(&cluster, "good").await;
    for (name, expected) in [
        ("unknown", "False UnknownGateway: "),
        ("outside", "False OutsidePool: "),
        ("refused", "False GatewayRefused: "),
    ] {
        let told = reason(&cluster, name).await;
        assert!(told.starts_with(expected), "{name}: {told}");
    }
    let gateways: Api<EgressGateway> = cluster.api();
    let condition = cluster
        .eventually("a condition", || async {
            gateways.get("reversed").await.ok()?.status?.conditions.first().cloned()
        })
        .await;
    assert_eq!(
        condition.message,
        "spec.ippools.ipv4[0]: `10.6.168.9-10.6.168.2` is a reversed range: write the lower address first"
    );
    // What a schema can tell is not even stored.
    let both =
        json!({"appliedTo": {"podSelector": {"matchLabels": {"a": "b"}}, "podSubnet": ["10.0.0.0/24"]}});
    for (applied_to, told) in [(both, "can't be combined"), (json!({"appliedTo": {}}), "give a podSelector")]
    {
        let error = cluster.create(policy("bad", applied_to)).await.unwrap_err().to_string();
        assert!(error.contains("spec.appliedTo: ") && error.contains(told), "{error}");
    }
    let bad_address = policy("bad", json!({"egressIP": {"ipv4": "10.6.168.300"}}));
    let error = cluster.create(bad_address).await.unwrap_err().to_string();
    assert!(error.contains("spec.egressIP.ipv4"), "{error}");
    let bad_policy = policy("bad", json!({"egressIP": {"allocatorPolicy": "random"}}));
    let error = cluster.create(bad_policy).await.unwrap_err().to_string();
    assert!(error.contains("spec.egressIP.allocatorPolicy"), "{error}");
    controller.stop().await;
}

/// Acceptance: X-T5
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_eip_moves_when_its_node_fails_or_another_gateway_claims_it() {
    let (cluster, controller) = Cluster::at_work().await;
    cluster.gateway("default", "10.6.168.201").await;
    cluster.policy("test", "default").await;
    let on_node = |node: &'static str| {
        let policies: Api<EgressPolicy> = cluster.namespaced("default");
        let cluster = &cluster;
        async move {
            cluster
                .eventually("move", || async {
                    let status = policies.get("test").await.ok()?.status?;
                    (status.node == node && status.eip.ipv4 == "10.6.168.201").then_some(())
                })
                .await;
        }
    };
    on_node("a").await;
    cluster.claim("a", "10.6.168.201", 1).await;
    cluster.claim("b", "10.6.168.201", 2).await;
    on_node("b").await;
    cluster.set_ready("b", false).await;
    on_node("a").await;
    let gateways: Api<EgressGateway> = cluster.api();
    let status = gateways.get("default").await.unwrap().status.unwrap();
    assert_eq!((status.node_list[1].status.as_str(), status.node_list[1].eips.len()), ("NodeNotReady", 0));
    cluster.set_ready("a", false).await;
    let policies: Api<EgressPolicy> = cluster.namespaced("default");
    cluster
        .eventually("policy out of force", || async {
            let status = policies.get("test").await.ok()?.status?;
            let condition = status.conditions.first()?;
            (status.eip.ipv4.is_empty() && status.node.is_empty() && condition.reason == "NoReadyNode")
                .then_some(())
        })
        .await;
    cluster.set_ready("a", true).await;
    on_node("a").await;
    let events: Api<Event> = cluster.namespaced("default");
    cluster
        .eventually("an event of the move", || async {
            let listed = events.list(&ListParams::default()).await.ok()?;
            listed.items.iter().find(|event| event.reason.as_deref() == Some("Moved")).map(drop)
        })
        .await;
    controller.stop().await;
}

/// Acceptance: G00020
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_in_use_is_kept_until_its_last_policy_goes() {
    let (cluster, controller) = Cluster::at_work().await;
    cluster.gateway("default", "10.6.168.201").await;
    cluster.policy("test", "default").await;
    ready_policy(&cluster, "test").await;
    let gateways: Api<EgressGateway> = cluster.api();
    gateways.delete("default", &DeleteParams::default()).await.unwrap();
    // Another policy is put in force: the controller has seen the deletion by then.
    cluster.policy("second", "default").await;
    ready_policy(&cluster, "second").await;
    assert!(gateways.get_opt("default").await.unwrap().is_some());
    let policies: Api<EgressPolicy> = cluster.namespaced("default");
    policies.delete("test", &DeleteParams::default()).await.unwrap();
    policies.delete("second", &DeleteParams::default()).await.unwrap();
    cluster
        .eventually("gateway gone", || async {
            gateways.get_opt("default").await.ok()?.is_none().then_some(())
        })
        .await;
    controller.stop().await;
}

/// Acceptance: G00017a
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defaults_are_filled_in_where_the_object_leaves_them_open() {
    let (cluster, controller) = Cluster::at_work().await;
    cluster.gateway("default", "10.6.168.201").await;
    let gateways: Api<EgressGateway> = cluster.api();
    let patch = Patch::Merge(json!({"spec": {"clusterDefault": true}}));
    gateways.patch("default", &PatchParams::default(), &patch).await.unwrap();
    cluster.create(policy("nameless", json!({}))).await.unwrap();
    let policies: Api<EgressPolicy> = cluster.namespaced("default");
    cluster
        .eventually("a gateway's name", || async {
            let policy = policies.get("nameless").await.ok()?;
            (policy.spec.egress_gateway_name == "default").then_some(())
        })
        .await;
    ready_policy(&cluster, "nameless").await;
    controller.stop().await;
}

/// Acceptance: R00007
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_changes_no_object() {
    let (cluster, controller) = Cluster::at_work().await;
    cluster.pod("default", "web", "c", "10.244.3.7").await;
    cluster.gateway("default", "10.6.168.201-10.6.168.205").await;
    cluster.policy("test", "default").await;
    ready_policy(&cluster, "test").await;
    let slices: Api<EgressEndpointSlice> = cluster.namespaced("default");
    cluster.eventually("a slice", || async { slices.get_opt("test-0").await.ok()? }).await;
    all_tunnels(&cluster).await;
    controller.stop().await;
    let before = (
        versions(&cluster.api::<EgressGateway>()).await,
        versions(&cluster.api::<EgressTunnel>()).await,
        versions(&cluster.api::<EgressPortLease>()).await,
        versions(&slices).await,
        versions(&cluster.api::<EgressClusterInfo>()).await,
        versions(&cluster.namespaced::<EgressPolicy>("default")).await,
    );
    let controller = cluster.controller("two").await;
    // It has planned once it has refused this one, which selects none of the other's pods.
    let pods = json!({"podSelector": {"matchLabels": {"app": "other"}}});
    let late = policy("late", json!({"egressGatewayName": "nowhere", "appliedTo": pods}));
    cluster.create(late).await.expect("created");
    reason(&cluster, "late").await;
    let after = (
        versions(&cluster.api::<EgressGateway>()).await,
        versions(&cluster.api::<EgressTunnel>()).await,
        versions(&cluster.api::<EgressPortLease>()).await,
        versions(&slices).await,
        versions(&cluster.api::<EgressClusterInfo>()).await,
        versions(&cluster.namespaced::<EgressPolicy>("default")).await,
    );
    assert_eq!(before, after);
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_replicas_one_writes_and_the_other_takes_over() {
    let cluster = Cluster::start().await;
    let first = cluster.controller("one").await;
    let leases: Api<Lease> = cluster.namespaced("kube-system");
    let holder = || async { leases.get("egressgateway").await.ok()?.spec?.holder_identity };
    let leads = |name: &'static str| {
        let (cluster, holder) = (&cluster, &holder);
        async move {
            cluster.eventually("a leader", || async { holder().await.filter(|holder| holder == name) }).await;
        }
    };
    leads("one").await;
    let second = cluster.controller("two").await;
    cluster.agents().await;
    assert!(second.is_running());
    first.stop().await;
    leads("two").await;
    cluster.gateway("default", "10.6.168.201").await;
    cluster.policy("test", "default").await;
    ready_policy(&cluster, "test").await;
    second.stop().await;
}

/// Acceptance: X-T2, X-S3
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_objects_that_are_still_needed_come_back_and_others_go() {
    let (cluster, controller) = Cluster::at_work().await;
    let tunnels: Api<EgressTunnel> = cluster.api();
    let before = tunnels.get("b").await.unwrap();
    tunnels.delete("b", &DeleteParams::default()).await.unwrap();
    cluster
        .eventually("the tunnel again", || async {
            let tunnel = tunnels.get_opt("b").await.ok()??;
            (tunnel.uid() != before.uid() && tunnel.status.is_some()).then_some(())
        })
        .await;
    cluster.pod("default", "web", "c", "10.244.3.7").await;
    cluster.gateway("default", "10.6.168.201").await;
    cluster.policy("test", "default").await;
    let slices: Api<EgressEndpointSlice> = cluster.namespaced("default");
    cluster.eventually("a slice", || async { slices.get_opt("test-0").await.ok()? }).await;
    let pods: Api<Pod> = cluster.namespaced("default");
    pods.delete("web", &DeleteParams::default().grace_period(0)).await.unwrap();
    cluster
        .eventually("no slice", || async { slices.get_opt("test-0").await.ok()?.is_none().then_some(()) })
        .await;
    controller.stop().await;
}

/// Acceptance: X-R3
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_the_api_server_changes_nothing_and_work_goes_on_after_it() {
    let (cluster, controller) = Cluster::at_work().await;
    cluster.gateway("default", "10.6.168.201-10.6.168.205").await;
    cluster.policy("test", "default").await;
    ready_policy(&cluster, "test").await;
    all_tunnels(&cluster).await;
    let before = (
        versions(&cluster.api::<EgressTunnel>()).await,
        versions(&cluster.api::<EgressPortLease>()).await,
        versions(&cluster.namespaced::<EgressPolicy>("default")).await,
    );
    cluster.server.pause().await;
    assert!(controller.is_running());
    cluster.server.resume().await;
    cluster.eventually("an answer", || async { cluster.client.apiserver_version().await.ok() }).await;
    cluster.policy("late", "default").await;
    ready_policy(&cluster, "late").await;
    let after = (
        versions(&cluster.api::<EgressTunnel>()).await,
        versions(&cluster.api::<EgressPortLease>()).await,
        versions(&cluster.namespaced::<EgressPolicy>("default")).await,
    );
    assert_eq!(before, after);
    controller.stop().await;
}

/// P00015: a gateway without pools and a policy with `useNodeIP`: the policy has a node and no address, the gateway an
/// entry without one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p00015_pods_leave_with_a_nodes_own_address() {
    let (cluster, controller) = Cluster::at_work().await;
    cluster
        .create(json!({
            "apiVersion": api::names::API_VERSION, "kind": "EgressGateway", "metadata": {"name": "default"},
            "spec": {"nodeSelector": {"selector": {"matchLabels": {"egressgateway": "true"}}}},
        }))
        .await
        .expect("created");
    let own = json!({"egressGatewayName": "default", "egressIP": {"useNodeIP": true}});
    cluster.create(policy("test", own)).await.expect("created");
    let status = ready_policy(&cluster, "test").await.status.unwrap();
    assert_eq!((status.eip.ipv4.as_str(), status.node.as_str()), ("", "a"));
    assert_eq!(status.conditions[0].reason, "NodeAddress");
    let gateway = cluster.api::<EgressGateway>().get("default").await.unwrap();
    let entry = &gateway.status.unwrap().node_list[0].eips[0];
    assert_eq!((entry.ipv4.as_str(), entry.policies[0].name.as_str()), ("", "test"));
    controller.stop().await;
}

/// I00006: Calico's pools are followed as they are made, changed and deleted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i00006_calicos_pools_are_the_clusters_networks() {
    let cluster = Cluster::start().await;
    cluster.define("crd.projectcalico.org", "v1", "IPPool", "ippools").await;
    let pool = |cidr: &str| {
        json!({
            "apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool", "metadata": {"name": "default-pool"},
            "spec": {"cidr": cidr},
        })
    };
    cluster.create(pool("10.233.0.0/16")).await.expect("created");
    let controller = cluster.controller("one").await;
    cluster.agents().await;
    let infos: Api<EgressClusterInfo> = cluster.api();
    let told = |mode: &'static str, cidr: &'static str| {
        let infos = infos.clone();
        let cluster = &cluster;
        async move {
            cluster
                .eventually("pod networks", || async {
                    let status = infos.get("default").await.ok()?.status?;
                    let pool = status.pod_cidr.get("default-pool").and_then(|lists| lists.ipv4.first());
                    let pool = pool.map(String::as_str).unwrap_or_default();
                    (status.pod_cidr_mode == mode && pool == cidr).then_some(())
                })
                .await;
        }
    };
    told("calico", "10.233.0.0/16").await;
    let path = "/apis/crd.projectcalico.org/v1/ippools/default-pool";
    let changed = http::Request::patch(path)
        .header("content-type", "application/merge-patch+json")
        .body(json!({"spec": {"cidr": "10.234.0.0/16"}}).to_string().into_bytes())
        .expect("a request");
    cluster.client.request::<serde_json::Value>(changed).await.expect("changed");
    told("calico", "10.234.0.0/16").await;
    let gone = http::Request::delete(path).body(Vec::new()).expect("a request");
    cluster.client.request::<serde_json::Value>(gone).await.expect("deleted");
    told("k8s", "").await;
    controller.stop().await;
}

/// X-T4: an agent that no longer renews its Lease: the phase says so, an event tells it, and its EIPs move.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x_t4_the_eips_of_an_agent_that_fell_silent_move() {
    let cluster = Cluster::start().await;
    let settings = plan::Settings {
        failover: Some(plan::Failover { update_s: 1, timeout_s: 2 }),
        ..plan::Settings::default()
    };
    let controller = cluster.controller_with("one", settings).await;
    cluster.agents().await;
    cluster.gateway("default", "10.6.168.201").await;
    for node in ["a", "b", "c"] {
        cluster.beat(node).await;
    }
    cluster.policy("test", "default").await;
    let policies: Api<EgressPolicy> = cluster.namespaced("default");
    cluster
        .eventually("the EIP on the first node", || async {
            for node in ["a", "b", "c"] {
                cluster.beat(node).await;
            }
            (policies.get("test").await.ok()?.status?.node == "a").then_some(())
        })
        .await;
    let tunnels: Api<EgressTunnel> = cluster.api();
    let phase = |beating: &'static [&'static str], wanted: &'static str| {
        let (cluster, tunnels) = (&cluster, &tunnels);
        cluster.eventually(wanted, move || async move {
            for node in beating {
                cluster.beat(node).await;
            }
            (tunnels.get("a").await.ok()?.status?.phase == wanted).then_some(())
        })
    };
    phase(&["b", "c"], "HeartbeatTimeout").await;
    cluster
        .eventually("the EIP on the other node", || async {
            (policies.get("test").await.ok()?.status?.node == "b").then_some(())
        })
        .await;
    let events: Api<Event> = cluster.namespaced("default");
    cluster
        .eventually("an event of the tunnel", || async {
            let listed = events.list(&ListParams::default()).await.ok()?.items;
            let told = |event: &&Event| {
                let message = event.message.as_deref().unwrap_or_default();
                event.reason.as_deref() == Some("StatusChanged") && message.contains("to HeartbeatTimeout")
            };
            listed.iter().find(told).map(drop)
        })
        .await;
    phase(&["a", "b", "c"], "Ready").await;
    assert_eq!(policies.get("test").await.unwrap().status.unwrap().node, "b", "nothing moves back");
    controller.stop().await;
}

/// A controller that is told to stop while it writes: what it has written stays as it is, the rest is done by the next one.
/// Acceptance: X-R8
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_in_the_midst_of_writes_loses_nothing() {
    const POLICIES: usize = 60;
    let (cluster, controller) = Cluster::at_work().await;
    cluster.gateway("default", "10.6.169.1-10.6.169.60").await;
    for number in 0..POLICIES {
        let own = json!({"egressGatewayName": "default", "egressIP": {"allocatorPolicy": "rr"}});
        cluster.create(policy(&format!("p{number}"), own)).await.expect("created");
    }
    let policies: Api<EgressPolicy> = cluster.namespaced("default");
    let placed = || async {
        let listed = policies.list(&ListParams::default()).await.ok()?.items;
        let eip = |policy: &EgressPolicy| {
            let status = policy.status.as_ref().filter(|status| !status.node.is_empty())?;
            Some((policy.name_any(), status.eip.ipv4.clone()))
        };
        Some(listed.iter().filter_map(eip).collect::<BTreeMap<String, String>>())
    };
    cluster
        .eventually("the first status", || async { placed().await.filter(|placed| !placed.is_empty()) })
        .await;
    controller.stop().await;
    let lease = cluster.namespaced::<Lease>("kube-system").get("egressgateway").await.unwrap();
    assert_eq!(lease.spec.unwrap().holder_identity.as_deref(), Some(""), "the next one need not wait");
    let written = placed().await.expect("a list");
    println!("{} of {POLICIES} policies were in force when it stopped", written.len());
    let controller = cluster.controller("two").await;
    let all = cluster
        .eventually("all of them", || async { placed().await.filter(|all| all.len() == POLICIES) })
        .await;
    for (name, eip) in &written {
        assert_eq!(all.get(name), Some(eip), "{name} has another EIP now");
    }
    let different: std::collections::BTreeSet<&String> = all.values().collect();
    assert_eq!(different.len(), POLICIES, "no EIP is given twice");
    controller.stop().await;
}
