//! What the agent knows and wants, in words.

use std::fmt::Write as _;
use std::net::IpAddr;

use datapath::diff::diff;
use datapath::explain::{self, explain};
use datapath::state::{DatapathState, RouteTarget};
use datapath::view::{Destinations, NodeView};

use super::{Converger, Kernel, interest};
use crate::debug::Question;

const NOTHING_YET: &str = "the agent has made no pass over the kernel yet; see its log and /readyz\n";

impl<K: Kernel> Converger<K> {
    /// The answer to a question, for people.
    pub fn answer(&mut self, question: &Question) -> String {
        let (Some(view), Some(wanted)) = (&self.last_view, &self.last_wanted) else {
            return NOTHING_YET.to_owned();
        };
        match question {
            Question::State => state(view),
            Question::Ruleset => ruleset(wanted),
            Question::Diff => match self.kernel.read(&interest(wanted, &self.local.settings)) {
                Ok(found) => difference(&diff(&found, wanted)),
                Err(error) => format!("error: the kernel can't be read: {error}\n"),
            },
            Question::Why { pod, destination, protocol, port } => {
                let Some(source) = address_of(view, pod, *destination) else {
                    return format!(
                        "error: {pod} is neither an address nor a pod of node {} with an address of that family; \
                         ask the agent of its own node\n",
                        view.node
                    );
                };
                let (destination, protocol, port) = (*destination, *protocol, *port);
                let question = explain::Question { source, destination, protocol, port };
                let numbering = self.numbering.clone().unwrap_or_default();
                explain(view, &numbering, wanted, &question).to_string()
            }
        }
    }
}

fn address_of(view: &NodeView, pod: &str, destination: IpAddr) -> Option<IpAddr> {
    if let Ok(address) = pod.parse() {
        return Some(address);
    }
    let name = if pod.contains('/') { pod.to_owned() } else { format!("default/{pod}") };
    let (_, pod) = view.pods.iter().find(|(key, _)| key.to_string() == name)?;
    pod.addresses.iter().copied().find(|address| address.is_ipv4() == destination.is_ipv4())
}

fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    if items.is_empty() { "none".to_owned() } else { items.join(" ") }
}

fn state(view: &NodeView) -> String {
    let mut text = String::new();
    // Writing to a string can't fail.
    let mut say = |heading: &str, line: String| {
        let _ = writeln!(text, "{heading:<10}{line}");
    };
    say("node", view.node.clone());
    match &view.uplink {
        Some(uplink) => say("uplink", format!("{} {}", uplink.device, list(uplink.addresses()))),
        None => say("uplink", "none found".to_owned()),
    }
    match &view.tunnel {
        Some(own) => say("tunnel", format!("{} {}", view.settings.tunnel_device, list(own.addresses()))),
        None => say("tunnel", "no address was given to this node yet".to_owned()),
    }
    say("peers", view.peers.len().to_string());
    say("pods", format!("{}, of which policies select {}", view.pods.len(), view.selected_pods().len()));
    say("cluster", list(&view.cluster_cidrs));
    for policy in &view.policies {
        let to = match &policy.destinations {
            Destinations::Outside => "everything outside".to_owned(),
            Destinations::Subnets(nets) => list(nets),
        };
        let eip = policy.eip.map_or("no EIP yet".to_owned(), |eip| eip.to_string());
        say("policy", format!("{}: {} pods here, {eip}, to {to}", policy.precedence.key, policy.pods.len()));
    }
    for (eip, source) in &view.eips {
        let carrier = source.carrier.as_deref().unwrap_or("nobody");
        let ports = match (source.block, source.overflow, source.node_address) {
            (_, _, true) => "the carrier's own address".to_owned(),
            (Some(block), ..) => format!("ports {}-{}", block.first(), block.last()),
            (None, true, _) => "no ports, overflow".to_owned(),
            (None, false, _) => "no ports".to_owned(),
        };
        let draining = source.draining.iter().map(|block| format!("{}-{}", block.first(), block.last()));
        let draining: Vec<String> = draining.collect();
        let draining =
            if draining.is_empty() { String::new() } else { format!(", draining {}", draining.join(" ")) };
        say("leaves", format!("{eip} by {carrier}, {ports}{draining}"));
    }
    for (eip, own) in &view.gateway_eips {
        let answers = if own.answers { "answered here" } else { "stand-by" };
        say("gateway", format!("{eip} {answers}, {} blocks of {} nodes", own.leases.len(), holders(own)));
    }
    if view.lends_address {
        say("gateway", "lends its own address (useNodeIP)".to_owned());
    }
    text
}

fn holders(own: &datapath::view::GatewayEip) -> usize {
    own.leases.iter().map(|lease| &lease.node).collect::<std::collections::BTreeSet<_>>().len()
}

fn ruleset(wanted: &DatapathState) -> String {
    let mut text = String::new();
    // Writing to a string can't fail.
    let mut say = |line: String| {
        let _ = writeln!(text, "# {line}");
    };
    match &wanted.tunnel {
        Some(tunnel) => {
            say(format!(
                "link {}: vxlan id {} port {} local {} dev {} mtu {} mac {} addresses {}",
                tunnel.name,
                tunnel.vni,
                tunnel.port,
                tunnel.local,
                tunnel.parent,
                tunnel.mtu,
                tunnel.mac,
                list(tunnel.addresses())
            ));
        }
        None => say("no tunnel: this node has no tunnel address or no uplink".to_owned()),
    }
    for peer in &wanted.peers {
        say(format!("peer {} at {}: {}", peer.mac, peer.underlay, list(peer.addresses())));
    }
    for rule in &wanted.rules {
        let family = if rule.ipv6 { "-6" } else { "-4" };
        say(format!(
            "ip {family} rule: priority {} fwmark {:#x}/{:#x} lookup {}",
            rule.priority, rule.mark, rule.mask, rule.table
        ));
    }
    for route in &wanted.routes {
        let target = match &route.target {
            RouteTarget::Device { device, via: Some(via) } => format!("via {via} dev {device} onlink"),
            RouteTarget::Device { device, via: None } => format!("dev {device}"),
            RouteTarget::Unreachable => "unreachable".to_owned(),
            RouteTarget::Blackhole => "blackhole".to_owned(),
        };
        say(format!(
            "ip route: {} {target} table {} metric {}",
            route.destination, route.table, route.metric
        ));
    }
    for entry in &wanted.proxy_neighbours {
        say(format!("ip neigh: proxy {} dev {}", entry.address, entry.device));
    }
    for (path, value) in &wanted.sysctls {
        say(format!("sysctl: net/{path} = {value}"));
    }
    for table in wanted.tables.values() {
        let _ = write!(text, "{table}");
    }
    text
}

fn difference(transaction: &datapath::transaction::Transaction) -> String {
    if transaction.is_empty() {
        return "the kernel holds what it shall hold\n".to_owned();
    }
    let mut text = "the kernel differs; a pass would do this:\n".to_owned();
    for change in transaction.before.iter() {
        let _ = writeln!(text, "  {change:?}");
    }
    for command in &transaction.nft {
        let _ = writeln!(text, "  {command}");
    }
    for change in transaction.after.iter() {
        let _ = writeln!(text, "  {change:?}");
    }
    text
}
