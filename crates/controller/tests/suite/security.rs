//! What the programs may do: all that they need, and nothing else.

use std::collections::BTreeSet;

use api::names;
use api::permissions::{AGENT, CONTROLLER, Program};
use api::v1beta1::{
    EgressClusterEndpointSlice, EgressClusterPolicy, EgressEndpointSlice, EgressGateway, EgressPolicy,
    EgressPortLease, EgressTunnel,
};
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod, Secret};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use model::port_lease::{LeaseName, PortLease};
use serde_json::json;

use crate::harness::{Cluster, SYSTEM, WEBHOOK, policy};
use crate::server::is_real;

/// Verb, group and resource; and whether it is asked for in every namespace.
type Ask = (String, String, String, bool);

/// Everything that a program is permitted.
fn permitted(program: &Program) -> BTreeSet<Ask> {
    let mut all = BTreeSet::new();
    for permission in program.permissions {
        for resource in permission.resources {
            let of_cluster = permission.place.is_cluster();
            all.extend(permission.verbs.iter().map(|verb| {
                ((*verb).to_owned(), permission.group.to_owned(), (*resource).to_owned(), of_cluster)
            }));
        }
    }
    all
}

/// Everything that a program has asked for; nothing of it was forbidden.
fn asked(cluster: &Cluster, program: &Program) -> BTreeSet<Ask> {
    let account = format!("{SYSTEM}:{}", program.account);
    let asked = cluster.server.asked().into_iter().filter(|asked| asked.account == account);
    let check = |asked: apiserver::auth::audit::Asked| {
        assert!(!asked.forbidden, "{asked:?}");
        let of_cluster = asked.namespace != SYSTEM;
        (asked.verb, asked.group, asked.resource, of_cluster)
    };
    asked.map(check).collect()
}

/// What is permitted though nothing asks for it here.
fn asked_elsewhere() -> BTreeSet<Ask> {
    // Only the admission plug-in OwnerReferencesPermissionEnforcement asks, which is off by default.
    let finalizers = ["egressclusterpolicies/finalizers", "egresspolicies/finalizers"];
    let mut all: BTreeSet<Ask> =
        finalizers.map(|it| ("update".to_owned(), names::GROUP.to_owned(), it.to_owned(), true)).into();
    if !is_real() {
        // This server does not have the kind: it is listed in vain, and never watched.
        all.insert(("watch".to_owned(), "networking.k8s.io".to_owned(), "servicecidrs".to_owned(), true));
    }
    // The Secret was there before.
    all.insert(("create".to_owned(), String::new(), "secrets".to_owned(), false));
    // A lease outlives its node for as long as a late write of it may arrive: longer than this test lasts.
    all.insert(("delete".to_owned(), names::GROUP.to_owned(), "egressportleases".to_owned(), true));
    all
}

/// A cluster with everything that a controller looks at.
async fn whole_cluster() -> Cluster {
    let cluster = Cluster::start().await;
    for (group, version, kind, plural) in [
        ("crd.projectcalico.org", "v1", "IPPool", "ippools"),
        ("cilium.io", "v2", "CiliumNode", "ciliumnodes"),
        ("cilium.io", "v2alpha1", "CiliumPodIPPool", "ciliumpodippools"),
        ("spiderpool.spidernet.io", "v2beta1", "SpiderIPPool", "spiderippools"),
        ("spiderpool.spidernet.io", "v2beta1", "SpiderCoordinator", "spidercoordinators"),
    ] {
        cluster.define(group, version, kind, plural).await;
    }
    // A Secret that holds no certificate of ours is written over.
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": format!("{WEBHOOK}-server-certs"), "namespace": SYSTEM},
    });
    cluster.create(secret).await.expect("created");
    cluster
}

/// A life in which everything happens that a controller has to do with.
async fn whole_life(cluster: &Cluster) {
    cluster.agents().await;
    crate::admission::install(cluster).await;
    // Without webhooks the controller fills in what they would.
    let nothing_more = DeleteParams::default();
    cluster.api::<ValidatingWebhookConfiguration>().delete(WEBHOOK, &nothing_more).await.expect("deleted");
    cluster.api::<MutatingWebhookConfiguration>().delete(WEBHOOK, &nothing_more).await.expect("deleted");
    let (tunnels, leases) = (cluster.api::<EgressTunnel>(), cluster.api::<EgressPortLease>());
    let (policies, gateways) =
        (cluster.namespaced::<EgressPolicy>("default"), cluster.api::<EgressGateway>());
    let slices: Api<EgressEndpointSlice> = cluster.namespaced("default");
    let cluster_slices: Api<EgressClusterEndpointSlice> = cluster.api();
    let pods: Api<Pod> = cluster.namespaced("default");

    // Gateways and policies that leave open what can be filled in.
    cluster.pod("default", "web-1", "c", "10.244.3.7").await;
    cluster.gateway("default", "10.6.168.201-10.6.168.205").await;
    let patch = Patch::Merge(json!({"spec": {"clusterDefault": true}}));
    gateways.patch("default", &PatchParams::default(), &patch).await.expect("patched");
    cluster.create(policy("test", json!({}))).await.expect("created");
    let of_cluster = json!({
        "apiVersion": names::API_VERSION, "kind": "EgressClusterPolicy", "metadata": {"name": "wide"},
        "spec": {"appliedTo": {"podSelector": {"matchLabels": {"app": "test-app"}}}},
    });
    cluster.create(of_cluster).await.expect("created");
    for slice in ["test-0", "wide-0"] {
        cluster
            .eventually("slices", || async {
                let is_there = slices.get_opt(slice).await.ok()?.is_some()
                    || cluster_slices.get_opt(slice).await.ok()?.is_some();
                is_there.then_some(())
            })
            .await;
    }

    // Pods come and go: slices change, and go with the last one.
    cluster.pod("default", "web-2", "a", "10.244.1.7").await;
    cluster
        .eventually("two pods in the slices", || async {
            let both = (slices.get("test-0").await.ok()?, cluster_slices.get("wide-0").await.ok()?);
            (both.0.endpoints.len() == 2 && both.1.endpoints.len() == 2).then_some(())
        })
        .await;
    for pod in ["web-1", "web-2"] {
        pods.delete(pod, &DeleteParams::default().grace_period(0)).await.expect("deleted");
    }
    cluster
        .eventually("no slices", || async {
            let gone = slices.get_opt("test-0").await.ok()?.is_none()
                && cluster_slices.get_opt("wide-0").await.ok()?.is_none();
            gone.then_some(())
        })
        .await;

    // Nodes fail, and go for good.
    cluster.eventually("a lease", || async { leases.get_opt("c").await.ok()? }).await;
    let finalizer = json!({"metadata": {"finalizers": [names::FINALIZER_TUNNEL]}});
    tunnels.patch("b", &PatchParams::default(), &Patch::Merge(finalizer)).await.expect("patched");
    tunnels.delete("b", &DeleteParams::default()).await.expect("deleted");
    cluster
        .eventually("another tunnel", || async {
            let tunnel = tunnels.get_opt("b").await.ok()??;
            tunnel.metadata.deletion_timestamp.is_none().then_some(())
        })
        .await;
    cluster.api::<Node>().delete("c", &DeleteParams::default()).await.expect("deleted");
    cluster
        .eventually("no tunnel of a node that is gone", || async {
            tunnels.get_opt("c").await.ok()?.is_none().then_some(())
        })
        .await;

    // Policies go, and their ports with them.
    policies.delete("test", &DeleteParams::default()).await.expect("deleted");
    let wide: Api<EgressClusterPolicy> = cluster.api();
    wide.delete("wide", &DeleteParams::default()).await.expect("deleted");
    gateways.delete("default", &DeleteParams::default()).await.expect("deleted");
    cluster
        .eventually("no gateway", || async {
            gateways.get_opt("default").await.ok()?.is_none().then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_asks_for_exactly_what_it_is_permitted() {
    let cluster = whole_cluster().await;
    let controller = cluster.controller("one").await;
    whole_life(&cluster).await;
    controller.stop().await;

    let mut expected = permitted(&CONTROLLER);
    assert!(expected.is_superset(&asked_elsewhere()));
    expected.retain(|ask| !asked_elsewhere().contains(ask));
    let asked = asked(&cluster, &CONTROLLER);
    let never: Vec<_> = expected.difference(&asked).collect();
    assert!(never.is_empty(), "permitted, and never asked for: {never:#?}");
    let more: Vec<_> = asked.difference(&expected).collect();
    assert!(more.is_empty(), "asked for beyond what is declared: {more:#?}");
}

/// The rules of one of the controller's roles.
type Rules = Vec<PolicyRule>;

/// The controller's rules of all the cluster, and those of its own namespace.
async fn rules(cluster: &Cluster) -> [Rules; 2] {
    let of_cluster = cluster.api::<ClusterRole>().get(CONTROLLER.account).await.expect("a role");
    let own = cluster.namespaced::<Role>(SYSTEM).get(CONTROLLER.account).await.expect("a role");
    [of_cluster.rules, own.rules].map(|rules| rules.expect("rules"))
}

async fn set_rules(cluster: &Cluster, [of_cluster, own]: [Rules; 2]) {
    let parameters = PatchParams::default();
    let patch = |rules: Rules| Patch::Merge(json!({ "rules": rules }));
    let roles: Api<ClusterRole> = cluster.api();
    roles.patch(CONTROLLER.account, &parameters, &patch(of_cluster)).await.expect("changed");
    let roles: Api<Role> = cluster.namespaced(SYSTEM);
    roles.patch(CONTROLLER.account, &parameters, &patch(own)).await.expect("changed");
}

fn has(list: &Option<Vec<String>>, word: &str) -> bool {
    list.iter().flatten().any(|one| one == word)
}

/// Something that the rule permits was asked for and refused.
fn is_missed(cluster: &Cluster, rule: &PolicyRule) -> bool {
    let account = format!("{SYSTEM}:{}", CONTROLLER.account);
    cluster.server.asked().iter().any(|asked| {
        asked.account == account
            && asked.forbidden
            && rule.verbs.contains(&asked.verb)
            && has(&rule.api_groups, &asked.group)
            && has(&rule.resources, &asked.resource)
    })
}

/// Without each of its rules, and with all others, the controller is refused something that it needs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_rule_of_the_controller_can_be_taken_away() {
    let sizes = {
        let cluster = Cluster::start().await;
        rules(&cluster).await.map(|rules| rules.len())
    };
    let mut tried = 0;
    for (role, size) in sizes.into_iter().enumerate() {
        for index in 0..size {
            let cluster = whole_cluster().await;
            let mut rules = rules(&cluster).await;
            let taken = rules[role].remove(index);
            // What no life here comes to is told by the test of all that is asked for.
            let makes_secrets = taken.verbs == ["create"] && has(&taken.resources, "secrets");
            if makes_secrets {
                let secrets: Api<Secret> = cluster.namespaced(SYSTEM);
                let name = format!("{WEBHOOK}-server-certs");
                secrets.delete(&name, &DeleteParams::default()).await.expect("deleted");
            }
            let permitted = taken.resources.iter().flatten().flat_map(|resource| {
                let group = taken.api_groups.iter().flatten().next().cloned().unwrap_or_default();
                taken.verbs.iter().map(move |verb| (verb.clone(), group.clone(), resource.clone(), role == 0))
            });
            if !makes_secrets && permitted.into_iter().all(|ask| asked_elsewhere().contains(&ask)) {
                continue;
            }
            set_rules(&cluster, rules).await;
            let controller = cluster.controller("one").await;
            let missed = cluster.eventually("refusal of what was taken away", || async {
                is_missed(&cluster, &taken).then_some(())
            });
            println!("without {:?} on {:?}", taken.verbs, taken.resources.as_deref().unwrap_or_default());
            tokio::select! {
                () = missed => {}
                // Its end would need the rule: whoever comes here does without.
                () = whole_life(&cluster) => panic!("a whole life went well without {taken:?}"),
            }
            tried += 1;
            controller.stop().await;
        }
    }
    // All but the one on finalizers.
    assert!(tried + 1 >= sizes.iter().sum::<usize>(), "{tried} of {sizes:?} were taken away");
}

/// What an agent writes, by the client of somebody; refusals are texts.
async fn write_as_agent(client: &Client, node: &str) -> [Result<(), String>; 3] {
    let parameters = PatchParams::default();
    let report = |status: serde_json::Value| Patch::Merge(json!({ "status": status }));
    let tunnels: Api<EgressTunnel> = Api::all(client.clone());
    let tunnel = report(json!({"probeKey": "key", "tunnel": {"parent": {"name": "eth0"}}}));
    let leases: Api<EgressPortLease> = Api::all(client.clone());
    let lease = report(json!({"observedGeneration": 1}));
    let beats: Api<Lease> = Api::namespaced(client.clone(), SYSTEM);
    let spec = json!({"holderIdentity": node, "renewTime": "2024-01-01T00:00:00.000000Z"});
    let name = names::heartbeat_lease(node);
    let renewed = match beats.patch(&name, &parameters, &Patch::Merge(json!({ "spec": spec }))).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let fresh = json!({"metadata": {"name": name}, "spec": spec});
            beats.create(&PostParams::default(), &serde_json::from_value(fresh).expect("a Lease")).await
        }
        other => other,
    };
    [
        tunnels.patch_status(node, &parameters, &tunnel).await.map(drop),
        leases.patch_status(node, &parameters, &lease).await.map(drop),
        renewed.map(drop),
    ]
    .map(|written| written.map_err(|error| error.to_string()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_writes_objects_of_its_own_node_only() {
    let (cluster, controller) = Cluster::at_work().await;
    cluster.pod("default", "web", "c", "10.244.3.7").await;
    cluster.gateway("default", "10.6.168.201").await;
    cluster.policy("test", "default").await;
    let leases: Api<EgressPortLease> = cluster.api();
    for node in ["a", "b", "c"] {
        cluster.eventually("a lease", || async { leases.get_opt(node).await.ok()? }).await;
    }
    let agent = cluster.agent_client("a").await;
    for node in ["a", "b", "c"] {
        // The policy is in force some moments after it was made.
        cluster
            .eventually("a judgement of every write", || async {
                let written = write_as_agent(&agent, node).await;
                let is_own = |written: &Result<(), String>| written.is_ok() == (node == "a");
                written.iter().all(is_own).then_some(())
            })
            .await;
    }
    let [tunnel, lease, beat] =
        write_as_agent(&agent, "b").await.map(|written| written.expect_err("refused"));
    assert!(tunnel.contains("the agent of node a may write a only, and not b"), "{tunnel}");
    assert!(lease.contains("the agent of node a may write a only, and not b"), "{lease}");
    assert!(
        beat.contains("the agent of node a may write egressgateway.a only, and not egressgateway.b"),
        "{beat}"
    );

    // Every part of its own lease, and none of another's.
    for node in ["a", "b"] {
        let name = LeaseName::new(node, 1);
        let mut part = EgressPortLease::named(&name.object());
        part.spec = api::convert::port_lease_spec(&name, &PortLease::default());
        leases.create(&PostParams::default(), &part).await.expect("created");
    }
    let as_agent: Api<EgressPortLease> = Api::all(agent.clone());
    let parameters = PatchParams::default();
    let report = Patch::Merge(json!({"status": {"observedGeneration": 1}}));
    as_agent.patch_status("a.part-1", &parameters, &report).await.expect("written");
    let written = as_agent.patch_status("b.part-1", &parameters, &report).await;
    let error = written.expect_err("refused").to_string();
    assert!(error.contains("the agent of node a may write a only, and not b.part-1"), "{error}");

    // Neither the controller's lease nor its part of the own tunnel.
    let steal = Patch::Merge(json!({"spec": {"holderIdentity": "a"}}));
    let beats: Api<Lease> = Api::namespaced(agent.clone(), SYSTEM);
    let error = beats.patch("egressgateway", &parameters, &steal).await.expect_err("refused").to_string();
    assert!(error.contains("and not egressgateway"), "{error}");
    let posing = Patch::Merge(json!({"spec": {"holderIdentity": "b"}}));
    let error = beats.patch("egressgateway.a", &parameters, &posing).await.expect_err("refused").to_string();
    assert!(error.contains("names its node as its holder"), "{error}");
    let tunnels: Api<EgressTunnel> = Api::all(agent.clone());
    for status in [json!({"mark": "0x26000009"}), json!({"tunnel": {"ipv4": "172.31.0.9"}}), json!(null)] {
        let patch = Patch::Merge(json!({ "status": status }));
        let error = tunnels.patch_status("a", &parameters, &patch).await.expect_err("refused").to_string();
        assert!(error.contains("the controller gives them"), "{error}");
    }

    // A token that is bound to no pod names no node.
    let unbound = cluster.client_of(AGENT.account, None).await;
    for written in write_as_agent(&unbound, "a").await {
        let error = written.expect_err("refused");
        assert!(error.contains("names no node"), "{error}");
    }
    controller.stop().await;
}
