//! `syncline explain`: what of a database leaves this device.

use crate::device;
use crate::exit::Exit;
use crate::output::Output;
use std::path::PathBuf;
use syncline::ExplainedTable;

/// Tells, table by table and column by column, what leaves this device, to which scope and by which policy
#[derive(clap::Args)]
#[command(after_help = "Example:
  syncline explain notes.db")]
pub struct Args {
    /// The database
    db: PathBuf,
}

/// Reads and prints.
pub fn run(args: Args, out: Output) -> anyhow::Result<Exit> {
    let tables = device::open(&args.db)?.explain()?;
    if out.json {
        out.document(&tables)?;
    } else {
        let rows = tables.into_iter().flat_map(rows);
        out.table(["table", "column", "leaves", "scope", "policy", "caution", "note"], rows)?;
    }
    Ok(Exit::Done)
}

fn rows(table: ExplainedTable) -> Vec<[String; 7]> {
    let text = |text: Option<String>| text.unwrap_or_default();
    if !table.leaves {
        return vec![[table.table, "all".into(), "no".into(), String::new(), String::new(), String::new(), text(table.note)]];
    }
    let scope = text(table.scope);
    let row = |c: syncline::ExplainedColumn| {
        let (leaves, scope) = if c.leaves { ("yes", scope.clone()) } else { ("no", String::new()) };
        [table.table.clone(), c.name, leaves.into(), scope, text(c.policy), text(c.caution), text(c.note)]
    };
    table.columns.into_iter().map(row).collect()
}
