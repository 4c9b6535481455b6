//! Errors of decoding. Conflicts and refusals are outcomes, not errors, and live in `protocol`.

/// Why bytes could not be read as what they claim to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end too early.
    #[error("the bytes end too early")]
    Truncated,
    /// The bytes contradict the format.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// The sender speaks a version that this program does not know.
    #[error("format version {0} is not known here; update this program")]
    Version(u64),
    /// A limit of docs/protocol.md is passed.
    #[error("too large: {0}")]
    TooLarge(&'static str),
    /// Not MessagePack or JSON of the expected shape.
    #[error("not understood: {0}")]
    Shape(String),
}
