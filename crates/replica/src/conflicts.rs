//! What waits for a decision, and the three outcomes.
//!
//! Going back is a write: accepting the authority's row, or keeping a merged one, is an ordinary new write of those values,
//! captured like any other. An invalid resolution changes nothing.

use crate::bind::Bind;
use crate::clash::Clash;
use crate::error::{Doing, Error, Result};
use crate::registry::Table;
use crate::rows::RowRecord;
use crate::tx::{Scope, Tx};
use rusqlite::ToSql;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use syncline_core::schema::quote;
use syncline_core::{Key, Refusal, Seq, Value};

/// A row that waits for a decision.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Conflict {
    /// Stable while the conflict lasts: 16 hex digits.
    pub id: String,
    /// Of which scope.
    pub scope_id: String,
    /// `parked`, `shelved` or `ask`.
    pub state: String,
    /// The structured refusal; of a shelved row, the same fields as this device knows them.
    #[serde(flatten)]
    pub refusal: Refusal,
    /// Since when, in ms since 1970.
    pub since: i64,
    /// The last confirmed row, where this device still has it.
    pub base: Option<BTreeMap<String, Value>>,
    /// The row here; of a row that asks, with this device's own values.
    pub local: Option<BTreeMap<String, Value>>,
    /// The row at the authority, as it said; of a row that asks, the latest of the others' values.
    pub remote: Option<BTreeMap<String, Value>>,
    /// Of a row that asks: all values by column, the earliest first.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, Vec<Value>>,
}

/// What settles a conflict.
#[derive(Clone, Debug, PartialEq)]
pub enum Resolution {
    /// The authority's row becomes this device's.
    Server,
    /// The local row is offered again as it is.
    Mine,
    /// These columns are written, the others stay local.
    Merged(BTreeMap<String, Value>),
}

impl Tx<'_> {
    /// Lists what waits for a decision, oldest first.
    pub fn conflicts(&mut self) -> Result<Vec<Conflict>> {
        self.conflicts_up_to(i64::MAX as usize)
    }

    /// The same, of each kind at most `limit`.
    pub(crate) fn conflicts_up_to(&mut self, limit: usize) -> Result<Vec<Conflict>> {
        let mut out = Vec::new();
        for state in ["parked", "shelved"] {
            let found: Vec<(i64, i64, Vec<u8>, String, String, i64)> = {
                let sql = format!("SELECT scope, tbl, key, reason, message, since FROM _syncline_{state} ORDER BY since, tbl, key LIMIT ?1");
                let mut q = self.conn.prepare_cached(&sql).doing("listing conflicts")?;
                q.query_map([limit as i64], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?, r.get(5)?)))
                    .and_then(Iterator::collect)
                    .doing("listing conflicts")?
            };
            for (scope, table, key, reason, message, since) in found {
                let (scope, t, key) = (self.scope(scope)?, self.registry()?.get(table)?, Key(key));
                if state == "shelved" && self.is_parked(&scope, &t, &key)? {
                    continue;
                }
                let row = self.load_complete(&scope, &t, &key)?;
                let local = match self.collided(&scope, &t, &key)? {
                    Some(local) => Some(local),
                    None => (!row.state.is_dead()).then(|| t.row_object(&key, &row.state)),
                };
                let refusal = match self.refusal(&scope, &t, &key)? {
                    Some(refusal) => refusal,
                    None => Refusal {
                        schema: "main".into(),
                        table: t.def.name.clone(),
                        key: t.key_object(&key),
                        op: operation(&row).into(),
                        base_row_version: row.version,
                        server_row_version: row.version,
                        server_row_deleted: false,
                        server_row: (row.pend.is_none()).then(|| t.row_object(&key, &row.state)),
                        reason: syncline_core::Reason::parse(&reason).unwrap_or_default(),
                        message,
                    },
                };
                let remote = refusal.server_row.clone();
                out.push(Conflict {
                    id: conflict_id(&scope, &t, &key),
                    scope_id: scope.id.0.clone(),
                    state: state.into(),
                    refusal,
                    since,
                    base: if row.pend.is_some() { self.base(&scope, &t, &key)? } else { None },
                    local,
                    remote,
                    values: BTreeMap::new(),
                });
            }
        }
        out.extend(self.asked(limit)?);
        out.sort_by_key(|c| c.since);
        Ok(out)
    }

    fn find_conflict(&mut self, id: &str) -> Result<(Scope, Arc<Table>, Key, Conflict)> {
        let conflict = self
            .conflicts()?
            .into_iter()
            .find(|c| c.id == id || (id.len() >= 6 && c.id.starts_with(id)))
            .ok_or_else(|| Error::Refused(format!("no conflict has the id `{id}`; `syncline conflicts` lists them")))?;
        let t = self.registry()?.find(&conflict.refusal.table).ok_or_else(|| Error::Damaged("a conflict of no table".into()))?;
        let key: Vec<Value> = t.key.iter().map(|k| conflict.refusal.key.get(k).cloned().unwrap_or_default()).collect();
        let scope = self.find_scope(&syncline_core::ScopeId(conflict.scope_id.clone()))?.ok_or_else(|| Error::Damaged("a conflict of no scope".into()))?;
        Ok((scope, t, Key::encode(&key), conflict))
    }

    /// Settles a conflict. The caller has absorbed; on an error nothing has changed.
    pub fn resolve(&mut self, id: &str, how: &Resolution) -> Result<()> {
        let (scope, t, key, conflict) = self.find_conflict(id)?;
        if conflict.state == "ask" {
            return self.resolve_asked(&scope, &t, &key, how);
        }
        if self.apart(&scope, &t, &key)?.is_some() {
            return self.resolve_apart(&scope, &t, &key, &conflict, how);
        }
        let row = self.load_complete(&scope, &t, &key)?;
        if let Some(local) = self.collided(&scope, &t, &key)? {
            self.resolve_collision(&t, &key, local, how)?;
            self.forget_collided(&scope, &t, &key)?;
            self.absorb()?;
            return Ok(());
        }
        match how {
            Resolution::Mine => {
                if conflict.state == "shelved" {
                    return Err(Error::Refused(format!(
                        "{}; change one of the two rows (`--merged`), or take the server's (`--server`)",
                        conflict.refusal.message
                    )));
                }
                return self.unpark_and_touch(&scope, &t, &key);
            }
            Resolution::Server if row.state.is_dead() || row.is_shown() => match &conflict.refusal.server_row {
                Some(values) => self.write_row(&scope, &t, &row, values, true)?,
                None => t.delete(self, &scope, &key)?,
            },
            Resolution::Server => {
                // Shelved: it is not in the table. What the authority has is this row itself, or nothing.
                if row.pend.is_none() {
                    return Err(Error::Refused("this is the server's row; another row of this device is in its way: change that one".into()));
                }
                self.end_shelved(&scope, &t, row)?;
            }
            Resolution::Merged(values) => self.write_row(&scope, &t, &row, values, false)?,
        }
        self.absorb()?;
        // The write has un-parked the row; if it changed nothing, the decision still stands and the row is offered again.
        if self.is_parked(&scope, &t, &key)? {
            self.unpark_and_touch(&scope, &t, &key)?;
        }
        Ok(())
    }

    /// Settles a row that was kept apart from the authority's: both are merged, and the decision is a write on top of that.
    fn resolve_apart(&mut self, scope: &Scope, t: &Arc<Table>, key: &Key, conflict: &Conflict, how: &Resolution) -> Result<()> {
        let wanted = match how {
            Resolution::Server => conflict.refusal.server_row.clone(),
            Resolution::Mine => conflict.local.clone(),
            Resolution::Merged(values) => {
                // What is not named stays local; a row that was deleted here is the authority's.
                let mut wanted = conflict.local.clone().or_else(|| conflict.refusal.server_row.clone()).unwrap_or_else(|| t.key_object(key));
                for (name, value) in values {
                    if t.column(name).is_none_or(|c| !t.columns[c].present) && t.key_object(key).get(name) != Some(value) {
                        return Err(Error::Refused(format!("table `{}` has no column `{name}` outside its key", t.def.name)));
                    }
                    wanted.insert(name.clone(), value.clone());
                }
                Some(wanted)
            }
        };
        self.join_apart(scope, t, key)?;
        let row = self.load_complete(scope, t, key)?;
        // What was decided on is what the next refusal is measured by.
        if let Some(server_row) = &conflict.refusal.server_row {
            self.keep_base(scope, t, key, row.version, server_row)?;
        }
        match &wanted {
            Some(values) => self.write_row(scope, t, &row, values, true)?,
            None if row.is_shown() => t.delete(self, scope, key)?,
            None => {}
        }
        self.absorb()?;
        self.unpark_and_touch(scope, t, key)
    }

    /// Settles two rows that got one integer key: the server's stays as it is, mine goes, or comes back under a new key.
    fn resolve_collision(&mut self, t: &Table, key: &Key, local: BTreeMap<String, Value>, how: &Resolution) -> Result<()> {
        let given = match how {
            Resolution::Server => return Ok(()),
            Resolution::Mine => BTreeMap::new(),
            Resolution::Merged(values) => values.clone(),
        };
        let [key_column] = &t.key[..] else { return Err(Error::Damaged("a collision of a key with several columns".into())) };
        let mut values = local;
        for (name, value) in given {
            if name != *key_column && t.column(&name).is_none() {
                return Err(Error::Refused(format!("table `{}` has no column `{name}`", t.def.name)));
            }
            values.insert(name, value);
        }
        // Without a new key in what was given, SQLite draws the next one, as it does for the app.
        if key.decode().ok().as_deref() == values.get(key_column).map(std::slice::from_ref) {
            values.remove(key_column);
        }
        let names: Vec<String> = values.keys().map(|n| quote(n)).collect();
        let marks = vec!["?"; names.len()].join(", ");
        let sql = format!("INSERT OR ABORT INTO {}({}) VALUES({marks})", quote(&t.def.name), names.join(", "));
        let binds: Vec<Bind> = values.values().map(Bind).collect();
        let params: Vec<&dyn ToSql> = binds.iter().map(|b| b as &dyn ToSql).collect();
        match self.conn.execute(&sql, &params[..]).map(drop).doing("inserting the row under a new key") {
            Ok(()) => Ok(()),
            Err(e) => Err(Error::Refused(format!("the row does not fit: {}", Clash::from_error(e)?.message))),
        }
    }

    /// Writes columns of a row into its table as the app would; a row that is not there is inserted with the local values.
    pub(crate) fn write_row(&mut self, scope: &Scope, t: &Table, row: &RowRecord, values: &BTreeMap<String, Value>, key_allowed: bool) -> Result<()> {
        let mut columns: Vec<(usize, Value)> = Vec::new();
        for (name, value) in values {
            if t.key.iter().any(|k| k.eq_ignore_ascii_case(name)) {
                if key_allowed || t.key_object(&row.key).get(name) == Some(value) {
                    continue;
                }
                return Err(Error::Refused(format!("`{name}` is part of the key; insert a new row instead")));
            }
            match t.column(name).filter(|c| t.columns[*c].present) {
                Some(c) => columns.push((c, value.clone())),
                None if key_allowed => continue,
                None => return Err(Error::Refused(format!("table `{}` has no column `{name}`", t.def.name))),
            }
        }
        let done = if row.is_shown() {
            if columns.is_empty() {
                return Ok(());
            }
            let set: Vec<String> = columns.iter().map(|(c, _)| format!("{} = ?", quote(&t.columns[*c].name))).collect();
            let place: Vec<String> = t.key.iter().map(|k| format!("{} = ?", quote(k))).collect();
            let sql = format!("UPDATE OR ABORT {} SET {} WHERE {}", quote(&t.def.name), set.join(", "), place.join(" AND "));
            let key = row.key.decode().doing("reading a key")?;
            let binds: Vec<Bind> = columns.iter().map(|(_, v)| Bind(v)).chain(key.iter().map(Bind)).collect();
            let params: Vec<&dyn ToSql> = binds.iter().map(|b| b as &dyn ToSql).collect();
            self.conn.execute(&sql, &params[..]).map(drop).doing("writing the merged row")
        } else {
            let mut state = row.state.clone();
            let stamp = state.ctx.entries().first().map(|(writer, hlc)| syncline_core::Stamp { hlc: *hlc, writer: *writer }).unwrap_or_default();
            columns.into_iter().for_each(|(c, value)| state.write(c, stamp, value));
            t.insert(self, scope, &row.key, &state)
        };
        match done {
            Ok(()) => Ok(()),
            Err(e) => {
                let clash = Clash::from_error(e)?;
                Err(Error::Refused(format!("the merged row does not fit: {}", clash.message)))
            }
        }
    }

    /// Deletes a shelved row of this device: a fresh write, as any deletion.
    fn end_shelved(&mut self, scope: &Scope, t: &Table, mut row: RowRecord) -> Result<()> {
        let stamp = self.fresh_stamp(&row.state)?;
        row.state.delete(stamp, &t.policies);
        self.unshelve_note(scope, t, &row.key)?;
        self.note_local(scope, t, &mut row, &syncline_core::ColSet::liveness(), false, Seq(0))
    }

    /// Lists what is pending in all scopes, the account's own first, at most `limit`.
    pub fn all_pending(&mut self, limit: usize) -> Result<Vec<Pending>> {
        let mut out = Vec::new();
        for scope in self.scopes()? {
            out.extend(self.pending(&scope, limit - out.len())?);
        }
        Ok(out)
    }

    /// Lists what is pending in a scope, in order of writing, at most `limit`. Rows of one that the account may not write are parked.
    pub fn pending(&mut self, scope: &Scope, limit: usize) -> Result<Vec<Pending>> {
        let found: Vec<(i64, Vec<u8>)> = {
            let mut q = self
                .conn
                .prepare("SELECT tbl, key FROM _syncline_row INDEXED BY _syncline_row_pending WHERE scope = ?1 AND pend IS NOT NULL ORDER BY seq LIMIT ?2")
                .doing("listing what is pending")?;
            q.query_map(rusqlite::params![scope.n, limit as i64], |r| Ok((r.get(0)?, r.get(1)?)))
                .and_then(Iterator::collect)
                .doing("listing what is pending")?
        };
        let barred = self.barred(scope)?;
        let together = self.together(scope, usize::MAX)?;
        let mut out = Vec::new();
        for (table, key) in found {
            let (t, key) = (self.registry()?.get(table)?, Key(key));
            let Some(row) = self.load(scope, &t, &key)? else { continue };
            let mut refusal = self.refusal(scope, &t, &key)?;
            let mut state = if refusal.is_some() || barred.is_some() { "parked" } else { "pending" };
            if refusal.is_none() && together.is_held(&(table, key.clone())) {
                state = "held";
                for (table, key) in together.company(&(table, key.clone())).to_vec() {
                    let t = self.registry()?.get(table)?;
                    if let Some(theirs) = self.refusal(scope, &t, &key)? {
                        let message = format!("written together with a row of table `{}` that the server refused: {}", t.def.name, theirs.message);
                        refusal = Some(Refusal { message, ..theirs });
                        break;
                    }
                }
            }
            out.push(Pending {
                scope_id: scope.id.0.clone(),
                table: t.def.name.clone(),
                key: t.key_object(&key),
                op: operation(&row).into(),
                since: row.state.ctx.max().ms(),
                state: state.into(),
                reason: refusal.as_ref().map(|r| r.reason).or(barred.is_some().then_some(syncline_core::Reason::Forbidden)).map(|r| r.word().to_owned()),
                message: refusal.map(|r| r.message).or_else(|| barred.clone()),
                base_row_version: row.version,
            });
        }
        Ok(out)
    }
}

/// A row that the authority has not confirmed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pending {
    /// Of which scope.
    pub scope_id: String,
    /// Table.
    pub table: String,
    /// Primary key, by column.
    pub key: BTreeMap<String, Value>,
    /// insert, update or delete.
    pub op: String,
    /// When it was last written, in ms since 1970, by this device's clock.
    pub since: i64,
    /// `pending`, `parked`, or `held`: a row that was written together with it is parked.
    pub state: String,
    /// Why it is parked, or the one that it waits for.
    pub reason: Option<String>,
    /// The same in words.
    pub message: Option<String>,
    /// The version that it was written on.
    pub base_row_version: Seq,
}

/// Returns insert, update or delete.
pub fn operation(row: &RowRecord) -> &'static str {
    match (row.state.is_dead(), row.version.0) {
        (true, _) => "delete",
        (false, 0) => "insert",
        _ => "update",
    }
}

pub(crate) fn conflict_id(scope: &Scope, t: &Table, key: &Key) -> String {
    let chain = syncline_core::digest::chain_of(&[scope.id.0.as_bytes(), t.def.name.as_bytes(), &key.0]);
    syncline_core::hex(&chain.0[..8])
}
