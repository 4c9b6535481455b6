//! One sync over HTTP: who may, what to send, what an answer did, and what is noted of it.
//!
//! `Session` decides, this carries. The replica is lent out only for the two ends of a request, never while it travels, so that
//! the app's status, conflicts and pending rows can be read meanwhile.

use crate::anchor::{self, Standing, meta};
use crate::database::{Database, Inner, SyncSide, now_ms};
use crate::error::Error;
use crate::event::SyncEvent;
use crate::identity::Identity;
use crate::link::{Exchange, HttpLink, LinkError};
use crate::lock as file_lock;
use crate::session::{Session, Step, Summary};
use crate::status::LastError;
use crate::upload::Upload;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::TryLockError;
use std::time::{Duration, Instant};
use syncline_core::{DeviceId, HistoryId, Limits, PageRequest, ScopeRequest, SyncRequest, SyncResponse};
use syncline_replica::Tx;
use syncline_replica::scopes::BARRED;

/// Clocks that are further apart than this are corrected for.
const CLOCK_TOLERANCE_MS: i64 = 5 * 60 * 1000;
/// A page is never asked for in fewer bytes than a quarter of this.
const PAGE_BYTES_MIN: usize = 64 * 1024;

/// What became of a sync.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Everything is confirmed and up to date.
    #[default]
    Synced,
    /// Done, but something waits for a decision.
    NeedsAttention,
    /// The server cannot be reached, or cannot serve now. Work is kept.
    Offline,
    /// Another process is syncing. Work is kept.
    Busy,
    /// The time given was over; the next sync goes on where this one was.
    Interrupted,
    /// The server refuses this device, or the device has no key.
    Refused,
    /// The file is damaged.
    Damaged,
    /// Something else went wrong.
    Failed,
}

/// What a sync did. What failed did no harm.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncReport {
    /// In one word.
    pub outcome: Outcome,
    /// Rows of ours that the authority has committed.
    pub rows_up: u64,
    /// Business rows that came, deletions included, without our own.
    pub rows_down: u64,
    /// How far this device has applied.
    pub bundle_seq: u64,
    /// Whether everything was read anew.
    pub hydrate: bool,
    /// Rows that wait for a decision now.
    pub parked: u64,
    /// Rows that are not confirmed now, parked ones included.
    pub pending: u64,
    /// Rounds in which rows were refused, plus one.
    pub rounds: u32,
    /// Requests sent.
    pub requests: u32,
    /// How long it took.
    pub duration_ms: u64,
    /// Bytes sent, HTTP headers aside.
    pub bytes_up: u64,
    /// Bytes received.
    pub bytes_down: u64,
    /// Things that the owner should know of, in words.
    pub notices: Vec<String>,
    /// Why it did not end well.
    pub error: Option<LastError>,
    /// After how many seconds the server wants to hear from this device again.
    pub retry_after_s: Option<u64>,
    /// As the command line exits: 0 done, 1 failed, 3 offline or busy, 4 waits for a decision, 5 refused, 6 damaged.
    pub exit_code: u8,
}

impl SyncReport {
    /// Whether everything that could be done was done.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
    /// # fn main() -> Result<(), syncline::Error> {
    /// # let (dir, db) = synced_notes();
    /// assert!(db.sync_once(None, |_| {}).is_success());
    /// # Ok(()) }
    /// ```
    pub fn is_success(&self) -> bool {
        matches!(self.outcome, Outcome::Synced | Outcome::NeedsAttention)
    }
}

/// Bytes that travelled.
#[derive(Default)]
pub(crate) struct Traffic {
    pub up: u64,
    pub down: u64,
}

/// When a sync has to end, done or not.
struct Over<'a> {
    until: Option<Instant>,
    is_stopped: &'a dyn Fn() -> bool,
}

impl Over<'_> {
    fn is_over(&self) -> bool {
        (self.is_stopped)() || self.until.is_some_and(|until| Instant::now() >= until)
    }
}

/// How a run of requests ended.
enum Ended {
    Done,
    Interrupted,
}

impl Database {
    /// Syncs once: sends what waits, fetches what is new, until nothing is left or `deadline` is over; a request under
    /// way is given up then. `progress` is called after each answer. Never panics, never loses work; what happened is in the report, in the
    /// ring of events and in the status.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
    /// # fn main() -> Result<(), syncline::Error> {
    /// # let (dir, db) = synced_notes();
    /// use std::time::Duration;
    /// db.write(|tx| tx.execute("INSERT INTO note(id) VALUES('a')", []))?;
    /// let report = db.sync_once(Some(Duration::from_secs(20)), |so_far| println!("{} rows came", so_far.rows_down));
    /// assert_eq!((report.rows_up, report.pending), (1, 0));
    /// # Ok(()) }
    /// ```
    pub fn sync_once(&self, deadline: Option<Duration>, progress: impl FnMut(&Summary)) -> SyncReport {
        self.sync_until(deadline.map(|d| Instant::now() + d), || false, progress)
    }

    /// Syncs until `until` or as soon as `is_stopped` says so; a request that is under way at `until` is given up.
    pub(crate) fn sync_until(&self, until: Option<Instant>, is_stopped: impl Fn() -> bool, mut progress: impl FnMut(&Summary)) -> SyncReport {
        let started = Instant::now();
        let over = Over { until, is_stopped: &is_stopped };
        let mut session = Session::new(Limits::default());
        let mut traffic = Traffic::default();
        let mut notices = Vec::new();
        let ended = self.inner.run(&mut session, &mut traffic, &mut notices, &over, &mut progress);
        let _ = self.inner.wipe_if_due();
        if matches!(ended, Ok(Ended::Done)) && until.is_none_or(|until| until > Instant::now() + Duration::from_secs(10)) {
            self.refresh_devices();
        }
        let report = self.inner.report(started, session.summary(), &traffic, notices, ended);
        // The report says what happened whether or not it can be noted: a full disk must not hide it.
        let _ = self.inner.note_report(&report);
        report
    }
}

impl Inner {
    fn run(
        &self,
        session: &mut Session,
        traffic: &mut Traffic,
        notices: &mut Vec<String>,
        over: &Over,
        progress: &mut impl FnMut(&Summary),
    ) -> Result<Ended, Error> {
        let until = Instant::now() + self.options.lock_wait;
        let mut side = loop {
            match self.sync_side.try_lock() {
                Ok(side) => break side,
                Err(TryLockError::Poisoned(side)) => break side.into_inner(),
                Err(TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
                Err(TryLockError::WouldBlock) => return Err(Error::Busy),
            }
        };
        let side = &mut *side;
        if side.lock.is_none() {
            side.lock = Some(file_lock::open(&self.path)?);
        }
        let SyncSide { lock, link, page_bytes } = side;
        let Some(file) = lock.as_ref() else { return Err(Error::Busy) };
        let _held = file_lock::hold(file, &self.path, self.options.lock_wait)?;
        if self.read(|conn| meta::<i64>(conn, "migrating"))?.is_some() {
            return Err(Error::Migrating);
        }
        let (identity, link) = self.connected(link, notices)?;
        // What this network could carry lately, also in the life of another process.
        let known = match *page_bytes {
            Some(bytes) => Some(bytes),
            None => self.read(|conn| meta::<i64>(conn, "page_bytes"))?.map(|bytes| bytes as usize),
        };
        let most = Limits::default().page_bytes;
        let began = known.unwrap_or(most).clamp(PAGE_BYTES_MIN, most);
        *session = Session::new(Limits { page_bytes: began, ..Limits::default() });
        let done = self.exchange(session, identity, link, traffic, over, progress);
        if let Err(Error::Link(LinkError::Api(body))) = &done
            && body.code == "device_revoked"
            && let Err(e) = self.end_revoked(identity, body, notices)
        {
            notices.push(format!("this device was revoked, and its unsent work could not be sealed: {e}; it is kept, the next sync tries again"));
        }
        let mut ended = session.page_bytes();
        if done.is_ok() && ended == began {
            ended = (ended * 2).min(most);
        }
        *page_bytes = Some(ended);
        if ended != known.unwrap_or(most) {
            let _ = self.note(&[("page_bytes", &(ended as i64))]);
        }
        done
    }

    /// Returns the device's key and link, made anew when the database was attached anew. Here copies and backups are found out.
    fn connected<'a>(&self, kept: &'a mut Option<(Identity, HttpLink)>, notices: &mut Vec<String>) -> Result<(&'a Identity, &'a mut HttpLink), Error> {
        let (device, server, history) =
            self.read(|conn| Ok((meta::<String>(conn, "device_id")?, meta::<String>(conn, "server")?, meta::<String>(conn, "history")?)))?;
        let (Some(device), Some(server)) = (device.as_deref().and_then(DeviceId::parse), server) else { return Err(Error::NotAttached) };
        let fits = kept.as_ref().is_some_and(|(identity, _)| identity.device_id() == device);
        if !fits {
            *kept = None;
            let identity = Identity::load(&self.home()?, device)?.ok_or(Error::NoKey)?;
            match self.read(|conn| anchor::judge(&identity, conn, &self.path))? {
                Standing::Own => {}
                Standing::Copy => return Err(Error::NoKey),
                Standing::PutBack => {
                    self.with(|tx| tx.rotate_source().map(drop))?;
                    notices.push("this database was put back from a backup; it goes on as a fresh source, nothing is lost".into());
                }
            }
            let history = history.as_deref().and_then(HistoryId::parse).unwrap_or_default();
            let link = HttpLink::new(&server, identity.clone(), history, self.options.link.clone())?;
            *kept = Some((identity, link));
        }
        match kept {
            Some((identity, link)) => Ok((identity, link)),
            None => Err(Error::NoKey),
        }
    }

    fn exchange(
        &self,
        session: &mut Session,
        identity: &Identity,
        link: &mut HttpLink,
        traffic: &mut Traffic,
        over: &Over,
        progress: &mut impl FnMut(&Summary),
    ) -> Result<Ended, Error> {
        let (mut restamped, until) = (false, over.until);
        // The answer to a page asked for ahead of time, and whether that is worth it.
        let mut fetched: Option<(SyncRequest, Result<Exchange<SyncResponse>, LinkError>)> = None;
        let mut fetch_ahead = true;
        let (begun, mut staged_before) = (Instant::now(), None);
        // Answers since the link failed last.
        let mut brought = 0;
        let mut upload = Upload::default();
        loop {
            if over.is_over() {
                return Ok(Ended::Interrupted);
            }
            let mut request = self.with_replica(&[], |replica, env| session.next(replica, env))?;
            if let Some(own) = session.own_push(&request) {
                // Before it is sent: a backup of the file that is put back later must be below the anchor.
                anchor::note(identity, &self.path, own.source, own.push.as_ref())?;
            }
            link.set_parts_from(if upload.is_vain() { 0 } else { session.page_bytes() / 4 });
            let answered = match fetched.take() {
                Some((ahead, answered)) if asks_the_same(&ahead, &request) => {
                    request = ahead;
                    answered
                }
                Some((_, answered)) => {
                    // Local writes came between: they go first, and go on coming.
                    fetch_ahead = request.scopes.iter().all(|s| s.push.is_none());
                    if let Ok(exchange) = answered {
                        (traffic.up, traffic.down) = (traffic.up + exchange.bytes_up, traffic.down + exchange.bytes_down);
                    }
                    link.sync_until(&request, until)
                }
                None => link.sync_until(&request, until),
            };
            let exchange = match answered {
                // The host's time is over, whatever the link says of it.
                Err(e) if e.is_network() && over.is_over() => return Ok(Ended::Interrupted),
                Err(e) if e.is_network() => {
                    // The page was too much for this network: what came through before the cut comes through again.
                    let came = link.received();
                    traffic.down += came;
                    session.set_page_bytes((came as usize).clamp(PAGE_BYTES_MIN, (session.page_bytes() / 2).max(PAGE_BYTES_MIN)));
                    // While each connection brings something, the next one is worth it at once.
                    if std::mem::take(&mut brought) == 0 {
                        return Err(e.into());
                    }
                    continue;
                }
                Err(LinkError::Api(body)) if body.code == "clock_ahead" && !restamped => {
                    restamped = true;
                    let server_ms = server_time(body.details.as_deref(), link, &request)?;
                    self.correct_clock(server_ms)?;
                    self.with(|tx| tx.restamp_future(server_ms, server_ms + CLOCK_TOLERANCE_MS).map(drop))?;
                    continue;
                }
                other => other?,
            };
            brought += 1;
            traffic.up += exchange.bytes_up;
            traffic.down += exchange.bytes_down;
            let answer = exchange.answer;
            let ahead = if fetch_ahead { page_after(&request, &answer) } else { None };
            let known = session.summary().changed.len();
            let (taken, answered) = std::thread::scope(|threads| {
                let fetching = ahead.as_ref().map(|ahead| threads.spawn(|| link.sync_until(ahead, until)));
                let taken = self.correct_clock(answer.server_time_ms).and_then(|()| {
                    let step = self.with_replica(&[], |replica, env| session.answer(replica, env, &request, &answer))?;
                    self.tell_applied(&session.summary().changed[known..])?;
                    self.note_history(answer.history)?;
                    Ok(step)
                });
                (taken, fetching.and_then(|thread| thread.join().ok()))
            });
            fetched = ahead.zip(answered);
            let step = taken?;
            self.note_speed(session.summary(), begun, &mut staged_before)?;
            progress(session.summary());
            match link.missing_parts(&answer) {
                Some(missing) => {
                    let is_alone = answer.scopes.iter().all(|scope| scope.delta.as_ref().is_none_or(|delta| delta.next.is_none()));
                    upload.begin(missing)?;
                    loop {
                        session.note_upload(upload.progress());
                        self.note(&[("upload", &upload.told())])?;
                        progress(session.summary());
                        // A delta that comes in pages goes on after each batch.
                        if over.is_over() || !upload.goes_on(link, traffic, until) || !is_alone {
                            break;
                        }
                    }
                }
                None if upload.is_under_way() => {
                    upload.end();
                    session.note_upload(None);
                    self.note(&[("upload", &rusqlite::types::Null)])?;
                }
                None => {}
            }
            if step == Step::Done {
                if !over.is_over() && self.run_resolvers(session)? {
                    continue;
                }
                return Ok(Ended::Done);
            }
        }
    }

    /// Notes how fast rows of a long transfer come, for whoever asks how long it still takes.
    fn note_speed(&self, summary: &Summary, begun: Instant, before: &mut Option<u64>) -> Result<(), Error> {
        let Some((rows, _)) = summary.progress else { return Ok(()) };
        let from = *before.get_or_insert(rows);
        let seconds = begun.elapsed().as_secs_f64();
        if rows > from && seconds > 0.0 { self.note(&[("rows_per_s", &((rows - from) as f64 / seconds))]) } else { Ok(()) }
    }

    /// Keeps by how much this device's clock is wrong, so that what is absorbed next is stamped right.
    pub(crate) fn correct_clock(&self, server_ms: i64) -> Result<(), Error> {
        let off = server_ms - now_ms();
        let shift = if off.abs() > CLOCK_TOLERANCE_MS { off } else { 0 };
        let known = self.read(|conn| meta::<i64>(conn, "clock_shift_ms"))?.unwrap_or(0);
        // A wrong clock drifts by the ms; writing that down with each answer would be a write per answer.
        if (shift - known).abs() > 1_000 || (shift == 0 && known != 0) { self.note(&[("clock_shift_ms", &shift)]) } else { Ok(()) }
    }

    fn note_history(&self, history: HistoryId) -> Result<(), Error> {
        let text = history.to_string();
        if self.read(|conn| meta::<String>(conn, "history"))?.as_deref() == Some(&text) {
            return Ok(());
        }
        self.note(&[("history", &text)])
    }

    fn report(&self, started: Instant, summary: &Summary, traffic: &Traffic, mut notices: Vec<String>, ended: Result<Ended, Error>) -> SyncReport {
        notices.extend(summary.notices.iter().cloned());
        if summary.retries_exhausted {
            notices.push("retries_exhausted: rows were refused, or settled, for five rounds; they wait here, and the next sync tries again".into());
        }
        if summary.digest_differs {
            notices.push("this device and the server differ although they should be equal; run `syncline resync`, pending work is kept".into());
        }
        let mut report = SyncReport {
            rows_up: summary.rows_up,
            rows_down: summary.rows_down,
            bundle_seq: summary.bundle_seq,
            hydrate: summary.hydrate,
            parked: summary.parked,
            pending: summary.pending,
            rounds: summary.rounds,
            requests: summary.requests,
            duration_ms: started.elapsed().as_millis() as u64,
            bytes_up: traffic.up,
            bytes_down: traffic.down,
            notices,
            ..SyncReport::default()
        };
        // A bundle that another process of this device brought, or nothing asked: the file knows how far it is.
        if report.bundle_seq == 0 {
            report.bundle_seq = self.cursor().map_or(0, |c| c.0);
        }
        match ended {
            Ok(Ended::Done) if self.waits_for_decision() => (report.outcome, report.exit_code) = (Outcome::NeedsAttention, 4),
            Ok(Ended::Done) => {}
            Ok(Ended::Interrupted) => {
                (report.outcome, report.exit_code) = (Outcome::Interrupted, 3);
                let message = "the time for this sync was over; the next one goes on where it was".into();
                report.error = Some(LastError { code: "interrupted".into(), message, at: now_ms() });
            }
            Err(e) => {
                report.exit_code = e.exit_code();
                report.outcome = match (report.exit_code, e.code().as_str()) {
                    (3, "busy") => Outcome::Busy,
                    (3, "disk_full") => Outcome::Failed,
                    (3, _) => Outcome::Offline,
                    (5, _) => Outcome::Refused,
                    (6, _) => Outcome::Damaged,
                    _ => Outcome::Failed,
                };
                report.retry_after_s = e.retry_after_s();
                report.error = Some(LastError { code: e.code(), message: e.to_string(), at: now_ms() });
            }
        }
        report
    }

    pub(crate) fn waits_for_decision(&self) -> bool {
        let sql = format!(
            "SELECT EXISTS (SELECT 1 FROM _syncline_parked) OR EXISTS (SELECT 1 FROM _syncline_shelved) OR EXISTS (SELECT 1 FROM _syncline_asked)
               OR EXISTS ({BARRED})"
        );
        self.read(|conn| Ok(conn.query_row(&sql, [], |r| r.get::<_, bool>(0)).unwrap_or(false))).unwrap_or(false)
    }

    fn note_report(&self, report: &SyncReport) -> Result<(), Error> {
        let at = now_ms();
        let oldest = if report.pending == 0 { None } else { self.oldest_pending()? };
        self.note(&[("oldest_pending_at", &oldest)])?;
        if report.is_success() {
            self.note(&[("last_synced_at", &at), ("last_error", &rusqlite::types::Null), ("next_retry_at", &rusqlite::types::Null)])?;
        } else if !matches!(report.outcome, Outcome::Busy | Outcome::Interrupted) {
            let error = report.error.as_ref().and_then(|e| serde_json::to_string(e).ok());
            let retry = report.retry_after_s.map(|s| at + 1000 * s as i64);
            self.note(&[("last_error", &error), ("next_retry_at", &retry)])?;
        }
        if !report.notices.is_empty() {
            let notice = crate::status::Notice { message: report.notices.join("; "), at };
            self.note(&[("last_notice", &serde_json::to_string(&notice).unwrap_or_default())])?;
        }
        self.append_event(&SyncEvent {
            timestamp: at,
            kind: "sync".into(),
            success: report.is_success(),
            outcome: serde_json::to_value(report.outcome).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default(),
            duration_ms: report.duration_ms,
            conflict_count: if report.parked > 0 { BTreeMap::from([("lww".to_owned(), report.parked)]) } else { BTreeMap::new() },
            queued_items: report.pending,
            error_code: report.error.as_ref().map(|e| e.code.clone()),
            bytes_up: report.bytes_up,
            bytes_down: report.bytes_down,
            rows_up: report.rows_up,
            rows_down: report.rows_down,
            requests: report.requests,
            retries: report.rounds.saturating_sub(1),
            oldest_unconfirmed_age_ms: oldest.map(|since| (at - since).max(0)),
            hydrate: report.hydrate,
            notices: report.notices.clone(),
            app_version: self.options.app_version.clone(),
            os: std::env::consts::OS.into(),
            network: "unknown".into(),
        })
    }

    /// Returns when the oldest unconfirmed row was last written, by this device's clock.
    pub(crate) fn oldest_pending(&self) -> Result<Option<i64>, Error> {
        let find = |tx: &mut Tx| {
            let mut oldest = None;
            for scope in tx.scopes()? {
                oldest = [oldest, tx.pending(&scope, 1)?.first().map(|p| p.since)].into_iter().flatten().min();
            }
            Ok(oldest)
        };
        self.with_replica(&[], |replica, env| replica.read(env, find))
    }
}

/// Returns the request for the page behind the one that `answer` brought, as `Session::next` will ask for it unless something is
/// written meanwhile: so the authority reads it while this device stages that one. `None` if there is none, or it would carry work.
fn page_after(request: &SyncRequest, answer: &SyncResponse) -> Option<SyncRequest> {
    let ([asked], [given]) = (&request.scopes[..], &answer.scopes[..]) else { return None };
    let delta = given.delta.as_ref().filter(|_| asked.push.is_none())?;
    let page = PageRequest::behind(asked.page.as_ref(), delta)?;
    let asked = ScopeRequest { page: Some(page), ..asked.clone() };
    let told = answer.members.is_none() && answer.moved.is_empty();
    told.then(|| SyncRequest { schema_wanted: false, scopes: vec![asked], ..request.clone() })
}

/// Whether two requests ask for the same, whatever the time.
fn asks_the_same(a: &SyncRequest, b: &SyncRequest) -> bool {
    SyncRequest { device_time_ms: b.device_time_ms, queued: b.queued, ..a.clone() } == *b
}

/// Returns the authority's time: as its refusal says, or else from a request that asks for nothing.
fn server_time(details: Option<&str>, link: &mut HttpLink, refused: &SyncRequest) -> Result<i64, Error> {
    let said = details.and_then(|d| d.split_whitespace().next()).and_then(|ms| ms.parse().ok());
    match said {
        Some(ms) => Ok(ms),
        None => Ok(link.sync(&SyncRequest { scopes: vec![], ..refused.clone() })?.answer.server_time_ms),
    }
}

/// Returns a link of its own for the stream of wakes.
pub(crate) fn watch_link(inner: &Inner) -> Result<HttpLink, Error> {
    let mut kept = None;
    inner.connected(&mut kept, &mut Vec::new())?;
    kept.map(|(_, link)| link).ok_or(Error::NoKey)
}
