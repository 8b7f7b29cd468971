//! The oracle against Linux: random packets of real pods, and the same packets walked through the rules that the agents
//! compile. What was on the wire, with which source, and what was counted for which reason must be the same.

mod nodes;
mod packet;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use datapath::compile::names;
use datapath::trace::{End, ICMP, Network, TCP, UDP};
use datapath::view::NodeView;
use kernel::Netns;
use model::tunnel_mac::MacAddress;
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};

use crate::Scenario;
use crate::scene::{Scene, TestPod};
use crate::world::{GATEWAYS, NODES, OUTSIDE, World, agent_table};

pub(crate) const SCENARIOS: &[Scenario] = &[("a_thousand_random_packets_do_what_the_oracle_says", thousand)];

const PACKETS: u32 = 1000;
/// Sets the seed, to see a run again.
const SEED: &str = "ORACLE_SEED";
const UPLINK: &str = "eth0";
/// What other traffic of the lab may be counted as.
const NOT_JUDGED: [&str; 4] =
    [names::DROP_TUNNEL_ENTRY, names::DROP_SILENCED, names::DROP_PING_LIMIT, names::TOO_BIG];

/// Numbers that follow from a seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit.max(1)).unwrap_or(1)).unwrap_or(0)
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        of.get(self.below(of.len())).copied()
    }
}

/// A packet on the wire: the node that sent it, source, source port.
type Seen = (String, IpAddr, u16);

/// A pod with both its addresses.
struct Sender {
    pod: TestPod,
    v6: IpAddr,
    device: String,
}

/// Hears what a node sends by its uplink.
struct Ear {
    node: String,
    mac: MacAddress,
    socket: Socket,
}

impl Ear {
    fn open(world: &World, node: &str) -> Result<Self> {
        const ALL_PROTOCOLS: u16 = 3;
        let netns = world.netns(node)?;
        let protocol = Protocol::from(i32::from(ALL_PROTOCOLS.to_be()));
        let socket = netns.run(|| Socket::new(Domain::PACKET, Type::RAW, Some(protocol)))??;
        socket.set_nonblocking(true)?;
        socket.set_recv_buffer_size(8 << 20)?;
        let link = world.kernel(node)?.route.link(UPLINK)?;
        let mac = link.and_then(|link| link.mac).context("no uplink")?;
        Ok(Self { node: node.to_owned(), mac, socket })
    }

    fn hear(&self, seen: &mut BTreeMap<u32, BTreeSet<Seen>>) -> Result<()> {
        let mut frame = [0; 2048];
        loop {
            match (&self.socket).read(&mut frame) {
                Ok(length) => {
                    let frame = frame.get(..length).unwrap_or_default();
                    // The same packet is seen by other devices as well, with other addresses.
                    if frame.get(6..12) != Some(&self.mac.0) {
                        continue;
                    }
                    if let Some((number, source, port)) = packet::found(frame) {
                        seen.entry(number).or_default().insert((self.node.clone(), source, port));
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("listening at a node's uplink"),
            }
        }
    }
}

fn thousand(world: &World) -> Result<()> {
    let scene = Scene::dual(world, "oracle")?;
    let senders = senders(world, &scene)?;
    policies(&scene)?;
    let has_tunnels = |network: &Network| network.hosts.values().all(|host| host.state.tunnel.is_some());
    let in_force = |views: &BTreeMap<String, NodeView>| {
        let ready = |view: &NodeView| {
            view.policies.len() == 3 && view.eips.values().filter(|eip| eip.block.is_some()).count() >= 2
        };
        views.values().all(ready)
    };
    let (mut network, views) = world.until("agents hold what is compiled here", || {
        let (network, views) = nodes::cluster(world)?;
        ensure!(has_tunnels(&network) && in_force(&views), "policies are not in force yet");
        Ok((network, views))
    })?;
    let seed = match std::env::var(SEED) {
        Ok(seed) => seed.parse().context("the seed is no number")?,
        Err(_) => u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?,
    };
    println!("  {SEED}={seed}");
    let ears: Vec<Ear> = NODES.iter().map(|node| Ear::open(world, node)).collect::<Result<_>>()?;
    let before = counters(world)?;
    let mut random = Random(seed);
    let mut said: BTreeMap<u32, (String, BTreeSet<Seen>)> = BTreeMap::new();
    let mut seen = BTreeMap::new();
    for number in 0..PACKETS {
        let Some(sender) = senders.get(random.below(senders.len())) else { bail!("no pods") };
        let outgoing = outgoing(&mut random, number, sender, &senders, &scene)?;
        network.wire.clear();
        let end = network.receive(&sender.pod.node, &sender.device, outgoing.packet());
        let left = network
            .wire
            .iter()
            .map(|(node, packet)| (node.clone(), packet.source, packet.source_port().unwrap_or_default()));
        let told = format!("{outgoing:?} of a pod on {}: {}", sender.pod.node, words(&end));
        said.insert(number, (told, left.collect()));
        outgoing.send(&sender.pod.netns)?;
        ears.iter().try_for_each(|ear| ear.hear(&mut seen))?;
    }
    // Everything has been through all rules once what came last has.
    let is_judged = |name: &str| !NOT_JUDGED.iter().any(|other| name.ends_with(other));
    let judged = |read: BTreeMap<String, u64>| -> BTreeMap<String, u64> {
        let mut judged: BTreeMap<String, u64> = read
            .into_iter()
            .map(|(name, count)| (name.clone(), count - before.get(&name).copied().unwrap_or_default()))
            .collect();
        judged.retain(|name, count| *count > 0 && is_judged(name));
        judged
    };
    let mut expected = BTreeMap::new();
    for (node, host) in &network.hosts {
        expected.extend(host.counters.iter().map(|(name, count)| (format!("{node} {name}"), *count)));
    }
    expected.retain(|name, count| *count > 0 && is_judged(name));
    let outcome = world.until("the kernel has counted what the oracle says", || {
        ears.iter().try_for_each(|ear| ear.hear(&mut seen))?;
        let missing =
            said.iter().filter(|(number, (_, left))| !left.is_empty() && !seen.contains_key(number));
        let missing: Vec<&str> = missing.map(|(_, (told, _))| told.as_str()).collect();
        ensure!(missing.is_empty(), "not on the wire: {missing:#?}");
        let counted = judged(counters(world)?);
        ensure!(counted == expected, "counted {counted:?}, the oracle says {expected:?}");
        Ok(())
    });
    let differ: Vec<String> = differences(&said, &seen, &views);
    ensure!(
        differ.is_empty(),
        "{} of {PACKETS} packets differ: {:#?}",
        differ.len(),
        differ.iter().take(20).collect::<Vec<_>>()
    );
    outcome
}

fn words(end: &End) -> String {
    match end {
        End::Outside { node, packet } => format!("leaves {node} from {}", packet.source),
        End::Behind { node, device, .. } => format!("to {device} of {node}"),
        End::Process { node, .. } => format!("to a process of {node}"),
        End::Lost { node, outcome } => format!("ends on {node}: {outcome:?}"),
        End::Loop => "goes round".to_owned(),
    }
}

/// Two pods on every node: one that policies select, and one that none does.
fn senders(world: &World, scene: &Scene<'_>) -> Result<Vec<Sender>> {
    let mut senders = Vec::new();
    for node in NODES {
        for app in ["chosen", "named", "free"] {
            let pod = scene.pod_of_app(&format!("{app}-{node}"), app, node)?;
            let mut kernel = world.kernel(node)?;
            let IpAddr::V4(v4) = pod.address else { bail!("{} is not IPv4", pod.address) };
            let v6 = v6_of(&pod.netns)?;
            let routes = kernel.route.host_routes()?;
            let device = routes.get(&IpAddr::V4(v4)).context("no device of the pod")?.name.clone();
            senders.push(Sender { pod, v6, device });
        }
    }
    Ok(senders)
}

fn v6_of(netns: &Netns) -> Result<IpAddr> {
    let mut kernel = kernel::RouteSocket::open_in(netns)?;
    let mut global =
        kernel.addresses()?.into_iter().filter(|found| found.global && found.address.addr().is_ipv6());
    Ok(global.next().context("the pod has no IPv6 address")?.address.addr())
}

/// Everything outside for some, and some of it with another EIP; a single address for others.
fn policies(scene: &Scene<'_>) -> Result<()> {
    let of = |app: &str| json!({"podSelector": {"matchLabels": {"app": app}}});
    scene.policy("wide", json!({"appliedTo": of("chosen")}))?;
    let (v4, v6) = scene.pair(1);
    scene.policy(
        "narrow",
        json!({
            "appliedTo": of("chosen"), "destSubnet": ["10.6.168.63/32", "fd06::168:63/128"],
            "egressIP": {"ipv4": v4, "ipv6": v6},
        }),
    )?;
    scene.policy(
        "named",
        json!({"appliedTo": of("named"), "destSubnet": ["10.6.168.0/24", "fd06::168:0/112", "169.254.169.0/24"]}),
    )
}

fn outgoing(
    random: &mut Random,
    number: u32,
    sender: &Sender,
    all: &[Sender],
    scene: &Scene<'_>,
) -> Result<packet::Outgoing> {
    let v6 = random.below(2) == 1;
    let other = all.get(random.below(all.len())).context("no pods")?;
    let gateway = random.below(GATEWAYS.len());
    let (eip4, eip6) = scene.pair(u32::try_from(random.below(2))?);
    let v4_choices: [IpAddr; 9] = [
        OUTSIDE.into(),
        OUTSIDE.into(),
        OUTSIDE.into(),
        Ipv4Addr::new(9, 9, 9, 9).into(),
        other.pod.address,
        Ipv4Addr::new(10, 6, 0, u8::try_from(12 + gateway)?).into(),
        Ipv4Addr::new(10, 96, 0, 77).into(),
        eip4,
        Ipv4Addr::new(169, 254, 169, 254).into(),
    ];
    let v6_choices: [IpAddr; 8] = [
        lab::OUTSIDE_V6.into(),
        lab::OUTSIDE_V6.into(),
        lab::OUTSIDE_V6.into(),
        Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 9).into(),
        other.v6,
        Ipv6Addr::new(0xfd06, 0, 0, 0, 0, 0, 0, u16::try_from(0x12 + gateway)?).into(),
        Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 0x77).into(),
        eip6,
    ];
    let destination = if v6 { random.pick(&v6_choices) } else { random.pick(&v4_choices) };
    let destination = destination.context("no destination")?;
    let source = if v6 { sender.v6 } else { sender.pod.address };
    // To itself it does not leave the pod.
    let destination = if destination == source {
        if v6 { lab::OUTSIDE_V6.into() } else { OUTSIDE.into() }
    } else {
        destination
    };
    let protocol = random.pick(&[TCP, TCP, UDP, UDP, ICMP, packet::GRE]).context("no protocol")?;
    let own_port = u16::try_from(20_000 + number)?;
    let destination_port = u16::try_from(30_000 + random.below(20_000))?;
    Ok(packet::Outgoing { number, source, destination, protocol, source_port: own_port, destination_port })
}

fn counters(world: &World) -> Result<BTreeMap<String, u64>> {
    let mut all = BTreeMap::new();
    for node in NODES {
        let read = world.kernel(node)?.nft.counters(&agent_table())?;
        all.extend(read.into_iter().map(|(name, value)| (format!("{node} {name}"), value.packets)));
    }
    Ok(all)
}

/// Packets whose way on the wire is not what the oracle says. A translated port is the kernel's choice, in a block of the
/// node that translates.
fn differences(
    said: &BTreeMap<u32, (String, BTreeSet<Seen>)>,
    seen: &BTreeMap<u32, BTreeSet<Seen>>,
    views: &BTreeMap<String, NodeView>,
) -> Vec<String> {
    let nothing = BTreeSet::new();
    let mut differ = Vec::new();
    for (number, (told, left)) in said {
        let seen = seen.get(number).unwrap_or(&nothing);
        let without_ports = |packets: &BTreeSet<Seen>| -> BTreeSet<(String, IpAddr)> {
            packets.iter().map(|(node, source, _)| (node.clone(), *source)).collect()
        };
        if without_ports(left) != without_ports(seen) {
            differ.push(format!("{told}; the wire saw {seen:?}"));
        }
        for (_, source, port) in seen {
            let holders: Vec<_> = views
                .values()
                .flat_map(|view| view.eips.iter().filter(|(eip, _)| eip.contains(*source)))
                .collect();
            let is_held = holders.iter().any(|(_, eip)| eip.blocks().any(|block| block.contains(*port)));
            if !holders.is_empty() && !is_held {
                differ.push(format!("{told}; the wire saw {seen:?}, from a port that no node holds"));
            }
        }
    }
    differ
}
