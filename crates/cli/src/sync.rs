//! `syncline sync`: one sync, or one after another.

use crate::device::{self, Reach};
use crate::exit::{Exit, advice};
use crate::interrupt::Until;
use crate::output::{Output, count, say};
use crate::progress;
use crate::when;
use indicatif::ProgressBar;
use std::path::PathBuf;
use syncline::{Database, Outcome, Summary, SyncReport};

/// Syncs once; with --watch stays, and syncs on writes here and on news from the server
#[derive(clap::Args)]
#[command(after_help = "Example:
  syncline sync notes.db
  syncline sync notes.db --watch --json")]
pub struct Args {
    /// The database
    db: PathBuf,
    /// Stays until ctrl-c
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    reach: Reach,
}

/// Syncs, and tells what came of it.
pub fn run(args: Args, out: Output) -> anyhow::Result<Exit> {
    let db = device::open_to_sync(&args.db, &args.reach)?;
    let report = once(&db, out);
    tell(&report, out)?;
    // A device that is refused, or a file that is damaged, is so still in a minute.
    if !args.watch || matches!(report.outcome, Outcome::Refused | Outcome::Damaged | Outcome::Failed) {
        return Ok(Exit::from_code(report.exit_code));
    }
    stay(&db, report, out)
}

fn once(db: &Database, out: Output) -> SyncReport {
    let bar = progress::bar(out, "syncing");
    let report = db.sync_once(None, |summary| show(&bar, summary));
    bar.finish_and_clear();
    report
}

fn stay(db: &Database, first: SyncReport, out: Output) -> anyhow::Result<Exit> {
    let until = Until::interrupted()?;
    let handle = db.start_sync()?;
    let reports = handle.reports();
    say("watching; ctrl-c ends it");
    let mut last = first;
    while let Some(report) = until.next(&reports) {
        // A person is told of what moved or changed; a program of every sync.
        if out.json || report.rows_up + report.rows_down > 0 || report.outcome != last.outcome {
            tell(&report, out)?;
        }
        last = report;
        // Detached meanwhile, say: that, too, is so still in a minute.
        if last.outcome == Outcome::Failed && last.exit_code == Exit::Usage as u8 {
            break;
        }
    }
    handle.stop();
    Ok(Exit::from_code(last.exit_code))
}

fn tell(report: &SyncReport, out: Output) -> anyhow::Result<()> {
    report.notices.iter().for_each(|notice| say(format!("note: {notice}")));
    if out.json {
        out.document(report)?;
    } else {
        out.line(in_words(report))?;
    }
    if let Some(error) = &report.error {
        say(format!("syncline: {}{}", crate::output::plain(&error.message), advice(&error.code, &error.message)));
    }
    if report.outcome == Outcome::NeedsAttention {
        say("something waits for a decision: `syncline conflicts` shows what, and what can be done");
    }
    if let Some(seconds) = report.retry_after_s {
        say(format!("the server asks to be left alone for {}", when::length(seconds as i64 * 1000)));
    }
    Ok(())
}

pub(crate) fn in_words(report: &SyncReport) -> String {
    let state = match report.outcome {
        Outcome::Synced => "synced",
        Outcome::NeedsAttention => "synced, with something to decide",
        Outcome::Offline => "offline",
        Outcome::Busy => "busy",
        Outcome::Interrupted => "interrupted",
        Outcome::Refused => "refused",
        Outcome::Damaged => "damaged",
        Outcome::Failed => "failed",
    };
    let mut words = format!("{state}: {} up, {} down", count(report.rows_up, "row"), count(report.rows_down, "row"));
    if report.hydrate {
        words += ", everything read anew";
    }
    if report.parked > 0 {
        words += &format!(", {} parked", report.parked);
    }
    let waiting = report.pending - report.parked.min(report.pending);
    if waiting > 0 {
        words += &format!(", {} waiting", count(waiting, "row"));
    }
    format!("{words} ({} ms, {}, {} bytes up, {} down)", report.duration_ms, count(report.requests.into(), "request"), report.bytes_up, report.bytes_down)
}

fn show(bar: &ProgressBar, summary: &Summary) {
    match summary.progress {
        Some((staged, to_come)) => progress::show(bar, "reading", staged, staged + to_come),
        None if let Some((sent, all)) = summary.upload => progress::show_bytes(bar, "sending", sent, all),
        None if summary.rows_up > 0 && summary.pending > summary.parked => progress::show(bar, "sending", summary.rows_up, summary.rows_up + summary.pending),
        None => {}
    }
}
