//! Columns that stay on this device: taken out of the definition together with everything that reads them.

use super::catalog::TableText;
use crate::config::TableConfig;
use crate::schema::{Refused, same};
use syncline_core::schema::{IndexPart, TableDef};

/// Returns the columns that syncline.toml declares local, as the table spells them; names of no column are refused.
pub(super) fn declared(def: &TableDef, config: &TableConfig, refused: &mut Vec<Refused>) -> Vec<String> {
    let mut out = Vec::new();
    for (name, column) in &config.columns {
        match def.column(name) {
            None => refused.push(Refused::new(&def.name, format!("it has no column `{name}`"), "correct the name in syncline.toml")),
            Some(known) if column.local => out.push(known.name.clone()),
            Some(_) => {}
        }
    }
    out
}

/// Refuses local columns without which a row of another device could not be written here.
pub(super) fn refusals(def: &TableDef, locals: &[String]) -> Vec<Refused> {
    let mut out = Vec::new();
    for column in locals.iter().filter_map(|name| def.column(name)) {
        let mut refuse = |why: &str, remedy: &str| out.push(Refused::new(&def.name, format!("local column `{}` {why}", column.name), remedy));
        if def.primary_key.iter().any(|p| p.column.as_deref().is_some_and(|name| same(name, &column.name))) {
            refuse("is part of the key", "a key must travel: make another column local");
        } else if column.not_null && column.generated.is_none() && column.default.as_deref().is_none_or(|text| same(text, "NULL")) {
            refuse("is NOT NULL without a default", "give it a DEFAULT, or allow NULL: rows of other devices come without it");
        }
    }
    out
}

/// Takes local columns out, and what reads them; returns a warning for each thing that other devices will not have.
pub(super) fn remove(text: &mut TableText, locals: &[String]) -> Vec<String> {
    let name = text.table.def.name.clone();
    let mut gone: Vec<String> = locals.to_vec();
    let mut warnings = Vec::new();
    let mut warn = |what: String| warnings.push(format!("table `{name}`: {what} reads a local column and stays on this device"));
    // A generated column may read another one that reads a local column.
    while let Some((column, _)) = text.table.generated_columns.iter().find(|(column, read)| !has(&gone, column) && read.iter().any(|r| has(&gone, r))) {
        warn(format!("generated column `{column}`"));
        gone.push(column.clone());
    }
    let table = &mut text.table;
    let def = &mut table.def;
    def.columns.retain(|c| !has(&gone, &c.name));
    let checks = std::mem::take(&mut def.checks).into_iter().zip(&table.check_columns);
    for (check, read) in checks {
        if read.iter().any(|r| has(&gone, r)) { warn(format!("CHECK ({check})")) } else { def.checks.push(check) }
    }
    def.uniques.retain(|parts| keep(!parts.iter().any(|p| reads(p, &gone)), || warn("a UNIQUE constraint".into())));
    def.foreign_keys.retain(|key| keep(!key.columns.iter().any(|c| has(&gone, c)), || warn(format!("the foreign key to `{}`", key.table))));
    text.indexes.retain(|index| keep(!index.columns.iter().any(|c| has(&gone, c)), || warn(format!("index `{}`", index.def.name))));
    warnings
}

fn keep(stays: bool, otherwise: impl FnOnce()) -> bool {
    if !stays {
        otherwise();
    }
    stays
}

fn reads(part: &IndexPart, gone: &[String]) -> bool {
    part.column.as_deref().is_some_and(|name| has(gone, name))
}

fn has(names: &[String], name: &str) -> bool {
    names.iter().any(|other| same(other, name))
}
