//! The app changes its schema: what that means for sync, the bracket around a migration, and the way to the authority.
//!
//! Most migrations need nothing of this: rebuilt tables and new columns are noticed at the next sync. The bracket is for those that
//! drop columns, which SQLite refuses while capture's triggers name them.

use crate::database::{Database, Inner};
use crate::error::Error;
use crate::sync::watch_link;
use serde::{Deserialize, Serialize};
use syncline_replica::Doing;
use syncline_replica::schema::is_reserved;

/// How the schema here stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaReport {
    /// The app's number for its schema; 0 if it has none.
    pub version: u64,
    /// Whether a migration is under way (`schema begin`); nothing syncs until `schema commit`.
    pub migrating: bool,
    /// Tables whose capture was missing or stale; it is installed anew and their rows were compared.
    pub repaired: Vec<String>,
    /// Tables here that do not sync.
    pub not_synced: Vec<String>,
    /// Synced tables and columns that are not in this database; their values are kept and handed on.
    pub absent: Vec<String>,
    /// Tables and columns that the authority does not know; they wait, all else goes. `schema push` takes them there.
    pub behind: Vec<String>,
}

impl Database {
    /// Looks at the schema: mends capture where the app changed its tables, and says what differs from the authority.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
    /// # fn main() -> Result<(), syncline::Error> {
    /// # let (dir, db) = notes();
    /// db.connection()?.execute_batch("ALTER TABLE note ADD COLUMN colour TEXT").map_err(syncline::Error::app)?;
    /// let report = db.schema_check()?;
    /// assert!(!report.migrating);
    /// # Ok(()) }
    /// ```
    pub fn schema_check(&self) -> Result<SchemaReport, Error> {
        self.inner.schema_report(Vec::new())
    }

    /// Begins a migration: everything written so far is taken in, then capture is put aside. Nothing syncs until `schema_commit`;
    /// what is written meanwhile is found then. Safe to repeat.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
    /// # fn main() -> Result<(), syncline::Error> {
    /// # let (dir, db) = notes();
    /// db.schema_begin()?;
    /// db.connection()?.execute_batch("ALTER TABLE note DROP COLUMN votes").map_err(syncline::Error::app)?;
    /// db.schema_commit(Some(2))?;
    /// # Ok(()) }
    /// ```
    pub fn schema_begin(&self) -> Result<(), Error> {
        self.inner.with(|tx| tx.begin_migration())
    }

    /// Ends a migration: installs capture for the tables as they are now, and takes in what was written meanwhile. `version` is
    /// the app's new number for its schema, if it has one. Safe to repeat, and without a `schema_begin`.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
    /// # fn main() -> Result<(), syncline::Error> {
    /// # let (dir, db) = notes();
    /// db.schema_begin()?;
    /// db.connection()?.execute_batch("ALTER TABLE note RENAME COLUMN title TO heading").map_err(syncline::Error::app)?;
    /// assert_eq!(db.schema_commit(Some(2))?.version, 2);
    /// # Ok(()) }
    /// ```
    pub fn schema_commit(&self, version: Option<u64>) -> Result<SchemaReport, Error> {
        let repaired = self.inner.with(|tx| {
            let repaired = tx.commit_migration()?;
            if let Some(version) = version {
                tx.set_meta("schema_version", version as i64)?;
            }
            Ok(repaired)
        })?;
        self.inner.schema_report(repaired)
    }

    /// Takes the tables and columns that the authority lacks to it; what waited for them goes with the next sync.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
    /// # fn main() -> Result<(), syncline::Error> {
    /// # let (dir, db) = synced_notes();
    /// db.connection()?.execute_batch("ALTER TABLE note ADD COLUMN colour TEXT").map_err(syncline::Error::app)?;
    /// assert_eq!(db.schema_check()?.behind, ["note.colour"]);
    /// assert!(db.schema_push()?.behind.is_empty());
    /// # Ok(()) }
    /// ```
    pub fn schema_push(&self) -> Result<SchemaReport, Error> {
        let schema = self.inner.with(|tx| {
            tx.absorb()?;
            tx.schema()
        })?;
        let theirs = watch_link(&self.inner)?.push_schema(&schema)?;
        self.inner.with(|tx| tx.create_missing(&theirs).map(drop))?;
        self.inner.hub.wake(crate::machine::Event::Demand);
        self.inner.schema_report(Vec::new())
    }
}

impl Inner {
    fn schema_report(&self, mut repaired: Vec<String>) -> Result<SchemaReport, Error> {
        self.with(|tx| {
            repaired.extend(tx.absorb()?.repaired);
            repaired.sort();
            repaired.dedup();
            let migrating = tx.is_migrating()?;
            let registry = tx.registry()?;
            let mut not_synced: Vec<String> = {
                let sql = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND name NOT GLOB 'sqlite_*' ORDER BY name";
                let mut q = tx.conn.prepare(sql).doing("listing tables")?;
                q.query_map([], |r| r.get(0)).and_then(Iterator::collect).doing("listing tables")?
            };
            not_synced.retain(|name| !is_reserved(name) && registry.find(name).is_none_or(|t| !t.present));
            let mut absent = Vec::new();
            for t in registry.all() {
                if !t.present {
                    absent.push(t.def.name.clone());
                }
                absent.extend(t.columns.iter().filter(|c| t.present && !c.present).map(|c| format!("{}.{}", t.def.name, c.name)));
            }
            let version = tx.schema()?.version;
            Ok(SchemaReport { version, migrating, repaired, not_synced, absent, behind: tx.schema_behind()? })
        })
    }
}
