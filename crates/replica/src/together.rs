//! `on_reject = "hold_bundle"`: rows that were captured together go together, or stay together.
//!
//! A bundle is folded rows, and no trigger can see where a transaction ends: so what counts as written together is what one absorb
//! found, as soon as a row of a table that asks for it is among them. A row that is written again while it waits ties its earlier
//! company to the later: neither can go without it. While one of them waits for a decision, all of them are held; what was
//! written apart from them goes. A group that is larger than a bundle may be cannot be kept whole, and is not.

use crate::error::{Doing, Result};
use crate::push::Member;
use crate::tx::{Role, Scope, Tx};
use rusqlite::{OptionalExtension, params};
use std::collections::{HashMap, HashSet};
use syncline_core::{Key, planted};

/// Groups of pending rows of one scope that go together.
#[derive(Default)]
pub(crate) struct Together {
    groups: HashMap<i64, Vec<Member>>,
    of: HashMap<Member, i64>,
    held: HashSet<i64>,
}

impl Together {
    /// Returns the rows that go with this one, itself among them, in order of writing; empty if it goes by itself.
    pub fn company(&self, member: &Member) -> &[Member] {
        self.of.get(member).and_then(|g| self.groups.get(g)).map_or(&[], Vec::as_slice)
    }
    /// Whether a row is held because another one of its group waits for a decision.
    pub fn is_held(&self, member: &Member) -> bool {
        self.of.get(member).is_some_and(|g| self.held.contains(g))
    }
    /// Whether every row goes by itself.
    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }
}

impl Tx<'_> {
    /// Notes what one absorb found together: (scope, table, key) of each row.
    pub(crate) fn note_together(&mut self, changed: &[(i64, i64, Key)]) -> Result<()> {
        let holding: HashSet<i64> = self.registry()?.all().iter().filter(|t| t.def.options.hold_bundle).map(|t| t.n).collect();
        if self.role != Role::Device || holding.is_empty() || changed.is_empty() || planted::on("held_rows_go") {
            return Ok(());
        }
        let mut by_scope: HashMap<i64, Vec<(i64, &Key)>> = HashMap::new();
        changed.iter().for_each(|(scope, table, key)| by_scope.entry(*scope).or_default().push((*table, key)));
        let mut scopes: Vec<_> = by_scope.into_iter().collect();
        scopes.sort_by_key(|s| s.0);
        for (scope, rows) in scopes {
            let mut tied = HashSet::new();
            for (table, key) in &rows {
                let group: Option<i64> = self
                    .conn
                    .prepare_cached("SELECT grp FROM _syncline_together WHERE scope = ?1 AND tbl = ?2 AND key = ?3")
                    .and_then(|mut q| q.query_row(params![scope, table, key.0], |r| r.get(0)).optional())
                    .doing("reading what goes together")?;
                tied.extend(group);
            }
            if tied.is_empty() && !rows.iter().any(|r| holding.contains(&r.0)) {
                continue;
            }
            let group: i64 =
                self.conn.query_row("SELECT coalesce(max(grp), 0) + 1 FROM _syncline_together", [], |r| r.get(0)).doing("noting what goes together")?;
            for (table, key) in &rows {
                self.conn
                    .prepare_cached("INSERT OR REPLACE INTO _syncline_together(scope, tbl, key, grp) VALUES(?1, ?2, ?3, ?4)")
                    .and_then(|mut q| q.execute(params![scope, table, key.0, group]))
                    .doing("noting what goes together")?;
            }
            for old in tied {
                self.conn
                    .prepare_cached("UPDATE _syncline_together SET grp = ?3 WHERE scope = ?1 AND grp = ?2")
                    .and_then(|mut q| q.execute(params![scope, old, group]))
                    .doing("noting what goes together")?;
            }
        }
        Ok(())
    }

    /// Forgets the company of rows that are not pending any more.
    pub(crate) fn forget_together(&self) -> Result<()> {
        self.conn
            .prepare_cached(
                "DELETE FROM _syncline_together WHERE NOT EXISTS (SELECT 1 FROM _syncline_row r
                   WHERE r.scope = _syncline_together.scope AND r.tbl = _syncline_together.tbl AND r.key = _syncline_together.key AND r.pend IS NOT NULL)",
            )
            .and_then(|mut q| q.execute([]))
            .doing("forgetting what goes together")?;
        Ok(())
    }

    /// Reads which pending rows go together; of groups that fit into a bundle of `most` rows.
    pub(crate) fn together(&self, scope: &Scope, most: usize) -> Result<Together> {
        let mut out = Together::default();
        let mut q = self
            .conn
            .prepare_cached(
                "SELECT g.grp, g.tbl, g.key, p.key IS NOT NULL FROM _syncline_together g
                 JOIN _syncline_row r ON r.scope = g.scope AND r.tbl = g.tbl AND r.key = g.key AND r.pend IS NOT NULL
                 LEFT JOIN _syncline_parked p ON p.scope = g.scope AND p.tbl = g.tbl AND p.key = g.key AND p.local IS NULL
                 WHERE g.scope = ?1 ORDER BY r.seq",
            )
            .doing("reading what goes together")?;
        let mut rows = q.query([scope.n]).doing("reading what goes together")?;
        while let Some(r) = rows.next().doing("reading what goes together")? {
            let read = || -> rusqlite::Result<(i64, Member, bool)> { Ok((r.get(0)?, (r.get(1)?, Key(r.get(2)?)), r.get(3)?)) };
            let (group, member, parked) = read().doing("reading what goes together")?;
            out.groups.entry(group).or_default().push(member.clone());
            out.of.insert(member, group);
            if parked {
                out.held.insert(group);
            }
        }
        let large: HashSet<i64> = out.groups.iter().filter(|g| g.1.len() > most).map(|g| *g.0).collect();
        out.of.retain(|_, g| !large.contains(g));
        Ok(out)
    }
}
