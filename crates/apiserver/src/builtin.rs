//! The built-in kinds: what is served, their schemas, defaults and rules.

mod addresses;
mod admission_validation;
pub mod conditions;
pub(crate) mod crd;
mod defaults;
pub(crate) mod events;
mod kinds;
mod lifecycle;
mod pod_defaults;
mod pod_validation;
pub(crate) mod schemas;
mod validation;

pub use addresses::ServiceAddresses;
pub use defaults::default;
pub use lifecycle::{
    View, grace_seconds, keeps_status_on_create, mark_deleting, prepare_create, prepare_update,
};
pub(crate) use validation::text;
pub use validation::validate;

use crate::resource::ResourceInfo;

/// All built-in resources, with their schemas.
pub fn resources() -> Vec<ResourceInfo> {
    schemas::attach(kinds::resources())
}
