//! A device's scopes: what the account may do in them, which ones a request asks about, and what is left of one that is lost.
//!
//! A scope is here as soon as a row names it or the authority tells of it. Without a role the account is no member as far as is
//! known: its rows are kept and wait. Only the authority's explicit word that the account *was* a member and is none any more
//! takes rows away; an authority that merely does not know the scope (it may have been restored) takes nothing.

use crate::apply::Applied;
use crate::error::{Doing, Result};
use crate::tx::{Scope, Tx};
use rusqlite::params;
use std::collections::HashSet;
use syncline_core::digest::first_chain;
use syncline_core::heads::{check, members_hash};
use syncline_core::membership::MAY_NOT_WRITE;
use syncline_core::{Cursor, Head, Heads, JournalEntry, Key, MemberRole, Memberships, ScopeId, Seq, planted};

/// The account's own scope.
const OWN: i64 = 1;

/// Scopes about which one request asks.
pub const ASKED_MAX: usize = 64;

/// What a change of memberships did.
#[derive(Debug, Default)]
pub struct Membered {
    /// Whether there is a scope to ask about now.
    pub again: bool,
    /// What changed in tables: (scope, table, key).
    pub changed: Vec<(i64, i64, Key)>,
    /// What the owner should know of, in words.
    pub notices: Vec<String>,
}

impl Tx<'_> {
    /// Returns what the account may do in a scope; `None` where it is no member as far as this device knows.
    pub fn role_in(&self, scope: &Scope) -> Result<Option<MemberRole>> {
        if scope.n == OWN {
            return Ok(Some(MemberRole::Admin));
        }
        let word: Option<String> = self
            .conn
            .prepare_cached("SELECT role FROM _syncline_scope WHERE n = ?1")
            .and_then(|mut q| q.query_row([scope.n], |r| r.get(0)))
            .doing("reading a role")?;
        Ok(word.as_deref().and_then(MemberRole::parse))
    }

    /// Lists all scopes that are here, the account's own first.
    pub fn scopes(&mut self) -> Result<Vec<Scope>> {
        let all: Vec<i64> = {
            let mut q = self.conn.prepare_cached("SELECT n FROM _syncline_scope ORDER BY n").doing("reading scopes")?;
            q.query_map([], |r| r.get(0)).and_then(Iterator::collect).doing("reading scopes")?
        };
        all.into_iter().map(|n| self.scope(n)).collect()
    }

    /// Lists the scopes to ask about now, and whether there are more than fit into one request: those of `wanted`, and of the
    /// others, without those of `done`, the ones that have moved, have rows to send or a cursor to acknowledge. The account's own
    /// comes first, then those with rows of high priority.
    pub fn scopes_to_ask(&mut self, wanted: &HashSet<i64>, done: &HashSet<i64>) -> Result<(Vec<Scope>, bool)> {
        let found: Vec<i64> = {
            let mut q = self
                .conn
                .prepare_cached(
                    "SELECT n FROM _syncline_scope s WHERE (n = 1 OR role IS NOT NULL) AND (resync OR ask OR stage IS NOT NULL OR cursor IS NOT acked
                       OR EXISTS (SELECT 1 FROM _syncline_row r INDEXED BY _syncline_row_pending WHERE scope = s.n AND pend IS NOT NULL
                         AND NOT EXISTS (SELECT 1 FROM _syncline_parked p WHERE p.scope = r.scope AND p.tbl = r.tbl AND p.key = r.key AND p.local IS NULL)))",
                )
                .doing("finding scopes to ask about")?;
            q.query_map([], |r| r.get(0)).and_then(Iterator::collect).doing("finding scopes to ask about")?
        };
        let mut list: Vec<i64> = found.into_iter().filter(|n| !done.contains(n)).chain(wanted.iter().copied()).collect();
        list.sort_unstable();
        list.dedup();
        let high = self.high_first(&list)?;
        list.sort_by_key(|n| (*n > OWN, !high.contains(n), !wanted.contains(n)));
        let more = list.len() > ASKED_MAX;
        list.truncate(ASKED_MAX);
        // A scope of `wanted` may be lost meanwhile.
        let mut out = Vec::with_capacity(list.len());
        for n in list {
            let known = self.conn.prepare_cached("SELECT 1 FROM _syncline_scope WHERE n = ?1").and_then(|mut q| q.exists([n])).doing("reading a scope")?;
            if known {
                out.push(self.scope(n)?);
            }
        }
        Ok((out, more))
    }

    fn high_first(&mut self, scopes: &[i64]) -> Result<HashSet<i64>> {
        use syncline_core::schema::Priority;
        let high: Vec<String> = self.registry()?.all().iter().filter(|t| t.def.options.priority == Priority::High).map(|t| t.n.to_string()).collect();
        if high.is_empty() || scopes.len() < 2 {
            return Ok(HashSet::new());
        }
        // Table numbers are our own: they need no binding.
        let sql = format!(
            "SELECT EXISTS (SELECT 1 FROM _syncline_row INDEXED BY _syncline_row_pending WHERE scope = ?1 AND pend IS NOT NULL AND tbl IN ({}))",
            high.join(", ")
        );
        let mut out = HashSet::new();
        for n in scopes {
            let any: bool = self.conn.prepare_cached(&sql).and_then(|mut q| q.query_row([n], |r| r.get(0))).doing("finding scopes to ask about")?;
            if any {
                out.insert(*n);
            }
        }
        Ok(out)
    }

    /// Sums up where this device is in the account's scopes that a request does not ask about.
    pub fn heads_beside(&mut self, asked: &[Scope]) -> Result<Heads> {
        let rest: Vec<(ScopeId, Option<Cursor>)> =
            self.member_cursors()?.into_iter().filter(|s| !asked.iter().any(|a| a.n == s.0)).map(|s| (s.1, s.2)).collect();
        let mut heads = Heads::for_scopes(rest.len());
        for (scope, cursor) in rest {
            let (seq, chain) = cursor.map_or_else(|| (Seq(0), first_chain(&scope)), |c| (c.seq, c.chain));
            heads.add(&scope, seq, &chain);
        }
        Ok(heads)
    }

    fn member_cursors(&self) -> Result<Vec<(i64, ScopeId, Option<Cursor>)>> {
        let mut q = self.conn.prepare_cached("SELECT n, scope_id, cursor FROM _syncline_scope WHERE n = 1 OR role IS NOT NULL").doing("reading cursors")?;
        q.query_map([], |r| Ok((r.get(0)?, ScopeId(r.get(1)?), r.get::<_, Option<Vec<u8>>>(2)?.and_then(|b| Cursor::from_bytes(&b)))))
            .and_then(Iterator::collect)
            .doing("reading cursors")
    }

    /// Takes in which scopes may have moved; returns those that did.
    pub fn take_heads(&mut self, heads: &[Head]) -> Result<Vec<i64>> {
        let mut moved = Vec::new();
        for head in heads {
            let Some(scope) = self.find_scope(&head.scope)? else { continue };
            let cursor = self.cursor(&scope)?;
            let (seq, chain) = cursor.map_or_else(|| (Seq(0), first_chain(&scope.id)), |c| (c.seq, c.chain));
            if head.seq == seq && head.check == check(&scope.id, seq, &chain) {
                continue;
            }
            if self.note_head(&scope.id, head.seq)? {
                moved.push(scope.n);
            }
        }
        Ok(moved)
    }

    /// Notes that the authority says where a scope is: the next request asks about it. Says whether the account is in it.
    pub fn note_head(&mut self, scope: &ScopeId, seq: Seq) -> Result<bool> {
        let Some(scope) = self.find_scope(scope)? else { return Ok(false) };
        let known = self
            .conn
            .prepare_cached("UPDATE _syncline_scope SET head = ?2, ask = 1 WHERE n = ?1 AND (n = 1 OR role IS NOT NULL)")
            .and_then(|mut q| q.execute(params![scope.n, seq.0 as i64]))
            .doing("noting where a scope is")?;
        Ok(known > 0)
    }

    /// Notes that a scope was asked about with its cursor, and that the answer is all there is.
    pub fn note_heads_asked(&mut self, scope: &Scope, sent: Option<Cursor>) -> Result<()> {
        let at = self.cursor(scope)?.map_or(Seq(0), |c| c.seq);
        self.conn
            .prepare_cached("UPDATE _syncline_scope SET acked = ?2, head = max(head, ?3) WHERE n = ?1 AND (acked IS NOT ?2 OR head < ?3)")
            .and_then(|mut q| q.execute(params![scope.n, sent.map(|c| c.to_bytes().to_vec()), at.0 as i64]))
            .doing("noting an acknowledgement")?;
        Ok(())
    }

    /// Notes that nothing more of a scope is to come for now.
    pub fn note_complete(&mut self, scope: &Scope) -> Result<()> {
        let at = self.cursor(scope)?.map_or(Seq(0), |c| c.seq);
        self.conn
            .prepare_cached("UPDATE _syncline_scope SET ask = 0, head = ?2 WHERE n = ?1 AND (ask OR head <> ?2)")
            .and_then(|mut q| q.execute(params![scope.n, at.0 as i64]))
            .doing("noting where a scope is")?;
        Ok(())
    }

    // ---- memberships

    /// Returns the hash of what this device knows of its account's memberships.
    pub fn members_known(&self) -> Result<u64> {
        Ok(self.meta::<i64>("members")?.unwrap_or(0) as u64)
    }

    /// Takes in what the account is a member of. The caller has absorbed.
    pub fn take_members(&mut self, members: &Memberships) -> Result<Membered> {
        let mut out = Membered::default();
        for m in &members.now {
            let scope = self.scope_named(&m.scope_id)?;
            let before = self.role_in(&scope)?;
            if scope.n == OWN || before == Some(m.role) {
                continue;
            }
            self.conn
                .execute("UPDATE _syncline_scope SET role = ?2, ask = CASE WHEN role IS NULL THEN 1 ELSE ask END WHERE n = ?1", params![scope.n, m.role.word()])
                .doing("noting a role")?;
            out.again |= before.is_none();
            if before.is_none_or(|b| m.role.may_write() && !b.may_write()) {
                out.again |= self.offer_forbidden(&scope)?;
            }
            let what = if before.is_none() { "this account is in" } else { "this account's role changed in" };
            out.notices.push(format!("{what} scope `{}`, as {}", scope.id.0, m.role));
        }
        for scope in self.scopes()?.into_iter().filter(|s| s.n != OWN) {
            let listed = members.now.iter().any(|m| m.scope_id == scope.id);
            if listed || (self.role_in(&scope)?.is_none() && !members.gone.contains(&scope.id)) {
                continue;
            }
            if members.gone.contains(&scope.id) {
                if self.role_in(&scope)?.is_some() {
                    self.lose_scope(&scope, &mut out)?;
                }
                continue;
            }
            self.conn.execute("UPDATE _syncline_scope SET role = NULL WHERE n = ?1", [scope.n]).doing("noting a role")?;
            out.notices.push(format!("the server does not know that this account is in scope `{}`; its rows stay here and wait", scope.id.0));
        }
        self.set_meta("members", members_hash(members) as i64)?;
        Ok(out)
    }

    /// Offers rows again that were refused because the account might not write here. Says whether there were any.
    fn offer_forbidden(&mut self, scope: &Scope) -> Result<bool> {
        let parked: Vec<(i64, Key)> = {
            let mut q = self
                .conn
                .prepare_cached("SELECT tbl, key FROM _syncline_parked WHERE scope = ?1 AND reason = 'forbidden' AND local IS NULL")
                .doing("reading parked rows")?;
            q.query_map([scope.n], |r| Ok((r.get(0)?, Key(r.get(1)?)))).and_then(Iterator::collect).doing("reading parked rows")?
        };
        for (table, key) in &parked {
            let t = self.registry()?.get(*table)?;
            self.unpark_and_touch(scope, &t, key)?;
        }
        Ok(!parked.is_empty())
    }

    /// Takes a scope off this device: its rows, and all that the sidecar has of it. What this device wrote there and nobody else has goes
    /// into the journal of the account's own scope, value by value.
    fn lose_scope(&mut self, scope: &Scope, out: &mut Membered) -> Result<()> {
        let kept = self.keep_unsent(scope)?;
        // What is deleted from here on is overwritten in the file.
        self.conn.pragma_update(None, "secure_delete", true).doing("losing a scope")?;
        let rows: Vec<(i64, Key)> = {
            let mut q = self.conn.prepare_cached("SELECT tbl, key FROM _syncline_row WHERE scope = ?1 AND kind = 0").doing("losing a scope")?;
            q.query_map([scope.n], |r| Ok((r.get(0)?, Key(r.get(1)?)))).and_then(Iterator::collect).doing("losing a scope")?
        };
        self.set_applying(true)?;
        for (table, key) in &rows {
            let t = self.registry()?.get(*table)?;
            if !planted::on("lost_rows_stay") {
                self.take_out(scope, &t, key)?;
            }
            out.changed.push((scope.n, *table, key.clone()));
        }
        for (table, key) in &rows {
            self.forget_images(*table, key)?;
        }
        let own = self.scope(OWN)?;
        self.forget_scope(scope)?;
        // What stood in the way of others' rows is gone.
        self.finish_apply(&own, &mut Applied::default())?;
        self.set_applying(false)?;
        self.set_meta("wipe", 1)?;
        out.notices.push(match kept {
            0 => format!("this account is no longer in scope `{}`: its {} rows are gone from this device", scope.id.0, rows.len()),
            _ => format!(
                "this account is no longer in scope `{}`: its {} rows are gone from this device; {kept} values that were written here and never sent are in the journal",
                scope.id.0,
                rows.len()
            ),
        });
        Ok(())
    }

    /// Forgets what a row was in scopes that it has moved away from: it cannot come back there.
    fn forget_images(&mut self, table: i64, key: &Key) -> Result<()> {
        let places: Vec<i64> = {
            let mut q = self
                .conn
                .prepare_cached("SELECT scope FROM _syncline_row WHERE tbl = ?1 AND key = ?2 AND kind = 1 AND pend IS NULL")
                .doing("losing a scope")?;
            q.query_map(params![table, key.0], |r| r.get(0)).and_then(Iterator::collect).doing("losing a scope")?
        };
        let t = self.registry()?.get(table)?;
        for n in places {
            let at = self.scope(n)?;
            let mut row = self.load_complete(&at, &t, key)?;
            row.state.cells.iter_mut().for_each(|cell| *cell = None);
            row.state.extras.clear();
            self.save(&at, &t, &mut row)?;
        }
        Ok(())
    }

    fn keep_unsent(&mut self, scope: &Scope) -> Result<usize> {
        let pending: Vec<(i64, Key)> = {
            let mut q = self
                .conn
                .prepare_cached("SELECT tbl, key FROM _syncline_row INDEXED BY _syncline_row_pending WHERE scope = ?1 AND pend IS NOT NULL ORDER BY seq")
                .doing("keeping what was never sent")?;
            q.query_map([scope.n], |r| Ok((r.get(0)?, Key(r.get(1)?)))).and_then(Iterator::collect).doing("keeping what was never sent")?
        };
        let own = self.scope(OWN)?;
        let mut entries = Vec::new();
        for (table, key) in pending {
            let t = self.registry()?.get(table)?;
            let row = self.load_complete(scope, &t, &key)?;
            if row.state.is_dead() {
                continue;
            }
            if t.is_shared()
                && let Some(from) = self.other_half(scope, &t, &row)?
                && let Some(left) = self.load(&from, &t, &key)?
            {
                // It was on its way here: it stays where the others have it.
                self.forget_row(&from, &t, &left)?;
                self.request_resync(&from)?;
            }
            let written = if row.version.0 == 0 { t.all_columns() } else { row.pend.clone().unwrap_or_default() };
            for c in written.columns() {
                let (Some(cell), Some(column)) = (row.state.cell(c), t.columns.get(c)) else { continue };
                entries.push(JournalEntry {
                    table: t.def.name.clone(),
                    key: key.clone(),
                    column: column.name.clone(),
                    lost: cell.value.clone(),
                    hlc: cell.stamp.hlc,
                    writer: cell.stamp.writer,
                    won: Default::default(),
                    reason: "row_ended".into(),
                    at: self.journal_now()?,
                });
            }
        }
        // An entry of the scope's that says the same would keep this one out, and go with the scope.
        self.conn.execute("DELETE FROM _syncline_journal WHERE scope = ?1", [scope.n]).doing("keeping what was never sent")?;
        self.take_journal(&own, &entries, Seq(0))?;
        Ok(entries.len())
    }

    /// Forgets all that the sidecar has of a scope.
    pub(crate) fn forget_scope(&mut self, scope: &Scope) -> Result<()> {
        let tables = ["row", "parked", "shelved", "journal", "attempt", "checkpoint", "stage", "base", "apart", "asked", "together", "unread"];
        for table in tables {
            self.conn.execute(&format!("DELETE FROM _syncline_{table} WHERE scope = ?1"), [scope.n]).doing("forgetting a scope")?;
        }
        self.conn.execute("DELETE FROM _syncline_scope WHERE n = ?1", [scope.n]).doing("forgetting a scope")?;
        for name in ["last_bundle", "repaired_at"] {
            self.conn.execute("DELETE FROM _syncline_meta WHERE name = ?1", [format!("{name}:{}", scope.n)]).doing("forgetting a scope")?;
        }
        self.cache.scopes.remove(&scope.n);
        self.cache.scope_numbers.remove(&scope.id);
        self.cache.heads.remove(&scope.n);
        self.cache.digests.remove(&scope.n);
        self.cache.waiting = None;
        self.cache.inbox_stale = true;
        Ok(())
    }

    /// Counts rows that are pending (parked ones included) and those that wait for a decision or for a membership, over all scopes.
    pub fn all_pending_figures(&self) -> Result<(u64, u64)> {
        self.conn
            .prepare_cached(&format!(
                "SELECT (SELECT count(*) FROM _syncline_row INDEXED BY _syncline_row_pending WHERE pend IS NOT NULL)
                      + (SELECT count(*) FROM _syncline_parked WHERE local IS NOT NULL),
                   (SELECT count(*) FROM _syncline_parked) + (SELECT count(*) FROM ({BARRED}))"
            ))
            .and_then(|mut q| q.query_row([], |r| Ok((r.get::<_, i64>(0)? as u64, r.get::<_, i64>(1)? as u64))))
            .doing("counting what is pending")
    }

    /// Says why rows of a scope wait although nobody has refused them: the account may not write it, as far as the device knows.
    pub fn barred(&self, scope: &Scope) -> Result<Option<String>> {
        // Before the device belongs to an account nobody is a member of anything.
        if self.meta::<String>("device_id")?.is_none() {
            return Ok(None);
        }
        Ok(match self.role_in(scope)? {
            None => Some(not_a_member(&scope.id)),
            Some(role) if !role.may_write() => Some(MAY_NOT_WRITE.into()),
            Some(_) => None,
        })
    }

    /// Lists the scopes that have rows to send and that the account is not in.
    pub fn outside(&self) -> Result<Vec<ScopeId>> {
        let mut q = self
            .conn
            .prepare_cached(
                "SELECT scope_id FROM _syncline_scope s WHERE n > 1 AND role IS NULL
                   AND EXISTS (SELECT 1 FROM _syncline_row INDEXED BY _syncline_row_pending WHERE scope = s.n AND pend IS NOT NULL) ORDER BY scope_id",
            )
            .doing("finding scopes that the account is not in")?;
        q.query_map([], |r| r.get(0).map(ScopeId)).and_then(Iterator::collect).doing("finding scopes that the account is not in")
    }
}

/// Selects rows that wait because the account may not write their scope, other than those that are parked already.
pub const BARRED: &str = "SELECT 1 FROM _syncline_scope s JOIN _syncline_row r INDEXED BY _syncline_row_pending ON r.scope = s.n
  WHERE s.n > 1 AND (s.role IS NULL OR s.role = 'reader') AND r.pend IS NOT NULL AND EXISTS (SELECT 1 FROM _syncline_meta WHERE name = 'device_id')
  AND NOT EXISTS (SELECT 1 FROM _syncline_parked p WHERE p.scope = r.scope AND p.tbl = r.tbl AND p.key = r.key)";

/// Why rows of a scope wait in which the account has no role.
pub fn not_a_member(scope: &ScopeId) -> String {
    format!("rows wait because this account is not in scope `{0}`: `syncline scopes DB create {0}` makes it, or join it with an invitation", scope.0)
}
