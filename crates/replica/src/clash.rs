//! What a constraint says when a table cannot hold a row: the reason and the words for a person.

use crate::error::Error;
use rusqlite::ffi;
use syncline_core::Reason;

/// Why a table cannot hold a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clash {
    /// The kind.
    pub reason: Reason,
    /// In words.
    pub message: String,
}

impl Clash {
    /// Returns the clash behind an error, if it is one; other errors are handed back.
    pub fn from_error(error: Error) -> Result<Clash, Error> {
        let Error::Sqlite { cause: rusqlite::Error::SqliteFailure(failure, text), doing } = error else { return Err(error) };
        let text = text.unwrap_or_default();
        let reason = match failure.extended_code {
            ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY | ffi::SQLITE_CONSTRAINT_ROWID => Reason::Unique,
            ffi::SQLITE_CONSTRAINT_NOTNULL => Reason::NotNull,
            ffi::SQLITE_CONSTRAINT_CHECK => Reason::Check,
            ffi::SQLITE_CONSTRAINT_FOREIGNKEY => Reason::ForeignKey,
            ffi::SQLITE_CONSTRAINT_DATATYPE => Reason::Type,
            ffi::SQLITE_CONSTRAINT_TRIGGER => return Ok(Clash::from_rule(&text)),
            ffi::SQLITE_MISMATCH => Reason::Type,
            ffi::SQLITE_TOOBIG => Reason::TooLarge,
            _ => return Err(Error::Sqlite { cause: rusqlite::Error::SqliteFailure(failure, Some(text)), doing }),
        };
        Ok(Clash { reason, message: in_words(reason, &text) })
    }

    /// Reads what a business rule raised: `code: text`, where the code may be one of the reasons.
    fn from_rule(text: &str) -> Clash {
        if let Some((code, rest)) = text.split_once(':')
            && let Some(reason) = Reason::parse(code.trim())
        {
            return Clash { reason, message: rest.trim().to_owned() };
        }
        Clash { reason: Reason::Rule, message: text.to_owned() }
    }
}

/// Says what SQLite's message means, keeping the columns that it names.
fn in_words(reason: Reason, text: &str) -> String {
    let what = text.split_once("failed: ").map_or(text, |x| x.1);
    let what = what.split(", ").filter(|c| !c.ends_with(".scope_id")).collect::<Vec<_>>().join(", ");
    match reason {
        Reason::Unique => format!("another row already has this value in {what}"),
        Reason::NotNull => format!("{what} must not be empty"),
        Reason::Check => format!("the check `{what}` does not hold"),
        Reason::ForeignKey => "it points at a row that does not exist".to_owned(),
        Reason::Type => format!("a value does not fit its column's type: {what}"),
        _ => text.to_owned(),
    }
}
