//! The one program of the project, under many names: as `egressgateway NAME …`, or by a link of that name.

mod debug;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "usage: egressgateway COMMAND …

commands:
  agent            the daemon of every node; NODE_NAME and CONFIGMAP_PATH say for which node and how
  controller       decides gateways, EIPs and ports; one replica leads
  debug            asks a node's agent what it knows and why a packet leaves as it does
  lab              a Kubernetes cluster in a box, to try the egress gateway in
  nettools-server  tells callers which address they come from
  nettools-client  asks such a server, and checks the answer

Each is also started by a link to this program that has its name.
`egressgateway COMMAND --help` says more.";

const AGENT_USAGE: &str = "usage: egressgateway agent [cleanup]

Runs the agent of the node that NODE_NAME names. Other settings come from the environment too (CONFIGMAP_PATH names a file
with more), and the API server from KUBECONFIG or the pod's service account.

With `cleanup` it runs none, but takes everything off the node that agents have put there: devices, rules, routes, tables
and connections. For the end of an installation, when no agent runs here any more.";

fn main() -> ExitCode {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    let link = if arguments.is_empty() { OsString::new() } else { arguments.remove(0) };
    if let Some(code) = lab::inner_main(&arguments) {
        return code;
    }
    if let Some(code) = run(&base_name(&link), &arguments) {
        return code;
    }
    let Some((command, rest)) = arguments.split_first() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let command = command.to_string_lossy().into_owned();
    if matches!(command.as_str(), "-h" | "--help" | "help") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    run(&command, rest).unwrap_or_else(|| {
        eprintln!("error: there is no command {command:?}\n\n{USAGE}");
        ExitCode::from(2)
    })
}

/// Runs the program of that name, if there is one.
fn run(name: &str, arguments: &[OsString]) -> Option<ExitCode> {
    let text =
        || arguments.iter().map(|argument| argument.to_string_lossy().into_owned()).collect::<Vec<_>>();
    Some(match name {
        "agent" => agent(&text()),
        "controller" => controller::run(&text()),
        "debug" => debug::main(arguments),
        "curl" => lab::curl::main(&text()),
        "lab" => lab::cli::main(arguments.iter().cloned()),
        "nettools-server" => lab::nettools::server_main(&text()),
        "nettools-client" => lab::nettools::client_main(&text()),
        _ => return None,
    })
}

/// Must not start as if no arguments had been given where there are some.
fn agent(arguments: &[String]) -> ExitCode {
    match arguments {
        [] => finish(agent::run()),
        [cleanup] if cleanup == "cleanup" => finish(agent::cleanup().map(|removed| println!("{removed}"))),
        [help] if matches!(help.as_str(), "-h" | "--help" | "help") => {
            println!("{AGENT_USAGE}");
            ExitCode::SUCCESS
        }
        [first, ..] => {
            eprintln!("error: `{first}` is not expected\n\n{AGENT_USAGE}");
            ExitCode::from(2)
        }
    }
}

/// The end of a daemon: what went wrong, with all that led to it, on stderr.
fn finish(outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn base_name(path: &OsString) -> String {
    Path::new(path).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
