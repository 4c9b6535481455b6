//! The synced tables as this store knows them, with what their statements need.

use crate::api_error::ApiError;
use crate::postgres::adopt::{self, Adopted, Scoped};
use crate::postgres::db::{Tx, internal};
use crate::postgres::types::{PgType, column_type};
use crate::postgres::{catalog, ddl};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use syncline_core::digest::name_hash;
use syncline_core::schema::{Schema, TableDef, quote};
use syncline_core::{ColSet, Key, Policies, RowState, TableRef, Value};
use tokio_postgres::types::Type;

/// A column outside the key whose values travel.
#[derive(Clone, Debug)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type here.
    pub type_of: PgType,
    /// What an adopted NOT NULL column gets where a device's new row says nothing.
    pub fill: Option<String>,
}

/// A synced table.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its number.
    pub n: i32,
    /// Its definition.
    pub def: TableDef,
    /// Names of the key's columns.
    pub key: Vec<String>,
    /// Their types.
    pub key_types: Vec<PgType>,
    /// The other columns by number.
    pub columns: Vec<Column>,
    /// How its columns merge.
    pub policies: Policies,
    /// Part of every row's hash.
    pub name_hash: u64,
    /// (column, hash of its name), in order of the hashes.
    pub hash_columns: Vec<(usize, u64)>,
    /// How SQL names it.
    pub place: String,
    /// What was found of it, if it was there before Syncline.
    pub adopted: Option<Adopted>,
    /// Parents have less than their children.
    pub rank: i32,
}

/// All synced tables, as of one number of the schema.
#[derive(Debug, Default)]
pub struct Registry {
    /// Which state of the schema this is; it rises with every change.
    pub number: i64,
    /// The app's own version of the schema.
    pub version: u64,
    /// The least that devices must have.
    pub demanded: u64,
    tables: BTreeMap<i32, Arc<Table>>,
    names: HashMap<String, i32>,
}

/// Lists the columns of a table's key, in order.
pub fn declared(table: &TableDef) -> impl Iterator<Item = &str> {
    table.primary_key.iter().filter_map(|p| p.column.as_deref())
}

impl Registry {
    /// Reads all tables.
    pub async fn read(tx: &Tx) -> Result<Registry, ApiError> {
        let mut registry = Registry { number: schema_number(tx).await?, ..Registry::default() };
        for row in tx.query("SELECT name, value FROM syncline.meta WHERE name IN ('schema_version', 'demanded_schema_version')", &[]).await? {
            let version = row.get::<_, String>(1).parse().unwrap_or(0);
            if row.get::<_, &str>(0) == "schema_version" { registry.version = version } else { registry.demanded = version }
        }
        let mut names: HashMap<i32, Vec<String>> = HashMap::new();
        for row in tx.query("SELECT tbl, name FROM syncline.col ORDER BY tbl, c", &[]).await? {
            names.entry(row.get(0)).or_default().push(row.get(1));
        }
        let mut defs: Vec<(i32, TableDef, Option<Adopted>)> = Vec::new();
        for row in tx.query("SELECT n, def, adopted FROM syncline.tbl ORDER BY n", &[]).await? {
            let damaged = |e| internal("reading a table's definition", e);
            let adopted = row.get::<_, Option<&str>>(2).map(serde_json::from_str).transpose().map_err(damaged)?;
            defs.push((row.get(0), serde_json::from_str(row.get(1)).map_err(damaged)?, adopted));
        }
        let schema = Schema { version: 0, tables: defs.iter().map(|d| d.1.clone()).collect() };
        let ranks = adopt::ranks(&schema);
        for (n, def, adopted) in defs {
            let rank = ranks.get(&def.name.to_lowercase()).copied().unwrap_or(i32::MAX);
            let table = Table { rank, ..Table::new(n, def, names.remove(&n).unwrap_or_default(), &schema, adopted) };
            registry.names.insert(table.def.name.to_lowercase(), n);
            registry.tables.insert(n, Arc::new(table));
        }
        Ok(registry)
    }
    /// Returns a table by number.
    pub fn get(&self, n: i32) -> Result<Arc<Table>, ApiError> {
        self.tables.get(&n).cloned().ok_or_else(|| ApiError::Internal(format!("no table has number {n}")))
    }
    /// Returns a table by name, without regard to case.
    pub fn find(&self, name: &str) -> Option<Arc<Table>> {
        self.names.get(&name.to_lowercase()).and_then(|n| self.tables.get(n)).cloned()
    }
    /// Lists the tables in order of number.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Table>> {
        self.tables.values()
    }
    /// Returns the schema that devices are told.
    pub fn schema(&self) -> Schema {
        let mut tables: Vec<TableDef> = self.tables.values().map(|t| t.def.clone()).collect();
        syncline_replica::account_tables::put_in_order(&mut tables);
        Schema { version: self.version, tables }
    }
}

/// Returns the number of the schema as it is now.
pub async fn schema_number(tx: &Tx) -> Result<i64, ApiError> {
    let row = tx.query_one("SELECT value::bigint FROM syncline.meta WHERE name = 'schema_number'", &[]).await?;
    Ok(row.get(0))
}

impl Table {
    fn new(n: i32, def: TableDef, columns: Vec<String>, schema: &Schema, adopted: Option<Adopted>) -> Table {
        let found = |name: &str| adopted.as_ref().and_then(|a| a.columns.get(name));
        let type_of = |name: &str| match found(name) {
            Some(kept) => kept.type_of(),
            None => def.column(name).map_or(PgType::Any(false), |c| column_type(schema, &def, c)),
        };
        let columns: Vec<Column> =
            columns.into_iter().map(|name| Column { type_of: type_of(&name), fill: found(&name).and_then(|k| k.fill.clone()), name }).collect();
        let mut hash_columns: Vec<(usize, u64)> = columns.iter().enumerate().map(|(c, col)| (c, name_hash(&col.name))).collect();
        hash_columns.sort_by_key(|x| x.1);
        let key: Vec<String> = declared(&def).map(|k| def.column(k).map_or(k, |c| &c.name).to_owned()).collect();
        let key_types = key.iter().map(|k| type_of(k)).collect();
        let names: Vec<&str> = columns.iter().map(|c| c.name.as_str()).collect();
        // What cannot be was refused when the table was declared.
        let policies = Policies::of(&def, &names).unwrap_or_default();
        let place = match &adopted {
            Some(a) => catalog::place(&a.schema, &def.name),
            None => ddl::place(&def.name),
        };
        Table { policies, n, name_hash: name_hash(&def.name), key, key_types, columns, hash_columns, def, place, adopted, rank: 0 }
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
    /// Returns a key as an object of column and value, for people.
    pub fn key_object(&self, key: &Key) -> BTreeMap<String, Value> {
        self.key.iter().cloned().zip(key.decode().unwrap_or_default()).collect()
    }
    /// Returns a row's cells as an object of column and value, for people; key columns included.
    pub fn row_object(&self, key: &Key, state: &RowState) -> BTreeMap<String, Value> {
        let mut row = self.key_object(key);
        row.extend(self.columns.iter().enumerate().filter_map(|(c, col)| state.cell(c).map(|cell| (col.name.clone(), cell.value.clone()))));
        row
    }
    /// Returns the condition that a row of the table is in the scope $1.
    pub fn in_scope(&self, t: &str) -> String {
        match self.adopted.as_ref().map(|a| &a.scope) {
            None => format!("{t}.scope_id = $1"),
            Some(Scoped::Column(name, of)) => format!("{t}.{} = $1::{of}", quote(name)),
            Some(Scoped::Account(id)) => format!("$1 = {}", literal(id)),
        }
    }
    /// Returns the expression of a row's scope.
    pub fn scope_of(&self, t: &str) -> String {
        match self.adopted.as_ref().map(|a| &a.scope) {
            None => format!("{t}.scope_id"),
            Some(Scoped::Column(name, _)) => format!("{t}.{}::text", quote(name)),
            Some(Scoped::Account(id)) => format!("{}::text", literal(id)),
        }
    }
    /// Returns the column that a new row's scope goes into, and what goes there; nothing where there is none.
    pub fn scope_column(&self) -> (String, String) {
        match self.adopted.as_ref().map(|a| &a.scope) {
            None => ("scope_id, ".into(), "$1, ".into()),
            Some(Scoped::Column(name, of)) => (format!("{}, ", quote(name)), format!("$1::{of}, ")),
            Some(Scoped::Account(_)) => (String::new(), String::new()),
        }
    }
    /// Returns `t.a = u.k0 AND …`: a row of the table by the key columns of `u`.
    pub fn by_key(&self, t: &str, u: &str) -> String {
        let terms = self.key.iter().enumerate().map(|(i, k)| format!("{t}.{} = {}", quote(k), self.key_types[i].write(&format!("{u}.k{i}"))));
        terms.collect::<Vec<_>>().join(" AND ")
    }
}

/// Returns a text as SQL writes it.
pub fn literal(text: &str) -> String {
    // E'' reads backslashes in one way, whatever the settings of a session.
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// Notes a table, or brings its definition up to date; columns keep their numbers, new ones get the next.
pub async fn register(tx: &Tx, def: &TableDef) -> Result<i32, ApiError> {
    let json = serde_json::to_string(def).map_err(|e| internal("writing a table's definition", e))?;
    let known = tx.query("SELECT n FROM syncline.tbl WHERE lower(name COLLATE \"C\") = lower($1 COLLATE \"C\")", &[(&def.name, Type::TEXT)]).await?;
    let n: i32 = match known.first() {
        Some(row) => {
            let n = row.get(0);
            tx.query("UPDATE syncline.tbl SET def = $2 WHERE n = $1", &[(&n, Type::INT4), (&json, Type::TEXT)]).await?;
            n
        }
        None => {
            let sql = "INSERT INTO syncline.tbl(n, name, def) SELECT coalesce(max(n), 0) + 1, $1, $2 FROM syncline.tbl RETURNING n";
            tx.query_one(sql, &[(&def.name, Type::TEXT), (&json, Type::TEXT)]).await?.get(0)
        }
    };
    let have: Vec<String> = tx.query("SELECT name FROM syncline.col WHERE tbl = $1", &[(&n, Type::INT4)]).await?.iter().map(|r| r.get(0)).collect();
    let key: Vec<&str> = declared(def).collect();
    for column in def.stored_columns().filter(|c| !key.iter().any(|k| k.eq_ignore_ascii_case(&c.name))) {
        if !have.iter().any(|h| h.eq_ignore_ascii_case(&column.name)) {
            let sql = "INSERT INTO syncline.col(tbl, c, name) SELECT $1, coalesce(max(c) + 1, 0), $2 FROM syncline.col WHERE tbl = $1";
            tx.query(sql, &[(&n, Type::INT4), (&column.name, Type::TEXT)]).await?;
        }
    }
    Ok(n)
}
