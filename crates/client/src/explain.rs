//! For a person: what of a database leaves the device, to where, by which rule.

use crate::database::Database;
use crate::error::Error;
use serde::{Deserialize, Serialize};
use syncline_core::schema::ScopeRule;
use syncline_replica::{Doing, Tx};

/// One column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedColumn {
    /// Its name.
    pub name: String,
    /// Whether its values leave the device.
    pub leaves: bool,
    /// How concurrent edits merge; `None` for keys and for what stays.
    pub policy: Option<String>,
    /// personal, financial or health.
    pub caution: Option<String>,
    /// Why it stays, or what it is.
    pub note: Option<String>,
}

/// One table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedTable {
    /// Its name.
    pub table: String,
    /// Whether its rows leave the device.
    pub leaves: bool,
    /// Whose they become; `None` if they stay.
    pub scope: Option<String>,
    /// Why they stay.
    pub note: Option<String>,
    /// Its columns.
    pub columns: Vec<ExplainedColumn>,
}

impl Database {
    /// Lists every table and column of the database: whether it leaves this device, to which scope, by which policy, with which
    /// caution.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
    /// # fn main() -> Result<(), syncline::Error> {
    /// # let (dir, db) = notes();
    /// let tables = db.explain()?;
    /// assert!(tables[0].leaves && tables[0].columns.iter().all(|c| c.leaves));
    /// # Ok(()) }
    /// ```
    pub fn explain(&self) -> Result<Vec<ExplainedTable>, Error> {
        self.inner.with(explain)
    }
}

fn explain(tx: &mut Tx) -> syncline_replica::Result<Vec<ExplainedTable>> {
    tx.absorb()?;
    let tables: Vec<(String, String, String)> = {
        let mut q = tx
            .conn
            .prepare("SELECT name, type, coalesce(sql, '') FROM sqlite_schema WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name")
            .doing("reading tables")?;
        q.query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?))).and_then(Iterator::collect).doing("reading tables")?
    };
    let mut out = Vec::new();
    for (name, kind, sql) in tables {
        if syncline_replica::schema::is_reserved(&name) {
            continue;
        }
        let synced = tx.registry()?.find(&name).filter(|t| t.present);
        let columns: Vec<(String, i64)> = {
            let mut q = tx.conn.prepare("SELECT name, hidden FROM pragma_table_xinfo(?1)").doing("reading columns")?;
            q.query_map([&name], |r| Ok((r.get(0)?, r.get(1)?))).and_then(Iterator::collect).doing("reading columns")?
        };
        let Some(t) = synced else {
            let note = if kind == "view" {
                "a view: it shows what the tables hold"
            } else if sql.get(..14).is_some_and(|s| s.eq_ignore_ascii_case("CREATE VIRTUAL")) {
                "a virtual table: each device builds its own"
            } else {
                "not among the tables that `init` was told to sync"
            };
            let columns = columns.into_iter().map(|(name, _)| ExplainedColumn { name, leaves: false, policy: None, caution: None, note: None }).collect();
            out.push(ExplainedTable { table: name, leaves: false, scope: None, note: Some(note.into()), columns });
            continue;
        };
        let scope = match &t.def.options.scope {
            ScopeRule::Account => tx.meta::<String>("account")?.unwrap_or_else(|| "the account's own".into()),
            ScopeRule::Column(column) => format!("as column `{column}` says"),
            ScopeRule::Via(column) => format!("its parent's, through `{column}`"),
        };
        let columns = columns.into_iter().map(|(column, hidden)| explain_column(&t, column, hidden)).collect();
        out.push(ExplainedTable { table: name, leaves: true, scope: Some(scope), note: None, columns });
    }
    Ok(out)
}

fn explain_column(t: &syncline_replica::Table, name: String, hidden: i64) -> ExplainedColumn {
    let def = t.def.column(&name);
    let is_key = t.key.iter().any(|k| k.eq_ignore_ascii_case(&name));
    let caution = def.and_then(|d| d.caution.clone());
    let policy = def.and_then(|d| d.policy.clone()).or_else(|| t.def.options.policy.clone()).unwrap_or_else(|| "lww".into());
    let (leaves, policy, note) = match def {
        _ if hidden >= 2 => (false, None, Some("generated: each device computes it")),
        None => (false, None, Some("local: never leaves this device")),
        Some(_) if is_key => (true, None, Some("part of the key")),
        Some(_) => (true, Some(policy), None),
    };
    ExplainedColumn { name, leaves, policy, caution, note: note.map(str::to_owned) }
}
