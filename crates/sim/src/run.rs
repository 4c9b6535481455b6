//! Histories in numbers: one seed, or many on all cores.

use crate::ledger::Check;
use crate::world::{Options, World};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How a history ended.
pub struct Ended {
    /// The hash of all that happened.
    pub hash: u64,
    /// What happened, in words, if that was asked for.
    pub lines: Vec<String>,
    /// What did not hold.
    pub failure: Option<String>,
}

/// Plays one seed.
pub fn play(seed: u64, options: &Options) -> Ended {
    let mut kept: Option<World> = None;
    let played = catch_unwind(AssertUnwindSafe(|| -> Check {
        let world = kept.insert(World::new(seed, options)?);
        world.storm()?;
        world.calm()?;
        world.check_end()
    }));
    let failure = match played {
        Ok(Ok(())) => None,
        Ok(Err(why)) => Some(why),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Some(format!("PANIC: {}", text.unwrap_or_default()))
        }
    };
    match kept {
        Some(mut world) => {
            let ended = Ended { hash: world.trace_hash(), lines: std::mem::take(&mut world.lines), failure };
            if ended.failure.is_none() {
                world.leave();
            }
            ended
        }
        None => Ended { hash: 0, lines: vec![], failure },
    }
}

/// What many histories came to.
#[derive(Default)]
pub struct Tally {
    /// Histories played.
    pub played: u64,
    /// Seeds that failed, with the reason; sorted.
    pub failed: Vec<(u64, String)>,
}

/// Plays `count` seeds from `first` on `threads` threads; stops when `most` have failed.
pub fn play_many(first: u64, count: u64, options: &Options, threads: usize, most: usize, prepare: impl Fn() + Sync) -> Tally {
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let tally = Mutex::new(Tally::default());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                prepare();
                while !stop.load(Ordering::Relaxed) {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        break;
                    }
                    let seed = first.wrapping_add(n);
                    let ended = play(seed, options);
                    let mut tally = tally.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    tally.played += 1;
                    if let Some(why) = ended.failure {
                        tally.failed.push((seed, why));
                        if tally.failed.len() >= most {
                            stop.store(true, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let mut tally = tally.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    tally.failed.sort();
    tally
}
