//! Where rows' scopes come from, and whether that can be: by a column, or through a foreign key that ends at such a column.
//!
//! A foreign key never leads out of a scope: whoever sees the child must see the parent. Between tables that are shared it may
//! only be wrong for single rows, which the authority then refuses; between a shared table and one of the account's own it would
//! be wrong for all, and is refused here.

use super::{Refused, same};
use syncline_core::schema::{Schema, ScopeRule, TableDef};

/// Parents over which a scope may come.
const DEPTH_MAX: usize = 16;

/// Where a table's rows get their scope in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin<'a> {
    /// All are the account's own.
    Account,
    /// A column of this table says it.
    Column(&'a TableDef, &'a str),
}

/// Returns where a table's rows get their scope in the end, and the tables on the way there, itself first. `None` if it leads nowhere.
pub fn origin<'a>(schema: impl Fn(&str) -> Option<&'a TableDef>, table: &'a TableDef) -> Option<(Origin<'a>, Vec<&'a TableDef>)> {
    let mut way = vec![table];
    while way.len() <= DEPTH_MAX {
        let last = *way.last()?;
        match &last.options.scope {
            ScopeRule::Account => return Some((Origin::Account, way)),
            ScopeRule::Column(column) => return Some((Origin::Column(last, column), way)),
            ScopeRule::Via(_) => way.push(schema(&last.scope_key()?.table)?),
        }
    }
    None
}

/// Lists what of the tables' scopes cannot be.
pub fn refusals(schema: &Schema) -> Vec<Refused> {
    let mut out = Vec::new();
    for table in &schema.tables {
        match own_rule(table) {
            Some((why, remedy)) => out.push(Refused::new(&table.name, why, remedy)),
            None => out.extend(foreign_keys(schema, table)),
        }
    }
    out
}

fn own_rule(table: &TableDef) -> Option<(String, &'static str)> {
    let column = match &table.options.scope {
        ScopeRule::Account => return None,
        ScopeRule::Column(column) | ScopeRule::Via(column) => column,
    };
    let Some(def) = table.column(column).filter(|c| c.generated.is_none()) else {
        return Some((format!("its scope comes from `{column}`, which is no stored and synced column of it"), "correct the name in syncline.toml"));
    };
    if let ScopeRule::Via(_) = table.options.scope {
        return table.scope_key().is_none().then(|| {
            (
                format!("its scope comes through `{column}`, which is not part of a foreign key"),
                "declare the foreign key, or name the column of one in syncline.toml",
            )
        });
    }
    let policy = def.policy.as_deref().or(table.options.policy.as_deref()).unwrap_or("lww");
    (!matches!(policy, "lww" | "reject")).then(|| {
        (format!("its scope comes from `{column}`, which merges by `{policy}`"), "let that column be `lww`: a row in another scope is moved, not merged")
    })
}

fn foreign_keys(schema: &Schema, table: &TableDef) -> Vec<Refused> {
    let origin_of = |t| origin(|name| schema.table(name), t).map(|o| o.0);
    let Some(own) = origin_of(table) else {
        let remedy = "let the chain of `via` end at a table whose scope is a column, or leave it out";
        return vec![Refused::new(&table.name, "its scope comes through parents that never end", remedy)];
    };
    let mut out = Vec::new();
    for key in &table.foreign_keys {
        let Some(parent) = schema.table(&key.table) else { continue };
        let (Some(theirs), false) = (origin_of(parent), same(&parent.name, &table.name)) else { continue };
        if (own == Origin::Account) != (theirs == Origin::Account) {
            let (mine, other) = if own == Origin::Account { ("the account's own", "shared") } else { ("shared", "the account's own") };
            out.push(Refused::new(
                &table.name,
                format!(
                    "its foreign key ({}) leads from a scope into another: its rows are {mine}, those of `{}` {other}",
                    key.columns.join(", "),
                    parent.name
                ),
                format!("give `{}` or `{}` the other's scope in syncline.toml, or keep the column and drop the foreign key", table.name, parent.name),
            ));
        }
    }
    out
}
