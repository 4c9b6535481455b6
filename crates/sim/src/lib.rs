//! The simulator: devices, authority, network, disk and clocks in one thread, from one seed.

pub mod vfs;
