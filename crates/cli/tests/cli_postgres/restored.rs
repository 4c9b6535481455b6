//! A database that is put back from a dump: devices bring what it has not got any more.

use crate::postgres::{psql, rows};
use crate::support::{Server, World, open};
use std::process::Command;

fn run(program: &str, args: &[&str]) {
    let done = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn what_devices_hold_comes_back_after_a_restore_from_a_dump() {
    let mut world = World::new();
    let a = world.device("a", &[], |file| {
        open(file).execute_batch("CREATE TABLE note(id TEXT PRIMARY KEY, text); INSERT INTO note VALUES('kept', 'one'), ('gone', 'x')").unwrap()
    });
    a.sync(0);
    let b = world.device("b", &[], |_| {});
    b.sync(0);
    let Server::Postgres(url) = world.rows_at_server() else { unreachable!() };
    let scratch = tempfile::tempdir().unwrap();
    let dump = scratch.path().join("dump").display().to_string();
    run("pg_dump", &["-Fc", "-f", &dump, &url]);
    a.sql("UPDATE note SET text = 'two' WHERE id = 'kept'; INSERT INTO note VALUES('a', 'after'); DELETE FROM note WHERE id = 'gone'");
    a.sync(0);
    b.sql("INSERT INTO note VALUES('b', 'after')");
    b.sync(0);
    world.kill();
    let (cluster, name) = url.rsplit_once('/').unwrap();
    psql(&format!("{cluster}/postgres"), &format!("DROP DATABASE {name} WITH (FORCE)"));
    psql(&format!("{cluster}/postgres"), &format!("CREATE DATABASE {name}"));
    run("pg_restore", &["-d", &url, &dump]);
    assert_eq!(psql(&url, "SELECT text FROM note ORDER BY id COLLATE \"C\""), [["x"], ["one"]]);
    world.start();
    b.sql("INSERT INTO note VALUES('meanwhile', 'new')");
    for device in [&b, &a, &b] {
        device.sync(0);
    }
    let wanted = ["note: Text a | Text after", "note: Text b | Text after", "note: Text kept | Text two", "note: Text meanwhile | Text new"];
    assert_eq!(rows(&url), wanted);
    for device in [&a, &b] {
        assert_eq!(crate::support::rows(&open(&device.file())), wanted);
    }
    world.admin("doctor", &[]).ends(0);
}

#[test]
fn what_the_operator_collects_stays_deleted_on_devices_that_were_away() {
    let world = World::new();
    let a = world.device("a", &[], |file| {
        open(file).execute_batch("CREATE TABLE note(id TEXT PRIMARY KEY, text TEXT); INSERT INTO note VALUES('kept', 'x'), ('gone', 'secret')").unwrap();
    });
    a.sync(0);
    let b = world.device("b", &[], |_| {});
    b.sync(0);
    a.sql("DELETE FROM note WHERE id = 'gone'");
    a.sync(0);
    b.sql("UPDATE note SET text = 'edited while away' WHERE id = 'gone'");
    let refused = world.admin("gc", &["--scope", "nobody"]).ends(2);
    assert!(refused.err.contains("there is no scope `nobody`"), "{refused:?}");
    let told = world.admin("gc", &["--keep", "1h", "--json"]).ends(0).json();
    assert_eq!((&told[0]["scope_id"], &told[0]["collected"]), (&"ada".into(), &0.into()), "{told}");
    let told = world.admin("gc", &["--floor", "head", "--json"]).ends(0).json();
    assert_eq!((&told[0]["floor"], &told[0]["collected"]), (&2.into(), &1.into()), "{told}");
    assert_eq!(world.rows_at_server().one("SELECT count(*) FROM syncline.row WHERE position('secret'::bytea IN vals) > 0"), "0");
    b.sync(0);
    a.sync(0);
    for device in [&a, &b] {
        assert_eq!(device.one("SELECT group_concat(id) FROM note"), "kept");
    }
    let journal = b.run(&["journal", "app.db", "--json"]).ends(0).json();
    assert!(journal.as_array().unwrap().iter().any(|e| e["lost_value"] == "edited while away" && e["reason"] == "row_ended"), "{journal}");
    world.admin("doctor", &[]).ends(0);
}
