//! From CustomResourceDefinitions to served resources, and back.

use std::sync::Arc;

use serde_json::Value;

use crate::builtin::crd;
use crate::meta;
use crate::resource::{GroupResource, ResourceInfo};
use crate::store::{Context, ObjectKey, Propagation, Store};

impl Store {
    /// Brings the registry and the definition's status in line with a definition that was written or removed.
    pub(super) fn settle_definition(&mut self, ctx: &mut Context<'_>, key: &ObjectKey) {
        let Some(entry) = self.entry(&key.resource, "", &key.key.name) else {
            self.withdraw(&key.key.name);
            return;
        };
        let definition = Arc::clone(&entry.object);
        if meta::is_deleting(&definition) {
            self.end_definition(ctx, key, &definition);
            return;
        }
        let problem = self.name_conflict(&definition);
        let status = crd::established_status(&definition, problem.as_deref(), ctx.now);
        if definition.get("status") != Some(&status) {
            let mut new = (*definition).clone();
            meta::map_of(&mut new).insert("status".to_owned(), status);
            self.put(&key.resource, new, ctx.now);
        }
        if problem.is_none() {
            self.serve(&definition, false);
        }
    }

    /// Names that another definition or a built-in kind of the group has already.
    fn name_conflict(&self, definition: &Value) -> Option<String> {
        let names = crd::Names::of(definition);
        let others =
            self.registry().all().filter(|info| info.gvk.group == names.group && info.plural != names.plural);
        let mine = || std::iter::once(&names.singular).chain(&names.short_names);
        for other in others {
            if other.gvk.kind == names.kind || other.list_kind == names.list_kind {
                return Some(format!("{:?} is already in use", names.kind));
            }
            let taken = |name: &String| {
                *name == other.plural || *name == other.singular || other.short_names.contains(name)
            };
            if let Some(name) = mine().find(|name| taken(name)) {
                return Some(format!("{name:?} is already in use"));
            }
        }
        let key = GroupResource::new(&names.group, &names.plural);
        let builtin = self.registry().stored(&key).is_some_and(|info| info.builtin);
        builtin.then(|| format!("{:?} is already in use", names.plural))
    }

    fn serve(&mut self, definition: &Value, terminating: bool) {
        let names = crd::Names::of(definition);
        let key = GroupResource::new(&names.group, &names.plural);
        let old: Vec<Arc<ResourceInfo>> = self.registry.versions_of(&key).cloned().collect();
        let since = self.resource_version() + 1;
        let new = crd::resources(definition, terminating, |info| {
            match old.iter().find(|old| old.gvk == info.gvk) {
                Some(old) if old.schema == info.schema => old.schema_since,
                Some(_) => since,
                None => 0,
            }
        });
        let same = old.len() == new.len() && old.iter().zip(&new).all(|(old, new)| old.same_as(new));
        if !same {
            self.registry.remove(&key);
            for info in new {
                self.registry.insert(info);
            }
        }
    }

    /// Deletes the custom resources; when none is left, the definition goes.
    fn end_definition(&mut self, ctx: &mut Context<'_>, key: &ObjectKey, definition: &Value) {
        let names = crd::Names::of(definition);
        let resource = GroupResource::new(&names.group, &names.plural);
        let mine = self.registry().stored(&resource).is_some_and(|info| !info.builtin);
        if mine {
            self.serve(definition, true);
        }
        let keys: Vec<ObjectKey> = self
            .tables
            .get(&resource)
            .filter(|_| mine)
            .into_iter()
            .flat_map(|table| table.objects.iter())
            .map(|(key, _)| ObjectKey { resource: resource.clone(), key: Arc::clone(key) })
            .collect();
        for key in &keys {
            let deleting = self
                .entry(&resource, &key.key.namespace, &key.key.name)
                .is_none_or(|entry| meta::is_deleting(&entry.object));
            if !deleting {
                self.delete_by_key(ctx, key, Propagation::Background);
            }
        }
        let empty = !mine || self.tables.get(&resource).is_none_or(|table| table.objects.is_empty());
        if empty {
            self.drop_finalizer(ctx, key, crd::CLEANUP_FINALIZER);
        } else {
            self.collector.ending_definitions.insert(key.clone());
        }
    }

    /// Stops serving what a removed definition defined.
    fn withdraw(&mut self, definition_name: &str) {
        let Some((plural, group)) = definition_name.split_once('.') else {
            return;
        };
        let key = GroupResource::new(group, plural);
        if self.registry.stored(&key).is_some_and(|info| !info.builtin) {
            self.registry.remove(&key);
        }
        // A definition that lost a conflict of names may be free to be served now.
        let definitions = GroupResource::new("apiextensions.k8s.io", "customresourcedefinitions");
        let others = self.tables.get(&definitions).into_iter().flat_map(|table| table.objects.iter());
        let waiting: Vec<ObjectKey> = others
            .filter(|(_, entry)| !crate::builtin::conditions::is_true(&entry.object, "Established"))
            .map(|(key, _)| ObjectKey { resource: definitions.clone(), key: Arc::clone(key) })
            .collect();
        self.collector.pending.extend(waiting);
    }
}
