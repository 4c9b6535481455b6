//! The account's devices: named, revoked; what a revoked one sealed opens for its owner; and what the operator sees of them.

use crate::support::{Device, World, open, rows, until};
use serde_json::Value;
use std::time::Duration;

const TABLE: &str = "CREATE TABLE note(id TEXT PRIMARY KEY, body TEXT, n INTEGER DEFAULT 0); INSERT INTO note VALUES('a', 'first', 1)";
const CONFIG: &str = "schema_version = 1\n[table.note]\ncolumns = { n = \"counter\" }\n";

fn made(path: &std::path::Path) {
    open(path).execute_batch(TABLE).unwrap();
    std::fs::write(path.with_file_name("syncline.toml"), CONFIG).unwrap();
}

/// Ada's phone with a note, synced; and her laptop, which has it too.
fn pair() -> (World, Device, Device) {
    World::with_pair(made)
}

fn devices(device: &Device) -> Vec<Value> {
    device.run(&["devices", "app.db", "--json"]).ends(0).json().as_array().unwrap().clone()
}

fn id_of(list: &[Value], name: &str) -> String {
    list.iter().find(|d| d["name"] == name).unwrap()["device_id"].as_str().unwrap().to_owned()
}

fn admin_devices(world: &World) -> Vec<Value> {
    world.admin("devices", &["--account", "ada", "--json"]).ends(0).json().as_array().unwrap().clone()
}

#[test]
fn devices_are_listed_and_named_online_offline_and_in_sql() {
    let (mut world, phone, laptop) = pair();
    let list = devices(&phone);
    assert_eq!(list.len(), 2);
    assert!(list.iter().all(|d| d["app_version"].as_str().unwrap().starts_with("syncline ") && d["revoked"].is_null()), "{list:?}");
    let id = id_of(&list, "laptop");
    phone.run(&["devices", "app.db", "rename", &id[..8], "Ada's laptop"]).ends(0);
    assert_eq!(phone.one(&format!("SELECT name FROM syncline_devices WHERE device_id = '{id}'")), "Ada's laptop");
    for bad in ["", "zz", "ffffffff", &id[..2]] {
        phone.run(&["devices", "app.db", "rename", bad, "x"]).ends(2);
    }
    phone.run(&["devices", "app.db", "rename", &id, " "]).ends(2);
    assert_eq!(laptop.one("SELECT count(*) FROM syncline_devices"), "2");
    world.kill();
    let offline = laptop.run(&["devices", "app.db", "--json"]).ends(0);
    assert!(offline.err.contains("offline") && offline.json().as_array().unwrap().len() == 2, "{offline:?}");
}

#[test]
fn a_revoked_device_seals_its_work_drops_the_rows_and_its_owner_gets_the_work_back() {
    let (world, phone, laptop) = pair();
    // Unsent on the phone: an edit, an increment, an insert, a deletion of its own; and newer on the laptop: the body.
    phone.sql("UPDATE note SET body = 'from the phone', n = n + 5; INSERT INTO note(id, body) VALUES('b', 'only on the phone')");
    phone.run(&["pending", "app.db"]).ends(0);
    std::thread::sleep(Duration::from_millis(20));
    laptop.sql("UPDATE note SET body = 'later', n = n + 2 WHERE id = 'a'");
    laptop.sync(0);
    let id = id_of(&devices(&laptop), "phone");
    laptop.run(&["devices", "app.db", "revoke", &id]).ends(0);

    let refused = phone.run(&["sync", "app.db", "--json"]).ends(5);
    assert!(refused.out.contains("device_revoked"), "{refused:?}");
    assert_eq!(rows(&open(&phone.file())), Vec::<String>::new(), "the rows are gone");
    let file = phone.file().with_file_name("app.db.sealed");
    let sealed = std::fs::read(&file).unwrap();
    assert!(!String::from_utf8_lossy(&sealed).contains("only on the phone"));
    let events = phone.run(&["events", "app.db", "--json"]).ends(0).out;
    assert!(events.contains("app.db.sealed") && events.contains("rows are gone"), "{events}");
    assert_eq!(phone.run(&["status", "app.db", "--json"]).ends(0).json()["state"], "needs_attention");
    phone.run(&["sync", "app.db"]).ends(5);
    assert!(!phone.file().with_file_name("app.db.sealed2").exists(), "sealed once");

    // It opens on the laptop, and for nobody else.
    let to = laptop.file().with_file_name("from-phone.sealed");
    std::fs::copy(&file, &to).unwrap();
    let stranger = world.device_of("bob", "bob", &[], |_| ());
    stranger.run(&["devices", "app.db", "unseal", to.to_str().unwrap()]).ends(2);
    phone.run(&["devices", "app.db", "unseal", file.to_str().unwrap()]).ends(5);
    let key = world.admin("devices", &["--seal-key", &id]).ends(0).out;
    let taken = laptop.run(&["devices", "app.db", "unseal", "from-phone.sealed", "--key", key.trim(), "--json"]).ends(0).json();
    assert_eq!((taken["taken"].as_u64(), taken["account"].as_str()), (Some(2), Some("ada")), "{taken}");
    assert_eq!(laptop.run(&["devices", "app.db", "unseal", "from-phone.sealed", "--json"]).ends(0).json()["known"], 2, "twice does no harm");
    laptop.sync(0);
    let fresh = world.device("fresh", &[], |_| ());
    fresh.sync(0);
    assert_eq!(fresh.one("SELECT group_concat(id || ':' || body || ':' || n, ' ') FROM (SELECT * FROM note ORDER BY id)"), "a:later:8 b:only on the phone:0");
    assert_eq!(laptop.run(&["status", "app.db", "--json"]).ends(0).json()["pending"], 0);

    // A revoked device may be attached anew, as another one.
    let token = world.admin("token", &["--account", "ada"]).ends(0).out;
    phone.run(&["attach", "app.db", "--server", &world.url(), "--token", token.trim(), "--name", "phone again"]).ends(0);
    phone.sync(0);
    assert_eq!(rows(&open(&phone.file())), rows(&open(&fresh.file())));
}

#[test]
fn an_open_stream_of_a_revoked_device_ends_and_the_device_seals_by_itself() {
    let (world, phone, laptop) = pair();
    let watching = phone.stream(&["sync", "app.db", "--watch", "--json"]);
    let id = id_of(&devices(&laptop), "phone");
    until("a stream is told to the operator", || admin_devices(&world).iter().any(|d| d["device_id"] == *id && !d["stream_since_ms"].is_null()).then_some(()));
    laptop.run(&["devices", "app.db", "revoke", &id]).ends(0);
    until("its rows go", || rows(&open(&phone.file())).is_empty().then_some(()));
    until("its stream is closed", || admin_devices(&world).iter().all(|d| d["device_id"] != *id || d["stream_since_ms"].is_null()).then_some(()));
    drop(watching);
}

#[test]
fn the_operator_sees_who_is_behind_connected_and_stale_and_who_has_a_row() {
    let (world, phone, laptop) = pair();
    let state = |id: &str, key: &str| {
        let lines = world.admin("delivery", &["--table", "note", "--key", key, "--json"]).ends(0).json();
        lines.as_array().unwrap().iter().find(|l| l["device_id"] == *id).unwrap()["state"].as_str().unwrap().to_owned()
    };
    let (phone_id, laptop_id) = (id_of(&devices(&phone), "phone"), id_of(&devices(&phone), "laptop"));
    phone.sync(0);
    laptop.sync(0);
    assert_eq!((state(&phone_id, "a"), state(&laptop_id, "a")), ("has".into(), "has".into()));
    let watching = laptop.stream(&["sync", "app.db", "--watch", "--json"]);
    until("the stream is open", || admin_devices(&world).iter().any(|d| d["name"] == "laptop" && !d["stream_since_ms"].is_null()).then_some(()));
    // Its process stops; the connection stays.
    watching.signal("STOP");
    phone.sql("INSERT INTO note(id, body) VALUES('m_9', 'new'); DELETE FROM note WHERE id = 'a'");
    phone.sync(0);
    until("the phone was sent its own", || (state(&phone_id, "m_9") != "needs").then_some(()));
    assert_eq!((state(&laptop_id, "m_9"), state(&laptop_id, "a")), ("needs".into(), "needs".into()));
    let stale = until("connected and stale", || admin_devices(&world).into_iter().find(|d| d["name"] == "laptop" && d["connected_stale"] == true));
    assert!(stale["lag_bundles"].as_u64() >= Some(1) && stale["cursor"].as_u64() < stale["head"].as_u64(), "{stale}");
    watching.signal("CONT");
    until("it has caught up", || (state(&laptop_id, "m_9") != "needs").then_some(()));
    until("it is not stale", || admin_devices(&world).iter().all(|d| d["connected_stale"] == false).then_some(()));
    drop(watching);
    laptop.sync(0);
    until("it has told so", || (state(&laptop_id, "m_9") == "has").then_some(()));
    world.admin("delivery", &["--table", "note", "--key", "nothing"]).ends(2);
    world.admin("delivery", &["--table", "nothing", "--key", "a"]).ends(2);
    world.admin("delivery", &["--table", "note", "--key", "a", "--key", "b"]).ends(2);
}
