//! The synced tables as this store knows them, with what their statements need.

use crate::api_error::ApiError;
use crate::postgres::db::{Tx, internal};
use crate::postgres::types::{self, PgType, column_type};
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
}

/// All synced tables, as of one number of the schema.
#[derive(Debug, Default)]
pub struct Registry {
    /// Which state of the schema this is; it rises with every change.
    pub number: i64,
    /// The app's own version of the schema.
    pub version: u64,
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
        let version = tx.query("SELECT value FROM syncline.meta WHERE name = 'schema_version'", &[]).await?;
        registry.version = version.first().and_then(|r| r.get::<_, String>(0).parse().ok()).unwrap_or(0);
        let mut names: HashMap<i32, Vec<String>> = HashMap::new();
        for row in tx.query("SELECT tbl, name FROM syncline.col ORDER BY tbl, c", &[]).await? {
            names.entry(row.get(0)).or_default().push(row.get(1));
        }
        let mut defs: Vec<(i32, TableDef)> = Vec::new();
        for row in tx.query("SELECT n, def FROM syncline.tbl ORDER BY n", &[]).await? {
            defs.push((row.get(0), serde_json::from_str(row.get(1)).map_err(|e| internal("reading a table's definition", e))?));
        }
        let schema = Schema { version: 0, tables: defs.iter().map(|d| d.1.clone()).collect() };
        for (n, def) in defs {
            let table = Table::new(n, def, names.remove(&n).unwrap_or_default(), &schema);
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
        tables.sort_by(|a, b| a.name.cmp(&b.name));
        Schema { version: self.version, tables }
    }
}

/// Returns the number of the schema as it is now.
pub async fn schema_number(tx: &Tx) -> Result<i64, ApiError> {
    let row = tx.query_one("SELECT value::bigint FROM syncline.meta WHERE name = 'schema_number'", &[]).await?;
    Ok(row.get(0))
}

impl Table {
    fn new(n: i32, def: TableDef, columns: Vec<String>, schema: &Schema) -> Table {
        let type_of = |name: &str| def.column(name).map_or(PgType::Any(false), |c| column_type(schema, &def, c));
        let columns: Vec<Column> = columns.into_iter().map(|name| Column { type_of: type_of(&name), name }).collect();
        let mut hash_columns: Vec<(usize, u64)> = columns.iter().enumerate().map(|(c, col)| (c, name_hash(&col.name))).collect();
        hash_columns.sort_by_key(|x| x.1);
        let key = declared(&def).map(|k| def.column(k).map_or(k, |c| &c.name).to_owned()).collect();
        let key_types = types::key_types(schema, &def);
        let names: Vec<&str> = columns.iter().map(|c| c.name.as_str()).collect();
        // What cannot be was refused when the table was declared.
        let policies = Policies::of(&def, &names).unwrap_or_default();
        Table { policies, n, name_hash: name_hash(&def.name), key, key_types, columns, hash_columns, def }
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
    /// Returns `t.a = u.k0 AND …`: a row of the table by the key columns of `u`.
    pub fn by_key(&self, t: &str, u: &str) -> String {
        let terms = self.key.iter().enumerate().map(|(i, k)| format!("{t}.{} = {}", quote(k), self.key_types[i].write(&format!("{u}.k{i}"))));
        terms.collect::<Vec<_>>().join(" AND ")
    }
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
