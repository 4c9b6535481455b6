//! The authority's engine. Placeholder: it has the signatures that `http` calls, and answers `unavailable`.

use crate::accounts::{Caller, DeviceInfo};
use crate::api_error::ApiError;
use std::path::Path;
use syncline_core::{Cursor, DeviceId, EnrolRequest, EnrolResponse, HistoryId, Limits, ScopeId, Seq, SyncRequest, SyncResponse};

/// Why an authority does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be used.
    #[error("opening {0}: {1}; name a directory that exists and that this user may write")]
    Directory(String, std::io::Error),
}

/// Heads of a caller's scopes, and what is told after each commit.
pub struct Watch {
    /// Where the caller's scopes are now.
    pub heads: Vec<(ScopeId, Seq)>,
    /// Every scope's new head after each commit; not only the caller's.
    pub changes: tokio::sync::broadcast::Receiver<(ScopeId, Seq)>,
}

/// The authority's engine: blocking, shared by all requests.
pub struct Engine;

fn later<T>() -> Result<T, ApiError> {
    Err(ApiError::Unavailable("the engine is not built in yet".into()))
}

impl Engine {
    /// Opens the authority in a directory, making it if it is empty.
    pub fn open(dir: &Path) -> Result<Engine, OpenError> {
        std::fs::create_dir_all(dir).map_err(|e| OpenError::Directory(dir.display().to_string(), e))?;
        Ok(Engine)
    }
    /// Returns the history that this authority lives.
    pub fn history(&self) -> HistoryId {
        HistoryId::default()
    }
    /// Returns what a peer may send.
    pub fn limits(&self) -> Limits {
        Limits::default()
    }
    /// Returns whose bearer it is.
    pub fn authenticate(&self, _bearer: &str) -> Result<Caller, ApiError> {
        later()
    }
    /// Enrols a device.
    pub fn enrol(&self, _request: EnrolRequest) -> Result<EnrolResponse, ApiError> {
        later()
    }
    /// Commits what is pushed and reads what has changed.
    pub fn sync(&self, _caller: &Caller, _request: SyncRequest) -> Result<SyncResponse, ApiError> {
        later()
    }
    /// Reads changes as JSON.
    pub fn changes(&self, _caller: &Caller, _scope: &ScopeId, _cursor: Option<Cursor>, _limit: usize) -> Result<serde_json::Value, ApiError> {
        later()
    }
    /// Lists the devices of the caller's account.
    pub fn devices(&self, _caller: &Caller) -> Result<Vec<DeviceInfo>, ApiError> {
        later()
    }
    /// Revokes a device of the caller's account.
    pub fn revoke(&self, _caller: &Caller, _device: DeviceId) -> Result<(), ApiError> {
        later()
    }
    /// Returns the heads of the caller's scopes, and a receiver that is told (scope, seq) after each commit.
    pub fn watch(&self, _caller: &Caller) -> Result<Watch, ApiError> {
        later()
    }
}
