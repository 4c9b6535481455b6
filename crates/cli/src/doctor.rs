//! `syncline doctor`: checks a database, and mends it.

use crate::device;
use crate::exit::Exit;
use crate::output::{Output, count, say, size};
use crate::progress;
use std::path::PathBuf;
use syncline::DoctorReport;
use syncline::Room;

/// Checks a database and its sidecar; with --fix mends what can be mended, and gives free room back
#[derive(clap::Args)]
#[command(after_help = "Example:
  syncline doctor notes.db
  syncline doctor notes.db --fix")]
pub struct Args {
    /// The database
    db: PathBuf,
    /// Mends what was found
    #[arg(long)]
    fix: bool,
}

/// Checks, and tells what was found. What is found and not mended waits for a decision.
pub fn run(args: Args, out: Output) -> anyhow::Result<Exit> {
    let db = device::open(&args.db)?;
    let bar = progress::bar(out, "checking every row");
    let done = db.doctor(args.fix);
    bar.finish_and_clear();
    let report = done?;
    if out.json {
        out.document(&report)?;
    } else {
        tell(&report, args.fix, out)?;
    }
    let is_damaged = report.findings.iter().any(|f| f.code == "integrity");
    Ok(match report.ok {
        _ if is_damaged => Exit::Damaged,
        true => Exit::Done,
        false => Exit::Decision,
    })
}

fn tell(report: &DoctorReport, fix: bool, out: Output) -> anyhow::Result<()> {
    for finding in &report.findings {
        let mended = if finding.fixed { "mended: " } else { "" };
        out.line(format!("{mended}{}", crate::output::plain(&finding.message)))?;
    }
    if report.given_back_bytes > 0 {
        say(format!("the file is smaller by {}", size(report.given_back_bytes)));
    }
    report.notices.iter().for_each(|notice| say(format!("note: {notice}")));
    if report.room.file_bytes > 0 {
        let Room { file_bytes, free_bytes, sidecar_bytes } = report.room;
        say(format!("the file takes {}, {} of that for Syncline's records, {} are free", size(file_bytes), size(sidecar_bytes), size(free_bytes)));
    }
    let looked = count(report.rows_checked, "row");
    match (report.ok, fix) {
        (true, _) if report.findings.is_empty() => out.line(format!("all is well: {looked} checked"))?,
        (true, _) => say(format!("{looked} checked; nothing is left to mend")),
        (false, false) => say(format!("{looked} checked; `syncline doctor --fix` mends what can be mended")),
        (false, true) => say(format!("{looked} checked; the rest needs a person, see above")),
    }
    Ok(())
}
