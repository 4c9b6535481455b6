//! `syncline admin bundles`: the bundle log, what was committed when and by whom.

use super::{Opened, Place, check_account};
use crate::exit::Exit;
use crate::output::{Output, say};
use crate::when;
use rusqlite::{Connection, params};
use serde::Serialize;
use syncline_core::hex;
use syncline_server::accounts;
use syncline_server::postgres::admin::BundleInfo;

/// Lists committed bundles, oldest first
#[derive(clap::Args)]
#[command(after_help = "Example:
  syncline admin bundles --data ./authority --account ada --limit 20")]
pub struct Args {
    #[command(flatten)]
    place: Place,
    /// Whose
    #[arg(long, value_name = "NAME")]
    account: String,
    /// At most so many, the newest ones
    #[arg(long, default_value_t = 1_000)]
    limit: u32,
}

/// One bundle.
#[derive(Serialize)]
struct Line {
    scope_id: String,
    seq: u64,
    source: String,
    source_bundle_id: u64,
    /// None where the authority's own database was written.
    device: Option<String>,
    at: i64,
    rows: u64,
}

/// Reads and prints.
pub fn run(args: Args, out: Output) -> anyhow::Result<Exit> {
    let lines = match args.place.open()? {
        Opened::Sqlite(conn) => {
            check_account(&accounts::accounts(&conn)?, Some(&args.account))?;
            read(&conn, &args.account, args.limit)?
        }
        Opened::Postgres(postgres) => {
            check_account(&postgres.accounts()?, Some(&args.account))?;
            postgres.bundles(&args.account, args.limit)?.into_iter().map(|b| line(&args.account, b)).collect()
        }
    };
    if out.json {
        out.document(&lines)?;
    } else if lines.is_empty() {
        say("nothing was committed yet; the first `syncline sync` of a device does that");
    } else {
        let short = |id: &str| id.chars().take(8).collect::<String>();
        let rows = lines.iter().map(|l| {
            let device = l.device.as_deref().map_or("written at the server".into(), short);
            [l.seq.to_string(), short(&l.source), l.source_bundle_id.to_string(), device, when::rfc3339(l.at), l.rows.to_string()]
        });
        out.table(["seq", "source", "its bundle", "device", "at", "rows"], rows)?;
    }
    Ok(Exit::Done)
}

fn line(account: &str, bundle: BundleInfo) -> Line {
    let BundleInfo { seq, source, id, device, at_ms, rows } = bundle;
    Line { scope_id: account.into(), seq, source: hex(&source), source_bundle_id: id, device: device.map(|d| hex(&d)), at: at_ms, rows }
}

fn read(conn: &Connection, account: &str, limit: u32) -> anyhow::Result<Vec<Line>> {
    let mut query = conn.prepare(
        "SELECT s.scope_id, b.seq, b.source, b.id, b.device, b.at, b.row_count FROM _syncline_bundle b JOIN _syncline_scope s ON s.n = b.scope
         WHERE s.scope_id = ?1 ORDER BY b.seq DESC LIMIT ?2",
    )?;
    let rows = query.query_map(params![account, limit], |r| {
        Ok(Line {
            scope_id: r.get(0)?,
            seq: r.get::<_, i64>(1)? as u64,
            source: hex(&r.get::<_, Vec<u8>>(2)?),
            source_bundle_id: r.get::<_, i64>(3)? as u64,
            device: r.get::<_, Option<Vec<u8>>>(4)?.map(|id| hex(&id)),
            at: r.get(5)?,
            rows: r.get::<_, i64>(6)? as u64,
        })
    })?;
    let mut lines: Vec<Line> = rows.collect::<Result<_, _>>()?;
    lines.reverse();
    Ok(lines)
}
