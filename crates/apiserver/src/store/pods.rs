//! Binding pods to nodes, and evicting them.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::builtin::conditions;
use crate::meta;
use crate::selector::LabelSelector;
use crate::status_error::StatusError;
use crate::store::objects::Store;
use crate::store::{Context, DeleteOptions, Target, WriteOptions};

impl Store {
    /// `POST pods/N/binding`: puts a pod on a node. The answer is a `Status`.
    pub fn bind(
        &mut self,
        ctx: &mut Context<'_>,
        target: &Target,
        binding: &Value,
        options: &WriteOptions,
    ) -> Result<Value, StatusError> {
        let node = binding.pointer("/target/name").and_then(Value::as_str).unwrap_or_default().to_owned();
        if node.is_empty() {
            return Err(StatusError::bad_request("target.name is required"));
        }
        let pod = Self::present(&target.resource, self.find(target)?);
        if meta::is_deleting(&pod) {
            let why = format!("pod {} is being deleted, cannot be assigned to a host", target.name);
            return Err(StatusError::conflict(&target.resource, &target.name, &why));
        }
        let bound = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default();
        if !bound.is_empty() {
            let why = format!("pod {} is already assigned to node {bound:?}", target.name);
            return Err(StatusError::conflict(&target.resource, &target.name, &why));
        }
        let mut new = (*pod).clone();
        let map = meta::map_of(&mut new);
        meta::map_mut(map, "spec").insert("nodeName".to_owned(), Value::from(node));
        let condition = json!({"type": "PodScheduled", "status": "True"});
        conditions::set(meta::map_mut(map, "status"), condition, ctx.now);
        if !options.dry_run {
            self.commit(&Arc::clone(&target.resource), new, ctx.now);
        }
        Ok(success())
    }

    /// `POST pods/N/eviction`: deletes a pod unless its disruption budget forbids it. The answer is a `Status`.
    pub fn evict(
        &mut self,
        ctx: &mut Context<'_>,
        target: &Target,
        eviction: &Value,
        options: &WriteOptions,
    ) -> Result<Value, StatusError> {
        let pod = Arc::clone(&self.find(target)?.object);
        let mut delete = DeleteOptions::from_json(eviction.get("deleteOptions").unwrap_or(&Value::Null))?;
        delete.dry_run |= options.dry_run;
        let phase = pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
        let terminal =
            phase == "Succeeded" || phase == "Failed" || phase == "Pending" || meta::is_deleting(&pod);
        if !terminal {
            self.spend_disruption(ctx, &pod, delete.dry_run)?;
        }
        self.delete(ctx, target, &delete)?;
        Ok(success())
    }

    /// Counts one allowed disruption down in the budget that covers the pod.
    fn spend_disruption(
        &mut self,
        ctx: &mut Context<'_>,
        pod: &Value,
        dry_run: bool,
    ) -> Result<(), StatusError> {
        let Some(info) = self.registry.get("policy", "v1", "poddisruptionbudgets").cloned() else {
            return Ok(());
        };
        let Some(table) = self.table(&info) else {
            return Ok(());
        };
        let covering = table
            .range(Some(meta::namespace(pod)))
            .map(|(_, entry)| Arc::clone(&entry.object))
            .find(|budget| {
                let selector = budget.pointer("/spec/selector").and_then(LabelSelector::from_object);
                selector.is_some_and(|selector| selector.matches(pod))
            });
        let Some(budget) = covering else { return Ok(()) };
        let allowed = budget.pointer("/status/disruptionsAllowed").and_then(Value::as_i64).unwrap_or(0);
        if allowed <= 0 {
            let name = meta::name(&budget);
            let needed = budget.pointer("/status/desiredHealthy").and_then(Value::as_i64).unwrap_or(0);
            let healthy = budget.pointer("/status/currentHealthy").and_then(Value::as_i64).unwrap_or(0);
            let cause = format!(
                "The disruption budget {name} needs {needed} healthy pods and has {healthy} currently"
            );
            let message = "Cannot evict pod as it would violate the pod's disruption budget.";
            return Err(StatusError::new(429, "TooManyRequests", message).with_cause(
                "DisruptionBudget",
                cause,
                "",
            ));
        }
        if !dry_run {
            let mut new = (*budget).clone();
            meta::map_mut(meta::map_of(&mut new), "status")
                .insert("disruptionsAllowed".to_owned(), Value::from(allowed - 1));
            self.put(&info.group_resource(), new, ctx.now);
        }
        Ok(())
    }
}

fn success() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})
}
