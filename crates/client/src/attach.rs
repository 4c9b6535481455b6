//! Joining a database to an account: a key of its own, the server's tables, a block of integer keys.

use crate::anchor::{self, Standing, meta};
use crate::database::{Database, lock, now_ms};
use crate::error::Error;
use crate::identity::Identity;
use crate::link::HttpLink;
use crate::lock as file_lock;
use crate::machine::Event;
use serde::{Deserialize, Serialize};
use syncline_core::schema::{IntegerKeys, quote};
use syncline_core::seal::Seal;
use syncline_core::{DeviceId, EnrolRequest, EnrolResponse, VERSION};
use syncline_replica::account_tables::is_account_table;
use syncline_replica::{Doing, Tx};

/// What joining brought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// The account.
    pub account: String,
    /// This device.
    pub device_id: String,
    /// The server.
    pub server: String,
    /// Tables that were made here because the account has them.
    pub created_tables: Vec<String>,
    /// Tables of the account that are here and do not sync, as `init` was told.
    pub not_synced: Vec<String>,
}

impl Database {
    /// Joins the database to the account that `token` is for, as a new device called `name`. The first device brings its tables;
    /// tables that it lacks are made. No row is dropped; rows of both sides merge with the first sync, which is yet to come.
    ///
    /// A database that is attached and has its key is refused, unless the server no longer takes it. A copy without a key gets a
    /// fresh identity and source, and keeps its work.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
    /// # fn main() -> Result<(), syncline::Error> {
    /// # let (dir, db) = notes();
    /// let (url, [token, another]) = server(dir.path());
    /// let attached = db.attach(&url, &token, "laptop")?;
    /// assert_eq!(attached.account, "ada");
    /// // The second device starts from nothing.
    /// use syncline::{Database, Options};
    /// let phone = Database::open_or_create(dir.path().join("phone.db"), Options { home: Some(dir.path().join("phone")), ..Options::default() })?;
    /// assert_eq!(phone.attach(&url, &another, "phone")?.created_tables, ["note"]);
    /// # Ok(()) }
    /// ```
    pub fn attach(&self, url: &str, token: &str, name: &str) -> Result<Attached, Error> {
        let inner = &self.inner;
        let mut side = lock(&inner.sync_side);
        let file = file_lock::open(&inner.path)?;
        let _held = file_lock::hold(&file, &inner.path, inner.options.lock_wait)?;
        let before = self.account_before()?;
        let home = inner.home()?;
        let schema = inner.with(|tx| {
            tx.absorb()?;
            tx.install_account_tables()?;
            tx.schema()
        })?;
        let (identity, mark) = self.enrolling(&home, token.trim())?;
        let request = EnrolRequest {
            version: VERSION,
            token: token.trim().into(),
            device_id: identity.device_id(),
            public_key: identity.public_key(),
            name: name.into(),
            platform: std::env::consts::OS.into(),
            schema: (!schema.tables.is_empty()).then_some(schema),
            app_version: inner.options.app_version.clone(),
        };
        let enrolled = match HttpLink::enrol(url, &inner.options.link, &request) {
            // The token may be used up by the answer that was lost; the same request again gets the same answer.
            Err(e) if e.is_network() => HttpLink::enrol(url, &inner.options.link, &request),
            other => other,
        };
        let enrolled = match enrolled {
            Ok(enrolled) => enrolled,
            // The server may have enrolled this device all the same: the next try with this token goes on as the same one.
            Err(e) if e.is_network() => {
                inner.note(&[("enrolling", &format!("{} {mark}", identity.device_id()))])?;
                return Err(e.into());
            }
            Err(e) => {
                identity.remove()?;
                inner.note(&[("enrolling", &rusqlite::types::Null)])?;
                return Err(e.into());
            }
        };
        if let Some(account) = before.filter(|a| *a != enrolled.account) {
            identity.remove()?;
            return Err(Error::Refused(format!(
                "this database belongs to account `{account}`, the token is for `{}`; use a token of the same account, or detach first",
                enrolled.account
            )));
        }
        inner.correct_clock(enrolled.server_time_ms)?;
        let device_id = identity.device_id();
        let (created, not_synced) = inner.with(|tx| join(tx, &enrolled, url, device_id, name))?;
        let source = inner.with(|tx| tx.source())?;
        anchor::note(&identity, &inner.path, source, None)?;
        side.link = None;
        inner.hub.wake(Event::Demand);
        Ok(Attached {
            account: enrolled.account,
            device_id: device_id.to_string(),
            server: url.trim_end_matches('/').to_owned(),
            created_tables: created,
            not_synced,
        })
    }

    /// Returns the identity to enrol with a token: that of an earlier try whose answer never came, or a new one. Of the token only
    /// a hash is kept.
    fn enrolling(&self, home: &std::path::Path, token: &str) -> Result<(Identity, String), Error> {
        let mark = Seal::head(0, "enrolling", "", token);
        let kept: Option<String> = self.inner.read(|conn| meta(conn, "enrolling"))?;
        if let Some((device, known)) = kept.as_deref().and_then(|text| text.split_once(' '))
            && let Some(device) = DeviceId::parse(device)
            && let Some(identity) = Identity::load(home, device)?
        {
            if known == mark {
                return Ok((identity, mark));
            }
            // Another token: whoever was enrolled with the first one is nobody's now.
            identity.remove()?;
        }
        Ok((Identity::create(home)?, mark))
    }

    /// Returns the account that a copy belongs to; refuses a database that is attached and well.
    fn account_before(&self) -> Result<Option<String>, Error> {
        let inner = &self.inner;
        let (account, device, refused) = inner.read(|conn| {
            let error: Option<String> = meta(conn, "last_error")?;
            let refused = error.is_some_and(|e| ["device_revoked", "unauthorized", "no_key"].iter().any(|code| e.contains(&format!("\"{code}\""))));
            Ok((meta::<String>(conn, "account")?, meta::<String>(conn, "device_id")?, refused))
        })?;
        let Some(device) = device.as_deref().and_then(DeviceId::parse) else { return Ok(account) };
        if let Some(identity) = Identity::load(&inner.home()?, device)?
            && !refused
            && inner.read(|conn| anchor::judge(&identity, conn, &inner.path))? != Standing::Copy
        {
            let account = account.unwrap_or_default();
            return Err(Error::Refused(format!(
                "this database is attached to account `{account}` already; `syncline sync` syncs it, `syncline detach` ends that"
            )));
        }
        Ok(account)
    }
}

/// Takes an enrolment into the sidecar, in one transaction.
fn join(tx: &mut Tx, enrolled: &EnrolResponse, url: &str, device_id: DeviceId, name: &str) -> syncline_replica::Result<(Vec<String>, Vec<String>)> {
    let again = tx.meta::<String>("device_id")?.is_some();
    let empty = tx.schema()?.tables.iter().all(|t| is_account_table(&t.name));
    let created = tx.create_missing(&enrolled.schema)?;
    let synced = tx.schema()?;
    let not_synced = enrolled.schema.tables.iter().filter(|t| synced.table(&t.name).is_none()).map(|t| t.name.clone()).collect();
    if empty {
        tx.set_meta("schema_version", enrolled.schema.version as i64)?;
    }
    let scope = enrolled.scopes.first().cloned().unwrap_or_else(|| syncline_core::ScopeId(enrolled.account.clone()));
    tx.name_scope(1, &scope)?;
    if again {
        // The stream of the file that this one was copied from must not be continued here.
        tx.rotate_source()?;
    }
    tx.set_meta("server", url.trim_end_matches('/'))?;
    tx.set_meta("account", &enrolled.account)?;
    tx.set_meta("device_id", device_id.to_string())?;
    tx.set_meta("device_name", name)?;
    tx.set_meta("history", enrolled.history.to_string())?;
    tx.set_meta("key_block", enrolled.key_block as i64)?;
    tx.set_meta("attached_at", now_ms())?;
    tx.set_meta("enrolling", rusqlite::types::Null)?;
    tx.set_meta("last_error", rusqlite::types::Null)?;
    tx.set_meta("next_retry_at", rusqlite::types::Null)?;
    number_from_block(tx, enrolled.key_block)?;
    Ok((created, not_synced))
}

/// Lets AUTOINCREMENT tables number new rows from this device's block. Rows that are here keep their keys.
fn number_from_block(tx: &mut Tx, block: u64) -> syncline_replica::Result<()> {
    let from = (block as i64).saturating_mul(1 << 32);
    for table in tx.schema()?.tables {
        if !table.autoincrement || table.options.integer_keys != Some(IntegerKeys::DeviceBlocks) {
            continue;
        }
        let name = &table.name;
        let known = tx
            .conn
            .execute("UPDATE sqlite_sequence SET seq = max(seq, ?2) WHERE name = ?1", rusqlite::params![name, from])
            .doing("numbering from the device's block")?;
        if known == 0 {
            // SQLite makes the line with the first insert; until then the table is empty, or was filled by other means.
            let sql = format!("INSERT INTO sqlite_sequence(name, seq) SELECT ?1, max(?2, coalesce(max(rowid), 0)) FROM {}", quote(name));
            tx.conn.execute(&sql, rusqlite::params![name, from]).doing("numbering from the device's block")?;
        }
    }
    Ok(())
}
