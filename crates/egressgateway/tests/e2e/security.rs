//! What controller and agents ask of the API server, in the whole life of the lab so far.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use api::permissions::{AGENT, PROGRAMS, Program};
use api::v1beta1::EgressTunnel;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use lab::Asked;
use serde_json::json;

use crate::Scenario;
use crate::scene::Scene;
use crate::world::{NODES, PLAIN, SYSTEM, World};

pub(crate) const SCENARIOS: &[Scenario] = &[
    // Judges what all others have made controller and agents ask for.
    ("controller_and_agents_ask_for_what_they_are_permitted_and_nothing_else", asked),
    // These ask for what is refused, so they come after it.
    ("no_rule_of_the_agent_can_be_taken_away", rules_taken_away),
    ("the_token_of_an_agent_is_good_for_its_own_node_only", own_node_only),
];

/// Verb, group, resource, and whether it is asked for outside of the own namespace.
type Ask = (String, String, String, bool);

fn permitted(program: &Program) -> BTreeSet<Ask> {
    let mut all = BTreeSet::new();
    for permission in program.permissions {
        for (resource, verb) in
            permission.resources.iter().flat_map(|it| permission.verbs.iter().map(move |verb| (it, verb)))
        {
            let wide = permission.place.is_cluster();
            all.insert(((*verb).to_owned(), permission.group.to_owned(), (*resource).to_owned(), wide));
        }
    }
    all
}

/// The rules of one of the agent's roles.
type Rules = Vec<PolicyRule>;

fn set_rules(world: &World, [of_cluster, own]: &[Rules; 2]) -> Result<()> {
    let parameters = PatchParams::default();
    let roles = world.cluster_wide::<ClusterRole>();
    let patch = Patch::Merge(json!({ "rules": of_cluster }));
    world.answered(roles.patch(AGENT.account, &parameters, &patch))?;
    let roles = world.built_in::<Role>(SYSTEM);
    world.answered(roles.patch(AGENT.account, &parameters, &Patch::Merge(json!({ "rules": own }))))?;
    Ok(())
}

/// What the agents were refused.
fn refused(world: &World) -> Result<BTreeSet<Asked>> {
    let account = format!("{SYSTEM}:{}", AGENT.account);
    Ok(world.asked()?.into_iter().filter(|asked| asked.account == account && asked.forbidden).collect())
}

/// The agent of a node, and its beat, begin anew.
fn replace_agent(world: &World, node: &str) -> Result<()> {
    let on_node = |pod: &&Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.as_deref() == Some(node));
    for pod in world.pods(SYSTEM, crate::restarts::AGENT)?.iter().filter(on_node) {
        let pods = world.built_in::<Pod>(SYSTEM);
        world.answered(pods.delete(&pod.name_any(), &DeleteParams::default()))?;
    }
    let leases = world.built_in::<Lease>(SYSTEM);
    let lease = api::names::heartbeat_lease(node);
    if world.answered(leases.get_opt(&lease))?.is_some() {
        world.answered(leases.delete(&lease, &DeleteParams::default()))?;
    }
    Ok(())
}

/// Without each of its rules, and with all others, the agent is refused something that it needs; and once it has the rule
/// again its node works.
fn rules_taken_away(world: &World) -> Result<()> {
    let of_cluster = world.answered(world.cluster_wide::<ClusterRole>().get(AGENT.account))?.rules;
    let own = world.answered(world.built_in::<Role>(SYSTEM).get(AGENT.account))?.rules;
    let whole = [of_cluster.unwrap_or_default(), own.unwrap_or_default()];
    let mut tried = 0;
    let judged = [0, 1].into_iter().try_for_each(|role| {
        (0..whole[role].len()).try_for_each(|index| {
            let mut fewer = whole.clone();
            let taken = fewer[role].remove(index);
            let before = refused(world)?;
            set_rules(world, &fewer)?;
            replace_agent(world, PLAIN)?;
            // A policy makes the controller lease ports, which agents confirm.
            let scene = Scene::new(world, if tried % 2 == 0 { "without-rule" } else { "without-a-rule" })?;
            scene.start("app", PLAIN, &["sleep", "3600"])?;
            scene.policy_for_all(json!({}))?;
            let is_meant = |asked: &Asked| {
                let named = taken.resources.iter().flatten().any(|resource| *resource == asked.resource);
                named
                    && taken.api_groups.iter().flatten().any(|group| *group == asked.group)
                    && taken.verbs.contains(&asked.verb)
            };
            world.until(&format!("somebody misses {taken:?}"), || {
                let refused = refused(world)?;
                let new: Vec<_> = refused.difference(&before).collect();
                ensure!(new.iter().any(|asked| is_meant(asked)), "refused was {new:?}");
                Ok(())
            })?;
            tried += 1;
            set_rules(world, &whole)?;
            let pod = scene.running("app", PLAIN)?;
            world.until_seen_as(&pod.netns, scene.eip(0)).with_context(|| format!("with {taken:?} again"))?;
            drop(scene);
            world.until("the namespace is gone", || {
                let namespaces =
                    world.answered(world.cluster_wide::<Namespace>().list(&ListParams::default()))?;
                let left = namespaces.iter().filter(|it| it.name_any().starts_with("without-")).count();
                ensure!(left == 0, "{left} are left");
                Ok(())
            })
        })
    });
    set_rules(world, &whole)?;
    judged?;
    ensure!(tried > 4, "only {tried} rules were taken away");
    Ok(())
}

fn own_node_only(world: &World) -> Result<()> {
    let pods = world.pods(SYSTEM, "app.kubernetes.io/component=egressgateway-agent")?;
    let on_node = |pod: &&Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.as_deref() == Some(PLAIN));
    let pod = pods.iter().find(on_node).context("no agent")?.name_any();
    let agent = world.client_in_pod(SYSTEM, AGENT.account, &pod)?;
    let tunnels: Api<EgressTunnel> = Api::all(agent.clone());
    let beats: Api<Lease> = Api::namespaced(agent, SYSTEM);
    let parameters = PatchParams::default();
    world.until("every agent renews its Lease", || {
        for node in NODES {
            let all: Api<Lease> = world.built_in(SYSTEM);
            world.answered(all.get(&api::names::heartbeat_lease(node))).map(drop)?;
        }
        Ok(())
    })?;
    // What changes nothing, of every node: whether it may be written is all that matters.
    for node in NODES {
        let same = Patch::Merge(json!({"status": {}}));
        let written = world.answered(tunnels.patch_status(node, &parameters, &same)).map(drop);
        let holder = Patch::Merge(json!({"spec": {"holderIdentity": node}}));
        let name = api::names::heartbeat_lease(node);
        let renewed = world.answered(beats.patch(&name, &parameters, &holder)).map(drop);
        for outcome in [written, renewed] {
            match outcome {
                Ok(()) => ensure!(node == PLAIN, "the agent of {PLAIN} wrote for {node}"),
                Err(error) => {
                    let text = format!("{error:#}");
                    let told = format!("the agent of node {PLAIN} may write");
                    ensure!(node != PLAIN && text.contains(&told), "{node}: {text}");
                }
            }
        }
    }
    let own = Patch::Merge(json!({"status": {"mark": "0x26000099"}}));
    let Err(error) = world.answered(tunnels.patch_status(PLAIN, &parameters, &own)) else {
        bail!("an agent gave itself another mark");
    };
    let text = format!("{error:#}");
    ensure!(text.contains("the controller gives them"), "{text}");
    let leader = Patch::Merge(json!({"spec": {"holderIdentity": PLAIN}}));
    ensure!(
        world.answered(beats.patch("egressgateway", &parameters, &leader)).is_err(),
        "an agent took the controller's lease"
    );
    Ok(())
}

fn asked(world: &World) -> Result<()> {
    let scene = Scene::new(world, "asked")?;
    let pod = scene.pod("app", PLAIN)?;
    scene.policy("test", json!({"appliedTo": {"podSelector": {"matchLabels": {"app": "app"}}}}))?;
    world.until_seen_as(&pod.netns, scene.eip(0))?;
    for program in PROGRAMS {
        let account = format!("{SYSTEM}:{}", program.account);
        let permitted = permitted(&program);
        world.until("nothing but what is permitted is asked for", || {
            let asked = world.asked()?.into_iter().filter(|asked| asked.account == account);
            let asked: Vec<_> = asked.collect();
            let namespaces =
                world.answered(world.cluster_wide::<Namespace>().list(&ListParams::default()))?;
            // In a namespace that is being deleted nobody may make anything, whatever the roles say.
            let is_ending = |name: &str| {
                let found = namespaces.items.iter().find(|namespace| namespace.name_any() == name);
                found.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_some())
            };
            let excused = |asked: &Asked| asked.verb == "create" && is_ending(&asked.namespace);
            let refused: Vec<_> = asked.iter().filter(|it| it.forbidden && !excused(it)).collect();
            ensure!(refused.is_empty(), "refused: {refused:?}");
            let asked: BTreeSet<Ask> = asked
                .into_iter()
                .map(|it| (it.verb, it.group, it.resource, it.namespace != SYSTEM))
                .collect();
            let more: Vec<_> = asked.difference(&permitted).collect();
            ensure!(more.is_empty(), "asked for and not declared: {more:?}");
            // The controller's life has more to it than a lab's; its own tests have the same judgement.
            let never: Vec<_> = permitted.difference(&asked).collect();
            ensure!(program != AGENT || never.is_empty(), "declared and never asked for: {never:?}");
            Ok(())
        })?;
    }
    Ok(())
}
