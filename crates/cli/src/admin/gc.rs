//! `syncline admin gc`: tombstones that no backup can need any more become gravestones.

use super::{Opened, Place};
use crate::exit::{Exit, failure};
use crate::output::{Output, count, say};
use crate::when;
use rusqlite::{OptionalExtension, params};
use serde::Serialize;
use std::time::Duration;
use syncline_core::{ScopeId, Seq};
use syncline_replica::{Doing, Replica, Tx};
use syncline_server::Postgres;
use syncline_server::collect::{collect_some, raise_floor};
use syncline_server::commit::absorb_foreign;
use syncline_server::engine::system_env;

/// Tombstones per transaction: a few milliseconds, so that no commit waits for long.
const STEP: usize = 500;
/// Between two of them, others commit.
const PAUSE: Duration = Duration::from_millis(5);

/// Collects what was deleted: images go, keys are remembered for ever. Works beside a running server, in small steps
#[derive(clap::Args)]
#[command(after_help = "Example:
  syncline admin gc --data ./authority                     # what was deleted more than 30 days ago
  syncline admin gc --data ./authority --scope ada --floor 1200
  syncline admin gc --data ./authority --floor head        # everything; no earlier backup may be restored afterwards")]
pub struct Args {
    #[command(flatten)]
    place: Place,
    /// Only this scope
    #[arg(long, value_name = "SCOPE")]
    scope: Option<String>,
    /// Collects what was deleted longer ago: as long as backups may be put back
    #[arg(long, default_value = "30d", value_parser = when::parse_length, conflicts_with = "floor")]
    keep: i64,
    /// Collects up to this bundle instead, or to the `head`. A backup that has not reached it must not be put back any more
    #[arg(long, value_name = "SEQ", value_parser = floor)]
    floor: Option<Floor>,
}

#[derive(Clone, Copy)]
enum Floor {
    Head,
    Seq(u64),
}

fn floor(text: &str) -> Result<Floor, String> {
    match text {
        "head" => Ok(Floor::Head),
        _ => text.parse().map(Floor::Seq).map_err(|_| "it is a bundle's number, or `head`".into()),
    }
}

/// What became of a scope.
#[derive(Serialize)]
struct Collected {
    scope_id: String,
    floor: u64,
    collected: u64,
}

/// Collects scope by scope.
pub fn run(args: Args, out: Output) -> anyhow::Result<Exit> {
    let lines = match args.place.open()? {
        Opened::Sqlite(conn) => in_file(conn, &args)?,
        Opened::Postgres(postgres) => in_database(&postgres, &args)?,
    };
    if out.json {
        out.document(&lines)?;
    } else {
        let total = lines.iter().map(|l| l.collected).sum();
        out.table(["scope", "floor", "collected"], lines.into_iter().map(|l| [l.scope_id, l.floor.to_string(), l.collected.to_string()]))?;
        say(format!("{}; their keys are remembered, so that they stay deleted", count(total, "tombstone")));
    }
    Ok(Exit::Done)
}

/// Leaves the scopes that are asked for, by name.
fn asked_for<T>(scopes: Vec<(String, T)>, args: &Args) -> anyhow::Result<Vec<(String, T)>> {
    let Some(only) = &args.scope else { return Ok(scopes) };
    match scopes.into_iter().find(|s| s.0 == *only) {
        Some(scope) => Ok(vec![scope]),
        None => Err(failure(Exit::Usage, format!("there is no scope `{only}`; `syncline admin accounts` lists accounts, whose own scopes bear their names"))),
    }
}

fn in_database(postgres: &Postgres, args: &Args) -> anyhow::Result<Vec<Collected>> {
    let before_ms = when::now_ms() - args.keep;
    let mut lines = Vec::new();
    let scopes = postgres.scopes()?.into_iter().map(|(scope, head)| (scope.0, head)).collect();
    for (scope_id, head) in asked_for(scopes, args)? {
        let scope = ScopeId(scope_id.clone());
        let floor = match args.floor {
            None => postgres.floor_at(&scope, before_ms)?,
            Some(Floor::Head) => head,
            Some(Floor::Seq(seq)) => Seq(seq).min(head),
        };
        let collected = postgres.collect(&scope, floor)?;
        lines.push(Collected { scope_id, floor: floor.0, collected });
    }
    Ok(lines)
}

fn in_file(conn: rusqlite::Connection, args: &Args) -> anyhow::Result<Vec<Collected>> {
    let mut replica = Replica::open(conn)?;
    let scopes: Vec<(String, ())> = {
        let mut q = replica.conn().prepare("SELECT scope_id FROM _syncline_scope WHERE scope_id <> '' ORDER BY n")?;
        q.query_map([], |r| Ok((r.get(0)?, ())))?.collect::<Result<_, _>>()?
    };
    let before_ms = when::now_ms() - args.keep;
    let mut lines = Vec::new();
    for (scope_id, ()) in asked_for(scopes, args)? {
        let (floor, mut collected) = (floor_of(&mut replica, &scope_id, args.floor, before_ms)?, 0);
        loop {
            let done = replica.transact(&mut system_env(), |tx| {
                absorb_foreign(tx)?;
                let Some(scope) = tx.find_scope(&ScopeId(scope_id.clone()))? else { return Ok(0) };
                let done = collect_some(tx, &scope, floor, STEP)?;
                if done == 0 {
                    raise_floor(tx, &scope, floor)?;
                }
                Ok(done)
            })?;
            collected += done;
            if done == 0 {
                break;
            }
            std::thread::sleep(PAUSE);
        }
        lines.push(Collected { scope_id, floor: floor.0, collected });
    }
    Ok(lines)
}

fn floor_of(replica: &mut Replica, scope_id: &str, asked: Option<Floor>, before_ms: i64) -> anyhow::Result<Seq> {
    Ok(replica.read(&mut system_env(), |tx: &mut Tx| {
        let Some(scope) = tx.find_scope(&ScopeId(scope_id.to_owned()))? else { return Ok(Seq(0)) };
        let head = tx.head(scope.n)?;
        let old = || -> syncline_replica::Result<Seq> {
            let sql = "SELECT seq FROM _syncline_bundle WHERE scope = ?1 AND at <= ?2 ORDER BY seq DESC LIMIT 1";
            let seq: Option<i64> = tx.conn.query_row(sql, params![scope.n, before_ms], |r| r.get(0)).optional().doing("finding the floor")?;
            Ok(Seq(seq.unwrap_or(0) as u64))
        };
        match asked {
            None => old(),
            Some(Floor::Head) => Ok(head),
            Some(Floor::Seq(seq)) => Ok(Seq(seq.min(head.0))),
        }
    })?)
}
