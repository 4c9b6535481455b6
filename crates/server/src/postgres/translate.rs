//! A pushed bundle in this store's terms: tables and columns found by name, and what must hold of any row before it is merged.

use crate::api_error::ApiError;
use crate::commit::check_entries;
use crate::postgres::registry::{Registry, Table};
use crate::postgres::rows::Records;
use std::collections::HashSet;
use std::sync::Arc;
use syncline_core::{ColSet, DecodeError, Hlc, Key, Limits, Outcome, Push, Reason, Refusal, RowState, Seq, Stamp, Value};

/// An entry of PostgreSQL's indexes has at most 2,704 bytes, and the scope's name, up to 200, goes first.
pub const KEY_BYTES_MAX: usize = 2_000;

/// A pushed row.
#[derive(Clone)]
pub struct Pushed {
    /// Its table.
    pub table: Arc<Table>,
    /// Its key.
    pub key: Key,
    /// Its state.
    pub state: RowState,
    /// Liveness and the columns that it carries.
    pub mask: ColSet,
    /// Whether columns were left out.
    pub partial: bool,
    /// `base_row_version`.
    pub seq: Seq,
}

impl Pushed {
    /// Returns table and key.
    pub fn place(&self) -> (i32, Key) {
        (self.table.n, self.key.clone())
    }
    /// Whether a merged state is exactly what was sent, in all that was sent.
    pub fn is_as_sent(&self, state: &RowState) -> bool {
        let x = &self.state;
        state.ctx == x.ctx && state.ground == x.ground && state.live == x.live && self.mask.columns().all(|c| state.cell_eq(x, c))
    }
}

/// What a bundle is in this store's terms.
pub enum Translated {
    /// Rows that may be merged.
    Rows(Vec<Pushed>),
    /// Rows that cannot stand whatever is here.
    Refused(Refusals),
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
pub fn translate(registry: &Registry, push: &Push, limits: &Limits, now_ms: i64) -> Result<Translated, ApiError> {
    // A second more than devices are told: what they date anew to the very limit must pass.
    let latest = Hlc::from_ms(now_ms.saturating_add(limits.clock_ahead_ms + 1_000));
    let mut out = Vec::with_capacity(push.rows.rows.len());
    let mut refused = Refusals::new(limits);
    let mut maps = Vec::with_capacity(push.rows.tables.len());
    for named in &push.rows.tables {
        let table = registry.find(&named.name);
        let map: Option<Vec<Option<usize>>> = table.as_ref().map(|t| named.columns.iter().map(|c| t.column(c)).collect());
        maps.push((table, map));
    }
    let mut seen = HashSet::new();
    for row in &push.rows.rows {
        let bad = |e: DecodeError| ApiError::BadRequest(format!("a row of the bundle: {e}"));
        let (table, map) = maps.get(row.table as usize).ok_or(DecodeError::Malformed("table number")).map_err(bad)?;
        let (Some(table), Some(map)) = (table, map) else {
            let name = &push.rows.tables[row.table as usize].name;
            return Err(ApiError::SchemaBehind(format!("the server has no table `{name}`; attach again with a new token, that takes the schema to it")));
        };
        let key = row.key.decode().map_err(bad)?;
        if key.len() != table.key.len() || key.contains(&Value::Null) {
            return Err(ApiError::BadRequest(format!("a key of table `{}` has {} parts, none of them NULL", table.def.name, table.key.len())));
        }
        if !seen.insert((table.n, row.key.clone())) {
            return Err(ApiError::BadRequest(format!("a row of table `{}` is in the bundle twice", table.def.name)));
        }
        if row.state.len() > limits.row_bytes {
            // Not decoded: a list of stamps takes many times its bytes. Its op is told from the version alone.
            let state = RowState::inserted(Stamp::default(), vec![]);
            let pushed = Pushed { table: table.clone(), key: row.key.clone(), state, mask: ColSet::liveness(), partial: false, seq: row.seq };
            refused.add(&pushed, Reason::TooLarge, format!("the row's history has {} bytes; the server takes at most {}", row.state.len(), limits.row_bytes));
            continue;
        }
        let decoded = push.rows.open(row).map_err(bad)?;
        let newest = newest(&decoded.state);
        if newest > latest {
            return Err(ApiError::ClockAhead(format!(
                "the device's clock is ahead: a change is dated {} ms after the server's now; the device dates it anew and sends it again",
                newest.ms() - now_ms
            )));
        }
        if decoded.state.gravestone || !decoded.state.live.iter().all(|d| decoded.state.ctx.covers(&d.stamp)) {
            return Err(ApiError::BadRequest("a row whose context does not cover its own writes".into()));
        }
        check_entries(&decoded.state).map_err(ApiError::BadRequest)?;
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
        let pushed = Pushed { table: table.clone(), key: row.key.clone(), state, mask, partial: decoded.partial, seq: row.seq };
        let size = row.key.0.len() + row.values.iter().map(Value::size).sum::<usize>();
        if size > limits.row_bytes {
            refused.add(&pushed, Reason::TooLarge, format!("the row has {size} bytes; the server takes at most {}", limits.row_bytes));
        } else if let Some(why) = misfit(table, &pushed) {
            refused.add(&pushed, Reason::Type, why);
        } else if let Some(column) = unknown {
            let message = format!("the server does not know the column `{column}` yet; attach again with a new token, that takes the schema to it");
            refused.add(&pushed, Reason::Rule, message);
        } else if row.key.0.len() > KEY_BYTES_MAX {
            let message = format!("the key has {} bytes; a server on PostgreSQL takes at most {KEY_BYTES_MAX}", row.key.0.len());
            refused.add(&pushed, Reason::TooLarge, message);
        } else if let Some(why) = impossible_key(table, &key) {
            refused.add(&pushed, Reason::Type, why);
        }
        out.push(pushed);
    }
    Ok(if refused.total == 0 { Translated::Rows(out) } else { Translated::Refused(refused) })
}

/// Finds the first value that its column's policy does not take.
fn misfit(t: &Table, x: &Pushed) -> Option<String> {
    x.mask.columns().find_map(|c| {
        let why = t.policies.column(c).misfit(&x.state.cell(c)?.value)?;
        Some(format!("column `{}`: {why}", t.columns.get(c)?.name))
    })
}

/// Why no row of this table can have this key here.
fn impossible_key(table: &Table, key: &[Value]) -> Option<String> {
    let parts = table.key_types.iter().zip(key).zip(&table.key);
    parts.filter_map(|((of, value), name)| of.cell(value).err().map(|why| format!("column {}.{name}: {why}", table.def.name))).next()
}

/// Returns the latest time in a state. All of it, although an honest context covers the rest: a ground from the future would
/// keep a key dead for ever.
fn newest(state: &RowState) -> Hlc {
    let births = state.live.iter().flat_map(|d| &d.births).map(|b| b.hlc).max().unwrap_or_default();
    state.ctx.max().max(state.ground.max()).max(births)
}

/// Refused rows: named up to a number and a page's worth of bytes, since each may bring a large row of this server's; the
/// others are counted. The device parks the named and sends the rest.
pub struct Refusals {
    rows: Vec<(Pushed, Reason, String)>,
    /// How many there are.
    pub total: u64,
    most: usize,
    room: usize,
}

impl Refusals {
    /// Returns none.
    pub fn new(limits: &Limits) -> Refusals {
        Refusals { rows: Vec::new(), total: 0, most: limits.refusals, room: limits.page_bytes }
    }
    /// Adds one.
    pub fn add(&mut self, pushed: &Pushed, reason: Reason, message: String) {
        self.total += 1;
        if self.rows.len() < self.most {
            self.rows.push((pushed.clone(), reason, message));
        }
    }
    /// Lists the rows that are named.
    pub fn pushed(&self) -> impl Iterator<Item = &Pushed> {
        self.rows.iter().map(|r| &r.0)
    }
    /// Returns the outcome, with the rows as they are here.
    pub fn outcome(self, here: &Records) -> Outcome {
        let mut room = self.room;
        let mut rows = Vec::with_capacity(self.rows.len());
        for (pushed, reason, message) in self.rows {
            if room == 0 {
                break;
            }
            let row = refusal(&pushed, here, reason, message);
            let bytes: usize = row.server_row.iter().flat_map(|r| r.values()).chain(row.key.values()).map(Value::size).sum();
            room = room.saturating_sub(bytes);
            rows.push(row);
        }
        Outcome::Rejected { rows, total: self.total }
    }
}

fn refusal(pushed: &Pushed, here: &Records, reason: Reason, message: String) -> Refusal {
    let t = &pushed.table;
    let here = here.get(&pushed.place());
    let op = match (pushed.state.is_dead(), pushed.seq.0) {
        (true, _) => "delete",
        (false, 0) => "insert",
        (false, _) => "update",
    };
    Refusal {
        schema: "main".into(),
        table: t.def.name.clone(),
        key: t.key_object(&pushed.key),
        op: op.into(),
        base_row_version: pushed.seq,
        server_row_version: here.map_or(Seq(0), |r| r.seq),
        server_row_deleted: here.is_some_and(|r| r.state.is_dead()),
        server_row: here.filter(|r| r.is_shown()).map(|r| t.row_object(&pushed.key, &r.state)),
        reason,
        message,
    }
}
