//! What stands against an apply, in the words that clients print.

use std::collections::BTreeMap;

use super::field_set::FieldSet;
use crate::status_error::StatusError;

/// Fields that others own, by the owner's title.
#[derive(Debug, Default)]
pub(crate) struct Conflicts(BTreeMap<String, FieldSet>);

impl Conflicts {
    pub(super) fn add(&mut self, title: String, fields: FieldSet) {
        self.0.entry(title).or_default().add(&fields);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The conflicts that are about none of these fields.
    #[must_use]
    pub(crate) fn without(mut self, allowed: &FieldSet) -> Self {
        self.0.retain(|_, fields| {
            fields.remove(allowed);
            !fields.is_empty()
        });
        self
    }

    /// 409 with a cause for each field.
    pub(crate) fn into_error(self) -> StatusError {
        let paths: Vec<(&str, Vec<String>)> =
            self.0.iter().map(|(title, fields)| (title.as_str(), fields.paths())).collect();
        let count: usize = paths.iter().map(|(_, paths)| paths.len()).sum();
        let message = match paths.as_slice() {
            [(title, only)] if only.len() == 1 => {
                let path = only.first().map_or("", String::as_str);
                format!("Apply failed with 1 conflict: conflict with {title}: {path}")
            }
            several => {
                let mut lines = Vec::new();
                for (title, paths) in several {
                    lines.push(format!("conflicts with {title}:"));
                    lines.extend(paths.iter().map(|path| format!("- {path}")));
                }
                format!("Apply failed with {count} conflicts: {}", lines.join("\n"))
            }
        };
        let mut error = StatusError::new(409, "Conflict", message).with_details(Default::default());
        for (title, paths) in paths {
            for path in paths {
                error = error.with_cause("FieldManagerConflict", format!("conflict with {title}"), path);
            }
        }
        error
    }
}
