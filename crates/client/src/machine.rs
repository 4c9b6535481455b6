//! When to sync: a pure machine. Time comes with each event, randomness with the machine; it starts nothing itself.
//!
//! Feed it what happens, do what it says. `StartSync` is to be answered by `SyncSucceeded` or `SyncFailed`, `SetTimer` by
//! `TimerFired` at that time (a later `SetTimer` replaces an earlier one). Events in any order are fine, and so are timers that
//! fire early, late or twice. Every state in which it waits has a timer; a running sync has those of its link.

use serde::{Deserialize, Serialize};

/// Between syncs that nothing asked for.
pub const SCHEDULE_MS: i64 = 15 * 60 * 1000;
/// How long ordinary local writes are gathered.
pub const BATCH_MS: i64 = 2_000;
/// The first backoff; it doubles with each failure.
pub const BACKOFF_MS: i64 = 1_000;
/// The longest backoff.
pub const BACKOFF_MS_MAX: i64 = 5 * 60 * 1000;
/// The longest wait that an authority may ask for.
pub const RETRY_AFTER_MS_MAX: i64 = 60 * 60 * 1000;

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The app started, or came back to the foreground.
    Started,
    /// The app, or another process, wrote.
    LocalWrite {
        /// To a table that goes at once.
        high_priority: bool,
    },
    /// A person wants it now.
    Demand,
    /// The authority has something new.
    Wake,
    /// The timer that was set.
    TimerFired,
    /// The sync that was started ended well.
    SyncSucceeded,
    /// The sync that was started did not.
    SyncFailed {
        /// After how many ms the authority wants to hear again.
        retry_after_ms: Option<i64>,
    },
    /// There is a network again, or the server answers again.
    NetworkUp,
    /// There is none.
    NetworkDown,
    /// No more.
    Stop,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Sync now.
    StartSync,
    /// Say `TimerFired` at this time, in ms since 1970.
    SetTimer(i64),
    /// Nothing.
    Nothing,
}

/// Where the machine stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// For the first event.
    New,
    /// For the schedule or a batch of writes, until then.
    Idle(i64),
    /// After failures, until then; the flag says that the authority asked for it.
    Backoff(i64, bool),
    /// For a sync to end.
    Syncing,
    /// For nothing any more.
    Stopped,
}

/// What came while a sync ran, or while there was no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wanted {
    Nothing,
    Batch,
    Now,
}

/// The machine.
pub struct Machine {
    waiting: Waiting,
    wanted: Wanted,
    failures: u32,
    network: bool,
    random: Box<dyn FnMut() -> u64 + Send>,
}

impl Machine {
    /// Makes a machine that draws its jitter from `random`.
    ///
    /// ```
    /// use syncline::machine::{Action, Event, Machine};
    /// let mut machine = Machine::new(|| 4);
    /// assert_eq!(machine.handle(0, Event::Started), [Action::StartSync]);
    /// ```
    pub fn new(random: impl FnMut() -> u64 + Send + 'static) -> Machine {
        Machine { waiting: Waiting::New, wanted: Wanted::Nothing, failures: 0, network: true, random: Box::new(random) }
    }

    /// Returns where it stands.
    pub fn waiting(&self) -> Waiting {
        self.waiting
    }

    /// Takes an event and returns what to do; never empty.
    pub fn handle(&mut self, now_ms: i64, event: Event) -> Vec<Action> {
        vec![self.decide(now_ms, event)]
    }

    fn decide(&mut self, now: i64, event: Event) -> Action {
        use Waiting::*;
        match (event, self.waiting) {
            (_, Stopped) => Action::Nothing,
            (Event::Stop, _) => {
                self.waiting = Stopped;
                Action::Nothing
            }
            (Event::NetworkDown, _) => {
                self.network = false;
                self.rearm(now)
            }
            (Event::SyncSucceeded, Syncing) => self.succeeded(now),
            (Event::SyncFailed { retry_after_ms }, Syncing) => self.failed(now, retry_after_ms),
            // The end of a sync that this machine did not start.
            (Event::SyncSucceeded | Event::SyncFailed { .. }, _) => self.rearm(now),
            (Event::TimerFired, Idle(at) | Backoff(at, _)) if now >= at => self.start(),
            (Event::TimerFired, _) => self.rearm(now),
            (Event::NetworkUp, _) => self.network_up(now),
            (Event::Demand | Event::Wake | Event::Started, Syncing) => self.want(Wanted::Now),
            (Event::LocalWrite { high_priority }, Syncing) => self.want(if high_priority { Wanted::Now } else { Wanted::Batch }),
            (Event::Demand | Event::Started, _) => self.start(),
            // Neither a write nor a wake says that the cause of the failures is gone.
            (Event::LocalWrite { .. } | Event::Wake, Backoff(..)) => self.rearm(now),
            (Event::LocalWrite { .. } | Event::Wake, _) if !self.network => {
                self.want(Wanted::Now);
                self.rearm(now)
            }
            (Event::LocalWrite { high_priority: true } | Event::Wake, _) => self.start(),
            (Event::LocalWrite { high_priority: false }, Idle(at)) => self.idle(at.min(now + BATCH_MS)),
            (Event::LocalWrite { high_priority: false }, New) => self.idle(now + BATCH_MS),
        }
    }

    fn start(&mut self) -> Action {
        self.waiting = Waiting::Syncing;
        self.wanted = Wanted::Nothing;
        Action::StartSync
    }

    fn want(&mut self, what: Wanted) -> Action {
        self.wanted = self.wanted.max(what);
        Action::Nothing
    }

    fn idle(&mut self, at: i64) -> Action {
        self.waiting = Waiting::Idle(at);
        Action::SetTimer(at)
    }

    fn succeeded(&mut self, now: i64) -> Action {
        self.failures = 0;
        self.network = true;
        match self.wanted {
            Wanted::Now => self.start(),
            Wanted::Batch => {
                self.wanted = Wanted::Nothing;
                self.idle(now + BATCH_MS)
            }
            Wanted::Nothing => self.idle(now + SCHEDULE_MS),
        }
    }

    fn failed(&mut self, now: i64, retry_after_ms: Option<i64>) -> Action {
        let most = BACKOFF_MS.saturating_mul(1 << self.failures.min(20)).min(BACKOFF_MS_MAX);
        self.failures = self.failures.saturating_add(1);
        // Full jitter: a server that comes back is not met by everybody at once.
        let jittered = 1 + ((self.random)() % most as u64) as i64;
        let asked = retry_after_ms.map(|ms| ms.clamp(0, RETRY_AFTER_MS_MAX));
        let until = now + asked.map_or(jittered, |ms| ms + jittered.min(BACKOFF_MS));
        self.wanted = Wanted::Nothing;
        self.waiting = Waiting::Backoff(until, asked.is_some());
        Action::SetTimer(until)
    }

    fn network_up(&mut self, now: i64) -> Action {
        let was_down = !std::mem::replace(&mut self.network, true);
        match self.waiting {
            Waiting::Syncing => Action::Nothing,
            // A network does not make an authority ready that asked for time.
            Waiting::Backoff(_, false) => self.start(),
            Waiting::Idle(_) | Waiting::New if was_down || self.wanted == Wanted::Now => self.start(),
            _ => self.rearm(now),
        }
    }

    /// Sets the timer of the present state again.
    fn rearm(&mut self, now: i64) -> Action {
        match self.waiting {
            Waiting::Idle(at) | Waiting::Backoff(at, _) => Action::SetTimer(at),
            Waiting::New => self.idle(now + SCHEDULE_MS),
            Waiting::Syncing | Waiting::Stopped => Action::Nothing,
        }
    }
}
