//! What a person does wrong, and what a machine does: each ends with its exit code and says what to do, and nothing is lost.

use crate::support::{World, open, rows, syncline};

/// The commands that look at a device's database or change it.
const ON_A_DEVICE: [&str; 8] = ["status", "pending", "conflicts", "events", "explain", "doctor", "sync", "detach"];

#[test]
fn wrong_usage_too_is_one_json_document() {
    let dir = tempfile::tempdir().unwrap();
    for args in [&["sync", "--json"][..], &["frobnicate", "--json"], &["--json"], &["admin", "token", "--json", "--data", "d"]] {
        let told = syncline(dir.path(), args).ends(2);
        assert_eq!((&told.json()["exit_code"], &told.json()["outcome"]), (&2.into(), &"refused_input".into()), "{args:?}");
        assert!(!told.json()["error"].as_str().unwrap().is_empty() && !told.err.is_empty(), "{told:?}");
    }
    syncline(dir.path(), &["--version"]).ends(0);
}

#[test]
fn a_directory_is_no_database() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("app.db")).unwrap();
    for command in [&ON_A_DEVICE[..], &["init", "resync", "watch"]].concat() {
        let refused = syncline(dir.path(), &[command, "app.db", "--json"]).ends(2);
        assert!(refused.json()["error"].as_str().unwrap().contains("is a directory"), "{command}: {refused:?}");
    }
    let refused = syncline(dir.path(), &["attach", "app.db", "--server", "http://127.0.0.1:1", "--token", "t"]).ends(2);
    assert!(refused.err.contains("is a directory"), "{refused:?}");
}

#[test]
fn a_damaged_file_ends_with_6_and_says_what_helps() {
    let world = World::new();
    let a = world.device("a", &[], |file| {
        open(file).execute_batch("CREATE TABLE note(id TEXT PRIMARY KEY, text); INSERT INTO note VALUES('n', 'x')").unwrap();
    });
    a.sync(0);
    let (good, bad) = (std::fs::read(a.file()).unwrap(), a.file().with_file_name("bad.db"));
    let torn = [&good[..4096], &vec![0xff; good.len() - 4096][..]].concat();
    for bytes in [&b"this is no database, and it is long enough to be taken for one"[..], &good[..5000], &torn] {
        std::fs::write(&bad, bytes).unwrap();
        for command in ON_A_DEVICE {
            let refused = a.run(&[command, "bad.db", "--json"]).ends(6);
            assert!(refused.json()["error"].as_str().unwrap().contains("backup"), "{command}: {refused:?}");
        }
        assert_eq!(std::fs::read(&bad).unwrap(), bytes, "a command wrote to a damaged file");
    }
}

#[test]
fn a_server_that_is_not_there_a_wrong_address_and_a_wrong_token_each_have_their_code() {
    let world = World::new();
    let a = world.room("a");
    let attach = |server: &str, token: &str, code| {
        let ran = a.run(&["attach", "app.db", "--json", "--server", server, "--token", token]).ends(code);
        ran.json()["error"].as_str().unwrap_or_default().to_owned()
    };
    let token = world.admin("token", &["--account", "ada"]).ends(0).out;
    assert!(attach("http://127.0.0.1:1", token.trim(), 3).contains("when the server can be reached"));
    assert!(attach("sync.example.org", token.trim(), 2).contains("https://"));
    assert!(attach("http://192.0.2.1", token.trim(), 2).contains("--insecure-http"));
    assert!(attach(&world.url(), "syt_wrong", 5).contains("syncline admin token"));
    // None of that used the token up, nor left anything that is in the way.
    assert_eq!(attach(&world.url(), token.trim(), 0), "");
    assert!(attach(&world.url(), token.trim(), 2).contains("attached"));
}

#[test]
fn a_place_for_keys_that_cannot_be_used_is_refused_input() {
    let world = World::new();
    let a = world.room("a");
    std::fs::write(a.file().with_file_name("home"), "a file").unwrap();
    let token = world.admin("token", &["--account", "ada"]).ends(0).out;
    let refused = a.run(&["attach", "app.db", "--server", &world.url(), "--token", token.trim()]).ends(2);
    assert!(refused.err.contains("SYNCLINE_HOME"), "{refused:?}");
}

#[cfg(unix)]
#[test]
fn a_disk_that_takes_no_more_keeps_what_is_there_and_goes_on_later() {
    let world = World::new();
    let a = world.device("a", &[], |file| open(file).execute_batch("CREATE TABLE note(id TEXT PRIMARY KEY, text)").unwrap());
    let b = world.device("b", &[], |_| {});
    b.sync(0);
    b.sql("INSERT INTO note VALUES('own', 'not sent yet')");
    a.sql("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) INSERT INTO note SELECT i, hex(randomblob(200)) FROM n");
    a.sync(0);
    // No file of the process may pass 400 KiB: SQLite's writes fail as on a disk with an error.
    let limited = format!("trap '' XFSZ; ulimit -f 800; exec {} sync app.db --json", env!("CARGO_BIN_EXE_syncline"));
    let run = || {
        let dir = b.file().with_file_name("");
        let home = dir.join("home");
        std::process::Command::new("sh").args(["-c", &limited]).current_dir(dir).env("SYNCLINE_HOME", home).output().unwrap()
    };
    let ran = run();
    let report: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {ran:?}"));
    assert_eq!((ran.status.code(), report["exit_code"].as_i64()), (Some(3), Some(3)), "{ran:?}");
    assert!(report["error"]["message"].as_str().unwrap().contains("disk"), "{report}");
    // None of the rows that came, or all.
    assert_eq!(b.one("SELECT count(*) FROM note"), "1");
    b.sync(0);
    a.sync(0);
    assert_eq!(rows(&open(&b.file())), rows(&open(&a.file())));
    assert_eq!(b.one("SELECT count(*) FROM note"), "3001");
}

#[test]
fn a_repeated_init_keeps_what_an_earlier_one_was_told() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("app.db");
    open(&file).execute_batch("CREATE TABLE card(id INTEGER PRIMARY KEY, name, pin)").unwrap();
    std::fs::write(dir.path().join("syncline.toml"), "[table.card]\ncolumns = { pin = { local = true } }\n").unwrap();
    syncline(dir.path(), &["init", "app.db"]).ends(2);
    syncline(dir.path(), &["init", "app.db", "--integer-keys", "app", "--config", "syncline.toml"]).ends(0);
    let leaves = || syncline(dir.path(), &["explain", "app.db", "--json"]).ends(0).json();
    let before = leaves();
    // Without this, a column that was to stay here would leave with the next sync.
    let again = syncline(dir.path(), &["init", "app.db", "--json"]).ends(0).json();
    assert_eq!(again["local_columns"]["card"], serde_json::json!(["pin"]));
    assert_eq!(leaves(), before);
    std::fs::write(dir.path().join("syncline.toml"), "").unwrap();
    let anew = syncline(dir.path(), &["init", "app.db", "--json", "--config", "syncline.toml"]).ends(0).json();
    assert_eq!(anew["local_columns"], serde_json::json!({}));
    assert_ne!(leaves(), before);
}
