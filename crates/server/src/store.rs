//! The authority's store: one SQLite file, or PostgreSQL. Behind one HTTP shell, with one answer to the same request.

use crate::accounts::{Caller, DeviceInfo};
use crate::api_error::ApiError;
use crate::ask::Ask;
use crate::engine::{Engine, Watch};
use crate::http::Authority;
use crate::issuer::Vouched;
use crate::postgres::Postgres;
use crate::push_token::{WakeCall, Woken};
use syncline_core::{Cursor, DeviceId, EnrolRequest, EnrolResponse, Limits, Schema, ScopeId, SyncRequest, SyncResponse};

/// Where an authority keeps its rows.
pub enum Store {
    /// In a file of its own.
    Sqlite(Box<Engine>),
    /// In a PostgreSQL database, beside other servers and other clients.
    Postgres(Postgres),
}

impl Store {
    /// Demands a least schema version of devices from now on; 0 for none.
    pub fn demand_schema_version(&self, version: u64) -> Result<(), ApiError> {
        match self {
            Store::Sqlite(engine) => engine.demand_schema_version(version),
            Store::Postgres(postgres) => postgres.demand_schema_version(version),
        }
    }
}

impl Authority for Store {
    fn limits(&self) -> Limits {
        match self {
            Store::Sqlite(engine) => engine.limits(),
            Store::Postgres(postgres) => postgres.limits(),
        }
    }
    fn parts_dir(&self) -> Option<std::path::PathBuf> {
        match self {
            Store::Sqlite(engine) => Some(engine.parts_dir()),
            Store::Postgres(_) => None,
        }
    }
    fn authenticate(&self, bearer: &str) -> Result<Caller, ApiError> {
        match self {
            Store::Sqlite(engine) => engine.authenticate(bearer),
            Store::Postgres(postgres) => postgres.authenticate(bearer),
        }
    }
    fn known_caller(&self, bearer: &str) -> Option<Caller> {
        match self {
            Store::Sqlite(engine) => engine.known_caller(bearer),
            Store::Postgres(postgres) => postgres.known_caller(bearer),
        }
    }
    fn enrol(&self, request: EnrolRequest) -> Result<EnrolResponse, ApiError> {
        match self {
            Store::Sqlite(engine) => engine.enrol(request),
            Store::Postgres(postgres) => postgres.enrol(request),
        }
    }
    fn sync(&self, caller: &Caller, request: SyncRequest) -> Result<SyncResponse, ApiError> {
        match self {
            Store::Sqlite(engine) => engine.sync(caller, request),
            Store::Postgres(postgres) => postgres.sync(caller, request),
        }
    }
    fn push_schema(&self, caller: &Caller, schema: Schema) -> Result<Schema, ApiError> {
        match self {
            Store::Sqlite(engine) => engine.push_schema(caller, schema),
            Store::Postgres(postgres) => postgres.push_schema(caller, schema),
        }
    }
    fn changes(&self, caller: &Caller, scope: &ScopeId, cursor: Option<Cursor>, limit: usize) -> Result<serde_json::Value, ApiError> {
        match self {
            Store::Sqlite(engine) => engine.changes(caller, scope, cursor, limit),
            Store::Postgres(postgres) => postgres.changes(caller, scope, cursor, limit),
        }
    }
    fn devices(&self, caller: &Caller) -> Result<Vec<DeviceInfo>, ApiError> {
        match self {
            Store::Sqlite(engine) => engine.devices(caller),
            Store::Postgres(postgres) => postgres.devices(caller),
        }
    }
    fn revoke(&self, caller: &Caller, device: DeviceId) -> Result<(), ApiError> {
        match self {
            Store::Sqlite(engine) => engine.revoke(caller, device),
            Store::Postgres(postgres) => postgres.revoke(caller, device),
        }
    }
    fn vouch(&self, token: &str, vouched: Vouched) -> Result<(), ApiError> {
        match self {
            Store::Sqlite(engine) => engine.vouch(token, vouched),
            Store::Postgres(postgres) => postgres.vouch(token, vouched),
        }
    }
    fn to_wake(&self) -> Result<Vec<WakeCall>, ApiError> {
        match self {
            Store::Sqlite(engine) => engine.to_wake(),
            Store::Postgres(postgres) => postgres.to_wake(),
        }
    }
    fn woken(&self, call: WakeCall, how: Woken) -> Result<(), ApiError> {
        match self {
            Store::Sqlite(engine) => engine.woken(call, how),
            Store::Postgres(postgres) => postgres.woken(call, how),
        }
    }
    fn ask(&self, caller: &Caller, what: Ask, key: Option<String>) -> Result<serde_json::Value, ApiError> {
        match self {
            Store::Sqlite(engine) => engine.ask(caller, what, key),
            Store::Postgres(postgres) => postgres.ask(caller, what, key),
        }
    }
    fn watch(&self, caller: &Caller) -> Result<Watch, ApiError> {
        match self {
            Store::Sqlite(engine) => engine.watch(caller),
            Store::Postgres(postgres) => postgres.watch(caller),
        }
    }
}
