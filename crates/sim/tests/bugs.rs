//! Planted bugs are found: `cargo test -p syncline-sim --release --features planted --test bugs`.
#![cfg(feature = "planted")]

use syncline_sim::bugs::{BUGS, Bug, hunt};

/// Names those of the bugs that are not found within their number of seeds.
fn missed(bugs: impl Iterator<Item = &'static Bug>) -> Vec<&'static str> {
    std::panic::set_hook(Box::new(|_| {}));
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let missed = bugs.filter(|bug| hunt(bug, bug.within, threads).is_none()).map(|bug| bug.name).collect();
    let _ = std::panic::take_hook();
    missed
}

#[test]
fn bugs_that_show_soon_are_found() {
    let quick = ["earlier_stamp_wins", "writer_continued", "apply_without_absorb", "replay_committed_twice", "confirms_later_edits", "cursor_before_rows"];
    let bugs: Vec<&Bug> = BUGS.iter().filter(|bug| quick.contains(&bug.name)).collect();
    assert_eq!(bugs.len(), quick.len());
    assert_eq!(missed(bugs.into_iter()), [""; 0]);
}

#[test]
#[ignore = "takes minutes: run it with --ignored, or syncline-sim --bugs"]
fn every_planted_bug_is_found_within_its_number_of_seeds() {
    assert!(BUGS.len() >= 15);
    assert_eq!(missed(BUGS.iter()), [""; 0]);
}
