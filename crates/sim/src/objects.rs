//! Objects as controllers and agents read them, one type for all kinds.

use std::sync::Arc;

use agent::objects::Event;
use api::slim::{SlimNamespace, SlimNode, SlimPod};
use api::v1beta1::{
    EgressClusterEndpointSlice, EgressClusterInfo, EgressClusterPolicy, EgressEndpointSlice, EgressGateway,
    EgressPolicy, EgressPortLease, EgressTunnel,
};
use controller::watches::Input;
use runtime::watch::Change;
use serde_json::Value;

/// Namespace (empty for kinds without) and name.
pub type Key = (String, String);

macro_rules! kinds {
    ($($(#[doc = $doc:literal])* $kind:ident($object:ty) = $plural:literal),* $(,)?) => {
        /// A kind of objects.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind { $($(#[doc = $doc])* $kind),* }

        impl Kind {
            /// All kinds.
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            /// The name in paths.
            #[must_use]
            pub fn plural(self) -> &'static str {
                match self { $(Self::$kind => $plural),* }
            }

            /// Reads an object of the kind; `None` where it can't be read.
            #[must_use]
            pub fn read(self, value: &Value) -> Option<Object> {
                match self { $(Self::$kind => <$object as serde::Deserialize>::deserialize(value).ok().map(|object| Object::$kind(Box::new(object)))),* }
            }

            /// What a controller's watch says.
            #[must_use]
            pub fn input(self, change: Change<Arc<Object>>) -> Input {
                match self { $(Self::$kind => Input::$kind(typed(change, |object| match object {
                    Object::$kind(object) => Some((**object).clone()),
                    _ => None,
                }))),* }
            }
        }

        /// An object of any kind.
        #[derive(Clone, Debug)]
        pub enum Object { $($(#[doc = $doc])* $kind(Box<$object>)),* }
    };
}

kinds! {
    /// A node
    Node(SlimNode) = "nodes",
    /// A namespace
    Namespace(SlimNamespace) = "namespaces",
    /// A pod
    Pod(SlimPod) = "pods",
    /// An EgressGateway
    Gateway(EgressGateway) = "egressgateways",
    /// An EgressPolicy
    Policy(EgressPolicy) = "egresspolicies",
    /// An EgressClusterPolicy
    ClusterPolicy(EgressClusterPolicy) = "egressclusterpolicies",
    /// An EgressTunnel
    Tunnel(EgressTunnel) = "egresstunnels",
    /// An EgressPortLease
    Lease(EgressPortLease) = "egressportleases",
    /// An EgressClusterInfo
    ClusterInfo(EgressClusterInfo) = "egressclusterinfos",
    /// An EgressEndpointSlice
    Slice(EgressEndpointSlice) = "egressendpointslices",
    /// An EgressClusterEndpointSlice
    ClusterSlice(EgressClusterEndpointSlice) = "egressclusterendpointslices",
}

impl Kind {
    /// Kinds that agents watch.
    pub const OF_AGENTS: [Self; 8] = [
        Self::Pod,
        Self::Namespace,
        Self::Gateway,
        Self::Policy,
        Self::ClusterPolicy,
        Self::Tunnel,
        Self::ClusterInfo,
        Self::Lease,
    ];

    /// What an agent's watch says; `None` for kinds that it does not watch.
    #[must_use]
    pub fn event(self, change: Change<Arc<Object>>) -> Option<Event> {
        macro_rules! of {
            ($kind:ident) => {
                Event::$kind(typed(change, |object| match object {
                    Object::$kind(object) => Some((**object).clone()),
                    _ => None,
                }))
            };
        }
        Some(match self {
            Self::Pod => of!(Pod),
            Self::Namespace => of!(Namespace),
            Self::Gateway => of!(Gateway),
            Self::Policy => of!(Policy),
            Self::ClusterPolicy => of!(ClusterPolicy),
            Self::Tunnel => of!(Tunnel),
            Self::ClusterInfo => of!(ClusterInfo),
            Self::Lease => of!(Lease),
            Self::Node | Self::Slice | Self::ClusterSlice => return None,
        })
    }
}

/// The same change of objects of one type; of other types there are none in it.
fn typed<T>(change: Change<Arc<Object>>, of: impl Fn(&Object) -> Option<T>) -> Change<T> {
    match change {
        Change::Applied(object) => of(&object).map_or_else(|| Change::Replaced(Vec::new()), Change::Applied),
        Change::Deleted(object) => of(&object).map_or_else(|| Change::Replaced(Vec::new()), Change::Deleted),
        Change::Replaced(objects) => {
            Change::Replaced(objects.iter().filter_map(|object| of(object)).collect())
        }
    }
}
