//! What passes: TCP, UDP, ICMP, small and large.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Context, Result, bail, ensure};
use kernel::Netns;
use socket2::{Domain, Protocol, Socket, Type};

use crate::Scenario;
use crate::scene::{Scene, TestPod};
use crate::traffic::{self, Server};
use crate::world::{GATEWAYS, OUTSIDE, PLAIN, World};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("two_megabytes_pass_in_both_directions", bulk),
    ("large_datagrams_pass_in_fragments", large_datagrams),
    ("a_udp_socket_has_one_outside_port_for_all_destinations", one_outside_port),
    ("pings_and_icmp_errors_come_back", icmp),
];

const BULK: usize = 2 * 1024 * 1024;

/// A pod on a gateway node, one on another node, and a policy for both.
fn pods(scene: &Scene<'_>) -> Result<[TestPod; 2]> {
    let pods = [scene.pod("near", GATEWAYS[0])?, scene.pod("far", PLAIN)?];
    scene.policy(
        "test",
        serde_json::json!({
            "appliedTo": {"podSelector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]}},
            "destSubnet": ["10.6.168.63/32"],
        }),
    )?;
    for pod in &pods {
        scene.world.until_seen_as(&pod.netns, scene.eip(0))?;
    }
    Ok(pods)
}

fn only_the_eip(scene: &Scene<'_>, server: &Server) -> Result<()> {
    let sources = scene.world.sources_at(server.port())?;
    ensure!(sources == BTreeSet::from([scene.eip(0)]), "the outside saw {sources:?}");
    Ok(())
}

fn bulk(world: &World) -> Result<()> {
    let scene = Scene::new(world, "bulk")?;
    let server = world.serve()?;
    for pod in pods(&scene)? {
        let mut download = traffic::connect(&pod.netns, server.address())?;
        traffic::say(&mut download, &format!("get {BULK}"))?;
        let got = std::io::copy(&mut download, &mut std::io::sink()).context("the download")?;
        ensure!(got == BULK as u64, "{got} bytes came down");
        let mut upload = traffic::connect(&pod.netns, server.address())?;
        traffic::say(&mut upload, &format!("put {BULK}"))?;
        upload.write_all(&vec![b'.'; BULK]).context("the upload")?;
        let mut got = String::new();
        upload.read_to_string(&mut got).context("the upload's receipt")?;
        ensure!(got == BULK.to_string(), "{got} bytes went up");
    }
    only_the_eip(&scene, &server)
}

fn large_datagrams(world: &World) -> Result<()> {
    let scene = Scene::new(world, "fragments")?;
    let server = world.serve()?;
    for pod in pods(&scene)? {
        let socket = traffic::udp(&pod.netns)?;
        let mut buffer = vec![0; 65_535];
        // Down in fragments; just too large for the tunnel, so that the server must learn to fragment; up in fragments.
        for (ask, expected) in
            [("size 9000".to_owned(), 9000), ("size 1460".to_owned(), 1460), (".".repeat(9000), 9000)]
        {
            let mut refused = 0;
            world.until("a large answer comes", || {
                socket.send_to(ask.as_bytes(), server.address())?;
                refused += 1;
                let (length, _) = socket.recv_from(&mut buffer)?;
                if length == expected { Ok(()) } else { bail!("{length} bytes came, attempt {refused}") }
            })?;
        }
    }
    let mut sources = world.sources_at(server.port())?;
    // Later fragments have no port: they are told by their source only.
    sources.extend(world.sightings_at(0)?.iter().filter(|seen| seen.protocol == 17).map(|seen| seen.source));
    ensure!(sources == BTreeSet::from([scene.eip(0)]), "the outside saw {sources:?}");
    Ok(())
}

fn one_outside_port(world: &World) -> Result<()> {
    let scene = Scene::new(world, "one-port")?;
    let servers = [world.serve()?, world.serve()?, world.serve()?];
    for (number, pod) in pods(&scene)?.iter().enumerate() {
        let socket = traffic::udp(&pod.netns)?;
        let mut seen = BTreeSet::new();
        for server in &servers {
            let name = format!("pod-{number}");
            socket.send_to(format!("{name} 1").as_bytes(), server.address())?;
            socket.recv_from(&mut [0; 64])?;
            seen.extend(server.arrived(&name).sources);
        }
        ensure!(seen.len() == 1, "three destinations saw {seen:?}");
        ensure!(seen.iter().all(|source| source.ip() == scene.eip(0)), "three destinations saw {seen:?}");
    }
    Ok(())
}

fn icmp(world: &World) -> Result<()> {
    let scene = Scene::new(world, "icmp")?;
    let before = world.sources_of_icmp()?;
    for pod in pods(&scene)? {
        for sequence in 1..=3 {
            ping(&pod.netns, OUTSIDE, sequence).with_context(|| format!("ping from {}", pod.node))?;
        }
        let closed =
            world.outside.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)))??.local_addr()?.port();
        let socket = traffic::udp(&pod.netns)?;
        socket.connect(SocketAddr::new(OUTSIDE.into(), closed))?;
        socket.send(b"is anybody there?")?;
        let error = socket.recv(&mut [0; 16]).err().context("a closed port answered")?;
        ensure!(
            error.kind() == std::io::ErrorKind::ConnectionRefused,
            "a closed port on the way from {}: {error}",
            pod.node
        );
    }
    let new: BTreeSet<_> = world.sources_of_icmp()?.difference(&before).copied().collect();
    ensure!(new == BTreeSet::from([scene.eip(0)]), "the outside saw pings of {new:?}");
    Ok(())
}

/// One echo request and its reply.
fn ping(netns: &Netns, to: Ipv4Addr, sequence: u8) -> Result<()> {
    let socket = netns.run(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)))??;
    socket.set_read_timeout(Some(std::time::Duration::from_secs(3)))?;
    let identifier = 0x4567_u16.to_be_bytes();
    let mut request = vec![8, 0, 0, 0, identifier[0], identifier[1], 0, sequence];
    request.extend(b"payload!");
    let sum = checksum(&request).to_be_bytes();
    request.splice(2..4, sum);
    socket.send_to(&request, &SocketAddr::new(to.into(), 0).into())?;
    // The socket hears every ICMP message of the namespace; the first 20 bytes are the IP header.
    let mut message = [0; 256];
    for _ in 0..16 {
        let length = (&socket).read(&mut message)?;
        let icmp = message.get(20..length).unwrap_or_default();
        if icmp.first() == Some(&0) && icmp.get(4..) == request.get(4..) {
            return Ok(());
        }
    }
    bail!("no answer")
}

fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    let sum: u32 = bytes.chunks(2).map(word).sum();
    !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap_or_default()
}
