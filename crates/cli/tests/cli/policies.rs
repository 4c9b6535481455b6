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

#[test]
fn two_offline_edits_of_one_row_merge_column_by_column_and_the_loser_can_be_put_back() {
    for phone_first in [true, false] {
        let world = World::new();
        let phone = world.device("phone", &["--config", "syncline.toml"], |file| {
            std::fs::write(file.with_file_name("syncline.toml"), RULES).unwrap();
            open(file).execute_batch(TABLES).unwrap();
        });
        phone.sync(0);
        let laptop = world.device("laptop", &[], |_| {});
        laptop.sync(0);
        phone.sql(
            "UPDATE customers SET phone = '555', visits = visits + 3, tags = '[\"new\",\"vip\",\"hot\"]', nickname = 'Ally',
               note = 'Call Bob on Tuesday.' WHERE id = 'c1'",
        );
        std::thread::sleep(std::time::Duration::from_millis(20));
        laptop.sql(
            "UPDATE customers SET address = 'Elm St 2', visits = visits + 4, tags = '[\"vip\"]', nickname = 'Bert',
               note = 'Call Bob and Eve on Monday.' WHERE id = 'c1'",
        );
        let order = if phone_first { [&phone, &laptop] } else { [&laptop, &phone] };
        for device in [order[0], order[1], order[0]] {
            device.sync(0);
        }
        for device in order {
            let row = device.one("SELECT phone || '|' || address || '|' || visits || '|' || tags || '|' || note || '|' || nickname FROM customers");
            assert_eq!(row, "555|Elm St 2|12|[\"vip\",\"hot\"]|Call Bob and Eve on Tuesday.|Bert");
        }
        // The nickname that lost is in everybody's journal; put back, it is the value everywhere.
        for device in order {
            let journal = device.run(&["journal", "app.db", "--json"]).ends(0).json();
            let lost: Vec<&serde_json::Value> = journal.as_array().unwrap().iter().filter(|e| e["col"] == "nickname").collect();
            assert_eq!(lost.len(), 1, "{journal}");
            assert_eq!((&lost[0]["lost_value"], &lost[0]["won_value"], &lost[0]["key"]["id"]), (&"Ally".into(), &"Bert".into(), &"c1".into()));
        }
        let listed = laptop.run(&["journal", "app.db"]).ends(0);
        assert!(listed.out.contains("Ally") && listed.err.contains("restore"), "{listed:?}");
        let journal = laptop.run(&["journal", "app.db", "--json"]).ends(0).json();
        let id = journal.as_array().unwrap().iter().find(|e| e["col"] == "nickname").unwrap()["id"].as_str().unwrap().to_owned();
        laptop.run(&["journal", "app.db", "restore", &id[..8]]).ends(0);
        laptop.run(&["journal", "app.db", "restore", "ffffffff"]).ends(2);
        laptop.sync(0);
        phone.sync(0);
        assert_eq!(phone.one("SELECT nickname FROM customers"), "Ally");
        assert_eq!(world.rows_at_server().one("SELECT nickname FROM customers"), "Ally");
    }
}

#[test]
fn an_invoice_that_changed_at_the_server_is_refused_with_its_versions() {
    let world = World::new();
    let a = world.device("a", &["--config", "syncline.toml"], |file| {
        std::fs::write(file.with_file_name("syncline.toml"), "schema_version = 1\n[table.invoices]\npolicy = \"reject\"\n").unwrap();
        open(file)
            .execute_batch(
                "CREATE TABLE invoices(id TEXT PRIMARY KEY, amount INTEGER); CREATE TABLE t(id TEXT PRIMARY KEY); INSERT INTO invoices VALUES('i1', 10)",
            )
            .unwrap();
    });
    a.sync(0);
    let b = world.device("b", &[], |_| {});
    let c = world.device("c", &[], |_| {});
    b.sync(0);
    c.sync(0);
    a.sql("UPDATE invoices SET amount = 20");
    a.sync(0);
    b.sql("UPDATE invoices SET amount = 30; INSERT INTO t VALUES('else')");
    assert_eq!(b.sync(4)["rows_up"], 1, "all else goes through");
    assert_eq!(b.one("SELECT amount FROM invoices"), "30", "its file still shows its own");
    let parked = b.conflicts("parked");
    assert_eq!(parked.len(), 1);
    let conflict = &parked[0];
    assert_eq!((&conflict["reason"], &conflict["server_row"]["amount"]), (&"version".into(), &20.into()));
    assert!(conflict["base_row_version"].as_u64() < conflict["server_row_version"].as_u64() && conflict["base_row_version"].as_u64() > Some(0), "{conflict}");
    assert_eq!((&conflict["base"]["amount"], &conflict["local"]["amount"], &conflict["remote"]["amount"]), (&10.into(), &30.into(), &20.into()));
    b.run(&["conflicts", "app.db", "resolve", conflict["id"].as_str().unwrap(), "--merged", "{\"amount\": 50}"]).ends(0);
    b.sync(0);
    for device in [&a, &c] {
        device.sync(0);
        assert_eq!(device.one("SELECT amount FROM invoices"), "50");
    }
}
