//! What a command's end means to a script: the exit codes of the contract, and which error has which.

use syncline_replica::Trouble;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything confirmed and up to date.
    Done = 0,
    /// Something broke inside.
    Internal = 1,
    /// Wrong usage, or input that was refused.
    Usage = 2,
    /// Offline or busy: work is kept, try later.
    Later = 3,
    /// Done, but something waits for a decision.
    Decision = 4,
    /// Not authorised, revoked, or too old.
    Refused = 5,
    /// The file does not open: damage, partial restore.
    Damaged = 6,
}

impl Exit {
    /// Returns the code that the client library names by its number.
    pub fn from_code(code: u8) -> Exit {
        [Exit::Done, Exit::Internal, Exit::Usage, Exit::Later, Exit::Decision, Exit::Refused, Exit::Damaged]
            .into_iter()
            .find(|exit| *exit as u8 == code)
            .unwrap_or(Exit::Internal)
    }

    /// Returns the word that `--json` gives for an error that ends like this.
    pub fn word(self) -> &'static str {
        match self {
            Exit::Done => "done",
            Exit::Internal => "internal",
            Exit::Usage => "refused_input",
            Exit::Later => "later",
            Exit::Decision => "needs_decision",
            Exit::Refused => "refused",
            Exit::Damaged => "damaged",
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        std::process::ExitCode::from(exit as u8)
    }
}

/// Returns what to do about an error that comes without a word on that, or not in the words of this program's options.
pub fn hint(error: &anyhow::Error) -> &'static str {
    let of = |cause: &(dyn std::error::Error + 'static)| match (cause.downcast_ref::<rusqlite::Error>(), cause.downcast_ref::<syncline::Error>()) {
        (Some(e), _) => Some(Trouble::of(e).hint()),
        (_, Some(e)) => Some(advice(&e.code(), &e.to_string())),
        _ => None,
    };
    error.chain().find_map(of).unwrap_or_default()
}

/// Returns which option helps against an error of the client library.
pub fn advice(code: &str, message: &str) -> &'static str {
    match code {
        "bad_url" if message.contains("plain http") => " with --insecure-http",
        "bad_url" if !message.contains("certificate") => "; an address is like https://sync.example.org, or http://127.0.0.1:4840 on this machine",
        "not_syncline" if message.contains("UnknownIssuer") => "; for a certificate of your own CA, give --ca-file",
        _ => "",
    }
}

/// An error that knows its exit code where it is made.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    message: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Makes an error that ends with this code; the message says what to do next.
pub fn failure(exit: Exit, message: impl Into<String>) -> anyhow::Error {
    Failure { exit, message: message.into() }.into()
}

/// Returns the exit code of an error: that of the outermost cause that is known here.
pub fn exit_of(error: &anyhow::Error) -> Exit {
    error.chain().find_map(known).unwrap_or(Exit::Internal)
}

fn known(cause: &(dyn std::error::Error + 'static)) -> Option<Exit> {
    if let Some(Failure { exit, .. }) = cause.downcast_ref() {
        Some(*exit)
    } else if let Some(e) = cause.downcast_ref::<syncline::Error>() {
        Some(Exit::from_code(e.exit_code()))
    } else if let Some(e) = cause.downcast_ref::<syncline_server::ApiError>() {
        Some(of_code(e.code()))
    } else if let Some(e) = cause.downcast_ref::<syncline_server::OpenError>() {
        Some(of_authority(e))
    } else {
        cause.downcast_ref::<rusqlite::Error>().map(of_sqlite)
    }
}

fn of_authority(error: &syncline_server::OpenError) -> Exit {
    use syncline_server::OpenError::*;
    match error {
        Directory(..) | Url(_) => Exit::Usage,
        InUse(_) => Exit::Later,
        Database(..) => Exit::Internal,
        Sqlite(_, e) => of_sqlite(e),
        Authority(_, e) => of_code(e.code()),
        Damaged(..) => Exit::Damaged,
    }
}

/// What the operator's own commands are refused with.
fn of_code(code: &str) -> Exit {
    match code {
        "unauthorized" | "device_revoked" | "forbidden" | "upgrade_required" => Exit::Refused,
        "bad_request" | "too_large" | "schema_behind" | "clock_ahead" => Exit::Usage,
        "rate_limited" | "quota_exceeded" | "storage_full" | "unavailable" => Exit::Later,
        _ => Exit::Internal,
    }
}

fn of_sqlite(error: &rusqlite::Error) -> Exit {
    match Trouble::of(error) {
        Trouble::Damage => Exit::Damaged,
        Trouble::Busy | Trouble::Full | Trouble::Disk => Exit::Later,
        Trouble::NotWritable => Exit::Usage,
        Trouble::Other => Exit::Internal,
    }
}
