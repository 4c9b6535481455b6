//! What must hold: after every answer, and at the end of a history.

use crate::fault::Fault;
use crate::ledger::{Check, name};
use crate::schema::{Kind, VARIANTS};
use crate::site::Site;
use crate::world::{CLOCK_TOLERANCE_MS, World};
use std::collections::{BTreeMap, BTreeSet};
use syncline_core::schema::quote;
use syncline_core::{Cursor, Extra, Key, Reason, Value, Vv};
use syncline_replica::Conflict;
use syncline_replica::bind::Bind;

impl World {
    /// Checks that a device's tables are those after one complete bundle: all writes of the bundles up to its cursor are
    /// there, and none of others' later ones.
    pub fn check_prefix(&self, d: usize) -> Check {
        let device = &self.devices[d];
        let Some(cursor) = device.cursor() else { return Ok(()) };
        if !self.one_past && !self.is_of_the_present(cursor)? {
            return Ok(()); // it has not heard yet that the authority was put back
        }
        let cursor = cursor.seq.0 as i64;
        for ((t, key), row) in &self.ledger.rows {
            let mut state = None;
            for op in &row.ops {
                let Some(seq) = op.committed else { continue };
                if seq > cursor && device.kin.contains(&op.by) {
                    continue;
                }
                let at = device.site.numbers[*t];
                // A row that waits for a decision is kept apart from what the authority has.
                let apart = VARIANTS[self.variant].tables[*t].name == "strict";
                if apart && device.site.mirror.rows.get(&(at, key.clone())).is_some_and(|r| r.pending.is_some()) {
                    continue;
                }
                if !row.collected.is_empty() && !device.site.mirror.rows.contains_key(&(at, key.clone())) {
                    continue;
                }
                if state.is_none() {
                    state = Some(device.site.mirror.state(at, key)?);
                }
                let covered = state.as_ref().is_some_and(|s| s.ctx.covers(&op.stamp));
                // Whoever forgot a collected tombstone and wrote under its key anew has a life that knows nothing of it.
                let began_anew = |c: &Vv| state.as_ref().is_some_and(|s| s.ctx.entries().iter().all(|(writer, hlc)| c.get(*writer) < *hlc));
                if !covered && row.collected.iter().any(|c| c.covers(&op.stamp) && began_anew(c)) {
                    continue;
                }
                if seq <= cursor && !covered {
                    return Err(format!(
                        "PREFIX device {d} at {cursor} lacks {op:?} of row {key:?} in {}, bundle {seq}",
                        VARIANTS[self.variant].tables[*t].name
                    ));
                }
                if seq > cursor && covered && self.one_past {
                    return Err(format!(
                        "PARTIAL device {d} at {cursor} has {op:?} of row {key:?} in {}, bundle {seq}",
                        VARIANTS[self.variant].tables[*t].name
                    ));
                }
            }
        }
        self.check_marks(&device.site)
    }

    /// Whether a cursor is of the past that the authority has now.
    fn is_of_the_present(&self, cursor: Cursor) -> Check<bool> {
        let authority = self.server.authority.as_ref().ok_or("ERROR no authority")?;
        let sql = "SELECT EXISTS (SELECT 1 FROM _syncline_bundle WHERE seq = ?1 AND chain = ?2)";
        let found: rusqlite::Result<bool> = authority.replica.conn().query_row(sql, (cursor.seq.0 as i64, &cursor.chain.0[..]), |r| r.get(0));
        found.map_err(|e| format!("ERROR reading the bundle log: {e}"))
    }

    /// Rows that were written together are there together, as far as a bundle holds them.
    fn check_marks(&self, site: &Site) -> Check {
        if self.splits {
            return Ok(());
        }
        let mut order: BTreeMap<Vec<u8>, (i64, i64)> = BTreeMap::new();
        for row in site.written.now.0[VARIANTS[self.variant].mark()].values() {
            if let (Value::Text(tx), Value::Int(n)) = (&row[0], &row[1]) {
                let entry = order.entry(tx.clone()).or_insert((0, *n));
                entry.0 += 1;
            }
        }
        match order.iter().find(|(_, (is, should))| is != should) {
            Some((tx, (is, should))) => Err(format!("TORN: {is} of {should} rows of transaction {} are at {}", String::from_utf8_lossy(tx), name(site.who))),
            None => Ok(()),
        }
    }

    /// Checks that every row that a device keeps off its table really does not fit there. It has just synced.
    pub fn check_shelf(&self, d: usize) -> Check {
        let (site, Some(replica)) = (&self.devices[d].site, &self.devices[d].processes[0].replica) else { return Ok(()) };
        for ((number, key), raw) in site.mirror.rows.iter().filter(|r| r.1.kind == 3) {
            let t = site.table(*number)?;
            let table = &VARIANTS[self.variant].tables[t];
            let state = site.mirror.decode(raw)?;
            let mut values = key.decode().map_err(|e| format!("ERROR decoding a key: {e}"))?;
            for c in 0..table.columns.len() {
                let own = state.extra(c).filter(|e| e.is_whole()).map(|_| crate::policy::shown_value(&state, c));
                let value = own.or_else(|| state.cell(c).and_then(|x| self.ledger.value((t, key), c, x.stamp)).cloned());
                values.push(value.unwrap_or_default());
            }
            let orphan = table.key.iter().chain(table.columns).zip(&values).any(|((_, kind), value)| match kind {
                Kind::Ref(parent) | Kind::Must(parent) => {
                    *value != Value::Null && !site.written.now.0[*parent].contains_key(&Key::encode(std::slice::from_ref(value)))
                }
                _ => false,
            });
            if orphan {
                continue;
            }
            let names: Vec<String> = table.key.iter().chain(table.columns).map(|c| quote(c.0)).collect();
            let sql = format!("INSERT INTO {}({}) VALUES({})", quote(table.name), names.join(", "), vec!["?"; names.len()].join(", "));
            let binds: Vec<Bind> = values.iter().map(Bind).collect();
            let failed = |e: rusqlite::Error| format!("ERROR trying a shelved row: {e}");
            replica.conn().execute_batch("BEGIN").map_err(failed)?;
            let fits = replica.conn().execute(&sql, rusqlite::params_from_iter(&binds)).is_ok();
            replica.conn().execute_batch("ROLLBACK").map_err(failed)?;
            if fits {
                return Err(format!("SHELVED without need: row {key:?} of {} at device {d}, {values:?} beside {:?}", table.name, site.written.now.0[t]));
            }
        }
        Ok(())
    }

    /// Checks that a device lists exactly the rows of which it keeps concurrent, different values.
    pub fn check_asked(&self, d: usize, listed: &[Conflict]) -> Check {
        let site = &self.devices[d].site;
        for ((number, key), raw) in site.mirror.rows.iter().filter(|r| r.1.kind == 0) {
            let table = &VARIANTS[self.variant].tables[site.table(*number)?];
            if !table.columns.iter().any(|c| c.1 == Kind::Asked) {
                continue;
            }
            let state = site.mirror.decode(raw)?;
            let differ = |e: &Extra| matches!(e, Extra::Ask(kept) if kept.iter().any(|x| x.value != kept[0].value));
            let id = key.decode().map_err(|e| format!("ERROR decoding a key: {e}"))?;
            let is_listed = listed.iter().any(|c| c.refusal.table == table.name && c.refusal.key.values().eq(id.iter()));
            if state.extras.iter().any(|e| differ(&e.1)) != is_listed && !listed.iter().any(|c| c.state != "ask") {
                return Err(format!("ASKED row {key:?} of {} at device {d} is listed: {is_listed}, {state:?}", table.name));
            }
        }
        Ok(())
    }

    /// Checks that what a device had pending of a row that may not be merged was not: `before` is what that row had seen.
    pub fn check_apart(&self, d: usize, before: &[(i64, Key, Vv)]) -> Check {
        let device = &self.devices[d];
        for (number, key, seen) in before {
            if device.site.mirror.rows.get(&(*number, key.clone())).is_none_or(|raw| raw.pending.is_none()) {
                continue;
            }
            let state = device.site.mirror.state(*number, key)?;
            for (writer, hlc) in state.ctx.entries().iter().filter(|e| seen.get(e.0) < e.1) {
                if self.ledger.owner(*writer).is_some_and(|who| !device.kin.contains(&who)) {
                    return Err(format!("APART: device {d} merged {writer:?} at {hlc:?} into row {key:?}, which waits"));
                }
            }
        }
        Ok(())
    }

    /// Where programs enforce foreign keys and nobody forgets a row, no child is left to a person for want of its parent.
    pub fn check_families(&self, listed: &[Conflict]) -> Check {
        let may_lack = [Fault::ForeignKey, Fault::Collect, Fault::Backup, Fault::Copy, Fault::ServerBackup, Fault::Rebuild, Fault::Bundles, Fault::Late];
        if VARIANTS[self.variant].name != "policies" || self.faults.any(&may_lack) {
            return Ok(());
        }
        match listed.iter().find(|c| c.refusal.reason == Reason::ForeignKey) {
            Some(c) => Err(format!("FAMILY: {c:?}")),
            None => Ok(()),
        }
    }

    /// Checks the whole at the end: all are equal, nothing is missing, nothing is there twice.
    pub fn check_end(&mut self) -> Check {
        let authority = &self.server.site;
        authority.check_tables(&self.ledger)?;
        let digest = self.digest_of_server()?;
        for (d, device) in self.devices.iter().enumerate() {
            device.site.check_tables(&self.ledger)?;
            if let Some(difference) = device.site.written.now.difference(&authority.written.now, &VARIANTS[self.variant]) {
                return Err(format!("DIVERGED: device {d} and the authority differ in {difference}"));
            }
            if let Some((at, _)) = device.site.mirror.rows.iter().find(|r| r.1.pending.is_some()) {
                return Err(format!("PENDING for ever: row {at:?} at device {d}"));
            }
            if let Some((at, raw)) = device.site.mirror.rows.iter().find(|r| r.1.kind > 2) {
                return Err(format!("SHELVED for ever: row {at:?} at device {d}: {raw:?}"));
            }
            let own = self.digest_of_device(d)?;
            if own != digest {
                return Err(format!("DIGEST of device {d} is {own:x}, of the authority {digest:x}"));
            }
            self.check_marks(&device.site)?;
        }
        self.check_marks(authority)?;
        self.check_nothing_lost()?;
        self.check_journal()?;
        self.check_bundle_log()?;
        let bytes = format!("{:?}", self.server.site.written.now);
        self.mix(bytes.as_bytes());
        Ok(())
    }

    /// Says of which rows a device and the authority know different things, and what.
    pub fn rows_unlike(&self, d: usize) -> Check<Vec<String>> {
        let (device, authority) = (&self.devices[d].site, &self.server.site);
        let mut out = Vec::new();
        for (at, raw) in &device.mirror.rows {
            let (own, theirs) = (device.mirror.decode(raw)?, authority.mirror.state(at.0, &at.1)?);
            if own != theirs {
                out.push(format!("row {:?} of {} is {own:?} here and {theirs:?} there", at.1, VARIANTS[self.variant].tables[device.table(at.0)?].name));
            }
        }
        Ok(out)
    }

    fn check_nothing_lost(&self) -> Check {
        for ((t, key), row) in &self.ledger.rows {
            let table = VARIANTS[self.variant].tables[*t].name;
            let number = self.server.site.numbers[*t];
            let state = self.server.site.mirror.state(number, key)?;
            if state.ctx.max().ms() > self.now_ms + CLOCK_TOLERANCE_MS {
                return Err(format!("FUTURE: the authority took a stamp from the future of row {key:?} in {table}: {state:?}"));
            }
            for op in &row.ops {
                if !state.ctx.covers(&op.stamp) && !self.forgiven.contains(&(*t, key.clone(), op.stamp)) && !row.set_aside.contains(&op.stamp) {
                    return Err(format!("LOST: the authority never got {op:?} of row {key:?} in {table}"));
                }
            }
            for device in &self.devices {
                if let Some(raw) = device.site.mirror.rows.get(&(number, key.clone())) {
                    let theirs = device.site.mirror.decode(raw)?;
                    if theirs.ctx != state.ctx || theirs.live != state.live || theirs.ground != state.ground {
                        return Err(format!("STATES of row {key:?} in {table} differ: {theirs:?} at {}, {state:?} at the authority", name(device.site.who)));
                    }
                } else if !state.is_dead() || row.collected.is_empty() && !state.is_unknown() {
                    return Err(format!("LOST: row {key:?} in {table} is not at {}", name(device.site.who)));
                }
            }
        }
        Ok(())
    }

    /// Every value that is not shown was superseded by a write that knew it, or is in somebody's journal.
    fn check_journal(&self) -> Check {
        if !self.one_past || !self.forgiven.is_empty() || !self.device_backups.is_empty() {
            return Ok(()); // a journal may be gone with a disk
        }
        let failed = |e: rusqlite::Error| format!("ERROR reading a journal: {e}");
        let authority = self.server.authority.as_ref().ok_or("ERROR no authority")?;
        let replicas = self.devices.iter().filter_map(|d| d.processes[0].replica.as_ref()).chain([&authority.replica]);
        /// Table, key, column, and the losing stamp.
        type Entry = (i64, Vec<u8>, String, i64, Vec<u8>);
        let mut journal: BTreeSet<Entry> = BTreeSet::new();
        for replica in replicas {
            let mut q = replica.conn().prepare("SELECT tbl, key, col, lost_hlc, lost_writer FROM _syncline_journal").map_err(failed)?;
            let rows = q.query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?))).map_err(failed)?;
            journal.extend(rows.collect::<rusqlite::Result<Vec<_>>>().map_err(failed)?);
        }
        for ((t, key), row) in self.ledger.rows.iter().filter(|((t, _), row)| !row.unseen && !self.ledger.integer_keys.contains(t)) {
            let table = &VARIANTS[self.variant].tables[*t];
            let number = self.server.site.numbers[*t];
            let state = self.server.site.mirror.state(number, key)?;
            if state.is_dead() || row.ops.iter().any(|o| row.set_aside.contains(&o.stamp)) {
                continue;
            }
            for (c, (name, _)) in table.columns.iter().enumerate().filter(|(_, k)| k.1.policy() == syncline_core::Policy::Lww) {
                let writes = || row.ops.iter().flat_map(|o| o.cells.iter().filter(|x| x.0 == c).map(move |x| (o, x.1, &x.2)));
                let shown = state.cell(c).map(|x| x.stamp);
                for (op, stamp, value) in writes().filter(|w| Some(w.1) != shown) {
                    let known = row.ops.iter().any(|o| o.seen.covers(&stamp) && (o.births.is_empty() || o.cells.iter().any(|x| x.0 == c)));
                    let ended = op.effect_births.iter().all(|b| state.ground.covers(b)) || state.ground.covers(&stamp);
                    let same = writes().any(|w| w.1 != stamp && w.2 == value);
                    let entry = (number, key.0.clone(), (*name).to_owned(), stamp.hlc.0 as i64, stamp.writer.0.to_vec());
                    if !known && !ended && !same && !journal.contains(&entry) {
                        return Err(format!("JOURNAL: {value:?} of {op:?} in column {name} of row {key:?} in {} lost without a word", table.name));
                    }
                }
            }
        }
        Ok(())
    }

    fn digest_of_server(&self) -> Check<i64> {
        let authority = self.server.authority.as_ref().ok_or("ERROR no authority")?;
        let sql = "SELECT digest FROM _syncline_scope WHERE scope_id = 'anna'";
        authority.replica.conn().query_row(sql, [], |r| r.get(0)).map_err(|e| format!("ERROR reading a digest: {e}"))
    }
    fn digest_of_device(&self, d: usize) -> Check<i64> {
        let replica = self.devices[d].processes[0].replica.as_ref().ok_or("ERROR no replica")?;
        replica.conn().query_row("SELECT digest FROM _syncline_scope WHERE n = 1", [], |r| r.get(0)).map_err(|e| format!("ERROR reading a digest: {e}"))
    }

    /// Every bundle is in the log once, in an unbroken sequence and chain; what was acknowledged is there.
    fn check_bundle_log(&self) -> Check {
        let authority = self.server.authority.as_ref().ok_or("ERROR no authority")?;
        let failed = |e: rusqlite::Error| format!("ERROR reading the bundle log: {e}");
        let mut q = authority.replica.conn().prepare("SELECT seq, source, id, nonce, chain FROM _syncline_bundle ORDER BY seq").map_err(failed)?;
        type Bundle = (i64, [u8; 16], i64, i64, [u8; 16]);
        let log: Vec<Bundle> = q.query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?))).and_then(Iterator::collect).map_err(failed)?;
        let mut names = BTreeSet::new();
        let mut last: BTreeMap<[u8; 16], i64> = BTreeMap::new();
        for (i, (seq, source, id, _, _)) in log.iter().enumerate() {
            if *seq != i as i64 + 1 {
                return Err(format!("BUNDLES: {seq} follows {i}"));
            }
            if !names.insert((source, id)) {
                return Err(format!("BUNDLES: {id} of a source was committed twice"));
            }
            let before = last.insert(*source, *id).unwrap_or(0);
            if *id != before + 1 {
                return Err(format!("BUNDLES: {id} of a source follows {before}"));
            }
        }
        for ack in &self.server.acked {
            let there = log.iter().any(|b| b.0 == ack.seq.0 as i64 && b.1 == ack.source.0 && b.2 == ack.id.0 as i64 && b.3 == ack.nonce.0 as i64);
            if !there && self.one_past {
                return Err(format!("FORGOTTEN: the authority acknowledged {ack:?}, and does not have it"));
            }
        }
        Ok(())
    }
}
