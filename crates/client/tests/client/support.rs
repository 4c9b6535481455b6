//! A directory with an app's database in it.

use std::path::PathBuf;
use syncline::rusqlite::Connection;
use syncline::{Database, Options, SyncOptions};
use tempfile::TempDir;

pub const TABLES: &str = "CREATE TABLE note(id TEXT PRIMARY KEY, title TEXT, body TEXT);
    CREATE TABLE tag(note TEXT NOT NULL, name TEXT NOT NULL, PRIMARY KEY(note, name));
    CREATE TABLE scratch(x)";

pub struct Place {
    pub dir: TempDir,
}

impl Place {
    pub fn new() -> Place {
        Place { dir: tempfile::tempdir().unwrap() }
    }
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    pub fn options(&self) -> Options {
        Options { home: Some(self.file("home")), ..Options::default() }
    }
    /// Makes a file with `TABLES`.
    pub fn app(&self, name: &str) -> PathBuf {
        let path = self.file(name);
        Connection::open(&path).unwrap().execute_batch(TABLES).unwrap();
        path
    }
    pub fn open(&self, name: &str) -> Database {
        Database::open(self.file(name), self.options()).unwrap()
    }
    /// Makes a file with `TABLES`, of which all but `scratch` sync.
    pub fn ready(&self, name: &str) -> Database {
        let path = self.app(name);
        Database::init(&path, &sync_options()).unwrap();
        self.open(name)
    }
}

pub fn sync_options() -> SyncOptions {
    SyncOptions { except: vec!["scratch".into()], ..SyncOptions::default() }
}

pub fn insert(db: &Database, id: &str, title: &str) {
    db.write(|tx| tx.execute("INSERT INTO note(id, title) VALUES(?1, ?2)", [id, title])).unwrap();
}
