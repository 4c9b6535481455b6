//! Checking a database, and mending what can be mended from what is there.
//!
//! The tables are the truth: where the sidecar disagrees with them, the difference becomes an ordinary local write.

use crate::database::{Database, Inner};
use crate::error::Error;
use crate::room::Room;
use rusqlite::params;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use syncline_core::Key;
use syncline_core::schema::quote;
use syncline_replica::{Doing, Scope, Table, Tx};

/// How many single rows are named per table.
const NAMED_MAX: usize = 5;

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// integrity, capture_repaired, applying_left, row_differs, row_missing, row_unknown, digest, null_key, stage.
    pub code: String,
    /// The table, if it is about one.
    pub table: Option<String>,
    /// In words, with what to do.
    pub message: String,
    /// Whether it was mended.
    pub fixed: bool,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoctorReport {
    /// Whether nothing is left that should be mended.
    pub ok: bool,
    /// Row states that were compared with their tables.
    pub rows_checked: u64,
    /// What was found.
    pub findings: Vec<Finding>,
    /// How much room the file takes.
    #[serde(default)]
    pub room: Room,
    /// Bytes that the file has shrunk by.
    #[serde(default)]
    pub given_back_bytes: u64,
    /// What kept free room from being given back.
    #[serde(default)]
    pub notices: Vec<String>,
}

impl DoctorReport {
    fn find(&mut self, code: &str, table: Option<&str>, message: impl Into<String>, fixed: bool) {
        self.findings.push(Finding { code: code.into(), table: table.map(str::to_owned), message: message.into(), fixed });
    }
}

impl Database {
    /// Checks the file, capture, and every row state against its table; with `fix` mends what it can. Cost: reads everything.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
    /// # fn main() -> Result<(), syncline::Error> {
    /// # let (dir, db) = notes();
    /// db.write(|tx| tx.execute("INSERT INTO note(id) VALUES('a')", []))?;
    /// let report = db.doctor(false)?;
    /// assert!(report.ok, "{:?}", report.findings);
    /// # Ok(()) }
    /// ```
    pub fn doctor(&self, fix: bool) -> Result<DoctorReport, Error> {
        let mut report = DoctorReport::default();
        integrity(&self.inner, &mut report)?;
        if report.findings.is_empty() {
            // In a damaged file nothing more is touched.
            report = self.inner.with(|tx| {
                let mut report = report;
                check(tx, fix, &mut report)?;
                if fix {
                    tx.prune_journal()?;
                }
                Ok(report)
            })?;
            if fix {
                match self.give_back()? {
                    Ok(bytes) => report.given_back_bytes = bytes,
                    Err(why) => report.notices.push(why),
                }
            }
            report.room = self.room()?;
        }
        report.ok = report.findings.iter().all(|f| f.fixed);
        Ok(report)
    }
}

fn integrity(inner: &Inner, report: &mut DoctorReport) -> Result<(), Error> {
    let lines: Vec<String> = inner.read(|conn| {
        let mut q = conn.prepare("PRAGMA integrity_check").doing("checking the file")?;
        let lines = q.query_map([], |r| r.get(0)).and_then(Iterator::collect);
        Ok(lines.doing("checking the file")?)
    })?;
    for line in lines.iter().filter(|l| *l != "ok") {
        report.find("integrity", None, format!("the file is damaged: {line}; put a backup back, or attach an empty file to the account again"), false);
    }
    Ok(())
}

fn check(tx: &mut Tx, fix: bool, report: &mut DoctorReport) -> syncline_replica::Result<()> {
    let applying: i64 = tx.conn.query_row("SELECT count(*) FROM _syncline_applying", [], |r| r.get(0)).doing("looking at capture")?;
    if applying > 0 {
        if fix {
            tx.set_applying(false)?;
        }
        report.find("applying_left", None, "capture was switched off and not on again; writes since then are found by comparing the tables", fix);
    }
    for table in tx.absorb()?.repaired {
        report.find(
            "capture_repaired",
            Some(&table),
            format!("triggers of table `{table}` were missing or stale; they are installed anew and its rows compared"),
            true,
        );
    }
    let scopes = tx.scopes()?;
    for scope in &scopes {
        stage(tx, scope, fix, report)?;
    }
    let tables: Vec<Arc<Table>> = tx.registry()?.all().into_iter().filter(|t| t.present).collect();
    let mut differing = Vec::new();
    for t in &tables {
        let before = report.findings.len();
        rows(tx, &scopes, t, fix, report)?;
        if report.findings.len() > before {
            differing.push(t.n);
        }
        null_keys(tx, t, report)?;
    }
    if fix && !differing.is_empty() {
        for n in differing {
            tx.reconcile(n, false)?;
        }
        tx.absorb()?;
    }
    scopes.iter().try_for_each(|scope| digest(tx, scope, fix, report))
}

/// Compares every row state with its table, by hash.
fn rows(tx: &mut Tx, scopes: &[Scope], t: &Arc<Table>, fix: bool, report: &mut DoctorReport) -> syncline_replica::Result<()> {
    let mut keys: Vec<(&Scope, Key)> = Vec::new();
    for scope in scopes {
        let mut q = tx.conn.prepare_cached("SELECT key FROM _syncline_row WHERE scope = ?1 AND tbl = ?2 AND kind = 0").doing("reading row states")?;
        let found: Vec<Vec<u8>> = q.query_map(params![scope.n, t.n], |r| r.get(0)).and_then(Iterator::collect).doing("reading row states")?;
        keys.extend(found.into_iter().map(|key| (scope, Key(key))));
    }
    let (mut missing, mut differ, mut found) = (Vec::new(), Vec::new(), 0);
    for (scope, key) in keys {
        report.rows_checked += 1;
        if t.read(tx, scope, &key)?.is_none() {
            missing.push(key);
            continue;
        }
        found += 1;
        let row = tx.load_complete(scope, t, &key)?;
        if row.compute_hash(t) != row.hash {
            differ.push(key);
        }
    }
    let name = &t.def.name;
    let all_keys: Vec<String> = t.key.iter().map(|k| format!("{} IS NOT NULL", quote(k))).collect();
    let sql = format!("SELECT count(*) FROM {} WHERE {}", quote(name), all_keys.join(" AND "));
    let in_table: i64 = tx.conn.query_row(&sql, [], |r| r.get(0)).doing("counting rows")?;
    let named = |keys: &[Key]| keys.iter().take(NAMED_MAX).map(|k| serde_json::to_string(&t.key_object(k)).unwrap_or_default()).collect::<Vec<_>>().join(", ");
    let advice = if fix { "noted as written here" } else { "run `syncline doctor --fix` to have them noted as written here" };
    if !missing.is_empty() {
        report.find(
            "row_missing",
            Some(name),
            format!("{} rows of `{name}` are gone without having been captured ({}); {advice}", missing.len(), named(&missing)),
            fix,
        );
    }
    if !differ.is_empty() {
        report.find(
            "row_differs",
            Some(name),
            format!("{} rows of `{name}` are not as the sidecar has them ({}); {advice}", differ.len(), named(&differ)),
            fix,
        );
    }
    if in_table > found {
        report.find("row_unknown", Some(name), format!("{} rows of `{name}` are unknown to the sidecar; {advice}", in_table - found), fix);
    }
    Ok(())
}

fn null_keys(tx: &mut Tx, t: &Table, report: &mut DoctorReport) -> syncline_replica::Result<()> {
    let name = &t.def.name;
    let any: Vec<String> = t.key.iter().map(|k| format!("{} IS NULL", quote(k))).collect();
    let sql = format!("SELECT count(*) FROM {} WHERE {}", quote(name), any.join(" OR "));
    let count: i64 = tx.conn.query_row(&sql, [], |r| r.get(0)).doing("looking for keys with NULL")?;
    if count > 0 {
        report.find("null_key", Some(name), format!("{count} rows of `{name}` have NULL in their key and cannot sync; give them one"), false);
    }
    Ok(())
}

/// A delta half read, with pages that are not there.
fn stage(tx: &mut Tx, scope: &Scope, fix: bool, report: &mut DoctorReport) -> syncline_replica::Result<()> {
    let (stage, pages): (Option<Vec<u8>>, i64) = tx
        .conn
        .query_row("SELECT stage, (SELECT count(*) FROM _syncline_stage WHERE scope = ?1) FROM _syncline_scope WHERE n = ?1", [scope.n], |r| {
            Ok((r.get(0)?, r.get(1)?))
        })
        .doing("reading a stage")?;
    let expected = stage.as_deref().map(|s| serde_json::from_slice::<serde_json::Value>(s).ok().and_then(|v| v["pages"].as_i64()).unwrap_or(-1));
    if expected.unwrap_or(0) == pages {
        return Ok(());
    }
    if fix {
        tx.conn.execute("UPDATE _syncline_scope SET stage = NULL WHERE n = ?1", [scope.n]).doing("dropping a stage")?;
        tx.conn.execute("DELETE FROM _syncline_stage WHERE scope = ?1", [scope.n]).doing("dropping a stage")?;
    }
    report.find("stage", None, "what was half received does not fit together; dropped, the next sync reads it again", fix);
    Ok(())
}

/// The stored digest is the sum of the rows' hashes.
fn digest(tx: &mut Tx, scope: &Scope, fix: bool, report: &mut DoctorReport) -> syncline_replica::Result<()> {
    let sum = {
        let mut q = tx.conn.prepare("SELECT hash FROM _syncline_row WHERE scope = ?1").doing("summing hashes")?;
        let hashes = q.query_map([scope.n], |r| r.get::<_, i64>(0)).doing("summing hashes")?;
        let mut sum = 0u64;
        for hash in hashes {
            sum = sum.wrapping_add(hash.doing("summing hashes")? as u64);
        }
        sum
    };
    let known = tx.digest(scope.n)?;
    if known == sum {
        return Ok(());
    }
    if fix {
        // What this transaction itself changed is added to the stored number at its end, so only the error is corrected here.
        let stored: i64 = tx.conn.query_row("SELECT digest FROM _syncline_scope WHERE n = ?1", [scope.n], |r| r.get(0)).doing("reading the digest")?;
        let mended = (stored as u64).wrapping_add(sum.wrapping_sub(known)) as i64;
        tx.conn.execute("UPDATE _syncline_scope SET digest = ?2 WHERE n = ?1", params![scope.n, mended]).doing("correcting the digest")?;
    }
    report.find("digest", None, "the digest is not the sum of its rows; the server would be told that this device differs", fix);
    Ok(())
}
