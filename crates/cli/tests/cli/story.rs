//! One conversation of two accounts on four devices: what is sent, shown, read and missed, with plain SQL and the program.

use crate::support::{Device, World, open, until};
use serde_json::Value;
use std::path::Path;

const TABLE: &str = "CREATE TABLE messages(id TEXT PRIMARY KEY, conversation_id TEXT NOT NULL, sender TEXT NOT NULL, body TEXT)";
const RULES: &str = "[table.messages]
scope = { column = \"conversation_id\" }
priority = \"high\"
unread = { author = \"sender\" }";

fn made(file: &Path) {
    std::fs::write(file.with_file_name("syncline.toml"), RULES).unwrap();
    open(file).execute_batch(TABLE).unwrap();
}

fn send(device: &Device, id: &str, sender: &str) {
    device.sql(&format!("INSERT INTO messages VALUES('{id}', 'trip', '{sender}', 'hello from {sender}')"));
}

fn ids(device: &Device) -> String {
    device.one("SELECT coalesce(group_concat(id, ' '), '') FROM (SELECT id FROM messages ORDER BY id)")
}

fn unread(device: &Device) -> String {
    device.one("SELECT n FROM syncline_unread WHERE scope_id = 'trip'")
}

/// What the operator sees of a device.
fn place(world: &World, name: &str) -> Value {
    let lines = world.admin("devices", &["--account", "ada", "--json"]).ends(0).json();
    lines.as_array().unwrap().iter().find(|line| line["name"] == name).unwrap().clone()
}

/// Whether a device has a message, as the operator sees it.
fn delivered(world: &World, id: &str, name: &str) -> Value {
    let device = place(world, name)["device_id"].clone();
    let lines = world.admin("delivery", &["--table", "messages", "--key", id, "--json"]).ends(0).json();
    lines.as_array().unwrap().iter().find(|line| line["device_id"] == device).unwrap()["state"].clone()
}

#[test]
fn phone_laptop_and_tablet_of_one_account_and_a_second_account_share_a_conversation() {
    let world = World::new();
    let phone = world.device_of("ada", "phone", &["--config", "syncline.toml"], made);
    let [laptop, tablet] = ["laptop", "tablet"].map(|name| world.device_of("ada", name, &[], |_| ()));
    let bob = world.device_of("bob", "bob", &[], |_| ());
    phone.run(&["scopes", "app.db", "create", "trip"]).ends(0);
    let code = phone.run(&["scopes", "app.db", "invite", "trip"]).ends(0).out;
    bob.run(&["scopes", "app.db", "accept", code.trim()]).ends(0);
    for device in [&phone, &laptop, &tablet, &bob] {
        device.sync(0);
    }

    // Sent from the phone by any program, shown on the laptop, and at Bob's.
    let watching = ["phone", "laptop", "tablet"].map(|_| ["sync", "app.db", "--watch", "--json"]);
    let (on_phone, on_laptop, on_tablet) = (phone.stream(&watching[0]), laptop.stream(&watching[1]), tablet.stream(&watching[2]));
    send(&phone, "m_1", "ada");
    until("it is shown on the laptop", || (ids(&laptop) == "m_1").then_some(()));
    bob.sync(0);
    assert_eq!((ids(&bob), unread(&bob), unread(&laptop)), ("m_1".into(), "1".into(), "0".into()), "own messages are not unread");

    // The laptop goes offline; the tablet's process stops, its connection stays.
    drop(on_laptop);
    until("the tablet is connected", || (!place(&world, "tablet")["stream_since_ms"].is_null()).then_some(()));
    on_tablet.signal("STOP");
    send(&phone, "m_2", "ada");
    until("the phone has sent it", || (phone.one("SELECT pending + captured FROM syncline_status") == "0").then_some(()));
    for id in ["m_8", "m_9"] {
        send(&bob, id, "bob");
    }
    bob.sync(0);
    until("they come to the phone", || (unread(&phone) == "2").then_some(()));
    assert_eq!(ids(&phone), "m_1 m_2 m_8 m_9");

    // Has the laptop got message 9, and if not, why?
    assert_eq!(delivered(&world, "m_9", "laptop"), "needs");
    let gone = until("its stream is closed", || Some(place(&world, "laptop")).filter(|line| line["stream_since_ms"].is_null()));
    assert!(gone["lag_bundles"].as_u64() >= Some(1) && gone["lag_seconds"].as_u64().is_some() && gone["connected_stale"] == false, "{gone}");
    let stale = until("the tablet is connected and stale", || Some(place(&world, "tablet")).filter(|line| line["connected_stale"] == true));
    assert!(stale["lag_bundles"].as_u64() >= Some(1), "{stale}");
    assert_eq!(delivered(&world, "m_9", "tablet"), "needs");

    // Read on the laptop: cleared on the phone, which watches, and on the tablet when it wakes up.
    laptop.sync(0);
    assert_eq!((ids(&laptop), unread(&laptop)), ("m_1 m_2 m_8 m_9".into(), "2".into()));
    // It tells so with its next request.
    until("it was sent to the laptop", || (delivered(&world, "m_9", "laptop") == "sent").then_some(()));
    laptop.run(&["read", "app.db", "trip", "--to", "latest"]).ends(0);
    laptop.sync(0);
    until("it is cleared on the phone", || (unread(&phone) == "0").then_some(()));
    on_tablet.signal("CONT");
    until("and on the tablet", || (ids(&tablet) == "m_1 m_2 m_8 m_9" && unread(&tablet) == "0").then_some(()));
    until("which is not stale", || (place(&world, "tablet")["connected_stale"] == false).then_some(()));
    until("the laptop has told that it has it", || (delivered(&world, "m_9", "laptop") == "has").then_some(()));

    // An older marker, set offline, moves nothing back; Bob's own is his.
    laptop.run(&["read", "app.db", "trip", "--to", "1"]).ends(0);
    laptop.sync(0);
    assert_eq!((unread(&laptop), unread(&bob)), ("0".into(), "2".into()));
    drop((on_phone, on_tablet));
    for device in [&phone, &tablet, &laptop, &bob] {
        device.sync(0);
        let status = device.run(&["status", "app.db", "--json"]).ends(0).json();
        assert_eq!((&status["state"], &status["pending"]), (&"synced".into(), &0.into()), "{status}");
    }
    assert_eq!((unread(&phone), ids(&tablet)), ("0".into(), ids(&bob)));
}
