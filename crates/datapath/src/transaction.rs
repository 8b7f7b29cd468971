//! What changes a node's kernel, and what was found there: the two ends of the diff.
//!
//! A [`Transaction`] leaves no choice to the executor: commands run in the order in which they stand. The nf_tables part
//! is one atomic batch; the routing parts before and after it are single steps, each of which succeeds when its goal
//! is already there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::nft::{BaseChain, Chain, DataType, FieldType, Key, Rule, Set, Table, TableFamily, Timeout, Value};
use crate::state::{DatapathState, ProxyNeighbour, Route, RoutingRule, TunnelDevice, TunnelPeer};

/// Everything that leads from what is there to what shall be there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// Steps that must be there before the rules use them
    pub before: Vec<RouteChange>,
    /// One atomic batch
    pub nft: Vec<NftCommand>,
    /// Steps that are safe only once the rules are there, or no longer there
    pub after: Vec<RouteChange>,
}

impl Transaction {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.before.is_empty() && self.nft.is_empty() && self.after.is_empty()
    }
}

/// Names a table. Tables of different families may share a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableId {
    /// Address family
    pub family: TableFamily,
    /// Name
    pub name: String,
}

/// Shape of a set or map, without its elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetShape {
    /// Fields of the key, in order
    pub key: Vec<FieldType>,
    /// What a key maps to; `None` for a plain set
    pub data: Option<DataType>,
    /// Whether keys are ranges
    pub interval: bool,
    /// Whether elements may expire
    pub timeout: bool,
    /// Whether the kernel counts packets at each element
    pub counting: bool,
}

impl From<&Set> for SetShape {
    fn from(set: &Set) -> Self {
        Self {
            key: set.key.clone(),
            data: set.data.clone(),
            interval: set.interval,
            timeout: set.timeout,
            counting: set.counting,
        }
    }
}

/// One step of an nf_tables batch. What is added must not be there yet, what is deleted must be, except where said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NftCommand {
    /// Makes the table unless it is there; one that lives on after its owner process is taken over
    AddTable(TableId),
    /// Removes the table with all that is in it
    DeleteTable(TableId),
    /// Makes a named counter, unless it is there
    AddCounter {
        /// In this table
        table: TableId,
        /// Its name
        name: String,
    },
    /// Removes a named counter that no rule uses any more
    DeleteCounter {
        /// In this table
        table: TableId,
        /// Its name
        name: String,
    },
    /// Makes named timeouts, unless they are there
    AddTimeout {
        /// In this table
        table: TableId,
        /// Their name
        name: String,
        /// What they say
        timeout: Timeout,
    },
    /// Removes named timeouts that no rule uses any more
    DeleteTimeout {
        /// In this table
        table: TableId,
        /// Their name
        name: String,
    },
    /// Makes an empty set or map, unless one of the same shape is there
    AddSet {
        /// In this table
        table: TableId,
        /// Its name
        name: String,
        /// Its shape
        shape: SetShape,
    },
    /// Removes a set or map that no rule uses any more
    DeleteSet {
        /// In this table
        table: TableId,
        /// Its name
        name: String,
    },
    /// Removes all elements
    FlushSet {
        /// In this table
        table: TableId,
        /// Name of the set or map
        name: String,
    },
    /// Adds elements. A key that is there with the same value is left as it is, with another value it is an error:
    /// delete it first, in the same batch
    AddElements {
        /// In this table
        table: TableId,
        /// Name of the set or map
        set: String,
        /// The elements; intervals must not overlap
        elements: BTreeMap<Key, Value>,
        /// Life time of these elements, for sets with timeout
        timeout_ms: Option<u64>,
    },
    /// Deletes elements, which must be there
    DeleteElements {
        /// In this table
        table: TableId,
        /// Name of the set or map
        set: String,
        /// The keys
        keys: BTreeSet<Key>,
    },
    /// Makes an empty chain, unless it is there
    AddChain {
        /// In this table
        table: TableId,
        /// Its name
        name: String,
        /// Where it is attached
        hook: Option<BaseChain>,
    },
    /// Removes an empty chain that nothing jumps to
    DeleteChain {
        /// In this table
        table: TableId,
        /// Its name
        name: String,
    },
    /// Removes all rules of a chain
    FlushChain {
        /// In this table
        table: TableId,
        /// Name of the chain
        name: String,
    },
    /// Puts a rule in front of a chain of somebody else's
    InsertRule {
        /// In this table
        table: TableId,
        /// Name of the chain
        chain: String,
        /// The rule
        rule: Rule,
    },
    /// Appends a rule to a chain
    AddRule {
        /// In this table
        table: TableId,
        /// Name of the chain
        chain: String,
        /// The rule
        rule: Rule,
    },
}

impl NftCommand {
    /// The table that the command works on.
    #[must_use]
    pub fn table(&self) -> &TableId {
        match self {
            Self::AddTable(table) | Self::DeleteTable(table) => table,
            Self::AddCounter { table, .. }
            | Self::DeleteCounter { table, .. }
            | Self::AddTimeout { table, .. }
            | Self::DeleteTimeout { table, .. }
            | Self::AddSet { table, .. }
            | Self::DeleteSet { table, .. }
            | Self::FlushSet { table, .. }
            | Self::AddElements { table, .. }
            | Self::DeleteElements { table, .. }
            | Self::AddChain { table, .. }
            | Self::DeleteChain { table, .. }
            | Self::FlushChain { table, .. }
            | Self::InsertRule { table, .. }
            | Self::AddRule { table, .. } => table,
        }
    }
}

impl fmt::Display for NftCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = &self.table().name;
        match self {
            Self::AddTable(_) => write!(f, "add table {table}"),
            Self::DeleteTable(_) => write!(f, "delete table {table}"),
            Self::AddCounter { name, .. } => write!(f, "add counter {table} {name}"),
            Self::DeleteCounter { name, .. } => write!(f, "delete counter {table} {name}"),
            Self::AddTimeout { name, .. } => write!(f, "add ct timeout {table} {name}"),
            Self::DeleteTimeout { name, .. } => write!(f, "delete ct timeout {table} {name}"),
            Self::AddSet { name, .. } => write!(f, "add set {table} {name}"),
            Self::DeleteSet { name, .. } => write!(f, "delete set {table} {name}"),
            Self::FlushSet { name, .. } => write!(f, "flush set {table} {name}"),
            Self::AddElements { set, elements, .. } => {
                write!(f, "add {} elements to {table} {set}", elements.len())
            }
            Self::DeleteElements { set, keys, .. } => {
                write!(f, "delete {} elements of {table} {set}", keys.len())
            }
            Self::AddChain { name, .. } => write!(f, "add chain {table} {name}"),
            Self::DeleteChain { name, .. } => write!(f, "delete chain {table} {name}"),
            Self::FlushChain { name, .. } => write!(f, "flush chain {table} {name}"),
            Self::InsertRule { chain, rule, .. } => {
                write!(f, "insert rule {table} {chain} \"{}\"", rule.comment)
            }
            Self::AddRule { chain, rule, .. } => write!(f, "add rule {table} {chain} \"{}\"", rule.comment),
        }
    }
}

/// One step on links, neighbours, routes, rules or sysctls. Setting what is there, and deleting what is not, succeeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteChange {
    /// Makes the tunnel device, changes it, or makes it anew where the kernel can't change it; then brings it up. A
    /// device that is made anew has lost its peers, addresses and routes, which the next pass finds missing
    SetTunnel(TunnelDevice),
    /// Removes the tunnel device, and with it peers and routes
    DeleteTunnel {
        /// Its name
        name: String,
    },
    /// Sets FDB entry and neighbours of a peer, replacing what is there for its MAC and its tunnel addresses
    SetPeer {
        /// Name of the tunnel device
        device: String,
        /// The peer
        peer: TunnelPeer,
    },
    /// Removes FDB entry and neighbours of a peer. Removals come before additions that reuse a MAC or an address
    DeletePeer {
        /// Name of the tunnel device
        device: String,
        /// The peer
        peer: TunnelPeer,
    },
    /// Sets a route, replacing ours to the same destination with the same metric in its table
    SetRoute(Route),
    /// Removes a route of ours
    DeleteRoute(Route),
    /// Adds a policy routing rule
    AddRule(RoutingRule),
    /// Removes a policy routing rule of ours
    DeleteRule(RoutingRule),
    /// Adds a proxy ARP or NDP entry
    AddProxyNeighbour(ProxyNeighbour),
    /// Removes a proxy ARP or NDP entry
    DeleteProxyNeighbour(ProxyNeighbour),
    /// Writes a value under /proc/sys/net
    SetSysctl {
        /// Path below /proc/sys/net, joined by `/`
        path: String,
        /// Value
        value: String,
    },
}

/// What to look for in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Tables
    pub tables: BTreeSet<TableId>,
    /// Name of the tunnel device
    pub tunnel: Option<String>,
    /// Values under /proc/sys/net
    pub sysctls: BTreeSet<String>,
}

/// What was found in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Everything but tables: links, peers, and what carries our protocol number. `tables` is empty here
    pub state: DatapathState,
    /// The tables of interest that are there
    pub tables: BTreeMap<TableId, FoundTable>,
    /// Generation of the ruleset, which every commit by anybody raises
    pub generation: u32,
}

/// A table as it is in the kernel. Rules are known by their content hash only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundTable {
    /// Whether the kernel keeps other processes from changing it
    pub owned: bool,
    /// Sets and maps with their elements. A set whose types are not ours has an empty key, which equals no wanted set
    pub sets: BTreeMap<String, Set>,
    /// Named counters with their values
    pub counters: BTreeMap<String, CounterValue>,
    /// Names of timeouts
    pub timeouts: BTreeSet<String>,
    /// Chains
    pub chains: BTreeMap<String, FoundChain>,
}

impl FoundTable {
    /// As a table is found that was just written so.
    #[must_use]
    pub fn of(table: &Table) -> Self {
        let chain = |chain: &Chain| FoundChain {
            hook: chain.hook.clone(),
            rules: chain.rules.iter().map(Rule::content_hash).collect(),
        };
        Self {
            owned: true,
            sets: table.sets.clone(),
            timeouts: table.timeouts.keys().cloned().collect(),
            counters: table.counters.iter().map(|name| (name.clone(), CounterValue::default())).collect(),
            chains: table.chains.iter().map(|(name, found)| (name.clone(), chain(found))).collect(),
        }
    }
}

/// A chain as it is in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundChain {
    /// Where it is attached; `None` also for a hook that is none of ours
    pub hook: Option<BaseChain>,
    /// Content hashes of its rules in order; 0 for a rule that carries none, and so equals no wanted rule
    pub rules: Vec<u64>,
}

/// Packets and bytes that a named counter saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CounterValue {
    /// Packets
    pub packets: u64,
    /// Bytes
    pub bytes: u64,
}
