//! The authority's engine: one writer thread with group commit, and readers on snapshots beside it.
//!
//! Blocking; knows neither HTTP nor async. A queue of closures gives order where a pool of writers would give SQLITE_BUSY.
//! Small jobs go together into one durable commit and before large ones, so that somebody's bulk load does not stall others.

use crate::accounts::{self, Caller, DeviceInfo};
use crate::api_error::ApiError;
use crate::ask::Ask;
use crate::authority::{Authority, enrol, look_at_request, may_see, note_pull, read_request, respond, take_schema, write_request};
use crate::commit::{absorb_foreign, chain_at};
use crate::issuer::Vouched;
use crate::members;
use crate::push_token::{self, WakeCall, Woken};
use crate::whole;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use syncline_core::{Cursor, DeviceId, EnrolRequest, EnrolResponse, HistoryId, Limits, Schema, ScopeId, Seq, SyncRequest, SyncResponse};
use syncline_replica::{Env, Error, Reading, Replica, Translation, Trouble, Tx};
use tokio::sync::broadcast;

/// A push of at most this many rows is small: it shares a commit with others and goes before large ones.
const SMALL_ROWS: usize = 200;
/// The most small jobs in one commit.
const GROUP_MAX: usize = 256;
/// How often the database is looked at for writes of other programs.
const FOREIGN_POLL: Duration = Duration::from_millis(200);
/// How often a stream's rights are read again although nothing has changed them: members that somebody wrote past the engine.
const RECHECK: Duration = Duration::from_secs(60);
/// Wakes that a slow stream may fall behind before it reads its heads anew.
const WAKES: usize = 4_096;

/// Why an authority does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be used.
    #[error("opening {0}: {1}; name a directory that exists and that this user may write")]
    Directory(String, std::io::Error),
    /// Another process serves it.
    #[error("{0} is being served by another process; stop that one first")]
    InUse(String),
    /// The database cannot be opened.
    #[error("opening {0}: {1}")]
    Database(String, String),
    /// The URL of a database is none, or asks for what is not there.
    #[error("{0}; a database is named as postgres://USER:PASSWORD@HOST:PORT/NAME")]
    Url(String),
    /// SQLite cannot read or write the database.
    #[error("opening {0}: {1}{hint}; if this is not a database of Syncline, name another directory", hint = Trouble::of(.1).hint())]
    Sqlite(String, rusqlite::Error),
    /// The database opens, but not as an authority's.
    #[error("opening {0}: {1}")]
    Authority(String, ApiError),
    /// What is in it does not fit together.
    #[error(
        "{0} will not be served: {1}. It looks like a partial restore: put back all of the directory from one backup, or `syncline admin restore --data DIR --from BACKUP`"
    )]
    Damaged(String, String),
}

/// Heads of a caller's scopes, and what is told after each commit.
pub struct Watch {
    /// Where the caller's scopes are now.
    pub heads: Vec<(ScopeId, Seq)>,
    /// Every scope's new head after each commit; not only the caller's.
    pub changes: broadcast::Receiver<(ScopeId, Seq)>,
    /// Changes whenever anybody's rights may have, where the store can tell: the heads are to be read again soon.
    pub rights: Option<tokio::sync::watch::Receiver<u64>>,
    /// How often they are to be read again in any case.
    pub recheck: Duration,
}

type Reply = Box<dyn FnOnce(Result<(), ApiError>) + Send>;
type Work = Box<dyn FnOnce(&mut Tx, &mut Vec<(ScopeId, Seq)>) -> Reply + Send>;

struct Job {
    large: bool,
    work: Work,
}

/// The authority's engine: blocking, shared by all requests.
pub struct Engine {
    path: PathBuf,
    history: HistoryId,
    limits: Limits,
    jobs: Option<Sender<Job>>,
    writer: Option<JoinHandle<()>>,
    readers: Mutex<Vec<(u64, Replica)>>,
    schema: AtomicU64,
    wakes: broadcast::Sender<(ScopeId, Seq)>,
    /// Nobody else writes accounts, devices and members while this serves, so their changes need not be looked for.
    rights: tokio::sync::watch::Sender<u64>,
    served: Arc<Served>,
    devices: accounts::Seen,
    _lock: File,
}

/// What devices were handed and the database does not say yet. For the operator's eyes, so it is written when there is time.
#[derive(Default)]
struct Served(Mutex<HashMap<(DeviceId, ScopeId), Seq>>);

impl Served {
    fn note(&self, device: DeviceId, handed: Vec<(ScopeId, Seq)>) {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.extend(handed.into_iter().map(|(scope, seq)| ((device, scope), seq)));
    }
    /// Returns what writes it all down, if there is anything.
    fn job(&self) -> Option<Job> {
        let taken = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if taken.is_empty() {
            return None;
        }
        let work: Work = Box::new(move |tx, _| {
            let done = tx.savepoint(|tx| taken.iter().try_for_each(|((device, scope), seq)| accounts::served(tx.conn, *device, scope, *seq)));
            Box::new(move |committed| {
                if let Err(e) = committed.and(done) {
                    tracing::warn!("noting what devices were handed: {e}");
                }
            })
        });
        Some(Job { large: false, work })
    }
}

/// Returns up to where an answer hands out scopes: those whose delta it completes.
pub(crate) fn handed_out(response: &SyncResponse) -> Vec<(ScopeId, Seq)> {
    let deltas = response.scopes.iter().filter_map(|s| s.delta.as_ref().filter(|d| d.next.is_none()).map(|d| (s.scope.clone(), d.to)));
    deltas.collect()
}

/// Returns this machine's time and randomness.
pub fn system_env() -> Env {
    Env { now_ms: now_ms(), random: Box::new(random) }
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

pub(crate) fn random() -> u64 {
    let mut bytes = [0; 8];
    // Without the system's randomness no id is safe; SQLite's own generator, seeded at start, is what is left.
    if getrandom::fill(&mut bytes).is_err() {
        return std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), now_ms());
    }
    u64::from_be_bytes(bytes)
}

/// Returns what nobody can guess; an authority whose system has no randomness makes no secrets.
pub(crate) fn random_bytes() -> Result<[u8; 32], ApiError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|e| ApiError::Internal(format!("the system gives no randomness: {e}")))?;
    Ok(bytes)
}

impl Engine {
    /// Opens the authority in a directory, making it if it is empty. One engine at a time per directory.
    pub fn open(dir: &Path) -> Result<Engine, OpenError> {
        let shown = dir.display().to_string();
        let at = |e| OpenError::Directory(shown.clone(), e);
        std::fs::create_dir_all(dir).map_err(at)?;
        let lock = File::options().create(true).truncate(false).write(true).open(dir.join("lock")).map_err(at)?;
        if lock.try_lock().is_err() {
            return Err(OpenError::InUse(shown));
        }
        let path = dir.join("server.db");
        let unclean = whole::is_unclean(dir);
        let mut authority = open_authority(&path)?;
        whole::check(&mut authority, dir, unclean).map_err(|e| OpenError::Damaged(shown.clone(), e))?;
        whole::note_opened(&mut authority, dir)?;
        // Those that a server before this one left over.
        authority.replica.conn().execute("DELETE FROM _syncline_stream", []).map_err(|e| OpenError::Sqlite(path.display().to_string(), e))?;
        let (history, limits) = (authority.history(), authority.limits);
        let (jobs, queue) = channel();
        let (wakes, _) = broadcast::channel(WAKES);
        let told = wakes.clone();
        let served = Arc::new(Served::default());
        let handed = served.clone();
        let writer = std::thread::Builder::new()
            .name("syncline-writer".into())
            .spawn(move || write_loop(authority.replica, &queue, &told, &handed))
            .map_err(|e| OpenError::Directory(shown.clone(), e))?;
        Ok(Engine {
            path,
            history,
            limits,
            jobs: Some(jobs),
            writer: Some(writer),
            readers: Mutex::new(Vec::new()),
            schema: AtomicU64::new(0),
            wakes,
            rights: tokio::sync::watch::Sender::new(0),
            served,
            devices: accounts::Seen::default(),
            _lock: lock,
        })
    }

    /// Returns the history that this authority lives.
    pub fn history(&self) -> HistoryId {
        self.history
    }
    /// Returns what a peer may send.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Returns the directory for parts of large pushes.
    pub fn parts_dir(&self) -> PathBuf {
        self.path.with_file_name("parts")
    }

    /// Returns whose bearer it is.
    pub fn authenticate(&self, bearer: &str) -> Result<Caller, ApiError> {
        let history = self.history;
        self.read(|tx| accounts::authenticate(tx.conn, &self.devices, bearer, history, tx.env.now_ms))
    }

    /// Returns whose bearer it is, if that is known without asking the database. Only for `sync`, whose first statement asks whether the
    /// device was revoked.
    pub fn known_caller(&self, bearer: &str) -> Option<Caller> {
        self.devices.caller(bearer, self.history, now_ms())
    }

    /// Enrols a device.
    pub fn enrol(&self, request: EnrolRequest) -> Result<EnrolResponse, ApiError> {
        let history = self.history;
        let answer = self.write(true, move |tx, _| enrol(tx, &request, history))?;
        // Readers know tables by heart; those that were opened before must learn the new ones.
        self.schema.fetch_add(1, Ordering::SeqCst);
        Ok(answer)
    }

    /// Takes a device's newer schema: adds what the authority lacks, never takes any away; returns the authority's afterwards.
    pub fn push_schema(&self, _: &Caller, schema: Schema) -> Result<Schema, ApiError> {
        let answer = self.write(true, move |tx, _| {
            if tx.meta::<i64>("schema_push")? == Some(0) {
                return Err(ApiError::Forbidden("the operator takes schemas himself; ask for the change".into()));
            }
            take_schema(tx, &schema)?;
            Ok(tx.schema()?)
        })?;
        self.schema.fetch_add(1, Ordering::SeqCst);
        Ok(answer)
    }

    /// Demands a least schema version of devices from now on; 0 for none.
    pub fn demand_schema_version(&self, version: u64) -> Result<(), ApiError> {
        self.write(false, move |tx, _| Ok(tx.set_meta("demanded_schema_version", version as i64)?))
    }

    /// Commits what is pushed and reads what has changed.
    pub fn sync(&self, caller: &Caller, request: SyncRequest) -> Result<SyncResponse, ApiError> {
        let response = self.answer(caller, request)?;
        self.served.note(caller.device_id, handed_out(&response));
        Ok(response)
    }

    fn answer(&self, caller: &Caller, request: SyncRequest) -> Result<SyncResponse, ApiError> {
        if request.scopes.iter().all(|s| s.push.is_none()) {
            return self.pull(caller, &request);
        }
        let (history, limits) = (self.history, self.limits);
        let large = request.scopes.iter().filter_map(|s| s.push.as_ref()).any(|p| p.rows.rows.len() > SMALL_ROWS);
        let asker = caller.clone();
        let (request, written) = self.write(large, move |tx, moved| {
            accounts::check_device(tx.conn, asker.device_id)?;
            let mut written = write_request(tx, &asker, &request, history, &limits)?;
            moved.append(&mut written.moved);
            Ok((request, written))
        })?;
        self.read(|tx| {
            let answers = read_request(tx, &request, written.scopes, &limits)?;
            respond(tx, caller, history, &request, answers)
        })
    }

    /// Answers a request without a push from a snapshot: it waits for no commit, neither its own nor somebody's bulk load.
    fn pull(&self, caller: &Caller, request: &SyncRequest) -> Result<SyncResponse, ApiError> {
        let (history, limits, device) = (self.history, self.limits, caller.device_id);
        self.absorb()?;
        let (response, applied) = self.read(|tx| {
            accounts::check_device(tx.conn, device)?;
            let looked = look_at_request(tx, caller, request, history)?;
            let same_past = request.scopes.iter().zip(&looked.scopes).filter(|(_, (_, looked))| looked.is_ok());
            let applied: Vec<(ScopeId, Seq)> = same_past.filter_map(|(asked, (scope, _))| Some((scope.id.clone(), asked.cursor?.seq))).collect();
            let answers = read_request(tx, request, looked.scopes, &limits)?;
            Ok((respond(tx, caller, history, request, answers)?, applied))
        })?;
        let work: Work = Box::new(move |tx, _| {
            let done = tx.savepoint(|tx| note_pull(tx, device, &applied));
            Box::new(move |committed| {
                if let Err(e) = committed.and(done) {
                    tracing::warn!("noting what a device has applied: {e}");
                }
            })
        });
        // A server that is stopping notes it with the device's next request.
        let _ = self.jobs.as_ref().map(|jobs| jobs.send(Job { large: false, work }));
        Ok(response)
    }

    /// Reads changes as JSON: whole bundles, about `limit` rows.
    pub fn changes(&self, caller: &Caller, scope: &ScopeId, cursor: Option<Cursor>, limit: usize) -> Result<serde_json::Value, ApiError> {
        let history = self.history;
        self.absorb()?;
        self.read(|tx| {
            let (scope, _) = may_see(tx, caller, scope)?;
            let from = cursor.map_or(Seq(0), |c| c.seq);
            if let Some(c) = cursor
                && (c.history != history || chain_at(tx, &scope, c.seq)? != Some(c.chain))
            {
                return Err(ApiError::HistoryChanged("the cursor is not of this server's past; read again from the beginning".into()));
            }
            let head = tx.head(scope.n)?;
            let to: Option<i64> = tx
                .conn
                .prepare_cached("SELECT seq FROM _syncline_row WHERE scope = ?1 AND seq > ?2 ORDER BY seq LIMIT 1 OFFSET ?3")?
                .query_row(params![scope.n, from.0 as i64, limit.clamp(1, 10_000) as i64 - 1], |r| r.get(0))
                .optional()?;
            let to = to.map_or(head, |n| Seq(n as u64));
            let reading = Reading { from, after: None, bytes: usize::MAX, skip_gravestones_to: Seq(0), own: None, to };
            let mut rows = tx.read_page(&scope, &reading)?.rows;
            let translation = Translation::new(tx, &rows)?;
            let mut changes = Vec::with_capacity(rows.rows.len());
            for i in 0..rows.rows.len() {
                let (table, row) = translation.open(&mut rows, i)?;
                let deleted = row.state.is_dead();
                changes.push(serde_json::json!({
                    "table": table.def.name,
                    "key": table.key_object(&row.key),
                    "op": if deleted { "delete" } else { "upsert" },
                    "row": (!deleted).then(|| table.row_object(&row.key, &row.state)),
                    "row_version": row.seq,
                    "created_seq": row.created,
                }));
            }
            let chain = chain_at(tx, &scope, to)?.ok_or_else(|| Error::Damaged("the chain has a gap".into()))?;
            let next = crate::http::cursor_text(Cursor { history, seq: to, chain });
            Ok(serde_json::json!({ "changes": changes, "next_cursor": next, "stable_bundle_seq": to, "complete": to == head }))
        })
    }

    /// Lists the devices of the caller's account.
    pub fn devices(&self, caller: &Caller) -> Result<Vec<DeviceInfo>, ApiError> {
        self.read(|tx| accounts::devices(tx.conn, Some(&caller.account)))
    }

    /// Revokes a device of the caller's account.
    pub fn revoke(&self, caller: &Caller, device: DeviceId) -> Result<(), ApiError> {
        let account = caller.account.clone();
        let seal_key = random_bytes()?;
        self.write(false, move |tx, _| accounts::revoke(tx.conn, Some(&account), device, seal_key, tx.env.now_ms))?;
        self.rights.send_modify(|n| *n += 1);
        Ok(())
    }

    /// Takes an issuer's token, found genuine, as an enrolment token for one device.
    pub fn vouch(&self, token: &str, vouched: Vouched) -> Result<(), ApiError> {
        let token = token.to_owned();
        self.write(false, move |tx, _| accounts::vouch(tx.conn, &token, &vouched, tx.env.now_ms))
    }

    /// Lists whom to wake through the push gateway.
    pub fn to_wake(&self) -> Result<Vec<WakeCall>, ApiError> {
        self.read(|tx| push_token::to_wake(tx.conn, tx.env.now_ms))
    }

    /// Notes what became of a call to the push gateway.
    pub fn woken(&self, call: WakeCall, how: Woken) -> Result<(), ApiError> {
        self.write(false, move |tx, _| push_token::woken(tx.conn, &call, how))
    }

    /// Answers what a device asks about its account beside syncing. `key` is the request's `Idempotency-Key`.
    pub fn ask(&self, caller: &Caller, what: Ask, key: Option<String>) -> Result<serde_json::Value, ApiError> {
        let caller = caller.clone();
        if what.reads_only() {
            return self.read(|tx| what.answer(tx.conn, &caller, [0; 32], tx.env.now_ms));
        }
        let moves_rights = what.moves_rights();
        let answer = self.write(false, move |tx, _| {
            let random = random_bytes()?;
            let secret = match tx.meta::<[u8; 32]>("seed_secret")? {
                Some(secret) => secret,
                None => {
                    tx.set_meta("seed_secret", &random[..])?;
                    random
                }
            };
            let seed = what.seed(&caller, key.as_deref(), &secret, random_bytes()?);
            what.answer(tx.conn, &caller, seed, tx.env.now_ms)
        })?;
        if moves_rights {
            self.rights.send_modify(|n| *n += 1);
        }
        Ok(answer)
    }

    /// Returns the heads of the caller's scopes, and a receiver that is told (scope, seq) after each commit. Refuses a revoked device.
    pub fn watch(&self, caller: &Caller) -> Result<Watch, ApiError> {
        // Subscribe first: a commit between the two is told twice rather than never.
        let (changes, rights) = (self.wakes.subscribe(), Some(self.rights.subscribe()));
        let heads = self.read(|tx| {
            accounts::check_device(tx.conn, caller.device_id)?;
            let mut heads = Vec::new();
            for (scope, _) in members::scopes_of(tx.conn, &caller.account)? {
                let (scope, _) = may_see(tx, caller, &scope)?;
                heads.push((scope.id.clone(), tx.head(scope.n)?));
            }
            Ok(heads)
        })?;
        Ok(Watch { heads, changes, rights, recheck: RECHECK })
    }

    /// Gives what others wrote straight into the tables its number, if there is any.
    fn absorb(&self) -> Result<(), ApiError> {
        let captured = self.read(|tx| Ok(tx.conn.query_row("SELECT EXISTS (SELECT 1 FROM _syncline_log)", [], |r| r.get::<_, bool>(0))?))?;
        if captured { self.write(false, absorb_job) } else { Ok(()) }
    }

    /// Runs `work` on the writer thread; returns once it is durable, or undone.
    fn write<T: Send + 'static>(
        &self,
        large: bool,
        work: impl FnOnce(&mut Tx, &mut Vec<(ScopeId, Seq)>) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let (sender, receiver): (SyncSender<Result<T, ApiError>>, _) = sync_channel(1);
        let work: Work = Box::new(move |tx, moved| {
            let before = moved.len();
            let done = tx.savepoint(|tx| work(tx, moved));
            if done.is_err() {
                moved.truncate(before);
            }
            Box::new(move |committed| {
                // Nobody waits any more if the request was dropped.
                let _ = sender.send(committed.and(done));
            })
        });
        let gone = || ApiError::Unavailable("the server is stopping".into());
        self.jobs.as_ref().ok_or_else(gone)?.send(Job { large, work }).map_err(|_| gone())?;
        receiver.recv().map_err(|_| gone())?
    }

    /// Runs `work` in a read snapshot.
    fn read<T>(&self, work: impl FnOnce(&mut Tx) -> Result<T, ApiError>) -> Result<T, ApiError> {
        let schema = self.schema.load(Ordering::SeqCst);
        let pooled = {
            let mut pool = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
            pool.retain(|r| r.0 == schema);
            pool.pop()
        };
        let mut replica = match pooled {
            Some((_, replica)) => replica,
            None => {
                let conn = Connection::open_with_flags(&self.path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
                Replica::open(conn)?
            }
        };
        let answer = replica.read(&mut system_env(), |tx| Ok(work(tx)))?;
        self.readers.lock().unwrap_or_else(PoisonError::into_inner).push((schema, replica));
        answer
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

fn open_authority(path: &Path) -> Result<Authority, OpenError> {
    let shown = || path.display().to_string();
    let conn = Connection::open(path).map_err(|e| OpenError::Sqlite(shown(), e))?;
    let mode = conn.query_row("PRAGMA journal_mode = WAL", [], |r| r.get::<_, String>(0));
    mode.map_err(|e| OpenError::Sqlite(shown(), e))?;
    Authority::open(conn, &mut system_env()).map_err(|e| OpenError::Authority(shown(), e))
}

fn absorb_job(tx: &mut Tx, moved: &mut Vec<(ScopeId, Seq)>) -> Result<(), ApiError> {
    tx.verify_capture()?;
    moved.extend(absorb_foreign(tx)?.into_iter().map(|(s, n)| (s.id, n)));
    Ok(())
}

/// The writer thread: takes what has queued up, writes it in one transaction, commits, answers, wakes.
fn write_loop(mut replica: Replica, queue: &Receiver<Job>, wakes: &broadcast::Sender<(ScopeId, Seq)>, served: &Served) {
    let mut waiting: VecDeque<Job> = VecDeque::new();
    let mut seen = data_version(&replica);
    loop {
        if waiting.is_empty() {
            match queue.recv_timeout(FOREIGN_POLL) {
                Ok(job) => waiting.push_back(job),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    waiting.extend(served.job());
                    let now = data_version(&replica);
                    if now == seen && waiting.is_empty() {
                        continue;
                    }
                    seen = now;
                    waiting.push_back(Job {
                        large: false,
                        work: Box::new(|tx, moved| {
                            let done = tx.savepoint(|tx| absorb_job(tx, moved));
                            Box::new(move |committed| {
                                if let Err(e) = committed.and(done) {
                                    tracing::error!("taking in what others wrote: {e}");
                                }
                            })
                        }),
                    });
                }
            }
        }
        waiting.extend(queue.try_iter());
        let group = next_group(&mut waiting);
        run_group(&mut replica, group, wakes);
    }
}

fn data_version(replica: &Replica) -> i64 {
    replica.conn().query_row("PRAGMA data_version", [], |r| r.get(0)).unwrap_or(-1)
}

/// Takes all small jobs, or else one large one.
fn next_group(waiting: &mut VecDeque<Job>) -> Vec<Job> {
    let mut group = Vec::new();
    let mut rest = VecDeque::with_capacity(waiting.len());
    for job in waiting.drain(..) {
        if !job.large && group.len() < GROUP_MAX { group.push(job) } else { rest.push_back(job) }
    }
    if group.is_empty() {
        group.extend(rest.pop_front());
    }
    *waiting = rest;
    group
}

fn run_group(replica: &mut Replica, group: Vec<Job>, wakes: &broadcast::Sender<(ScopeId, Seq)>) {
    let mut moved = Vec::new();
    let mut replies = Vec::with_capacity(group.len());
    let committed = replica.transact(&mut system_env(), |tx| {
        for job in group {
            replies.push((job.work)(tx, &mut moved));
        }
        Ok(())
    });
    let committed = committed.map_err(ApiError::from);
    for reply in replies {
        reply(committed.clone());
    }
    if committed.is_ok() {
        for (scope, seq) in moved {
            // No stream is open: nobody to wake.
            let _ = wakes.send((scope, seq));
        }
    }
}
