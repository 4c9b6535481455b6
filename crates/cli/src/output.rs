//! How commands speak: results on stdout (with `--json` one document, streams one object a line), messages for people on stderr.

use crate::exit::Exit;
use anyhow::Context;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use std::io::{IsTerminal, Write};

/// Where results go, and in which form.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// JSON rather than text.
    pub json: bool,
}

impl Output {
    /// Writes one JSON document, or one object of a stream, on a line of its own.
    pub fn document(&self, value: &impl Serialize) -> anyhow::Result<()> {
        self.line(serde_json::to_string(value).context("writing JSON")?)
    }

    /// Writes the document of a command that failed.
    pub fn failure(&self, exit: Exit, message: &str) -> anyhow::Result<()> {
        self.document(&serde_json::json!({ "outcome": exit.word(), "error": message, "exit_code": exit as u8 }))
    }

    /// Writes a line for people and flushes it: who reads from a pipe must not wait for a buffer to fill.
    pub fn line(&self, text: impl AsRef<str>) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", text.as_ref())?;
        Ok(out.flush()?)
    }

    /// Writes a table; on a terminal it is as wide as that, in a pipe as wide as it needs.
    pub fn table<const N: usize>(&self, head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> anyhow::Result<()> {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_BORDERS_ONLY).set_header(head);
        if std::io::stdout().is_terminal() {
            table.set_content_arrangement(ContentArrangement::Dynamic);
        }
        for row in rows {
            table.add_row(row.map(|cell| plain(&cell)));
        }
        self.line(table.to_string())
    }
}

/// Tells a person something on stderr. A closed stderr is no reason to stop.
pub fn say(text: impl AsRef<str>) {
    let _ = writeln!(std::io::stderr().lock(), "{}", text.as_ref());
}

/// Makes text safe for a terminal: values come from other devices, and must not move its cursor.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// Returns "1 row" or "3 rows".
pub fn count(n: u64, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") }
}

/// Returns bytes as people read them.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..1_048_576 => format!("{} KiB", bytes.div_ceil(1024)),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_speak_to_the_terminal() {
        assert_eq!(plain("a\u{1b}[2Jb\tc\nd"), "a\u{fffd}[2Jb\u{fffd}c\nd");
    }
}
