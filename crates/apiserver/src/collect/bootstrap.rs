//! What exists from the start.

use serde_json::json;

use crate::store::{Context, Store, WriteOptions};

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

impl Store {
    /// Creates the default namespaces.
    pub(crate) fn bootstrap(&mut self, ctx: &mut Context<'_>) {
        let Some(info) = self.registry().get("", "v1", "namespaces").cloned() else {
            return;
        };
        for name in NAMESPACES {
            let _ = self.create(
                ctx,
                &info,
                None,
                json!({"metadata": {"name": name}}),
                &WriteOptions::default(),
            );
        }
    }
}
