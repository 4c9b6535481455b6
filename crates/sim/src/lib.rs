//! The simulator: devices, authority, network, disk and clocks in one thread, from one seed.
//!
//! Everything that syncs is the real thing: SQLite, capture, replica, session, authority, frames. Simulated are the disk
//! (`vfs`), the clocks, the network and the people. A history is a storm of faults and then a calm (`calm`), in which all
//! must become equal. Beside it runs a ledger of every write (`ledger`) that knows nothing of merging and recomputes, naively,
//! what each state must be.

pub mod app;
#[cfg(feature = "planted")]
pub mod bugs;
pub mod calm;
pub mod check;
pub mod device;
pub mod fault;
pub mod herd;
pub mod image;
pub mod ledger;
pub mod policy;
pub mod pool;
pub mod restore;
pub mod rng;
pub mod run;
pub mod schema;
pub mod server;
pub mod sharing;
pub mod sharing_faults;
pub mod site;
pub mod spy;
pub mod tables;
pub mod vfs;
pub mod world;
