//! Several servers on one PostgreSQL database, beside other SQL clients.

use crate::bed::*;
use crate::postgres_database::psql;
use std::time::{Duration, Instant};
use syncline_core::*;
use syncline_server::http::Authority;
use syncline_server::postgres::Settings;
use syncline_server::{Postgres, Store};
use tokio_postgres::NoTls;

/// A SQL client that keeps its transaction open.
struct Client {
    runtime: tokio::runtime::Runtime,
    client: tokio_postgres::Client,
}

impl Client {
    fn new(url: &str) -> Client {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (client, connection) = runtime.block_on(tokio_postgres::connect(url, NoTls)).unwrap();
        runtime.spawn(connection);
        Client { runtime, client }
    }
    fn run(&self, sql: &str) {
        self.runtime.block_on(self.client.batch_execute(sql)).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
}

fn within(patience: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + patience;
    while Instant::now() < end {
        if done() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

#[test]
fn each_transaction_of_a_sql_client_is_one_bundle_in_the_order_of_their_commits() {
    let mut bed = Bed::postgres();
    let mut a = bed.device("ada", TABLES);
    a.pull(&bed.store);
    let (one, two) = (Client::new(&bed.url()), Client::new(&bed.url()));
    // The server itself must not come between.
    let hold = Client::new(&bed.url());
    hold.run("BEGIN; SELECT * FROM syncline.scope WHERE scope_id = 'ada' FOR UPDATE");
    one.run("BEGIN; INSERT INTO person(id, name) VALUES('began first', 'x')");
    two.run("BEGIN; INSERT INTO person(id, name) VALUES('p', 'x'); INSERT INTO entry(id, person) VALUES('e', 'p'); UPDATE person SET age = 1 WHERE id = 'p'");
    two.run("COMMIT");
    one.run("UPDATE person SET name = 'y' WHERE id = 'began first'; COMMIT");
    hold.run("COMMIT");
    a.pull(&bed.store);
    let seq = |table: &str, id: &str| a.rows[&(table.to_owned(), key(id))].1;
    assert_eq!((seq("person", "p"), seq("entry", "e"), seq("person", "began first")), (Seq(1), Seq(1), Seq(2)));
    assert_eq!(psql(&bed.url(), "SELECT row_count FROM syncline.bundle ORDER BY seq").concat(), ["2", "1"]);
}

#[test]
fn an_idle_server_tells_its_watchers_of_a_sql_clients_write_and_of_another_servers_push() {
    let mut bed = Bed::postgres();
    let (mut a, b) = (bed.device("ada", TABLES), bed.device("ada", ""));
    let other = bed.another_server();
    let mut watch = other.watch(&b.caller).unwrap();
    let row = a.insert("person", key("p"), vec![Value::Null, Value::Null, text("P")]);
    a.push(&bed.store, vec![row]);
    let mut told = |seq| within(Duration::from_secs(30), || matches!(watch.changes.try_recv(), Ok((scope, n)) if scope.0 == "ada" && n == Seq(seq)));
    assert!(told(1));
    bed.sql("UPDATE person SET name = 'by hand'");
    assert!(told(2));
}

#[test]
fn a_writers_mistakes_fail_in_its_own_transaction() {
    let mut bed = Bed::postgres();
    let mut a = bed.device("ada", TABLES);
    for (sql, why) in [
        ("INSERT INTO person(scope_id, id, name) VALUES('nobody', 'p', 'x')", "there is no such scope"),
        ("TRUNCATE person CASCADE", "use DELETE"),
        ("INSERT INTO entry(id, person) VALUES('e', 'nobody')", "foreign key"),
        ("INSERT INTO person(id, name) VALUES(repeat('k', 2500), 'x')", "_syncline_key_size"),
    ] {
        let refused = bed.try_sql(sql).unwrap_err();
        assert!(refused.contains(why), "{sql}: {refused}");
    }
    // Nothing of it is left to stumble over.
    let row = a.insert("person", key("p"), vec![Value::Null, Value::Null, text("P")]);
    assert_eq!(committed(&a.push(&bed.store, vec![row])), Seq(1));
}

#[test]
fn a_client_that_holds_a_row_delays_its_push_and_loses_nothing() {
    let mut bed = Bed::postgres();
    let (mut a, mut b) = (bed.device("ada", TABLES), bed.device("ada", ""));
    let rows = ["p", "q"].map(|id| a.insert("person", key(id), vec![text(id), Value::Int(1), text(id)]));
    a.push(&bed.store, rows.to_vec());
    b.pull(&bed.store);
    let client = Client::new(&bed.url());
    client.run("BEGIN; UPDATE person SET name = 'by hand' WHERE id = 'p'");
    let edit = a.update("person", key("p"), &[("age", Value::Int(2))]);
    let free = b.update("person", key("q"), &[("age", Value::Int(3))]);
    let (store, device) = (&bed.store, &mut a);
    std::thread::scope(|s| {
        let waiting = s.spawn(|| device.push(store, vec![edit]));
        std::thread::sleep(Duration::from_millis(300));
        // Others get through meanwhile, and the client is never the victim.
        committed(&b.push(store, vec![free]));
        client.run("UPDATE person SET email = 'held@x' WHERE id = 'p'; COMMIT");
        committed(&waiting.join().unwrap());
    });
    b.pull(&bed.store);
    a.pull(&bed.store);
    assert_eq!(a.rows, b.rows);
    assert_eq!(a.shows("person")[0], ("p".into(), vec![text("held@x"), Value::Int(2), text("by hand")]));
}

#[test]
fn a_later_write_of_a_client_stays_although_a_push_of_the_same_column_waited_for_it() {
    let mut bed = Bed::postgres();
    let mut a = bed.device("ada", TABLES);
    let row = a.insert("person", key("p"), vec![Value::Null, Value::Null, text("first")]);
    a.push(&bed.store, vec![row]);
    let edit = a.update("person", key("p"), &[("name", text("earlier"))]);
    std::thread::sleep(Duration::from_millis(20));
    let client = Client::new(&bed.url());
    client.run("BEGIN; UPDATE person SET name = 'later' WHERE id = 'p'");
    let (store, device) = (&bed.store, &mut a);
    std::thread::scope(|s| {
        let waiting = s.spawn(|| device.push(store, vec![edit]));
        std::thread::sleep(Duration::from_millis(300));
        client.run("COMMIT");
        committed(&waiting.join().unwrap());
    });
    a.pull(&bed.store);
    assert_eq!((a.shows("person")[0].1[2].clone(), bed.one("SELECT name FROM person")), (text("later"), "later".into()));
}

#[test]
fn devices_on_three_servers_beside_a_sql_client_and_an_operator_who_kills_connections_end_equal() {
    const ROUNDS: i64 = 12;
    let mut bed = Bed::postgres();
    let accounts = ["ada", "bert"];
    let mut devices: Vec<Device> = vec![bed.device("ada", TABLES), bed.device("bert", "")];
    for i in 0..6 {
        devices.push(bed.device(accounts[i % 2], ""));
    }
    let servers: Vec<Store> = (0..3).map(|_| Store::Postgres(bed.another_server())).collect();
    let url = bed.url();
    let busy = std::sync::atomic::AtomicBool::new(true);
    std::thread::scope(|s| {
        let working: Vec<_> = devices
            .iter_mut()
            .enumerate()
            .map(|(n, device)| {
                let servers = &servers;
                s.spawn(move || {
                    for round in 0..ROUNDS {
                        let server = &servers[(n + round as usize) % servers.len()];
                        let mut rows = vec![device.insert("person", key(&format!("{n}-{round}")), vec![Value::Null, Value::Int(round), text("x")])];
                        let shared = ("person".to_owned(), key("shared"));
                        rows.push(match device.rows.contains_key(&shared) {
                            true => device.update("person", shared.1, &[("age", Value::Int(round))]),
                            false => device.insert("person", shared.1, vec![Value::Null, Value::Int(round), text("shared")]),
                        });
                        rows[1].mask = ColSet::all(3);
                        // A connection that was killed: the same bundle again, as a device does.
                        let end = Instant::now() + Duration::from_secs(60);
                        while let Err(e) = device.try_push(server, rows.clone()) {
                            assert!(matches!(e, syncline_server::ApiError::Unavailable(_)) && Instant::now() < end, "{e:?}");
                            std::thread::sleep(Duration::from_millis(20));
                        }
                    }
                })
            })
            .collect();
        let (url, busy) = (&url, &busy);
        let by_hand = s.spawn(move || {
            let client = Client::new(url);
            let mut n = 0;
            while busy.load(std::sync::atomic::Ordering::SeqCst) {
                for account in accounts {
                    client.run(&format!(
                        "BEGIN; INSERT INTO entry(scope_id, id, minutes) VALUES('{account}', 'h{n}a', {n}), ('{account}', 'h{n}b', {n}); UPDATE person SET email = 'e{n}' WHERE scope_id = '{account}' AND id = 'shared'; COMMIT"
                    ));
                }
                n += 1;
                std::thread::sleep(Duration::from_millis(15));
            }
            n
        });
        s.spawn(move || {
            while busy.load(std::sync::atomic::Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(150));
                psql(url, "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity WHERE application_name = 'syncline' AND datname = current_database() AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1) x");
            }
        });
        let done: Vec<_> = working.into_iter().map(|w| w.join()).collect();
        busy.store(false, std::sync::atomic::Ordering::SeqCst);
        assert!(by_hand.join().unwrap() > 0);
        done.into_iter().for_each(|w| w.unwrap());
    });
    for device in &mut devices {
        let pulled = within(Duration::from_secs(30), || servers[0].sync(&device.caller, device.asking()).is_ok());
        assert!(pulled);
        device.pull(&servers[0]);
    }
    for (n, account) in accounts.iter().enumerate() {
        let own: Vec<&Device> = devices.iter().skip(n).step_by(2).collect();
        own.iter().for_each(|d| assert_eq!(d.rows, own[0].rows));
        let rows = own[0].shows("person");
        assert_eq!(rows.len() as i64, 4 * ROUNDS + 1);
        let table = psql(&url, &format!("SELECT id, age, email FROM person WHERE scope_id = '{account}' ORDER BY id COLLATE \"C\""));
        let mut here: Vec<Vec<String>> = rows.iter().map(|(id, values)| vec![id.clone(), values[1].to_string(), values[0].to_string()]).collect();
        here.sort();
        assert_eq!(table, here);
    }
    let gaps = psql(
        &url,
        "SELECT s.scope_id FROM syncline.scope s JOIN syncline.bundle b USING (scope_id) GROUP BY s.scope_id, s.seq HAVING s.seq <> count(*) OR s.seq <> max(b.seq)",
    );
    assert!(gaps.is_empty(), "{gaps:?}");
    assert_eq!(psql(&url, "SELECT count(*) FROM syncline.bundle WHERE device IS NOT NULL")[0][0], (8 * ROUNDS).to_string());
}

#[test]
fn servers_of_the_version_before_go_on_beside_a_newer_one_and_start_where_it_says_that_they_may() {
    let mut bed = Bed::postgres();
    let mut a = bed.device("ada", TABLES);
    let known: i64 = bed.one("SELECT max(n) FROM syncline.migration").parse().unwrap();
    // What a next version's migration may do: columns and tables with defaults.
    bed.sql(&format!(
        "ALTER TABLE syncline.row ADD COLUMN later text; ALTER TABLE syncline.bundle ADD COLUMN later int NOT NULL DEFAULT 7; ALTER TABLE syncline.scope ADD COLUMN later int NOT NULL DEFAULT 0;
         ALTER TABLE syncline.capture ADD COLUMN later int NOT NULL DEFAULT 0; CREATE TABLE syncline.later(id int); INSERT INTO syncline.migration(n, least) VALUES({}, {known})",
        known + 1
    ));
    let another = Store::Postgres(bed.another_server());
    let mut b = bed.device("ada", "");
    for (n, server) in [&bed.store, &another].into_iter().enumerate() {
        let row = a.insert("person", key(&format!("p{n}")), vec![Value::Null, Value::Int(1), text("P")]);
        committed(&a.push(server, vec![row]));
        bed.sql(&format!("UPDATE person SET age = 2 WHERE id = 'p{n}'"));
        b.pull(server);
        assert_eq!(b.shows("person")[n].1[1], Value::Int(2));
    }
    bed.sql(&format!("INSERT INTO syncline.migration(n, least) VALUES({}, {})", known + 2, known + 1));
    let refused = Postgres::open(&bed.url()).err().unwrap().to_string();
    assert!(refused.contains("Run the version that made it"), "{refused}");
    // One that is running goes on.
    let row = a.insert("person", key("last"), vec![Value::Null, Value::Int(1), text("P")]);
    committed(&a.push(&another, vec![row]));
}

#[test]
fn the_doctor_finds_rows_that_triggers_did_not_see() {
    let mut bed = Bed::postgres();
    let mut a = bed.device("ada", TABLES);
    let rows = ["p", "q", "r"].map(|id| a.insert("person", key(id), vec![text(id), Value::Int(1), text("P")]));
    a.push(&bed.store, rows.to_vec());
    bed.sql("UPDATE person SET age = 2 WHERE id = 'p'");
    let Store::Postgres(postgres) = &bed.store else { unreachable!() };
    assert_eq!(postgres.doctor().unwrap(), [""; 0]);
    bed.sql("SET session_replication_role = replica; UPDATE person SET name = 'secret' WHERE id = 'q'; DELETE FROM person WHERE id = 'r'; INSERT INTO person(scope_id, id, name) VALUES('ada', 's', 'S')");
    let found = postgres.doctor().unwrap();
    let tells = |what: &str| found.iter().any(|f| f.starts_with("table `person`, scope ada: 1 rows") && f.contains(what));
    assert!(found.len() == 3 && tells("gone without a trace") && tells("unknown to devices") && tells("differ from what devices have, in name"), "{found:?}");
    assert!(!found.concat().contains("secret"));
    // What it says to do mends it.
    bed.sql("UPDATE person SET age = age; INSERT INTO person(id, name) VALUES('r', 'x'); DELETE FROM person WHERE id = 'r'");
    assert_eq!(postgres.doctor().unwrap(), [""; 0]);
    bed.sql("UPDATE syncline.scope SET digest = digest + 1");
    assert_eq!(postgres.doctor().unwrap().len(), 1);
}

#[test]
fn a_transaction_of_a_scope_is_a_role_that_sees_no_other_scope() {
    let mut bed = Bed::postgres();
    let (mut ada, mut bert) = (bed.device("ada", TABLES), bed.device("bert", ""));
    let role = format!("scoped_{}", bed.url().rsplit('_').next().unwrap());
    let open = |bed: &Bed| Postgres::open_with(&bed.url(), &Settings { scoped_role: Some(role.clone()), ..Settings::default() });
    let told = open(&bed).err().unwrap().to_string();
    assert!(told.contains("CREATE ROLE"), "{told}");
    bed.sql(&format!("CREATE ROLE {role} NOLOGIN; CREATE ROLE {role}_clerk LOGIN; GRANT USAGE ON SCHEMA public TO {role}_clerk; GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}_clerk"));
    let walled = Store::Postgres(open(&bed).unwrap());
    bed.sql("CREATE TABLE seen(who text); GRANT INSERT ON seen TO PUBLIC; CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO seen VALUES(current_user); RETURN NULL; END'; CREATE TRIGGER note AFTER INSERT OR DELETE ON entry FOR EACH ROW EXECUTE FUNCTION note()");
    // Everything goes its way: tables of later on, refusals, foreign keys, captures, journal.
    let more = "CREATE TABLE later(id TEXT PRIMARY KEY, n INTEGER)";
    let mut late = {
        bed.store = walled;
        bed.device("ada", more)
    };
    for (device, id) in [(&mut ada, "a"), (&mut bert, "b")] {
        device.schema = late.schema.clone();
        let rows = vec![
            device.insert("person", key("p"), vec![Value::Null, Value::Int(1), text(id)]),
            device.insert("entry", key("e"), vec![text("p"), Value::Null]),
            device.insert("later", key("l"), vec![Value::Int(1)]),
        ];
        committed(&device.push(&bed.store, rows));
        let bad = device.insert("person", key("bad"), vec![Value::Null, Value::Int(-1), text(id)]);
        assert_eq!(refused(device.push(&bed.store, vec![bad]))[0].reason, Reason::Check);
    }
    bed.sql("UPDATE person SET name = 'by hand' WHERE scope_id = 'ada'");
    late.pull(&bed.store);
    assert_eq!(late.shows("person")[0].1[2], text("by hand"));
    ada.pull(&bed.store);
    let gone = [ada.delete("entry", key("e")), ada.delete("person", key("p"))];
    committed(&ada.push(&bed.store, gone.to_vec()));
    assert_eq!(psql(&bed.url(), "SELECT DISTINCT who FROM seen").concat(), std::slice::from_ref(&role));
    // Whatever a statement asks for, it gets no more; who had the tables open has them open still.
    let as_scope = |scopes: &str, sql: &str| psql(&bed.url(), &format!("BEGIN; SET LOCAL syncline.scopes = '{scopes}'; SET LOCAL ROLE {role}; {sql}")).concat();
    assert_eq!(as_scope("{ada}", "SELECT scope_id FROM syncline.row UNION SELECT scope_id FROM later"), ["ada"]);
    assert_eq!(as_scope("{ada,bert}", "SELECT count(DISTINCT scope_id) FROM syncline.row"), ["2"]);
    assert_eq!(as_scope("{}", "SELECT count(*) FROM later"), ["0"]);
    let moved = bed.try_sql(&format!("BEGIN; SET LOCAL syncline.scopes = '{{ada}}'; SET LOCAL ROLE {role}; UPDATE later SET scope_id = 'bert'"));
    assert!(moved.unwrap_err().contains("row-level security"));
    assert_eq!(psql(&bed.url(), &format!("SET ROLE {role}_clerk; SELECT count(*) FROM person")).concat(), ["1"]);
    bed.sql(&format!("DROP OWNED BY {role}, {role}_clerk; DROP ROLE {role}, {role}_clerk"));
}
