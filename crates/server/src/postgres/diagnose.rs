//! The second pass: finds out which rows of a bundle cannot stand, so that the device can park those and send the rest.
//!
//! Row by row, each in a savepoint of its own; nobody comes here unless the few statements of the fast path failed.

use crate::api_error::ApiError;
use crate::postgres::commit::{Merged, acted_on};
use crate::postgres::db::Tx;
use crate::postgres::registry::{Registry, Table};
use crate::postgres::rows::Records;
use crate::postgres::scope::Scope;
use crate::postgres::translate::{Pushed, Refusals};
use crate::postgres::types::{self, Cell, PgType};
use crate::postgres::write::{Action, Planned, Unwritten, write};
use std::collections::HashMap;
use std::sync::Arc;
use syncline_core::schema::{ForeignKey, quote};
use syncline_core::{Key, Limits, Reason, Value};
use syncline_replica::Clash;
use tokio_postgres::types::Type;

/// How often the pass may find new offenders before it calls all that remain offenders.
const PASSES_MAX: usize = 24;

/// Leaves offenders out, again and again, until what remains stands. With no offender at all (rows that swap unique values,
/// say) the rows are written and `None` comes back; else nothing is, and the offenders are named.
pub async fn diagnose(
    tx: &Tx,
    registry: &Registry,
    scope: &Scope,
    rows: &[Pushed],
    merged: &[Merged],
    before: &Records,
    limits: &Limits,
) -> Result<Option<Refusals>, ApiError> {
    let pass = Pass { tx, registry, scope, rows, merged, before };
    let mut offenders: HashMap<usize, Clash> = HashMap::new();
    for n in 0.. {
        tx.batch("SAVEPOINT syncline_pass").await?;
        let found = pass.write_one_by_one(&offenders).await?;
        if found.is_empty() && offenders.is_empty() {
            match tx.raw_batch("SET CONSTRAINTS ALL IMMEDIATE").await.map_err(Unwritten::from) {
                Ok(()) => return Ok(None),
                Err(Unwritten::Failed(e)) => return Err(e.into()),
                Err(Unwritten::Missed) => {}
                // A constraint of the operator's own that speaks for no single row.
                Err(Unwritten::Clash(clash)) => offenders.extend((0..rows.len()).map(|i| (i, clash.clone()))),
            }
        }
        tx.batch("ROLLBACK TO SAVEPOINT syncline_pass").await?;
        if found.is_empty() {
            break;
        }
        offenders.extend(found);
        if n == PASSES_MAX {
            let clash = Clash { reason: Reason::ForeignKey, message: "rows of this bundle hold each other up; the server refuses them together".into() };
            for i in 0..rows.len() {
                offenders.entry(i).or_insert_with(|| clash.clone());
            }
            break;
        }
    }
    let mut refused = Refusals::new(limits);
    let mut sorted: Vec<_> = offenders.into_iter().collect();
    sorted.sort_by_key(|o| o.0);
    for (i, clash) in sorted {
        refused.add(&rows[i], clash.reason, clash.message);
    }
    Ok(Some(refused))
}

struct Pass<'a> {
    tx: &'a Tx,
    registry: &'a Registry,
    scope: &'a Scope,
    rows: &'a [Pushed],
    merged: &'a [Merged],
    before: &'a Records,
}

impl Pass<'_> {
    /// Writes every row that is no offender; those that clash are tried again after the others, since the value that they want
    /// may have become free. Returns new offenders.
    async fn write_one_by_one(&self, known: &HashMap<usize, Clash>) -> Result<HashMap<usize, Clash>, ApiError> {
        let mut todo: Vec<usize> = (0..self.rows.len()).filter(|i| !known.contains_key(i)).collect();
        let mut clashes: HashMap<usize, Clash>;
        let mut freed = false;
        loop {
            clashes = HashMap::new();
            let before = todo.len();
            let mut left = Vec::new();
            for i in todo {
                if let Some(clash) = self.write_one(i).await? {
                    clashes.insert(i, clash);
                    left.push(i);
                }
            }
            if left.is_empty() {
                break;
            }
            if left.len() == before && (freed || !self.free_unique_values(&left, &clashes).await?) {
                break;
            }
            freed |= left.len() == before;
            todo = left;
        }
        for key in self.orphans().await? {
            let (i, message) = self.culprit(&key, known);
            if let Some(i) = i.filter(|i| !clashes.contains_key(i)) {
                clashes.insert(i, Clash { reason: Reason::ForeignKey, message });
            }
        }
        Ok(clashes)
    }

    async fn write_one(&self, i: usize) -> Result<Option<Clash>, ApiError> {
        let planned = self.merged[i].planned(&self.rows[i]);
        let tried = match self.try_write(&planned).await? {
            // Not there any more: put in anew, whole.
            Err(Unwritten::Missed) if planned.action == Action::Update => {
                let t = planned.table;
                let columns = (0..t.columns.len()).filter(|c| planned.state.cell(*c).is_some()).collect();
                self.try_write(&Planned { action: Action::Insert, columns, ..planned }).await?
            }
            tried => tried,
        };
        Ok(match tried {
            Ok(()) => None,
            Err(Unwritten::Clash(clash)) => Some(clash),
            Err(Unwritten::Missed) => Some(Clash { reason: Reason::Rule, message: "a trigger of the server's did not let the row in".into() }),
            Err(Unwritten::Failed(e)) => return Err(e.into()),
        })
    }

    async fn try_write(&self, planned: &Planned<'_>) -> Result<Result<(), Unwritten>, ApiError> {
        self.tx.batch("SAVEPOINT syncline_row").await?;
        let one = Planned { table: planned.table, key: planned.key, action: planned.action, columns: planned.columns.clone(), state: planned.state };
        let tried = write(self.tx, &self.scope.id.0, &[one], &[]).await;
        if let Err(Unwritten::Failed(e)) = tried {
            return Err(e.into());
        }
        self.tx.batch(if tried.is_ok() { "RELEASE SAVEPOINT syncline_row" } else { "ROLLBACK TO SAVEPOINT syncline_row" }).await?;
        Ok(tried)
    }

    /// Rows that swap unique values are in each other's way: takes them all out of their tables, to be put in again.
    /// Says whether it did; not where taking a row out would set off foreign-key actions.
    async fn free_unique_values(&self, left: &[usize], clashes: &HashMap<usize, Clash>) -> Result<bool, ApiError> {
        let acted_on = acted_on(self.registry);
        let movable = |i: &&usize| {
            let unique = clashes.get(*i).is_some_and(|c| c.reason == Reason::Unique);
            unique && self.merged[**i].action == Action::Update && !acted_on.contains(&self.rows[**i].table.n)
        };
        let swapped: Vec<usize> = left.iter().filter(movable).copied().collect();
        for i in &swapped {
            let planned = Planned { action: Action::Delete, columns: vec![], ..self.merged[*i].planned(&self.rows[*i]) };
            if let Err(Unwritten::Failed(e)) = write(self.tx, &self.scope.id.0, &[planned], &[]).await {
                return Err(e.into());
            }
        }
        Ok(!swapped.is_empty())
    }

    /// Lists rows of this scope that point at nothing, of the foreign keys that this bundle has to do with.
    async fn orphans(&self) -> Result<Vec<Orphan>, ApiError> {
        let concerned = |t: &Table| self.rows.iter().any(|r| r.table.n == t.n);
        let mut out = Vec::new();
        for child in self.registry.all() {
            for key in &child.def.foreign_keys {
                let Some(parent) = self.registry.find(&key.table).filter(|p| concerned(p) || concerned(child)) else { continue };
                let referenced = parent.def.referenced_columns(key);
                let points: Vec<PgType> = key.columns.iter().map(|c| type_of(child, c)).collect();
                let names: Vec<String> = key.columns.iter().map(|c| quote(&real(child, c))).collect();
                let noted = child.key.iter().zip(&child.key_types).map(|(k, of)| of.note(&format!("c.{}", quote(k))));
                let pointed = names.iter().zip(&points).map(|(c, of)| of.note(&format!("c.{c}")));
                let list: Vec<String> = noted.chain(pointed).collect();
                let set: String = names.iter().map(|c| format!(" AND c.{c} IS NOT NULL")).collect();
                let meets: String = names.iter().zip(&referenced).map(|(c, p)| format!(" AND p.{} = c.{c}", quote(&real(&parent, p)))).collect();
                let sql = format!(
                    "SELECT ARRAY[{}]::text[] FROM {} c WHERE {}{set} AND NOT EXISTS (SELECT FROM {} p WHERE {}{meets})",
                    list.join(", "),
                    child.place,
                    child.in_scope("c"),
                    parent.place,
                    parent.in_scope("p")
                );
                for row in self.tx.query(&sql, &[(&self.scope.id.0, Type::TEXT)]).await? {
                    let texts: Vec<String> = row.get(0);
                    let all = child.key_types.iter().chain(&points);
                    let mut cells: Vec<Cell> = all.zip(&texts).filter_map(|(of, text)| of.noted(text)).collect();
                    let pointed = cells.split_off(child.key.len().min(cells.len()));
                    out.push(Orphan { child: child.clone(), keys: types::keys(&child.key_types, cells), key: key.clone(), pointed });
                }
            }
        }
        Ok(out)
    }

    /// Of a parent that goes and a child that stays, the one in this bundle that makes the trouble is refused.
    fn culprit(&self, orphan: &Orphan, known: &HashMap<usize, Clash>) -> (Option<usize>, String) {
        let is_child = |r: &Pushed| r.table.n == orphan.child.n && orphan.keys.contains(&r.incoming.key) && !r.incoming.state.is_dead();
        let open = |i: &usize| !known.contains_key(i);
        if let Some(i) = (0..self.rows.len()).filter(open).find(|i| is_child(&self.rows[*i])) {
            return (Some(i), "it points at a row that does not exist".into());
        }
        let message = format!("rows of table `{}` still point at it", orphan.child.def.name);
        ((0..self.rows.len()).filter(open).find(|i| self.was_parent(*i, orphan)), message)
    }

    fn was_parent(&self, i: usize, orphan: &Orphan) -> bool {
        let row = &self.rows[i];
        let t = &row.table;
        if !t.def.name.eq_ignore_ascii_case(&orphan.key.table) || matches!(self.merged[i].action, Action::Nothing | Action::Insert) {
            return false;
        }
        let Some(before) = self.before.get(&row.place()) else { return false };
        let key = row.incoming.key.decode().unwrap_or_default();
        t.def.referenced_columns(&orphan.key).iter().zip(&orphan.pointed).all(|(column, cell)| {
            let at = t.key.iter().position(|k| k.eq_ignore_ascii_case(column));
            let value = match at {
                Some(i) => key.get(i).cloned(),
                None => t.column(column).and_then(|c| before.state.cell(c)).map(|x| x.value.clone()),
            };
            type_of(t, column).shows(cell, &value.unwrap_or(Value::Null))
        })
    }
}

struct Orphan {
    child: Arc<Table>,
    keys: Vec<Key>,
    key: ForeignKey,
    pointed: Vec<Cell>,
}

/// Returns a column's type, one of the key's too.
pub fn type_of(t: &Table, column: &str) -> PgType {
    match t.key.iter().position(|k| k.eq_ignore_ascii_case(column)) {
        Some(i) => t.key_types[i],
        None => t.column(column).map_or(PgType::Any(false), |c| t.columns[c].type_of),
    }
}

/// Returns a column's name as its table writes it.
pub fn real(t: &Table, column: &str) -> String {
    t.def.column(column).map_or_else(|| column.to_owned(), |c| c.name.clone())
}
