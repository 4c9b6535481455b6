//! The `syncline` program as a script sees it: processes, exit codes, JSON, files.

mod chaos;
mod conflicts;
mod local;
mod proxy;
mod support;
mod sync;
mod usage;
