//! The loop's time: goes on while the machine sleeps, and never back when somebody sets the clock.
//!
//! A monotonic clock stands still while a laptop sleeps, and a wall clock jumps. Each alone would leave a timer waiting for an
//! hour too long; the greater step of the two does not.

/// A loop that wakes up this much later than it asked for was stopped, or the machine slept.
pub const LATE_MS: i64 = 5_000;

/// Turns two clocks into one. No I/O: both are read by the caller.
#[derive(Clone, Copy, Debug)]
pub struct Ticker {
    wall_ms: i64,
    steady_ms: i64,
    now_ms: i64,
}

/// A look at the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tick {
    /// The loop's time, in ms since 1970; never less than before.
    pub now_ms: i64,
    /// Whether much more time went by than was to be waited for.
    pub overslept: bool,
}

impl Ticker {
    /// Begins at a wall time and a monotonic time, both in ms.
    pub fn new(wall_ms: i64, steady_ms: i64) -> Ticker {
        Ticker { wall_ms, steady_ms, now_ms: wall_ms }
    }

    /// Looks at the clocks after a wait of `asked_ms`.
    pub fn tick(&mut self, wall_ms: i64, steady_ms: i64, asked_ms: i64) -> Tick {
        let passed = (steady_ms - self.steady_ms).max(wall_ms - self.wall_ms).max(0);
        (self.wall_ms, self.steady_ms) = (wall_ms, steady_ms);
        self.now_ms = self.now_ms.saturating_add(passed);
        Tick { now_ms: self.now_ms, overslept: passed > asked_ms.saturating_add(LATE_MS) }
    }

    /// Returns the loop's time at the last tick.
    pub fn now_ms(&self) -> i64 {
        self.now_ms
    }

    /// Returns a time of the loop's as people's clocks show it.
    pub fn as_wall(&self, at_ms: i64) -> i64 {
        self.wall_ms.saturating_add(at_ms - self.now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    #[test]
    fn a_sleeping_laptop_a_stopped_process_and_a_clock_set_back_are_told_apart() {
        let mut t = Ticker::new(1_000_000, 50);
        assert_eq!(t.tick(1_005_000, 5_050, 5_000), Tick { now_ms: 1_005_000, overslept: false });
        // Asleep: the monotonic clock stood still.
        assert_eq!(t.tick(1_005_000 + HOUR, 5_150, 5_000), Tick { now_ms: 1_005_000 + HOUR, overslept: true });
        // Stopped: both went on.
        assert_eq!(t.tick(1_005_000 + 2 * HOUR, 5_150 + HOUR, 5_000), Tick { now_ms: 1_005_000 + 2 * HOUR, overslept: true });
        // Set back by a day: time goes on as the monotonic clock says, and a timer is shown in people's time.
        let set_back = 1_005_000 + 2 * HOUR - 24 * HOUR;
        let before = t.now_ms();
        assert_eq!(t.tick(set_back, 5_150 + HOUR + 3_000, 5_000), Tick { now_ms: before + 3_000, overslept: false });
        assert_eq!(t.as_wall(t.now_ms() + 60_000), set_back + 60_000);
    }
}
