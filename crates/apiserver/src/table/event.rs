//! The columns of events. Their name says nothing to a reader, so it comes last.

use jiff::Timestamp;
use serde_json::Value;

use super::age::age_cell;
use super::column::{Spec, count, name, text};

pub(super) const COLUMNS: &[Spec] = &[
    ("Last Seen", "string", 0, "Time since it happened last."),
    ("Type", "string", 0, "Normal or Warning."),
    ("Reason", "string", 0, "Short reason, for machines."),
    ("Object", "string", 0, "What it happened to."),
    ("Subobject", "string", 1, "The part of the object it happened to."),
    ("Source", "string", 1, "Who reported it, and from where."),
    ("Message", "string", 0, "What happened."),
    ("First Seen", "string", 1, "Time since it happened first."),
    ("Count", "string", 1, "How often it happened."),
    ("Name", "string", 1, "Name of the event."),
];

pub(super) fn cells(event: &Value, now: Timestamp) -> Vec<Value> {
    let field = |old: &str, new: &str| text(event, old).or_else(|| text(event, new));
    let event_time = text(event, "/eventTime");
    let first_seen = field("/firstTimestamp", "/deprecatedFirstTimestamp").or(event_time);
    let last_seen = text(event, "/series/lastObservedTime")
        .or_else(|| field("/lastTimestamp", "/deprecatedLastTimestamp"))
        .or(first_seen);
    let occurrences =
        [count(event, "/series/count"), count(event, "/count"), count(event, "/deprecatedCount")];
    let occurrences = occurrences.into_iter().find(|count| *count > 0).unwrap_or(1);
    let kind = field("/involvedObject/kind", "/regarding/kind").unwrap_or_default().to_lowercase();
    let object = match field("/involvedObject/name", "/regarding/name") {
        Some(name) => format!("{kind}/{name}"),
        None => kind,
    };
    let component = field("/source/component", "/deprecatedSource/component")
        .or_else(|| field("/reportingComponent", "/reportingController"))
        .unwrap_or_default();
    let host = field("/source/host", "/deprecatedSource/host").or_else(|| text(event, "/reportingInstance"));
    vec![
        age_cell(last_seen, now).into(),
        text(event, "/type").unwrap_or_default().into(),
        text(event, "/reason").unwrap_or_default().into(),
        object.into(),
        field("/involvedObject/fieldPath", "/regarding/fieldPath").unwrap_or_default().into(),
        host.map_or_else(|| component.to_owned(), |host| format!("{component}, {host}")).into(),
        field("/message", "/note").unwrap_or_default().trim().into(),
        age_cell(first_seen, now).into(),
        occurrences.into(),
        name(event),
    ]
}
