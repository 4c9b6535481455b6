//! Syncing in the background: one thread that drives the machine and syncs, one that listens for wakes.
//!
//! A write of the app goes straight from its commit into the loop's queue, and a wake straight from the stream: nothing sleeps on
//! either way. The stream is opened when the machine says so, after a sync that went well. Both threads end with `stop`, or when
//! the handle is dropped.

use crate::database::{Database, lock, now_ms};
use crate::error::{Doing, Error};
use crate::link::{WatchEvent, WatchStop};
use crate::machine::{Action, Event, Machine, Network, Policy, Waiting};
use crate::status::Status;
use crate::sync::{Outcome, SyncReport, watch_link};
use crate::ticker::Ticker;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use syncline_core::Seq;

/// The loop looks at its clocks at least this often, to notice that the machine slept.
const LOOK_MS: i64 = 5_000;

enum Message {
    Event(Event),
    Policy(Policy),
    /// The authority's head; the flag says that a stream has just been opened.
    Head(Seq, bool),
    Subscribe(Sender<Status>),
    SubscribeReports(Sender<SyncReport>),
}

/// What both threads look at.
#[derive(Default)]
struct Shared {
    stopped: AtomicBool,
    stream: Mutex<Option<WatchStop>>,
    /// Whether the stream is to be opened, and who waits for that.
    open: (Mutex<bool>, Condvar),
}

impl Shared {
    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    fn open_stream(&self) {
        *lock(&self.open.0) = true;
        self.open.1.notify_all();
    }

    /// Waits until the stream is to be opened; `false` at the end of everything.
    fn wait_to_open(&self) -> bool {
        let mut wanted = lock(&self.open.0);
        while !*wanted && !self.is_stopped() {
            wanted = self.open.1.wait(wanted).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        *wanted = false;
        !self.is_stopped()
    }
}

/// A database that syncs by itself, until this is stopped or dropped.
pub struct SyncHandle {
    db: Database,
    shared: Arc<Shared>,
    to_loop: Sender<Message>,
    threads: Vec<JoinHandle<()>>,
}

impl Database {
    /// Starts syncing in the background: now, after writes (of any process), on wakes from the server, every 15 minutes, and
    /// with growing pauses after failures. One handle per opening.
    pub fn start_sync(&self) -> Result<SyncHandle, Error> {
        // Found out here rather than in a thread nobody looks at. The link itself is made again where it is used.
        watch_link(&self.inner)?;
        if self.inner.hub.has_loop() {
            return Err(Error::Refused("this database syncs in the background already; use the handle that is there".into()));
        }
        let (to_loop, from_all) = channel();
        let shared = Arc::new(Shared::default());
        let wakes = to_loop.clone();
        self.inner.hub.set_loop(Some(Arc::new(move |event| drop(wakes.send(Message::Event(event))))));
        self.start_polling()?;
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            let spawned = std::thread::Builder::new().name(name.into()).spawn(work);
            spawned.map_err(|cause| Error::Io { doing: "starting a thread for", path: self.inner.path.clone(), cause })
        };
        let (db, state, to) = (self.clone(), shared.clone(), to_loop.clone());
        let listening = spawn("syncline-watch", Box::new(move || listen(&db, &state, &to)))?;
        let (db, state) = (self.clone(), shared.clone());
        let looping = spawn("syncline-loop", Box::new(move || Loop::new(db, state).run(&from_all)))?;
        let _ = to_loop.send(Message::Event(Event::Started));
        Ok(SyncHandle { db: self.clone(), shared, to_loop, threads: vec![looping, listening] })
    }
}

impl SyncHandle {
    /// Returns a stream of the status: as it is now, and whenever it changes.
    pub fn status(&self) -> Receiver<Status> {
        let (to, from) = channel();
        let _ = self.to_loop.send(Message::Subscribe(to));
        from
    }

    /// Returns a stream of what each sync did.
    pub fn reports(&self) -> Receiver<SyncReport> {
        let (to, from) = channel();
        let _ = self.to_loop.send(Message::SubscribeReports(to));
        from
    }

    /// Asks for a sync at once, whatever the backoff.
    pub fn sync_now(&self) {
        let _ = self.to_loop.send(Message::Event(Event::Demand));
    }

    /// Says what the host's network is now. A network that has come ends a backoff, unless the server asked for time.
    pub fn network(&self, network: Network) {
        let _ = self.to_loop.send(Message::Event(Event::Network(network)));
    }

    /// Says whether the host's battery is to be spared.
    pub fn battery(&self, low: bool) {
        let _ = self.to_loop.send(Message::Event(Event::Battery { low }));
    }

    /// Says that the app came back to the foreground. Syncs at once, at most every 30 s.
    pub fn resumed(&self) {
        let _ = self.to_loop.send(Message::Event(Event::Resumed));
    }

    /// Says that the host gives the app this much time in the background: syncs at once, and ends before it is over.
    pub fn window(&self, time: Duration) {
        let until_ms = now_ms().saturating_add(i64::try_from(time.as_millis()).unwrap_or(i64::MAX));
        let _ = self.to_loop.send(Message::Event(Event::Window { until_ms }));
    }

    /// Sets what is worth a metered network or a low battery.
    pub fn policy(&self, policy: Policy) {
        let _ = self.to_loop.send(Message::Policy(policy));
    }

    /// Stops and waits for both threads. A request under way is waited for, at most as long as its link's stall.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.db.inner.hub.set_loop(None);
        let _ = self.to_loop.send(Message::Event(Event::Stop));
        if let Some(stream) = lock(&self.shared.stream).take() {
            stream.stop();
        }
        drop(lock(&self.shared.open.0));
        self.shared.open.1.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for SyncHandle {
    fn drop(&mut self) {
        self.end();
    }
}

/// The loop's thread.
struct Loop {
    db: Database,
    shared: Arc<Shared>,
    machine: Machine,
    /// The loop's time, and the monotonic clock's zero.
    ticker: Ticker,
    begun: Instant,
    timer: Option<i64>,
    statuses: Vec<Sender<Status>>,
    reports: Vec<Sender<SyncReport>>,
    last: Option<Status>,
}

impl Loop {
    fn new(db: Database, shared: Arc<Shared>) -> Loop {
        let machine = Machine::new(|| getrandom::u64().unwrap_or(1 << 40));
        let ticker = Ticker::new(now_ms(), 0);
        Loop { db, shared, machine, ticker, begun: Instant::now(), timer: None, statuses: vec![], reports: vec![], last: None }
    }

    fn run(mut self, from: &Receiver<Message>) {
        while !self.shared.is_stopped() {
            let wait_ms = self.timer.map_or(LOOK_MS, |at| at - self.ticker.now_ms()).clamp(0, LOOK_MS);
            let message = from.recv_timeout(Duration::from_millis(wait_ms as u64));
            if self.tick(wait_ms) {
                self.handle(Event::Resumed);
            }
            match message {
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) if self.timer.is_some_and(|at| self.ticker.now_ms() >= at) => self.handle(Event::TimerFired),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.tell_status();
        }
    }

    /// Looks at the clocks; says whether the machine slept, or this process was stopped.
    fn tick(&mut self, asked_ms: i64) -> bool {
        let steady_ms = i64::try_from(self.begun.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.ticker.tick(now_ms(), steady_ms, asked_ms).overslept
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Subscribe(to) => {
                self.statuses.push(to);
                self.last = None;
            }
            Message::SubscribeReports(to) => self.reports.push(to),
            Message::Policy(policy) => self.machine.set_policy(policy),
            Message::Head(seq, first) if !self.is_news(seq, first) => {}
            Message::Head(..) => self.handle(Event::Wake),
            // Written before or during the sync that has just ended, and sent with it.
            Message::Event(Event::LocalWrite { .. }) if !self.has_work() => {}
            Message::Event(Event::Window { until_ms }) => {
                // Said in people's time, kept in the loop's.
                let left_ms = until_ms.saturating_sub(now_ms());
                self.handle(Event::Window { until_ms: self.ticker.now_ms().saturating_add(left_ms) });
            }
            Message::Event(event) => self.handle(event),
        }
    }

    fn handle(&mut self, event: Event) {
        let mut next = Some(event);
        while let Some(event) = next.take() {
            for action in self.machine.handle(self.ticker.now_ms(), event) {
                match action {
                    Action::StartSync => next = Some(self.sync()),
                    Action::SetTimer(at) => self.timer = Some(at),
                    Action::OpenStream => self.shared.open_stream(),
                }
            }
        }
        if let Waiting::Backoff(until, _) = self.machine.waiting() {
            let _ = self.db.inner.note(&[("next_retry_at", &self.ticker.as_wall(until))]);
        }
    }

    fn sync(&mut self) -> Event {
        self.timer = None;
        // Observers of the status see that a sync runs.
        self.tell_status();
        let shared = self.shared.clone();
        let time = self.machine.deadline_ms().map(|until| Duration::from_millis((until - self.ticker.now_ms()).max(0) as u64));
        let report = self.db.sync_until(time.map(|t| Instant::now() + t), || shared.is_stopped(), |_| {});
        // However long it took: that is no oversleeping.
        self.tick(i64::MAX);
        let event = match report.outcome {
            // Out of time, not out of luck: what is left waits for its turn, not for a backoff.
            Outcome::Interrupted => Event::SyncSucceeded,
            _ if report.is_success() => Event::SyncSucceeded,
            _ => Event::SyncFailed { retry_after_ms: report.retry_after_s.map(|s| i64::try_from(s).unwrap_or(i64::MAX).saturating_mul(1000)) },
        };
        self.reports.retain(|to| to.send(report.clone()).is_ok());
        event
    }

    /// Whether the authority is elsewhere than this device. Behind it is news only of a new stream: a server put back.
    fn is_news(&self, seq: Seq, first: bool) -> bool {
        match self.db.inner.cursor() {
            Ok(cursor) => seq > cursor || (first && seq != cursor),
            Err(_) => true,
        }
    }

    fn has_work(&self) -> bool {
        let sql = "SELECT EXISTS (SELECT 1 FROM _syncline_log) OR EXISTS (SELECT 1 FROM _syncline_row r INDEXED BY _syncline_row_pending
                     WHERE r.scope = 1 AND r.pend IS NOT NULL AND NOT EXISTS
                       (SELECT 1 FROM _syncline_parked p WHERE p.scope = r.scope AND p.tbl = r.tbl AND p.key = r.key))";
        let found = self.db.inner.read(|conn| conn.prepare_cached(sql).and_then(|mut q| q.query_row([], |r| r.get(0))).doing("looking for work"));
        found.unwrap_or(true)
    }

    fn tell_status(&mut self) {
        if self.statuses.is_empty() {
            return;
        }
        let Ok(status) = self.db.status() else { return };
        if self.last.as_ref() != Some(&status) {
            self.statuses.retain(|to| to.send(status.clone()).is_ok());
            self.last = Some(status);
        }
    }
}

/// Reads the stream of wakes, whenever it is to be opened, until it ends.
fn listen(db: &Database, shared: &Shared, to_loop: &Sender<Message>) {
    while shared.wait_to_open() {
        let stream = watch_link(&db.inner).and_then(|mut link| Ok(link.watch()?));
        if let Ok(stream) = stream {
            *lock(&shared.stream) = Some(stream.stopper());
            // `stop` may have come before there was anything to stop.
            if shared.is_stopped() {
                return;
            }
            let _ = to_loop.send(Message::Event(Event::StreamUp));
            let mut first = true;
            for event in stream {
                match event {
                    Ok(WatchEvent::Scope { seq, .. }) => {
                        let _ = to_loop.send(Message::Head(seq, first));
                        first = false;
                    }
                    Ok(WatchEvent::Heartbeat) => {}
                    Err(_) => break,
                }
            }
            *lock(&shared.stream) = None;
        }
        if to_loop.send(Message::Event(Event::StreamDown)).is_err() {
            return;
        }
    }
}
