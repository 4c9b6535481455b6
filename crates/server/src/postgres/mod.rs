//! The authority over PostgreSQL: real tables beside a sidecar (schema `syncline`), any number of servers, any SQL client.
//!
//! The same answers as the embedded store's (docs/protocol.md). One transaction per commit; the scope row's lock orders the
//! commits of a scope and nothing orders those of different scopes. No state of a session outlives a transaction. Blocking
//! at its edge, like the embedded engine: a runtime of its own carries the connections.

mod absorb;
pub mod accounts;
pub mod admin;
mod adopt;
mod catalog;
mod collect;
mod commit;
mod db;
mod ddl;
mod diagnose;
mod doctor;
mod expr;
mod home;
mod journal;
pub mod members;
mod migrate;
mod own;
mod pull;
mod push;
mod push_token;
mod registry;
mod rows;
mod schema;
mod scope;
mod sharing;
mod tls;
mod translate;
mod types;
mod unseen;
mod wake;
mod wall;
mod write;

use crate::accounts::{Caller, DeviceInfo, Seen};
use crate::api_error::ApiError;
use crate::ask::Ask;
use crate::authority::{check_request, check_schema_version};
use crate::engine::{OpenError, Watch, handed_out, random_bytes, system_env};
use crate::issuer::Vouched;
use crate::push_token::{WakeCall, Woken};
use db::{Purpose, Tx, is_contended};
use deadpool_postgres::Pool;
use futures_util::future::{join, try_join, try_join_all, try_join5};
use push::Looked;
use registry::Registry;
use scope::Scope;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use syncline_core::{
    Cursor, DeviceId, EnrolRequest, EnrolResponse, HistoryId, Limits, Schema, ScopeAnswer, ScopeId, Seq, SourceId, SyncRequest, SyncResponse, WriterId,
};
use syncline_replica::config::Config;
use tokio::runtime::Runtime;
use tokio::sync::broadcast;
use tokio_postgres::types::Type;

/// The oldest PostgreSQL whose SQL this store can speak.
const VERSION_MIN: i32 = 150_000;
/// How often streams look at their rights: other servers change them, too, and scopes count as watched while streams do.
const RECHECK: Duration = Duration::from_secs(4);
/// How long a request takes in what SQL clients wrote to scopes that it does not ask about.
const OTHERS_MAX: Duration = Duration::from_secs(2);
/// What a device has applied is noted so long after its answer.
const NOTE_DELAY: Duration = Duration::from_millis(10);
/// How often a transaction that met somebody else's is tried.
const TRIES: u32 = 12;

/// The authority over a PostgreSQL database: blocking, shared by all requests.
pub struct Postgres {
    inner: Arc<Inner>,
    // Ends with the store; never dropped inside of another runtime's thread, which must not block.
    runtime: Option<Runtime>,
}

/// What all tasks of a server share.
pub(crate) struct Inner {
    pool: Pool,
    config: tokio_postgres::Config,
    tls: tls::Tls,
    /// Who the server is within a transaction of a scope, where the second wall stands.
    role: Option<String>,
    history: HistoryId,
    limits: Limits,
    devices: Seen,
    tables: Tables,
    /// This process's writer: it stamps what SQL clients wrote.
    writer: WriterId,
    source: SourceId,
    wakes: wake::Wakes,
    /// Whether a stream was ever open here: then this server tells that it lives.
    streams: std::sync::atomic::AtomicBool,
}

/// Time and identity for one piece of work.
pub(crate) struct Env {
    now_ms: i64,
    writer: WriterId,
    source: SourceId,
}

impl Env {
    fn nonce(&self) -> u64 {
        system_env().nonce()
    }
}

/// The synced tables, read anew when any server has changed them.
#[derive(Default)]
pub(crate) struct Tables(RwLock<Arc<Registry>>);

impl Tables {
    /// Refuses an app that is too old, before its push is looked at. What this process knows lets most pass; who is refused is
    /// refused by what stands in the database now.
    async fn check_version(&self, inner: &Inner, request: &SyncRequest) -> Result<(), ApiError> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        if known.number > 0 && check_schema_version(known.demanded, request).is_ok() {
            return Ok(());
        }
        let current = inner.read(async |tx| self.current(tx).await).await?;
        check_schema_version(current.demanded, request)
    }
    async fn current(&self, tx: &Tx) -> Result<Arc<Registry>, ApiError> {
        let number = registry::schema_number(tx).await?;
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        if known.number == number {
            return Ok(known);
        }
        let fresh = Arc::new(Registry::read(tx).await?);
        if fresh.number == number {
            *self.0.write().unwrap_or_else(PoisonError::into_inner) = fresh.clone();
        }
        Ok(fresh)
    }
}

impl Postgres {
    /// Opens the authority in a database, making its sidecar if there is none. Any number of servers may.
    pub fn open(url: &str) -> Result<Postgres, OpenError> {
        Postgres::open_with(url, &Settings::default())
    }
    /// The same, with what the operator wants besides.
    pub fn open_with(url: &str, settings: &Settings) -> Result<Postgres, OpenError> {
        let (config, tls) = tls::parse(url)?;
        let shown = shown(&config);
        let failed = |e: String| OpenError::Database(shown.clone(), e);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("syncline-postgres").enable_all().build();
        let runtime = runtime.map_err(|e| failed(e.to_string()))?;
        let pool = runtime.block_on(async { db::pool(&config, tls.clone()) }).map_err(failed)?;
        let mut env = system_env();
        let fresh = (env.id(HistoryId::from_random), env.id(SourceId::from_random));
        let Prepared { history, source, role, broken } =
            runtime.block_on(prepare(&pool, fresh, settings)).map_err(|e| OpenError::Authority(shown.clone(), e))?;
        if let Some(broken) = broken {
            return Err(OpenError::Damaged(shown, broken));
        }
        let inner = Arc::new(Inner {
            pool,
            config,
            tls,
            role,
            history,
            limits: Limits::default(),
            devices: Seen::default(),
            tables: Tables::default(),
            writer: env.id(WriterId::from_random),
            source,
            wakes: wake::Wakes::new(),
            streams: false.into(),
        });
        runtime.spawn(wake::poll(inner.clone()));
        runtime.spawn(wake::listen(inner.clone()));
        runtime.spawn(wake::notify(inner.clone()));
        Ok(Postgres { inner, runtime: Some(runtime) })
    }

    fn block<T>(&self, work: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
        match &self.runtime {
            Some(runtime) => runtime.block_on(work),
            None => Err(stopping()),
        }
    }

    /// Returns what a peer may send.
    pub fn limits(&self) -> Limits {
        self.inner.limits
    }
    /// Returns whose bearer it is.
    pub fn authenticate(&self, bearer: &str) -> Result<Caller, ApiError> {
        let inner = &self.inner;
        self.block(accounts::authenticate(&inner.pool, &inner.devices, bearer, inner.history, inner.env().now_ms))
    }
    /// Returns whose bearer it is, if that is known without asking the database. Only for `sync`, which asks with its first statement
    /// whether the device was revoked.
    pub fn known_caller(&self, bearer: &str) -> Option<Caller> {
        let inner = &self.inner;
        inner.devices.caller(bearer, inner.history, inner.env().now_ms)
    }
    /// Enrols a device, and takes its tables over.
    pub fn enrol(&self, request: EnrolRequest) -> Result<EnrolResponse, ApiError> {
        let inner = &self.inner;
        self.block(async { inner.write(async |tx| schema::enrol(tx, &request, inner.history, &inner.env()).await).await })
    }
    /// Takes a device's newer schema: adds what the authority lacks, never takes any away; returns the authority's afterwards.
    pub fn push_schema(&self, _: &Caller, schema: Schema) -> Result<Schema, ApiError> {
        let inner = &self.inner;
        self.block(async { inner.write(async |tx| schema::push(tx, &schema, &inner.env()).await).await })
    }
    /// Commits what is pushed and reads what has changed.
    pub fn sync(&self, caller: &Caller, request: SyncRequest) -> Result<SyncResponse, ApiError> {
        let (inner, caller) = (self.inner.clone(), caller.clone());
        // Beside the tasks that speak with the database, rather than on a thread of its own: each answer would have to wake it.
        let syncing = |runtime: &Runtime| runtime.spawn(async move { inner.sync(&caller, &request).await });
        let ended = self.runtime.as_ref().map(syncing).ok_or_else(stopping)?;
        self.block(async { ended.await.map_err(|e| db::internal("syncing", e))? })
    }
    /// Reads changes as JSON: whole bundles, about `limit` rows.
    pub fn changes(&self, caller: &Caller, scope: &ScopeId, cursor: Option<Cursor>, limit: usize) -> Result<serde_json::Value, ApiError> {
        let inner = &self.inner;
        self.block(async {
            inner.read(async |tx| sharing::may_see(tx, caller, scope).await).await?;
            inner.absorb(scope).await?;
            inner
                .read(async |tx| {
                    wall::enter(tx, inner.role.as_deref(), &[&scope.0]).await?;
                    let (scope, registry) = inner.find(tx, scope).await?;
                    pull::changes(tx, &registry, &scope, inner.history, cursor, limit).await
                })
                .await
        })
    }
    /// Lists the devices of the caller's account.
    pub fn devices(&self, caller: &Caller) -> Result<Vec<DeviceInfo>, ApiError> {
        self.block(async { self.inner.read(async |tx| accounts::devices(tx, Some(&caller.account)).await).await })
    }
    /// Revokes a device of the caller's account.
    pub fn revoke(&self, caller: &Caller, device: DeviceId) -> Result<(), ApiError> {
        let (inner, seal_key) = (&self.inner, random_bytes()?);
        self.block(async { inner.write(async |tx| accounts::revoke(tx, Some(&caller.account), device, seal_key, inner.env().now_ms).await).await })
    }
    /// Takes an issuer's token, found genuine, as an enrolment token for one device.
    pub fn vouch(&self, token: &str, vouched: Vouched) -> Result<(), ApiError> {
        let inner = &self.inner;
        self.block(async { inner.write(async |tx| accounts::vouch(tx, token, &vouched, inner.env().now_ms).await).await })
    }
    /// Lists whom to wake through the push gateway.
    pub fn to_wake(&self) -> Result<Vec<WakeCall>, ApiError> {
        let inner = &self.inner;
        self.block(async { inner.write(async |tx| push_token::to_wake(tx, inner.env().now_ms).await).await })
    }
    /// Notes what became of a call to the push gateway.
    pub fn woken(&self, call: WakeCall, how: Woken) -> Result<(), ApiError> {
        self.block(async { self.inner.write(async |tx| push_token::woken(tx, &call, how).await).await })
    }
    /// Answers what a device asks about its account beside syncing. `key` is the request's `Idempotency-Key`.
    pub fn ask(&self, caller: &Caller, mut what: Ask, key: Option<String>) -> Result<serde_json::Value, ApiError> {
        let inner = &self.inner;
        if let Ask::StreamOpened(connection) | Ask::StreamClosed(connection) = &mut what {
            // So that the streams of a server that ended can be told from those of one that lives.
            connection[..8].copy_from_slice(&inner.source.0[..8]);
            connection[..8].iter_mut().zip(&inner.writer.0[..8]).for_each(|(a, b)| *a ^= b);
            inner.streams.store(true, std::sync::atomic::Ordering::Relaxed);
        }
        if what.reads_only() {
            return self.block(async { inner.read(async |tx| members::answer(tx, &what, caller, [0; 32], inner.env().now_ms).await).await });
        }
        let (fresh, random) = (random_bytes()?, random_bytes()?);
        self.block(async {
            inner
                .write(async |tx| {
                    let seed = what.seed(caller, key.as_deref(), &members::seed_secret(tx, fresh).await?, random);
                    members::answer(tx, &what, caller, seed, inner.env().now_ms).await
                })
                .await
        })
    }
    /// Returns the heads of the caller's scopes, and a receiver that is told (scope, seq) after each commit of any server.
    pub fn watch(&self, caller: &Caller) -> Result<Watch, ApiError> {
        // Subscribe first: a commit between the two is told twice rather than never.
        let changes: broadcast::Receiver<(ScopeId, Seq)> = self.inner.wakes.subscribe();
        let inner = &self.inner;
        let heads = self.block(async {
            let read = async |tx: &Tx| {
                accounts::check_device(tx, caller.device_id).await?;
                sharing::heads(tx, &caller.account).await
            };
            inner.read(read).await
        })?;
        let heads: Vec<(ScopeId, Seq)> = heads.into_iter().map(|h| (h.0, h.1)).collect();
        heads.iter().for_each(|(scope, head)| inner.wakes.watched(scope, *head));
        Ok(Watch { heads, changes, rights: None, recheck: RECHECK })
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn stopping() -> ApiError {
    ApiError::Unavailable("the server is stopping".into())
}

impl Inner {
    fn env(&self) -> Env {
        Env { now_ms: system_env().now_ms, writer: self.writer, source: self.source }
    }

    /// Runs `work` in one snapshot.
    async fn read<T>(&self, work: impl AsyncFnOnce(&Tx) -> Result<T, ApiError>) -> Result<T, ApiError> {
        let tx = Tx::begin(&self.pool, Purpose::Read).await?;
        let done = work(&tx).await;
        tx.leave();
        done
    }

    /// Runs `work` in one transaction, again where it met somebody else's; it is durable when this returns.
    async fn write<T>(&self, work: impl AsyncFn(&Tx) -> Result<T, ApiError>) -> Result<T, ApiError> {
        let mut tries = 0;
        loop {
            let tx = Tx::begin(&self.pool, Purpose::Write).await?;
            match work(&tx).await {
                Ok(done) => {
                    tx.commit().await?;
                    return Ok(done);
                }
                Err(e) => {
                    let _ = tx.rollback().await;
                    tries += 1;
                    if !is_contended(&e) || tries >= TRIES {
                        return Err(e);
                    }
                }
            }
            pause(tries).await;
        }
    }

    async fn find(&self, tx: &Tx, scope: &ScopeId) -> Result<(Scope, Arc<Registry>), ApiError> {
        let registry = self.tables.current(tx).await?;
        let scope = Scope::read(tx, scope).await?.ok_or_else(ApiError::no_such_scope)?;
        Ok((scope, registry))
    }

    async fn sync(self: &Arc<Inner>, caller: &Caller, request: &SyncRequest) -> Result<SyncResponse, ApiError> {
        check_request(request)?;
        self.tables.check_version(self, request).await?;
        let mut seen = self.visible(caller, request).await?;
        let mut receipts: Vec<Option<commit::Receipt>> = Vec::with_capacity(request.scopes.len());
        let mut together = self.push_together(caller, request).await?;
        for (asked, seen) in request.scopes.iter().zip(&mut seen) {
            let looked = match &asked.push {
                _ if !*seen => None,
                Some(_) => match together.remove(&asked.scope) {
                    Some(looked) => Some(looked),
                    None => self.push(caller, &[asked]).await?.pop(),
                },
                None => None,
            };
            if matches!(looked, Some(Looked::Absent)) {
                if request.scopes.len() == 1 {
                    return Err(ApiError::no_such_scope());
                }
                *seen = false;
            }
            receipts.push(looked.and_then(Looked::receipt));
        }
        let mut answered = self.answer(caller, request, &mut receipts, &seen, true).await?;
        if let Answered::Later(written) = &answered {
            // What was there of the scopes asked about has its number then; of others as much as there is time for, the rest soon.
            let (asked, others): (Vec<_>, Vec<_>) = written.iter().partition(|w| request.scopes.iter().any(|s| s.scope == **w));
            for scope in asked {
                self.absorb(scope).await?;
            }
            let end = std::time::Instant::now() + OTHERS_MAX;
            for scope in others {
                if std::time::Instant::now() > end {
                    break;
                }
                self.absorb(scope).await?;
            }
            answered = self.answer(caller, request, &mut receipts, &seen, false).await?;
        }
        let Answered::Now(response, applied) = answered else { return Err(ApiError::Internal("an answer was put off twice".into())) };
        let response = *response;
        let (inner, device, handed) = (self.clone(), caller.device_id, handed_out(&response));
        // Late is safe: until then less is forgotten for the device's sake.
        tokio::spawn(async move {
            // Whom this very commit wakes comes first.
            tokio::time::sleep(NOTE_DELAY).await;
            let noted = inner.note(device, &applied, &handed).await;
            if let Err(e) = noted {
                tracing::warn!("noting what a device has applied: {e}");
            }
        });
        Ok(response)
    }

    /// Which of the scopes of a request the caller sees. Beside others, one that it does not see is answered; a request about nothing
    /// else is refused.
    async fn visible(&self, caller: &Caller, request: &SyncRequest) -> Result<Vec<bool>, ApiError> {
        if request.scopes.iter().all(|s| s.scope.0 == caller.account) {
            return Ok(vec![true; request.scopes.len()]);
        }
        let scopes = self.read(async |tx| members::scopes_of(tx, &caller.account).await).await?;
        let seen: std::collections::HashSet<&ScopeId> = scopes.iter().map(|s| &s.0).collect();
        let seen: Vec<bool> = request.scopes.iter().map(|s| seen.contains(&s.scope)).collect();
        if seen == [false] { Err(ApiError::no_such_scope()) } else { Ok(seen) }
    }

    /// Reads the answer in one snapshot; with `look`, not where SQL clients have written something that has no number yet.
    async fn answer(
        &self,
        caller: &Caller,
        request: &SyncRequest,
        receipts: &mut [Option<commit::Receipt>],
        seen: &[bool],
        look: bool,
    ) -> Result<Answered, ApiError> {
        self.read(async move |tx| {
            // Of all the account's scopes; from the wall on, only those asked about are there.
            let written = sharing::written(tx, &caller.account);
            let looks = (self.tables.current(tx), sharing::memberships(tx, &caller.account), sharing::moved(tx, caller, request));
            let device = accounts::check_device(tx, caller.device_id);
            let own = async { try_join5(device, written, looks.0, looks.1, looks.2).await.map(|all| (all.1, all.2, all.3, all.4)) };
            let scopes = || try_join_all(request.scopes.iter().map(|s| Scope::read(tx, &s.scope)));
            let ((written, registry, members, moved), here) = match &self.role {
                None => try_join(own, scopes()).await?,
                Some(_) => (own.await?, vec![]),
            };
            if look && !written.is_empty() {
                return Ok(Answered::Later(written));
            }
            check_schema_version(registry.demanded, request)?;
            let names: Vec<&str> = request.scopes.iter().zip(seen).filter(|s| *s.1).map(|s| s.0.scope.0.as_str()).collect();
            let here = match &self.role {
                None => here,
                Some(role) => try_join(wall::enter(tx, Some(role), &names), scopes()).await?.1,
            };
            let mut scopes = Vec::with_capacity(request.scopes.len());
            let mut applied = Vec::new();
            for (((asked, receipt), seen), scope) in request.scopes.iter().zip(receipts.iter_mut()).zip(seen).zip(here) {
                if !seen {
                    scopes.push(ScopeAnswer { scope: asked.scope.clone(), absent: true, ..ScopeAnswer::default() });
                    continue;
                }
                let scope = scope.ok_or_else(ApiError::no_such_scope)?;
                // A push was only looked at where the pasts agree; so they are compared once more for those without.
                let answer = pull::read_answer(tx, &registry, &scope, asked, receipt.take(), &self.limits);
                let (common, answer) = join(pull::compare_pasts(tx, &scope, self.history, asked), answer).await;
                if let Some(common) = common? {
                    scopes.push(ScopeAnswer { scope: scope.id.clone(), history_changed: Some(common), ..ScopeAnswer::default() });
                    continue;
                }
                applied.extend(asked.cursor.map(|c| (asked.scope.clone(), c.seq)));
                scopes.push(answer?);
            }
            let schema = registry.schema();
            let members = (syncline_core::heads::members_hash(&members) != request.members).then_some(members);
            let response = SyncResponse {
                version: syncline_core::VERSION,
                server_time_ms: self.env().now_ms,
                history: self.history,
                fingerprint: schema.fingerprint(),
                schema: request.schema_wanted.then_some(schema),
                scopes,
                members,
                moved,
            };
            Ok(Answered::Now(Box::new(response), applied))
        })
        .await
    }

    async fn note(&self, device: DeviceId, applied: &[(ScopeId, Seq)], handed: &[(ScopeId, Seq)]) -> Result<(), ApiError> {
        let now_ms = self.env().now_ms;
        let tx = Tx::begin(&self.pool, Purpose::Write).await?;
        for (scope, seq) in applied {
            accounts::ack(&tx, device, scope, *seq, now_ms).await?;
        }
        for (scope, seq) in handed {
            accounts::served(&tx, device, scope, *seq).await?;
        }
        accounts::touch(&tx, device, now_ms).await?;
        tx.commit().await
    }

    /// Gives what SQL clients wrote to a scope its numbers, if there is anything.
    async fn absorb(&self, scope: &ScopeId) -> Result<(), ApiError> {
        let mut tries = 0;
        loop {
            let tx = Tx::begin(&self.pool, Purpose::Write).await?;
            match self.try_absorb(&tx, scope).await {
                Ok(None) => {
                    tx.leave();
                    return Ok(());
                }
                Ok(moved) => {
                    tx.commit().await?;
                    self.wakes.moved(scope, moved);
                    return Ok(());
                }
                Err(e) => {
                    let _ = tx.rollback().await;
                    tries += 1;
                    if !is_contended(&e) || tries >= TRIES {
                        return Err(e);
                    }
                }
            }
            pause(tries).await;
        }
    }

    async fn try_absorb(&self, tx: &Tx, scope: &ScopeId) -> Result<Option<Seq>, ApiError> {
        wall::enter(tx, self.role.as_deref(), &[&scope.0]).await?;
        let sql = "SELECT EXISTS (SELECT FROM syncline.capture WHERE scope_id = $1)";
        if !tx.query_one(sql, &[(&scope.0, Type::TEXT)]).await?.get::<_, bool>(0) {
            return Ok(None);
        }
        let Some(mut locked) = Scope::lock(tx, scope).await? else { return Ok(None) };
        let registry = self.tables.current(tx).await?;
        let before = locked.seq;
        absorb::absorb(tx, &registry, &mut locked, &self.env()).await?;
        locked.save(tx).await?;
        // Captures that came to nothing are gone from the log: that, too, is to be committed.
        Ok(Some(locked.seq.max(before)))
    }
}

/// What reading an answer came to.
enum Answered {
    /// It, and how far the device has applied its scopes.
    Now(Box<SyncResponse>, Vec<(ScopeId, Seq)>),
    /// First what was written to these scopes must have its number.
    Later(Vec<ScopeId>),
}

async fn pause(tries: u32) {
    let most = 5u64 << tries.min(6);
    tokio::time::sleep(Duration::from_millis(1 + system_env().nonce() % most)).await;
}

/// What the operator wants of an authority on PostgreSQL besides its place.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// syncline.toml: the tables to adopt.
    pub config: Config,
    /// The unprivileged role that transactions of scopes run as; see docs/postgres.md.
    pub scoped_role: Option<String>,
}

/// A database that is ready to be served.
struct Prepared {
    history: HistoryId,
    source: SourceId,
    role: Option<String>,
    broken: Option<String>,
}

async fn prepare(pool: &Pool, fresh: (HistoryId, SourceId), settings: &Settings) -> Result<Prepared, ApiError> {
    let tx = Tx::begin(pool, Purpose::Write).await?;
    let sql = "SELECT current_setting('server_version_num')::int, current_setting('server_encoding'), current_setting('fsync') = 'on'
               AND current_setting('synchronous_commit') <> 'off'";
    let row = tx.query_one(sql, &[]).await?;
    let (version, encoding, durable): (i32, String, bool) = (row.get(0), row.get(1), row.get(2));
    if version < VERSION_MIN {
        return Err(ApiError::BadRequest("PostgreSQL 15 or later is needed; update it".into()));
    }
    if encoding != "UTF8" {
        return Err(ApiError::BadRequest(format!("the database's encoding is {encoding}; make one with ENCODING 'UTF8'")));
    }
    if !durable {
        tracing::warn!("fsync or synchronous_commit is off in this database: what devices are told is durable may be lost in a crash");
    }
    let history = migrate::migrate(&tx, fresh.0).await?;
    let source = absorb::own_source(&tx, fresh.1).await?;
    let broken = migrate::check(&tx).await?;
    let mut role = None;
    if broken.is_empty() {
        let mut system = system_env();
        let env = Env { now_ms: system.now_ms, writer: system.id(WriterId::from_random), source };
        adopt::adopt(&tx, &settings.config, &env).await?;
        role = wall::build(&tx, settings.scoped_role.as_deref()).await?;
    }
    tx.commit().await?;
    Ok(Prepared { history, source, role, broken: broken.into_iter().next() })
}

/// Names a database for people, without its password.
fn shown(config: &tokio_postgres::Config) -> String {
    use tokio_postgres::config::Host;
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(host)) => host.clone(),
        #[cfg(unix)]
        Some(Host::Unix(path)) => path.display().to_string(),
        _ => "localhost".into(),
    };
    let port = config.get_ports().first().copied().unwrap_or(5432);
    format!("database {} at {host}:{port}", config.get_dbname().unwrap_or("(the user's own)"))
}
