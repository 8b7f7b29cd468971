//! What a user sees: endpoint slices, and columns in kubectl.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::Scenario;
use crate::scene::Scene;
use crate::world::{GATEWAYS, PLAIN, World, text};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("endpoint_slices_list_the_pods_of_a_policy", slices),
    ("kubectl_shows_gateway_addresses_and_node", columns),
];

fn slices(world: &World) -> Result<()> {
    let scene = Scene::new(world, "slices")?;
    let pods = [scene.pod("one", PLAIN)?, scene.pod("two", GATEWAYS[0])?];
    scene.pod("three", GATEWAYS[1])?;
    scene.policy(
        "test",
        json!({
            "appliedTo": {"podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["one", "two"]}]}},
            "destSubnet": ["10.6.168.63/32"],
        }),
    )?;
    world.until("the slices list both pods and no other", || {
        let slices = world.list("EgressEndpointSlice", Some(scene.name))?;
        let ours = slices.iter().filter(|slice| {
            slice.labels().get(api::names::LABEL_POLICY_NAME).map(String::as_str) == Some("test")
        });
        let mut found: Vec<(String, String, String)> = ours
            .flat_map(|slice| {
                slice.data.get("endpoints").and_then(Value::as_array).cloned().unwrap_or_default()
            })
            .map(|endpoint| {
                let field = |pointer: &str| text(&endpoint, pointer).to_owned();
                (field("/pod"), field("/ipv4/0"), field("/node"))
            })
            .collect();
        found.sort();
        let expected: Vec<(String, String, String)> = ["one", "two"]
            .iter()
            .zip(&pods)
            .map(|(name, pod)| ((*name).to_owned(), pod.address.to_string(), pod.node.clone()))
            .collect();
        ensure!(found == expected, "they list {found:?}");
        Ok(())
    })
}

fn columns(world: &World) -> Result<()> {
    let kubectl = |arguments: &[&str]| {
        let output = Command::new("kubectl").args(arguments).env("KUBECONFIG", world.kubeconfig()).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    if kubectl(&["version", "--client"]).is_err() {
        println!("  SKIP: columns in kubectl: there is no kubectl");
        return Ok(());
    }
    let scene = Scene::new(world, "columns")?;
    let pod = scene.pod("app", PLAIN)?;
    scene.policy_in_force("app", &pod)?;
    let eip = scene.eip(0).to_string();
    let node = scene.carrier("test")?;
    let table = kubectl(&["get", "egresspolicy", "-A"])?;
    let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let header = lines.next().context("kubectl prints nothing")?;
    let known = ["NAMESPACE", "NAME", "GATEWAY", "IPV4", "IPV6", "EGRESSNODE", "READY", "REASON"];
    ensure!(header == known, "{header:?}");
    let row = lines.find(|row| row.first() == Some(&scene.name)).context("no row")?;
    // No IPv6 address: an empty column.
    let expected = [scene.name, "test", scene.name, eip.as_str(), node.as_str(), "True", "Assigned"];
    ensure!(row == expected, "{row:?}");
    let yaml = kubectl(&["get", "egressgateway", scene.name, "-o", "yaml"])?;
    ensure!(yaml.contains(&format!("ipv4DefaultEIP: {eip}")), "no default EIP in\n{yaml}");
    ensure!(yaml.contains(&format!("name: {node}")), "no node in\n{yaml}");
    Ok(())
}
