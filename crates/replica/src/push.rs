//! Freeze, outcome, confirmation: a device's side of a push.
//!
//! An attempt remembers its nonce, how far the device's own sequence went, and which rows it held. That is all that is
//! needed to know later what an acknowledgement covers: a row that has not been numbered since is exactly what was sent.
//! *Confirmed* is only what the device's own cursor, on a matching chain, has passed.

use crate::account_tables::is_account_table;
use crate::behind::Behind;
use crate::error::{Doing, Result};
use crate::registry::Table;
use crate::rows::RowRecord;
use crate::together::Together;
use crate::tx::{Scope, Tx};
use rusqlite::{OptionalExtension, params};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use syncline_core::schema::Priority;
use syncline_core::varint::{Reader, put, put_bytes};
use syncline_core::{Acked, BundleId, ColSet, Key, Limits, Nonce, Push, RowState, RowsBuilder, Seq, SourceId, TableRef, planted};

/// A row of a bundle: its table's number and its key.
pub(crate) type Member = (i64, Key);

/// What a freeze made.
pub struct Frozen {
    /// What to send.
    pub push: Push,
    /// The source that it goes out under.
    pub source: SourceId,
    /// Whether more is pending than fitted.
    pub more: bool,
    /// Whether it has a half of a move between scopes.
    pub moves: bool,
}

impl Tx<'_> {
    /// Returns this device's source, made when first needed.
    pub fn source(&mut self) -> Result<SourceId> {
        if let Some(id) = self.meta::<[u8; 16]>("source_id")? {
            return Ok(SourceId(id));
        }
        self.rotate_source()
    }

    /// Begins a fresh source: ids start at 1 again, attempts of the old one are forgotten, all that is pending will be offered.
    pub fn rotate_source(&mut self) -> Result<SourceId> {
        let source = self.env.id(SourceId::from_random);
        self.set_meta("source_id", &source.0[..])?;
        self.conn.execute("DELETE FROM _syncline_attempt WHERE seq IS NULL", []).doing("rotating the source")?;
        self.conn.execute("DELETE FROM _syncline_meta WHERE name GLOB 'last_bundle:*'", []).doing("rotating the source")?;
        Ok(source)
    }

    /// Returns the id of the last acknowledged bundle of the present source.
    pub fn last_bundle(&self, scope: &Scope) -> Result<BundleId> {
        Ok(BundleId(self.meta::<i64>(&format!("last_bundle:{}", scope.n))?.unwrap_or(0) as u64))
    }

    /// Freezes what is pending into the next attempt at the next bundle; `None` if nothing is to be sent. The caller has absorbed.
    pub fn freeze(&mut self, scope: &Scope, limits: &Limits) -> Result<Option<Frozen>> {
        let source = self.source()?;
        let acknowledged = self.acknowledged(scope)?;
        let mut chosen: Vec<(Arc<Table>, RowRecord)> = Vec::new();
        let mut members: HashSet<Member> = HashSet::new();
        let mut bytes = 0;
        let mut more = false;
        // Where tables differ in priority, a bundle may pass over rows of a lower one: no range then says which rows went.
        let behind = self.behind()?;
        let one_class = self.classes()?.len() < 2 && behind.is_empty();
        let mut held = HashSet::new();
        let (mut first, mut last) = (Seq(u64::MAX), if one_class { Seq(0) } else { Seq(u64::MAX) });
        // What waits for the authority's schema is in the way of nothing.
        let most = if behind.is_empty() { limits.bundle_rows + acknowledged.len + 1 } else { usize::MAX };
        let together = self.together(scope, limits.bundle_rows)?;
        let most = if together.is_empty() { most } else { usize::MAX };
        for (table, key, seq) in self.pending_in_order(scope, most)? {
            if acknowledged.covers(table, &key, seq) {
                continue;
            }
            let Some(company) = self.company(scope, &together, (table, key.clone()))? else {
                // It stays behind, in the middle of what goes.
                last = Seq(u64::MAX);
                continue;
            };
            if chosen.len() >= limits.bundle_rows || bytes >= limits.bundle_bytes {
                more = true;
                break;
            }
            let before = chosen.len();
            // A group that does not fit any more is the next bundle's.
            if company.len() > 1 && before > 0 && before + company.len() > limits.bundle_rows && !members.contains(&(table, key.clone())) {
                more = true;
                last = Seq(u64::MAX);
                continue;
            }
            for (table, key) in &company {
                bytes += self.choose(scope, *table, key, &behind, &mut held, &mut members, &mut chosen, 0)?;
            }
            // A range says which rows went only while they go one by one and in order.
            let in_order = chosen.len() == before + 1 && seq > last && last < Seq(u64::MAX);
            (first, last) = if in_order { (first.min(seq), seq) } else { (first, Seq(u64::MAX)) };
        }
        if chosen.is_empty() {
            return Ok(None);
        }
        let id = BundleId(self.last_bundle(scope)?.0 + 1);
        let attempt: u64 = self
            .conn
            .prepare_cached("SELECT coalesce(max(attempt), 0) + 1 FROM _syncline_attempt WHERE scope = ?1 AND source = ?2 AND id = ?3")
            .and_then(|mut q| q.query_row(params![scope.n, &source.0[..], id.0 as i64], |r| r.get::<_, i64>(0)))
            .doing("numbering an attempt")? as u64;
        let nonce = Nonce(self.env.nonce());
        let mut rows = RowsBuilder::default();
        let mut names = Vec::new();
        let mut moves = false;
        for (t, mut row) in chosen {
            moves |= t.is_shared() && (row.state.is_dead() || row.version.0 == 0) && self.other_half(scope, &t, &row)?.is_some();
            let (mut mask, waits) = behind.split(&t, &row);
            if last == Seq(u64::MAX) {
                put(&mut names, t.n as u64 | if waits.is_empty() { 0 } else { LEFT_OUT });
                put_bytes(&mut names, &row.key.0);
                if !waits.is_empty() {
                    waits.encode(&mut names);
                }
            }
            let known = behind.known(&t);
            if let Some(known) = &known {
                (row.state, mask) = only(&row.state, &mask, known);
            }
            // Only the authority makes gravestones. One that we were told of, with a late edit of ours merged in, goes as what it
            // is to us: a deletion that has seen more.
            row.state.gravestone = false;
            let named = || match &known {
                Some(known) => TableRef { name: t.def.name.clone(), columns: known.iter().map(|c| t.columns[*c].name.clone()).collect() },
                None => t.table_ref(),
            };
            rows.add(t.n as u64, named, row.key, row.version, Seq(0), row.state, &mask);
        }
        let head = self.head(scope.n)?;
        let range = (last < Seq(u64::MAX)).then_some((first.0 as i64, last.0 as i64));
        if range.is_none() {
            self.name_once(scope, source, id, head, &names)?;
        }
        self.conn
            .prepare_cached(
                "INSERT INTO _syncline_attempt(scope, source, id, attempt, nonce, frozen_at, first, last, rows) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )
            .and_then(|mut q| {
                let (first, last) = (range.map(|r| r.0), range.map(|r| r.1));
                q.execute(params![scope.n, &source.0[..], id.0 as i64, attempt as i64, nonce.0 as i64, head.0 as i64, first, last, names])
            })
            .doing("noting an attempt")?;
        let journal = self.journal_to_send(scope, Seq(0), Seq(0))?;
        Ok(Some(Frozen { push: Push { id, nonce, attempt, rows: rows.finish(), journal, parts: vec![] }, source, more, moves }))
    }

    /// Lists the rows that must go with one: those that were written together, and with each the pending parents and what was
    /// written together with those. `None` if any of them is held.
    fn company(&mut self, scope: &Scope, together: &Together, first: Member) -> Result<Option<Vec<Member>>> {
        if together.is_empty() {
            return Ok(Some(vec![first]));
        }
        let mut all = vec![first];
        let mut at = 0;
        while at < all.len() {
            let member = all[at].clone();
            at += 1;
            if together.is_held(&member) {
                return Ok(None);
            }
            let mut more = together.company(&member).to_vec();
            let t = self.registry()?.get(member.0)?;
            let row = self.load_complete(scope, &t, &member.1)?;
            for f in t.def.foreign_keys.iter().filter(|_| !row.state.is_dead()) {
                let Some(parent) = self.registry()?.find(&f.table).filter(|p| p.def.referenced_columns(f) == p.key) else { continue };
                let Some(wanted) = f.columns.iter().map(|c| crate::shelf::value_of(&t, &row, c)).collect::<Option<Vec<_>>>() else { continue };
                let key = Key::encode(&wanted);
                if self.is_offered(scope, &parent, &key)? {
                    more.push((parent.n, key));
                }
            }
            more.retain(|m| !all.contains(m));
            all.extend(more);
        }
        Ok(Some(all))
    }

    /// Attempts at one bundle that name the same rows keep the names once, with the newest: a device that is offline for weeks
    /// tries thousands of times.
    fn name_once(&self, scope: &Scope, source: SourceId, id: BundleId, frozen_at: Seq, names: &[u8]) -> Result<()> {
        self.conn
            .prepare_cached(
                "UPDATE _syncline_attempt SET rows = x'' WHERE scope = ?1 AND source = ?2 AND id = ?3 AND frozen_at = ?4 AND first IS NULL AND rows = ?5",
            )
            .and_then(|mut q| q.execute(params![scope.n, &source.0[..], id.0 as i64, frozen_at.0 as i64, names]))
            .map(drop)
            .doing("noting an attempt")
    }

    /// Gives an attempt its names back, from the next one that has the same.
    fn name_again(&self, scope: &Scope, source: SourceId, id: BundleId, attempt: i64) -> Result<()> {
        self.conn
            .execute(
                "UPDATE _syncline_attempt AS a SET rows = (SELECT b.rows FROM _syncline_attempt b
                   WHERE b.scope = a.scope AND b.source = a.source AND b.id = a.id AND b.attempt > a.attempt AND b.rows <> x'' ORDER BY b.attempt LIMIT 1)
                 WHERE scope = ?1 AND source = ?2 AND id = ?3 AND attempt = ?4 AND first IS NULL AND rows = x''",
                params![scope.n, &source.0[..], id.0 as i64, attempt],
            )
            .map(drop)
            .doing("noting an acknowledgement")
    }

    /// Adds a row to the bundle, and before it the pending parents that the authority has not got yet. Returns its size.
    #[allow(clippy::too_many_arguments)]
    fn choose(
        &mut self,
        scope: &Scope,
        table: i64,
        key: &Key,
        behind: &Behind,
        held: &mut HashSet<Member>,
        members: &mut HashSet<Member>,
        chosen: &mut Vec<(Arc<Table>, RowRecord)>,
        depth: usize,
    ) -> Result<usize> {
        if !members.insert((table, key.clone())) {
            return Ok(0);
        }
        let t = self.registry()?.get(table)?;
        let row = self.load_complete(scope, &t, key)?;
        if row.pend.is_none() || self.is_parked(scope, &t, key)? {
            return Ok(0);
        }
        if t.is_shared() && row.state.is_dead() && self.must_stay(scope, &t, &row)? {
            return Ok(0);
        }
        if behind.concerns(table) && behind.split(&t, &row).0.is_empty() {
            held.insert((table, key.clone()));
            return Ok(0);
        }
        let mut bytes = 64 + key.0.len() + row.state.cells.iter().flatten().map(|c| c.value.size()).sum::<usize>();
        if depth < 64 && !row.state.is_dead() {
            for f in t.def.foreign_keys.clone() {
                let Some(parent) = self.registry()?.find(&f.table) else { continue };
                if parent.def.referenced_columns(&f) != parent.key {
                    continue;
                }
                let Some(wanted) = f.columns.iter().map(|c| crate::shelf::value_of(&t, &row, c)).collect::<Option<Vec<_>>>() else { continue };
                let parent_key = Key::encode(&wanted);
                if !members.contains(&(parent.n, parent_key.clone())) && self.is_offered(scope, &parent, &parent_key)? {
                    bytes += self.choose(scope, parent.n, &parent_key, behind, held, members, chosen, depth + 1)?;
                }
                if held.contains(&(parent.n, parent_key)) {
                    // Without its parent it would be refused.
                    held.insert((table, key.clone()));
                    return Ok(bytes);
                }
            }
        }
        chosen.push((t, row));
        Ok(bytes)
    }

    /// Finds the other half of a pending move: where a row that is gone here goes on, or where one that is new here was.
    pub(crate) fn other_half(&mut self, scope: &Scope, t: &Table, row: &RowRecord) -> Result<Option<Scope>> {
        let kinds = if row.state.is_dead() { "0, 3, 4" } else { "1, 2" };
        let sql = |index: &str, place: &str| {
            format!(
                "SELECT scope FROM _syncline_row {index} WHERE tbl = ?1 AND key = ?2 AND {place} AND scope <> ?3 AND pend IS NOT NULL AND kind IN ({kinds}) LIMIT 1"
            )
        };
        for sql in [sql("", "scope = 1"), sql("INDEXED BY _syncline_row_home", "scope > 1")] {
            let found: Option<i64> = self
                .conn
                .prepare_cached(&sql)
                .and_then(|mut q| q.query_row(params![t.n, row.key.0, scope.n], |r| r.get(0)).optional())
                .doing("finding the other half of a move")?;
            if let Some(n) = found {
                return self.scope(n).map(Some);
            }
        }
        Ok(None)
    }

    /// Whether a row that moved away must not go yet: where it goes on, nobody would have it.
    fn must_stay(&mut self, scope: &Scope, t: &Table, row: &RowRecord) -> Result<bool> {
        let Some(to) = self.other_half(scope, t, row)?.filter(|_| !planted::on("half_a_move")) else { return Ok(false) };
        Ok(!self.role_in(&to)?.is_some_and(syncline_core::MemberRole::may_write) || self.is_parked(&to, t, &row.key)?)
    }

    /// Whether a row is pending: the authority may not have it, or have buried it.
    fn is_offered(&self, scope: &Scope, t: &Table, key: &Key) -> Result<bool> {
        self.conn
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM _syncline_row WHERE scope = ?1 AND tbl = ?2 AND key = ?3 AND pend IS NOT NULL AND kind <> 1)")
            .and_then(|mut q| q.query_row(params![scope.n, t.n, key.0], |r| r.get(0)))
            .doing("reading what is pending")
    }

    /// Lists pending rows that are not parked, at most `most`: high priority first, then in order of our own sequence.
    fn pending_in_order(&mut self, scope: &Scope, most: usize) -> Result<Vec<(i64, Key, Seq)>> {
        let parked: HashSet<Member> = if self.is_anything_waiting()? {
            self.members("SELECT tbl, key FROM _syncline_parked WHERE scope = ?1 AND local IS NULL", scope)?
        } else {
            HashSet::new()
        };
        let (tables, classes) = (self.registry()?.all(), self.classes()?);
        let mut rows: Vec<(i64, Key, Seq)> = Vec::new();
        for class in &classes {
            // Table numbers are our own: they need no binding.
            let of_class: Vec<String> = tables.iter().filter(|t| t.def.options.priority == *class).map(|t| t.n.to_string()).collect();
            let only = if classes.len() == 1 { String::new() } else { format!(" AND tbl IN ({})", of_class.join(", ")) };
            let sql =
                format!("SELECT tbl, key, seq FROM _syncline_row INDEXED BY _syncline_row_pending WHERE scope = ?1 AND pend IS NOT NULL{only} ORDER BY seq");
            let mut q = self.conn.prepare_cached(&sql).doing("reading what is pending")?;
            let mut found = q.query([scope.n]).doing("reading what is pending")?;
            while rows.len() < most {
                let Some(r) = found.next().doing("reading what is pending")? else { break };
                let read = || -> rusqlite::Result<(i64, Key, Seq)> { Ok((r.get(0)?, Key(r.get(1)?), Seq(r.get::<_, i64>(2)? as u64))) };
                let row = read().doing("reading what is pending")?;
                if !parked.contains(&(row.0, row.1.clone())) {
                    rows.push(row);
                }
            }
        }
        Ok(rows)
    }

    /// Lists the priorities that occur, highest first.
    fn classes(&mut self) -> Result<Vec<Priority>> {
        let mut classes = Vec::new();
        for t in self.registry()?.all() {
            // Every database has the account's tables; while they have no row, they are nobody's class.
            if is_account_table(&t.def.name) && !self.has_rows(t.n)? {
                continue;
            }
            classes.push(t.def.options.priority);
        }
        classes.sort();
        classes.dedup();
        Ok(classes)
    }

    fn has_rows(&self, table: i64) -> Result<bool> {
        self.conn
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM _syncline_row WHERE scope = 1 AND tbl = ?1)")
            .and_then(|mut q| q.query_row([table], |r| r.get(0)))
            .doing("reading the tables")
    }

    fn members(&self, sql: &str, scope: &Scope) -> Result<HashSet<Member>> {
        let mut q = self.conn.prepare_cached(sql).doing("reading rows")?;
        q.query_map([scope.n], |r| Ok((r.get(0)?, Key(r.get(1)?)))).and_then(Iterator::collect).doing("reading rows")
    }

    /// Rows in bundles that are acknowledged and not yet passed: not sent twice unless they changed since.
    fn acknowledged(&self, scope: &Scope) -> Result<Acknowledged> {
        let mut out = Acknowledged::default();
        for attempt in self.acknowledged_attempts(scope, i64::MAX)? {
            match attempt.range {
                Some((first, last)) => {
                    out.len += (last.0 - first.0 + 1) as usize;
                    out.ranges.push((first, last));
                }
                None => {
                    for (member, _) in decode_members(&attempt.rows)? {
                        out.len += 1;
                        out.rows.insert(member, attempt.frozen_at);
                    }
                }
            }
        }
        Ok(out)
    }

    fn acknowledged_attempts(&self, scope: &Scope, up_to: i64) -> Result<Vec<Attempt>> {
        let mut q = self
            .conn
            .prepare_cached(
                "SELECT id, frozen_at, first, last, rows, seq FROM _syncline_attempt WHERE scope = ?1 AND passed = 0 AND seq IS NOT NULL AND seq <= ?2 ORDER BY seq",
            )
            .doing("reading acknowledged bundles")?;
        let number = |n: i64| Seq(n as u64);
        q.query_map(params![scope.n, up_to], |r| {
            let (first, last): (Option<i64>, Option<i64>) = (r.get(2)?, r.get(3)?);
            Ok(Attempt {
                id: r.get(0)?,
                frozen_at: number(r.get(1)?),
                range: first.zip(last).map(|(a, b)| (number(a), number(b))),
                rows: r.get(4)?,
                seq: number(r.get(5)?),
            })
        })
        .and_then(Iterator::collect)
        .doing("reading acknowledged bundles")
    }

    /// Lists what requests name: bundles acknowledged beyond the cursor, and the last one.
    pub fn acked(&self, scope: &Scope) -> Result<Vec<Acked>> {
        let mut q = self
            .conn
            .prepare_cached("SELECT source, id, nonce, seq FROM _syncline_attempt WHERE scope = ?1 AND seq IS NOT NULL ORDER BY seq")
            .doing("reading acknowledged bundles")?;
        q.query_map([scope.n], |r| {
            Ok(Acked {
                source: SourceId(r.get(0)?),
                id: BundleId(r.get::<_, i64>(1)? as u64),
                nonce: Nonce(r.get::<_, i64>(2)? as u64),
                seq: Seq(r.get::<_, i64>(3)? as u64),
            })
        })
        .and_then(Iterator::collect)
        .doing("reading acknowledged bundles")
    }

    /// Takes in that the authority has committed a bundle of ours. Says `false` if its nonce is none of our attempts:
    /// then a backup of this file was put back, or there are two copies, and the source must be rotated.
    pub fn acknowledge(&mut self, scope: &Scope, ack: &Acked) -> Result<bool> {
        let source = self.source()?;
        if ack.source != source || ack.id <= self.last_bundle(scope)? {
            return Ok(true); // an old answer
        }
        let known: Option<i64> = self
            .conn
            .query_row(
                "SELECT attempt FROM _syncline_attempt WHERE scope = ?1 AND source = ?2 AND id = ?3 AND (nonce = ?4 OR ?5)",
                params![scope.n, &source.0[..], ack.id.0 as i64, ack.nonce.0 as i64, planted::on("nonce_ignored")],
                |r| r.get(0),
            )
            .optional()
            .doing("looking for an attempt")?;
        let Some(attempt) = known else { return Ok(false) };
        self.name_again(scope, source, ack.id, attempt)?;
        self.conn
            .execute(
                "DELETE FROM _syncline_attempt WHERE scope = ?1 AND source = ?2 AND id = ?3 AND attempt <> ?4",
                params![scope.n, &source.0[..], ack.id.0 as i64, attempt],
            )
            .doing("noting an acknowledgement")?;
        self.conn
            .execute(
                "UPDATE _syncline_attempt SET seq = ?5 WHERE scope = ?1 AND source = ?2 AND id = ?3 AND attempt = ?4",
                params![scope.n, &source.0[..], ack.id.0 as i64, attempt, ack.seq.0 as i64],
            )
            .doing("noting an acknowledgement")?;
        self.set_meta(&format!("last_bundle:{}", scope.n), ack.id.0 as i64)?;
        if planted::on("confirmed_by_answer") {
            self.pass_confirmations(scope, ack.seq)?;
        }
        Ok(true)
    }

    /// Confirms bundles that the cursor passes as it goes to `to`: rows that were not numbered since are no longer pending.
    pub fn pass_confirmations(&mut self, scope: &Scope, to: Seq) -> Result<()> {
        for attempt in self.acknowledged_attempts(scope, to.0 as i64)? {
            match attempt.range {
                Some((first, last)) => self.confirm_range(scope, first, last, attempt.seq)?,
                None => {
                    for ((table, key), left_out) in decode_members(&attempt.rows)? {
                        let t = self.registry()?.get(table)?;
                        self.confirm_row(scope, &t, &key, attempt.frozen_at, attempt.seq, left_out)?;
                    }
                }
            }
            self.conn
                .execute(
                    "UPDATE _syncline_attempt SET passed = 1, rows = x'' WHERE scope = ?1 AND id = ?2 AND seq = ?3",
                    params![scope.n, attempt.id, attempt.seq.0 as i64],
                )
                .doing("passing a confirmation")?;
        }
        // The last one is kept: requests name it, so that an authority that has lost it is found out.
        self.conn
            .execute(
                "DELETE FROM _syncline_attempt WHERE scope = ?1 AND passed = 1
                   AND seq < (SELECT max(seq) FROM _syncline_attempt WHERE scope = ?1 AND passed = 1)",
                [scope.n],
            )
            .doing("passing a confirmation")?;
        Ok(())
    }

    /// Confirms the rows that still bear a number between two of our sequence: they are exactly what was sent. A row that was
    /// numbered since is beyond it, and keeps what is pending and its version until its next bundle is confirmed.
    fn confirm_range(&mut self, scope: &Scope, first: Seq, last: Seq, seq: Seq) -> Result<()> {
        let last = if planted::on("confirms_later_edits") { i64::MAX } else { last.0 as i64 };
        let parked = match self.is_anything_waiting()? {
            true => " AND NOT EXISTS (SELECT 1 FROM _syncline_parked p WHERE p.scope = r.scope AND p.tbl = r.tbl AND p.key = r.key AND p.local IS NULL)",
            false => "",
        };
        let sql = format!(
            "UPDATE _syncline_row AS r INDEXED BY _syncline_row_pending SET version = max(version, ?4), pend = NULL, created = CASE created WHEN 0 THEN ?4 ELSE created END
             WHERE scope = ?1 AND pend IS NOT NULL AND seq BETWEEN ?2 AND ?3{parked}"
        );
        self.conn.prepare_cached(&sql).and_then(|mut q| q.execute(params![scope.n, first.0 as i64, last, seq.0 as i64])).doing("confirming rows")?;
        Ok(())
    }

    /// Confirming changes neither state nor values: only what is pending, the version and the creation are written.
    fn confirm_row(&mut self, scope: &Scope, t: &Table, key: &Key, frozen_at: Seq, seq: Seq, left_out: Option<ColSet>) -> Result<()> {
        // What the bundle left out because the authority did not know the columns is pending still.
        let left_out = left_out.map(|set| {
            let mut bytes = Vec::new();
            set.encode(&mut bytes);
            bytes
        });
        let untouched = match self.is_parked(scope, t, key)? {
            true => -1,
            false if planted::on("confirms_later_edits") => i64::MAX,
            false => frozen_at.0 as i64,
        };
        self.conn
            .prepare_cached(
                "UPDATE _syncline_row SET version = max(version, ?5),
                   created = CASE created WHEN 0 THEN ?5 ELSE created END,
                   pend = CASE WHEN seq <= ?4 THEN ?6 ELSE pend END
                 WHERE scope = ?1 AND tbl = ?2 AND key = ?3",
            )
            .and_then(|mut q| q.execute(params![scope.n, t.n, key.0, untouched, seq.0 as i64, left_out]))
            .doing("confirming a row")?;
        Ok(())
    }

    /// Marks rows as to be offered whole: the authority lacks them, or has only their gravestones.
    pub fn offer_whole(&mut self, scope: &Scope, rows: &[(i64, Key)]) -> Result<()> {
        for (table, key) in rows {
            let t = self.registry()?.get(*table)?;
            let Some(mut row) = self.load(scope, &t, key)? else { continue };
            row.complete(self, &t, scope)?;
            row.pend = Some(t.all_columns());
            row.version = Seq(0);
            self.touch(scope, &mut row)?;
            self.save(scope, &t, &mut row)?;
        }
        Ok(())
    }

    /// Goes back to the newest common point with an authority that has another past: everything confirmed beyond it is
    /// pending again, whole; acknowledgements are void; the source is fresh.
    pub fn history_changed(&mut self, scope: &Scope, common: Seq) -> Result<()> {
        let beyond: Vec<(i64, Key)> = {
            let mut q = self.conn.prepare("SELECT tbl, key FROM _syncline_row WHERE scope = ?1 AND (version > ?2 OR pend IS NOT NULL)").doing("going back")?;
            q.query_map(params![scope.n, common.0 as i64], |r| Ok((r.get(0)?, Key(r.get(1)?)))).and_then(Iterator::collect).doing("going back")?
        };
        let whole: Vec<(i64, Key)> = beyond;
        self.offer_whole(scope, &whole)?;
        self.cache.inbox_stale = true;
        self.conn.execute("DELETE FROM _syncline_parked WHERE scope = ?1", [scope.n]).doing("going back")?;
        self.conn.execute("DELETE FROM _syncline_attempt WHERE scope = ?1", [scope.n]).doing("going back")?;
        self.conn.execute("DELETE FROM _syncline_checkpoint WHERE scope = ?1 AND seq > ?2", params![scope.n, common.0 as i64]).doing("going back")?;
        self.rotate_source()?;
        Ok(())
    }

    /// Returns how many rows are pending (parked ones included), how many are parked, and since when the oldest waits, in ms.
    pub fn pending_figures(&self, scope: &Scope) -> Result<(u64, u64, Option<i64>)> {
        let pending: i64 = self
            .conn
            .prepare_cached(
                "SELECT (SELECT count(*) FROM _syncline_row INDEXED BY _syncline_row_pending WHERE scope = ?1 AND pend IS NOT NULL)
                      + (SELECT count(*) FROM _syncline_parked WHERE scope = ?1 AND local IS NOT NULL)",
            )
            .and_then(|mut q| q.query_row([scope.n], |r| r.get(0)))
            .doing("counting what is pending")?;
        let parked: i64 = self
            .conn
            .prepare_cached("SELECT count(*) FROM _syncline_parked WHERE scope = ?1")
            .and_then(|mut q| q.query_row([scope.n], |r| r.get(0)))
            .doing("counting what is parked")?;
        let oldest: Option<(i64, Key, Seq)> = self
            .conn
            .prepare_cached(
                "SELECT tbl, key, seq FROM _syncline_row INDEXED BY _syncline_row_pending WHERE scope = ?1 AND pend IS NOT NULL ORDER BY seq LIMIT 1",
            )
            .and_then(|mut q| q.query_row([scope.n], |r| Ok((r.get(0)?, Key(r.get(1)?), Seq(r.get::<_, i64>(2)? as u64)))).optional())
            .doing("finding the oldest pending row")?;
        Ok((pending as u64, parked as u64, if oldest.is_some() { self.meta("pending_since")? } else { None }))
    }
}

/// An acknowledged attempt.
struct Attempt {
    id: i64,
    frozen_at: Seq,
    range: Option<(Seq, Seq)>,
    rows: Vec<u8>,
    seq: Seq,
}

/// What acknowledged bundles hold.
#[derive(Default)]
struct Acknowledged {
    ranges: Vec<(Seq, Seq)>,
    rows: HashMap<Member, Seq>,
    len: usize,
}

impl Acknowledged {
    /// Whether a row, as it is numbered now, is in one of them.
    fn covers(&self, table: i64, key: &Key, seq: Seq) -> bool {
        self.ranges.iter().any(|(first, last)| (first..=last).contains(&&seq))
            || (!self.rows.is_empty() && self.rows.get(&(table, key.clone())).is_some_and(|frozen_at| seq <= *frozen_at))
    }
}

/// Set in the number of a table: the columns that were left out follow the key.
const LEFT_OUT: u64 = 1 << 40;

fn decode_members(bytes: &[u8]) -> Result<Vec<(Member, Option<ColSet>)>> {
    let mut from = Reader::new(bytes);
    let mut out = Vec::new();
    while !from.is_empty() {
        let number = from.number().doing("reading an attempt")?;
        let key = Key(from.bytes().doing("reading an attempt")?.to_vec());
        let left_out = if number & LEFT_OUT != 0 { Some(ColSet::decode(&mut from).doing("reading an attempt")?) } else { None };
        out.push((((number & !LEFT_OUT) as i64, key), left_out));
    }
    Ok(out)
}

/// Returns a state and a mask with these columns only, numbered in their order.
fn only(state: &RowState, mask: &ColSet, known: &[usize]) -> (RowState, ColSet) {
    let mut out = RowState { cells: vec![], ..state.clone() };
    let mut columns = if mask.has_liveness() { ColSet::liveness() } else { ColSet::none() };
    for (to, from) in known.iter().enumerate() {
        out.set_cell(to, state.cell(*from).cloned());
        if mask.contains(*from) {
            columns.insert(to);
        }
    }
    (out, columns)
}

/// Whether a set names nothing but liveness.
pub fn only_liveness(set: &ColSet) -> bool {
    set.columns().next().is_none()
}
