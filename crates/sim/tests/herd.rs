//! A server that comes back meets no storm, and each device is back when the arithmetic says.

use syncline_sim::herd::{Plan, play};

#[test]
fn after_ten_minutes_away_the_server_meets_no_more_than_a_fifth_above_the_steady_rate() {
    for seed in 1..=5 {
        let herd = play(Plan::default(), seed);
        assert!((1_000.0..1_010.0).contains(&herd.steady), "{}", herd.steady);
        assert!(f64::from(herd.peak) <= 1.2 * herd.steady, "seed {seed}: peak {} at a steady rate of {}", herd.peak, herd.steady);
    }
}

#[test]
fn without_jitter_it_would_be_a_storm() {
    let herd = play(Plan { jitter: false, ..Plan::default() }, 1);
    assert!(f64::from(herd.peak) > 1.2 * herd.steady, "peak {}", herd.peak);
}

#[test]
fn each_device_is_back_exactly_when_its_backoff_says() {
    let herd = play(Plan::default(), 7);
    let late: Vec<_> = herd.back.iter().enumerate().filter(|(_, (back, expected))| back != expected).collect();
    assert!(late.is_empty(), "{late:?}");
    // None waits longer than the longest backoff, after a try that may just have been swallowed.
    assert!(herd.back.iter().all(|(back, _)| (0..=310_000).contains(back)));
}
