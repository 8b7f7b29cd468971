//! The scale subresource: one replica count, whatever the kind.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::meta;
use crate::resource::ScalePaths;
use crate::selector::LabelSelector;
use crate::status_error::{FieldError, StatusError};
use crate::store::applying::Owners;
use crate::store::objects::Store;
use crate::store::{Context, Subresource, Target, WriteOptions, Written};

fn steps(path: &str) -> impl Iterator<Item = &str> {
    path.split('.').filter(|step| !step.is_empty())
}

fn read<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    steps(path).try_fold(object, |node, step| node.get(step)).filter(|value| !value.is_null())
}

fn write(object: &mut Value, path: &str, value: Value) {
    let steps: Vec<&str> = steps(path).collect();
    let Some((last, parents)) = steps.split_last() else {
        return;
    };
    let mut node = meta::map_of(object);
    for step in parents {
        node = meta::map_mut(node, step);
    }
    node.insert((*last).to_owned(), value);
}

fn selector_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        object => LabelSelector::from_object(object).map(|selector| selector.to_string()),
    }
}

impl Store {
    fn scale_paths(target: &Target) -> Result<&ScalePaths, StatusError> {
        target.resource.scale.as_ref().ok_or_else(StatusError::page_not_found)
    }

    /// The `Scale` of an object.
    pub(super) fn scale_of(&self, target: &Target, object: &Value) -> Result<Value, StatusError> {
        let paths = Self::scale_paths(target)?;
        let count = |path: &str| read(object, path).and_then(Value::as_i64).unwrap_or(0);
        let mut status = Map::new();
        status.insert("replicas".to_owned(), Value::from(count(&paths.status_replicas)));
        let selector = paths.selector.as_deref().and_then(|path| read(object, path)).and_then(selector_text);
        if let Some(selector) = selector {
            status.insert("selector".to_owned(), Value::from(selector));
        }
        let mut metadata = Map::new();
        for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
            let text = meta::text(object, key);
            if !text.is_empty() {
                metadata.insert(key.to_owned(), Value::from(text));
            }
        }
        Ok(json!({
            "kind": "Scale",
            "apiVersion": "autoscaling/v1",
            "metadata": metadata,
            "spec": {"replicas": count(&paths.spec_replicas)},
            "status": status,
        }))
    }

    /// Puts the replica count of a `Scale` where the kind has it.
    pub(super) fn write_replicas(
        target: &Target,
        object: &mut Value,
        scale: &Value,
    ) -> Result<(), StatusError> {
        let replicas = scale.pointer("/spec/replicas").cloned().unwrap_or(Value::from(0));
        let valid = replicas.as_i64().is_some_and(|count| (0..=i64::from(i32::MAX)).contains(&count));
        if !valid {
            let error = FieldError::invalid("spec.replicas", &replicas, "must be greater than or equal to 0");
            return Err(StatusError::invalid_kind("autoscaling", "Scale", &target.name, &[error]));
        }
        write(object, &Self::scale_paths(target)?.spec_replicas, replicas);
        Ok(())
    }

    /// Writes the replica count of a `Scale` to the object that it belongs to.
    pub(super) fn update_scale(
        &mut self,
        ctx: &mut Context<'_>,
        target: &Target,
        scale: &Value,
        options: &WriteOptions,
    ) -> Result<Written, StatusError> {
        let old = Self::present(&target.resource, self.find(target)?);
        let mut new = (*old).clone();
        Self::write_replicas(target, &mut new, scale)?;
        let metadata = meta::metadata_mut(&mut new);
        for key in ["resourceVersion", "uid"] {
            let given = meta::text(scale, key);
            if !given.is_empty() {
                metadata.insert(key.to_owned(), Value::from(given));
            }
        }
        let object = self.replace(ctx, target, Subresource::Scale, &old, new, Owners::Changed, options)?;
        let scale = self.scale_of(target, &object)?;
        Ok(Written { object: Arc::new(scale), warnings: Vec::new(), created: false })
    }
}
