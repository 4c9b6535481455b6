//! The synced tables as this replica knows them, with the SQL to read and write their rows.
//!
//! The only place where names become SQL text, always quoted. A column's number `c` never changes its meaning here;
//! columns and tables that only others have are registered too, marked as not present.

use crate::bind::{Bind, values};
use crate::error::{Doing, Error, Result};
use crate::homes::Home;
use crate::tx::{Role, Scope, Tx};
use rusqlite::{OptionalExtension, ToSql, params};
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use syncline_core::digest::name_hash;
use syncline_core::schema::{TableDef, quote};
use syncline_core::{ColSet, Fingerprint, Key, Policies, RowState, TableRef, Value, planted};

/// A column outside the key whose values travel.
#[derive(Clone, Debug)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Whether the table has it here.
    pub present: bool,
}

/// A synced table.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its number here.
    pub n: i64,
    /// Its definition.
    pub def: TableDef,
    /// The generation of its triggers.
    pub generation: i64,
    /// Whether the database has it.
    pub present: bool,
    /// Whether its rows lead with `scope_id`.
    pub scoped: bool,
    /// Names of the key's columns.
    pub key: Vec<String>,
    /// Columns by number.
    pub columns: Vec<Column>,
    /// Numbers of the columns that the table has here.
    pub shown: Vec<usize>,
    /// How its columns merge.
    pub policies: Policies,
    /// Part of every row's hash.
    pub name_hash: u64,
    /// (column, hash of its name), in order of the hashes.
    pub hash_columns: Vec<(usize, u64)>,
    /// Where its rows get their scope, on a device.
    pub home: Home,
    /// Tables whose rows get their scope from this one's.
    pub heirs: Vec<i64>,
    select: String,
    insert: String,
    delete: String,
    place: String,
}

/// All synced tables.
#[derive(Debug, Default)]
pub struct Registry {
    pub(crate) tables: HashMap<i64, Arc<Table>>,
    names: HashMap<String, i64>,
    /// Whether any table is shared.
    pub shared: bool,
    /// The schema's fingerprint, once it was asked for.
    pub(crate) fingerprint: OnceLock<Fingerprint>,
}

impl Registry {
    /// Returns a table by number.
    pub fn get(&self, n: i64) -> Result<Arc<Table>> {
        self.tables.get(&n).cloned().ok_or_else(|| Error::Damaged(format!("no table has number {n}")))
    }
    /// Returns a table by name, without regard to case.
    pub fn find(&self, name: &str) -> Option<Arc<Table>> {
        self.names.get(&name.to_lowercase()).and_then(|n| self.tables.get(n)).cloned()
    }
    /// Lists the tables in order of number.
    pub fn all(&self) -> Vec<Arc<Table>> {
        let mut all: Vec<_> = self.tables.values().cloned().collect();
        all.sort_by_key(|t| t.n);
        all
    }
}

impl Table {
    fn new(n: i64, def: TableDef, generation: i64, present: bool, columns: Vec<Column>, role: Role) -> Table {
        let scoped = role == Role::Authority;
        let key: Vec<String> = def.primary_key.iter().filter_map(|p| p.column.clone()).collect();
        let name = quote(&def.name);
        let first = if scoped { 2 } else { 1 };
        let mut place: Vec<String> = if scoped { vec!["\"scope_id\" = ?1".into()] } else { vec![] };
        for (i, k) in key.iter().enumerate() {
            place.push(format!("{} = ?{}", quote(k), i + first));
            if is_inexact(&def, k) {
                // The collation or storage class may call two keys equal that are two keys to sync.
                place.push(format!("{0} COLLATE BINARY IS ?{1} AND typeof({0}) = typeof(?{1})", quote(k), i + first));
            }
        }
        let place = place.join(" AND ");
        let shown: Vec<usize> = (0..columns.len()).filter(|c| columns[*c].present).collect();
        let list = shown.iter().map(|c| quote(&columns[*c].name)).collect::<Vec<_>>();
        let select_list = if list.is_empty() { "1".to_owned() } else { list.join(", ") };
        let mut into: Vec<String> = if scoped { vec!["\"scope_id\"".into()] } else { vec![] };
        into.extend(key.iter().map(|k| quote(k)));
        into.extend(list);
        let marks = (1..=into.len()).map(|i| format!("?{i}")).collect::<Vec<_>>().join(", ");
        let mut hash_columns: Vec<(usize, u64)> = columns.iter().enumerate().map(|(c, col)| (c, name_hash(&col.name))).collect();
        hash_columns.sort_by_key(|x| x.1);
        let names: Vec<&str> = columns.iter().map(|c| c.name.as_str()).collect();
        // What cannot be was refused when the table was declared.
        let policies = Policies::of(&def, &names).unwrap_or_default();
        Table {
            policies,
            select: format!("SELECT {select_list} FROM {name} WHERE {place}"),
            insert: format!("INSERT OR ABORT INTO {name}({}) VALUES({marks})", into.join(", ")),
            delete: format!("DELETE FROM {name} WHERE {place}"),
            place,
            name_hash: name_hash(&def.name),
            hash_columns,
            home: Home::Account,
            heirs: vec![],
            n,
            generation,
            present,
            scoped,
            key,
            columns,
            shown,
            def,
        }
    }

    /// Returns the table as deltas name it.
    pub fn table_ref(&self) -> TableRef {
        TableRef { name: self.def.name.clone(), columns: self.columns.iter().map(|c| c.name.clone()).collect() }
    }
    /// Returns a column's number.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|c| c.name.eq_ignore_ascii_case(name))
    }
    /// Returns the whole set: liveness and all columns.
    pub fn all_columns(&self) -> ColSet {
        ColSet::all(self.columns.len())
    }

    /// Adds to columns with the time of their writing those that share a stamp with one of them.
    pub fn with_groups(&self, times: &[(usize, i64)]) -> Vec<(usize, i64)> {
        let mut out = times.to_vec();
        for (c, ms) in times {
            for other in self.policies.group_of(*c) {
                match out.iter_mut().find(|x| x.0 == *other) {
                    Some(x) => x.1 = x.1.max(*ms),
                    None if planted::on("group_split") => {}
                    None => out.push((*other, *ms)),
                }
            }
        }
        out
    }

    pub(crate) fn with_key<T>(&self, scope: &Scope, key: &Key, more: &[&dyn ToSql], run: impl FnOnce(&[&dyn ToSql]) -> rusqlite::Result<T>) -> Result<T> {
        let key = key.decode().doing("reading a key")?;
        if key.len() != self.key.len() {
            return Err(Error::Damaged(format!("a key of table `{}` has {} parts", self.def.name, key.len())));
        }
        let binds: Vec<Bind> = key.iter().map(Bind).collect();
        let mut params: Vec<&dyn ToSql> = Vec::with_capacity(1 + binds.len() + more.len());
        if self.scoped {
            params.push(&scope.id.0);
        }
        params.extend(binds.iter().map(|b| b as &dyn ToSql));
        params.extend(more);
        run(&params).doing("touching a business row")
    }

    /// Reads the shown columns of a row, in order of `shown`; `None` if there is no such row.
    pub fn read(&self, tx: &Tx, scope: &Scope, key: &Key) -> Result<Option<Vec<Value>>> {
        if !self.present {
            return Ok(None);
        }
        self.with_key(scope, key, &[], |params| {
            let mut q = tx.conn.prepare_cached(&self.select)?;
            q.query_row(params, |r| values(r, 0, self.shown.len())).optional()
        })
    }
    /// Inserts a row with the cells that were ever written; others take the table's default.
    pub fn insert(&self, tx: &Tx, scope: &Scope, key: &Key, state: &RowState) -> Result<()> {
        let cells: Vec<(usize, &Value)> = self.shown.iter().filter_map(|c| state.cell(*c).map(|cell| (*c, &cell.value))).collect();
        let binds: Vec<Bind> = cells.iter().map(|(_, v)| Bind(v)).collect();
        let more: Vec<&dyn ToSql> = binds.iter().map(|b| b as &dyn ToSql).collect();
        self.with_key(scope, key, &more, |params| {
            if cells.len() == self.shown.len() {
                return tx.conn.prepare_cached(&self.insert)?.execute(params).map(drop);
            }
            let mut into: Vec<String> = if self.scoped { vec!["\"scope_id\"".into()] } else { vec![] };
            into.extend(self.key.iter().map(|k| quote(k)));
            into.extend(cells.iter().map(|(c, _)| quote(&self.columns[*c].name)));
            let marks = vec!["?"; into.len()].join(", ");
            let sql = format!("INSERT OR ABORT INTO {}({}) VALUES({marks})", quote(&self.def.name), into.join(", "));
            tx.conn.prepare_cached(&sql)?.execute(params).map(drop)
        })
    }
    /// Updates the given columns of a row; says whether the row was there.
    pub fn update(&self, tx: &Tx, scope: &Scope, key: &Key, state: &RowState, columns: &ColSet) -> Result<bool> {
        let cells: Vec<(usize, &Value)> =
            columns.columns().filter(|c| self.columns.get(*c).is_some_and(|x| x.present)).filter_map(|c| state.cell(c).map(|cell| (c, &cell.value))).collect();
        if cells.is_empty() {
            return Ok(true);
        }
        let first = self.key.len() + if self.scoped { 2 } else { 1 };
        let set: Vec<String> = cells.iter().enumerate().map(|(i, (c, _))| format!("{} = ?{}", quote(&self.columns[*c].name), first + i)).collect();
        let sql = format!("UPDATE OR ABORT {} SET {} WHERE {}", quote(&self.def.name), set.join(", "), self.place);
        let binds: Vec<Bind> = cells.iter().map(|(_, v)| Bind(v)).collect();
        let more: Vec<&dyn ToSql> = binds.iter().map(|b| b as &dyn ToSql).collect();
        self.with_key(scope, key, &more, |params| Ok(tx.conn.prepare_cached(&sql)?.execute(params)? > 0))
    }
    /// Deletes a row, if it is there.
    pub fn delete(&self, tx: &Tx, scope: &Scope, key: &Key) -> Result<()> {
        self.with_key(scope, key, &[], |params| tx.conn.prepare_cached(&self.delete)?.execute(params).map(drop))
    }
    /// Returns a key as an object of column and value, for people.
    pub fn key_object(&self, key: &Key) -> std::collections::BTreeMap<String, Value> {
        self.key.iter().cloned().zip(key.decode().unwrap_or_default()).collect()
    }
    /// Returns a row's cells as an object of column and value, for people; key columns included.
    pub fn row_object(&self, key: &Key, state: &RowState) -> std::collections::BTreeMap<String, Value> {
        let mut row = self.key_object(key);
        row.extend(self.columns.iter().enumerate().filter_map(|(c, col)| state.cell(c).map(|cell| (col.name.clone(), cell.value.clone()))));
        row
    }
}

/// Whether SQLite may call two different keys equal in this column.
pub(crate) fn is_inexact(def: &TableDef, column: &str) -> bool {
    let Some(col) = def.column(column) else { return true };
    let part = def.primary_key.iter().find(|p| p.column.as_deref().is_some_and(|c| c.eq_ignore_ascii_case(column)));
    let collated = [col.collate.as_deref(), part.and_then(|p| p.collate.as_deref())].into_iter().flatten().any(|c| !c.eq_ignore_ascii_case("BINARY"));
    collated || matches!(affinity(&col.decl_type), Affinity::Blob | Affinity::Numeric)
}

/// Column affinity, by SQLite's rules (<https://sqlite.org/datatype3.html#determination_of_column_affinity>).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Affinity {
    Integer,
    Text,
    Blob,
    Real,
    Numeric,
}

/// Returns a declared type's affinity.
pub fn affinity(decl_type: &str) -> Affinity {
    let t = decl_type.to_ascii_uppercase();
    let has = |words: &[&str]| words.iter().any(|w| t.contains(w));
    if has(&["INT"]) {
        Affinity::Integer
    } else if has(&["CHAR", "CLOB", "TEXT"]) {
        Affinity::Text
    } else if t.is_empty() || has(&["BLOB"]) || t == "ANY" {
        Affinity::Blob
    } else if has(&["REAL", "FLOA", "DOUB"]) {
        Affinity::Real
    } else {
        Affinity::Numeric
    }
}

impl Tx<'_> {
    /// Returns the synced tables.
    pub fn registry(&mut self) -> Result<Arc<Registry>> {
        if let Some(registry) = &self.cache.registry {
            return Ok(registry.clone());
        }
        let mut columns: HashMap<i64, Vec<Column>> = HashMap::new();
        let mut q = self.conn.prepare_cached("SELECT tbl, name, present FROM _syncline_column ORDER BY tbl, c").doing("reading columns")?;
        for row in q.query_map([], |r| Ok((r.get(0)?, Column { name: r.get(1)?, present: r.get(2)? }))).doing("reading columns")? {
            let (table, column) = row.doing("reading columns")?;
            columns.entry(table).or_default().push(column);
        }
        let mut registry = Registry::default();
        let mut q = self.conn.prepare_cached("SELECT n, def, generation, present FROM _syncline_table").doing("reading tables")?;
        let rows = q.query_map([], |r| Ok((r.get::<_, i64>(0)?, r.get::<_, String>(1)?, r.get(2)?, r.get(3)?))).doing("reading tables")?;
        for row in rows {
            let (n, def, generation, present) = row.doing("reading tables")?;
            let def: TableDef = serde_json::from_str(&def).map_err(|e| Error::Damaged(format!("definition of table {n}: {e}")))?;
            let table = Table::new(n, def, generation, present, columns.remove(&n).unwrap_or_default(), self.role);
            registry.names.insert(table.def.name.to_lowercase(), n);
            registry.tables.insert(n, Arc::new(table));
        }
        if self.role == Role::Device {
            crate::homes::find(&mut registry);
        }
        let registry = Arc::new(registry);
        self.cache.registry = Some(registry.clone());
        Ok(registry)
    }

    /// Registers a table or brings its definition up to date; columns keep their numbers, new ones get the next.
    pub fn register(&mut self, def: &TableDef, present: bool) -> Result<i64> {
        let json = serde_json::to_string(def).map_err(|e| Error::Damaged(e.to_string()))?;
        let n: i64 = self
            .conn
            .query_row(
                "INSERT INTO _syncline_table(name, def, present) VALUES(?1, ?2, ?3)
                 ON CONFLICT(name) DO UPDATE SET def = excluded.def, present = excluded.present RETURNING n",
                params![def.name, json, present],
                |r| r.get(0),
            )
            .doing("registering a table")?;
        let key: Vec<&str> = def.primary_key.iter().filter_map(|p| p.column.as_deref()).collect();
        let wanted: Vec<&str> = def.stored_columns().map(|c| c.name.as_str()).filter(|c| !key.iter().any(|k| k.eq_ignore_ascii_case(c))).collect();
        self.conn.execute("UPDATE _syncline_column SET present = 0 WHERE tbl = ?1", [n]).doing("registering columns")?;
        for name in wanted {
            self.register_column(n, name, present)?;
        }
        self.cache.registry = None;
        Ok(n)
    }

    /// Registers a column of a table, or marks it as present; returns its number.
    pub fn register_column(&mut self, table: i64, name: &str, present: bool) -> Result<usize> {
        self.cache.registry = None;
        let known: Option<i64> = self
            .conn
            .query_row("SELECT c FROM _syncline_column WHERE tbl = ?1 AND name = ?2", params![table, name], |r| r.get(0))
            .optional()
            .doing("registering columns")?;
        match known {
            Some(c) => {
                self.conn
                    .execute("UPDATE _syncline_column SET present = max(present, ?3), name = ?4 WHERE tbl = ?1 AND c = ?2", params![table, c, present, name])
                    .doing("registering columns")?;
                Ok(c as usize)
            }
            None => self
                .conn
                .query_row(
                    "INSERT INTO _syncline_column(tbl, c, name, present)
                     SELECT ?1, coalesce(max(c) + 1, 0), ?2, ?3 FROM _syncline_column WHERE tbl = ?1 RETURNING c",
                    params![table, name, present],
                    |r| r.get::<_, i64>(0),
                )
                .map(|c| c as usize)
                .doing("registering columns"),
        }
    }
}
