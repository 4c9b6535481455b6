//! Rows in SQLite: capture, absorb, read a delta, apply a delta. Devices and the embedded authority use it alike.
//!
//! The way of a write: [`capture`] notes it, [`absorb`] stamps it, [`push`] freezes it, the authority merges it, [`read`]
//! finds it again as part of a delta, [`apply`] makes it visible. Nothing here opens a socket, reads a clock or draws a
//! random number: time and randomness come with each call in [`Env`].

pub mod absorb;
pub mod account_tables;
pub mod apart;
pub mod apply;
pub mod ask;
mod behind;
pub mod bind;
pub mod capture;
pub mod carry;
pub mod clash;
pub mod config;
pub mod conflicts;
pub mod error;
pub mod exchange;
pub mod family;
pub mod homes;
pub mod inbox;
pub mod journal;
pub mod open;
pub mod policies;
pub mod push;
pub mod read;
pub mod registry;
pub mod rows;
pub mod schema;
pub mod scopes;
pub mod shelf;
pub(crate) mod together;
pub mod trouble;
pub mod tx;

pub use absorb::{Absorbed, number};
pub use apply::{Applied, Incoming, Translation};
pub use clash::Clash;
pub use conflicts::{Conflict, Pending, Resolution, operation};
pub use error::{Doing, Error, Result};
pub use exchange::Taken;
pub use journal::Journalled;
pub use read::{Page, Reading};
pub use registry::{Registry, Table};
pub use rows::{Kind, RowRecord};
pub use trouble::Trouble;
pub use tx::{Env, Replica, Role, Scope, Tx};
