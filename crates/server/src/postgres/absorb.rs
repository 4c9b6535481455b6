//! Absorb: what SQL clients wrote becomes stamped row states, one bundle per transaction of theirs, in the order of their commits.
//!
//! Always under the scope's lock. Captures name keys; values are read from the row as it is now and compared with the
//! sidecar's, so that a row which was written and put back is no change.

use crate::api_error::ApiError;
use crate::postgres::Env;
use crate::postgres::db::Tx;
use crate::postgres::expr;
use crate::postgres::journal;
use crate::postgres::registry::{Registry, Table};
use crate::postgres::rows::{self, Kind, Record};
use crate::postgres::scope::{Bundle, Scope};
use crate::postgres::types::{self, Cell};
use crate::postgres::write::{Action, Planned, Unwritten, write};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use syncline_core::{BundleId, Cell as SharedCell, ColSet, Hlc, Key, Nonce, RowState, Seq, SourceId, Stamp};
use tokio_postgres::types::Type;

/// Captures that are taken at a time, so that memory stays flat.
const CHUNK: i64 = 20_000;

/// Everything captured of one row.
#[derive(Default)]
struct Fold {
    deleted: bool,
    inserted: bool,
    at_ms: i64,
}

/// Absorbs what is there of other transactions. Returns how many bundles that made.
pub async fn absorb(tx: &Tx, registry: &Registry, scope: &mut Scope, env: &Env) -> Result<usize, ApiError> {
    let writers = writers(tx, scope).await?;
    absorb_of(tx, registry, scope, env, writers).await
}

/// The other transactions that wrote to a scope, in the order of their commits.
pub async fn writers(tx: &Tx, scope: &Scope) -> Result<Vec<String>, ApiError> {
    // There are none nearly always, and this is quickly asked.
    let sql = "SELECT EXISTS (SELECT FROM syncline.capture WHERE scope_id = $1 AND tx <> pg_current_xact_id())";
    if !tx.query_one(sql, &[(&scope.id.0, Type::TEXT)]).await?.get::<_, bool>(0) {
        return Ok(vec![]);
    }
    let sql = "SELECT c.tx::text FROM syncline.capture c LEFT JOIN syncline.writer_tx w ON w.tx = c.tx
               WHERE c.scope_id = $1 AND c.tx <> pg_current_xact_id() GROUP BY c.tx ORDER BY min(w.ord), max(c.id)";
    Ok(tx.query(sql, &[(&scope.id.0, Type::TEXT)]).await?.iter().map(|r| r.get(0)).collect())
}

/// Absorbs what these transactions wrote.
pub async fn absorb_of(tx: &Tx, registry: &Registry, scope: &mut Scope, env: &Env, writers: Vec<String>) -> Result<usize, ApiError> {
    let mut bundles = 0;
    for writer in writers {
        let mut changed = HashSet::new();
        let seq = scope.seq.next();
        while let Some(folds) = take(tx, registry, scope, &writer).await? {
            changed.extend(absorb_rows(tx, registry, scope, env, seq, folds).await?);
        }
        if !changed.is_empty() {
            append_own(tx, scope, env, changed.len() as u64).await?;
            bundles += 1;
        }
    }
    Ok(bundles)
}

/// Absorbs what the database itself did in this transaction (business triggers, foreign-key actions) to rows of this scope, as
/// part of the bundle `seq`. What it did to other scopes stays captured, and becomes bundles of theirs after the commit.
pub async fn absorb_own(tx: &Tx, registry: &Registry, scope: &mut Scope, env: &Env, seq: Seq) -> Result<Vec<(i32, Key)>, ApiError> {
    let own: String = tx.query_one("SELECT pg_current_xact_id()::text", &[]).await?.get(0);
    let mut changed = Vec::new();
    while let Some(folds) = take(tx, registry, scope, &own).await? {
        changed.extend(absorb_rows(tx, registry, scope, env, seq, folds).await?);
    }
    Ok(changed)
}

async fn append_own(tx: &Tx, scope: &mut Scope, env: &Env, rows: u64) -> Result<Seq, ApiError> {
    let source = env.source;
    let sql = "SELECT coalesce(max(id), 0) FROM syncline.bundle WHERE scope_id = $1 AND source = $2";
    let last: i64 = tx.query_one(sql, &[(&scope.id.0, Type::TEXT), (&&source.0[..], Type::BYTEA)]).await?.get(0);
    let nonce = Nonce(env.nonce());
    scope.append(tx, &Bundle { source, id: BundleId(last as u64 + 1), nonce, device: None, rows, hash: nonce.0 }, env.now_ms).await
}

type Folds = HashMap<(i32, Vec<String>), Fold>;

/// Takes the next captures of a writer out of the log; `None` when there are no more.
async fn take(tx: &Tx, registry: &Registry, scope: &Scope, writer: &str) -> Result<Option<Vec<(Arc<Table>, Vec<String>, Fold)>>, ApiError> {
    let sql = "DELETE FROM syncline.capture WHERE scope_id = $1 AND id IN
                 (SELECT id FROM syncline.capture WHERE scope_id = $1 AND tx = $2::text::xid8 ORDER BY id LIMIT $3)
               RETURNING id, tbl, op, at_ms, key";
    let mut rows = tx.query(sql, &[(&scope.id.0, Type::TEXT), (&writer, Type::TEXT), (&CHUNK, Type::INT8)]).await?;
    if rows.is_empty() {
        return Ok(None);
    }
    rows.sort_by_key(|r| r.get::<_, i64>(0));
    let mut folds = Folds::new();
    let mut order = Vec::new();
    for row in rows {
        let place: (i32, Vec<String>) = (row.get(1), row.get(4));
        let fold = folds.entry(place.clone()).or_insert_with(|| {
            order.push(place);
            Fold::default()
        });
        fold.at_ms = fold.at_ms.max(row.get(3));
        match row.get::<_, i16>(2) {
            1 => fold.inserted = true,
            3 => (fold.deleted, fold.inserted) = (true, false),
            _ => {}
        }
    }
    let mut out = Vec::with_capacity(order.len());
    for (table, key) in order {
        // Another server has just made the table known: the next try reads the tables anew.
        let table = registry.get(table).map_err(|_| crate::postgres::db::contended())?;
        if let Some(fold) = folds.remove(&(table.n, key.clone())) {
            out.push((table, key, fold));
        }
    }
    Ok(Some(out))
}

/// Makes captured writes part of the rows' states. Returns the rows that changed.
async fn absorb_rows(
    tx: &Tx,
    registry: &Registry,
    scope: &mut Scope,
    env: &Env,
    seq: Seq,
    folds: Vec<(Arc<Table>, Vec<String>, Fold)>,
) -> Result<Vec<(i32, Key)>, ApiError> {
    let mut candidates: Vec<Vec<Key>> = Vec::with_capacity(folds.len());
    let mut wanted = Vec::new();
    for (t, noted, _) in &folds {
        let cells: Option<Vec<Cell>> = t.key_types.iter().zip(noted).map(|(of, text)| of.noted(text)).collect();
        let cells = cells.ok_or_else(|| ApiError::Internal(format!("a captured key of table `{}` cannot be read", t.def.name)))?;
        let keys = types::keys(&t.key_types, cells);
        wanted.extend(keys.iter().map(|k| (t.n, k.clone())));
        candidates.push(keys);
    }
    let mut records = rows::load(tx, &scope.id.0, &wanted).await?;
    // A key that reads like several (1 and '1' in a column without a type) is that of the row which lives.
    let chosen: Vec<Key> = folds
        .iter()
        .zip(candidates)
        .map(|((t, _, _), keys)| {
            let alive = keys.iter().find(|k| records.get(&(t.n, (*k).clone())).is_some_and(Record::is_shown));
            alive.or(keys.first()).cloned().unwrap_or_default()
        })
        .collect();
    let mut by_table: HashMap<i32, Vec<usize>> = HashMap::new();
    for (i, (t, _, _)) in folds.iter().enumerate() {
        by_table.entry(t.n).or_default().push(i);
    }
    let mut current: Vec<Option<Vec<Cell>>> = vec![None; folds.len()];
    for (n, places) in &by_table {
        let keys: Vec<Key> = places.iter().map(|i| chosen[*i].clone()).collect();
        let t = registry.get(*n)?;
        for (i, cells) in places.iter().zip(rows::read_business(tx, &scope.id.0, &t, &keys).await?) {
            current[*i] = cells;
        }
    }
    let mut changed = Vec::new();
    let mut defaults: HashMap<(i32, usize), Cell> = HashMap::new();
    let mut saved: Vec<(i32, Key, Record)> = Vec::new();
    let mut unlike = Vec::new();
    let mut lost = Vec::new();
    for (((t, _, fold), key), cells) in folds.into_iter().zip(chosen).zip(current) {
        let mut record = records.remove(&(t.n, key.clone())).unwrap_or_else(Record::unknown);
        if let Some(cells) = &cells {
            for c in (0..t.columns.len()).filter(|c| record.state.cell(*c).is_none() && cells[*c] != Cell::Null) {
                if let std::collections::hash_map::Entry::Vacant(e) = defaults.entry((t.n, c)) {
                    e.insert(default_of(tx, registry, &t, c).await?);
                }
            }
        }
        let absorbed = absorb_row(&t, &mut record, &fold, cells, env, seq, &defaults);
        for (c, cell) in &absorbed.misfits {
            let won = record.state.cell(*c).map(|x| x.value.clone()).unwrap_or_default();
            lost.extend(journal::misfit(&t, &key, *c, cell, won, env));
        }
        if absorbed.differs {
            unlike.push((t.clone(), key.clone(), record.state.clone()));
        }
        if absorbed.changed {
            scope.add_digest(record.settle(&t, &key));
            changed.push((t.n, key.clone()));
            saved.push((t.n, key, record));
        }
    }
    let saved: Vec<(i32, &Key, &Record)> = saved.iter().map(|(n, key, record)| (*n, key, record)).collect();
    rows::save(tx, &scope.id.0, &saved).await?;
    journal::keep(tx, registry, scope, &lost, seq, env.now_ms).await?;
    put_back(tx, scope, &unlike).await?;
    Ok(changed)
}

/// Makes the table show what row states say, where that is not what was written: a `max` that did not win, a set in its order.
pub async fn put_back(tx: &Tx, scope: &Scope, unlike: &[(Arc<Table>, Key, RowState)]) -> Result<(), ApiError> {
    if unlike.is_empty() {
        return Ok(());
    }
    let columns = |t: &Table, state: &RowState| (0..t.columns.len()).filter(|c| state.cell(*c).is_some()).collect::<Vec<_>>();
    let before: Option<String> = tx.query_one("SELECT current_setting('syncline.applying', true)", &[]).await?.get(0);
    tx.batch("SET LOCAL syncline.applying = 'on'").await?;
    for (t, key, state) in unlike.iter().filter(|u| !u.2.is_dead()) {
        let planned = Planned { table: t, key, action: Action::Update, columns: columns(t, state), state };
        tx.batch("SAVEPOINT syncline_put_back").await?;
        match write(tx, &scope.id.0, &[planned], &[]).await {
            Ok(()) => tx.batch("RELEASE SAVEPOINT syncline_put_back").await?,
            Err(Unwritten::Failed(e)) => return Err(e.into()),
            // The table keeps what was written there; the state is what devices get.
            Err(why) => {
                tracing::warn!("table `{}` cannot show what a row of it has become: {why:?}", t.def.name);
                tx.batch("ROLLBACK TO SAVEPOINT syncline_put_back").await?;
            }
        }
    }
    tx.batch(&format!("SET LOCAL syncline.applying = '{}'", if before.as_deref() == Some("on") { "on" } else { "off" })).await
}

/// What one row's captured writes came to.
#[derive(Default)]
struct OneRow {
    changed: bool,
    /// Whether the state now shows something else than the table.
    differs: bool,
    /// Values that their columns' policies do not take; the table shows again what was there.
    misfits: Vec<(usize, SharedCell)>,
}

/// Makes one row's captured writes part of its state.
fn absorb_row(t: &Table, record: &mut Record, fold: &Fold, current: Option<Vec<Cell>>, env: &Env, seq: Seq, defaults: &HashMap<(i32, usize), Cell>) -> OneRow {
    let stamp = |record: &Record| Stamp { hlc: Hlc::from_ms(fold.at_ms).max(record.state.next_hlc()), writer: env.writer };
    let was_shown = record.is_shown();
    let mut changed = ColSet::none();
    let (mut born, mut differs) = (false, false);
    let mut misfits = Vec::new();
    if was_shown && (current.is_none() || (fold.deleted && fold.inserted)) {
        record.state.delete(stamp(record), &t.policies);
        record.kind = Kind::Tombstone;
        changed.insert_liveness();
    }
    if let Some(cells) = current {
        if record.state.is_dead() {
            let now = stamp(record);
            changed.union(&record.state.insert(now, t.columns.len()));
            for (c, cell) in cells.into_iter().enumerate() {
                let value = t.columns[c].type_of.value(cell);
                match t.policies.column(c).misfit(&value) {
                    // What nobody can merge is held as it is until it is mended.
                    Some(_) => record.state.write(c, now, value),
                    None => differs |= record.state.write_as(&t.policies, c, now, value, None, Some(seq)),
                }
            }
            born = true;
        } else {
            let now = stamp(record);
            for (c, cell) in cells.into_iter().enumerate() {
                let of = t.columns[c].type_of;
                let same = match record.state.cell(c) {
                    Some(known) => of.shows(&cell, &known.value),
                    // Never written: what it shows by itself is nobody's edit.
                    None => cell == Cell::Null || defaults.get(&(t.n, c)) == Some(&cell),
                };
                let value = of.value(cell);
                if same {
                    continue;
                }
                let policy = t.policies.column(c);
                let before = record.state.cell(c).map(|x| x.value.clone());
                if policy.is_computed() && policy.misfit(&value).is_some() && before.is_some() {
                    differs = true;
                    misfits.push((c, SharedCell { stamp: now, value }));
                    continue;
                }
                match policy.misfit(&value) {
                    Some(_) => record.state.write(c, now, value),
                    None => differs |= record.state.write_as(&t.policies, c, now, value, before.as_ref(), Some(seq)),
                }
                changed.insert(c);
            }
            // Columns that only make sense together share one stamp.
            for c in changed.columns().flat_map(|c| t.policies.group_of(c)).copied().collect::<Vec<_>>() {
                if let Some(value) = record.state.cell(c).filter(|x| x.stamp != now).map(|x| x.value.clone()) {
                    record.state.write(c, now, value);
                    changed.insert(c);
                }
            }
            if !changed.is_empty() {
                record.state.edit(now);
                changed.insert_liveness();
            }
        }
    }
    if changed.is_empty() {
        return OneRow { changed: false, differs, misfits };
    }
    record.number(t, &changed, seq, born);
    OneRow { changed: true, differs, misfits }
}

/// Returns what a column holds where nobody wrote it.
async fn default_of(tx: &Tx, registry: &Registry, t: &Table, c: usize) -> Result<Cell, ApiError> {
    let of = t.columns[c].type_of;
    let default = t.def.column(&t.columns[c].name).and_then(|d| d.default.as_deref());
    let Some(sql) = default.and_then(|d| expr::value(d, &registry.schema(), &t.def, of)) else { return Ok(Cell::Null) };
    let typed = of.sql().split(' ').take(if of == types::PgType::Double { 2 } else { 1 }).collect::<Vec<_>>().join(" ");
    let row = tx.query_one(&format!("SELECT {}", of.read(&format!("(({sql})::{typed})"))), &[]).await?;
    Ok(of.selected(&row, 0)?)
}

/// Returns the source that this authority's own bundles bear, the same for all its servers.
pub async fn own_source(tx: &Tx, fresh: SourceId) -> Result<SourceId, ApiError> {
    let sql = "INSERT INTO syncline.meta(name, value) VALUES('source_id', $1) ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING value";
    let text: String = tx.query_one(sql, &[(&fresh.to_string(), Type::TEXT)]).await?.get(0);
    SourceId::parse(&text).ok_or_else(|| ApiError::Internal("the sidecar's source_id is damaged".into()))
}
