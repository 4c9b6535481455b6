//! An app's database: the file, the engine's own connection to it, and what several threads share.
//!
//! The engine's connection has foreign keys off and is used by nobody else; the app's connections are ordinary ones. Locks are
//! taken in one order: sync side, engine or app, told. `told` is held across each transaction that captures or absorbs, so that
//! what observers were told and what the file says never part. Nothing here speaks to a server (`sync`, `attach`).

use crate::anchor::meta;
use crate::catalog;
use crate::error::{Doing, Error};
use crate::identity::{Identity, home_dir};
use crate::link::{HttpLink, LinkOptions};
use crate::machine::Event;
use crate::observe::{Hub, Origin};
use crate::poll::Told;
use crate::resolve::Resolver;
use crate::room::renumbered_by_vacuum;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Params, Row, Transaction, TransactionBehavior};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use syncline_core::{ScopeId, Seq};
use syncline_replica::config::Config;
use syncline_replica::schema::{Introspection, SyncOptions, introspect};
use syncline_replica::{Conflict, Env, Journalled, Pending, Replica, Resolution, Role, Tx};

/// How long an app's statement waits for another writer, as the engine's does.
const BUSY: Duration = Duration::from_secs(5);

/// How a database is opened.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
/// # fn main() -> Result<(), syncline::Error> {
/// # let (dir, db) = notes();
/// use syncline::{Database, Options};
/// let options = Options { home: Some(dir.path().join("home")), app_version: "2.1.0".into(), ..Options::default() };
/// let db = Database::open(dir.path().join("app.db"), options)?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    /// Where device keys and anchors live; `None` is `identity::home_dir()`.
    pub home: Option<PathBuf>,
    /// How the server is reached.
    pub link: LinkOptions,
    /// The app's version, for events.
    pub app_version: String,
    /// How often writes of other connections and processes are looked for, while somebody observes or syncs in the background.
    pub poll: Duration,
    /// How long a sync waits for another one on the same file before it says `busy`.
    pub lock_wait: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options { home: None, link: LinkOptions::default(), app_version: String::new(), poll: Duration::from_millis(50), lock_wait: Duration::from_secs(2) }
    }
}

/// A database that syncs. Cheap to clone; all clones are one opening.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
/// # fn main() -> Result<(), syncline::Error> {
/// # let (dir, db) = notes();
/// let same = db.clone();
/// db.write(|tx| tx.execute("INSERT INTO note(id) VALUES('a')", []))?;
/// assert_eq!(same.query("SELECT count(*) FROM note", [], |r| r.get::<_, i64>(0))?, [1]);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Database {
    pub(crate) inner: Arc<Inner>,
}

/// What the clones of a `Database` share.
pub(crate) struct Inner {
    /// Canonical.
    pub path: PathBuf,
    pub options: Options,
    /// `None` once detached.
    engine: Mutex<Option<Engine>>,
    app: Mutex<Option<Connection>>,
    /// For events and status: commits here need not be durable at once.
    pub notes: Mutex<Option<Connection>>,
    pub sync_side: Mutex<SyncSide>,
    pub told: Mutex<Told>,
    pub hub: Hub,
    pub resolvers: Mutex<BTreeMap<String, Resolver>>,
    pub detached: AtomicBool,
    pub polling: AtomicBool,
}

/// The engine's replica and the schema and account for which its caches are good.
struct Engine {
    replica: Replica,
    epoch: (i64, Option<String>),
}

/// What only the one who syncs uses.
#[derive(Default)]
pub(crate) struct SyncSide {
    pub lock: Option<File>,
    pub link: Option<(Identity, HttpLink)>,
    /// What this network could carry: less after a cut or a stall, doubled after a success.
    pub page_bytes: Option<usize>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A thread that panicked while it held one of these left whole values behind: transactions roll back when dropped.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns this machine's clock, in ms since 1970. `SYNCLINE_CLOCK_OFFSET_MS` puts it off by so much: for tests of wrong clocks.
pub(crate) fn now_ms() -> i64 {
    static OFFSET: OnceLock<i64> = OnceLock::new();
    let offset = *OFFSET.get_or_init(|| std::env::var("SYNCLINE_CLOCK_OFFSET_MS").ok().and_then(|ms| ms.parse().ok()).unwrap_or(0));
    offset + machine_ms()
}

fn machine_ms() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_millis() as i64,
        Err(before) => -(before.duration().as_millis() as i64),
    }
}

/// Returns the present time and the system's randomness.
pub(crate) fn env() -> Result<Env, Error> {
    // Tried once here, where it can be reported: a system that has random bytes now has them a moment later.
    let mut spare = getrandom::u64().map_err(crate::identity::IdentityError::Random)?;
    let random = move || {
        getrandom::u64().unwrap_or_else(|_| {
            spare = spare.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            spare
        })
    };
    Ok(Env { now_ms: now_ms(), random: Box::new(random) })
}

fn open_connection(path: &Path, create: bool) -> Result<Connection, Error> {
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    flags.set(OpenFlags::SQLITE_OPEN_CREATE, create);
    if !create && !path.exists() {
        return Err(Error::Missing(path.to_owned()));
    }
    let conn = Connection::open_with_flags(path, flags).doing("opening the database")?;
    conn.busy_timeout(BUSY).doing("setting a time limit")?;
    Ok(conn)
}

fn canonical(path: &Path) -> Result<PathBuf, Error> {
    path.canonicalize().map_err(|cause| Error::Io { doing: "finding", path: path.to_owned(), cause })
}

/// Notes how the journal was, for `detach`, and turns WAL on: readers and one writer then do not wait for each other.
fn use_wal(conn: &Connection) -> Result<String, Error> {
    let before: String = conn.query_row("PRAGMA journal_mode", [], |r| r.get(0)).doing("reading the journal mode")?;
    conn.query_row("PRAGMA journal_mode = WAL", [], |r| r.get::<_, String>(0)).doing("turning WAL on")?;
    Ok(before)
}

/// Completes the options of a repeated `init` by what an earlier one was told and this one is not: else a column that was declared
/// local would leave the device the second time. Returns what was kept, in words, too.
fn kept_options(conn: &Connection, options: &SyncOptions) -> Result<(Vec<String>, SyncOptions), Error> {
    let (mut kept, mut options) = (Vec::new(), options.clone());
    if options.config.source.is_none()
        && let Some(text) = meta::<String>(conn, "config")?
    {
        options.config =
            Config::parse(&text).map_err(|e| Error::Refused(format!("{e}; this is what an earlier init was given, give --config to replace it")))?;
        kept.push("syncline.toml is as an earlier init read it; --config FILE reads it anew".to_owned());
    }
    if options.integer_keys.is_none() {
        let mut query = conn.prepare("SELECT def FROM _syncline_table").doing("reading the tables")?;
        let defs: Vec<String> = query.query_map([], |r| r.get(0)).and_then(Iterator::collect).doing("reading the tables")?;
        let chosen = |def: &String| serde_json::from_str::<syncline_core::TableDef>(def).ok()?.options.integer_keys;
        options.integer_keys = defs.iter().find_map(chosen);
    }
    Ok((kept, options))
}

fn has_sidecar(conn: &Connection) -> Result<bool, Error> {
    conn.query_row("SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = '_syncline_meta')", [], |r| r.get(0)).doing("reading the database")
}

impl Database {
    /// Makes a database's tables syncable. Changes no user row, is safe to repeat, and does all or nothing: a table that cannot
    /// be synced is refused by name with its remedy, and the file is then as it was.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
    /// # fn main() -> Result<(), syncline::Error> {
    /// # let (dir, db) = notes();
    /// use syncline::{Database, SyncOptions, rusqlite::Connection};
    /// let path = dir.path().join("other.db");
    /// Connection::open(&path).and_then(|c| c.execute_batch("CREATE TABLE t(id TEXT PRIMARY KEY); CREATE TABLE no_key(x)")).map_err(syncline::Error::app)?;
    /// let refused = Database::init(&path, &SyncOptions::default()).unwrap_err();
    /// assert!(refused.to_string().contains("no_key"), "{refused}");
    /// Database::init(&path, &SyncOptions { except: vec!["no_key".into()], ..SyncOptions::default() })?;
    /// # Ok(()) }
    /// ```
    pub fn init(path: impl AsRef<Path>, options: &SyncOptions) -> Result<Introspection, Error> {
        let conn = open_connection(path.as_ref(), false)?;
        let fresh = !has_sidecar(&conn)?;
        let (kept, options) = if fresh { (vec![], options.clone()) } else { kept_options(&conn, options)? };
        let options = &options;
        // Refusals come before the first byte is written.
        introspect(&conn, options).map_err(syncline_replica::Error::from)?;
        let before = if fresh { use_wal(&conn)? } else { String::new() };
        let mut env = env()?;
        let mut replica = Replica::open_or_create(conn, Role::Device, &mut env)?;
        let done = replica.transact(&mut env, |tx| {
            if fresh {
                tx.set_meta("journal_mode", &before)?;
            }
            tx.init(options)
        });
        if done.is_err() && fresh {
            replica.transact(&mut env, |tx| tx.remove_sidecar())?;
        }
        let mut found = done?;
        found.warnings.extend(kept);
        // The sidecar is no table of the app's that was left out.
        found.left_out.retain(|(name, _)| !syncline_replica::schema::is_reserved(name));
        Ok(found)
    }

    /// Opens a database that `init` or `attach` prepared.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
    /// # fn main() -> Result<(), syncline::Error> {
    /// # let (dir, db) = notes();
    /// use syncline::{Database, Options};
    /// let missing = Database::open(dir.path().join("nowhere.db"), Options::default());
    /// assert_eq!(missing.err().map(|e| e.code()).as_deref(), Some("missing"));
    /// Database::open(dir.path().join("app.db"), Options::default())?;
    /// # Ok(()) }
    /// ```
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<Database, Error> {
        let conn = open_connection(path.as_ref(), false)?;
        let path = canonical(path.as_ref())?;
        let replica = Replica::open(conn)?;
        if replica.role() != Role::Device {
            return Err(Error::Refused("this is a server's database; open the app's own".into()));
        }
        let epoch = epoch(replica.conn())?;
        let told = Told::from_here(replica.conn())?;
        let app = open_connection(&path, false)?;
        let notes = open_connection(&path, false)?;
        notes.pragma_update(None, "synchronous", "NORMAL").doing("opening the database")?;
        let inner = Inner {
            path,
            options,
            engine: Mutex::new(Some(Engine { replica, epoch })),
            app: Mutex::new(Some(app)),
            notes: Mutex::new(Some(notes)),
            sync_side: Mutex::default(),
            told: Mutex::new(told),
            hub: Hub::default(),
            resolvers: Mutex::default(),
            detached: AtomicBool::new(false),
            polling: AtomicBool::new(false),
        };
        Ok(Database { inner: Arc::new(inner) })
    }

    /// Opens a database to attach it: a missing or empty file is made ready to receive tables; one that has tables must have
    /// been through `init`, which says which of them sync.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
    /// # fn main() -> Result<(), syncline::Error> {
    /// # let (dir, db) = notes();
    /// use syncline::{Database, Options};
    /// // A second device: its tables come with `attach`.
    /// let phone = Database::open_or_create(dir.path().join("phone.db"), Options::default())?;
    /// assert!(phone.explain()?.is_empty());
    /// # Ok(()) }
    /// ```
    pub fn open_or_create(path: impl AsRef<Path>, options: Options) -> Result<Database, Error> {
        let conn = open_connection(path.as_ref(), true)?;
        let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get(0)).doing("reading the database")?;
        if tables == 0 {
            let before = use_wal(&conn)?;
            let mut env = env()?;
            let mut replica = Replica::open_or_create(conn, Role::Device, &mut env)?;
            replica.transact(&mut env, |tx| tx.set_meta("journal_mode", &before))?;
        }
        Database::open(path, options)
    }

    /// Returns the file's canonical path.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
    /// # fn main() -> Result<(), syncline::Error> {
    /// # let (dir, db) = notes();
    /// assert_eq!(db.path().file_name().and_then(|n| n.to_str()), Some("app.db"));
    /// # Ok(()) }
    /// ```
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Returns a fresh ordinary connection for the app. Its writes are captured as any program's are; the loop and observers
    /// notice them within `Options::poll`, those of [`Database::write`] at once.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
    /// # fn main() -> Result<(), syncline::Error> {
    /// # let (dir, db) = notes();
    /// let conn = db.connection()?;
    /// conn.execute("INSERT INTO note(id, title) VALUES('a', 'by any program')", []).map_err(syncline::Error::app)?;
    /// assert_eq!(db.status()?.captured, 1);
    /// # Ok(()) }
    /// ```
    pub fn connection(&self) -> Result<Connection, Error> {
        open_connection(&self.inner.path, false)
    }

    /// Runs an app's transaction, tells observers, and wakes the loop. On an error nothing of it remains. `work` must not call
    /// `write`, `query` or a method that syncs on the same database: it holds the app's connection.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
    /// # fn main() -> Result<(), syncline::Error> {
    /// # let (dir, db) = notes();
    /// db.write(|tx| {
    ///     tx.execute("INSERT INTO note(id, title) VALUES(?1, ?2)", ["a", "hello"])?;
    ///     tx.execute("UPDATE note SET votes = votes + 1 WHERE id = 'a'", [])
    /// })?;
    /// // All or nothing.
    /// assert!(db.write(|tx| { tx.execute("DELETE FROM note", [])?; tx.execute("nonsense", []) }).is_err());
    /// assert_eq!(db.query("SELECT votes FROM note", [], |r| r.get::<_, i64>(0))?, [1]);
    /// # Ok(()) }
    /// ```
    pub fn write<T>(&self, work: impl FnOnce(&Transaction) -> rusqlite::Result<T>) -> Result<T, Error> {
        let mut app = lock(&self.inner.app);
        let conn = app.as_mut().ok_or(Error::NotAttached)?;
        let mut told = lock(&self.inner.told);
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).doing("beginning a transaction")?;
        told.catalog.refresh(&tx)?;
        let before = catalog::log_end(&tx)?;
        if before < told.log {
            told.log = 0;
        }
        let value = work(&tx).map_err(Error::app)?;
        let mine = if self.inner.hub.has_observers() { told.catalog.read_log(&tx, before)? } else { told.catalog.read_log_tables(&tx, before)? };
        // What others captured and nobody was told of yet.
        let theirs = if before > told.log { Some(told.catalog.read_log_between(&tx, told.log, before)?) } else { None };
        tx.commit().doing("committing the app's transaction")?;
        told.log = mine.last;
        if let Some(theirs) = theirs {
            self.inner.tell(&mut told, &theirs, Origin::OtherProcess);
        }
        let high = told.catalog.any_high(&mine);
        self.inner.tell(&mut told, &mine, Origin::Local);
        drop(told);
        if !mine.is_empty() {
            self.inner.hub.wake(Event::LocalWrite { high_priority: high });
        }
        Ok(value)
    }

    /// Reads rows on the app's connection.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
    /// # fn main() -> Result<(), syncline::Error> {
    /// # let (dir, db) = notes();
    /// db.write(|tx| tx.execute("INSERT INTO note(id, title) VALUES('a', 'hello')", []))?;
    /// let titles: Vec<String> = db.query("SELECT title FROM note WHERE id = ?1", ["a"], |row| row.get(0))?;
    /// assert_eq!(titles, ["hello"]);
    /// # Ok(()) }
    /// ```
    pub fn query<T>(&self, sql: &str, params: impl Params, map: impl FnMut(&Row) -> rusqlite::Result<T>) -> Result<Vec<T>, Error> {
        let app = lock(&self.inner.app);
        let conn = app.as_ref().ok_or(Error::NotAttached)?;
        conn.prepare_cached(sql).and_then(|mut q| q.query_map(params, map)?.collect()).map_err(Error::app)
    }

    /// Lists what the authority has not confirmed, in order of writing, at most `limit`.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
    /// # fn main() -> Result<(), syncline::Error> {
    /// # let (dir, db) = notes();
    /// db.write(|tx| tx.execute("INSERT INTO note(id) VALUES('a')", []))?;
    /// let waiting = db.pending(100)?;
    /// assert_eq!((waiting[0].table.as_str(), waiting[0].op.as_str()), ("note", "insert"));
    /// # Ok(()) }
    /// ```
    pub fn pending(&self, limit: usize) -> Result<Vec<Pending>, Error> {
        self.inner.with(|tx| {
            tx.absorb()?;
            tx.all_pending(limit)
        })
    }

    /// Lists what waits for a decision, oldest first.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
    /// # fn main() -> Result<(), syncline::Error> {
    /// # let (dir, db) = synced_notes();
    /// for conflict in db.conflicts()? {
    ///     println!("{}: {}", conflict.id, conflict.refusal.message);
    /// }
    /// # Ok(()) }
    /// ```
    pub fn conflicts(&self) -> Result<Vec<Conflict>, Error> {
        self.inner.with(|tx| {
            tx.absorb()?;
            tx.conflicts()
        })
    }

    /// Lists values that lost against concurrent ones, newest first, at most `limit`.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
    /// # fn main() -> Result<(), syncline::Error> {
    /// # let (dir, db) = notes();
    /// for lost in db.journal(100)? {
    ///     println!("{} {} lost {:?}", lost.tbl, lost.col, lost.lost_value);
    /// }
    /// # Ok(()) }
    /// ```
    pub fn journal(&self, limit: usize) -> Result<Vec<Journalled>, Error> {
        self.inner.with(|tx| {
            tx.absorb()?;
            tx.journal(limit)
        })
    }

    /// Writes a value of the journal again, as an ordinary new write. The id may be shortened to its first eight digits.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
    /// # fn main() -> Result<(), syncline::Error> {
    /// # let (dir, db) = synced_notes();
    /// if let Some(lost) = db.journal(1)?.first() {
    ///     db.restore(&lost.id)?;
    /// }
    /// assert!(db.restore("0123abcd").is_err(), "no such entry");
    /// # Ok(()) }
    /// ```
    pub fn restore(&self, id: &str) -> Result<(), Error> {
        self.inner.with(|tx| {
            tx.absorb()?;
            tx.restore(id)?;
            tx.absorb().map(drop)
        })?;
        self.inner.hub.wake(Event::LocalWrite { high_priority: true });
        Ok(())
    }

    /// Settles a conflict; the next sync takes it to the server. An invalid resolution changes nothing.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
    /// # fn main() -> Result<(), syncline::Error> {
    /// # let (dir, db) = synced_notes();
    /// use syncline::Resolution;
    /// for conflict in db.conflicts()? {
    ///     db.resolve(&conflict.id, &Resolution::Server)?;
    /// }
    /// assert!(db.resolve("0123abcd", &Resolution::Mine).is_err(), "no such conflict");
    /// # Ok(()) }
    /// ```
    pub fn resolve(&self, id: &str, how: &Resolution) -> Result<(), Error> {
        self.inner.with(|tx| {
            tx.absorb()?;
            tx.resolve(id, how)
        })?;
        self.inner.hub.wake(Event::LocalWrite { high_priority: true });
        Ok(())
    }

    /// Asks for everything anew with the next sync; pending work is kept. With `rotate` the device also goes on as a fresh
    /// source, for when the server says that it knows another life of this one.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
    /// # fn main() -> Result<(), syncline::Error> {
    /// # let (dir, db) = synced_notes();
    /// db.resync(false)?;
    /// let report = db.sync_once(None, |_| {});
    /// assert!(report.hydrate);
    /// # Ok(()) }
    /// ```
    pub fn resync(&self, rotate: bool) -> Result<(), Error> {
        self.inner.with(|tx| {
            tx.absorb()?;
            for scope in tx.scopes()? {
                tx.request_resync(&scope)?;
            }
            if rotate {
                tx.rotate_source()?;
            }
            Ok(())
        })?;
        self.inner.hub.wake(Event::Demand);
        Ok(())
    }

    /// Turns captured writes into row states now, as every sync does first. Returns how many rows changed.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
    /// # fn main() -> Result<(), syncline::Error> {
    /// # let (dir, db) = notes();
    /// db.write(|tx| tx.execute("INSERT INTO note(id) VALUES('a'), ('b')", []))?;
    /// assert_eq!(db.absorb()?, 2);
    /// assert_eq!(db.absorb()?, 0);
    /// # Ok(()) }
    /// ```
    pub fn absorb(&self) -> Result<u64, Error> {
        self.inner.with(|tx| Ok(tx.absorb()?.rows))
    }
}

fn epoch(conn: &Connection) -> Result<(i64, Option<String>), Error> {
    Ok((catalog::schema_version(conn)?, meta(conn, "account")?))
}

impl Inner {
    /// Returns where keys live.
    pub fn home(&self) -> Result<PathBuf, Error> {
        Ok(match &self.options.home {
            Some(home) => home.clone(),
            None => home_dir()?,
        })
    }

    /// Runs `work` in one transaction of the engine's, then tells observers what it absorbed.
    pub fn with<T>(&self, work: impl FnOnce(&mut Tx) -> syncline_replica::Result<T>) -> Result<T, Error> {
        self.with_replica(&[], |replica, env| replica.transact(env, work))
    }

    /// Lends the engine's replica out. `applied` is what the work reports as changed from elsewhere.
    pub fn with_replica<T>(
        &self,
        applied: &[(i64, syncline_core::Key)],
        work: impl FnOnce(&mut Replica, &mut Env) -> syncline_replica::Result<T>,
    ) -> Result<T, Error> {
        let mut guard = lock(&self.engine);
        let engine = guard.as_mut().ok_or(Error::NotAttached)?;
        // Another process or thread may have changed tables or attached the file: what the replica remembers is void then.
        let epoch = epoch(engine.replica.conn())?;
        if epoch != engine.epoch {
            *engine = Engine { replica: Replica::open(open_connection(&self.path, false)?)?, epoch };
        }
        let mut told = lock(&self.told);
        let mut env = env()?;
        let version = self.tell_captured(engine.replica.conn(), &mut told)?;
        let done = work(&mut engine.replica, &mut env)?;
        self.sweep(engine.replica.conn(), &mut told, applied, version)?;
        Ok(done)
    }

    /// Runs the engine's last transaction, after which there is nothing left to tell from.
    pub fn with_last<T>(&self, work: impl FnOnce(&mut Tx) -> syncline_replica::Result<T>) -> Result<T, Error> {
        let mut guard = lock(&self.engine);
        let engine = guard.as_mut().ok_or(Error::NotAttached)?;
        Ok(engine.replica.transact(&mut env()?, work)?)
    }

    /// Notes facts without waiting for the disk.
    pub fn note(&self, facts: &[(&str, &dyn rusqlite::ToSql)]) -> Result<(), Error> {
        let notes = lock(&self.notes);
        let Some(conn) = notes.as_ref() else { return Ok(()) };
        for (name, value) in facts {
            conn.prepare_cached("INSERT INTO _syncline_meta(name, value) VALUES(?1, ?2) ON CONFLICT(name) DO UPDATE SET value = excluded.value")
                .and_then(|mut q| q.execute(rusqlite::params![name, value]))
                .doing("noting a fact in the sidecar")?;
        }
        Ok(())
    }

    /// Writes facts without waiting for the disk, several at once.
    pub fn with_notes<T>(&self, work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> Result<T, Error> {
        let mut notes = lock(&self.notes);
        work(notes.as_mut().ok_or(Error::NotAttached)?).doing("noting facts in the sidecar")
    }

    /// Reads on a connection that no sync and no app transaction holds.
    pub fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T, Error>) -> Result<T, Error> {
        let notes = lock(&self.notes);
        work(notes.as_ref().ok_or(Error::NotAttached)?)
    }

    /// Returns how far this device has applied its scope.
    pub fn cursor(&self) -> Result<Seq, Error> {
        self.read(|conn| {
            let bytes: Option<Vec<u8>> = conn
                .prepare_cached("SELECT cursor FROM _syncline_scope WHERE n = 1")
                .and_then(|mut q| q.query_row([], |r| r.get(0)))
                .doing("reading a cursor")?;
            Ok(bytes.and_then(|b| syncline_core::Cursor::from_bytes(&b)).map_or(Seq(0), |c| c.seq))
        })
    }

    /// Returns how far this device has applied a scope; `None` where it is not here or the account is not in it.
    pub fn cursor_of(&self, scope: &ScopeId) -> Result<Option<Seq>, Error> {
        self.read(|conn| {
            let bytes: Option<Option<Vec<u8>>> = conn
                .prepare_cached("SELECT cursor FROM _syncline_scope WHERE scope_id = ?1 AND (n = 1 OR role IS NOT NULL)")
                .and_then(|mut q| q.query_row([&scope.0], |r| r.get(0)).optional())
                .doing("reading a cursor")?;
            Ok(bytes.map(|b| b.and_then(|b| syncline_core::Cursor::from_bytes(&b)).map_or(Seq(0), |c| c.seq)))
        })
    }

    /// Notes where the authority says that a scope is: the next request asks about it.
    pub fn note_moved(&self, scope: &ScopeId, seq: Seq) -> Result<(), Error> {
        let notes = lock(&self.notes);
        let Some(conn) = notes.as_ref() else { return Ok(()) };
        conn.prepare_cached("UPDATE _syncline_scope SET head = ?2, ask = 1 WHERE scope_id = ?1 AND (n = 1 OR role IS NOT NULL)")
            .and_then(|mut q| q.execute(rusqlite::params![scope.0, seq.0 as i64]))
            .doing("noting where a scope is")?;
        Ok(())
    }

    /// Rewrites the file after rows were taken away that nobody here may see any more: pages keep traces of what was once in them.
    /// Where that might renumber rows (`renumbered_by_vacuum`), or the disk has no room for it, free pages are overwritten and no more. If
    /// somebody holds the file, the next sync does it.
    pub fn wipe_if_due(&self) -> Result<(), Error> {
        if self.read(|conn| meta::<i64>(conn, "wipe"))?.is_none() {
            return Ok(());
        }
        let conn = self.connect()?;
        let rewritten = renumbered_by_vacuum(&conn)?.is_none() && conn.execute_batch("VACUUM").is_ok();
        let wipe = || -> rusqlite::Result<i64> {
            if !rewritten {
                overwrite_free_pages(&conn)?;
            }
            conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |r| r.get(0))
        };
        match wipe() {
            Ok(0) => self.note(&[("wipe", &rusqlite::types::Null)]),
            _ => Ok(()),
        }
    }

    /// Lets go of the file: after a detach.
    pub fn close(&self) {
        self.detached.store(true, Ordering::SeqCst);
        *lock(&self.engine) = None;
        *lock(&self.app) = None;
        *lock(&self.notes) = None;
    }

    /// Opens one more connection.
    pub fn connect(&self) -> Result<Connection, Error> {
        open_connection(&self.path, false)
    }
}

fn overwrite_free_pages(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch("PRAGMA secure_delete = ON; BEGIN IMMEDIATE; CREATE TABLE _syncline_wipe(x)")?;
    let free: i64 = conn.query_row("PRAGMA freelist_count", [], |r| r.get(0))?;
    // One row fills one page; pages that are freed are then overwritten.
    conn.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
         INSERT INTO _syncline_wipe SELECT zeroblob(page_size - 200) FROM n, pragma_page_size",
        [free.max(1)],
    )?;
    conn.execute_batch("DROP TABLE _syncline_wipe; COMMIT")
}
