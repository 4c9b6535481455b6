//! Opening a replica, making its sidecar, and taking it away again without a trace.

use crate::account_tables::put_in_order;
use crate::error::{Doing, Error, Result};
use crate::schema::SyncOptions;
use crate::schema::{Introspection, device_ddl, introspect};
use crate::tx::{Cache, Env, Replica, Role, Tx};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, params};
use syncline_core::TableDef;
use syncline_core::ids::Fingerprint;
use syncline_core::schema::{Schema, quote};

/// The sidecar format that this program writes: 1 is the first.
pub const FORMAT: i64 = 1;

/// How long to wait for another process that holds the file, in ms.
const BUSY_MS: u64 = 5_000;

/// The most memory that a connection's page cache may take, in KiB.
const CACHE_KIB: i64 = 32 * 1024;

impl Replica {
    /// Opens a database that has a sidecar. Does not write.
    pub fn open(conn: Connection) -> Result<Replica> {
        configure(&conn)?;
        let has = conn
            .query_row("SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = '_syncline_meta')", [], |r| r.get::<_, bool>(0))
            .doing("opening the database")?;
        if !has {
            return Err(Error::NotInitialised);
        }
        let format: i64 = conn.query_row("SELECT value FROM _syncline_meta WHERE name = 'format'", [], |r| r.get(0)).doing("reading the sidecar's format")?;
        if format != FORMAT {
            return Err(Error::Format(format, FORMAT));
        }
        let role: String = conn.query_row("SELECT value FROM _syncline_meta WHERE name = 'role'", [], |r| r.get(0)).doing("reading the sidecar's role")?;
        let role = if role == "authority" { Role::Authority } else { Role::Device };
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, role == Role::Authority).doing("setting foreign keys")?;
        if role == Role::Device {
            // A scope may be lost one day: no page shall then still have what was deleted from it before.
            conn.pragma_update(None, "secure_delete", "FAST").doing("asking that deleted rows are overwritten")?;
        }
        Ok(Replica { conn, cache: Cache::default(), role })
    }

    /// Opens a database, giving it a sidecar of this role if it has none.
    pub fn open_or_create(conn: Connection, role: Role, env: &mut Env) -> Result<Replica> {
        configure(&conn)?;
        conn.execute_batch("BEGIN IMMEDIATE").doing("preparing the database")?;
        let made = create_sidecar(&conn, role, env);
        conn.execute_batch(if made.is_ok() { "COMMIT" } else { "ROLLBACK" }).doing("preparing the database")?;
        made?;
        Replica::open(conn)
    }

    /// Gives up the connection.
    pub fn into_conn(self) -> Connection {
        self.conn
    }
}

fn configure(conn: &Connection) -> Result<()> {
    conn.busy_timeout(std::time::Duration::from_millis(BUSY_MS)).doing("setting a time limit")?;
    conn.set_prepared_statement_cache_capacity(256);
    // Without it SQLite prepares a range query anew for each new value that is bound to it.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).doing("keeping plans")?;
    conn.pragma_update(None, "synchronous", "FULL").doing("asking for durable commits")?;
    // A bulk load touches three trees in random order; SQLite's default of 2 MB would read every page again and again.
    conn.pragma_update(None, "cache_size", -CACHE_KIB).doing("sizing the page cache")?;
    Ok(())
}

fn create_sidecar(conn: &Connection, role: Role, env: &mut Env) -> Result<()> {
    let has = conn
        .query_row("SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = '_syncline_meta')", [], |r| r.get::<_, bool>(0))
        .doing("preparing the database")?;
    if has {
        return Ok(());
    }
    conn.execute_batch(include_str!("sidecar.sql")).doing("making the sidecar")?;
    let own = match role {
        Role::Device => include_str!("device.sql"),
        Role::Authority => include_str!("authority.sql"),
    };
    conn.execute_batch(own).doing("making the sidecar")?;
    let role_name = if role == Role::Authority { "authority" } else { "device" };
    let set = |name: &str, value: &dyn rusqlite::ToSql| {
        conn.execute("INSERT INTO _syncline_meta(name, value) VALUES(?1, ?2)", params![name, value]).doing("making the sidecar")
    };
    set("format", &FORMAT)?;
    set("role", &role_name)?;
    set("database_id", &&env.id(syncline_core::HistoryId::from_random).0[..])?;
    if role == Role::Device {
        conn.execute("INSERT INTO _syncline_scope(n, scope_id) VALUES(1, '')", []).doing("making the sidecar")?;
        conn.execute_batch(include_str!("views.sql")).doing("making the views")?;
        conn.execute_batch(include_str!("account.sql")).doing("making the account's tables")?;
    }
    Ok(())
}

impl Tx<'_> {
    /// Makes a device's tables syncable, all or none; safe to repeat. Changes no user row.
    pub fn init(&mut self, options: &SyncOptions) -> Result<Introspection> {
        let found = introspect(self.conn, options)?;
        let mut fresh = Vec::new();
        let attached = self.meta::<String>("device_id")?.is_some();
        for def in &found.schema.tables {
            let known = self.registry()?.find(&def.name);
            let mut def = def.clone();
            if let Some(known) = known.as_ref().filter(|t| attached && t.generation > 0) {
                // Which rule a column merges by is the same everywhere: here it is the authority's word.
                def.adopt_rules(&known.def);
            }
            let def = &def;
            let same = known.as_ref().is_some_and(|t| t.present && t.def == *def);
            let locals: Vec<&str> = found.local_columns.get(&def.name).map(|l| l.iter().map(String::as_str).collect()).unwrap_or_default();
            self.set_meta(&format!("local:{}", def.name.to_lowercase()), serde_json::to_string(&locals).unwrap_or_default())?;
            let n = self.register(def, true)?;
            if !same || known.is_none_or(|t| t.generation == 0) {
                fresh.push(n);
            }
        }
        for n in fresh {
            self.install_capture(n)?;
            self.adopt_policies(n)?;
            self.show_table(n)?;
            self.reconcile(n, false)?;
        }
        self.install_account_tables()?;
        self.set_meta("schema_version", found.schema.version as i64)?;
        if let Some(text) = &options.config.source {
            self.set_meta("config", text)?;
        }
        self.absorb()?;
        Ok(found)
    }

    /// Makes the tables of an authority's schema that this device lacks, and shows in them what was kept for them.
    pub fn create_missing(&mut self, schema: &Schema) -> Result<Vec<String>> {
        let mut made = Vec::new();
        self.set_meta("authority_schema", &schema.fingerprint().0[..])?;
        self.note_authority_columns(schema)?;
        for def in &schema.tables {
            let exists = self
                .conn
                .query_row("SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = ?1 COLLATE NOCASE)", [&def.name], |r| r.get::<_, bool>(0))
                .doing("looking for a table")?;
            if exists {
                self.adopt_table(def)?;
                continue;
            }
            for sql in device_ddl(def) {
                self.conn.execute_batch(&sql).doing("making a table")?;
            }
            let n = self.register(def, true)?;
            self.install_capture(n)?;
            self.show_table(n)?;
            made.push(def.name.clone());
        }
        Ok(made)
    }

    /// Returns the schema of the synced tables that are here.
    pub fn schema(&mut self) -> Result<Schema> {
        let version: i64 = self.meta("schema_version")?.unwrap_or(0);
        let mut tables: Vec<TableDef> = self.registry()?.all().iter().filter(|t| t.present).map(|t| t.def.clone()).collect();
        put_in_order(&mut tables);
        Ok(Schema { version: version as u64, tables })
    }

    /// Hashes the schema of the synced tables that are here.
    pub fn fingerprint(&mut self) -> Result<Fingerprint> {
        let registry = self.registry()?;
        if let Some(known) = registry.fingerprint.get() {
            return Ok(*known);
        }
        let fingerprint = self.schema()?.fingerprint();
        Ok(*registry.fingerprint.get_or_init(|| fingerprint))
    }

    /// Drops everything that Syncline ever put into the file: afterwards it is an ordinary database.
    pub fn remove_sidecar(&mut self) -> Result<()> {
        // Triggers and views first: a table that a trigger names can be dropped, but leaves a broken trigger.
        for kind in ["trigger", "view", "index", "table"] {
            let names: Vec<String> = {
                let mut q = self
                    .conn
                    .prepare("SELECT name FROM sqlite_schema WHERE type = ?1 AND (name GLOB '_syncline_*' OR name GLOB 'syncline_*')")
                    .doing("listing the sidecar")?;
                q.query_map([kind], |r| r.get(0)).and_then(Iterator::collect).doing("listing the sidecar")?
            };
            for name in names {
                self.conn.execute_batch(&format!("DROP {kind} IF EXISTS {}", quote(&name))).doing("dropping the sidecar")?;
            }
        }
        self.cache.forget();
        Ok(())
    }
}
