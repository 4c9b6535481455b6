//! Backups that are put back, and files that are copied.

use crate::device::Device;
use crate::fault::Fault;
use crate::image::DEVICES;
use crate::ledger::{Check, SERVER};
use crate::site::Saved;
use crate::spy::Mirror;
use crate::world::World;
use syncline_core::Seq;

/// How many backups of one database are kept.
const BACKUPS_MAX: usize = 3;

impl World {
    /// Keeps a backup of a device, puts one back, or copies the file to a device of its own.
    pub fn device_backup(&mut self, d: usize) -> Check {
        if self.faults.has(Fault::Copy) && self.devices.len() < DEVICES && self.rng.chance(10) {
            return self.copy_device(d);
        }
        if !self.faults.has(Fault::Backup) {
            return Ok(());
        }
        let kept = self.device_backups.iter().filter(|b| b.0 == d).count();
        if kept == 0 || self.rng.chance(60) {
            if kept < BACKUPS_MAX
                && let Some(saved) = self.devices[d].site.save()
            {
                self.say(&|_| format!("device {d}: is backed up"));
                self.device_backups.push((d, saved));
            }
            return Ok(());
        }
        let which = self.rng.index(kept);
        let Some(saved) = self.device_backups.iter().filter(|b| b.0 == d).nth(which).map(|b| b.1.clone()) else { return Ok(()) };
        self.say(&|_| format!("device {d}: backup {which} is put back"));
        let draw = self.rng.next();
        let device = &mut self.devices[d];
        device.stop();
        device.site.put_back(&saved, draw);
        device.start(&mut self.ledger)?;
        self.forgive();
        Ok(())
    }

    fn copy_device(&mut self, d: usize) -> Check {
        let Some(saved) = self.devices[d].site.save() else { return Ok(()) };
        let n = self.devices.len();
        self.say(&|_| format!("device {d}: its file is copied to device {n}"));
        let (processes, limits) = (self.devices[d].processes.len(), self.devices[d].limits);
        let mut copy = Device::new(n, self.variant, processes, limits, &mut self.rng);
        copy.site.offset_ms = self.devices[d].site.offset_ms;
        copy.kin.extend(self.devices[d].kin.iter());
        copy.site.put_back(&saved, 0);
        copy.start(&mut self.ledger)?;
        self.devices.push(copy);
        Ok(())
    }

    /// Keeps a backup of the authority, or puts one back and tells nobody.
    pub fn server_backup(&mut self) -> Check {
        if self.server_backups.is_empty() || self.rng.chance(60) {
            if self.server_backups.len() < BACKUPS_MAX
                && let Some(saved) = self.server.site.save()
            {
                let head = self.server_head()?;
                self.say(&|_| format!("authority: is backed up at {head}"));
                self.server_backups.push((head, saved));
            }
            return Ok(());
        }
        let which = self.rng.index(self.server_backups.len());
        let (head, saved) = self.server_backups[which].clone();
        // What was backed up later belongs to a past that now never was.
        self.server_backups.truncate(which + 1);
        self.say(&|_| format!("authority: is put back to {head}"));
        let draw = self.rng.next();
        self.server.stop();
        self.server.site.put_back(&saved, draw);
        self.server.start(self.now_ms, draw, &mut self.ledger)?;
        self.one_past = false;
        self.ledger.past_undone = true;
        self.recommit(&saved)?;
        self.forgive();
        Ok(())
    }

    /// What the authority does not have any more was never committed.
    fn recommit(&mut self, saved: &Saved) -> Check {
        for ((t, key), row) in &mut self.ledger.rows {
            let state = saved.mirror.state(self.server.site.numbers[*t], key)?;
            for op in row.ops.iter_mut().filter(|o| !state.ctx.covers(&o.stamp)) {
                op.committed = None;
            }
        }
        Ok(())
    }

    /// Writes that no database holds any more went with the one that was put back: nobody can bring them again.
    fn forgive(&mut self) {
        let mut gone = Vec::new();
        let sites: Vec<(&[i64], &Mirror)> = self.devices.iter().map(|d| &d.site).chain([&self.server.site]).map(|s| (s.numbers, &s.mirror)).collect();
        for ((t, key), row) in &self.ledger.rows {
            for op in &row.ops {
                let held = sites.iter().any(|(numbers, mirror)| mirror.state(numbers[*t], key).is_ok_and(|s| s.ctx.covers(&op.stamp)));
                if !held {
                    gone.push((*t, key.clone(), op.stamp));
                }
            }
        }
        self.forgiven.extend(gone);
    }

    /// Collects tombstones, as far as the oldest backup of the authority allows.
    pub fn collect(&mut self) -> Check {
        let head = self.server_head()?;
        let floor = self.server_backups.iter().map(|b| b.0).fold(head, i64::min);
        self.say(&|_| format!("authority: collects up to {floor}"));
        let draw = self.rng.next();
        self.server.collect(Seq(floor as u64), self.now_ms, draw, &mut self.ledger)
    }

    fn server_head(&self) -> Check<i64> {
        let authority = self.server.authority.as_ref().ok_or("ERROR no authority")?;
        let sql = "SELECT seq FROM _syncline_scope WHERE scope_id = 'anna'";
        authority.replica.conn().query_row(sql, [], |r| r.get(0)).map_err(|e| format!("ERROR reading a head of {}: {e}", crate::ledger::name(SERVER)))
    }
}
