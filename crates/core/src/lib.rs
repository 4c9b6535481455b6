//! The pure part of Syncline: its words, row states and their merge, deltas, frames, schema and protocol.
//!
//! Nothing here does I/O, reads a clock, draws a random number, knows SQL or awaits. The same input gives the same output,
//! on every machine: that is what lets replicas agree without asking each other.

pub mod colset;
pub mod delta;
pub mod digest;
pub mod elements;
pub mod error;
pub mod extra;
pub mod frame;
pub mod heads;
pub mod ids;
pub mod key;
pub mod membership;
pub mod order;
pub mod parts;
pub mod planted;
pub mod policy;
pub mod protocol;
pub mod row;
pub mod schema;
pub mod seal;
pub mod state_codec;
pub mod text;
pub mod value;
pub mod varint;
pub mod vv;
mod write;

pub use colset::ColSet;
pub use delta::{Cursor, Delta, DeltaRow, Position, Rows, RowsBuilder, TableRef};
pub use digest::Digest;
pub use error::DecodeError;
pub use extra::Extra;
pub use heads::{Head, Heads};
pub use ids::*;
pub use key::Key;
pub use membership::{AcceptInvite, CreateScope, Invitation, Invite, Member, MemberRole, ScopeInfo, SetRole};
pub use policy::{Policies, Policy};
pub use protocol::*;
pub use row::{Cell, Dot, Lost, LostReason, Merged, RowState};
pub use schema::{Schema, TableDef};
pub use state_codec::Decoded;
pub use value::Value;
pub use vv::Vv;
