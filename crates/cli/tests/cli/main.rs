//! The `syncline` program as a script sees it: processes, exit codes, JSON, files.

mod chaos;
mod conflicts;
mod hard;
mod local;
mod postgres;
mod proxy;
mod support;
mod sync;
mod usage;

/// Where the authority of every test keeps its rows.
const POSTGRES: bool = false;
