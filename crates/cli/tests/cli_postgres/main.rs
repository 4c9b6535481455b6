//! The same tests as `cli`, by name, with the authority in PostgreSQL.

// What they share has more than these need.
#![allow(dead_code)]

mod adopted;
#[path = "../cli/chaos.rs"]
mod chaos;
mod cluster;
#[path = "../cli/conflicts.rs"]
mod conflicts;
#[path = "../cli/devices.rs"]
mod devices;
#[path = "../cli/hard.rs"]
mod hard;
#[path = "../cli/policies.rs"]
mod policies;
#[path = "../cli/postgres.rs"]
mod postgres;
mod restored;
mod secured;
// Some of what these offer is for tests of `cli` alone.
#[allow(dead_code)]
#[path = "../cli/proxy.rs"]
mod proxy;
#[path = "../cli/scopes.rs"]
mod scopes;
#[path = "../cli/sharing.rs"]
mod sharing;
mod storm;
#[allow(dead_code)]
#[path = "../cli/support.rs"]
mod support;
#[path = "../cli/sync.rs"]
mod sync;

/// Where the authority of every test keeps its rows.
const POSTGRES: bool = true;
