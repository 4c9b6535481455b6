//! Homes: which scope each row of a device is in, and moves between scopes.
//!
//! A row is at home where its scope column says, or where its parent is; the sidecar knows where it was. What always holds: of a
//! key at most one scope's row is shown in the table. A change of home is a deletion for good in the old scope and an insert in
//! the new one, made in one absorb. What an edit of the same absorb wrote is not left behind in the old scope.
//!
//! A row that names no scope (NULL, or a value that cannot name one) is the account's own. A child without a parent stays where
//! it is; one whose parent is not here, or is elsewhere and on its way, is a *stray*, looked at again with every change.

use crate::absorb::{Absorbed, Fold};
use crate::bind::{Bind, value};
use crate::error::{Doing, Result};
use crate::registry::{Registry, Table, is_inexact};
use crate::rows::Kind;
use crate::schema::scopes::{Origin, origin};
use crate::shelf::value_of;
use crate::tx::{Role, Scope, Tx};
use rusqlite::{OptionalExtension, ToSql, params};
use std::collections::HashSet;
use std::sync::Arc;
use syncline_core::schema::{ScopeRule, quote};
use syncline_core::{Key, ScopeId, Value, planted};

/// Where a table's rows get their scope.
#[derive(Clone, Debug, Default)]
pub enum Home {
    /// All are the account's own.
    #[default]
    Account,
    /// This column says it.
    Column(String),
    /// A parent's, found by this statement: whether the row names one, whether that is here, and what its column says.
    Via(String),
}

/// The account's own scope.
const OWN: i64 = 1;

/// What a row says of its home.
pub(crate) enum Says {
    /// This scope.
    Scope(Scope),
    /// Nothing: it stays where it is, and without a place is the account's own.
    Nothing,
    /// Its parent is not here.
    NoParent,
}

/// A row whose parent is in another scope: where it is, and where it belongs.
pub(crate) type Stray = (Arc<Table>, Key, Scope, Scope);

/// A row with what was captured of it, where the log says that it is; and without that.
pub(crate) type Captured = ((Arc<Table>, Scope, Key), Fold);
/// A row with what was captured of it.
pub(crate) type Folded = (Arc<Table>, Key, Fold);

/// What of a row's captured writes concerns one scope.
pub(crate) struct Piece {
    /// Which of the rows.
    pub fold: usize,
    /// Which scope.
    pub scope: Scope,
    /// The row goes on in another one.
    pub leaves: bool,
}

/// Notes in each table of a device where its rows get their scope.
pub(crate) fn find(registry: &mut Registry) {
    let defs: Vec<(i64, Arc<Table>)> = registry.tables.iter().map(|(n, t)| (*n, t.clone())).collect();
    let def = |name: &str| defs.iter().map(|t| &t.1.def).find(|d| d.name.eq_ignore_ascii_case(name));
    for (n, t) in &defs {
        let home = match origin(def, &t.def) {
            Some((Origin::Column(at, column), way)) if way.len() == 1 => {
                debug_assert_eq!(at.name, t.def.name);
                Home::Column(column.to_owned())
            }
            Some((Origin::Column(_, column), way)) => Home::Via(way_sql(t, &way, column)),
            _ => continue,
        };
        registry.shared = true;
        if let (Home::Via(_), Some(f)) = (&home, t.def.scope_key())
            && let Some(parent) = defs.iter().find(|p| p.1.def.name.eq_ignore_ascii_case(&f.table)).map(|p| p.0)
            && let Some(parent) = registry.tables.get_mut(&parent)
        {
            Arc::make_mut(parent).heirs.push(*n);
        }
        if let Some(t) = registry.tables.get_mut(n) {
            Arc::make_mut(t).home = home;
        }
    }
}

/// The statement that follows a row's parents to the one whose column names the scope.
fn way_sql(t: &Table, way: &[&syncline_core::TableDef], column: &str) -> String {
    let last = way.len() - 1;
    let mut joins = String::new();
    let mut named = String::from("1");
    let mut there = String::from("1");
    for (i, pair) in way.windows(2).enumerate() {
        let Some(f) = pair[0].scope_key() else { continue };
        let referenced = pair[1].referenced_columns(f);
        let on: Vec<String> = f.columns.iter().zip(&referenced).map(|(a, b)| format!("a{}.{} = a{i}.{}", i + 1, quote(b), quote(a))).collect();
        joins += &format!(" LEFT JOIN {} AS a{} ON {}", quote(&pair[1].name), i + 1, on.join(" AND "));
        if i == 0 {
            named = f.columns.iter().map(|c| format!("a0.{} IS NOT NULL", quote(c))).collect::<Vec<_>>().join(" AND ");
        }
        if let Some(first) = referenced.first() {
            there = format!("a{}.{} IS NOT NULL", i + 1, quote(first));
        }
    }
    let place: Vec<String> = t
        .key
        .iter()
        .enumerate()
        .map(|(i, k)| match is_inexact(&t.def, k) {
            true => format!("a0.{0} = ?{1} AND a0.{0} COLLATE BINARY IS ?{1} AND typeof(a0.{0}) = typeof(?{1})", quote(k), i + 1),
            false => format!("a0.{} = ?{}", quote(k), i + 1),
        })
        .collect();
    format!("SELECT {named}, {there}, a{last}.{} FROM {} AS a0{joins} WHERE {}", quote(column), quote(&t.def.name), place.join(" AND "))
}

impl Table {
    /// Whether its rows may be in a scope that others are in, on a device.
    pub fn is_shared(&self) -> bool {
        !matches!(self.home, Home::Account)
    }
}

impl Tx<'_> {
    /// Names the account's own scope. What was written into a scope of that name before the device knew its account is its own, too.
    pub fn name_scope(&mut self, n: i64, id: &ScopeId) -> Result<()> {
        if let Some(other) = self.find_scope(id)?.filter(|s| s.n != n) {
            let head = self.head(n)?.max(self.head(other.n)?);
            self.set_head(n, head);
            let digest = self.digest(other.n)?;
            self.add_digest(n, digest);
            for sql in [
                "UPDATE OR IGNORE _syncline_row SET scope = ?1 WHERE scope = ?2",
                "UPDATE OR IGNORE _syncline_shelved SET scope = ?1 WHERE scope = ?2",
                "UPDATE OR IGNORE _syncline_parked SET scope = ?1 WHERE scope = ?2",
                "UPDATE _syncline_journal SET scope = ?1 WHERE scope = ?2",
            ] {
                self.conn.execute(sql, params![n, other.n]).doing("naming a scope")?;
            }
            self.forget_scope(&other)?;
        }
        self.conn.execute("UPDATE _syncline_scope SET scope_id = ?2 WHERE n = ?1", params![n, id.0]).doing("naming a scope")?;
        self.cache.scopes.clear();
        self.cache.scope_numbers.clear();
        Ok(())
    }

    /// Returns a scope by name, and makes it if it is new here: then the account is no member of it as far as is known.
    pub fn scope_named(&mut self, id: &ScopeId) -> Result<Scope> {
        if let Some(scope) = self.find_scope(id)? {
            return Ok(scope);
        }
        self.conn.prepare_cached("INSERT INTO _syncline_scope(scope_id) VALUES(?1)").and_then(|mut q| q.execute([&id.0])).doing("noting a scope")?;
        let n = self.conn.last_insert_rowid();
        self.scope(n)
    }

    /// Returns the scope in which a row is shown.
    pub fn home(&mut self, t: &Table, key: &Key) -> Result<Option<Scope>> {
        self.place_of(t, key, Kind::Shown)
    }

    fn place_of(&mut self, t: &Table, key: &Key, kind: Kind) -> Result<Option<Scope>> {
        let own: Option<i64> = self
            .conn
            .prepare_cached("SELECT scope FROM _syncline_row WHERE scope = 1 AND tbl = ?1 AND key = ?2 AND kind = ?3")
            .and_then(|mut q| q.query_row(params![t.n, key.0, kind as i64], |r| r.get(0)).optional())
            .doing("finding a row's scope")?;
        let n = match own {
            Some(n) => Some(n),
            None if !t.is_shared() => None,
            None => self
                .conn
                .prepare_cached(
                    "SELECT scope FROM _syncline_row INDEXED BY _syncline_row_home WHERE tbl = ?1 AND key = ?2 AND scope > 1 AND kind = ?3 ORDER BY scope LIMIT 1",
                )
                .and_then(|mut q| q.query_row(params![t.n, key.0, kind as i64], |r| r.get(0)).optional())
                .doing("finding a row's scope")?,
        };
        n.map(|n| self.scope(n)).transpose()
    }

    /// Returns what a row that is in its table says of its home.
    pub(crate) fn says(&mut self, t: &Table, key: &Key, values: &[Value]) -> Result<Says> {
        match &t.home {
            Home::Account => self.scope(OWN).map(Says::Scope),
            Home::Column(column) => {
                let says = match t.key.iter().position(|k| k.eq_ignore_ascii_case(column)) {
                    Some(i) => key.decode().doing("reading a key")?.get(i).cloned(),
                    None => t.column(column).and_then(|c| t.shown.iter().position(|s| *s == c)).and_then(|i| values.get(i).cloned()),
                };
                self.scope_of_value(&says.unwrap_or_default()).map(Says::Scope)
            }
            Home::Via(sql) => {
                let conn = self.conn;
                let unscoped = self.scope(OWN)?;
                let found: Option<(bool, bool, Value)> = t.with_key(&unscoped, key, &[], |params| {
                    conn.prepare_cached(sql)?.query_row(params, |r| Ok((r.get(0)?, r.get(1)?, value(r.get_ref(2)?)))).optional()
                })?;
                match found {
                    Some((true, true, says)) => self.scope_of_value(&says).map(Says::Scope),
                    Some((true, false, _)) => Ok(Says::NoParent),
                    _ => Ok(Says::Nothing),
                }
            }
        }
    }

    fn scope_of_value(&mut self, says: &Value) -> Result<Scope> {
        let name = match says {
            Value::Int(n) => n.to_string(),
            Value::Text(bytes) => String::from_utf8(bytes.clone()).unwrap_or_default(),
            _ => String::new(),
        };
        if name.is_empty() { self.scope(OWN) } else { self.scope_named(&ScopeId(name)) }
    }

    /// Returns where a row that is in its table belongs; `known` is where it was. Notes it as a stray if its parent is not here.
    pub(crate) fn belongs(&mut self, t: &Table, key: &Key, values: &[Value], known: Option<&Scope>) -> Result<Scope> {
        match self.says(t, key, values)? {
            Says::Scope(scope) => Ok(scope),
            Says::Nothing => known.cloned().map_or_else(|| self.scope(OWN), Ok),
            Says::NoParent => {
                self.note_stray(t, key)?;
                known.cloned().map_or_else(|| self.scope(OWN), Ok)
            }
        }
    }

    /// Lists the rows that get their scope from this one: (table, key) of those in their tables.
    pub(crate) fn heirs(&mut self, t: &Table, key: &Key, values: &[Value]) -> Result<Vec<(Arc<Table>, Key)>> {
        let registry = self.registry()?;
        let mut out = Vec::new();
        for heir in &t.heirs {
            let heir = registry.get(*heir)?;
            let Some(f) = heir.def.scope_key().filter(|_| heir.present) else { continue };
            let key_values = key.decode().doing("reading a key")?;
            let wanted: Option<Vec<Value>> = t
                .def
                .referenced_columns(f)
                .iter()
                .map(|c| match t.key.iter().position(|k| k.eq_ignore_ascii_case(c)) {
                    Some(i) => key_values.get(i).cloned(),
                    None => t.column(c).and_then(|c| t.shown.iter().position(|s| *s == c)).and_then(|i| values.get(i).cloned()),
                })
                .collect();
            let Some(wanted) = wanted else { continue };
            let terms: Vec<String> = f.columns.iter().enumerate().map(|(i, c)| format!("{} = ?{}", quote(c), i + 1)).collect();
            let keys = heir.key.iter().map(|k| quote(k)).collect::<Vec<_>>().join(", ");
            let sql = format!("SELECT {keys} FROM {} WHERE {}", quote(&heir.def.name), terms.join(" AND "));
            let binds: Vec<Bind> = wanted.iter().map(Bind).collect();
            let params: Vec<&dyn ToSql> = binds.iter().map(|b| b as &dyn ToSql).collect();
            let mut q = self.conn.prepare_cached(&sql).doing("finding a row's children")?;
            let found: Vec<Key> = q
                .query_map(&params[..], |r| crate::bind::values(r, 0, heir.key.len()).map(|v| Key::encode(&v)))
                .and_then(Iterator::collect)
                .doing("finding a row's children")?;
            out.extend(found.into_iter().map(|key| (heir.clone(), key)));
        }
        Ok(out)
    }

    // ---- strays

    /// Notes a row whose parent is not here, or elsewhere.
    pub(crate) fn note_stray(&mut self, t: &Table, key: &Key) -> Result<()> {
        if self.role == Role::Authority || !matches!(t.home, Home::Via(_)) {
            return Ok(());
        }
        self.cache.strays = Some(true);
        self.conn
            .prepare_cached("INSERT OR IGNORE INTO _syncline_stray(tbl, key) VALUES(?1, ?2)")
            .and_then(|mut q| q.execute(params![t.n, key.0]))
            .doing("noting a row whose parent is elsewhere")?;
        Ok(())
    }

    /// Takes a row out of its table. Its children may have to follow it to where it is shown next.
    pub(crate) fn take_out(&mut self, scope: &Scope, t: &Table, key: &Key) -> Result<()> {
        if self.role == Role::Device
            && !t.heirs.is_empty()
            && let Some(values) = t.read(self, scope, key)?
        {
            for (heir, key) in self.heirs(t, key, &values)? {
                self.note_stray(&heir, &key)?;
            }
        }
        t.delete(self, scope, key)
    }

    /// Lists strays whose parent has turned up elsewhere: (table, key, where they are, where they belong). Forgets those that are home.
    pub(crate) fn found_strays(&mut self) -> Result<Vec<Stray>> {
        if self.role == Role::Authority || !self.has_strays()? {
            return Ok(vec![]);
        }
        let strays: Vec<(i64, Key)> = {
            let mut q = self.conn.prepare_cached("SELECT tbl, key FROM _syncline_stray").doing("reading rows whose parent is elsewhere")?;
            q.query_map([], |r| Ok((r.get(0)?, Key(r.get(1)?)))).and_then(Iterator::collect).doing("reading rows whose parent is elsewhere")?
        };
        let mut out = Vec::new();
        for (n, key) in strays {
            let t = self.registry()?.get(n)?;
            let at = match self.place_of(&t, &key, Kind::Shown)? {
                Some(at) => Some(at),
                None => self.place_of(&t, &key, Kind::Shelved)?,
            };
            let says = match &at {
                None => Says::Nothing,
                Some(at) => match t.read(self, at, &key)? {
                    Some(values) => self.says(&t, &key, &values)?,
                    None => self.shelved_says(&t, &key, at)?,
                },
            };
            match (at, says) {
                (_, Says::NoParent) => continue,
                (Some(at), Says::Scope(to)) if at.n != to.n => out.push((t.clone(), key.clone(), at, to)),
                _ => {}
            }
            self.conn.execute("DELETE FROM _syncline_stray WHERE tbl = ?1 AND key = ?2", params![n, key.0]).doing("forgetting a stray row")?;
        }
        self.cache.strays = None;
        Ok(out)
    }

    fn has_strays(&mut self) -> Result<bool> {
        if let Some(any) = self.cache.strays {
            return Ok(any);
        }
        let any = self
            .conn
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM _syncline_stray)")
            .and_then(|mut q| q.query_row([], |r| r.get(0)))
            .doing("reading rows whose parent is elsewhere")?;
        self.cache.strays = Some(any);
        Ok(any)
    }

    /// What a row that is not in its table says: its parent's home, if the parent is in its own.
    fn shelved_says(&mut self, t: &Table, key: &Key, at: &Scope) -> Result<Says> {
        let ScopeRule::Via(_) = t.def.options.scope else { return Ok(Says::Nothing) };
        let Some(f) = t.def.scope_key() else { return Ok(Says::Nothing) };
        let row = self.load_complete(at, t, key)?;
        let Some(parent) = self.registry()?.find(&f.table) else { return Ok(Says::NoParent) };
        let wanted: Option<Vec<Value>> = f.columns.iter().map(|c| value_of(t, &row, c)).collect();
        let Some(wanted) = wanted.filter(|w| !w.contains(&Value::Null)) else { return Ok(Says::Nothing) };
        let referenced = parent.def.referenced_columns(f);
        let terms: Vec<String> = referenced.iter().enumerate().map(|(i, c)| format!("{} = ?{}", quote(c), i + 1)).collect();
        let found = self.keys_where(at, &parent, &terms, &wanted)?;
        match found.first() {
            None => Ok(Says::NoParent),
            Some(parent_key) => Ok(self.home(&parent, parent_key)?.map_or(Says::NoParent, Says::Scope)),
        }
    }

    /// Parts what was captured by scopes: a row that is not where it belongs leaves the one and enters the other, and takes the rows
    /// along that get their scope from it.
    pub(crate) fn part(&mut self, captured: Vec<Captured>) -> Result<(Vec<Folded>, Vec<Piece>)> {
        let mut folds = Vec::with_capacity(captured.len());
        let mut pieces = Vec::with_capacity(captured.len());
        for (fold, ((t, scope, key), captured)) in captured.into_iter().enumerate() {
            pieces.push(Piece { fold, scope, leaves: false });
            folds.push((t, key, captured));
        }
        if self.role == Role::Authority || !self.registry()?.shared {
            return Ok((folds, pieces));
        }
        let mut known: Option<HashSet<(i64, Key)>> = None;
        let mut out = Vec::with_capacity(pieces.len());
        let mut pieces = pieces.into_iter();
        let mut i = 0;
        while i < folds.len() {
            let own = pieces.next();
            let (t, key) = (folds[i].0.clone(), folds[i].1.clone());
            if !t.is_shared() {
                out.extend(own);
                i += 1;
                continue;
            }
            let at = self.home(&t, &key)?;
            let unscoped = self.scope(1)?;
            let there = t.read(self, &unscoped, &key)?;
            let to = match &there {
                Some(values) => Some(self.belongs(&t, &key, values, at.as_ref())?),
                None => None,
            };
            match (at, to) {
                (Some(at), Some(to)) if at.n != to.n && !planted::on("move_unnoticed") => {
                    for (heir, heir_key) in self.heirs(&t, &key, &there.unwrap_or_default())? {
                        let known = known.get_or_insert_with(|| folds.iter().map(|f| (f.0.n, f.1.clone())).collect());
                        if known.insert((heir.n, heir_key.clone())) {
                            let last = folds[i].2.last;
                            folds.push((heir, heir_key, Fold { last, ..Fold::default() }));
                        }
                    }
                    out.push(Piece { fold: i, scope: at, leaves: true });
                    out.push(Piece { fold: i, scope: to, leaves: false });
                }
                (Some(at), _) => out.push(Piece { fold: i, scope: at, leaves: false }),
                (None, Some(to)) => out.push(Piece { fold: i, scope: to, leaves: false }),
                (None, None) => {}
            }
            i += 1;
        }
        Ok((folds, out))
    }

    /// Moves rows after their parents, where those have turned up elsewhere; of those that are not shown, `finish_apply` thinks.
    pub(crate) fn settle_strays(&mut self, out: &mut Absorbed, shift: i64) -> Result<()> {
        for (t, key, at, to) in self.found_strays()? {
            if self.home(&t, &key)?.is_none() {
                self.note_stray(&t, &key)?;
                continue;
            }
            let fold = Fold { last: self.env.now_ms.saturating_sub(shift), ..Fold::default() };
            for (scope, leaves) in [(&at, true), (&to, false)] {
                let seq = self.head(scope.n)?.next();
                self.set_head(scope.n, seq);
                if self.absorb_row(&t, scope, &key, &fold, shift, (seq, leaves), &mut vec![])? {
                    out.rows += 1;
                    out.changed.push((scope.n, t.n, key.clone()));
                }
            }
        }
        Ok(())
    }
}
