//! Bars for long work: on stderr, and only where a person at a terminal sees them.

use crate::output::Output;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::Duration;

/// Returns a bar that says what is being done and for how long, until its length is known; hidden in pipes and with `--json`.
pub fn bar(out: Output, doing: &'static str) -> ProgressBar {
    if out.json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})").unwrap_or_else(|_| ProgressStyle::default_spinner());
    let bar = ProgressBar::new_spinner().with_style(style).with_message(doing);
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// Shows `done` of `all` rows, and about how long the rest takes.
pub fn show(bar: &ProgressBar, doing: &'static str, done: u64, all: u64) {
    show_as(bar, "{msg} {wide_bar} {human_pos}/{human_len} rows, {eta} left", doing, done, all);
}

/// Shows `done` of `all` bytes, and about how long the rest takes.
pub fn show_bytes(bar: &ProgressBar, doing: &'static str, done: u64, all: u64) {
    show_as(bar, "{msg} {wide_bar} {bytes}/{total_bytes}, {eta} left", doing, done, all);
}

fn show_as(bar: &ProgressBar, template: &str, doing: &'static str, done: u64, all: u64) {
    // A sync goes from one to the other and back; a bar that begins anew knows no speed yet.
    if bar.length().is_none() || bar.message() != doing {
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.reset_eta();
    }
    bar.set_length(all);
    bar.set_position(done);
    bar.set_message(doing);
}
