//! The walk-through of the demo, and what the outside host saw meanwhile.

use std::process::Command;

use crate::setup::{alone, options, program, up};

#[test]
fn the_demo_holds_from_the_first_step_to_the_last() {
    let _alone = alone();
    let options = options("walk");
    // To know whether it is possible here.
    let Some(lab) = up(&options) else { return };
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
}
