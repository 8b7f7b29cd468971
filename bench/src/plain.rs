//! The references: the same way over three cables without anything of ours on it.
//!
//! ```text
//! client 10.1.0.2 ── 10.1.0.1 node 10.2.0.1 ── 10.2.0.2 gateway 10.3.0.1 ── 10.3.0.2 server
//!                                  └─ vxlan 10.9.0.1 ···· 10.9.0.2 ─┘   (in the second variant)
//! ```

use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use kernel::link::{LinkKind, NewLink, Vxlan};
use kernel::neighbour::FdbEntry;
use kernel::netns::Netns;
use kernel::route::RouteEntry;
use kernel::rtnetlink::RouteSocket;
use kernel::sysctl;
use model::tunnel_mac::MacAddress;

/// Address and port of the server.
pub(crate) const SERVER: &str = "10.3.0.2:9000";

/// Four hosts in a row.
pub(crate) struct Plain {
    client: Netns,
    _routers: [Netns; 2],
    server: Child,
}

impl Plain {
    /// Builds the row; with `vxlan`, node and gateway tunnel to each other.
    pub(crate) fn build(program: &Path, vxlan: bool) -> Result<Self> {
        let [client, node, gateway, outside] = [Netns::new()?, Netns::new()?, Netns::new()?, Netns::new()?];
        cable((&client, "10.1.0.2/24"), (&node, "10.1.0.1/24"), "c")?;
        cable((&node, "10.2.0.1/24"), (&gateway, "10.2.0.2/24"), "n")?;
        cable((&gateway, "10.3.0.1/24"), (&outside, "10.3.0.2/24"), "g")?;
        for router in [&node, &gateway] {
            router.run(|| sysctl::write("ipv4/ip_forward", "1"))??;
        }
        default_route(&client, "10.1.0.1")?;
        default_route(&outside, "10.3.0.1")?;
        let (out, back) = if vxlan { ("10.9.0.2", "10.9.0.1") } else { ("10.2.0.2", "10.2.0.1") };
        if vxlan {
            let (first, second) = (("10.2.0.1", back), ("10.2.0.2", out));
            tunnel(&node, "n0", first, second)?;
            tunnel(&gateway, "n1", second, first)?;
        }
        default_route(&node, out)?;
        default_route(&gateway, back)?;
        let server = serve(&outside, program)?;
        Ok(Self { client, _routers: [node, gateway], server })
    }

    /// Runs a command on the client and waits for its end.
    pub(crate) fn run(&self, program: &Path, arguments: &[&str]) -> Result<Output> {
        Ok(self.client.run(|| Command::new(program).args(arguments).output())??)
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        drop(self.server.stdin.take());
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn cable(left: (&Netns, &str), right: (&Netns, &str), name: &str) -> Result<()> {
    let (near, far) = (format!("{name}0"), format!("{name}1"));
    let mut socket = RouteSocket::open_in(left.0)?;
    let kind = LinkKind::Veth { peer: &far, peer_netns: Some(right.0) };
    socket.add_link(&NewLink::new(&near, kind))?;
    for (netns, device, address) in [(left.0, &near, left.1), (right.0, &far, right.1)] {
        let mut socket = RouteSocket::open_in(netns)?;
        let index = socket.index_of(device)?;
        socket.add_address(index, address.parse()?)?;
        socket.set_up(device)?;
    }
    Ok(())
}

fn default_route(netns: &Netns, gateway: &str) -> Result<()> {
    let any: IpNet = "0.0.0.0/0".parse()?;
    RouteSocket::open_in(netns)?.set_route(&RouteEntry::new(any, None, Some(gateway.parse()?)))?;
    Ok(())
}

/// One end of a tunnel; each end is told where the other is, as our agents do it.
fn tunnel(netns: &Netns, parent: &str, own: (&str, &str), peer: (&str, &str)) -> Result<()> {
    let mut socket = RouteSocket::open_in(netns)?;
    let parent = socket.index_of(parent)?;
    let (local, destination): (IpAddr, IpAddr) = (own.0.parse()?, peer.0.parse()?);
    let vxlan = Vxlan { vni: 100, port: 7789, parent: Some(parent), local: Some(local), learning: false };
    let mac = Some(MacAddress::of_tunnel(own.0));
    socket.add_link(&NewLink { up: true, mac, ..NewLink::new("vxlan0", LinkKind::Vxlan(vxlan)) })?;
    let index = socket.index_of("vxlan0")?;
    socket.add_address(index, format!("{}/24", own.1).parse()?)?;
    let mac = MacAddress::of_tunnel(peer.0);
    socket.set_neighbour(index, peer.1.parse()?, mac)?;
    socket.set_fdb(FdbEntry { index, mac, destination })?;
    Ok(())
}

/// Starts the traffic server in a namespace and waits until it listens.
fn serve(netns: &Netns, program: &Path) -> Result<Child> {
    let mut command = Command::new(program);
    command.args(["traffic", "serve", "--listen", SERVER]);
    netns.run(|| start_server(&mut command))?
}

/// Starts a traffic server; it ends with its standard input.
pub(crate) fn start_server(command: &mut Command) -> Result<Child> {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("starting the server")?;
    let output = child.stdout.take().context("no standard output")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    if line.trim() != "ready" {
        bail!("the traffic server did not start: `{}`", line.trim());
    }
    Ok(child)
}
