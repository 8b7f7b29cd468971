//! A table of nf_tables as data: sets, maps, chains and rules, in the few forms that the project uses.
//!
//! One description serves three readers: the kernel crate encodes it to netlink, [`text`] prints it as nft text for
//! people, and the trace walks a packet through it.
//!
//! Values are bytes in network byte order where they are part of a packet (addresses, ports), and host byte order where
//! the kernel keeps them so (marks, interface indexes). Keys of several fields are laid out as the kernel wants them: each
//! field padded to a multiple of four bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

pub mod text;

/// Address family of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TableFamily {
    /// Sees IPv4 and IPv6.
    Inet,
    /// IPv4 only.
    Ip,
    /// IPv6 only.
    Ip6,
    /// ARP only.
    Arp,
    /// Early hook of one device, all protocols.
    Netdev,
}

/// One whole table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Address family
    pub family: TableFamily,
    /// Name
    pub name: String,
    /// Sets and maps by name
    pub sets: BTreeMap<String, Set>,
    /// Named counters
    pub counters: BTreeSet<String>,
    /// Named timeouts of connections. What a name says never changes: another value has another name
    pub timeouts: BTreeMap<String, Timeout>,
    /// Chains by name
    pub chains: BTreeMap<String, Chain>,
}

/// How long connection tracking keeps connections of one protocol; states that are not named keep the kernel's time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timeout {
    /// Protocol number
    pub protocol: u8,
    /// State (`CTA_TIMEOUT_*` of the protocol in the kernel's `nfnetlink_cttimeout.h`) to seconds
    pub seconds: BTreeMap<u16, u32>,
}

/// A named set or map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Fields of the key, in order
    pub key: Vec<FieldType>,
    /// What a key maps to; `None` for a plain set
    pub data: Option<DataType>,
    /// Whether keys are ranges (one field only)
    pub interval: bool,
    /// Whether elements may expire
    pub timeout: bool,
    /// Whether the kernel counts, at each element, the packets that were found in it
    pub counting: bool,
    /// Key to value. An interval's key is (first, last) inclusive
    pub elements: BTreeMap<Key, Value>,
}

/// Type of one field of a key or of data. The order of bytes follows the kernel's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FieldType {
    /// 4 bytes
    Ipv4,
    /// 16 bytes
    Ipv6,
    /// 2 bytes, network order
    Port,
    /// 6 bytes
    Mac,
    /// 4 bytes, host order
    Mark,
    /// 4 bytes, host order
    InterfaceIndex,
    /// 1 byte
    Protocol,
    /// Zone of connection tracking: 2 bytes, host order
    Zone,
}

impl FieldType {
    /// Length in bytes, without padding.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "no type is empty")]
    pub fn len(self) -> usize {
        match self {
            Self::Protocol => 1,
            Self::Port | Self::Zone => 2,
            Self::Ipv4 | Self::Mark | Self::InterfaceIndex => 4,
            Self::Mac => 6,
            Self::Ipv6 => 16,
        }
    }

    /// Length in registers: padded to a multiple of four bytes.
    #[must_use]
    pub fn padded_len(self) -> usize {
        self.len().next_multiple_of(4)
    }
}

/// What a map's key maps to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataType {
    /// A value of these fields
    Fields(Vec<FieldType>),
    /// A verdict
    Verdict,
}

/// Key of an element: one value, or the inclusive ends of an interval.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// Exact, all fields padded and joined
    Exact(Vec<u8>),
    /// First and last value
    Range(Vec<u8>, Vec<u8>),
}

/// Value of an element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Plain set
    None,
    /// All fields padded and joined
    Data(Vec<u8>),
    /// Verdict map
    Verdict(Verdict),
}

/// A chain: attached to a hook, or reached by jumps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// `None` for a chain that is only jumped to
    pub hook: Option<BaseChain>,
    /// Rules in order
    pub rules: Vec<Rule>,
}

/// Where a base chain sits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseChain {
    /// Type of the chain
    pub kind: ChainKind,
    /// Hook
    pub hook: Hook,
    /// Priority: lower runs earlier. -300 raw, -200 conntrack, -100 dstnat, 0 filter, 100 srcnat
    pub priority: i32,
}

/// Type of a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    /// `filter`
    Filter,
    /// `nat`: sees the first packet of a connection
    Nat,
    /// `route`: output only; a changed mark leads to a new routing decision
    Route,
}

/// Netfilter hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Before routing
    Prerouting,
    /// For this host
    Input,
    /// Through this host
    Forward,
    /// From this host
    Output,
    /// After routing
    Postrouting,
}

/// One rule: statements from left to right; the first match that fails ends it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Statements in order
    pub statements: Vec<Statement>,
    /// Shown as the rule's comment
    pub comment: &'static str,
}

impl Rule {
    /// Hash of what the rule says. The kernel keeps it beside the rule, so that a reader knows the rule again without
    /// taking the kernel's expressions apart. Never 0. Another version of the program may hash the same rule
    /// differently, which costs one replacement of the chain.
    #[must_use]
    pub fn content_hash(&self) -> u64 {
        /// FNV-1a, 64 bits
        struct Fnv(u64);
        impl fmt::Write for Fnv {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                for byte in text.bytes() {
                    self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
                }
                Ok(())
            }
        }
        let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
        // Cannot fail: the sink never does.
        let _ = fmt::write(&mut hash, format_args!("{self:?}"));
        hash.0.max(1)
    }
}

/// A value that a rule can load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Load {
    /// Packet mark, 4 bytes host order
    Mark,
    /// Index of the input interface
    InputInterface,
    /// Index of the output interface
    OutputInterface,
    /// Name of the input interface, 16 bytes zero-padded
    InputInterfaceName,
    /// Name of the output interface, 16 bytes zero-padded
    OutputInterfaceName,
    /// `NFPROTO_IPV4` (2) or `NFPROTO_IPV6` (10), 1 byte
    NetworkProtocol,
    /// Layer 4 protocol, 1 byte
    TransportProtocol,
    /// Connection mark, 4 bytes host order
    ConnectionMark,
    /// Connection state bits, 4 bytes host order: invalid 1, established 2, related 4, new 8, untracked 64
    ConnectionState,
    /// Connection status bits, 4 bytes host order: seen reply 2, confirmed 8, source NAT 16, destination NAT 32. Unlike the
    /// state, it tells the first packet of a connection (not confirmed) from later ones that had no answer yet
    ConnectionStatus,
    /// Direction of the packet in its connection: 0 original, 1 reply; 1 byte
    ConnectionDirection,
    /// Source of the connection's first packet, IPv4
    OriginalSource4,
    /// Destination of the connection's first packet, IPv4
    OriginalDestination4,
    /// Source of the connection's first packet, IPv6
    OriginalSource6,
    /// Source Ethernet address
    EtherSource,
    /// IPv4 source
    Source4,
    /// IPv4 destination
    Destination4,
    /// IPv6 source
    Source6,
    /// IPv6 destination
    Destination6,
    /// TCP, UDP, UDP-Lite or SCTP source port
    SourcePort,
    /// TCP, UDP, UDP-Lite or SCTP destination port
    DestinationPort,
    /// TCP flags, 1 byte
    TcpFlags,
    /// ICMP or ICMPv6 type, 1 byte
    IcmpType,
    /// ICMP or ICMPv6 echo identifier, 2 bytes
    IcmpEchoId,
    /// Any bytes at the transport header: (offset, length), for what an ICMP error quotes
    Transport(u8, u8),
    /// Any bytes at the network header: (offset, length)
    Network(u8, u8),
    /// ARP target protocol address (IPv4)
    ArpTarget,
    /// ARP operation, 2 bytes
    ArpOperation,
    /// Type of the destination address by the routing table (`fib daddr type`): 4 bytes host order, `RTN_*`
    DestinationAddressType,
    /// Type of the source address by the routing table (`fib saddr type`)
    SourceAddressType,
}

/// A loaded value, perhaps masked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Operand {
    /// What is loaded
    pub load: Load,
    /// Bits that are kept; same length as the loaded value
    pub mask: Option<Vec<u8>>,
}

/// Comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compare {
    /// Equal
    Equal,
    /// Not equal
    NotEqual,
    /// Greater, bytes compared from the left: for values in network byte order
    Greater,
}

/// What a rule can write to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// Packet mark
    Mark,
    /// Connection mark
    ConnectionMark,
    /// Zone that the packet's connection begins in; its answers stay in zone 0. Before connection tracking only
    OriginalZone,
    /// IPv4 source, checksums repaired
    Source4,
    /// IPv4 destination, checksums repaired
    Destination4,
    /// IPv6 source, checksums repaired
    Source6,
    /// IPv6 destination, checksums repaired
    Destination6,
}

/// Where a written value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// These bytes
    Constant(Vec<u8>),
    /// The operand itself
    Operand(Operand),
    /// The operand's value with `mask` kept and `xor` flipped: `(value & mask) ^ xor`
    Bits {
        /// What is loaded
        load: Load,
        /// Bits that are kept
        mask: Vec<u8>,
        /// Bits that are flipped afterwards
        xor: Vec<u8>,
    },
    /// What the map says; a miss ends the rule
    Map {
        /// Key, field by field
        key: Vec<Operand>,
        /// Name of the map
        map: String,
    },
}

/// Verdicts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Go on behind this base chain
    Accept,
    /// Drop
    Drop,
    /// Back to the calling chain
    Return,
    /// Call a chain
    Jump(String),
    /// Continue in a chain without coming back
    Goto(String),
}

/// How a refused packet is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reject {
    /// ICMP or ICMPv6 "administratively prohibited" of the packet's family
    AdminProhibited,
    /// ICMP or ICMPv6 "host unreachable"/"address unreachable"
    Unreachable,
    /// TCP reset
    TcpReset,
}

/// One statement of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Statement {
    /// Goes on when the comparison holds
    Match {
        /// Left side
        operand: Operand,
        /// Operator
        compare: Compare,
        /// Right side, as long as the loaded value
        value: Vec<u8>,
    },
    /// Goes on when the key is in the set (or, negated, is not). Plain sets only: the kernel refuses a map here
    InSet {
        /// Key, field by field
        key: Vec<Operand>,
        /// Name of the set
        set: String,
        /// Goes on when it is *not* in the set
        negate: bool,
    },
    /// Looks the key up in a data map, its result in a verdict map, and follows the verdict; a miss ends the rule
    MapThenVerdict {
        /// Key, field by field
        key: Vec<Operand>,
        /// Data map
        map: String,
        /// Verdict map
        verdicts: String,
    },
    /// Follows the verdict of a map; a miss ends the rule
    VerdictMap {
        /// Key, field by field
        key: Vec<Operand>,
        /// Verdict map
        map: String,
    },
    /// Writes a value
    Set {
        /// Where to
        target: Target,
        /// Where from
        source: Source,
    },
    /// Source NAT to the address and port range of a map: data is address, first port, last port. Base chains of type nat
    /// in postrouting (or input) only
    SnatMap {
        /// Key, field by field
        key: Vec<Operand>,
        /// Name of the map
        map: String,
        /// Whether the address is IPv6
        ipv6: bool,
    },
    /// Source NAT to the address of the outgoing interface
    Masquerade,
    /// Destination NAT to a constant address
    DnatTo {
        /// 4 or 16 bytes
        address: Vec<u8>,
    },
    /// No connection tracking for this packet (before conntrack's own priority)
    Notrack,
    /// Counts packets and bytes under a name
    Counter(String),
    /// Gives the connection, on its first packet, timeouts of this name; does nothing for another protocol
    Timeout(String),
    /// Goes on while the rate is below the limit
    LimitPerSecond {
        /// Packets per second
        rate: u64,
        /// Burst
        burst: u32,
    },
    /// Lowers the TCP option MSS to this value, never raises it
    ClampMss(u16),
    /// Refuses with an answer
    Reject(Reject),
    /// Ends the evaluation of this rule's chain
    Verdict(Verdict),
}
