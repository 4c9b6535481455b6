//! Several accounts that share scopes: devices and an authority in one thread, the real thing but for disk and network.
//!
//! The other histories (`world`) play one account with every fault; these play who may see what, rows that move between scopes, and
//! memberships that come and go. An answer may be lost on its way.

use crate::ledger::Check;
use crate::rng::Rng;
use crate::vfs::Disk;
use rusqlite::Connection;
use std::collections::{BTreeMap, BTreeSet};
use syncline::session::{Session, Step, Summary};
use syncline_core::{DeviceId, EnrolRequest, EnrolResponse, Limits, MemberRole, Schema, ScopeId, SyncRequest, SyncResponse, VERSION, frame};
use syncline_replica::config::Config;
use syncline_replica::schema::SyncOptions;
use syncline_replica::{Env, Replica, Role};
use syncline_server::{Authority, Caller, accounts, members};

/// The tables: two shared by a column, two through parents, one of the account's own.
pub const TABLES: &str = "
CREATE TABLE items(id TEXT PRIMARY KEY, list_id TEXT, title TEXT, n INTEGER);
CREATE TABLE jobs(id TEXT PRIMARY KEY, team TEXT, title TEXT);
CREATE TABLE tasks(id TEXT PRIMARY KEY, job_id TEXT REFERENCES jobs(id), title TEXT);
CREATE TABLE steps(id TEXT PRIMARY KEY, task_id TEXT REFERENCES tasks(id), title TEXT);
CREATE TABLE notes(id TEXT PRIMARY KEY, title TEXT);";

/// How they sync.
pub const CONFIG: &str = "
[table.items]
scope = { column = \"list_id\" }
columns = { n = \"counter\" }
[table.jobs]
scope = { column = \"team\" }
[table.tasks]
scope = { via = \"job_id\" }
[table.steps]
scope = { via = \"task_id\" }";

/// The tables by name, with the columns that are compared.
const COMPARED: [(&str, &str); 5] =
    [("items", "list_id, title, n"), ("jobs", "team, title"), ("tasks", "job_id, title"), ("steps", "task_id, title"), ("notes", "title")];

/// A device of one account.
pub struct Peer {
    /// Whose.
    pub account: String,
    /// Its database.
    pub replica: Replica,
    pub(crate) caller: Caller,
    draws: u64,
    pub(crate) disk: Disk,
    /// The bytes of every answer that it got.
    pub heard: Vec<Vec<u8>>,
}

/// Devices of several accounts, and their authority.
pub struct Party {
    /// The authority.
    pub authority: Authority,
    /// The devices.
    pub peers: Vec<Peer>,
    /// The true time.
    pub now_ms: i64,
    pub(crate) draws: u64,
    pub(crate) disk: Disk,
}

fn failed(doing: &str) -> impl Fn(&dyn std::fmt::Display) -> String + '_ {
    move |e| format!("ERROR {doing}: {e}")
}

fn env(now_ms: i64, draws: &mut u64, salt: u64) -> Env {
    *draws += 1;
    let mut rng = Rng::new(draws.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ salt);
    Env { now_ms, random: Box::new(move || rng.next()) }
}

impl Party {
    /// Makes an authority and one device for each account named.
    pub fn new(accounts: &[&str]) -> Check<Party> {
        let now_ms = crate::image::START_MS;
        let disk = Disk::new("sharing", 1);
        disk.set_clock(now_ms);
        let conn = disk.open(crate::image::DB).map_err(|e| failed("opening")(&e))?;
        let authority = Authority::open(conn, &mut env(now_ms, &mut 0, 1)).map_err(|e| failed("opening the authority")(&e))?;
        let mut party = Party { authority, peers: vec![], now_ms, draws: 0, disk };
        for account in accounts {
            party.join(account)?;
        }
        Ok(party)
    }

    /// Gives an account one more device; returns its number.
    pub fn join(&mut self, account: &str) -> Check<usize> {
        let n = self.peers.len() as u64;
        let mut draws = 0;
        let disk = Disk::new("sharing", n + 2);
        disk.set_clock(self.now_ms);
        let conn = disk.open(crate::image::DB).map_err(|e| failed("opening")(&e))?;
        conn.execute_batch(TABLES).map_err(|e| failed("making tables")(&e))?;
        let mut replica = Replica::open_or_create(conn, Role::Device, &mut env(self.now_ms, &mut draws, n + 100)).map_err(|e| failed("making a device")(&e))?;
        let config = Config::parse(CONFIG).map_err(|e| failed("reading the rules")(&e))?;
        let options = SyncOptions { config, ..SyncOptions::default() };
        let schema = replica
            .transact(&mut env(self.now_ms, &mut draws, n + 100), |tx| {
                tx.init(&options)?;
                tx.schema()
            })
            .map_err(|e| failed("init")(&e))?;
        let device_id = DeviceId::from_random(0xd0, n);
        let answer = self.enrol(account, device_id, Some(schema))?;
        replica
            .transact(&mut env(self.now_ms, &mut draws, n + 100), |tx| {
                tx.create_missing(&answer.schema)?;
                tx.set_meta("device_id", device_id.to_string())?;
                tx.name_scope(1, &ScopeId(account.into()))
            })
            .map_err(|e| failed("attaching")(&e))?;
        self.peers.push(Peer { account: account.into(), replica, caller: Caller { device_id, account: account.into() }, draws, disk, heard: vec![] });
        Ok(self.peers.len() - 1)
    }

    fn enrol(&mut self, account: &str, device_id: DeviceId, schema: Option<Schema>) -> Check<EnrolResponse> {
        self.draws += 1;
        let mut secret = [0; 32];
        secret[..8].copy_from_slice(&self.draws.to_be_bytes());
        let mut at = env(self.now_ms, &mut self.draws, 1);
        let token = self.authority.replica.transact(&mut at, |tx| Ok(accounts::create_token(tx.conn, account, secret, 60_000, 1, tx.env.now_ms)));
        let token = token.map_err(|e| failed("a token")(&e))?.map_err(|e| failed("a token")(&e))?;
        let request = EnrolRequest {
            version: VERSION,
            token,
            device_id,
            public_key: format!("58{}", "66".repeat(31)), // the curve's base point: any valid key will do
            name: "a device".into(),
            platform: "sim".into(),
            app_version: String::new(),
            schema,
        };
        self.authority.enrol(&mut at, &request).map_err(|e| failed("enrolling")(&e))
    }

    /// Enrols a device again that a restored authority does not know any more; one that it knows is left as it is.
    pub(crate) fn enrol_again(&mut self, d: usize) -> Check {
        let (account, device_id) = (self.peers[d].account.clone(), self.peers[d].caller.device_id);
        self.enrol(&account, device_id, None).map(drop)
    }

    /// Returns time and randomness of a device.
    pub(crate) fn peer_env(&mut self, d: usize) -> Env {
        env(self.now_ms, &mut self.peers[d].draws, d as u64 + 100)
    }

    /// Returns those of the authority.
    pub(crate) fn authority_env(&mut self) -> Env {
        env(self.now_ms, &mut self.draws, 1)
    }

    /// Runs an app's SQL on a device.
    pub fn sql(&mut self, d: usize, sql: &str) -> Check {
        self.now_ms += 3;
        self.peers[d].disk.set_clock(self.now_ms);
        self.peers[d].replica.conn().execute_batch(sql).map_err(|e| format!("ERROR {sql}: {e}"))
    }

    /// Reads text off a device.
    pub fn one(&self, d: usize, sql: &str) -> String {
        let read = self.peers[d].replica.conn().query_row(sql, [], |r| r.get::<_, Option<String>>(0));
        read.map(Option::unwrap_or_default).unwrap_or_else(|e| e.to_string())
    }

    /// Makes a scope, as an account.
    pub fn create(&mut self, account: &str, scope: &str) -> Check {
        self.members(|conn, now| members::create_scope(conn, account, Some(&ScopeId(scope.into())), [0; 32], now).map(drop))
    }

    /// Lets an account into a scope, or gives it another role, in the name of another.
    pub fn admit(&mut self, by: &str, account: &str, scope: &str, role: MemberRole) -> Check {
        let mut seed = [7; 32];
        self.draws += 1;
        seed[..8].copy_from_slice(&self.draws.to_be_bytes());
        let scope = ScopeId(scope.into());
        self.members(|conn, now| {
            if members::role_of(conn, account, &scope)?.is_some() {
                return members::set_role(conn, by, &scope, account, role);
            }
            let asked = syncline_core::Invite { role, ttl_ms: 60_000, uses: 1 };
            let invitation = members::invite(conn, by, &scope, &asked, seed, now)?;
            members::accept(conn, account, &invitation.code, now).map(drop)
        })
    }

    /// Takes an account out of a scope, in the name of another or of itself.
    pub fn remove(&mut self, by: &str, account: &str, scope: &str) -> Check {
        self.members(|conn, _| members::remove(conn, by, &ScopeId(scope.into()), account))
    }

    fn members(&mut self, work: impl FnOnce(&Connection, i64) -> Result<(), syncline_server::ApiError>) -> Check {
        let mut at = env(self.now_ms, &mut self.draws, 1);
        let done = self.authority.replica.transact(&mut at, |tx| Ok(tx.savepoint(|tx| work(tx.conn, tx.env.now_ms))));
        done.map_err(|e| failed("changing members")(&e))?.map_err(|e| failed("changing members")(&e))
    }

    /// Syncs a device to the end.
    pub fn sync(&mut self, d: usize) -> Check<Summary> {
        Ok(self.sync_until(d, usize::MAX)?.unwrap_or_default())
    }

    /// Syncs a device; the answer to request `lost` (from 0) never arrives, and the sync ends there.
    pub fn sync_until(&mut self, d: usize, lost: usize) -> Check<Option<Summary>> {
        let mut session = Session::new(Limits::default());
        for n in 0.. {
            self.now_ms += 7;
            let now = self.now_ms;
            self.disk.set_clock(now);
            self.peers[d].disk.set_clock(now);
            let peer = &mut self.peers[d];
            let salt = d as u64 + 100;
            let request = session.next(&mut peer.replica, &mut env(now, &mut peer.draws, salt)).map_err(|e| failed("asking")(&e))?;
            let bytes = frame::encode(&request).map_err(|e| failed("encoding")(&e))?;
            let sent: SyncRequest = frame::decode(&bytes, &Limits::default()).map_err(|e| failed("decoding")(&e))?;
            // Drawn from the request's own number: what one account does must not show in what another is told.
            let draws = &mut (peer.draws + 1_000_000 * (d as u64 + 1));
            let answer = self.authority.sync(&mut env(now, draws, 2), &peer.caller, &sent).map_err(|e| failed("answering")(&e))?;
            if n == lost {
                return Ok(None);
            }
            let bytes = frame::encode(&answer).map_err(|e| failed("encoding")(&e))?;
            let answer: SyncResponse = frame::decode(&bytes, &Limits::default()).map_err(|e| failed("decoding")(&e))?;
            peer.heard.push(bytes);
            let step = session.answer(&mut peer.replica, &mut env(now, &mut peer.draws, salt), &sent, &answer).map_err(|e| failed("taking an answer")(&e))?;
            if session.summary().digest_differs {
                return Err(format!("DIGEST of device {d} ({}) differs from the authority's", peer.account));
            }
            if step == Step::Done {
                return Ok(Some(session.summary().clone()));
            }
            if n > 60 {
                return Err(format!("ENDLESS sync of device {d}: {:?}", session.summary()));
            }
        }
        Ok(None)
    }

    /// Syncs all devices until nothing is new.
    pub fn calm(&mut self) -> Check {
        for _ in 0..12 {
            let mut moved = false;
            for d in 0..self.peers.len() {
                self.now_ms += 1_000;
                let done = self.sync(d)?;
                moved |= done.rows_up + done.rows_down > 0 || !done.changed.is_empty();
            }
            if !moved {
                return Ok(());
            }
        }
        Err("UNSETTLED devices still have news after twelve rounds".into())
    }

    /// Checks, after a calm, who has what: members have the authority's rows, and nobody else has any; a table shows what is at home
    /// where it says; nothing is left of scopes that were lost.
    pub fn check(&self) -> Check {
        for (table, column) in [("items", "list_id"), ("jobs", "team")] {
            let sql = format!("SELECT id, {column} || ' in ' || scope_id FROM {table} WHERE {column} <> scope_id");
            if let Some((id, place)) = rows(self.authority.replica.conn(), &sql)?.first() {
                return Err(format!("PLACE of {table} {id}: {place}"));
            }
        }
        for (d, peer) in self.peers.iter().enumerate() {
            let conn = peer.replica.conn();
            let at = |what: &str| format!("{what} at device {d} ({})", peer.account);
            let roles = self.roles(&peer.account)?;
            let known: BTreeMap<String, String> = rows(conn, "SELECT scope_id, coalesce(role, 'none') FROM _syncline_scope WHERE n > 1")?.into_iter().collect();
            for (scope, role) in &known {
                let truth = roles.get(scope).map_or("none", String::as_str);
                if role != truth {
                    return Err(at(&format!("ROLE in {scope} is {role}, should be {truth}")));
                }
                if truth == "none" {
                    let others: i64 = number(
                        conn,
                        &format!("SELECT count(*) FROM _syncline_row r JOIN _syncline_scope s ON s.n = r.scope WHERE s.scope_id = '{scope}' AND r.version > 0"),
                    )?;
                    if others > 0 {
                        return Err(at(&format!("SEEN {others} rows of {scope}")));
                    }
                }
            }
            let left: i64 = number(
                conn,
                "SELECT (SELECT count(*) FROM _syncline_row WHERE scope NOT IN (SELECT n FROM _syncline_scope))
                   + (SELECT count(*) FROM _syncline_journal WHERE scope NOT IN (SELECT n FROM _syncline_scope))
                   + (SELECT count(*) FROM _syncline_stage WHERE scope NOT IN (SELECT n FROM _syncline_scope))
                   + (SELECT count(*) FROM _syncline_shelved WHERE scope NOT IN (SELECT n FROM _syncline_scope))
                   + (SELECT count(*) FROM _syncline_attempt WHERE scope NOT IN (SELECT n FROM _syncline_scope))",
            )?;
            if left > 0 {
                return Err(at("LEFT something of a lost scope"));
            }
            let parked = "SELECT p.reason || ' ' || p.message || ' ' || p.tbl || ' ' || hex(p.key), s.scope_id FROM _syncline_parked p JOIN _syncline_scope s ON s.n = p.scope
                 WHERE s.n = 1 OR s.role IN ('writer', 'admin')";
            if let Some((what, scope)) = rows(conn, parked)?.first() {
                return Err(at(&format!("PARKED for ever in {scope}: {what}")));
            }
            self.check_tables(d, &roles).map_err(|e| at(&e))?;
        }
        Ok(())
    }

    fn check_tables(&self, d: usize, roles: &BTreeMap<String, String>) -> Check {
        let peer = &self.peers[d];
        let conn = peer.replica.conn();
        for (table, columns) in COMPARED {
            let n = number(conn, &format!("SELECT n FROM _syncline_table WHERE name = '{table}'"))?;
            // What is not the authority's (yet): pending here, or kept off the table.
            let apart: BTreeSet<String> = rows(conn, &format!("SELECT hex(key), '' FROM _syncline_row WHERE tbl = {n} AND (pend IS NOT NULL OR kind = 3)"))?
                .into_iter()
                .map(|r| r.0)
                .collect();
            let twice =
                number(conn, &format!("SELECT count(*) FROM (SELECT 1 FROM _syncline_row WHERE tbl = {n} AND kind = 0 GROUP BY key HAVING count(*) > 1)"))?;
            let shown = number(conn, &format!("SELECT count(*) FROM _syncline_row WHERE tbl = {n} AND kind = 0"))?;
            let there = number(conn, &format!("SELECT count(*) FROM {table}"))?;
            if twice > 0 || shown != there {
                return Err(format!("HOMES of {table}: {twice} keys in two, {shown} rows at home and {there} in the table"));
            }
            let text = columns.split(", ").map(|c| format!("coalesce({c}, '-')")).collect::<Vec<_>>().join(" || '|' || ");
            let here: BTreeMap<String, String> = rows(conn, &format!("SELECT id, {text} FROM {table}"))?.into_iter().collect();
            let mut expected = BTreeMap::new();
            for scope in std::iter::once(&peer.account).chain(roles.keys()) {
                let sql = format!("SELECT id, {text} FROM {table} WHERE scope_id = '{scope}'");
                for (id, row) in rows(self.authority.replica.conn(), &sql)? {
                    expected.insert(id, row);
                }
            }
            let key = |id: &str| syncline_core::hex(&syncline_core::Key::encode(&[syncline_core::Value::text(id)]).0).to_uppercase();
            for id in here.keys().chain(expected.keys()) {
                if here.get(id) != expected.get(id) && !apart.contains(&key(id)) {
                    return Err(format!("ROW {table} {id} is {:?}, should be {:?}", here.get(id), expected.get(id)));
                }
            }
        }
        Ok(())
    }

    /// Returns what an account may do in shared scopes, as the authority has it.
    pub fn roles(&self, account: &str) -> Check<BTreeMap<String, String>> {
        let sql = format!("SELECT scope_id, role FROM _syncline_member WHERE account = '{account}'");
        Ok(rows(self.authority.replica.conn(), &sql)?.into_iter().collect())
    }
}

/// The shared scopes of a random history, with who made each; `w` nobody ever makes.
pub(crate) const SCOPES: [(&str, &str); 3] = [("x", "ada"), ("y", "ada"), ("z", "bob")];

/// Plays the history of a seed: two devices of one account and one of each of two others write, move rows, sync and are cut off while
/// people come, go and change roles; then all is calm and compared.
pub fn play(seed: u64) -> Check {
    let mut rng = Rng::new(seed ^ 0x5ca1_ab1e);
    let mut p = Party::new(&["ada", "bob", "cleo"])?;
    p.join("ada")?;
    for (scope, by) in SCOPES {
        p.create(by, scope)?;
    }
    for _ in 0..*rng.pick(&[15, 30, 60]) {
        p.now_ms += 1 + rng.below(3_000) as i64;
        let d = rng.index(p.peers.len());
        match rng.weighted(&[50, 30, 8, 12]) {
            0 => {
                let sql = statement(&mut rng);
                p.sql(d, &sql)?;
            }
            1 => drop(p.sync(d)?),
            2 => drop(p.sync_until(d, rng.index(3))?),
            _ => {
                let (scope, by) = *rng.pick(&SCOPES);
                let who = *rng.pick(&["ada", "bob", "cleo"]);
                if who == by {
                    continue;
                }
                let member = p.roles(who)?.contains_key(scope);
                match rng.weighted(&[60, 40]) {
                    1 if member => p.remove(by, who, scope)?,
                    _ => p.admit(by, who, scope, *rng.pick(&[MemberRole::Writer, MemberRole::Writer, MemberRole::Reader]))?,
                }
            }
        }
    }
    p.calm()?;
    p.check()
}

/// Plays many seeds; returns those that failed, with why.
pub fn play_many(first: u64, count: u64) -> Vec<(u64, String)> {
    (first..first + count).filter_map(|seed| play(seed).err().map(|why| (seed, why))).collect()
}

/// One statement of an app.
pub(crate) fn statement(rng: &mut Rng) -> String {
    let scope = *rng.pick(&["'x'", "'y'", "'z'", "'x'", "'y'", "'z'", "NULL", "'w'"]);
    let (id, other, word) = (rng.below(5), rng.below(3), rng.below(1_000));
    match rng.weighted(&[20, 12, 10, 12, 6, 12, 8, 10, 10, 6, 6, 8, 4]) {
        0 => format!("INSERT OR IGNORE INTO items VALUES('i{id}', {scope}, 'w{word}', {id})"),
        1 => format!("UPDATE items SET title = 'w{word}' WHERE id = 'i{id}'"),
        2 => format!("UPDATE items SET n = n + {id} WHERE id = 'i{id}'"),
        3 => format!("UPDATE items SET list_id = {scope}, title = 'm{word}' WHERE id = 'i{id}'"),
        4 => format!("DELETE FROM items WHERE id = 'i{id}'"),
        5 => format!("INSERT OR IGNORE INTO jobs VALUES('j{other}', {scope}, 'w{word}')"),
        6 => format!("UPDATE jobs SET team = {scope} WHERE id = 'j{other}'"),
        7 => format!("INSERT OR IGNORE INTO tasks SELECT 't{id}', id, 'w{word}' FROM jobs ORDER BY id DESC LIMIT 1"),
        8 => format!("INSERT OR IGNORE INTO steps SELECT 's{id}', id, 'w{word}' FROM tasks ORDER BY id LIMIT 1"),
        9 => format!("UPDATE tasks SET job_id = coalesce((SELECT id FROM jobs WHERE id = 'j{other}'), job_id), title = 'w{word}' WHERE id = 't{id}'"),
        10 => format!("UPDATE steps SET title = 'w{word}' WHERE id = 's{id}'"),
        11 => format!("INSERT OR REPLACE INTO notes VALUES('n{id}', 'w{word}')"),
        _ => format!(
            "DELETE FROM steps WHERE task_id IN (SELECT id FROM tasks WHERE job_id = 'j{other}'); DELETE FROM tasks WHERE job_id = 'j{other}';
             DELETE FROM jobs WHERE id = 'j{other}'"
        ),
    }
}

fn rows(conn: &Connection, sql: &str) -> Check<Vec<(String, String)>> {
    let read = |sql: &str| -> rusqlite::Result<Vec<(String, String)>> {
        let mut q = conn.prepare(sql)?;
        q.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?.collect()
    };
    read(sql).map_err(|e| format!("ERROR {sql}: {e}"))
}

fn number(conn: &Connection, sql: &str) -> Check<i64> {
    conn.query_row(sql, [], |r| r.get(0)).map_err(|e| format!("ERROR {sql}: {e}"))
}
