//! What a CNI does to packets that pods send out of the cluster: they leave with their node's address.
//!
//! ```text
//! table ip lab_cni {                                      and the same as table ip6
//!     chain postrouting {
//!         type nat hook postrouting priority srcnat;
//!         ip daddr 10.244.0.0/16 return                   pods
//!         ip daddr 10.96.0.0/12 return                    Services
//!         ip daddr 10.6.0.11 return                       each node
//!         ip saddr 10.244.N.0/24 masquerade
//!     }
//! }
//! ```

use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

use crate::addresses::{NodeNumber, SERVICE_CIDRS, cluster_pod_cidrs, host};

const TABLE: &str = "lab_cni";
const CHAIN: &str = "postrouting";
const SUBSYSTEM_NFTABLES: u16 = 10;
const NEW_TABLE: u16 = 0;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const GET_GENERATION: u16 = 16;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const FLAG_REQUEST: u16 = 0x01;
const FLAG_ACK: u16 = 0x04;
const FLAG_CREATE: u16 = 0x400;
const FLAG_APPEND: u16 = 0x800;
const HOOK_POSTROUTING: u32 = 4;
const PRIORITY_SRCNAT: u32 = 100;
const VERDICT_RETURN: i32 = -5;
const FAMILY_IPV4: u8 = 2;
const FAMILY_IPV6: u8 = 10;

/// Installs the tables in the calling thread's network namespace.
pub(crate) fn install(node: NodeNumber, nodes: &[NodeNumber]) -> io::Result<()> {
    let mut batch = Batch::default();
    for family in [FAMILY_IPV4, FAMILY_IPV6] {
        let of_family = |net: &IpNet| net.addr().is_ipv4() == (family == FAMILY_IPV4);
        let services = SERVICE_CIDRS.iter().filter_map(|cidr| cidr.parse::<IpNet>().ok());
        let node_addresses = nodes.iter().flat_map(|node| [IpAddr::V4(node.v4()), IpAddr::V6(node.v6())]);
        let inside = cluster_pod_cidrs().into_iter().chain(services).chain(node_addresses.map(host));
        let own_pods = [IpNet::V4(node.pod_cidr_v4()), IpNet::V6(node.pod_cidr_v6())];

        batch.message(NEW_TABLE, family, FLAG_CREATE, |m| m.text(1, TABLE));
        batch.message(NEW_CHAIN, family, FLAG_CREATE, |m| {
            m.text(1, TABLE);
            m.text(3, CHAIN);
            m.nested(4, |hook| {
                hook.number(1, HOOK_POSTROUTING);
                hook.number(2, PRIORITY_SRCNAT);
            });
            m.text(7, "nat");
        });
        for destination in inside.filter(of_family) {
            batch.rule(family, |expressions| {
                match_network(expressions, destination, Side::Destination);
                verdict_return(expressions);
            });
        }
        for source in own_pods.iter().filter(|net| of_family(net)) {
            batch.rule(family, |expressions| {
                match_network(expressions, *source, Side::Source);
                expressions.expression("masq", |_| {});
            });
        }
    }
    batch.commit()
}

/// Whether the kernel has nf_tables at all.
pub(crate) fn probe() -> io::Result<()> {
    let mut message = Attributes::default();
    write_message(&mut message.0, SUBSYSTEM_NFTABLES << 8 | GET_GENERATION, 0, FLAG_ACK, 1, 0, |_| {});
    exchange(&message.0, 1)
}

#[derive(Clone, Copy)]
enum Side {
    Source,
    Destination,
}

/// `ip saddr NET` or `ip daddr NET`: load, mask, compare.
fn match_network(expressions: &mut Attributes, net: IpNet, side: Side) {
    let (offset, address, mask): (u32, Vec<u8>, Vec<u8>) = match (net, side) {
        (IpNet::V4(net), Side::Source) => (12, net.network().octets().into(), net.netmask().octets().into()),
        (IpNet::V4(net), Side::Destination) => {
            (16, net.network().octets().into(), net.netmask().octets().into())
        }
        (IpNet::V6(net), Side::Source) => (8, net.network().octets().into(), net.netmask().octets().into()),
        (IpNet::V6(net), Side::Destination) => {
            (24, net.network().octets().into(), net.netmask().octets().into())
        }
    };
    let length = u32::try_from(address.len()).unwrap_or(0);
    expressions.expression("payload", |e| {
        e.number(1, 1); // into register 1
        e.number(2, 1); // from the network header
        e.number(3, offset);
        e.number(4, length);
    });
    expressions.expression("bitwise", |e| {
        e.number(1, 1);
        e.number(2, 1);
        e.number(3, length);
        e.nested(4, |data| data.bytes(1, &mask));
        e.nested(5, |data| data.bytes(1, &vec![0; mask.len()]));
    });
    expressions.expression("cmp", |e| {
        e.number(1, 1);
        e.number(2, 0); // equal
        e.nested(3, |data| data.bytes(1, &address));
    });
}

fn verdict_return(expressions: &mut Attributes) {
    expressions.expression("immediate", |e| {
        e.number(1, 0); // the verdict register
        e.nested(2, |data| data.nested(2, |verdict| verdict.bytes(1, &VERDICT_RETURN.to_be_bytes())));
    });
}

/// Netlink attributes in the making.
#[derive(Default)]
struct Attributes(Vec<u8>);

impl Attributes {
    fn bytes(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn text(&mut self, kind: u16, value: &str) {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat());
    }

    fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        fill(&mut inner);
        self.bytes(kind | 0x8000, &inner.0);
    }

    fn expression(&mut self, name: &str, fill: impl FnOnce(&mut Self)) {
        self.nested(1, |element| {
            element.text(1, name);
            element.nested(2, fill);
        });
    }
}

/// Messages that the kernel applies together or not at all.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    messages: u32,
}

impl Batch {
    fn message(&mut self, kind: u16, family: u8, flags: u16, fill: impl FnOnce(&mut Attributes)) {
        if self.messages == 0 {
            write_message(&mut self.bytes, BATCH_BEGIN, 0, 0, 0, SUBSYSTEM_NFTABLES, |_| {});
        }
        self.messages += 1;
        let kind = SUBSYSTEM_NFTABLES << 8 | kind;
        write_message(&mut self.bytes, kind, family, flags | FLAG_ACK, self.messages, 0, fill);
    }

    fn rule(&mut self, family: u8, fill: impl FnOnce(&mut Attributes)) {
        self.message(NEW_RULE, family, FLAG_CREATE | FLAG_APPEND, |m| {
            m.text(1, TABLE);
            m.text(2, CHAIN);
            m.nested(4, fill);
        });
    }

    fn commit(mut self) -> io::Result<()> {
        write_message(&mut self.bytes, BATCH_END, 0, 0, 0, SUBSYSTEM_NFTABLES, |_| {});
        exchange(&self.bytes, self.messages)
    }
}

fn write_message(
    bytes: &mut Vec<u8>,
    kind: u16,
    family: u8,
    flags: u16,
    sequence: u32,
    resource: u16,
    fill: impl FnOnce(&mut Attributes),
) {
    let mut attributes = Attributes::default();
    fill(&mut attributes);
    let length = u32::try_from(20 + attributes.0.len()).unwrap_or(u32::MAX);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((FLAG_REQUEST | flags).to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(attributes.0);
}

/// Sends messages and waits until each is acknowledged, or the first is refused.
fn exchange(bytes: &[u8], messages: u32) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(bytes, 0)?;
    let mut acknowledged = 0;
    while acknowledged < messages {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        while let Some((kind, code, length)) = parse_header(rest) {
            const NLMSG_ERROR: u16 = 2;
            if kind == NLMSG_ERROR && code != 0 {
                return Err(io::Error::from_raw_os_error(-code));
            }
            acknowledged += u32::from(kind == NLMSG_ERROR);
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
    Ok(())
}

/// Type, error code (if it is that type) and length of the first message.
fn parse_header(bytes: &[u8]) -> Option<(u16, i32, usize)> {
    let length = u32::from_ne_bytes(bytes.get(0..4)?.try_into().ok()?);
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let code = bytes.get(16..20).and_then(|code| code.try_into().ok()).map(i32::from_ne_bytes);
    let length = usize::try_from(length).ok().filter(|length| *length >= 16)?;
    Some((kind, code.unwrap_or(0), length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_reply_makes_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse_header(&bytes);
        }
    }
}
