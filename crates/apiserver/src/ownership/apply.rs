//! Server-side apply of one config by one manager.

use serde_json::Value;

use super::changes::{changes, fields_of_config};
use super::conflict::Conflicts;
use super::entries::{Entry, Writer};
use super::field_set::FieldSet;
use super::merge::{merge, prune};
use super::typing::Type;

/// Everything that an apply depends on.
pub(crate) struct Application<'a> {
    /// Type of the object.
    pub(crate) object: Type<'a>,
    pub(crate) live: &'a Value,
    /// What the manager wants, without what may not be applied here.
    pub(crate) config: &'a Value,
    /// Who owns what of the live object.
    pub(crate) entries: Vec<Entry>,
    pub(crate) writer: Writer<'a>,
    /// Whether fields of others may be taken.
    pub(crate) force: bool,
}

/// What an apply makes of the object and of its owners.
pub(crate) struct Applied {
    pub(crate) object: Value,
    pub(crate) entries: Vec<Entry>,
}

/// The object with the config applied, or what stands against it.
pub(crate) fn apply(application: Application<'_>) -> Result<Applied, Conflicts> {
    let Application { object: object_type, live, config, mut entries, writer, force } = application;
    let mut object = merge(object_type, live.clone(), config);
    let own = fields_of_config(object_type, config);
    let (mine, mut others): (Vec<Entry>, Vec<Entry>) =
        entries.drain(..).partition(|entry| entry.is_of(&writer));
    if let Some(last) = mine.first() {
        let mut kept = own.clone();
        for other in &others {
            kept.add(&other.fields);
        }
        prune(object_type, &mut object, &last.fields, &kept);
    }
    let changes = changes(object_type, live, &object);
    let mut conflicts = Conflicts::default();
    for other in &mut others {
        let conflict = other.fields.common(&changes.taken);
        if !conflict.is_empty() {
            other.fields.remove(&conflict);
            conflicts.add(other.title(), conflict);
        }
        other.fields.remove(&changes.removed);
    }
    if !force && !conflicts.is_empty() {
        return Err(conflicts);
    }
    others.retain(|entry| !entry.fields.is_empty());
    if !own.is_empty() {
        others.push(Entry::new(&writer, own));
    }
    Ok(Applied { object, entries: others })
}

/// The fields that a config would own.
pub(super) fn owned_by(object: Type<'_>, config: &Value) -> FieldSet {
    fields_of_config(object, config)
}
