//! An independent judge: does a state do what its view asks for, and nothing that must never be?
//!
//! It shares nothing with the compiler but the names in the kernel. It asks each question the slow and obvious way:
//! policies one after the other, for every address at the edge of anything. Tests ask it about every state that they see;
//! production may ask it before a state is applied.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use model::EipPair;
use model::mark::{BASE, BASE_MASK, FOREIGN_MASK};
use model::pool::Family;

use crate::compile::names;
use crate::nft::{BaseChain, ChainKind, Hook, Statement, Table};
use crate::state::{DatapathState, RouteTarget, RoutingRule};
use crate::view::NodeView;
use read::Tables;

mod ports;
mod read;
mod selection;

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Violation {
    /// A pod would leave with another EIP than the policies say, or with one though none says so, or without.
    WrongEip {
        /// The pod's address
        pod: IpAddr,
        /// Where to
        destination: IpAddr,
        /// What the policies say
        wanted: Selection,
        /// What the maps say
        found: Selection,
    },
    /// Flows of an EIP go elsewhere than to its carrier.
    WrongWay {
        /// The EIP
        eip: EipPair,
        /// Where they go: a tunnel address, this node's own uplink, or nowhere
        found: Way,
    },
    /// An EIP is translated to ports that this node does not hold.
    WrongPorts {
        /// The EIP
        eip: EipPair,
    },
    /// Two EIPs share a number, or one has two.
    SharedNumber {
        /// The connection or packet mark
        mark: u32,
    },
    /// Two nodes hold one port of an EIP.
    SharedPort {
        /// The EIP
        eip: IpAddr,
        /// The port
        port: u16,
    },
    /// A node may use ports of an EIP whose replies go elsewhere, or may not use those whose replies it gets.
    OneWayLease {
        /// The EIP
        eip: IpAddr,
        /// First port of the block
        port: u16,
    },
    /// A mark leads to a table that may lead on to the main table.
    OpenTable {
        /// The table
        table: u32,
    },
    /// A mark has bits that belong to others.
    ForeignBits {
        /// The mark
        mark: u32,
    },
    /// The node answers for an address that is not an EIP of its own, or does not answer for one that it should.
    WrongAnswer {
        /// The address
        address: IpAddr,
    },
    /// A gateway's EIP has no host route into the tunnel, so nobody would get an answer for it.
    NoHostRoute {
        /// The EIP
        address: IpAddr,
    },
    /// The node would answer for an EIP though its agent is gone.
    AnswersForEver {
        /// The EIP
        address: IpAddr,
    },
    /// A pod is taken for a stranger, a stranger for a pod, or strangers are not held though policies exist.
    WrongStrangers {
        /// IPv4 or IPv6
        family: Family,
    },
    /// A chain is missing at its hook, or at the wrong side of what others do there.
    NoChain {
        /// What should be there
        what: &'static str,
    },
}

/// How a destination is selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Selection {
    /// By no policy
    Untouched,
    /// By a policy that has no EIP to leave with
    Refused,
    /// By a policy with this EIP
    Eip(IpAddr),
}

/// Where flows of an EIP go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// They are refused
    Nowhere,
    /// Out by this node's own uplink
    Uplink,
    /// Into the tunnel, to this tunnel address
    Tunnel(IpAddr),
    /// To a table that only refuses
    Closed,
}

/// One sentence.
impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongEip { pod, destination, wanted, found } => {
                write!(f, "pod {pod} to {destination}: policies say {wanted:?}, the maps {found:?}")
            }
            Self::WrongWay { eip, found } => write!(f, "flows of {eip} do not go to its carrier: {found:?}"),
            Self::WrongPorts { eip } => write!(f, "{eip} is translated to ports that are not held here"),
            Self::SharedNumber { mark } => {
                write!(f, "mark {mark:#x} stands for two EIPs, or is one of two of an EIP")
            }
            Self::SharedPort { eip, port } => write!(f, "port {port} of {eip} has two holders"),
            Self::OneWayLease { eip, port } => {
                write!(f, "block {port} of {eip} differs between the way out and the way back")
            }
            Self::OpenTable { table } => write!(f, "table {table} has no default that refuses"),
            Self::ForeignBits { mark } => write!(f, "mark {mark:#x} has bits of others"),
            Self::WrongAnswer { address } => {
                write!(f, "{address} is answered though it is not due here, or not though it is")
            }
            Self::NoHostRoute { address } => write!(f, "{address} has no host route into the tunnel"),
            Self::AnswersForEver { address } => write!(f, "{address} is answered without an agent"),
            Self::WrongStrangers { family } => {
                write!(f, "pods that are not known yet are not told from others ({family:?})")
            }
            Self::NoChain { what } => write!(f, "{what} is missing"),
        }
    }
}

/// All that is wrong with a state that claims to be the view's; empty when all is well.
#[must_use]
pub fn violations(view: &NodeView, state: &DatapathState) -> Vec<Violation> {
    let mut found = BTreeSet::new();
    let empty = BTreeMap::new();
    let table = state.tables.get(names::TABLE);
    let tables = Tables(table.map_or(&empty, |table| &table.sets));
    for family in [Family::V4, Family::V6] {
        let served = if family == Family::V4 { view.settings.ipv4 } else { view.settings.ipv6 };
        if served {
            selection::judge(view, table, &tables, family, &mut found);
            ways(view, state, &tables, family, &mut found);
            ports::judge(view, &tables, family, &mut found);
            answers(view, state, family, &mut found);
            strangers(view, table, &tables, family, &mut found);
        }
    }
    marks(&tables, &mut found);
    for rule in state.rules.iter().filter(|rule| !refuses(state, rule)) {
        found.insert(Violation::OpenTable { table: rule.table });
    }
    match table {
        Some(table) => chains(table, &mut found),
        None => {
            found.insert(Violation::NoChain { what: "the table" });
        }
    }
    found.into_iter().collect()
}

/// Whether the rule's table ends in a refusal for all destinations.
fn refuses(state: &DatapathState, rule: &RoutingRule) -> bool {
    state.routes.iter().any(|route| {
        route.table == rule.table
            && route.destination.prefix_len() == 0
            && route.destination.addr().is_ipv6() == rule.ipv6
            && matches!(route.target, RouteTarget::Unreachable | RouteTarget::Blackhole)
    })
}

fn ways(
    view: &NodeView,
    state: &DatapathState,
    tables: &Tables<'_>,
    family: Family,
    found: &mut BTreeSet<Violation>,
) {
    let local = tables.keys_u32(names::LOCAL_IDS);
    let slots = tables.map_u32(names::SLOT_OF_ID);
    let nodes: BTreeSet<u32> = tables.id_node(family).into_iter().map(|(mark, _)| mark).collect();
    let eips = tables.id_eip(family).into_iter().filter(|(mark, _)| !nodes.contains(mark));
    for (mark, address) in eips.chain(tables.id_node(family)) {
        let Some((eip, source)) = view.eips.iter().find(|(eip, _)| eip.contains(address)) else {
            found.insert(Violation::SharedNumber { mark });
            continue;
        };
        let way = match (local.contains(&mark), slots.get(&mark)) {
            (true, None) => Way::Uplink,
            (false, Some(slot)) => through(state, *slot, family),
            (false, None) => Way::Nowhere,
            (true, Some(_)) => Way::Closed,
        };
        let peer = |node: &String| view.peers.get(node).filter(|_| *node != view.node);
        let tunnel = source.carrier.as_ref().and_then(peer).and_then(|peer| match family {
            Family::V4 => peer.ipv4.map(IpAddr::V4),
            Family::V6 => peer.ipv6.map(IpAddr::V6),
        });
        let right = match &source.carrier {
            None => way == Way::Nowhere,
            Some(node) if *node == view.node => {
                let gets_replies = if source.node_address {
                    view.uplink.is_some()
                } else {
                    view.gateway_eips.contains_key(eip)
                };
                way == if gets_replies { Way::Uplink } else { Way::Nowhere }
            }
            Some(_) if state.tunnel.is_none() => way == Way::Closed,
            Some(_) => way == tunnel.map_or(Way::Closed, Way::Tunnel),
        };
        if !right {
            found.insert(Violation::WrongWay { eip: *eip, found: way });
        }
        let ports = ports::of_new_flows(view, eip, source);
        let ports =
            ports.and_then(|(first, last)| Some((ports::source(view, source, address)?, first, last)));
        if tables.snat(family).get(&mark).copied() != ports {
            found.insert(Violation::WrongPorts { eip: *eip });
        }
    }
}

/// Where packets with this mark are routed.
fn through(state: &DatapathState, mark: u32, family: Family) -> Way {
    let v6 = family == Family::V6;
    let rules = state.rules.iter().filter(|rule| rule.ipv6 == v6 && mark & rule.mask == rule.mark);
    let Some(rule) = rules.min_by_key(|rule| rule.priority) else { return Way::Nowhere };
    let default = state.routes.iter().filter(|route| {
        route.table == rule.table
            && route.destination.prefix_len() == 0
            && route.destination.addr().is_ipv6() == v6
    });
    match default.min_by_key(|route| route.metric).map(|route| &route.target) {
        Some(RouteTarget::Device { via: Some(via), .. }) => Way::Tunnel(*via),
        Some(RouteTarget::Unreachable | RouteTarget::Blackhole) => Way::Closed,
        _ => Way::Nowhere,
    }
}

fn answers(view: &NodeView, state: &DatapathState, family: Family, found: &mut BTreeSet<Violation>) {
    let able = state.tunnel.is_some();
    let due: BTreeSet<IpAddr> = view
        .gateway_eips
        .iter()
        .filter(|(_, own)| own.answers && able)
        .flat_map(|(eip, _)| eip.addresses())
        .filter(|address| Family::of(*address) == family)
        .collect();
    let answered: BTreeSet<IpAddr> = state
        .proxy_neighbours
        .iter()
        .map(|entry| entry.address)
        .filter(|address| Family::of(*address) == family)
        .collect();
    for address in due.symmetric_difference(&answered) {
        found.insert(Violation::WrongAnswer { address: *address });
    }
    let (name, set) = match family {
        Family::V4 => (names::ARP_TABLE, "gateway_eips4"),
        Family::V6 => (names::TABLE, "gateway_eips6"),
    };
    let guarded = state.tables.get(name).filter(|table| asks_alive(table)).map(|table| &table.sets);
    let guarded: BTreeSet<IpAddr> = guarded.map_or_else(BTreeSet::new, |sets| {
        Tables(sets).elements(set).into_iter().filter_map(|(key, _)| read::address(key)).collect()
    });
    if view.settings.arp_filter || family == Family::V6 {
        found.extend(
            answered.difference(&guarded).map(|address| Violation::AnswersForEver { address: *address }),
        );
    }
    for address in &answered {
        let routed = state.routes.iter().any(|route| {
            route.destination == ipnet::IpNet::from(*address)
                && matches!(&route.target, RouteTarget::Device { device, .. } if *device == view.settings.tunnel_device)
        });
        if !routed {
            found.insert(Violation::NoHostRoute { address: *address });
        }
    }
}

/// Whether a chain for this host drops what the agent does not vouch for.
fn asks_alive(table: &Table) -> bool {
    let asks = |statement: &Statement| matches!(statement, Statement::InSet { set, negate: true, .. } if set == names::ALIVE);
    let input = |hook: &BaseChain| hook.hook == Hook::Input;
    let chains = table.chains.values().filter(|chain| chain.hook.as_ref().is_some_and(input));
    chains.flat_map(|chain| &chain.rules).any(|rule| rule.statements.iter().any(asks))
}

/// Whether new connections of pods that are not known yet are held, and nobody else's.
fn strangers(
    view: &NodeView,
    table: Option<&Table>,
    tables: &Tables<'_>,
    family: Family,
    found: &mut BTreeSet<Violation>,
) {
    let set = read::named(names::KNOWN_PODS, family);
    let asks = |statement: &Statement| matches!(statement, Statement::InSet { set: asked, negate: true, .. } if *asked == set);
    let rules = table.into_iter().flat_map(|table| table.chains.values());
    let forward = rules.filter(|chain| chain.hook.as_ref().is_some_and(|base| base.hook == Hook::Forward));
    let holds = forward.flat_map(|chain| &chain.rules).any(|rule| rule.statements.iter().any(asks));
    let due = view.settings.start_guard && !view.policies.is_empty() && view.uplink.is_some();
    let pods = view.pods.values().flat_map(|pod| pod.addresses.iter().copied());
    let pods: BTreeSet<IpAddr> = pods.filter(|address| Family::of(*address) == family).collect();
    let known = tables.elements(&set).into_iter().filter_map(|(key, _)| read::address(key));
    if holds != due || (due && known.collect::<BTreeSet<_>>() != pods) {
        found.insert(Violation::WrongStrangers { family });
    }
}

fn marks(tables: &Tables<'_>, found: &mut BTreeSet<Violation>) {
    let slots = tables.map_u32(names::SLOT_OF_ID).into_values();
    let mut eips: BTreeMap<u32, BTreeSet<EipKey>> = BTreeMap::new();
    for family in [Family::V4, Family::V6] {
        let there = tables.eip_marks(family);
        let back: BTreeSet<(u32, IpAddr)> = tables.mark_eips(family).into_iter().collect();
        for (address, mark) in &there {
            eips.entry(*mark).or_default().insert((family == Family::V6, *address));
            if !back.contains(&(*mark, *address)) {
                found.insert(Violation::SharedNumber { mark: *mark });
            }
        }
        let marks: BTreeSet<u32> = there.values().copied().collect();
        if marks.len() != there.len() || back.len() != there.len() {
            found.extend(marks.first().map(|mark| Violation::SharedNumber { mark: *mark }));
        }
        // One connection mark per EIP of a family, one EIP per connection mark.
        let nodes: BTreeSet<u32> = tables.id_node(family).into_iter().map(|(mark, _)| mark).collect();
        let mut ids = tables.id_eip(family);
        ids.retain(|(mark, _)| !nodes.contains(mark));
        ids.extend(tables.id_node(family));
        let marks: BTreeSet<u32> = ids.iter().map(|(mark, _)| *mark).collect();
        let addresses: BTreeSet<IpAddr> = ids.iter().map(|(_, address)| *address).collect();
        if marks.len() != ids.len() || addresses.len() != ids.len() {
            found.extend(marks.first().map(|mark| Violation::SharedNumber { mark: *mark }));
        }
    }
    for mark in slots.chain(eips.into_keys()) {
        if mark & FOREIGN_MASK != 0 || mark & BASE_MASK != BASE {
            found.insert(Violation::ForeignBits { mark });
        }
    }
}

/// Whether it is IPv6, and the address.
type EipKey = (bool, IpAddr);

/// The places that the guarantees hang on.
fn chains(table: &Table, found: &mut BTreeSet<Violation>) {
    let mut need = |what, fits: &dyn Fn(&BaseChain) -> bool| {
        let any = table
            .chains
            .values()
            .any(|chain| chain.hook.as_ref().is_some_and(fits) && !chain.rules.is_empty());
        if !any {
            found.insert(Violation::NoChain { what });
        }
    };
    need("a chain before connection tracking", &|base| {
        base.hook == Hook::Prerouting && base.kind == ChainKind::Filter && base.priority < -200
    });
    need("a chain between destination NAT and routing", &|base| {
        base.hook == Hook::Prerouting && base.kind == ChainKind::Filter && base.priority > -100
    });
    need("source NAT before that of others", &|base| {
        base.hook == Hook::Postrouting && base.kind == ChainKind::Nat && base.priority < 100
    });
    need("a guard after all NAT", &|base| {
        base.hook == Hook::Postrouting && base.kind == ChainKind::Filter && base.priority > 100
    });
    need("refusals of what is forwarded", &|base| {
        base.hook == Hook::Forward && base.kind == ChainKind::Filter
    });
}
