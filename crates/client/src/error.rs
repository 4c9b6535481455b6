//! What an app is told when something cannot be done. What became of a sync is a `SyncReport`, not an error.

use crate::identity::IdentityError;
use crate::link::LinkError;
use std::io::ErrorKind;
use std::path::PathBuf;
use syncline_replica::Trouble;

/// Why a database could not do what it was asked. After each of them the app's data and its unsynced work are unharmed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The replica could not.
    #[error(transparent)]
    Replica(#[from] syncline_replica::Error),
    /// SQLite refused or failed.
    #[error("{doing}: {cause}{}", Trouble::of(cause).hint())]
    Sqlite {
        /// What was being done.
        doing: &'static str,
        /// SQLite's word.
        cause: rusqlite::Error,
    },
    /// The device's key or anchor cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// No answer from the authority.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A file cannot be read or written.
    #[error("{doing} {}: {cause}{}", path.display(), hint(cause.kind()))]
    Io {
        /// What was being done.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system says.
        cause: std::io::Error,
    },
    /// There is no such file.
    #[error("there is no database at {}; check the path", .0.display())]
    Missing(PathBuf),
    /// The database belongs to no account yet.
    #[error("this database is not attached to a server; run `syncline attach` with the server's address and a token")]
    NotAttached,
    /// The file is a copy, or its key is gone.
    #[error("this copy has no device key; run attach again; work is kept")]
    NoKey,
    /// The app is changing its tables.
    #[error("a migration of this app is under way since `schema begin`; `syncline schema commit` ends it, then sync goes on. Work is kept")]
    Migrating,
    /// Another process or thread is syncing this database.
    #[error("another process is syncing this database; work is kept, try again in a moment")]
    Busy,
    /// Work would be lost.
    #[error("{0} rows here have not reached the server; sync first, or say what to do with them (export or discard)")]
    Unsynced(u64),
    /// What was asked for cannot be done; in words, with what to do.
    #[error("{0}")]
    Refused(String),
}

impl Error {
    /// Makes an error of the app's own SQL.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
    /// # fn main() -> Result<(), syncline::Error> {
    /// # let (dir, db) = notes();
    /// let count: i64 = db.connection()?.query_row("SELECT count(*) FROM note", [], |r| r.get(0)).map_err(syncline::Error::app)?;
    /// assert_eq!(count, 0);
    /// # Ok(()) }
    /// ```
    pub fn app(cause: rusqlite::Error) -> Error {
        Error::Sqlite { doing: "running the app's SQL", cause }
    }

    /// Returns the code that programs branch on, as events and `status` show it.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
    /// # fn main() -> Result<(), syncline::Error> {
    /// # let (dir, db) = notes();
    /// let not_yet = db.attach("nowhere", "token", "laptop").unwrap_err();
    /// assert_eq!(not_yet.code(), "bad_url");
    /// # Ok(()) }
    /// ```
    pub fn code(&self) -> String {
        match self {
            Error::Link(e) => e.code(),
            Error::NoKey => "no_key",
            Error::NotAttached => "not_attached",
            Error::Migrating => "migrating",
            Error::Busy => "busy",
            Error::Unsynced(_) => "unsynced",
            Error::Missing(_) => "missing",
            Error::Identity(IdentityError::Io { cause, .. }) | Error::Io { cause, .. } => match cause.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "disk_full",
                _ => "io",
            },
            Error::Identity(IdentityError::NoHome) => "io",
            Error::Identity(IdentityError::Damaged(_)) => "damaged",
            Error::Identity(IdentityError::Random(_)) => "internal",
            Error::Refused(_) => "refused",
            Error::Replica(syncline_replica::Error::NotInitialised) => "not_initialised",
            Error::Replica(syncline_replica::Error::Format(..)) => "format",
            Error::Replica(syncline_replica::Error::Schema(_) | syncline_replica::Error::Refused(_)) => "refused",
            Error::Sqlite { cause, .. } => code_of(Trouble::of(cause)),
            Error::Replica(e) => code_of(e.trouble()),
        }
        .into()
    }

    /// Returns the exit code of a command that ends with this: docs/cli.md, "Exit codes".
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
    /// # fn main() -> Result<(), syncline::Error> {
    /// # let (dir, db) = notes();
    /// let not_yet = db.attach("nowhere", "token", "laptop").unwrap_err();
    /// assert_eq!(not_yet.exit_code(), 2);
    /// # Ok(()) }
    /// ```
    pub fn exit_code(&self) -> u8 {
        match self.code().as_str() {
            _ if matches!(self, Error::Link(e) if e.is_network()) => 3,
            "busy" | "disk_full" | "disk" | "migrating" => 3,
            "rate_limited" | "unavailable" | "storage_full" | "clock_ahead" | "stale_attempt" | "bundle_gap" | "source_reused" | "history_changed" => 3,
            "no_key" | "unauthorized" | "device_revoked" | "forbidden" | "upgrade_required" | "quota_exceeded" | "schema_behind" => 5,
            "damaged" | "format" => 6,
            "refused" | "missing" | "not_writable" | "io" | "not_attached" | "not_initialised" | "bad_url" | "unsynced" | "too_large" | "bad_request" => 2,
            _ if matches!(self, Error::Link(LinkError::Api(_))) => 3,
            _ => 1,
        }
    }

    /// Returns after how many seconds the authority wants to hear from this device again, if it said so.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
    /// # fn main() -> Result<(), syncline::Error> {
    /// # let (dir, db) = notes();
    /// assert_eq!(syncline::Error::Busy.retry_after_s(), None);
    /// # Ok(()) }
    /// ```
    pub fn retry_after_s(&self) -> Option<u64> {
        match self {
            Error::Link(LinkError::Api(body)) => body.retry_after,
            _ => None,
        }
    }
}

fn code_of(trouble: Trouble) -> &'static str {
    match trouble {
        Trouble::Busy => "busy",
        Trouble::Full => "disk_full",
        Trouble::Disk => "disk",
        Trouble::Damage => "damaged",
        Trouble::NotWritable => "not_writable",
        Trouble::Other => "internal",
    }
}

fn hint(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "; make room and try again",
        ErrorKind::AlreadyExists => "; name a file that is not there yet",
        _ => "; check the path, and that this user may write there",
    }
}

/// Adds what was being done to SQLite's errors.
pub(crate) trait Doing<T> {
    fn doing(self, what: &'static str) -> Result<T, Error>;
}

impl<T> Doing<T> for rusqlite::Result<T> {
    fn doing(self, doing: &'static str) -> Result<T, Error> {
        self.map_err(|cause| Error::Sqlite { doing, cause })
    }
}
