//! One sync, without I/O: what to send next, and what an answer does. The same code runs in the app, in the CLI and in the
//! simulator; only who carries the messages differs.
//!
//! Call `next`, send what it returns, call `answer` with what comes back, and go on until it says `Step::Done`. Whatever is
//! lost or killed in between: a new `Session` on the same database goes on where the last one was.

use std::collections::{BTreeMap, HashSet};
use syncline_core::{Key, Limits, Outcome, Reason, ScopeAnswer, ScopeId, ScopeRequest, SyncRequest, SyncResponse, Value, planted};
use syncline_replica::scopes::not_a_member;
use syncline_replica::{Conflict, Env, Replica, Resolution, Result, Scope, Tx};

/// A row by the names of its columns.
pub type RowObject = BTreeMap<String, Value>;

/// The most rounds in which refused rows are parked and the rest goes again; then `retries_exhausted`.
pub const ROUNDS_MAX: u32 = 5;

/// After so many requests a sync leaves what is written meanwhile to the next one, so that it ends beside a busy writer.
const REQUESTS_MAX: u32 = 100;

/// Whether a sync goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Call `next` and send again.
    Again,
    /// Everything that could be done has been done.
    Done,
}

/// What a sync did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Rows of ours that the authority has committed.
    pub rows_up: u64,
    /// Business rows that came, deletions included, without our own.
    pub rows_down: u64,
    /// How far this device has applied.
    pub bundle_seq: u64,
    /// Whether everything was read anew.
    pub hydrate: bool,
    /// Rows that wait for a decision now.
    pub parked: u64,
    /// Rows pending now, parked ones included.
    pub pending: u64,
    /// Requests sent.
    pub requests: u32,
    /// Rounds in which rows were refused, plus one.
    pub rounds: u32,
    /// Whether refusals went on for `ROUNDS_MAX` rounds; nothing is lost, the next sync tries again.
    pub retries_exhausted: bool,
    /// Rows staged and rows still to come of a delta that is being read.
    pub progress: Option<(u64, u64)>,
    /// Bytes that the authority has of a push that goes up in parts, and bytes of all of it.
    pub upload: Option<(u64, u64)>,
    /// What changed in tables: (table, key).
    pub changed: Vec<(i64, Key)>,
    /// Things that the owner should know of, in words.
    pub notices: Vec<String>,
    /// Whether this device and the authority differ although they should be equal; a resync mends it.
    pub digest_differs: bool,
}

/// What is known of the last request.
#[derive(Default)]
struct Asked {
    /// The account's own scope.
    own: ScopeId,
    /// Scopes of which more is pending than fitted into a bundle.
    more: HashSet<i64>,
    /// Scopes that this sync has asked about, and those that found no room in the request.
    done: HashSet<i64>,
    wanted: HashSet<i64>,
    /// Scopes that it asks about.
    now: HashSet<i64>,
    /// Whether there were more scopes than one request asks about.
    left_out: bool,
}

/// The account's own scope.
const OWN: i64 = 1;

/// The least part of a page for one of many scopes.
const PAGE_BYTES_MIN: usize = 16 * 1024;

/// One sync in progress.
pub struct Session {
    limits: Limits,
    summary: Summary,
    checkpoints: bool,
    schema_wanted: bool,
    /// What the last request left for the next.
    asked: Asked,
    /// Scopes that the next request is to ask about, whatever else.
    wanted: HashSet<i64>,
    /// Scopes that this sync has asked about.
    done: HashSet<i64>,
    /// Those of the last request, until it is answered.
    unanswered: HashSet<i64>,
    /// Whether it has been said what the authority's schema lacks.
    announced: bool,
}

impl Session {
    /// Begins a sync.
    pub fn new(limits: Limits) -> Session {
        Session {
            limits,
            summary: Summary { rounds: 1, ..Summary::default() },
            checkpoints: false,
            schema_wanted: false,
            asked: Asked::default(),
            wanted: HashSet::new(),
            done: HashSet::new(),
            unanswered: HashSet::new(),
            announced: false,
        }
    }

    /// Returns what has been done so far.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Adds something that the owner should know of.
    pub(crate) fn notice(&mut self, text: String) {
        self.summary.notices.push(text);
    }

    /// Returns the most bytes of a page; the first of a delta is asked for in a quarter of it.
    pub fn page_bytes(&self) -> usize {
        self.limits.page_bytes
    }

    /// Asks for smaller or larger pages from now on.
    pub fn set_page_bytes(&mut self, bytes: usize) {
        self.limits.page_bytes = bytes;
    }

    /// Notes how far a push in parts is.
    pub fn note_upload(&mut self, progress: Option<(u64, u64)>) {
        self.summary.upload = progress;
    }

    /// Absorbs what was captured, freezes a bundle in each scope that has any to send, and returns the request to send.
    pub fn next(&mut self, replica: &mut Replica, env: &mut Env) -> Result<SyncRequest> {
        let (limits, checkpoints, schema_wanted) = (self.limits, self.checkpoints, self.schema_wanted);
        let push = !self.summary.retries_exhausted;
        let announced = self.announced;
        let mut wanted = std::mem::take(&mut self.wanted);
        wanted.extend(self.unanswered.drain());
        if self.summary.requests == 0 {
            wanted.insert(OWN);
        }
        let done = std::mem::take(&mut self.done);
        let (request, mut asked, behind) = replica.transact(env, |tx| {
            let absorbed = tx.absorb()?;
            let mut touched: BTreeMap<i64, HashSet<i64>> = BTreeMap::new();
            for (scope, table, _) in &absorbed.changed {
                touched.entry(*scope).or_default().insert(*table);
            }
            for (scope, tables) in &touched {
                let scope = tx.scope(*scope)?;
                tx.unpark_waiting(&scope, tables)?;
            }
            let (scopes, left_out) = tx.scopes_to_ask(&wanted, &done)?;
            let mut asked = Asked { left_out, ..Asked::default() };
            let mut room = limits;
            // Pages of many scopes are as much together as one of one.
            room.page_bytes = (limits.page_bytes / scopes.len().max(1)).max(PAGE_BYTES_MIN.min(limits.page_bytes));
            let mut requests = Vec::with_capacity(scopes.len());
            for scope in &scopes {
                let fits = room.bundle_rows > 0 && room.bundle_bytes > 0;
                let (request, more) = tx.build_request(scope, &room, push && fits, checkpoints)?;
                if more || (push && !fits) {
                    asked.more.insert(scope.n);
                }
                if let Some(push) = &request.push {
                    room.bundle_rows = room.bundle_rows.saturating_sub(push.rows.rows.len());
                    room.bundle_bytes = room.bundle_bytes.saturating_sub(push.rows.rows.iter().map(size_of_row).sum());
                }
                requests.push(request);
            }
            let queued = tx.all_pending_figures()?.0;
            let behind = if announced { Vec::new() } else { tx.schema_behind()? };
            let request = SyncRequest {
                version: syncline_core::VERSION,
                device_time_ms: tx.env.now_ms,
                fingerprint: tx.fingerprint()?,
                queued,
                schema_wanted,
                scopes: requests,
                members: tx.members_known()?,
                heads: tx.heads_beside(&scopes)?,
                schema_version: tx.meta::<i64>("schema_version")?.unwrap_or(0) as u64,
            };
            asked.own = tx.scope(OWN)?.id;
            asked.wanted = wanted;
            asked.wanted.retain(|n| scopes.iter().all(|s| s.n != *n));
            asked.done = done;
            asked.now = scopes.iter().map(|s| s.n).collect();
            asked.done.extend(&asked.now);
            Ok((request, asked, behind))
        })?;
        self.unanswered = std::mem::take(&mut asked.now);
        self.announced = true;
        if !behind.is_empty() {
            let behind = behind.join(", ");
            self.summary.notices.push(format!("the server does not know {behind} yet; they wait here, all else goes. `syncline schema push` takes them to it"));
        }
        self.done = std::mem::take(&mut asked.done);
        self.wanted = std::mem::take(&mut asked.wanted);
        self.asked = asked;
        self.summary.requests += 1;
        Ok(request)
    }

    /// Returns the bundle that the last request carries of the account's own scope: the one that the anchor notes.
    pub fn own_push<'a>(&self, request: &'a SyncRequest) -> Option<&'a ScopeRequest> {
        request.scopes.iter().find(|s| s.scope == self.asked.own && s.push.is_some())
    }

    /// Lets an app's own code settle rows that wait (`unsettled`). What `resolver` returns for a row (base, local and remote are in the
    /// conflict) is written as an ordinary new write, and `true` says that there is something to send; `None` leaves the row to a
    /// person, and so does a row that does not fit. Call it when a sync is done. Each time counts as a round.
    pub fn settle(&mut self, replica: &mut Replica, env: &mut Env, mut resolver: impl FnMut(&Conflict) -> Option<RowObject>) -> Result<bool> {
        let (round, mut settled) = (self.summary.rounds, false);
        for conflict in self.unsettled(replica, env)? {
            if let Some(row) = resolver(&conflict) {
                settled |= self.settle_one(replica, env, &conflict, row, round)?;
            }
        }
        (self.summary.pending, self.summary.parked) = replica.transact(env, |tx| tx.all_pending_figures())?;
        Ok(settled)
    }

    /// Lists what a resolver may settle: rows with several values of an `ask` column, and those of a `reject` table that changed at the
    /// authority.
    pub fn unsettled(&mut self, replica: &mut Replica, env: &mut Env) -> Result<Vec<Conflict>> {
        let mut waiting = replica.transact(env, |tx| {
            tx.absorb()?;
            tx.conflicts()
        })?;
        waiting.retain(|c| c.state == "ask" || (c.state == "parked" && c.refusal.reason == Reason::Version));
        Ok(waiting)
    }

    /// Writes what a resolver made of a row, in one transaction; says whether there is something to send. `round` is the one that the
    /// sync was in when it asked; after `ROUNDS_MAX` nothing more is written.
    pub fn settle_one(&mut self, replica: &mut Replica, env: &mut Env, conflict: &Conflict, row: RowObject, round: u32) -> Result<bool> {
        if round >= ROUNDS_MAX {
            self.summary.retries_exhausted = true;
            return Ok(false);
        }
        // The key says which row it is; a resolver that gives the row as it is need not leave it out.
        let row: RowObject = row.into_iter().filter(|(name, value)| conflict.refusal.key.get(name) != Some(value)).collect();
        let done = replica.transact(env, |tx| {
            tx.absorb()?;
            if !planted::on("resolver_unheard") {
                tx.resolve(&conflict.id, &Resolution::Merged(row))?;
            }
            tx.find_scope(&ScopeId(conflict.scope_id.clone()))
        });
        match done {
            Ok(scope) => {
                self.wanted.extend(scope.map(|s| s.n));
                self.summary.rounds = round + 1;
                Ok(true)
            }
            Err(syncline_replica::Error::Refused(why)) => {
                let table = &conflict.refusal.table;
                self.summary.notices.push(format!("the resolver of table `{table}` made a row that does not do, it waits for a person: {why}"));
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }

    /// Takes an answer in, in one transaction that absorbs first.
    pub fn answer(&mut self, replica: &mut Replica, env: &mut Env, sent: &SyncRequest, answer: &SyncResponse) -> Result<Step> {
        let limits = self.limits;
        self.unanswered.clear();
        let mut went = Went::default();
        let (figures, cursor) = replica.transact(env, |tx| {
            if !planted::on("apply_without_absorb") {
                tx.absorb()?;
            }
            if let Some(schema) = &answer.schema {
                tx.create_missing(schema)?;
            }
            let schema_wanted = tx.meta::<[u8; 16]>("authority_schema")?.is_none_or(|known| known != answer.fingerprint.0);
            // Before the answers: what came for a scope that this account is in no more is not taken in.
            if let Some(members) = &answer.members {
                let taken = tx.take_members(members)?;
                went.again |= taken.again;
                went.changed.extend(taken.changed.into_iter().map(|c| (c.1, c.2)));
                went.notices.extend(taken.notices);
            }
            for (asked, given) in sent.scopes.iter().zip(&answer.scopes) {
                let Some(scope) = tx.find_scope(&asked.scope)?.filter(|_| !given.absent && asked.scope == given.scope) else { continue };
                take_scope(tx, &scope, asked, given, answer, schema_wanted, &limits, &mut went)?;
            }
            if self.summary.requests < REQUESTS_MAX {
                // What moves again and again meanwhile is left to the next sync.
                went.moved = tx.take_heads(&answer.moved)?;
            }
            went.schema_wanted = schema_wanted;
            went.outside = tx.outside()?;
            let own = tx.scope(OWN)?;
            let cursor = tx.cursor(&own)?.map_or(0, |c| c.seq.0);
            Ok((tx.all_pending_figures()?, cursor))
        })?;
        self.schema_wanted = went.schema_wanted;
        self.checkpoints = went.checkpoints;
        self.wanted.extend(went.wanted.iter().chain(&went.moved));
        went.again |= !went.moved.is_empty();
        let summary = &mut self.summary;
        summary.rows_up += went.rows_up;
        summary.rows_down += went.rows_down;
        summary.bundle_seq = cursor;
        summary.hydrate |= went.hydrated;
        (summary.pending, summary.parked) = figures;
        summary.progress = went.progress;
        summary.changed.extend(went.changed);
        summary.notices.extend(went.notices);
        for scope in &went.outside {
            let notice = not_a_member(scope);
            if !summary.notices.contains(&notice) {
                summary.notices.push(notice);
            }
        }
        summary.digest_differs = went.digest_differs;
        if went.refused {
            summary.rounds += 1;
            if summary.rounds > ROUNDS_MAX {
                summary.retries_exhausted = true;
            }
        }
        // What was acknowledged may be an earlier attempt, whose answer was lost: the rows written since are still to be sent.
        let unsent = figures.0 > figures.1 && self.summary.requests < REQUESTS_MAX;
        let more: Vec<i64> = went.committed.iter().filter(|n| unsent || self.asked.more.contains(n)).copied().collect();
        self.wanted.extend(&more);
        let left_out = self.asked.left_out && self.summary.requests < REQUESTS_MAX;
        Ok(if went.again || !more.is_empty() || left_out || went.schema_wanted { Step::Again } else { Step::Done })
    }
}

/// What an answer did, over all its scopes.
#[derive(Default)]
struct Went {
    again: bool,
    schema_wanted: bool,
    outside: Vec<ScopeId>,
    checkpoints: bool,
    wanted: HashSet<i64>,
    moved: Vec<i64>,
    committed: HashSet<i64>,
    refused: bool,
    rows_up: u64,
    rows_down: u64,
    hydrated: bool,
    progress: Option<(u64, u64)>,
    changed: Vec<(i64, Key)>,
    notices: Vec<String>,
    digest_differs: bool,
}

#[allow(clippy::too_many_arguments)] // one scope's half of an exchange, and what it adds to
fn take_scope(
    tx: &mut Tx,
    scope: &Scope,
    asked: &ScopeRequest,
    given: &ScopeAnswer,
    answer: &SyncResponse,
    schema_wanted: bool,
    limits: &Limits,
    went: &mut Went,
) -> Result<()> {
    // Rows of another schema wait for it: who does not know a column's policy must not merge it by another.
    let given = if schema_wanted { ScopeAnswer { delta: None, ..given.clone() } } else { given.clone() };
    let mut taken = tx.take_answer(scope, answer.history, asked, &given, limits)?;
    if taken.digest_differs {
        // Replicas with other columns have other digests; that is no difference.
        taken.digest_differs = tx.fingerprint()? == answer.fingerprint;
    }
    if taken.digest_differs && tx.repair(scope)? {
        taken.again = true;
        taken.notices.push("this device and the server differed although they should be equal; everything was compared and merged both ways".into());
    }
    tx.note_heads_asked(scope, asked.cursor)?;
    if given.delta.as_ref().is_some_and(|d| d.next.is_none()) {
        tx.note_complete(scope)?;
    }
    if taken.again || schema_wanted {
        went.wanted.insert(scope.n);
    }
    if taken.committed.is_some() {
        went.committed.insert(scope.n);
        went.rows_up += asked.push.as_ref().map_or(0, |p| p.rows.rows.len() as u64);
    }
    went.again |= taken.again;
    went.refused |= taken.parked > 0 || matches!(given.outcome, Some(Outcome::Rejected { .. }));
    went.rows_down += taken.rows_down;
    went.hydrated |= taken.hydrated;
    if let Some((rows, left)) = taken.progress {
        let before = went.progress.unwrap_or_default();
        went.progress = Some((before.0 + rows, before.1 + left));
    }
    went.changed.extend(taken.changed.into_iter().map(|c| (c.1, c.2)));
    went.checkpoints |= taken.notices.iter().any(|n| n == "checkpoints");
    for notice in taken.notices.into_iter().filter(|n| n != "checkpoints") {
        // What was put back was put back for all scopes.
        if !went.notices.contains(&notice) {
            went.notices.push(notice);
        }
    }
    went.digest_differs |= taken.digest_differs;
    Ok(())
}

fn size_of_row(row: &syncline_core::DeltaRow) -> usize {
    64 + row.key.0.len() + row.values.iter().map(Value::size).sum::<usize>()
}
