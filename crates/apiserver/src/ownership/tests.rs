//! Laws of sets and of merging, on random values.

use std::sync::OnceLock;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::changes::{changes, fields_of_config};
use super::field_set::FieldSet;
use super::merge::{merge, prune};
use super::typing::Type;
use crate::resource::ResourceInfo;
use crate::store::tests::World;

fn node() -> impl Strategy<Value = Value> {
    let leaf = Just(json!({}));
    leaf.prop_recursive(3, 24, 4, |inner| {
        (prop::collection::btree_map("f:[abc]", inner, 1..4), any::<bool>()).prop_map(|(steps, member)| {
            let mut map: Map<String, Value> = steps.into_iter().collect();
            if member {
                map.insert(".".to_owned(), json!({}));
            }
            Value::Object(map)
        })
    })
}

fn set() -> impl Strategy<Value = FieldSet> {
    prop::collection::btree_map("f:[abc]", node(), 0..4)
        .prop_map(|steps| FieldSet::decode(Value::Object(steps.into_iter().collect())).expect("well formed"))
}

/// Specs of the custom kind below: a map, a keyed list, a set and an atomic list.
fn spec() -> impl Strategy<Value = Value> {
    let text = "[xyz]";
    (
        prop::collection::btree_map("[abc]", text, 0..4),
        prop::collection::btree_map("[abc]", prop::option::of(text), 0..4),
        prop::collection::btree_set("[abc]", 0..4),
        prop::option::of(prop::collection::vec(text, 0..3)),
    )
        .prop_map(|(map, keyed, set, plain)| {
            let keyed: Vec<Value> = keyed
                .into_iter()
                .map(|(name, value)| match value {
                    Some(value) => json!({"name": name, "v": value}),
                    None => json!({"name": name}),
                })
                .collect();
            let mut spec = json!({"map": map, "keyed": keyed, "set": set});
            if let (Some(plain), Some(map)) = (plain, spec.as_object_mut()) {
                map.insert("plain".to_owned(), json!(plain));
            }
            json!({"metadata": {"name": "x"}, "spec": spec})
        })
}

/// The kind, made once.
fn kind() -> &'static ResourceInfo {
    static KIND: OnceLock<ResourceInfo> = OnceLock::new();
    KIND.get_or_init(make_kind)
}

fn make_kind() -> ResourceInfo {
    let world = World::new();
    let mut info = (*world.info("configmaps")).clone();
    info.builtin = false;
    let text = json!({"type": "string"});
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "map": {"type": "object", "additionalProperties": text},
        "plain": {"type": "array", "items": text},
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": text},
        "keyed": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
            "items": {"type": "object", "required": ["name"], "properties": {"name": text, "v": text}}},
    }}}});
    info.compiled = Some(std::sync::Arc::new(crate::schema::Schema::compile(&schema).expect("structural")));
    info
}

proptest! {
    #[test]
    fn sets_obey_the_laws_of_sets(a in set(), b in set()) {
        let mut both = a.clone();
        both.add(&b);
        let mut other_way = b.clone();
        other_way.add(&a);
        prop_assert_eq!(&both, &other_way);
        prop_assert_eq!(&both.common(&a), &a);
        let mut rest = both.clone();
        rest.remove(&a);
        prop_assert!(rest.common(&a).is_empty());
        let mut only_b = b.clone();
        only_b.remove(&a);
        prop_assert_eq!(rest.paths(), only_b.paths());
        let mut nothing = a.clone();
        nothing.remove(&a);
        prop_assert!(nothing.is_empty());
        prop_assert_eq!(FieldSet::decode(a.clone().encode()), Some(a));
    }

    #[test]
    fn a_merged_config_changes_nothing_when_merged_again(live in spec(), config in spec()) {
        let info = kind();
        let object = Type::of(info);
        let merged = merge(object, live.clone(), &config);
        prop_assert_eq!(&merge(object, merged.clone(), &config), &merged);
        prop_assert!(changes(object, &merged, &merged).taken.is_empty());
        // All that the config owns is there: nothing of it would be added by a second look.
        let own = fields_of_config(object, &config);
        let taken = changes(object, &live, &merged).taken;
        let mut beyond = taken.clone();
        beyond.remove(&own);
        let paths = beyond.paths();
        prop_assert!(paths.is_empty(), "changed without being asked for: {:?}", paths);
    }

    #[test]
    fn pruning_all_of_the_last_config_leaves_what_others_have(first in spec(), second in spec()) {
        let info = kind();
        let object = Type::of(info);
        let merged = merge(object, first.clone(), &second);
        let (last, kept) = (fields_of_config(object, &second), fields_of_config(object, &first));
        let mut pruned = merged.clone();
        prune(object, &mut pruned, &last, &kept);
        let removed = changes(object, &merged, &pruned).removed;
        prop_assert!(removed.common(&kept).is_empty(), "{:?}", removed.common(&kept).paths());
    }
}
