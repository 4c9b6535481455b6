//! Crash sweep: every write and sync of a transaction fails or tears in turn, and each time the disk keeps another part of
//! what was not synced. Afterwards nothing acknowledged is gone, nothing half is there, and all converges.

use syncline_sim::fault::Faults;
use syncline_sim::rng::Rng;
use syncline_sim::vfs::{Disk, Fault};
use syncline_sim::world::{Options, World};

/// Ways in which the disk may lose what was not synced, per operation.
const CRASHES: u64 = 2;

struct Sweep {
    /// Faults that shape the world: small pages, small bundles.
    shape: &'static str,
    /// Whose disk fails.
    disk: fn(&World) -> &Disk,
    /// What happens before.
    before: fn(&mut World) -> Result<(), String>,
    /// The transaction.
    action: fn(&mut World) -> Result<(), String>,
}

/// Plays the sweep; returns how many operations were failed.
fn sweep(s: &Sweep) -> u64 {
    let options = Options { faults: Faults::parse(s.shape).unwrap(), exactly: true, trace: false, policies: 0 };
    let mut operations = 0;
    for fault in [Fault::Error, Fault::Torn] {
        for n in 1.. {
            let mut hit = false;
            for crash in 0..CRASHES {
                let mut w = World::new(7, &options).unwrap();
                let tried = (s.before)(&mut w).and_then(|()| {
                    (s.disk)(&w).fail_at(n, fault);
                    (s.action)(&mut w)?;
                    hit = (s.disk)(&w).is_dead();
                    w.rng = Rng::new(crash);
                    w.power_back()?;
                    w.calm()?;
                    w.check_end()
                });
                if let Err(why) = tried {
                    panic!("operation {n}, {fault:?}, crash {crash}: {why}");
                }
            }
            if !hit {
                break;
            }
            operations += 1;
        }
    }
    assert!(operations > 4, "only {operations} operations were failed");
    operations
}

/// Lets programs write both devices, and both sync.
fn some_past(w: &mut World) -> Result<(), String> {
    for d in [0, 1, 0, 1] {
        w.app_writes(d)?;
        w.app_writes(d)?;
        w.sync_fully(d)?;
    }
    Ok(())
}

#[test]
fn a_program_writes() {
    sweep(&Sweep { shape: "delete,replace", disk: |w| &w.devices[0].site.disk, before: some_past, action: |w| w.app_writes(0) });
}

#[test]
fn a_device_absorbs_and_freezes() {
    let before = |w: &mut World| {
        some_past(w)?;
        w.app_writes(0)?;
        w.app_writes(0)
    };
    sweep(&Sweep { shape: "delete,replace", disk: |w| &w.devices[0].site.disk, before, action: |w| w.begin_sync_in(0, 0) });
}

#[test]
fn a_device_takes_an_answer_in() {
    let before = |w: &mut World| {
        some_past(w)?;
        w.app_writes(1)?;
        w.app_writes(1)?;
        w.sync_fully(1)?;
        w.app_writes(0)?;
        w.begin_sync_in(0, 0)?;
        w.deliver()
    };
    sweep(&Sweep { shape: "delete,replace,unique", disk: |w| &w.devices[0].site.disk, before, action: World::deliver });
}

#[test]
fn the_authority_commits() {
    let before = |w: &mut World| {
        some_past(w)?;
        w.app_writes(0)?;
        w.app_writes(0)?;
        w.begin_sync_in(0, 0)
    };
    sweep(&Sweep { shape: "delete,replace,server-sql", disk: |w| &w.server.site.disk, before, action: World::deliver });
}

#[test]
fn a_hydration_is_completed_page_by_page() {
    let before = |w: &mut World| {
        for _ in 0..6 {
            w.app_writes(0)?;
        }
        w.sync_fully(0)?;
        w.begin_sync_in(1, 0)
    };
    // All of it, from the first page to the last: each page is staged in a transaction of its own.
    let action = |w: &mut World| {
        while !w.net.is_empty() && !w.devices[1].site.disk.is_dead() {
            w.deliver()?;
        }
        Ok(())
    };
    sweep(&Sweep { shape: "pages", disk: |w| &w.devices[1].site.disk, before, action });
}

#[test]
fn capture_is_mended_after_a_table_was_rebuilt() {
    let before = |w: &mut World| {
        some_past(w)?;
        w.app_rebuilds(0)
    };
    sweep(&Sweep { shape: "delete,rebuild", disk: |w| &w.devices[0].site.disk, before, action: |w| w.begin_sync_in(0, 0) });
}
