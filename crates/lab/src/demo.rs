//! `lab demo`: the walk-through of the project in six steps, each checked.

mod kubectl;
mod stage;
mod steps;
mod traffic;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;

use crate::handle::{Lab, LabOptions};
use stage::Stage;

/// How the demo is to be played.
#[derive(Clone, Debug)]
pub(crate) struct DemoOptions {
    /// The lab.
    pub(crate) lab: LabOptions,
    /// Whether the lab goes on afterwards.
    pub(crate) keep: bool,
    /// Whether each step waits for a key.
    pub(crate) pause: bool,
    /// Where the text is written to.
    pub(crate) record: Option<PathBuf>,
}

/// Why the demo ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    /// A step showed something else than it should have.
    #[error("expected: {expected}; seen instead: {seen}")]
    Unexpected {
        /// What should have been.
        expected: String,
        /// What was.
        seen: String,
    },
    /// A step could not be done.
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

/// Plays the demo; the status is 0 only if every step held.
pub(crate) fn run(options: &DemoOptions) -> anyhow::Result<ExitCode> {
    let unwritable = || format!("{} can't be written", options.record.clone().unwrap_or_default().display());
    let mut stage = Stage::new(options.record.as_deref(), options.pause).with_context(unwritable)?;
    stage.heading(
        "Egress gateway: pods leave with a stable address, and keep their connections when a gateway dies",
    );
    stage.heading("1. A cluster comes up");
    stage.command("egressgateway lab up");
    let lab = Lab::up(&options.lab, |text| stage.progress(text))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = steps::play(&mut stage, &lab) => Some(outcome),
            _ = tokio::signal::ctrl_c() => None,
        }
    });
    let code = match outcome {
        Some(Ok(())) => ExitCode::SUCCESS,
        Some(Err(error)) => {
            stage.fails(&error.to_string());
            ExitCode::FAILURE
        }
        None => ExitCode::from(130),
    };
    if options.keep && code == ExitCode::SUCCESS {
        keep(&mut stage, lab, &options.lab.name);
        return Ok(code);
    }
    stage.command(&format!("egressgateway lab down --name {}", options.lab.name));
    lab.down()?;
    if code == ExitCode::SUCCESS {
        stage.holds("all of it is gone again: processes, network namespaces, files");
    }
    Ok(code)
}

fn keep(stage: &mut Stage, lab: Lab, name: &str) {
    stage.heading("The lab goes on. Try:");
    stage.output(&format!(
        "export KUBECONFIG={}\n\
         kubectl get pods -A -o wide\n\
         kubectl get egressgateway,egresspolicy,egresstunnel -A\n\
         egressgateway lab exec --name {name} worker-node-1 -- ip addr\n\
         egressgateway lab fault --name {name} cut worker-node-1\n\
         egressgateway lab down --name {name}",
        lab.kubeconfig().display()
    ));
    lab.detach();
}
