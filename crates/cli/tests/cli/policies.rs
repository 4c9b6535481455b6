//! Every column by its own rule, seen from the command line.

use crate::support::{World, open};

const TABLES: &str = "
CREATE TABLE customers(id TEXT PRIMARY KEY, phone TEXT, address TEXT, nickname TEXT, visits INTEGER, tags TEXT, note TEXT);
INSERT INTO customers VALUES('c1', '1', 'here', 'Al', 5, '[\"new\",\"vip\"]', 'Call Bob on Monday.');";

const RULES: &str = "
schema_version = 1
[table.customers]
columns = { visits = \"counter\", tags = \"set\", note = \"text\" }
";

const THREE_YEARS_MS: i64 = 3 * 365 * 86_400_000;

#[test]
fn two_offline_edits_of_one_row_merge_column_by_column_and_the_loser_can_be_put_back() {
    for (phone_first, ahead) in [(true, None), (false, None), (true, Some("phone")), (false, Some("phone")), (true, Some("laptop")), (false, Some("laptop"))] {
        let world = World::new();
        let phone = world.device("phone", &["--config", "syncline.toml"], |file| {
            std::fs::write(file.with_file_name("syncline.toml"), RULES).unwrap();
            open(file).execute_batch(TABLES).unwrap();
        });
        phone.sync(0);
        let laptop = world.device("laptop", &[], |_| {});
        laptop.sync(0);
        match ahead {
            Some("phone") => phone.put_clock_off(THREE_YEARS_MS),
            Some(_) => laptop.put_clock_off(THREE_YEARS_MS),
            None => {}
        }
        phone.sql_by_its_clock(
            "UPDATE customers SET phone = '555', visits = visits + 3, tags = '[\"new\",\"vip\",\"hot\"]', nickname = 'Ally',
               note = 'Call Bob on Tuesday.' WHERE id = 'c1'",
        );
        std::thread::sleep(std::time::Duration::from_millis(20));
        laptop.sql_by_its_clock(
            "UPDATE customers SET address = 'Elm St 2', visits = visits + 4, tags = '[\"vip\"]', nickname = 'Bert',
               note = 'Call Bob and Eve on Monday.' WHERE id = 'c1'",
        );
        let order = if phone_first { [&phone, &laptop] } else { [&laptop, &phone] };
        for device in [order[0], order[1], order[0]] {
            device.sync(0);
        }
        // With right clocks the later nickname is shown; a wrong one makes one of the two the later.
        let shown = phone.one("SELECT nickname FROM customers");
        assert!(shown == "Bert" || (ahead.is_some() && shown == "Ally"), "{shown} {phone_first} {ahead:?}");
        let lost = if shown == "Bert" { "Ally" } else { "Bert" };
        let all = format!("555|Elm St 2|12|[\"vip\",\"hot\"]|Call Bob and Eve on Tuesday.|{shown}");
        let sql = "SELECT phone || '|' || address || '|' || visits || '|' || tags || '|' || note || '|' || nickname FROM customers";
        assert_eq!((order[0].one(sql), order[1].one(sql), world.rows_at_server().one(sql)), (all.clone(), all.clone(), all), "{phone_first} {ahead:?}");
        // The nickname that lost is in everybody's journal; put back, it is the value everywhere.
        for device in order {
            let journal = device.run(&["journal", "app.db", "--json"]).ends(0).json();
            let entries: Vec<&serde_json::Value> = journal.as_array().unwrap().iter().filter(|e| e["col"] == "nickname").collect();
            assert_eq!(entries.len(), 1, "{journal}");
            let loser = if lost == "Ally" { "phone" } else { "laptop" };
            assert_eq!(entries[0]["lost_by"], loser, "{journal}");
            assert_eq!((&entries[0]["lost_value"], &entries[0]["won_value"], &entries[0]["key"]["id"]), (&lost.into(), &shown.as_str().into(), &"c1".into()));
        }
        let listed = laptop.run(&["journal", "app.db"]).ends(0);
        assert!(listed.out.contains(lost) && listed.err.contains("restore"), "{listed:?}");
        let journal = laptop.run(&["journal", "app.db", "--json"]).ends(0).json();
        let id = journal.as_array().unwrap().iter().find(|e| e["col"] == "nickname").unwrap()["id"].as_str().unwrap().to_owned();
        laptop.run(&["journal", "app.db", "restore", &id[..8]]).ends(0);
        laptop.run(&["journal", "app.db", "restore", "ffffffff"]).ends(2);
        laptop.sync(0);
        phone.sync(0);
        assert_eq!((phone.one("SELECT nickname FROM customers"), laptop.one("SELECT nickname FROM customers")), (lost.into(), lost.into()));
        assert_eq!(world.rows_at_server().one("SELECT nickname FROM customers"), lost);
        // A wrong clock does not win for ever: what the other writes now is the latest.
        for device in [order[0], order[1]] {
            device.sql_by_its_clock("UPDATE customers SET nickname = nickname || '!'");
            device.sync(0);
            order[0].sync(0);
            order[1].sync(0);
        }
        assert_eq!((phone.one("SELECT nickname FROM customers"), laptop.one("SELECT nickname FROM customers")), (format!("{lost}!!"), format!("{lost}!!")));
    }
}

#[test]
fn an_invoice_that_changed_at_the_server_is_refused_with_its_versions_and_each_outcome_does_what_it_says() {
    let world = World::new();
    let a = world.device("a", &["--config", "syncline.toml"], |file| {
        std::fs::write(file.with_file_name("syncline.toml"), "schema_version = 1\n[table.invoices]\npolicy = \"reject\"\n").unwrap();
        open(file)
            .execute_batch(
                "CREATE TABLE invoices(id TEXT PRIMARY KEY, amount INTEGER, memo TEXT); CREATE TABLE t(id TEXT PRIMARY KEY);
                 INSERT INTO invoices VALUES('i1', 10, '')",
            )
            .unwrap();
    });
    a.sync(0);
    let b = world.device("b", &[], |_| {});
    let c = world.device("c", &[], |_| {});
    b.sync(0);
    c.sync(0);
    for (round, (outcome, amount)) in
        [(vec!["--server"], "20 a0"), (vec!["--mine"], "31 b1"), (vec!["--merged", "{\"amount\": 50}"], "50 b2")].into_iter().enumerate()
    {
        let before: i64 = a.one("SELECT amount FROM invoices").parse().unwrap();
        a.sql(&format!("UPDATE invoices SET amount = {}, memo = 'a{round}'", 20 + round));
        a.sync(0);
        b.sql(&format!("UPDATE invoices SET amount = {}, memo = 'b{round}'; INSERT INTO t VALUES('else {round}')", 30 + round));
        assert_eq!(b.sync(4)["rows_up"], 1, "all else goes through");
        assert_eq!(b.one("SELECT amount FROM invoices"), (30 + round).to_string(), "its file still shows its own");
        assert_eq!(world.rows_at_server().one("SELECT amount FROM invoices"), (20 + round).to_string());
        let parked = b.conflicts("parked");
        assert_eq!(parked.len(), 1);
        let conflict = &parked[0];
        assert_eq!((&conflict["reason"], &conflict["server_row"]["amount"]), (&"version".into(), &(20 + round).into()));
        assert!(
            conflict["base_row_version"].as_u64() < conflict["server_row_version"].as_u64() && conflict["base_row_version"].as_u64() > Some(0),
            "{conflict}"
        );
        let amounts = (&conflict["base"]["amount"], &conflict["local"]["amount"], &conflict["remote"]["amount"]);
        assert_eq!(amounts, (&before.into(), &(30 + round).into(), &(20 + round).into()));
        b.run(&[&["conflicts", "app.db", "resolve", conflict["id"].as_str().unwrap()], &outcome[..]].concat()).ends(0);
        b.sync(0);
        for device in [&a, &b, &c] {
            device.sync(0);
            assert_eq!(device.one("SELECT amount || ' ' || memo FROM invoices"), amount, "{outcome:?}");
            assert_eq!(device.one("SELECT count(*) FROM t"), (round + 1).to_string());
        }
        assert_eq!(world.rows_at_server().one("SELECT amount || ' ' || memo FROM invoices"), amount);
    }
}

#[test]
fn delete_against_edit_and_child_against_parent_end_as_declared_in_every_order_of_three_devices() {
    for (setting, left) in [("keep_edit", "edited|P|C!,new"), ("delete_wins", "||")] {
        let world = World::new();
        let a = world.device("a", &["--config", "syncline.toml"], |file| {
            let rules = ["e", "p", "c"].map(|t| format!("[table.{t}]\non_delete = \"{setting}\"\n")).concat();
            std::fs::write(file.with_file_name("syncline.toml"), format!("schema_version = 1\n{rules}")).unwrap();
            open(file)
                .execute_batch(
                    "CREATE TABLE e(id TEXT PRIMARY KEY, t TEXT); CREATE TABLE p(id TEXT PRIMARY KEY, t TEXT);
                     CREATE TABLE c(id TEXT PRIMARY KEY, p TEXT NOT NULL REFERENCES p(id) ON DELETE CASCADE, t TEXT)",
                )
                .unwrap();
        });
        a.sync(0);
        let (b, c) = (world.device("b", &[], |_| {}), world.device("c", &[], |_| {}));
        let all = [&a, &b, &c];
        for (k, order) in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]].into_iter().enumerate() {
            a.sql(&format!("INSERT INTO e VALUES('{k}', 'E'); INSERT INTO p VALUES('{k}', 'P'); INSERT INTO c VALUES('{k}', '{k}', 'C')"));
            all.iter().for_each(|d| drop(d.sync(0)));
            a.sql(&format!("DELETE FROM e WHERE id = '{k}'; DELETE FROM p WHERE id = '{k}'"));
            b.sql(&format!("UPDATE e SET t = 'edited' WHERE id = '{k}'; INSERT INTO c VALUES('n{k}', '{k}', 'new')"));
            c.sql(&format!("UPDATE c SET t = 'C!' WHERE id = '{k}'"));
            // Whoever was before another hears of it the second time.
            for i in [order, order].concat() {
                all[i].sync(0);
            }
            let sql = format!(
                "SELECT coalesce((SELECT t FROM e WHERE id = '{k}'), '') || '|' || coalesce((SELECT t FROM p WHERE id = '{k}'), '') || '|' ||
                   coalesce((SELECT group_concat(t, ',') FROM (SELECT t FROM c WHERE p = '{k}' ORDER BY t)), '')"
            );
            for device in all {
                assert_eq!(device.one(&sql), left, "{setting} {order:?}");
            }
            assert_eq!(world.rows_at_server().rows(), crate::support::rows(&open(&a.file())), "{setting} {order:?}");
        }
        assert!(all.iter().all(|d| d.run(&["conflicts", "app.db", "--json"]).ends(0).json() == serde_json::json!([])));
        if setting == "delete_wins" {
            let journal = a.run(&["journal", "app.db", "--json"]).ends(0).json();
            let lost = |value: &str| journal.as_array().unwrap().iter().filter(|e| e["lost_value"] == value && e["reason"] == "row_ended").count();
            assert_eq!((lost("edited"), lost("new"), lost("C!")), (6, 6, 6), "{journal}");
        }
    }
}

#[test]
fn two_take_the_same_unique_email_and_correcting_either_settles_it() {
    for corrected_by_owner in [true, false] {
        let world = World::new();
        let a = world.device("a", &[], |file| open(file).execute_batch("CREATE TABLE u(id TEXT PRIMARY KEY, email TEXT UNIQUE, name TEXT)").unwrap());
        a.sync(0);
        let b = world.device("b", &[], |_| {});
        a.sql("INSERT INTO u VALUES('a', 'x@y', 'Ann')");
        b.sql("INSERT INTO u VALUES('b', 'x@y', 'Bob')");
        a.sync(0);
        b.sync(4);
        // Nobody's downloads stop, in either direction.
        a.sql("INSERT INTO u VALUES('a2', 'a2@y', '')");
        a.sync(0);
        b.sql("INSERT INTO u VALUES('b2', 'b2@y', '')");
        b.sync(4);
        a.sync(0);
        for device in [&a, &b] {
            assert_eq!(device.one("SELECT group_concat(id, ' ') FROM (SELECT id FROM u ORDER BY id)"), "a a2 b2");
        }
        assert_eq!(a.run(&["conflicts", "app.db", "--json"]).ends(0).json(), serde_json::json!([]));
        let all = b.run(&["conflicts", "app.db", "--json"]).ends(0).json();
        let listed = &all[0];
        assert_eq!(
            (all.as_array().unwrap().len(), &listed["reason"], &listed["key"]["id"], &listed["local"]["name"]),
            (1, &"unique".into(), &"b".into(), &"Bob".into())
        );
        let id = listed["id"].as_str().unwrap();
        if corrected_by_owner {
            a.sql("UPDATE u SET email = 'ann@y' WHERE id = 'a'");
            a.sync(0);
        } else {
            b.run(&["conflicts", "app.db", "resolve", id, "--merged", "{\"email\": \"a2@y\"}"]).ends(2);
            b.run(&["conflicts", "app.db", "resolve", id, "--merged", "{\"email\": \"bob@y\"}"]).ends(0);
        }
        b.sync(0);
        a.sync(0);
        let expected = if corrected_by_owner { "ann@y a2@y x@y b2@y" } else { "x@y a2@y bob@y b2@y" };
        for device in [&a, &b] {
            assert_eq!(device.one("SELECT group_concat(email, ' ') FROM (SELECT email FROM u ORDER BY id)"), expected);
        }
    }
}

#[test]
fn what_two_devices_say_of_an_asked_column_is_decided_on_a_third() {
    let world = World::new();
    let a = world.device("a", &["--config", "syncline.toml"], |file| {
        std::fs::write(file.with_file_name("syncline.toml"), "schema_version = 1\n[table.p]\ncolumns = { diagnosis = \"ask\" }\n").unwrap();
        open(file).execute_batch("CREATE TABLE p(id TEXT PRIMARY KEY, diagnosis TEXT); INSERT INTO p VALUES('p1', 'unknown')").unwrap();
    });
    a.sync(0);
    let (b, c) = (world.device("b", &[], |_| {}), world.device("c", &[], |_| {}));
    b.sync(0);
    c.sync(0);
    a.sql("UPDATE p SET diagnosis = 'flu'");
    std::thread::sleep(std::time::Duration::from_millis(20));
    b.sql("UPDATE p SET diagnosis = 'cold'");
    a.sync(0);
    for device in [&b, &a, &c] {
        device.sync(4);
    }
    for (device, here, other) in [(&a, "flu", "cold"), (&b, "cold", "flu"), (&c, "cold", "flu")] {
        let asked = device.conflicts("ask");
        assert_eq!(asked.len(), 1);
        let sides = (&asked[0]["reason"], &asked[0]["local"]["diagnosis"], &asked[0]["remote"]["diagnosis"]);
        assert_eq!(sides, (&"ask".into(), &here.into(), &other.into()));
        assert_eq!(device.one("SELECT diagnosis FROM p"), "cold", "the later is shown everywhere");
        assert_eq!(device.run(&["status", "app.db", "--json"]).ends(0).json()["state"], "needs_attention");
    }
    let id = c.conflicts("ask")[0]["id"].as_str().unwrap().to_owned();
    let told = c.run(&["conflicts", "app.db", "show", &id]).ends(0);
    assert!(told.out.contains("flu") && told.out.contains("cold") && told.out.contains("decide"), "{told:?}");
    c.run(&["conflicts", "app.db", "resolve", &id, "--server"]).ends(0);
    for device in [&c, &a, &b] {
        device.sync(0);
        assert_eq!((device.one("SELECT diagnosis FROM p"), device.conflicts("ask").len()), ("flu".into(), 0));
    }
}
