//! Packets through our rules: a source node, a gateway that keeps no state, an outside host.
//!
//! ```text
//! source 10.9.0.2 ---- 10.9.0.1 gateway 10.6.0.1 ---- 10.6.0.9 outside
//!        fd09::2       fd09::1          fd06::1       fd06::9
//! ```
//!
//! The source translates to the egress IP and a port of its block; the gateway sends replies back by port block, and
//! puts the egress IP back before they leave it.

mod world;

use std::collections::BTreeSet;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};

use datapath::nft::{
    Chain, ChainKind, DataType, FieldType, Hook, Key, Load, Source, Statement, Target, Value, Verdict,
};
use datapath::transaction::NftCommand;
use kernel::conntrack::{ConntrackMonitor, ConntrackSocket, FlowEvent, FlowFilter};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrStorage, getsockopt,
    recvmsg, sendmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::Test;
use crate::ruleset::{commands_for, equals, exact, map, operand, rule, table_id};
use world::{EIP, EIP6, FIRST, MARK, OUTSIDE, SOURCE, WAIT, World, chain, in_block, table, world};

pub(crate) const TESTS: &[Test] = &[
    ("connections_cross_a_gateway_that_keeps_no_state", connections_cross_a_gateway_that_keeps_no_state),
    ("rewritten_packets_have_right_checksums", rewritten_packets_have_right_checksums),
    ("ipv6_crosses_as_well", ipv6_crosses_as_well),
    ("intervals_and_classes_lead_where_they_say", intervals_and_classes_lead_where_they_say),
    ("a_host_that_forwards_nothing_lets_our_device_pass", a_host_that_forwards_nothing_lets_our_device_pass),
    ("the_segment_size_is_clamped", the_segment_size_is_clamped),
    ("flows_are_found_deleted_and_heard_of", flows_are_found_deleted_and_heard_of),
];

fn connections_cross_a_gateway_that_keeps_no_state() {
    let mut world = world();
    let listener = world.outside.run(|| TcpListener::bind("10.6.0.9:80").unwrap()).unwrap();
    let mut ports = BTreeSet::new();
    for round in 0..3u8 {
        let address = SocketAddr::from((OUTSIDE, 80));
        let connect = || TcpStream::connect_timeout(&address, WAIT).unwrap();
        let mut client = world.source.run(connect).unwrap();
        let (mut server, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip(), IpAddr::V4(EIP));
        assert!(in_block(peer.port()), "{peer}");
        ports.insert(peer.port());
        let sent: Vec<u8> = (0..100_000u32).map(|n| (n as u8).wrapping_mul(round + 1)).collect();
        let copy = sent.clone();
        client.set_read_timeout(Some(WAIT)).unwrap();
        server.set_read_timeout(Some(WAIT)).unwrap();
        let echo = std::thread::spawn(move || {
            let mut heard = vec![0; copy.len()];
            server.read_exact(&mut heard).unwrap();
            server.write_all(&heard).unwrap();
            heard == copy
        });
        client.write_all(&sent).unwrap();
        let mut back = vec![0; sent.len()];
        client.read_exact(&mut back).unwrap();
        assert!(echo.join().unwrap() && back == sent);
    }
    assert!(!ports.is_empty());
    let (_, from) = exchange_udp(&world, "0.0.0.0:0", "10.6.0.9:53");
    assert!(from.ip() == IpAddr::V4(EIP) && in_block(from.port()), "{from}");

    let counters = world.gateway_nft.counters(&table_id("t")).unwrap();
    assert!(counters["out"].packets > 10 && counters["back"].packets > 10, "{counters:?}");
    assert_eq!(counters["invalid"].packets, 0);
    let flows = ConntrackSocket::open_in(&world.gateway).unwrap().flows(&FlowFilter::default()).unwrap();
    assert!(
        flows.iter().all(|flow| ![6, 17].contains(&flow.protocol)),
        "the gateway tracks nothing of it: {flows:?}"
    );
}

fn exchange_udp(world: &World, from: &str, to: &str) -> (UdpSocket, SocketAddr) {
    let server = world.outside.run(|| UdpSocket::bind(to).unwrap()).unwrap();
    let client = world.source.run(|| UdpSocket::bind(from).unwrap()).unwrap();
    server.set_read_timeout(Some(WAIT)).unwrap();
    client.set_read_timeout(Some(WAIT)).unwrap();
    client.send_to(b"ask", to).unwrap();
    let mut buffer = [0; 16];
    let (len, peer) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..len], b"ask");
    server.send_to(b"answer", peer).unwrap();
    let (len, answerer) = client.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..len], answerer.to_string().as_str()), (&b"answer"[..], to));
    (client, peer)
}

fn ipv6_crosses_as_well() {
    let mut world = world();
    let (_, peer) = exchange_udp(&world, "[::]:0", "[fd06::9]:53");
    assert!(peer.ip() == IpAddr::V6(EIP6) && in_block(peer.port()), "{peer}");
    let listener = world.outside.run(|| TcpListener::bind("[fd06::9]:80").unwrap()).unwrap();
    let address: SocketAddr = "[fd06::9]:80".parse().unwrap();
    let mut client = world.source.run(|| TcpStream::connect_timeout(&address, WAIT).unwrap()).unwrap();
    let (mut server, peer) = listener.accept().unwrap();
    assert!(peer.ip() == IpAddr::V6(EIP6) && in_block(peer.port()), "{peer}");
    server.write_all(b"pushed").unwrap();
    client.set_read_timeout(Some(WAIT)).unwrap();
    let mut heard = [0; 6];
    client.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"pushed");
    assert!(world.gateway_nft.counters(&table_id("t")).unwrap()["back"].packets > 1);
}

/// Between virtual devices checksums are left open and checked by nobody. Packets from a raw socket carry theirs, so
/// that the receiver checks what the gateway made of them. The egress IP is not restored here: that would also undo
/// what a wrong repair has done.
fn rewritten_packets_have_right_checksums() {
    let mut world = world();
    world
        .gateway_nft
        .apply(&[NftCommand::FlushChain { table: table_id("t"), name: "postrouting".into() }])
        .unwrap();
    let port = FIRST + 0x50;
    let outside6: Ipv6Addr = "fd06::9".parse().unwrap();
    for (from, to, node) in [
        (IpAddr::V4(OUTSIDE), IpAddr::V4(EIP), IpAddr::V4(SOURCE)),
        (IpAddr::V6(outside6), IpAddr::V6(EIP6), "fd09::2".parse().unwrap()),
    ] {
        let receiver = world.source.run(|| UdpSocket::bind((node, port)).unwrap()).unwrap();
        receiver.set_read_timeout(Some(WAIT)).unwrap();
        let raw = world.outside.run(|| raw_socket(to, SockProtocol::Udp)).unwrap();
        let datagram = |text: &[u8; 4], flip: u16| {
            let head = [53u16.to_be_bytes(), port.to_be_bytes(), 12u16.to_be_bytes()].concat();
            let sum = transport_checksum(from, to, 17, &[&head[..], &[0, 0], text].concat()) ^ flip;
            [&head[..], &sum.to_be_bytes(), text].concat()
        };
        send_raw(&raw, to, &datagram(b"bad!", 0x0100));
        send_raw(&raw, to, &datagram(b"good", 0));
        let mut buffer = [0; 16];
        let (len, sender) = receiver.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..len], sender.ip()), (&b"good"[..], from));
    }

    // TCP: a SYN is answered if its checksum is right.
    let _listener = world.source.run(|| TcpListener::bind((SOURCE, port)).unwrap()).unwrap();
    let (from, to) = (IpAddr::V4(OUTSIDE), IpAddr::V4(EIP));
    let raw = world.outside.run(|| raw_socket(to, SockProtocol::Tcp)).unwrap();
    let syn = |sequence: u32, flip: u16| {
        let mut head =
            [&999u16.to_be_bytes()[..], &port.to_be_bytes(), &sequence.to_be_bytes(), &[0; 4]].concat();
        head.extend([0x50, 0x02, 0x10, 0]);
        let sum = transport_checksum(from, to, 6, &[&head[..], &[0; 4]].concat()) ^ flip;
        [&head[..], &sum.to_be_bytes(), &[0, 0]].concat()
    };
    send_raw(&raw, to, &syn(100, 0x0100));
    send_raw(&raw, to, &syn(200, 0));
    let answer = receive_raw(&raw);
    assert_eq!(answer[28..32], 201u32.to_be_bytes(), "the broken one is not answered");
}

fn raw_socket(to: IpAddr, protocol: SockProtocol) -> OwnedFd {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).unwrap();
    setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(5)).unwrap();
    fd
}

fn send_raw(socket: &OwnedFd, to: IpAddr, bytes: &[u8]) {
    let to = SockaddrStorage::from(SocketAddr::new(to, 0));
    sendmsg(socket.as_raw_fd(), &[IoSlice::new(bytes)], &[], MsgFlags::empty(), Some(&to)).unwrap();
}

fn receive_raw(socket: &OwnedFd) -> Vec<u8> {
    let mut buffer = vec![0; 2048];
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let len = recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut parts, None, MsgFlags::empty()).unwrap().bytes;
    buffer.truncate(len);
    buffer
}

/// Of a segment of even length whose checksum field is zero.
fn transport_checksum(from: IpAddr, to: IpAddr, protocol: u8, segment: &[u8]) -> u16 {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let len = u16::try_from(segment.len()).unwrap().to_be_bytes();
    let all = [&octets(from), &octets(to), &[0, protocol][..], &len, segment].concat();
    let mut sum: u32 = all.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn a_host_that_forwards_nothing_lets_our_device_pass() {
    let mut world = world();
    let script = "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }; \
                  add table inet other; add chain inet other f { type filter hook forward priority 5; policy accept; }";
    let made = world.gateway.run(|| std::process::Command::new("nft").arg(script).status()).unwrap();
    if !made.is_ok_and(|status| status.success()) {
        println!("SKIP: no nft tool that makes a chain with a policy");
        return;
    }
    let own = BTreeSet::from([table_id("t")]);
    let closed = world.gateway_nft.closed_chains(&own).unwrap();
    assert_eq!(closed.iter().map(ToString::to_string).collect::<Vec<_>>(), ["ip filter FORWARD"]);
    let receiver = world.outside.run(|| UdpSocket::bind((OUTSIDE, 4000)).unwrap()).unwrap();
    receiver.set_read_timeout(Some(WAIT)).unwrap();
    let sender = world.source.run(|| UdpSocket::bind((SOURCE, 0)).unwrap()).unwrap();
    sender.send_to(b"too early", (OUTSIDE, 4000)).unwrap();
    let admission = world.gateway_nft.admit("inside", &own).unwrap();
    assert_eq!((admission.opened, admission.refused.len()), (closed, 0));
    sender.send_to(b"through", (OUTSIDE, 4000)).unwrap();
    let mut buffer = [0; 64];
    let (length, from) = receiver.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"through");
    receiver.send_to(b"and back", from).unwrap();
    sender.set_read_timeout(Some(WAIT)).unwrap();
    let length = sender.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"and back");
    // Once is enough; and what others flush comes back.
    assert_eq!(world.gateway_nft.admit("inside", &own).unwrap().opened, BTreeSet::new());
    let flush = || std::process::Command::new("nft").arg("flush chain ip filter FORWARD").status();
    world.gateway.run(flush).unwrap().unwrap();
    assert_eq!(world.gateway_nft.admit("inside", &own).unwrap().opened.len(), 1);
}

fn intervals_and_classes_lead_where_they_say() {
    use FieldType::{Ipv4, Mark};
    let mut world = world();
    let range = |a: [u8; 4], b: [u8; 4]| Key::Range(a.to_vec(), b.to_vec());
    let mark = |n: u32| Value::Data(n.to_ne_bytes().to_vec());
    let ids = map(
        &[Ipv4],
        DataType::Fields(vec![Mark]),
        vec![
            (range([0, 0, 0, 0], [10, 6, 0, 99]), mark(1)),
            (range([10, 6, 0, 100], [10, 6, 0, 100]), mark(2)),
            (range([10, 6, 0, 110], [10, 6, 0, 119]), mark(3)),
            (range([10, 6, 0, 120], [255, 255, 255, 255]), mark(4)),
        ],
    );
    let pods = map(&[Ipv4], DataType::Fields(vec![Mark]), vec![(exact(&SOURCE.octets()), mark(77))]);
    let jump = |chain: &str| Value::Verdict(Verdict::Jump(chain.into()));
    let classes = map(&[Mark], DataType::Verdict, vec![(exact(&77u32.to_ne_bytes()), jump("class"))]);
    let count = |n: u32, name: &str| {
        rule("", vec![equals(Load::Mark, &n.to_ne_bytes()), Statement::Counter(name.into())])
    };
    let four = equals(Load::NetworkProtocol, &[2]);
    let key = |load| vec![operand(load)];
    let class = vec![
        rule(
            "",
            vec![Statement::Set {
                target: Target::Mark,
                source: Source::Map { key: key(Load::Destination4), map: "ids".into() },
            }],
        ),
        count(1, "one"),
        count(2, "two"),
        count(3, "three"),
        count(4, "four"),
        rule("", vec![Statement::Verdict(Verdict::Return)]),
    ];
    let output = vec![
        rule(
            "",
            vec![
                four,
                equals(Load::TransportProtocol, &[17]),
                Statement::Set {
                    target: Target::Mark,
                    source: Source::Constant(0x55u32.to_ne_bytes().to_vec()),
                },
            ],
        ),
        rule(
            "",
            vec![Statement::MapThenVerdict {
                key: key(Load::Source4),
                map: "pods".into(),
                verdicts: "classes".into(),
            }],
        ),
        // Where no interval fits, the mark is what it was before the class was looked up.
        count(0x55, "unchanged"),
    ];
    let counters = ["one", "two", "three", "four", "unchanged"];
    let mut table = table(
        vec![("ids", ids), ("pods", pods), ("classes", classes)],
        &counters,
        vec![
            ("output", chain(ChainKind::Filter, Hook::Output, 0, output)),
            ("class", Chain { hook: None, rules: class }),
        ],
    );
    table.name = "classes".into();
    world.source_nft.apply(&commands_for(&table)).unwrap();
    let sender = world.source.run(|| UdpSocket::bind("10.9.0.2:0").unwrap()).unwrap();
    for (last, times) in [(99, 1), (100, 2), (105, 3), (110, 1), (119, 1), (120, 1), (255, 3)] {
        for _ in 0..times {
            sender.send_to(b"x", (Ipv4Addr::new(10, 6, 0, last), 9)).unwrap();
        }
    }
    let found = world.source_nft.counters(&table_id("classes")).unwrap();
    let packets: Vec<u64> = counters.iter().map(|name| found[*name].packets).collect();
    assert_eq!(packets, [1, 2, 2, 4, 3]);
}

fn the_segment_size_is_clamped() {
    let world = world();
    let listener = world.outside.run(|| TcpListener::bind("10.6.0.9:80").unwrap()).unwrap();
    let address = SocketAddr::from((OUTSIDE, 80));
    let client = world.source.run(|| TcpStream::connect_timeout(&address, WAIT).unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    for end in [&client, &server] {
        let size = getsockopt(end, sockopt::TcpMaxSeg).unwrap();
        assert!((900..=1000).contains(&size), "{size}");
    }
}

fn flows_are_found_deleted_and_heard_of() {
    let world = world();
    let mut monitor = ConntrackMonitor::open_in(&world.source).unwrap();
    let mut conntrack = ConntrackSocket::open_in(&world.source).unwrap();
    let (_client, peer) = exchange_udp(&world, "0.0.0.0:0", "10.6.0.9:53");
    let ours = FlowFilter { mark: Some((MARK, 0xffff_ffff)), source: None };
    let [flow] = <[_; 1]>::try_from(conntrack.flows(&ours).unwrap()).unwrap();
    assert_eq!((flow.protocol, flow.mark, flow.original.source), (17, MARK, IpAddr::V4(SOURCE)));
    assert_eq!((flow.original.destination_port, flow.reply.source_port), (53, 53));
    assert_eq!((flow.reply.destination, flow.reply.destination_port), (peer.ip(), peer.port()));
    assert!(conntrack.fill().unwrap().entries >= 1);
    let other = FlowFilter { mark: Some((MARK + 1, 0xffff_ffff)), source: None };
    assert!(conntrack.flows(&other).unwrap().is_empty());
    let by_source = FlowFilter { mark: None, source: Some(IpAddr::V4(SOURCE)) };
    assert_eq!(conntrack.delete_matching(&by_source).unwrap(), 1);
    assert!(conntrack.flows(&ours).unwrap().is_empty());
    conntrack.delete(&flow).unwrap();

    let mut events = Vec::new();
    while !events.iter().any(|event| matches!(event, FlowEvent::Ended(_))) {
        assert!(monitor.wait(Some(WAIT)).unwrap(), "nothing more is heard: {events:?}");
        events.extend(monitor.drain().unwrap());
    }
    let same = |heard: &FlowEvent| matches!(heard, FlowEvent::Seen(heard) if heard.id == flow.id);
    assert!(events.iter().any(same), "{events:?}");
    assert!(matches!(events.last(), Some(FlowEvent::Ended(ended)) if ended.original == flow.original));
}
