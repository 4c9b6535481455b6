//! An app's tables, read from its database: what can be synced, what is left out and why, and what stands in the way.
//!
//! All refusals are collected, so that a person mends them in one go. Nothing is written, and no row leaves this module.

mod catalog;
mod checks;
mod local;

use super::{Refused, SCOPE_COLUMN, SchemaError, is_reserved, same, validate};
use crate::config::{Config, OnDelete, OnReject, TableConfig};
use catalog::{Entry, Kind};
use rusqlite::Connection;
use std::collections::BTreeMap;
use syncline_core::schema::{IntegerKeys, Schema, TableDef};

/// Which tables sync, and how.
#[derive(Clone, Debug, Default)]
pub struct SyncOptions {
    /// Only these tables; `None` is all that can.
    pub tables: Option<Vec<String>>,
    /// Not these.
    pub except: Vec<String>,
    /// How INTEGER keys are kept apart.
    pub integer_keys: Option<IntegerKeys>,
    /// syncline.toml.
    pub config: Config,
}

/// What `introspect` found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Introspection {
    /// The tables that sync, without their local columns.
    pub schema: Schema,
    /// The tables and views that do not, each with the reason.
    pub left_out: Vec<(String, String)>,
    /// What a person should look at.
    pub warnings: Vec<String>,
    /// Columns that stay on this device, by table.
    pub local_columns: BTreeMap<String, Vec<String>>,
}

/// Returns the tables of a database that sync, or all reasons why they cannot.
///
/// Reads the catalogue and, per table whose key may hold NULL, looks for one such row. Run it in a transaction if others
/// may change the schema meanwhile.
pub fn introspect(conn: &Connection, options: &SyncOptions) -> Result<Introspection, SchemaError> {
    let entries = catalog::entries(conn)?;
    let mut found = Introspection::default();
    found.schema.version = options.config.schema_version;
    let mut refused = unknown_names(&entries, options);
    for entry in &entries {
        match left_out(entry, options) {
            Some(why) => found.left_out.push((entry.name.clone(), why)),
            None => {
                let table = read_table(conn, &entry.name, options, &mut found, &mut refused)?;
                found.schema.tables.extend(table);
            }
        }
    }
    found.schema.tables.sort_by(|a, b| a.name.cmp(&b.name));
    checks::foreign_keys(&mut found.schema, &mut refused);
    refused.extend(super::scopes::refusals(&found.schema));
    warn_of_triggers(conn, &mut found)?;
    if !refused.is_empty() {
        return Err(SchemaError::Refused(refused));
    }
    // The authority and other devices will hold it to this: better to hear it here.
    validate(&found.schema)?;
    Ok(found)
}

fn read_table(
    conn: &Connection,
    name: &str,
    options: &SyncOptions,
    found: &mut Introspection,
    refused: &mut Vec<Refused>,
) -> Result<Option<TableDef>, SchemaError> {
    let config = options.config.table(name);
    let mut parsed = match catalog::table(conn, name)? {
        Ok(parsed) => parsed,
        Err(why) => {
            let remedy = "create the table anew in plain SQL, or leave it out with --except";
            refused.push(Refused::new(name, why, remedy));
            return Ok(None);
        }
    };
    found.warnings.extend(parsed.table.notes.iter().map(|note| format!("table `{name}`: {note}")));
    apply_options(&mut parsed.table.def, config, options);
    if parsed.table.def.options.integer_keys == Some(IntegerKeys::DeviceBlocks) {
        // SQLite takes the greater of sqlite_sequence and the largest rowid there is, and offers no way to say otherwise.
        found.warnings.push(format!(
            "table `{name}`: SQLite numbers after the largest key in the table, so once rows of a higher block have arrived two devices \
             may draw the same key; such rows become a `key_collision` to decide on, never one row. UUID keys avoid it"
        ));
    }
    refused.extend(checks::table(conn, &parsed, options)?);
    if let Some(config) = config {
        let locals: Vec<String> = local::declared(&parsed.table.def, config, refused);
        if !locals.is_empty() {
            refused.extend(local::refusals(&parsed.table.def, &locals));
            found.warnings.extend(local::remove(&mut parsed, &locals));
            found.local_columns.insert(name.to_owned(), locals);
        }
    }
    let mut def = parsed.table.def;
    if def.column(SCOPE_COLUMN).is_some() {
        let why = format!("its column `{SCOPE_COLUMN}` has the name of the authority's own column");
        refused.push(Refused::new(name, why, "rename the column, or leave the table out with --except"));
    }
    def.indexes = parsed.indexes.into_iter().map(|index| index.def).collect();
    def.indexes.sort_by(|a, b| a.name.cmp(&b.name));
    refused.extend(checks::policies(conn, &def, config)?);
    warn_of_names(&def, &mut found.warnings);
    Ok(Some(def))
}

fn apply_options(def: &mut TableDef, config: Option<&TableConfig>, options: &SyncOptions) {
    if def.integer_key().is_some() {
        def.options.integer_keys = options.integer_keys;
    }
    let Some(config) = config else { return };
    def.options.priority = config.priority;
    def.options.unread_author = config.unread.as_ref().map(|u| u.author.clone());
    def.options.policy = config.policy.clone();
    def.options.delete_wins = config.on_delete == OnDelete::DeleteWins;
    def.options.hold_bundle = config.on_reject == OnReject::HoldBundle;
    def.options.groups = config.groups.clone();
    def.options.scope = config.scope.clone();
    for column in &mut def.columns {
        if let Some(of) = config.column(&column.name) {
            column.policy = of.policy.clone();
            column.caution = of.caution.clone();
        }
    }
}

/// Says why a table or view does not sync, if it does not.
fn left_out(entry: &Entry, options: &SyncOptions) -> Option<String> {
    let name = &entry.name;
    let why = match entry.kind {
        Kind::View => "a view: it shows what the tables hold",
        Kind::Virtual => "a virtual table: each device builds its own",
        Kind::Shadow => "the storage of a virtual table",
        Kind::Table if is_reserved(name) && name.get(..7).is_some_and(|head| same(head, "sqlite_")) => "SQLite's own",
        Kind::Table if is_reserved(name) => "Syncline's own",
        Kind::Table if options.config.table(name).is_some_and(|t| t.local) => "local, says syncline.toml",
        Kind::Table if options.except.iter().any(|other| same(other, name)) => "excepted by --except",
        Kind::Table if options.tables.as_ref().is_some_and(|only| !only.iter().any(|other| same(other, name))) => "not among --tables",
        Kind::Table => return None,
    };
    Some(why.to_owned())
}

/// Refuses names in options and syncline.toml that no table bears, and tables asked for that can never sync.
fn unknown_names(entries: &[Entry], options: &SyncOptions) -> Vec<Refused> {
    let find = |name: &str| entries.iter().find(|entry| same(&entry.name, name));
    let mut out = Vec::new();
    for name in options.tables.iter().flatten() {
        match find(name) {
            None => out.push(Refused::new(name, "there is no such table", "correct the name in --tables")),
            Some(entry) => {
                let asked = SyncOptions { config: options.config.clone(), ..SyncOptions::default() };
                if let Some(why) = left_out(entry, &asked) {
                    out.push(Refused::new(name, format!("it cannot be synced: it is {why}"), "take it out of --tables"));
                }
            }
        }
    }
    let missing = |name: &&str| find(name).is_none();
    out.extend(
        options.except.iter().map(String::as_str).filter(missing).map(|name| Refused::new(name, "there is no such table", "correct the name in --except")),
    );
    out.extend(
        options
            .config
            .tables
            .keys()
            .map(String::as_str)
            .filter(missing)
            .map(|name| Refused::new(name, "there is no such table", "correct [table.…] in syncline.toml")),
    );
    out
}

/// Names that sound as if they should not leave the device.
const PRIVATE_WORDS: [&str; 6] = ["token", "password", "passwd", "secret", "cache", "draft"];

fn warn_of_names(def: &TableDef, warnings: &mut Vec<String>) {
    let sounds_private = |name: &str| PRIVATE_WORDS.iter().any(|word| name.to_ascii_lowercase().contains(word));
    if sounds_private(&def.name) {
        warnings.push(format!("table `{}` will be synced; if it should stay on this device, set local = true in syncline.toml", def.name));
    }
    for column in def.columns.iter().filter(|c| c.generated.is_none() && sounds_private(&c.name)) {
        let place = format!("column `{}` of table `{}`", column.name, def.name);
        warnings.push(format!("{place} will be synced; if it should stay on this device, set local = true in syncline.toml"));
    }
}

/// Warns of the app's triggers that write synced tables: they run on every device, also when a delta is applied.
fn warn_of_triggers(conn: &Connection, found: &mut Introspection) -> Result<(), SchemaError> {
    for (name, sql) in catalog::triggers(conn)? {
        for target in catalog::targets(&sql, &found.schema) {
            found.warnings.push(format!(
                "trigger `{name}` writes the synced table `{target}`; it also runs when changes of other devices arrive, so what it writes should follow from the row alone"
            ));
        }
    }
    Ok(())
}
