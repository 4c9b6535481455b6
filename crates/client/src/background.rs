//! Syncing in the background: one thread that drives the machine and syncs, one that listens for wakes.
//!
//! A write of the app goes straight from its commit into the loop's queue, and a wake straight from the stream: nothing sleeps on
//! either way. The stream is opened when the machine says so, after a sync that went well. Both threads end with `stop`, or when
//! the handle is dropped.

use crate::database::{Database, lock, now_ms};
use crate::error::{Doing, Error};
use crate::link::{WatchEvent, WatchStop};
use crate::machine::{Event, Machine, Network, Policy};
use crate::pulse::{self, Pulse};
use crate::status::Status;
use crate::sync::{Outcome, SyncReport, watch_link};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use syncline_core::{ScopeId, Seq};

enum Message {
    Event(Event),
    Policy(Policy),
    /// The authority's head of a scope; the flag says that it is the first that a stream says of it.
    Head(ScopeId, Seq, bool),
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
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
/// # fn main() -> Result<(), syncline::Error> {
/// # let (dir, db) = synced_notes();
/// let sync = db.start_sync()?;
/// db.write(|tx| tx.execute("INSERT INTO note(id) VALUES('a')", []))?;
/// let reports = sync.reports();
/// while db.status()?.pending + db.status()?.captured > 0 {
///     reports.recv().unwrap();
/// }
/// sync.stop();
/// # Ok(()) }
/// ```
pub struct SyncHandle {
    db: Database,
    shared: Arc<Shared>,
    to_loop: Sender<Message>,
    threads: Vec<JoinHandle<()>>,
}

impl Database {
    /// Starts syncing in the background: now, after writes (of any process), on wakes from the server, every 15 minutes, and
    /// with growing pauses after failures. One handle per opening.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
    /// # fn main() -> Result<(), syncline::Error> {
    /// # let (dir, db) = synced_notes();
    /// let sync = db.start_sync()?;
    /// assert!(db.start_sync().is_err(), "one is enough");
    /// sync.stop();
    /// # Ok(()) }
    /// ```
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
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
    /// # fn main() -> Result<(), syncline::Error> {
    /// # let (dir, db) = synced_notes();
    /// let sync = db.start_sync()?;
    /// let status = sync.status().recv().unwrap();
    /// println!("{:?}, {} rows wait", status.state, status.pending);
    /// # Ok(()) }
    /// ```
    pub fn status(&self) -> Receiver<Status> {
        let (to, from) = channel();
        let _ = self.to_loop.send(Message::Subscribe(to));
        from
    }

    /// Returns a stream of what each sync did, beginning with the last one if there was one.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
    /// # fn main() -> Result<(), syncline::Error> {
    /// # let (dir, db) = synced_notes();
    /// let sync = db.start_sync()?;
    /// assert!(sync.reports().recv().unwrap().is_success());
    /// # Ok(()) }
    /// ```
    pub fn reports(&self) -> Receiver<SyncReport> {
        let (to, from) = channel();
        let _ = self.to_loop.send(Message::SubscribeReports(to));
        from
    }

    /// Asks for a sync at once, whatever the backoff.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
    /// # fn main() -> Result<(), syncline::Error> {
    /// # let (dir, db) = synced_notes();
    /// let sync = db.start_sync()?;
    /// sync.sync_now(); // pull to refresh
    /// # Ok(()) }
    /// ```
    pub fn sync_now(&self) {
        let _ = self.to_loop.send(Message::Event(Event::Demand));
    }

    /// Says what the host's network is now. A network that has come ends a backoff, unless the server asked for time.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
    /// # fn main() -> Result<(), syncline::Error> {
    /// # let (dir, db) = synced_notes();
    /// use syncline::machine::Network;
    /// let sync = db.start_sync()?;
    /// sync.network(Network::Metered);
    /// sync.network(Network::Unmetered);
    /// # Ok(()) }
    /// ```
    pub fn network(&self, network: Network) {
        let _ = self.to_loop.send(Message::Event(Event::Network(network)));
    }

    /// Says whether the host's battery is to be spared.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
    /// # fn main() -> Result<(), syncline::Error> {
    /// # let (dir, db) = synced_notes();
    /// let sync = db.start_sync()?;
    /// sync.battery(true);
    /// # Ok(()) }
    /// ```
    pub fn battery(&self, low: bool) {
        let _ = self.to_loop.send(Message::Event(Event::Battery { low }));
    }

    /// Says that the app came back to the foreground. Syncs at once, at most every 30 s.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
    /// # fn main() -> Result<(), syncline::Error> {
    /// # let (dir, db) = synced_notes();
    /// let sync = db.start_sync()?;
    /// sync.resumed();
    /// # Ok(()) }
    /// ```
    pub fn resumed(&self) {
        let _ = self.to_loop.send(Message::Event(Event::Resumed));
    }

    /// Says that the host gives the app this much time in the background: syncs at once, and ends before it is over.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
    /// # fn main() -> Result<(), syncline::Error> {
    /// # let (dir, db) = synced_notes();
    /// let sync = db.start_sync()?;
    /// sync.window(std::time::Duration::from_secs(25));
    /// # Ok(()) }
    /// ```
    pub fn window(&self, time: Duration) {
        let until_ms = now_ms().saturating_add(i64::try_from(time.as_millis()).unwrap_or(i64::MAX));
        let _ = self.to_loop.send(Message::Event(Event::Window { until_ms }));
    }

    /// Sets what is worth a metered network or a low battery.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
    /// # fn main() -> Result<(), syncline::Error> {
    /// # let (dir, db) = synced_notes();
    /// use syncline::machine::Policy;
    /// let sync = db.start_sync()?;
    /// sync.policy(Policy::default());
    /// # Ok(()) }
    /// ```
    pub fn policy(&self, policy: Policy) {
        let _ = self.to_loop.send(Message::Policy(policy));
    }

    /// Stops and waits for both threads. A request under way is waited for, at most as long as its link's stall.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
    /// # fn main() -> Result<(), syncline::Error> {
    /// # let (dir, db) = synced_notes();
    /// let sync = db.start_sync()?;
    /// sync.stop();
    /// // The database goes on; only syncing has ended.
    /// db.write(|tx| tx.execute("INSERT INTO note(id) VALUES('a')", []))?;
    /// # Ok(()) }
    /// ```
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
    pulse: Pulse,
    /// The monotonic clock's zero.
    begun: Instant,
    statuses: Vec<Sender<Status>>,
    reports: Vec<Sender<SyncReport>>,
    last: Option<Status>,
    last_report: Option<SyncReport>,
}

impl Loop {
    fn new(db: Database, shared: Arc<Shared>) -> Loop {
        let machine = Machine::new(|| getrandom::u64().unwrap_or(1 << 40));
        let pulse = Pulse::new(machine, now_ms(), 0);
        Loop { db, shared, pulse, begun: Instant::now(), statuses: vec![], reports: vec![], last: None, last_report: None }
    }

    fn run(mut self, from: &Receiver<Message>) {
        while !self.shared.is_stopped() {
            let message = from.recv_timeout(Duration::from_millis(self.pulse.wait_ms() as u64));
            let event = match message {
                Ok(message) => self.event_of(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let todo = self.pulse.wake(now_ms(), self.steady_ms(), event);
            self.work(todo);
            self.tell_status();
        }
    }

    fn steady_ms(&self) -> i64 {
        i64::try_from(self.begun.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    /// Takes a message; returns what it means for the machine, if anything.
    fn event_of(&mut self, message: Message) -> Option<Event> {
        match message {
            Message::Subscribe(to) => {
                self.statuses.push(to);
                self.last = None;
                None
            }
            Message::SubscribeReports(to) => {
                // The first sync may be over before anybody could ask.
                if self.last_report.as_ref().is_none_or(|report| to.send(report.clone()).is_ok()) {
                    self.reports.push(to);
                }
                None
            }
            Message::Policy(policy) => {
                self.pulse.set_policy(policy);
                None
            }
            Message::Head(scope, seq, first) => self.is_news(&scope, seq, first).then_some(Event::Wake),
            // Written before or during the sync that has just ended, and sent with it.
            Message::Event(Event::LocalWrite { .. }) if !self.has_work() => None,
            Message::Event(event) => Some(event),
        }
    }

    fn work(&mut self, todo: Vec<pulse::Doing>) {
        let mut todo = std::collections::VecDeque::from(todo);
        while let Some(next) = todo.pop_front() {
            match next {
                pulse::Doing::OpenStream => self.shared.open_stream(),
                pulse::Doing::Sync => {
                    let event = self.sync();
                    todo.extend(self.pulse.ended(now_ms(), self.steady_ms(), event));
                }
            }
        }
        if let Some(at) = self.pulse.retry_at_ms() {
            let _ = self.db.inner.note(&[("next_retry_at", &at)]);
        }
    }

    fn sync(&mut self) -> Event {
        // Observers of the status see that a sync runs.
        self.tell_status();
        let shared = self.shared.clone();
        let until = self.pulse.time_left_ms().map(|ms| Instant::now() + Duration::from_millis(ms as u64));
        let report = self.db.sync_until(until, || shared.is_stopped(), |_| {});
        let event = match report.outcome {
            // Out of time, not out of luck: what is left waits for its turn, not for a backoff.
            Outcome::Interrupted => Event::SyncSucceeded,
            _ if report.is_success() => Event::SyncSucceeded,
            _ => Event::SyncFailed { retry_after_ms: report.retry_after_s.map(|s| i64::try_from(s).unwrap_or(i64::MAX).saturating_mul(1000)) },
        };
        self.reports.retain(|to| to.send(report.clone()).is_ok());
        self.last_report = Some(report);
        event
    }

    /// Whether the authority is elsewhere than this device. Behind it is news only of a new stream: a server put back. The next
    /// request then asks about the scope; one that this device does not know of yet says that a membership is new.
    fn is_news(&self, scope: &ScopeId, seq: Seq, first: bool) -> bool {
        let inner = &self.db.inner;
        let news = match inner.cursor_of(scope) {
            // At 0 is one that this account is in no more.
            Ok(Some(cursor)) => seq > cursor || ((first || seq.0 == 0) && seq != cursor),
            _ => true,
        };
        if news {
            // Without it the sync finds out in one request more.
            let _ = inner.note_moved(scope, seq);
        }
        news
    }

    fn has_work(&self) -> bool {
        let sql = "SELECT EXISTS (SELECT 1 FROM _syncline_log) OR EXISTS (SELECT 1 FROM _syncline_row r INDEXED BY _syncline_row_pending
                     WHERE r.scope IN (SELECT n FROM _syncline_scope WHERE n = 1 OR role IS NOT NULL) AND r.pend IS NOT NULL AND NOT EXISTS
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
            let mut told = std::collections::HashSet::new();
            for event in stream {
                match event {
                    Ok(WatchEvent::Scope { scope, seq }) => {
                        let first = told.insert(scope.clone());
                        let _ = to_loop.send(Message::Head(scope, seq, first));
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
