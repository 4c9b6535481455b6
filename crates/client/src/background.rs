//! Syncing in the background: one thread that drives the machine and syncs, one that listens for wakes.
//!
//! A write of the app goes straight from its commit into the loop's queue, and a wake straight from the stream: nothing sleeps on
//! either way. Both threads end with `stop`, or when the handle is dropped.

use crate::database::{Database, lock, now_ms};
use crate::error::{Doing, Error};
use crate::link::{WatchEvent, WatchStop};
use crate::machine::{Action, Event, Machine, Waiting};
use crate::status::Status;
use crate::sync::{SyncReport, watch_link};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use syncline_core::Seq;

/// The stream of wakes is opened again after this long, doubling up to the second.
const STREAM_AGAIN: Duration = Duration::from_millis(500);
const STREAM_AGAIN_MAX: Duration = Duration::from_secs(30);

enum Message {
    Event(Event),
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
    pause: (Mutex<()>, Condvar),
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

    /// Says whether the host has a network.
    pub fn network(&self, is_up: bool) {
        let _ = self.to_loop.send(Message::Event(if is_up { Event::NetworkUp } else { Event::NetworkDown }));
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
        self.shared.pause.1.notify_all();
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
    timer: Option<i64>,
    statuses: Vec<Sender<Status>>,
    reports: Vec<Sender<SyncReport>>,
    last: Option<Status>,
}

impl Loop {
    fn new(db: Database, shared: Arc<Shared>) -> Loop {
        let machine = Machine::new(|| getrandom::u64().unwrap_or(1 << 40));
        Loop { db, shared, machine, timer: None, statuses: vec![], reports: vec![], last: None }
    }

    fn run(mut self, from: &Receiver<Message>) {
        while !self.shared.stopped.load(Ordering::SeqCst) {
            let wait = self.timer.map_or(Duration::from_secs(3600), |at| Duration::from_millis((at - now_ms()).max(0) as u64));
            let message = match from.recv_timeout(wait) {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout) => Message::Event(Event::TimerFired),
                Err(RecvTimeoutError::Disconnected) => return,
            };
            match message {
                Message::Subscribe(to) => {
                    self.statuses.push(to);
                    self.last = None;
                }
                Message::SubscribeReports(to) => self.reports.push(to),
                Message::Head(seq, first) if !self.is_news(seq, first) => {}
                Message::Head(..) => self.handle(Event::Wake),
                // Written before or during the sync that has just ended, and sent with it.
                Message::Event(Event::LocalWrite { .. }) if !self.has_work() => {}
                Message::Event(event) => self.handle(event),
            }
            self.tell_status();
        }
    }

    fn handle(&mut self, event: Event) {
        let mut next = Some(event);
        while let Some(event) = next.take() {
            for action in self.machine.handle(now_ms(), event) {
                match action {
                    Action::StartSync => next = Some(self.sync()),
                    Action::SetTimer(at) => self.timer = Some(at),
                    Action::Nothing => {}
                }
            }
        }
        let retry = match self.machine.waiting() {
            Waiting::Backoff(until, _) => Some(until),
            _ => None,
        };
        if retry.is_some() {
            let _ = self.db.inner.note(&[("next_retry_at", &retry)]);
        }
    }

    fn sync(&mut self) -> Event {
        let stopped = || self.shared.stopped.load(Ordering::SeqCst);
        let report = self.db.sync_until(stopped, |_| {});
        let event = if report.is_success() {
            Event::SyncSucceeded
        } else {
            Event::SyncFailed { retry_after_ms: report.retry_after_s.map(|s| (s as i64).saturating_mul(1000)) }
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

/// Reads the stream of wakes, and opens it again whenever it ends.
fn listen(db: &Database, shared: &Shared, to_loop: &Sender<Message>) {
    let mut pause = STREAM_AGAIN;
    while !shared.stopped.load(Ordering::SeqCst) {
        let stream = watch_link(&db.inner).and_then(|mut link| Ok(link.watch()?));
        if let Ok(stream) = stream {
            *lock(&shared.stream) = Some(stream.stopper());
            // `stop` may have come before there was anything to stop.
            if shared.stopped.load(Ordering::SeqCst) {
                return;
            }
            pause = STREAM_AGAIN;
            if to_loop.send(Message::Event(Event::NetworkUp)).is_err() {
                return;
            }
            let mut first = true;
            for event in stream {
                match event {
                    Ok(WatchEvent::Scope { seq, .. }) => {
                        if to_loop.send(Message::Head(seq, first)).is_err() {
                            return;
                        }
                        first = false;
                    }
                    Ok(WatchEvent::Heartbeat) => {}
                    Err(_) => break,
                }
            }
            *lock(&shared.stream) = None;
        }
        let guard = lock(&shared.pause.0);
        if !shared.stopped.load(Ordering::SeqCst) {
            // Half of it at random, so that a server that comes back is not met by all streams at once.
            let half = pause.as_millis() as u64 / 2;
            let jitter = getrandom::u64().unwrap_or(0) % (half + 1);
            drop(shared.pause.1.wait_timeout(guard, Duration::from_millis(half + jitter)));
        }
        pause = (pause * 2).min(STREAM_AGAIN_MAX);
    }
}
