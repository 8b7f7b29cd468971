//! From a wish to the first packet that fulfils it.

use std::process::Stdio;

use anyhow::{Context, Result};

use crate::figure::Figures;
use crate::session::{EIP, OUTSIDE, Session, answers, now_us};

const RUNS: usize = 20;
/// Where the outside host tells callers which address they come from.
const PORT: u16 = 8082;

pub(crate) fn run(figures: &mut Figures) -> Result<()> {
    let session = Session::up(true)?;
    session.gateways(&["worker-node-1"])?;
    let mut same = policy_applied(&session, "worker-node-1")?;
    figures.add_series(
        "policy applied -> first connection with the EIP, pod on the gateway",
        &mut same,
        "ms",
    );
    let mut other = policy_applied(&session, "worker-node-2")?;
    figures.add_series(
        "policy applied -> first connection with the EIP, other node (aim: 50 ms)",
        &mut other,
        "ms",
    );
    pod_started(&session, figures)
}

/// Milliseconds from the request that creates the policy to the first connection that leaves with the EIP.
fn policy_applied(session: &Session, node: &str) -> Result<Vec<f64>> {
    let app = format!("latency-{node}");
    let pod = session.pod(&app, node)?;
    let to = format!("{OUTSIDE}:{PORT}");
    let mut took_ms = Vec::new();
    for _ in 0..RUNS {
        // No longer than needed: so many connections to one place would run through all ports that the node has there.
        let asking = ["ask", "--to", &to, "--seconds", "3", "--until", EIP];
        let child = session.traffic_command(&pod, &asking)?.stdout(Stdio::piped()).spawn()?;
        std::thread::sleep(std::time::Duration::from_millis(500)); // it is asking by then
        let applied = now_us();
        session.policy(&app)?;
        let text = String::from_utf8(child.wait_with_output()?.stdout)?;
        let eip = EIP.parse().ok();
        let first =
            answers(&text).find(|(_, seen)| *seen == eip).context("no connection left with the EIP")?;
        took_ms.push(first.0.saturating_sub(applied) as f64 / 1000.0);
        let node = answers(&text).find_map(|(_, seen)| seen).context("no answer before the policy")?;
        session.no_policy()?;
        session.until_seen_as(&pod, node)?;
    }
    Ok(took_ms)
}

/// Which addresses new pods of a policy that is in force leave with, from their first connection on.
fn pod_started(session: &Session, figures: &mut Figures) -> Result<()> {
    session.policy("starting")?;
    session.until("the policy has a gateway", || Ok(!session.carrier()?.is_empty()))?;
    let to = format!("{OUTSIDE}:{PORT}");
    let (begin, eip) = (now_us(), EIP.parse()?);
    let (mut first_ms, mut held) = (Vec::new(), 0);
    for run in 0..RUNS {
        let answers = session.run_pod_once(
            &format!("starting-{run}"),
            "starting",
            "worker-node-2",
            &["ask", "--to", &to, "--seconds", "1", "--pause-ms", "10"],
        )?;
        let start = answers.first().map_or(0, |(time, _)| *time);
        held += usize::from(answers.get(1).is_some_and(|(_, seen)| seen.is_none()));
        let first =
            answers.iter().find(|(_, seen)| *seen == Some(eip)).context("no connection left with the EIP")?;
        first_ms.push(first.0.saturating_sub(start) as f64 / 1000.0);
    }
    // Not what the pods were told, but what arrived: an attempt without an answer counts as well.
    let log = session.lab.outside_log()?;
    let since = log.iter().filter(|flow| flow.first_us >= begin && flow.destination_port == PORT);
    let wrong = since.filter(|flow| flow.source != eip).count();
    figures.add_series("pod's first connection attempt -> first with the EIP", &mut first_ms, "ms");
    figures.add(format!("starting pods of {RUNS} whose first attempt was held"), held as f64, "");
    figures.add("connections of starting pods with another source (aim: 0)", wrong as f64, "");
    Ok(())
}
