//! Puts controller, agents and their custom resources into a cluster, as a package manager would.

use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DynamicObject, ListParams, PostParams, TypeMeta};
use kube::core::GroupVersionKind;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// A CRD that is not served by then never will be.
const SERVED_DEADLINE: Duration = Duration::from_secs(30);
/// Webhooks that do not answer by then never will.
const ADMITTED_DEADLINE: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
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
/// Who may do what, generated from what the programs declare.
const ROLES: &str = include_str!("../manifests/rbac.yaml");
/// What roles can't say.
const ADMISSION: &str = include_str!("../manifests/agent-admission.yaml");
const MANIFEST: &str = include_str!("../manifests/egressgateway.yaml");

/// How the manifest turns IPv6 off, and what turns it on.
const IPV6: [&str; 2] = ["enableIPv6: false", "enableIPv6: true"];

/// Creates everything.
pub(crate) async fn install(client: &Client, ipv6: bool) -> anyhow::Result<()> {
    for manifest in CRDS {
        create_all(client, manifest).await?;
    }
    wait_until_served(client).await?;
    create_all(client, ROLES).await?;
    create_all(client, ADMISSION).await?;
    let [off, on] = IPV6;
    let manifest = if ipv6 { MANIFEST.replace(off, on) } else { MANIFEST.to_string() };
    create_all(client, &manifest).await
}

/// Waits until the API server gets an answer of the webhooks, by something that is only tried. Until it has heard of
/// endpoints and certificate it refuses every gateway and policy.
pub(crate) async fn wait_until_admitted(client: &Client) -> anyhow::Result<()> {
    let types =
        TypeMeta { api_version: api::names::API_VERSION.to_string(), kind: "EgressGateway".to_string() };
    let gateways = api_of(client, &types, None)?;
    let selector = json!({"matchLabels": {"kubernetes.io/os": "none"}});
    let probe = json!({
        "apiVersion": types.api_version, "kind": types.kind, "metadata": {"name": "admission-probe"},
        "spec": {"nodeSelector": {"selector": selector}},
    });
    let probe: DynamicObject = serde_json::from_value(probe).context("make a gateway to try")?;
    let only_try = PostParams { dry_run: true, ..PostParams::default() };
    let deadline = Instant::now() + ADMITTED_DEADLINE;
    loop {
        let Err(error) = gateways.create(&only_try, &probe).await else { return Ok(()) };
        if Instant::now() >= deadline {
            return Err(error).context("the webhooks do not answer");
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// A new resource is served some moments after its definition was created.
async fn wait_until_served(client: &Client) -> anyhow::Result<()> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let deadline = Instant::now() + SERVED_DEADLINE;
    loop {
        let listed = definitions.list(&ListParams::default()).await.context("list the CRDs")?;
        let Some(missing) = listed.items.iter().find(|one| !is_served(one)) else { return Ok(()) };
        if Instant::now() >= deadline {
            bail!("CRD {} is not served: {:?}", missing.name_any(), missing.status);
        }
        sleep(LOOK_AGAIN).await;
    }
}

fn is_served(definition: &CustomResourceDefinition) -> bool {
    let conditions =
        definition.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Established" && condition.status == "True")
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
    fn the_manifest_says_in_one_place_that_ipv6_is_off() {
        assert_eq!(MANIFEST.matches(IPV6[0]).count(), 1);
    }

    #[test]
    fn all_manifests_can_be_read() {
        for manifest in CRDS.iter().chain([&ROLES, &ADMISSION, &MANIFEST]) {
            let documents: Vec<Value> = serde_saphyr::from_multiple(manifest).expect("YAML");
            assert!(documents.iter().all(|document| document.get("kind").is_some()));
        }
    }
}
