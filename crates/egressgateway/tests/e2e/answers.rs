//! Agents tell people what they do and why.

use std::io::{Read, Write};

use agent::debug::{Question, ask};
use anyhow::{Context, Result, ensure};

use crate::Scenario;
use crate::scene::Scene;
use crate::traffic;
use crate::world::{GATEWAYS, PLAIN, World};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("an_agent_tells_why_a_packet_leaves_as_it_does", why),
    ("an_agent_counts_what_leaves_with_each_eip", counted),
];

/// Where agents tell their metrics.
const METRICS: ([u8; 4], u16) = ([127, 0, 0, 1], 5811);

fn metrics(world: &World, node: &str) -> Result<String> {
    let mut stream = traffic::connect(&world.netns(node)?, METRICS.into())?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn counted(world: &World) -> Result<()> {
    let scene = Scene::new(world, "metrics")?;
    let pod = scene.pod("app", PLAIN)?;
    scene.policy_in_force("app", &pod)?;
    let eip = scene.eip(0);
    world.until("the packets are counted by EIP", || {
        let text = metrics(world, PLAIN)?;
        let value = |name: &str| -> Result<u64> {
            let start = format!("egressgateway_agent_{name}{{egress_ip=\"{eip}\"}} ");
            let line = text.lines().find_map(|line| line.strip_prefix(&start));
            Ok(line.with_context(|| format!("no {start}in\n{text}"))?.parse()?)
        };
        // A connection and its end are some packets, of 40 bytes at least.
        let (packets, bytes) = (value("egress_packets_total")?, value("egress_bytes_total")?);
        ensure!(packets >= 4 && bytes >= 40 * packets, "{packets} packets, {bytes} bytes");
        ensure!(value("egress_ports_leased")? >= 64 && value("egress_connections")? >= 1, "{text}");
        let policy = text.lines().find(|line| line.starts_with("egressgateway_agent_policy_info{"));
        let policy = policy.with_context(|| format!("no policy in\n{text}"))?;
        ensure!(
            text.contains(&format!("namespace=\"{0}\",policy=\"test\",egress_ip=\"{eip}\"", scene.name)),
            "{policy}"
        );
        Ok(())
    })
}

fn why(world: &World) -> Result<()> {
    let scene = Scene::new(world, "answers")?;
    let pod = scene.pod("app", PLAIN)?;
    scene.policy_in_force("app", &pod)?;
    let asked = |node: &str, question: &Question| world.netns(node)?.run(|| ask(question))?;
    let question = |destination: &str| -> Result<Question> {
        let pod = format!("{}/app", scene.name);
        Ok(Question::Why { pod, destination: destination.parse()?, protocol: 6, port: 80 })
    };
    let eip = scene.eip(0);
    let text = asked(PLAIN, &question("10.6.168.63")?)?;
    for sentence in [
        "answers/test decides: destSubnet 10.6.168.63/32".to_owned(),
        "leaves through the tunnel to 172.31.0.".to_owned(),
        format!("from {eip}"),
        scene.carrier("test")?,
    ] {
        ensure!(text.contains(&sentence), "{sentence:?} is not in\n{text}");
    }
    let text = asked(PLAIN, &question("10.6.168.64")?)?;
    ensure!(text.contains("no destSubnet of it holds the destination"), "{text}");
    let text = asked(GATEWAYS[0], &question("10.6.168.63")?)?;
    ensure!(text.starts_with("error: "), "another node's agent knows the pod: {text}");

    let text = asked(PLAIN, &Question::State)?;
    ensure!(text.contains(&format!("leaves    {eip} by ")), "{text}");
    let text = asked(PLAIN, &Question::Ruleset)?;
    ensure!(text.contains("table inet egressgateway {") && text.contains(&eip.to_string()), "{text}");
    world.until("the kernel holds what it shall hold", || {
        let text = asked(PLAIN, &Question::Diff)?;
        ensure!(text == "the kernel holds what it shall hold\n", "{text}");
        Ok(())
    })
}
