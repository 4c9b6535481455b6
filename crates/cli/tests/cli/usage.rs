//! Help, usage and exit codes.

use crate::support::syncline;

/// Every command, with what it needs to be asked for its help.
const COMMANDS: [&[&str]; 33] = [
    &["init"],
    &["explain"],
    &["attach"],
    &["sync"],
    &["status"],
    &["pending"],
    &["conflicts"],
    &["events"],
    &["watch"],
    &["doctor"],
    &["resync"],
    &["detach"],
    &["serve"],
    &["admin"],
    &["admin", "token"],
    &["admin", "accounts"],
    &["admin", "devices"],
    &["admin", "bundles"],
    &["admin", "delivery"],
    &["admin", "gc"],
    &["admin", "backup"],
    &["admin", "restore"],
    &["demo"],
    &["bench"],
    &["devices"],
    &["read"],
    &["devices", "app.db", "revoke"],
    &["devices", "app.db", "unseal"],
    &["scopes"],
    &["scopes", "app.db", "create"],
    &["scopes", "app.db", "invite"],
    &["conflicts", "app.db", "show"],
    &["conflicts", "app.db", "resolve"],
];

#[test]
fn every_command_has_help_with_an_example_and_takes_json() {
    let dir = tempfile::tempdir().unwrap();
    for command in COMMANDS {
        let help = syncline(dir.path(), &[command, &["--help"]].concat()).ends(0);
        assert!(help.out.contains("Example:\n") && help.out.contains("--json") && help.err.is_empty(), "{command:?}: {help:?}");
    }
}

#[test]
fn the_exit_codes_are_told_as_the_contract_has_them() {
    let dir = tempfile::tempdir().unwrap();
    let help = syncline(dir.path(), &["--help"]).ends(0).out;
    let codes = "Exit codes:
  0 done, everything confirmed and up to date
  1 internal error
  2 usage, or refused input
  3 offline or busy: work is kept, try later
  4 done, but something waits for a decision
  5 refused: not authorised, revoked, upgrade required
  6 will not open: damage, partial restore
";
    assert!(help.contains(codes), "{help}");
}

#[test]
fn wrong_usage_ends_with_2_and_says_so_on_stderr() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("other.txt"), "x").unwrap();
    for args in [
        &[][..],
        &["frobnicate"],
        &["init"],
        &["init", "a.db", "--integer-keys", "maybe"],
        &["attach", "a.db", "--server", "http://127.0.0.1:1"],
        &["conflicts", "a.db", "resolve", "abc"],
        &["conflicts", "a.db", "resolve", "abc", "--mine", "--server"],
        &["detach", "a.db", "--export", "f", "--discard-unsynced"],
        &["serve"],
        &["serve", "--data", "d", "--listen", "nowhere"],
        &["serve", "--data", "d", "--tls-cert", "c.pem"],
        &["admin", "token", "--data", "d"],
        &["admin", "token", "--data", "d", "--account", "a", "--ttl", "soon"],
        &["admin", "devices", "--data", "d"],
        &["demo", "--dir", "."],
    ] {
        let ran = syncline(dir.path(), args).ends(2);
        assert!(ran.out.is_empty() && !ran.err.is_empty(), "{args:?}: {ran:?}");
    }
    assert!(!dir.path().join("d").exists(), "a refused command made a directory");
}

#[test]
fn what_later_versions_do_is_not_offered() {
    let dir = tempfile::tempdir().unwrap();
    for later in [&["export"][..], &["import"], &["peer"]] {
        syncline(dir.path(), &[later, &["--help"]].concat()).ends(2);
    }
}

#[test]
fn a_file_that_is_not_there_is_wrong_usage_and_one_that_is_no_database_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("broken.db"), "this is no database, and it is long enough to tell ".repeat(100)).unwrap();
    rusqlite::Connection::open(dir.path().join("plain.db")).unwrap().execute_batch("CREATE TABLE t(id TEXT PRIMARY KEY)").unwrap();
    for command in ["init", "explain", "sync", "status", "pending", "conflicts", "events", "watch", "doctor", "resync", "detach"] {
        let absent = syncline(dir.path(), &[command, "absent.db"]).ends(2);
        assert!(absent.err.contains("absent.db"), "{command}: {absent:?}");
        assert!(!dir.path().join("absent.db").exists(), "{command} made a file");
        syncline(dir.path(), &[command, "broken.db"]).ends(6);
        if command != "init" {
            let plain = syncline(dir.path(), &[command, "plain.db", "--json"]).ends(2);
            assert!(plain.err.contains("syncline init") && plain.json()["exit_code"] == 2, "{command}: {plain:?}");
        }
    }
}

#[test]
fn a_token_is_alone_on_stdout_and_an_authority_is_made_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let token = syncline(dir.path(), &["admin", "token", "--data", "new", "--account", "ada"]).ends(0).out;
    assert!(token.starts_with("syt_") && token.lines().count() == 1, "{token}");
    let accounts = syncline(dir.path(), &["admin", "accounts", "--data", "new", "--json"]).ends(0).json();
    assert_eq!((accounts[0]["account"].as_str(), accounts.as_array().unwrap().len()), (Some("ada"), 1));
    syncline(dir.path(), &["admin", "bundles", "--data", "new", "--account", "nobody"]).ends(2);
    assert_eq!(syncline(dir.path(), &["admin", "bundles", "--data", "new", "--account", "ada", "--json"]).ends(0).json(), serde_json::json!([]));
}
