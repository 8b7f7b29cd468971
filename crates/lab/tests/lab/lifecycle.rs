//! Coming up, going down, and what is left when it is not asked nicely.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use lab::Lab;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::setup::{alone, cli, options, program, text, until, up};
use crate::traces::{Footprint, host_state, processes_of};

#[test]
fn a_lab_comes_up_and_goes_without_a_trace() {
    let _alone = alone();
    let before = host_state();
    let options = options("trace");
    let Some(lab) = up(&options) else { return };
    assert_eq!(host_state(), before, "the host's network or mounts changed");
    let status = lab.status().expect("a status");
    let names: Vec<&str> = status.nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["controller-node-1", "worker-node-1", "worker-node-2"]);
    assert!(status.api_server.starts_with("https://127.0.0.1:"), "{}", status.api_server);
    assert_eq!(status.pods.len(), 4, "controller and three agents: {:?}", status.pods);
    assert!(status.pods.values().all(|phase| phase == "Running"), "{:?}", status.pods);
    let directory = lab.directory().to_path_buf();
    let footprint = Footprint::of(&directory).expect("a running lab");
    assert!(footprint.traces().len() > 5, "they would be found: {:?}", footprint.traces());

    lab.down().expect("it ends");
    assert_eq!(footprint.traces(), Vec::<String>::new());
    assert_eq!(host_state(), before);
}

#[test]
fn two_labs_run_side_by_side_and_a_name_is_taken_once() {
    let _alone = alone();
    let (one, two) = (options("one"), options("two"));
    let Some(first) = up(&one) else { return };
    let Some(second) = up(&two) else { return };
    let taken = Lab::up(&one, |_| {}).expect_err("the name is in use");
    assert!(taken.to_string().contains("is running already"), "{taken}");
    for lab in [&first, &second] {
        let seen = text(
            &lab.exec("worker-node-1", &["curl", "-sS", "-m", "5", "http://10.6.168.63"]).expect("runs"),
        );
        assert!(seen.starts_with("Remote IP: 10.6.0.12:"), "{seen}");
    }
    first.down().expect("it ends");
    assert!(second.status().is_ok(), "the other one goes on");
}

#[test]
fn after_a_sigkill_of_the_whole_lab_down_leaves_nothing() {
    let _alone = alone();
    let before = host_state();
    let options = options("killed");
    let Some(lab) = up(&options) else { return };
    let directory = lab.directory().to_path_buf();
    let footprint = Footprint::of(&directory).expect("a running lab");
    lab.detach();
    let pid = std::fs::read_to_string(directory.join("pid")).expect("a pid");
    let pid: i32 = pid.split_whitespace().next().and_then(|pid| pid.parse().ok()).expect("a number");
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("killed");
    until("all processes of the lab are gone", || match processes_of(&directory).first() {
        None => Ok(()),
        Some(line) => Err(line.clone()),
    });
    assert!(directory.exists(), "files can't remove themselves");
    text(&cli(&["down", "--name", &options.name]));
    assert_eq!(footprint.traces(), Vec::<String>::new());
    assert_eq!(host_state(), before);
    let again = cli(&["down", "--name", &options.name]);
    assert_eq!(again.status.code(), Some(2), "there is nothing to end any more");
}

#[test]
fn a_sigkill_of_the_process_that_starts_a_lab_ends_the_lab() {
    let _alone = alone();
    let options = options("orphan");
    // First a whole one, to know whether it is possible here and where its directory is.
    let Some(lab) = up(&options) else { return };
    let directory = lab.directory().to_path_buf();
    lab.down().expect("it ends");

    let mut starting = Command::new(program())
        .args(["lab", "up", "--name", &options.name])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("runs");
    until("the lab's process is there", || {
        if directory.join("pid").exists() { Ok(()) } else { Err("no pid file".to_string()) }
    });
    starting.kill().expect("killed");
    starting.wait().expect("reaped");
    // It may have been up already; then it goes on, and `down` is what ends it.
    cli(&["down", "--name", &options.name]);
    until("nothing is left", || match (processes_of(&directory).first(), directory.exists()) {
        (None, false) => Ok(()),
        (line, exists) => Err(format!("process {line:?}, directory {exists}")),
    });
}

#[test]
fn a_lab_works_without_privileges() {
    let _alone = alone();
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP: all tests of this run are without privileges");
        return;
    }
    // A copy, because others may not be able to read the build directory.
    let directory =
        tempfile::Builder::new().permissions(PermissionsExt::from_mode(0o755)).tempdir().expect("made");
    let copy = directory.path().join("egressgateway");
    std::fs::copy(program(), &copy).expect("copied");
    let name = format!("rootless-{}", std::process::id());
    let as_nobody = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&copy).arg("lab");
        command.args(arguments).env_remove("XDG_RUNTIME_DIR").current_dir("/").output()
    };
    let Ok(started) = as_nobody(&["up", "--name", &name]) else {
        println!("SKIP: setpriv is not installed");
        return;
    };
    let said = String::from_utf8_lossy(&started.stderr).into_owned();
    if !started.status.success() && said.contains("needs root") {
        println!("SKIP: {said}");
        return;
    }
    text(&started);
    let run = |arguments: &[&str]| as_nobody(arguments).expect("runs");
    let status = text(&run(&["status", "--name", &name]));
    assert_eq!(status.matches(" Running").count(), 4, "{status}");
    let curl =
        ["exec", "--name", &name, "worker-node-2", "--", "curl", "-sS", "-m", "5", "http://10.6.168.63"];
    let seen = text(&run(&curl));
    assert!(seen.starts_with("Remote IP: 10.6.0.13:"), "{seen}");
    text(&run(&["down", "--name", &name]));
    let left = std::env::temp_dir().join("egressgateway-lab-65534").join(&name);
    assert!(!left.exists(), "{} is left", left.display());
    assert_eq!(processes_of(&left), Vec::<String>::new());
}

#[test]
fn wrong_arguments_are_one_sentence_and_status_2() {
    for (arguments, expected) in [
        (&["up", "--name", "../x"][..], "is no name for a lab"),
        (&["up", "--nodes", "0"], "a lab has 1 to 200 nodes, not 0"),
        (&["up", "--nodes", "201"], "a lab has 1 to 200 nodes, not 201"),
        (&["status", "--name", "no-such-lab"], "no lab named \"no-such-lab\" is running"),
        (&["exec", "--name", "no-such-lab", "x", "--", "true"], "no lab named"),
        (&["fault", "--name", "no-such-lab", "explode"], "unrecognized subcommand"),
        (&["down", "--name", "no-such-lab"], "no lab named"),
        (&["demo", "--nodes", "2"], "2 is not in 3..=200"),
        (&["demo", "--record", "/no/such/file"], "/no/such/file can't be written: No such file"),
        (&["fault", "cut", "worker-node-1", "--name", "no-such-lab"], "no lab named \"no-such-lab\""),
        (&["fault", "--name", "no-such-lab", "heal", "worker-node-1"], "no lab named \"no-such-lab\""),
        (&["up", "--ipv6", "--no-install"], "cannot be used with"),
    ] {
        let output = cli(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}

#[test]
fn commands_run_on_nodes_in_pods_and_outside() {
    let _alone = alone();
    let Some(lab) = up(&options("exec")) else { return };
    let hostname = |target: &str| text(&lab.exec(target, &["hostname"]).expect("runs")).trim().to_string();
    assert_eq!(hostname("worker-node-2"), "worker-node-2");
    assert_eq!(hostname("outside"), "outside");
    let status = lab.status().expect("a status");
    let controller = status.pods.keys().find(|pod| pod.contains("controller")).expect("a controller");
    assert_eq!(format!("kube-system/{}", hostname(controller)), *controller);
    let failed = lab.exec("worker-node-1", &["sh", "-c", "echo out; echo err >&2; exit 7"]).expect("runs");
    assert_eq!(failed.status.code(), Some(7));
    assert_eq!((failed.stdout.as_slice(), failed.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
    let unknown = lab.exec("nowhere", &["true"]).expect("runs");
    assert_eq!(unknown.status.code(), Some(2));
    let said = String::from_utf8_lossy(&unknown.stderr);
    assert!(said.contains("there is no node or pod \"nowhere\"") && said.contains("worker-node-1"), "{said}");
}
