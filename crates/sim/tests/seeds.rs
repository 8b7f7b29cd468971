//! Clusters of many seeds: `cargo xtask sim` runs more of them.

use sim::{Options, run};

#[test]
fn nothing_is_ever_wrong_and_everything_settles() {
    for seed in 0..30 {
        if let Err(failure) = run(Options { seed, steps: 300, verbose: false }) {
            panic!("{failure}");
        }
    }
}

#[test]
fn a_seed_always_gives_the_same_run() {
    let run = || run(Options { seed: 7, steps: 100, verbose: false }).expect("nothing is wrong");
    assert_eq!(run(), run());
}
