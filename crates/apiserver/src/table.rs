//! Tables: the columns and cells that `kubectl get` prints.
//!
//! A client that accepts `as=Table` gets rows made here instead of objects. Built-in kinds have their own columns
//! (`pod`, `workload`, …); custom kinds have those of their `additionalPrinterColumns`, and a kind without either
//! has Name and Age. Nothing here knows the store or HTTP.

pub mod age;
mod cluster;
mod column;
mod event;
mod json_path;
mod network;
mod pod;
mod workload;

pub(crate) use column::partial_object_metadata;
pub use column::{Column, IncludeObject};
pub use json_path::{JsonPath, JsonPathError};

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::resource::{PrinterColumn, ResourceInfo};
use column::{Cells, CustomColumn};

/// Makes the table rows of one resource.
#[derive(Debug, Clone)]
pub struct Printer {
    columns: Vec<Column>,
    cells: Cells,
}

impl Printer {
    /// The printer of a built-in kind; Name and Age for kinds without columns of their own.
    pub fn builtin(group: &str, kind: &str) -> Self {
        let (columns, cells): (&[column::Spec], column::CellsOf) = match (group, kind) {
            ("", "Pod") => (pod::COLUMNS, pod::cells),
            ("apps", "Deployment") => (workload::DEPLOYMENT, workload::deployment),
            ("apps", "ReplicaSet") => (workload::REPLICA_SET, workload::replica_set),
            ("apps", "DaemonSet") => (workload::DAEMON_SET, workload::daemon_set),
            ("apps", "StatefulSet") => (workload::STATEFUL_SET, workload::stateful_set),
            ("batch", "Job") => (workload::JOB, workload::job),
            ("", "Node") => (cluster::NODE, cluster::node),
            ("", "Namespace") => (cluster::NAMESPACE, cluster::namespace),
            ("", "Secret") => (cluster::SECRET, cluster::secret),
            ("", "ConfigMap") => (cluster::CONFIG_MAP, cluster::config_map),
            ("", "ServiceAccount") => (cluster::SERVICE_ACCOUNT, cluster::service_account),
            ("coordination.k8s.io", "Lease") => (cluster::LEASE, cluster::lease),
            ("rbac.authorization.k8s.io", "Role" | "ClusterRole")
            | ("apiextensions.k8s.io", "CustomResourceDefinition") => {
                (cluster::CREATED_AT, cluster::created_at)
            }
            ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => {
                (cluster::BINDING, cluster::binding)
            }
            ("", "Service") => (network::SERVICE, network::service),
            ("discovery.k8s.io", "EndpointSlice") => (network::ENDPOINT_SLICE, network::endpoint_slice),
            ("", "Event") | ("events.k8s.io", "Event") => (event::COLUMNS, event::cells),
            _ => (column::NAME_AND_AGE, column::name_and_age),
        };
        Self { columns: columns.iter().map(Column::from).collect(), cells: Cells::Builtin(cells) }
    }

    /// The printer of a custom kind: Name and the version's `additionalPrinterColumns`, or Name and Age without any.
    pub fn custom(printer_columns: &[PrinterColumn]) -> Self {
        if printer_columns.is_empty() {
            return Self::builtin("", "");
        }
        let columns =
            std::iter::once(Column::from(&column::NAME)).chain(printer_columns.iter().map(Column::from));
        Self {
            columns: columns.collect(),
            cells: Cells::Custom(printer_columns.iter().map(CustomColumn::from).collect()),
        }
    }

    /// The printer of a served resource.
    pub fn of(info: &ResourceInfo) -> Self {
        if info.builtin {
            Self::builtin(&info.gvk.group, &info.gvk.kind)
        } else {
            Self::custom(&info.printer_columns)
        }
    }

    /// The `columnDefinitions` of the table.
    pub fn column_definitions(&self) -> Value {
        self.columns.iter().map(Column::to_json).collect()
    }

    /// One row; `now` is what ages are counted to.
    pub fn row(&self, object: &Value, include: IncludeObject, now: Timestamp) -> Value {
        let cells = match &self.cells {
            Cells::Builtin(cells) => cells(object, now),
            Cells::Custom(columns) => {
                let name = column::text(object, "/metadata/name").unwrap_or_default();
                let custom = columns.iter().map(|column| column.cell(object, now));
                std::iter::once(name.into()).chain(custom).collect()
            }
        };
        json!({ "cells": cells, "object": include.embed(object) })
    }

    /// A whole table; `metadata` is that of the list, or of nothing but a resource version for a single object.
    pub fn table<'a>(
        &self,
        metadata: Value,
        objects: impl IntoIterator<Item = &'a Value>,
        include: IncludeObject,
        now: Timestamp,
    ) -> Value {
        let rows: Vec<Value> = objects.into_iter().map(|object| self.row(object, include, now)).collect();
        json!({
            "kind": "Table",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": metadata,
            "columnDefinitions": self.column_definitions(),
            "rows": rows,
        })
    }
}

#[cfg(test)]
mod tests;
