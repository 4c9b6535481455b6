//! What can go wrong in a replica. Conflicts, refusals and clashes are outcomes and are not here.

use crate::schema::SchemaError;
use crate::trouble::Trouble;
use syncline_core::DecodeError;

/// Why a replica could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// SQLite refused or failed.
    #[error("{doing}: {cause}{}", Trouble::of(cause).hint())]
    Sqlite {
        /// What was being done.
        doing: &'static str,
        /// SQLite's word.
        cause: rusqlite::Error,
    },
    /// Bytes that do not decode.
    #[error("{doing}: {cause}")]
    Decode {
        /// What was being read.
        doing: &'static str,
        /// Why not.
        cause: DecodeError,
    },
    /// A table cannot be synced.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The file has no sidecar.
    #[error("this database is not prepared for sync; run `syncline init` on it first")]
    NotInitialised,
    /// The sidecar was written by a later program.
    #[error("the sidecar has format {0}, this program knows {1}; update syncline")]
    Format(i64, i64),
    /// The sidecar contradicts itself.
    #[error("the sidecar is damaged: {0}; run `syncline doctor --fix`")]
    Damaged(String),
    /// A sender left out columns of a row that is not here.
    #[error("row {key} of table `{table}` came in part, and is not here to be completed; run `syncline resync` to read everything anew")]
    Incomplete {
        /// Table.
        table: String,
        /// Key, for people.
        key: String,
    },
    /// What a person asked for cannot be done.
    #[error("{0}")]
    Refused(String),
}

impl Error {
    /// Returns what is wrong with the file, if anything is.
    pub fn trouble(&self) -> Trouble {
        match self {
            Error::Damaged(_) => Trouble::Damage,
            Error::Sqlite { cause, .. } => Trouble::of(cause),
            _ => Trouble::Other,
        }
    }
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Adds what was being done to an error of a lower layer.
pub trait Doing<T> {
    /// Names the work, in words that fit before a colon.
    fn doing(self, what: &'static str) -> Result<T>;
}

impl<T> Doing<T> for rusqlite::Result<T> {
    fn doing(self, doing: &'static str) -> Result<T> {
        self.map_err(|cause| Error::Sqlite { doing, cause })
    }
}

impl<T> Doing<T> for std::result::Result<T, DecodeError> {
    fn doing(self, doing: &'static str) -> Result<T> {
        self.map_err(|cause| Error::Decode { doing, cause })
    }
}
