//! Whether an object may be written, and what is filled in before it is: the answers of our webhooks.
//!
//! ```text
//!   request (operation, old, new) + snapshot -> defaults   what the object leaves open and this crate would choose
//!                                            -> verdict    field errors, each with the value, what is wrong, and the fix
//! ```
//!
//! Refusals are [`Reason`]s, so that a user who is refused here reads what the condition of an object would say that came
//! past the webhooks. An update that leaves the spec as it was is never refused: whatever is stored can be labelled, and
//! deleted. Nor is one refused for what was so before, as far as a pool's addresses are concerned.
//!
//! Of the snapshot only gateways, namespaces, nodes and settings are read. What costs time is bounded by the object and by
//! the number of gateways; no pool is ever enumerated.

mod cluster_info;
mod field_error;
mod gateway;
mod policy;

use std::collections::BTreeSet;

use model::Reason;

pub use cluster_info::{ClusterInfoRequest, judge_cluster_info};
pub use field_error::{FieldError, Kind};
pub use gateway::{GatewayDefaults, GatewayDraft, GatewayRequest, gateway_defaults, judge_gateway};
pub use policy::{EgressFields, PolicyDefaults, PolicyDraft, PolicyRequest, judge_policy, policy_defaults};

/// So many errors are told of one object.
const ERRORS_MAX: usize = 20;

/// What somebody wants to do to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// It is new.
    Create,
    /// It is there and is to be changed.
    Update,
    /// It is to go.
    Delete,
}

/// Whether a request may be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Why not; empty: it may.
    pub errors: Vec<FieldError>,
    /// What its user should know even so.
    pub warnings: Vec<String>,
    /// Gateways by whose state it was refused, there or not: whoever knows them better may judge again.
    pub gateways: BTreeSet<String>,
    /// Whether it was refused because no gateway was found to be the default.
    pub misses_default: bool,
}

impl Verdict {
    /// Whether the request may be done.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.errors.is_empty()
    }

    fn refuse(&mut self, reason: &Reason) {
        match reason {
            Reason::PoolsOverlap { gateway, .. }
            | Reason::AnotherDefault { gateway }
            | Reason::UnknownGateway { gateway }
            | Reason::OutsidePool { gateway, .. }
            | Reason::PoolEmpty { gateway } => {
                self.gateways.insert(gateway.clone());
            }
            Reason::NoDefaultGateway => self.misses_default = true,
            _ => {}
        }
        self.error(FieldError::from(reason));
    }

    fn error(&mut self, error: FieldError) {
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(error);
        }
    }
}
