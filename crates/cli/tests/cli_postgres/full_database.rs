//! A database whose disk fills up in the middle of a push: a tablespace on a tmpfs of a few megabytes.
//!
//! Needs the right to mount one; where there is none the test says so and ends.

use crate::cluster::Cluster;
use crate::postgres::{psql, rows as rows_there, try_psql};
use crate::storm::serve;
use crate::support::{Device, open, rows, syncline};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small file system of its own.
struct Small(PathBuf);

impl Small {
    fn mount(dir: PathBuf, megabytes: u32) -> Option<Small> {
        std::fs::create_dir_all(&dir).unwrap();
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={megabytes}m,mode=0777"), "tmpfs"]).arg(&dir).output().ok()?;
        done.status.success().then_some(Small(dir))
    }
    /// Fills it but for so many KiB.
    fn fill(&self, left_kib: u64) {
        let out = Command::new("df").args(["-k", "--output=avail"]).arg(&self.0).output().unwrap();
        let free: u64 = String::from_utf8_lossy(&out.stdout).lines().nth(1).unwrap().trim().parse().unwrap();
        std::fs::write(self.0.join("ballast"), vec![7; free.saturating_sub(left_kib) as usize * 1024]).unwrap();
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

fn device(dir: &Path, name: &str, database: &str, server: &str) -> Device {
    let dir = dir.join(name);
    std::fs::create_dir_all(&dir).unwrap();
    let device = Device::at(&dir);
    if name == "a" {
        open(&device.file()).execute_batch("CREATE TABLE item(id TEXT PRIMARY KEY, text TEXT)").unwrap();
        device.run(&["init", "app.db"]).ends(0);
    }
    let token = syncline(&dir, &["admin", "token", "--database", database, "--account", "ada"]).ends(0).out;
    device.run(&["attach", "app.db", "--server", server, "--token", token.trim()]).ends(0);
    device
}

#[test]
fn a_full_disk_of_the_database_is_told_loses_nothing_and_work_goes_on_when_there_is_room() {
    // Dropped in this order: the servers, the cluster, its disk.
    let scratch = tempfile::Builder::new().permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755)).tempdir().unwrap();
    let Some(disk) = Small::mount(scratch.path().join("tables"), 64) else {
        eprintln!("no right to mount a tmpfs; not run");
        return;
    };
    let cluster = Cluster::start();
    let place = disk.0.join("here");
    std::fs::create_dir(&place).unwrap();
    assert!(Command::new("chown").arg("postgres").arg(&place).status().unwrap().success());
    psql(&cluster.url, &format!("CREATE TABLESPACE small LOCATION '{}'", place.display()));
    psql(&cluster.url, "CREATE DATABASE app TABLESPACE small");
    let url = format!("{}/app", cluster.url.rsplit_once('/').unwrap().0);
    let server = serve(&url).unwrap();
    let at = format!("http://{}", server.address);
    let (a, b) = (device(scratch.path(), "a", &url, &at), device(scratch.path(), "b", &url, &at));
    a.sync(0);
    b.sync(0);
    a.sql("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) INSERT INTO item SELECT 'p' || i, hex(randomblob(500)) FROM n");
    disk.fill(900);
    let refused = a.sync(3);
    assert_eq!(refused["error"]["code"], "storage_full", "{refused}");
    assert_eq!(a.run(&["status", "app.db", "--json"]).ends(0).json()["pending"], 3000);
    // Nothing of it is there, who reads is answered, and a client's own statement says what is the matter.
    b.sync(0);
    assert_eq!(b.one("SELECT count(*) FROM item"), "0");
    let told = try_psql(&url, "INSERT INTO item(id, text) SELECT 'q' || i, repeat(md5(i::text), 30) FROM generate_series(1, 3000) i").unwrap_err();
    assert!(told.contains("could not extend") || told.contains("No space left"), "{told}");
    disk.empty();
    a.sync(0);
    b.sync(0);
    assert_eq!(rows(&open(&a.file())), rows_there(&url));
    assert_eq!(rows(&open(&b.file())), rows_there(&url));
    syncline(scratch.path(), &["admin", "doctor", "--database", &url]).ends(0);
    drop(server);
    drop(cluster);
}
