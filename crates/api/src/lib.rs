//! The objects of group `egressgateway.spidernet.io/v1beta1` as they are on the wire.
//!
//! ```text
//!   API server  <->  v1beta1 (serde, CRDs)  <->  convert  <->  model
//!               <->  slim (Pod, Node, ... with our fields only)
//! ```
//!
//! The types here are as forgiving as the wire is: text stays text, so that one odd object never keeps a
//! whole list from being read. [`convert`] parses them into [`model`] types and says, with the field's
//! path, what is wrong and how to mend it. Schemas ([`schema`]) stop most mistakes before they are stored.
//!
//! This crate knows no client, no sockets and no clock. Start reading at [`v1beta1`].

pub mod convert;
pub mod names;
pub mod slim;
pub mod v1beta1;

pub mod permissions;
pub mod plugins;
pub mod resource;
pub mod schema;
pub mod webhooks;
