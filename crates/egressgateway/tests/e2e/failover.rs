//! Gateways die and come back.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use datapath::compile::names;
use lab::Fault;

use crate::Scenario;
use crate::scene::{Scene, TestPod};
use crate::traffic::{self, Held, Sequence, Server};
use crate::world::{GATEWAYS, PLAIN, World};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("connections_outlive_their_gateway_and_its_return", gateway_cut),
    ("connections_outlive_their_gateway_without_api_server", gateway_cut_without_api_server),
    ("without_any_gateway_nothing_leaves_until_one_returns", all_gateways_cut),
];

/// A fault that ends when this is dropped, so that a scenario that fails leaves a whole cluster behind.
pub(crate) struct Broken<'w> {
    world: &'w World,
    repair: Option<Fault>,
}

impl<'w> Broken<'w> {
    pub(crate) fn cut(world: &'w World, node: &str) -> Result<Self> {
        world.fault(Fault::Cut { node: node.to_owned() })?;
        Ok(Self { world, repair: Some(Fault::Heal { node: node.to_owned() }) })
    }

    fn without_api_server(world: &'w World) -> Result<Self> {
        world.fault(Fault::StopApiServer)?;
        Ok(Self { world, repair: Some(Fault::StartApiServer) })
    }

    pub(crate) fn repair(mut self) -> Result<()> {
        self.repair.take().map_or(Ok(()), |fault| self.world.fault(fault))
    }
}

impl Drop for Broken<'_> {
    fn drop(&mut self) {
        if let Some(fault) = self.repair.take()
            && let Err(error) = self.world.fault(fault)
        {
            println!("  not repaired: {error:#}");
        }
    }
}

fn only_the_eip(scene: &Scene<'_>, server: &Server) -> Result<()> {
    let sources = scene.world.sources_at(server.port())?;
    ensure!(sources == BTreeSet::from([scene.eip(0)]), "the outside saw {sources:?}");
    Ok(())
}

fn until_carried_by(scene: &Scene<'_>, node: &str) -> Result<()> {
    scene.world.until(&format!("status names {node}"), || {
        let now = scene.carrier("test")?;
        if now == node { Ok(()) } else { bail!("status names {now}") }
    })
}

fn other_gateway(node: &str) -> Result<&'static str> {
    GATEWAYS.into_iter().find(|other| *other != node).context("there is no other gateway")
}
/// Acceptance: R00005
fn gateway_cut(world: &World) -> Result<()> {
    let scene = Scene::new(world, "cut")?;
    let pod = scene.pod("app", PLAIN)?;
    scene.policy_in_force("app", &pod)?;
    let server = world.serve()?;
    let held = Held::open(&pod.netns, server.address(), 20)?;
    held.flow_on(world)?;
    let first = scene.carrier("test")?;
    let second = other_gateway(&first)?;
    let cut = Broken::cut(world, &first)?;
    held.flow_on(world).context("after the cut")?;
    until_carried_by(&scene, second)?;
    world.until_seen_as(&pod.netns, scene.eip(0)).context("new connections after the cut")?;
    let sequence = Sequence::start(&pod.netns, &server, "return")?;
    sequence.flow_on(world, 20)?;
    cut.repair()?;
    scene.until_gateways_are_ready()?;
    sequence.flow_on(world, 100)?;
    held.flow_on(world).context("after the return")?;
    ensure!(scene.carrier("test")? == second, "the EIP moved back by itself");
    let sent = sequence.end(&server)?;
    ensure!(sent.lost.is_empty(), "the return lost {} of {} datagrams", sent.lost.len(), sent.count);
    ensure!(sent.unanswered.is_empty(), "the return lost {} answers", sent.unanswered.len());
    held.end()?;
    only_the_eip(&scene, &server)
}

fn gateway_cut_without_api_server(world: &World) -> Result<()> {
    let scene = Scene::new(world, "offline")?;
    let pods: Vec<TestPod> = vec![scene.pod("app", PLAIN)?];
    let pod = pods.first().context("a pod")?;
    scene.policy_in_force("app", pod)?;
    let server = world.serve()?;
    let held = Held::open(&pod.netns, server.address(), 20)?;
    held.flow_on(world)?;
    let first = scene.carrier("test")?;
    let second = other_gateway(&first)?;
    let stopped = Broken::without_api_server(world)?;
    let cut = Broken::cut(world, &first)?;
    held.flow_on(world).context("after the cut")?;
    world.until_seen_as(&pod.netns, scene.eip(0)).context("new connections after the cut")?;
    cut.repair()?;
    held.flow_on(world).context("after the return")?;
    stopped.repair()?;
    until_carried_by(&scene, second)?;
    scene.until_gateways_are_ready()?;
    held.flow_on(world).context("with the API server again")?;
    held.end()?;
    only_the_eip(&scene, &server)
}
/// Acceptance: R00006
fn all_gateways_cut(world: &World) -> Result<()> {
    let scene = Scene::new(world, "closed")?;
    let pod = scene.pod("app", PLAIN)?;
    scene.policy_in_force("app", &pod)?;
    let server = world.serve()?;
    let held = Held::open(&pod.netns, server.address(), 3)?;
    held.flow_on(world)?;
    let cuts = GATEWAYS.map(|node| Broken::cut(world, node));
    let refused = world.counter(PLAIN, names::REFUSE_NO_GATEWAY)?;
    world.until("new connections are refused and counted", || {
        ensure!(traffic::connect(&pod.netns, server.address()).is_err(), "a connection was made");
        let now = world.counter(PLAIN, names::REFUSE_NO_GATEWAY)?;
        ensure!(now > refused, "{now} packets are counted as refused");
        Ok(())
    })?;
    for cut in cuts {
        cut?.repair()?;
    }
    world.until_seen_as(&pod.netns, scene.eip(0)).context("when the gateways are back")?;
    held.flow_on(world).context("the connections, when the gateways are back")?;
    held.end()?;
    scene.until_gateways_are_ready()?;
    only_the_eip(&scene, &server)
}
