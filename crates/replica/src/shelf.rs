//! Shelved rows: merged in the sidecar, not shown in the table because a constraint of this database forbids it for now.
//!
//! Which of two clashing rows is shelved is a function of the states alone (confirmed before pending, then the older
//! creation stamp, then the smaller key), so that replicas agree without asking anyone. Parked rows live here too: pending,
//! refused by the authority, waiting for a decision.

use crate::apply::{Applied, RowObject};
use crate::bind::{Bind, values};
use crate::clash::Clash;
use crate::error::{Doing, Result};
use crate::family::Named;
use crate::registry::Table;
use crate::rows::{Kind, RowRecord};
use crate::tx::{Role, Scope, Tx};
use rusqlite::{OptionalExtension, ToSql, params};
use std::collections::HashSet;
use std::sync::Arc;
use syncline_core::schema::{ForeignKey, IndexPart, quote};
use syncline_core::{ColSet, Hlc, Key, Reason, Refusal, Seq, Stamp, Value, planted};

/// How often settling may find new work before it leaves the rest for the next apply.
const SETTLE_ROUNDS: usize = 8;

impl Tx<'_> {
    /// Notes a row as shelved.
    pub(crate) fn shelve_note(&mut self, scope: &Scope, t: &Table, key: &Key, clash: &Clash) -> Result<()> {
        (self.cache.waiting, self.cache.inbox_stale) = (Some(true), true);
        self.conn
            .prepare_cached(
                "INSERT INTO _syncline_shelved(scope, tbl, key, reason, message, since) VALUES(?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT(scope, tbl, key) DO UPDATE SET reason = excluded.reason, message = excluded.message",
            )
            .and_then(|mut q| q.execute(params![scope.n, t.n, key.0, clash.reason.word(), clash.message, self.env.now_ms]))
            .doing("shelving a row")?;
        Ok(())
    }
    /// Notes that a row is not shelved any more.
    pub(crate) fn unshelve_note(&mut self, scope: &Scope, t: &Table, key: &Key) -> Result<()> {
        if !self.is_anything_waiting()? {
            return Ok(());
        }
        self.cache.inbox_stale = true;
        self.conn
            .prepare_cached("DELETE FROM _syncline_shelved WHERE scope = ?1 AND tbl = ?2 AND key = ?3")
            .and_then(|mut q| q.execute(params![scope.n, t.n, key.0]))
            .doing("unshelving a row")?;
        Ok(())
    }
    /// Parks a row: it is not offered again until it, or what it waits for, changes.
    pub fn park(&mut self, scope: &Scope, t: &Table, key: &Key, refusal: &Refusal) -> Result<()> {
        (self.cache.waiting, self.cache.inbox_stale) = (Some(true), true);
        let json = serde_json::to_vec(refusal).unwrap_or_default();
        self.conn
            .prepare_cached(
                "INSERT INTO _syncline_parked(scope, tbl, key, reason, message, refusal, since) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)
                 ON CONFLICT(scope, tbl, key) DO UPDATE SET reason = excluded.reason, message = excluded.message, refusal = excluded.refusal",
            )
            .and_then(|mut q| q.execute(params![scope.n, t.n, key.0, refusal.reason.word(), refusal.message, json, self.env.now_ms]))
            .doing("parking a row")?;
        Ok(())
    }
    /// Parks this device's half of a key collision: its values, beside the row that bears the key now.
    pub(crate) fn park_collision(&mut self, scope: &Scope, t: &Table, row: &RowRecord, local: RowObject) -> Result<()> {
        let refusal = Refusal {
            schema: "main".into(),
            table: t.def.name.clone(),
            key: t.key_object(&row.key),
            op: "insert".into(),
            base_row_version: Seq(0),
            server_row_version: row.version,
            server_row_deleted: false,
            server_row: Some(t.row_object(&row.key, &row.state)),
            reason: Reason::KeyCollision,
            message: "another device gave this key to another row; keep yours under a new key, or let it go".into(),
        };
        self.park(scope, t, &row.key, &refusal)?;
        let json = serde_json::to_vec(&local).unwrap_or_default();
        self.conn
            .execute("UPDATE _syncline_parked SET local = ?4 WHERE scope = ?1 AND tbl = ?2 AND key = ?3", params![scope.n, t.n, row.key.0, json])
            .doing("keeping a row whose key collided")?;
        Ok(())
    }
    /// Returns the values that a key collision put aside.
    pub fn collided(&self, scope: &Scope, t: &Table, key: &Key) -> Result<Option<RowObject>> {
        let json: Option<Option<Vec<u8>>> = self
            .conn
            .prepare_cached("SELECT local FROM _syncline_parked WHERE scope = ?1 AND tbl = ?2 AND key = ?3")
            .and_then(|mut q| q.query_row(params![scope.n, t.n, key.0], |r| r.get(0)).optional())
            .doing("reading a row whose key collided")?;
        Ok(json.flatten().and_then(|j| serde_json::from_slice(&j).ok()))
    }
    /// Forgets the values that a key collision put aside, once they are decided.
    pub(crate) fn forget_collided(&mut self, scope: &Scope, t: &Table, key: &Key) -> Result<()> {
        self.cache.inbox_stale = true;
        self.conn
            .execute("DELETE FROM _syncline_parked WHERE scope = ?1 AND tbl = ?2 AND key = ?3", params![scope.n, t.n, key.0])
            .doing("settling a key collision")?;
        Ok(())
    }
    /// Takes a row out of parking; says whether it was parked. Values that a key collision put aside stay until decided.
    pub fn unpark(&mut self, scope: &Scope, t: &Table, key: &Key) -> Result<bool> {
        if !self.is_anything_waiting()? {
            return Ok(false);
        }
        self.cache.inbox_stale = true;
        self.conn
            .prepare_cached("DELETE FROM _syncline_parked WHERE scope = ?1 AND tbl = ?2 AND key = ?3 AND local IS NULL")
            .and_then(|mut q| q.execute(params![scope.n, t.n, key.0]))
            .map(|n| n > 0)
            .doing("taking a row out of parking")
    }
    /// Whether a row is parked. The row beside which a key collision put values aside is not.
    pub fn is_parked(&mut self, scope: &Scope, t: &Table, key: &Key) -> Result<bool> {
        if !self.is_anything_waiting()? {
            return Ok(false);
        }
        self.conn
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM _syncline_parked WHERE scope = ?1 AND tbl = ?2 AND key = ?3 AND local IS NULL)")
            .and_then(|mut q| q.query_row(params![scope.n, t.n, key.0], |r| r.get(0)))
            .doing("reading parked rows")
    }

    /// Offers parked rows again that may have waited for a row of these tables. They get a new number of our sequence.
    pub fn unpark_waiting(&mut self, scope: &Scope, touched: &HashSet<i64>) -> Result<bool> {
        if touched.is_empty() {
            return Ok(false);
        }
        let parked: Vec<(i64, Vec<u8>, String)> = {
            let mut q = self
                .conn
                .prepare_cached("SELECT tbl, key, reason FROM _syncline_parked WHERE scope = ?1 AND reason IN ('foreign_key', 'unique') AND local IS NULL")
                .doing("reading parked rows")?;
            q.query_map([scope.n], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?))).and_then(Iterator::collect).doing("reading parked rows")?
        };
        // A row that is offered again is itself what others may wait for.
        let (mut touched, mut parked) = (touched.clone(), parked);
        let waited = parked.len();
        loop {
            let before = parked.len();
            for (table, key, reason) in std::mem::take(&mut parked) {
                let t = self.registry()?.get(table)?;
                if self.waits_for(&t, &reason, &touched)? {
                    self.unpark_and_touch(scope, &t, &Key(key))?;
                    touched.insert(table);
                } else {
                    parked.push((table, key, reason));
                }
            }
            if parked.len() == before {
                return Ok(before < waited);
            }
        }
    }

    /// Whether a parked row may have waited for a row of these tables.
    fn waits_for(&mut self, t: &Table, reason: &str, touched: &HashSet<i64>) -> Result<bool> {
        if touched.contains(&t.n) || reason != Reason::ForeignKey.word() {
            return Ok(touched.contains(&t.n));
        }
        let registry = self.registry()?;
        let parents = t.def.foreign_keys.iter().filter_map(|f| registry.find(&f.table)).any(|p| touched.contains(&p.n));
        // A deletion waits for the rows that still point at it.
        let children = || registry.all().iter().any(|c| touched.contains(&c.n) && c.def.foreign_keys.iter().any(|f| f.table.eq_ignore_ascii_case(&t.def.name)));
        Ok(parents || children())
    }

    /// Takes a row out of parking and gives it a new number, so that it is offered again.
    pub fn unpark_and_touch(&mut self, scope: &Scope, t: &Table, key: &Key) -> Result<()> {
        self.unpark(scope, t, key)?;
        if let Some(mut row) = self.load(scope, t, key)? {
            row.complete(self, t, scope)?;
            if !planted::on("unparked_keeps_number") {
                self.touch(scope, &mut row)?;
            }
            self.save(scope, t, &mut row)?;
        }
        Ok(())
    }

    /// Settles which rows are shown: tries shelved ones, then shelves children whose parents are absent, until nothing moves.
    pub(crate) fn settle_shelf(&mut self, scope: &Scope, out: &mut Applied) -> Result<()> {
        let mut check = std::mem::take(&mut out.check);
        // What goes in one scope may have been in the way of a row of another.
        let any_shelved = match self.role {
            Role::Device => self.is_anything_waiting()?,
            Role::Authority => self.count("SELECT EXISTS (SELECT 1 FROM _syncline_shelved WHERE scope = ?1)", scope)?,
        };
        let any_pending = self.count("SELECT EXISTS (SELECT 1 FROM _syncline_row WHERE scope = ?1 AND pend IS NOT NULL)", scope)?;
        if !any_shelved && !any_pending {
            // All here is the authority's own state, in which its constraints hold.
            return Ok(());
        }
        let mut orphaned: HashSet<(i64, Key)> = HashSet::new();
        let mut tried: HashSet<(i64, Key)> = HashSet::new();
        for _ in 0..SETTLE_ROUNDS {
            let shown = self.try_shelved(scope, &orphaned, out)?;
            let mut moved = !(shown.is_empty() && out.check.is_empty());
            // A child of a row that is back has another chance; not one that was shown already and could not stay.
            let registry = self.registry()?;
            let is_back = |parent: &str| shown.iter().any(|s| s.1.def.name.eq_ignore_ascii_case(parent));
            let may_stay = |n: i64| registry.get(n).is_ok_and(|t| t.def.foreign_keys.iter().any(|f| is_back(&f.table)));
            orphaned.retain(|row| tried.contains(row) || !may_stay(row.0));
            tried.extend(shown.iter().map(|(_, t, key)| (t.n, key.clone())));
            check.extend(shown);
            check.append(&mut out.check);
            while let Some((at, t, key)) = check.pop() {
                for (child, child_key) in self.orphans_of(&at, &t, &key)? {
                    if let Some(more) = self.settle_orphan(&at, &child, &child_key, out)? {
                        check.extend(more);
                        moved = true;
                        continue;
                    }
                    let clash = Clash { reason: Reason::ForeignKey, message: "it points at a row that does not exist here".into() };
                    let at = self.home(&child, &child_key)?.unwrap_or_else(|| at.clone());
                    self.take_off_table(&at, &child, &child_key, &clash, out)?;
                    check.append(&mut out.check);
                    self.note_stray(&child, &child_key)?;
                    orphaned.insert((child.n, child_key));
                    moved = true;
                }
            }
            if !moved {
                break;
            }
        }
        Ok(())
    }

    fn count(&self, sql: &str, scope: &Scope) -> Result<bool> {
        self.conn.prepare_cached(sql).and_then(|mut q| q.query_row([scope.n], |r| r.get(0))).doing("looking at the shelf")
    }

    /// Tries to show each shelved row, on a device of whatever scope, the first in precedence first. Returns those that are shown now.
    fn try_shelved(&mut self, scope: &Scope, not: &HashSet<(i64, Key)>, out: &mut Applied) -> Result<Vec<Named>> {
        let shelved: Vec<(i64, i64, Vec<u8>)> = {
            let mut q = self.conn.prepare_cached("SELECT scope, tbl, key FROM _syncline_shelved WHERE ?2 OR scope = ?1").doing("reading the shelf")?;
            q.query_map(params![scope.n, self.role == Role::Device], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))
                .and_then(Iterator::collect)
                .doing("reading the shelf")?
        };
        let mut rows = Vec::new();
        for (n, table, key) in shelved {
            let scope = &self.scope(n)?;
            let key = Key(key);
            if not.contains(&(table, key.clone())) || planted::on("shelved_for_ever") {
                continue;
            }
            let t = self.registry()?.get(table)?;
            let row = self.load_complete(scope, &t, &key)?;
            if row.state.is_dead() || row.is_shown() {
                self.unshelve_note(scope, &t, &key)?;
            } else if t.present {
                rows.push((scope.clone(), t, row));
            }
        }
        rows.sort_by_cached_key(|r| (precedence(&r.2, r.1.n), r.0.id.clone()));
        let mut shown = Vec::new();
        for (scope, t, row) in rows {
            let key = row.key.clone();
            if self.show_shelved(&scope, &t, row, out)? {
                shown.push((scope, t, key));
            }
        }
        Ok(shown)
    }

    /// Inserts a shelved row; rows in its way that come after it in precedence are shelved instead.
    fn show_shelved(&mut self, scope: &Scope, t: &Arc<Table>, mut row: RowRecord, out: &mut Applied) -> Result<bool> {
        for _ in 0..SETTLE_ROUNDS {
            let clash = match t.insert(self, scope, &row.key, &row.state) {
                Ok(()) => {
                    row.kind = Kind::Shown;
                    self.unshelve_note(scope, t, &row.key)?;
                    self.save(scope, t, &mut row)?;
                    out.changed.push((scope.n, t.n, row.key.clone()));
                    return Ok(true);
                }
                Err(e) => Clash::from_error(e)?,
            };
            self.shelve_note(scope, t, &row.key, &clash)?;
            if clash.reason != Reason::Unique {
                return Ok(false);
            }
            let mut made_room = false;
            if let Some(other) = self.home_elsewhere(scope, t, &row.key)? {
                // One key in two scopes: moved to both, or two things of one name. The later is shown.
                let theirs = self.load_complete(&other, t, &row.key)?;
                if later(&theirs, &other) > later(&row, scope) {
                    return Ok(false);
                }
                let clash = Clash { reason: Reason::Unique, message: format!("a later row of scope `{}` has this key", scope.id.0) };
                self.take_off_table(&other, t, &row.key, &clash, out)?;
                continue;
            }
            for key in self.obstacles(scope, t, &row)? {
                let at = if t.scoped { scope.clone() } else { self.home(t, &key)?.unwrap_or_else(|| scope.clone()) };
                let obstacle = self.load_complete(&at, t, &key)?;
                if obstacle.is_new() || (precedence(&obstacle, t.n), &at.id) < (precedence(&row, t.n), &scope.id) {
                    return Ok(false);
                }
                self.take_off_table(&at, t, &key, &clash, out)?;
                made_room = true;
            }
            if !made_room {
                return Ok(false);
            }
        }
        Ok(false)
    }

    /// Returns the other scope in which a key is shown.
    fn home_elsewhere(&mut self, scope: &Scope, t: &Table, key: &Key) -> Result<Option<Scope>> {
        if t.scoped || !t.is_shared() {
            return Ok(None);
        }
        Ok(self.home(t, key)?.filter(|at| at.n != scope.n))
    }

    /// Moves rows whose parents have turned up in another scope: a write of this device's.
    pub(crate) fn follow_parents(&mut self, out: &mut Applied) -> Result<()> {
        for (t, key, at, to) in self.found_strays()? {
            let mut row = self.load_complete(&at, &t, &key)?;
            let mut entering = self.load_complete(&to, &t, &key)?;
            let writer = self.writer()?;
            let now = Hlc::from_ms(self.env.now_ms);
            let shown = row.is_shown();
            if entering.state.is_dead() {
                let stamp = Stamp { hlc: now.max(entering.state.next_hlc()), writer };
                let mut changed = entering.state.insert(stamp, t.columns.len());
                for c in 0..t.columns.len() {
                    if let Some(cell) = row.state.cell(c).cloned() {
                        entering.state.write_as(&t.policies, c, stamp, cell.value, None, None);
                        changed.insert(c);
                    }
                }
                entering.kind = if shown { Kind::Shown } else { Kind::Shelved };
                if !shown {
                    let clash = Clash { reason: Reason::ForeignKey, message: "it follows its parent into another scope".into() };
                    self.shelve_note(&to, &t, &key, &clash)?;
                }
                self.note_local(&to, &t, &mut entering, &changed, true, Seq(0))?;
            } else if shown {
                self.take_out(&at, &t, &key)?;
            }
            row.kind = Kind::Shelved;
            row.state.move_away(Stamp { hlc: now.max(row.state.next_hlc()), writer }, &t.policies);
            self.note_local(&at, &t, &mut row, &ColSet::liveness(), false, Seq(0))?;
            out.changed.push((to.n, t.n, key));
        }
        Ok(())
    }

    /// Shelves a row that is shown.
    fn take_off_table(&mut self, scope: &Scope, t: &Arc<Table>, key: &Key, clash: &Clash, out: &mut Applied) -> Result<()> {
        let mut row = self.load_complete(scope, t, key)?;
        if row.is_new() {
            return Ok(());
        }
        self.take_out(scope, t, key)?;
        row.kind = Kind::Shelved;
        self.shelve_note(scope, t, key, clash)?;
        self.save(scope, t, &mut row)?;
        out.changed.push((scope.n, t.n, key.clone()));
        // Its children cannot stay without it.
        out.check.push((scope.clone(), t.clone(), key.clone()));
        Ok(())
    }

    /// Finds the rows of the table that hold a unique value which `row` wants.
    fn obstacles(&self, scope: &Scope, t: &Table, row: &RowRecord) -> Result<Vec<Key>> {
        let mut found = Vec::new();
        let mut indexes: Vec<&[IndexPart]> = vec![&t.def.primary_key];
        indexes.extend(t.def.uniques.iter().map(Vec::as_slice));
        indexes.extend(t.def.indexes.iter().filter(|i| i.unique).map(|i| i.parts.as_slice()));
        for parts in indexes {
            let Some(columns) = parts.iter().map(|p| p.column.clone()).collect::<Option<Vec<_>>>() else { continue };
            let Some(wanted) = columns.iter().map(|c| value_of(t, row, c)).collect::<Option<Vec<_>>>() else { continue };
            let collate = |i: usize| {
                let own = t.def.column(&columns[i]).and_then(|c| c.collate.clone());
                parts[i].collate.clone().or(own).map(|c| format!(" COLLATE {}", quote(&c))).unwrap_or_default()
            };
            let terms: Vec<String> = columns.iter().enumerate().map(|(i, c)| format!("{}{} = ?{}", quote(c), collate(i), i + 1)).collect();
            found.extend(self.keys_where(scope, t, &terms, &wanted)?.into_iter().filter(|k| *k != row.key));
        }
        found.sort();
        found.dedup();
        Ok(found)
    }

    pub(crate) fn keys_where(&self, scope: &Scope, t: &Table, terms: &[String], wanted: &[Value]) -> Result<Vec<Key>> {
        let keys = t.key.iter().map(|k| quote(k)).collect::<Vec<_>>().join(", ");
        let scoped = if t.scoped { format!(" AND \"scope_id\" = ?{}", wanted.len() + 1) } else { String::new() };
        let sql = format!("SELECT {keys} FROM {} WHERE {}{scoped}", quote(&t.def.name), terms.join(" AND "));
        let binds: Vec<Bind> = wanted.iter().map(Bind).collect();
        let mut params: Vec<&dyn ToSql> = binds.iter().map(|b| b as &dyn ToSql).collect();
        if t.scoped {
            params.push(&scope.id.0);
        }
        let mut q = self.conn.prepare_cached(&sql).doing("looking for a row in the way")?;
        q.query_map(&params[..], |r| values(r, 0, t.key.len()).map(|v| Key::encode(&v))).and_then(Iterator::collect).doing("looking for a row in the way")
    }

    /// Lists rows that are shown although a parent is absent: the row itself, or, if it is gone, its children.
    pub fn orphans_of(&mut self, scope: &Scope, t: &Arc<Table>, key: &Key) -> Result<Vec<(Arc<Table>, Key)>> {
        let registry = self.registry()?;
        let Some(row) = self.load(scope, t, key)? else { return Ok(vec![]) };
        let mut row = row;
        row.complete(self, t, scope)?;
        let mut out = Vec::new();
        if row.is_shown() {
            for f in &t.def.foreign_keys {
                let Some(parent) = registry.find(&f.table) else { continue };
                if self.lacks_parent(scope, t, &row, f, &parent)? {
                    out.push((t.clone(), key.clone()));
                    break;
                }
            }
            return Ok(out);
        }
        for child in registry.all().into_iter().filter(|c| c.present) {
            for f in child.def.foreign_keys.iter().filter(|f| f.table.eq_ignore_ascii_case(&t.def.name)) {
                for key in self.children(scope, t, &row, &child, f)? {
                    let mut orphan = self.load_complete(scope, &child, &key)?;
                    orphan.kind = Kind::Shown;
                    // Another row may bear the value that the child points at.
                    if self.lacks_parent(scope, &child, &orphan, f, t)? {
                        out.push((child.clone(), key));
                    }
                }
            }
        }
        Ok(out)
    }

    /// Lists the rows of a table that point at a row by one of its foreign keys.
    pub fn children(&self, scope: &Scope, t: &Table, row: &RowRecord, child: &Table, f: &ForeignKey) -> Result<Vec<Key>> {
        let referenced = t.def.referenced_columns(f);
        let Some(wanted) = referenced.iter().map(|c| value_of(t, row, c)).collect::<Option<Vec<_>>>() else { return Ok(vec![]) };
        let terms: Vec<String> = f.columns.iter().enumerate().map(|(i, c)| format!("{} = ?{}", quote(c), i + 1)).collect();
        self.keys_where(scope, child, &terms, &wanted)
    }

    pub(crate) fn lacks_parent(&self, scope: &Scope, t: &Table, row: &RowRecord, f: &ForeignKey, parent: &Table) -> Result<bool> {
        let Some(wanted) = f.columns.iter().map(|c| value_of(t, row, c)).collect::<Option<Vec<_>>>() else { return Ok(false) };
        if wanted.contains(&Value::Null) {
            return Ok(false);
        }
        let referenced = parent.def.referenced_columns(f);
        let terms: Vec<String> = referenced.iter().enumerate().map(|(i, c)| format!("{} = ?{}", quote(c), i + 1)).collect();
        Ok(self.keys_where(scope, parent, &terms, &wanted)?.is_empty())
    }

    /// Takes a table that the app has dropped off the shown ones; its rows stay in the sidecar, without values.
    pub(crate) fn hide_table(&mut self, t: &Table) -> Result<()> {
        self.drop_capture(t.n)?;
        self.conn.execute("UPDATE _syncline_table SET present = 0 WHERE n = ?1", [t.n]).doing("hiding a table")?;
        self.conn.execute("UPDATE _syncline_row SET kind = 4 WHERE tbl = ?1 AND kind IN (0, 3)", [t.n]).doing("hiding a table")?;
        self.cache.registry = None;
        // Their values went with the table; hydrating again brings them back.
        self.conn.execute("UPDATE _syncline_scope SET resync = 1", []).doing("asking for a resync")?;
        Ok(())
    }

    /// Puts rows and columns that were kept for a table into it, now that it is here.
    pub(crate) fn show_table(&mut self, table: i64) -> Result<()> {
        let t = self.registry()?.get(table)?;
        let kept: Vec<(i64, Vec<u8>)> = {
            let mut q = self
                .conn
                .prepare("SELECT scope, key FROM _syncline_row WHERE tbl = ?1 AND (kind = 4 OR kind = 0 AND image IS NOT NULL)")
                .doing("finding rows that were kept")?;
            q.query_map([table], |r| Ok((r.get(0)?, r.get(1)?))).and_then(Iterator::collect).doing("finding rows that were kept")?
        };
        if kept.is_empty() {
            return Ok(());
        }
        self.set_applying(true)?;
        let mut out = Applied::default();
        for (scope, key) in kept {
            let scope = self.scope(scope)?;
            let mut row = self.load_complete(&scope, &t, &Key(key))?;
            if row.is_shown() {
                // `complete` has read the image over the table's default for a column that has just appeared.
                let mut all = ColSet::none();
                t.shown.iter().for_each(|c| all.insert(*c));
                let image = self.load(&scope, &t, &row.key)?.map(|mut r| {
                    r.kind = Kind::Shelved;
                    r
                });
                if let Some(mut image) = image {
                    image.complete(self, &t, &scope)?;
                    for c in &t.shown {
                        if let (Some(Some(cell)), Some(Some(kept))) = (row.state.cells.get_mut(*c), image.state.cells.get(*c))
                            && kept.value != Value::Null
                        {
                            cell.value = kept.value.clone();
                        }
                    }
                }
                t.update(self, &scope, &row.key, &row.state, &all)?;
                self.save(&scope, &t, &mut row)?;
            } else {
                let before = row.state.clone();
                self.place(&scope, &t, &mut row, &before, &mut out)?;
                self.save(&scope, &t, &mut row)?;
            }
        }
        self.set_applying(false)
    }

    /// Returns the structured refusal of a parked row.
    pub fn refusal(&self, scope: &Scope, t: &Table, key: &Key) -> Result<Option<Refusal>> {
        let json: Option<Vec<u8>> = self
            .conn
            .prepare_cached("SELECT refusal FROM _syncline_parked WHERE scope = ?1 AND tbl = ?2 AND key = ?3")
            .and_then(|mut q| q.query_row(params![scope.n, t.n, key.0], |r| r.get(0)).optional())
            .doing("reading a refusal")?;
        Ok(json.and_then(|j| serde_json::from_slice(&j).ok()))
    }
}

/// Sorts the row that stays before the one that is shelved.
fn precedence(row: &RowRecord, table: i64) -> (bool, Stamp, i64, Key) {
    (row.pend.is_some(), row.state.births().first().copied().unwrap_or_default(), table, row.key.clone())
}

/// Sorts the row that was made later after the other, where two scopes have one key.
fn later<'a>(row: &RowRecord, scope: &'a Scope) -> (Stamp, &'a str) {
    (row.state.births().last().copied().unwrap_or_default(), &scope.id.0)
}

/// Returns a column's value, key columns included; `None` if it was never written.
pub fn value_of(t: &Table, row: &RowRecord, column: &str) -> Option<Value> {
    match t.key.iter().position(|k| k.eq_ignore_ascii_case(column)) {
        Some(i) => row.key.decode().ok()?.get(i).cloned(),
        None => row.state.cell(t.column(column)?).map(|c| c.value.clone()),
    }
}
