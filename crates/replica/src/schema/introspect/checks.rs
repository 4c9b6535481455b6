//! What keeps a table from being synced.

use super::SyncOptions;
use super::catalog::{TableText, sqlite};
use crate::config::TableConfig;
use crate::schema::validate::{is_key_of, is_plain_type};
use crate::schema::{COLUMNS_MAX, Refused, SchemaError, same};
use rusqlite::{Connection, OptionalExtension};
use syncline_core::schema::{IntegerKeys, Schema, TableDef, quote};
use syncline_core::{Policies, Policy, Value};

/// Returns all reasons that lie in the table itself.
pub(super) fn table(conn: &Connection, text: &TableText, options: &SyncOptions) -> Result<Vec<Refused>, SchemaError> {
    let def = &text.table.def;
    let refuse = |why: String, remedy: &str| Refused::new(&def.name, why, remedy);
    let mut out = Vec::new();
    if def.columns.len() > COLUMNS_MAX {
        out.push(refuse(format!("it has {} columns", def.columns.len()), "split it: at most 1,999 columns can be synced"));
    }
    if def.primary_key.is_empty() {
        out.push(refuse("it has no PRIMARY KEY".into(), "give it one (a UUID as TEXT is the norm), or leave it out with --except"));
    }
    for column in key_columns(def) {
        if def.column(column).is_some_and(|c| c.generated.is_some()) {
            out.push(refuse(format!("its key column `{column}` is generated"), "use a stored column as key"));
        }
    }
    for column in def.columns.iter().filter(|c| !is_plain_type(&c.decl_type)) {
        let why = format!("the type `{}` of column `{}` is not plain words and at most two numbers", column.decl_type, column.name);
        out.push(refuse(why, "declare it without quotes or comments"));
    }
    out.extend(expressions(text));
    out.extend(null_in_key(conn, def)?);
    out.extend(integer_key(def, options));
    Ok(out)
}

/// SQLite takes "word" for text where no column is called so; another device may not.
fn expressions(text: &TableText) -> Vec<Refused> {
    let def = &text.table.def;
    let of_table = text.table.check_columns.iter().chain(text.table.generated_columns.iter().map(|(_, read)| read));
    let used = of_table.chain(text.indexes.iter().map(|index| &index.columns)).flatten();
    let unknown: std::collections::BTreeSet<&String> = used.filter(|name| def.column(name).is_none()).collect();
    let refuse = |name: &&String| {
        let remedy = "write text in single quotes, and name declared columns only";
        Refused::new(&def.name, format!("an expression in its definition names `{name}`, which is no column"), remedy)
    };
    unknown.iter().map(refuse).collect()
}

fn null_in_key(conn: &Connection, def: &TableDef) -> Result<Option<Refused>, SchemaError> {
    // Only an ordinary key of a rowid table can hold NULL: SQLite's oldest quirk.
    if def.without_rowid || def.integer_key().is_some() {
        return Ok(None);
    }
    let nullable: Vec<&str> = key_columns(def).filter(|name| def.column(name).is_some_and(|c| !c.not_null)).collect();
    if nullable.is_empty() {
        return Ok(None);
    }
    let tests: Vec<String> = nullable.iter().map(|name| format!("{} IS NULL", quote(name))).collect();
    let sql = format!("SELECT 1 FROM main.{} WHERE {} LIMIT 1", quote(&def.name), tests.join(" OR "));
    let hit = conn.query_row(&sql, [], |_| Ok(())).optional().map_err(sqlite(format!("looking for NULL in the key of table `{}`", def.name)))?;
    Ok(hit.map(|()| {
        let why = format!("a row has NULL in its key ({})", nullable.join(", "));
        Refused::new(&def.name, why, "give these rows keys, and declare the key columns NOT NULL")
    }))
}

fn integer_key(def: &TableDef, options: &SyncOptions) -> Option<Refused> {
    let column = def.integer_key()?;
    match options.integer_keys {
        None => Some(Refused::new(
            &def.name,
            format!("two devices could give the same number to `{column}`, its INTEGER PRIMARY KEY"),
            "choose --integer-keys device-blocks (each device numbers from its own block) or --integer-keys app (the app keeps numbers apart)",
        )),
        Some(IntegerKeys::DeviceBlocks) if !def.autoincrement => Some(Refused::new(
            &def.name,
            format!("device-blocks needs AUTOINCREMENT on `{column}`"),
            "add AUTOINCREMENT to the key, or choose --integer-keys app",
        )),
        Some(_) => None,
    }
}

/// Refuses foreign keys that leave the schema, and spells parents as they are declared.
pub(super) fn foreign_keys(schema: &mut Schema, refused: &mut Vec<Refused>) {
    let all = schema.clone();
    for def in &mut schema.tables {
        let name = def.name.clone();
        for key in &mut def.foreign_keys {
            let Some(parent) = all.table(&key.table) else {
                let why = format!("its foreign key ({}) points at `{}`, which is not synced", key.columns.join(", "), key.table);
                refused.push(Refused::new(&name, why, format!("sync `{}` too, or leave this table out with --except, or drop the foreign key", key.table)));
                continue;
            };
            key.table = parent.name.clone();
            for column in &mut key.parent_columns {
                if let Some(declared) = parent.columns.iter().find(|c| same(&c.name, column)) {
                    *column = declared.name.clone();
                }
            }
            let referenced = parent.referenced_columns(key);
            if referenced.len() != key.columns.len() || !is_key_of(parent, &referenced) {
                let why = format!(
                    "its foreign key ({}) points at ({}), which is not a synced key of `{}`",
                    key.columns.join(", "),
                    referenced.join(", "),
                    parent.name
                );
                refused.push(Refused::new(&name, why, "point it at the parent's primary key or at columns that are UNIQUE there"));
            }
        }
    }
}

/// Refuses rules that cannot be, and values in the table that its rules do not take.
pub(super) fn policies(conn: &Connection, def: &TableDef, config: Option<&TableConfig>) -> Result<Vec<Refused>, SchemaError> {
    let mut out = Vec::new();
    if let Err(why) = crate::policies::check(def) {
        out.push(Refused::new(&def.name, why, "correct it in syncline.toml"));
        return Ok(out);
    }
    if let Some(name) = config.iter().flat_map(|c| &c.groups).flatten().find(|name| def.column(name).is_none()) {
        out.push(Refused::new(&def.name, format!("group: it has no column `{name}`"), "correct the name in syncline.toml"));
    }
    let names: Vec<&str> = def.stored_columns().map(|c| c.name.as_str()).collect();
    let Ok(policies) = Policies::of(def, &names) else { return Ok(out) };
    for (c, policy) in policies.special_columns() {
        let column = quote(names[c]);
        let misfit = match policy {
            Policy::Counter => format!("typeof({column}) NOT IN ('integer', 'null')"),
            Policy::Text => format!("typeof({column}) NOT IN ('text', 'null')"),
            Policy::Set | Policy::GSet => {
                format!("{column} IS NOT NULL AND CASE WHEN typeof({column}) = 'text' AND json_valid({column}) THEN json_type({column}) <> 'array' ELSE 1 END")
            }
            _ => continue,
        };
        let sql = format!("SELECT 1 FROM main.{} WHERE {misfit} LIMIT 1", quote(&def.name));
        let hit = conn.query_row(&sql, [], |_| Ok(())).optional().map_err(sqlite(format!("looking at column `{}` of table `{}`", names[c], def.name)))?;
        if hit.is_some() {
            let what = policy.misfit(&Value::Blob(vec![])).unwrap_or_default();
            out.push(Refused::new(
                &def.name,
                format!("column `{}` holds something else: {what}", names[c]),
                "mend these values, or give the column another policy",
            ));
        }
    }
    Ok(out)
}

fn key_columns(def: &TableDef) -> impl Iterator<Item = &str> {
    def.primary_key.iter().filter_map(|part| part.column.as_deref())
}
