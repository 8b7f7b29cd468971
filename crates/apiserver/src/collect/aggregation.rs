//! Cluster roles that gather the rules of others.

use serde_json::{Value, json};

use crate::auth::roles::GROUP;
use crate::meta;
use crate::resource::GroupResource;
use crate::selector::LabelSelector;
use crate::store::{Context, PatchType, Store, Subresource, Target, WriteOptions};

/// Owns the rules of such roles.
const MANAGER: &str = "clusterrole-aggregation-controller";

impl Store {
    /// Brings the gathered rules up to date; what changes by it may be gathered by others in the next round.
    pub(super) fn aggregate_roles(&mut self, ctx: &mut Context<'_>) {
        if !std::mem::take(&mut self.collector.roles_changed) {
            return;
        }
        let resource = GroupResource::new(GROUP, "clusterroles");
        let Some(info) = self.registry().stored(&resource).cloned() else { return };
        let roles = || self.tables.get(&resource).into_iter().flat_map(|table| table.objects.values());
        let all: Vec<&Value> = roles().map(|entry| &*entry.object).collect();
        let due: Vec<(String, Vec<Value>)> = all
            .iter()
            .filter_map(|role| {
                let gathered = gathered(role, &all)?;
                let own = role.get("rules").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
                (own != gathered).then(|| (meta::name(role).to_owned(), gathered))
            })
            .collect();
        for (name, rules) in due {
            let config = json!({
                "apiVersion": info.api_version(), "kind": info.gvk.kind,
                "metadata": {"name": name}, "rules": rules,
            });
            let target = Target { resource: info.clone(), namespace: None, name };
            let options = WriteOptions {
                field_manager: Some(MANAGER.to_owned()),
                force: true,
                ..WriteOptions::default()
            };
            let applied = self.patch(ctx, &target, Subresource::Main, PatchType::Apply, config, &options);
            if let Err(error) = applied {
                tracing::warn!(role = target.name, %error, "a cluster role's rules are not gathered");
            }
        }
    }
}

/// The rules that a role gathers, each once; `None` if it gathers none.
fn gathered(role: &Value, all: &[&Value]) -> Option<Vec<Value>> {
    let selectors = role.pointer("/aggregationRule/clusterRoleSelectors")?.as_array()?;
    let mut rules: Vec<Value> = Vec::new();
    for selector in selectors.iter().filter_map(LabelSelector::from_object) {
        let selected = all.iter().filter(|other| meta::name(other) != meta::name(role));
        for other in selected.filter(|other| selector.matches(other)) {
            for rule in other.get("rules").and_then(Value::as_array).into_iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    Some(rules)
}
