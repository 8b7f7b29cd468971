//! Clusters of many seeds: `cargo xtask sim` runs more of them.

use sim::many::run_many;
use sim::{Options, run};

/// Steps with faults of each seed: many short runs see more than few long ones.
const STEPS: u64 = 40;

#[test]
fn nothing_is_ever_wrong_and_everything_settles() {
    let total = run_many(0, 300, STEPS, |_, failure| {
        if let Some(failure) = failure {
            println!("{failure}\nreplay: cargo xtask sim --seed {} --steps {STEPS} --verbose", failure.seed);
        }
    });
    assert_eq!(total.missing(), [""; 0], "this never happened");
    assert!(total.failures.is_empty());
}

#[test]
fn a_seed_always_gives_the_same_run() {
    let run = || run(Options { seed: 7, steps: 60, verbose: false }).expect("nothing is wrong");
    assert_eq!(run(), run());
}
