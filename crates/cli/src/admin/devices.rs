//! `syncline admin devices`: who syncs, and how far each one is behind.

use super::{Opened, Place, check_account};
use crate::exit::Exit;
use crate::output::{Output, say};
use crate::when;
use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;
use std::collections::HashMap;
use syncline_core::DeviceId;
use syncline_server::accounts::{self, CursorInfo};
use syncline_server::{DeviceInfo, Postgres};

/// Lists devices with their cursor, how far they are behind, and when they were last heard of
#[derive(clap::Args)]
#[command(after_help = "Example:
  syncline admin devices --data ./authority --account ada")]
pub struct Args {
    #[command(flatten)]
    place: Place,
    /// Only this account's
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
}

/// A device, and where it is in its account's own scope. It tells with each request how far it had come before, so one that has
/// just fetched a bundle counts as behind by that one until it asks again.
#[derive(Serialize)]
struct Line {
    #[serde(flatten)]
    device: DeviceInfo,
    scope_id: String,
    /// What it has durably applied; none before its first sync.
    cursor: Option<u64>,
    head: u64,
    lag_bundles: u64,
    /// How long the oldest bundle that it lacks has been waiting.
    lag_seconds: i64,
}

/// Reads in one snapshot and prints.
pub fn run(args: Args, out: Output) -> anyhow::Result<Exit> {
    let now = when::now_ms();
    let lines = match args.place.open()? {
        Opened::Sqlite(conn) => from_sqlite(conn, args.account.as_deref(), now)?,
        Opened::Postgres(postgres) => from_postgres(&postgres, args.account.as_deref(), now)?,
    };
    if out.json {
        out.document(&lines)?;
    } else if lines.is_empty() {
        say("no devices yet; `syncline attach` with a token from `syncline admin token` enrols one");
    } else {
        out.table(["account", "device", "name", "platform", "cursor", "behind, as it last told", "last seen"], lines.into_iter().map(|line| row(line, now)))?;
    }
    Ok(Exit::Done)
}

type Cursors = HashMap<(DeviceId, String), u64>;

fn by_place(cursors: Vec<CursorInfo>) -> Cursors {
    cursors.into_iter().map(|c| ((c.device_id, c.scope.0), c.seq.0)).collect()
}

fn from_sqlite(mut conn: Connection, account: Option<&str>, now: i64) -> anyhow::Result<Vec<Line>> {
    let tx = conn.transaction()?;
    check_account(&accounts::accounts(&tx)?, account)?;
    let cursors = by_place(accounts::cursors(&tx)?);
    accounts::devices(&tx, account)?.into_iter().map(|device| line(device, &cursors, now, |scope, seen| lag(&tx, scope, seen))).collect()
}

fn from_postgres(postgres: &Postgres, account: Option<&str>, now: i64) -> anyhow::Result<Vec<Line>> {
    check_account(&postgres.accounts()?, account)?;
    let cursors = by_place(postgres.cursors()?);
    postgres.all_devices(account)?.into_iter().map(|device| line(device, &cursors, now, |scope, seen| Ok(postgres.lag(scope, seen)?))).collect()
}

/// Returns a scope's head, and when its first bundle after `seen` was committed.
fn lag(conn: &Connection, scope_id: &str, seen: u64) -> anyhow::Result<(u64, Option<i64>)> {
    let head =
        conn.prepare_cached("SELECT seq FROM _syncline_scope WHERE scope_id = ?1")?.query_row([&scope_id], |r| r.get::<_, i64>(0)).optional()?.unwrap_or(0)
            as u64;
    let first_missing = conn
        .prepare_cached("SELECT at FROM _syncline_bundle WHERE scope = (SELECT n FROM _syncline_scope WHERE scope_id = ?1) AND seq > ?2 ORDER BY seq LIMIT 1")?
        .query_row(params![scope_id, seen as i64], |r| r.get::<_, i64>(0))
        .optional()?;
    Ok((head, first_missing))
}

fn line(device: DeviceInfo, cursors: &Cursors, now: i64, lag: impl Fn(&str, u64) -> anyhow::Result<(u64, Option<i64>)>) -> anyhow::Result<Line> {
    let scope_id = device.account.clone();
    let cursor = cursors.get(&(device.device_id, scope_id.clone())).copied();
    let seen = cursor.unwrap_or(0);
    let (head, first_missing) = lag(&scope_id, seen)?;
    let lag_seconds = first_missing.map_or(0, |at| (now - at).max(0) / 1000);
    Ok(Line { device, scope_id, cursor, head, lag_bundles: head.saturating_sub(seen), lag_seconds })
}

fn row(line: Line, now: i64) -> [String; 7] {
    let behind = match (line.device.revoked_ms, line.lag_bundles) {
        (Some(at), _) => format!("revoked {}", when::told(at, now)),
        (None, 0) => "up to date".into(),
        (None, n) => format!("{}, {}", crate::output::count(n, "bundle"), when::length(line.lag_seconds * 1000)),
    };
    let cursor = line.cursor.map_or("not told yet".into(), |seq| format!("{seq} of {}", line.head));
    let device = line.device;
    [device.account, device.device_id.to_string(), device.name, device.platform, cursor, behind, when::told(device.last_seen_ms, now)]
}
