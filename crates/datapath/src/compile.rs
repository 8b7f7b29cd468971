//! From what a node knows to what its kernel shall hold.
//!
//! ```text
//! prerouting  -300  raw_prerouting  outer datagrams; from the tunnel; to EIPs from outside
//!             -101  echo            answers pings of EIPs
//!              -95  source          pods' new connections -> connection mark -> packet mark of the gateway
//! forward      -10  forward         refusals, pods that are not known yet, MSS clamp
//! input        -10  input           refusals
//! output      -300  raw_output      outer datagrams
//!             -300  reply_output    this host's own answers to EIPs
//! output       -95  overflow_output this host's own answers to what it translated for another node
//! postrouting   99  translate       connection mark -> EIP and port block
//!              300  postrouting     EIP restored, marks cleared, guard
//! ```
//!
//! Base chains only tell the families apart; each family has its own regular chains, whose names end in 4 or 6.

use std::collections::BTreeMap;

use crate::nft::{Table, TableFamily};
use crate::numbering::Numbering;
use crate::state::DatapathState;
use crate::view::NodeView;

pub mod alive;
pub(crate) mod build;
mod family;
mod gateway;
mod guard;
pub mod names;
mod node_address;
mod overflow;
mod raw;
mod refuse;
mod routing;
mod source;
mod start;
mod timeout;

/// What the node's kernel shall hold. `numbering` must have been updated with the same view: what has no number there is
/// treated as if it had no way out.
#[must_use]
pub fn compile(view: &NodeView, numbering: &Numbering) -> DatapathState {
    let mut state = routing::compile(view, numbering);
    let context = Context { view, numbering, translates: view.translates() };
    let tables = [Some(table(&context)), alive::arp_table(&context)];
    state.tables = tables.into_iter().flatten().map(|table| (table.name.clone(), table)).collect();
    state
}

fn table(context: &Context<'_>) -> Table {
    let mut table = Table {
        family: TableFamily::Inet,
        name: names::TABLE.to_owned(),
        sets: BTreeMap::new(),
        timeouts: BTreeMap::new(),
        counters: names::COUNTERS.iter().map(|(name, _)| (*name).to_owned()).collect(),
        chains: BTreeMap::new(),
    };
    raw::compile(context, &mut table);
    gateway::compile(context, &mut table);
    node_address::compile(context, &mut table);
    overflow::compile(context, &mut table);
    source::compile(context, &mut table);
    refuse::compile(context, &mut table);
    guard::compile(context, &mut table);
    table
}

/// What every part of the compiler reads.
struct Context<'a> {
    view: &'a NodeView,
    numbering: &'a Numbering,
    /// [`NodeView::translates`], which looks through all leases
    translates: bool,
}

impl Context<'_> {
    /// Families that are served.
    fn families(&self) -> impl Iterator<Item = family::Family> + use<> {
        let settings = &self.view.settings;
        let (v4, v6) = (settings.ipv4, settings.ipv6);
        [(v4, family::V4), (v6, family::V6)].into_iter().filter_map(|(on, family)| on.then_some(family))
    }

    /// Name of the tunnel device.
    fn tunnel(&self) -> &str {
        &self.view.settings.tunnel_device
    }
}
