//! The webhooks' certificate: issued here and kept in a Secret, or read from files where others issue it.
//!
//! ```text
//!   Secret (all replicas agree) -> step(held, now) -> create or replace, where the version is still the one we know
//!          |
//!          +-> serving certificate          +-> caBundle of both webhook configurations
//! ```
//!
//! Each authority signs one certificate, and its key is thrown away. To renew without a gap the next certificate and its
//! authority are made ahead of time and the authority is published in every `caBundle`; an hour later the certificate is
//! served, and a further hour later the former authority goes.
//!
//! Start reading at [`rotation`].

mod files;
mod issue;
mod keeper;
mod rotation;
mod secret;

#[cfg(test)]
mod tests;

pub(crate) use keeper::keep;
