//! Commit: a pushed bundle becomes rows of the business tables, all or nothing (docs/protocol.md, "Push").
//!
//! Everything here runs inside one write transaction; the engine answers only after that is durable. The fast path merges and
//! writes row by row and needs no savepoint of its own. Only if a constraint objects, a second pass finds every offender,
//! so that the device can park those and send the rest in the same sync.

use crate::api_error::ApiError;
use crate::bundle::{self, Here, Synced, Translated, check_limits, translate};
use rusqlite::{OptionalExtension, params};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use syncline_core::digest::{chain_of, first_chain};
use syncline_core::schema::{Action, ForeignKey};
use syncline_core::{Acked, BundleId, Chain, ColSet, DeviceId, Key, Limits, Nonce, Outcome, Push, Reason, RowState, Seq, SourceId, Value, planted};
use syncline_replica::shelf::value_of;
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

impl Receipt {
    /// Nothing was committed, because a bundle that belongs to this one could not be.
    pub fn held_back() -> Receipt {
        Receipt { outcome: Outcome::Rejected { rows: vec![], total: 0 }, fresh: None, moved: vec![] }
    }
}

/// How often the second pass may find new offenders before it calls all that remain offenders.
const PASSES_MAX: usize = 24;

/// Looks at a push and commits it if it can stand. `seen` is how far the device has applied.
pub fn commit(tx: &mut Tx, scope: &Scope, device: DeviceId, source: SourceId, seen: Seq, push: &Push, limits: &Limits) -> Result<Receipt, ApiError> {
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

    let registry = tx.registry()?;
    let rows = match translate(push, limits, tx.env.now_ms, |name| registry.find(name).filter(|t| t.present))? {
        Translated::Rows(rows) => rows,
        Translated::Refused(rows) => return Ok(nothing(rejected(tx, scope, rows)?)),
    };
    let collided = collisions(tx, scope, &rows, limits)?;
    if collided.total > 0 {
        return Ok(nothing(rejected(tx, scope, collided)?));
    }
    let stale = stale(tx, scope, &rows, limits)?;
    if stale.total > 0 {
        return Ok(nothing(rejected(tx, scope, stale)?));
    }
    let torn = unseen_children(tx, scope, &rows, seen, source, limits)?;
    if torn.total > 0 {
        return Ok(nothing(rejected(tx, scope, torn)?));
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
            Err(Failure::Refused(refused)) => return Ok(nothing(rejected(tx, scope, refused)?)),
            Err(Failure::Clash) => return Err(ApiError::Internal("a clash that nothing explains".into())),
            Err(Failure::Error(e)) => return Err(e.into()),
        },
        Err(Failure::Refused(refused)) => return Ok(nothing(rejected(tx, scope, refused)?)),
        Err(Failure::Error(e)) => return Err(e.into()),
    };
    // What the device saw lose.
    tx.take_journal(scope, &bundle::journal_of(push, limits, tx.env.now_ms), seq)?;
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

/// Refuses every row of a push: its account may only read the scope.
pub fn refuse_all(tx: &mut Tx, scope: &Scope, push: &Push, limits: &Limits) -> Result<Receipt, ApiError> {
    check_limits(push, limits)?;
    let registry = tx.registry()?;
    let refused = match translate(push, limits, tx.env.now_ms, |name| registry.find(name).filter(|t| t.present))? {
        Translated::Refused(refused) => refused,
        Translated::Rows(rows) => bundle::of_a_reader(&rows, limits),
    };
    Ok(Receipt { outcome: rejected(tx, scope, refused)?, fresh: None, moved: vec![] })
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

type Pushed = bundle::Pushed<Table>;
type Refusals = bundle::Refusals<Table>;

impl Synced for Table {
    fn number(&self) -> i64 {
        self.n
    }
    fn def(&self) -> &syncline_core::TableDef {
        &self.def
    }
    fn key_parts(&self) -> usize {
        self.key.len()
    }
    fn column(&self, name: &str) -> Option<usize> {
        Table::column(self, name)
    }
    fn column_name(&self, c: usize) -> Option<&str> {
        self.columns.get(c).map(|c| c.name.as_str())
    }
    fn policies(&self) -> &syncline_core::Policies {
        &self.policies
    }
    fn key_object(&self, key: &Key) -> syncline_replica::apply::RowObject {
        Table::key_object(self, key)
    }
}

/// Returns the outcome of refused rows, with the rows as they are here.
fn rejected(tx: &mut Tx, scope: &Scope, refused: Refusals) -> Result<Outcome, Error> {
    refused.outcome(|x| {
        let (t, key) = (&x.table, &x.incoming.key);
        let here = tx.load_complete(scope, t, key)?;
        let row = here.is_shown().then(|| t.row_object(key, &here.state));
        Ok(Here { version: here.version, deleted: !here.is_new() && here.state.is_dead(), row })
    })
}

/// Refuses inserts whose integer key another row got meanwhile: two things never become one row.
fn collisions(tx: &mut Tx, scope: &Scope, rows: &[Pushed], limits: &Limits) -> Result<Refusals, Error> {
    let mut out = Refusals::new(limits);
    for row in rows.iter().filter(|r| r.incoming.seq.0 == 0 && r.table.def.integer_key().is_some()) {
        let here = tx.load_complete(scope, &row.table, &row.incoming.key)?;
        if !here.is_new() && row.collides(&here.state) {
            out.add(row, Reason::KeyCollision, "another device gave this key to another row".to_owned());
        }
    }
    Ok(out)
}

/// Refuses edits of rows of a `reject` table that were begun on another version than the latest.
fn stale(tx: &mut Tx, scope: &Scope, rows: &[Pushed], limits: &Limits) -> Result<Refusals, Error> {
    let mut out = Refusals::new(limits);
    for row in rows.iter().filter(|r| r.table.policies.reject) {
        let Some(here) = tx.load(scope, &row.table, &row.incoming.key)? else { continue };
        if let Some(why) = row.is_stale(here.version, &here.state) {
            out.add(row, Reason::Version, why);
        }
    }
    Ok(out)
}

/// Refuses deletions whose foreign-key actions would reach rows that the device had not seen when it sent them: the device hears of
/// those in the same answer, and brings the parent back or lets them go with it, as its table says.
fn unseen_children(tx: &mut Tx, scope: &Scope, rows: &[Pushed], seen: Seq, source: SourceId, limits: &Limits) -> Result<Refusals, Error> {
    let mut out = Refusals::new(limits);
    if seen >= tx.head(scope.n)? || planted::on("cascades_reach_the_unseen") {
        return Ok(out);
    }
    let registry = tx.registry()?;
    for row in rows.iter().filter(|r| r.incoming.state.is_dead()) {
        let acting = |c: &Arc<Table>| -> Vec<ForeignKey> {
            let points = |f: &&ForeignKey| f.on_delete != Action::None && f.table.eq_ignore_ascii_case(&row.table.def.name);
            c.def.foreign_keys.iter().filter(points).cloned().collect()
        };
        let children: Vec<(Arc<Table>, Vec<ForeignKey>)> =
            registry.all().into_iter().filter(|c| c.present).map(|c| (c.clone(), acting(&c))).filter(|c| !c.1.is_empty()).collect();
        if children.is_empty() {
            continue;
        }
        let here = tx.load_complete(scope, &row.table, &row.incoming.key)?;
        if !here.is_shown() || !merged(&here, &row.incoming, &row.table).is_dead() {
            continue;
        }
        'children: for (child, keys) in &children {
            for f in keys {
                for key in tx.children(scope, &row.table, &here, child, f)? {
                    let theirs = tx.load_complete(scope, child, &key)?;
                    // What this bundle itself takes away is in nobody's way.
                    let sent = rows.iter().find(|r| r.table.n == child.n && r.incoming.key == key);
                    let stays = sent.is_none_or(|s| {
                        let mut after = theirs.clone();
                        after.state = merged(&theirs, &s.incoming, child);
                        !after.state.is_dead() && f.columns.iter().all(|c| value_of(child, &after, c) == value_of(child, &theirs, c))
                    });
                    if stays && is_unseen(tx, scope, &theirs, seen, source)? {
                        let message = format!("another device has written a row of table `{}` below it meanwhile", child.def.name);
                        out.add(row, Reason::ForeignKey, message);
                        break 'children;
                    }
                }
            }
        }
    }
    Ok(out)
}

fn merged(here: &RowRecord, x: &Incoming, t: &Table) -> RowState {
    let mut state = here.state.clone();
    state.merge(&x.state, &x.mask, &t.policies);
    state
}

/// Whether anything of a row came after `seen` from another source.
fn is_unseen(tx: &Tx, scope: &Scope, row: &RowRecord, seen: Seq, source: SourceId) -> Result<bool, Error> {
    let mut q = tx
        .conn
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM _syncline_bundle WHERE scope = ?1 AND seq = ?2 AND source <> ?3)")
        .doing("reading the bundle log")?;
    for seq in row.col_seqs.all().chain([row.seq]).filter(|s| *s > seen) {
        // The bundle being committed is not in the log yet, and is the device's own.
        if q.query_row(params![scope.n, seq.0 as i64, &source.0[..]], |r| r.get::<_, bool>(0)).doing("reading the bundle log")? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Lists the rows of which the sender left columns out although they are not here, or only as gravestones.
fn incomplete(tx: &mut Tx, scope: &Scope, rows: &[Pushed]) -> Result<Vec<u32>, Error> {
    let mut out = Vec::new();
    for (i, row) in rows.iter().enumerate().filter(|(_, r)| r.incoming.partial) {
        let known = tx.load(scope, &row.table, &row.incoming.key)?;
        if row.is_incomplete(known.is_some_and(|k| k.kind != Kind::Gravestone)) {
            out.push(i as u32);
        }
    }
    Ok(out)
}

/// What writing a bundle came to.
#[derive(Default)]
struct Written {
    altered: HashSet<(i64, Key)>,
    captured: Absorbed,
    hash: u64,
}

/// The values of a bundle's rows before any of them was written.
type Prior = HashMap<(i64, Key), Vec<Value>>;

fn prior_of(tx: &Tx, scope: &Scope, rows: &[Pushed]) -> Result<Prior, Error> {
    let mut prior = Prior::new();
    for Pushed { table, incoming } in rows {
        if let Some(values) = table.read(tx, scope, &incoming.key)? {
            prior.insert((table.n, incoming.key.clone()), values);
        }
    }
    Ok(prior)
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
    let prior = if must_capture(tx, rows)? { Some(prior_of(tx, scope, rows)?) } else { None };
    if prior.is_none() {
        tx.set_applying(true)?;
    }
    let mut written = Written::default();
    for row in rows {
        if let Err(e) = write_row(tx, scope, seq, row, prior.as_ref(), &mut written) {
            clash_or_error(e)?;
            return Err(Failure::Clash);
        }
    }
    if prior.is_none() {
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
    let prior = prior_of(tx, scope, rows)?;
    for pass in 0.. {
        let tried = tx.savepoint(|tx| -> Result<Written, Stand> {
            let mut written = Written::default();
            let found = write_one_by_one(tx, scope, seq, rows, &offenders, &prior, &mut written)?;
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
        refused.add(&rows[i], clash.reason, clash.message);
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
    prior: &Prior,
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
            match tx.savepoint(|tx| write_row(tx, scope, seq, &rows[i], Some(prior), written)) {
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

/// Merges one row and writes it to sidecar and business table. `prior` is there where the database may do more than it is told to, which
/// triggers then note.
fn write_row(tx: &mut Tx, scope: &Scope, seq: Seq, pushed: &Pushed, prior: Option<&Prior>, written: &mut Written) -> Result<(), Error> {
    let (t, x) = (&*pushed.table, &pushed.incoming);
    let mut row = tx.load_complete(scope, t, &x.key)?;
    if let Some(prior) = prior
        && row.is_shown()
        && row.compute_hash(t) != row.hash
    {
        // A row written before this one changed it (a foreign-key action, a business trigger). What this one says of the same columns
        // comes after that; of the others it is a write of the authority's.
        written.captured.disturbed.insert((scope.n, t.n, x.key.clone()));
        // Where it is gone, or goes now, its image is what it was: these stamps stand for those values.
        if (x.state.is_dead() || t.read(tx, scope, &x.key)?.is_none())
            && let Some(values) = prior.get(&(t.n, x.key.clone()))
        {
            row.fill(t, values.clone());
        }
    }
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
    let as_sent = pushed.is_as_sent(&row.state);
    let born = was_dead && !row.state.is_dead();
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
    if was_gravestone {
        // Whoever is past it may have left it out or forgotten it: nobody has columns of it to complete.
        changed = t.all_columns();
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
