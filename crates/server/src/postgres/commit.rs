//! Commit: a pushed bundle becomes rows of the business tables, all or nothing (docs/protocol.md, "Push").
//!
//! One transaction, under the scope's lock. All rows are read, merged here and written in a few statements. Only if something
//! objects, a second transaction goes row by row with savepoints (`diagnose`) and finds every offender.

use crate::api_error::ApiError;
use crate::bundle::{Translated, check_limits, journal_of, misplaced, of_a_reader, translate};
use crate::postgres::absorb::absorb_own;
use crate::postgres::adopt::holds_parent;
use crate::postgres::db::Tx;
use crate::postgres::diagnose::diagnose;
use crate::postgres::registry::Registry;
use crate::postgres::rows::{self, Kind, Record, Records};
use crate::postgres::scope::{Bundle, Scope};
use crate::postgres::translate::{Pushed, Refusals, rejected};
use crate::postgres::types::Cell;
use crate::postgres::unseen::Deletions;
use crate::postgres::write::{self, Action, Planned, Unwritten};
use crate::postgres::{Env, db, journal};
use futures_util::future::{join3, join4, try_join};
use std::collections::HashSet;
use syncline_core::schema::Action as ForeignAction;
use syncline_core::{Acked, DeviceId, Key, Limits, Lost, Outcome, Push, Reason, RowState, Seq, SourceId};
use tokio_postgres::types::Type;

/// A push that was looked at. An answer can be built from nothing else.
#[must_use]
pub struct Receipt {
    /// What to tell the device.
    pub outcome: Outcome,
    /// If a bundle was committed just now: its seq, and the rows that are not exactly as sent.
    pub fresh: Option<(Seq, HashSet<(i32, Key)>)>,
}

/// How a try at a push goes about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// In a few statements.
    Fast,
    /// Row by row, to find out who objects.
    Diagnose,
}

/// What a try came to.
pub enum Tried {
    /// Commit the transaction: this is the answer.
    Done(Receipt),
    /// Undo it, and go row by row.
    Objected,
}

/// What a push is looked at with.
pub struct Asked<'a> {
    /// The device.
    pub device: DeviceId,
    /// Its source.
    pub source: SourceId,
    /// How far the source is: its watermark, and the highest attempt at its next bundle.
    pub known: (u64, u64),
    /// How far the device has applied.
    pub seen: Seq,
    /// The bundle.
    pub push: &'a Push,
    /// What peers may send.
    pub limits: &'a Limits,
    /// Whether the account may write the scope.
    pub may_write: bool,
    /// Whether the scope is the account's own.
    pub is_own: bool,
}

/// Looks at a push, in a transaction that holds the scope's lock and has absorbed.
pub async fn commit(tx: &Tx, registry: &Registry, scope: &mut Scope, env: &Env, what: &Asked<'_>, mode: Mode) -> Result<Tried, ApiError> {
    let Asked { device, source, known: (watermark, attempt), seen, push, limits, may_write, is_own } = *what;
    let nothing = |outcome| Ok(Tried::Done(Receipt { outcome, fresh: None }));
    if push.id.0 == 0 {
        return Err(ApiError::BadRequest("bundles are numbered from 1".into()));
    }
    if push.id.0 <= watermark {
        let recorded = scope.find_bundle(tx, source, push.id).await?;
        return nothing(Outcome::Committed(recorded.ok_or_else(|| ApiError::Internal("a bundle below the watermark is not in the log".into()))?));
    }
    if push.id.0 > watermark + 1 {
        return nothing(Outcome::Gap);
    }
    if push.attempt < attempt {
        return nothing(Outcome::StaleAttempt);
    }
    check_limits(push, limits)?;
    let here = Scope::clone(scope);
    // A refused attempt counts as seen.
    let refuse = async |outcome| {
        here.note_source(tx, source, device, watermark, push.attempt).await?;
        Ok(Tried::Done(Receipt { outcome, fresh: None }))
    };
    let rows = match translate(push, limits, env.now_ms, |name| registry.find(name))? {
        Translated::Rows(rows) => rows,
        Translated::Refused(refused) => {
            let known = load(tx, scope, refused.pushed()).await?;
            return refuse(rejected(refused, &known)).await;
        }
    };
    let (before, has_triggers) = try_join(load(tx, scope, rows.iter()), has_triggers(tx, &rows)).await?;
    if !may_write {
        return refuse(rejected(of_a_reader(&rows, limits), &before)).await;
    }
    let mut refused = Refusals::new(limits);
    for row in &rows {
        if let Some(why) = misplaced(row, &scope.id, is_own) {
            refused.add(row, Reason::Forbidden, why);
        }
    }
    for (row, here) in rows.iter().filter_map(|r| Some((r, before.get(&r.place())?))) {
        if row.collides(&here.state) {
            refused.add(row, Reason::KeyCollision, "another device gave this key to another row".into());
        } else if let Some(why) = row.is_stale(here.seq, &here.state) {
            refused.add(row, Reason::Version, why);
        }
    }
    if refused.total > 0 {
        return refuse(rejected(refused, &before)).await;
    }
    let has_image = |r: &Pushed| before.get(&r.place()).is_some_and(|k| k.kind != Kind::Gravestone);
    let incomplete: Vec<u32> = rows.iter().enumerate().filter(|(_, r)| r.is_incomplete(has_image(r))).map(|(i, _)| i as u32).collect();
    if !incomplete.is_empty() {
        return refuse(Outcome::Incomplete(incomplete)).await;
    }

    let seq = scope.seq.next();
    let merged: Vec<Merged> = rows.iter().map(|row| merge(row, before.get(&row.place()), seq)).collect();
    let watching = has_triggers || must_capture(registry, &merged, &rows);
    let torn = Deletions { tx, registry, scope, rows: &rows, merged: &merged }.unseen_children(seen, source, limits).await?;
    if torn.total > 0 {
        return refuse(rejected(torn, &before)).await;
    }
    let applying = |on: bool| format!("SET LOCAL syncline.applying = '{}'", if on { "on" } else { "off" });
    tx.ahead(&applying(!watching));
    match mode {
        Mode::Fast => {
            let planned: Vec<Planned> = rows.iter().zip(&merged).map(|(row, merged)| merged.planned(row)).collect();
            match write::write(tx, &scope.id.0, &planned, &acted_on(registry)).await {
                Ok(()) => {}
                Err(Unwritten::Failed(e)) => return Err(e.into()),
                Err(_) => return Ok(Tried::Objected),
            }
        }
        Mode::Diagnose => {
            let refused = diagnose(tx, registry, scope, &rows, &merged, &before, limits).await?;
            if let Some(refused) = refused {
                return refuse(rejected(refused, &before)).await;
            }
        }
    }
    let mut altered = HashSet::new();
    let mut saved: Vec<(i32, &Key, Record)> = Vec::with_capacity(rows.len());
    let mut hash = 0u64;
    // What the device saw lose, and what loses here.
    let mut lost = journal_of(push, limits, env.now_ms);
    for (row, merged) in rows.iter().zip(merged) {
        if !merged.as_sent {
            altered.insert(row.place());
        }
        lost.extend(merged.lost.iter().filter_map(|l| journal::entry(&row.table, &row.incoming.key, l, env)));
        if merged.touched {
            let mut record = merged.record;
            scope.add_digest(record.settle(&row.table, &row.incoming.key));
            hash = hash.wrapping_add(record.hash);
            saved.push((row.table.n, &row.incoming.key, record));
        }
    }
    let saved = saved.iter().map(|(n, key, record)| (*n, *key, record));
    let (new, known): (Vec<_>, Vec<_>) = saved.partition(|(n, key, _)| !before.contains_key(&(*n, (*key).clone())));
    let checked = async {
        match mode {
            Mode::Fast => tx.raw_batch("SET CONSTRAINTS ALL IMMEDIATE").await.map_err(Unwritten::from),
            Mode::Diagnose => Ok(()),
        }
    };
    let bundle = Bundle { source, id: push.id, nonce: push.nonce, device: Some(device), rows: rows.len() as u64, hash };
    let saved = async { try_join(rows::insert(tx, &here.id.0, &new), rows::save(tx, &here.id.0, &known)).await };
    let (checked, meanwhile, saved, logged) = if watching {
        let (checked, meanwhile, saved) = join3(checked, written_meanwhile(tx, registry, &here, &rows), saved).await;
        (checked, meanwhile, saved, Ok(()))
    } else {
        // Nothing more will be numbered by this bundle.
        scope.advance(tx, &bundle).await?;
        let logged = async { try_join(scope.log(tx, &bundle, env.now_ms), scope.note_source(tx, source, device, push.id.0, 0)).await.map(drop) };
        join4(checked, written_meanwhile(tx, registry, &here, &rows), saved, logged).await
    };
    match checked {
        Ok(()) => {}
        Err(Unwritten::Failed(e)) => return Err(e.into()),
        Err(_) => return Ok(Tried::Objected),
    }
    if meanwhile? {
        return Err(db::contended());
    }
    saved?;
    logged?;
    journal::keep(tx, registry, scope, &lost, seq, env.now_ms).await?;
    if watching {
        tx.ahead(&applying(true));
        altered.extend(absorb_own(tx, registry, scope, env, seq).await?);
        scope.append(tx, &bundle, env.now_ms).await?;
        scope.note_source(tx, source, device, push.id.0, 0).await?;
    }
    let outcome = Outcome::Committed(Acked { source, id: push.id, nonce: push.nonce, seq });
    Ok(Tried::Done(Receipt { outcome, fresh: Some((seq, altered)) }))
}

async fn load<'a>(tx: &Tx, scope: &Scope, rows: impl Iterator<Item = &'a Pushed>) -> Result<Records, ApiError> {
    let places: Vec<(i32, Key)> = rows.map(Pushed::place).collect();
    rows::load(tx, &scope.id.0, &places).await
}

/// A pushed row merged into what was here.
pub struct Merged {
    /// The record as it shall be saved.
    pub record: Record,
    /// What that means for the business row.
    pub action: Action,
    /// Which columns of it.
    pub columns: Vec<usize>,
    /// Whether anything changed or must be heard by the sender.
    pub touched: bool,
    /// Whether the merged state is exactly what was sent.
    pub as_sent: bool,
    /// What was dropped.
    pub lost: Vec<Lost>,
}

impl Merged {
    /// Returns what is to be done with the business row.
    pub fn planned<'a>(&'a self, row: &'a Pushed) -> Planned<'a> {
        Planned { table: &row.table, key: &row.incoming.key, action: self.action, columns: self.columns.clone(), state: &self.record.state }
    }
}

/// Merges one row; the only place of this store where states merge.
fn merge(row: &Pushed, here: Option<&Record>, seq: Seq) -> Merged {
    let t = &*row.table;
    let written = |state: &RowState| (0..t.columns.len()).filter(|c| state.cell(*c).is_some()).collect::<Vec<_>>();
    let mut record = here.cloned().unwrap_or_else(Record::unknown);
    if record.is_new() && row.incoming.state.ground.is_empty() {
        // Nothing to merge with: the state is what was sent.
        record.state = row.incoming.state.clone();
        let as_sent = record.state.confirm(&t.policies, seq).is_empty();
        record.number(t, &t.all_columns(), seq, true);
        let action = if record.state.is_dead() { Action::Nothing } else { Action::Insert };
        let columns = written(&record.state);
        return Merged { record, action, columns, touched: true, as_sent, lost: vec![] };
    }
    let before = record.state.clone();
    let (was_dead, was_gravestone, was_shown) = (before.is_dead(), record.kind == Kind::Gravestone, record.is_shown());
    let syncline_core::row::Merged { mut changed, lost } = record.state.merge(&row.incoming.state, &row.incoming.mask, &t.policies);
    record.state.confirm(&t.policies, seq).into_iter().for_each(|c| changed.insert(c));
    let as_sent = row.is_as_sent(&record.state);
    let born = was_dead && !record.state.is_dead();
    if !as_sent {
        // Numbered too, although nothing changed here: the sender must hear what it has not got.
        for c in row.incoming.mask.columns().filter(|c| !record.state.cell_eq(&row.incoming.state, *c)) {
            changed.insert(c);
        }
        changed.insert_liveness();
    }
    if changed.is_empty() {
        return Merged { record, action: Action::Nothing, columns: vec![], touched: false, as_sent, lost };
    }
    if was_gravestone {
        // Whoever is past it may have left it out or forgotten it: nobody has columns of it to complete.
        changed = t.all_columns();
    }
    let (action, columns) = match (was_shown, record.state.is_dead()) {
        (true, true) => (Action::Delete, vec![]),
        (false, true) => (Action::Nothing, vec![]),
        (false, false) => (Action::Insert, written(&record.state)),
        (true, false) => {
            let value = |s: &RowState, c: usize| s.cell(c).map(|x| x.value.clone());
            let differing: Vec<usize> = (0..t.columns.len()).filter(|c| value(&before, *c) != value(&record.state, *c)).collect();
            (if differing.is_empty() { Action::Nothing } else { Action::Update }, differing)
        }
    };
    record.number(t, &changed, seq, born);
    Merged { record, action, columns, touched: true, as_sent, lost }
}

/// Whether the database may do more in this commit than we tell it to: foreign-key actions, or what an adopted table makes of a value.
fn must_capture(registry: &Registry, merged: &[Merged], rows: &[Pushed]) -> bool {
    let acts = acting(registry);
    let set_off = rows.iter().zip(merged).any(|(r, m)| match m.action {
        Action::Delete => acts.contains(&(r.table.n, false)),
        Action::Update => acts.contains(&(r.table.n, true)),
        _ => false,
    });
    // What an adopted column makes of a value, devices hear as the table shows it.
    set_off || rows.iter().any(|r| r.table.adopted.is_some())
}

/// Whether these tables have business triggers.
async fn has_triggers(tx: &Tx, rows: &[Pushed]) -> Result<bool, ApiError> {
    let tables: HashSet<&str> = rows.iter().map(|r| r.table.place.as_str()).collect();
    let tables: Vec<&str> = tables.into_iter().collect();
    let sql = "SELECT EXISTS (SELECT FROM pg_trigger t
                 WHERE t.tgrelid = ANY($1::text[]::regclass[]) AND NOT t.tgisinternal AND t.tgname NOT LIKE '\\_syncline\\_%'),
               set_config('lock_timeout', '900ms', true)";
    // From here on a statement waits for the locks of SQL clients less long than PostgreSQL takes to find a deadlock (1 s): it
    // is this server that gives way and tries again, never the client.
    Ok(tx.query_one(sql, &[(&tables, Type::TEXT_ARRAY)]).await?.get(0))
}

/// Lists parents whose rows' deletion (false) or change (true) makes foreign keys act.
fn acting(registry: &Registry) -> HashSet<(i32, bool)> {
    let mut out = HashSet::new();
    for key in registry.all().flat_map(|t| &t.def.foreign_keys) {
        let Some(parent) = registry.find(&key.table) else { continue };
        if key.on_delete != ForeignAction::None {
            out.insert((parent.n, false));
        }
        if key.on_update == ForeignAction::Cascade {
            out.insert((parent.n, true));
        }
    }
    out
}

/// Lists tables whose rows take others along when they are deleted, or cannot go before them.
pub fn acted_on(registry: &Registry) -> Vec<i32> {
    let children = registry.all().flat_map(|t| t.def.foreign_keys.iter().filter(|k| holds_parent(t, k)));
    children.filter_map(|key| registry.find(&key.table)).map(|t| t.n).collect()
}

/// Takes the locks of a push's business rows before anything is absorbed. A second try does: somebody may write the same row
/// again and again, faster than a first try gets from absorbing to writing.
pub async fn lock_rows(tx: &Tx, registry: &Registry, scope: &Scope, push: &Push, limits: &Limits, now_ms: i64) -> Result<(), ApiError> {
    let Translated::Rows(rows) = translate(push, limits, now_ms, |name| registry.find(name))? else { return Ok(()) };
    tx.batch("SET LOCAL lock_timeout = '900ms'").await?;
    for t in registry.all() {
        let keys: Vec<Key> = rows.iter().filter(|r| r.table.n == t.n).map(|r| r.incoming.key.clone()).collect();
        rows::lock_business(tx, &scope.id.0, t, &keys).await?;
    }
    Ok(())
}

/// Whether a SQL client has written one of these rows since we absorbed. We hold their locks by now, so nobody does from here on.
async fn written_meanwhile(tx: &Tx, registry: &Registry, scope: &Scope, rows: &[Pushed]) -> Result<bool, ApiError> {
    let sql = "SELECT tbl, key FROM syncline.capture WHERE scope_id = $1 AND tx <> pg_current_xact_id()";
    let captured = tx.query(sql, &[(&scope.id.0, Type::TEXT)]).await?;
    if captured.is_empty() {
        return Ok(false);
    }
    let ours: HashSet<(i32, Key)> = rows.iter().map(Pushed::place).collect();
    for row in captured {
        let n: i32 = row.get(0);
        let Ok(t) = registry.get(n) else { return Ok(true) };
        let noted: Vec<String> = row.get(1);
        let cells: Option<Vec<Cell>> = t.key_types.iter().zip(&noted).map(|(of, text)| of.noted(text)).collect();
        if crate::postgres::types::keys(&t.key_types, cells.unwrap_or_default()).into_iter().any(|k| ours.contains(&(n, k))) {
            return Ok(true);
        }
    }
    Ok(false)
}
