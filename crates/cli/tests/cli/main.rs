//! The `syncline` program as a script sees it: processes, exit codes, JSON, files.

mod conflicts;
mod local;
mod support;
mod sync;
mod usage;
