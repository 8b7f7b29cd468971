//! Starting and stopping a lab from the outside.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::addresses::NodeNumber;
use crate::control::{self, Request};
use crate::error::LabError;
use crate::handle::LabOptions;
use crate::sandbox::INNER;
use crate::state_dir::StateDir;

/// How long a lab may take to end by itself before it is killed.
const DOWN_DEADLINE: Duration = Duration::from_secs(10);

/// One line from a lab that starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StartMessage {
    /// What it does now.
    Progress(String),
    /// It is up.
    Ready,
    /// It gave up.
    Failed(String),
}

/// Says something to whoever started the lab; nobody may listen any more.
pub(crate) fn say(message: &StartMessage) {
    if let Ok(line) = serde_json::to_string(message) {
        writeln!(std::io::stdout(), "{line}").ok();
    }
}

/// A lab that ends when this is dropped, unless it is detached before.
#[derive(Debug)]
pub(crate) struct Tie {
    stdin: Option<ChildStdin>,
}

impl Tie {
    /// Lets the lab go on without this process.
    pub(crate) fn detach(mut self) {
        if let Some(mut stdin) = self.stdin.take() {
            stdin.write_all(b"d").ok();
        }
    }
}

/// Starts a lab and waits until all its pods run.
pub(crate) fn up(
    state: &StateDir,
    options: &LabOptions,
    mut progress: impl FnMut(&str),
) -> Result<Tie, LabError> {
    if options.nodes == 0 || NodeNumber::new(options.nodes - 1).is_none() {
        let max = crate::addresses::MAX_NODES;
        return Err(LabError::BadNodeCount { nodes: options.nodes, max });
    }
    let lock = state.lock()?;
    if state.is_alive() {
        return Err(LabError::NameInUse { name: state.name() });
    }
    // What a lab of that name left behind when it was killed.
    state.destroy()?;
    let started = state.create().and_then(|()| start(state, options, &mut progress));
    if started.is_err() {
        state.destroy()?;
        drop(lock);
        state.remove_lock();
    }
    started
}

fn start(state: &StateDir, options: &LabOptions, progress: &mut dyn FnMut(&str)) -> Result<Tie, LabError> {
    let log_path = state.file("lab.log");
    let log = fs::File::create(&log_path).map_err(|source| LabError::StateDir { path: log_path, source })?;
    let supervisor_options = serde_json::to_string(options).map_err(|error| failed(error.to_string()))?;
    let mut child = Command::new(&options.program)
        .arg(INNER)
        .arg("launch")
        .arg(state.path())
        .arg(supervisor_options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(|error| failed(format!("{} can't be started: {error}", options.program.display())))?;
    let tie = Tie { stdin: child.stdin.take() };
    let lines = child.stdout.take().map(BufReader::new).into_iter().flat_map(BufRead::lines);
    let mut outcome = Err(failed(last_words(state)));
    for line in lines.map_while(Result::ok) {
        match serde_json::from_str(&line) {
            Ok(StartMessage::Progress(text)) => progress(&text),
            Ok(StartMessage::Ready) => {
                outcome = Ok(tie);
                break;
            }
            Ok(StartMessage::Failed(reason)) => {
                outcome = Err(failed(reason));
                break;
            }
            Err(_) => {}
        }
    }
    child.wait().ok();
    outcome
}

/// Ends a lab, by asking it and by force if it doesn't listen, and removes what it left behind.
pub(crate) fn down(state: &StateDir) -> Result<(), LabError> {
    if !state.path().exists() {
        return Err(LabError::NotRunning { name: state.name() });
    }
    let lock = state.lock()?;
    // Noted first: a lab that ends removes its files before its last process is gone.
    let init = state.init();
    let asked = control::ask::<()>(&state.control_socket(), &Request::Down);
    if let (Ok(()), Some(init)) = (asked, init) {
        let deadline = Instant::now() + DOWN_DEADLINE;
        while init.is_alive() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    let destroyed = state.destroy();
    drop(lock);
    state.remove_lock();
    destroyed
}

fn failed(reason: String) -> LabError {
    LabError::Start { reason }
}

fn last_words(state: &StateDir) -> String {
    let log = fs::read_to_string(state.file("lab.log")).unwrap_or_default();
    let last = log.lines().rev().find(|line| !line.trim().is_empty());
    last.unwrap_or("its process ended without a word").to_string()
}

/// The program that this process runs, for starting it again.
pub(crate) fn this_program() -> &'static Path {
    Path::new("/proc/self/exe")
}
