//! SQLite's columns in PostgreSQL: which type each declared type becomes, and how values go there and back.
//!
//! The sidecar holds every value exactly, whatever the table can show; the table holds it for SQL clients. A value that its
//! column cannot hold is refused with reason `type`. What a client writes comes back as the value that SQLite would keep
//! for it under the column's declared type.

use crate::postgres::own::Form;
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use syncline_core::schema::{ColumnDef, Schema, TableDef};
use syncline_core::{Key, Value};
use syncline_replica::registry::{Affinity, affinity};
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

/// A column's type in PostgreSQL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PgType {
    /// bigint: INTEGER affinity. Holds integers.
    BigInt,
    /// double precision: REAL affinity. Holds reals, to the last bit.
    Double,
    /// text: TEXT affinity. Holds text in UTF-8 without NUL.
    Text,
    /// text that shows any value: columns without a type, dates and times and other types of SQLite's NUMERIC affinity. `true`: what
    /// looks like a number is one, as SQLite has it there.
    Any(bool),
    /// bytea: BLOB. Holds blobs.
    Bytea,
    /// boolean: BOOLEAN. Holds 0 and 1.
    Boolean,
    /// numeric: NUMERIC, DECIMAL. Holds integers and reals.
    Numeric,
    /// json: JSON. Holds what PostgreSQL takes for JSON, character by character.
    Json,
    /// A type of an adopted column: its name in SQL, and what it is to a device.
    Own(&'static str, Form),
}

/// Returns a name that lives as long as the process; there are few, and each is kept once.
pub fn kept(name: &str) -> &'static str {
    static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = names.get(name) {
        return known;
    }
    let name: &'static str = Box::leak(name.to_owned().into_boxed_str());
    names.insert(name);
    name
}

/// Returns the type of a column of a table. A foreign key's column has the type of the column that it points at.
pub fn column_type(schema: &Schema, table: &TableDef, column: &ColumnDef) -> PgType {
    pointed_at(schema, table, column, 0)
}

fn pointed_at(schema: &Schema, table: &TableDef, column: &ColumnDef, depth: usize) -> PgType {
    for key in table.foreign_keys.iter().filter(|_| depth < 16) {
        let Some(i) = key.columns.iter().position(|c| c.eq_ignore_ascii_case(&column.name)) else { continue };
        let Some(parent) = schema.table(&key.table) else { continue };
        let referenced = parent.referenced_columns(key);
        let Some(target) = referenced.get(i).and_then(|c| parent.column(c)) else { continue };
        let same_column = parent.name.eq_ignore_ascii_case(&table.name) && target.name.eq_ignore_ascii_case(&column.name);
        if !same_column {
            return pointed_at(schema, parent, target, depth + 1);
        }
    }
    own_type(table, column)
}

fn own_type(table: &TableDef, column: &ColumnDef) -> PgType {
    let decl = column.decl_type.to_ascii_uppercase();
    let starts = |words: &[&str]| words.iter().any(|w| decl.starts_with(w));
    match affinity(&column.decl_type) {
        Affinity::Integer => PgType::BigInt,
        Affinity::Real => PgType::Double,
        Affinity::Text => PgType::Text,
        Affinity::Blob if decl.contains("BLOB") => PgType::Bytea,
        Affinity::Blob => PgType::Any(false),
        Affinity::Numeric if starts(&["BOOL"]) => PgType::Boolean,
        Affinity::Numeric if starts(&["NUMERIC", "DECIMAL", "NUMBER"]) => PgType::Numeric,
        // json has no order: no key or index can be made of it.
        Affinity::Numeric if decl == "JSON" && !is_ordered(table, &column.name) => PgType::Json,
        Affinity::Numeric => PgType::Any(true),
    }
}

/// Whether the column is part of a key, an index or a foreign key.
fn is_ordered(table: &TableDef, column: &str) -> bool {
    let names = |c: &Option<String>| c.as_deref().is_none_or(|c| c.eq_ignore_ascii_case(column));
    table.primary_key.iter().any(|p| names(&p.column))
        || table.uniques.iter().flatten().any(|p| names(&p.column))
        || table.indexes.iter().any(|i| i.filter.is_some() || i.parts.iter().any(|p| names(&p.column)))
        || table.foreign_keys.iter().any(|k| k.columns.iter().any(|c| c.eq_ignore_ascii_case(column)))
        || !table.checks.is_empty()
}

/// A value as PostgreSQL's driver takes it.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// NULL
    Null,
    /// bigint
    Int(i64),
    /// double precision
    Real(f64),
    /// text, numeric, json
    Text(String),
    /// bytea
    Bytes(Vec<u8>),
    /// boolean
    Bool(bool),
}

impl PgType {
    /// Returns the type's name in SQL.
    pub fn sql(self) -> &'static str {
        match self {
            PgType::BigInt => "bigint",
            PgType::Double => "double precision",
            PgType::Text | PgType::Any(_) => "text COLLATE \"C\"",
            PgType::Bytea => "bytea",
            PgType::Boolean => "boolean",
            PgType::Numeric => "numeric",
            PgType::Json => "json",
            PgType::Own(name, _) => name,
        }
    }
    /// Returns an expression that reads a column in a form that `selected` understands.
    pub fn read(self, column: &str) -> String {
        match self {
            PgType::Numeric | PgType::Json => format!("{column}::text"),
            PgType::Own(_, form) => form.read(column),
            _ => column.to_owned(),
        }
    }
    /// Returns the array type that values of this column are sent as.
    pub fn array(self) -> &'static str {
        match self {
            PgType::BigInt | PgType::Own(_, Form::Int(_)) => "bigint[]",
            PgType::Double | PgType::Own(_, Form::Float) => "float8[]",
            PgType::Bytea => "bytea[]",
            PgType::Boolean => "boolean[]",
            _ => "text[]",
        }
    }
    fn array_type(self) -> Type {
        match self {
            PgType::BigInt | PgType::Own(_, Form::Int(_)) => Type::INT8_ARRAY,
            PgType::Double | PgType::Own(_, Form::Float) => Type::FLOAT8_ARRAY,
            PgType::Bytea => Type::BYTEA_ARRAY,
            PgType::Boolean => Type::BOOL_ARRAY,
            _ => Type::TEXT_ARRAY,
        }
    }
    /// Returns an expression that makes a sent value one of the column's.
    pub fn write(self, sent: &str) -> String {
        match self {
            PgType::Numeric => format!("{sent}::numeric"),
            PgType::Json => format!("{sent}::json"),
            PgType::Own(name, form) => form.write(sent, name),
            _ => sent.to_owned(),
        }
    }
    /// Returns the expression by which a trigger notes a key's value as text; no setting of a client's session changes it.
    pub fn note(self, column: &str) -> String {
        match self {
            PgType::Double => format!("encode(float8send({column}), 'hex')"),
            PgType::Bytea => format!("encode({column}, 'hex')"),
            PgType::Text | PgType::Any(_) => column.to_owned(),
            PgType::Own(_, Form::Int(_)) => format!("{column}::text"),
            PgType::Own(_, form) => form.read(column),
            _ => format!("{column}::text"),
        }
    }
    /// Reads what `note` noted.
    pub fn noted(self, text: &str) -> Option<Cell> {
        Some(match self {
            PgType::BigInt | PgType::Own(_, Form::Int(_)) => Cell::Int(text.parse().ok()?),
            PgType::Double => Cell::Real(f64::from_bits(u64::from_str_radix(text, 16).ok()?)),
            PgType::Bytea => Cell::Bytes(from_hex(text)?),
            PgType::Boolean => Cell::Bool(text == "true"),
            _ => Cell::Text(text.to_owned()),
        })
    }
    /// Reads a column of a row that was selected by `read`.
    pub fn selected(self, row: &Row, i: usize) -> Result<Cell, tokio_postgres::Error> {
        Ok(match self {
            PgType::BigInt | PgType::Own(_, Form::Int(_)) => row.try_get::<_, Option<i64>>(i)?.map_or(Cell::Null, Cell::Int),
            // SQLite has no NaN; a table that was adopted may.
            PgType::Double | PgType::Own(_, Form::Float) => row.try_get::<_, Option<f64>>(i)?.filter(|x| !x.is_nan()).map_or(Cell::Null, Cell::Real),
            PgType::Bytea => row.try_get::<_, Option<Vec<u8>>>(i)?.map_or(Cell::Null, Cell::Bytes),
            PgType::Boolean => row.try_get::<_, Option<bool>>(i)?.map_or(Cell::Null, Cell::Bool),
            _ => row.try_get::<_, Option<String>>(i)?.map_or(Cell::Null, Cell::Text),
        })
    }

    /// Returns what the column holds of a value, or why it cannot hold it.
    pub fn cell(self, value: &Value) -> Result<Cell, String> {
        Ok(match (self, value) {
            (_, Value::Null) => Cell::Null,
            (PgType::Own(name, form), value) => return form.cell(value, name),
            (PgType::BigInt, Value::Int(n)) => Cell::Int(*n),
            (PgType::Double, Value::Real(x)) => Cell::Real(*x),
            (PgType::Bytea, Value::Blob(bytes)) => Cell::Bytes(bytes.clone()),
            (PgType::Boolean, Value::Int(n @ (0 | 1))) => Cell::Bool(*n == 1),
            (PgType::Text | PgType::Any(_) | PgType::Json, Value::Text(bytes)) => Cell::Text(text(bytes)?.to_owned()),
            (PgType::Any(_) | PgType::Json | PgType::Numeric, Value::Int(n)) => Cell::Text(n.to_string()),
            (PgType::Numeric, Value::Real(x)) if x.is_infinite() => Cell::Text(if *x > 0.0 { "Infinity" } else { "-Infinity" }.into()),
            (PgType::Any(_) | PgType::Json | PgType::Numeric, Value::Real(x)) => Cell::Text(format!("{x:?}")),
            (PgType::Any(_), Value::Blob(bytes)) => Cell::Text(format!("\\x{}", syncline_core::hex(bytes))),
            (_, value) => return Err(format!("the server's column is {}, and the value is {}", self.words(), class(value))),
        })
    }

    /// Returns the value that SQLite keeps for what a client wrote.
    pub fn value(self, cell: Cell) -> Value {
        match (self, cell) {
            (_, Cell::Null) => Value::Null,
            (_, Cell::Int(n)) => Value::Int(n),
            (_, Cell::Real(x)) => Value::Real(x),
            (_, Cell::Bytes(bytes)) => Value::Blob(bytes),
            (_, Cell::Bool(truth)) => Value::Int(truth.into()),
            (PgType::Numeric | PgType::Any(true) | PgType::Json, Cell::Text(text)) => number(&text).unwrap_or(Value::Text(text.into_bytes())),
            (_, Cell::Text(text)) => Value::Text(text.into_bytes()),
        }
    }

    /// Whether the column, read as `cell`, still shows `value`.
    pub fn shows(self, cell: &Cell, value: &Value) -> bool {
        self.cell(value).is_ok_and(|own| own == *cell || self.value(own).eq(&self.value(cell.clone())))
    }

    /// Lists the values that a key's column may stand for: the sidecar knows which one it is.
    pub fn candidates(self, cell: Cell) -> Vec<Value> {
        let mut out = vec![self.value(cell.clone())];
        if let (PgType::Any(_), Cell::Text(text)) = (self, &cell) {
            out.push(Value::Text(text.clone().into_bytes()));
            out.extend(text.parse().map(Value::Int));
            out.extend(text.parse().map(Value::Real));
            out.extend(text.strip_prefix("\\x").and_then(from_hex).map(Value::Blob));
            out.retain(|v| self.cell(v).as_ref() == Ok(&cell));
            out.dedup();
        }
        out
    }

    fn words(self) -> &'static str {
        self.sql().split(' ').next().unwrap_or("text")
    }
}

/// Returns the keys that a noted key may stand for.
pub fn keys(types: &[PgType], noted: Vec<Cell>) -> Vec<Key> {
    let mut out: Vec<Vec<Value>> = vec![vec![]];
    for (t, cell) in types.iter().zip(noted) {
        let values = t.candidates(cell);
        out = out.into_iter().flat_map(|head| values.iter().map(move |v| [&head[..], std::slice::from_ref(v)].concat())).collect();
        out.truncate(64);
    }
    out.iter().map(|values| Key::encode(values)).collect()
}

/// One column of many rows, as one bound array.
pub struct Column {
    type_of: PgType,
    data: Data,
}

enum Data {
    Int(Vec<Option<i64>>),
    Real(Vec<Option<f64>>),
    Text(Vec<Option<String>>),
    Bytes(Vec<Option<Vec<u8>>>),
    Bool(Vec<Option<bool>>),
}

impl Column {
    /// Returns an empty column.
    pub fn new(type_of: PgType) -> Column {
        let data = match type_of {
            PgType::BigInt | PgType::Own(_, Form::Int(_)) => Data::Int(vec![]),
            PgType::Double | PgType::Own(_, Form::Float) => Data::Real(vec![]),
            PgType::Bytea => Data::Bytes(vec![]),
            PgType::Boolean => Data::Bool(vec![]),
            _ => Data::Text(vec![]),
        };
        Column { type_of, data }
    }
    /// Appends a value, or says why the column cannot hold it.
    pub fn push(&mut self, value: &Value) -> Result<(), String> {
        match (&mut self.data, self.type_of.cell(value)?) {
            (Data::Int(v), Cell::Int(n)) => v.push(Some(n)),
            (Data::Real(v), Cell::Real(x)) => v.push(Some(x)),
            (Data::Text(v), Cell::Text(t)) => v.push(Some(t)),
            (Data::Bytes(v), Cell::Bytes(b)) => v.push(Some(b)),
            (Data::Bool(v), Cell::Bool(b)) => v.push(Some(b)),
            (Data::Int(v), _) => v.push(None),
            (Data::Real(v), _) => v.push(None),
            (Data::Text(v), _) => v.push(None),
            (Data::Bytes(v), _) => v.push(None),
            (Data::Bool(v), _) => v.push(None),
        }
        Ok(())
    }
    /// Returns the array with its type, to be bound.
    pub fn param(&self) -> (&(dyn ToSql + Sync), Type) {
        let data: &(dyn ToSql + Sync) = match &self.data {
            Data::Int(v) => v,
            Data::Real(v) => v,
            Data::Text(v) => v,
            Data::Bytes(v) => v,
            Data::Bool(v) => v,
        };
        (data, self.type_of.array_type())
    }
}

/// Returns text as PostgreSQL can hold it, or says why it cannot.
pub fn text(bytes: &[u8]) -> Result<&str, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "the text is not UTF-8, which PostgreSQL cannot hold".to_owned())?;
    if text.contains('\0') {
        return Err("the text has a NUL character, which PostgreSQL cannot hold".into());
    }
    Ok(text)
}

fn class(value: &Value) -> &'static str {
    match value {
        Value::Null => "NULL",
        Value::Int(_) => "an integer",
        Value::Real(_) => "a real",
        Value::Text(_) => "text",
        Value::Blob(_) => "a blob",
    }
}

/// Reads what looks like a number as SQLite's NUMERIC affinity does: an integer where it is one, else a real.
fn number(text: &str) -> Option<Value> {
    let t = text.trim_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
    if matches!(t, "Infinity" | "-Infinity") {
        return Some(Value::Real(if t.starts_with('-') { f64::NEG_INFINITY } else { f64::INFINITY }));
    }
    let digits = t.strip_prefix(['-', '+']).unwrap_or(t);
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') || !digits.contains(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if !digits.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-')) {
        return None;
    }
    if let Ok(n) = t.parse::<i64>() {
        return Some(Value::Int(n));
    }
    let x: f64 = t.parse().ok()?;
    // SQLite keeps a real that is a 64-bit integer as that integer, its two ends excepted.
    let n = x as i64;
    Some(if n as f64 == x && n > i64::MIN && n < i64::MAX { Value::Int(n) } else { Value::Real(x) })
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [PgType; 9] =
        [PgType::BigInt, PgType::Double, PgType::Text, PgType::Any(false), PgType::Any(true), PgType::Bytea, PgType::Boolean, PgType::Numeric, PgType::Json];

    fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::Int),
            any::<f64>().prop_filter("NaN is NULL", |x| !x.is_nan()).prop_map(Value::Real),
            "[0-9.eE+-]{0,8}".prop_map(Value::text),
            ".{0,8}".prop_map(Value::text),
            proptest::collection::vec(any::<u8>(), 0..8).prop_map(Value::Blob),
        ]
    }

    proptest! {
        #[test]
        fn a_column_shows_what_it_holds_and_a_key_is_found_again(value in any_value()) {
            for t in ALL {
                if let Ok(cell) = t.cell(&value) {
                    prop_assert!(t.shows(&cell, &value));
                    if t != PgType::Numeric && t != PgType::Json {
                        prop_assert!(t.candidates(cell.clone()).contains(&value), "{:?} {:?} {:?}", t, cell, value);
                    }
                }
            }
        }
    }

    #[test]
    fn what_looks_like_a_number_is_one_where_sqlite_has_it_so() {
        let kept = |text: &str| PgType::Any(true).value(Cell::Text(text.into()));
        assert_eq!(kept("12"), Value::Int(12));
        assert_eq!(kept(" 1e2 "), Value::Int(100));
        assert_eq!(kept("0.5"), Value::Real(0.5));
        assert_eq!(kept("9223372036854775808"), Value::Real(9223372036854775808.0));
        for text in ["2026-11-21", "1-2", "", "abc", "1 2", "0x10", "inf", "nan", "-", "."] {
            assert_eq!(kept(text), Value::text(text), "{text}");
        }
        assert_eq!(PgType::Any(false).value(Cell::Text("12".into())), Value::text("12"));
    }

    #[test]
    fn a_value_of_another_class_is_refused_in_words() {
        assert!(PgType::Text.cell(&Value::text("a\0b")).unwrap_err().contains("NUL"));
        assert!(PgType::BigInt.cell(&Value::text("x")).unwrap_err().contains("bigint"));
        assert!(PgType::Boolean.cell(&Value::Int(2)).is_err());
    }
}
