//! As much of SPDY/3.1 as `kubectl port-forward` speaks: streams that the client opens, their data, their ends.
//!
//! Source: draft-mbelshe-httpbis-spdy-00, sections 2.2 and 2.6. There is no flow control: Kubernetes' own client and server
//! have none either.

mod dictionary;
pub(super) mod frame;
pub(super) mod headers;
pub(super) mod session;
