//! The kinds that the controller watches.

use std::sync::Arc;

use api::names;
use api::plugins::{CalicoPool, CiliumNode, CiliumPool, SpiderCoordinator, SpiderPool};
use api::slim::{ControlPlanePod, SlimLease, SlimNamespace, SlimNode, SlimPod, SlimService, SlimServiceCidr};
use api::v1beta1::{
    EgressClusterEndpointSlice, EgressClusterInfo, EgressClusterPolicy, EgressEndpointSlice, EgressGateway,
    EgressPolicy, EgressPortLease, EgressTunnel,
};
use kube::runtime::watcher::Config;
use kube::{Api, Client};
use runtime::supervisor::Supervisor;
use runtime::watch::{Absent, Change, watch};
use tokio::sync::mpsc;

use crate::webhook::Knowledge;

/// What a watch says.
pub enum Input {
    /// A node
    Node(Change<SlimNode>),
    /// The Lease of an agent
    Heartbeat(Change<SlimLease>),
    /// A namespace
    Namespace(Change<SlimNamespace>),
    /// A pod
    Pod(Change<SlimPod>),
    /// A Service
    Service(Change<SlimService>),
    /// A range of Services' addresses
    ServiceCidr(Change<SlimServiceCidr>),
    /// A pod of the control plane
    ControlPlane(Change<ControlPlanePod>),
    /// A pool of Calico's
    CalicoPool(Change<CalicoPool>),
    /// A node of Cilium's
    CiliumNode(Change<CiliumNode>),
    /// A pool of Cilium's
    CiliumPool(Change<CiliumPool>),
    /// A pool of Spiderpool's
    SpiderPool(Change<SpiderPool>),
    /// Spiderpool's coordinator
    SpiderCoordinator(Change<SpiderCoordinator>),
    /// An EgressGateway
    Gateway(Change<EgressGateway>),
    /// An EgressPolicy
    Policy(Change<EgressPolicy>),
    /// An EgressClusterPolicy
    ClusterPolicy(Change<EgressClusterPolicy>),
    /// An EgressTunnel
    Tunnel(Change<EgressTunnel>),
    /// An EgressPortLease
    Lease(Change<EgressPortLease>),
    /// An EgressClusterInfo
    ClusterInfo(Change<EgressClusterInfo>),
    /// An EgressEndpointSlice
    Slice(Change<EgressEndpointSlice>),
    /// An EgressClusterEndpointSlice
    ClusterSlice(Change<EgressClusterEndpointSlice>),
}

/// A watched kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A node
    Node,
    /// The Lease of an agent
    Heartbeat,
    /// A namespace
    Namespace,
    /// A pod
    Pod,
    /// A Service
    Service,
    /// A range of Services' addresses
    ServiceCidr,
    /// A pod of the control plane
    ControlPlane,
    /// A pool of Calico's
    CalicoPool,
    /// A node of Cilium's
    CiliumNode,
    /// A pool of Cilium's
    CiliumPool,
    /// A pool of Spiderpool's
    SpiderPool,
    /// Spiderpool's coordinator
    SpiderCoordinator,
    /// An EgressGateway
    Gateway,
    /// An EgressPolicy
    Policy,
    /// An EgressClusterPolicy
    ClusterPolicy,
    /// An EgressTunnel
    Tunnel,
    /// An EgressPortLease
    Lease,
    /// An EgressClusterInfo
    ClusterInfo,
    /// An EgressEndpointSlice
    Slice,
    /// An EgressClusterEndpointSlice
    ClusterSlice,
}

impl Kind {
    /// All of them
    pub const ALL: [Self; 20] = [
        Self::Node,
        Self::Heartbeat,
        Self::Namespace,
        Self::Pod,
        Self::Service,
        Self::ServiceCidr,
        Self::ControlPlane,
        Self::CalicoPool,
        Self::CiliumNode,
        Self::CiliumPool,
        Self::SpiderPool,
        Self::SpiderCoordinator,
        Self::Gateway,
        Self::Policy,
        Self::ClusterPolicy,
        Self::Tunnel,
        Self::Lease,
        Self::ClusterInfo,
        Self::Slice,
        Self::ClusterSlice,
    ];
}

impl Input {
    /// The kind that is complete by this.
    #[must_use]
    pub fn lists(&self) -> Option<Kind> {
        fn complete<K>(change: &Change<K>, kind: Kind) -> Option<Kind> {
            matches!(change, Change::Replaced(_)).then_some(kind)
        }
        match self {
            Self::Node(change) => complete(change, Kind::Node),
            Self::Heartbeat(change) => complete(change, Kind::Heartbeat),
            Self::Namespace(change) => complete(change, Kind::Namespace),
            Self::Pod(change) => complete(change, Kind::Pod),
            Self::Service(change) => complete(change, Kind::Service),
            Self::ServiceCidr(change) => complete(change, Kind::ServiceCidr),
            Self::ControlPlane(change) => complete(change, Kind::ControlPlane),
            Self::CalicoPool(change) => complete(change, Kind::CalicoPool),
            Self::CiliumNode(change) => complete(change, Kind::CiliumNode),
            Self::CiliumPool(change) => complete(change, Kind::CiliumPool),
            Self::SpiderPool(change) => complete(change, Kind::SpiderPool),
            Self::SpiderCoordinator(change) => complete(change, Kind::SpiderCoordinator),
            Self::Gateway(change) => complete(change, Kind::Gateway),
            Self::Policy(change) => complete(change, Kind::Policy),
            Self::ClusterPolicy(change) => complete(change, Kind::ClusterPolicy),
            Self::Tunnel(change) => complete(change, Kind::Tunnel),
            Self::Lease(change) => complete(change, Kind::Lease),
            Self::ClusterInfo(change) => complete(change, Kind::ClusterInfo),
            Self::Slice(change) => complete(change, Kind::Slice),
            Self::ClusterSlice(change) => complete(change, Kind::ClusterSlice),
        }
    }
}

/// Starts a watch for every kind; Leases of agents are in this namespace. Webhooks are told first: they must not wait until the planner has written.
pub(crate) fn start(
    supervisor: &mut Supervisor,
    client: &Client,
    namespace: &str,
    inputs: &mpsc::Sender<Input>,
    knowledge: &Arc<Knowledge>,
) {
    macro_rules! told {
        ($tell:ident, $wrap:expr) => {{
            let knowledge = Arc::clone(knowledge);
            move |change| {
                knowledge.$tell(&change);
                $wrap(change)
            }
        }};
    }
    macro_rules! watch_kind {
        ($name:literal, $absent:expr, $config:expr, $wrap:expr) => {
            watch_kind!($name, Api::all(client.clone()), $absent, $config, $wrap)
        };
        ($name:literal, $api:expr, $absent:expr, $config:expr, $wrap:expr) => {
            supervisor
                .spawn($name, watch($api, $config, $absent, $wrap, inputs.clone(), supervisor.shutdown()));
        };
    }
    let all = Config::default;
    watch_kind!("watch nodes", Absent::Wait, all(), told!(nodes, Input::Node));
    let beats = Config::default().labels(names::LABEL_HEARTBEAT);
    let leases = Api::namespaced(client.clone(), namespace);
    watch_kind!("watch agents", leases, Absent::Wait, beats, Input::Heartbeat);
    watch_kind!("watch namespaces", Absent::Wait, all(), told!(namespaces, Input::Namespace));
    watch_kind!("watch pods", Absent::Wait, all(), Input::Pod);
    watch_kind!("watch services", Absent::Empty, all(), Input::Service);
    watch_kind!("watch service ranges", Absent::Empty, all(), Input::ServiceCidr);
    // As kubeadm labels them; other distributions have no such pods.
    let control_plane = Config::default().labels("component in (kube-controller-manager,kube-apiserver)");
    watch_kind!("watch control plane", Absent::Empty, control_plane, Input::ControlPlane);
    watch_kind!("watch Calico's pools", Absent::Empty, all(), Input::CalicoPool);
    watch_kind!("watch Cilium's nodes", Absent::Empty, all(), Input::CiliumNode);
    watch_kind!("watch Cilium's pools", Absent::Empty, all(), Input::CiliumPool);
    watch_kind!("watch Spiderpool's pools", Absent::Empty, all(), Input::SpiderPool);
    watch_kind!("watch Spiderpool's coordinator", Absent::Empty, all(), Input::SpiderCoordinator);
    watch_kind!("watch gateways", Absent::Wait, all(), told!(gateways, Input::Gateway));
    watch_kind!("watch policies", Absent::Wait, all(), Input::Policy);
    watch_kind!("watch cluster policies", Absent::Wait, all(), Input::ClusterPolicy);
    watch_kind!("watch tunnels", Absent::Wait, all(), Input::Tunnel);
    watch_kind!("watch port leases", Absent::Wait, all(), Input::Lease);
    watch_kind!("watch cluster info", Absent::Wait, all(), Input::ClusterInfo);
    watch_kind!("watch slices", Absent::Wait, all(), Input::Slice);
    watch_kind!("watch cluster slices", Absent::Wait, all(), Input::ClusterSlice);
}
