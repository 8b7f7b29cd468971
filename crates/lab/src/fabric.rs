//! The network that nodes are plugged into: one switch, and a host outside the cluster.
//!
//! ```text
//!            switch (bridge, 10.6.0.1, API server 10.6.0.10)
//!     port-11 |     port-12 |     port-13 |           | outside
//!        eth0 |        eth0 |        eth0 |           | eth0
//!   controller-node-1  worker-node-1  worker-node-2   outside host 10.6.168.63
//! ```
//!
//! A "cut" sets the switch's end of a node's cable down: the node loses its carrier, as with a pulled
//! cable or a dead switch port.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};

use ipnet::IpNet;
use kernel::RouteSocket;
use kernel::link::{LinkChange, LinkKind, NewLink};
use kernel::route::RouteEntry;
use model::tunnel_mac::MacAddress;

use crate::addresses::{
    API_SERVER_PORT, API_SERVER_V4, API_SERVER_V6, Mac, NodeNumber, OUTSIDE_V4, OUTSIDE_V6, SWITCH_V4,
    SWITCH_V6, default_v4, default_v6, on_fabric_v4, on_fabric_v6,
};
use crate::netns::NetNs;

const BRIDGE: &str = "switch";
const OUTSIDE_PORT: &str = "outside";
const OUTSIDE_MAC: Mac = [0x02, 0x06, 0x00, 0x00, 0xa8, 63];
/// The device by which everything is plugged in.
pub(crate) const UPLINK: &str = "eth0";

/// The switch and the outside host.
#[derive(Debug)]
pub(crate) struct Fabric {
    switch: NetNs,
    outside: NetNs,
}

impl Fabric {
    /// Builds the switch and plugs the outside host into it.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let fabric = Self { switch: NetNs::new()?, outside: NetNs::new()? };
        quiet_ipv6(&fabric.switch)?;
        let mut links = fabric.switch.links()?;
        links.add_link(&NewLink { up: true, ..NewLink::new(BRIDGE, LinkKind::Bridge) })?;
        let bridge = links.index_of(BRIDGE)?;
        for address in [on_fabric_v4(SWITCH_V4), on_fabric_v4(API_SERVER_V4)] {
            links.add_address(bridge, address)?;
        }
        for address in [on_fabric_v6(SWITCH_V6), on_fabric_v6(API_SERVER_V6)] {
            links.add_address(bridge, address)?;
        }
        quiet_ipv6(&fabric.outside)?;
        fabric.plug(OUTSIDE_PORT, OUTSIDE_MAC, &fabric.outside)?;
        let mut links = fabric.outside.links()?;
        let uplink = links.index_of(UPLINK)?;
        links.add_address(uplink, on_fabric_v4(OUTSIDE_V4))?;
        links.add_address(uplink, on_fabric_v6(OUTSIDE_V6))?;
        add_default_routes(&mut links, uplink)?;
        Ok(fabric)
    }

    /// Plugs a namespace into the switch with a device [`UPLINK`], which is up.
    fn plug(&self, port: &str, mac: Mac, namespace: &NetNs) -> kernel::Result<()> {
        let kind = LinkKind::Veth { peer: UPLINK, peer_netns: Some(namespace.inner()) };
        let mut ports = self.switch.links()?;
        ports.add_link(&NewLink::new(port, kind))?;
        let (bridge, index) = (ports.index_of(BRIDGE)?, ports.index_of(port)?);
        ports.change_link(
            index,
            &LinkChange { up: Some(true), master: Some(bridge), ..LinkChange::default() },
        )?;
        let mut links = namespace.links()?;
        let uplink = links.index_of(UPLINK)?;
        let mac = Some(MacAddress(mac));
        links.change_link(uplink, &LinkChange { up: Some(true), mac, ..LinkChange::default() })
    }

    /// Plugs a node's namespace into the switch.
    pub(crate) fn plug_node(&self, node: NodeNumber, namespace: &NetNs) -> kernel::Result<()> {
        self.plug(&port_of(node), node.mac(), namespace)?;
        // The API server is behind the switch, and calls webhooks in pods.
        let mut links = self.switch.links()?;
        let bridge = links.index_of(BRIDGE)?;
        for (destination, via) in [
            (IpNet::V4(node.pod_cidr_v4()), IpAddr::V4(node.v4())),
            (IpNet::V6(node.pod_cidr_v6()), IpAddr::V6(node.v6())),
        ] {
            links.set_route(&RouteEntry::new(destination, Some(bridge), Some(via)))?;
        }
        Ok(())
    }

    /// Cuts a node's cable.
    pub(crate) fn cut(&self, node: NodeNumber) -> kernel::Result<()> {
        self.switch.links()?.set_down(&port_of(node))
    }

    /// Repairs a node's cable.
    pub(crate) fn heal(&self, node: NodeNumber) -> kernel::Result<()> {
        self.switch.links()?.set_up(&port_of(node))
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
pub(crate) fn add_default_routes(links: &mut RouteSocket, uplink: u32) -> kernel::Result<()> {
    let routes = [(default_v4(), IpAddr::V4(SWITCH_V4)), (default_v6(), IpAddr::V6(SWITCH_V6))];
    routes.iter().try_for_each(|(destination, via)| {
        links.set_route(&RouteEntry::new(*destination, Some(uplink), Some(*via)))
    })
}

/// No router solicitations, no duplicate address detection: the lab knows its addresses, and a second of
/// "tentative" would be a second in which packets fail.
pub(crate) fn quiet_ipv6(namespace: &NetNs) -> kernel::Result<()> {
    namespace.write_sysctls(&[
        ("ipv6/conf/all/accept_dad", "0"),
        ("ipv6/conf/all/accept_ra", "0"),
        ("ipv6/conf/all/router_solicitations", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/default/accept_ra", "0"),
        ("ipv6/conf/default/router_solicitations", "0"),
    ])
}

fn port_of(node: NodeNumber) -> String {
    // Interface names have at most 15 characters; the node's own name may be longer.
    format!("port-{}", node.v4().octets()[3])
}
