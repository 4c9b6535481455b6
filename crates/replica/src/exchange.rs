//! A device's side of one exchange with the authority: what to ask, and what an answer does.
//!
//! Everything runs in one order, in one transaction: absorb; the outcome of our unanswered bundle; confirmations passed;
//! merge; constraints; cursor; tombstones forgotten. A page that does not complete its delta is only staged.

use crate::apply::{Applied, Translation};
use crate::error::{Doing, Error, Result};
use crate::tx::{Scope, Tx};
use rusqlite::{OptionalExtension, params};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use syncline_core::{Chain, Cursor, Delta, HistoryId, Key, Limits, Outcome, PageRequest, Position, Rows, ScopeAnswer, ScopeRequest, Seq, frame, planted};

/// How far a delta that is not complete has been staged.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Stage {
    from: Seq,
    after: Position,
    head: Seq,
    chain: Chain,
    history: HistoryId,
    pages: i64,
    rows: u64,
    left: u64,
    /// How often the delta has run past the head that it first had.
    passes: u32,
    first_head: Seq,
    /// The head of its first page.
    #[serde(default)]
    began: Seq,
    /// Whether it was asked for as a resync: then nothing of it was left out as our own.
    #[serde(default)]
    whole: bool,
}

/// What an answer did.
#[derive(Debug, Default)]
pub struct Taken {
    /// Rows that a bundle of ours brought to the authority.
    pub committed: Option<Seq>,
    /// Rows refused, and parked by this answer.
    pub parked: u64,
    /// Rows of the delta that came, without our own.
    pub rows_down: u64,
    /// Rows staged so far and rows still to come, while a delta is not complete.
    pub progress: Option<(u64, u64)>,
    /// Whether the delta began at 0.
    pub hydrated: bool,
    /// Whether there is more to do at once: pages to fetch, rows to offer again.
    pub again: bool,
    /// What changed in tables: (scope, table, key).
    pub changed: Vec<(i64, i64, Key)>,
    /// Something that the owner should know of, in words.
    pub notices: Vec<String>,
    /// Whether the authority's digest differs although nothing is pending and the cursors are equal.
    pub digest_differs: bool,
}

/// Returns the first page of a resync: from 0, although the cursor stands elsewhere.
fn whole_from_zero(cursor: Option<Cursor>) -> PageRequest {
    let c = cursor.unwrap_or_default();
    PageRequest { from: Seq(0), after: Position { table: i64::MAX as u64, ..Position::default() }, head: c.seq, chain: c.chain, began: Seq(0) }
}

impl Tx<'_> {
    /// Returns how far this device has applied a scope.
    pub fn cursor(&self, scope: &Scope) -> Result<Option<Cursor>> {
        let bytes: Option<Vec<u8>> = self
            .conn
            .prepare_cached("SELECT cursor FROM _syncline_scope WHERE n = ?1")
            .and_then(|mut q| q.query_row([scope.n], |r| r.get(0)))
            .doing("reading a cursor")?;
        Ok(bytes.and_then(|b| Cursor::from_bytes(&b)))
    }
    fn set_cursor(&self, scope: &Scope, cursor: Option<Cursor>) -> Result<()> {
        self.conn
            .prepare_cached("UPDATE _syncline_scope SET cursor = ?2 WHERE n = ?1")
            .and_then(|mut q| q.execute(params![scope.n, cursor.map(|c| c.to_bytes().to_vec())]))
            .doing("moving a cursor")?;
        Ok(())
    }
    fn stage(&self, scope: &Scope) -> Result<Option<Stage>> {
        let bytes: Option<Vec<u8>> = self
            .conn
            .prepare_cached("SELECT stage FROM _syncline_scope WHERE n = ?1")
            .and_then(|mut q| q.query_row([scope.n], |r| r.get(0)))
            .doing("reading a stage")?;
        Ok(bytes.and_then(|b| serde_json::from_slice(&b).ok()))
    }
    fn set_stage(&self, scope: &Scope, stage: Option<&Stage>) -> Result<()> {
        let bytes = stage.map(serde_json::to_vec).transpose().map_err(|e| Error::Damaged(e.to_string()))?;
        self.conn
            .prepare_cached("UPDATE _syncline_scope SET stage = ?2 WHERE n = ?1")
            .and_then(|mut q| q.execute(params![scope.n, bytes]))
            .doing("noting a stage")?;
        if stage.is_none() {
            self.conn.execute("DELETE FROM _syncline_stage WHERE scope = ?1", [scope.n]).doing("dropping a stage")?;
        }
        Ok(())
    }
    /// Whether a resync was asked for and has not been completed.
    pub fn wants_resync(&self, scope: &Scope) -> Result<bool> {
        self.conn
            .prepare_cached("SELECT resync FROM _syncline_scope WHERE n = ?1")
            .and_then(|mut q| q.query_row([scope.n], |r| r.get(0)))
            .doing("reading a scope")
    }
    /// Asks for everything anew with the next sync; what is pending is kept.
    pub fn request_resync(&self, scope: &Scope) -> Result<()> {
        self.set_stage(scope, None)?;
        self.conn.execute("UPDATE _syncline_scope SET resync = 1 WHERE n = ?1", [scope.n]).doing("asking for a resync")?;
        Ok(())
    }

    /// Builds the request for one scope. The caller has absorbed. `push` says whether to freeze a bundle.
    ///
    /// Returns the request and whether more is pending than fitted into the bundle.
    pub fn build_request(&mut self, scope: &Scope, limits: &Limits, push: bool, checkpoints: bool) -> Result<(ScopeRequest, bool)> {
        let stage = self.stage(scope)?;
        let resync = self.wants_resync(scope)?;
        let cursor = self.cursor(scope)?;
        let frozen = if push { self.freeze(scope, limits)? } else { None };
        let (more, together) = frozen.as_ref().map_or((false, false), |f| (f.more, f.moves));
        let page = match &stage {
            Some(s) => Some(PageRequest { from: s.from, after: s.after.clone(), head: s.head, chain: s.chain, began: s.began }),
            // A resync reads from 0 although the cursor stands elsewhere.
            None if resync && cursor.is_some() => Some(whole_from_zero(cursor)),
            None => None,
        };
        let growth = stage.as_ref().map_or(0, |s| s.passes.min(8));
        let hydrate = cursor.is_none() && self.has_no_rows(scope)?;
        Ok((
            ScopeRequest {
                scope: scope.id.clone(),
                cursor,
                checkpoints: if checkpoints { self.checkpoints(scope)? } else { vec![] },
                acked: self.acked(scope)?,
                source: self.source()?,
                push: frozen.map(|f| f.push),
                page,
                // An eighth of the limit at first: a device that is killed or cut fetches at most two of them twice, the one that it
                // was staging and the one that it had asked for ahead.
                page_bytes: (limits.page_bytes as u64 / 8).max(1) << growth.min(7),
                hydrate,
                together,
            },
            more,
        ))
    }

    fn has_no_rows(&self, scope: &Scope) -> Result<bool> {
        self.conn.query_row("SELECT NOT EXISTS (SELECT 1 FROM _syncline_row WHERE scope = ?1)", [scope.n], |r| r.get(0)).doing("looking for rows")
    }

    fn checkpoints(&self, scope: &Scope) -> Result<Vec<(Seq, Chain)>> {
        let mut q =
            self.conn.prepare_cached("SELECT seq, chain FROM _syncline_checkpoint WHERE scope = ?1 ORDER BY seq DESC LIMIT 64").doing("reading checkpoints")?;
        q.query_map([scope.n], |r| Ok((Seq(r.get::<_, i64>(0)? as u64), Chain(r.get(1)?)))).and_then(Iterator::collect).doing("reading checkpoints")
    }

    /// Notes a point of the authority's past, and thins older ones out: the further back, the fewer.
    fn note_checkpoint(&self, scope: &Scope, seq: Seq, chain: Chain) -> Result<()> {
        self.conn
            .prepare_cached("INSERT OR REPLACE INTO _syncline_checkpoint(scope, seq, chain) VALUES(?1, ?2, ?3)")
            .and_then(|mut q| q.execute(params![scope.n, seq.0 as i64, &chain.0[..]]))
            .doing("noting a checkpoint")?;
        let all = self.checkpoints(scope)?;
        if all.len() < 48 {
            return Ok(());
        }
        // Keep the newest sixteen, and of the rest one per doubling of their distance.
        let mut kept = u32::MAX;
        for (s, _) in all.iter().skip(16) {
            let class = (seq.0 - s.0 + 1).ilog2();
            if class == kept {
                self.conn
                    .execute("DELETE FROM _syncline_checkpoint WHERE scope = ?1 AND seq = ?2", params![scope.n, s.0 as i64])
                    .doing("thinning checkpoints")?;
            }
            kept = class;
        }
        Ok(())
    }

    /// Takes an answer in. `sent` is the request that it answers; the caller has absorbed in this same transaction.
    pub fn take_answer(&mut self, scope: &Scope, history: HistoryId, sent: &ScopeRequest, answer: &ScopeAnswer, limits: &Limits) -> Result<Taken> {
        let mut out = Taken::default();
        if let Some(common) = answer.history_changed {
            return self.take_history_change(scope, history, common, sent, answer, out);
        }
        if answer.stage_void && !planted::on("stage_kept_across_histories") {
            self.set_stage(scope, None)?;
            out.again = true;
        }
        self.take_outcome(scope, sent, answer, &mut out)?;
        if let Some(delta) = &answer.delta {
            self.take_delta(scope, history, sent, delta, limits, &mut out)?;
        }
        Ok(out)
    }

    fn take_history_change(
        &mut self,
        scope: &Scope,
        history: HistoryId,
        common: Seq,
        sent: &ScopeRequest,
        answer: &ScopeAnswer,
        mut out: Taken,
    ) -> Result<Taken> {
        out.again = true;
        if sent.checkpoints.is_empty() && self.cursor(scope)?.is_some() && common.0 == 0 && !self.checkpoints(scope)?.is_empty() {
            // Ask once more with older points, to find the newest common one.
            out.notices.push("checkpoints".into());
            return Ok(out);
        }
        self.set_stage(scope, None)?;
        self.history_changed(scope, common)?;
        let chain = sent.checkpoints.iter().find(|c| c.0 == common).map(|c| c.1);
        let _ = answer;
        self.set_cursor(scope, chain.filter(|_| common.0 > 0).map(|chain| Cursor { history, seq: common, chain }))?;
        out.notices.push(format!("the server's database was put back to an earlier state; this device offers again what it knows since bundle {common}"));
        Ok(out)
    }

    fn take_outcome(&mut self, scope: &Scope, sent: &ScopeRequest, answer: &ScopeAnswer, out: &mut Taken) -> Result<()> {
        // Every answer names the source's watermark: a bundle whose own answer was lost is found here.
        let mut acknowledgements = answer.watermark.into_iter().collect::<Vec<_>>();
        match &answer.outcome {
            Some(Outcome::Committed(ack)) => acknowledgements.insert(0, *ack),
            Some(Outcome::Rejected { rows, total }) => {
                self.take_refusals(scope, sent, rows, out)?;
                out.again = out.parked > 0 || *total == 0;
            }
            Some(Outcome::Incomplete(rows)) => {
                let named = sent.push.as_ref().map(|p| &p.rows);
                let mut whole = Vec::new();
                for i in rows {
                    let Some((rows, row)) = named.and_then(|n| n.rows.get(*i as usize).map(|r| (n, r))) else { continue };
                    if let Some(t) = rows.tables.get(row.table as usize).and_then(|t| self.registry().ok()?.find(&t.name)) {
                        whole.push((t.n, row.key.clone()));
                    }
                }
                self.offer_whole(scope, &whole)?;
                out.again = true;
            }
            Some(Outcome::Gap) => {
                self.history_changed(scope, Seq(0))?;
                self.set_cursor(scope, None)?;
                self.set_stage(scope, None)?;
                out.notices.push("the server has lost bundles of this device; everything is offered again".into());
                out.again = true;
            }
            Some(Outcome::SourceReused) => {
                self.rotate_source()?;
                out.notices.push("this database was put back from a backup, or copied; it goes on as a fresh source, nothing is lost".into());
                out.again = true;
            }
            Some(Outcome::StaleAttempt | Outcome::PartsMissing(_)) => out.again = true,
            None => {}
        }
        let before = self.last_bundle(scope)?;
        for ack in acknowledgements {
            if !self.acknowledge(scope, &ack)? {
                self.rotate_source()?;
                out.notices.push("this database was put back from a backup, or copied; it goes on as a fresh source, nothing is lost".into());
                out.again = true;
            } else if self.last_bundle(scope)? > before {
                out.committed = Some(ack.seq);
            }
        }
        Ok(())
    }

    fn take_refusals(&mut self, scope: &Scope, sent: &ScopeRequest, rows: &[syncline_core::Refusal], out: &mut Taken) -> Result<()> {
        let frozen = self.attempt_head(scope, sent)?;
        for refusal in rows {
            let Some(t) = self.registry()?.find(&refusal.table) else { continue };
            let key: Option<Vec<_>> = t.key.iter().map(|k| refusal.key.get(k).cloned()).collect();
            let Some(key) = key.map(|k| Key::encode(&k)) else { continue };
            let Some(row) = self.load(scope, &t, &key)? else { continue };
            // A row that was edited since it was sent has a new chance.
            if row.pend.is_some() && frozen.is_none_or(|f| row.seq <= f) {
                self.park(scope, &t, &key, refusal)?;
                out.parked += 1;
            } else {
                out.again = true;
            }
        }
        Ok(())
    }

    fn attempt_head(&self, scope: &Scope, sent: &ScopeRequest) -> Result<Option<Seq>> {
        let Some(push) = &sent.push else { return Ok(None) };
        self.conn
            .query_row(
                "SELECT frozen_at FROM _syncline_attempt WHERE scope = ?1 AND source = ?2 AND id = ?3 AND nonce = ?4",
                params![scope.n, &sent.source.0[..], push.id.0 as i64, push.nonce.0 as i64],
                |r| r.get::<_, i64>(0),
            )
            .optional()
            .map(|x| x.map(|n| Seq(n as u64)))
            .doing("reading an attempt")
    }

    /// Stages a page, or applies the delta if this page completes it.
    fn take_delta(&mut self, scope: &Scope, history: HistoryId, sent: &ScopeRequest, delta: &Delta, limits: &Limits, out: &mut Taken) -> Result<()> {
        let stage = self.stage(scope)?;
        let cursor = self.cursor(scope)?;
        let at = cursor.map_or(Seq(0), |c| c.seq);
        let resync = self.wants_resync(scope)?;
        // An answer to a question that we would not ask any more (late, doubled, or another process was faster) is not applied.
        let (from, whole) = match (&stage, &sent.page) {
            (Some(stage), Some(page)) if stage.after == page.after => (stage.from, stage.whole),
            (None, Some(page)) if resync && *page == whole_from_zero(cursor) => (Seq(0), true),
            (None, None) if !resync || cursor.is_none() => (at, false),
            _ => return Ok(()),
        };
        if delta.from != from || (delta.to < at) || stage.as_ref().is_some_and(|s| s.history != history) {
            return Ok(());
        }
        if let Some(PageRequest { from, after: next, head, chain, began }) = PageRequest::behind(sent.page.as_ref(), delta) {
            let n = stage.as_ref().map_or(0, |s| s.pages);
            let bytes = frame::encode(&delta.rows).doing("staging a page")?;
            self.conn
                .prepare_cached("INSERT INTO _syncline_stage(scope, n, page) VALUES(?1, ?2, ?3)")
                .and_then(|mut q| q.execute(params![scope.n, n, bytes]))
                .doing("staging a page")?;
            let first_head = stage.as_ref().map_or(delta.to, |s| s.first_head);
            let rows = stage.as_ref().map_or(0, |s| s.rows) + delta.rows.rows.len() as u64;
            let passes = stage.as_ref().map_or(0, |s| s.passes) + u32::from(next.seq > first_head);
            let first_head = if next.seq > first_head { delta.to } else { first_head };
            let left = stage.as_ref().map_or(delta.rows_left, |s| s.left.saturating_sub(delta.rows.rows.len() as u64));
            let staged = Stage { from, after: next, head, chain, history, pages: n + 1, rows, left, passes, first_head, began, whole };
            self.set_stage(scope, Some(&staged))?;
            out.progress = Some((rows, left));
            out.again = true;
            if planted::on("cursor_before_rows") {
                self.set_cursor(scope, Some(Cursor { history, seq: delta.to, chain: delta.chain }))?;
            }
            return Ok(());
        }
        self.complete_delta(scope, history, (from, whole), delta, stage.as_ref(), limits, out)
    }

    #[allow(clippy::too_many_arguments)]
    fn complete_delta(
        &mut self,
        scope: &Scope,
        history: HistoryId,
        (from, whole): (Seq, bool),
        delta: &Delta,
        stage: Option<&Stage>,
        limits: &Limits,
        out: &mut Taken,
    ) -> Result<()> {
        if !planted::on("confirmations_after_merge") {
            self.pass_confirmations(scope, delta.to)?;
        }
        let empty_up_to = match stage {
            Some(stage) if stage.passes > 0 => Seq(0),
            _ if from.0 > 0 || !self.has_no_rows(scope)? => Seq(0),
            stage => stage.map_or(delta.to, |s| s.first_head),
        };
        let come_again = stage.map_or(Ok(HashMap::new()), |stage| self.come_again(scope, stage, delta, limits))?;
        let mut applied = Applied { seen: whole.then(HashSet::new), empty_up_to, come_again, ..Applied::default() };
        self.set_applying(true)?;
        if stage.is_some_and(|s| s.rows >= limits.bulk_rows as u64) {
            self.suspend_capture()?;
        }
        for n in 0..stage.map_or(0, |s| s.pages) {
            let page = self.staged_page(scope, n, limits)?;
            // Gone at once, so that its rows fill the room that it took in the file.
            self.conn.execute("DELETE FROM _syncline_stage WHERE scope = ?1 AND n = ?2", params![scope.n, n]).doing("dropping a staged page")?;
            self.apply_rows(scope, page, &mut applied)?;
        }
        self.apply_rows(scope, delta.rows.clone(), &mut applied)?;
        if applied.seen.is_some() {
            self.remove_unseen(scope, delta.to, &mut applied)?;
        }
        self.finish_apply(scope, &mut applied)?;
        self.take_journal(scope, &delta.journal, Seq(1))?;
        self.set_applying(false)?;
        if planted::on("confirmations_after_merge") {
            self.pass_confirmations(scope, delta.to)?;
        }
        self.set_cursor(scope, Some(Cursor { history, seq: delta.to, chain: delta.chain }))?;
        self.note_checkpoint(scope, delta.to, delta.chain)?;
        self.set_stage(scope, None)?;
        // One that began at 0 by itself may have left out what this device had just sent, and does not have any more.
        if whole {
            self.conn.execute("UPDATE _syncline_scope SET resync = 0 WHERE n = ?1", [scope.n]).doing("ending a resync")?;
        }
        self.forget_tombstones(scope, delta.floor)?;
        out.rows_down += applied.rows;
        out.again |= applied.unparked;
        out.hydrated = from.0 == 0;
        out.changed.append(&mut applied.changed);
        out.digest_differs = self.digest(scope.n)? != delta.digest && self.is_settled(scope)?;
        Ok(())
    }

    fn staged_page(&self, scope: &Scope, n: i64, limits: &Limits) -> Result<Rows> {
        let page: Vec<u8> = self
            .conn
            .query_row("SELECT page FROM _syncline_stage WHERE scope = ?1 AND n = ?2", params![scope.n, n], |r| r.get(0))
            .doing("reading a staged page")?;
        let own = Limits { wire_bytes: usize::MAX, body_bytes: usize::MAX, ratio: usize::MAX, ..*limits };
        frame::decode(&page, &own).doing("reading a staged page")
    }

    /// Lists rows that changed while the delta's pages were read, with their last numbers: earlier pages may have them as they were.
    /// Only pages from behind the first one's head are looked at.
    fn come_again(&mut self, scope: &Scope, stage: &Stage, delta: &Delta, limits: &Limits) -> Result<HashMap<(i64, Key), Seq>> {
        let mut last = HashMap::new();
        if delta.to <= stage.began {
            return Ok(last);
        }
        let mut page = delta.rows.clone();
        for n in (0..=stage.pages).rev() {
            if n < stage.pages {
                page = self.staged_page(scope, n, limits)?;
            }
            let translation = Translation::new(self, &page)?;
            for row in page.rows.iter().filter(|row| row.seq > stage.began) {
                // A row is in a page once, and the last page comes first here.
                last.entry((translation.table(row), row.key.clone())).or_insert(row.seq);
            }
            if page.rows.first().is_some_and(|row| row.seq <= stage.began) {
                break;
            }
        }
        Ok(last)
    }

    /// Mends a difference to the authority by a merge both ways: everything here is offered whole, everything there is read
    /// anew. At most once a day, so that a difference that cannot be mended costs little; says whether it began.
    pub fn repair(&mut self, scope: &Scope) -> Result<bool> {
        const DAY_MS: i64 = 24 * 60 * 60 * 1000;
        let name = format!("repaired_at:{}", scope.n);
        let now = self.env.now_ms;
        if self.meta::<i64>(&name)?.is_some_and(|at| (at..at + DAY_MS).contains(&now)) {
            return Ok(false);
        }
        self.set_meta(&name, now)?;
        let all: Vec<(i64, Key)> = {
            let mut q = self.conn.prepare("SELECT tbl, key FROM _syncline_row WHERE scope = ?1 AND kind IN (0, 3, 4)").doing("offering everything again")?;
            q.query_map([scope.n], |r| Ok((r.get(0)?, Key(r.get(1)?)))).and_then(Iterator::collect).doing("offering everything again")?
        };
        self.offer_whole(scope, &all)?;
        self.request_resync(scope)?;
        Ok(true)
    }

    /// Whether nothing is pending or waiting in this scope.
    pub fn is_settled(&self, scope: &Scope) -> Result<bool> {
        self.conn
            .query_row(
                "SELECT NOT EXISTS (SELECT 1 FROM _syncline_row WHERE scope = ?1 AND pend IS NOT NULL)
                   AND NOT EXISTS (SELECT 1 FROM _syncline_log)",
                [scope.n],
                |r| r.get(0),
            )
            .doing("looking at what is pending")
    }

    /// Forgets confirmed tombstones at or below the authority's floor: it never forgets their keys, so this device may.
    fn forget_tombstones(&mut self, scope: &Scope, floor: Seq) -> Result<()> {
        let known: i64 = self.conn.query_row("SELECT floor FROM _syncline_scope WHERE n = ?1", [scope.n], |r| r.get(0)).doing("reading a floor")?;
        if floor.0 as i64 <= known {
            return Ok(());
        }
        self.conn
            .execute(
                "DELETE FROM _syncline_row WHERE scope = ?1 AND kind IN (1, 2) AND pend IS NULL AND version BETWEEN 1 AND ?2",
                params![scope.n, floor.0 as i64],
            )
            .doing("forgetting tombstones")?;
        self.conn.execute("UPDATE _syncline_scope SET floor = ?2 WHERE n = ?1", params![scope.n, floor.0 as i64]).doing("noting a floor")?;
        Ok(())
    }
}
