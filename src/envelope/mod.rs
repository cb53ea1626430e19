//! The value formats: bytes in, bytes out. No I/O, no async, no clock, no look-up of keys.
//!
//! `docs/formats.md` is the specification, and each cipher names the section that it implements. Every cipher writes
//! into buffers that its caller owns, so that a loop over a table allocates nothing once they are warm.
//!
//! Invariant: nothing here tells a format from a value's first byte. [`Shape`] says what the structure allows, and
//! only a tag decides.

mod aead;
mod encoding;
mod id;
pub mod v1;
pub mod v2;
pub mod v3;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use encoding::Encoding;
pub use id::{InvalidId, KeyId, StaticId};

/// The formats that an encrypted value can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// *Static*: sealed under a key from configuration, with no header. See [`v1`].
    V1,
    /// *Wrapped*: carries its own data key, wrapped by a KMS. See [`v2`].
    V2,
    /// *Bound*: names a data key of the registry, and opens in one cell only. See [`v3`].
    V3,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::V3 => "v3",
        })
    }
}

/// The text is not the name of a format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the formats are v1, v2 and v3")]
pub struct UnknownFormat;

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, UnknownFormat> {
        match text {
            "v1" => Ok(Self::V1),
            "v2" => Ok(Self::V2),
            "v3" => Ok(Self::V3),
            _ => Err(UnknownFormat),
        }
    }
}

/// The place that a v3 value is bound to: one column of one row.
///
/// `table` is the logical name under which the target is registered. `row` is the primary key as text: a uuid in
/// lower case with hyphens, an integer in decimal without `+` or leading zeros, text exactly as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cell<'a> {
    /// The logical name of the table.
    pub table: &'a str,
    /// The name of the column.
    pub column: &'a str,
    /// The primary key, as text.
    pub row: &'a str,
}

/// The value was not sealed under this key in this form, or was changed since.
///
/// A value too short to hold a nonce and a tag has no tag that could match, and fails the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the authentication tag does not match")]
pub struct TagMismatch;

/// What the structure of a value allows it to be. Never a verdict: several can hold at once, and only a tag decides.
///
/// A v1 value begins with a random byte, so that one in 128 has the first byte of another format, and some of those
/// have its lengths too. Try the readings in the order of the fields. A value that allows none is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape<'a> {
    /// The key id that the value names if it is v3. Counts only if the registry holds that id.
    pub v3: Option<KeyId>,
    /// The value's parts if it is v2.
    pub v2: Option<v2::Wrapped<'a>>,
    /// Whether the value is long enough for v1, as every v2 and v3 value is too.
    pub v1: bool,
}

impl<'a> Shape<'a> {
    /// The readings that the bytes of `value` allow.
    pub fn of(value: &'a [u8]) -> Self {
        Self { v3: v3::named_key(value), v2: v2::Wrapped::parse(value), v1: value.len() >= aead::OVERHEAD }
    }
}

/// Whether `value` begins with the first byte of a v2 or a v3 value, whatever its format is.
///
/// A reader that branches on that byte takes such a v1 value for another format, and can't open it.
pub fn is_ambiguous_first_byte(value: &[u8]) -> bool {
    matches!(value.first(), Some(&(v2::FIRST_BYTE | v3::FIRST_BYTE)))
}
