//! Shared scopes: coming in, roles, leaving; and that nobody learns of those of others.

use crate::support::{Device, World};
use serde_json::{Value, json};

/// Two accounts with a device each, and a third one that is no member of anything.
fn world() -> (World, [Device; 3]) {
    let world = World::new();
    let devices = ["ada", "bob", "cleo"].map(|account| world.device_of(account, account, &[], |_| ()));
    (world, devices)
}

fn scopes(device: &Device, args: &[&str]) -> Value {
    device.run(&[&["scopes", "app.db"], args, &["--json"]].concat()).ends(0).json()
}

#[test]
fn an_invitation_lets_in_once_and_roles_are_kept() {
    let (_world, [ada, bob, cleo]) = world();
    assert_eq!(scopes(&ada, &[]), json!([{ "scope_id": "ada", "role": "admin", "cursor": 0 }]));
    assert_eq!(scopes(&ada, &["create", "trip 1/2.x"])["scope_id"], "trip 1/2.x");
    let code = ada.run(&["scopes", "app.db", "invite", "trip 1/2.x", "--role", "reader"]).ends(0).out;
    assert_eq!(scopes(&bob, &["accept", code.trim()])["role"], "reader");
    assert_eq!(scopes(&bob, &["accept", code.trim()])["role"], "reader", "asked twice, joined once");
    let refused = cleo.run(&["scopes", "app.db", "accept", code.trim()]).ends(5);
    assert!(refused.err.contains("used up"), "{refused:?}");
    let members = scopes(&bob, &["members", "trip 1/2.x"]);
    let told: Vec<_> = members.as_array().unwrap().iter().map(|m| (m["account"].as_str().unwrap(), m["role"].as_str().unwrap())).collect();
    assert_eq!(told, [("ada", "admin"), ("bob", "reader")]);
    assert_eq!(scopes(&bob, &[]).as_array().unwrap().len(), 2);

    // A reader rules nothing; the last admin stays.
    bob.run(&["scopes", "app.db", "invite", "trip 1/2.x"]).ends(5);
    bob.run(&["scopes", "app.db", "remove", "trip 1/2.x", "ada"]).ends(5);
    ada.run(&["scopes", "app.db", "leave", "trip 1/2.x"]).ends(2);
    scopes(&ada, &["role", "trip 1/2.x", "bob", "admin"]);
    scopes(&ada, &["leave", "trip 1/2.x"]);
    assert_eq!(scopes(&ada, &[]).as_array().unwrap().len(), 1);
    assert_eq!(scopes(&bob, &["members", "trip 1/2.x"]).as_array().unwrap().len(), 1);
    ada.run(&["scopes", "app.db", "leave", "ada"]).ends(2);

    // Withdrawn codes let nobody in, and an id that is taken is refused.
    let code = bob.run(&["scopes", "app.db", "invite", "trip 1/2.x", "--uses", "5", "--ttl", "1h"]).ends(0).out;
    assert_eq!(scopes(&bob, &["invite", "trip 1/2.x", "--withdraw"])["withdrawn"], 2);
    cleo.run(&["scopes", "app.db", "accept", code.trim()]).ends(5);
    cleo.run(&["scopes", "app.db", "create", "trip 1/2.x"]).ends(2);
    cleo.run(&["scopes", "app.db", "create", "bob"]).ends(2);
    assert!(scopes(&cleo, &["create"])["scope_id"].as_str().unwrap().starts_with("s_"));
}

#[test]
fn a_scope_of_others_answers_like_one_that_does_not_exist() {
    let (_world, [ada, _, cleo]) = world();
    scopes(&ada, &["create", "trip"]);
    let asked = [vec!["members"], vec!["invite"], vec!["invite", "--withdraw"], vec!["leave"], vec!["role", "ada", "reader"], vec!["remove", "ada"]];
    for question in asked {
        let told = ["trip", "ada", "nowhere"].map(|scope| {
            let args = [&["scopes", "app.db", question[0], scope], &question[1..], &["--json"]].concat();
            let ran = cleo.run(&args).ends(5);
            (ran.out, ran.err)
        });
        assert_eq!(told[0], told[2], "{question:?}");
        assert_eq!(told[1], told[2], "{question:?}");
    }
}

#[test]
fn the_list_is_there_offline_too() {
    let (mut world, [ada, ..]) = world();
    ada.sync(0);
    world.kill();
    let ran = ada.run(&["scopes", "app.db", "--json"]).ends(0);
    assert!(ran.err.contains("offline"), "{ran:?}");
    assert_eq!(ran.json()[0]["scope_id"], "ada");
    ada.run(&["scopes", "app.db", "create", "trip"]).ends(3);
}
