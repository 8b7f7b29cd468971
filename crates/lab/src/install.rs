//! Puts controller, agents and their custom resources into a cluster, as a package manager would.

use anyhow::{Context, bail};
use kube::api::{ApiResource, DynamicObject, PostParams, TypeMeta};
use kube::core::GroupVersionKind;
use kube::{Api, Client, ResourceExt};
use serde_json::Value;

/// The CRD manifests that are generated from the API types.
const CRDS: [&str; 8] = [
    include_str!(
        "../../../charts/egressgateway/crds/egressgateway.spidernet.io_egressclusterendpointslices.yaml"
    ),
    include_str!("../../../charts/egressgateway/crds/egressgateway.spidernet.io_egressclusterinfos.yaml"),
    include_str!("../../../charts/egressgateway/crds/egressgateway.spidernet.io_egressclusterpolicies.yaml"),
    include_str!("../../../charts/egressgateway/crds/egressgateway.spidernet.io_egressendpointslices.yaml"),
    include_str!("../../../charts/egressgateway/crds/egressgateway.spidernet.io_egressgateways.yaml"),
    include_str!("../../../charts/egressgateway/crds/egressgateway.spidernet.io_egresspolicies.yaml"),
    include_str!("../../../charts/egressgateway/crds/egressgateway.spidernet.io_egressportleases.yaml"),
    include_str!("../../../charts/egressgateway/crds/egressgateway.spidernet.io_egresstunnels.yaml"),
];
const MANIFEST: &str = include_str!("../manifests/egressgateway.yaml");

/// Creates everything.
pub(crate) async fn install(client: &Client) -> anyhow::Result<()> {
    for manifest in CRDS {
        create_all(client, manifest).await?;
    }
    create_all(client, MANIFEST).await
}

/// Creates each object of a manifest of several YAML documents.
pub(crate) async fn create_all(client: &Client, manifest: &str) -> anyhow::Result<()> {
    let options = serde_saphyr::Options::default();
    let documents: Vec<Value> =
        serde_saphyr::from_multiple_with_options(manifest, options).context("read a manifest")?;
    for document in documents {
        create(client, document).await?;
    }
    Ok(())
}

async fn create(client: &Client, document: Value) -> anyhow::Result<()> {
    let object: DynamicObject = serde_json::from_value(document).context("read a manifest's object")?;
    let Some(types) = object.types.clone() else { bail!("a manifest's object has no kind") };
    let api = api_of(client, &types, object.namespace().as_deref())?;
    let what = format!("create {} {}", types.kind, object.name_any());
    match api.create(&PostParams::default(), &object).await {
        Ok(_) => Ok(()),
        Err(error) => Err(error).context(what),
    }
}

/// Where objects of a kind are found.
pub(crate) fn api_of(
    client: &Client,
    types: &TypeMeta,
    namespace: Option<&str>,
) -> anyhow::Result<Api<DynamicObject>> {
    let kind = GroupVersionKind::try_from(types).context("read an object's kind")?;
    let resource = ApiResource::from_gvk(&kind);
    Ok(match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_manifests_can_be_read() {
        for manifest in CRDS.iter().chain([&MANIFEST]) {
            let documents: Vec<Value> = serde_saphyr::from_multiple(manifest).expect("YAML");
            assert!(documents.iter().all(|document| document.get("kind").is_some()));
        }
    }
}
