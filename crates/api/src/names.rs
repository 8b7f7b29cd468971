//! Names that users, manifests and other programs rely on.

/// API group of every kind here.
pub const GROUP: &str = "egressgateway.spidernet.io";
/// The one served and stored version.
pub const VERSION: &str = "v1beta1";
/// `apiVersion` of every object here.
pub const API_VERSION: &str = "egressgateway.spidernet.io/v1beta1";

/// Label of endpoint slices: name of the policy that they belong to (shortened where a label can't hold it).
pub const LABEL_POLICY_NAME: &str = "spidernet.io/policy-name";
/// Annotation of endpoint slices: the policy's whole name where the label had to be shortened.
pub const ANNOTATION_POLICY_NAME: &str = "egressgateway.spidernet.io/policy-name";
/// Label of a Namespace: gateway of its policies that name none.
pub const LABEL_DEFAULT_GATEWAY: &str = "spidernet.io/egressgateway-default";

/// Annotation of an EgressGateway: EIPs that are to move to other nodes, `10.6.1.55=node-b`, with commas between several.
/// Taken off once that is done, or refused.
pub const ANNOTATION_MOVE: &str = "egressgateway.spidernet.io/move-eip";
/// Annotation of an EgressGateway: what became of the last such wishes.
pub const ANNOTATION_MOVE_RESULT: &str = "egressgateway.spidernet.io/move-eip-result";

/// Annotation of EgressGateways and EgressPortLeases: the term of the leader that last gave them something. Writes of an earlier
/// one that come late are conflicts.
pub const ANNOTATION_LEADER_TERM: &str = "egressgateway.spidernet.io/leader-term";

/// Keeps an EgressGateway until no policy uses it.
pub const FINALIZER_GATEWAY: &str = "egressgateway.spidernet.io/egressgateway";
/// Keeps an EgressTunnel until its mark and addresses are free again.
pub const FINALIZER_TUNNEL: &str = "egressgateway.spidernet.io/egresstunnel";

/// Label of the Leases by which agents show that they live; its value says nothing.
pub const LABEL_HEARTBEAT: &str = "egressgateway.spidernet.io/heartbeat";

/// The Lease, in the agents' namespace, that the agent of a node renews.
#[must_use]
pub fn heartbeat_lease(node: &str) -> String {
    format!("egressgateway.{node}")
}

/// The only EgressClusterInfo that is read.
pub const CLUSTER_INFO: &str = "default";

/// Condition type on every kind that has conditions: the object does what it says.
pub const CONDITION_READY: &str = "Ready";
/// Condition type of gateways and policies: they work, but not all of them. Reported once that was so.
pub const CONDITION_DEGRADED: &str = "Degraded";
/// Condition type of an EgressGateway: every node that needs ports of its EIPs has some. Reported once some had none.
pub const CONDITION_PORTS: &str = "PortsAvailable";
