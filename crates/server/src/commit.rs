//! Commit: a pushed bundle becomes rows of the business tables, all or nothing (docs/protocol.md, "Push").
//!
//! Everything here runs inside one write transaction; the engine answers only after that is durable. The fast path merges and
//! writes row by row and needs no savepoint of its own. Only if a constraint objects, a second pass finds every offender,
//! so that the device can park those and send the rest in the same sync.

use crate::api_error::ApiError;
use rusqlite::{OptionalExtension, params};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use syncline_core::digest::{chain_of, first_chain};
use syncline_core::schema::Action;
use syncline_core::{
    Acked, BundleId, Chain, ColSet, DeviceId, Extra, Hlc, Key, Limits, Nonce, Outcome, Push, Reason, Refusal, RowState, Seq, SourceId, Stamp, planted,
};
use syncline_replica::apply::strangers;
use syncline_replica::{Absorbed, Clash, Doing, Error, Incoming, Kind, RowRecord, Scope, Table, Tx, number};

/// A push that was looked at. An answer can be built from nothing else.
#[must_use]
pub struct Receipt {
    /// What to tell the device.
    pub outcome: Outcome,
    /// If a bundle was committed just now: its seq, and the rows that are not exactly as sent.
    pub fresh: Option<(Seq, HashSet<(i64, Key)>)>,
    /// Every scope that moved, with its new head.
    pub moved: Vec<(Scope, Seq)>,
}

/// How often the second pass may find new offenders before it calls all that remain offenders.
const PASSES_MAX: usize = 24;

/// Looks at a push and commits it if it can stand.
pub fn commit(tx: &mut Tx, scope: &Scope, device: DeviceId, source: SourceId, push: &Push, limits: &Limits) -> Result<Receipt, ApiError> {
    let nothing = |outcome| Receipt { outcome, fresh: None, moved: vec![] };
    let known: Option<(i64, i64)> = tx
        .conn
        .prepare_cached("SELECT watermark, attempt FROM _syncline_source WHERE scope = ?1 AND source = ?2")
        .and_then(|mut q| q.query_row(params![scope.n, &source.0[..]], |r| Ok((r.get(0)?, r.get(1)?))).optional())
        .doing("reading a source")?;
    let (watermark, attempt) = known.map_or((0, 0), |(w, a)| (w as u64, a as u64));
    if push.id.0 == 0 {
        return Err(ApiError::BadRequest("bundles are numbered from 1".into()));
    }
    if push.id.0 <= watermark && !planted::on("replay_committed_twice") {
        let recorded = find_bundle(tx, scope, source, push.id)?.ok_or_else(|| ApiError::Internal("a bundle below the watermark is not in the log".into()))?;
        return Ok(nothing(Outcome::Committed(recorded)));
    }
    if push.id.0 > watermark + 1 {
        return Ok(nothing(Outcome::Gap));
    }
    if push.attempt < attempt && !planted::on("old_attempt_taken") {
        return Ok(nothing(Outcome::StaleAttempt));
    }
    note_source(tx, scope, source, device, watermark, push.attempt)?;
    check_limits(push, limits)?;

    let rows = match translate(tx, scope, push, limits)? {
        Translated::Rows(rows) => rows,
        Translated::Refused(rows) => return Ok(nothing(rows.outcome())),
    };
    let collided = collisions(tx, scope, &rows, limits)?;
    if collided.total > 0 {
        return Ok(nothing(collided.outcome()));
    }
    let stale = stale(tx, scope, &rows, limits)?;
    if stale.total > 0 {
        return Ok(nothing(stale.outcome()));
    }
    let incomplete = incomplete(tx, scope, &rows)?;
    if !incomplete.is_empty() {
        return Ok(nothing(Outcome::Incomplete(incomplete)));
    }
    let seq = tx.head(scope.n)?.next();
    let written = match tx.savepoint(|tx| write_all(tx, scope, seq, &rows)) {
        Ok(written) => written,
        Err(Failure::Clash) => match tx.savepoint(|tx| write_what_stands(tx, scope, seq, &rows, limits)) {
            Ok(written) => written,
            Err(Failure::Refused(refused)) => return Ok(nothing(refused.outcome())),
            Err(Failure::Clash) => return Err(ApiError::Internal("a clash that nothing explains".into())),
            Err(Failure::Error(e)) => return Err(e.into()),
        },
        Err(Failure::Refused(refused)) => return Ok(nothing(refused.outcome())),
        Err(Failure::Error(e)) => return Err(e.into()),
    };
    take_journal(tx, scope, seq, push, limits)?;
    let mut altered = written.altered;
    let mut by_scope: HashMap<i64, Vec<(i64, Key)>> = HashMap::new();
    for (scope, table, key) in written.captured.changed {
        altered.insert((table, key.clone()));
        by_scope.entry(scope).or_default().push((table, key));
    }
    let count = rows.len() as u64;
    append_bundle(tx, scope, seq, source, push.id, push.nonce, Some(device), count, written.hash)?;
    note_source(tx, scope, source, device, push.id.0, 0)?;
    let mut moved = vec![(scope.clone(), seq)];
    // A business trigger may have written rows of other scopes: those get bundles of the authority's own.
    for (other, changed) in by_scope.into_iter().filter(|(n, _)| *n != scope.n) {
        let other = tx.scope(other)?;
        let seq = append_own(tx, &other, changed.len() as u64)?;
        moved.push((other, seq));
    }
    let outcome = Outcome::Committed(Acked { source, id: push.id, nonce: push.nonce, seq });
    Ok(Receipt { outcome, fresh: Some((seq, altered)), moved })
}

/// Takes in what the device saw lose. What does not read as an entry is left out: the journal is never in the way.
fn take_journal(tx: &mut Tx, scope: &Scope, seq: Seq, push: &Push, limits: &Limits) -> Result<(), Error> {
    let now = tx.env.now_ms;
    let latest = Hlc::from_ms(now.saturating_add(limits.clock_ahead_ms + 1_000));
    let mut room = limits.row_bytes;
    let mut taken = Vec::new();
    for entry in push.journal.iter().take(1_000) {
        let size = entry.lost.size() + entry.won.size() + entry.key.0.len() + entry.table.len() + entry.column.len();
        let reason = ["superseded", "row_ended", "type"].contains(&entry.reason.as_str());
        if size > room || entry.hlc > latest || !reason {
            continue;
        }
        room -= size;
        taken.push(syncline_core::JournalEntry { at: entry.at.clamp(0, now), ..entry.clone() });
    }
    tx.take_journal(scope, &taken, seq)
}

/// Absorbs what others wrote straight into the business tables, as bundles of the authority's own. Comes before every commit and answer.
pub fn absorb_foreign(tx: &mut Tx) -> Result<Vec<(Scope, Seq)>, Error> {
    let mut absorbed = Absorbed::default();
    tx.absorb_log(&mut absorbed)?;
    let mut count: HashMap<i64, u64> = HashMap::new();
    for (scope, _, _) in &absorbed.changed {
        *count.entry(*scope).or_default() += 1;
    }
    let mut moved = Vec::new();
    for (scope, rows) in count {
        let scope = tx.scope(scope)?;
        let seq = append_own(tx, &scope, rows)?;
        moved.push((scope, seq));
    }
    moved.sort_by_key(|m| m.0.n);
    Ok(moved)
}

fn append_own(tx: &mut Tx, scope: &Scope, rows: u64) -> Result<Seq, Error> {
    let source = match tx.meta::<[u8; 16]>("source_id")? {
        Some(id) => SourceId(id),
        None => {
            let id = tx.env.id(SourceId::from_random);
            tx.set_meta("source_id", &id.0[..])?;
            id
        }
    };
    let last: i64 = tx
        .conn
        .query_row("SELECT coalesce(max(id), 0) FROM _syncline_bundle WHERE scope = ?1 AND source = ?2", params![scope.n, &source.0[..]], |r| r.get(0))
        .doing("numbering a bundle of the authority")?;
    let seq = tx.head(scope.n)?.next();
    let nonce = Nonce(tx.env.nonce());
    append_bundle(tx, scope, seq, source, BundleId(last as u64 + 1), nonce, None, rows, nonce.0)?;
    Ok(seq)
}

#[allow(clippy::too_many_arguments)]
fn append_bundle(
    tx: &mut Tx,
    scope: &Scope,
    seq: Seq,
    source: SourceId,
    id: BundleId,
    nonce: Nonce,
    device: Option<DeviceId>,
    rows: u64,
    hash: u64,
) -> Result<(), Error> {
    let before = chain_at(tx, scope, Seq(seq.0 - 1))?.ok_or_else(|| Error::Damaged("the chain has a gap".into()))?;
    let chain = chain_of(&[&before.0, &source.0, &id.0.to_be_bytes(), &nonce.0.to_be_bytes(), &hash.to_be_bytes()]);
    tx.conn
        .prepare_cached("INSERT INTO _syncline_bundle(scope, seq, source, id, nonce, device, at, row_count, chain) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")
        .and_then(|mut q| {
            q.execute(params![
                scope.n,
                seq.0 as i64,
                &source.0[..],
                id.0 as i64,
                nonce.0 as i64,
                device.map(|d| d.0.to_vec()),
                tx.env.now_ms,
                rows as i64,
                &chain.0[..]
            ])
        })
        .doing("appending to the bundle log")?;
    tx.set_head(scope.n, seq);
    Ok(())
}

/// Returns the chain after a bundle; `None` if there is none.
pub fn chain_at(tx: &Tx, scope: &Scope, seq: Seq) -> Result<Option<Chain>, Error> {
    if seq.0 == 0 {
        return Ok(Some(first_chain(&scope.id)));
    }
    tx.conn
        .prepare_cached("SELECT chain FROM _syncline_bundle WHERE scope = ?1 AND seq = ?2")
        .and_then(|mut q| q.query_row(params![scope.n, seq.0 as i64], |r| r.get(0)).optional())
        .map(|c: Option<[u8; 16]>| c.map(Chain))
        .doing("reading the chain")
}

/// Returns what was committed under a name.
pub fn find_bundle(tx: &Tx, scope: &Scope, source: SourceId, id: BundleId) -> Result<Option<Acked>, Error> {
    tx.conn
        .prepare_cached("SELECT nonce, seq FROM _syncline_bundle WHERE scope = ?1 AND source = ?2 AND id = ?3")
        .and_then(|mut q| {
            q.query_row(params![scope.n, &source.0[..], id.0 as i64], |r| {
                Ok(Acked { source, id, nonce: Nonce(r.get::<_, i64>(0)? as u64), seq: Seq(r.get::<_, i64>(1)? as u64) })
            })
            .optional()
        })
        .doing("reading the bundle log")
}

/// Returns a source's last bundle.
pub fn watermark(tx: &Tx, scope: &Scope, source: SourceId) -> Result<Option<Acked>, Error> {
    let id: Option<i64> = tx
        .conn
        .prepare_cached("SELECT watermark FROM _syncline_source WHERE scope = ?1 AND source = ?2")
        .and_then(|mut q| q.query_row(params![scope.n, &source.0[..]], |r| r.get(0)).optional())
        .doing("reading a source")?;
    match id {
        Some(id) if id > 0 => find_bundle(tx, scope, source, BundleId(id as u64)),
        _ => Ok(None),
    }
}

fn note_source(tx: &Tx, scope: &Scope, source: SourceId, device: DeviceId, watermark: u64, attempt: u64) -> Result<(), Error> {
    tx.conn
        .prepare_cached(
            "INSERT INTO _syncline_source(scope, source, device, watermark, attempt) VALUES(?1, ?2, ?3, ?4, ?5)
             ON CONFLICT(scope, source) DO UPDATE SET watermark = excluded.watermark, attempt = excluded.attempt",
        )
        .and_then(|mut q| q.execute(params![scope.n, &source.0[..], &device.0[..], watermark as i64, attempt as i64]))
        .doing("noting a source")?;
    Ok(())
}

fn check_limits(push: &Push, limits: &Limits) -> Result<(), ApiError> {
    let rows = &push.rows;
    if rows.rows.len() > limits.bundle_rows * 2 {
        return Err(ApiError::TooLarge(format!("a bundle of {} rows is above the limit of {}", rows.rows.len(), limits.bundle_rows)));
    }
    if rows.rows.is_empty() {
        return Err(ApiError::BadRequest("a bundle without rows".into()));
    }
    Ok(())
}

/// A pushed row in the authority's terms.
struct Pushed {
    table: Arc<Table>,
    incoming: Incoming,
}

enum Translated {
    Rows(Vec<Pushed>),
    Refused(Refusals),
}

/// Finds tables and columns by name and checks what must hold of any row before it is merged.
fn translate(tx: &mut Tx, scope: &Scope, push: &Push, limits: &Limits) -> Result<Translated, ApiError> {
    let registry = tx.registry()?;
    // A second more than devices are told: what they date anew to the very limit must pass.
    let latest = Hlc::from_ms(tx.env.now_ms.saturating_add(limits.clock_ahead_ms + 1_000));
    let mut out = Vec::with_capacity(push.rows.rows.len());
    let mut refused = Refusals::new(limits);
    let mut maps = Vec::with_capacity(push.rows.tables.len());
    for named in &push.rows.tables {
        let table = registry.find(&named.name).filter(|t| t.present);
        let map: Option<Vec<Option<usize>>> = table.as_ref().map(|t| named.columns.iter().map(|c| t.column(c)).collect());
        maps.push((table, map));
    }
    let mut seen = HashSet::new();
    for row in &push.rows.rows {
        let bad = |e: syncline_core::DecodeError| ApiError::BadRequest(format!("a row of the bundle: {e}"));
        let (table, map) = maps.get(row.table as usize).ok_or(syncline_core::DecodeError::Malformed("table number")).map_err(bad)?;
        let (Some(table), Some(map)) = (table, map) else {
            let name = &push.rows.tables[row.table as usize].name;
            return Err(ApiError::SchemaBehind(format!("the server has no table `{name}`; `syncline schema push` takes it there")));
        };
        let key = row.key.decode().map_err(bad)?;
        if key.len() != table.key.len() || key.contains(&syncline_core::Value::Null) {
            return Err(ApiError::BadRequest(format!("a key of table `{}` has {} parts, none of them NULL", table.def.name, table.key.len())));
        }
        if !seen.insert((table.n, row.key.clone())) {
            return Err(ApiError::BadRequest(format!("a row of table `{}` is in the bundle twice", table.def.name)));
        }
        if row.state.len() > limits.row_bytes {
            // Not decoded: a list of stamps takes many times its bytes. Its op is told from the version alone.
            let state = RowState::inserted(Stamp::default(), vec![]);
            let incoming = Incoming { key: row.key.clone(), state, mask: ColSet::liveness(), partial: false, seq: row.seq, created: Seq(0) };
            let message = format!("the row's history has {} bytes; the server takes at most {}", row.state.len(), limits.row_bytes);
            refused.add(tx, scope, &Pushed { table: table.clone(), incoming }, Reason::TooLarge, message)?;
            continue;
        }
        let decoded = push.rows.open(row).map_err(bad)?;
        let newest = newest(&decoded.state);
        if newest > latest && !planted::on("future_stamps_taken") {
            return Err(ApiError::ClockAhead(format!(
                "the device's clock is ahead: a change is dated {} ms after the server's now; the device dates it anew and sends it again",
                newest.ms() - tx.env.now_ms
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
        let pushed =
            Pushed { table: table.clone(), incoming: Incoming { key: row.key.clone(), state, mask, partial: decoded.partial, seq: row.seq, created: Seq(0) } };
        let size = row.key.0.len() + row.values.iter().map(syncline_core::Value::size).sum::<usize>();
        if size > limits.row_bytes {
            let message = format!("the row has {size} bytes; the server takes at most {}", limits.row_bytes);
            refused.add(tx, scope, &pushed, Reason::TooLarge, message)?;
        } else if let Some(why) = misfit(table, &pushed.incoming) {
            refused.add(tx, scope, &pushed, Reason::Type, why)?;
        } else if let Some(column) = unknown {
            let message = format!("the server does not know the column `{column}` yet; `syncline schema push` takes it there");
            refused.add(tx, scope, &pushed, Reason::Rule, message)?;
        }
        out.push(pushed);
    }
    Ok(if refused.total == 0 { Translated::Rows(out) } else { Translated::Refused(refused) })
}

/// Refuses what columns keep beside their values if the row's context does not cover it, or if it is no edit of a text.
pub(crate) fn check_entries(state: &RowState) -> Result<(), String> {
    for (_, extra) in &state.extras {
        let mut covered = true;
        extra.stamps(&mut |s| covered &= state.ctx.covers(s) || state.ground.covers(s));
        if !covered {
            return Err("a row whose context does not cover what its columns keep".into());
        }
        if let Extra::Text(lives) = extra
            && lives.iter().any(|l| syncline_core::text::read(l.seed.as_str().unwrap_or_default(), &l.edits).is_none())
        {
            return Err("an edit of a text that does not read as one".into());
        }
    }
    Ok(())
}

/// Finds the first value that its column's policy does not take.
fn misfit(t: &Table, x: &Incoming) -> Option<String> {
    x.mask.columns().find_map(|c| {
        let why = t.policies.column(c).misfit(&x.state.cell(c)?.value)?;
        Some(format!("column `{}`: {why}", t.columns.get(c)?.name))
    })
}

/// Returns the latest time in a state. All of it, although an honest context covers the rest: a ground from the future would
/// keep a key dead for ever.
fn newest(state: &RowState) -> Hlc {
    let births = state.live.iter().flat_map(|d| &d.births).map(|b| b.hlc).max().unwrap_or_default();
    state.ctx.max().max(state.ground.max()).max(births)
}

/// Refuses inserts whose integer key another row got meanwhile: two things never become one row.
fn collisions(tx: &mut Tx, scope: &Scope, rows: &[Pushed], limits: &Limits) -> Result<Refusals, Error> {
    let mut out = Refusals::new(limits);
    for row in rows.iter().filter(|r| r.incoming.seq.0 == 0 && r.table.def.integer_key().is_some()) {
        let here = tx.load_complete(scope, &row.table, &row.incoming.key)?;
        if !here.is_new() && strangers(&here.state, &row.incoming.state, &row.incoming.mask) {
            let message = "another device gave this key to another row".to_owned();
            out.add(tx, scope, row, Reason::KeyCollision, message)?;
        }
    }
    Ok(out)
}

/// Refuses edits of rows of a `reject` table that were begun on another version than the latest. What the authority has seen
/// already, or an edit that has seen all that is here, is none: bundles come again after a backup was put back.
fn stale(tx: &mut Tx, scope: &Scope, rows: &[Pushed], limits: &Limits) -> Result<Refusals, Error> {
    let mut out = Refusals::new(limits);
    for row in rows.iter().filter(|r| r.table.policies.reject && !planted::on("reject_takes_all")) {
        let Some(here) = tx.load(scope, &row.table, &row.incoming.key)? else { continue };
        let x = &row.incoming;
        if x.seq != here.version && !x.state.ctx.within(&here.state.ctx) && !here.state.ctx.within(&x.state.ctx) {
            let message = format!("another device changed this row (version {}) after this edit was begun on version {}", here.version, x.seq);
            out.add(tx, scope, row, Reason::Version, message)?;
        }
    }
    Ok(out)
}

/// Lists the rows of which the sender left columns out although they are not here, or only as gravestones.
fn incomplete(tx: &mut Tx, scope: &Scope, rows: &[Pushed]) -> Result<Vec<u32>, Error> {
    let mut out = Vec::new();
    for (i, row) in rows.iter().enumerate().filter(|(_, r)| r.incoming.partial) {
        let known = tx.load(scope, &row.table, &row.incoming.key)?;
        if known.is_none_or(|k| k.kind == Kind::Gravestone) && !planted::on("partial_taken") {
            out.push(i as u32);
        }
    }
    Ok(out)
}

/// What writing a bundle came to.
struct Written {
    altered: HashSet<(i64, Key)>,
    captured: Absorbed,
    hash: u64,
}

/// Why a bundle cannot be written.
enum Failure {
    /// A constraint objects; the second pass will find out which rows.
    Clash,
    /// These rows cannot stand.
    Refused(Refusals),
    Error(Error),
}

impl From<Error> for Failure {
    fn from(e: Error) -> Failure {
        Failure::Error(e)
    }
}

fn clash_or_error(e: Error) -> Result<Clash, Failure> {
    Clash::from_error(e).map_err(Failure::Error)
}

/// The fast path: all rows, in the sender's order.
fn write_all(tx: &mut Tx, scope: &Scope, seq: Seq, rows: &[Pushed]) -> Result<Written, Failure> {
    let watch = must_capture(tx, rows)?;
    if !watch {
        tx.set_applying(true)?;
    }
    let mut written = Written { altered: HashSet::new(), captured: Absorbed::default(), hash: 0 };
    for row in rows {
        if let Err(e) = write_row(tx, scope, seq, row, &mut written) {
            clash_or_error(e)?;
            return Err(Failure::Clash);
        }
    }
    if !watch {
        tx.set_applying(false)?;
    } else {
        tx.absorb_log(&mut written.captured)?;
    }
    if open_foreign_keys(tx) {
        return Err(Failure::Clash);
    }
    Ok(written)
}

/// The second pass: leaves offenders out, again and again, until what remains stands. With no offender at all (rows that
/// swap unique values, say) the bundle is committed as it is; else it is undone and the offenders are named.
fn write_what_stands(tx: &mut Tx, scope: &Scope, seq: Seq, rows: &[Pushed], limits: &Limits) -> Result<Written, Failure> {
    let mut offenders: HashMap<usize, Clash> = HashMap::new();
    for pass in 0.. {
        let tried = tx.savepoint(|tx| -> Result<Written, Stand> {
            let mut written = Written { altered: HashSet::new(), captured: Absorbed::default(), hash: 0 };
            let found = write_one_by_one(tx, scope, seq, rows, &offenders, &mut written)?;
            if !found.is_empty() {
                return Err(Stand::Offenders(found));
            }
            tx.absorb_log(&mut written.captured)?;
            if !offenders.is_empty() {
                return Err(Stand::Rest);
            }
            Ok(written)
        });
        match tried {
            Ok(written) => return Ok(written),
            Err(Stand::Rest) => break,
            Err(Stand::Offenders(found)) if pass < PASSES_MAX => offenders.extend(found),
            Err(Stand::Offenders(_)) => {
                let clash = Clash { reason: Reason::ForeignKey, message: "rows of this bundle hold each other up; the server refuses them together".into() };
                for i in 0..rows.len() {
                    offenders.entry(i).or_insert_with(|| clash.clone());
                }
                break;
            }
            Err(Stand::Error(e)) => return Err(Failure::Error(e)),
        }
    }
    let mut refused = Refusals::new(limits);
    let mut sorted: Vec<_> = offenders.into_iter().collect();
    sorted.sort_by_key(|o| o.0);
    for (i, clash) in sorted {
        refused.add(tx, scope, &rows[i], clash.reason, clash.message)?;
    }
    Err(Failure::Refused(refused))
}

/// Why a try of the second pass was undone.
enum Stand {
    Offenders(HashMap<usize, Clash>),
    /// All offenders are known; the rest stands.
    Rest,
    Error(Error),
}

impl From<Error> for Stand {
    fn from(e: Error) -> Stand {
        Stand::Error(e)
    }
}

/// Writes every row that is no offender in a savepoint of its own; those that clash are tried again after the others, since
/// the value that they want may have become free. Returns new offenders.
fn write_one_by_one(
    tx: &mut Tx,
    scope: &Scope,
    seq: Seq,
    rows: &[Pushed],
    known: &HashMap<usize, Clash>,
    written: &mut Written,
) -> Result<HashMap<usize, Clash>, Error> {
    let mut todo: Vec<usize> = (0..rows.len()).filter(|i| !known.contains_key(i)).collect();
    let mut clashes: HashMap<usize, Clash>;
    let mut freed = false;
    loop {
        clashes = HashMap::new();
        let before = todo.len();
        let mut left = Vec::new();
        for i in todo {
            match tx.savepoint(|tx| write_row(tx, scope, seq, &rows[i], written)) {
                Ok(()) => {}
                Err(e) => {
                    clashes.insert(i, Clash::from_error(e)?);
                    left.push(i);
                }
            }
        }
        if left.is_empty() {
            break;
        }
        if left.len() == before && (freed || !free_unique_values(tx, scope, rows, &left, &clashes)?) {
            break;
        }
        freed |= left.len() == before;
        todo = left;
    }
    for (i, row) in rows.iter().enumerate() {
        if known.contains_key(&i) || clashes.contains_key(&i) {
            continue;
        }
        for (child, key) in tx.orphans_of(scope, &row.table, &row.incoming.key)? {
            // Of a parent that goes and a child that stays, the one in this bundle that makes the trouble is refused.
            // If that one is left out already, it is the older child that stays, and the parent cannot go.
            let blamed = rows.iter().position(|r| r.table.n == child.n && r.incoming.key == key && !r.incoming.state.is_dead());
            let culprit = blamed.filter(|c| !known.contains_key(c)).unwrap_or(i);
            let message = if culprit == i && row.incoming.state.is_dead() {
                format!("rows of table `{}` still point at it", child.def.name)
            } else {
                "it points at a row that does not exist".to_owned()
            };
            clashes.entry(culprit).or_insert(Clash { reason: Reason::ForeignKey, message });
        }
    }
    Ok(clashes)
}

/// Rows that swap unique values are in each other's way: takes them all out of their tables, to be put in again.
/// Says whether it did; not where taking a row out would set off foreign-key actions.
fn free_unique_values(tx: &mut Tx, scope: &Scope, rows: &[Pushed], left: &[usize], clashes: &HashMap<usize, Clash>) -> Result<bool, Error> {
    let acted_on = acted_on(tx)?;
    let movable = |i: &&usize| {
        let row = &rows[**i];
        clashes.get(*i).is_some_and(|c| c.reason == Reason::Unique) && !row.incoming.state.is_dead() && !acted_on.iter().any(|a| a.0 == row.table.n)
    };
    let swapped: Vec<usize> = left.iter().filter(movable).copied().collect();
    for i in &swapped {
        let (t, key) = (&rows[*i].table, &rows[*i].incoming.key);
        // Its values are in the table and nowhere else: they go into the sidecar until the row is back.
        let mut row = tx.load_complete(scope, t, key)?;
        t.delete(tx, scope, key)?;
        if row.is_shown() {
            row.kind = Kind::Shelved;
            tx.save(scope, t, &mut row)?;
        }
    }
    Ok(!swapped.is_empty())
}

/// Merges one row and writes it to sidecar and business table.
fn write_row(tx: &mut Tx, scope: &Scope, seq: Seq, pushed: &Pushed, written: &mut Written) -> Result<(), Error> {
    let (t, x) = (&*pushed.table, &pushed.incoming);
    let mut row = tx.load_complete(scope, t, &x.key)?;
    if row.is_new() && x.state.ground.is_empty() {
        // Nothing to merge with: the state is what was sent.
        row.state = x.state.clone();
        if !row.state.confirm(&t.policies, seq).is_empty() {
            written.altered.insert((t.n, x.key.clone()));
        }
        if !row.state.is_dead() {
            t.insert(tx, scope, &x.key, &row.state)?;
            row.kind = Kind::Shown;
        }
        number(&mut row, t, &t.all_columns(), seq, true);
        tx.save(scope, t, &mut row)?;
        written.hash = written.hash.wrapping_add(row.hash);
        return Ok(());
    }
    let before = row.state.clone();
    let (was_dead, was_shown) = (row.state.is_dead(), row.is_shown());
    let was_gravestone = row.kind == Kind::Gravestone;
    let merged = row.state.merge(&x.state, &x.mask, &t.policies);
    tx.note_lost(scope, t, &x.key, &merged.lost, seq)?;
    let mut changed = merged.changed;
    row.state.confirm(&t.policies, seq).into_iter().for_each(|c| changed.insert(c));
    let as_sent = is_as_sent(&row.state, x);
    let born = was_dead && !row.state.is_dead();
    if born && was_gravestone {
        changed = t.all_columns();
    }
    if !as_sent && !planted::on("unequal_not_numbered") {
        // Numbered too, although nothing changed here: the sender must hear what it has not got.
        for c in x.mask.columns().filter(|c| !row.state.cell_eq(&x.state, *c)) {
            changed.insert(c);
        }
        changed.insert_liveness();
        written.altered.insert((t.n, x.key.clone()));
    }
    if changed.is_empty() {
        return Ok(());
    }
    if row.state.is_dead() {
        if was_shown {
            t.delete(tx, scope, &x.key)?;
        }
    } else {
        show(tx, scope, t, &mut row, &before, was_shown)?;
    }
    number(&mut row, t, &changed, seq, born);
    tx.save(scope, t, &mut row)?;
    written.hash = written.hash.wrapping_add(row.hash);
    Ok(())
}

/// Whether the merged state is exactly what was sent, in all that was sent.
fn is_as_sent(state: &RowState, x: &Incoming) -> bool {
    state.ctx == x.state.ctx && state.ground == x.state.ground && state.live == x.state.live && x.mask.columns().all(|c| state.cell_eq(&x.state, c))
}

fn show(tx: &mut Tx, scope: &Scope, t: &Table, row: &mut RowRecord, before: &RowState, was_shown: bool) -> Result<(), Error> {
    let mut differing = ColSet::none();
    for c in &t.shown {
        if before.cell(*c).map(|x| &x.value) != row.state.cell(*c).map(|x| &x.value) {
            differing.insert(*c);
        }
    }
    if !(was_shown && t.update(tx, scope, &row.key, &row.state, &differing)?) {
        t.insert(tx, scope, &row.key, &row.state)?;
    }
    row.kind = Kind::Shown;
    Ok(())
}

/// Whether the database may do more in this commit than we tell it to: business triggers, or foreign-key actions.
fn must_capture(tx: &mut Tx, rows: &[Pushed]) -> Result<bool, Error> {
    let triggers: bool = tx
        .conn
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'trigger' AND name NOT GLOB '_syncline_*')")
        .and_then(|mut q| q.query_row([], |r| r.get(0)))
        .doing("looking for business triggers")?;
    if triggers {
        return Ok(true);
    }
    let acted_on = acted_on(tx)?;
    Ok(rows.iter().any(|r| acted_on.contains(&(r.table.n, true)) || (r.incoming.state.is_dead() && acted_on.contains(&(r.table.n, false)))))
}

/// Lists parents whose rows' deletion (false) or change (true) makes foreign keys act.
fn acted_on(tx: &mut Tx) -> Result<HashSet<(i64, bool)>, Error> {
    let registry = tx.registry()?;
    let mut acted_on = HashSet::new();
    for t in registry.all() {
        for f in t.def.foreign_keys.iter().filter(|f| f.on_delete != Action::None || f.on_update != Action::None) {
            acted_on.extend(registry.find(&f.table).map(|p| (p.n, f.on_update != Action::None && !f.parent_columns.is_empty())));
        }
    }
    Ok(acted_on)
}

/// Whether a deferred foreign key is violated at this point of the transaction.
#[allow(unsafe_code)]
fn open_foreign_keys(tx: &Tx) -> bool {
    let (mut open, mut most) = (0, 0);
    // SAFETY: the handle is that of a live connection, used on its own thread; SQLite writes two integers.
    let code = unsafe { rusqlite::ffi::sqlite3_db_status(tx.conn.handle(), rusqlite::ffi::SQLITE_DBSTATUS_DEFERRED_FKS, &mut open, &mut most, 0) };
    // If SQLite does not tell, the second pass looks for itself.
    code != rusqlite::ffi::SQLITE_OK || open != 0
}

/// Refused rows: named up to a number and a page's worth of bytes, since each may bring a large row of this server's; the
/// others are counted. The device parks the named and sends the rest.
struct Refusals {
    rows: Vec<Refusal>,
    total: u64,
    most: usize,
    room: usize,
}

impl Refusals {
    fn new(limits: &Limits) -> Refusals {
        Refusals { rows: Vec::new(), total: 0, most: limits.refusals, room: limits.page_bytes }
    }
    fn add(&mut self, tx: &mut Tx, scope: &Scope, pushed: &Pushed, reason: Reason, message: String) -> Result<(), Error> {
        self.total += 1;
        if self.rows.len() < self.most && self.room > 0 {
            let row = refusal(tx, scope, pushed, reason, message)?;
            let bytes: usize = row.server_row.iter().flat_map(|r| r.values()).chain(row.key.values()).map(syncline_core::Value::size).sum();
            self.room = self.room.saturating_sub(bytes);
            self.rows.push(row);
        }
        Ok(())
    }
    fn outcome(self) -> Outcome {
        Outcome::Rejected { rows: self.rows, total: self.total }
    }
}

fn refusal(tx: &mut Tx, scope: &Scope, pushed: &Pushed, reason: Reason, message: String) -> Result<Refusal, Error> {
    let (t, x) = (&pushed.table, &pushed.incoming);
    let here = tx.load_complete(scope, t, &x.key)?;
    let op = if x.state.is_dead() {
        "delete"
    } else if x.seq.0 == 0 {
        "insert"
    } else {
        "update"
    };
    Ok(Refusal {
        schema: "main".into(),
        table: t.def.name.clone(),
        key: t.key_object(&x.key),
        op: op.into(),
        base_row_version: x.seq,
        server_row_version: here.version,
        server_row_deleted: !here.is_new() && here.state.is_dead(),
        server_row: here.is_shown().then(|| t.row_object(&x.key, &here.state)),
        reason,
        message,
    })
}
