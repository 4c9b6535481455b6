//! The authority over one SQLite file, one call at a time: what the engine does in its threads, and the simulator in one.

use crate::accounts::{self, Caller, Enrolled};
use crate::api_error::ApiError;
use crate::commit::{Receipt, absorb_foreign, chain_at, commit, refuse_all};
use crate::members;
use crate::pull::{compare_pasts, read_answer};
use syncline_core::heads::{check, members_hash};
use syncline_core::{
    DeviceId, EnrolRequest, EnrolResponse, Head, HistoryId, Limits, MemberRole, Memberships, Outcome, ScopeAnswer, ScopeId, ScopeInfo, ScopeRequest, Seq,
    SyncRequest, SyncResponse, planted,
};
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
                    respond(tx, caller, history, request, answers)
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
            Ok(respond(tx, caller, history, request, answers))
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
    let together = request.scopes.iter().filter(|s| s.together && s.push.is_some()).count() > 1 && !planted::on("half_a_move");
    let pushed = tx.savepoint(|tx| {
        let pushed = push_all(tx, caller, request, history, limits, None)?;
        let refused = together && pushed.iter().zip(&request.scopes).any(|((_, p), asked)| asked.together && !p.is_committed());
        if refused { Err(Undone::Refused(pushed)) } else { Ok(pushed) }
    });
    let pushed = match pushed {
        Ok(pushed) => pushed,
        Err(Undone::Error(e)) => return Err(e),
        // A move is in two bundles: where one of them cannot stand, the other must not.
        Err(Undone::Refused(first)) => push_all(tx, caller, request, history, limits, Some(first))?,
    };
    for ((scope, done), asked) in pushed.into_iter().zip(&request.scopes) {
        let receipt = match done {
            Pushed::Answered(answer) => {
                scopes.push((scope, Err(*answer)));
                continue;
            }
            Pushed::Looked(receipt) => receipt,
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

/// What one scope's half of a request came to.
enum Pushed {
    /// There is nothing to read.
    Answered(Box<ScopeAnswer>),
    Looked(Option<Receipt>),
}

impl Pushed {
    fn is_committed(&self) -> bool {
        match self {
            Pushed::Answered(_) => false,
            Pushed::Looked(receipt) => receipt.as_ref().is_none_or(|r| matches!(r.outcome, Outcome::Committed(_))),
        }
    }
}

/// Why pushes were undone.
enum Undone {
    /// One of those that belong together was not committed.
    Refused(Vec<(Scope, Pushed)>),
    Error(ApiError),
}

impl From<ApiError> for Undone {
    fn from(e: ApiError) -> Undone {
        Undone::Error(e)
    }
}

impl From<Error> for Undone {
    fn from(e: Error) -> Undone {
        Undone::Error(e.into())
    }
}

/// Looks at every scope of a request and commits its push. With what an undone try `before` came to, the pushes that belong
/// together are only answered: those that were refused as they were, the others as held back with them.
fn push_all(
    tx: &mut Tx,
    caller: &Caller,
    request: &SyncRequest,
    history: HistoryId,
    limits: &Limits,
    before: Option<Vec<(Scope, Pushed)>>,
) -> Result<Vec<(Scope, Pushed)>, ApiError> {
    let mut out = Vec::with_capacity(request.scopes.len());
    let mut before = before.map(Vec::into_iter);
    for asked in &request.scopes {
        let tried = before.as_mut().and_then(Iterator::next);
        let (scope, role) = match find_scope(tx, caller, request, &asked.scope)? {
            Ok(seen) => seen,
            Err(answer) => {
                out.push((Scope { n: 0, id: asked.scope.clone() }, Pushed::Answered(Box::new(answer))));
                continue;
            }
        };
        if let Some(answer) = other_past(tx, &scope, history, asked)? {
            out.push((scope, Pushed::Answered(Box::new(answer))));
            continue;
        }
        let receipt = match (&asked.push, tried) {
            (None, _) => None,
            (Some(_), Some((_, Pushed::Looked(Some(tried))))) if asked.together => Some(match tried.outcome {
                Outcome::Committed(_) if tried.fresh.is_some() => Receipt::held_back(),
                _ => tried,
            }),
            (Some(push), _) if !role.may_write() && !planted::on("readers_write") => Some(refuse_all(tx, &scope, push, limits)?),
            (Some(push), _) => {
                Some(tx.savepoint(|tx| commit(tx, &scope, caller.device_id, asked.source, asked.cursor.map_or(Seq(0), |c| c.seq), push, limits))?)
            }
        };
        out.push((scope, Pushed::Looked(receipt)));
    }
    Ok(out)
}

/// Returns a scope of a request and what the caller may do there. A scope that it may not see is answered beside the others; a
/// request about nothing else is refused.
fn find_scope(tx: &mut Tx, caller: &Caller, request: &SyncRequest, id: &ScopeId) -> Result<Result<(Scope, MemberRole), ScopeAnswer>, ApiError> {
    match may_see(tx, caller, id) {
        Ok(seen) => Ok(Ok(seen)),
        Err(e) if e.code() == ApiError::no_such_scope().code() && request.scopes.len() > 1 => {
            Ok(Err(ScopeAnswer { scope: id.clone(), absent: true, ..ScopeAnswer::default() }))
        }
        Err(e) => Err(e),
    }
}

/// What the write half is to a request without a push: it only looks, and may do so in the snapshot of the read half. What it
/// leaves to be noted, `note_pull` notes.
pub fn look_at_request(tx: &mut Tx, caller: &Caller, request: &SyncRequest, history: HistoryId) -> Result<Written, ApiError> {
    check_request(request)?;
    check_schema_version(demanded_schema_version(tx)?, request)?;
    let mut scopes = Vec::with_capacity(request.scopes.len());
    for asked in &request.scopes {
        let scope = match find_scope(tx, caller, request, &asked.scope)? {
            Ok((scope, _)) => scope,
            Err(answer) => {
                scopes.push((Scope { n: 0, id: asked.scope.clone() }, Err(answer)));
                continue;
            }
        };
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

/// Puts the answers into a response, with what else the device should know: its account's memberships, and which scopes moved.
pub fn respond(tx: &mut Tx, caller: &Caller, history: HistoryId, request: &SyncRequest, scopes: Vec<ScopeAnswer>) -> Result<SyncResponse, ApiError> {
    let schema = if request.schema_wanted { Some(tx.schema()?) } else { None };
    let members = memberships(tx, &caller.account)?;
    let moved = moved(tx, caller, request, &members)?;
    let members = (members_hash(&members) != request.members).then_some(members);
    Ok(SyncResponse { version: syncline_core::VERSION, server_time_ms: tx.env.now_ms, history, fingerprint: tx.fingerprint()?, schema, scopes, members, moved })
}

fn memberships(tx: &Tx, account: &str) -> Result<Memberships, ApiError> {
    let mut now = members::scopes_of(tx.conn, account)?;
    now.retain(|s| s.0.0 != account);
    let now = now.into_iter().map(|(scope_id, role)| ScopeInfo { scope_id, role }).collect();
    Ok(Memberships { now, gone: members::former_scopes_of(tx.conn, account)? })
}

/// Names the scopes of the caller that the request does not ask about and that may have moved: those of the buckets that differ.
fn moved(tx: &mut Tx, caller: &Caller, request: &SyncRequest, members: &Memberships) -> Result<Vec<Head>, ApiError> {
    let asked: std::collections::HashSet<&ScopeId> = request.scopes.iter().map(|s| &s.scope).collect();
    let own = ScopeId(caller.account.clone());
    let rest: Vec<&ScopeId> = std::iter::once(&own).chain(members.now.iter().map(|m| &m.scope_id)).filter(|s| !asked.contains(s)).collect();
    let mut heads = Vec::with_capacity(rest.len());
    let mut here = request.heads.emptied();
    for id in rest {
        let Some(scope) = tx.find_scope(id)? else { continue };
        let seq = tx.head(scope.n)?;
        let chain = chain_at(tx, &scope, seq)?.ok_or_else(|| Error::Damaged("the chain has no head".into()))?;
        here.add(id, seq, &chain);
        heads.push(Head { scope: id.clone(), seq, check: check(id, seq, &chain) });
    }
    heads.retain(|h| here.bucket(&h.scope).is_none_or(|b| here.0[b] != request.heads.0[b]) && !planted::on("moved_untold"));
    Ok(heads)
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

/// Returns a scope that the caller may see, and what it may do there; one that it may not see answers like one that does not exist,
/// after the same look-up.
pub fn may_see(tx: &mut Tx, caller: &Caller, scope: &ScopeId) -> Result<(Scope, MemberRole), ApiError> {
    let role = members::role_of(tx.conn, &caller.account, scope)?;
    let role = role.ok_or_else(ApiError::no_such_scope)?;
    Ok((tx.find_scope(scope)?.ok_or_else(ApiError::no_such_scope)?, role))
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
