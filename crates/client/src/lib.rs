//! Syncline on a device: what an app embeds.

pub mod identity;
pub mod link;
pub mod session;
