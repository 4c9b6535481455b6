//! Who may touch a file: the five lock levels of a database file, and the slots and memory that
//! WAL connections share. All within one process; SQLite's rules are at
//! <https://www.sqlite.org/lockingv3.html> and in `sqlite3_io_methods`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Lock levels, ordered; the numbers are SQLite's.
pub(super) const NONE: u8 = 0;
pub(super) const SHARED: u8 = 1;
pub(super) const RESERVED: u8 = 2;
pub(super) const PENDING: u8 = 3;
pub(super) const EXCLUSIVE: u8 = 4;

/// Lock slots of a WAL index (`SQLITE_SHM_NLOCK`).
const SLOTS: usize = 8;

/// The lock was held by another connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Busy;

/// The locks on one database file.
#[derive(Default)]
pub(super) struct Locks {
    shared: u32,
    reserved: bool,
    /// Held by the one connection at `PENDING` or `EXCLUSIVE`.
    pending: bool,
}

/// What one connection holds of [`Locks`].
#[derive(Default)]
pub(super) struct Held {
    level: u8,
    /// Apart from `level`: rolling back a hot journal goes from `SHARED` to `EXCLUSIVE` without it.
    reserved: bool,
}

impl Locks {
    pub fn lock(&mut self, held: &mut Held, level: u8) -> Result<(), Busy> {
        if held.level >= level {
            return Ok(());
        }
        match level {
            SHARED if self.pending => return Err(Busy),
            SHARED => self.shared += 1,
            RESERVED if self.reserved || self.pending => return Err(Busy),
            RESERVED => {
                self.reserved = true;
                held.reserved = true;
            }
            _ => {
                if held.level < PENDING && self.pending {
                    return Err(Busy);
                }
                // Stay pending when readers are left: no new one comes in, so a retry gets there.
                self.pending = true;
                held.level = PENDING;
                if level == EXCLUSIVE && self.shared > 1 {
                    return Err(Busy);
                }
            }
        }
        held.level = level;
        Ok(())
    }

    pub fn unlock(&mut self, held: &mut Held, level: u8) {
        if held.level <= level {
            return;
        }
        if held.level >= PENDING {
            self.pending = false;
        }
        if held.reserved {
            self.reserved = false;
            held.reserved = false;
        }
        if level == NONE {
            self.shared -= 1;
        }
        held.level = level;
    }

    /// Returns whether any connection intends to write.
    pub fn is_reserved(&self) -> bool {
        self.reserved || self.pending
    }
}

/// Memory that connections share. Atomics because SQLite writes it behind a shared reference.
pub(super) type Region = Arc<[AtomicU64]>;

/// The WAL index of one file. It ends with its last user, and with the power.
#[derive(Default)]
pub(super) struct Shm {
    regions: Vec<Region>,
    users: u32,
    shared: [u32; SLOTS],
    /// One bit per slot.
    exclusive: u8,
}

/// What one connection holds of a [`Shm`]. The regions are kept here too: SQLite has pointers to
/// them until it unmaps or closes, even if the disk lost its power in between.
#[derive(Default)]
pub(super) struct ShmHeld {
    regions: Vec<Region>,
    user: bool,
    shared: u8,
    exclusive: u8,
}

impl Shm {
    /// Returns a region, making it and those before it if `extend`.
    pub fn map<'h>(&mut self, held: &'h mut ShmHeld, index: usize, size: usize, extend: bool) -> Option<&'h Region> {
        if !held.user {
            held.user = true;
            self.users += 1;
        }
        while extend && self.regions.len() <= index {
            let words = (0..size.div_ceil(8)).map(|_| AtomicU64::new(0));
            self.regions.push(words.collect());
        }
        for region in self.regions.iter().take(index + 1).skip(held.regions.len()) {
            held.regions.push(Region::clone(region));
        }
        held.regions.get(index)
    }

    /// Makes the memory as it was when it was new.
    pub fn forget(&mut self) {
        self.regions.iter().flat_map(|r| r.iter()).for_each(|word| word.store(0, Ordering::SeqCst));
    }

    pub fn lock_shared(&mut self, held: &mut ShmHeld, slots: u8) -> Result<(), Busy> {
        if self.exclusive & slots & !held.exclusive != 0 {
            return Err(Busy);
        }
        for slot in bits(slots & !held.shared) {
            self.shared[slot] += 1;
        }
        held.shared |= slots;
        Ok(())
    }

    pub fn lock_exclusive(&mut self, held: &mut ShmHeld, slots: u8) -> Result<(), Busy> {
        let taken = self.exclusive & slots & !held.exclusive != 0;
        if taken || bits(slots).any(|slot| self.shared[slot] > 0) {
            return Err(Busy);
        }
        self.exclusive |= slots;
        held.exclusive |= slots;
        Ok(())
    }

    pub fn unlock(&mut self, held: &mut ShmHeld, slots: u8) {
        for slot in bits(slots & held.shared) {
            self.shared[slot] -= 1;
        }
        held.shared &= !slots;
        self.exclusive &= !(slots & held.exclusive);
        held.exclusive &= !slots;
    }

    pub fn unmap(&mut self, held: &mut ShmHeld) {
        self.unlock(held, u8::MAX);
        held.regions.clear();
        if held.user {
            held.user = false;
            self.users -= 1;
        }
        if self.users == 0 {
            self.regions.clear();
        }
    }
}

fn bits(slots: u8) -> impl Iterator<Item = usize> {
    (0..SLOTS).filter(move |slot| slots & (1 << slot) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_waits_for_readers_and_lets_no_new_one_in() {
        let mut locks = Locks::default();
        let [mut a, mut b, mut c] = [Held::default(), Held::default(), Held::default()];
        locks.lock(&mut a, SHARED).unwrap();
        locks.lock(&mut b, SHARED).unwrap();
        locks.lock(&mut a, RESERVED).unwrap();
        assert_eq!(locks.lock(&mut b, RESERVED), Err(Busy));
        assert_eq!(locks.lock(&mut a, EXCLUSIVE), Err(Busy));
        assert_eq!(locks.lock(&mut c, SHARED), Err(Busy));
        locks.unlock(&mut b, NONE);
        locks.lock(&mut a, EXCLUSIVE).unwrap();
        locks.unlock(&mut a, SHARED);
        assert!(!locks.is_reserved());
        locks.lock(&mut c, SHARED).unwrap();
    }

    #[test]
    fn a_slot_is_shared_by_many_or_exclusive_to_one() {
        let mut shm = Shm::default();
        let [mut a, mut b] = [ShmHeld::default(), ShmHeld::default()];
        shm.lock_shared(&mut a, 1).unwrap();
        shm.lock_shared(&mut b, 1).unwrap();
        assert_eq!(shm.lock_exclusive(&mut a, 0b11), Err(Busy));
        shm.unlock(&mut a, 1);
        shm.unlock(&mut b, 1);
        shm.lock_exclusive(&mut a, 0b11).unwrap();
        assert_eq!(shm.lock_shared(&mut b, 2), Err(Busy));
        shm.unmap(&mut a);
        shm.lock_shared(&mut b, 2).unwrap();
    }
}
