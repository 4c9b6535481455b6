//! `syncline admin schema`: the authority's tables, and who may add to them.

use super::{Opened, Place};
use crate::exit::{Exit, failure};
use crate::output::{Output, say};

/// Lists the authority's synced tables; says which devices may sync, and whether they may add to them
#[derive(clap::Args)]
#[command(after_help = "Example:
  syncline admin schema --data ./authority
  syncline admin schema --data ./authority --devices-may-push false
  syncline admin schema --data ./authority --demand-version 3     # older apps keep their work until they are updated")]
pub struct Args {
    #[command(flatten)]
    place: Place,
    /// Whether an enrolled device may take new tables and columns here (`schema push`); enrolment with a token always may
    #[arg(long, value_name = "BOOL")]
    devices_may_push: Option<bool>,
    /// The least schema version (`schema_version` in a device's syncline.toml) that may sync; 0 for any
    #[arg(long, value_name = "N")]
    demand_version: Option<u64>,
}

/// Changes what was asked for, reads and prints.
pub fn run(args: Args, out: Output) -> anyhow::Result<Exit> {
    let conn = match args.place.open()? {
        Opened::Sqlite(conn) => conn,
        Opened::Postgres(postgres) if args.demand_version.is_some() && args.devices_may_push.is_none() => {
            postgres.demand_schema_version(args.demand_version.unwrap_or(0))?;
            return tell_demand(postgres.demanded_schema_version()?, out);
        }
        Opened::Postgres(_) => {
            return Err(failure(
                Exit::Usage,
                "an authority in PostgreSQL shows its tables to any client; `schema_push` = 0 in syncline.meta keeps devices from adding to them",
            ));
        }
    };
    if let Some(version) = args.demand_version {
        conn.execute(
            "INSERT INTO _syncline_meta(name, value) VALUES('demanded_schema_version', ?1) ON CONFLICT(name) DO UPDATE SET value = excluded.value",
            [version as i64],
        )?;
    }
    let demanded: i64 = conn.query_row("SELECT coalesce((SELECT value FROM _syncline_meta WHERE name = 'demanded_schema_version'), 0)", [], |r| r.get(0))?;
    if let Some(may) = args.devices_may_push {
        conn.execute(
            "INSERT INTO _syncline_meta(name, value) VALUES('schema_push', ?1) ON CONFLICT(name) DO UPDATE SET value = excluded.value",
            [i64::from(may)],
        )?;
    }
    let may: bool = conn.query_row("SELECT coalesce((SELECT value FROM _syncline_meta WHERE name = 'schema_push'), 1)", [], |r| r.get(0))?;
    let tables: Vec<(String, String)> = {
        let sql = "SELECT t.name, (SELECT group_concat(name, ', ') FROM pragma_table_info(t.name)) FROM _syncline_table t WHERE present ORDER BY 1";
        let mut q = conn.prepare(sql)?;
        q.query_map([], |r| Ok((r.get(0)?, r.get::<_, Option<String>>(1)?.unwrap_or_default())))?.collect::<Result<_, _>>()?
    };
    if out.json {
        let tables: Vec<_> =
            tables.iter().map(|(name, columns)| serde_json::json!({ "table": name, "columns": columns.split(", ").collect::<Vec<_>>() })).collect();
        out.document(&serde_json::json!({ "devices_may_push": may, "demanded_version": demanded, "tables": tables }))?;
    } else {
        out.table(["table", "columns"], tables.into_iter().map(|(name, columns)| [name, columns]))?;
        say(if may { "enrolled devices may add tables and columns" } else { "enrolled devices may not add tables and columns" });
        say(demand(demanded as u64));
    }
    Ok(Exit::Done)
}

fn tell_demand(version: u64, out: Output) -> anyhow::Result<Exit> {
    match out.json {
        true => out.document(&serde_json::json!({ "demanded_version": version }))?,
        false => out.line(demand(version))?,
    }
    Ok(Exit::Done)
}

fn demand(version: u64) -> String {
    match version {
        0 => "apps of any schema version may sync".into(),
        _ => format!("apps need schema version {version} or later; older ones keep their work and are told `upgrade_required`"),
    }
}
