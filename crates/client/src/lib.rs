//! Syncline on a device: what an app embeds.
//!
//! An app opens its own SQLite file with [`Database`], reads and writes it as always, and calls [`Database::sync_once`] or
//! [`Database::start_sync`]. Nothing here is needed to write: capture is triggers in the file, so any program may.
//!
//! ```
//! # fn main() -> Result<(), syncline::Error> {
//! # let dir = tempfile::tempdir().map_err(|e| syncline::Error::Refused(e.to_string()))?;
//! # let path = dir.path().join("app.db");
//! # syncline::rusqlite::Connection::open(&path).and_then(|c| c.execute_batch("CREATE TABLE note(id TEXT PRIMARY KEY, body TEXT)")).map_err(syncline::Error::app)?;
//! use syncline::{Database, Options, SyncOptions};
//! Database::init(&path, &SyncOptions::default())?;
//! let db = Database::open(&path, Options::default())?;
//! db.write(|tx| tx.execute("INSERT INTO note VALUES('a', 'hello')", []))?;
//! assert_eq!(db.status()?.captured, 1);
//! # Ok(()) }
//! ```
//!
//! Modules that are hidden in this documentation serve the `syncline` binary and the simulator, and promise nothing to apps.

#[doc(hidden)]
pub mod anchor;
pub mod attach;
pub mod background;
mod catalog;
pub mod database;
pub mod detach;
pub mod devices;
pub mod doctor;
pub mod error;
pub mod event;
pub mod explain;
#[doc(hidden)]
pub mod identity;
pub mod link;
mod lock;
pub mod machine;
pub mod members;
pub mod observe;
mod poll;
pub mod presence;
#[doc(hidden)]
pub mod pulse;
pub mod read;
mod resolve;
pub mod room;
pub mod schema;
pub mod sealed;
#[doc(hidden)]
pub mod session;
pub mod status;
pub mod sync;
#[doc(hidden)]
pub mod ticker;
mod upload;

pub use attach::Attached;
pub use background::SyncHandle;
pub use database::{Database, Options};
pub use detach::Detach;
pub use doctor::{DoctorReport, Finding};
pub use error::Error;
pub use event::SyncEvent;
pub use explain::{ExplainedColumn, ExplainedTable};
pub use observe::{Change, ChangedKey, Origin, Rows};
pub use room::Room;
pub use schema::SchemaReport;
pub use session::Summary;
pub use status::{LastError, Progress, ScopeStatus, State, Status, UploadProgress};
pub use sync::{Outcome, SyncReport};

/// The SQLite that Syncline is built with, for the app's own SQL.
pub use rusqlite;
pub use syncline_core::{Invitation, Member, MemberRole, ScopeInfo, Value};
pub use syncline_replica::config::Config;
pub use syncline_replica::schema::{Introspection, SyncOptions};
pub use syncline_replica::{Conflict, Pending, Resolution};
