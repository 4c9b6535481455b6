//! One device's schema added to the authority's: additively only.
//!
//! Tables and columns that the authority does not know are added. What it knows stays as it is there, with its
//! constraints, indexes and options; what cannot be added is refused by name, all of it at once.

use super::expr::expression;
use super::{Refused, SchemaError, same, validate};
use crate::account_tables::put_in_order;
use syncline_core::schema::{ColumnDef, Schema, TableDef};

/// What a device's schema adds to the authority's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SchemaMerge {
    /// Tables to create.
    pub new_tables: Vec<TableDef>,
    /// Columns to add, with their tables.
    pub new_columns: Vec<(String, ColumnDef)>,
    /// The authority's schema afterwards.
    pub schema: Schema,
}

/// Returns what `device` adds to `authority`. Both must have passed `validate`; so has the result.
pub fn merge_schema(authority: &Schema, device: &Schema) -> Result<SchemaMerge, SchemaError> {
    let mut merge = SchemaMerge { schema: authority.clone(), ..SchemaMerge::default() };
    let mut refused = Vec::new();
    merge.schema.version = authority.version.max(device.version);
    for theirs in &device.tables {
        match merge.schema.tables.iter_mut().find(|t| same(&t.name, &theirs.name)) {
            None => merge.new_tables.push(theirs.clone()),
            Some(ours) => add_columns(ours, theirs, &mut merge.new_columns, &mut refused),
        }
    }
    if !refused.is_empty() {
        return Err(SchemaError::Refused(refused));
    }
    merge.schema.tables.extend(merge.new_tables.iter().cloned());
    put_in_order(&mut merge.schema.tables);
    validate(&merge.schema)?;
    Ok(merge)
}

fn add_columns(ours: &mut TableDef, theirs: &TableDef, added: &mut Vec<(String, ColumnDef)>, refused: &mut Vec<Refused>) {
    if key_of(ours) != key_of(theirs) {
        let why = format!("its primary key is ({}) here and ({}) at the authority", key_of(theirs).join(", "), key_of(ours).join(", "));
        refused.push(Refused::new(&theirs.name, why, "give both the same key, or sync this table under another name"));
        return;
    }
    for column in &theirs.columns {
        match ours.column(&column.name) {
            Some(known) if known.generated.is_some() != column.generated.is_some() => {
                let why = format!("column `{}` is generated on one side only", column.name);
                refused.push(Refused::new(&theirs.name, why, "make it generated on both, or give one another name"));
            }
            Some(_) => {}
            None => match cannot_add(column) {
                Some((why, remedy)) => refused.push(Refused::new(&theirs.name, format!("new column `{}` {why}", column.name), remedy)),
                None => {
                    ours.columns.push(column.clone());
                    added.push((ours.name.clone(), column.clone()));
                }
            },
        }
    }
}

/// What SQLite's ALTER TABLE cannot do to a table that has rows.
fn cannot_add(column: &ColumnDef) -> Option<(&'static str, &'static str)> {
    if let Some(generated) = &column.generated {
        return generated.stored.then_some(("is generated and STORED", "make it VIRTUAL"));
    }
    match &column.default {
        None if column.not_null => Some(("is NOT NULL without a default", "give it a DEFAULT")),
        Some(text) if column.not_null && same(text, "NULL") => Some(("is NOT NULL without a default", "give it a DEFAULT")),
        Some(text) if !expression(text).is_ok_and(|e| e.constant) => Some(("has a computed default", "give it a constant DEFAULT")),
        _ => None,
    }
}

fn key_of(table: &TableDef) -> Vec<String> {
    table.primary_key.iter().filter_map(|p| p.column.as_ref()).map(|name| name.to_ascii_lowercase()).collect()
}
