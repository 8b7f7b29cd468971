//! Set-ups that are wrong, as a new user sees them: `kubectl get` and `kubectl describe` alone must tell what is the matter
//! and what helps. Those that need another lab (a tunnel subnet that is too small, a missing CRD, missing permissions) are in
//! the controller's suite.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::Scenario;
use crate::scene::Scene;
use crate::world::{PLAIN, World};

pub(crate) const SCENARIOS: &[Scenario] =
    &[("kubectl_alone_tells_what_is_wrong_with_a_broken_set_up", told_by_kubectl)];

/// A broken object, and what has to be seen of it.
struct Broken {
    resource: &'static str,
    name: &'static str,
    /// What `kubectl get` must show in its line
    column: &'static str,
    /// What `kubectl describe` must show: what is wrong, and what helps
    told: &'static [&'static str],
    /// Whether there is an event of it
    event: bool,
}

fn told_by_kubectl(world: &World) -> Result<()> {
    let kubectl = |arguments: &[&str]| -> Result<String> {
        let output =
            Command::new("kubectl").args(arguments).env("KUBECONFIG", world.kubeconfig()).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    if kubectl(&["version", "--client"]).is_err() {
        println!("  SKIP: what kubectl tells: there is no kubectl");
        return Ok(());
    }
    let scene = Scene::new(world, "broken")?;
    scene.pod("app", PLAIN)?;
    let selector = json!({"podSelector": {"matchLabels": {"app": "app"}}});
    let pods_of = |app: &str| json!({"podSelector": {"matchLabels": {"app": app}}});
    let gateway = |name: &str, pool: &str, label: Value| {
        let spec = json!({
            "ippools": {"ipv4": [pool]}, "nodeSelector": {"selector": {"matchLabels": label}},
        });
        world.create("EgressGateway", None, &json!({"metadata": {"name": name}, "spec": spec}))
    };
    gateway("broken-nodeless", "10.6.168.77", json!({"no-such": "label"}))?;
    // The objects are made one by one, and may be refused by who sees them first: then the refusal must tell the same.
    let mut seen = vec![
        Broken {
            resource: "egressgateway",
            name: "broken-nodeless",
            column: "NoGatewayNode",
            told: &["no node matches spec.nodeSelector", "label one or change the selector"],
            event: true,
        },
        Broken {
            resource: "egresspolicy",
            name: "nodeless",
            column: "NoGatewayNode",
            told: &["no node matches spec.nodeSelector of EgressGateway `broken-nodeless`"],
            event: true,
        },
        Broken {
            resource: "egresspolicy",
            name: "podless",
            column: "Assigned",
            told: &["SelectsNoPod", "no pod matches spec.appliedTo", "kubectl get pods --show-labels"],
            event: false,
        },
        Broken {
            resource: "egresspolicy",
            name: "exhausted",
            column: "PoolExhausted",
            told: &[
                "every IPv4 address of EgressGateway `broken` is in use",
                "add addresses to spec.ippools",
            ],
            event: true,
        },
    ];
    let nodeless = json!({"appliedTo": selector, "egressGatewayName": "broken-nodeless"});
    scene.policy("nodeless", nodeless)?;
    scene.policy("podless", json!({"appliedTo": pods_of("appp")}))?;
    for number in 0..4 {
        let single =
            json!({"appliedTo": pods_of("none"), "egressIP": {"ipv4": scene.eip(number).to_string()}});
        scene.policy(&format!("holder-{number}"), single)?;
    }
    for number in 0..4 {
        world.until("every address is in use", || scene.carrier(&format!("holder-{number}")).map(drop))?;
    }
    scene
        .policy("exhausted", json!({"appliedTo": pods_of("none"), "egressIP": {"allocatorPolicy": "rr"}}))?;

    let refusals = [
        Broken {
            resource: "egresspolicy",
            name: "wrong-name",
            column: "UnknownGateway",
            told: &["spec.egressGatewayName", "`brokne` does not exist", "create it or name another"],
            event: true,
        },
        Broken {
            resource: "egresspolicy",
            name: "outside",
            column: "OutsidePool",
            told: &["spec.egressIP", "10.6.168.250", "add it there or choose another"],
            event: true,
        },
        Broken {
            resource: "egressgateway",
            name: "broken-overlap",
            column: "PoolsOverlap",
            told: &[
                "spec.ippools",
                "also in the pool of EgressGateway `broken`",
                "take it out of one of them",
            ],
            event: true,
        },
    ];
    let made = [
        scene.policy("wrong-name", json!({"appliedTo": selector, "egressGatewayName": "brokne"})),
        scene.policy("outside", json!({"appliedTo": selector, "egressIP": {"ipv4": "10.6.168.250"}})),
        gateway("broken-overlap", &scene.eip(1).to_string(), json!({"e2e-gateway": "true"})),
    ];
    for (broken, made) in refusals.into_iter().zip(made) {
        match made {
            Ok(()) => seen.push(broken),
            Err(error) => {
                let text = format!("{error:#}");
                let all = broken.told.iter().all(|part| text.contains(part));
                ensure!(all, "{} is refused with {text}", broken.name);
            }
        }
    }
    let judged = seen.iter().try_for_each(|broken| {
        let Broken { resource, name, column, told, event } = broken;
        world.until(&format!("kubectl tells what is wrong with {name}"), || {
            let line = kubectl(&["get", resource, name, "--namespace", scene.name])?;
            ensure!(line.contains(column), "get says {line}");
            let text = kubectl(&["describe", resource, name, "--namespace", scene.name])?;
            let missing: Vec<_> = told.iter().filter(|part| !text.contains(**part)).collect();
            ensure!(missing.is_empty(), "describe does not say {missing:?}: {text}");
            let events = text.split("Events:").nth(1).context("describe shows no events")?;
            ensure!(!event || events.contains(column), "no event says {column}: {events}");
            Ok(())
        })
    });
    for name in ["broken-nodeless", "broken-overlap"] {
        if let Err(error) = world.delete("EgressGateway", None, name)
            && name == "broken-nodeless"
        {
            println!("  {name} is not removed: {error:#}");
        }
    }
    judged
}
