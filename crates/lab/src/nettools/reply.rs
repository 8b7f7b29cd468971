//! What the server answers, and what a client reads out of it.

use std::net::{IpAddr, SocketAddr};

use super::local_time;

/// The server's answer to one message.
pub(super) fn write(caller: SocketAddr, server: &str) -> String {
    format!("{} clientIP={caller} {server} Server Say hello! \n", local_time())
}

/// The address that the server saw the client come from.
pub(super) fn parse(reply: &str) -> Option<IpAddr> {
    let (_, rest) = reply.split_once("clientIP=")?;
    let address = rest.split_whitespace().next()?;
    address.parse::<SocketAddr>().map(|socket| socket.ip().to_canonical()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_address_in_a_reply_is_compared_as_an_address() {
        let reply = |caller: &str| write(caller.parse().expect("address"), "TCP");
        assert_eq!(parse(&reply("10.6.1.55:80")), "10.6.1.55".parse().ok());
        assert_eq!(parse(&reply("[fd06::63]:80")), "fd06:0:0::63".parse().ok());
    }

    #[test]
    fn a_reply_has_the_known_form() {
        let reply = write("10.6.168.201:4000".parse().expect("address"), "UDP");
        assert!(reply.ends_with(" clientIP=10.6.168.201:4000 UDP Server Say hello! \n"), "{reply:?}");
    }

    proptest! {
        #[test]
        fn no_reply_makes_the_parser_panic(reply in ".*") {
            let _ = parse(&reply);
            let _ = parse(&format!("clientIP={reply}"));
        }
    }
}
