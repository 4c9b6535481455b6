//! When to sync: a pure machine. Time comes with each event, randomness with the machine; it starts nothing itself.
//!
//! Feed it what happens, do what it says, in order. `StartSync` is to be answered by `SyncSucceeded` or `SyncFailed`, `SetTimer`
//! by `TimerFired` at that time (a later `SetTimer` replaces an earlier one), `OpenStream` by `StreamUp` and, once it ends or
//! cannot be opened, `StreamDown`. Events in any order are fine, and so are timers that fire early, late or twice.
//!
//! Every state has a name and ends by itself: those that wait set a timer; a running sync has the timers of its link (10 s to
//! connect, 20 s without a byte, a least speed). There is one sync at a time and one way back after failures: the stream of
//! wakes is opened after a sync that went well, never tried on its own, so that a server that comes back meets each device once.

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
/// An app that comes to the foreground again and again syncs this often at most.
pub const RESUME_MS: i64 = 30_000;
/// A network that comes and goes starts a sync this often at most.
pub const FLAP_MS: i64 = 5_000;
/// A stream of wakes that ended is looked after within this time, at random; it doubles while streams go on ending.
pub const STREAM_MS: i64 = 5_000;

/// What the host says of its network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// There is none.
    None,
    /// Each byte costs.
    Metered,
    /// Bytes are free, or nobody said.
    #[default]
    Unmetered,
}

/// Why a sync is wanted, the least urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Urgency {
    /// Nothing asked; it is time to look.
    Schedule,
    /// Ordinary local writes.
    Batch,
    /// The authority has something new.
    Wake,
    /// A write to a table that goes at once.
    High,
    /// A person asked. Tried whatever the host says of network and battery.
    Demand,
}

/// What is worth a metered network or a low battery. Without a network nothing but a person's demand is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The least urgent that goes over a metered network.
    pub metered: Urgency,
    /// The least urgent that goes on a low battery.
    pub low_battery: Urgency,
}

impl Default for Policy {
    fn default() -> Self {
        Policy { metered: Urgency::Batch, low_battery: Urgency::High }
    }
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The app started.
    Started,
    /// The app came back to the foreground, or the machine from sleep.
    Resumed,
    /// The app, or another process, wrote.
    LocalWrite {
        /// To a table that goes at once.
        high_priority: bool,
    },
    /// A person wants it now.
    Demand,
    /// The authority has something new.
    Wake,
    /// The host gives the app time in the background, until then (ms since 1970).
    Window {
        /// When the time is over.
        until_ms: i64,
    },
    /// The timer that was set.
    TimerFired,
    /// The sync that was started ended well.
    SyncSucceeded,
    /// The sync that was started did not.
    SyncFailed {
        /// After how many ms the authority wants to hear again.
        retry_after_ms: Option<i64>,
    },
    /// The host's network is this now.
    Network(Network),
    /// The host's battery.
    Battery {
        /// Whether to spare it.
        low: bool,
    },
    /// The stream of wakes is open.
    StreamUp,
    /// The stream of wakes ended, or could not be opened.
    StreamDown,
    /// No more.
    Stop,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Sync now; at most until `Machine::deadline_ms`.
    StartSync,
    /// Say `TimerFired` at this time, in ms since 1970.
    SetTimer(i64),
    /// Open the stream of wakes.
    OpenStream,
}

/// Why a sync that is wanted does not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// The host has no network.
    NoNetwork,
    /// The host's network is metered, and this is not urgent.
    Metered,
    /// The battery is low, and this is not urgent.
    LowBattery,
}

/// Where the machine stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// For the first event.
    New,
    /// For the schedule, until then.
    Idle(i64),
    /// For more writes to send together, or to look after a lost stream, until then.
    Gathering(i64),
    /// After failures, until then; the flag says that the authority asked for it.
    Backoff(i64, bool),
    /// For the host to allow it; looked at again then.
    Held(Hold, i64),
    /// For a sync to end, which began then.
    Syncing(i64),
    /// For nothing any more.
    Stopped,
}

impl Waiting {
    /// Returns the state's name, as logs and `status` show it.
    pub fn name(self) -> &'static str {
        match self {
            Waiting::New => "new",
            Waiting::Idle(_) => "idle",
            Waiting::Gathering(_) => "gathering",
            Waiting::Backoff(_, false) => "backing_off",
            Waiting::Backoff(_, true) => "asked_to_wait",
            Waiting::Held(Hold::NoNetwork, _) => "held_no_network",
            Waiting::Held(Hold::Metered, _) => "held_metered",
            Waiting::Held(Hold::LowBattery, _) => "held_low_battery",
            Waiting::Syncing(_) => "syncing",
            Waiting::Stopped => "stopped",
        }
    }

    /// Returns when it ends by itself; `None` for a sync, which its link ends, and before the first and after the last event.
    pub fn timer(self) -> Option<i64> {
        match self {
            Waiting::Idle(at) | Waiting::Gathering(at) | Waiting::Backoff(at, _) | Waiting::Held(_, at) => Some(at),
            Waiting::New | Waiting::Syncing(_) | Waiting::Stopped => None,
        }
    }
}

/// The machine.
pub struct Machine {
    waiting: Waiting,
    /// What came and has not been synced yet.
    wanted: Option<Urgency>,
    /// Why the running sync, or the one that failed last, was started.
    running: Urgency,
    failures: u32,
    network: Network,
    low_battery: bool,
    window_until: Option<i64>,
    last_started: Option<i64>,
    stream_is_open: bool,
    streams_lost: u32,
    policy: Policy,
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
        Machine {
            waiting: Waiting::New,
            wanted: None,
            running: Urgency::Schedule,
            failures: 0,
            network: Network::Unmetered,
            low_battery: false,
            window_until: None,
            last_started: None,
            stream_is_open: false,
            streams_lost: 0,
            policy: Policy::default(),
            random: Box::new(random),
        }
    }

    /// Sets what is worth a metered network or a low battery.
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// Returns where it stands.
    pub fn waiting(&self) -> Waiting {
        self.waiting
    }

    /// Returns when the host's time for this sync is over, if it gave a time.
    pub fn deadline_ms(&self) -> Option<i64> {
        self.window_until
    }

    /// Takes an event and returns what to do, in order.
    pub fn handle(&mut self, now_ms: i64, event: Event) -> Vec<Action> {
        use Waiting::*;
        if self.window_until.is_some_and(|until| now_ms >= until) {
            self.window_until = None;
        }
        match (event, self.waiting) {
            (_, Stopped) => vec![],
            (Event::Stop, _) => {
                self.waiting = Stopped;
                vec![]
            }
            (Event::SyncSucceeded, Syncing(_)) => self.succeeded(now_ms),
            (Event::SyncFailed { retry_after_ms }, Syncing(_)) => self.failed(now_ms, retry_after_ms),
            // The end of a sync that this machine did not start.
            (Event::SyncSucceeded | Event::SyncFailed { .. }, _) => self.rearm(now_ms),
            (Event::TimerFired, state) => self.timer_fired(now_ms, state),
            (Event::Network(network), _) => self.network_is(now_ms, network),
            (Event::Battery { low }, _) => {
                self.low_battery = low;
                self.look_again(now_ms)
            }
            (Event::Window { until_ms }, _) => {
                self.window_until = Some(until_ms).filter(|until| *until > now_ms);
                self.hurry(now_ms, Urgency::Schedule, now_ms)
            }
            (Event::StreamUp, _) => {
                (self.stream_is_open, self.streams_lost) = (true, 0);
                self.rearm(now_ms)
            }
            (Event::StreamDown, _) => self.stream_lost(now_ms),
            (Event::Started, _) => self.hurry(now_ms, Urgency::Wake, now_ms),
            (Event::Resumed, _) => match self.last_started {
                Some(at) if (at..at + RESUME_MS).contains(&now_ms) => self.rearm(now_ms),
                _ => self.hurry(now_ms, Urgency::Wake, now_ms),
            },
            (Event::Demand, Syncing(_)) => self.want(Urgency::Demand),
            // A person may know better than a server that asked for time, and sees what comes of it.
            (Event::Demand, _) => self.start(now_ms, Urgency::Demand),
            (Event::Wake, _) => self.local(now_ms, Urgency::Wake),
            (Event::LocalWrite { high_priority: true }, _) => self.local(now_ms, Urgency::High),
            (Event::LocalWrite { high_priority: false }, _) => self.local(now_ms, Urgency::Batch),
        }
    }

    /// A write or a wake: neither says that the cause of earlier failures is gone.
    fn local(&mut self, now: i64, urgency: Urgency) -> Vec<Action> {
        match self.waiting {
            Waiting::Syncing(_) => self.want(urgency),
            Waiting::Backoff(..) => {
                self.want(urgency);
                self.rearm(now)
            }
            _ if self.hold_of(urgency).is_some() || urgency > Urgency::Batch => self.start(now, urgency),
            Waiting::Gathering(at) => self.gather(at.min(now + BATCH_MS), urgency),
            _ => self.gather(now + BATCH_MS, urgency),
        }
    }

    /// Something says that the cause of failures may be gone. It starts a sync at `at`, which ends a backoff, but not one that
    /// the authority asked for: a network, or a person who looks, does not make an authority ready.
    fn hurry(&mut self, now: i64, urgency: Urgency, at: i64) -> Vec<Action> {
        match self.waiting {
            Waiting::Syncing(_) => self.want(urgency),
            Waiting::Backoff(_, true) => {
                self.want(urgency);
                self.rearm(now)
            }
            _ if at <= now => self.start(now, urgency),
            Waiting::Backoff(until, false) => {
                self.want(urgency);
                self.waiting = Waiting::Backoff(until.min(at), false);
                self.rearm(now)
            }
            Waiting::Gathering(soon) => self.gather(soon.min(at), urgency),
            _ => self.gather(at, urgency),
        }
    }

    fn timer_fired(&mut self, now: i64, state: Waiting) -> Vec<Action> {
        match state.timer() {
            Some(at) if now >= at => {
                let otherwise = if matches!(state, Waiting::Backoff(..)) { self.running.min(Urgency::High) } else { Urgency::Schedule };
                let urgency = self.wanted.map_or(otherwise, |wanted| wanted.max(otherwise));
                self.start(now, urgency)
            }
            _ => self.rearm(now),
        }
    }

    fn network_is(&mut self, now: i64, network: Network) -> Vec<Action> {
        let before = std::mem::replace(&mut self.network, network);
        if network == Network::None {
            return self.rearm(now);
        }
        // Where nothing failed and nothing waits, a network that goes from metered to unmetered is no reason to sync.
        match self.waiting {
            Waiting::Idle(_) | Waiting::Gathering(_) if before != Network::None => self.rearm(now),
            Waiting::Held(..) if before != Network::None => self.look_again(now),
            // If the sync went over the old network it fails soon, and its backoff is the first.
            Waiting::Syncing(_) => vec![],
            _ => {
                let at = self.last_started.filter(|at| *at <= now).map_or(now, |at| now.max(at + FLAP_MS));
                self.hurry(now, Urgency::Wake, at)
            }
        }
    }

    /// What was held may go now.
    fn look_again(&mut self, now: i64) -> Vec<Action> {
        match self.waiting {
            Waiting::Held(..) => self.start(now, self.wanted.unwrap_or(Urgency::Schedule)),
            _ => self.rearm(now),
        }
    }

    fn stream_lost(&mut self, now: i64) -> Vec<Action> {
        self.stream_is_open = false;
        let most = STREAM_MS.saturating_mul(1 << self.streams_lost.min(20)).min(SCHEDULE_MS);
        self.streams_lost = self.streams_lost.saturating_add(1);
        match self.waiting {
            // A sync finds out whether the server is there, and opens the stream again. Not everybody at once.
            Waiting::Idle(at) => {
                let soon = now + self.jitter(most);
                if soon < at { self.gather(soon, Urgency::Batch) } else { self.rearm(now) }
            }
            _ => self.rearm(now),
        }
    }

    /// Starts a sync, or says why not.
    fn start(&mut self, now: i64, urgency: Urgency) -> Vec<Action> {
        let urgency = self.wanted.map_or(urgency, |wanted| wanted.max(urgency));
        if let Some(hold) = self.hold_of(urgency) {
            self.wanted = Some(urgency);
            let until = match self.waiting {
                Waiting::Held(_, at) if at > now => at,
                _ => now + SCHEDULE_MS,
            };
            self.waiting = Waiting::Held(hold, until);
            return self.rearm(now);
        }
        self.waiting = Waiting::Syncing(now);
        self.running = urgency;
        self.wanted = None;
        self.last_started = Some(now);
        vec![Action::StartSync]
    }

    /// Returns what the host has against a sync of this urgency.
    fn hold_of(&self, urgency: Urgency) -> Option<Hold> {
        match self.network {
            _ if urgency == Urgency::Demand => None,
            Network::None => Some(Hold::NoNetwork),
            Network::Metered if urgency < self.policy.metered => Some(Hold::Metered),
            _ if self.low_battery && urgency < self.policy.low_battery => Some(Hold::LowBattery),
            _ => None,
        }
    }

    fn want(&mut self, urgency: Urgency) -> Vec<Action> {
        self.wanted = Some(self.wanted.map_or(urgency, |wanted| wanted.max(urgency)));
        vec![]
    }

    fn gather(&mut self, at: i64, urgency: Urgency) -> Vec<Action> {
        self.want(urgency);
        self.waiting = Waiting::Gathering(at);
        vec![Action::SetTimer(at)]
    }

    fn succeeded(&mut self, now: i64) -> Vec<Action> {
        self.failures = 0;
        if self.network == Network::None {
            // The host was wrong: what a person asked for went through.
            self.network = Network::Metered;
        }
        let mut actions = match self.wanted {
            Some(urgency) if urgency > Urgency::Batch => self.start(now, urgency),
            Some(urgency) => self.gather(now + BATCH_MS, urgency),
            None => {
                self.waiting = Waiting::Idle(now + SCHEDULE_MS);
                self.rearm(now)
            }
        };
        if !self.stream_is_open && self.hold_of(Urgency::Wake).is_none() {
            self.stream_is_open = true;
            actions.insert(0, Action::OpenStream);
        }
        actions
    }

    fn failed(&mut self, now: i64, retry_after_ms: Option<i64>) -> Vec<Action> {
        let most = BACKOFF_MS.saturating_mul(1 << self.failures.min(20)).min(BACKOFF_MS_MAX);
        self.failures = self.failures.saturating_add(1);
        // A person who asked has seen it fail; what is tried later is tried by the host's rules.
        self.wanted = self.wanted.map(|wanted| wanted.min(Urgency::High));
        // Full jitter: a server that comes back, or asks many for the same time, is not met by all of them at once.
        let jittered = self.jitter(most);
        let asked = retry_after_ms.map(|ms| ms.clamp(0, RETRY_AFTER_MS_MAX));
        self.waiting = Waiting::Backoff(now + asked.unwrap_or(0) + jittered, asked.is_some());
        self.rearm(now)
    }

    /// Returns 1 to `most`.
    fn jitter(&mut self, most: i64) -> i64 {
        1 + ((self.random)() % most as u64) as i64
    }

    /// Sets the timer of the present state again.
    fn rearm(&mut self, now: i64) -> Vec<Action> {
        if self.waiting == Waiting::New {
            self.waiting = Waiting::Idle(now + SCHEDULE_MS);
        }
        self.waiting.timer().map(Action::SetTimer).into_iter().collect()
    }
}
