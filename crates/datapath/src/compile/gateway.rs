//! The gateway: moves packets without tracking them. Maps grow by one element per lease, rules only with the number of
//! different block sizes.
//!
//! ```text
//! tunnel_in4 -> eip_out4 -> eip_out_ports4 | eip_out_echo4 | eip_out_error4    leased to this peer? out, else dropped
//! raw4       -> eip_in4  -> eip_in_ports4  | eip_in_echo4  | eip_in_error4     EIP -> holder's tunnel address
//! ```

use std::collections::{BTreeMap, BTreeSet};

use model::PortBlock;

use super::Context;
use super::build::*;
use super::family::{Family, ICMP_HEADER};
use super::names::*;
use super::overflow;
use super::routing::tunnel_mtu;
use crate::nft::{ChainKind, Compare, FieldType, Hook, Load, Operand, Statement, Table};

const TCP: u8 = 6;

/// Answers to pings of EIPs, per second and in a burst.
const PINGS: (u64, u32) = (100, 100);

/// The gateway's sets, maps and chains. On a node that is none, only the drop of what claims to come from an EIP is left.
pub(super) fn compile(context: &Context<'_>, table: &mut Table) {
    let leases: Vec<(Family, Leases)> =
        context.families().map(|family| (family, Leases::collect(context, family))).collect();
    for (family, leases) in &leases {
        leases.add_to(*family, table);
        way_out(context, *family, leases, table);
    }
    if context.view.gateway_eips.is_empty() {
        return;
    }
    let mut output = Rules::default();
    for (family, leases) in &leases {
        eip_maps(context, *family, table);
        way_in(context, *family, leases, table);
        output.rule(
            "this host's own answers to EIPs, and its ICMP errors",
            [
                is(Load::NetworkProtocol, [family.nfproto]),
                within(family.destination, family.name(GATEWAY_EIPS)),
                goto(family.name("eip_in")),
            ],
        );
    }
    output.base(table, "reply_output", ChainKind::Route, Hook::Output, -300);
    echo_chain(context, table);
}

/// The leases of one family by block size: that many maps and sets there are.
#[derive(Default)]
struct Leases {
    /// (EIP, block) to the holder's tunnel address
    reply: BTreeMap<u32, BTreeMap<Vec<u8>, Vec<u8>>>,
    /// (MAC, EIP, block)
    leased: BTreeMap<u32, BTreeSet<Vec<u8>>>,
    /// (EIP, block)
    own: BTreeMap<u32, BTreeSet<Vec<u8>>>,
}

impl Leases {
    fn collect(context: &Context<'_>, family: Family) -> Self {
        let view = context.view;
        let mut result = Self::default();
        let leases = view
            .gateway_eips
            .iter()
            .flat_map(|(eip, gateway)| gateway.leases.iter().map(move |lease| (eip, lease)));
        for (eip, lease) in leases {
            let Some(address) = family.eip(eip) else { continue };
            let key = join(&[&address, &first_port(lease.block)]);
            let size = lease.block.size();
            if lease.node == view.node {
                result.own.entry(size).or_default().insert(key);
                continue;
            }
            let Some(peer) = view.peers.get(&lease.node) else {
                continue;
            };
            let Some(tunnel) = family.pick(peer.ipv4, peer.ipv6) else {
                continue;
            };
            result.reply.entry(size).or_default().insert(key, tunnel);
            // A gateway's overflow block as well: its own pods may leave with it, and by another gateway.
            let key = join(&[&peer.mac.0, &address, &first_port(lease.block)]);
            result.leased.entry(size).or_default().insert(key);
        }
        // What this node itself uses is its own even before it has heard so as a gateway.
        for (eip, source) in view.eips.iter().filter(|(eip, _)| view.gateway_eips.contains_key(*eip)) {
            let Some(address) = family.eip(eip) else { continue };
            for block in source.blocks() {
                let key = join(&[&address, &first_port(*block)]);
                result.own.entry(block.size()).or_default().insert(key);
            }
        }
        result
    }

    fn add_to(&self, family: Family, table: &mut Table) {
        let block = [family.field, FieldType::Port];
        for (size, elements) in &self.reply {
            let elements = elements.iter().map(|(key, value)| (key.clone(), value.clone()));
            add_map(table, family.numbered(REPLY, *size), &block, &[family.field], elements);
        }
        for (size, keys) in &self.leased {
            let key = [FieldType::Mac, family.field, FieldType::Port];
            add_set(table, family.numbered(LEASED, *size), &key, keys.iter().cloned());
        }
        for (size, keys) in &self.own {
            add_set(table, family.numbered(OWN, *size), &block, keys.iter().cloned());
        }
    }
}

/// A port, or what stands for it, masked to its block's first.
fn block_of(load: Load, size: &u32) -> Operand {
    let log2 = u8::try_from(size.trailing_zeros()).unwrap_or(PortBlock::MAX_LOG2);
    bits(load, (u16::MAX << log2).to_be_bytes())
}

/// The three ways in which a packet says its port.
struct PortIn {
    ports: Load,
    echo: Load,
    quoted: Load,
}

/// Matches ICMP errors that quote a packet whose header has no options.
fn quotes(family: Family, protocol: impl FnOnce(Load) -> Statement) -> Vec<Statement> {
    let mut statements =
        vec![is(Load::TransportProtocol, [family.icmp]), within(Load::IcmpType, family.name(ICMP_ERRORS))];
    if !family.is_v6() {
        statements.push(is(Load::Transport(ICMP_HEADER, 1), [0x45]));
    }
    statements.push(protocol(Load::Transport(ICMP_HEADER + family.protocol_offset, 1)));
    statements
}

/// Matches ICMP errors that quote a packet with ports.
fn quotes_ports(family: Family) -> Vec<Statement> {
    quotes(family, |protocol| within(protocol, PORT_PROTOCOLS))
}

/// Matches ICMP errors that quote an echo.
fn quotes_echo(family: Family) -> Vec<Statement> {
    quotes(family, |protocol| is(protocol, [family.icmp]))
}

/// From the tunnel, with an EIP as source: only what is leased to this peer goes out.
fn way_out(context: &Context<'_>, family: Family, leases: &Leases, table: &mut Table) {
    let echo = [is(Load::TransportProtocol, [family.icmp]), is(Load::IcmpType, [family.echo_request])];
    let mut out = Rules::default();
    out.rule(
        "an EIP never talks to an EIP",
        [within(family.destination, family.name(EIPS)), counter(DROP_NOT_LEASED), drop()],
    );
    out.rule("", [within(Load::TransportProtocol, PORT_PROTOCOLS), goto(family.name("eip_out_ports"))]);
    out.rule("", echo.into_iter().chain([goto(family.name("eip_out_echo"))]));
    out.rule(
        "an error about a reply quotes the reply: the port is its destination's",
        quotes_ports(family).into_iter().chain([goto(family.name("eip_out_error"))]),
    );
    out.rule("", [counter(DROP_NOT_LEASED), drop()]);
    out.regular(table, family.name("eip_out"));

    let port_in = PortIn {
        ports: Load::SourcePort,
        echo: Load::IcmpEchoId,
        quoted: Load::Transport(ICMP_HEADER + family.header + 2, 2),
    };
    for (name, port) in
        [("eip_out_ports", port_in.ports), ("eip_out_echo", port_in.echo), ("eip_out_error", port_in.quoted)]
    {
        let mut chain = Rules::default();
        for size in leases.leased.keys() {
            let key = [whole(Load::EtherSource), whole(family.source), block_of(port, size)];
            chain.rule(
                "leased to this peer",
                [all_within(key, family.numbered(LEASED, *size)), Statement::Notrack, accept()],
            );
        }
        overflow::way_out(context, family, port, &mut chain);
        chain.rule("", [counter(DROP_NOT_LEASED), drop()]);
        chain.regular(table, family.name(name));
    }
}

fn eip_maps(context: &Context<'_>, family: Family, table: &mut Table) {
    let eips = &context.view.gateway_eips;
    let addresses = || eips.iter().filter_map(move |(eip, own)| Some((eip, family.eip(eip)?, own)));
    add_set(table, family.name(GATEWAY_EIPS), &[family.field], addresses().map(|(_, address, _)| address));
    let answered = addresses().filter(|(_, _, own)| own.answers).map(|(_, address, _)| address);
    add_set(table, family.name(ANSWERED), &[family.field], answered);
    let marks: Vec<(Vec<u8>, Vec<u8>)> = addresses()
        .filter_map(|(eip, address, _)| {
            let mark = context.numbering.eip_number(eip)?.mark();
            Some((address, mark.to_ne_bytes().to_vec()))
        })
        .collect();
    add_map(table, family.name(EIP_MARK), &[family.field], &[FieldType::Mark], marks.iter().cloned());
    let back = marks.into_iter().map(|(address, mark)| (mark, address));
    add_map(table, family.name(MARK_EIP), &[FieldType::Mark], &[family.field], back);
}

/// To an EIP, from outside or from this host itself.
fn way_in(context: &Context<'_>, family: Family, leases: &Leases, table: &mut Table) {
    let icmp = || is(Load::TransportProtocol, [family.icmp]);
    let echo_reply = || [icmp(), is(Load::IcmpType, [family.echo_reply])];
    let echo_request = || [icmp(), is(Load::IcmpType, [family.echo_request])];
    let port_in = PortIn {
        ports: Load::DestinationPort,
        echo: Load::IcmpEchoId,
        quoted: Load::Transport(ICMP_HEADER + family.header, 2),
    };
    let quoted_echo = Load::Transport(ICMP_HEADER + family.header + 4, 2);

    let mut way_in = Rules::default();
    if family.is_v6() {
        for neighbour_discovery in [135, 136] {
            way_in.rule("", [icmp(), is(Load::IcmpType, [neighbour_discovery]), accept()]);
        }
    }
    for size in leases.own.keys() {
        let own =
            |load| all_within([whole(family.destination), block_of(load, size)], family.numbered(OWN, *size));
        let comment = "to this node's own pods: connection tracking knows them";
        way_in.rule(comment, [within(Load::TransportProtocol, PORT_PROTOCOLS), own(port_in.ports), accept()]);
        way_in.rule(comment, echo_reply().into_iter().chain([own(port_in.echo), accept()]));
        way_in.rule(comment, quotes_ports(family).into_iter().chain([own(port_in.quoted), accept()]));
        way_in.rule(comment, quotes_echo(family).into_iter().chain([own(quoted_echo), accept()]));
    }
    if let Some(mtu) = tunnel_mtu(context.view) {
        way_in.rule(
            "not rewritten, so that the kernel's answer quotes the EIP",
            too_big(family, mtu).into_iter().chain([counter(TOO_BIG), Statement::Notrack, accept()]),
        );
    }
    let limit = Statement::LimitPerSecond { rate: PINGS.0, burst: PINGS.1 };
    let answered = within(family.destination, family.name(ANSWERED));
    way_in.rule("people ping EIPs", echo_request().into_iter().chain([answered, limit, accept()]));
    way_in.rule("", echo_request().into_iter().chain([counter(DROP_PING_LIMIT), drop()]));
    way_in.rule(
        "remembers the EIP until after routing",
        [set_from_map(crate::nft::Target::Mark, [whole(family.destination)], family.name(EIP_MARK))],
    );
    way_in.rule("", [within(Load::TransportProtocol, PORT_PROTOCOLS), goto(family.name("eip_in_ports"))]);
    way_in.rule("", echo_reply().into_iter().chain([goto(family.name("eip_in_echo"))]));
    way_in.rule(
        "an error quotes what left: the port is its source's",
        quotes_ports(family).into_iter().chain([goto(family.name("eip_in_error"))]),
    );
    way_in.rule(
        "a quoted echo has its id elsewhere",
        quotes_echo(family).into_iter().chain([goto(family.name("eip_in_echo_error"))]),
    );
    way_in.rule("", [counter(DROP_NO_HOLDER), drop()]);
    way_in.regular(table, family.name("eip_in"));

    for (name, port) in [
        ("eip_in_ports", port_in.ports),
        ("eip_in_echo", port_in.echo),
        ("eip_in_error", port_in.quoted),
        ("eip_in_echo_error", quoted_echo),
    ] {
        let mut chain = Rules::default();
        for size in leases.reply.keys() {
            let key = [whole(family.destination), block_of(port, size)];
            chain.rule(
                "to the block's holder",
                [
                    set_from_map(family.write_destination, key, family.numbered(REPLY, *size)),
                    Statement::Notrack,
                    accept(),
                ],
            );
        }
        chain.rule("no answer: a reset would tell an attacker something", [counter(DROP_NO_HOLDER), drop()]);
        chain.regular(table, family.name(name));
    }
}

/// Matches what does not fit into the tunnel and may not be cut up. TCP is left out: its segment size is clamped, and
/// what looks too big was joined by the receiving device.
fn too_big(family: Family, mtu: u32) -> Vec<Statement> {
    let greater = |load, value: u32| Statement::Match {
        operand: whole(load),
        compare: Compare::Greater,
        value: u16::try_from(value).unwrap_or(u16::MAX).to_be_bytes().to_vec(),
    };
    if family.is_v6() {
        vec![
            is_not(Load::TransportProtocol, [TCP]),
            greater(Load::Network(4, 2), mtu.saturating_sub(family.header.into())),
        ]
    } else {
        vec![
            is_not(Load::TransportProtocol, [TCP]),
            any_bit(Load::Network(6, 1), [0x40]),
            greater(Load::Network(2, 2), mtu),
        ]
    }
}

/// Pings of EIPs that this node answers go to its own address. Before the source chains, for which they then are local.
fn echo_chain(context: &Context<'_>, table: &mut Table) {
    let Some(uplink) = &context.view.uplink else {
        return;
    };
    let mut echo = Rules::default();
    for family in context.families() {
        let Some(address) = family.pick(uplink.ipv4, uplink.ipv6) else {
            continue;
        };
        echo.rule(
            "answered in this node's name",
            [
                is(Load::NetworkProtocol, [family.nfproto]),
                from_device(&uplink.device),
                is(Load::TransportProtocol, [family.icmp]),
                is(Load::IcmpType, [family.echo_request]),
                within(family.destination, family.name(ANSWERED)),
                Statement::DnatTo { address },
            ],
        );
    }
    echo.base(table, "echo", ChainKind::Nat, Hook::Prerouting, -101);
}
