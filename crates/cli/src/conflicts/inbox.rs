//! The inbox: rows that wait for a decision, one after another, each with what it was, what it is here and what the server has.
//!
//! Not here: what an answer does (`Database::resolve`). Whatever is answered badly is asked again and changes nothing.

use super::{cell, names, sides_differ, title, why};
use crate::output::{count, plain};
use comfy_table::{ContentArrangement, Table, presets};
use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use syncline::Database;
use syncline_core::Value;
use syncline_replica::{Conflict, Resolution};

const HELP: &str = "  m  keep mine: this device's row is offered to the server again
  s  take the server's row; mine goes
  c  choose column by column, or type a value
  n  next: leave this one for later
  q  quit";

/// What a person answered.
enum Answer {
    Settle(Resolution),
    Next,
    Quit,
}

/// Walks through what waits for a decision. Returns how many were settled, and how many wait now.
pub fn walk(db: &Database, input: &mut impl BufRead, out: &mut impl Write) -> anyhow::Result<(usize, usize)> {
    let mut settled = 0;
    let mut passed: Vec<String> = Vec::new();
    loop {
        // Read anew each time: settling one may settle others, and another process may be syncing.
        let all = db.conflicts()?;
        let Some(conflict) = all.iter().find(|c| !passed.contains(&c.id)) else { return Ok((settled, all.len())) };
        let left = all.iter().filter(|c| !passed.contains(&c.id)).count();
        show(conflict, left, out)?;
        match ask(conflict, input, out)? {
            Answer::Quit => return Ok((settled, all.len())),
            Answer::Next => passed.push(conflict.id.clone()),
            Answer::Settle(how) => match db.resolve(&conflict.id, &how) {
                Ok(()) => {
                    settled += 1;
                    writeln!(out, "settled.")?;
                }
                Err(e) => writeln!(out, "that does not work, nothing has changed: {}", plain(&e.to_string()))?,
            },
        }
    }
}

fn show(conflict: &Conflict, left: usize, out: &mut impl Write) -> anyhow::Result<()> {
    writeln!(out, "\n{}  ({} to decide)", title(conflict), left)?;
    writeln!(out, "{}", plain(&why(conflict)))?;
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["", "column", "before", "here", "server"]);
    let of = |row: &Option<BTreeMap<String, Value>>, name: &String| plain(&cell(row.as_ref().and_then(|row| row.get(name)), 60));
    for name in names(conflict) {
        let mark = if sides_differ(conflict, name) { "*" } else { "" };
        table.add_row([mark.to_owned(), plain(name), of(&conflict.base, name), of(&conflict.local, name), of(&conflict.remote, name)]);
    }
    writeln!(out, "{table}")?;
    for (name, values) in conflict.values.iter().filter(|(_, values)| values.len() > 2) {
        let all: Vec<String> = values.iter().map(|value| cell(Some(value), 60)).collect();
        writeln!(out, "all values of {}: {}", plain(name), plain(&all.join(" | ")))?;
    }
    Ok(())
}

fn ask(conflict: &Conflict, input: &mut impl BufRead, out: &mut impl Write) -> anyhow::Result<Answer> {
    loop {
        let Some(answer) = prompt("[m]ine  [s]erver  [c]hoose  [n]ext  [q]uit  [?] > ", input, out)? else { return Ok(Answer::Quit) };
        match answer.to_lowercase().as_str() {
            "m" | "mine" => return Ok(Answer::Settle(Resolution::Mine)),
            "s" | "server" => return Ok(Answer::Settle(Resolution::Server)),
            "c" | "choose" => match choose(conflict, input, out)? {
                Some(merged) => return Ok(Answer::Settle(Resolution::Merged(merged))),
                None => continue,
            },
            "n" | "next" => return Ok(Answer::Next),
            "q" | "quit" => return Ok(Answer::Quit),
            _ => writeln!(out, "{HELP}")?,
        }
    }
}

/// Asks for each column that differs. `None` if the person goes back.
fn choose(conflict: &Conflict, input: &mut impl BufRead, out: &mut impl Write) -> anyhow::Result<Option<BTreeMap<String, Value>>> {
    let mut merged = BTreeMap::new();
    let of = |row: &Option<BTreeMap<String, Value>>, name: &String| row.as_ref().and_then(|row| row.get(name)).cloned();
    writeln!(out, "Enter keeps mine, `s` takes the server's, `=TEXT` or a JSON value writes that, `b` goes back.")?;
    let differing: Vec<&String> = names(conflict).into_iter().filter(|name| !conflict.refusal.key.contains_key(*name)).collect();
    for name in differing.into_iter().filter(|name| sides_differ(conflict, name) || conflict.remote.is_none()) {
        let (mine, theirs) = (of(&conflict.local, name), of(&conflict.remote, name));
        loop {
            let question = format!("{}: mine {}, server {} > ", plain(name), plain(&cell(mine.as_ref(), 40)), plain(&cell(theirs.as_ref(), 40)));
            let Some(answer) = prompt(&question, input, out)? else { return Ok(None) };
            match (answer.as_str(), &theirs) {
                ("", _) | ("m", _) => break,
                ("b", _) => return Ok(None),
                ("s", Some(value)) => {
                    merged.insert(name.clone(), value.clone());
                    break;
                }
                (text, _) => match typed(text) {
                    Some(value) => {
                        merged.insert(name.clone(), value);
                        break;
                    }
                    None => writeln!(out, "that is no value; write =TEXT, or a number, null, or JSON text in double quotes")?,
                },
            }
        }
    }
    Ok(Some(merged))
}

/// Reads a value as a person types it: `=` and text, or JSON.
fn typed(text: &str) -> Option<Value> {
    match text.strip_prefix('=') {
        Some(text) => Some(Value::Text(text.as_bytes().to_vec())),
        None => serde_json::from_str(text).ok(),
    }
}

/// Asks and reads a line; `None` at the end of the input.
fn prompt(question: &str, input: &mut impl BufRead, out: &mut impl Write) -> anyhow::Result<Option<String>> {
    write!(out, "{question}")?;
    out.flush()?;
    let mut line = String::new();
    Ok((input.read_line(&mut line)? > 0).then(|| line.trim().to_owned()))
}

/// Says what a walk came to.
pub fn summary(settled: usize, left: usize) -> String {
    match (settled, left) {
        (0, 0) => "nothing waits for a decision".into(),
        (0, left) => format!("nothing settled, {} left", count(left as u64, "conflict")),
        (settled, left) => format!("{} settled, {left} left; `syncline sync` takes that to the server", count(settled as u64, "conflict")),
    }
}
