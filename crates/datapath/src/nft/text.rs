//! Prints a table as nft text, for people: snapshots, documentation, the command line.
//!
//! It is what `nft list` would print, with two exceptions that nft's own parser does not take: keys that are masked
//! (`th sport & 0xfc00` inside a concatenation), and one lookup that feeds another.

use std::fmt::{self, Display, Write};
use std::net::{Ipv4Addr, Ipv6Addr};

use model::tunnel_mac::MacAddress;

use super::{
    BaseChain, Chain, ChainKind, Compare, DataType, FieldType, Hook, Key, Load, Operand, Reject, Rule, Set,
    Source, Statement, Table, TableFamily, Target, Value, Verdict,
};

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table {} {} {{", self.family, self.name)?;
        for name in &self.counters {
            writeln!(f, "\tcounter {name} {{ }}")?;
        }
        for (name, timeout) in &self.timeouts {
            let seconds = timeout.seconds.iter().map(|(state, seconds)| format!("{state}: {seconds}s"));
            let seconds = seconds.collect::<Vec<_>>().join(", ");
            let protocol = protocol(timeout.protocol);
            writeln!(f, "\tct timeout {name} {{ protocol {protocol}; policy = {{ {seconds} }} }}")?;
        }
        for (name, set) in &self.sets {
            write_set(f, name, set)?;
        }
        for (name, chain) in &self.chains {
            write_chain(f, name, chain)?;
        }
        writeln!(f, "}}")
    }
}

impl Display for TableFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Arp => "arp",
            Self::Netdev => "netdev",
        })
    }
}

fn write_set(f: &mut fmt::Formatter<'_>, name: &str, set: &Set) -> fmt::Result {
    let kind = if set.data.is_some() { "map" } else { "set" };
    writeln!(f, "\n\t{kind} {name} {{")?;
    write!(f, "\t\ttype {}", joined(set.key.iter().map(|field| type_name(*field))))?;
    match &set.data {
        None => writeln!(f)?,
        Some(DataType::Verdict) => writeln!(f, " : verdict")?,
        Some(DataType::Fields(fields)) => {
            writeln!(f, " : {}", joined(fields.iter().map(|field| type_name(*field))))?;
        }
    }
    let flags: Vec<&str> = [(set.interval, "interval"), (set.timeout, "timeout")]
        .into_iter()
        .filter_map(|(on, flag)| on.then_some(flag))
        .collect();
    if !flags.is_empty() {
        writeln!(f, "\t\tflags {}", flags.join(","))?;
    }
    if set.counting {
        writeln!(f, "\t\tcounter")?;
    }
    if !set.elements.is_empty() {
        let mut elements: Vec<(&Key, String)> =
            set.elements.iter().map(|(key, value)| (key, element(set, key, value))).collect();
        // Values in host order sort by number, on any machine.
        elements.sort_by_key(|(key, _)| sort_key(&set.key, key));
        writeln!(f, "\t\telements = {{")?;
        for (_, text) in elements {
            writeln!(f, "\t\t\t{text},")?;
        }
        writeln!(f, "\t\t}}")?;
    }
    writeln!(f, "\t}}")
}

fn element(set: &Set, key: &Key, value: &Value) -> String {
    let key = match key {
        Key::Exact(key) => fields(&set.key, key),
        Key::Range(first, last) if first == last => fields(&set.key, first),
        Key::Range(first, last) => format!("{}-{}", fields(&set.key, first), fields(&set.key, last)),
    };
    match (value, &set.data) {
        (Value::Data(data), Some(DataType::Fields(types))) => format!("{key} : {}", fields(types, data)),
        (Value::Data(data), _) => format!("{key} : {}", hex(data)),
        (Value::Verdict(verdict), _) => format!("{key} : {verdict}"),
        (Value::None, _) => key,
    }
}

fn sort_key(types: &[FieldType], key: &Key) -> Vec<u8> {
    let (Key::Exact(bytes) | Key::Range(bytes, _)) = key;
    split(types, bytes)
        .flat_map(|(kind, bytes)| match kind {
            FieldType::Mark | FieldType::InterfaceIndex => host_order(bytes).to_be_bytes().to_vec(),
            _ => bytes.to_vec(),
        })
        .collect()
}

fn write_chain(f: &mut fmt::Formatter<'_>, name: &str, chain: &Chain) -> fmt::Result {
    writeln!(f, "\n\tchain {name} {{")?;
    if let Some(hook) = &chain.hook {
        writeln!(f, "\t\t{hook}")?;
    }
    for rule in &chain.rules {
        writeln!(f, "\t\t{rule}")?;
    }
    writeln!(f, "\t}}")
}

impl Display for BaseChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            ChainKind::Filter => "filter",
            ChainKind::Nat => "nat",
            ChainKind::Route => "route",
        };
        let hook = match self.hook {
            Hook::Prerouting => "prerouting",
            Hook::Input => "input",
            Hook::Forward => "forward",
            Hook::Output => "output",
            Hook::Postrouting => "postrouting",
        };
        write!(f, "type {kind} hook {hook} priority {}; policy accept;", self.priority)
    }
}

impl Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, statement) in self.statements.iter().enumerate() {
            let space = if n == 0 { "" } else { " " };
            write!(f, "{space}{statement}")?;
        }
        if !self.comment.is_empty() {
            write!(f, " comment \"{}\"", self.comment)?;
        }
        Ok(())
    }
}

impl Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Match { operand, compare, value } => write_match(f, operand, *compare, value),
            Self::InSet { key, set, negate } => {
                write!(f, "{} {}@{set}", joined(key), if *negate { "!= " } else { "" })
            }
            Self::MapThenVerdict { key, map, verdicts } => {
                write!(f, "{} map @{map} vmap @{verdicts}", joined(key))
            }
            Self::VerdictMap { key, map } => write!(f, "{} vmap @{map}", joined(key)),
            Self::Set { target, source } => write!(f, "{target} set {}", SourceText(source, *target)),
            Self::SnatMap { key, map, ipv6 } => {
                let family = if *ipv6 { "ip6" } else { "ip" };
                write!(f, "snat {family} to {} map @{map}", joined(key))
            }
            Self::Masquerade => f.write_str("masquerade"),
            Self::DnatTo { address } => match address.len() {
                4 => write!(f, "dnat ip to {}", field(FieldType::Ipv4, address)),
                _ => write!(f, "dnat ip6 to {}", field(FieldType::Ipv6, address)),
            },
            Self::Notrack => f.write_str("notrack"),
            Self::Counter(name) => write!(f, "counter name {name}"),
            Self::Timeout(name) => write!(f, "ct timeout set \"{name}\""),
            Self::LimitPerSecond { rate, burst } => {
                write!(f, "limit rate {rate}/second burst {burst} packets")
            }
            Self::ClampMss(mss) => write!(f, "tcp option maxseg size set {mss}"),
            Self::Reject(reject) => f.write_str(match reject {
                Reject::AdminProhibited => "reject with icmpx admin-prohibited",
                Reject::Unreachable => "reject with icmpx host-unreachable",
                Reject::TcpReset => "reject with tcp reset",
            }),
            Self::Verdict(verdict) => write!(f, "{verdict}"),
        }
    }
}

fn write_match(f: &mut fmt::Formatter<'_>, operand: &Operand, compare: Compare, value: &[u8]) -> fmt::Result {
    let any = compare == Compare::NotEqual && value.iter().all(|byte| *byte == 0);
    if let (true, Some(mask)) = (any, &operand.mask) {
        return write!(f, "{} {}", operand.load, bit_names(operand.load, mask));
    }
    let none = compare == Compare::Equal && value.iter().all(|byte| *byte == 0);
    if let (true, Some(mask), Load::ConnectionStatus) = (none, &operand.mask, operand.load) {
        return write!(f, "{} & ({}) == 0", operand.load, bit_names(operand.load, mask));
    }
    let sign = match compare {
        Compare::Equal => "",
        Compare::NotEqual => "!= ",
        Compare::Greater => "> ",
    };
    let sign = if sign.is_empty() && operand.mask.is_some() { "== " } else { sign };
    write!(f, "{operand} {sign}{}", value_of(operand.load, value))
}

impl Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.mask {
            None => write!(f, "{}", self.load),
            Some(mask) => write!(f, "{} & {}", self.load, mask_of(self.load, mask)),
        }
    }
}

impl Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mark => "meta mark",
            Self::ConnectionMark => "ct mark",
            Self::OriginalZone => "ct original zone",
            Self::Source4 => "ip saddr",
            Self::Destination4 => "ip daddr",
            Self::Source6 => "ip6 saddr",
            Self::Destination6 => "ip6 daddr",
        })
    }
}

/// A source, printed for its target's type.
struct SourceText<'a>(&'a Source, Target);

impl Display for SourceText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = |bytes: &[u8]| match self.1 {
            Target::Mark | Target::ConnectionMark => field(FieldType::Mark, bytes),
            Target::OriginalZone => field(FieldType::Zone, bytes),
            Target::Source4 | Target::Destination4 => field(FieldType::Ipv4, bytes),
            Target::Source6 | Target::Destination6 => field(FieldType::Ipv6, bytes),
        };
        match self.0 {
            Source::Constant(bytes) => f.write_str(&value(bytes)),
            Source::Operand(operand) => write!(f, "{operand}"),
            Source::Bits { load, mask, xor } if xor.iter().all(|byte| *byte == 0) => {
                write!(f, "{load} & {}", mask_of(*load, mask))
            }
            Source::Bits { load, mask, xor } => {
                write!(f, "{load} & {} ^ {}", mask_of(*load, mask), value(xor))
            }
            Source::Map { key, map } => write!(f, "{} map @{map}", joined(key)),
        }
    }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Return => f.write_str("return"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}

impl Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mark => "meta mark",
            Self::InputInterface => "iif",
            Self::OutputInterface => "oif",
            Self::InputInterfaceName => "iifname",
            Self::OutputInterfaceName => "oifname",
            Self::NetworkProtocol => "meta nfproto",
            Self::TransportProtocol => "meta l4proto",
            Self::ConnectionMark => "ct mark",
            Self::ConnectionState => "ct state",
            Self::ConnectionStatus => "ct status",
            Self::ConnectionDirection => "ct direction",
            Self::OriginalSource4 => "ct original ip saddr",
            Self::OriginalDestination4 => "ct original ip daddr",
            Self::OriginalSource6 => "ct original ip6 saddr",
            Self::EtherSource => "ether saddr",
            Self::Source4 => "ip saddr",
            Self::Destination4 => "ip daddr",
            Self::Source6 => "ip6 saddr",
            Self::Destination6 => "ip6 daddr",
            Self::SourcePort => "th sport",
            Self::DestinationPort => "th dport",
            Self::TcpFlags => "tcp flags",
            Self::IcmpType => "icmp type",
            Self::IcmpEchoId => "icmp id",
            Self::Transport(offset, length) => {
                return write!(f, "@th,{},{}", u32::from(*offset) * 8, u32::from(*length) * 8);
            }
            Self::Network(offset, length) => {
                return write!(f, "@nh,{},{}", u32::from(*offset) * 8, u32::from(*length) * 8);
            }
            Self::ArpTarget => "arp daddr ip",
            Self::ArpOperation => "arp operation",
            Self::DestinationAddressType => "fib daddr type",
            Self::SourceAddressType => "fib saddr type",
        })
    }
}

fn joined<T: Display>(parts: impl IntoIterator<Item = T>) -> String {
    let mut text = String::new();
    for part in parts {
        let dot = if text.is_empty() { "" } else { " . " };
        // Writing to a string can't fail.
        let _ = write!(text, "{dot}{part}");
    }
    text
}

fn type_name(field: FieldType) -> &'static str {
    match field {
        FieldType::Ipv4 => "ipv4_addr",
        FieldType::Ipv6 => "ipv6_addr",
        FieldType::Port => "inet_service",
        FieldType::Mac => "ether_addr",
        FieldType::Mark => "mark",
        FieldType::InterfaceIndex => "iface_index",
        FieldType::Protocol => "inet_proto",
        FieldType::Zone => "integer",
    }
}

/// The fields of a joined key or value.
fn split<'a>(types: &'a [FieldType], bytes: &'a [u8]) -> impl Iterator<Item = (FieldType, &'a [u8])> {
    let mut rest = bytes;
    types.iter().map(move |kind| {
        let (padded, after) = rest.split_at(kind.padded_len().min(rest.len()));
        rest = after;
        (*kind, padded.get(..kind.len()).unwrap_or(padded))
    })
}

fn fields(types: &[FieldType], bytes: &[u8]) -> String {
    joined(split(types, bytes).map(|(kind, bytes)| field(kind, bytes)))
}

fn field(kind: FieldType, bytes: &[u8]) -> String {
    let text = match kind {
        FieldType::Ipv4 => <[u8; 4]>::try_from(bytes).map(|bytes| Ipv4Addr::from(bytes).to_string()),
        FieldType::Ipv6 => <[u8; 16]>::try_from(bytes).map(|bytes| Ipv6Addr::from(bytes).to_string()),
        FieldType::Port => <[u8; 2]>::try_from(bytes).map(|bytes| u16::from_be_bytes(bytes).to_string()),
        FieldType::Mac => <[u8; 6]>::try_from(bytes).map(|bytes| MacAddress(bytes).to_string()),
        FieldType::Mark => {
            <[u8; 4]>::try_from(bytes).map(|bytes| format!("{:#x}", u32::from_ne_bytes(bytes)))
        }
        FieldType::InterfaceIndex => {
            <[u8; 4]>::try_from(bytes).map(|bytes| u32::from_ne_bytes(bytes).to_string())
        }
        FieldType::Protocol => <[u8; 1]>::try_from(bytes).map(|[byte]| protocol(byte)),
        FieldType::Zone => <[u8; 2]>::try_from(bytes).map(|bytes| u16::from_ne_bytes(bytes).to_string()),
    };
    text.unwrap_or_else(|_| hex(bytes))
}

fn protocol(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "ipv6-icmp".to_owned(),
        132 => "sctp".to_owned(),
        136 => "udplite".to_owned(),
        other => other.to_string(),
    }
}

fn host_order(bytes: &[u8]) -> u32 {
    bytes.try_into().map(u32::from_ne_bytes).unwrap_or_default()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold("0x".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

fn mask_of(load: Load, mask: &[u8]) -> String {
    match load {
        Load::Mark | Load::ConnectionMark | Load::ConnectionState | Load::ConnectionStatus => {
            format!("{:#010x}", host_order(mask))
        }
        _ => hex(mask),
    }
}

/// Names of bits, as in `ct state new,invalid`.
fn bit_names(load: Load, mask: &[u8]) -> String {
    let names: &[(u32, &str)] = match load {
        Load::ConnectionState => {
            &[(1, "invalid"), (2, "established"), (4, "related"), (8, "new"), (64, "untracked")]
        }
        Load::ConnectionStatus => &[(2, "seen-reply"), (8, "confirmed"), (16, "snat"), (32, "dnat")],
        Load::TcpFlags => {
            return if mask == [2] { "syn".to_owned() } else { format!("& {} != 0", hex(mask)) };
        }
        _ => return format!("& {} != 0", mask_of(load, mask)),
    };
    let bits = host_order(mask);
    let set: Vec<&str> = names.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect();
    set.join(",")
}

fn value_of(load: Load, value: &[u8]) -> String {
    match load {
        Load::Mark | Load::ConnectionMark => field(FieldType::Mark, value),
        Load::InputInterface | Load::OutputInterface => field(FieldType::InterfaceIndex, value),
        Load::InputInterfaceName | Load::OutputInterfaceName => {
            let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
            format!("\"{}\"", String::from_utf8_lossy(value.get(..end).unwrap_or(value)))
        }
        Load::NetworkProtocol => match value {
            [2] => "ipv4".to_owned(),
            [10] => "ipv6".to_owned(),
            _ => hex(value),
        },
        Load::TransportProtocol => field(FieldType::Protocol, value),
        Load::ConnectionDirection => if value == [0] { "original" } else { "reply" }.to_owned(),
        Load::OriginalSource4
        | Load::OriginalDestination4
        | Load::Source4
        | Load::Destination4
        | Load::ArpTarget => field(FieldType::Ipv4, value),
        Load::OriginalSource6 | Load::Source6 | Load::Destination6 => field(FieldType::Ipv6, value),
        Load::EtherSource => field(FieldType::Mac, value),
        Load::SourcePort | Load::DestinationPort | Load::IcmpEchoId => field(FieldType::Port, value),
        Load::IcmpType => value.first().map(u8::to_string).unwrap_or_default(),
        Load::DestinationAddressType | Load::SourceAddressType => match host_order(value) {
            1 => "unicast".to_owned(),
            2 => "local".to_owned(),
            3 => "broadcast".to_owned(),
            5 => "multicast".to_owned(),
            other => other.to_string(),
        },
        Load::Network(_, 2) | Load::Transport(_, 2) => field(FieldType::Port, value),
        _ => hex(value),
    }
}
