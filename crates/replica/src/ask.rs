//! Rows of which concurrent values are kept until somebody decides (`ask`): where they are, what they held before, what settles them.
//!
//! Every device of the account sees the same values and any of them may decide; the decision is an ordinary new write, which has
//! seen all of them, so that the question goes everywhere. Columns whose concurrent values are equal ask nothing.

use crate::apply::RowObject;
use crate::conflicts::{Conflict, Resolution};
use crate::error::{Doing, Error, Result};
use crate::registry::Table;
use crate::rows::RowRecord;
use crate::tx::{Role, Scope, Tx};
use rusqlite::{OptionalExtension, params};
use std::collections::BTreeMap;
use std::sync::Arc;
use syncline_core::{Cell, ColSet, Extra, Hlc, Key, Policy, Reason, Refusal, RowState, Seq, Stamp, Value, WriterId};

impl Table {
    /// Whether any column asks.
    pub fn asks(&self) -> bool {
        self.policies.special_columns().any(|(_, p)| p == Policy::Ask)
    }
}

/// Returns the columns whose concurrent values differ, with the values, the earliest first.
fn open_columns(t: &Table, state: &RowState) -> Vec<(usize, Vec<Cell>)> {
    let asked = t.policies.special_columns().filter(|(_, p)| *p == Policy::Ask);
    let kept = asked.filter_map(|(c, _)| match state.extra(c) {
        Some(Extra::Ask(kept)) if kept.iter().any(|x| x.value != kept[0].value) => Some((c, kept.clone())),
        _ => None,
    });
    kept.collect()
}

/// One column that is asked about.
struct Open {
    column: usize,
    mine: Value,
    theirs: Value,
    all: Vec<Value>,
}

impl Tx<'_> {
    /// Keeps the list of rows that ask in step with a row that is saved.
    pub(crate) fn note_asked(&mut self, scope: &Scope, t: &Table, row: &RowRecord) -> Result<()> {
        if self.role != Role::Device || !t.asks() {
            return Ok(());
        }
        self.cache.inbox_stale = true;
        if row.state.is_dead() || open_columns(t, &row.state).is_empty() {
            return self.forget_asked(scope, t, &row.key);
        }
        self.conn
            .prepare_cached("INSERT OR IGNORE INTO _syncline_asked(scope, tbl, key, since) VALUES(?1, ?2, ?3, ?4)")
            .and_then(|mut q| q.execute(params![scope.n, t.n, row.key.0, self.env.now_ms]))
            .doing("noting what is asked")?;
        Ok(())
    }
    /// Takes a row off the list of rows that ask.
    pub(crate) fn forget_asked(&mut self, scope: &Scope, t: &Table, key: &Key) -> Result<()> {
        self.conn
            .prepare_cached("DELETE FROM _syncline_asked WHERE scope = ?1 AND tbl = ?2 AND key = ?3")
            .and_then(|mut q| q.execute(params![scope.n, t.n, key.0]))
            .doing("noting what is asked")?;
        Ok(())
    }

    /// Keeps what `ask` columns held before a write that knew it came from elsewhere: should another turn out to be concurrent with
    /// that one, it is what both began with.
    pub(crate) fn keep_prior(&mut self, scope: &Scope, t: &Table, key: &Key, before: &RowState, row: &RowRecord) -> Result<()> {
        if !t.asks() || row.pend.is_some() || row.state.is_dead() {
            return Ok(());
        }
        let mut prior = RowObject::new();
        for (c, _) in t.policies.special_columns().filter(|(_, p)| *p == Policy::Ask) {
            if let (Some(old), Some(new)) = (before.cell(c), row.state.cell(c))
                && old.stamp != new.stamp
                && row.state.extra(c).is_none()
            {
                prior.insert(t.columns[c].name.clone(), old.value.clone());
            }
        }
        if prior.is_empty() {
            return Ok(());
        }
        let mut base = self.base(scope, t, key)?.unwrap_or_default();
        base.extend(prior);
        self.keep_base(scope, t, key, row.version, &base)
    }

    /// Lists rows that ask, oldest first, at most `limit`.
    pub(crate) fn asked(&mut self, limit: usize) -> Result<Vec<Conflict>> {
        let found: Vec<(i64, i64, Vec<u8>, i64)> = {
            let mut q = self.conn.prepare("SELECT scope, tbl, key, since FROM _syncline_asked ORDER BY since, tbl, key LIMIT ?1").doing("listing conflicts")?;
            q.query_map([limit as i64], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?))).and_then(Iterator::collect).doing("listing conflicts")?
        };
        let mut out = Vec::new();
        for (scope, table, key, since) in found {
            let (scope, t, key) = (self.scope(scope)?, self.registry()?.get(table)?, Key(key));
            let row = self.load_complete(&scope, &t, &key)?;
            // A row that is parked or shelved is listed as that; what it asks comes when it is back.
            if !row.is_shown() || self.is_parked(&scope, &t, &key)? {
                continue;
            }
            let open = self.open(&t, &row)?;
            if open.is_empty() {
                continue;
            }
            let shown = t.row_object(&key, &row.state);
            let with = |value: fn(&Open) -> &Value| {
                let mut row = shown.clone();
                open.iter().for_each(|o| drop(row.insert(t.columns[o.column].name.clone(), value(o).clone())));
                row
            };
            let (local, remote) = (with(|o| &o.mine), with(|o| &o.theirs));
            let prior = self.base(&scope, &t, &key)?;
            let base = prior.map(|prior| {
                let mut row = shown.clone();
                let asked = open.iter().filter_map(|o| prior.get_key_value(&t.columns[o.column].name));
                row.extend(asked.map(|(name, value)| (name.clone(), value.clone())));
                row
            });
            let names: Vec<String> = open.iter().map(|o| format!("`{}`", t.columns[o.column].name)).collect();
            let count = open.iter().map(|o| o.all.len()).max().unwrap_or(2);
            let refusal = Refusal {
                schema: "main".into(),
                table: t.def.name.clone(),
                key: t.key_object(&key),
                op: "update".into(),
                base_row_version: row.version,
                server_row_version: row.version,
                server_row_deleted: false,
                server_row: Some(remote.clone()),
                reason: Reason::Ask,
                message: format!("{count} values of {} were written without knowing of each other", names.join(" and ")),
            };
            out.push(Conflict {
                id: crate::conflicts::conflict_id(&scope, &t, &key),
                scope_id: scope.id.0.clone(),
                state: "ask".into(),
                refusal,
                since,
                base,
                local: Some(local),
                remote: Some(remote),
                values: open.iter().map(|o| (t.columns[o.column].name.clone(), o.all.clone())).collect(),
            });
        }
        Ok(out)
    }

    /// Returns what a row asks: per column this device's own value (or, if it has none, the one shown) and the latest of the others.
    fn open(&mut self, t: &Table, row: &RowRecord) -> Result<Vec<Open>> {
        let mut out = Vec::new();
        for (column, kept) in open_columns(t, &row.state) {
            let mut mine = kept.len() - 1;
            for (i, cell) in kept.iter().enumerate() {
                if self.is_mine(cell.stamp.writer)? {
                    mine = i;
                }
            }
            let theirs = kept.iter().rev().find(|x| x.value != kept[mine].value).map(|x| x.value.clone()).unwrap_or_default();
            let mut all: Vec<Value> = Vec::new();
            kept.iter().for_each(|x| {
                if !all.contains(&x.value) {
                    all.push(x.value.clone())
                }
            });
            out.push(Open { column, mine: kept[mine].value.clone(), theirs, all });
        }
        Ok(out)
    }

    /// Whether a writer is an opening of this file.
    fn is_mine(&self, writer: WriterId) -> Result<bool> {
        let mine: Option<bool> = self
            .conn
            .prepare_cached("SELECT mine FROM _syncline_writer WHERE writer = ?1")
            .and_then(|mut q| q.query_row([&writer.0[..]], |r| r.get(0)).optional())
            .doing("reading writers")?;
        Ok(mine.unwrap_or(false))
    }

    /// Settles what a row asks. Columns that a merged row does not name stay this device's.
    pub(crate) fn resolve_asked(&mut self, scope: &Scope, t: &Arc<Table>, key: &Key, how: &Resolution) -> Result<()> {
        let row = self.load_complete(scope, t, key)?;
        let open = self.open(t, &row)?;
        let side =
            |value: fn(&Open) -> &Value| -> BTreeMap<String, Value> { open.iter().map(|o| (t.columns[o.column].name.clone(), value(o).clone())).collect() };
        let mut wanted = side(if *how == Resolution::Server { |o| &o.theirs } else { |o| &o.mine });
        if let Resolution::Merged(values) = how {
            for (name, value) in values {
                // Columns are named as SQLite names them.
                wanted.retain(|n, _| !n.eq_ignore_ascii_case(name));
                wanted.insert(name.clone(), value.clone());
            }
        }
        self.write_row(scope, t, &row, &wanted, false)?;
        self.absorb()?;
        // Where the value chosen is the one shown, SQL has written nothing. To decide for it is a write all the same.
        let mut row = self.load_complete(scope, t, key)?;
        let left = if syncline_core::planted::on("ask_settled_silently") { vec![] } else { open_columns(t, &row.state) };
        if left.is_empty() || !row.is_shown() {
            return Ok(());
        }
        let stamp = self.fresh_stamp(&row.state)?;
        let mut changed = ColSet::liveness();
        for (c, _) in left {
            let value = row.state.cell(c).map(|x| x.value.clone()).ok_or_else(|| Error::Damaged("a column that asks has no value".into()))?;
            row.state.write_as(&t.policies, c, stamp, value, None, None);
            changed.insert(c);
        }
        row.state.edit(stamp);
        self.note_local(scope, t, &mut row, &changed, false, Seq(0))
    }

    /// Returns the stamp of a write that is made now.
    pub(crate) fn fresh_stamp(&mut self, state: &RowState) -> Result<Stamp> {
        let now = Hlc::from_ms(self.env.now_ms.saturating_add(self.clock_shift()?));
        Ok(Stamp { hlc: now.max(state.next_hlc()), writer: self.writer()? })
    }
}
