//! The server as its clients see it: real TLS on loopback, plain requests, kube-rs and kubectl.

#![expect(clippy::indexing_slicing, reason = "a test that asks for what isn't there has failed anyway")]

#[path = "../wire/answer.rs"]
mod answer;
mod harness;

mod auth;
mod discovery;
mod kube_rs;
mod kubectl;
mod limits;
mod outage;
mod reads;
mod streams;
mod tables;
mod watches;
mod writes;
