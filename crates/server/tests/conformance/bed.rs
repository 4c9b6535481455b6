//! An authority over either store, and devices that speak to it without a network.

use crate::postgres_database::{Database, psql, try_psql};
use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};
use syncline::identity::Identity;
use syncline_core::*;
use syncline_replica::schema::{SyncOptions, introspect};
use syncline_server::http::Authority;
use syncline_server::{ApiError, Caller, Engine, Postgres, Store, accounts};

/// The tables of most tests.
pub const TABLES: &str = "
CREATE TABLE person(id TEXT PRIMARY KEY, email TEXT UNIQUE, age INTEGER CHECK (age >= 0), name TEXT NOT NULL DEFAULT 'x');
CREATE TABLE entry(id TEXT PRIMARY KEY, person TEXT REFERENCES person(id), minutes INTEGER);
CREATE TABLE part(id TEXT PRIMARY KEY, entry TEXT REFERENCES entry(id) ON DELETE CASCADE, n INTEGER);
CREATE TABLE strict(id TEXT PRIMARY KEY, n INTEGER) STRICT;
CREATE TABLE numbered(id INTEGER PRIMARY KEY, text TEXT);";

/// Where the rows are, for who writes them with SQL.
pub enum Place {
    Sqlite(tempfile::TempDir),
    Postgres(Database),
}

/// An authority with a store of its own. The store closes before its place goes.
pub struct Bed {
    pub store: Store,
    pub place: Place,
    home: tempfile::TempDir,
    tokens: u8,
}

pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

impl Bed {
    pub fn sqlite() -> Bed {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::Sqlite(Box::new(Engine::open(&dir.path().join("server")).unwrap()));
        Bed { store, place: Place::Sqlite(dir), home: tempfile::tempdir().unwrap(), tokens: 0 }
    }
    pub fn postgres() -> Bed {
        let database = Database::new();
        let store = Store::Postgres(Postgres::open(&database.url()).unwrap());
        Bed { store, place: Place::Postgres(database), home: tempfile::tempdir().unwrap(), tokens: 0 }
    }
    /// Opens another server on the same database.
    pub fn another_server(&self) -> Postgres {
        Postgres::open(&self.url()).unwrap()
    }
    pub fn url(&self) -> String {
        match &self.place {
            Place::Postgres(database) => database.url(),
            Place::Sqlite(_) => panic!("only a database has one"),
        }
    }
    fn file(dir: &tempfile::TempDir) -> rusqlite::Connection {
        let conn = rusqlite::Connection::open(dir.path().join("server/server.db")).unwrap();
        conn.busy_timeout(std::time::Duration::from_secs(20)).unwrap();
        conn.pragma_update(None, "foreign_keys", true).unwrap();
        conn
    }
    /// Writes as any SQL client would.
    pub fn sql(&self, sql: &str) {
        self.try_sql(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    }
    pub fn try_sql(&self, sql: &str) -> Result<(), String> {
        match &self.place {
            Place::Sqlite(dir) => Bed::file(dir).execute_batch(sql).map_err(|e| e.to_string()),
            Place::Postgres(database) => try_psql(&database.url(), sql).map(drop),
        }
    }
    /// Collects a scope's tombstones, as the operator does.
    pub fn collect(&self, scope: &str, floor: Seq) -> u64 {
        let scope = ScopeId(scope.into());
        match (&self.place, &self.store) {
            (Place::Sqlite(dir), _) => {
                let mut replica = syncline_replica::Replica::open(Bed::file(dir)).unwrap();
                replica
                    .transact(&mut syncline_server::engine::system_env(), |tx| {
                        syncline_server::commit::absorb_foreign(tx)?;
                        let scope = tx.find_scope(&scope)?.unwrap();
                        syncline_server::collect::collect(tx, &scope, floor)
                    })
                    .unwrap()
            }
            (_, Store::Postgres(postgres)) => postgres.collect(&scope, floor).unwrap(),
            _ => unreachable!(),
        }
    }
    /// Reads one value as text.
    pub fn one(&self, sql: &str) -> String {
        match &self.place {
            Place::Sqlite(dir) => Bed::file(dir).query_row(sql, [], |r| r.get::<_, rusqlite::types::Value>(0)).map(|v| match v {
                rusqlite::types::Value::Integer(n) => n.to_string(),
                rusqlite::types::Value::Text(text) => text,
                other => format!("{other:?}"),
            }),
            Place::Postgres(database) => Ok(psql(&database.url(), sql)[0][0].clone()),
        }
        .unwrap()
    }
    /// Returns the text of the two that this store speaks.
    pub fn says<'a>(&self, sqlite: &'a str, postgres: &'a str) -> &'a str {
        match &self.place {
            Place::Sqlite(_) => sqlite,
            Place::Postgres(_) => postgres,
        }
    }
    /// Enrols a device; the tables are those that SQLite makes of `tables`.
    pub fn device(&mut self, account: &str, tables: &str) -> Device {
        self.tokens += 1;
        let random = [self.tokens; 32];
        let token = match (&self.place, &self.store) {
            (Place::Sqlite(dir), _) => accounts::create_token(&Bed::file(dir), account, random, 600_000, 1, now_ms()),
            (_, Store::Postgres(postgres)) => postgres.create_token(account, random, 600_000, 1),
            _ => unreachable!(),
        };
        let identity = Identity::create(self.home.path()).unwrap();
        let conn = rusqlite::Connection::open_in_memory().unwrap();
        conn.execute_batch(tables).unwrap();
        let options = SyncOptions { integer_keys: Some(schema::IntegerKeys::App), ..SyncOptions::default() };
        let mut schema = introspect(&conn, &options).unwrap().schema;
        for table in &mut schema.tables {
            let policy = |name: &str| Some(name.to_owned()).filter(|_| table.name == "tally");
            let words: Vec<Option<String>> =
                table.columns.iter().map(|c| [("hits", "counter"), ("best", "max")].iter().find(|p| p.0 == c.name).and_then(|p| policy(p.1))).collect();
            table.columns.iter_mut().zip(words).for_each(|(c, word)| c.policy = word);
            if table.name == "task" {
                table.options.scope = schema::ScopeRule::Column("list".into());
            }
            if table.name == "invoice" {
                table.options.policy = Some("reject".into());
            }
        }
        let request = EnrolRequest {
            version: VERSION,
            token: token.unwrap(),
            device_id: identity.device_id(),
            public_key: identity.public_key(),
            schema: (!tables.is_empty()).then_some(schema),
            ..Default::default()
        };
        let answer = self.store.enrol(request).unwrap();
        let caller = Caller { device_id: identity.device_id(), account: answer.account.clone() };
        let source = SourceId(identity.device_id().0);
        Device {
            caller,
            source,
            writer: WriterId(identity.device_id().0),
            schema: answer.schema,
            sent: 0,
            attempt: 0,
            clock: 0,
            cursor: None,
            rows: BTreeMap::new(),
            journal: vec![],
        }
    }
}

/// A device: what it knows of rows, and what it sends.
pub struct Device {
    pub caller: Caller,
    pub source: SourceId,
    pub writer: WriterId,
    pub schema: Schema,
    pub sent: u64,
    pub attempt: u64,
    pub cursor: Option<Cursor>,
    clock: u64,
    /// What it holds: state and version, by table and key.
    pub rows: BTreeMap<(String, Key), (RowState, Seq)>,
    /// The values that lost, as the authority told of them.
    pub journal: Vec<JournalEntry>,
}

/// A row on its way up.
#[derive(Clone)]
pub struct Up {
    pub table: String,
    pub key: Key,
    pub base: Seq,
    pub state: RowState,
    pub mask: ColSet,
}

pub fn text(value: &str) -> Value {
    Value::text(value)
}

pub fn key(value: &str) -> Key {
    Key::encode(&[text(value)])
}

impl Device {
    /// The columns of a table outside its key, in the order of its definition.
    pub fn columns(&self, table: &str) -> Vec<String> {
        let def = self.schema.table(table).unwrap();
        let keys: Vec<&str> = def.primary_key.iter().filter_map(|p| p.column.as_deref()).collect();
        def.stored_columns().map(|c| c.name.clone()).filter(|c| !keys.contains(&c.as_str())).collect()
    }
    fn policies(&self, table: &str) -> Policies {
        let columns = self.columns(table);
        let names: Vec<&str> = columns.iter().map(String::as_str).collect();
        Policies::of(self.schema.table(table).unwrap(), &names).unwrap()
    }
    pub fn stamp(&mut self) -> Stamp {
        self.clock += 1;
        Stamp { hlc: Hlc(Hlc::from_ms(now_ms()).0 + self.clock), writer: self.writer }
    }
    /// An insert of a row that is not known here.
    pub fn insert(&mut self, table: &str, key: Key, values: Vec<Value>) -> Up {
        let stamp = self.stamp();
        let (mut state, policies) = (RowState::default(), self.policies(table));
        state.insert(stamp, values.len());
        for (c, value) in values.into_iter().enumerate() {
            match policies.column(c).misfit(&value) {
                None => drop(state.write_as(&policies, c, stamp, value, None, None)),
                Some(_) => state.write(c, stamp, value),
            }
        }
        let mask = ColSet::all(state.cells.len());
        Up { table: table.into(), key, base: Seq(0), state, mask }
    }
    /// An insert over the tombstone of a row that was pulled.
    pub fn insert_again(&mut self, table: &str, key: Key, values: Vec<Value>) -> Up {
        let stamp = self.stamp();
        let (mut state, base) = self.rows[&(table.to_owned(), key.clone())].clone();
        let stamp = Stamp { hlc: stamp.hlc.max(state.next_hlc()), ..stamp };
        state.insert(stamp, values.len());
        values.into_iter().enumerate().for_each(|(c, value)| state.write(c, stamp, value));
        let mask = ColSet::all(state.cells.len());
        Up { table: table.into(), key, base, state, mask }
    }
    /// An edit of a row that was pulled; only what changed is sent.
    pub fn update(&mut self, table: &str, key: Key, values: &[(&str, Value)]) -> Up {
        let stamp = self.stamp();
        let (columns, policies) = (self.columns(table), self.policies(table));
        let (mut state, base) = self.rows[&(table.to_owned(), key.clone())].clone();
        let mut mask = ColSet::liveness();
        let stamp = Stamp { hlc: stamp.hlc.max(state.next_hlc()), ..stamp };
        for (name, value) in values {
            let c = columns.iter().position(|x| x == name).unwrap();
            state.write_as(&policies, c, stamp, value.clone(), None, None);
            mask.insert(c);
        }
        state.edit(stamp);
        Up { table: table.into(), key, base, state, mask }
    }
    pub fn delete(&mut self, table: &str, key: Key) -> Up {
        let stamp = self.stamp();
        let (mut state, base) = self.rows[&(table.to_owned(), key.clone())].clone();
        state.delete(Stamp { hlc: stamp.hlc.max(state.next_hlc()), ..stamp }, &self.policies(table));
        Up { table: table.into(), key, base, mask: ColSet::liveness(), state }
    }
    pub fn asking(&self) -> SyncRequest {
        let scope =
            ScopeRequest { scope: ScopeId(self.caller.account.clone()), source: self.source, cursor: self.cursor, page_bytes: 64 << 20, ..Default::default() };
        SyncRequest { version: VERSION, device_time_ms: now_ms(), scopes: vec![scope], ..Default::default() }
    }
    /// The next bundle.
    pub fn pushing(&mut self, rows: Vec<Up>) -> SyncRequest {
        self.attempt += 1;
        let mut builder = RowsBuilder::default();
        let names: Vec<String> = self.schema.tables.iter().map(|t| t.name.clone()).collect();
        for up in rows {
            let n = names.iter().position(|t| *t == up.table).unwrap() as u64;
            let columns = self.columns(&up.table);
            builder.add(n, || TableRef { name: up.table.clone(), columns }, up.key, up.base, Seq(0), up.state, &up.mask);
        }
        let mut request = self.asking();
        let nonce = Nonce(self.attempt * 1_000 + u64::from(self.source.0[0]));
        request.scopes[0].push =
            Some(Push { id: BundleId(self.sent + 1), nonce, attempt: self.attempt, rows: builder.finish(), journal: vec![], parts: vec![] });
        request
    }
    /// Sends a bundle and takes the answer in.
    pub fn push(&mut self, store: &impl Authority, rows: Vec<Up>) -> Outcome {
        self.try_push(store, rows).unwrap()
    }
    pub fn try_push(&mut self, store: &impl Authority, rows: Vec<Up>) -> Result<Outcome, ApiError> {
        let request = self.pushing(rows.clone());
        let answer = store.sync(&self.caller, request)?.scopes.remove(0);
        let outcome = answer.outcome.clone().unwrap();
        if let Outcome::Committed(acked) = outcome {
            self.sent = acked.id.0;
            for up in rows {
                self.rows.insert((up.table.clone(), up.key.clone()), (up.state, acked.seq));
            }
        }
        self.take(store, answer);
        Ok(outcome)
    }
    /// Pulls all there is, page after page.
    pub fn pull(&mut self, store: &impl Authority) {
        let answer = self.ask(store, self.asking()).scopes.remove(0);
        self.take(store, answer);
    }
    /// Asks until there is an answer: a connection to the database may have been killed.
    fn ask(&self, store: &impl Authority, request: SyncRequest) -> SyncResponse {
        for _ in 0..200 {
            match store.sync(&self.caller, request.clone()) {
                Err(ApiError::Unavailable(_)) => std::thread::sleep(std::time::Duration::from_millis(20)),
                answer => return answer.unwrap(),
            }
        }
        panic!("no answer");
    }
    fn take(&mut self, store: &impl Authority, answer: ScopeAnswer) {
        let mut delta = answer.delta.unwrap_or_else(|| panic!("{:?}", answer.history_changed));
        let mut request = self.asking();
        loop {
            self.apply(&delta);
            let Some(page) = PageRequest::behind(request.scopes[0].page.as_ref(), &delta) else { break };
            request.scopes[0].page = Some(page);
            delta = self.ask(store, request.clone()).scopes.remove(0).delta.unwrap();
        }
        let history = self.ask(store, SyncRequest { version: VERSION, ..Default::default() }).history;
        self.cursor = Some(Cursor { history, seq: delta.to, chain: delta.chain });
        assert_eq!(self.digest(), delta.digest, "the digest is not that of the rows");
    }
    /// Merges a page.
    pub fn apply(&mut self, delta: &Delta) {
        self.journal.extend(delta.journal.iter().cloned());
        for row in &delta.rows.rows {
            let table = delta.rows.tables[row.table as usize].name.clone();
            let decoded = delta.rows.open(row).unwrap();
            let policies = self.policies(&table);
            assert_eq!(delta.rows.tables[row.table as usize].columns, self.columns(&table));
            let here = self.rows.entry((table, row.key.clone())).or_default();
            here.0.merge(&decoded.state, &ColSet::all(decoded.state.cells.len()), &policies);
            here.1 = row.seq;
        }
    }
    /// The digest of what it holds.
    pub fn digest(&self) -> u64 {
        self.rows.iter().fold(0u64, |sum, ((table, key), (state, _))| {
            let mut columns: Vec<(usize, u64)> = self.columns(table).iter().enumerate().map(|(c, name)| (c, digest::name_hash(name))).collect();
            columns.sort_by_key(|c| c.1);
            sum.wrapping_add(digest::row_hash(digest::name_hash(table), key, state, &columns))
        })
    }
    /// The live rows of a table: the key's first part and the values.
    pub fn shows(&self, table: &str) -> Vec<(String, Vec<Value>)> {
        let live = self.rows.iter().filter(|((t, _), (state, _))| t == table && !state.is_dead());
        let columns = self.columns(table).len();
        let row = |state: &RowState| (0..columns).map(|c| state.cell(c).map_or(Value::Null, |x| x.value.clone())).collect();
        live.map(|((_, key), (state, _))| (key.decode().unwrap()[0].to_string(), row(state))).collect()
    }
}

/// The refused rows.
pub fn refused(outcome: Outcome) -> Vec<Refusal> {
    match outcome {
        Outcome::Rejected { rows, total } => {
            assert_eq!(rows.len() as u64, total);
            rows
        }
        other => panic!("{other:?}"),
    }
}

pub fn committed(outcome: &Outcome) -> Seq {
    match outcome {
        Outcome::Committed(acked) => acked.seq,
        other => panic!("{other:?}"),
    }
}
