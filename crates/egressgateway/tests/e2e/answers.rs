//! Agents tell people what they do and why.

use agent::debug::{Question, ask};
use anyhow::{Result, ensure};

use crate::Scenario;
use crate::scene::Scene;
use crate::world::{GATEWAYS, PLAIN, World};

pub(crate) const SCENARIOS: &[Scenario] = &[("an_agent_tells_why_a_packet_leaves_as_it_does", why)];

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
