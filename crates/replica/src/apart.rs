//! Rows that are not merged while a person has not decided: a pending row of a `reject` table, and what the authority has
//! meanwhile, are kept apart. And the base: what a row was before the edits that are pending, where somebody may ask for it.

use crate::apply::{Applied, Incoming, RowObject, Translation};
use crate::error::{Doing, Result};
use crate::registry::Table;
use crate::rows::RowRecord;
use crate::tx::{Scope, Tx};
use rusqlite::{OptionalExtension, params};
use std::sync::Arc;
use syncline_core::{Key, Limits, Lost, LostReason, Policy, Reason, Refusal, Rows, RowsBuilder, Seq, frame};

impl Table {
    /// Whether what a row was before its pending edits is kept.
    pub fn keeps_base(&self) -> bool {
        self.policies.reject || self.policies.special_columns().any(|(_, p)| p == Policy::Ask)
    }
}

impl Tx<'_> {
    /// Keeps what a confirmed row was before its first pending edit, or what its `ask` columns were before their last write.
    pub(crate) fn keep_base(&mut self, scope: &Scope, t: &Table, key: &Key, version: Seq, row: &RowObject) -> Result<()> {
        let json = serde_json::to_vec(row).unwrap_or_default();
        self.conn
            .prepare_cached("INSERT OR REPLACE INTO _syncline_base(scope, tbl, key, version, row) VALUES(?1, ?2, ?3, ?4, ?5)")
            .and_then(|mut q| q.execute(params![scope.n, t.n, key.0, version.0 as i64, json]))
            .doing("keeping what a row was")?;
        Ok(())
    }
    /// Returns what a pending row was when its first pending edit was made.
    pub fn base(&self, scope: &Scope, t: &Table, key: &Key) -> Result<Option<RowObject>> {
        let json: Option<Vec<u8>> = self
            .conn
            .prepare_cached("SELECT row FROM _syncline_base WHERE scope = ?1 AND tbl = ?2 AND key = ?3")
            .and_then(|mut q| q.query_row(params![scope.n, t.n, key.0], |r| r.get(0)).optional())
            .doing("reading what a row was")?;
        Ok(json.and_then(|j| serde_json::from_slice(&j).ok()))
    }
    /// Forgets what rows were that are not pending any more.
    pub(crate) fn forget_bases(&mut self) -> Result<()> {
        // What `ask` columns were is wanted as long as somebody may turn out to have written them at the same time. Table
        // numbers are our own: they need no binding.
        let asks: Vec<String> = self.registry()?.all().iter().filter(|t| t.asks()).map(|t| t.n.to_string()).collect();
        let sql = format!(
            "DELETE FROM _syncline_base WHERE NOT EXISTS (SELECT 1 FROM _syncline_row r
               WHERE r.scope = _syncline_base.scope AND r.tbl = _syncline_base.tbl AND r.key = _syncline_base.key
                 AND (r.pend IS NOT NULL OR r.kind = 0 AND r.tbl IN ({})))",
            asks.join(", ")
        );
        self.conn.prepare_cached(&sql).and_then(|mut q| q.execute([])).doing("forgetting what rows were")?;
        Ok(())
    }

    /// Whether what came must not be merged with the pending row that is here: the table rejects, and it knows something that
    /// this device does not.
    pub(crate) fn stays_apart(&self, t: &Table, row: &RowRecord, x: &Incoming) -> bool {
        t.policies.reject && row.pend.is_some() && !x.state.ctx.within(&row.state.ctx) && !syncline_core::planted::on("reject_merges")
    }

    /// Keeps the authority's row beside the pending one, and parks that.
    pub(crate) fn keep_apart(&mut self, scope: &Scope, t: &Arc<Table>, row: &RowRecord, x: Incoming) -> Result<()> {
        let mut remote = match self.apart(scope, t, &row.key)? {
            Some(mut before) => {
                before.state.merge(&x.state, &x.mask, &t.policies);
                before.mask.union(&x.mask);
                before.partial &= x.partial;
                (before.seq, before.created) = (x.seq, x.created.max(before.created));
                before
            }
            None => x,
        };
        remote.mask.insert_liveness();
        let mut builder = RowsBuilder::default();
        builder.add(t.n as u64, || t.table_ref(), row.key.clone(), remote.seq, remote.created, remote.state.clone(), &remote.mask);
        let bytes = frame::encode(&builder.finish()).doing("keeping two rows apart")?;
        self.conn
            .prepare_cached(
                "INSERT INTO _syncline_apart(scope, tbl, key, partial, remote) VALUES(?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT(scope, tbl, key) DO UPDATE SET partial = excluded.partial, remote = excluded.remote",
            )
            .and_then(|mut q| q.execute(params![scope.n, t.n, row.key.0, remote.partial, bytes]))
            .doing("keeping two rows apart")?;
        let dead = remote.state.is_dead();
        // Columns that did not come are as they were when the edit began.
        let mut server_row = self.base(scope, t, &row.key)?.unwrap_or_else(|| t.row_object(&row.key, &row.state));
        let mut shown = remote.state.without_columns();
        remote.mask.columns().for_each(|c| shown.take_column(c, &remote.state, c));
        server_row.extend(t.row_object(&row.key, &shown));
        let refusal = Refusal {
            schema: "main".into(),
            table: t.def.name.clone(),
            key: t.key_object(&row.key),
            op: crate::conflicts::operation(row).into(),
            base_row_version: row.version,
            server_row_version: remote.seq,
            server_row_deleted: dead,
            server_row: (!dead).then_some(server_row),
            reason: Reason::Version,
            message: format!("another device changed this row (version {}) after this edit was begun on version {}", remote.seq, row.version),
        };
        self.park(scope, t, &row.key, &refusal)
    }

    /// Returns what the authority has beside a pending row.
    pub(crate) fn apart(&mut self, scope: &Scope, t: &Table, key: &Key) -> Result<Option<Incoming>> {
        if !t.policies.reject {
            return Ok(None);
        }
        let kept: Option<(bool, Vec<u8>)> = self
            .conn
            .prepare_cached("SELECT partial, remote FROM _syncline_apart WHERE scope = ?1 AND tbl = ?2 AND key = ?3")
            .and_then(|mut q| q.query_row(params![scope.n, t.n, key.0], |r| Ok((r.get(0)?, r.get(1)?))).optional())
            .doing("reading a row kept apart")?;
        let Some((partial, bytes)) = kept else { return Ok(None) };
        let own = Limits { wire_bytes: usize::MAX, body_bytes: usize::MAX, ratio: usize::MAX, ..Limits::default() };
        let mut rows: Rows = frame::decode(&bytes, &own).doing("reading a row kept apart")?;
        let (_, mut x) = Translation::new(self, &rows)?.open(&mut rows, 0)?;
        x.partial = partial;
        Ok(Some(x))
    }

    /// Merges what was kept apart, because somebody has decided: the edit that says how follows, on top of both.
    pub(crate) fn join_apart(&mut self, scope: &Scope, t: &Arc<Table>, key: &Key) -> Result<bool> {
        let Some(x) = self.apart(scope, t, key)? else { return Ok(false) };
        self.conn
            .execute("DELETE FROM _syncline_apart WHERE scope = ?1 AND tbl = ?2 AND key = ?3", params![scope.n, t.n, key.0])
            .doing("joining a row kept apart")?;
        self.conn
            .execute("DELETE FROM _syncline_base WHERE scope = ?1 AND tbl = ?2 AND key = ?3", params![scope.n, t.n, key.0])
            .doing("joining a row kept apart")?;
        self.set_applying(true)?;
        let mut out = Applied::default();
        self.merge_row(scope, t, x, &mut out)?;
        self.finish_apply(scope, &mut out)?;
        self.set_applying(false)?;
        Ok(true)
    }

    /// Merges what is still kept apart from rows that are not pending any more.
    pub(crate) fn join_settled(&mut self, scope: &Scope, out: &mut Applied) -> Result<()> {
        let settled: Vec<(i64, Vec<u8>)> = {
            let mut q = self
                .conn
                .prepare_cached(
                    "SELECT a.tbl, a.key FROM _syncline_apart a WHERE a.scope = ?1 AND NOT EXISTS (SELECT 1 FROM _syncline_row r
                       WHERE r.scope = a.scope AND r.tbl = a.tbl AND r.key = a.key AND r.pend IS NOT NULL)",
                )
                .doing("reading rows kept apart")?;
            q.query_map([scope.n], |r| Ok((r.get(0)?, r.get(1)?))).and_then(Iterator::collect).doing("reading rows kept apart")?
        };
        for (table, key) in settled {
            let (t, key) = (self.registry()?.get(table)?, Key(key));
            if let Some(x) = self.apart(scope, &t, &key)? {
                self.conn
                    .execute("DELETE FROM _syncline_apart WHERE scope = ?1 AND tbl = ?2 AND key = ?3", params![scope.n, table, key.0])
                    .doing("joining a row kept apart")?;
                let row = self.load_complete(scope, &t, &key)?;
                if x.state.ctx.within(&row.state.ctx) {
                    self.merge_row(scope, &t, x, out)?;
                    continue;
                }
                // The authority took ours without it: it was put back, and what it had is unknown there now. Nobody has decided, so the
                // two are not merged; whoever wrote it offers it again, and these values are kept besides.
                let lost: Vec<Lost> = x
                    .mask
                    .columns()
                    .filter_map(|c| Some((c, x.state.cell(c)?, row.state.cell(c))))
                    .filter(|(_, theirs, ours)| ours.is_none_or(|o| o.value != theirs.value))
                    .map(|(column, theirs, ours)| Lost { column, lost: theirs.clone(), won: ours.cloned(), reason: LostReason::Superseded })
                    .collect();
                self.note_lost(scope, &t, &key, &lost, Seq(0))?;
            }
        }
        Ok(())
    }
}
