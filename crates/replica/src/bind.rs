//! Values to and from SQLite, exactly.

use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use syncline_core::Value;

/// Binds a value without copying it; TEXT that is not UTF-8 is bound as it is.
pub struct Bind<'a>(pub &'a Value);

impl ToSql for Bind<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            Value::Null => ValueRef::Null,
            Value::Int(n) => ValueRef::Integer(*n),
            Value::Real(x) => ValueRef::Real(*x),
            Value::Text(bytes) => ValueRef::Text(bytes),
            Value::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// Reads a column of a result row.
pub fn value(from: ValueRef<'_>) -> Value {
    match from {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(n) => Value::Int(n),
        ValueRef::Real(x) => Value::Real(x),
        ValueRef::Text(bytes) => Value::Text(bytes.to_vec()),
        ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
    }
}

/// Reads columns `from..` of a result row.
pub fn values(row: &rusqlite::Row, from: usize, count: usize) -> rusqlite::Result<Vec<Value>> {
    (from..from + count).map(|i| Ok(value(row.get_ref(i)?))).collect()
}
