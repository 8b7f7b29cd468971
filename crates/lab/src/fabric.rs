//! The network that nodes are plugged into: one switch, and a host outside the cluster.
//!
//! ```text
//!            switch (bridge, 10.6.0.1, API server 10.6.0.10)
//!      port-0 |      port-1 |      port-2 |           | outside
//!        eth0 |        eth0 |        eth0 |           | eth0
//!   controller-node-1  worker-node-1  worker-node-2   outside host 10.6.168.63
//! ```
//!
//! A "cut" sets the switch's end of a node's cable down: the node loses its carrier, as with a pulled
//! cable or a dead switch port.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};

use crate::addresses::{
    API_SERVER_PORT, API_SERVER_V4, API_SERVER_V6, NodeNumber, OUTSIDE_V4, OUTSIDE_V6, SWITCH_V4, SWITCH_V6,
    default_v4, default_v6, on_fabric_v4, on_fabric_v6,
};
use crate::netns::{NetNs, write_sysctl};
use crate::rtnl::{Mac, Route, RouteSocket};

const BRIDGE: &str = "switch";
const OUTSIDE_PORT: &str = "outside";
const OUTSIDE_MAC: Mac = [0x02, 0x06, 0x00, 0x00, 0xa8, 63];

/// The switch and the outside host.
#[derive(Debug)]
pub(crate) struct Fabric {
    switch: NetNs,
    outside: NetNs,
}

impl Fabric {
    /// Builds the switch and plugs the outside host into it.
    pub(crate) fn new() -> io::Result<Self> {
        let fabric = Self { switch: NetNs::new()?, outside: NetNs::new()? };
        fabric.switch.run(|| {
            quiet_ipv6()?;
            let mut links = RouteSocket::open()?;
            links.add_bridge(BRIDGE)?;
            // The switch never asks for attention: no multicast snooping, so no querier timeouts.
            std::fs::write(format!("/sys/class/net/{BRIDGE}/bridge/multicast_snooping"), "0").ok();
            for address in [on_fabric_v4(SWITCH_V4), on_fabric_v4(API_SERVER_V4)] {
                links.add_address(BRIDGE, address)?;
            }
            for address in [on_fabric_v6(SWITCH_V6), on_fabric_v6(API_SERVER_V6)] {
                links.add_address(BRIDGE, address)?;
            }
            links.set_up(BRIDGE)
        })?;
        fabric.plug(OUTSIDE_PORT, OUTSIDE_MAC, &fabric.outside)?;
        fabric.outside.run(|| {
            quiet_ipv6()?;
            let mut links = RouteSocket::open()?;
            links.add_address("eth0", on_fabric_v4(OUTSIDE_V4))?;
            links.add_address("eth0", on_fabric_v6(OUTSIDE_V6))?;
            links.set_up("eth0")?;
            add_default_routes(&mut links)
        })?;
        Ok(fabric)
    }

    /// Plugs a namespace into the switch; its end of the cable is called `eth0` and is still down.
    fn plug(&self, port: &str, mac: Mac, namespace: &NetNs) -> io::Result<()> {
        self.switch.run(|| {
            let mut links = RouteSocket::open()?;
            let [_, a, b, c, d, e] = mac;
            links.add_veth(port, [0x06, a, b, c, d, e], "eth0", mac, std::os::fd::AsFd::as_fd(namespace))?;
            links.set_bridge(port, BRIDGE)?;
            links.set_up(port)
        })
    }

    /// Plugs a node's namespace into the switch.
    pub(crate) fn plug_node(&self, node: NodeNumber, namespace: &NetNs) -> io::Result<()> {
        self.plug(&port_of(node), node.mac(), namespace)
    }

    /// Cuts a node's cable.
    pub(crate) fn cut(&self, node: NodeNumber) -> io::Result<()> {
        self.switch.run(|| RouteSocket::open()?.set_down(&port_of(node)))
    }

    /// Repairs a node's cable.
    pub(crate) fn heal(&self, node: NodeNumber) -> io::Result<()> {
        self.switch.run(|| RouteSocket::open()?.set_up(&port_of(node)))
    }

    /// Sockets that listen at the API server's addresses on the fabric.
    pub(crate) fn api_server_listeners(&self) -> io::Result<Vec<TcpListener>> {
        self.switch.run(|| {
            [IpAddr::V4(API_SERVER_V4), IpAddr::V6(API_SERVER_V6)]
                .into_iter()
                .map(|address| TcpListener::bind(SocketAddr::new(address, API_SERVER_PORT)))
                .collect()
        })
    }

    /// The namespace of the outside host.
    pub(crate) fn outside(&self) -> &NetNs {
        &self.outside
    }

    /// The namespace of the switch.
    pub(crate) fn switch(&self) -> &NetNs {
        &self.switch
    }
}

/// Everything on the fabric reaches the rest of the world, if there were one, through the switch.
pub(crate) fn add_default_routes(links: &mut RouteSocket) -> io::Result<()> {
    let routes = [(default_v4(), IpAddr::V4(SWITCH_V4)), (default_v6(), IpAddr::V6(SWITCH_V6))];
    for (destination, via) in routes {
        links.add_route("eth0", Route { destination, via: Some(via), onlink: false })?;
    }
    Ok(())
}

/// No router solicitations, no duplicate address detection: the lab knows its addresses, and a second of
/// "tentative" would be a second in which packets fail.
pub(crate) fn quiet_ipv6() -> io::Result<()> {
    for scope in ["all", "default"] {
        write_sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "0")?;
        write_sysctl(&format!("net/ipv6/conf/{scope}/accept_ra"), "0")?;
        write_sysctl(&format!("net/ipv6/conf/{scope}/router_solicitations"), "0")?;
    }
    Ok(())
}

fn port_of(node: NodeNumber) -> String {
    // Interface names have at most 15 characters; the node's own name may be longer.
    format!("port-{}", node.v4().octets()[3])
}
