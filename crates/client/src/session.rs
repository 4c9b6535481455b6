//! One sync, without I/O: what to send next, and what an answer does. The same code runs in the app, in the CLI and in the
//! simulator; only who carries the messages differs.
//!
//! Call `next`, send what it returns, call `answer` with what comes back, and go on until it says `Step::Done`. Whatever is
//! lost or killed in between: a new `Session` on the same database goes on where the last one was.

use syncline_core::{Limits, SyncRequest, SyncResponse, planted};
use syncline_replica::{Env, Replica, Result, Scope};

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
    pub changed: Vec<(i64, syncline_core::Key)>,
    /// Things that the owner should know of, in words.
    pub notices: Vec<String>,
    /// Whether this device and the authority differ although they should be equal; a resync mends it.
    pub digest_differs: bool,
}

/// One sync in progress.
pub struct Session {
    limits: Limits,
    summary: Summary,
    checkpoints: bool,
    schema_wanted: bool,
    more: bool,
    sent_rows: u64,
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
            more: false,
            sent_rows: 0,
            announced: false,
        }
    }

    /// Returns what has been done so far.
    pub fn summary(&self) -> &Summary {
        &self.summary
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

    /// Absorbs what was captured, freezes a bundle and returns the request to send.
    pub fn next(&mut self, replica: &mut Replica, env: &mut Env) -> Result<SyncRequest> {
        let (limits, checkpoints, schema_wanted) = (self.limits, self.checkpoints, self.schema_wanted);
        let push = !self.summary.retries_exhausted;
        let announced = self.announced;
        let (request, more, behind) = replica.transact(env, |tx| {
            let scope = tx.scope(1)?;
            let absorbed = tx.absorb()?;
            let touched = absorbed.changed.iter().map(|c| c.1).collect();
            tx.unpark_waiting(&scope, &touched)?;
            let (request, more) = tx.build_request(&scope, &limits, push, checkpoints)?;
            let queued = tx.pending_figures(&scope)?.0;
            let behind = if announced { Vec::new() } else { tx.schema_behind()? };
            let fingerprint = tx.fingerprint()?;
            let device_time_ms = tx.env.now_ms;
            let schema_version = tx.meta::<i64>("schema_version")?.unwrap_or(0) as u64;
            let version = syncline_core::VERSION;
            let request = SyncRequest { version, device_time_ms, fingerprint, queued, schema_wanted, scopes: vec![request], schema_version };
            Ok((request, more, behind))
        })?;
        self.announced = true;
        if !behind.is_empty() {
            let behind = behind.join(", ");
            self.summary.notices.push(format!("the server does not know {behind} yet; they wait here, all else goes. `syncline schema push` takes them to it"));
        }
        self.more = more;
        self.sent_rows = request.scopes[0].push.as_ref().map_or(0, |p| p.rows.rows.len() as u64);
        self.summary.requests += 1;
        Ok(request)
    }

    /// Takes an answer in, in one transaction that absorbs first.
    pub fn answer(&mut self, replica: &mut Replica, env: &mut Env, sent: &SyncRequest, answer: &SyncResponse) -> Result<Step> {
        let limits = self.limits;
        let (Some(sent), Some(given)) = (sent.scopes.first(), answer.scopes.first()) else { return Ok(Step::Done) };
        let (taken, figures, cursor, schema_wanted) = replica.transact(env, |tx| {
            let scope: Scope = tx.scope(1)?;
            if !planted::on("apply_without_absorb") {
                tx.absorb()?;
            }
            if let Some(schema) = &answer.schema {
                tx.create_missing(schema)?;
            }
            let schema_wanted = tx.meta::<[u8; 16]>("authority_schema")?.is_none_or(|known| known != answer.fingerprint.0);
            // Rows of another schema wait for it: who does not know a column's policy must not merge it by another.
            let given = if schema_wanted { syncline_core::ScopeAnswer { delta: None, ..given.clone() } } else { given.clone() };
            let mut taken = tx.take_answer(&scope, answer.history, sent, &given, &limits)?;
            if taken.digest_differs {
                // Replicas with other columns have other digests; that is no difference.
                taken.digest_differs = tx.fingerprint()? == answer.fingerprint;
            }
            if taken.digest_differs && tx.repair(&scope)? {
                taken.again = true;
                taken.notices.push("this device and the server differed although they should be equal; everything was compared and merged both ways".into());
            }
            let figures = tx.pending_figures(&scope)?;
            let cursor = tx.cursor(&scope)?.map_or(0, |c| c.seq.0);
            Ok((taken, figures, cursor, schema_wanted))
        })?;
        self.schema_wanted = schema_wanted;
        self.checkpoints = taken.notices.iter().any(|n| n == "checkpoints");
        let summary = &mut self.summary;
        if taken.committed.is_some() {
            summary.rows_up += self.sent_rows;
        }
        summary.rows_down += taken.rows_down;
        summary.bundle_seq = cursor;
        summary.hydrate |= taken.hydrated;
        (summary.pending, summary.parked) = (figures.0, figures.1);
        summary.progress = taken.progress;
        summary.changed.extend(taken.changed.into_iter().map(|c| (c.1, c.2)));
        summary.notices.extend(taken.notices.into_iter().filter(|n| n != "checkpoints"));
        summary.digest_differs = taken.digest_differs;
        if taken.parked > 0 || matches!(given.outcome, Some(syncline_core::Outcome::Rejected { .. })) {
            summary.rounds += 1;
            if summary.rounds > ROUNDS_MAX {
                summary.retries_exhausted = true;
            }
        }
        // What was acknowledged may be an earlier attempt, whose answer was lost: the rows written since are still to be sent.
        let unsent = figures.0 > figures.1 && self.summary.requests < REQUESTS_MAX;
        let more = (self.more || unsent) && taken.committed.is_some();
        Ok(if taken.again || more || schema_wanted { Step::Again } else { Step::Done })
    }
}
