//! Declaring, adopting and changing how columns merge.
//!
//! The authority's word counts. A replica that hears of other rules makes the rows that it has follow them, without a new
//! stamp: what a new rule keeps beside a value follows from the state, so that every replica makes the same of the same row.

use crate::apply::Applied;
use crate::error::{Doing, Error, Result};
use crate::registry::Table;
use crate::tx::{Role, Scope, Tx};
use syncline_core::schema::{ScopeRule, TableDef};
use syncline_core::{Extra, Key, Lost, LostReason, Policies, Policy, RowState, Seq};

/// Says why the rules of `theirs` cannot follow those of `ours` where rows may already be merged by them; else what they become.
pub fn change_rules(ours: &TableDef, theirs: &TableDef) -> std::result::Result<TableDef, String> {
    let mut out = ours.clone();
    let word = |p: &Option<String>| p.clone().unwrap_or_else(|| "lww".into());
    let change = |place: String, from: &Option<String>, to: &Option<String>| -> std::result::Result<Option<String>, String> {
        let (a, b) = (word(from), word(to));
        let safe = |w: &str| matches!(w, "lww" | "server" | "reject" | "ask");
        // Who declares nothing follows what is there.
        if to.is_none() || a == b {
            return Ok(from.clone());
        }
        if safe(&a) || b == "lww" {
            return Ok(to.clone());
        }
        Err(format!("{place} is `{a}` at the authority and cannot become `{b}`; make it `lww` first, on all devices, then `{b}`"))
    };
    out.options.policy = change("its policy".into(), &ours.options.policy, &theirs.options.policy)?;
    for column in &mut out.columns {
        if let Some(t) = theirs.column(&column.name) {
            column.policy = change(format!("column `{}`", column.name), &column.policy, &t.policy)?;
        }
    }
    out.options.delete_wins |= theirs.options.delete_wins;
    out.options.hold_bundle |= theirs.options.hold_bundle;
    if !theirs.options.groups.is_empty() {
        out.options.groups = theirs.options.groups.clone();
    }
    let (here, wanted) = (&ours.options.scope, &theirs.options.scope);
    if *wanted != ScopeRule::Account && !same_scope(here, wanted) {
        if *here != ScopeRule::Account {
            return Err("its rows get their scope in another way at the authority; a table's rows do not all move at once: sync it under a new name".into());
        }
        out.options.scope = wanted.clone();
    }
    check(&out)?;
    Ok(out)
}

fn same_scope(a: &ScopeRule, b: &ScopeRule) -> bool {
    match (a, b) {
        (ScopeRule::Account, ScopeRule::Account) => true,
        (ScopeRule::Column(a), ScopeRule::Column(b)) | (ScopeRule::Via(a), ScopeRule::Via(b)) => a.eq_ignore_ascii_case(b),
        _ => false,
    }
}

/// Says why a table's rules cannot be.
pub fn check(def: &TableDef) -> std::result::Result<(), String> {
    let is_key = |name: &str| def.primary_key.iter().any(|p| p.column.as_deref().is_some_and(|k| k.eq_ignore_ascii_case(name)));
    if let Some(column) = def.columns.iter().find(|c| c.policy.as_deref().is_some_and(|p| p != "lww") && is_key(&c.name)) {
        return Err(format!("column `{}` is part of the key: a key has no policy, another key is another row", column.name));
    }
    let names: Vec<&str> = def.stored_columns().map(|c| c.name.as_str()).filter(|c| !is_key(c)).collect();
    Policies::of(def, &names).map(drop).map_err(|e| e.to_string())
}

impl Tx<'_> {
    /// Makes a table here follow the authority's rules.
    pub(crate) fn adopt_table(&mut self, theirs: &TableDef) -> Result<()> {
        let Some(t) = self.registry()?.find(&theirs.name).filter(|t| t.present && t.generation > 0) else { return Ok(()) };
        if t.def.same_rules(theirs) {
            return Ok(());
        }
        let mut def = t.def.clone();
        def.adopt_rules(theirs);
        self.register(&def, true)?;
        self.install_capture(t.n)?;
        if def.options.scope != t.def.options.scope {
            // Rows are where they were; the next absorb finds out where they belong.
            self.reconcile(t.n, false)?;
        }
        self.adopt_policies(t.n)
    }

    /// Makes the rows of a table follow its rules, as they are now. The caller has absorbed by the old ones.
    pub fn adopt_policies(&mut self, table: i64) -> Result<()> {
        let t = self.registry()?.get(table)?;
        let rows: Vec<(i64, Vec<u8>)> = {
            let mut q = self.conn.prepare("SELECT scope, key FROM _syncline_row WHERE tbl = ?1").doing("reading rows")?;
            q.query_map([table], |r| Ok((r.get(0)?, r.get(1)?))).and_then(Iterator::collect).doing("reading rows")?
        };
        if self.role == Role::Device && !t.asks() {
            self.cache.inbox_stale = true;
            self.conn.execute("DELETE FROM _syncline_asked WHERE tbl = ?1", [table]).doing("forgetting what was asked")?;
        }
        if rows.is_empty() {
            return Ok(());
        }
        self.set_applying(true)?;
        let mut out = Applied::default();
        for (scope, key) in rows {
            let scope = self.scope(scope)?;
            let key = Key(key);
            let mut row = self.load_complete(&scope, &t, &key)?;
            let before = row.state.clone();
            if row.state.adopt(&t.policies) {
                self.note_unasked(&scope, &t, &key, &before)?;
                self.place(&scope, &t, &mut row, &before, &mut out)?;
                self.save(&scope, &t, &mut row)?;
            }
        }
        self.set_applying(false)
    }

    /// Notes values that waited for a decision which nobody is asked for any more.
    fn note_unasked(&mut self, scope: &Scope, t: &Table, key: &Key, before: &RowState) -> Result<()> {
        let mut lost = Vec::new();
        for (c, extra) in &before.extras {
            if let (Extra::Ask(kept), Some(shown)) = (extra, before.cell(*c))
                && t.policies.column(*c) != Policy::Ask
            {
                let others = kept.iter().filter(|x| x.value != shown.value);
                lost.extend(others.map(|x| Lost { column: *c, lost: x.clone(), won: Some(shown.clone()), reason: LostReason::Superseded }));
            }
        }
        let seq = if self.role == Role::Authority { self.head(scope.n)?.next() } else { Seq(0) };
        self.note_lost(scope, t, key, &lost, seq)
    }

    /// Changes the rules of one of the authority's tables to what a device declares. Says whether anything changed.
    pub fn change_policies(&mut self, theirs: &TableDef) -> Result<bool> {
        debug_assert_eq!(self.role, Role::Authority);
        let Some(t) = self.registry()?.find(&theirs.name) else { return Ok(false) };
        let def = change_rules(&t.def, theirs).map_err(|why| Error::Refused(format!("table `{}`: {why}", t.def.name)))?;
        if def.same_rules(&t.def) {
            return Ok(false);
        }
        if def.options.scope != t.def.options.scope {
            let any: bool = self
                .conn
                .query_row("SELECT EXISTS (SELECT 1 FROM _syncline_row WHERE tbl = ?1)", [t.n], |r| r.get(0))
                .doing("changing where rows get their scope")?;
            if any {
                return Err(Error::Refused(format!(
                    "table `{}`: it has rows at the authority, all of them their accounts' own; to share rows, sync them under a new name",
                    t.def.name
                )));
            }
            for sql in crate::schema::authority_scope_ddl(&def) {
                self.conn.execute_batch(&sql).doing("changing where rows get their scope")?;
            }
        }
        self.register(&def, t.present)?;
        self.install_capture(t.n)?;
        self.adopt_policies(t.n)?;
        Ok(true)
    }
}
