//! A process that is stopped, as a laptop's lid or a phone does it, and goes on. (An hour of it is played in the client's pulse tests.)

use crate::support::{Device, World, open};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// Longer than the loop ever waits, so that it knows that it slept.
const STOPPED: Duration = Duration::from_secs(12);

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

/// Waits until a device has a row.
fn waits_for(device: &Device, id: &str) {
    let until = Instant::now() + Duration::from_secs(120);
    while device.one(&format!("SELECT count(*) FROM note WHERE id = '{id}'")) == "0" {
        assert!(Instant::now() < until, "`{id}` did not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn insert(device: &Device, id: &str) {
    device.sql(&format!("INSERT INTO note VALUES('{id}')"));
}

#[test]
fn a_watching_process_that_was_stopped_goes_on_as_if_nothing_had_been() {
    let mut world = World::new();
    let near = world.device("near", &[], |file| open(file).execute_batch("CREATE TABLE note(id TEXT PRIMARY KEY)").unwrap());
    near.sync(0);
    let far = world.device("far", &[], |_| {});
    far.sync(0);
    let mut watching = far.spawn(&["sync", "app.db", "--watch"]);
    insert(&near, "awake");
    near.sync(0);
    waits_for(&far, "awake");

    // News while it is stopped, and a write of another program beside it.
    signal(&watching, "-STOP");
    insert(&near, "meanwhile");
    near.sync(0);
    insert(&far, "beside");
    std::thread::sleep(STOPPED);
    assert_eq!(far.one("SELECT count(*) FROM note WHERE id = 'meanwhile'"), "0", "it was not stopped");
    signal(&watching, "-CONT");
    waits_for(&far, "meanwhile");

    // The server is another process when it wakes up: its stream and its connection are gone.
    signal(&watching, "-STOP");
    world.kill();
    world.start();
    insert(&near, "from the new server");
    near.sync(0);
    std::thread::sleep(STOPPED);
    signal(&watching, "-CONT");
    waits_for(&far, "from the new server");

    // And what was written beside it went up.
    near.sync(0);
    assert_eq!(near.one("SELECT count(*) FROM note WHERE id = 'beside'"), "1");
    signal(&watching, "-TERM");
    watching.wait().unwrap();
}
