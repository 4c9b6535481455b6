//! The loop on clocks that are played: stopped for an hour, asleep for an hour, a clock that somebody sets.

use syncline::machine::{BACKOFF_MS, BACKOFF_MS_MAX, Event, Machine, SCHEDULE_MS, Waiting};
use syncline::pulse::{Doing, Pulse};

const HOUR: i64 = 3_600_000;
const SYNC: [Doing; 1] = [Doing::Sync];

/// A process with its two clocks.
struct Process {
    pulse: Pulse,
    wall: i64,
    steady: i64,
}

impl Process {
    /// Has synced, and has its stream.
    fn idle() -> Process {
        let pulse = Pulse::new(Machine::new(|| BACKOFF_MS_MAX as u64 * 1_000 - 1), 1_000_000_000_000, 0);
        let mut p = Process { pulse, wall: 1_000_000_000_000, steady: 0 };
        assert_eq!(p.wake(Some(Event::Started)), SYNC);
        assert_eq!(p.ended(Event::SyncSucceeded), [Doing::OpenStream]);
        assert_eq!(p.wake(Some(Event::StreamUp)), []);
        p
    }
    fn wake(&mut self, event: Option<Event>) -> Vec<Doing> {
        self.pulse.wake(self.wall, self.steady, event)
    }
    fn ended(&mut self, event: Event) -> Vec<Doing> {
        self.pulse.ended(self.wall, self.steady, event)
    }
    /// Waits as the pulse asks, until it has something to do; returns what, and after how long.
    fn run(&mut self) -> (Vec<Doing>, i64) {
        let begun = self.steady;
        loop {
            let wait = self.pulse.wait_ms();
            (self.wall, self.steady) = (self.wall + wait, self.steady + wait);
            let todo = self.wake(None);
            if !todo.is_empty() {
                return (todo, self.steady - begun);
            }
        }
    }
    /// `kill -STOP` for an hour, then `kill -CONT`: both clocks have gone on.
    fn stopped(&mut self) {
        (self.wall, self.steady) = (self.wall + HOUR, self.steady + HOUR);
    }
    /// The lid is closed for an hour: the monotonic clock stood still.
    fn asleep(&mut self) {
        self.wall += HOUR;
    }
}

#[test]
fn a_loop_that_was_stopped_for_an_hour_syncs_as_soon_as_it_goes_on() {
    for stop in [Process::stopped, Process::asleep] {
        // Waiting for the schedule: at once, whether or not something happened meanwhile.
        for event in [None, Some(Event::Wake), Some(Event::LocalWrite { high_priority: false }), Some(Event::StreamDown)] {
            let mut p = Process::idle();
            stop(&mut p);
            assert_eq!(p.wake(event), SYNC, "{event:?}");
        }
        // In a backoff: at once.
        let mut p = Process::idle();
        p.wake(Some(Event::Wake));
        for _ in 0..9 {
            p.ended(Event::SyncFailed { retry_after_ms: None });
            let (todo, _) = p.run();
            assert_eq!(todo, SYNC);
        }
        p.ended(Event::SyncFailed { retry_after_ms: None });
        stop(&mut p);
        assert_eq!(p.wake(None), SYNC);
        // In the middle of a sync: its connection is gone, and one backoff later, the first, it is tried again.
        let mut p = Process::idle();
        p.wake(Some(Event::Wake));
        stop(&mut p);
        assert_eq!(p.ended(Event::SyncFailed { retry_after_ms: None }), []);
        let (todo, after) = p.run();
        assert_eq!(todo, SYNC);
        assert!((1..=BACKOFF_MS).contains(&after), "{after}");
    }
}

#[test]
fn a_wait_that_the_server_asked_for_is_not_slept_away_early_and_not_prolonged() {
    let mut p = Process::idle();
    p.wake(Some(Event::Wake));
    p.ended(Event::SyncFailed { retry_after_ms: Some(2 * HOUR) });
    let Waiting::Backoff(..) = p.pulse.waiting() else { panic!() };
    // An hour is the most that may be asked; asleep for it, it is over.
    p.asleep();
    assert_eq!(p.wake(None), []);
    let (todo, after) = p.run();
    assert_eq!(todo, SYNC);
    assert!(after <= BACKOFF_MS, "{after}");
}

#[test]
fn a_clock_set_back_by_a_day_delays_nothing() {
    let mut p = Process::idle();
    p.wall -= 24 * HOUR;
    let (todo, after) = p.run();
    assert_eq!(todo, SYNC);
    assert_eq!(after, SCHEDULE_MS);
}

#[test]
fn a_second_sleep_within_the_debounce_waits_for_its_turn() {
    let mut p = Process::idle();
    p.asleep();
    assert_eq!(p.wake(None), SYNC);
    p.ended(Event::SyncSucceeded);
    (p.wall, p.steady) = (p.wall + 11_000, p.steady + 11_000);
    assert_eq!(p.wake(None), []);
}
