//! One file: the bytes as written, the bytes as of the last sync, and the writes in between.
//!
//! Always: `synced` with every pending operation applied in order equals `data`.

use super::lock::{Locks, Shm};
use super::state::Rng;

/// The unit a disk writes whole or not at all.
const SECTOR: usize = 512;

/// Unsynced bytes above which the file is taken as written back, as a kernel does after a while.
/// It bounds the memory of a database that runs with `synchronous=OFF`.
const PENDING_BYTES_MAX: usize = 64 << 20;

/// A file of a disk, with its locks.
#[derive(Default)]
pub(super) struct File {
    /// `None` once deleted, and for temporary files.
    pub name: Option<Box<[u8]>>,
    /// Open handles; a nameless file without any is free for reuse.
    pub handles: u32,
    pub locks: Locks,
    pub shm: Shm,
    data: Vec<u8>,
    synced: Vec<u8>,
    pending: Vec<Pending>,
    /// The bytes of all pending writes, in order: one buffer, so that a write allocates nothing.
    pending_bytes: Vec<u8>,
}

enum Pending {
    Write { offset: usize, len: usize },
    Truncate { size: usize },
}

impl File {
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Empties the file and gives it a name; buffers keep their capacity.
    pub fn reset(&mut self, name: Option<&[u8]>) {
        self.name = name.map(Into::into);
        self.handles = 0;
        self.locks = Locks::default();
        self.shm = Shm::default();
        self.data.clear();
        self.synced.clear();
        self.pending.clear();
        self.pending_bytes.clear();
    }

    /// Replaces the bytes by durable ones, under whoever has the file open.
    pub fn refill(&mut self, bytes: &[u8]) {
        for copy in [&mut self.data, &mut self.synced] {
            copy.clear();
            copy.extend_from_slice(bytes);
        }
        self.pending.clear();
        self.pending_bytes.clear();
    }

    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        put(&mut self.data, offset, bytes);
        if self.name.is_none() {
            // No crash brings a nameless file back.
            return;
        }
        let len = bytes.len();
        self.pending.push(Pending::Write { offset, len });
        self.pending_bytes.extend_from_slice(bytes);
        if self.pending_bytes.len() > PENDING_BYTES_MAX {
            self.sync();
        }
    }

    /// Writes about the first half, whole sectors only; nothing of a write within one sector.
    pub fn write_half(&mut self, offset: usize, bytes: &[u8]) {
        let end = (offset + bytes.len() / 2) / SECTOR * SECTOR;
        let len = end.saturating_sub(offset);
        if len > 0 {
            self.write(offset, &bytes[..len]);
        }
    }

    pub fn truncate(&mut self, size: usize) {
        self.data.resize(size, 0);
        if self.name.is_some() {
            self.pending.push(Pending::Truncate { size });
        }
    }

    pub fn sync(&mut self) {
        self.settle(|_| Fate::Kept);
    }

    /// Leaves of the unsynced operations what a power loss leaves.
    pub fn crash(&mut self, rng: &mut Rng) {
        let count = self.pending.len() as u64;
        // Four habits of disks, because independent coins alone would almost never keep all,
        // keep none or keep a clean prefix of a long list.
        let habit = rng.below(4);
        let cut = rng.below(count + 1);
        let mut index = 0;
        self.settle(|(offset, len)| {
            let at = index;
            index += 1;
            let tear = |rng: &mut Rng| tear(offset, len, rng);
            match habit {
                0 => Fate::Lost,
                1 => Fate::Kept,
                2 if at < cut => Fate::Kept,
                2 if at == cut => tear(rng),
                2 => Fate::Lost,
                _ if rng.below(2) == 0 => Fate::Lost,
                _ if rng.below(8) == 0 => tear(rng),
                _ => Fate::Kept,
            }
        });
        self.data.clone_from(&self.synced);
        self.handles = 0;
        self.locks = Locks::default();
        self.shm = Shm::default();
    }

    /// Ends the pending list: each operation meets its fate in `synced`. A truncation is asked
    /// about as an empty write.
    fn settle(&mut self, mut fate: impl FnMut((usize, usize)) -> Fate) {
        let mut bytes = self.pending_bytes.as_slice();
        for op in self.pending.drain(..) {
            match op {
                Pending::Write { offset, len } => {
                    let (written, rest) = bytes.split_at(len);
                    bytes = rest;
                    match fate((offset, len)) {
                        Fate::Kept => put(&mut self.synced, offset, written),
                        Fate::Lost => {}
                        Fate::Head(n) => put(&mut self.synced, offset, &written[..n]),
                        Fate::Tail(n) => put(&mut self.synced, offset + n, &written[n..]),
                    }
                }
                Pending::Truncate { size } => {
                    if matches!(fate((size, 0)), Fate::Kept) {
                        self.synced.resize(size, 0);
                    }
                }
            }
        }
        self.pending_bytes.clear();
    }
}

/// What becomes of one unsynced operation.
enum Fate {
    Kept,
    Lost,
    /// Only the first bytes reached the disk.
    Head(usize),
    /// All but the first bytes reached the disk.
    Tail(usize),
}

/// Tears a write at one of the sector boundaries inside it; one within a sector is lost whole.
fn tear(offset: usize, len: usize, rng: &mut Rng) -> Fate {
    let first = offset / SECTOR + 1;
    let last = (offset + len).div_ceil(SECTOR);
    if first >= last {
        return Fate::Lost;
    }
    let boundary = (first + rng.below((last - first) as u64) as usize) * SECTOR;
    if rng.below(2) == 0 { Fate::Head(boundary - offset) } else { Fate::Tail(boundary - offset) }
}

fn put(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if offset == file.len() {
        // Appending is the common case, and needs no zeros first.
        file.extend_from_slice(bytes);
        return;
    }
    let end = offset + bytes.len();
    if end > file.len() {
        file.resize(end, 0);
    }
    file[offset..end].copy_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named() -> File {
        let mut file = File::default();
        file.reset(Some(b"f"));
        file
    }

    #[test]
    fn synced_bytes_survive_every_crash_and_unsynced_ones_only_some() {
        let (mut kept, mut lost, mut torn) = (0, 0, 0);
        for seed in 0..400 {
            let mut file = named();
            file.write(0, &[1; 4096]);
            file.sync();
            file.write(4096, &[2; 4096]);
            file.crash(&mut Rng::new(seed));
            assert_eq!(file.data()[..4096], [1; 4096]);
            match file.data()[4096..].iter().filter(|b| **b == 2).count() {
                4096 => kept += 1,
                0 => lost += 1,
                n => {
                    assert_eq!(n % SECTOR, 0);
                    torn += 1;
                }
            }
        }
        assert!(kept > 0 && lost > 0 && torn > 0, "{kept} {lost} {torn}");
    }

    #[test]
    fn a_tear_is_at_a_sector_of_the_file_not_of_the_write() {
        for seed in 0..100 {
            match tear(100, 1000, &mut Rng::new(seed)) {
                Fate::Head(n) | Fate::Tail(n) => assert!(n == 412 || n == 924),
                _ => panic!("1000 bytes at 100 cross two boundaries"),
            }
        }
        assert!(matches!(tear(512, 512, &mut Rng::new(0)), Fate::Lost));
    }
}
