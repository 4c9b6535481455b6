//! A database's tables as data, and back to SQL.
//!
//! `introspect` reads an app's tables, `ddl` builds them anew on a device or at the authority, `merge` adds one device's
//! schema to the authority's, `validate` decides whether a schema that a peer sent may become SQL at all.
//!
//! What always holds: names become SQL only through `syncline_core::schema::quote`, and expressions only after they parsed
//! as exactly one expression. Nothing here changes a database.

pub mod ddl;
pub mod expr;
pub mod introspect;
pub mod merge;
pub mod parse;
pub mod scopes;
pub mod validate;

#[cfg(test)]
mod tests;

pub use ddl::{add_column_ddl, authority_ddl, authority_schema_ddl, authority_scope_ddl, device_ddl};
pub use introspect::{Introspection, SyncOptions, introspect};
pub use merge::{SchemaMerge, merge_schema};
pub use validate::validate;

use std::fmt;

/// The most columns a synced table may have: SQLite stops at 2,000, and the authority's table has `scope_id` besides.
pub const COLUMNS_MAX: usize = 1_999;

/// The name of the authority's leading column.
pub const SCOPE_COLUMN: &str = "scope_id";

/// Why a schema could not be read, built or taken over.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// SQLite failed.
    #[error("{doing}: {cause}")]
    Sqlite {
        /// What was being done.
        doing: String,
        /// SQLite's word.
        cause: rusqlite::Error,
    },
    /// Tables that cannot be synced: all of them, not only the first.
    #[error("{}", list(.0))]
    Refused(Vec<Refused>),
    /// A schema, from here or from a peer, that must not become SQL.
    #[error("the schema cannot be synced: {place}: {why}; change it where it was made")]
    Invalid {
        /// Table, column or index.
        place: String,
        /// What is wrong with it.
        why: String,
    },
}

/// One reason why a table cannot be synced, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The table.
    pub table: String,
    /// What stands in the way.
    pub why: String,
    /// What a person can do.
    pub remedy: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "table `{}`: {}; {}", self.table, self.why, self.remedy)
    }
}

fn list(refused: &[Refused]) -> String {
    refused.iter().map(Refused::to_string).collect::<Vec<_>>().join("\n")
}

impl Refused {
    fn new(table: &str, why: impl Into<String>, remedy: impl Into<String>) -> Refused {
        Refused { table: table.to_owned(), why: why.into(), remedy: remedy.into() }
    }
}

/// Compares names as SQLite does.
fn same(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

/// Whether a table's name belongs to SQLite or to Syncline.
pub fn is_reserved(name: &str) -> bool {
    ["sqlite_", "_syncline_", "syncline_"].iter().any(|prefix| name.get(..prefix.len()).is_some_and(|head| same(head, prefix)))
}
