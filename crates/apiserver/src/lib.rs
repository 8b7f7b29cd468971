//! An in-memory API server that speaks the Kubernetes wire protocol.
//!
//! ```text
//!   socket -> http (TLS, auth, routing) -> store -> event log -> watch streams -> socket
//!                    |                      |
//!                    |                      +-- schema, patch, ownership, selector, builtin (pure functions)
//!                    +-- protobuf (bodies of typed clients, to the JSON that others send)
//!                    +-- discovery, openapi, table (renderings of the registry and of objects)
//! ```
//!
//! The crate knows nothing of egress: custom kinds arrive as CustomResourceDefinitions.
//!
//! Invariants:
//! - [`store::Store`] is a plain struct. It reads no clock, draws no randomness and opens no socket; the time and
//!   a random source come in with each call as a [`store::Context`]. Equal calls give equal bytes.
//! - One counter numbers all writes. The number is taken in the same call that appends to the event log, so a
//!   response, a watch event and a later read show the same `resourceVersion`.
//! - Every failure that a client can see is a [`status_error::StatusError`], in the wording that clients parse.
//! - Every write says in `managedFields` who owns what it changed; only [`store::Store`] computes that.
//! - Everything a client can grow (bodies, objects, history, watch buffers) has a limit in [`limits::Limits`].

pub mod admission;
pub mod auth;
pub mod builtin;
pub mod collect;
pub mod discovery;
mod http;
pub mod limits;
pub mod meta;
pub mod openapi;
mod ownership;
pub mod patch;
mod protobuf;
pub mod resource;
pub mod schema;
pub mod selector;
pub mod server;
pub mod status_error;
pub mod store;
pub mod streams;
pub mod table;
mod watch_stream;
