//! The `syncline` command: one file per command, all of one shape: its arguments, and `run`, which returns how it ended.
//!
//! Nothing here knows how rows are stored, merged or sent; that is the libraries'. They in turn never print and never end the
//! process: only this crate does.

mod admin;
mod attach;
mod bench;
mod conflicts;
mod demo;
mod detach;
mod device;
mod devices;
mod doctor;
mod events;
mod exit;
mod explain;
mod init;
mod interrupt;
mod journal;
#[cfg(test)]
mod messages;
mod output;
mod pending;
mod progress;
mod read;
mod resync;
mod schema;
mod scopes;
mod serve;
mod status;
mod sync;
mod watch;
mod when;

use clap::Parser;
use exit::{Exit, exit_of};
use output::{Output, say};
use std::process::ExitCode;

/// Keeps the same SQLite tables on every device, offline first
#[derive(Parser)]
#[command(
    name = "syncline",
    version,
    max_term_width = 100,
    after_help = "Exit codes:
  0 done, everything confirmed and up to date
  1 internal error
  2 usage, or refused input
  3 offline or busy: work is kept, try later
  4 done, but something waits for a decision
  5 refused: not authorised, revoked, upgrade required
  6 will not open: damage, partial restore

SYNCLINE_HOME is where device keys live (default: the platform's data directory).

Example:
  syncline demo"
)]
struct Cli {
    /// One JSON document on stdout; streams give one object a line
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Init(init::Args),
    Explain(explain::Args),
    Attach(attach::Args),
    Sync(sync::Args),
    Status(status::Args),
    Pending(pending::Args),
    Conflicts(conflicts::Args),
    Journal(journal::Args),
    Events(events::Args),
    Watch(watch::Args),
    Doctor(doctor::Args),
    Resync(resync::Args),
    Schema(schema::Args),
    Devices(devices::Args),
    Read(read::Args),
    Scopes(scopes::Args),
    Detach(detach::Args),
    Serve(serve::Args),
    Admin(admin::Args),
    Demo(demo::Args),
    Bench(bench::Args),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(refused) => return misused(&refused),
    };
    let out = Output { json: cli.json };
    let ended = match cli.command {
        Command::Init(args) => init::run(args, out),
        Command::Explain(args) => explain::run(args, out),
        Command::Attach(args) => attach::run(args, out),
        Command::Sync(args) => sync::run(args, out),
        Command::Status(args) => status::run(args, out),
        Command::Pending(args) => pending::run(args, out),
        Command::Conflicts(args) => conflicts::run(args, out),
        Command::Journal(args) => journal::run(args, out),
        Command::Events(args) => events::run(args, out),
        Command::Watch(args) => watch::run(args, out),
        Command::Doctor(args) => doctor::run(args, out),
        Command::Resync(args) => resync::run(args, out),
        Command::Schema(args) => schema::run(args, out),
        Command::Read(args) => read::run(args, out),
        Command::Devices(args) => devices::run(args, out),
        Command::Scopes(args) => scopes::run(args, out),
        Command::Detach(args) => detach::run(args, out),
        Command::Serve(args) => serve::run(args, out),
        Command::Admin(args) => admin::run(args, out),
        Command::Demo(args) => demo::run(args, out),
        Command::Bench(args) => bench::run(args, out),
    };
    ended.unwrap_or_else(|error| report(&error, out)).into()
}

/// Tells what is wrong with the arguments; help and the version, too, come this way.
fn misused(refused: &clap::Error) -> ExitCode {
    let _ = refused.print();
    if !refused.use_stderr() {
        return Exit::Done.into();
    }
    if std::env::args_os().any(|arg| arg == "--json") {
        let text = refused.render().to_string();
        let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        let _ = Output { json: true }.failure(Exit::Usage, message);
    }
    Exit::Usage.into()
}

/// Tells why a command failed, and returns the exit code of that.
fn report(error: &anyhow::Error, out: Output) -> Exit {
    // Whoever reads our output has seen enough (`| head`): that is no failure.
    if error.chain().filter_map(|e| e.downcast_ref::<std::io::Error>()).any(|e| e.kind() == std::io::ErrorKind::BrokenPipe) {
        return Exit::Done;
    }
    let exit = exit_of(error);
    let message = output::plain(&format!("{error:#}{}", exit::hint(error)));
    say(format!("syncline: {message}"));
    if out.json {
        let _ = out.failure(exit, &message);
    }
    exit
}
