//! A device: the app's database, one or two processes that sync it, and programs that write it.

use crate::image::{self, ACCOUNT};
use crate::ledger::{Check, Ledger, Who};
use crate::rng::Rng;
use crate::site::{Doubt, How, Site};
use crate::spy::Mirror;
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use syncline::session::Session;
use syncline_core::{Cursor, Limits};
use syncline_replica::{Env, Replica};
use syncline_server::Caller;

/// A device.
pub struct Device {
    /// Its database.
    pub site: Site,
    /// Who it says that it is.
    pub caller: Caller,
    /// Its processes.
    pub processes: Vec<Process>,
    /// Whose writes it may have before the authority tells it: its own, and those of the device that its file was copied from.
    pub kin: Vec<Who>,
    /// Whether it takes part yet.
    pub joined: bool,
    /// Whether it never writes.
    pub passive: bool,
    /// What its sessions may ask for.
    pub limits: Limits,
    /// Counts how often its processes were started: messages for earlier ones find nobody.
    pub life: u64,
    app: Option<Connection>,
    /// Whether its programs enforce foreign keys.
    pub foreign_keys: bool,
    /// Whether its app settles rows that wait by code of its own.
    pub resolves: bool,
    recursive_triggers: bool,
}

/// A process that syncs.
#[derive(Default)]
pub struct Process {
    /// Its opened database.
    pub replica: Option<Replica>,
    /// The sync that is going on.
    pub running: Option<Running>,
}

/// A sync that waits for an answer.
pub struct Running {
    /// Which.
    pub token: u64,
    /// It.
    pub session: Session,
    /// Whether the authority has refused its clock before.
    pub redated: bool,
    /// When the last request was sent.
    pub sent_ms: i64,
}

/// How a piece of work ended.
pub enum Ran<T> {
    /// It was done.
    Done(T),
    /// The power went.
    Power,
}

impl Device {
    /// Puts a device on a fresh disk with the image of its variant.
    pub fn new(n: usize, variant: usize, processes: usize, limits: Limits, rng: &mut Rng) -> Device {
        Device {
            site: Site::new(n, variant, rng.next()),
            caller: Caller { device_id: image::device_id(n), account: ACCOUNT.into() },
            processes: (0..processes).map(|_| Process::default()).collect(),
            kin: vec![n],
            joined: true,
            passive: false,
            limits,
            life: 0,
            app: None,
            foreign_keys: rng.chance(60),
            resolves: false,
            recursive_triggers: rng.chance(20),
        }
    }

    /// Starts the processes, after power came back or for the first time.
    pub fn start(&mut self, ledger: &mut Ledger) -> Check {
        let who = self.site.who;
        let failed = |e: &dyn std::fmt::Display| format!("ERROR starting device {who}: {e}");
        for process in &mut self.processes {
            let conn = self.site.open_sync().map_err(|e| failed(&e))?;
            process.replica = Some(Replica::open(conn).map_err(|e| failed(&e))?);
        }
        if let Some(replica) = &self.processes[0].replica {
            self.site.reopened(replica.conn(), ledger)?;
        }
        Ok(())
    }

    /// Cuts the power.
    pub fn stop(&mut self) {
        self.site.kill();
        self.life += 1;
        self.app = None;
        for process in &mut self.processes {
            *process = Process::default();
        }
    }

    /// Leaves what is open to the next history.
    pub fn leave(self) {
        self.site.leave(self.processes.into_iter().filter_map(|p| p.replica).map(Replica::into_conn), self.app);
    }

    /// Returns the connection of the programs that know nothing of Syncline.
    pub fn app(&mut self) -> rusqlite::Result<&Connection> {
        if self.app.is_none() {
            let conn = self.site.open_app()?;
            conn.set_prepared_statement_cache_capacity(100);
            conn.pragma_update(None, "synchronous", "FULL")?;
            conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, self.foreign_keys)?;
            // Set where it differs only: a PRAGMA of this kind makes SQLite prepare every statement anew.
            if conn.pragma_query_value(None, "recursive_triggers", |r| r.get::<_, bool>(0))? != self.recursive_triggers {
                conn.pragma_update(None, "recursive_triggers", self.recursive_triggers)?;
            }
            self.app = Some(conn);
        }
        self.app.as_ref().ok_or(rusqlite::Error::InvalidQuery)
    }

    /// Returns where the programs write, and what they have written.
    pub fn app_parts(&mut self) -> rusqlite::Result<(&Connection, &mut Site)> {
        self.app()?;
        let app = self.app.as_ref().ok_or(rusqlite::Error::InvalidQuery)?;
        Ok((app, &mut self.site))
    }

    /// Runs work of Syncline in one process: one transaction.
    pub fn run<T>(
        &mut self,
        p: usize,
        now_ms: i64,
        seed: u64,
        how: How,
        ledger: &mut Ledger,
        work: impl FnOnce(&mut Replica, &mut Env) -> syncline_replica::Result<T>,
    ) -> Check<Ran<T>> {
        let here = self.site.at(now_ms);
        let Some(replica) = self.processes[p].replica.as_mut() else { return Ok(Ran::Power) };
        self.site.tape.take();
        let before = Site::changes(replica.conn());
        let done = work(replica, &mut image::env(here, seed));
        if self.site.disk.is_dead() {
            self.site.doubt = Some(Doubt::Sync(self.site.tape.take_done(), how, done.is_ok()));
            return Ok(Ran::Power);
        }
        match done {
            Ok(value) => {
                self.site.committed(replica.conn(), &before, ledger, how)?;
                check_digest(replica.conn(), &self.site.mirror).map_err(|e| format!("{e} at device {}", self.site.who))?;
                Ok(Ran::Done(value))
            }
            Err(e) => Err(format!("ERROR at device {}: {e}", self.site.who)),
        }
    }

    /// Reads how far the device is.
    pub fn cursor(&self) -> Option<Cursor> {
        let replica = self.processes[0].replica.as_ref()?;
        let mut q = replica.conn().prepare_cached("SELECT cursor FROM _syncline_scope WHERE n = 1").ok()?;
        let bytes: Option<Vec<u8>> = q.query_row([], |r| r.get(0)).ok()?;
        Cursor::from_bytes(&bytes?)
    }
}

/// Checks that what a replica says of all its rows is the sum of what it says of each.
fn check_digest(conn: &Connection, mirror: &Mirror) -> Check {
    let digest: i64 = conn
        .prepare_cached("SELECT digest FROM _syncline_scope WHERE n = 1")
        .and_then(|mut q| q.query_row([], |r| r.get(0)))
        .map_err(|e| format!("ERROR reading a digest: {e}"))?;
    match mirror.digest() {
        sum if sum == digest => Ok(()),
        sum => Err(format!("SUM of the rows is {sum:x}, and the digest {digest:x}")),
    }
}
