use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Collector, owner_uids};
use crate::meta;
use crate::store::tests::{World, config_map};
use crate::store::{DeleteOptions, ObjectKey, PatchType, Propagation, Store};

#[derive(Clone, Debug)]
enum Step {
    Create(u8, Option<u8>),
    Own(u8, u8),
    Delete(u8, Propagation),
    Hold(u8, bool),
    Tick,
}

fn step() -> impl Strategy<Value = Step> {
    let object = 0..6u8;
    let propagation =
        prop::sample::select(vec![Propagation::Background, Propagation::Foreground, Propagation::Orphan]);
    prop_oneof![
        (object.clone(), prop::option::of(object.clone())).prop_map(|(n, owner)| Step::Create(n, owner)),
        (object.clone(), object.clone()).prop_map(|(n, owner)| Step::Own(n, owner)),
        (object.clone(), propagation).prop_map(|(n, propagation)| Step::Delete(n, propagation)),
        (object, any::<bool>()).prop_map(|(n, held)| Step::Hold(n, held)),
        Just(Step::Tick),
    ]
}

fn name(n: u8) -> String {
    format!("n{n}")
}

fn references(world: &World, owner: u8) -> Value {
    let target = world.target("configmaps", &name(owner));
    match world.store.get(&target, crate::store::Subresource::Main) {
        Ok(owner) => json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": meta::name(&owner),
            "uid": meta::uid(&owner), "blockOwnerDeletion": true}]),
        Err(_) => json!([]),
    }
}

fn take(world: &mut World, step: &Step) {
    match step {
        Step::Create(n, owner) => {
            let mut object = config_map(&name(*n));
            if let Some(owner) = owner {
                object["metadata"]["ownerReferences"] = references(world, *owner);
            }
            let _ = world.try_create("configmaps", object);
        }
        Step::Own(n, owner) => {
            let patch = json!({"metadata": {"ownerReferences": references(world, *owner)}});
            let _ = world.try_patch("configmaps", &name(*n), PatchType::Merge, patch);
        }
        Step::Delete(n, propagation) => {
            let options = DeleteOptions { propagation: Some(*propagation), ..DeleteOptions::default() };
            let _ = world.try_delete("configmaps", &name(*n), &options);
        }
        Step::Hold(n, held) => {
            let finalizers = if *held { json!(["x/y"]) } else { json!([]) };
            let patch = json!({"metadata": {"finalizers": finalizers}});
            let _ = world.try_patch("configmaps", &name(*n), PatchType::Merge, patch);
        }
        Step::Tick => {
            world.tick();
        }
    }
}

/// The indexes as they follow from the objects alone.
fn recomputed(store: &Store) -> Collector {
    let mut by_uid = BTreeMap::new();
    let mut dependents: BTreeMap<String, BTreeSet<ObjectKey>> = BTreeMap::new();
    for (resource, table) in &store.tables {
        for (key, entry) in &table.objects {
            let key = ObjectKey { resource: resource.clone(), key: key.clone() };
            by_uid.insert(meta::uid(&entry.object).to_owned(), key.clone());
            for uid in owner_uids(Some(&entry.object)) {
                dependents.entry(uid).or_default().insert(key.clone());
            }
        }
    }
    Collector { by_uid, dependents, ..Collector::default() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever was written, the indexes are those of the objects, a tick leaves nothing to do, and nobody is left
    /// whose owners are all gone.
    #[test]
    fn garbage_goes_and_the_indexes_stay_true(steps in prop::collection::vec(step(), 0..40)) {
        let mut world = World::new();
        for step in &steps {
            take(&mut world, step);
        }
        world.tick();
        prop_assert!(!world.tick(), "one tick does all that is due");
        let expected = recomputed(&world.store);
        prop_assert_eq!(&world.store.collector.by_uid, &expected.by_uid);
        prop_assert_eq!(&world.store.collector.dependents, &expected.dependents);
        for table in world.store.tables.values() {
            for entry in table.objects.values() {
                let owners = owner_uids(Some(&entry.object));
                let orphan = !owners.is_empty() && owners.iter().all(|uid| !expected.by_uid.contains_key(uid));
                prop_assert!(!orphan || meta::is_deleting(&entry.object));
            }
        }
    }
}
