//! Names in the kernel. Those with a family end in 4 or 6; those with a number go on with `_` and it.

/// The table.
pub const TABLE: &str = "egressgateway";

/// The table of family ARP.
pub const ARP_TABLE: &str = "egressgateway_arp";

/// All counters, with what they count. `drop` and `refuse` tell whether the sender gets an answer.
pub const COUNTERS: &[(&str, &str)] = &[
    (REFUSE_NO_GATEWAY, "packets to a selected destination while no gateway lives"),
    (HOLD_NO_LEASE, "new connections that wait for this node to get ports of the EIP"),
    (OVERFLOW, "new connections that leave with a gateway's ports, for want of own ones"),
    (LENT, "new connections of other nodes' pods that leave with this node's own address"),
    (REFUSE_PROTOCOL, "packets to a selected destination of a protocol that can't be translated"),
    (REFUSE_TO_EIP, "packets of selected pods to an EIP"),
    (DIRECT, "new connections that left without EIP, as noGatewayAction says"),
    (DROP_UNTRACKED, "packets to a selected destination that connection tracking does not know"),
    (DROP_SPOOFED, "packets with a pod's address from another interface"),
    (DROP_STRAY, "packets to an EIP that belong to no connection"),
    (DROP_FORGED, "tunnel datagrams that come from no node"),
    (DROP_TUNNEL, "packets out of the tunnel that are neither from nor to an EIP"),
    (DROP_NOT_LEASED, "packets from an EIP's port that their sender does not hold"),
    (DROP_NO_HOLDER, "packets to an EIP's port that nobody holds"),
    (DROP_PING_LIMIT, "pings of an EIP above the limit, or of one that another gateway answers"),
    (TOO_BIG, "replies that exceed the tunnel, answered with fragmentation needed"),
    (DROP_TUNNEL_ENTRY, "packets that somebody routed into the tunnel"),
    (DROP_GUARD, "packets that would have left with a source that is not their EIP"),
    (DROP_SILENCED, "questions for an EIP's link address while the agent is away for long"),
    (DROP_UNKNOWN_POD, "new connections to the outside of pods that are not known yet"),
    (DROP_GUARD_WAY, "packets of a marked flow that would have left past the tunnel"),
];

/// See [`COUNTERS`].
pub const REFUSE_NO_GATEWAY: &str = "refuse_no_gateway";
/// See [`COUNTERS`].
pub const HOLD_NO_LEASE: &str = "hold_no_lease";
/// See [`COUNTERS`].
pub const OVERFLOW: &str = "overflow";
/// See [`COUNTERS`].
pub const LENT: &str = "lent";
/// See [`COUNTERS`].
pub const REFUSE_PROTOCOL: &str = "refuse_protocol";
/// See [`COUNTERS`].
pub const REFUSE_TO_EIP: &str = "refuse_to_eip";
/// See [`COUNTERS`].
pub const DIRECT: &str = "direct";
/// See [`COUNTERS`].
pub const DROP_UNTRACKED: &str = "drop_untracked";
/// See [`COUNTERS`].
pub const DROP_SPOOFED: &str = "drop_spoofed";
/// See [`COUNTERS`].
pub const DROP_STRAY: &str = "drop_stray";
/// See [`COUNTERS`].
pub const DROP_FORGED: &str = "drop_forged";
/// See [`COUNTERS`].
pub const DROP_TUNNEL: &str = "drop_tunnel";
/// See [`COUNTERS`].
pub const DROP_NOT_LEASED: &str = "drop_not_leased";
/// See [`COUNTERS`].
pub const DROP_NO_HOLDER: &str = "drop_no_holder";
/// See [`COUNTERS`].
pub const DROP_PING_LIMIT: &str = "drop_ping_limit";
/// See [`COUNTERS`].
pub const TOO_BIG: &str = "too_big";
/// See [`COUNTERS`].
pub const DROP_TUNNEL_ENTRY: &str = "drop_tunnel_entry";
/// See [`COUNTERS`].
pub const DROP_GUARD: &str = "drop_guard";
/// See [`COUNTERS`].
pub const DROP_GUARD_WAY: &str = "drop_guard_way";
/// See [`COUNTERS`].
pub const DROP_SILENCED: &str = "drop_silenced";
/// See [`COUNTERS`].
pub const DROP_UNKNOWN_POD: &str = "drop_unknown_pod";

/// Every EIP of the cluster, by address.
pub const EIPS: &str = "eips";
/// EIPs that this node is a gateway of.
pub const GATEWAY_EIPS: &str = "gateway_eips";
/// Has an element while the agent lives: its renewal is not part of a state.
pub const ALIVE: &str = "alive";
/// EIPs that this node answers for now.
pub const ANSWERED: &str = "answered";
/// Addresses of nodes.
pub const NODES: &str = "nodes";
/// UDP ports whose flows are a question and an answer.
pub const SHORT_PORTS: &str = "short_ports";
/// Protocols that can be translated.
pub const PROTOCOLS: &str = "protocols";
/// Protocols whose header starts with two ports.
pub const PORT_PROTOCOLS: &str = "port_protocols";
/// ICMP types that quote a packet.
pub const ICMP_ERRORS: &str = "icmp_errors";
/// Address of a selected pod to its class.
pub const POD_CLASS: &str = "pod_class";
/// Addresses of selected pods whose interface is known.
pub const BOUND_PODS: &str = "bound_pods";
/// (interface, address) of selected pods whose interface is known.
pub const POD_INTERFACES: &str = "pod_interfaces";
/// Addresses of all local pods, selected or not.
pub const KNOWN_PODS: &str = "known_pods";
/// All that is neither of the cluster nor of a link.
pub const OUTSIDE: &str = "outside";
/// Class to its chain, before routing.
pub const CLASS_CHAIN: &str = "class_chain";
/// Class to its chain, after routing.
pub const GUARD_CHAIN: &str = "guard_chain";
/// Connection mark to the packet mark of the gateway.
pub const SLOT_OF_ID: &str = "slot_of_id";
/// Packet mark to the chain that sets it.
pub const SLOT_CHAIN: &str = "slot_chain";
/// Connection marks that leave by this node's own uplink.
pub const LOCAL_IDS: &str = "local_ids";
/// Connection marks for which this node has no ports for new connections.
pub const UNLEASED_IDS: &str = "unleased_ids";
/// Connection marks whose new connections leave with ports of the range that belongs to gateways.
pub const OVERFLOW_IDS: &str = "overflow_ids";
/// (connection mark, EIP): the only source that such a flow may have.
pub const ID_EIP: &str = "id_eip";
/// Connection mark to EIP, first and last port.
pub const SNAT: &str = "snat";
/// EIP to its packet mark on a gateway.
pub const EIP_MARK: &str = "eip_mark";
/// Packet mark on a gateway to EIP.
pub const MARK_EIP: &str = "mark_eip";

/// (connection mark, tunnel address): the node whose own address the id stands for. No rule asks; a later run of the agent
/// and people do.
pub const ID_NODE: &str = "id_node";
/// Tunnel addresses of other nodes, on a gateway that lends its own address.
pub const PEER_ADDRESSES: &str = "peer_addresses";
/// (inner MAC address, tunnel address) of other nodes, on a gateway that lends its own address.
pub const PEER_SOURCES: &str = "peer_sources";
/// EIPs that this gateway holds an overflow block of, draining ones included.
pub const OVERFLOW_EIPS: &str = "overflow_eips";
/// EIPs that this gateway takes new connections of other nodes for.
pub const OVERFLOW_OPEN: &str = "overflow_open";
/// EIP to itself, first and last port of this gateway's overflow block.
pub const OVERFLOW_SNAT: &str = "overflow_snat";
/// Inner MAC address of a node to the zone of its flows.
pub const PEER_ZONE: &str = "peer_zone";
/// Inner MAC address of a node to the connection mark of its flows.
pub const PEER_MARK: &str = "peer_mark";
/// Connection mark to the tunnel address of the node that the flow was translated for.
pub const PEER_TUNNEL: &str = "peer_tunnel";
/// (EIP, block's first port) to the tunnel address of its holder; one map per block size.
pub const REPLY: &str = "reply";
/// (peer's MAC, EIP, block's first port); one set per block size.
pub const LEASED: &str = "leased";
/// (EIP, block's first port) of blocks that this node holds itself; one set per block size.
pub const OWN: &str = "own";
/// Destination to connection mark; one map per class.
pub const DESTINATIONS: &str = "dest";
/// Destination to connection mark by policies that name subnets; one map per class.
pub const NAMED_DESTINATIONS: &str = "named";
