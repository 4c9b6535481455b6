//! Databases made once per schema variant, whose bytes every history starts from: an authority that knows several devices,
//! and a device that is attached and empty.

use crate::schema::{self, VARIANTS};
use crate::vfs::Disk;
use rusqlite::Connection;
use std::sync::OnceLock;
use syncline_core::schema::IntegerKeys;
use syncline_core::{DeviceId, EnrolRequest};
use syncline_replica::schema::SyncOptions;
use syncline_replica::{Env, Replica, Role};
use syncline_server::{Authority, accounts};

/// The file name of every database.
pub const DB: &str = "app.db";
/// The account, which is also the name of its scope.
pub const ACCOUNT: &str = "anna";
/// How many devices the authority knows.
pub const DEVICES: usize = 6;
/// The true time at which every history starts, in ms since 1970.
pub const START_MS: i64 = 1_700_000_000_000;

/// The bytes of both databases.
pub struct Image {
    /// The authority's.
    pub server: Vec<u8>,
    /// A device's.
    pub device: Vec<u8>,
    /// Numbers of the tables in a sidecar, in the order of the variant's tables; the same in both.
    pub numbers: Vec<i64>,
}

/// Returns a device's id.
pub fn device_id(n: usize) -> DeviceId {
    DeviceId::from_random(0xd0, n as u64)
}

/// Returns time and randomness for one call.
pub fn env(now_ms: i64, seed: u64) -> Env {
    let mut rng = crate::rng::Rng::new(seed);
    Env { now_ms, random: Box::new(move || rng.next()) }
}

/// Returns the image of a variant, made when first asked for.
pub fn image(variant: usize) -> &'static Image {
    static IMAGES: [OnceLock<Image>; 8] = [const { OnceLock::new() }; 8];
    IMAGES[variant].get_or_init(|| make(variant).unwrap_or_else(|e| panic!("making the image of schema {variant}: {e}")))
}

fn prepare(conn: &Connection) -> rusqlite::Result<()> {
    // Small pages: a sector is 512 bytes, and a database of a dozen rows should still have several pages to lose.
    conn.execute_batch("PRAGMA page_size = 1024; PRAGMA auto_vacuum = 0")?;
    conn.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))
}

fn make(variant: usize) -> Result<Image, Box<dyn std::error::Error>> {
    let mut env = env(START_MS, 1 + variant as u64);
    let disk = Disk::new("device image", 1);
    disk.set_clock(START_MS);
    let conn = disk.open(DB)?;
    prepare(&conn)?;
    conn.execute_batch(&schema::sql(&VARIANTS[variant]))?;
    let mut replica = Replica::open_or_create(conn, Role::Device, &mut env)?;
    let config = syncline_replica::config::Config::parse(VARIANTS[variant].config)?;
    let options = SyncOptions { integer_keys: Some(IntegerKeys::App), config, ..SyncOptions::default() };
    let (schema, numbers) = replica.transact(&mut env, |tx| {
        tx.init(&options)?;
        let scope = syncline_core::ScopeId(ACCOUNT.into());
        tx.name_scope(1, &scope)?;
        let registry = tx.registry()?;
        Ok((tx.schema()?, VARIANTS[variant].tables.iter().map(|t| registry.find(t.name).map_or(0, |t| t.n)).collect::<Vec<_>>()))
    })?;
    let device = close(replica.into_conn(), &disk)?;

    let disk = Disk::new("server image", 1);
    let conn = disk.open(DB)?;
    prepare(&conn)?;
    let mut authority = Authority::open(conn, &mut env)?;
    for n in 0..DEVICES {
        let mut secret = [0; 32];
        secret[0] = n as u8;
        let token = authority.replica.transact(&mut env, |tx| Ok(accounts::create_token(tx.conn, ACCOUNT, secret, 60_000, 1, START_MS)))??;
        let request = EnrolRequest {
            version: syncline_core::VERSION,
            token,
            device_id: device_id(n),
            public_key: format!("58{}", "66".repeat(31)), // the curve's base point: any valid key will do
            name: format!("device {n}"),
            platform: "sim".into(),
            app_version: String::new(),
            schema: (n == 0).then(|| schema.clone()),
        };
        let _ = authority.enrol(&mut env, &request)?;
    }
    let same = authority.replica.transact(&mut env, |tx| {
        let registry = tx.registry()?;
        Ok(VARIANTS[variant].tables.iter().zip(&numbers).all(|(t, n)| {
            let names = |t: &syncline_replica::Table| t.columns.iter().map(|c| c.name.clone()).collect::<Vec<_>>();
            registry.find(t.name).is_some_and(|found| found.n == *n && names(&found) == t.columns.iter().map(|c| c.0).collect::<Vec<_>>())
        }))
    })?;
    assert!(same, "both ends number tables and columns alike, in the order of the variant");
    let server = close(authority.replica.into_conn(), &disk)?;
    Ok(Image { server, device, numbers })
}

fn close(conn: Connection, disk: &Disk) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    conn.flush_prepared_statement_cache();
    conn.execute_batch("VACUUM")?;
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    conn.close().map_err(|e| e.1)?;
    Ok(disk.read(DB).unwrap_or_default())
}
