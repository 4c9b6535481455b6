//! What this device has and the authority has not: tables and columns of a newer app. They wait, and nothing else waits for them.
//!
//! A device remembers the names in the authority's schema (meta `authority_columns`). A freeze leaves columns out that are not
//! among them, and rows that are of nothing else; a confirmation leaves those columns pending. As soon as the authority knows
//! them, they go like any other. Columns whose merge counts on a complete context hold their row back whole (rule 1).

use crate::error::{Error, Result};
use crate::registry::Table;
use crate::rows::RowRecord;
use crate::tx::Tx;
use std::collections::BTreeMap;
use syncline_core::{ColSet, Schema};

/// Columns by table, all in lower case.
type Names = BTreeMap<String, Vec<String>>;

/// What the authority lacks. Empty where the two schemas are equal, or where nothing is known.
#[derive(Debug, Default)]
pub(crate) struct Behind {
    /// Tables that it lacks.
    tables: Vec<i64>,
    /// Columns that it lacks, with their tables; the flag says that such a column holds its row back.
    columns: BTreeMap<i64, Vec<(usize, bool)>>,
}

impl Behind {
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.columns.is_empty()
    }

    /// Whether any row of a table may have to wait.
    pub fn concerns(&self, table: i64) -> bool {
        self.tables.contains(&table) || self.columns.contains_key(&table)
    }

    /// Splits what is pending in a row: what may go, and what waits. A row of which nothing may go waits whole.
    pub fn split(&self, t: &Table, row: &RowRecord) -> (ColSet, ColSet) {
        // Columns are left out only if the authority provably holds the row: it has a version of it, on our history.
        let pend = if row.version.0 > 0 { row.pend.clone().unwrap_or_default() } else { t.all_columns() };
        if self.tables.contains(&t.n) {
            return (ColSet::none(), pend);
        }
        let Some(lacking) = self.columns.get(&t.n) else { return (pend, ColSet::none()) };
        let has = |c: usize| row.state.cell(c).is_some();
        if lacking.iter().any(|(c, holds)| *holds && has(*c)) {
            return (ColSet::none(), pend);
        }
        let (mut goes, mut waits) = (pend, ColSet::none());
        for (c, _) in lacking {
            if goes.contains(*c) && has(*c) {
                waits.insert(*c);
            }
            goes.remove(*c);
        }
        // A row of which only such columns changed has nothing to say yet; one that the authority has never seen has.
        if row.version.0 > 0 && !row.state.is_dead() && goes.columns().next().is_none() && !waits.is_empty() {
            waits.insert_liveness();
            return (ColSet::none(), waits);
        }
        (goes, waits)
    }

    /// Lists the columns of a table that the authority knows; `None` where it knows all.
    pub fn known(&self, t: &Table) -> Option<Vec<usize>> {
        let lacking = self.columns.get(&t.n)?;
        Some((0..t.columns.len()).filter(|c| lacking.iter().all(|(l, _)| l != c)).collect())
    }
}

impl Tx<'_> {
    /// Remembers what the authority has.
    pub(crate) fn note_authority_columns(&self, schema: &Schema) -> Result<()> {
        let names: Names = schema.tables.iter().map(|t| (t.name.to_lowercase(), t.stored_columns().map(|c| c.name.to_lowercase()).collect())).collect();
        let text = serde_json::to_string(&names).map_err(|e| Error::Damaged(e.to_string()))?;
        self.set_meta("authority_columns", text)
    }

    /// Returns what the authority lacks of what is here.
    pub(crate) fn behind(&mut self) -> Result<Behind> {
        let mut out = Behind::default();
        if self.meta::<[u8; 16]>("authority_schema")? == Some(self.fingerprint()?.0) {
            return Ok(out);
        }
        let Some(names) = self.meta::<String>("authority_columns")?.and_then(|text| serde_json::from_str::<Names>(&text).ok()) else {
            return Ok(out);
        };
        for t in self.registry()?.all() {
            let Some(known) = names.get(&t.def.name.to_lowercase()) else {
                out.tables.push(t.n);
                continue;
            };
            let lacking: Vec<(usize, bool)> = t
                .columns
                .iter()
                .enumerate()
                .filter(|(_, c)| !known.contains(&c.name.to_lowercase()))
                .map(|(c, column)| {
                    let policy = t.def.column(&column.name).and_then(|d| d.policy.as_deref()).or(t.def.options.policy.as_deref());
                    (c, !matches!(policy, None | Some("lww" | "server")))
                })
                .collect();
            if !lacking.is_empty() {
                out.columns.insert(t.n, lacking);
            }
        }
        Ok(out)
    }

    /// Names what the authority lacks of what is here, as `table` or `table.column`, sorted.
    pub fn schema_behind(&mut self) -> Result<Vec<String>> {
        let behind = self.behind()?;
        let registry = self.registry()?;
        let mut out = Vec::new();
        for n in &behind.tables {
            out.push(registry.get(*n)?.def.name.clone());
        }
        for (n, columns) in &behind.columns {
            let t = registry.get(*n)?;
            out.extend(columns.iter().map(|(c, _)| format!("{}.{}", t.def.name, t.columns[*c].name)));
        }
        out.sort();
        Ok(out)
    }
}
