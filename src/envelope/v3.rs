//! Format v3, *bound*: `0x03 ‖ key_id[16] ‖ nonce[12] ‖ ct ‖ tag[16]`, under a key of its own that is derived from a
//! data key of the registry and from the cell.
//!
//! Invariant: a value opens only in the cell that it was sealed for. Whether the registry lets a key open or seal is
//! not known here. Source: docs/formats.md §5.

use hkdf::Hkdf;
use sha2::Sha256;
use thiserror::Error;
use zeroize::Zeroizing;

use super::{Cell, KeyId, TagMismatch, aead, aead::Aead, id};
use crate::secret::{DataKey, KEY_LEN, Plaintext};

pub(super) const FIRST_BYTE: u8 = 0x03;

/// `0x03 ‖ key_id`, which is also the associated data.
const HEADER_LEN: usize = 1 + id::ID_LEN;

const ID_INFO: &[u8] = b"reseal v3 key id";
const VALUE_INFO: &[u8] = b"reseal v3 value";

/// The id of a data key. A reader recomputes it from the unwrapped key, and refuses a key that has another.
///
/// Construction: `HKDF-SHA256(data key, salt "", info "reseal v3 key id", 16)`.
pub fn key_id(key: &DataKey) -> KeyId {
    BoundKey::new(key).key_id
}

/// A value did not open in a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OpenError {
    /// The bytes don't have the structure of v3.
    #[error("the value is not in format v3")]
    Structure,
    /// The value names another data key.
    #[error("the value is under data key {0}, not under this one")]
    OtherKey(KeyId),
    /// The data key is the one that the value names: the value was changed, or moved from another cell.
    #[error(transparent)]
    Tag(#[from] TagMismatch),
}

/// A data key of the registry, ready to derive from.
pub struct BoundKey {
    hkdf: Hkdf<Sha256>,
    key_id: KeyId,
}

impl BoundKey {
    /// Does the part of the derivation that depends on the data key alone, once.
    pub fn new(key: &DataKey) -> Self {
        let hkdf = Hkdf::new(None, key.expose());
        let key_id = KeyId::from_bytes(id::derive(&hkdf, ID_INFO));
        Self { hkdf, key_id }
    }

    /// The id of the data key.
    pub fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// The cipher for the values of one column.
    pub fn for_column(&self, table: &str, column: &str) -> ColumnCipher {
        let info =
            [VALUE_INFO, &length(table), table.as_bytes(), &length(column), column.as_bytes()].concat();
        let mut header = [FIRST_BYTE; HEADER_LEN];
        header[1..].copy_from_slice(self.key_id.as_bytes());
        ColumnCipher { hkdf: self.hkdf.clone(), info, header, key_id: self.key_id }
    }

    /// Seals one value; see [`ColumnCipher::seal_into`], which is for many of one column.
    pub fn seal_into(&self, cell: &Cell<'_>, plaintext: &[u8], out: &mut Vec<u8>) {
        self.for_column(cell.table, cell.column).seal_into(cell.row, plaintext, out);
    }

    /// Opens one value; see [`ColumnCipher::open_into`], which is for many of one column.
    ///
    /// # Errors
    /// As there.
    pub fn open_into(&self, cell: &Cell<'_>, value: &[u8], out: &mut Plaintext) -> Result<(), OpenError> {
        self.for_column(cell.table, cell.column).open_into(cell.row, value, out)
    }
}

/// Seals and opens the v3 values of one column under one data key.
pub struct ColumnCipher {
    hkdf: Hkdf<Sha256>,
    /// `"reseal v3 value" ‖ lp(table) ‖ lp(column)`.
    info: Vec<u8>,
    header: [u8; HEADER_LEN],
    key_id: KeyId,
}

impl ColumnCipher {
    /// The id of the data key.
    pub fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// Replaces the contents of `out` with a v3 value of `plaintext`, bound to this column of row `row`.
    ///
    /// Construction: `0x03 ‖ key_id ‖ nonce ‖ AES-256-GCM(K, nonce, plaintext, AAD = 0x03 ‖ key_id)`, where
    /// `K = HKDF-SHA256(data key, "", "reseal v3 value" ‖ lp(table) ‖ lp(column) ‖ lp(row), 32)`.
    pub fn seal_into(&self, row: &str, plaintext: &[u8], out: &mut Vec<u8>) {
        out.clear();
        out.reserve(HEADER_LEN + aead::OVERHEAD + plaintext.len());
        out.extend_from_slice(&self.header);
        self.value_key(row).seal_onto(&aead::random_nonce(), &self.header, plaintext, out);
    }

    /// Opens `value`, found in this column of row `row`, into `out`, whose old contents are wiped.
    ///
    /// # Errors
    /// The value is not v3, is under another data key, or was changed or moved; `out` is then empty.
    pub fn open_into(&self, row: &str, value: &[u8], out: &mut Plaintext) -> Result<(), OpenError> {
        match named_key(value) {
            Some(key_id) if key_id == self.key_id => {
                Ok(self.value_key(row).open_into(&value[HEADER_LEN..], &self.header, out)?)
            }
            other => {
                out.clear();
                Err(other.map_or(OpenError::Structure, OpenError::OtherKey))
            }
        }
    }

    /// The key of the value in row `row`.
    fn value_key(&self, row: &str) -> Aead {
        let mut key = Zeroizing::new([0; KEY_LEN]);
        self.hkdf
            .expand_multi_info(&[&self.info, &length(row), row.as_bytes()], &mut *key)
            .expect("HKDF-SHA256 gives up to 8160 bytes");
        Aead::new(&key)
    }
}

/// The key id in the header of `value`, if its structure is that of v3.
pub(super) fn named_key(value: &[u8]) -> Option<KeyId> {
    let rest = value.strip_prefix(&[FIRST_BYTE])?;
    let (key_id, sealed) = rest.split_first_chunk()?;
    (sealed.len() >= aead::OVERHEAD).then_some(KeyId::from_bytes(*key_id))
}

/// The length that `lp(x) = len(x):u32 ‖ x` puts before a name.
fn length(name: &str) -> [u8; 4] {
    u32::try_from(name.len()).expect("no database holds a name or a key of 4 GiB").to_be_bytes()
}
