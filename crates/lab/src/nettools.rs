//! `nettools-server` and `nettools-client`: a server that tells callers which address they come from, and a
//! client that checks it. Flags and wire format are those that users of the egress gateway know.

mod client;
mod flags;
mod reply;
mod server;

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

/// Runs `nettools-server` with its arguments (without the program's name).
pub fn server_main(arguments: &[String]) -> ExitCode {
    match server::Options::parse(arguments) {
        Ok(options) => finish("nettools-server", run(server::serve(options))),
        Err(error) => usage("nettools-server", &error, server::USAGE),
    }
}

/// Runs `nettools-client` with its arguments (without the program's name).
pub fn client_main(arguments: &[String]) -> ExitCode {
    match client::Options::parse(arguments) {
        Ok(options) => finish("nettools-client", run(client::run(options))),
        Err(error) => usage("nettools-client", &error, client::USAGE),
    }
}

fn run(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

fn finish(program: &str, outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{program}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn usage(program: &str, error: &flags::FlagError, usage: &str) -> ExitCode {
    if matches!(error, flags::FlagError::Help) {
        println!("Usage of {program}:\n{usage}");
        return ExitCode::SUCCESS;
    }
    eprintln!("{program}: {error}\nUsage of {program}:\n{usage}");
    ExitCode::FAILURE
}

/// What a client or server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Protocol {
    Tcp,
    Udp,
    Web,
}

impl Protocol {
    const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Web];

    /// One word, `all`, or a comma list; upper and lower case alike.
    fn parse_list(text: &str) -> Result<Vec<Self>, flags::FlagError> {
        let mut protocols = Vec::new();
        for word in text.split(',').map(str::trim) {
            match word.to_ascii_lowercase().as_str() {
                "all" => protocols.extend(Self::ALL),
                "tcp" => protocols.push(Self::Tcp),
                "udp" => protocols.push(Self::Udp),
                "web" | "ws" | "wss" => protocols.push(Self::Web),
                _ => {
                    return Err(flags::FlagError::bad(
                        "protocol",
                        text,
                        "tcp, udp, web, all or a comma list",
                    ));
                }
            }
        }
        protocols.sort_unstable();
        protocols.dedup();
        Ok(protocols)
    }
}

/// The address as people write it: a socket for both families shows IPv4 callers as `::ffff:a.b.c.d`.
fn as_written(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Accepts an address with or without brackets.
fn parse_ip(text: &str) -> Option<IpAddr> {
    text.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

fn local_time() -> String {
    jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S%.6f %z").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_may_be_a_word_all_or_a_list() {
        let parse = |text: &str| Protocol::parse_list(text).ok();
        assert_eq!(parse("TCP"), Some(vec![Protocol::Tcp]));
        assert_eq!(parse("all"), Some(Protocol::ALL.to_vec()));
        assert_eq!(parse("web,tcp, udp"), Some(Protocol::ALL.to_vec()));
        assert_eq!(parse("wss"), Some(vec![Protocol::Web]));
        assert_eq!(parse("sctp"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn an_ipv4_caller_of_a_socket_for_both_families_is_shown_as_ipv4() {
        let mapped: SocketAddr = "[::ffff:10.6.168.201]:1234".parse().expect("address");
        assert_eq!(as_written(mapped).to_string(), "10.6.168.201:1234");
    }
}
