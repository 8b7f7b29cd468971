//! Somebody else takes away what is ours in the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context, Result, bail, ensure};
use datapath::compile::names;
use datapath::nft::{Key, Value};
use datapath::state::ROUTE_PROTOCOL;
use datapath::transaction::{FoundTable, NftCommand};
use kernel::Kernel;
use kernel::conntrack::{ConntrackSocket, FlowFilter};
use model::mark::{BASE, BASE_MASK};

use crate::Scenario;
use crate::scene::{self, Scene};
use crate::traffic::{Held, Sequence};
use crate::world::{PLAIN, World, agent_table};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("what_others_delete_is_repaired_and_nothing_leaks", repaired),
    ("an_element_that_others_delete_stays_or_comes_back", elements),
    ("a_flow_without_conntrack_entry_never_leaves_with_another_source", entries_deleted),
];

/// Takes something away; says how much.
type Damage = fn(&mut Kernel) -> Result<usize>;

/// What is ours in a kernel besides the table, as text; without what belongs to EIPs of other scenes, which come to an end
/// meanwhile.
fn ours(scene: &Scene<'_>, kernel: &mut Kernel) -> Result<BTreeSet<String>> {
    let is_meant = |address: IpAddr| address == scene.eip(0) || !scene::is_eip(address);
    let rules = kernel.route.rules()?.into_iter().filter(|rule| rule.mark & BASE_MASK == BASE);
    let mut all: BTreeSet<String> = rules.map(|rule| format!("{rule:?}")).collect();
    let routes = kernel.route.routes_of(ROUTE_PROTOCOL)?.into_iter();
    all.extend(routes.filter(|route| is_meant(route.destination.addr())).map(|route| format!("{route:?}")));
    let entries = kernel.route.proxy_entries()?.into_iter();
    let entries = entries.filter(|entry| entry.ours && is_meant(entry.address));
    all.extend(entries.map(|entry| format!("{entry:?}")));
    Ok(all)
}
/// Acceptance: X-R2
fn repaired(world: &World) -> Result<()> {
    let scene = Scene::new(world, "drift")?;
    let pod = scene.pod("app", PLAIN)?;
    scene.policy_in_force("app", &pod)?;
    let server = world.serve()?;
    let sequence = Sequence::start(&pod.netns, &server, "drift")?;
    sequence.flow_on(world, 20)?;
    let gateway = scene.carrier("test")?;
    let damages: [(&str, &str, Damage); 4] = [
        ("the source's rules", PLAIN, |kernel| {
            let rules = kernel.route.rules()?.into_iter().filter(|rule| rule.mark & BASE_MASK == BASE);
            rules
                .map(|rule| Ok(kernel.route.delete_rule(&rule)?))
                .collect::<Result<Vec<()>>>()
                .map(|all| all.len())
        }),
        ("the source's routes", PLAIN, delete_routes),
        ("the gateway's routes", &gateway, delete_routes),
        ("the gateway's proxy neighbours", &gateway, |kernel| {
            let entries = kernel.route.proxy_entries()?.into_iter().filter(|entry| entry.ours);
            entries
                .map(|entry| Ok(kernel.route.delete_proxy_entry(entry.index, entry.address)?))
                .collect::<Result<Vec<()>>>()
                .map(|all| all.len())
        }),
    ];
    for (what, node, damage) in damages {
        let mut kernel = world.kernel(node)?;
        let before = ours(&scene, &mut kernel)?;
        let damaged = damage(&mut kernel).context(what)?;
        ensure!(damaged > 0, "{what}: there were none");
        world.until(&format!("{what} are there again"), || {
            let missing: Vec<String> = before.difference(&ours(&scene, &mut kernel)?).cloned().collect();
            ensure!(missing.is_empty(), "missing: {missing:?}");
            Ok(())
        })?;
        sequence.flow_on(world, 20).with_context(|| format!("after {what} were repaired"))?;
    }
    let sent = sequence.end(&server)?;
    let seen = (sent.addresses(), world.sources_at(server.port())?);
    let eip = BTreeSet::from([scene.eip(0)]);
    ensure!(seen.0 == eip && seen.1 == eip, "the outside saw {seen:?}");
    Ok(())
}

fn delete_routes(kernel: &mut Kernel) -> Result<usize> {
    let routes = kernel.route.routes_of(ROUTE_PROTOCOL)?;
    // A route may go with the one that it depends on.
    Ok(routes.iter().filter(|route| kernel.route.delete_route(route).is_ok()).count())
}

/// Our table as a kernel holds it.
pub(crate) fn table(kernel: &mut Kernel) -> Result<FoundTable> {
    kernel.nft.read(&agent_table())?.context("our table is not there")
}

/// The set of that name in IPv4's or both families' form, and what is in it.
fn elements_of(table: &FoundTable, set: &str) -> Result<(String, BTreeMap<Key, Value>)> {
    let found = table.sets.iter().find(|(name, _)| name.starts_with(set));
    let (name, set) = found.with_context(|| format!("no set {set}"))?;
    Ok((name.clone(), set.elements.clone()))
}
/// Acceptance: X-R2
fn elements(world: &World) -> Result<()> {
    let scene = Scene::new(world, "elements")?;
    let pod = scene.pod("app", PLAIN)?;
    scene.policy_in_force("app", &pod)?;
    let server = world.serve()?;
    let sequence = Sequence::start(&pod.netns, &server, "elements")?;
    sequence.flow_on(world, 20)?;
    let mut kernel = world.kernel(PLAIN)?;
    let before = table(&mut kernel)?;
    let IpAddr::V4(eip) = scene.eip(0) else { bail!("an IPv4 scene") };
    let IpAddr::V4(address) = pod.address else { bail!("an IPv4 pod") };
    let of_eip = |value: &Value| matches!(value, Value::Data(data) if data.starts_with(&eip.octets()));
    let snat = elements_of(&before, names::SNAT)?.1;
    let id = snat.iter().find(|(_, value)| of_eip(value)).map(|(key, _)| key.clone()).context("no id")?;
    let pod_key = Key::Exact(address.octets().to_vec());
    // What belongs to other scenes may come and go.
    for (set, own) in [(names::POD_CLASS, pod_key), (names::SNAT, id.clone()), (names::SLOT_OF_ID, id)] {
        let (name, elements) = elements_of(&table(&mut kernel)?, set)?;
        ensure!(elements.contains_key(&own), "{name} has {elements:?}, not {own:?}");
        let keys = elements.into_keys().collect();
        let delete = NftCommand::DeleteElements { table: agent_table(), set: name.clone(), keys };
        match kernel.nft.apply(&[delete]) {
            Err(_) => ensure!(before.owned, "{name}: the kernel refuses, although nobody owns the table"),
            Ok(()) => ensure!(!before.owned, "{name}: somebody else could change our table"),
        }
        world.until("the element is there", || {
            let now = elements_of(&table(&mut kernel)?, set)?.1;
            ensure!(now.contains_key(&own), "{name} has {now:?}, not {own:?}");
            Ok(())
        })?;
        sequence.flow_on(world, 20)?;
    }
    let sent = sequence.end(&server)?;
    if before.owned {
        ensure!(
            sent.lost.is_empty(),
            "{} datagrams lost, although nothing could be changed",
            sent.lost.len()
        );
        let sources = world.sources_at(server.port())?;
        ensure!(sources == BTreeSet::from([scene.eip(0)]), "the outside saw {sources:?}");
    } else {
        println!("  SKIP: whether elements can leak: this kernel lets everybody change our table");
    }
    Ok(())
}

fn entries_deleted(world: &World) -> Result<()> {
    let scene = Scene::new(world, "conntrack")?;
    let pod = scene.pod("app", PLAIN)?;
    scene.policy_in_force("app", &pod)?;
    let server = world.serve()?;
    let held = Held::open(&pod.netns, server.address(), 5)?;
    held.flow_on(world)?;
    let sequence = Sequence::start(&pod.netns, &server, "conntrack")?;
    sequence.flow_on(world, 20)?;
    let mut connections = ConntrackSocket::open_in(&world.netns(PLAIN)?)?;
    let filter = FlowFilter { mark: None, source: Some(pod.address) };
    for _ in 0..10 {
        ensure!(connections.delete_matching(&filter)? > 0, "the pod has no entries");
        // Datagrams make a new entry, which may have another port, but no other address.
        sequence.flow_on(world, 5)?;
    }
    let sent = sequence.end(&server)?;
    let seen = (sent.addresses(), world.sources_at(server.port())?);
    let eip = BTreeSet::from([scene.eip(0)]);
    ensure!(seen.0 == eip && seen.1 == eip, "the outside saw {seen:?}");
    // The connections may live or not.
    drop(held);
    Ok(())
}
