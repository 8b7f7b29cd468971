//! What the webhooks refuse and fill in, and what is refused where there are none.

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use kube::Resource;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};

use crate::Scenario;
use crate::scene::Scene;
use crate::world::{World, text};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("webhooks_refuse_with_field_value_and_fix", refuse),
    ("webhooks_fill_in_what_is_left_open", fill),
    ("without_webhooks_the_rules_of_the_schema_refuse", rules),
];

/// Name of both configurations.
const CONFIGURATION: &str = "egressgateway-controller";

fn gateway(pool: &str) -> Value {
    json!({
        "ippools": {"ipv4": [pool]},
        "nodeSelector": {"selector": {"matchLabels": {"e2e-gateway": "true"}}},
    })
}

fn refuse(world: &World) -> Result<()> {
    let scene = Scene::new(world, "admission")?;
    let taken = scene.eip(2);
    let duplicate = format!(
        "spec.ippools: Duplicate value: \"{taken}\": {taken} is also in the pool of EgressGateway `admission`"
    );
    for (told, spec) in [
        (duplicate.as_str(), gateway(&format!("{taken}-{}", scene.eip(3)))),
        (
            "spec.ippools.ipv4[0]: Invalid value: \"10.6.168.139-10.6.168.138\"",
            gateway("10.6.168.139-10.6.168.138"),
        ),
    ] {
        let object = json!({"metadata": {"name": "refused"}, "spec": spec});
        refused(told, world.create("EgressGateway", None, &object))?;
    }
    let pods = json!({"podSelector": {"matchLabels": {"app": "app"}}});
    for (told, more) in [
        ("spec.egressGatewayName: Not found: \"nobody\"", json!({"egressGatewayName": "nobody"})),
        ("spec.egressIP: Invalid value: \"10.6.168.250\"", json!({"egressIP": {"ipv4": "10.6.168.250"}})),
    ] {
        let mut spec = json!({"appliedTo": pods});
        if let (Value::Object(spec), Value::Object(more)) = (&mut spec, more) {
            spec.extend(more);
        }
        refused(told, scene.policy("refused", spec))?;
    }
    let told = "metadata.name: Forbidden: \"default\"";
    refused(told, world.delete("EgressClusterInfo", None, "default"))
}

fn fill(world: &World) -> Result<()> {
    let scene = Scene::new(world, "filled")?;
    let gateway = world.get("EgressGateway", None, scene.name)?;
    let default = text(&gateway, "/spec/ippools/ipv4DefaultEIP");
    ensure!(default == scene.eip(0).to_string(), "the default EIP is {default:?}");
    // Whatever else happens: a gateway is the cluster's default for this scene only.
    let set = |default: bool| {
        world.patch("EgressGateway", None, scene.name, &json!({"spec": {"clusterDefault": default}}))
    };
    set(true)?;
    let spec = json!({"appliedTo": {"podSelector": {"matchLabels": {"app": "app"}}}});
    let object = json!({"metadata": {"name": "filled"}, "spec": spec});
    let created = world.create("EgressClusterPolicy", None, &object);
    let filled = created.and_then(|()| world.get("EgressClusterPolicy", None, "filled"));
    let cleared = set(false).and(world.delete("EgressClusterPolicy", None, "filled"));
    let filled = filled?;
    cleared?;
    let named = text(&filled, "/spec/egressGatewayName");
    ensure!(named == scene.name, "its gateway is {named:?}");
    let egress = filled.pointer("/spec/egressIP").cloned().unwrap_or_default();
    ensure!(egress == json!({"allocatorPolicy": "default", "useNodeIP": false}), "its egressIP is {egress}");
    Ok(())
}

fn rules(world: &World) -> Result<()> {
    let scene = Scene::new(world, "rules")?;
    let selector = json!({"matchLabels": {"app": "app"}});
    without_webhooks(world, || {
        for (field, spec) in [
            (
                "spec.appliedTo",
                json!({"appliedTo": {"podSelector": selector, "podSubnet": ["10.244.0.0/16"]}}),
            ),
            (
                "spec.egressIP",
                json!({"appliedTo": {"podSelector": selector}, "egressIP": {"ipv4": "10.6.168.139", "useNodeIP": true}}),
            ),
        ] {
            refused(field, scene.policy("refused", spec))?;
        }
        scene.policy("kept", json!({"appliedTo": {"podSelector": selector}}))?;
        let other = json!({"spec": {"egressGatewayName": "other"}});
        refused("spec.egressGatewayName", world.patch("EgressPolicy", Some(scene.name), "kept", &other))
    })
}

/// Does something in a cluster that has no webhooks. They are back when this returns, and answer.
pub(crate) fn without_webhooks(world: &World, act: impl FnOnce() -> Result<()>) -> Result<()> {
    let validating = world.cluster_wide::<ValidatingWebhookConfiguration>();
    let mutating = world.cluster_wide::<MutatingWebhookConfiguration>();
    let mut before =
        (world.answered(validating.get(CONFIGURATION))?, world.answered(mutating.get(CONFIGURATION))?);
    for metadata in [before.0.meta_mut(), before.1.meta_mut()] {
        (metadata.resource_version, metadata.uid, metadata.managed_fields) = (None, None, None);
    }
    // As they were installed: the controller has to add its certificate again.
    before.0.webhooks.iter_mut().flatten().for_each(|hook| hook.client_config.ca_bundle = None);
    before.1.webhooks.iter_mut().flatten().for_each(|hook| hook.client_config.ca_bundle = None);
    world.answered(validating.delete(CONFIGURATION, &DeleteParams::default()))?;
    world.answered(mutating.delete(CONFIGURATION, &DeleteParams::default()))?;
    // No rule of the schema can tell what is wrong with it: the lab has no IPv6.
    let spec = json!({
        "ippools": {"ipv6": ["fd00::1"]},
        "nodeSelector": {"selector": {"matchLabels": {"e2e-gateway": "none"}}},
    });
    let object = json!({"metadata": {"name": "probe"}, "spec": spec});
    let probe = || world.create("EgressGateway", None, &object);
    let done = world
        .until("the API server asks no webhook", || {
            probe().and_then(|()| world.delete("EgressGateway", None, "probe"))
        })
        .and_then(|()| act());
    world.answered(validating.create(&PostParams::default(), &before.0))?;
    world.answered(mutating.create(&PostParams::default(), &before.1))?;
    world.until("the webhooks answer again", || match probe() {
        Err(error) if format!("{error:#}").contains("spec.ippools.ipv6: Invalid value") => Ok(()),
        Err(error) => Err(error),
        Ok(()) => {
            world.delete("EgressGateway", None, "probe")?;
            bail!("a bad gateway is admitted")
        }
    })?;
    done
}

fn refused(told: &str, done: Result<()>) -> Result<()> {
    let error = done.err().with_context(|| format!("not refused with {told}"))?;
    let text = format!("{error:#}");
    ensure!(text.contains(told), "instead of {told} it is refused with {text}");
    Ok(())
}
