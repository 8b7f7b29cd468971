//! How long a lab takes to be there, and what it costs.

use std::time::Instant;

use anyhow::Result;

use crate::figure::Figures;
use crate::session::Session;

const RUNS: usize = 5;

pub(crate) fn run(figures: &mut Figures) -> Result<()> {
    let mut up_s = Vec::new();
    let mut down_s = Vec::new();
    let mut memory_mb = Vec::new();
    for _ in 0..RUNS {
        let start = Instant::now();
        let session = Session::up(true)?;
        up_s.push(start.elapsed().as_secs_f64());
        memory_mb.push(session.lab.status()?.memory_kib as f64 / 1024.0);
        let start = Instant::now();
        session.lab.down()?;
        down_s.push(start.elapsed().as_secs_f64());
    }
    figures.add_series("`lab up` of 3 nodes until all pods run (aim: 3 s)", &mut up_s, "s");
    figures.add_series("`lab down`", &mut down_s, "s");
    figures.add_series("resident memory without the pods' programs (aim: 150 MB)", &mut memory_mb, "MiB");
    Ok(())
}
