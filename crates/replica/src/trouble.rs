//! What is wrong when SQLite cannot read or write a file, and what a person can do about it.

use rusqlite::ErrorCode;

/// SQLITE_IOERR_SHMSIZE: no room for the index of the write-ahead log, which SQLite reports as an I/O error.
const NO_ROOM_FOR_SHM: i32 = rusqlite::ffi::SQLITE_IOERR_SHMSIZE;

/// The kinds of trouble with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Another program holds the file.
    Busy,
    /// The disk is full.
    Full,
    /// The disk fails.
    Disk,
    /// The file is damaged, or is no database.
    Damage,
    /// This user may not write the file or its directory, or it is no file.
    NotWritable,
    /// None with the file: SQL that fails.
    Other,
}

impl Trouble {
    /// Returns the kind of SQLite's error.
    pub fn of(error: &rusqlite::Error) -> Trouble {
        if error.sqlite_error().is_some_and(|e| e.extended_code == NO_ROOM_FOR_SHM) {
            return Trouble::Full;
        }
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Trouble::Busy,
            Some(ErrorCode::DiskFull) => Trouble::Full,
            Some(ErrorCode::SystemIoFailure) => Trouble::Disk,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Trouble::Damage,
            Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => Trouble::NotWritable,
            _ => Trouble::Other,
        }
    }

    /// Returns what to do, to stand behind SQLite's own words; empty where only those words help.
    pub fn hint(self) -> &'static str {
        match self {
            Trouble::Busy => "; another program is writing to it, try again in a moment",
            Trouble::Full => "; make room and try again, nothing that was committed is lost",
            Trouble::Disk => "; check that the disk has room and is healthy, then try again",
            Trouble::Damage => "; the file is damaged or is no SQLite database: check the path, or put a backup back",
            Trouble::NotWritable => "; check the path, and that this user may write the file and its directory (SQLite keeps a -wal and a -shm file beside it)",
            Trouble::Other => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_trouble_is_known_by_sqlite_s_code() {
        let of = |code| Trouble::of(&rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None));
        assert_eq!(of(rusqlite::ffi::SQLITE_BUSY), Trouble::Busy);
        assert_eq!(of(rusqlite::ffi::SQLITE_FULL), Trouble::Full);
        assert_eq!(of(rusqlite::ffi::SQLITE_IOERR_SHMSIZE), Trouble::Full);
        assert_eq!(of(rusqlite::ffi::SQLITE_IOERR_WRITE), Trouble::Disk);
        assert_eq!(of(rusqlite::ffi::SQLITE_NOTADB), Trouble::Damage);
        assert_eq!(of(rusqlite::ffi::SQLITE_READONLY_DIRECTORY), Trouble::NotWritable);
        assert_eq!(of(rusqlite::ffi::SQLITE_CANTOPEN_ISDIR), Trouble::NotWritable);
        assert_eq!(of(rusqlite::ffi::SQLITE_CONSTRAINT), Trouble::Other);
    }
}
