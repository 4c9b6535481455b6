//! Calm: faults are off, everyone syncs in turn, people settle what waits for a decision. It must end.

use crate::device::Ran;
use crate::fault::{Fault, Faults};
use crate::ledger::Check;
use crate::schema::{Kind, VARIANTS};
use crate::site::How;
use crate::world::World;
use std::collections::BTreeMap;
use syncline_core::Value;
use syncline_replica::{Conflict, Resolution};

/// Rounds in which all devices sync, until nothing may move any more. People act at random in the first of them and
/// choose what surely ends a conflict in the rest; each such choice may bring one more conflict to light.
const ROUNDS_MAX: u32 = 40;
/// From this round on people choose what surely ends a conflict.
const PATIENCE_ROUNDS: u32 = 6;
/// Requests of one sync.
const REQUESTS_MAX: u32 = 400;

impl World {
    /// Lets everything settle.
    pub fn calm(&mut self) -> Check {
        self.say(&|_| "---- calm".into());
        self.net.clear();
        self.faults = self.faults.without(&[Fault::LostRequest, Fault::LostAnswer, Fault::Doubled, Fault::Delayed, Fault::CrashDevice, Fault::CrashServer]);
        for d in &mut self.devices {
            d.joined = true;
            d.site.disk.revive();
            d.processes.iter_mut().for_each(|p| p.running = None);
        }
        self.server.site.disk.revive();
        let mut quiet = 0;
        for round in 0..ROUNDS_MAX {
            let mut busy = false;
            for d in 0..self.devices.len() {
                busy |= self.sync_fully(d)?;
                busy |= self.settle_conflicts(d, round >= PATIENCE_ROUNDS)?;
            }
            quiet = if busy { 0 } else { quiet + 1 };
            if quiet == 2 {
                return Ok(());
            }
        }
        Err(format!("STUCK after {ROUNDS_MAX} rounds: {}", self.stuck()))
    }

    /// Syncs one device until it has nothing to do. Says whether anything moved.
    pub fn sync_fully(&mut self, d: usize) -> Check<bool> {
        self.now_ms += 1_000;
        let before = (self.devices[d].cursor(), self.ledger.count);
        let p = self.rng.index(self.devices[d].processes.len());
        self.begin_sync_in(d, p)?;
        for _ in 0..REQUESTS_MAX {
            if self.net.is_empty() {
                let pending = self.devices[d].site.mirror.rows.values().any(|r| r.pending.is_some());
                return Ok(pending || before != (self.devices[d].cursor(), self.ledger.count));
            }
            self.deliver()?;
        }
        Err(format!("STUCK device {d} sends more than {REQUESTS_MAX} messages in one sync"))
    }

    fn stuck(&mut self) -> String {
        let mut out = Vec::new();
        for d in 0..self.devices.len() {
            let waits: Vec<String> = self
                .conflicts(d)
                .unwrap_or_default()
                .iter()
                .map(|c| format!("{} {}{:?} {}", c.state, c.refusal.table, c.refusal.key, c.refusal.message))
                .collect();
            let pending = self.devices[d].site.mirror.rows.values().filter(|r| r.pending.is_some()).count();
            out.push(format!("device {d} at {:?}, {pending} pending, {waits:?}", self.devices[d].cursor().map(|c| c.seq)));
        }
        out.join("; ")
    }

    pub(crate) fn conflicts(&mut self, d: usize) -> Check<Vec<Conflict>> {
        let draw = self.rng.next();
        let now = self.now_ms;
        // A decision is about the rows as they are: what was captured is absorbed first, in a transaction of its own.
        let ran = self.devices[d].run(0, now, draw, How::Absorbing, &mut self.ledger, |replica, env| {
            replica.transact(env, |tx| {
                tx.absorb()?;
                tx.conflicts()
            })
        })?;
        Ok(match ran {
            Ran::Done(found) => found,
            Ran::Power => vec![],
        })
    }

    /// Lets a person settle one conflict of a device at random.
    pub fn resolve_one(&mut self, d: usize) -> Check {
        let found = self.conflicts(d)?;
        if !found.is_empty() {
            let i = self.rng.index(found.len());
            self.resolve(d, &found[i], false)?;
        }
        Ok(())
    }

    fn settle_conflicts(&mut self, d: usize, firmly: bool) -> Check<bool> {
        let found = self.conflicts(d)?;
        self.check_shelf(d)?;
        self.check_asked(d, &found)?;
        self.check_families(&found)?;
        for conflict in &found {
            self.resolve(d, conflict, firmly)?;
        }
        Ok(!found.is_empty())
    }

    fn resolve(&mut self, d: usize, conflict: &Conflict, firmly: bool) -> Check {
        let how = match self.rng.below(3) {
            0 if !firmly => Resolution::Mine,
            1 if !firmly => Resolution::Server,
            // People who ask each other in the end choose the same.
            _ if firmly && conflict.state != "ask" && self.rng.chance(50) => Resolution::Server,
            _ => Resolution::Merged(self.harmless(conflict)),
        };
        let draw = self.rng.next();
        let now = self.now_ms;
        let id = conflict.id.clone();
        let mut refused = None;
        let ran =
            self.devices[d].run(0, now, draw, How::Absorbing, &mut self.ledger, |replica, env| match replica.transact(env, |tx| tx.resolve(&id, &how)) {
                Err(syncline_replica::Error::Refused(why)) => {
                    refused = Some(why);
                    Ok(())
                }
                other => other,
            })?;
        self.say(&|_| {
            let r = &conflict.refusal;
            format!("device {d}: {} {}{:?} ({} {}) is settled by {how:?}: {refused:?}", conflict.state, r.table, r.key, r.reason.word(), r.message)
        });
        if let Ran::Done(()) = ran
            && refused.is_none()
            && conflict.state == "ask"
            && self.conflicts(d)?.iter().any(|c| c.id == conflict.id && c.state == "ask")
        {
            return Err(format!("ASKED again: {:?} at device {d} after it was settled by {how:?}", conflict.refusal.key));
        }
        if let Ran::Done(()) = ran
            && refused.is_some()
            && firmly
        {
            // What cannot be mended goes: the row itself, or what is in its way.
            self.app_deletes(d, conflict)?;
        }
        Ok(())
    }

    /// Values that break no constraint: a unique one of its own, no parent, small numbers.
    fn harmless(&mut self, conflict: &Conflict) -> BTreeMap<String, Value> {
        let mut out = BTreeMap::new();
        let Some(table) = VARIANTS[self.variant].tables.iter().find(|t| t.name == conflict.refusal.table) else { return out };
        for (name, kind) in table.columns {
            let value = match kind {
                Kind::Unique => Value::text(format!("fix{}", self.rng.next())),
                Kind::Ref(_) | Kind::Bound => Value::Null,
                Kind::Small => Value::Int(1),
                Kind::Asked | Kind::Owned => Value::text("fixed"),
                _ => continue,
            };
            out.insert((*name).to_owned(), value);
        }
        if out.is_empty()
            && let Some((name, kind)) = table.columns.first()
        {
            let value = match kind {
                Kind::Word => Value::text("fixed"),
                Kind::Tally => Value::Int(1),
                _ => Value::Null,
            };
            out.insert((*name).to_owned(), value);
        }
        out
    }

    fn app_deletes(&mut self, d: usize, conflict: &Conflict) -> Check {
        let Some(t) = VARIANTS[self.variant].tables.iter().position(|t| t.name == conflict.refusal.table) else { return Ok(()) };
        let before = self.faults;
        self.faults = Faults::default();
        self.app_deletes_from(d, t)?;
        self.faults = before;
        Ok(())
    }
}
