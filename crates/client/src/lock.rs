//! One sync at a time, whichever process: a lock of the operating system on a file beside the database.
//!
//! The system drops it with the process that holds it, so nothing is ever left locked. It guards no data: two syncs at once would
//! do no harm, only work twice.

use crate::error::Error;
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often a held lock is tried again.
const AGAIN: Duration = Duration::from_millis(20);

/// Returns where a database's lock file lies.
pub(crate) fn lock_path(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push("-syncline.lock");
    name.into()
}

/// A lock that is held until dropped.
pub(crate) struct Held<'a>(&'a File);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

/// Opens a database's lock file.
pub(crate) fn open(database: &Path) -> Result<File, Error> {
    let path = lock_path(database);
    OpenOptions::new().create(true).truncate(false).write(true).read(true).open(&path).map_err(|cause| Error::Io {
        doing: "opening the lock file",
        path,
        cause,
    })
}

/// Waits at most `wait` for the lock; `Busy` if another holds it all the time.
pub(crate) fn hold<'a>(file: &'a File, database: &Path, wait: Duration) -> Result<Held<'a>, Error> {
    let until = Instant::now() + wait;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Held(file)),
            Err(TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(AGAIN),
            Err(TryLockError::WouldBlock) => return Err(Error::Busy),
            Err(TryLockError::Error(cause)) => return Err(Error::Io { doing: "locking", path: lock_path(database), cause }),
        }
    }
}

/// Whether somebody holds the lock now. Shared, so that two who only look are not in each other's way.
pub(crate) fn is_held(database: &Path) -> bool {
    let Ok(file) = File::open(lock_path(database)) else { return false };
    match file.try_lock_shared() {
        Ok(()) => {
            let _ = file.unlock();
            false
        }
        Err(TryLockError::WouldBlock) => true,
        Err(TryLockError::Error(_)) => false,
    }
}
