//! The authority over one SQLite file, one call at a time: what the engine does in its threads, and the simulator in one.

use crate::accounts::{self, Caller, Enrolled};
use crate::api_error::ApiError;
use crate::commit::{Receipt, absorb_foreign, commit};
use crate::pull::{compare_pasts, read_answer};
use syncline_core::{DeviceId, EnrolRequest, EnrolResponse, HistoryId, Limits, ScopeAnswer, ScopeId, ScopeRequest, Seq, SyncRequest, SyncResponse, planted};
use syncline_replica::schema::{authority_schema_ddl, merge_schema, validate};
use syncline_replica::{Doing, Env, Error, Replica, Role, Scope, Tx};

/// The authority's database.
pub struct Authority {
    /// The writing connection.
    pub replica: Replica,
    /// What peers may send.
    pub limits: Limits,
    history: HistoryId,
}

/// What the write half of a request came to, scope by scope.
pub struct Written {
    /// Per scope asked about: the scope, and either its receipt or an answer that needs no reading.
    pub scopes: Vec<(Scope, Result<Option<Receipt>, ScopeAnswer>)>,
    /// Scopes that moved, with their heads.
    pub moved: Vec<(ScopeId, Seq)>,
}

impl Authority {
    /// Opens an authority's database, making it if it is empty.
    pub fn open(conn: rusqlite::Connection, env: &mut Env) -> Result<Authority, ApiError> {
        let mut replica = Replica::open_or_create(conn, Role::Authority, env)?;
        let history = replica.transact(env, |tx| {
            accounts::create_tables(tx.conn).map_err(|e| Error::Refused(e.to_string()))?;
            match tx.meta::<[u8; 16]>("history_id")? {
                Some(id) => Ok(HistoryId(id)),
                None => {
                    let id = tx.env.id(HistoryId::from_random);
                    tx.set_meta("history_id", &id.0[..])?;
                    Ok(id)
                }
            }
        })?;
        Ok(Authority { replica, limits: Limits::default(), history })
    }

    /// Returns the history that this authority lives.
    pub fn history(&self) -> HistoryId {
        self.history
    }

    /// Does a whole request: commit, then read.
    pub fn sync(&mut self, env: &mut Env, caller: &Caller, request: &SyncRequest) -> Result<SyncResponse, ApiError> {
        let (limits, history) = (self.limits, self.history);
        if planted::on("answer_before_commit") {
            let mut said = None;
            let committed = self.replica.transact(env, |tx| {
                said = Some(write_request(tx, caller, request, history, &limits).and_then(|w| {
                    let answers = read_request(tx, request, w.scopes, &limits)?;
                    respond(tx, history, request, answers)
                }));
                Ok(())
            });
            return said.unwrap_or_else(|| Err(committed.err().map_or_else(|| ApiError::Internal("nothing said".into()), ApiError::from)));
        }
        let written = self.replica.transact(env, |tx| Ok(write_request(tx, caller, request, history, &limits)))??;
        self.replica.read(env, |tx| {
            let answers = match read_request(tx, request, written.scopes, &limits) {
                Ok(answers) => answers,
                Err(e) => return Ok(Err(e)),
            };
            Ok(respond(tx, history, request, answers))
        })?
    }

    /// Enrols a device.
    pub fn enrol(&mut self, env: &mut Env, request: &EnrolRequest) -> Result<EnrolResponse, ApiError> {
        let history = self.history;
        self.replica.transact(env, |tx| Ok(tx.savepoint(|tx| enrol(tx, request, history))))?
    }

    /// Takes in what others wrote straight into the business tables; returns the scopes that moved.
    pub fn absorb(&mut self, env: &mut Env) -> Result<Vec<(ScopeId, Seq)>, ApiError> {
        Ok(self.replica.transact(env, |tx| {
            tx.verify_capture()?;
            Ok(absorb_foreign(tx)?.into_iter().map(|(s, n)| (s.id, n)).collect())
        })?)
    }
}

/// The write half of a request, inside a write transaction. A scope whose push fails leaves nothing behind.
pub fn write_request(tx: &mut Tx, caller: &Caller, request: &SyncRequest, history: HistoryId, limits: &Limits) -> Result<Written, ApiError> {
    check_request(request)?;
    check_schema_version(demanded_schema_version(tx)?, request)?;
    tx.verify_capture()?;
    let mut moved: Vec<(ScopeId, Seq)> = absorb_foreign(tx)?.into_iter().map(|(s, n)| (s.id, n)).collect();
    let mut scopes = Vec::with_capacity(request.scopes.len());
    for asked in &request.scopes {
        let scope = may_see(tx, caller, &asked.scope)?;
        if let Some(answer) = other_past(tx, &scope, history, asked)? {
            scopes.push((scope, Err(answer)));
            continue;
        }
        let receipt = match &asked.push {
            Some(push) => Some(tx.savepoint(|tx| commit(tx, &scope, caller.device_id, asked.source, push, limits))?),
            None => None,
        };
        if let Some(receipt) = &receipt {
            moved.extend(receipt.moved.iter().map(|(s, n)| (s.id.clone(), *n)));
        }
        if let Some(cursor) = asked.cursor {
            accounts::ack(tx.conn, caller.device_id, &scope.id, cursor.seq, tx.env.now_ms)?;
        }
        scopes.push((scope, Ok(receipt)));
    }
    accounts::touch(tx.conn, caller.device_id, None, tx.env.now_ms)?;
    Ok(Written { scopes, moved })
}

/// What the write half is to a request without a push: it only looks, and may do so in the snapshot of the read half. What it
/// leaves to be noted, `note_pull` notes.
pub fn look_at_request(tx: &mut Tx, caller: &Caller, request: &SyncRequest, history: HistoryId) -> Result<Written, ApiError> {
    check_request(request)?;
    check_schema_version(demanded_schema_version(tx)?, request)?;
    let mut scopes = Vec::with_capacity(request.scopes.len());
    for asked in &request.scopes {
        let scope = may_see(tx, caller, &asked.scope)?;
        let looked = other_past(tx, &scope, history, asked)?.map_or(Ok(None), Err);
        scopes.push((scope, looked));
    }
    Ok(Written { scopes, moved: vec![] })
}

/// Notes how far a device has applied scopes. Late is safe: until then less is forgotten for its sake.
pub fn note_pull(tx: &mut Tx, device: DeviceId, applied: &[(ScopeId, Seq)]) -> Result<(), ApiError> {
    for (scope, seq) in applied {
        accounts::ack(tx.conn, device, scope, *seq, tx.env.now_ms)?;
    }
    accounts::touch(tx.conn, device, None, tx.env.now_ms)
}

fn other_past(tx: &Tx, scope: &Scope, history: HistoryId, asked: &ScopeRequest) -> Result<Option<ScopeAnswer>, ApiError> {
    let common = compare_pasts(tx, scope, history, asked)?;
    Ok(common.map(|common| ScopeAnswer { scope: scope.id.clone(), history_changed: Some(common), ..ScopeAnswer::default() }))
}

/// The read half: inside one read snapshot, not older than the write half.
pub fn read_request(
    tx: &mut Tx,
    request: &SyncRequest,
    scopes: Vec<(Scope, Result<Option<Receipt>, ScopeAnswer>)>,
    limits: &Limits,
) -> Result<Vec<ScopeAnswer>, ApiError> {
    let mut answers = Vec::with_capacity(scopes.len());
    for ((scope, written), asked) in scopes.into_iter().zip(&request.scopes) {
        answers.push(match written {
            Err(answer) => answer,
            Ok(receipt) => read_answer(tx, &scope, asked, receipt, limits)?,
        });
    }
    Ok(answers)
}

/// Puts the answers into a response.
pub fn respond(tx: &mut Tx, history: HistoryId, request: &SyncRequest, scopes: Vec<ScopeAnswer>) -> Result<SyncResponse, ApiError> {
    let schema = if request.schema_wanted { Some(tx.schema()?) } else { None };
    Ok(SyncResponse { version: syncline_core::VERSION, server_time_ms: tx.env.now_ms, history, fingerprint: tx.fingerprint()?, schema, scopes })
}

/// Refuses what no device of this version sends.
pub fn check_request(request: &SyncRequest) -> Result<(), ApiError> {
    if request.version != syncline_core::VERSION {
        return Err(ApiError::UpgradeRequired(format!(
            "the device speaks version {} of the protocol, the server {}; update the older of the two",
            request.version,
            syncline_core::VERSION
        )));
    }
    if request.scopes.len() > 10_000 {
        return Err(ApiError::TooLarge("a request may ask about 10,000 scopes".into()));
    }
    if request.scopes.iter().any(|s| s.push.as_ref().is_some_and(|p| !p.parts.is_empty())) {
        return Err(ApiError::BadRequest("a push in parts is put together before it comes here".into()));
    }
    let mut seen = std::collections::HashSet::new();
    if request.scopes.iter().any(|s| !seen.insert(&s.scope)) {
        return Err(ApiError::BadRequest("a scope is asked about twice".into()));
    }
    Ok(())
}

/// Refuses an app whose schema is older than the operator demands. Nothing of the request is looked at: an app that is too old may
/// write what newer ones do not expect.
pub fn check_schema_version(demanded: u64, request: &SyncRequest) -> Result<(), ApiError> {
    if request.schema_version >= demanded {
        return Ok(());
    }
    let has = if request.schema_version == 0 { "has no number".to_owned() } else { format!("has version {}", request.schema_version) };
    Err(ApiError::UpgradeRequired(format!(
        "this app's schema {has}, the server demands {demanded} or later; update the app. Work goes on here, is kept, and goes up then"
    )))
}

fn demanded_schema_version(tx: &Tx) -> Result<u64, ApiError> {
    Ok(tx.meta::<i64>("demanded_schema_version")?.unwrap_or(0) as u64)
}

/// Returns a scope that the caller may see; one that it may not see answers like one that does not exist.
pub fn may_see(tx: &mut Tx, caller: &Caller, scope: &ScopeId) -> Result<Scope, ApiError> {
    if scope.0 != caller.account {
        return Err(ApiError::no_such_scope());
    }
    tx.find_scope(scope)?.ok_or_else(ApiError::no_such_scope)
}

/// Enrols a device inside a write transaction: token, account, scope, schema.
pub fn enrol(tx: &mut Tx, request: &EnrolRequest, history: HistoryId) -> Result<EnrolResponse, ApiError> {
    if request.version != syncline_core::VERSION {
        return Err(ApiError::UpgradeRequired(format!("the server speaks version {} of the protocol; update the older of the two", syncline_core::VERSION)));
    }
    let Enrolled { account, key_block } = accounts::enrol(tx.conn, request, tx.env.now_ms)?;
    let scope = ScopeId(account.clone());
    if tx.find_scope(&scope)?.is_none() {
        tx.conn.execute("INSERT INTO _syncline_scope(scope_id) VALUES(?1)", [&scope.0]).doing("making an account's scope")?;
    }
    if let Some(schema) = &request.schema {
        take_schema(tx, schema)?;
    }
    let schema = tx.schema()?;
    Ok(EnrolResponse { account, scopes: vec![scope], history, schema, server_time_ms: tx.env.now_ms, key_block })
}

/// Adds a device's tables and columns to the authority's; never takes any away.
pub fn take_schema(tx: &mut Tx, theirs: &syncline_core::Schema) -> Result<(), ApiError> {
    let refused = |e: syncline_replica::schema::SchemaError| ApiError::BadRequest(e.to_string());
    validate(theirs).map_err(refused)?;
    let merged = merge_schema(&tx.schema()?, theirs).map_err(refused)?;
    for sql in authority_schema_ddl(&merged.new_tables, &merged.schema).map_err(refused)? {
        tx.conn.execute_batch(&sql).doing("making a business table").map_err(|e| ApiError::BadRequest(e.to_string()))?;
    }
    for (table, column) in &merged.new_columns {
        let sql = syncline_replica::schema::add_column_ddl(table, column);
        tx.conn.execute_batch(&sql).doing("adding a column").map_err(|e| ApiError::BadRequest(e.to_string()))?;
    }
    for def in &merged.schema.tables {
        let new = merged.new_tables.iter().any(|t| t.name == def.name) || merged.new_columns.iter().any(|c| c.0.eq_ignore_ascii_case(&def.name));
        if new {
            let n = tx.register(def, true)?;
            tx.install_capture(n)?;
        }
    }
    for def in &theirs.tables {
        match tx.change_policies(def) {
            Err(Error::Refused(why)) => return Err(ApiError::BadRequest(why)),
            changed => drop(changed?),
        }
    }
    if merged.schema.version > 0 {
        tx.set_meta("schema_version", merged.schema.version as i64)?;
    }
    Ok(())
}
