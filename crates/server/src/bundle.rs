//! A pushed bundle in a store's terms: tables and columns found by name, and what must hold of any row before it is merged.
//!
//! Pure, and the same for every store: what a device may send does not depend on where its rows are kept.

use crate::api_error::ApiError;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use syncline_core::membership::MAY_NOT_WRITE;
use syncline_core::schema::ScopeRule;
use syncline_core::{
    ColSet, DecodeError, Extra, Hlc, JournalEntry, Key, Limits, Outcome, Policies, Push, Reason, Refusal, RowState, ScopeId, Seq, Stamp, TableDef, Value,
    planted,
};
use syncline_replica::Incoming;

/// A store's table, as far as a bundle has to do with it.
pub trait Synced {
    /// Returns its number.
    fn number(&self) -> i64;
    /// Returns its definition.
    fn def(&self) -> &TableDef;
    /// Returns how many columns its key has.
    fn key_parts(&self) -> usize;
    /// Returns a column's number.
    fn column(&self, name: &str) -> Option<usize>;
    /// Returns a column's name.
    fn column_name(&self, c: usize) -> Option<&str>;
    /// Returns how its columns merge.
    fn policies(&self) -> &Policies;
    /// Returns a key as an object of column and value, for people.
    fn key_object(&self, key: &Key) -> BTreeMap<String, Value>;
    /// Says why no row of this table can have this key here, whatever else is in it.
    fn impossible_key(&self, _key: &Key, _values: &[Value]) -> Option<(Reason, String)> {
        None
    }
}

/// A pushed row.
pub struct Pushed<T> {
    /// Its table.
    pub table: Arc<T>,
    /// What came, in the numbers of this store's columns.
    pub incoming: Incoming,
}

impl<T: Synced> Pushed<T> {
    /// Whether the row was inserted under an INTEGER key that belongs to another row here: two things never become one row.
    pub fn collides(&self, here: &RowState) -> bool {
        let x = &self.incoming;
        x.seq.0 == 0 && self.table.def().integer_key().is_some() && syncline_replica::apply::strangers(here, &x.state, &x.mask)
    }
    /// Says why an edit of a row of a `reject` table was begun on another version than the latest. What the authority has seen
    /// already, or an edit that has seen all that is here, is none: bundles come again after a backup was put back.
    pub fn is_stale(&self, version: Seq, here: &RowState) -> Option<String> {
        let x = &self.incoming;
        let applies = self.table.policies().reject && !planted::on("reject_takes_all");
        if !applies || x.seq == version || x.state.ctx.within(&here.ctx) || here.ctx.within(&x.state.ctx) {
            return None;
        }
        let births = x.state.births();
        if x.seq.0 == 0 && here.gravestone && !births.is_empty() && !births.iter().any(|b| here.ctx.covers(b)) {
            // Of what was collected nobody is told any more: for an insert there is no row, and no version to begin on.
            return None;
        }
        Some(format!("another device changed this row (version {version}) after this edit was begun on version {}", x.seq))
    }
    /// Whether columns were left out of a row of which not even a tombstone's image is here.
    pub fn is_incomplete(&self, has_image: bool) -> bool {
        self.incoming.partial && !has_image && !planted::on("partial_taken")
    }
    /// Whether a merged state is exactly what was sent, in all that was sent.
    pub fn is_as_sent(&self, state: &RowState) -> bool {
        let x = &self.incoming;
        state.ctx == x.state.ctx && state.ground == x.state.ground && state.live == x.state.live && x.mask.columns().all(|c| state.cell_eq(&x.state, c))
    }
}

/// What a bundle is in a store's terms.
pub enum Translated<T> {
    /// Rows that may be merged.
    Rows(Vec<Pushed<T>>),
    /// Rows that cannot stand whatever is here.
    Refused(Refusals<T>),
}

/// Refuses what is no bundle.
pub fn check_limits(push: &Push, limits: &Limits) -> Result<(), ApiError> {
    let rows = &push.rows;
    if rows.rows.len() > limits.bundle_rows * 2 {
        return Err(ApiError::TooLarge(format!("a bundle of {} rows is above the limit of {}", rows.rows.len(), limits.bundle_rows)));
    }
    if rows.rows.is_empty() {
        return Err(ApiError::BadRequest("a bundle without rows".into()));
    }
    Ok(())
}

/// Finds tables and columns by name and checks what must hold of any row before it is merged.
pub fn translate<T: Synced>(push: &Push, limits: &Limits, now_ms: i64, find: impl Fn(&str) -> Option<Arc<T>>) -> Result<Translated<T>, ApiError> {
    // A second more than devices are told: what they date anew to the very limit must pass.
    let latest = Hlc::from_ms(now_ms.saturating_add(limits.clock_ahead_ms + 1_000));
    let mut out = Vec::with_capacity(push.rows.rows.len());
    let mut refused = Refusals::new(limits);
    let mut maps = Vec::with_capacity(push.rows.tables.len());
    for named in &push.rows.tables {
        let table = find(&named.name);
        let map: Option<Vec<Option<usize>>> = table.as_ref().map(|t| named.columns.iter().map(|c| t.column(c)).collect());
        maps.push(table.zip(map));
    }
    let mut seen = HashSet::new();
    for row in &push.rows.rows {
        let bad = |e: DecodeError| ApiError::BadRequest(format!("a row of the bundle: {e}"));
        let Some((table, map)) = maps.get(row.table as usize).ok_or(DecodeError::Malformed("table number")).map_err(bad)? else {
            let name = &push.rows.tables[row.table as usize].name;
            return Err(ApiError::SchemaBehind(format!("the server has no table `{name}`; `syncline schema push` takes it there")));
        };
        let key = row.key.decode().map_err(bad)?;
        if key.len() != table.key_parts() || key.contains(&Value::Null) {
            return Err(ApiError::BadRequest(format!("a key of table `{}` has {} parts, none of them NULL", table.def().name, table.key_parts())));
        }
        if !seen.insert((table.number(), row.key.clone())) {
            return Err(ApiError::BadRequest(format!("a row of table `{}` is in the bundle twice", table.def().name)));
        }
        if row.state.len() > limits.row_bytes {
            // Not decoded: a list of stamps takes many times its bytes. Its op is told from the version alone.
            let state = RowState::inserted(Stamp::default(), vec![]);
            let incoming = Incoming { key: row.key.clone(), state, mask: ColSet::liveness(), partial: false, seq: row.seq, created: Seq(0) };
            let message = format!("the row's history has {} bytes; the server takes at most {}", row.state.len(), limits.row_bytes);
            refused.add(&Pushed { table: table.clone(), incoming }, Reason::TooLarge, message);
            continue;
        }
        let decoded = push.rows.open(row).map_err(bad)?;
        check_state(&decoded.state, latest, now_ms)?;
        let mut mask = ColSet::liveness();
        let mut state = decoded.state.without_columns();
        let mut unknown = None;
        for c in decoded.present.columns() {
            let cell = decoded.state.cell(c);
            if cell.is_some_and(|x| !decoded.state.ctx.covers(&x.stamp)) {
                return Err(ApiError::BadRequest("a row whose context does not cover its own values".into()));
            }
            match map[c] {
                Some(to) => {
                    state.take_column(to, &decoded.state, c);
                    mask.insert(to);
                }
                None => unknown = Some(push.rows.tables[row.table as usize].columns[c].clone()),
            }
        }
        let incoming = Incoming { key: row.key.clone(), state, mask, partial: decoded.partial, seq: row.seq, created: Seq(0) };
        let pushed = Pushed { table: table.clone(), incoming };
        let size = row.key.0.len() + row.values.iter().map(Value::size).sum::<usize>();
        if size > limits.row_bytes {
            refused.add(&pushed, Reason::TooLarge, format!("the row has {size} bytes; the server takes at most {}", limits.row_bytes));
        } else if let Some(why) = misfit(&pushed) {
            refused.add(&pushed, Reason::Type, why);
        } else if let Some(column) = unknown {
            let message = format!("the server does not know the column `{column}` yet; `syncline schema push` takes it there");
            refused.add(&pushed, Reason::Rule, message);
        } else if let Some((reason, why)) = table.impossible_key(&row.key, &key) {
            refused.add(&pushed, reason, why);
        }
        out.push(pushed);
    }
    Ok(if refused.total == 0 { Translated::Rows(out) } else { Translated::Refused(refused) })
}

/// Refuses states that no honest device sends, and those from the future.
fn check_state(state: &RowState, latest: Hlc, now_ms: i64) -> Result<(), ApiError> {
    let newest = newest(state);
    if newest > latest && !planted::on("future_stamps_taken") {
        return Err(ApiError::ClockAhead(format!(
            "the device's clock is ahead: a change is dated {} ms after the server's now; the device dates it anew and sends it again",
            newest.ms() - now_ms
        )));
    }
    if state.gravestone || !state.live.iter().all(|d| state.ctx.covers(&d.stamp)) {
        return Err(ApiError::BadRequest("a row whose context does not cover its own writes".into()));
    }
    for (_, extra) in &state.extras {
        let mut covered = true;
        extra.stamps(&mut |s| covered &= state.ctx.covers(s) || state.ground.covers(s));
        if !covered {
            return Err(ApiError::BadRequest("a row whose context does not cover what its columns keep".into()));
        }
        if let Extra::Text(lives) = extra
            && lives.iter().any(|l| syncline_core::text::read(l.seed.as_str().unwrap_or_default(), &l.edits).is_none())
        {
            return Err(ApiError::BadRequest("an edit of a text that does not read as one".into()));
        }
    }
    Ok(())
}

/// Finds the first value that its column's policy does not take.
fn misfit<T: Synced>(pushed: &Pushed<T>) -> Option<String> {
    pushed.incoming.mask.columns().find_map(|c| {
        let why = pushed.table.policies().column(c).misfit(&pushed.incoming.state.cell(c)?.value)?;
        Some(format!("column `{}`: {why}", pushed.table.column_name(c)?))
    })
}

/// Returns the latest time in a state. All of it, although an honest context covers the rest: a ground from the future would
/// keep a key dead for ever.
fn newest(state: &RowState) -> Hlc {
    let births = state.live.iter().flat_map(|d| &d.births).map(|b| b.hlc).max().unwrap_or_default();
    state.ctx.max().max(state.ground.max()).max(births)
}

/// Returns what of a bundle's journal is taken in. What does not read as an entry is left out: the journal is never in the way.
pub fn journal_of(push: &Push, limits: &Limits, now_ms: i64) -> Vec<JournalEntry> {
    let latest = Hlc::from_ms(now_ms.saturating_add(limits.clock_ahead_ms + 1_000));
    let mut room = limits.row_bytes;
    let mut taken = Vec::new();
    for entry in push.journal.iter().take(1_000) {
        let size = entry.lost.size() + entry.won.size() + entry.key.0.len() + entry.table.len() + entry.column.len();
        let reason = ["superseded", "row_ended", "type"].contains(&entry.reason.as_str());
        if size > room || entry.hlc > latest || !reason {
            continue;
        }
        room -= size;
        taken.push(JournalEntry { at: entry.at.clamp(0, now_ms), ..entry.clone() });
    }
    taken
}

/// A refused row's place at the authority.
pub struct Here {
    /// Its `row_version`; 0 if there is none.
    pub version: Seq,
    /// Whether it is deleted.
    pub deleted: bool,
    /// The row, if it is in its table.
    pub row: Option<BTreeMap<String, Value>>,
}

/// Refuses all rows of a bundle: its account may only read the scope.
pub fn of_a_reader<T: Synced>(rows: &[Pushed<T>], limits: &Limits) -> Refusals<T> {
    let mut refused = Refusals::new(limits);
    rows.iter().for_each(|row| refused.add(row, Reason::Forbidden, MAY_NOT_WRITE.into()));
    refused
}

/// Says why a row may not be in a scope, if its column names another; `is_own` says that the scope is an account's own, where rows
/// that name none are.
pub fn misplaced<T: Synced>(row: &Pushed<T>, scope: &ScopeId, is_own: bool) -> Option<String> {
    let (table, x) = (&row.table, &row.incoming);
    let ScopeRule::Column(column) = &table.def().options.scope else { return None };
    if x.state.is_dead() {
        return None;
    }
    let key = table.def().primary_key.iter().position(|p| p.column.as_deref().is_some_and(|k| k.eq_ignore_ascii_case(column)));
    let says = match key {
        Some(i) => x.key.decode().ok()?.get(i).cloned()?,
        // A column that did not come is as it was.
        None => table.column(column).filter(|c| x.mask.contains(*c)).and_then(|c| x.state.cell(c)).map(|c| c.value.clone())?,
    };
    let named = match says {
        Value::Int(n) => n.to_string(),
        Value::Text(bytes) => String::from_utf8(bytes).unwrap_or_default(),
        _ => String::new(),
    };
    let name = &table.def().name;
    match named {
        named if named == scope.0 => None,
        named if !named.is_empty() => Some(format!("column {column} of table {name} names another scope than the row is in")),
        _ if is_own => None,
        _ => Some(format!("column {column} of table {name} names no scope, and the row is in one that is shared")),
    }
}

/// Refused rows: named up to a number and a page's worth of bytes, since each may bring a large row of this server's; the
/// others are counted. The device parks the named and sends the rest.
pub struct Refusals<T> {
    rows: Vec<(Pushed<T>, Reason, String)>,
    /// How many there are.
    pub total: u64,
    most: usize,
    room: usize,
}

impl<T: Synced> Refusals<T> {
    /// Returns none.
    pub fn new(limits: &Limits) -> Refusals<T> {
        Refusals { rows: Vec::new(), total: 0, most: limits.refusals, room: limits.page_bytes }
    }
    /// Adds one.
    pub fn add(&mut self, pushed: &Pushed<T>, reason: Reason, message: String) {
        self.total += 1;
        if self.rows.len() < self.most {
            self.rows.push((Pushed { table: pushed.table.clone(), incoming: pushed.incoming.clone() }, reason, message));
        }
    }
    /// Lists the rows that are named.
    pub fn pushed(&self) -> impl Iterator<Item = &Pushed<T>> {
        self.rows.iter().map(|r| &r.0)
    }
    /// Returns the outcome, with the rows as they are here.
    pub fn outcome<E>(self, mut here: impl FnMut(&Pushed<T>) -> Result<Here, E>) -> Result<Outcome, E> {
        let mut room = self.room;
        let mut rows = Vec::with_capacity(self.rows.len());
        for (pushed, reason, message) in self.rows {
            if room == 0 {
                break;
            }
            let row = refusal(&pushed, here(&pushed)?, reason, message);
            let bytes: usize = row.server_row.iter().flat_map(|r| r.values()).chain(row.key.values()).map(Value::size).sum();
            room = room.saturating_sub(bytes);
            rows.push(row);
        }
        Ok(Outcome::Rejected { rows, total: self.total })
    }
}

fn refusal<T: Synced>(pushed: &Pushed<T>, here: Here, reason: Reason, message: String) -> Refusal {
    let x = &pushed.incoming;
    let op = match (x.state.is_dead(), x.seq.0) {
        (true, _) => "delete",
        (false, 0) => "insert",
        (false, _) => "update",
    };
    Refusal {
        schema: "main".into(),
        table: pushed.table.def().name.clone(),
        key: pushed.table.key_object(&x.key),
        op: op.into(),
        base_row_version: x.seq,
        server_row_version: here.version,
        server_row_deleted: here.deleted,
        server_row: here.row,
        reason,
        message,
    }
}
