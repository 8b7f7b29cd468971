//! What the tests share: the program, labs, waiting, and a look at what is left on the machine.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use lab::{Lab, LabError, LabOptions};

/// Generous: a loaded machine is slow, and nothing is timed here.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// One lab at a time, unless a test is about several: tests run in parallel, machines are small.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The program under test, built with the profile of the tests themselves.
pub(crate) fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        // target/debug/deps/lab-0123456789abcdef
        let this = std::env::current_exe().expect("a path");
        let profile = this.parent().and_then(Path::parent).expect("a target directory");
        let mut build = Command::new(option_env!("CARGO").unwrap_or("cargo"));
        build.args(["build", "--quiet", "--package", "egressgateway", "--manifest-path"]);
        build.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../egressgateway/Cargo.toml"));
        build.arg("--target-dir").arg(profile.parent().expect("a target directory"));
        if profile.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().expect("cargo").success(), "the program can't be built");
        profile.join("egressgateway")
    })
}

/// Options of a lab that is named after the test.
pub(crate) fn options(name: &str) -> LabOptions {
    let name = format!("{name}-{}", std::process::id());
    LabOptions { name, program: program().to_path_buf(), ..LabOptions::default() }
}

/// Starts a lab, or says loudly why that is impossible here.
pub(crate) fn up(options: &LabOptions) -> Option<Lab> {
    match Lab::up(options, |_| {}) {
        Ok(lab) => Some(lab),
        Err(LabError::Start { reason })
            if reason.contains("needs root") || reason.contains("this kernel has no") =>
        {
            println!("SKIP: {reason}");
            None
        }
        Err(error) => panic!("the lab did not start: {error}"),
    }
}

/// Runs `egressgateway lab …`.
pub(crate) fn cli(arguments: &[&str]) -> Output {
    Command::new(program()).arg("lab").args(arguments).output().expect("the program runs")
}

/// Text of a command that is expected to work.
#[track_caller]
pub(crate) fn text(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}: {out}{err}", output.status);
    out.into_owned()
}

/// Waits for a condition; the last answer is part of the message if it never comes.
#[track_caller]
pub(crate) fn until(what: &str, mut look: impl FnMut() -> Result<(), String>) {
    let deadline = Instant::now() + LIMIT;
    loop {
        match look() {
            Ok(()) => return,
            Err(seen) => assert!(Instant::now() < deadline, "never: {what}; last seen: {seen}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Whether kubectl is there; says so if not.
pub(crate) fn has_kubectl() -> bool {
    let found = Command::new("kubectl").args(["version", "--client"]).output().is_ok();
    if !found {
        println!("SKIP: kubectl is not installed");
    }
    found
}

/// Runs kubectl against a lab.
pub(crate) fn kubectl(lab: &Lab, arguments: &[&str]) -> Output {
    let mut command = Command::new("kubectl");
    command.arg("--kubeconfig").arg(lab.kubeconfig()).args(arguments);
    command.output().expect("kubectl runs")
}

/// Runs kubectl with something on its stdin.
pub(crate) fn kubectl_with_input(lab: &Lab, arguments: &[&str], input: &str) -> Output {
    use std::io::Write;
    let mut command = Command::new("kubectl");
    command.arg("--kubeconfig").arg(lab.kubeconfig()).args(arguments);
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().expect("kubectl runs");
    let mut stdin = child.stdin.take().expect("its stdin");
    stdin.write_all(input.as_bytes()).expect("kubectl reads");
    drop(stdin);
    child.wait_with_output().expect("kubectl ends")
}

/// A kubectl that goes on for a while; it ends with this.
pub(crate) struct Background {
    child: std::process::Child,
    out: std::io::BufReader<std::process::ChildStdout>,
}

impl Background {
    /// Starts kubectl.
    pub(crate) fn start(lab: &Lab, arguments: &[&str]) -> Self {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(lab.kubeconfig()).args(arguments);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let mut child = command.spawn().expect("kubectl runs");
        let out = std::io::BufReader::new(child.stdout.take().expect("its stdout"));
        Self { child, out }
    }

    /// The next lines that it prints.
    pub(crate) fn lines(&mut self, count: usize) -> Vec<String> {
        use std::io::BufRead;
        std::io::Read::by_ref(&mut self.out).lines().take(count).map(|line| line.expect("text")).collect()
    }

    /// Ends it; answers what else it has said.
    pub(crate) fn end(mut self) -> String {
        self.child.kill().expect("it is killed");
        self.wait()
    }

    /// Waits until it ends; answers what else it has said.
    pub(crate) fn wait(mut self) -> String {
        use std::io::Read;
        let mut said = String::new();
        self.out.read_to_string(&mut said).expect("text");
        self.child.stderr.take().expect("its stderr").read_to_string(&mut said).expect("text");
        self.child.wait().expect("it ends");
        said
    }
}

/// A Deployment of pods that do nothing but exist.
pub(crate) fn deployment(name: &str, replicas: u32) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata:
  name: {name}
spec:
  replicas: {replicas}
  selector:
    matchLabels: {{app: {name}}}
  template:
    metadata:
      labels: {{app: {name}}}
    spec:
      containers:
        - name: app
          image: test
          command: [sh, -c, 'echo hello from $HOSTNAME; trap \"exit 0\" TERM; while true; do sleep 1 & wait $!; done']
"
    )
}
