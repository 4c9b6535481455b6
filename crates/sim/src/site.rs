//! A database at a place: its disk, its tables as SQL shows them, its sidecar as seen from outside.
//!
//! What always holds between two steps of a history: `mirror` is the sidecar, `written.now` the tables, and the ledger has
//! every write that was absorbed here. After power was lost in the middle of a COMMIT, each must be as before it or as after.

use crate::image::{self, DB};
use crate::ledger::{Check, Ledger, SERVER, Who, name};
use crate::pool::{self, Kit, Spare};
use crate::schema::{VARIANTS, Variant};
use crate::spy::{self, Mirror, Seen, Tape};
use crate::tables::{Rows, Tables, Written};
use crate::vfs::Disk;
use rusqlite::Connection;
use syncline_core::{Hlc, Key, Value, Vv};

/// A database at a place.
pub struct Site {
    /// Whose.
    pub who: Who,
    /// Its tables.
    pub variant: &'static Variant,
    /// That variant's number.
    pub schema: usize,
    /// Its tables' numbers in the sidecar.
    pub numbers: &'static [i64],
    /// Where the files are.
    pub disk: Disk,
    /// Connections that an earlier history left.
    spare: Spare,
    /// How far its clock is off, in ms.
    pub offset_ms: i64,
    /// What is seen of the sidecar.
    pub tape: Tape,
    /// The sidecar.
    pub mirror: Mirror,
    /// The tables, and what was written since the last absorb.
    pub written: Written,
    /// Transactions of which nobody knows yet whether they are there.
    pub doubt: Option<Doubt>,
    /// Whether the tables were compared with the row states since either last changed.
    compared: bool,
}

/// A database's files, and what was known of it.
#[derive(Clone)]
pub struct Saved {
    files: Vec<(String, Vec<u8>)>,
    /// The sidecar then.
    pub mirror: Mirror,
    /// The tables then.
    pub written: Written,
}

/// A transaction whose COMMIT did not return.
pub enum Doubt {
    /// A program's.
    App(Box<Written>),
    /// Syncline's. `true` if COMMIT did return: then it must be there.
    Sync(Vec<Seen>, How, bool),
}

/// What a connection has written since it was opened.
#[derive(PartialEq, Eq)]
pub struct Changes {
    rows: u64,
    schema: Option<i64>,
}

/// How a transaction of Syncline is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It absorbed first: nothing that SQL wrote is left uncaptured.
    Absorbing,
    /// It did not absorb.
    Plain,
    /// It dated anew what lies after this time.
    Redating(Hlc),
}

impl Site {
    /// Makes a site on a disk that has the variant's image, with draws of its own.
    pub fn new(who: Who, variant: usize, seed: u64) -> Site {
        let Kit { disk, tape, spare } = pool::take(variant, who == SERVER, seed);
        let tables = Tables(vec![Rows::new(); VARIANTS[variant].tables.len()]);
        Site {
            who,
            variant: &VARIANTS[variant],
            schema: variant,
            numbers: &image::image(variant).numbers,
            disk,
            spare,
            offset_ms: 0,
            tape,
            mirror: Mirror::default(),
            written: Written { now: tables, ..Written::default() },
            doubt: None,
            compared: false,
        }
    }

    /// Sets the disk's clock; returns the time at this place.
    pub fn at(&self, now_ms: i64) -> i64 {
        let here = now_ms + self.offset_ms;
        self.disk.set_clock(here);
        here
    }

    /// Notes how a connection's count of changes stands before a transaction of Syncline.
    pub fn changes(conn: &Connection) -> Changes {
        let version = conn.prepare_cached("PRAGMA schema_version").and_then(|mut q| q.query_row([], |r| r.get(0)));
        Changes { rows: conn.total_changes(), schema: version.ok() }
    }

    /// Takes in a transaction of Syncline that was committed.
    pub fn committed(&mut self, conn: &Connection, before: &Changes, ledger: &mut Ledger, how: How) -> Check {
        let seen = self.tape.take_done();
        if self.compared && seen.is_empty() && self.written.is_absorbed() && before.schema.is_some() && *before == Site::changes(conn) {
            // It wrote nothing anywhere, and nobody wrote before it: all is as it was when it was last looked at.
            return Ok(());
        }
        let now = Tables::read(conn, self.variant).map_err(|e| format!("ERROR reading tables: {e}"))?;
        self.follow(ledger, &seen, &now, how)
    }

    fn follow(&mut self, ledger: &mut Ledger, seen: &[Seen], now: &Tables, how: How) -> Check {
        let mut known: Vec<(i64, &Key)> = Vec::new();
        for event in seen {
            if let Seen::Row(table, key, Some(raw)) = event {
                let before = self.mirror.state(*table, key)?;
                let after = self.mirror.decode(raw)?;
                let t = self.table(*table)?;
                match how {
                    How::Redating(limit) if !before.ctx.within(&after.ctx) => ledger.redated(self.who, (t, key), &before, &after, limit)?,
                    _ => {
                        let written = &self.written;
                        // A row that Syncline saves twice was first absorbed, and then written by the database itself.
                        let first = !known.contains(&(*table, key));
                        let mut value = |c: usize, dead: bool| -> Option<Value> {
                            let at = (t, key.clone());
                            let old = if dead { written.images.get(&at) } else { written.now.get((t, key)).filter(|_| written.touched.contains_key(&at)) };
                            let row = old.filter(|_| first).or_else(|| now.get((t, key))).or(old)?;
                            row.get(c).cloned()
                        };
                        ledger.saw(self.who, (t, key), &before, &after, &mut value)?;
                    }
                }
                if self.who == SERVER
                    && let Some(row) = ledger.rows.get_mut(&(t, key.clone()))
                {
                    for op in row.ops.iter_mut().filter(|o| after.ctx.covers(&o.stamp) && !before.ctx.covers(&o.stamp)) {
                        op.committed = Some(raw.seq);
                    }
                }
                known.push((*table, key));
            }
            self.mirror.follow(event);
        }
        if how != How::Plain {
            self.written.absorbed(now.clone());
            self.check_tables(ledger)?;
        } else {
            self.written.now = now.clone();
        }
        self.compared = how != How::Plain;
        Ok(())
    }

    /// Lists the pending rows of these tables, with what each has seen.
    pub fn waiting(&self, tables: &[&str]) -> Vec<(i64, Key, Vv)> {
        let of = |number: i64| self.table(number).is_ok_and(|t| tables.contains(&self.variant.tables[t].name));
        let pending = self.mirror.rows.iter().filter(|(at, raw)| raw.pending.is_some() && of(at.0));
        pending.filter_map(|(at, raw)| Some((at.0, at.1.clone(), self.mirror.decode(raw).ok()?.ctx))).collect()
    }

    /// Returns a table's place in the variant.
    pub fn table(&self, number: i64) -> Check<usize> {
        self.numbers.iter().position(|n| *n == number).ok_or_else(|| format!("TABLE {number} is none of ours"))
    }

    /// Checks that the tables show exactly what the row states say: captured is what SQL wrote, visible what was merged.
    pub fn check_tables(&self, ledger: &Ledger) -> Check {
        let mut shown = 0;
        for ((table, key), raw) in self.mirror.rows.iter().filter(|r| r.1.kind == 0) {
            let t = self.table(*table)?;
            let state = self.mirror.decode(raw)?;
            let here = || format!("row {:?} of table {} at {}", key, self.variant.tables[t].name, name(self.who));
            let row = self.written.now.get((t, key)).ok_or_else(|| format!("TABLE lacks {}, which the sidecar shows", here()))?;
            shown += 1;
            if self.variant.tables[t].name == "pol" && state.cell(8).map(|x| x.stamp) != state.cell(9).map(|x| x.stamp) {
                return Err(format!("GROUP: its columns were written apart in {}: {state:?}", here()));
            }
            for (c, is) in row.iter().enumerate() {
                let stamp = state.cell(c).map(|x| x.stamp).ok_or_else(|| format!("EMPTY column {c} of {}", here()))?;
                let own = state.extra(c).filter(|e| e.is_whole()).map(|_| crate::policy::shown_value(&state, c));
                let should = own.as_ref().or_else(|| ledger.value((t, key), c, stamp));
                if should != Some(is) {
                    return Err(format!("VALUE {is:?} in column {c} of {}; {should:?} was written by {stamp:?}", here()));
                }
            }
        }
        let rows: usize = self.written.now.0.iter().map(|t| t.len()).sum();
        if rows != shown {
            for (t, rows) in self.written.now.0.iter().enumerate() {
                for key in rows.keys() {
                    let at = (self.numbers[t], key.clone());
                    if self.mirror.rows.get(&at).is_none_or(|r| r.kind != 0) {
                        let state = self.mirror.state(at.0, key)?;
                        return Err(format!("UNKNOWN row {key:?} in table {} at {}; the sidecar has {state:?}", self.variant.tables[t].name, name(self.who)));
                    }
                }
            }
        }
        Ok(())
    }

    /// Looks at the files after they were opened again, and settles what was in doubt.
    pub fn reopened(&mut self, conn: &Connection, ledger: &mut Ledger) -> Check<bool> {
        let failed = |e: rusqlite::Error| format!("ERROR after power came back at {}: {e}", name(self.who));
        self.tape.take();
        self.compared = false;
        let mirror = Mirror::read(conn).map_err(failed)?;
        let now = Tables::read(conn, self.variant).map_err(failed)?;
        let there = match self.doubt.take() {
            Some(Doubt::App(after)) if now == after.now => {
                self.written = *after;
                true
            }
            Some(Doubt::Sync(seen, how, acknowledged)) => {
                let mut expected = self.mirror.clone();
                seen.iter().for_each(|s| expected.follow(s));
                let there = mirror.rows != self.mirror.rows;
                if expected.rows != mirror.rows && (there || acknowledged) {
                    return Err(format!("HALF a transaction of Syncline is there at {}", name(self.who)));
                }
                if there {
                    self.follow(ledger, &seen, &now, how)?;
                }
                there
            }
            _ => false,
        };
        if mirror.rows != self.mirror.rows {
            return Err(format!("LOST or half there after power came back: row states at {}", name(self.who)));
        }
        self.mirror = mirror;
        if let Some(difference) = self.written.now.difference(&now, self.variant) {
            return Err(format!("LOST or half there after power came back at {}: {difference}", name(self.who)));
        }
        Ok(there)
    }

    /// Copies the files as they are, with what is known of them; `None` while that is in doubt.
    pub fn save(&self) -> Option<Saved> {
        if self.disk.is_dead() || self.doubt.is_some() {
            return None;
        }
        let files = self.disk.files().into_iter().filter_map(|name| self.disk.read(&name).map(|bytes| (name, bytes))).collect();
        Some(Saved { files, mirror: self.mirror.clone(), written: self.written.clone() })
    }

    /// Puts saved files in place of what is there. No connection is open.
    pub fn put_back(&mut self, saved: &Saved, seed: u64) {
        self.kill();
        self.disk.crash(seed);
        for name in self.disk.files() {
            self.disk.remove(&name);
        }
        for (name, bytes) in &saved.files {
            self.disk.put(name, bytes);
        }
        self.mirror = saved.mirror.clone();
        self.written = saved.written.clone();
        self.doubt = None;
    }

    /// Cuts the power. What is open is of no use any more.
    pub fn kill(&mut self) {
        self.disk.kill();
        self.spare = Spare::default();
    }

    /// Leaves the disk and its connections to the next history.
    pub fn leave(mut self, sync: impl IntoIterator<Item = Connection>, app: Option<Connection>) {
        if !self.disk.is_dead() {
            self.spare.sync.extend(sync);
            self.spare.app.extend(app);
            pool::give(self.schema, self.who == SERVER, Kit { disk: self.disk, tape: self.tape, spare: self.spare });
        }
    }

    /// Opens a connection for Syncline, on which the tape runs.
    pub fn open_sync(&mut self) -> rusqlite::Result<Connection> {
        if let Some(conn) = self.spare.sync.pop() {
            return Ok(conn);
        }
        let mut conn = self.open()?;
        if self.who == SERVER {
            spy::watch_savepoints(&mut conn, &self.tape)?;
        }
        spy::install(&conn, &self.tape)?;
        Ok(conn)
    }

    /// Opens a connection for programs that know nothing of Syncline.
    pub fn open_app(&mut self) -> rusqlite::Result<Connection> {
        self.spare.app.pop().map_or_else(|| self.open(), Ok)
    }

    fn open(&self) -> rusqlite::Result<Connection> {
        let conn = self.disk.open(DB)?;
        // A checkpoint now and then, so that power also goes in the middle of one.
        conn.execute_batch("PRAGMA wal_autocheckpoint = 40")?;
        Ok(conn)
    }
}
