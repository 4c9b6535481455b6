//! The authority at its place.

use crate::device::Ran;
use crate::image;
use crate::ledger::{Check, Ledger, SERVER};
use crate::rng::Rng;
use crate::site::{Doubt, How, Site};
use syncline_core::{Acked, Limits, Outcome, ScopeId, Seq, SyncRequest, frame};
use syncline_server::collect::collect;
use syncline_server::commit::absorb_foreign;
use syncline_server::{ApiError, Authority, Caller};

/// The authority.
pub struct Server {
    /// Its database.
    pub site: Site,
    /// It, while it has power.
    pub authority: Option<Authority>,
    /// Every bundle that it has ever acknowledged, as its answers said.
    pub acked: Vec<Acked>,
}

/// What the authority says to a request.
#[derive(Clone)]
pub enum Reply {
    /// An answer.
    Answer(Vec<u8>),
    /// The device's clock is ahead of this time, in ms.
    ClockAhead(i64),
}

impl Server {
    /// Puts the authority on a fresh disk with the image of its variant.
    pub fn new(variant: usize, rng: &mut Rng) -> Server {
        Server { site: Site::new(SERVER, variant, rng.next()), authority: None, acked: vec![] }
    }

    /// Starts it, after power came back or for the first time.
    pub fn start(&mut self, now_ms: i64, seed: u64, ledger: &mut Ledger) -> Check<bool> {
        let failed = |e: &dyn std::fmt::Display| format!("ERROR starting the authority: {e}");
        let conn = self.site.open_sync().map_err(|e| failed(&e))?;
        let here = self.site.at(now_ms);
        let authority = match Authority::open(conn, &mut image::env(here, seed)) {
            Ok(authority) => authority,
            Err(_) if self.site.disk.is_dead() => return Ok(false),
            Err(e) => return Err(failed(&e)),
        };
        self.site.reopened(authority.replica.conn(), ledger)?;
        self.authority = Some(authority);
        Ok(true)
    }

    /// Cuts the power.
    pub fn stop(&mut self) {
        self.site.kill();
        self.authority = None;
    }

    /// Leaves what is open to the next history.
    pub fn leave(self) {
        self.site.leave(self.authority.map(|a| a.replica.into_conn()), None);
    }

    /// Collects tombstones.
    pub fn collect(&mut self, floor: Seq, now_ms: i64, seed: u64, ledger: &mut Ledger) -> Check {
        let here = self.site.at(now_ms);
        let Some(authority) = self.authority.as_mut() else { return Ok(()) };
        self.site.tape.take();
        let before = Site::changes(authority.replica.conn());
        let done = authority.replica.transact(&mut image::env(here, seed), |tx| {
            absorb_foreign(tx)?;
            match tx.find_scope(&ScopeId(image::ACCOUNT.into()))? {
                Some(scope) => collect(tx, &scope, floor),
                None => Ok(0),
            }
        });
        if self.site.disk.is_dead() {
            self.site.doubt = Some(Doubt::Sync(self.site.tape.take_done(), How::Absorbing, done.is_ok()));
            return Ok(());
        }
        done.map_err(|e| format!("ERROR collecting: {e}"))?;
        self.site.committed(authority.replica.conn(), &before, ledger, How::Absorbing)
    }

    /// Answers a request.
    pub fn sync(&mut self, caller: &Caller, request: &[u8], now_ms: i64, seed: u64, ledger: &mut Ledger) -> Check<Ran<Reply>> {
        let broken = |e: &dyn std::fmt::Display| format!("ERROR at the authority: {e}");
        let here = self.site.at(now_ms);
        let Some(authority) = self.authority.as_mut() else { return Ok(Ran::Power) };
        let request: SyncRequest = frame::decode(request, &Limits::default()).map_err(|e| broken(&e))?;
        self.site.tape.take();
        let before = Site::changes(authority.replica.conn());
        let answer = authority.sync(&mut image::env(here, seed), caller, &request);
        if let Ok(answer) = &answer {
            for scope in &answer.scopes {
                if let Some(Outcome::Committed(ack)) = scope.outcome {
                    self.acked.push(ack);
                }
            }
        }
        if self.site.disk.is_dead() {
            self.site.doubt = Some(Doubt::Sync(self.site.tape.take_done(), How::Absorbing, answer.is_ok()));
            return Ok(match answer {
                // What was answered was durable before: the answer goes out even if the power goes right after.
                Ok(answer) => Ran::Done(Reply::Answer(frame::encode(&answer).map_err(|e| broken(&e))?)),
                Err(_) => Ran::Power,
            });
        }
        let reply = match answer {
            Ok(answer) => Reply::Answer(frame::encode(&answer).map_err(|e| broken(&e))?),
            Err(ApiError::ClockAhead(_)) => Reply::ClockAhead(here),
            Err(e) => return Err(broken(&e)),
        };
        self.site.committed(authority.replica.conn(), &before, ledger, How::Absorbing)?;
        Ok(Ran::Done(reply))
    }
}
