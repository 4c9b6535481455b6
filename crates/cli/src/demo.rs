//! `syncline demo`: the main job in half a minute, told step by step.
//!
//! Everything is done as a person would do it: with this program's own commands in processes of their own, and with plain SQL.
//! What the story claims is checked; one claim that does not hold fails the demo.

mod stage;

use crate::exit::Exit;
use crate::output::{Output, say};
use serde_json::{Value, json};
use stage::{DEVICES, Stage};
use std::path::{Path, PathBuf};

/// Shows the main job: a server, three devices, work done offline, and equal tables at the end
#[derive(clap::Args)]
#[command(after_help = "Example:
  syncline demo
  syncline demo --dir ./demo --keep      # and look around afterwards")]
pub struct Args {
    /// Where to play it; must be new or empty. A temporary directory if left out
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Leaves the files, and says how to go on
    #[arg(long)]
    keep: bool,
}

const SCHEMA: &str = "
CREATE TABLE customer(id TEXT PRIMARY KEY, name TEXT NOT NULL, phone TEXT, city TEXT);
CREATE TABLE job(id TEXT PRIMARY KEY, customer TEXT NOT NULL REFERENCES customer, title TEXT NOT NULL, status TEXT NOT NULL DEFAULT 'open', notes TEXT);
CREATE TABLE visit(id TEXT PRIMARY KEY, job TEXT NOT NULL REFERENCES job ON DELETE CASCADE, day TEXT NOT NULL, minutes INTEGER NOT NULL CHECK (minutes > 0));
CREATE INDEX visit_of_job ON visit(job);";

const ROWS: &str = "
INSERT INTO customer VALUES
  ('c-baker', 'Baker & Daughters', '+44 20 7946 0018', 'London'), ('c-nord', 'Nordlicht Café', '+49 40 5550 112', 'Hamburg'),
  ('c-sato', 'Sato Print Works', '+81 3 5550 0147', 'Tokyo');
INSERT INTO job VALUES
  ('j-101', 'c-baker', 'Oven does not light', 'open', NULL), ('j-102', 'c-baker', 'Yearly check of the cold room', 'open', 'Ring at the yard'),
  ('j-103', 'c-nord', 'Coffee machine leaks', 'open', NULL), ('j-104', 'c-sato', 'Compressor is loud', 'open', 'Bring the long hose'),
  ('j-105', 'c-sato', 'Entered twice by mistake', 'open', NULL);
INSERT INTO visit VALUES
  ('v-1', 'j-101', '2026-11-16', 45), ('v-2', 'j-102', '2026-11-17', 120), ('v-3', 'j-104', '2026-11-18', 75), ('v-4', 'j-105', '2026-11-18', 5);";

const CLOSED: &str = "
CREATE TRIGGER closed_period BEFORE INSERT ON visit WHEN NEW.day < '2026-11-01'
BEGIN SELECT RAISE(ABORT, 'rule: closed period'); END";

/// Plays the story and tells whether all of it was true.
pub fn run(args: Args, out: Output) -> anyhow::Result<Exit> {
    let mut stage = Stage::new(args.dir.clone(), out)?;
    let played = play(&mut stage);
    if args.keep {
        let (dir, address) = stage.keep();
        tell_how_to_go_on(&dir, &address);
    } else {
        stage.clear()?;
    }
    played?;
    if out.json {
        out.document(&json!({ "outcome": if stage.all_hold() { "done" } else { "not_as_told" }, "checks": stage.checks }))?;
    } else if stage.all_hold() {
        out.line(format!("\nAll {} claims held.", stage.checks.len()))?;
    }
    if stage.all_hold() {
        return Ok(Exit::Done);
    }
    say("the demo did not go as told: see the lines marked NOT SO above");
    Ok(Exit::Internal)
}

fn play(stage: &mut Stage) -> anyhow::Result<()> {
    meet(stage)?;
    work_offline(stage)?;
    refuse_and_decide(stage)?;
    write_at_the_server(stage)?;
    compare(stage)
}

/// One device brings its tables, two others get them.
fn meet(stage: &mut Stage) -> anyhow::Result<()> {
    stage.chapter("A server, and a laptop whose app has kept its jobs in SQLite for a while")?;
    stage.start_server()?;
    stage.sql("laptop", SCHEMA)?;
    stage.sql("laptop", ROWS)?;
    stage.syncline("laptop", &["init", "field.db"], 0)?;
    let token = stage.token(DEVICES.len())?;
    let url = stage.url();
    let attach = ["attach", "field.db", "--server", &url, "--token", &token];
    stage.syncline("laptop", &attach, 0)?;
    let synced = stage.syncline("laptop", &["sync", "field.db"], 0)?;
    stage.check("the laptop's 12 rows went up", synced["rows_up"] == 12)?;

    stage.chapter("A phone and a tablet join with empty files")?;
    for device in ["phone", "tablet"] {
        stage.syncline(device, &attach, 0)?;
        stage.syncline(device, &["sync", "field.db"], 0)?;
    }
    let same = stage.tables("phone")? == stage.tables("laptop")? && stage.tables("tablet")? == stage.tables("laptop")?;
    stage.check("both have the same tables and the same 12 rows", same && stage.tables("phone")?.len() == 12)
}

/// The network goes; everybody works on.
fn work_offline(stage: &mut Stage) -> anyhow::Result<()> {
    stage.chapter("The network is gone, and work goes on with plain SQL")?;
    stage.stop_server()?;
    stage.sql("phone", "UPDATE job SET status = 'done' WHERE id = 'j-101'")?;
    stage.sql("laptop", "UPDATE job SET notes = 'Igniter replaced, warranty' WHERE id = 'j-101'")?;
    stage.sql("tablet", "DELETE FROM job WHERE id = 'j-105'")?;
    stage.syncline("phone", &["sync", "field.db"], 3)?;
    let status = stage.syncline("phone", &["status", "field.db"], 0)?;
    stage.check("the phone says that one change waits", status["pending"] == 1)?;

    stage.chapter("The network is back")?;
    stage.start_server()?;
    sync_all(stage)?;
    for device in DEVICES {
        let row = stage.one(device, "SELECT status || ', ' || notes FROM job WHERE id = 'j-101'")?;
        stage.check(&format!("the {device} has both edits of job j-101"), row == "done, Igniter replaced, warranty")?;
        let left = stage.one(device, "SELECT (SELECT count(*) FROM job WHERE id = 'j-105') + (SELECT count(*) FROM visit WHERE job = 'j-105')")?;
        stage.check(&format!("job j-105 and its visit are gone from the {device}"), left == "0")?;
    }
    Ok(())
}

/// A rule of the operator's refuses one row; the others are not held up, and a person decides.
fn refuse_and_decide(stage: &mut Stage) -> anyhow::Result<()> {
    stage.chapter("The operator closes October in the server's own database")?;
    stage.sql_at_server(CLOSED)?;
    stage.sql("phone", "INSERT INTO visit VALUES ('v-5', 'j-103', '2026-10-20', 30), ('v-6', 'j-103', '2026-11-20', 60)")?;
    let synced = stage.syncline("phone", &["sync", "field.db"], 4)?;
    let at_server = stage.one_at_server("SELECT group_concat(id) FROM visit WHERE id IN ('v-5', 'v-6')")?;
    stage.check("the visit in November went through", at_server == "v-6")?;
    stage.check("the one in October waits for a decision", synced["parked"] == 1)?;
    let conflicts = stage.syncline("phone", &["conflicts", "field.db"], 0)?;
    let (id, message) = (text(&conflicts[0]["id"]), text(&conflicts[0]["message"]));
    stage.check(&format!("the phone says why: {message}"), message.contains("closed period"))?;
    stage.syncline("phone", &["conflicts", "field.db", "resolve", &id, "--merged", r#"{"day":"2026-11-20"}"#], 0)?;
    stage.syncline("phone", &["sync", "field.db"], 0)?;
    let day = stage.one_at_server("SELECT day FROM visit WHERE id = 'v-5'")?;
    stage.check("with the day put right, it went too", day == "2026-11-20")
}

/// The server's tables are ordinary tables.
fn write_at_the_server(stage: &mut Stage) -> anyhow::Result<()> {
    stage.chapter("Somebody in the office writes to the server's database with plain SQL")?;
    stage.sql_at_server("UPDATE customer SET phone = '+49 40 5550 999' WHERE id = 'c-nord'")?;
    let arrived = |stage: &mut Stage, device| Ok::<_, anyhow::Error>(stage.one(device, "SELECT phone FROM customer WHERE id = 'c-nord'")? == "+49 40 5550 999");
    // The server notices such a write within a second, so a device may have to ask again.
    for _ in 0..20 {
        stage.syncline_quietly("tablet", &["sync", "field.db"])?;
        if arrived(stage, "tablet")? {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    sync_all(stage)?;
    for device in DEVICES {
        let holds = arrived(stage, device)?;
        stage.check(&format!("the new number is on the {device}"), holds)?;
    }
    Ok(())
}

/// All rows of all tables, with their storage classes.
fn compare(stage: &mut Stage) -> anyhow::Result<()> {
    stage.chapter("At the end")?;
    let server = stage.tables_at_server()?;
    for device in DEVICES {
        let equal = stage.tables(device)? == server;
        stage.check(&format!("all {} rows on the {device} equal the server's", server.len()), equal)?;
    }
    Ok(())
}

/// Twice: what the last device brings is news to the first.
fn sync_all(stage: &mut Stage) -> anyhow::Result<()> {
    for device in DEVICES {
        stage.syncline(device, &["sync", "field.db"], 0)?;
    }
    for device in DEVICES {
        stage.syncline_quietly(device, &["sync", "field.db"])?;
    }
    Ok(())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn tell_how_to_go_on(dir: &Path, address: &str) {
    let dir = dir.display();
    say(format!(
        "\nThe files are in {dir}. To go on:
  syncline serve --data {dir}/authority --listen {address}   # in one terminal
  cd {dir}/phone && export SYNCLINE_HOME=$PWD/home          # in another
  sqlite3 field.db \"UPDATE job SET status = 'paid' WHERE id = 'j-101'\"
  syncline sync field.db && syncline status field.db"
    ));
}
