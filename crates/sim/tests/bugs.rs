//! Every planted bug is found: `cargo test -p syncline-sim --release --features planted --test bugs`.
#![cfg(feature = "planted")]

use syncline_sim::bugs::{BUGS, hunt};

#[test]
#[ignore = "takes minutes: run it with --ignored, or syncline-sim --bugs"]
fn every_planted_bug_is_found_within_its_number_of_seeds() {
    std::panic::set_hook(Box::new(|_| {}));
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let missed: Vec<&str> = BUGS.iter().filter(|bug| hunt(bug, bug.within, threads).is_none()).map(|bug| bug.name).collect();
    let _ = std::panic::take_hook();
    assert!(BUGS.len() >= 15 && missed.is_empty(), "not found: {missed:?}");
}
