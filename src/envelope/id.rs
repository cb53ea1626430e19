//! Names for keys that say nothing about the key: HKDF outputs of 16 bytes.

use std::{fmt, str::FromStr};

use hkdf::Hkdf;
use serde::{Serialize, Serializer};
use sha2::Sha256;
use thiserror::Error;

/// The length in bytes of every key's id.
pub(super) const ID_LEN: usize = 16;

/// The text is not the id of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a key's id is {} lower-case hexadecimal digits", 2 * ID_LEN)]
pub struct InvalidId;

/// `HKDF-Expand(PRK, info, 16)`, with the PRK that `hkdf` holds.
pub(super) fn derive(hkdf: &Hkdf<Sha256>, info: &[u8]) -> [u8; ID_LEN] {
    let mut id = [0; ID_LEN];
    hkdf.expand(info, &mut id).expect("HKDF-SHA256 gives up to 8160 bytes");
    id
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; ID_LEN]);

        impl $name {
            /// The id that was stored as these bytes.
            pub const fn from_bytes(bytes: [u8; ID_LEN]) -> Self {
                Self(bytes)
            }

            /// The id's bytes, as stored.
            pub const fn as_bytes(&self) -> &[u8; ID_LEN] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let mut id = [0; ID_LEN];
                if text.bytes().any(|digit| digit.is_ascii_uppercase()) {
                    return Err(InvalidId);
                }
                hex::decode_to_slice(text, &mut id).map_err(|_| InvalidId)?;
                Ok(Self(id))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

id_type! {
    /// The id of a v3 data key, which commits to the key: it stands in every value and in the registry.
    ///
    /// Construction: `HKDF-SHA256(data key, salt "", info "reseal v3 key id", 16)`. Source: docs/formats.md §5.
    KeyId
}

id_type! {
    /// The id of a static key, stored with a run and shown in its plan, so that two keys can be told apart in public.
    ///
    /// Construction: `HKDF-SHA256(key, salt "", info "reseal static key id", 16)`. Source: docs/formats.md §3.
    StaticId
}
