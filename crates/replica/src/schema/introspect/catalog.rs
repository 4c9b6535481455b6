//! SQLite's catalogue: what is there, and each table as SQLite itself and as its text describe it.

use crate::schema::expr::unquoted;
use crate::schema::parse::{ParsedIndex, ParsedTable, parse_index, parse_table, trigger_targets};
use crate::schema::{SchemaError, is_reserved, same};
use rusqlite::Connection;
use syncline_core::schema::Schema;

/// What a name in the catalogue stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Table,
    View,
    Virtual,
    Shadow,
}

/// A table or view.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) kind: Kind,
}

/// A table and its indexes, read.
pub(super) struct TableText {
    pub(super) table: ParsedTable,
    pub(super) indexes: Vec<ParsedIndex>,
}

const TABLE_LIST: &str = "SELECT name, type FROM pragma_table_list WHERE schema = 'main' AND name NOT IN ('sqlite_schema', 'sqlite_master') ORDER BY name";
const TABLE_SQL: &str = "SELECT sql FROM main.sqlite_schema WHERE type = 'table' AND name = ?1";
const INDEX_SQL: &str = "SELECT name, sql FROM main.sqlite_schema WHERE type = 'index' AND tbl_name = ?1 AND sql IS NOT NULL ORDER BY name";
const TRIGGER_SQL: &str = "SELECT name, sql FROM main.sqlite_schema WHERE type = 'trigger' AND sql IS NOT NULL ORDER BY name";
const COLUMNS: &str = "SELECT name, type FROM pragma_table_xinfo(?1, 'main') ORDER BY cid";

/// Lists tables and views by name.
pub(super) fn entries(conn: &Connection) -> Result<Vec<Entry>, SchemaError> {
    let rows = pairs(conn, TABLE_LIST, "listing the tables", [])?;
    Ok(rows
        .into_iter()
        .map(|(name, kind)| {
            let kind = match kind.as_str() {
                "view" => Kind::View,
                "virtual" => Kind::Virtual,
                "shadow" => Kind::Shadow,
                _ => Kind::Table,
            };
            Entry { name, kind }
        })
        .collect())
}

/// Reads a table; the inner error says what about its text cannot be read.
pub(super) fn table(conn: &Connection, name: &str) -> Result<Result<TableText, String>, SchemaError> {
    let sql: String = conn.query_row(TABLE_SQL, [name], |row| row.get(0)).map_err(sqlite(format!("reading the definition of table `{name}`")))?;
    let columns = pairs(conn, COLUMNS, &format!("listing the columns of table `{name}`"), [name])?;
    let indexes = pairs(conn, INDEX_SQL, &format!("listing the indexes of table `{name}`"), [name])?;
    Ok(agree(&sql, columns, indexes))
}

/// Joins the text of a table with SQLite's own view of it, which must name the same columns in the same order.
fn agree(sql: &str, columns: Vec<(String, String)>, indexes: Vec<(String, String)>) -> Result<TableText, String> {
    let mut table = parse_table(sql).map_err(|why| format!("its definition {why}"))?;
    let parsed: Vec<&str> = table.def.columns.iter().map(|c| c.name.as_str()).collect();
    let known: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
    if parsed != known {
        return Err(format!("its definition reads as columns ({}), SQLite has ({})", parsed.join(", "), known.join(", ")));
    }
    for (column, (_, decl_type)) in table.def.columns.iter_mut().zip(columns) {
        column.decl_type = decl_type.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    }
    let read = |(name, sql): (String, String)| parse_index(&sql, &table.def).map_err(|why| format!("its index `{name}` {why}"));
    let indexes = indexes.into_iter().map(read).collect::<Result<_, _>>()?;
    Ok(TableText { table, indexes })
}

/// Lists the app's triggers.
pub(super) fn triggers(conn: &Connection) -> Result<Vec<(String, String)>, SchemaError> {
    let mut all = pairs(conn, TRIGGER_SQL, "listing the triggers", [])?;
    all.retain(|(name, _)| !is_reserved(name));
    Ok(all)
}

/// Returns the synced tables that a trigger's body writes.
pub(super) fn targets(sql: &str, schema: &Schema) -> Vec<String> {
    let written: Vec<String> = match trigger_targets(sql) {
        Ok(names) => names,
        // Syntax that the parser does not know: any table named in the body counts.
        Err(_) => words_after_begin(sql),
    };
    schema.tables.iter().filter(|t| written.iter().any(|name| same(name, &t.name))).map(|t| t.name.clone()).collect()
}

fn words_after_begin(sql: &str) -> Vec<String> {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$' | '"' | '`' | '[' | ']' | '\'');
    let words = sql.split(|c| !is_part(c)).filter(|word| !word.is_empty());
    words.skip_while(|word| !same(word, "BEGIN")).map(unquoted).collect()
}

fn pairs<const N: usize>(conn: &Connection, sql: &str, doing: &str, params: [&str; N]) -> Result<Vec<(String, String)>, SchemaError> {
    let read = || -> rusqlite::Result<Vec<(String, String)>> {
        let mut statement = conn.prepare(sql)?;
        statement.query_map(rusqlite::params_from_iter(params), |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
    };
    read().map_err(sqlite(doing.to_owned()))
}

pub(super) fn sqlite(doing: String) -> impl FnOnce(rusqlite::Error) -> SchemaError {
    move |cause| SchemaError::Sqlite { doing, cause }
}
