//! The loop without threads: the machine, its timer and its time in one. Clocks come in, what to do goes out.

use crate::machine::{Action, Event, Machine, Policy, Waiting};
use crate::ticker::Ticker;

/// The clocks are looked at at least this often, to notice that the machine slept.
const LOOK_MS: i64 = 5_000;

/// What to do besides waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// Sync now, and say how it ended with `ended`.
    Sync,
    /// Open the stream of wakes.
    OpenStream,
}

/// A machine and its clocks. Wait `wait_ms`, or until something happens; call `wake`; do what it says; again.
pub struct Pulse {
    machine: Machine,
    ticker: Ticker,
    timer: Option<i64>,
}

impl Pulse {
    /// Begins at a wall time and a monotonic time, both in ms.
    pub fn new(machine: Machine, wall_ms: i64, steady_ms: i64) -> Pulse {
        Pulse { machine, ticker: Ticker::new(wall_ms, steady_ms), timer: None }
    }

    /// Returns how long to wait at most.
    pub fn wait_ms(&self) -> i64 {
        self.timer.map_or(LOOK_MS, |at| at - self.ticker.now_ms()).clamp(0, LOOK_MS)
    }

    /// After a wait of at most `wait_ms`: takes what happened, if anything, and the timer, if it is due. Whoever slept much
    /// longer was stopped, or suspended with the machine: that is a resume.
    pub fn wake(&mut self, wall_ms: i64, steady_ms: i64, event: Option<Event>) -> Vec<Doing> {
        let asked = self.wait_ms();
        let mut todo = vec![];
        if self.ticker.tick(wall_ms, steady_ms, asked).overslept {
            todo.extend(self.take(Event::Resumed));
        }
        match event {
            Some(Event::Window { until_ms }) => {
                // Said in people's time, kept in the loop's.
                let until_ms = self.ticker.now_ms().saturating_add(until_ms.saturating_sub(wall_ms));
                todo.extend(self.take(Event::Window { until_ms }));
            }
            Some(event) => todo.extend(self.take(event)),
            None if self.timer.is_some_and(|at| self.ticker.now_ms() >= at) => todo.extend(self.take(Event::TimerFired)),
            None => {}
        }
        todo
    }

    /// Takes the end of a sync. However long that took, it is no oversleeping.
    pub fn ended(&mut self, wall_ms: i64, steady_ms: i64, event: Event) -> Vec<Doing> {
        self.ticker.tick(wall_ms, steady_ms, i64::MAX);
        self.take(event)
    }

    /// Returns where the machine stands.
    pub fn waiting(&self) -> Waiting {
        self.machine.waiting()
    }

    /// Returns when it tries again after failures, as people's clocks show it.
    pub fn retry_at_ms(&self) -> Option<i64> {
        match self.machine.waiting() {
            Waiting::Backoff(until, _) => Some(self.ticker.as_wall(until)),
            _ => None,
        }
    }

    /// Returns how much time the host left for a sync that begins now; `None` where it set no limit.
    pub fn time_left_ms(&self) -> Option<i64> {
        self.machine.deadline_ms().map(|until| (until - self.ticker.now_ms()).max(0))
    }

    /// Sets what is worth a metered network or a low battery.
    pub fn set_policy(&mut self, policy: Policy) {
        self.machine.set_policy(policy);
    }

    fn take(&mut self, event: Event) -> Vec<Doing> {
        let mut todo = vec![];
        for action in self.machine.handle(self.ticker.now_ms(), event) {
            match action {
                Action::SetTimer(at) => self.timer = Some(at),
                Action::StartSync => {
                    self.timer = None;
                    todo.push(Doing::Sync);
                }
                Action::OpenStream => todo.push(Doing::OpenStream),
            }
        }
        todo
    }
}
