//! What controller and agents ask of the API server, in the whole life of the lab so far.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use api::permissions::{AGENT, PROGRAMS, Program};
use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt;
use kube::api::ListParams;
use lab::Asked;
use serde_json::json;

use crate::Scenario;
use crate::scene::Scene;
use crate::world::{PLAIN, SYSTEM, World};

pub(crate) const SCENARIOS: &[Scenario] =
    &[("controller_and_agents_ask_for_what_they_are_permitted_and_nothing_else", asked)];

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
