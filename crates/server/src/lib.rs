//! The authority: it orders, checks and keeps what devices push, and answers what they have missed.
//!
//! `engine` is blocking and knows neither HTTP nor async; `http` is the shell around it. Accounts, tokens, devices and
//! their acknowledgements are plain tables (`accounts`) that are no part of the replicated data.

pub mod accounts;
pub mod api_error;
pub mod ask;
pub mod authority;
mod bundle;
pub mod collect;
pub mod commit;
pub mod delivery;
pub mod engine;
pub mod http;
pub mod issuer;
pub mod members;
pub mod postgres;
pub mod pull;
pub mod push_token;
pub mod store;
pub mod whole;

pub use accounts::{Caller, DeviceInfo};
pub use api_error::{ApiError, SealKey};
pub use ask::Ask;
pub use authority::Authority;
pub use engine::{Engine, OpenError, Watch};
pub use http::{ServeError, Tls, serve};
pub use postgres::Postgres;
pub use store::Store;
