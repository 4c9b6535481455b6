//! Whether an authority's directory is whole: all of it from one moment. And what makes it so: backup and restore.
//!
//! Beside `server.db` lies `opened`, which says how often the authority was opened and which history it lives; the database says
//! the same. A file that was put back alone does not agree with the other. After a crash, and where a table's triggers are gone,
//! more is compared: pages, digests, and each table with what the sidecar says of its rows.
//!
//! A directory put back whole is no fault here: devices find out by history and chain, and offer again what is missing.

use crate::engine::{OpenError, system_env};
use crate::{Authority, accounts};
use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use syncline_core::HistoryId;
use syncline_replica::{Doing, Error, Replica, Tx};

const DATABASE: &str = "server.db";
const OPENED: &str = "opened";
/// What SQLite keeps beside a database.
const BESIDE: [&str; 2] = ["server.db-wal", "server.db-shm"];

/// What a backup holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Backup {
    /// The directory.
    pub directory: PathBuf,
    /// How large the database is.
    pub bytes: u64,
    /// The history that it is of.
    pub history_id: HistoryId,
    /// How many scopes are in it.
    pub scopes: u64,
    /// How many bundles.
    pub bundles: u64,
}

/// Whether a crash left something to recover: looked at before the database is opened.
pub fn is_unclean(dir: &Path) -> bool {
    fs::metadata(dir.join(BESIDE[0])).is_ok_and(|wal| wal.len() > 0)
}

/// Finds out whether a directory belongs together; says what does not.
pub fn check(authority: &mut Authority, dir: &Path, unclean: bool) -> Result<(), String> {
    let history = authority.history();
    let known = read_opened(dir).map_err(|e| e.to_string())?;
    let found = authority.replica.read(&mut system_env(), |tx| {
        let opened: u64 = tx.meta::<i64>("opened")?.unwrap_or(0) as u64;
        if let Some(why) = compare_opened(known, history, opened) {
            return Ok(Some(why));
        }
        if let Some(why) = bundle_log(tx)? {
            return Ok(Some(why));
        }
        if let Some(why) = missing_table(tx)? {
            return Ok(Some(why));
        }
        if !unclean {
            return Ok(None);
        }
        Ok(match pages(tx)? {
            Some(why) => Some(why),
            None => digests(tx)?,
        })
    });
    if let Some(why) = found.map_err(|e| e.to_string())? {
        return Err(why);
    }
    swapped_table(&mut authority.replica).map_err(|e| e.to_string())?.map_or(Ok(()), Err)
}

/// Notes that the authority is opened once more, in the database and then beside it.
pub fn note_opened(authority: &mut Authority, dir: &Path) -> Result<(), OpenError> {
    let failed = |e: Error| OpenError::Authority(dir.display().to_string(), e.into());
    let n = authority.replica.transact(&mut system_env(), |tx| {
        let n = tx.meta::<i64>("opened")?.unwrap_or(0) + 1;
        tx.set_meta("opened", n)?;
        Ok(n)
    });
    write_opened(dir, authority.history(), n.map_err(failed)? as u64).map_err(|e| OpenError::Directory(dir.display().to_string(), e))
}

/// Copies the authority, as it is at one moment, into a directory that has none yet. Works beside a running server, whose commits
/// go on meanwhile.
pub fn backup(data: &Path, to: &Path, now_ms: i64) -> Result<Backup, OpenError> {
    let at = |e| OpenError::Directory(to.display().to_string(), e);
    fs::create_dir_all(to).map_err(at)?;
    let (target, part) = (to.join(DATABASE), to.join("server.db.part"));
    if target.exists() {
        return Err(at(std::io::Error::new(std::io::ErrorKind::AlreadyExists, "there is a backup in it already")));
    }
    let _ = fs::remove_file(&part);
    let broken = |e| OpenError::Sqlite(data.join(DATABASE).display().to_string(), e);
    let conn = Connection::open(data.join(DATABASE)).map_err(broken)?;
    conn.busy_timeout(std::time::Duration::from_secs(10)).map_err(broken)?;
    conn.execute("VACUUM INTO ?1", [part.to_string_lossy()]).map_err(broken)?;
    let copy = Connection::open(&part).map_err(broken)?;
    // The copy is as it is: no journal beside it, and what was open then is not.
    copy.execute_batch("PRAGMA journal_mode = DELETE; DELETE FROM _syncline_stream").map_err(broken)?;
    let backup = describe(&copy, to).map_err(broken)?;
    let opened: i64 = copy.query_row("SELECT coalesce((SELECT value FROM _syncline_meta WHERE name = 'opened'), 0)", [], |r| r.get(0)).map_err(broken)?;
    drop(copy);
    File::open(&part).and_then(|f| f.sync_all()).map_err(at)?;
    write_opened(to, backup.history_id, opened as u64).map_err(at)?;
    fs::rename(&part, &target).and_then(|()| sync_dir(to)).map_err(at)?;
    conn.execute("INSERT INTO _syncline_meta(name, value) VALUES('last_backup_ms', ?1) ON CONFLICT(name) DO UPDATE SET value = excluded.value", [now_ms])
        .map_err(broken)?;
    Ok(Backup { bytes: fs::metadata(&target).map_err(at)?.len(), ..backup })
}

/// Puts a backup in place of the authority's database, and begins a new history, so that every device offers again what the backup
/// lacks. Without a backup it only begins a new history: somebody has put the directory back already. What was there before is
/// kept in a directory beside, whose name is returned. No server may run.
pub fn restore(data: &Path, from: Option<&Path>, take_tables: bool, now_ms: i64) -> Result<(Backup, Option<PathBuf>), OpenError> {
    let shown = data.display().to_string();
    let at = |e| OpenError::Directory(shown.clone(), e);
    fs::create_dir_all(data).map_err(at)?;
    let lock = File::options().create(true).truncate(false).write(true).open(data.join("lock")).map_err(at)?;
    if lock.try_lock().is_err() {
        return Err(OpenError::InUse(shown));
    }
    let before = read_opened(data).ok().flatten().map_or(0, |o| o.1);
    let mut kept = None;
    if let Some(from) = from {
        examine(from)?;
        kept = put_aside(data, now_ms).map_err(at)?;
        for name in [DATABASE, BESIDE[0]] {
            if from.join(name).exists() {
                fs::copy(from.join(name), data.join(name)).and_then(|_| File::open(data.join(name))?.sync_all()).map_err(at)?;
            }
        }
    }
    let path = data.join(DATABASE);
    let broken = |e| OpenError::Sqlite(path.display().to_string(), e);
    if !path.is_file() {
        return Err(at(std::io::Error::new(std::io::ErrorKind::NotFound, "there is no server.db in it; name a backup with --from")));
    }
    let conn = Connection::open(&path).map_err(broken)?;
    conn.query_row("PRAGMA journal_mode = WAL", [], |r| r.get::<_, String>(0)).map_err(broken)?;
    let mut env = system_env();
    let history = env.id(HistoryId::from_random);
    let mut replica = Replica::open(conn).map_err(|e| OpenError::Authority(shown.clone(), e.into()))?;
    let opened = replica
        .transact(&mut env, |tx| {
            accounts::create_tables(tx.conn).map_err(|e| Error::Refused(e.to_string()))?;
            if take_tables {
                tx.verify_capture()?;
            }
            let opened = tx.meta::<i64>("opened")?.unwrap_or(0).max(before as i64) + 1;
            tx.set_meta("opened", opened)?;
            tx.set_meta("history_id", &history.0[..])?;
            Ok(opened)
        })
        .map_err(|e| OpenError::Authority(shown.clone(), e.into()))?;
    write_opened(data, history, opened as u64).map_err(at)?;
    let backup = describe(replica.conn(), data).map_err(broken)?;
    Ok((Backup { bytes: fs::metadata(&path).map_err(at)?.len(), ..backup }, kept))
}

/// Refuses a backup that is none, before anything is moved.
fn examine(from: &Path) -> Result<(), OpenError> {
    let shown = from.display().to_string();
    let path = from.join(DATABASE);
    if !path.is_file() {
        let none = std::io::Error::new(std::io::ErrorKind::NotFound, "there is no server.db in it");
        return Err(OpenError::Directory(shown, none));
    }
    let broken = |e| OpenError::Sqlite(path.display().to_string(), e);
    let conn = Connection::open(&path).map_err(broken)?;
    let said: String = conn.query_row("PRAGMA quick_check(1)", [], |r| r.get(0)).map_err(broken)?;
    if said != "ok" {
        return Err(OpenError::Damaged(shown, format!("the backup's pages are damaged ({said})")));
    }
    describe(&conn, from).map_err(broken).map(drop)
}

/// Moves what is there into a directory of its own.
fn put_aside(data: &Path, now_ms: i64) -> std::io::Result<Option<PathBuf>> {
    if !data.join(DATABASE).exists() {
        return Ok(None);
    }
    let aside = data.join(format!("replaced-{now_ms}"));
    fs::create_dir(&aside)?;
    for name in [DATABASE, BESIDE[0], BESIDE[1], OPENED] {
        if data.join(name).exists() {
            fs::rename(data.join(name), aside.join(name))?;
        }
    }
    sync_dir(&aside)?;
    Ok(Some(aside))
}

fn describe(conn: &Connection, directory: &Path) -> rusqlite::Result<Backup> {
    let sql = "SELECT (SELECT value FROM _syncline_meta WHERE name = 'history_id'), (SELECT count(*) FROM _syncline_scope WHERE scope_id <> ''), (SELECT count(*) FROM _syncline_bundle)";
    conn.query_row(sql, [], |r| {
        Ok(Backup {
            directory: directory.to_owned(),
            bytes: 0,
            history_id: HistoryId(r.get(0)?),
            scopes: r.get::<_, i64>(1)? as u64,
            bundles: r.get::<_, i64>(2)? as u64,
        })
    })
}

// ---- what is compared

fn compare_opened(known: Option<(HistoryId, u64)>, history: HistoryId, opened: u64) -> Option<String> {
    match known {
        // Its first opening was cut short, or it was never opened.
        None if opened <= 1 => None,
        None => Some("the file `opened` is missing beside server.db".into()),
        // A crash between the two leaves the database ahead by one.
        Some((of, n)) if of == history && (n == opened || n + 1 == opened) => None,
        Some((of, _)) if of != history => Some("server.db and the file `opened` are of different histories".into()),
        Some((_, n)) => Some(format!("server.db was opened {opened} times, the file `opened` says {n}")),
    }
}

fn bundle_log(tx: &Tx) -> Result<Option<String>, Error> {
    let sql = "SELECT 'scope ' || s.scope_id || ' is at ' || s.seq || ', its bundle log has ' || count(b.seq) || ' bundles up to ' || coalesce(max(b.seq), 0)
               FROM _syncline_scope s LEFT JOIN _syncline_bundle b ON b.scope = s.n
               GROUP BY s.n HAVING s.seq <> count(b.seq) OR s.seq <> coalesce(max(b.seq), 0) LIMIT 1";
    tx.conn.query_row(sql, [], |r| r.get(0)).optional().doing("checking the bundle log")
}

fn missing_table(tx: &mut Tx) -> Result<Option<String>, Error> {
    for t in tx.registry()?.all().into_iter().filter(|t| t.present) {
        let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE)";
        let there: bool = tx.conn.query_row(sql, [&t.def.name], |r| r.get(0)).doing("checking tables")?;
        if !there {
            return Ok(Some(format!("its table `{}` is missing", t.def.name)));
        }
    }
    Ok(None)
}

fn pages(tx: &Tx) -> Result<Option<String>, Error> {
    let said: String = tx.conn.query_row("PRAGMA quick_check(1)", [], |r| r.get(0)).doing("checking pages")?;
    Ok((said != "ok").then(|| format!("its pages do not fit together ({said})")))
}

fn digests(tx: &Tx) -> Result<Option<String>, Error> {
    let mut q = tx.conn.prepare("SELECT n, scope_id, digest FROM _syncline_scope").doing("checking digests")?;
    let scopes: Vec<(i64, String, i64)> = q.query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?))).and_then(Iterator::collect).doing("checking digests")?;
    for (n, scope, digest) in scopes {
        let mut q = tx.conn.prepare_cached("SELECT hash FROM _syncline_row WHERE scope = ?1").doing("checking digests")?;
        let mut rows = q.query(params![n]).doing("checking digests")?;
        let mut sum = 0u64;
        while let Some(r) = rows.next().doing("checking digests")? {
            sum = sum.wrapping_add(r.get::<_, i64>(0).doing("checking digests")? as u64);
        }
        if sum != digest as u64 {
            return Ok(Some(format!("the rows of scope {scope} are not those that its digest is of")));
        }
    }
    Ok(None)
}

/// Finds a table that was put back without the sidecar: its triggers are gone with the table that was there, and its rows are others.
fn swapped_table(replica: &mut Replica) -> Result<Option<String>, Error> {
    let mut found = None;
    let looked = replica.transact(&mut system_env(), |tx| {
        let count = |tx: &Tx| tx.conn.query_row("SELECT count(*) FROM _syncline_log", [], |r| r.get::<_, i64>(0)).doing("comparing tables");
        let before = count(tx)?;
        let mended = tx.verify_capture()?;
        let differ = count(tx)? - before;
        if differ > 0 && !mended.is_empty() {
            found = Some(format!("the rows of `{}` are not those that were committed: {differ} differ", mended.join("`, `")));
            // Looked at only: nothing of it is kept.
            return Err(Error::Refused("looked".into()));
        }
        Ok(())
    });
    match (found, looked) {
        (Some(why), _) => Ok(Some(why)),
        (None, looked) => looked.map(|()| None),
    }
}

fn read_opened(dir: &Path) -> std::io::Result<Option<(HistoryId, u64)>> {
    let text = match fs::read_to_string(dir.join(OPENED)) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let read = text.split_once(' ').and_then(|(history, n)| Some((HistoryId::parse(history)?, n.trim().parse().ok()?)));
    Ok(Some(read.unwrap_or((HistoryId([0; 16]), 0))))
}

fn write_opened(dir: &Path, history: HistoryId, n: u64) -> std::io::Result<()> {
    let temp = dir.join("opened.new");
    let mut file = File::create(&temp)?;
    writeln!(file, "{history} {n}")?;
    file.sync_all()?;
    fs::rename(&temp, dir.join(OPENED))?;
    sync_dir(dir)
}

fn sync_dir(dir: &Path) -> std::io::Result<()> {
    if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
}
