//! `egressgateway debug`: asks the agent of this node.

use std::ffi::OsString;
use std::net::IpAddr;
use std::process::ExitCode;

use agent::debug::{Question, ask};
use clap::{Args, Parser, Subcommand};

const FAILED: u8 = 2;

#[derive(Debug, Parser)]
#[command(
    name = "egressgateway debug",
    about = "Ask this node's agent; run it in the agent's pod, or in the node's network namespace as root",
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What this node knows: pods, policies, EIPs, gateways
    State,
    /// What the kernel shall hold: links, routes and rules as comments, nf_tables as nft text
    Ruleset,
    /// How what the kernel holds differs from that
    Diff,
    /// Why a pod's packets leave with the address that they leave with, or do not leave
    Why(Why),
}

#[derive(Debug, Args)]
struct Why {
    /// The pod: [NAMESPACE/]NAME, or its address
    pod: String,
    /// Where to: an address
    destination: IpAddr,
    /// tcp, udp, udplite, sctp, icmp or a protocol number
    #[arg(long, default_value = "tcp", value_parser = protocol)]
    protocol: Protocol,
    /// Destination port
    #[arg(long, default_value_t = 443)]
    port: u16,
}

/// `icmp` is another number in IPv6.
#[derive(Clone, Copy, Debug)]
enum Protocol {
    Ping,
    Number(u8),
}

fn protocol(text: &str) -> Result<Protocol, String> {
    Ok(match text {
        "tcp" => Protocol::Number(6),
        "udp" => Protocol::Number(17),
        "sctp" => Protocol::Number(132),
        "udplite" => Protocol::Number(136),
        "icmp" | "icmpv6" | "ping" => Protocol::Ping,
        number => Protocol::Number(
            number.parse().map_err(|_| "tcp, udp, udplite, sctp, icmp or a number to 255".to_owned())?,
        ),
    })
}

pub(crate) fn main(arguments: &[OsString]) -> ExitCode {
    let name = OsString::from("egressgateway debug");
    let cli = match Cli::try_parse_from(std::iter::once(&name).chain(arguments)) {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { ExitCode::from(FAILED) } else { ExitCode::SUCCESS };
            // Nobody is left to tell when even this can't be printed.
            error.print().ok();
            return code;
        }
    };
    let question = match cli.command {
        Command::State => Question::State,
        Command::Ruleset => Question::Ruleset,
        Command::Diff => Question::Diff,
        Command::Why(Why { pod, destination, protocol, port }) => Question::Why {
            pod,
            destination,
            protocol: match (protocol, destination) {
                (Protocol::Number(number), _) => number,
                (Protocol::Ping, IpAddr::V4(_)) => 1,
                (Protocol::Ping, IpAddr::V6(_)) => 58,
            },
            port,
        },
    };
    match ask(&question) {
        Ok(text) => match text.strip_prefix("error: ") {
            None => {
                print!("{text}");
                ExitCode::SUCCESS
            }
            Some(error) => {
                eprint!("error: {error}");
                ExitCode::from(FAILED)
            }
        },
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}
