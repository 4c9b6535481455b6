//! Shared scopes while databases are put back, the authority's too, files are copied, devices are revoked, and tombstones are collected,
//! several times in one history.
//!
//! What a restored authority has lost of memberships is repeated before the calm, as docs/operations.md says; then all must have the
//! same, and nothing may be lost that a device still held. What was written on a device that was itself put back, or revoked, before
//! it was sent may be gone; what was not is written down here, outside of the system.

use crate::image;
use crate::ledger::Check;
use crate::rng::Rng;
use crate::sharing::{Party, SCOPES, statement};
use crate::vfs::{Disk, Fault};
use std::collections::{BTreeMap, BTreeSet};
use syncline_core::{MemberRole, ScopeId, Seq};
use syncline_replica::carry::Carried;
use syncline_replica::{Env, Replica};
use syncline_server::Authority;
use syncline_server::collect::collect;

/// The files of a database as they were.
#[derive(Clone)]
pub struct Saved {
    files: Vec<(String, Vec<u8>)>,
    /// Of an authority: where its scopes were.
    heads: BTreeMap<String, u64>,
}

fn files_of(disk: &Disk) -> Vec<(String, Vec<u8>)> {
    disk.files().into_iter().filter_map(|name| disk.read(&name).map(|bytes| (name, bytes))).collect()
}

fn disk_with(saved: &Saved, seed: u64, now_ms: i64) -> Disk {
    let disk = Disk::new("sharing", seed);
    disk.set_clock(now_ms);
    saved.files.iter().for_each(|(name, bytes)| disk.put(name, bytes));
    disk
}

/// Packs what a device has in its account's own scope and no authority has confirmed.
pub fn pack(device: &mut Replica, env: &mut Env) -> syncline_replica::Result<Carried> {
    device.transact(env, |tx| {
        tx.absorb()?;
        let own = tx.scope(1)?;
        tx.pack_unconfirmed(&own)
    })
}

/// Takes in what another device packed.
pub fn take(device: &mut Replica, env: &mut Env, carried: Carried) -> syncline_replica::Result<()> {
    device.transact(env, |tx| {
        tx.absorb()?;
        let own = tx.scope(1)?;
        tx.carry_in(&own, carried).map(drop)
    })
}

impl Party {
    /// Copies a device's files.
    pub fn save(&self, d: usize) -> Saved {
        Saved { files: files_of(&self.peers[d].disk), heads: BTreeMap::new() }
    }

    /// Puts a device's files back.
    pub fn put_back(&mut self, d: usize, saved: &Saved) -> Check {
        self.draws += 1;
        let disk = disk_with(saved, 1_000 + self.draws, self.now_ms);
        let conn = disk.open(image::DB).map_err(|e| format!("ERROR opening what was put back: {e}"))?;
        self.peers[d].replica = Replica::open(conn).map_err(|e| format!("ERROR opening what was put back: {e}"))?;
        self.peers[d].disk = disk;
        Ok(())
    }

    /// Copies a device's files to a device that is enrolled anew, as `attach` does with a file that has no key; returns its number.
    pub fn copy(&mut self, d: usize) -> Check<usize> {
        let saved = self.save(d);
        self.copy_of(d, &saved)
    }

    /// The same, with its files as they were.
    pub fn copy_of(&mut self, d: usize, saved: &Saved) -> Check<usize> {
        let account = self.peers[d].account.clone();
        let copy = self.join(&account)?;
        self.put_back(copy, saved)?;
        let device = self.peers[copy].caller.device_id.to_string();
        let mut at = self.peer_env(copy);
        let named = self.peers[copy].replica.transact(&mut at, |tx| {
            tx.rotate_source()?;
            tx.set_meta("device_id", device)
        });
        named.map_err(|e| format!("ERROR naming a copy: {e}"))?;
        Ok(copy)
    }

    fn disk_of(&self, whose: Full) -> &Disk {
        match whose {
            Full::Device(d) => &self.peers[d].disk,
            Full::Authority => &self.disk,
        }
    }

    /// Lets one device take what another has in its account's own scope and no authority has confirmed.
    fn give(&mut self, from: usize, to: usize) -> Check {
        let (mut here, mut there) = (self.peer_env(from), self.peer_env(to));
        let carried = pack(&mut self.peers[from].replica, &mut here).and_then(|carried| take(&mut self.peers[to].replica, &mut there, carried));
        carried.map_err(|e| format!("ERROR between devices: {e}"))
    }

    /// Copies the authority's files.
    pub fn save_authority(&self) -> Check<Saved> {
        let conn = self.authority.replica.conn();
        let read = || -> rusqlite::Result<BTreeMap<String, u64>> {
            let mut q = conn.prepare("SELECT scope_id, seq FROM _syncline_scope")?;
            q.query_map([], |r| Ok((r.get(0)?, r.get::<_, i64>(1)? as u64)))?.collect()
        };
        Ok(Saved { files: files_of(&self.disk), heads: read().map_err(|e| format!("ERROR reading heads: {e}"))? })
    }

    /// Puts the authority's files back and tells nobody.
    pub fn put_authority_back(&mut self, saved: &Saved) -> Check {
        self.draws += 1;
        let disk = disk_with(saved, 1_000 + self.draws, self.now_ms);
        let conn = disk.open(image::DB).map_err(|e| format!("ERROR opening what was put back: {e}"))?;
        let mut at = self.authority_env();
        self.authority = Authority::open(conn, &mut at).map_err(|e| format!("ERROR opening the authority: {e}"))?;
        self.disk = disk;
        Ok(())
    }

    /// Collects tombstones of all scopes, as far as every backup that may still be put back allows.
    pub fn collect(&mut self, backups: &[Saved]) -> Check {
        let now = self.save_authority()?;
        let mut at = self.authority_env();
        for (scope, head) in now.heads {
            let floor = backups.iter().map(|b| b.heads.get(&scope).copied().unwrap_or(0)).fold(head, u64::min);
            let done = self.authority.replica.transact(&mut at, |tx| match tx.find_scope(&ScopeId(scope.clone()))? {
                Some(scope) => collect(tx, &scope, Seq(floor)),
                None => Ok(0),
            });
            done.map_err(|e| format!("ERROR collecting: {e}"))?;
        }
        Ok(())
    }
}

/// Plays the history of a seed.
pub fn play(seed: u64) -> Check {
    let mut rng = Rng::new(seed ^ 0x0bad_cafe);
    let mut p = Party::new(&["ada", "bob", "cleo"])?;
    p.join("ada")?;
    for (scope, by) in SCOPES {
        p.create(by, scope)?;
    }
    readmit(&mut p)?;
    // Notes that are made once and never touched again, with their account: whether they are still there is easily told.
    let mut notes: BTreeMap<String, String> = BTreeMap::new();
    let mut saved: Vec<(usize, Saved)> = vec![];
    let mut backups: Vec<Saved> = vec![];
    let mut revoked: BTreeSet<usize> = BTreeSet::new();
    let mut made = 0;
    for _ in 0..*rng.pick(&[20, 40, 70]) {
        p.now_ms += 1 + rng.below(3_000) as i64;
        let d = rng.index(p.peers.len());
        if revoked.contains(&d) {
            continue;
        }
        match rng.weighted(&[40, 14, 30, 8, 5, 4, 3, 4, 4, 3, 1]) {
            0 => p.sql(d, &statement(&mut rng))?,
            1 => {
                made += 1;
                p.sql(d, &format!("INSERT INTO notes VALUES('kept {made}', 'by {d}')"))?;
                notes.insert(format!("kept {made}"), p.peers[d].account.clone());
            }
            2 => drop(p.sync(d)?),
            3 => drop(p.sync_until(d, rng.index(3))?),
            4 => saved.push((d, p.save(d))),
            5 => {
                let own: Vec<&Saved> = saved.iter().filter(|s| s.0 == d).map(|s| &s.1).collect();
                if !own.is_empty() {
                    let back = (*rng.pick(&own)).clone();
                    p.put_back(d, &back)?;
                    forgive(&p, &revoked, &mut notes);
                }
            }
            6 if p.peers.len() < 7 => drop(p.copy(d)?),
            6 => {}
            7 => backups.push(p.save_authority()?),
            8 if !backups.is_empty() => {
                let which = rng.index(backups.len());
                // What was backed up later belongs to a past that now never was.
                backups.truncate(which + 1);
                p.put_authority_back(&backups[which].clone())?;
                (0..p.peers.len()).try_for_each(|d| p.enrol_again(d))?;
                forgive(&p, &revoked, &mut notes);
            }
            8 => {}
            9 => p.collect(&backups)?,
            _ => {
                let others = p.peers.iter().enumerate().any(|(n, peer)| n != d && !revoked.contains(&n) && peer.account == p.peers[d].account);
                if others {
                    revoked.insert(d);
                    forgive(&p, &revoked, &mut notes);
                }
            }
        }
    }
    for d in revoked.into_iter().rev() {
        p.peers.remove(d);
    }
    readmit(&mut p)?;
    p.calm()?;
    p.check()?;
    for (id, account) in &notes {
        let sql = format!("SELECT count(*) FROM notes WHERE id = '{id}' AND scope_id = '{account}'");
        let there: i64 = p.authority.replica.conn().query_row(&sql, [], |r| r.get(0)).map_err(|e| format!("ERROR {sql}: {e}"))?;
        if there != 1 {
            return Err(format!("LOST {id} of {account}"));
        }
    }
    Ok(())
}

/// Right after a fault: what no database holds any more, those of revoked devices aside, went with it, and nobody can bring it again.
fn forgive(p: &Party, revoked: &BTreeSet<usize>, notes: &mut BTreeMap<String, String>) {
    notes.retain(|id, _| {
        let sql = format!("SELECT EXISTS (SELECT 1 FROM notes WHERE id = '{id}')");
        let held = |conn: &rusqlite::Connection| conn.query_row(&sql, [], |r| r.get::<_, bool>(0)).unwrap_or(false);
        p.peers.iter().enumerate().any(|(n, peer)| !revoked.contains(&n) && held(peer.replica.conn())) || held(p.authority.replica.conn())
    });
}

/// Lets everybody in everywhere, as writers.
fn readmit(p: &mut Party) -> Check {
    for (scope, by) in SCOPES {
        for who in ["ada", "bob", "cleo"] {
            if who != by {
                p.admit(by, who, scope, MemberRole::Writer)?;
            }
        }
    }
    Ok(())
}

/// What happens at a step of the canonical history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// This device's files are put back.
    Restored(usize),
    /// The authority's files are put back, and nobody is told.
    Authority,
    /// This device's files turn up on another device, as they were; both go on.
    Copied(usize),
    /// The same, and the two give each other what they have before either speaks to the authority.
    CopiesMeet(usize),
}

/// Steps of the canonical history.
pub const STEPS: usize = 16;

/// Counts, and notes by how much: with one transaction, so that one tells of the other.
fn add(p: &mut Party, d: usize, n: u32, notes: &mut BTreeMap<String, String>) -> Check {
    p.sql(d, &format!("BEGIN; UPDATE items SET n = n + {n} WHERE id = 'c'; INSERT INTO notes VALUES('{n}', 'by {d}'); COMMIT"))?;
    notes.insert(n.to_string(), "ada".into());
    Ok(())
}

/// One step: phone and laptop of one account (0 and 2), and a device of another that shares scope `x` with it.
fn step(p: &mut Party, n: usize, notes: &mut BTreeMap<String, String>) -> Check {
    match n {
        0 => add(p, 0, 1, notes),
        1 | 13 => p.sync(0).map(drop),
        2 => add(p, 2, 2, notes),
        3 => p.sync_until(2, 0).map(drop),
        4 => p.sql(1, "UPDATE items SET n = n + 10, title = 'bob' WHERE id = 's'"),
        5 => p.sync(1).map(drop),
        6 | 11 | 15 => p.sync(2).map(drop),
        7 => add(p, 0, 4, notes),
        8 => p.sql(0, "UPDATE items SET n = n + 20, list_id = 'x' WHERE id = 's'"),
        9 => p.sync_until(0, 1).map(drop),
        10 => p.sql(2, "DELETE FROM notes WHERE id = 'gone'"),
        12 => add(p, 2, 8, notes),
        _ => p.collect(&[]),
    }
}

/// Phone and laptop of one account (0 and 2), a device of another, a scope that they share, a counter, and a note that will go.
fn couple() -> Check<Party> {
    let mut p = Party::new(&["ada", "bob"])?;
    p.join("ada")?;
    p.create("ada", "x")?;
    p.admit("ada", "bob", "x", MemberRole::Writer)?;
    p.sql(0, "INSERT INTO items VALUES('c', NULL, 'counter', 0), ('s', 'x', 'shared', 0); INSERT INTO notes VALUES('gone', 'soon')")?;
    p.calm()?;
    Ok(p)
}

/// Plays the canonical history; after step `at` what was saved after step `from` (no later) comes back.
pub fn play_step(mishap: Mishap, from: usize, at: usize) -> Check {
    let mut p = couple()?;
    let mut notes: BTreeMap<String, String> = BTreeMap::new();
    let mut saved = None;
    for n in 0..STEPS {
        p.now_ms += 1_000;
        // A tombstone that a backup does not have yet may not be forgotten.
        if n != 14 || mishap != Mishap::Authority {
            step(&mut p, n, &mut notes)?;
        }
        if n == from {
            saved = Some(match mishap {
                Mishap::Restored(d) | Mishap::Copied(d) | Mishap::CopiesMeet(d) => {
                    // As every command does before it ends: increments that nobody has absorbed count in every copy.
                    let mut at = p.peer_env(d);
                    p.peers[d].replica.transact(&mut at, |tx| tx.absorb()).map_err(|e| format!("ERROR absorbing: {e}"))?;
                    p.save(d)
                }
                Mishap::Authority => p.save_authority()?,
            });
        }
        let Some(back) = saved.as_ref().filter(|_| n == at) else { continue };
        match mishap {
            Mishap::Restored(d) => p.put_back(d, back)?,
            Mishap::Copied(d) | Mishap::CopiesMeet(d) => {
                let copy = p.copy_of(d, back)?;
                if p.peers[copy].account == "ada" {
                    add(&mut p, copy, 16, &mut notes)?;
                }
                if mishap == Mishap::CopiesMeet(d) {
                    p.give(copy, d)?;
                    p.give(d, copy)?;
                }
            }
            Mishap::Authority => {
                p.put_authority_back(back)?;
                (0..p.peers.len()).try_for_each(|d| p.enrol_again(d))?;
            }
        }
        forgive(&p, &BTreeSet::new(), &mut notes);
    }
    p.calm()?;
    p.check()?;
    check_notes(&p, &notes)
}

/// Every note is at the authority, and the counter says what they say.
fn check_notes(p: &Party, notes: &BTreeMap<String, String>) -> Check {
    let all = |sql: &str| p.authority.replica.conn().query_row(sql, [], |r| r.get::<_, i64>(0)).map_err(|e| format!("ERROR {sql}: {e}"));
    for id in notes.keys() {
        if all(&format!("SELECT count(*) FROM notes WHERE id = '{id}'"))? != 1 {
            return Err(format!("LOST note {id}"));
        }
    }
    let (counted, noted) = (all("SELECT n FROM items WHERE id = 'c'")?, all("SELECT coalesce(sum(CAST(id AS INTEGER)), 0) FROM notes")?);
    match counted == noted {
        true => Ok(()),
        false => Err(format!("COUNT is {counted}, and the notes say {noted}")),
    }
}

/// Plays a mishap of every step at every later one; returns those that failed, with why.
pub fn play_every_step(mishap: Mishap) -> Vec<(usize, usize, String)> {
    let all = (0..STEPS).flat_map(|from| (from..STEPS).map(move |at| (from, at)));
    all.filter_map(|(from, at)| play_step(mishap, from, at).err().map(|why| (from, at, why))).collect()
}

/// Whose disk fills up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// This device's.
    Device(usize),
    /// The authority's.
    Authority,
}

/// Writes and syncs while, from the `n`th write of its disk on, a device or the authority has no room, or does not have it once; then
/// there is room again. Whatever fails must say that the disk is full. Says whether it came to that write.
pub fn play_full(whose: Full, n: u64, fault: Fault) -> Check<bool> {
    let mut p = couple()?;
    let mut notes: BTreeMap<String, String> = BTreeMap::new();
    let end = p.disk_of(whose).ops() + n;
    p.disk_of(whose).fail_at(n, fault);
    for (i, d) in [(0, 0), (1, 2), (2, 0), (3, 2)] {
        for syncs in [false, true] {
            let done = if syncs { p.sync(d).map(drop) } else { add(&mut p, d, 1 << i, &mut notes) };
            let Err(why) = done else { continue };
            if !why.contains("full") {
                return Err(format!("ERROR with a full disk: {why}"));
            }
            let conn = p.peers[d].replica.conn();
            if !conn.is_autocommit() {
                conn.execute_batch("ROLLBACK").map_err(|e| format!("ERROR rolling back: {e}"))?;
            }
        }
    }
    let came = p.disk_of(whose).ops() >= end;
    p.disk_of(whose).revive();
    p.calm()?;
    p.check()?;
    for conn in p.peers.iter().map(|peer| peer.replica.conn()).chain([p.authority.replica.conn()]) {
        let whole: String = conn.query_row("PRAGMA integrity_check", [], |r| r.get(0)).map_err(|e| format!("ERROR checking a database: {e}"))?;
        if whole != "ok" {
            return Err(format!("DAMAGED {whole}"));
        }
    }
    check_notes(&p, &notes)?;
    Ok(came)
}

/// Plays many seeds; returns those that failed, with why.
pub fn play_many(first: u64, count: u64) -> Vec<(u64, String)> {
    (first..first + count).filter_map(|seed| play(seed).err().map(|why| (seed, why))).collect()
}
