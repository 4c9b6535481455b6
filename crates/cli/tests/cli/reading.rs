//! Settings and read markers of an account, in plain SQL: forward only, cleared on the other device, own and edited rows never unread.

use crate::support::{Device, World, open};
use std::path::Path;
use std::time::{Duration, Instant};

const CONFIG: &str = "schema_version = 1\n[table.messages]\nunread = { author = \"sender\" }\n";

fn made(path: &Path) {
    open(path).execute_batch("CREATE TABLE messages(id TEXT PRIMARY KEY, sender TEXT NOT NULL, body TEXT)").unwrap();
    std::fs::write(path.with_file_name("syncline.toml"), CONFIG).unwrap();
}

fn pair() -> (World, Device, Device) {
    World::with_pair(made)
}

fn unread(device: &Device) -> String {
    device.one("SELECT n FROM syncline_unread WHERE scope_id = 'ada'")
}

fn marker(device: &Device) -> String {
    device.one("SELECT coalesce((SELECT read_up_to FROM syncline_read_markers WHERE scope_id = 'ada'), 'none')")
}

#[test]
fn what_is_read_on_one_device_is_read_on_the_other_and_never_goes_back() {
    let (world, phone, laptop) = pair();
    // Bob's messages, by way of the server's own table; and one of Ada's own.
    for (id, sender) in [("m_1", "bob"), ("m_2", "bob"), ("m_3", "ada")] {
        world.rows_at_server().sql(&format!("INSERT INTO messages(scope_id, id, sender, body) VALUES('ada', '{id}', '{sender}', 'hello')"));
        phone.sync(0);
    }
    laptop.sync(0);
    assert_eq!((unread(&phone), unread(&laptop)), ("2".into(), "2".into()));
    let read = laptop.run(&["read", "app.db", "ada", "--to", "latest", "--json"]).ends(0).json();
    assert_eq!(read["unread"], 0, "{read}");
    let up_to = marker(&laptop);
    laptop.sync(0);
    phone.sync(0);
    assert_eq!((unread(&phone), marker(&phone)), ("0".into(), up_to.clone()));
    // An edit of an old message makes nothing unread, a new one does.
    world.rows_at_server().sql("UPDATE messages SET body = 'edited' WHERE id = 'm_1'");
    phone.sync(0);
    assert_eq!(unread(&phone), "0");
    world.rows_at_server().sql("INSERT INTO messages(scope_id, id, sender, body) VALUES('ada', 'm_4', 'bob', 'new')");
    phone.sync(0);
    laptop.sync(0);
    assert_eq!((unread(&phone), unread(&laptop)), ("1".into(), "1".into()));
    // An older marker, set by any statement, moves nothing back.
    phone.run(&["read", "app.db", "ada", "--to", "1"]).ends(0);
    phone.sql("UPDATE syncline_read_markers SET read_up_to = 0 WHERE scope_id = 'ada'");
    phone.sql("INSERT OR REPLACE INTO syncline_read_markers(scope_id, read_up_to) VALUES('ada', 1)");
    phone.sync(0);
    laptop.sync(0);
    assert_eq!((marker(&phone), marker(&laptop)), (up_to.clone(), up_to));
    // Marked as unread, which is a field of its own; reading clears it. A deleted message is no longer unread.
    phone.sql("UPDATE syncline_read_markers SET unread = 1 WHERE scope_id = 'ada'");
    phone.sync(0);
    world.rows_at_server().sql("DELETE FROM messages WHERE id = 'm_4'");
    laptop.sync(0);
    assert_eq!(unread(&laptop), "1", "as marked");
    laptop.sql("UPDATE syncline_read_markers SET unread = 0 WHERE scope_id = 'ada'");
    assert_eq!(unread(&laptop), "0");
    laptop.run(&["read", "app.db", "nowhere", "--to", "latest"]).ends(2);
}

#[test]
fn a_watching_phone_is_cleared_at_once() {
    let (world, phone, laptop) = pair();
    world.rows_at_server().sql("INSERT INTO messages(scope_id, id, sender) VALUES('ada', 'm_1', 'bob')");
    laptop.sync(0);
    let watching = phone.stream(&["sync", "app.db", "--watch", "--json"]);
    let until = |what: &str, n: &str| {
        let end = Instant::now() + Duration::from_secs(60);
        while unread(&phone) != n {
            assert!(Instant::now() < end, "{what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    until("the message comes", "1");
    laptop.run(&["read", "app.db", "ada", "--to", "latest"]).ends(0);
    laptop.sync(0);
    until("the marker comes", "0");
    drop(watching);
}

#[test]
fn settings_travel_local_ones_do_not_and_detach_leaves_none() {
    let (_world, phone, laptop) = pair();
    phone.sql("INSERT INTO syncline_settings VALUES('theme', 'dark') ON CONFLICT(key) DO UPDATE SET value = excluded.value");
    phone.sql("INSERT INTO syncline_scope_settings(scope_id, key, value) VALUES('trip', 'mute', 1), ('trip', 'pin', 2)");
    phone.sql("INSERT INTO syncline_local_settings VALUES('theme', 'light')");
    phone.sync(0);
    laptop.sql("INSERT INTO syncline_settings VALUES('size', 12)");
    laptop.sync(0);
    let all = "SELECT (SELECT group_concat(key || '=' || value, ' ') FROM (SELECT * FROM syncline_settings ORDER BY key)) || ' | '
               || coalesce((SELECT group_concat(scope_id || key || value, ' ') FROM (SELECT * FROM syncline_scope_settings ORDER BY key)), '')";
    assert_eq!(laptop.one(all), "size=12 theme=dark | tripmute1 trippin2");
    assert_eq!(laptop.one("SELECT count(*) FROM syncline_local_settings"), "0");
    laptop.sql("UPDATE syncline_scope_settings SET value = 7 WHERE key = 'mute'; DELETE FROM syncline_scope_settings WHERE key = 'pin'; DELETE FROM syncline_settings WHERE key = 'size'");
    laptop.sync(0);
    phone.sync(0);
    assert_eq!(phone.one(all), "theme=dark | tripmute7");
    assert_eq!(phone.run(&["status", "app.db", "--json"]).ends(0).json()["overridden_settings"], 1);
    phone.run(&["detach", "app.db"]).ends(0);
    assert_eq!(phone.one("SELECT group_concat(name) FROM sqlite_schema WHERE name LIKE '%syncline%'"), "NULL");
}
