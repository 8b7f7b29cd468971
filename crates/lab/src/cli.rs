//! The commands: `egressgateway lab up | down | status | demo | kubeconfig | exec | fault`.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::addresses::{OUTSIDE_V4, OUTSIDE_V6};
use crate::container::{self, spec::EnterSpec, spec::Program};
use crate::control::{self, Fault, Request, Target};
use crate::control_plane::{ApiServerKind, PROGRAMS_VARIABLE, SERVER_VARIABLE};
use crate::demo::DemoOptions;
use crate::error::LabError;
use crate::handle::{Lab, LabOptions};
use crate::sandbox;
use crate::state_dir::{StateDir, known_labs};

/// Exit status of commands that could not do what they were asked to.
const FAILED: u8 = 2;

#[derive(Debug, Parser)]
#[command(
    name = "egressgateway lab",
    about = "A Kubernetes cluster in a box, to try the egress gateway in",
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a lab and return when all its pods run; it goes on in the background
    Up(UpArgs),
    /// End a lab and everything in it
    Down(NameArgs),
    /// Show what runs
    Status(NameArgs),
    /// Print a kubeconfig for the lab's API server
    Kubeconfig(NameArgs),
    /// Run a command on a node, in a pod ([NAMESPACE/]POD) or on the host `outside`
    Exec(ExecArgs),
    /// Break something, or repair it
    Fault(FaultArgs),
    /// See it work: six steps from a plain cluster to connections that survive their gateway
    Demo(DemoArgs),
    /// Talk to the outside host until stdin ends, then say how long it was unreachable; run it in a pod
    Traffic(TrafficArgs),
}

#[derive(Debug, Args)]
struct NameArgs {
    /// Which lab; several can run side by side
    #[arg(long, global = true, default_value = "lab", env = "EGRESSGATEWAY_LAB")]
    name: String,
}

#[derive(Debug, Args)]
struct UpArgs {
    #[command(flatten)]
    name: NameArgs,
    /// How many nodes, the control plane's included
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// Seconds without a sign of life after which a node is not ready
    #[arg(long, default_value_t = 8, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    node_grace: u64,
    /// Whose API server: the one that is a part of this program, or Kubernetes' own programs
    #[arg(long, value_enum, default_value_t = ApiServerArg::Embedded, env = SERVER_VARIABLE)]
    api_server: ApiServerArg,
    /// Where Kubernetes' own programs are; default: where `cargo xtask real-cluster` puts them
    #[arg(long, value_name = "DIR", env = PROGRAMS_VARIABLE)]
    kubernetes: Option<PathBuf>,
    /// A plain cluster: no controller, no agents, no custom resources
    #[arg(long)]
    no_install: bool,
    /// Let controller and agents serve IPv6 as well as IPv4
    #[arg(long, conflicts_with = "no_install")]
    ipv6: bool,
    /// Accepted for symmetry with `demo`: what `up` starts always stays up
    #[arg(long, hide = true)]
    keep: bool,
}

/// Whose API server a lab has, as written on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum ApiServerArg {
    /// A part of this program, with the lab's own controllers
    Embedded,
    /// etcd, kube-apiserver, kube-controller-manager and kube-scheduler
    Real,
}

#[derive(Debug, Args)]
struct ExecArgs {
    #[command(flatten)]
    name: NameArgs,
    /// Name of a node, of a pod ([NAMESPACE/]POD), or `outside`
    target: String,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

#[derive(Debug, Args)]
struct FaultArgs {
    #[command(flatten)]
    name: NameArgs,
    #[command(subcommand)]
    fault: Fault,
}

#[derive(Debug, Args)]
struct DemoArgs {
    /// Which lab; several can run side by side
    #[arg(long, default_value = "demo", env = "EGRESSGATEWAY_LAB")]
    name: String,
    /// How many nodes, the control plane's included
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(3..=200))]
    nodes: u16,
    /// Leave the lab up and say how to use it
    #[arg(long)]
    keep: bool,
    /// Wait for Enter before each step
    #[arg(long)]
    pause: bool,
    /// Write what is shown into a file too
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct TrafficArgs {
    /// Who to talk to
    #[arg(long, default_value_t = IpAddr::V4(OUTSIDE_V4))]
    server: IpAddr,
    /// How many TCP connections
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(0..=10_000))]
    connections: u16,
}

/// Runs `lab` with its arguments (without the program's name).
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let with_name = std::iter::once(OsString::from("egressgateway lab")).chain(arguments);
    let cli = match Cli::try_parse_from(with_name) {
        Ok(cli) => cli,
        Err(error) => {
            error.print().ok();
            return ExitCode::from(if error.use_stderr() { FAILED } else { 0 });
        }
    };
    let outcome = match cli.command {
        Command::Up(args) => up(&args),
        Command::Down(args) => down(&args.name),
        Command::Status(args) => status(&args.name),
        Command::Kubeconfig(args) => kubeconfig(&args.name),
        Command::Exec(args) => exec(&args),
        Command::Fault(args) => fault(args),
        Command::Demo(args) => demo(args),
        Command::Traffic(args) => crate::traffic::client_main(args.server, usize::from(args.connections))
            .map(|()| ExitCode::SUCCESS),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}{}", others(&error));
        ExitCode::from(FAILED)
    })
}

/// Whoever names a lab that does not run may have meant another.
fn others(error: &anyhow::Error) -> String {
    match error.downcast_ref() {
        Some(LabError::NotRunning { name }) => {
            let others: Vec<String> = known_labs().into_iter().filter(|known| known != name).collect();
            if others.is_empty() { String::new() } else { format!(" (there is: {})", others.join(", ")) }
        }
        _ => String::new(),
    }
}

/// Runs one of the lab's inner processes if the arguments (without the program's name) say so.
///
/// To be called first of all in `main`: such a process must have a single thread.
pub fn inner_main(arguments: &[OsString]) -> Option<ExitCode> {
    let arguments: Vec<&str> = arguments.iter().filter_map(|argument| argument.to_str()).collect();
    let (role, rest) = match arguments.as_slice() {
        [first, role, rest @ ..] if *first == sandbox::INNER => (*role, rest),
        _ => return None,
    };
    let outcome = match (role, rest) {
        ("launch", [state, options]) => sandbox::launch(state, options).map(|()| ExitCode::SUCCESS),
        ("init", [state, options]) => sandbox::init(state, options),
        ("supervisor", [state, options]) => crate::supervisor::supervise(state, options),
        ("container", [spec]) => container::start(spec),
        ("enter", [spec]) => container::enter(spec),
        ("pause", []) => container::pause(),
        ("traffic-server", []) => crate::traffic::server_main(),
        _ => Err(anyhow::anyhow!("unknown inner process {role:?}")),
    };
    Some(outcome.unwrap_or_else(|error| match role {
        "launch" | "init" | "supervisor" => {
            crate::launch::say(&crate::launch::StartMessage::Failed(format!("{error:#}")));
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
        _ => {
            eprintln!("{error:#}");
            ExitCode::from(container::NOT_STARTED)
        }
    }))
}

fn up(args: &UpArgs) -> anyhow::Result<ExitCode> {
    let options = LabOptions {
        name: args.name.name.clone(),
        nodes: args.nodes,
        node_grace: Duration::from_secs(args.node_grace),
        install: !args.no_install,
        ipv6: args.ipv6,
        api_server: api_server(args)?,
        ..LabOptions::default()
    };
    let on_terminal = std::io::stderr().is_terminal();
    let lab = Lab::up(&options, |text| {
        if on_terminal {
            eprintln!("{text}");
        }
    })?;
    let status = lab.status()?;
    let kubeconfig = lab.kubeconfig();
    lab.detach();
    let name = if args.name.name == "lab" { String::new() } else { format!(" --name {}", args.name.name) };
    println!("Lab {:?} is up: {} nodes, API server {}", status.name, status.nodes.len(), status.api_server);
    println!("  export KUBECONFIG={}", kubeconfig.display());
    println!("  kubectl get pods -A -o wide");
    println!("  egressgateway lab exec{name} {} -- ip addr", status.nodes.last().map_or("NODE", |n| &n.name));
    println!("  egressgateway lab down{name}");
    Ok(ExitCode::SUCCESS)
}

fn api_server(args: &UpArgs) -> anyhow::Result<ApiServerKind> {
    Ok(match args.api_server {
        ApiServerArg::Embedded => ApiServerKind::Embedded,
        ApiServerArg::Real => ApiServerKind::real(args.kubernetes.clone())?,
    })
}

fn demo(args: DemoArgs) -> anyhow::Result<ExitCode> {
    // Short, so that nobody has to wait for the step in which a node is lost.
    let node_grace = Duration::from_secs(4);
    let lab =
        LabOptions { name: args.name, nodes: usize::from(args.nodes), node_grace, ..LabOptions::default() };
    let DemoArgs { keep, pause, record, .. } = args;
    crate::demo::run(&DemoOptions { lab, keep, pause, record })
}

fn down(name: &str) -> anyhow::Result<ExitCode> {
    crate::launch::down(&StateDir::of(name)?)?;
    Ok(ExitCode::SUCCESS)
}

fn status(name: &str) -> anyhow::Result<ExitCode> {
    let status = Lab::attach(name)?.status()?;
    let mut out = std::io::stdout().lock();
    let running = if status.api_server_running { "" } else { " (stopped)" };
    writeln!(out, "lab         {}", status.name)?;
    writeln!(out, "api server  {}{running}", status.api_server)?;
    writeln!(out, "kubeconfig  {}", status.kubeconfig)?;
    writeln!(out, "memory      {} MiB, without the pods' programs", status.memory_kib.div_ceil(1024))?;
    writeln!(out, "outside     {OUTSIDE_V4} {OUTSIDE_V6}")?;
    for node in &status.nodes {
        let cut = if node.cut { " (cut)" } else { "" };
        writeln!(out, "node        {} {}{cut}", node.name, node.address)?;
    }
    for (pod, phase) in &status.pods {
        writeln!(out, "pod         {pod} {phase}")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn kubeconfig(name: &str) -> anyhow::Result<ExitCode> {
    let lab = Lab::attach(name)?;
    let path = lab.kubeconfig();
    let text = std::fs::read_to_string(&path).map_err(|source| LabError::StateDir { path, source })?;
    print!("{text}");
    Ok(ExitCode::SUCCESS)
}

fn fault(args: FaultArgs) -> anyhow::Result<ExitCode> {
    Lab::attach(&args.name.name)?.fault(args.fault)?;
    Ok(ExitCode::SUCCESS)
}

fn exec(args: &ExecArgs) -> anyhow::Result<ExitCode> {
    let lab = Lab::attach(&args.name.name)?;
    let state = StateDir::of(&args.name.name)?;
    let request = Request::Target { name: args.target.clone() };
    let target: Target = control::ask(&state.control_socket(), &request)?;
    let init = state.init_pid().ok_or_else(|| LabError::NotRunning { name: args.name.name.clone() })?;
    drop(lab);
    container::exec(&enter_spec(init, &target, &args.command)?)
}

/// How to get from the host into a process of the lab: through the files of the lab's first process.
///
/// Processes of the lab have other numbers outside; `/proc/INIT/root/proc` is the lab's own view.
fn enter_spec(init: i32, target: &Target, command: &[String]) -> anyhow::Result<EnterSpec> {
    let process = format!("/proc/{init}/root/proc/{}", target.process);
    let user = format!("/proc/{init}/ns/user");
    let mut namespaces = Vec::new();
    if std::fs::read_link(&user)? != std::fs::read_link("/proc/self/ns/user")? {
        namespaces.push(Path::new(&user).to_path_buf());
    }
    for kind in ["net", "uts", "ipc", "pid", "mnt"] {
        namespaces.push(Path::new(&format!("{process}/ns/{kind}")).to_path_buf());
    }
    let mut environment = target.environment.clone();
    if let Ok(terminal) = std::env::var("TERM") {
        environment.push(("TERM".to_string(), terminal));
    }
    let program = Program { argv: command.to_vec(), environment, working_directory: None };
    Ok(EnterSpec {
        namespaces,
        root: Some(Path::new(&format!("{process}/root")).to_path_buf()),
        terminal: None,
        new_session: false,
        program,
    })
}
