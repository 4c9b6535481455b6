//! A history: devices, an authority and the network between them, driven by one seed in one thread.

use crate::app::{Author, Fate};
use crate::device::{Device, Ran, Running};
use crate::fault::{Fault, Faults, names_of};
use crate::image::START_MS;
use crate::ledger::{Check, Ledger};
use crate::rng::Rng;
use crate::schema::{Kind, POLICIES, VARIANTS};
use crate::server::{Reply, Server};
use crate::site::{Doubt, How, Saved};
use crate::tables::Tables;
use crate::vfs::Fault as DiskFault;
use std::collections::{BTreeMap, BTreeSet};
use syncline::session::{Session, Step};
use syncline_core::{Hlc, Key, Limits, Stamp, SyncRequest, SyncResponse, Value, frame};
use syncline_replica::Conflict;

/// Beyond this a device's clock counts as wrong.
pub(crate) const CLOCK_TOLERANCE_MS: i64 = 5 * 60 * 1000;
/// Older messages are gone. A write that was dated anew must not arrive with its old date once that is no longer ahead; so no
/// clock here is off by less than this beyond the tolerance.
const MESSAGE_AGE_MS_MAX: i64 = 10 * 60 * 1000;

/// A message on its way.
#[derive(Clone)]
pub struct Message {
    /// The device it goes to or comes from.
    pub device: usize,
    /// Its process.
    pub process: usize,
    /// Its life.
    pub life: u64,
    /// The sync it belongs to.
    pub token: u64,
    /// When the request was sent.
    pub sent_ms: i64,
    /// The request, as sent.
    pub request: Vec<u8>,
    /// What the authority said to it, on the way back.
    pub reply: Option<Reply>,
}

/// What a seed is played with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The faults that may be picked from.
    pub faults: Faults,
    /// Whether exactly these are on, rather than a random subset.
    pub exactly: bool,
    /// Whether to keep the trace in words.
    pub trace: bool,
    /// Of a hundred histories, in how many columns have policies.
    pub policies: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options { faults: Faults::all(), exactly: false, trace: false, policies: 40 }
    }
}

/// A history in progress.
pub struct World {
    /// The true time.
    pub now_ms: i64,
    /// What goes wrong.
    pub faults: Faults,
    /// The number of the schema.
    pub variant: usize,
    /// The devices.
    pub devices: Vec<Device>,
    /// The authority.
    pub server: Server,
    /// Every write that was absorbed.
    pub ledger: Ledger,
    /// Draws.
    pub rng: Rng,
    /// Messages on their way, oldest first.
    pub net: Vec<Message>,
    /// Writes that are gone with a disk that was put back before anyone else had them.
    pub forgiven: BTreeSet<(usize, Key, Stamp)>,
    /// Backups of devices.
    pub device_backups: Vec<(usize, Saved)>,
    /// Backups of the authority, with the head that each has.
    pub server_backups: Vec<(i64, Saved)>,
    /// Whether the authority's past was never undone.
    pub one_past: bool,
    /// Whether a bundle may hold less than a transaction wrote.
    pub splits: bool,
    /// What happened, in words.
    pub lines: Vec<String>,
    trace: bool,
    hash: u64,
    tokens: u64,
    counter: i64,
    steps: u64,
}

impl World {
    /// Sets up the history of a seed.
    pub fn new(seed: u64, options: &Options) -> Check<World> {
        let mut rng = Rng::new(seed ^ 0x5eed_0f5e_ed0f);
        // Drawn apart, so that a seed that failed once is still the same history without policies.
        let plain = rng.index(POLICIES);
        let variant = if Rng::new(seed ^ 0x901c).chance(options.policies) { POLICIES } else { plain };
        let faults = if options.exactly { options.faults } else { options.faults.swarm(&mut rng) };
        // A copy that dates its writes anew apart from the original counts increments twice: no ledger could say what is right.
        let faults =
            if variant == POLICIES && faults.any(&[Fault::Backup, Fault::Copy, Fault::ServerBackup]) { faults.without(&[Fault::Clocks]) } else { faults };
        let count = 2 + rng.weighted(&[50, 35, 15]);
        let processes = if faults.has(Fault::TwoProcesses) { 2 } else { 1 };
        let mut limits = Limits::default();
        if faults.has(Fault::Pages) {
            limits.page_bytes = 100 + rng.index(500);
            if Rng::new(seed ^ 0xb01c).chance(25) {
                limits.bulk_rows = 1;
            }
        }
        if faults.has(Fault::Bundles) {
            limits.bundle_rows = 2 + rng.index(4);
        }
        let mut devices: Vec<Device> = (0..count).map(|n| Device::new(n, variant, processes, limits, &mut rng)).collect();
        if faults.has(Fault::Late) {
            devices[count - 1].joined = false;
        }
        if faults.has(Fault::Passive) {
            devices[rng.index(count)].passive = true;
        }
        if faults.has(Fault::Clocks) {
            for d in &mut devices {
                let far = *rng.pick(&[0, 2_000, 200_000, 3_600_000, 86_400_000, 1_000_000_000_000]);
                d.site.offset_ms = if rng.chance(50) { far } else { -far };
            }
        }
        let steps = *rng.pick(&[20, 30, 45, 60]);
        let server = Server::new(variant, &mut rng);
        let mut world = World {
            now_ms: START_MS,
            faults,
            variant,
            devices,
            server,
            ledger: Ledger::default(),
            rng,
            net: vec![],
            forgiven: BTreeSet::new(),
            device_backups: vec![],
            server_backups: vec![],
            one_past: true,
            splits: faults.has(Fault::Bundles),
            lines: vec![],
            trace: options.trace,
            hash: seed,
            tokens: 0,
            counter: 0,
            steps,
        };
        world.say(&|w| {
            let clocks: Vec<i64> = w.devices.iter().map(|d| d.site.offset_ms).collect();
            format!("seed {seed}: schema {}, {count} devices, {steps} steps, clocks off by {clocks:?} ms, faults {}", VARIANTS[variant].name, names_of(&faults))
        });
        for d in &mut world.devices {
            d.start(&mut world.ledger)?;
        }
        let draw = world.rng.next();
        world.server.start(world.now_ms, draw, &mut world.ledger)?;
        let tables = VARIANTS[variant].tables.iter().enumerate();
        world.ledger.policies = VARIANTS[variant].tables.iter().map(|t| t.columns.iter().map(|c| c.1.policy()).collect()).collect();
        world.ledger.delete_wins = VARIANTS[variant].tables.iter().map(|t| t.name == "gone").collect();
        world.ledger.reject = VARIANTS[variant].tables.iter().map(|t| t.name == "strict").collect();
        if variant == POLICIES {
            let mut own = Rng::new(seed ^ 0x4e50);
            for d in &mut world.devices {
                d.resolves = own.chance(40);
                // Where every program enforces foreign keys, no child is ever left to a person.
                d.foreign_keys |= !world.faults.has(Fault::ForeignKey);
            }
        }
        world.ledger.integer_keys = tables.filter(|(_, t)| t.key.iter().any(|k| k.1 == Kind::Range)).map(|(t, _)| t).collect();
        if world.faults.has(Fault::Rule) {
            world.make_rule()?;
        }
        Ok(world)
    }

    /// Leaves the opened databases to the next history of this schema.
    pub fn leave(self) {
        self.devices.into_iter().for_each(Device::leave);
        self.server.leave();
    }

    /// Plays the storm.
    pub fn storm(&mut self) -> Check {
        for _ in 0..self.steps {
            self.step()?;
        }
        Ok(())
    }

    /// Notes what happens: for people if the trace is on, for comparing runs always.
    pub fn say(&mut self, line: &dyn Fn(&World) -> String) {
        if self.trace {
            let line = format!("{:>7} {}", self.now_ms - START_MS, line(self));
            self.lines.push(line);
        }
    }
    /// Mixes bytes into the trace's hash.
    pub fn mix(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.hash = (self.hash.rotate_left(5) ^ u64::from_le_bytes(word)).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
    }
    /// Returns the trace's hash: two runs of one seed have the same.
    pub fn trace_hash(&self) -> u64 {
        self.hash
    }

    fn step(&mut self) -> Check {
        self.now_ms += 1 + self.rng.below(3_000) as i64;
        let oldest = self.now_ms - MESSAGE_AGE_MS_MAX;
        self.net.retain(|m| m.sent_ms >= oldest);
        let d = self.rng.index(self.devices.len());
        let f = |fault, weight: u64| if self.faults.has(fault) { weight } else { 0 };
        let weights = [
            35,
            18,
            if self.net.is_empty() { 0 } else { 45 },
            4,
            6,
            f(Fault::ServerSql, 5),
            f(Fault::Resync, 2),
            f(Fault::CrashDevice, 8),
            f(Fault::CrashServer, 5),
            3,
            f(Fault::Late, 3),
            f(Fault::Rebuild, 4),
            f(Fault::Backup, 4) + f(Fault::Copy, 4),
            f(Fault::ServerBackup, 5),
            f(Fault::Collect, 4),
        ];
        match self.rng.weighted(&weights) {
            0 => self.app_writes(d)?,
            1 => self.begin_sync(d)?,
            2 => self.deliver()?,
            3 => self.give_up(d),
            4 => self.now_ms += *self.rng.pick(&[60_000, 3_600_000, 86_400_000]),
            5 => self.operator_writes()?,
            6 => self.resync(d)?,
            7 => self.plan_device_crash(d),
            8 => self.plan_server_crash(),
            9 => self.resolve_one(d)?,
            10 => self.devices.iter_mut().for_each(|d| d.joined = true),
            11 => self.app_rebuilds(d)?,
            12 => self.device_backup(d)?,
            13 => self.server_backup()?,
            _ => self.collect()?,
        }
        self.power_back()
    }

    // ---- writing

    /// Lets a program write a device's database.
    pub fn app_writes(&mut self, d: usize) -> Check {
        if self.devices[d].passive {
            return Ok(());
        }
        let now = self.now_ms;
        self.say(&|_| format!("device {d}: a program writes"));
        let device = &mut self.devices[d];
        device.site.at(now);
        let lines = std::cell::RefCell::new(vec![]);
        let trace = self.trace;
        let mut author = Author {
            variant: &VARIANTS[self.variant],
            faults: self.faults,
            range: 1000 * (d as i64 + 1),
            at_server: false,
            rng: &mut self.rng,
            counter: &mut self.counter,
        };
        let fate = match device.app_parts() {
            Ok((conn, site)) => author.transact(conn, &mut site.written, &|line| {
                if trace {
                    lines.borrow_mut().push(line());
                }
            }),
            Err(_) => Fate::Cut,
        };
        self.lines.extend(lines.into_inner());
        self.settle_fate(fate, Some(d))
    }

    /// Lets a program delete what stands in a conflict's way.
    pub fn app_deletes_from(&mut self, d: usize, table: usize) -> Check {
        let now = self.now_ms;
        let device = &mut self.devices[d];
        device.site.at(now);
        let Ok((conn, site)) = device.app_parts() else { return Err("ERROR opening a database".into()) };
        let table = &VARIANTS[self.variant].tables[table];
        let done = conn.execute_batch(&format!("DELETE FROM {}", table.name));
        let after = Tables::read(conn, site.variant).map_err(|e| format!("ERROR reading tables: {e}"))?;
        site.written.note(after, None);
        self.say(&|_| format!("device {d}: a person deletes all of {}: {done:?}", table.name));
        Ok(())
    }

    /// Lets the app rebuild a table as migrations do, and write it while no trigger is there.
    pub fn app_rebuilds(&mut self, d: usize) -> Check {
        let now = self.now_ms;
        let value = format!("r{}", self.rng.below(100));
        let device = &mut self.devices[d];
        device.site.at(now);
        let sql = format!(
            "BEGIN IMMEDIATE; CREATE TABLE new(id INTEGER PRIMARY KEY, title TEXT, x REAL); INSERT INTO new SELECT * FROM num; DROP TABLE num;
             ALTER TABLE new RENAME TO num; UPDATE num SET title = '{value}' WHERE id % 2 = 0; DELETE FROM num WHERE id % 5 = 1"
        );
        let Ok((conn, site)) = device.app_parts() else { return self.settle_fate(Fate::Cut, Some(d)) };
        let before = site.written.clone();
        let read = conn.execute_batch(&sql).and_then(|()| Tables::read(conn, site.variant));
        let fate = match read {
            Err(_) => Fate::Cut,
            Ok(after) => {
                let mut draft = before;
                draft.note(after, None);
                match conn.execute_batch("COMMIT") {
                    Ok(()) => {
                        site.written = draft;
                        Fate::Acknowledged
                    }
                    Err(_) => Fate::InDoubt(Box::new(draft)),
                }
            }
        };
        self.say(&|_| format!("device {d}: the app rebuilds num, and writes {value}"));
        self.settle_fate(fate, Some(d))
    }

    fn operator_writes(&mut self) -> Check {
        let now = self.now_ms;
        self.say(&|_| "authority: a program writes".into());
        let server = &mut self.server;
        server.site.at(now);
        let Some(authority) = &server.authority else { return Ok(()) };
        let lines = std::cell::RefCell::new(vec![]);
        let trace = self.trace;
        let mut author =
            Author { variant: &VARIANTS[self.variant], faults: self.faults, range: 9000, at_server: true, rng: &mut self.rng, counter: &mut self.counter };
        let fate = author.transact(authority.replica.conn(), &mut server.site.written, &|line| {
            if trace {
                lines.borrow_mut().push(line());
            }
        });
        self.lines.extend(lines.into_inner());
        self.settle_fate(fate, None)
    }

    fn settle_fate(&mut self, fate: Fate, device: Option<usize>) -> Check {
        let site = match device {
            Some(d) => &mut self.devices[d].site,
            None => &mut self.server.site,
        };
        let word = match fate {
            Fate::Acknowledged => "acknowledged",
            Fate::Undone => "undone",
            Fate::Cut => "cut",
            Fate::InDoubt(after) => {
                site.doubt = Some(Doubt::App(after));
                "in doubt"
            }
        };
        if !site.disk.is_dead() && matches!(word, "cut" | "in doubt") {
            return Err(format!("ERROR a program's transaction was {word} although the power is on"));
        }
        self.say(&|_| format!("  {word}"));
        Ok(())
    }

    /// A rule of the operator's own: some rows are refused.
    fn make_rule(&mut self) -> Check {
        let Some(authority) = &self.server.authority else { return Ok(()) };
        for t in VARIANTS[self.variant].tables {
            if let Some(c) = t.small() {
                for when in ["INSERT", "UPDATE"] {
                    let sql = format!(
                        "CREATE TRIGGER rule_{0}_{when} BEFORE {when} ON {0} WHEN NEW.{c} % 7 = 5 BEGIN SELECT RAISE(ABORT, 'rule: closed period'); END",
                        t.name
                    );
                    authority.replica.conn().execute_batch(&sql).map_err(|e| format!("ERROR making a rule: {e}"))?;
                }
            }
        }
        Ok(())
    }

    // ---- syncing

    /// Starts a sync in one of a device's processes, if it has power, takes part and is idle.
    fn begin_sync(&mut self, d: usize) -> Check {
        let p = self.rng.index(self.devices[d].processes.len());
        self.begin_sync_in(d, p)
    }

    /// The same, in a given process.
    pub fn begin_sync_in(&mut self, d: usize, p: usize) -> Check {
        let device = &mut self.devices[d];
        if !device.joined || device.processes[p].running.is_some() {
            return Ok(());
        }
        self.tokens += 1;
        let session = Session::new(device.limits);
        device.processes[p].running = Some(Running { token: self.tokens, session, redated: false, sent_ms: 0 });
        self.send(d, p)
    }

    fn send(&mut self, d: usize, p: usize) -> Check {
        let draw = self.rng.next();
        let now = self.now_ms;
        let device = &mut self.devices[d];
        let Some(mut running) = device.processes[p].running.take() else { return Ok(()) };
        self.ledger.group = Some(self.ledger.group_next());
        let made = device.run(p, now, draw, How::Absorbing, &mut self.ledger, |replica, env| running.session.next(replica, env));
        self.ledger.group = None;
        let made = made?;
        let Ran::Done(request) = made else { return Ok(()) };
        running.sent_ms = now;
        let token = running.token;
        let life = device.life;
        device.processes[p].running = Some(running);
        self.say(&|_| format!("device {d}.{p}: asks {}", request_in_words(&request)));
        let request = frame::encode(&request).map_err(|e| format!("ERROR encoding a request: {e}"))?;
        self.mix(&request);
        self.net.push(Message { device: d, process: p, life, token, sent_ms: now, request, reply: None });
        Ok(())
    }

    fn give_up(&mut self, d: usize) {
        let device = &mut self.devices[d];
        for p in 0..device.processes.len() {
            if let Some(running) = device.processes[p].running.take()
                && !self.faults.has(Fault::Delayed)
            {
                self.net.retain(|m| m.token != running.token);
            }
        }
        self.say(&|_| format!("device {d}: gives up waiting"));
    }

    /// Delivers a message, or loses it.
    pub fn deliver(&mut self) -> Check {
        let i = if self.faults.has(Fault::Delayed) { self.rng.index(self.net.len()) } else { 0 };
        let again = self.faults.has(Fault::Doubled) && self.rng.chance(20);
        let message = if again { self.net[i].clone() } else { self.net.remove(i) };
        let lossy = if message.reply.is_some() { Fault::LostAnswer } else { Fault::LostRequest };
        if self.faults.has(lossy) && self.rng.chance(20) {
            self.say(&|_| format!("network: loses {} device {}", if message.reply.is_some() { "an answer to" } else { "a request of" }, message.device));
            return Ok(());
        }
        match message.reply.clone() {
            None => self.deliver_request(message),
            Some(reply) => self.deliver_answer(&message, &reply),
        }
    }

    fn deliver_request(&mut self, message: Message) -> Check {
        let draw = self.rng.next();
        let caller = self.devices[message.device].caller.clone();
        let ran = self.server.sync(&caller, &message.request, self.now_ms, draw, &mut self.ledger)?;
        let reply = match ran {
            Ran::Done(reply) => reply,
            Ran::Power => {
                self.say(&|_| format!("authority: loses power at a request of device {}", message.device));
                return Ok(());
            }
        };
        if self.one_past && !self.splits {
            self.ledger.check_groups()?;
        }
        self.say(&|_| format!("authority: answers device {}.{}: {}", message.device, message.process, reply_in_words(&reply)));
        if let Reply::Answer(bytes) = &reply {
            self.mix(bytes);
        }
        self.net.push(Message { reply: Some(reply), ..message });
        Ok(())
    }

    fn deliver_answer(&mut self, message: &Message, reply: &Reply) -> Check {
        let (d, p) = (message.device, message.process);
        let device = &mut self.devices[d];
        if device.life != message.life || device.processes[p].replica.is_none() {
            return Ok(()); // nobody is there any more
        }
        let in_time = device.processes[p].running.as_ref().is_some_and(|r| r.token == message.token);
        let mut running = match device.processes[p].running.take() {
            Some(running) if in_time => running,
            other => {
                // Too late: the sync it belonged to was given up. It is taken in none the less, as if it had come in time.
                device.processes[p].running = other;
                let session = Session::new(device.limits);
                Running { token: 0, session, redated: false, sent_ms: 0 }
            }
        };
        let late = if in_time { "" } else { " (late)" };
        let request: SyncRequest = frame::decode(&message.request, &Limits::default()).map_err(|e| format!("ERROR decoding a request: {e}"))?;
        let bytes = match reply {
            Reply::Answer(bytes) => bytes,
            Reply::ClockAhead(server_ms) if in_time && !running.redated => {
                running.redated = true;
                self.say(&|_| format!("device {d}.{p}: hears that its clock is ahead"));
                let alive = self.date_anew(d, p, *server_ms)?;
                if alive {
                    self.devices[d].processes[p].running = Some(running);
                    return self.send(d, p);
                }
                return Ok(());
            }
            Reply::ClockAhead(_) => return Ok(()),
        };
        let answer: SyncResponse = frame::decode(bytes, &Limits::default()).map_err(|e| format!("ERROR decoding an answer: {e}"))?;
        if in_time && self.now_ms - running.sent_ms < 30_000 && !self.correct_clock(d, p, answer.server_time_ms)? {
            return Ok(());
        }
        let draw = self.rng.next();
        let now = self.now_ms;
        let device = &mut self.devices[d];
        let apart = device.site.waiting(&["strict"]);
        let ran = device.run(p, now, draw, How::Absorbing, &mut self.ledger, |replica, env| running.session.answer(replica, env, &request, &answer))?;
        let Ran::Done(step) = ran else { return Ok(()) };
        self.check_apart(d, &apart)?;
        self.say(&|w| format!("device {d}.{p}: takes it in{late}, is at {} and {step:?}", w.devices[d].cursor().map_or(0, |c| c.seq.0)));
        let notices = running.session.summary().notices.clone();
        self.say(&|_| if notices.is_empty() { "  no notice".into() } else { format!("  notices {notices:?}") });
        if running.session.summary().digest_differs {
            return Err(format!("DIGEST of device {d} differs from the authority's: {}", self.rows_unlike(d)?.join("; ")));
        }
        self.check_prefix(d)?;
        if in_time && step == Step::Again {
            self.devices[d].processes[p].running = Some(running);
            return self.send(d, p);
        }
        if in_time && self.devices[d].resolves {
            return self.let_resolver(d, p, running);
        }
        Ok(())
    }

    /// Lets a device's app settle what waits at the end of a sync, and send that.
    fn let_resolver(&mut self, d: usize, p: usize, mut running: Running) -> Check {
        let (now, round) = (self.now_ms, running.session.summary().rounds);
        let draw = self.rng.next();
        let listed = self.devices[d].run(p, now, draw, How::Absorbing, &mut self.ledger, |replica, env| running.session.unsettled(replica, env))?;
        let Ran::Done(waiting) = listed else { return Ok(()) };
        let mut settled = false;
        for conflict in waiting {
            let Some(row) = merged_by_code(&conflict) else { continue };
            let draw = self.rng.next();
            let ran = self.devices[d]
                .run(p, now, draw, How::Absorbing, &mut self.ledger, |replica, env| running.session.settle_one(replica, env, &conflict, row.clone(), round))?;
            let Ran::Done(done) = ran else { return Ok(()) };
            self.say(&|_| format!("device {d}.{p}: its app settles {}{:?} by {row:?}: {done}", conflict.refusal.table, conflict.refusal.key));
            if done && self.conflicts(d)?.iter().any(|c| c.id == conflict.id) {
                return Err(format!("RESOLVED in vain: {conflict:?} at device {d}"));
            }
            settled |= done;
        }
        if settled {
            self.devices[d].processes[p].running = Some(running);
            self.send(d, p)?;
        }
        Ok(())
    }

    /// Notes by how much a device's clock is wrong, as the app does with each answer. Says whether it still has power.
    fn correct_clock(&mut self, d: usize, p: usize, server_ms: i64) -> Check<bool> {
        let now = self.now_ms;
        let device = &mut self.devices[d];
        let off = server_ms - (now + device.site.offset_ms);
        let shift = if off.abs() > CLOCK_TOLERANCE_MS { off } else { 0 };
        if shift == 0 && device.site.offset_ms.abs() < CLOCK_TOLERANCE_MS {
            return Ok(true);
        }
        let ran = device.run(p, now, 1, How::Plain, &mut self.ledger, |replica, env| replica.transact(env, |tx| tx.set_meta("clock_shift_ms", shift)))?;
        Ok(matches!(ran, Ran::Done(())))
    }

    fn date_anew(&mut self, d: usize, p: usize, server_ms: i64) -> Check<bool> {
        if !self.correct_clock(d, p, server_ms)? {
            return Ok(false);
        }
        let draw = self.rng.next();
        let limit = server_ms + CLOCK_TOLERANCE_MS;
        let how = How::Redating(Hlc::from_ms(limit));
        let now = self.now_ms;
        let ran = self.devices[d].run(p, now, draw, how, &mut self.ledger, |replica, env| replica.transact(env, |tx| tx.restamp_future(server_ms, limit)))?;
        Ok(matches!(ran, Ran::Done(_)))
    }

    fn resync(&mut self, d: usize) -> Check {
        let draw = self.rng.next();
        let now = self.now_ms;
        self.say(&|_| format!("device {d}: asks for everything anew"));
        let ran = self.devices[d].run(0, now, draw, How::Plain, &mut self.ledger, |replica, env| {
            replica.transact(env, |tx| {
                let scope = tx.scope(1)?;
                tx.request_resync(&scope)
            })
        })?;
        let _ = ran;
        Ok(())
    }

    // ---- power

    fn plan_device_crash(&mut self, d: usize) {
        let (n, torn) = (1 + self.rng.below(60), self.rng.chance(50));
        if self.rng.chance(20) {
            self.say(&|_| format!("device {d}: loses power"));
            self.devices[d].site.disk.kill();
        } else {
            self.devices[d].site.disk.fail_at(n, if torn { DiskFault::Torn } else { DiskFault::Error });
        }
    }

    fn plan_server_crash(&mut self) {
        let (n, torn) = (1 + self.rng.below(60), self.rng.chance(50));
        if self.rng.chance(20) {
            self.say(&|_| "authority: loses power".into());
            self.server.site.disk.kill();
        } else {
            self.server.site.disk.fail_at(n, if torn { DiskFault::Torn } else { DiskFault::Error });
        }
    }

    /// Opens what lost its power, and checks what is left.
    pub fn power_back(&mut self) -> Check {
        for d in 0..self.devices.len() {
            if self.devices[d].site.disk.is_dead() {
                let draw = self.rng.next();
                let device = &mut self.devices[d];
                device.stop();
                device.site.disk.crash(draw);
                device.start(&mut self.ledger)?;
                self.say(&|_| format!("device {d}: has power again"));
            }
        }
        while self.server.site.disk.is_dead() {
            let draw = self.rng.next();
            self.server.stop();
            self.server.site.disk.crash(draw);
            self.server.start(self.now_ms, draw, &mut self.ledger)?;
            self.say(&|_| "authority: has power again".into());
        }
        Ok(())
    }
}

/// What an app's resolver makes of a row: one column of each side, or the greatest of the values.
fn merged_by_code(conflict: &Conflict) -> Option<BTreeMap<String, Value>> {
    if conflict.state == "ask" {
        return Some(conflict.values.iter().filter_map(|(name, all)| Some((name.clone(), all.iter().max_by(|a, b| a.cmp_encoding(b))?.clone()))).collect());
    }
    let (local, remote) = (conflict.local.as_ref()?, conflict.remote.as_ref()?);
    let mut row = local.clone();
    row.insert("a".into(), remote.get("a")?.clone());
    Some(row)
}

/// Says what a request asks.
fn request_in_words(request: &SyncRequest) -> String {
    let s = &request.scopes[0];
    let push = s.push.as_ref().map(|p| {
        let rows: Vec<String> = p.rows.rows.iter().map(|r| format!("{}{:?}@{}", p.rows.tables[r.table as usize].name, r.key, r.seq)).collect();
        format!("bundle {} attempt {} nonce {} of source {:?}: {}", p.id, p.attempt, p.nonce.0 % 1000, s.source, rows.join(" "))
    });
    format!(
        "from {:?} page {:?}, acked {:?}, {}",
        s.cursor.map(|c| c.seq),
        s.page.as_ref().map(|p| (p.from, &p.after)),
        s.acked.iter().map(|a| (a.id, a.seq)).collect::<Vec<_>>(),
        push.unwrap_or_else(|| "no push".into())
    )
}

/// Says what an answer says.
fn reply_in_words(reply: &Reply) -> String {
    let Reply::Answer(bytes) = reply else { return "your clock is ahead".into() };
    let Ok(answer) = frame::decode::<SyncResponse>(bytes, &Limits::default()) else { return "?".into() };
    let Some(s) = answer.scopes.first() else { return "nothing".into() };
    let delta = s.delta.as_ref().map(|d| {
        let rows: Vec<String> = d.rows.rows.iter().map(|r| format!("{}{:?}@{}", d.rows.tables[r.table as usize].name, r.key, r.seq)).collect();
        format!("{}..{}{} {}", d.from, d.to, if d.next.is_some() { " (more)" } else { "" }, rows.join(" "))
    });
    let outcome = s.outcome.as_ref().map(|o| match o {
        syncline_core::Outcome::Rejected { rows, .. } => {
            format!("rejected {}", rows.iter().map(|r| format!("{}{:?}: {}", r.table, r.key, r.message)).collect::<Vec<_>>().join(", "))
        }
        other => format!("{other:?}"),
    });
    format!(
        "{}{}{}delta {}",
        s.history_changed.map(|c| format!("history changed, common {c}; ")).unwrap_or_default(),
        if s.stage_void { "stage void; " } else { "" },
        outcome.map(|o| format!("{o}; ")).unwrap_or_default(),
        delta.unwrap_or_else(|| "none".into())
    )
}
