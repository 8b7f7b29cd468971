//! Statements of a rule as the kernel's expressions.
//!
//! The kernel has sixteen registers of four bytes. A value is loaded at the first ones, field behind field, and is used
//! at once: no statement keeps anything for the next.

use datapath::nft::{Compare, FieldType, Load, Operand, Reject, Source, Statement, TableFamily, Target};

use super::element::put_verdict;
use super::uapi::{data, rule};
use crate::wire::Writer;

/// Register that holds a verdict.
const VERDICT: u32 = 0;
/// First of the registers of four bytes.
const FIRST: u32 = 8;
/// The mark, to `meta` and to `ct`.
const KEY_MARK: u32 = 3;

/// Writes the expressions of one statement into a rule's list.
pub(super) fn put_statement(w: &mut Writer, family: TableFamily, statement: &Statement) {
    match statement {
        Statement::Match { operand, compare, value } => {
            put_operand(w, FIRST, operand);
            put_compare(w, *compare, value);
        }
        Statement::InSet { key, set, negate } => {
            put_key(w, key);
            put_lookup(w, set, None, *negate);
        }
        Statement::MapThenVerdict { key, map, verdicts } => {
            put_key(w, key);
            put_lookup(w, map, Some(FIRST), false);
            put_through_mark(w);
            put_lookup(w, verdicts, Some(VERDICT), false);
        }
        Statement::VerdictMap { key, map } => {
            put_key(w, key);
            put_lookup(w, map, Some(VERDICT), false);
        }
        Statement::Set { target, source } => {
            put_source(w, source);
            put_target(w, *target);
        }
        Statement::SnatMap { key, map, ipv6 } => {
            put_key(w, key);
            put_lookup(w, map, Some(FIRST), false);
            put_snat(w, *ipv6);
        }
        Statement::Masquerade => put_expression(w, "masq", |_| {}),
        Statement::DnatTo { address } => put_dnat(w, address),
        Statement::Notrack => put_expression(w, "notrack", |_| {}),
        Statement::Counter(name) => put_expression(w, "objref", |w| {
            w.u32_be(1, super::uapi::object::TYPE_COUNTER);
            w.text(2, name);
        }),
        Statement::Timeout(name) => put_expression(w, "objref", |w| {
            w.u32_be(1, super::uapi::object::TYPE_TIMEOUT);
            w.text(2, name);
        }),
        Statement::LimitPerSecond { rate, burst } => put_expression(w, "limit", |w| {
            w.u64_be(1, *rate);
            w.u64_be(2, 1);
            w.u32_be(3, *burst);
            w.u32_be(4, 0);
            w.u32_be(5, 0);
        }),
        Statement::ClampMss(size) => put_clamp(w, *size),
        Statement::Reject(reject) => put_reject(w, family, *reject),
        Statement::Verdict(verdict) => put_expression(w, "immediate", |w| {
            w.u32_be(1, VERDICT);
            w.nest(2, |w| put_verdict(w, verdict));
        }),
    }
}

/// Length in bytes of what is loaded.
pub(super) fn load_len(load: Load) -> usize {
    match load {
        Load::Mark
        | Load::ConnectionMark
        | Load::ConnectionState
        | Load::ConnectionStatus
        | Load::InputInterface
        | Load::OutputInterface
        | Load::DestinationAddressType
        | Load::SourceAddressType
        | Load::OriginalSource4
        | Load::OriginalDestination4
        | Load::Source4
        | Load::Destination4
        | Load::ArpTarget => 4,
        Load::InputInterfaceName
        | Load::OutputInterfaceName
        | Load::OriginalSource6
        | Load::Source6
        | Load::Destination6 => 16,
        Load::NetworkProtocol
        | Load::TransportProtocol
        | Load::ConnectionDirection
        | Load::TcpFlags
        | Load::IcmpType => 1,
        Load::EtherSource => 6,
        Load::SourcePort | Load::DestinationPort | Load::IcmpEchoId | Load::ArpOperation => 2,
        Load::Transport(_, len) | Load::Network(_, len) => usize::from(len),
    }
}

fn put_expression(w: &mut Writer, name: &str, body: impl FnOnce(&mut Writer)) {
    w.nest(rule::LIST_ELEMENT, |w| {
        w.text(rule::EXPRESSION_NAME, name);
        w.nest(rule::EXPRESSION_DATA, body);
    });
}

/// Loads the fields of a key one behind the other.
fn put_key(w: &mut Writer, key: &[Operand]) {
    let mut register = FIRST;
    for operand in key {
        put_operand(w, register, operand);
        register += u32::try_from(load_len(operand.load).div_ceil(4)).unwrap_or(u32::MAX);
    }
}

fn put_operand(w: &mut Writer, register: u32, operand: &Operand) {
    put_load(w, register, operand.load);
    if let Some(mask) = &operand.mask {
        put_bits(w, register, mask, &vec![0; mask.len()]);
    }
}

fn put_load(w: &mut Writer, register: u32, load: Load) {
    const LINK: u32 = 0;
    const NETWORK: u32 = 1;
    const TRANSPORT: u32 = 2;
    let len = load_len(load);
    let mut payload = |base, offset: u8| put_payload_load(w, register, base, offset.into(), len);
    match load {
        Load::Mark => put_meta_load(w, register, 3),
        Load::InputInterface => put_meta_load(w, register, 4),
        Load::OutputInterface => put_meta_load(w, register, 5),
        Load::InputInterfaceName => put_meta_load(w, register, 6),
        Load::OutputInterfaceName => put_meta_load(w, register, 7),
        Load::NetworkProtocol => put_meta_load(w, register, 15),
        Load::TransportProtocol => put_meta_load(w, register, 16),
        Load::ConnectionState => put_ct_load(w, register, 0, false),
        Load::ConnectionDirection => put_ct_load(w, register, 1, false),
        Load::ConnectionStatus => put_ct_load(w, register, 2, false),
        Load::ConnectionMark => put_ct_load(w, register, 3, false),
        Load::OriginalSource4 => put_ct_load(w, register, 19, true),
        Load::OriginalDestination4 => put_ct_load(w, register, 20, true),
        Load::OriginalSource6 => put_ct_load(w, register, 21, true),
        Load::EtherSource => payload(LINK, 6),
        Load::Source4 => payload(NETWORK, 12),
        Load::Destination4 => payload(NETWORK, 16),
        Load::Source6 => payload(NETWORK, 8),
        Load::Destination6 => payload(NETWORK, 24),
        Load::SourcePort | Load::IcmpType => payload(TRANSPORT, 0),
        Load::DestinationPort => payload(TRANSPORT, 2),
        Load::TcpFlags => payload(TRANSPORT, 13),
        Load::IcmpEchoId => payload(TRANSPORT, 4),
        Load::Transport(offset, _) => payload(TRANSPORT, offset),
        Load::Network(offset, _) => payload(NETWORK, offset),
        Load::ArpOperation => payload(NETWORK, 6),
        Load::ArpTarget => payload(NETWORK, 24),
        Load::SourceAddressType => put_address_type(w, register, 1),
        Load::DestinationAddressType => put_address_type(w, register, 2),
    }
}

fn put_meta_load(w: &mut Writer, register: u32, key: u32) {
    put_expression(w, "meta", |w| {
        w.u32_be(1, register);
        w.u32_be(2, key);
    });
}

/// Passes the first register through the packet's mark, which has its old value afterwards. To the kernel that changes
/// nothing; but the nft tool, which knows no map's result as a key, would abort where it lists the rule.
fn put_through_mark(w: &mut Writer) {
    const SAVED: u32 = FIRST + 8;
    put_meta_load(w, SAVED, KEY_MARK);
    put_mark_write(w, FIRST);
    put_meta_load(w, FIRST, KEY_MARK);
    put_mark_write(w, SAVED);
}

fn put_mark_write(w: &mut Writer, register: u32) {
    put_expression(w, "meta", |w| {
        w.u32_be(2, KEY_MARK);
        w.u32_be(3, register);
    });
}

fn put_ct_load(w: &mut Writer, register: u32, key: u32, original: bool) {
    put_expression(w, "ct", |w| {
        w.u32_be(1, register);
        w.u32_be(2, key);
        if original {
            w.u8(3, 0);
        }
    });
}

fn put_payload_load(w: &mut Writer, register: u32, base: u32, offset: u32, len: usize) {
    put_expression(w, "payload", |w| {
        w.u32_be(1, register);
        w.u32_be(2, base);
        w.u32_be(3, offset);
        w.u32_be(4, len32(len));
    });
}

/// What the routing table says of an address: `flags` 1 for the source, 2 for the destination.
fn put_address_type(w: &mut Writer, register: u32, flags: u32) {
    const RESULT_ADDRESS_TYPE: u32 = 3;
    put_expression(w, "fib", |w| {
        w.u32_be(1, register);
        w.u32_be(2, RESULT_ADDRESS_TYPE);
        w.u32_be(3, flags);
    });
}

/// `register = (register & mask) ^ xor`
fn put_bits(w: &mut Writer, register: u32, mask: &[u8], xor: &[u8]) {
    put_expression(w, "bitwise", |w| {
        w.u32_be(1, register);
        w.u32_be(2, register);
        w.u32_be(3, len32(mask.len()));
        put_value(w, 4, mask);
        put_value(w, 5, xor);
    });
}

fn put_compare(w: &mut Writer, compare: Compare, value: &[u8]) {
    put_expression(w, "cmp", |w| {
        w.u32_be(1, FIRST);
        w.u32_be(
            2,
            match compare {
                Compare::Equal => 0,
                Compare::NotEqual => 1,
                Compare::Greater => 4,
            },
        );
        put_value(w, 3, value);
    });
}

fn put_lookup(w: &mut Writer, set: &str, result: Option<u32>, negate: bool) {
    const FLAG_INVERT: u32 = 1;
    put_expression(w, "lookup", |w| {
        w.text(1, set);
        w.u32_be(2, FIRST);
        if let Some(register) = result {
            w.u32_be(3, register);
        }
        if negate {
            w.u32_be(5, FLAG_INVERT);
        }
    });
}

fn put_source(w: &mut Writer, source: &Source) {
    match source {
        Source::Constant(value) => put_constant(w, value),
        Source::Operand(operand) => put_operand(w, FIRST, operand),
        Source::Bits { load, mask, xor } => {
            put_load(w, FIRST, *load);
            put_bits(w, FIRST, mask, xor);
        }
        Source::Map { key, map } => {
            put_key(w, key);
            put_lookup(w, map, Some(FIRST), false);
        }
    }
}

fn put_constant(w: &mut Writer, value: &[u8]) {
    put_expression(w, "immediate", |w| {
        w.u32_be(1, FIRST);
        put_value(w, 2, value);
    });
}

fn put_target(w: &mut Writer, target: Target) {
    match target {
        Target::Mark => put_mark_write(w, FIRST),
        Target::ConnectionMark => put_expression(w, "ct", |w| {
            w.u32_be(2, KEY_MARK);
            w.u32_be(4, FIRST);
        }),
        Target::OriginalZone => put_expression(w, "ct", |w| {
            const ZONE: u32 = 17;
            w.u32_be(2, ZONE);
            w.u8(3, 0);
            w.u32_be(4, FIRST);
        }),
        Target::Source4 => put_payload_write(w, 12, 4),
        Target::Destination4 => put_payload_write(w, 16, 4),
        Target::Source6 => put_payload_write(w, 8, 16),
        Target::Destination6 => put_payload_write(w, 24, 16),
    }
}

/// Writes an address into the network header. The kernel repairs the header's own checksum (IPv4 has one) and that of
/// the transport header, which covers the addresses.
fn put_payload_write(w: &mut Writer, offset: u32, len: usize) {
    const NETWORK: u32 = 1;
    const CHECKSUM_NONE: u32 = 0;
    const CHECKSUM_INET: u32 = 1;
    const CHECKSUM_OFFSET_4: u32 = 10;
    const FLAG_PSEUDO_HEADER: u32 = 1;
    let (kind, place) = if len == 4 { (CHECKSUM_INET, CHECKSUM_OFFSET_4) } else { (CHECKSUM_NONE, 0) };
    put_expression(w, "payload", |w| {
        w.u32_be(5, FIRST);
        w.u32_be(2, NETWORK);
        w.u32_be(3, offset);
        w.u32_be(4, len32(len));
        w.u32_be(6, kind);
        w.u32_be(7, place);
        w.u32_be(8, FLAG_PSEUDO_HEADER);
    });
}

/// Source NAT from registers that hold address, first port, address again, last port, each padded to whole registers.
fn put_snat(w: &mut Writer, ipv6: bool) {
    let address = if ipv6 { FieldType::Ipv6 } else { FieldType::Ipv4 };
    let address_registers = len32(address.padded_len() / 4);
    let second = FIRST + address_registers + 1;
    put_expression(w, "nat", |w| {
        w.u32_be(1, 0);
        w.u32_be(2, if ipv6 { 10 } else { 2 });
        w.u32_be(3, FIRST);
        w.u32_be(4, second);
        w.u32_be(5, second - 1);
        w.u32_be(6, second + address_registers);
        w.u32_be(7, NAT_PORTS_SPECIFIED);
    });
}

const NAT_PORTS_SPECIFIED: u32 = 2;

fn put_dnat(w: &mut Writer, address: &[u8]) {
    put_constant(w, address);
    put_expression(w, "nat", |w| {
        w.u32_be(1, 1);
        w.u32_be(2, if address.len() == 16 { 10 } else { 2 });
        w.u32_be(3, FIRST);
    });
}

/// The kernel writes the option only where that lowers it.
fn put_clamp(w: &mut Writer, size: u16) {
    const TCP_OPTION: u32 = 1;
    const MAXIMUM_SEGMENT_SIZE: u8 = 2;
    put_constant(w, &size.to_be_bytes());
    put_expression(w, "exthdr", |w| {
        w.u32_be(7, FIRST);
        w.u8(2, MAXIMUM_SEGMENT_SIZE);
        w.u32_be(3, 2);
        w.u32_be(4, 2);
        w.u32_be(6, TCP_OPTION);
    });
}

fn put_reject(w: &mut Writer, family: TableFamily, reject: Reject) {
    const ICMP: u32 = 0;
    const TCP_RESET: u32 = 1;
    /// Of the packet's own family; only tables that see both know it.
    const ICMP_ANY: u32 = 2;
    let (kind, code) = match (reject, family) {
        (Reject::TcpReset, _) => (TCP_RESET, 0),
        (Reject::AdminProhibited, TableFamily::Ip) => (ICMP, 13),
        (Reject::Unreachable, TableFamily::Ip) => (ICMP, 1),
        (Reject::AdminProhibited, TableFamily::Ip6) => (ICMP, 1),
        (Reject::Unreachable, TableFamily::Ip6) => (ICMP, 3),
        (Reject::AdminProhibited, _) => (ICMP_ANY, 3),
        (Reject::Unreachable, _) => (ICMP_ANY, 2),
    };
    put_expression(w, "reject", |w| {
        w.u32_be(1, kind);
        w.u8(2, code);
    });
}

fn put_value(w: &mut Writer, kind: u16, value: &[u8]) {
    w.nest(kind, |w| w.bytes(data::VALUE, value));
}

fn len32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
