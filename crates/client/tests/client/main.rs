//! The client crate from outside, as an app uses it.

mod database;
mod end_to_end;
mod machine;
mod networks;
mod observe;
mod pulse;
mod resolve;
mod status;
mod support;
