//! What the way through a gateway costs, beside a pod of the same lab that no policy selects (it leaves from its own node,
//! masqueraded), and beside two rows of hosts without a cluster: plain routing, and a plain tunnel.

use anyhow::{Context, Result};
use std::process::Output;

use crate::figure::{Figures, percentile};
use crate::plain::{self, Plain, start_server};
use crate::session::{EIP, OUTSIDE, Session};
use crate::traffic::Measured;

const RUNS: usize = 5;
const SECONDS: &str = "2";
const MEASURES: [(&str, &str, f64); 3] = [
    ("short connections/s", "connect", 1.0),
    ("one TCP stream, MB/s", "stream", 1e6),
    ("UDP datagrams of 64 bytes/s", "udp", 1.0),
];

pub(crate) fn run(figures: &mut Figures) -> Result<()> {
    let session = Session::up(false)?;
    session.gateways(&["worker-node-1"])?;
    let pod = session.pod("throughput", "worker-node-2")?;
    let other = session.pod("unselected", "worker-node-2")?;
    session.policy("throughput")?;
    session.until_seen_as(&pod, EIP.parse()?)?;
    let serve = ["serve", "--listen", "0.0.0.0:9000"];
    let mut server = start_server(&mut session.traffic_command("outside", &serve)?)?;
    let routed = Plain::build(&session.bench, false)?;
    let tunnelled = Plain::build(&session.bench, true)?;
    let to = format!("{OUTSIDE}:9000");
    for (name, mode, divisor) in MEASURES {
        // Interleaved, so that a slow moment of the machine hits all.
        let mut series = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..RUNS {
            let plain_arguments = ["traffic", mode, "--to", plain::SERVER, "--seconds", SECONDS];
            let runs = [
                session.traffic(&pod, &[mode, "--to", &to, "--seconds", SECONDS])?,
                session.traffic(&other, &[mode, "--to", &to, "--seconds", SECONDS])?,
                routed.run(&session.bench, &plain_arguments)?,
                tunnelled.run(&session.bench, &plain_arguments)?,
            ];
            for (values, output) in series.iter_mut().zip(&runs) {
                values.push(per_second(output)? / divisor);
            }
        }
        let [ours, unselected, routing, vxlan] = series.map(|mut values| {
            values.sort_by(f64::total_cmp);
            percentile(&values, 0.5).unwrap_or_default()
        });
        figures.add_beside(name, ours, "", ("a pod without policy", unselected));
        figures.add_beside(name, ours, "", ("plain routing", routing));
        figures.add_beside(name, ours, "", ("plain VXLAN", vxlan));
    }
    drop(server.stdin.take());
    server.kill().ok();
    server.wait()?;
    Ok(())
}

fn per_second(output: &Output) -> Result<f64> {
    let measured: Measured = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("traffic failed: {}", String::from_utf8_lossy(&output.stderr)))?;
    Ok(measured.per_second)
}
