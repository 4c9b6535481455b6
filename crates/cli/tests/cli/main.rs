//! The `syncline` program as a script sees it: processes, exit codes, JSON, files.

#[cfg(unix)]
mod asleep;
mod bounded;
mod broken;
mod chaos;
mod conflicts;
mod devices;
mod doctor;
mod faults;
#[cfg(target_os = "linux")]
mod full;
mod hard;
mod identity;
mod issuer;
mod leaving;
mod local;
mod migrations;
mod office;
mod policies;
mod postgres;
mod priority;
#[cfg(target_os = "linux")]
mod progress;
mod proxy;
mod reading;
mod scopes;
mod sharing;
mod story;
mod support;
mod sync;
mod tls;
mod uploads;
mod usage;
mod waking;

/// Where the authority of every test keeps its rows.
const POSTGRES: bool = false;
