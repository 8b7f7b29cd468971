//! Clusters of many seeds: `cargo xtask sim` runs more of them.

use sim::many::run_many;
use sim::{Options, run};

#[test]
fn nothing_is_ever_wrong_and_everything_settles() {
    let total = run_many(0, 30, 100, |_| {});
    for failure in &total.failures {
        println!("{failure}\nreplay: cargo xtask sim --seed {} --steps 100 --verbose", failure.seed);
    }
    assert!(total.failures.is_empty());
}

#[test]
fn a_seed_always_gives_the_same_run() {
    let run = || run(Options { seed: 7, steps: 60, verbose: false }).expect("nothing is wrong");
    assert_eq!(run(), run());
}
