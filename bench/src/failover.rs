//! A gateway is cut off: how long until traffic flows again, and which connections survive?

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::Fault;
use serde::Deserialize;

use crate::figure::Figures;
use crate::plain::start_server;
use crate::session::{OUTSIDE, Session};

const RUNS: usize = 20;
const CONNECTIONS: &str = "20";

#[derive(Deserialize)]
struct Held {
    lost: u64,
    longest_gap_ms: f64,
}

pub(crate) fn run(figures: &mut Figures) -> Result<()> {
    let session = Session::up(false)?;
    session.gateways(&["worker-node-1", "worker-node-2"])?;
    let pod = session.pod("failover", "controller-node-1")?;
    session.policy("failover")?;
    session.until("the policy has a gateway", || Ok(!session.carrier()?.is_empty()))?;
    session.until_seen_as(&pod, crate::session::EIP.parse()?)?;
    let to = format!("{OUTSIDE}:9000");
    let mut server =
        start_server(&mut session.traffic_command("outside", &["serve", "--listen", "0.0.0.0:9000"])?)?;
    let (mut gaps_ms, mut lost) = (Vec::new(), 0);
    for _ in 0..RUNS {
        let holding = ["hold", "--to", &to, "--seconds", "4", "--connections", CONNECTIONS];
        let child = session.traffic_command(&pod, &holding)?.stdout(Stdio::piped()).spawn()?;
        std::thread::sleep(Duration::from_secs(1)); // all connections are there by then
        let node = session.carrier()?;
        session.lab.fault(Fault::Cut { node: node.clone() })?;
        let output = child.wait_with_output()?;
        let held: Held = serde_json::from_slice(&output.stdout).context("the connections' report")?;
        gaps_ms.push(held.longest_gap_ms);
        lost += held.lost;
        session.until("status shows another gateway", || {
            let now = session.carrier()?;
            Ok(!now.is_empty() && now != node)
        })?;
        session.lab.fault(Fault::Heal { node: node.clone() })?;
        session.until("the cut gateway is Ready again", || session.is_ready(&node))?;
    }
    drop(server.stdin.take());
    server.kill().ok();
    server.wait()?;
    figures.add_series("gateway cut -> traffic flows again (aim: 600 ms)", &mut gaps_ms, "ms");
    figures.add(format!("connections lost of {} (aim: 0)", RUNS * 20), lost as f64, "");
    Ok(())
}
