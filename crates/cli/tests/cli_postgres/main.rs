//! The same tests as `cli`, by name, with the authority in PostgreSQL.
//!
//! Left out is what needs no server (`local`, `leaving` and `doctor` are about a device's file alone), and what is about the embedded
//! authority's file: `full` (`full_database` has it for a database), `identity` (`restored`), `office` (`conformance/servers.rs`), `tls`, `usage`.

// What they share has more than these need.
#![allow(dead_code)]

mod adopted;
#[cfg(unix)]
#[path = "../cli/asleep.rs"]
mod asleep;
#[path = "../cli/chaos.rs"]
mod chaos;
mod cluster;
#[path = "../cli/conflicts.rs"]
mod conflicts;
#[path = "../cli/devices.rs"]
mod devices;
#[path = "../cli/faults.rs"]
mod faults;
#[cfg(target_os = "linux")]
mod full_database;
#[path = "../cli/hard.rs"]
mod hard;
#[path = "../cli/migrations.rs"]
mod migrations;
#[path = "../cli/policies.rs"]
mod policies;
#[path = "../cli/postgres.rs"]
mod postgres;
#[path = "../cli/priority.rs"]
mod priority;
#[path = "../cli/proxy.rs"]
mod proxy;
#[path = "../cli/reading.rs"]
mod reading;
mod restored;
#[path = "../cli/scopes.rs"]
mod scopes;
mod secured;
#[path = "../cli/sharing.rs"]
mod sharing;
mod storm;
#[path = "../cli/story.rs"]
mod story;
#[path = "../cli/support.rs"]
mod support;
#[path = "../cli/sync.rs"]
mod sync;
#[path = "../cli/uploads.rs"]
mod uploads;

/// Where the authority of every test keeps its rows.
const POSTGRES: bool = true;
