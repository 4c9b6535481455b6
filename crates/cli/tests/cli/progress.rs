//! Progress: on stderr, and only where that is a terminal.

use crate::support::{Device, World, open};
use std::process::{Command, Stdio};

/// Runs a shell command on a terminal of its own (`script`, of util-linux) and returns what the terminal was sent.
fn on_a_terminal(device: &Device, command: &str) -> String {
    let command = command.replace("syncline", env!("CARGO_BIN_EXE_syncline"));
    let dir = device.file().with_file_name("");
    let ran = Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .current_dir(&dir)
        .env("SYNCLINE_HOME", dir.join("home"))
        .stdin(Stdio::null())
        .output()
        .expect("`script`, of util-linux, is needed");
    assert!(ran.status.success(), "{ran:?}");
    String::from_utf8_lossy(&ran.stdout).into_owned()
}

fn has_a_bar(text: &str) -> bool {
    text.contains('\u{2588}') || text.contains('\u{2591}')
}

#[test]
fn long_work_shows_its_progress_to_a_person_and_to_nobody_else() {
    let world = World::new();
    let a = world.device("a", &[], |file| open(file).execute_batch("CREATE TABLE note(id TEXT PRIMARY KEY, text)").unwrap());
    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 25000) INSERT INTO note SELECT i, hex(randomblob(30)) FROM n";
    a.sql(rows);
    // Three bundles: after the first it is known how much there is to go.
    let pushed = on_a_terminal(&a, "syncline sync app.db");
    assert!(has_a_bar(&pushed) && pushed.contains("sending") && pushed.contains("25,000"), "{pushed}");
    let b = world.device("b", &[], |_| {});
    let hydrated = on_a_terminal(&b, "syncline sync app.db");
    assert!(has_a_bar(&hydrated) && hydrated.contains("reading"), "{hydrated}");

    // Into a file, and for a program, there is none.
    let c = world.device("c", &[], |_| {});
    let told = on_a_terminal(&c, "syncline sync app.db 2> told.txt");
    let on_stderr = std::fs::read_to_string(c.file().with_file_name("told.txt")).unwrap();
    assert!(told.contains("25000 rows down") && !has_a_bar(&told) && !told.contains("reading") && on_stderr.is_empty(), "{told} {on_stderr}");
    let d = world.device("d", &[], |_| {});
    let told = on_a_terminal(&d, "syncline sync app.db --json");
    assert!(told.contains("\"rows_down\":25000") && !has_a_bar(&told), "{told}");
}
