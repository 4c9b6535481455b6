//! What a disk is: its files, power, planned faults, clock and generator. No SQLite and no unsafe
//! code here.

use super::file::File;
pub(super) use crate::rng::Rng;

/// What goes wrong at a planned operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The operation fails and does nothing; the disk is dead from then on, as without power.
    Error,
    /// The first half of a write is done, in whole sectors, then as [`Fault::Error`].
    Torn,
    /// One sync succeeds and makes nothing durable. For planting bugs; a later honest sync of the
    /// file makes good for it.
    DropSync,
    /// One write fails with `SQLITE_FULL`.
    FullOnce,
    /// Every write that would grow a file fails with `SQLITE_FULL`, until
    /// [`revive`](super::Disk::revive).
    Full,
}

/// A write-class operation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Write { grows: bool },
    Sync,
    Truncate,
    Delete,
}

/// How an operation is to go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Do,
    /// Report success, do nothing.
    Pretend,
    /// Do half of it, then fail.
    Half,
    Fail,
    Full,
}

/// One disk.
pub(super) struct State {
    pub dead: bool,
    pub drop_syncs: bool,
    pub clock_us: i64,
    pub ops: u64,
    pub rng: Rng,
    /// Counts crashes. A handle of an earlier life touches nothing.
    pub life: u32,
    pub files: Vec<File>,
    full: bool,
    /// (operation number, fault), few.
    faults: Vec<(u64, Fault)>,
}

impl State {
    pub fn new(seed: u64) -> Self {
        Self { dead: false, drop_syncs: false, clock_us: 0, ops: 0, rng: Rng::new(seed), life: 0, files: Vec::new(), full: false, faults: Vec::new() }
    }

    /// Counts a write-class operation and decides how it goes.
    pub fn decide(&mut self, op: Op) -> Verdict {
        if self.dead {
            return Verdict::Fail;
        }
        self.ops += 1;
        if let Some(fault) = self.due(op) {
            match fault {
                Fault::Error | Fault::Torn => {
                    self.dead = true;
                    let half = fault == Fault::Torn && matches!(op, Op::Write { .. });
                    return if half { Verdict::Half } else { Verdict::Fail };
                }
                Fault::DropSync => return Verdict::Pretend,
                Fault::FullOnce => return Verdict::Full,
                Fault::Full => self.full = true,
            }
        }
        match op {
            Op::Write { grows: true } if self.full => Verdict::Full,
            Op::Sync if self.drop_syncs => Verdict::Pretend,
            _ => Verdict::Do,
        }
    }

    fn due(&mut self, op: Op) -> Option<Fault> {
        let fits = |fault| match fault {
            Fault::Error | Fault::Torn | Fault::Full => true,
            Fault::DropSync => op == Op::Sync,
            Fault::FullOnce => matches!(op, Op::Write { .. }),
        };
        let is_due = |(at, fault): &(u64, Fault)| *at <= self.ops && fits(*fault);
        let index = self.faults.iter().position(is_due)?;
        Some(self.faults.remove(index).1)
    }

    pub fn fail_at(&mut self, n: u64, fault: Fault) {
        self.faults.push((self.ops.saturating_add(n), fault));
    }

    pub fn revive(&mut self) {
        self.dead = false;
        self.full = false;
        self.faults.clear();
    }

    pub fn crash(&mut self, seed: u64) {
        self.revive();
        self.life += 1;
        let mut rng = Rng::new(seed);
        for file in &mut self.files {
            match file.name {
                Some(_) => file.crash(&mut rng),
                None => file.reset(None),
            }
        }
    }

    pub fn renew(&mut self, seed: u64, name: &[u8], bytes: &[u8]) {
        let (life, mut files) = (self.life, std::mem::take(&mut self.files));
        for file in files.iter_mut().filter(|f| f.name.is_some()) {
            let own = file.name.as_deref() == Some(name);
            file.refill(if own { bytes } else { &[] });
        }
        *self = Self { life, files, ..Self::new(seed) };
    }

    pub fn forget_index(&mut self) {
        self.files.iter_mut().for_each(|f| f.shm.forget());
    }

    pub fn find(&self, name: &[u8]) -> Option<usize> {
        self.files.iter().position(|f| f.name.as_deref() == Some(name))
    }

    /// Makes an empty file and returns its index.
    pub fn create(&mut self, name: Option<&[u8]>) -> usize {
        let free = |f: &File| f.name.is_none() && f.handles == 0;
        let index = self.files.iter().position(free).unwrap_or_else(|| {
            self.files.push(File::default());
            self.files.len() - 1
        });
        self.files[index].reset(name);
        index
    }

    /// Takes a file's name away; its bytes stay for those who have it open.
    pub fn unlink(&mut self, name: &[u8]) -> bool {
        let Some(index) = self.find(name) else {
            return false;
        };
        self.files[index].name = None;
        true
    }

    pub fn names(&self) -> Vec<String> {
        let named = self.files.iter().filter_map(|f| f.name.as_deref());
        let mut names: Vec<_> = named.map(|n| String::from_utf8_lossy(n).into_owned()).collect();
        names.sort();
        names
    }

    pub fn read(&self, name: &[u8]) -> Option<Vec<u8>> {
        Some(self.files[self.find(name)?].data().to_vec())
    }

    pub fn put(&mut self, name: &[u8], bytes: &[u8]) {
        self.unlink(name);
        let index = self.create(Some(name));
        self.files[index].write(0, bytes);
        self.files[index].sync();
    }
}
