//! The conflict journal: every concurrent value that lost, so that it can be put back.
//!
//! An entry's id is a hash of table, key, column and the losing stamp: wherever a merge drops a value, it is the same entry.
//! What a device notes goes to the authority with its next bundle, what the authority has comes with the deltas. Nothing here
//! ever holds up a sync: the journal is bounded in age, number and size, oldest first.

use crate::bind::Bind;
use crate::clash::Clash;
use crate::error::{Doing, Error, Result};
use crate::registry::Table;
use crate::rows::RowRecord;
use crate::tx::{Role, Scope, Tx};
use rusqlite::{OptionalExtension, params};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use syncline_core::digest::chain_of;
use syncline_core::{Cell, Hlc, JournalEntry, Key, Lost, LostReason, Policy, Seq, Stamp, Value, WriterId, elements};

/// How long an entry is kept, in ms.
pub const JOURNAL_MS: i64 = 30 * 24 * 60 * 60 * 1000;
/// The most entries.
pub const JOURNAL_ROWS_MAX: i64 = 10_000;
/// The most bytes of values.
pub const JOURNAL_BYTES_MAX: i64 = 16 << 20;
/// The most entries that travel at once.
pub const TRAVEL_ROWS_MAX: usize = 200;
/// The most bytes that travel at once.
pub const TRAVEL_BYTES_MAX: usize = 256 << 10;

/// A value that lost, for people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Journalled {
    /// 32 hex digits.
    pub id: String,
    /// Table.
    pub tbl: String,
    /// Primary key, by column.
    pub key: BTreeMap<String, Value>,
    /// Column.
    pub col: String,
    /// What lost.
    pub lost_value: Value,
    /// Who wrote it: the name of a device of this account, else the writer's id.
    pub lost_by: String,
    /// What won; NULL where the row ended.
    pub won_value: Value,
    /// When it lost, in ms since 1970.
    pub at: i64,
    /// Until when it is kept, in ms since 1970.
    pub expires_at: i64,
    /// `superseded`, `row_ended` or `type`.
    pub reason: String,
}

/// Returns an entry's id: a hash of table, key, column and the losing stamp.
pub fn entry_id(table: &str, key: &Key, column: &str, stamp: Stamp) -> [u8; 16] {
    chain_of(&[b"syncline journal 1", table.to_lowercase().as_bytes(), &key.0, column.to_lowercase().as_bytes(), &stamp.hlc.0.to_be_bytes(), &stamp.writer.0]).0
}

impl Tx<'_> {
    /// Notes what a merge dropped; `seq` is the bundle in which the authority did, 0 on a device.
    pub fn note_lost(&mut self, scope: &Scope, t: &Table, key: &Key, lost: &[Lost], seq: Seq) -> Result<()> {
        for l in lost.iter().filter(|_| !syncline_core::planted::on("losers_forgotten")) {
            let Some(column) = t.columns.get(l.column) else { continue };
            let won = l.won.as_ref().map(|c| c.value.clone()).unwrap_or_default();
            let entry = JournalEntry {
                table: t.def.name.clone(),
                key: key.clone(),
                column: column.name.clone(),
                lost: l.lost.value.clone(),
                hlc: l.lost.stamp.hlc,
                writer: l.lost.stamp.writer,
                won,
                reason: l.reason.word().into(),
                at: self.journal_now()?,
            };
            self.keep_journal(scope, t.n, &entry, seq)?;
        }
        if !lost.is_empty() {
            self.prune_journal()?;
        }
        Ok(())
    }

    /// The time by which entries age: a device whose clock is years off keeps what others noted today.
    pub(crate) fn journal_now(&self) -> Result<i64> {
        Ok(self.env.now_ms.saturating_add(self.clock_shift()?))
    }

    /// Notes a value that its column's policy does not take.
    pub(crate) fn note_misfit(&mut self, scope: &Scope, t: &Table, row: &RowRecord, c: usize, lost: Cell) -> Result<()> {
        let Some(column) = t.columns.get(c) else { return Ok(()) };
        let entry = JournalEntry {
            table: t.def.name.clone(),
            key: row.key.clone(),
            column: column.name.clone(),
            lost: lost.value,
            hlc: lost.stamp.hlc,
            writer: lost.stamp.writer,
            won: row.state.cell(c).map(|x| x.value.clone()).unwrap_or_default(),
            reason: "type".into(),
            at: self.journal_now()?,
        };
        let seq = if self.role == Role::Authority { self.head(scope.n)?.next() } else { Seq(0) };
        self.keep_journal(scope, t.n, &entry, seq)?;
        self.prune_journal()
    }

    fn keep_journal(&mut self, scope: &Scope, table: i64, e: &JournalEntry, seq: Seq) -> Result<()> {
        let id = entry_id(&e.table, &e.key, &e.column, Stamp { hlc: e.hlc, writer: e.writer });
        let size = e.lost.size() + e.won.size() + e.key.0.len();
        self.conn
            .prepare_cached(
                "INSERT INTO _syncline_journal(id, scope, tbl, key, col, lost, lost_hlc, lost_writer, won, reason, at, seq, size)
                 VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
                 ON CONFLICT(id) DO UPDATE SET seq = CASE seq WHEN 0 THEN excluded.seq ELSE seq END",
            )
            .and_then(|mut q| {
                q.execute(params![
                    &id[..],
                    scope.n,
                    table,
                    e.key.0,
                    e.column,
                    Bind(&e.lost),
                    e.hlc.0 as i64,
                    &e.writer.0[..],
                    Bind(&e.won),
                    e.reason,
                    e.at,
                    seq.0 as i64,
                    size as i64
                ])
            })
            .doing("keeping the journal")?;
        Ok(())
    }

    /// Takes in entries that came from elsewhere: on a device with a delta, at the authority with a bundle.
    pub fn take_journal(&mut self, scope: &Scope, entries: &[JournalEntry], seq: Seq) -> Result<()> {
        for e in entries {
            let Some(t) = self.registry()?.find(&e.table) else { continue };
            if e.key.decode().is_ok_and(|k| k.len() == t.key.len()) {
                self.keep_journal(scope, t.n, e, seq)?;
            }
        }
        if entries.is_empty() { Ok(()) } else { self.prune_journal() }
    }

    /// Reads what the authority has not heard of yet (on a device), or what is to go with a delta over (from, to].
    pub fn journal_to_send(&mut self, scope: &Scope, from: Seq, to: Seq) -> Result<Vec<JournalEntry>> {
        let (low, high) = if self.role == Role::Device { (-1, 0) } else { (from.0 as i64, to.0 as i64) };
        let registry = self.registry()?;
        let mut q = self
            .conn
            .prepare_cached(
                "SELECT tbl, key, col, lost, lost_hlc, lost_writer, won, reason, at, size FROM _syncline_journal
                 WHERE scope = ?1 AND seq > ?2 AND seq <= ?3 ORDER BY seq DESC, at DESC LIMIT ?4",
            )
            .doing("reading the journal")?;
        let mut rows = q.query(params![scope.n, low, high, TRAVEL_ROWS_MAX as i64]).doing("reading the journal")?;
        let (mut out, mut bytes) = (Vec::new(), 0);
        while let Some(r) = rows.next().doing("reading the journal")? {
            let read = || -> rusqlite::Result<(i64, usize, JournalEntry)> {
                Ok((
                    r.get(0)?,
                    r.get::<_, i64>(9)? as usize,
                    JournalEntry {
                        table: String::new(),
                        key: Key(r.get(1)?),
                        column: r.get(2)?,
                        lost: crate::bind::value(r.get_ref(3)?),
                        hlc: Hlc(r.get::<_, i64>(4)? as u64),
                        writer: WriterId(r.get(5)?),
                        won: crate::bind::value(r.get_ref(6)?),
                        reason: r.get(7)?,
                        at: r.get(8)?,
                    },
                ))
            };
            let (table, size, mut entry) = read().doing("reading the journal")?;
            bytes += size;
            if bytes > TRAVEL_BYTES_MAX && !out.is_empty() {
                break;
            }
            let Ok(t) = registry.get(table) else { continue };
            entry.table = t.def.name.clone();
            out.push(entry);
        }
        Ok(out)
    }

    /// Lets go of what is too old, too many or too large, oldest first.
    pub fn prune_journal(&mut self) -> Result<()> {
        let old = self.journal_now()? - JOURNAL_MS;
        self.conn.prepare_cached("DELETE FROM _syncline_journal WHERE at < ?1").and_then(|mut q| q.execute([old])).doing("pruning the journal")?;
        let (rows, bytes): (i64, i64) = self
            .conn
            .prepare_cached("SELECT count(*), coalesce(sum(size), 0) FROM _syncline_journal")
            .and_then(|mut q| q.query_row([], |r| Ok((r.get(0)?, r.get(1)?))))
            .doing("pruning the journal")?;
        if rows <= JOURNAL_ROWS_MAX && bytes <= JOURNAL_BYTES_MAX {
            return Ok(());
        }
        // A tenth more than needed, so that it is not done for every entry.
        self.conn
            .execute(
                "DELETE FROM _syncline_journal WHERE id IN (SELECT id FROM
                   (SELECT id, row_number() OVER w AS n, sum(size) OVER w AS bytes FROM _syncline_journal WINDOW w AS (ORDER BY at DESC, id))
                   WHERE n > ?1 OR bytes > ?2)",
                params![JOURNAL_ROWS_MAX / 10 * 9, JOURNAL_BYTES_MAX / 10 * 9],
            )
            .doing("pruning the journal")?;
        Ok(())
    }

    /// Lists the journal, newest first, at most `limit`.
    pub fn journal(&mut self, limit: usize) -> Result<Vec<Journalled>> {
        let registry = self.registry()?;
        let mut q = self
            .conn
            .prepare(
                "SELECT id, tbl, key, col, lost, coalesce((SELECT name FROM _syncline_device WHERE substr(device_id, -8) = lower(substr(hex(lost_writer), 1, 8))), lower(hex(lost_writer))), won, at, reason
                 FROM _syncline_journal WHERE at >= ?1 ORDER BY at DESC, id LIMIT ?2",
            )
            .doing("reading the journal")?;
        let mut rows = q.query(params![self.journal_now()? - JOURNAL_MS, limit as i64]).doing("reading the journal")?;
        let mut out = Vec::new();
        while let Some(r) = rows.next().doing("reading the journal")? {
            let read = || -> rusqlite::Result<(i64, Vec<u8>, Journalled)> {
                let at: i64 = r.get(7)?;
                let entry = Journalled {
                    id: syncline_core::hex(&r.get::<_, Vec<u8>>(0)?),
                    tbl: String::new(),
                    key: BTreeMap::new(),
                    col: r.get(3)?,
                    lost_value: crate::bind::value(r.get_ref(4)?),
                    lost_by: r.get(5)?,
                    won_value: crate::bind::value(r.get_ref(6)?),
                    at,
                    expires_at: at + JOURNAL_MS,
                    reason: r.get(8)?,
                };
                Ok((r.get(1)?, r.get(2)?, entry))
            };
            let (table, key, mut entry) = read().doing("reading the journal")?;
            let Ok(t) = registry.get(table) else { continue };
            entry.tbl = t.def.name.clone();
            entry.key = t.key_object(&Key(key));
            out.push(entry);
        }
        Ok(out)
    }

    /// Puts a value of the journal back: an ordinary new write. A counter gets what was lost added, a set its elements; a
    /// row that is gone comes back: with its last image if that is still here, else with what the journal has of it and defaults. The entry stays. The id may be shortened.
    pub fn restore(&mut self, id: &str) -> Result<()> {
        self.absorb()?;
        let unknown = || Error::Refused(format!("no entry of the journal has the id `{id}`; `syncline journal` lists them"));
        let found: Vec<(i64, i64, Vec<u8>, String, Value, String)> = {
            let mut q = self
                .conn
                .prepare("SELECT scope, tbl, key, col, lost, reason FROM _syncline_journal WHERE lower(hex(id)) GLOB ?1 || '*' LIMIT 2")
                .doing("reading the journal")?;
            let usable = id.len() >= 6 && id.bytes().all(|b| b.is_ascii_hexdigit());
            let read = |r: &rusqlite::Row| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?, crate::bind::value(r.get_ref(4)?), r.get(5)?));
            match usable {
                true => q.query_map([id.to_lowercase()], read).and_then(Iterator::collect).doing("reading the journal")?,
                false => vec![],
            }
        };
        let [(scope, table, key, column, lost, reason)] = &found[..] else { return Err(unknown()) };
        let (scope, t, key) = (self.scope(*scope)?, self.registry()?.get(*table)?, Key(key.clone()));
        let Some(c) = t.column(column).filter(|c| t.columns[*c].present) else {
            return Err(Error::Refused(format!("table `{}` has no column `{column}` here", t.def.name)));
        };
        let row = self.load_complete(&scope, &t, &key)?;
        let now = row.state.cell(c).map(|x| x.value.clone()).unwrap_or_default();
        let value = if row.state.is_dead() || reason == "type" { lost.clone() } else { combined(t.policies.column(c), &now, lost) };
        if t.policies.column(c).misfit(&value).is_some() {
            return Err(Error::Refused(format!("column `{column}` does not take this value; write what it was meant to be")));
        }
        let mut state = row.state.clone();
        let stamp = state.cell(c).map(|x| x.stamp).unwrap_or_default();
        state.set_extra(c, None);
        state.set_cell(c, Some(Cell { stamp, value }));
        let written = if row.is_shown() {
            let mut set = syncline_core::ColSet::none();
            set.insert(c);
            t.update(self, &scope, &key, &state, &set).map(drop)
        } else {
            // Of a row that is gone altogether the journal knows what was edited; the other columns get their defaults.
            for (c, value) in self.ended_with(&scope, &t, &key)? {
                if state.cell(c).is_none() {
                    state.set_cell(c, Some(Cell { stamp, value }));
                }
            }
            t.insert(self, &scope, &key, &state)
        };
        match written {
            Ok(()) => drop(self.absorb()?),
            Err(e) => return Err(Error::Refused(format!("the value does not fit any more: {}", Clash::from_error(e)?.message))),
        }
        Ok(())
    }

    /// Lists the last values that the journal has of a row that is gone, by column.
    fn ended_with(&self, scope: &Scope, t: &Table, key: &Key) -> Result<Vec<(usize, Value)>> {
        let mut q = self
            .conn
            .prepare("SELECT col, lost FROM _syncline_journal WHERE scope = ?1 AND tbl = ?2 AND key = ?3 AND reason = ?4 ORDER BY lost_hlc DESC")
            .doing("reading the journal")?;
        let read = |r: &rusqlite::Row| Ok((r.get::<_, String>(0)?, crate::bind::value(r.get_ref(1)?)));
        let found: Vec<(String, Value)> =
            q.query_map(params![scope.n, t.n, key.0, LostReason::RowEnded.word()], read).and_then(Iterator::collect).doing("reading the journal")?;
        Ok(found.into_iter().filter_map(|(name, value)| Some((t.column(&name).filter(|c| t.columns[*c].present)?, value))).collect())
    }

    /// Returns how many entries the journal has.
    pub fn journal_len(&self) -> Result<u64> {
        self.conn
            .query_row("SELECT count(*) FROM _syncline_journal", [], |r| r.get::<_, i64>(0))
            .optional()
            .map(|n| n.unwrap_or(0) as u64)
            .doing("reading the journal")
    }
}

/// What a column shows once a value that was lost is back in it.
fn combined(policy: Policy, now: &Value, lost: &Value) -> Value {
    match (policy, now, lost) {
        (Policy::Counter, Value::Int(a), Value::Int(b)) => Value::Int(a.saturating_add(*b)),
        (Policy::Set | Policy::GSet, _, _) => {
            let mut all = elements::parse(now).unwrap_or_default();
            let more: Vec<String> = elements::parse(lost).unwrap_or_default().into_iter().filter(|e| !all.contains(e)).collect();
            all.extend(more);
            elements::print(all.iter().map(String::as_str))
        }
        _ => lost.clone(),
    }
}
