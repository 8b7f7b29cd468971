//! egressgateway
fn main() {}
