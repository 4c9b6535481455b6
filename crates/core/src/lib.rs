//! The pure part of Syncline: its words, row states and their merge, deltas, frames, schema and protocol.
//!
//! Nothing here does I/O, reads a clock, draws a random number, knows SQL or awaits. The same input gives the same output,
//! on every machine: that is what lets replicas agree without asking each other.

pub mod colset;
pub mod delta;
pub mod digest;
pub mod error;
pub mod frame;
pub mod ids;
pub mod key;
pub mod planted;
pub mod protocol;
pub mod row;
pub mod schema;
pub mod seal;
pub mod state_codec;
pub mod value;
pub mod varint;
pub mod vv;

pub use colset::ColSet;
pub use delta::{Cursor, Delta, DeltaRow, Position, Rows, RowsBuilder, TableRef};
pub use digest::Digest;
pub use error::DecodeError;
pub use ids::*;
pub use key::Key;
pub use protocol::*;
pub use row::{Cell, Dot, RowState};
pub use schema::{Schema, TableDef};
pub use state_codec::Decoded;
pub use value::Value;
pub use vv::Vv;
