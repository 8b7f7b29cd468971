//! The walk-through of the demo, and what the outside host saw meanwhile.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::setup::{alone, cli, options, program, until, up};
use crate::traces::{Footprint, host_state};

#[test]
fn the_demo_holds_from_the_first_step_to_the_last() {
    let _alone = alone();
    let before = host_state();
    let options = options("walk");
    // To know whether it is possible here.
    let Some(lab) = up(&options) else { return };
    let directory = lab.directory().to_path_buf();
    lab.down().expect("it ends");
    let record = tempfile::NamedTempFile::new().expect("a file");
    let output = Command::new(program())
        .args(["lab", "demo", "--name", &options.name, "--record"])
        .arg(record.path())
        .output()
        .expect("the demo runs");
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{shown}\n{}", String::from_utf8_lossy(&output.stderr));
    for step in ["1. ", "2. ", "3. ", "4. ", "5. ", "6. "] {
        assert!(shown.lines().any(|line| line.starts_with(step)), "no step {step}: {shown}");
    }
    assert!(shown.contains("Remote IP: 10.6.168.20"), "{shown}");
    assert!(shown.contains("20 of 20 connections and 1 of 1 server-to-pod streams alive"), "{shown}");
    assert!(!shown.contains('\x1b'), "colours where there is no terminal");
    assert_eq!(std::fs::read_to_string(record.path()).expect("a record"), shown);
    assert!(!directory.exists(), "{} is left", directory.display());
    assert_eq!(host_state(), before);
}

#[test]
fn a_demo_that_is_killed_in_the_middle_leaves_nothing() {
    let _alone = alone();
    let before = host_state();
    let options = options("cut-short");
    // To know whether it is possible here, and where its directory is.
    let Some(lab) = up(&options) else { return };
    let directory = lab.directory().to_path_buf();
    lab.down().expect("it ends");
    let mut demo = Command::new(program())
        .args(["lab", "demo", "--name", &options.name])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the demo runs");
    let shown = BufReader::new(demo.stdout.take().expect("its output")).lines();
    let reached = shown.map_while(Result::ok).any(|line| line.starts_with("4. "));
    assert!(reached, "the demo ended before its fourth step");
    let footprint = Footprint::of(&directory).expect("a running lab");
    demo.kill().expect("killed");
    demo.wait().expect("reaped");
    // The lab ends with whoever started it; whether it has by now or not, afterwards there is none.
    cli(&["down", "--name", &options.name]);
    until("nothing is left", || match footprint.traces().as_slice() {
        [] => Ok(()),
        traces => Err(traces.join("; ")),
    });
    assert_eq!(host_state(), before);
}
