//! One suite for two servers: what a client may rely on, case by case, numbered as in the contract of the server.
//!
//! Runs on this crate's server, a fresh one for each case. With `CONFORMANCE_KUBECONFIG` it runs on the cluster of that file
//! instead, whose administrator it has to be; each case then works in a namespace and an API group of its own. A case that
//! fails on a real kube-apiserver is wrong.

#![expect(clippy::indexing_slicing, reason = "a test that asks for what isn't there has failed anyway")]

#[path = "../wire/answer.rs"]
mod answer;
mod target;

mod access;
mod apply;
mod definitions;
mod deletes;
mod formats;
mod kinds;
mod policies;
mod reads;
mod refusals;
mod roles;
mod tokens;
mod watches;
mod webhooks;
mod writes;
