//! `syncline admin schema`: the authority's tables, and who may add to them.

use super::{Opened, Place};
use crate::exit::{Exit, failure};
use crate::output::{Output, say};

/// Lists the authority's synced tables; says whether devices may add to them
#[derive(clap::Args)]
#[command(after_help = "Example:
  syncline admin schema --data ./authority
  syncline admin schema --data ./authority --devices-may-push false")]
pub struct Args {
    #[command(flatten)]
    place: Place,
    /// Whether an enrolled device may take new tables and columns here (`schema push`); enrolment with a token always may
    #[arg(long, value_name = "BOOL")]
    devices_may_push: Option<bool>,
}

/// Changes what was asked for, reads and prints.
pub fn run(args: Args, out: Output) -> anyhow::Result<Exit> {
    let Opened::Sqlite(conn) = args.place.open()? else {
        return Err(failure(
            Exit::Usage,
            "an authority in PostgreSQL shows its tables to any client; `schema_push` = 0 in syncline.meta keeps devices from adding to them",
        ));
    };
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
        out.document(&serde_json::json!({ "devices_may_push": may, "tables": tables }))?;
    } else {
        out.table(["table", "columns"], tables.into_iter().map(|(name, columns)| [name, columns]))?;
        say(if may { "enrolled devices may add tables and columns" } else { "enrolled devices may not add tables and columns" });
    }
    Ok(Exit::Done)
}
