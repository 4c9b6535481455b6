//! Whether a schema that came from elsewhere may become SQL here.
//!
//! A device sends its schema to the authority, and the authority sends it on to devices that then run it as DDL. So every
//! name must be a name, every type a type and every expression exactly one expression, before any text is built.

use super::expr::{Expression, expression, statement};
use super::{COLUMNS_MAX, SCOPE_COLUMN, SchemaError, is_reserved, same};
use sqlite3_parser::ast::{CreateTableBody, Stmt};
use std::collections::BTreeSet;
use syncline_core::schema::{IndexPart, Schema, TableDef};

/// Longest name of a table, column or index, in bytes.
pub const NAME_LENGTH_MAX: usize = 1_000;

/// Returns an error that names the first table, column or index that must not become SQL.
pub fn validate(schema: &Schema) -> Result<(), SchemaError> {
    let mut taken = BTreeSet::new();
    for table in &schema.tables {
        check_object_name(&table.name, &mut taken).map_err(at(&table.name))?;
    }
    for table in &schema.tables {
        check_table(table, schema).map_err(|(place, why)| SchemaError::Invalid { place: place_in(&table.name, &place), why })?;
        for index in &table.indexes {
            // One namespace: an index may not be called like another index or like a table.
            check_object_name(&index.name, &mut taken).map_err(at(&index.name))?;
        }
    }
    match super::scopes::refusals(schema).into_iter().next() {
        Some(refused) => Err(SchemaError::Invalid { place: place_in(&refused.table, ""), why: refused.why }),
        None => Ok(()),
    }
}

/// What is wrong, and with which part of the table; an empty part is the table itself.
type Flaw = (String, String);

fn check_table(table: &TableDef, schema: &Schema) -> Result<(), Flaw> {
    let flaw = |place: &str, why: &str| (place.to_owned(), why.to_owned());
    if table.columns.is_empty() || table.columns.len() > COLUMNS_MAX {
        return Err(flaw("", &format!("a table has 1 to {COLUMNS_MAX} columns")));
    }
    let mut names = BTreeSet::new();
    for column in &table.columns {
        check_name(&column.name).map_err(|why| (column.name.clone(), why))?;
        if same(&column.name, SCOPE_COLUMN) {
            return Err(flaw(&column.name, "the name is the authority's own"));
        }
        if !names.insert(column.name.to_ascii_lowercase()) {
            return Err(flaw(&column.name, "the column is there twice"));
        }
        if !is_plain_type(&column.decl_type) {
            return Err(flaw(&column.name, "its type is not words and at most two numbers"));
        }
        check_collation(&column.collate).map_err(|why| (column.name.clone(), why))?;
        if let Some(generated) = &column.generated {
            check_expression(&generated.expr, table).map_err(|why| (column.name.clone(), why))?;
        }
        if let Some(default) = &column.default {
            // A default cannot read a column.
            check_expression(default, &TableDef::default()).map_err(|why| (column.name.clone(), why))?;
        }
    }
    crate::policies::check(table).map_err(|why| flaw("", &why))?;
    for check in &table.checks {
        check_expression(check, table).map_err(|why| ("CHECK".to_owned(), why))?;
    }
    check_keys(table)?;
    check_indexes(table)?;
    check_foreign_keys(table, schema)
}

fn check_keys(table: &TableDef) -> Result<(), Flaw> {
    if table.primary_key.is_empty() {
        return Err(("PRIMARY KEY".into(), "a synced table has one".into()));
    }
    for part in &table.primary_key {
        let stored = part.column.as_deref().and_then(|name| table.column(name)).is_some_and(|c| c.generated.is_none());
        if !stored {
            return Err(("PRIMARY KEY".into(), "its columns are stored columns of the table".into()));
        }
    }
    if table.autoincrement && table.integer_key().is_none() {
        return Err(("PRIMARY KEY".into(), "AUTOINCREMENT needs a single INTEGER key".into()));
    }
    let keys = std::iter::once(("PRIMARY KEY", &table.primary_key)).chain(table.uniques.iter().map(|parts| ("UNIQUE", parts)));
    for (place, parts) in keys {
        check_parts(parts, table, false).map_err(|why| (place.to_owned(), why))?;
    }
    Ok(())
}

fn check_indexes(table: &TableDef) -> Result<(), Flaw> {
    for index in &table.indexes {
        check_parts(&index.parts, table, true).map_err(|why| (index.name.clone(), why))?;
        if let Some(filter) = &index.filter {
            check_expression(filter, table).map_err(|why| (index.name.clone(), why))?;
        }
    }
    Ok(())
}

fn check_parts(parts: &[IndexPart], table: &TableDef, expressions: bool) -> Result<(), String> {
    if parts.is_empty() {
        return Err("has no columns".into());
    }
    for part in parts {
        check_collation(&part.collate)?;
        match (&part.column, &part.expr) {
            (Some(name), None) if table.column(name).is_some() => {}
            (Some(name), None) => return Err(format!("there is no column `{name}`")),
            (None, Some(text)) if expressions => check_expression(text, table)?,
            _ => return Err("a part is either a column or, in an index, an expression".into()),
        }
    }
    Ok(())
}

fn check_foreign_keys(table: &TableDef, schema: &Schema) -> Result<(), Flaw> {
    for key in &table.foreign_keys {
        let flaw = |why: String| ("FOREIGN KEY".to_owned(), why);
        let parent = schema.table(&key.table).ok_or_else(|| flaw(format!("its parent `{}` is not in the schema", key.table)))?;
        if let Some(name) = key.columns.iter().find(|name| table.column(name).is_none_or(|c| c.generated.is_some())) {
            return Err(flaw(format!("there is no stored column `{name}`")));
        }
        let referenced = parent.referenced_columns(key);
        if key.columns.is_empty() || referenced.len() != key.columns.len() {
            return Err(flaw(format!("it does not have as many columns as the key of `{}`", parent.name)));
        }
        if !is_key_of(parent, &referenced) {
            return Err(flaw(format!("({}) is not a key of `{}`", referenced.join(", "), parent.name)));
        }
    }
    Ok(())
}

/// Whether these columns are the primary key or a full unique constraint of a table, in any order.
pub(super) fn is_key_of(table: &TableDef, columns: &[String]) -> bool {
    let wanted: BTreeSet<String> = columns.iter().map(|name| name.to_ascii_lowercase()).collect();
    let covers = |parts: &[IndexPart]| {
        let have: Option<BTreeSet<String>> = parts.iter().map(|p| p.column.as_ref().map(|name| name.to_ascii_lowercase())).collect();
        parts.len() == columns.len() && have.as_ref() == Some(&wanted)
    };
    let indexes = table.indexes.iter().filter(|index| index.unique && index.filter.is_none());
    covers(&table.primary_key) || table.uniques.iter().any(|parts| covers(parts)) || indexes.into_iter().any(|index| covers(&index.parts))
}

/// Says what keeps a text from being an expression over a table's columns, if anything does.
fn check_expression(text: &str, table: &TableDef) -> Result<(), String> {
    let Expression { text: canonical, columns, .. } = expression(text).map_err(|why| format!("the expression {why}"))?;
    if canonical != text {
        return Err("the expression is not in canonical form".into());
    }
    match columns.iter().find(|name| !is_column(table, name)) {
        Some(name) => Err(format!("the expression names `{name}`, which is no column")),
        None => Ok(()),
    }
}

/// Whether an expression over a table may use this name.
pub(super) fn is_column(table: &TableDef, name: &str) -> bool {
    table.column(name).is_some()
}

/// Whether a declared type is identifier words with at most two sizes: `NVARCHAR(160)`, `NUMERIC(10, 2)`, or nothing.
pub fn is_plain_type(text: &str) -> bool {
    let text = text.trim();
    if text.is_empty() {
        return true;
    }
    let (words, sizes) = match text.split_once('(') {
        None => (text, None),
        Some((words, rest)) => match rest.strip_suffix(')') {
            None => return false,
            Some(sizes) => (words, Some(sizes)),
        },
    };
    let is_size = |size: &str| {
        let digits = size.trim().trim_start_matches(['+', '-']);
        !digits.is_empty() && digits.len() <= 10 && digits.bytes().all(|b| b.is_ascii_digit())
    };
    let mut words = words.split_ascii_whitespace().peekable();
    words.peek().is_some()
        && words.all(is_word)
        && sizes.is_none_or(|sizes| sizes.split(',').count() <= 2 && sizes.split(',').all(is_size))
        && !text.bytes().any(|b| b == b'\n' || b == b'\r')
        // A word may be a keyword that begins a constraint: only the parser knows all of them.
        && is_only_type(text)
}

/// Whether `CREATE TABLE t(c <text>)` is one column whose type is the whole text.
fn is_only_type(text: &str) -> bool {
    let same_words = |name: &str| text.split('(').next().is_some_and(|words| words.split_ascii_whitespace().eq(name.split_ascii_whitespace()));
    let read = statement(&format!("CREATE TABLE t(c {text})"), |stmt| match stmt {
        Stmt::CreateTable { body: CreateTableBody::ColumnsAndConstraints { columns, constraints: None, .. }, .. } => match &columns[..] {
            [column] => Ok(column.constraints.is_empty() && column.col_type.as_ref().is_some_and(|t| same_words(t.name))),
            _ => Ok(false),
        },
        _ => Ok(false),
    });
    read.unwrap_or(false)
}

/// A collation of the app's own is not there at the authority, where the table could then not even be created.
fn check_collation(collate: &Option<String>) -> Result<(), String> {
    match collate {
        Some(name) if !["BINARY", "NOCASE", "RTRIM"].iter().any(|known| same(known, name)) => {
            Err(format!("the collation `{}` is not BINARY, NOCASE or RTRIM", name.escape_debug()))
        }
        _ => Ok(()),
    }
}

fn is_word(word: &str) -> bool {
    word.len() <= NAME_LENGTH_MAX
        && word.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn check_object_name(name: &str, taken: &mut BTreeSet<String>) -> Result<(), String> {
    check_name(name)?;
    if is_reserved(name) && !crate::account_tables::is_account_table(name) {
        return Err("names that begin with sqlite_, _syncline_ or syncline_ are not the app's".into());
    }
    if !taken.insert(name.to_ascii_lowercase()) {
        return Err("the name is there twice".into());
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), String> {
    match name.len() {
        0 => Err("the name is empty".into()),
        n if n > NAME_LENGTH_MAX => Err(format!("the name is longer than {NAME_LENGTH_MAX} bytes")),
        _ if name.contains('\0') => Err("the name has a NUL character".into()),
        _ => Ok(()),
    }
}

fn at(name: &str) -> impl FnOnce(String) -> SchemaError {
    let place = place_in(name, "");
    move |why| SchemaError::Invalid { place, why }
}

/// Names a place for people; a hostile name may be long or unprintable.
fn place_in(table: &str, part: &str) -> String {
    let shown = |name: &str| name.chars().take(80).flat_map(char::escape_debug).collect::<String>();
    if part.is_empty() { format!("`{}`", shown(table)) } else { format!("`{}`, {}", shown(table), shown(part)) }
}
