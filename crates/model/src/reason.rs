//! Every "why", printed alike by status conditions, events, metrics and the command line.

use std::fmt;
use std::net::IpAddr;

use crate::EipPair;
use crate::policy::PolicyKey;
use crate::pool::Family;
use crate::tunnel_mac::MacAddress;

/// Why something is as it is, with what a person needs to understand and mend it.
///
/// [`Reason::code`] is the CamelCase word of a condition or event; `Display` is one sentence that says what is wrong and
/// what helps.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// A field holds a value that can't be used.
    InvalidField {
        /// Path in the object, `spec.ippools.ipv4[2]`
        field: String,
        /// What is there, shortened where it is long; `None` where that says nothing
        value: Option<String>,
        /// What is wrong and what to write instead
        problem: String,
    },
    /// The IPv4 and the IPv6 pool differ in size.
    PoolSizesDiffer {
        /// Addresses of `spec.ippools.ipv4`
        v4: u128,
        /// Addresses of `spec.ippools.ipv6`
        v6: u128,
    },
    /// The pool shares an address with the pool of an older gateway.
    PoolsOverlap {
        /// An address of both
        address: IpAddr,
        /// The gateway that had it first
        gateway: String,
    },
    /// Somebody else on a gateway node's link has an EIP.
    AddressConflict {
        /// The address
        address: IpAddr,
        /// Who has it
        mac: MacAddress,
        /// The node that found it out
        node: String,
    },
    /// Another gateway is the cluster's default one already.
    AnotherDefault {
        /// The gateway that was it first
        gateway: String,
    },
    /// The policy names a gateway that is not there.
    UnknownGateway {
        /// As named in `spec.egressGatewayName`
        gateway: String,
    },
    /// The policy names no gateway and there is no default one.
    NoDefaultGateway,
    /// The gateway itself is refused, so nothing can use it.
    GatewayRefused {
        /// Its name
        gateway: String,
    },
    /// `podSelector` and `podSubnet` are both given.
    SelectorAndSubnet,
    /// Neither `podSelector` nor `podSubnet` is given.
    SelectsNothing,
    /// The wanted EIP is in no pool of the gateway.
    OutsidePool {
        /// The wanted address
        address: IpAddr,
        /// The gateway's name
        gateway: String,
    },
    /// The wanted address is fixed to another partner.
    PairedElsewhere {
        /// What was asked for
        wanted: EipPair,
        /// The pair that exists
        pair: EipPair,
    },
    /// An EIP equals an address that the cluster uses itself.
    AddressInUse {
        /// The address
        address: IpAddr,
        /// Who has it
        owner: String,
    },
    /// Every address of the pool is taken.
    PoolExhausted {
        /// Family of the pool
        family: Family,
        /// The gateway's name
        gateway: String,
    },
    /// The gateway has no pool of any family, and the policy needs an EIP.
    PoolEmpty {
        /// The gateway's name
        gateway: String,
    },
    /// The gateway selects no node at all.
    NoGatewayNode {
        /// The gateway's name
        gateway: String,
    },
    /// The gateway has nodes, but none is ready.
    NoReadyNode {
        /// The gateway's name
        gateway: String,
    },
    /// The tunnel subnet has no free address.
    TunnelSubnetExhausted {
        /// Family of the subnet
        family: Family,
    },
    /// An EIP's ports are all leased.
    PortsExhausted {
        /// The EIP
        eip: EipPair,
    },
    /// Nodes of a gateway's policies lack ports of their EIP.
    PortsShort {
        /// How many have none, each EIP counted
        nodes: usize,
        /// How many use most of what they have, and can't have more
        crowded: usize,
        /// How many more EIPs would give each of them enough
        eips: usize,
    },
    /// Every node that needs ports of the gateway's EIPs has some.
    PortsAvailable,
    /// Some nodes of the gateway can't carry traffic.
    NodesNotReady {
        /// Their names, in order
        nodes: Vec<String>,
        /// How many nodes the gateway has
        of: usize,
    },
    /// Other policies go before this one for some of its pods.
    OtherPoliciesWin {
        /// How many pods
        pods: usize,
        /// How many this policy selects
        of: usize,
        /// The other policies, and how many of the pods each wins
        winners: Vec<(PolicyKey, usize)>,
    },
    /// No pod at all matches the policy.
    SelectsNoPod,
    /// Nothing is missing.
    NotDegraded,
    /// Asked for something that this version does not do.
    Unsupported {
        /// Path of the field
        field: String,
        /// What is not supported and what to do instead
        problem: String,
    },
    /// An EIP was moved because somebody asked for it.
    Moved {
        /// The EIP
        eip: EipPair,
        /// Where it was
        from: String,
        /// Where it is
        node: String,
    },
    /// An EIP is already where somebody asked to have it.
    MoveUnneeded {
        /// The EIP
        eip: EipPair,
        /// Where it is
        node: String,
    },
    /// An EIP can't be moved as somebody asked.
    MoveRefused {
        /// As it was asked for
        request: String,
        /// Why not
        problem: String,
    },
    /// All is well: an EIP is in force.
    Assigned,
    /// All is well: the EIP that was the gateway's default when the policy got it is in force.
    FormerDefault {
        /// The gateway's default EIP now
        default: EipPair,
    },
    /// All is well: pods leave with the own address of the gateway node.
    NodeAddress,
    /// All is well.
    Ready,
}

/// So many characters of a value are shown.
const SHOWN: usize = 80;

impl Reason {
    /// A field holds this value, which can't be used.
    #[must_use]
    pub fn invalid_value(field: impl Into<String>, value: &str, problem: impl Into<String>) -> Self {
        let mut shown: String = value.chars().take(SHOWN).collect();
        if shown.len() < value.len() {
            shown.push('…');
        }
        Self::InvalidField { field: field.into(), value: Some(shown), problem: problem.into() }
    }

    /// Something about a field, and not its value alone, can't be used.
    #[must_use]
    pub fn invalid_field(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::InvalidField { field: field.into(), value: None, problem: problem.into() }
    }

    /// CamelCase word for conditions and events.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidField { .. } => "InvalidField",
            Self::PoolSizesDiffer { .. } => "PoolSizesDiffer",
            Self::PoolsOverlap { .. } => "PoolsOverlap",
            Self::AddressConflict { .. } => "AddressConflict",
            Self::AnotherDefault { .. } => "AnotherDefault",
            Self::UnknownGateway { .. } => "UnknownGateway",
            Self::NoDefaultGateway => "NoDefaultGateway",
            Self::GatewayRefused { .. } => "GatewayRefused",
            Self::SelectorAndSubnet => "SelectorAndSubnet",
            Self::SelectsNothing => "SelectsNothing",
            Self::OutsidePool { .. } => "OutsidePool",
            Self::PairedElsewhere { .. } => "PairedElsewhere",
            Self::AddressInUse { .. } => "AddressInUse",
            Self::PoolExhausted { .. } => "PoolExhausted",
            Self::PoolEmpty { .. } => "PoolEmpty",
            Self::NoGatewayNode { .. } => "NoGatewayNode",
            Self::NoReadyNode { .. } => "NoReadyNode",
            Self::TunnelSubnetExhausted { .. } => "TunnelSubnetExhausted",
            Self::PortsExhausted { .. } => "PortsExhausted",
            Self::PortsShort { .. } => "PortsShort",
            Self::PortsAvailable => "PortsAvailable",
            Self::Unsupported { .. } => "Unsupported",
            Self::NodesNotReady { .. } => "NodesNotReady",
            Self::OtherPoliciesWin { .. } => "OtherPoliciesWin",
            Self::SelectsNoPod => "SelectsNoPod",
            Self::NotDegraded => "NotDegraded",
            Self::FormerDefault { .. } => "FormerDefault",
            Self::Moved { .. } => "Moved",
            Self::MoveUnneeded { .. } => "MoveUnneeded",
            Self::MoveRefused { .. } => "MoveRefused",
            Self::Assigned => "Assigned",
            Self::NodeAddress => "NodeAddress",
            Self::Ready => "Ready",
        }
    }

    /// The field that it is about and that [`Display`](fmt::Display) begins with, if there is one.
    #[must_use]
    pub fn field(&self) -> Option<&str> {
        match self {
            Self::InvalidField { field, .. } | Self::Unsupported { field, .. } => Some(field),
            Self::PoolSizesDiffer { .. } | Self::PoolsOverlap { .. } => Some("spec.ippools"),
            Self::AnotherDefault { .. } => Some("spec.clusterDefault"),
            Self::UnknownGateway { .. } | Self::NoDefaultGateway => Some("spec.egressGatewayName"),
            Self::SelectorAndSubnet | Self::SelectsNothing => Some("spec.appliedTo"),
            Self::OutsidePool { .. } | Self::PairedElsewhere { .. } => Some("spec.egressIP"),
            _ => None,
        }
    }

    /// What is wrong and what helps, without the field.
    #[must_use]
    pub fn problem(&self) -> String {
        let whole = self.to_string();
        let rest = self.field().and_then(|field| whole.strip_prefix(field)?.strip_prefix(": "));
        rest.map_or(whole.clone(), str::to_owned)
    }

    /// Whether this is good news.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        matches!(
            self,
            Self::Assigned
                | Self::Moved { .. }
                | Self::MoveUnneeded { .. }
                | Self::FormerDefault { .. }
                | Self::NodeAddress
                | Self::Ready
                | Self::PortsAvailable
                | Self::SelectsNoPod
                | Self::NotDegraded
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidField { field, value: Some(value), problem } => write!(f, "{field}: `{value}` {problem}"),
            Self::InvalidField { field, value: None, problem } | Self::Unsupported { field, problem } => {
                write!(f, "{field}: {problem}")
            }
            Self::PoolSizesDiffer { v4, v6 } => write!(
                f,
                "spec.ippools: {v4} IPv4 and {v6} IPv6 addresses; EIPs are pairs, so give both pools the same size"
            ),
            Self::AddressConflict { address, mac, node } => write!(
                f,
                "{address} is in use by somebody else, at {mac} on the link of node {node}; it is not used until that ends"
            ),
            Self::PoolsOverlap { address, gateway } => write!(
                f,
                "spec.ippools: {address} is also in the pool of EgressGateway `{gateway}`; take it out of one of them"
            ),
            Self::AnotherDefault { gateway } => write!(
                f,
                "spec.clusterDefault: EgressGateway `{gateway}` is the cluster's default already; set it to false in one of them"
            ),
            Self::UnknownGateway { gateway } => write!(
                f,
                "spec.egressGatewayName: EgressGateway `{gateway}` does not exist; create it or name another"
            ),
            Self::NoDefaultGateway => f.write_str(
                "spec.egressGatewayName: not given, and neither the namespace label \
                 spidernet.io/egressgateway-default nor a gateway with clusterDefault names one",
            ),
            Self::GatewayRefused { gateway } => {
                write!(f, "EgressGateway `{gateway}` is refused itself; see its conditions")
            }
            Self::SelectorAndSubnet => {
                f.write_str("spec.appliedTo: podSelector and podSubnet can't be combined; remove one")
            }
            Self::SelectsNothing => f.write_str(
                "spec.appliedTo: give a podSelector with matchLabels or matchExpressions, or a podSubnet",
            ),
            Self::OutsidePool { address, gateway } => write!(
                f,
                "spec.egressIP: {address} is in no pool of EgressGateway `{gateway}`; add it there or choose another"
            ),
            Self::PairedElsewhere { wanted, pair } => write!(
                f,
                "spec.egressIP: {wanted} can't be had, {pair} is a fixed pair; ask for that pair or other addresses"
            ),
            Self::AddressInUse { address, owner } => {
                write!(f, "{address} is the address of {owner}; an EIP must be an address that nobody uses")
            }
            Self::PoolExhausted { family, gateway } => write!(
                f,
                "every {family} address of EgressGateway `{gateway}` is in use; add addresses to spec.ippools"
            ),
            Self::PoolEmpty { gateway } => write!(
                f,
                "EgressGateway `{gateway}` has no pool; add addresses to spec.ippools or set egressIP.useNodeIP"
            ),
            Self::NoGatewayNode { gateway } => write!(
                f,
                "no node matches spec.nodeSelector of EgressGateway `{gateway}`; label one or change the selector"
            ),
            Self::NoReadyNode { gateway } => write!(
                f,
                "no gateway node of EgressGateway `{gateway}` is Ready; see `kubectl get egresstunnel`"
            ),
            Self::TunnelSubnetExhausted { family } => write!(
                f,
                "the {family} tunnel subnet has no free address for this node; widen feature.tunnel{}Subnet",
                if *family == Family::V4 { "Ipv4" } else { "Ipv6" }
            ),
            Self::PortsExhausted { eip } => {
                write!(
                    f,
                    "all ports of {eip} are leased; add EIPs or lower the number of nodes that share one"
                )
            }
            Self::PortsShort { nodes, crowded, eips } => {
                if *nodes > 0 {
                    write!(
                        f,
                        "{nodes} nodes have no ports of their EIP, so their pods' new connections use those of a gateway; "
                    )?;
                }
                if *crowded > 0 {
                    write!(f, "{crowded} nodes use most of their ports, and no larger block is free; ")?;
                }
                write!(f, "{eips} more EIPs, used by some of the policies, would give every node enough")
            }
            Self::PortsAvailable => f.write_str("every node that needs ports has some"),
            Self::NodesNotReady { nodes, of } => {
                write!(f, "{} of {of} gateway nodes are not Ready (", nodes.len())?;
                list(f, nodes.iter())?;
                f.write_str("); the others carry the EIPs; see `kubectl get egresstunnel`")
            }
            Self::OtherPoliciesWin { pods, of, winners } => {
                write!(f, "{pods} of {of} pods leave by other policies, for the destinations that both select: ")?;
                list(f, winners.iter().map(|(key, pods)| format!("{key} wins {pods}")))?;
                f.write_str("; a lower spec.priority goes first")
            }
            Self::SelectsNoPod => f.write_str(
                "no pod matches spec.appliedTo, so nothing leaves by this policy; compare it with the labels of the pods: \
                 `kubectl get pods --show-labels`",
            ),
            Self::NotDegraded => f.write_str("nothing is missing"),
            Self::FormerDefault { default } => write!(
                f,
                "the EIP is in force; the gateway's default is now {default}, which new policies get: make this policy \
                 anew to use it"
            ),
            Self::Moved { eip, from, node } => write!(f, "{eip} moved from node {from} to node {node}, as asked"),
            Self::MoveUnneeded { eip, node } => write!(f, "{eip} is on node {node} already"),
            Self::MoveRefused { request, problem } => {
                write!(f, "metadata.annotations[egressgateway.spidernet.io/move-eip]: `{request}`: {problem}")
            }
            Self::Assigned => f.write_str("the EIP is in force"),
            Self::NodeAddress => f.write_str(
                "pods leave with the gateway node's own address; unlike with an EIP, connections end when that node fails",
            ),
            Self::Ready => f.write_str("ready"),
        }
    }
}

/// So many are named one by one.
const NAMED: usize = 3;

/// The first few, and how many more there are.
fn list<T: fmt::Display>(f: &mut fmt::Formatter<'_>, items: impl ExactSizeIterator<Item = T>) -> fmt::Result {
    let more = items.len().saturating_sub(NAMED);
    for (number, item) in items.take(NAMED).enumerate() {
        write!(f, "{}{item}", if number == 0 { "" } else { ", " })?;
    }
    if more > 0 { write!(f, " and {more} more") } else { Ok(()) }
}
