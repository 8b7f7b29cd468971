//! Clusters of many seeds.

use sim::{Options, run};

#[test]
fn one() {
    for seed in 0..60 {
        let start = std::time::Instant::now();
        match run(Options { seed, steps: 300, verbose: false }) {
            Ok(report) => println!("{seed} {:?} {} {}", start.elapsed(), report.steps, report.settled_ms),
            Err(failure) => println!("{failure}"),
        }
    }
}
