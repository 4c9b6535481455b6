//! `syncline conflicts`: what waits for a decision, and the three outcomes.

mod inbox;

use crate::device::{self, key_text};
use crate::exit::{Exit, failure};
use crate::output::{Output, count, plain, say};
use crate::when;
use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::path::PathBuf;
use syncline_core::{Reason, Value};
use syncline_replica::{Conflict, Resolution};

/// Lists, shows and settles rows that wait for a decision; on a terminal asks about one after another
#[derive(clap::Args)]
#[command(after_help = "Example:
  syncline conflicts notes.db
  syncline conflicts notes.db resolve 3f2a91 --merged '{\"day\":\"2026-11-20\"}'")]
pub struct Args {
    /// The database
    db: PathBuf,
    /// Only lists them, also on a terminal
    #[arg(long)]
    list: bool,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(clap::Subcommand)]
enum Action {
    Show(ShowArgs),
    Resolve(ResolveArgs),
}

/// Shows one with all its columns
#[derive(clap::Args)]
#[command(after_help = "Example:
  syncline conflicts notes.db show 3f2a91")]
struct ShowArgs {
    /// Its id; the first six digits do, where they mean one
    id: String,
}

/// Settles one; an invalid resolution changes nothing
#[derive(clap::Args)]
#[command(after_help = "Example:
  syncline conflicts notes.db resolve 3f2a91 --server                        # take the server's row
  syncline conflicts notes.db resolve 3f2a91 --mine                          # offer mine again
  syncline conflicts notes.db resolve 3f2a91 --merged '{\"day\":\"2026-11-20\"}'  # these columns so, the others mine")]
struct ResolveArgs {
    /// Its id; the first six digits do, where they mean one
    id: String,
    #[command(flatten)]
    how: How,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct How {
    /// The server's row becomes this device's
    #[arg(long)]
    server: bool,
    /// The local row is offered again
    #[arg(long)]
    mine: bool,
    /// Columns and their values as a JSON object; columns that are not named stay local
    #[arg(long, value_name = "JSON", value_parser = parse_merged)]
    merged: Option<Merged>,
}

#[derive(Clone)]
struct Merged(BTreeMap<String, Value>);

fn parse_merged(text: &str) -> Result<Merged, String> {
    serde_json::from_str(text).map(Merged).map_err(|e| format!("it is no JSON object of columns and values: {e}"))
}

/// Lists, shows or settles.
pub fn run(args: Args, out: Output) -> anyhow::Result<Exit> {
    let db = device::open(&args.db)?;
    let all = db.conflicts()?;
    match args.action {
        None if !args.list && !out.json && !all.is_empty() && std::io::stdin().is_terminal() && std::io::stdout().is_terminal() => {
            let (settled, left) = inbox::walk(&db, &mut std::io::stdin().lock(), &mut std::io::stdout().lock())?;
            say(inbox::summary(settled, left));
            Ok(Exit::Done)
        }
        None => list(&all, out),
        Some(Action::Show(show)) => show_one(find(&all, &show.id)?, out),
        Some(Action::Resolve(resolve)) => {
            let conflict = find(&all, &resolve.id)?;
            let how = match resolve.how {
                How { server: true, .. } => Resolution::Server,
                How { merged: Some(Merged(columns)), .. } => Resolution::Merged(columns),
                _ => Resolution::Mine,
            };
            db.resolve(&conflict.id, &how)?;
            let left = db.conflicts()?.len();
            say(format!("settled here, {} left; `syncline sync` takes it to the server", count(left as u64, "conflict")));
            if out.json {
                out.document(&serde_json::json!({ "resolved": conflict.id, "left": left }))?;
            }
            Ok(Exit::Done)
        }
    }
}

/// Finds a conflict by its id or an unambiguous beginning of it.
fn find<'a>(all: &'a [Conflict], id: &str) -> anyhow::Result<&'a Conflict> {
    let matches: Vec<&Conflict> = all.iter().filter(|c| c.id == id || (id.len() >= 4 && c.id.starts_with(id))).collect();
    match matches[..] {
        [one] => Ok(one),
        [] => Err(failure(Exit::Usage, format!("no conflict has the id `{id}`; `syncline conflicts DB` lists them"))),
        _ => Err(failure(Exit::Usage, format!("{} conflicts have ids that begin with `{id}`; give more digits", matches.len()))),
    }
}

fn list(all: &[Conflict], out: Output) -> anyhow::Result<Exit> {
    if out.json {
        out.document(&all)?;
        return Ok(Exit::Done);
    }
    if all.is_empty() {
        say("nothing waits for a decision");
        return Ok(Exit::Done);
    }
    let rows = all.iter().map(|c| {
        let (mine, theirs) = sides(c);
        [c.id[..c.id.len().min(8)].to_owned(), c.refusal.table.clone(), key_text(&c.refusal.key), c.refusal.op.clone(), why(c), mine, theirs]
    });
    out.table(["id", "table", "key", "change", "why", "here", "server"], rows)?;
    say("settle one with `syncline conflicts DB resolve ID --server | --mine | --merged JSON`, or correct the row in its table");
    Ok(Exit::Done)
}

/// Returns the reason in words, and what is known of this row.
fn why(conflict: &Conflict) -> String {
    let reason = match conflict.refusal.reason {
        Reason::Version => "the row has changed at the server",
        Reason::KeyCollision => "another row has this key",
        Reason::Unique => "a value that must be unique is taken",
        Reason::ForeignKey => "it points at a row that is not there",
        Reason::Check => "a check of the table does not hold",
        Reason::NotNull => "a value is missing",
        Reason::Type => "a value is of the wrong type",
        Reason::Rule => "a rule of the server's",
        Reason::Forbidden => "this device may not do that",
        Reason::TooLarge => "the row is too large",
        Reason::Ask => "somebody must decide",
    };
    format!("{reason}: {}", conflict.refusal.message)
}

/// Returns what differs, side by side: one column a line.
fn sides(conflict: &Conflict) -> (String, String) {
    let (Some(mine), Some(theirs)) = (&conflict.local, &conflict.remote) else {
        return (whole(&conflict.local), if conflict.refusal.server_row_deleted { "deleted".into() } else { whole(&conflict.remote) });
    };
    let differ = names(conflict).into_iter().filter(|name| mine.get(*name) != theirs.get(*name));
    let lines: Vec<(String, String)> = differ.map(|name| (line(name, mine.get(name)), line(name, theirs.get(name)))).collect();
    let side = |of: fn(&(String, String)) -> &str| lines.iter().map(of).collect::<Vec<_>>().join("\n");
    (side(|l| &l.0), side(|l| &l.1))
}

fn whole(row: &Option<BTreeMap<String, Value>>) -> String {
    match row {
        None => "no such row".into(),
        Some(row) => row.iter().map(|(name, value)| line(name, Some(value))).collect::<Vec<_>>().join("\n"),
    }
}

fn line(name: &str, value: Option<&Value>) -> String {
    format!("{name} = {}", cell(value, 40))
}

/// Whether a column is not the same here and at the server.
fn sides_differ(conflict: &Conflict, name: &String) -> bool {
    let of = |row: &Option<BTreeMap<String, Value>>| row.as_ref().and_then(|row| row.get(name)).cloned();
    of(&conflict.local) != of(&conflict.remote)
}

/// Returns what happened to which row, and since when it waits.
fn title(conflict: &Conflict) -> String {
    let refusal = &conflict.refusal;
    let key = plain(&key_text(&refusal.key));
    let since = when::told(conflict.since, when::now_ms());
    format!("{} of {} {key}: {} since {since}, reason {}", refusal.op, plain(&refusal.table), conflict.state, refusal.reason.word())
}

/// Returns a value as text, cut after so many characters.
fn cell(value: Option<&Value>, most: usize) -> String {
    let text = value.map_or_else(|| "-".into(), Value::to_string);
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

fn names(conflict: &Conflict) -> BTreeSet<&String> {
    [&conflict.base, &conflict.local, &conflict.remote].into_iter().flatten().flat_map(BTreeMap::keys).collect()
}

fn show_one(conflict: &Conflict, out: Output) -> anyhow::Result<Exit> {
    if out.json {
        out.document(conflict)?;
        return Ok(Exit::Done);
    }
    out.line(title(conflict))?;
    out.line(plain(&why(conflict)))?;
    let of = |row: &Option<BTreeMap<String, Value>>, name: &String| cell(row.as_ref().and_then(|row| row.get(name)), 200);
    let rows = names(conflict).into_iter().map(|name| [name.clone(), of(&conflict.base, name), of(&conflict.local, name), of(&conflict.remote, name)]);
    out.table(["column", "before", "here", "server"], rows)?;
    for (name, values) in conflict.values.iter().filter(|(_, values)| values.len() > 2) {
        let all: Vec<String> = values.iter().map(|value| cell(Some(value), 60)).collect();
        out.line(format!("{}: {}", plain(name), plain(&all.join(" | "))))?;
    }
    Ok(Exit::Done)
}
