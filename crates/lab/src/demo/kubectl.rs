//! What kubectl would do and print, with the lab's own client.

use anyhow::{Context, bail};
use http::Request;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{AttachParams, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::DynamicObject;
use kube::{Api, Client, ResourceExt};
use serde_json::Value;
use tokio::io::AsyncReadExt;

use crate::install::api_of;

const AS_TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
/// How kubectl separates columns.
const GAP: &str = "   ";

/// A client that answers in kubectl's words.
pub(super) struct Kubectl {
    pub(super) client: Client,
}

/// What a command in a pod came to.
pub(super) struct Executed {
    pub(super) stdout: String,
    pub(super) stderr: String,
    pub(super) succeeded: bool,
}

impl Kubectl {
    /// `kubectl get`: the server's table of a path such as `/api/v1/nodes`.
    pub(super) async fn get(&self, path: &str, wide: bool, namespaces: bool) -> anyhow::Result<String> {
        let request =
            Request::get(path).header("Accept", AS_TABLE).body(Vec::new()).context("make a request")?;
        let table: Value = self.client.request(request).await.with_context(|| format!("get {path}"))?;
        Ok(render(&table, wide, namespaces))
    }

    /// `kubectl get -o yaml`.
    pub(super) async fn yaml(&self, path: &str) -> anyhow::Result<String> {
        let mut object = self.json(path).await?;
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
        serde_saphyr::to_string(&object).context("write YAML")
    }

    /// An object as it is.
    pub(super) async fn json(&self, path: &str) -> anyhow::Result<Value> {
        let request = Request::get(path).body(Vec::new()).context("make a request")?;
        self.client.request(request).await.with_context(|| format!("get {path}"))
    }

    /// `kubectl apply -f -`, of new objects.
    pub(super) async fn apply(&self, manifest: &str) -> anyhow::Result<String> {
        let object: DynamicObject = serde_saphyr::from_str(manifest).context("read a manifest")?;
        let types = object.types.clone().context("a manifest without kind")?;
        let api = api_of(&self.client, &types, object.namespace().as_deref())?;
        let made = api.create(&PostParams::default(), &object).await.context("apply")?;
        let kind = types.kind.to_lowercase();
        let group = types.api_version.split_once('/').map_or(String::new(), |(group, _)| format!(".{group}"));
        Ok(format!("{kind}{group}/{} created", made.name_any()))
    }

    /// `kubectl label node`.
    pub(super) async fn label_node(&self, node: &str, label: (&str, &str)) -> anyhow::Result<String> {
        let api: Api<k8s_openapi::api::core::v1::Node> = Api::all(self.client.clone());
        let patch = serde_json::json!({"metadata": {"labels": {label.0: label.1}}});
        api.patch(node, &PatchParams::default(), &Patch::Merge(patch)).await.context("label the node")?;
        Ok(format!("node/{node} labeled"))
    }

    /// `kubectl delete`, of an object of a custom kind.
    pub(super) async fn delete(&self, path: &str, shown: &str) -> anyhow::Result<String> {
        let body = serde_json::to_vec(&DeleteParams::background()).context("make a request")?;
        let request = Request::delete(path)
            .header("Content-Type", "application/json")
            .body(body)
            .context("make a request")?;
        let _: Value = self.client.request(request).await.with_context(|| format!("delete {path}"))?;
        Ok(format!("{shown} deleted"))
    }

    /// The pods of an application.
    pub(super) async fn pods(&self, namespace: &str, selector: &str) -> anyhow::Result<Vec<Pod>> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        Ok(api.list(&ListParams::default().labels(selector)).await.context("list pods")?.items)
    }

    /// `kubectl exec`.
    pub(super) async fn exec(&self, pod: &Pod, command: &[&str]) -> anyhow::Result<Executed> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        let params = AttachParams::default().stdin(false).stdout(true).stderr(true);
        let mut process = api.exec(&pod.name_any(), command.to_vec(), &params).await.context("exec")?;
        let (mut stdout, mut stderr) = (String::new(), String::new());
        let (out, err) = (process.stdout(), process.stderr());
        let read_out = async {
            if let Some(mut out) = out {
                out.read_to_string(&mut stdout).await.ok();
            }
        };
        let read_err = async {
            if let Some(mut err) = err {
                err.read_to_string(&mut stderr).await.ok();
            }
        };
        let status = process.take_status();
        tokio::join!(read_out, read_err);
        let status = match status {
            Some(status) => status.await,
            None => bail!("exec ended without a status"),
        };
        let succeeded = status.is_some_and(|status| status.status.as_deref() == Some("Success"));
        Ok(Executed { stdout, stderr, succeeded })
    }
}

/// Prints a table as kubectl does.
fn render(table: &Value, wide: bool, namespaces: bool) -> String {
    let definitions = table.get("columnDefinitions").and_then(Value::as_array).cloned().unwrap_or_default();
    let shown: Vec<usize> = definitions
        .iter()
        .enumerate()
        .filter(|(_, column)| wide || column.get("priority").and_then(Value::as_i64).unwrap_or(0) == 0)
        .map(|(index, _)| index)
        .collect();
    let title = |index: &usize| {
        let name = definitions.get(*index).and_then(|column| column.get("name")).and_then(Value::as_str);
        name.unwrap_or_default().to_uppercase()
    };
    let first = |text: String| if namespaces { vec![text] } else { Vec::new() };
    let mut lines = vec![[first("NAMESPACE".to_string()), shown.iter().map(title).collect()].concat()];
    for row in table.get("rows").and_then(Value::as_array).into_iter().flatten() {
        let namespace = row.pointer("/object/metadata/namespace").and_then(Value::as_str).unwrap_or_default();
        let cell = |index: &usize| match row.get("cells").and_then(|cells| cells.get(*index)) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        lines.push([first(namespace.to_string()), shown.iter().map(cell).collect()].concat());
    }
    if lines.len() == 1 {
        return "No resources found".to_string();
    }
    aligned(&lines)
}

fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|c| c.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for line in lines {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join(GAP).trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_table_looks_like_kubectls() {
        let table = json!({
            "columnDefinitions": [
                {"name": "Name", "priority": 0}, {"name": "egressNode", "priority": 0}, {"name": "IP", "priority": 1},
            ],
            "rows": [
                {"cells": ["test", null, "10.0.0.1"], "object": {"metadata": {"namespace": "default"}}},
                {"cells": ["a-longer-one", "worker-node-1", "10.0.0.2"], "object": {"metadata": {"namespace": "x"}}},
            ],
        });
        let expected = "NAMESPACE   NAME           EGRESSNODE\n\
                        default     test\n\
                        x           a-longer-one   worker-node-1\n";
        assert_eq!(render(&table, false, true), expected);
        assert!(render(&table, true, false).lines().next().is_some_and(|line| line.ends_with("IP")));
    }
}
