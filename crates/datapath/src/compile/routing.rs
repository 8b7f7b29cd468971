//! Tunnel device, peers, routes, rules, proxy neighbours and sysctls.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use model::mark::PACKET_MASK;

use crate::numbering::Numbering;
use crate::state::{
    DatapathState, ProxyNeighbour, Route, RouteTarget, RoutingRule, TunnelDevice, TunnelPeer,
};
use crate::view::NodeView;

/// The main routing table.
const MAIN_TABLE: u32 = 254;
/// Before kube-proxy's and most CNIs' rules, after the local table.
const RULE_PRIORITY: u32 = 99;
/// Of routes that only count when all others are gone.
const LAST_METRIC: u32 = u32::MAX;
/// The kernel's own default for IPv6, written out so that what is read back is equal.
const IPV6_METRIC: u32 = 1024;

/// Bytes that VXLAN adds: outer IP header, UDP 8, VXLAN 8, inner Ethernet 14.
const OVERHEAD_V4: u32 = 20 + 8 + 8 + 14;
const OVERHEAD_V6: u32 = 40 + 8 + 8 + 14;

/// MTU of the tunnel device; `None` while there is neither a setting nor an uplink.
pub(super) fn tunnel_mtu(view: &NodeView) -> Option<u32> {
    if view.settings.tunnel_mtu != 0 {
        return Some(view.settings.tunnel_mtu);
    }
    let uplink = view.uplink.as_ref()?;
    let overhead = if uplink.ipv4.is_some() { OVERHEAD_V4 } else { OVERHEAD_V6 };
    Some(uplink.mtu.saturating_sub(overhead))
}

/// All but the table.
pub(super) fn compile(view: &NodeView, numbering: &Numbering) -> DatapathState {
    let mut state = DatapathState { tunnel: tunnel(view), ..DatapathState::default() };
    if state.tunnel.is_some() {
        peers(view, &mut state);
        gateway(view, &mut state);
    }
    slots(view, numbering, &mut state);
    let mut values = BTreeMap::new();
    sysctls(view, &state, &mut values);
    state.sysctls = values;
    state
}

fn tunnel(view: &NodeView) -> Option<TunnelDevice> {
    let (uplink, own) = (view.uplink.as_ref()?, view.tunnel.as_ref()?);
    let local = uplink.ipv4.map(IpAddr::V4).or(uplink.ipv6.map(IpAddr::V6))?;
    let ipv4 = own.ipv4.filter(|_| view.settings.ipv4);
    let ipv6 = own.ipv6.filter(|_| view.settings.ipv6);
    if ipv4.is_none() && ipv6.is_none() {
        return None;
    }
    Some(TunnelDevice {
        name: view.settings.tunnel_device.clone(),
        vni: view.settings.vni,
        port: view.settings.tunnel_port,
        parent: uplink.device.clone(),
        local,
        mac: own.mac,
        mtu: tunnel_mtu(view)?,
        ipv4,
        ipv6,
    })
}

/// The peer's addresses in the families that are served.
fn addresses(view: &NodeView, peer: &crate::view::Peer) -> impl Iterator<Item = IpAddr> {
    let ipv4 = peer.ipv4.filter(|_| view.settings.ipv4).map(IpAddr::V4);
    ipv4.into_iter().chain(peer.ipv6.filter(|_| view.settings.ipv6).map(IpAddr::V6))
}

fn via_tunnel(view: &NodeView, via: Option<IpAddr>) -> RouteTarget {
    RouteTarget::Device { device: view.settings.tunnel_device.clone(), via }
}

fn default_metric(address: IpAddr) -> u32 {
    if address.is_ipv6() { IPV6_METRIC } else { 0 }
}

/// With a connected route, the kernel would take an EIP that was put back for the neighbour; the explicit next hop keeps
/// the holder's tunnel address.
fn peers(view: &NodeView, state: &mut DatapathState) {
    for (_, peer) in view.peers.iter().filter(|(name, _)| **name != view.node) {
        state.peers.insert(TunnelPeer {
            mac: peer.mac,
            underlay: peer.underlay,
            ipv4: peer.ipv4.filter(|_| view.settings.ipv4),
            ipv6: peer.ipv6.filter(|_| view.settings.ipv6),
        });
        for address in addresses(view, peer) {
            state.routes.insert(Route {
                table: MAIN_TABLE,
                destination: IpNet::from(address),
                target: via_tunnel(view, Some(address)),
                metric: default_metric(address),
            });
        }
    }
}

/// The host route makes the kernel answer ARP for a proxy entry (the way to the address must leave by another device),
/// and "fragmentation needed" for what exceeds the tunnel.
fn gateway(view: &NodeView, state: &mut DatapathState) {
    for (eip, gateway) in &view.gateway_eips {
        for address in eip.addresses() {
            let served = if address.is_ipv4() { view.settings.ipv4 } else { view.settings.ipv6 };
            if !served {
                continue;
            }
            state.routes.insert(Route {
                table: MAIN_TABLE,
                destination: IpNet::from(address),
                target: via_tunnel(view, None),
                metric: default_metric(address),
            });
            if let (true, Some(uplink)) = (gateway.answers, &view.uplink) {
                state.proxy_neighbours.insert(ProxyNeighbour { device: uplink.device.clone(), address });
            }
        }
    }
}

/// A table per gateway. Its last route refuses: when device or route goes away, the lookup must not go on to the main
/// table, where the packet would leave past the gateway.
fn slots(view: &NodeView, numbering: &Numbering, state: &mut DatapathState) {
    let families = [(view.settings.ipv4, "0.0.0.0/0"), (view.settings.ipv6, "::/0")];
    for (node, slot) in numbering.slots() {
        for default in
            families.iter().filter(|(served, _)| *served).filter_map(|(_, net)| net.parse::<IpNet>().ok())
        {
            let ipv6 = default.addr().is_ipv6();
            state.rules.insert(RoutingRule {
                ipv6,
                priority: RULE_PRIORITY,
                mark: slot.mark(),
                mask: PACKET_MASK,
                table: slot.table(),
            });
            state.routes.insert(Route {
                table: slot.table(),
                destination: default,
                target: RouteTarget::Unreachable,
                metric: LAST_METRIC,
            });
            let via =
                view.peers.get(node).and_then(|peer| addresses(view, peer).find(|a| a.is_ipv6() == ipv6));
            if let (Some(via), Some(_)) = (via, &state.tunnel) {
                state.routes.insert(Route {
                    table: slot.table(),
                    destination: default,
                    target: via_tunnel(view, Some(via)),
                    metric: default_metric(via),
                });
            }
        }
    }
}

fn sysctls(view: &NodeView, state: &DatapathState, values: &mut BTreeMap<String, String>) {
    let mut set = |path: String, value: &str| values.insert(path, value.to_owned());
    let Some(tunnel) = &state.tunnel else { return };
    let device = &tunnel.name;
    if view.settings.ipv4 {
        set("ipv4/ip_forward".to_owned(), "1");
        // Replies come with outside sources, which a strict check expects on the uplink. The greater of this and `all` counts.
        set(format!("ipv4/conf/{device}/rp_filter"), "2");
        // What comes in from one peer never leaves to another, but a redirect about it would be taken seriously.
        set(format!("ipv4/conf/{device}/send_redirects"), "0");
    }
    if view.settings.ipv6 {
        set("ipv6/conf/all/forwarding".to_owned(), "1");
        set(format!("ipv6/conf/{device}/accept_ra"), "0");
    }
    if let (false, Some(uplink)) = (view.gateway_eips.is_empty(), &view.uplink) {
        // By default the kernel waits up to 0.8 s before it answers for a proxy entry.
        if view.settings.ipv4 {
            set(format!("ipv4/neigh/{}/proxy_delay", uplink.device), "0");
        }
        if view.settings.ipv6 {
            set(format!("ipv6/neigh/{}/proxy_delay", uplink.device), "0");
            set(format!("ipv6/conf/{}/proxy_ndp", uplink.device), "1");
        }
    }
}
