//! A disk that fills up in the middle of things, on both sides: a tmpfs of a few megabytes.
//!
//! Needs the right to mount one; where there is none the test says so and ends (the simulator fills its own disk everywhere).

use crate::support::{Device, World, one, open, rows};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small file system of its own.
struct Small(PathBuf);

impl Small {
    fn mount(dir: &Path, megabytes: u32) -> Option<Small> {
        std::fs::create_dir_all(dir).unwrap();
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"]).arg(dir).output().ok()?;
        done.status.success().then(|| Small(dir.to_owned()))
    }
    /// Fills it but for so many KiB.
    fn fill(&self, left_kib: u64) {
        let free = || {
            let out = Command::new("df").args(["-k", "--output=avail"]).arg(&self.0).output().unwrap();
            String::from_utf8_lossy(&out.stdout).lines().nth(1).unwrap().trim().parse::<u64>().unwrap()
        };
        let ballast = free().saturating_sub(left_kib);
        std::fs::write(self.0.join("ballast"), vec![7; ballast as usize * 1024]).unwrap();
    }
    fn empty(&self) {
        let _ = std::fs::remove_file(self.0.join("ballast"));
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn whole(file: &Path) {
    assert_eq!(one(&open(file), "PRAGMA integrity_check"), "ok", "{}", file.display());
}

fn settle(device: &Device) {
    device.sync(0);
    device.sync(0);
}

const MANY: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1500) INSERT INTO item SELECT '@' || i, randomblob(1000) FROM n";

#[test]
fn a_full_disk_on_either_side_loses_nothing_and_work_goes_on_when_there_is_room() {
    let scratch = tempfile::tempdir().unwrap();
    let Some(device_disk) = Small::mount(&scratch.path().join("device"), 24) else {
        eprintln!("no right to mount a tmpfs; not run");
        return;
    };
    let mut world = World::new_unstarted();
    let Some(server_disk) = Small::mount(&world.data_dir(), 40) else { return };
    world.start();
    let near = world.device("near", &[], |file| open(file).execute_batch("CREATE TABLE item(id TEXT PRIMARY KEY, bytes BLOB)").unwrap());
    near.sync(0);
    let small = world.device_in(&device_disk.0.join("app"), "small");
    small.sync(0);

    // Push: the server's disk is full. It says so; when there is room, the same work goes.
    small.sql(&MANY.replace('@', "p"));
    server_disk.fill(600);
    let refused = small.sync(3);
    assert_eq!(refused["error"]["code"], "storage_full", "{refused}");
    assert_eq!(small.run(&["status", "app.db", "--json"]).ends(0).json()["pending"], 1500);
    server_disk.empty();
    settle(&small);
    assert_eq!(one(&world.server_db(), "SELECT count(*) FROM item WHERE id GLOB 'p*'"), "1500");

    // Pull: the device's disk is full. What it had stays, and all of it comes when there is room.
    near.sync(0);
    near.sql(&MANY.replace('@', "q"));
    near.sync(0);
    for left in [0, 100, 700, 1500] {
        device_disk.fill(left);
        let full = small.run(&["sync", "app.db", "--json"]);
        assert!([0, 3].contains(&full.code), "{left} KiB left: {full:?}");
        // Without any room SQLite cannot even be asked.
        device_disk.empty();
        assert_eq!(one(&open(&small.file()), "SELECT count(*) FROM item WHERE id GLOB 'p*'"), "1500");
        let came = one(&open(&small.file()), "SELECT count(*) FROM item WHERE id GLOB 'q*'");
        assert!(came == "0" || came == "1500", "{came} of a bundle of 1500");
    }
    settle(&small);
    assert_eq!(rows(&open(&small.file())), rows(&world.server_db()));

    // Absorb: the app's own writes filled the disk; they are captured, and are taken in when there is room.
    device_disk.fill(300);
    let wrote = open(&small.file()).execute_batch("UPDATE item SET bytes = x'01' WHERE id IN (SELECT id FROM item LIMIT 40)").is_ok();
    let full = small.run(&["sync", "app.db", "--json"]);
    assert!([0, 3].contains(&full.code), "{full:?}");
    device_disk.empty();
    settle(&small);
    assert_eq!(one(&world.server_db(), "SELECT count(*) FROM item WHERE bytes = x'01'"), if wrote { "40" } else { "0" });

    // Hydrate: everything anew on a disk that does not hold it, then on one that does.
    small.run(&["resync", "app.db"]).ends(0);
    for left in [200, 1200] {
        device_disk.fill(left);
        let full = small.run(&["sync", "app.db", "--json"]);
        assert!([0, 3].contains(&full.code), "{full:?}");
        device_disk.empty();
    }
    settle(&small);
    near.sync(0);
    assert_eq!(rows(&open(&small.file())), rows(&world.server_db()));
    assert_eq!(rows(&open(&near.file())), rows(&world.server_db()));
    whole(&small.file());
    whole(&world.data_dir().join("server.db"));
    small.run(&["doctor", "app.db"]).ends(0);
    drop(world);
}
