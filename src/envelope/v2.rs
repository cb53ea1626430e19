//! Format v2, *wrapped*: `0x02 ‖ len:u16 ‖ encrypted_dek[len] ‖ nonce[12] ‖ ct ‖ tag[16]`, where a KMS unwraps
//! `encrypted_dek` to the data key.
//!
//! The header is not authenticated: a changed `encrypted_dek` is for the KMS to refuse. Source: docs/formats.md §4.

use thiserror::Error;

use super::{TagMismatch, aead, aead::Aead};
use crate::secret::{DataKey, Plaintext};

pub(super) const FIRST_BYTE: u8 = 0x02;

/// The longest `encrypted_dek` in bytes, which is the longest ciphertext that AWS KMS Decrypt takes.
pub const MAX_ENCRYPTED_DEK_LEN: usize = 6144;

/// The parts of a value whose structure is that of v2, which proves nothing about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrapped<'a> {
    /// The wrapped data key, for the KMS to unwrap; 1 to 6144 bytes.
    pub encrypted_dek: &'a [u8],
    sealed: &'a [u8],
}

impl<'a> Wrapped<'a> {
    /// The parts of `value`, or `None` if its structure is not that of v2.
    pub fn parse(value: &'a [u8]) -> Option<Self> {
        let rest = value.strip_prefix(&[FIRST_BYTE])?;
        let (len, rest) = rest.split_first_chunk()?;
        let (encrypted_dek, sealed) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
        check(encrypted_dek).ok()?;
        (sealed.len() >= aead::OVERHEAD).then_some(Self { encrypted_dek, sealed })
    }

    /// Replaces the contents of `out` with the same sealed bytes behind another `encrypted_dek`. That it unwraps to the
    /// same data key is for the caller to prove.
    ///
    /// # Errors
    /// `encrypted_dek` is empty or longer than 6144 bytes; `out` is then empty.
    pub fn rewrapped_into(&self, encrypted_dek: &[u8], out: &mut Vec<u8>) -> Result<(), EncryptedDekLength> {
        out.clear();
        let len = check(encrypted_dek)?;
        out.push(FIRST_BYTE);
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(encrypted_dek);
        out.extend_from_slice(self.sealed);
        Ok(())
    }
}

/// The wrapped data key can't stand in a v2 value: it is not 1 to 6144 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "a wrapped data key of {len} bytes does not fit a v2 value, which holds 1 to {MAX_ENCRYPTED_DEK_LEN}"
)]
pub struct EncryptedDekLength {
    /// Its length in bytes.
    pub len: usize,
}

/// Seals and opens v2 values under one data key, which it holds expanded.
pub struct RowCipher(Aead);

impl RowCipher {
    /// Expands `key`.
    pub fn new(key: &DataKey) -> Self {
        Self(Aead::new(key.expose()))
    }

    /// Replaces the contents of `out` with a v2 value of `plaintext`.
    ///
    /// Construction:
    /// `0x02 ‖ len(encrypted_dek) ‖ encrypted_dek ‖ nonce ‖ AES-256-GCM(data key, nonce, plaintext, AAD = "")`.
    /// That the KMS unwraps `encrypted_dek` to this data key is for the caller to prove before the value is stored.
    ///
    /// # Errors
    /// `encrypted_dek` is empty or longer than 6144 bytes; `out` is then empty.
    pub fn seal_into(
        &self,
        encrypted_dek: &[u8],
        plaintext: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), EncryptedDekLength> {
        out.clear();
        let len = check(encrypted_dek)?;
        out.reserve(3 + encrypted_dek.len() + aead::OVERHEAD + plaintext.len());
        out.push(FIRST_BYTE);
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(encrypted_dek);
        self.0.seal_onto(&aead::random_nonce(), b"", plaintext, out);
        Ok(())
    }

    /// Opens a value into `out`, whose old contents are wiped.
    ///
    /// # Errors
    /// The value is not one sealed under this data key; `out` is then empty.
    pub fn open_into(&self, value: &Wrapped<'_>, out: &mut Plaintext) -> Result<(), TagMismatch> {
        self.0.open_into(value.sealed, b"", out)
    }
}

/// The length of `encrypted_dek` as the header holds it, if it is one that the format allows.
fn check(encrypted_dek: &[u8]) -> Result<u16, EncryptedDekLength> {
    match u16::try_from(encrypted_dek.len()) {
        Ok(len) if (1..=MAX_ENCRYPTED_DEK_LEN).contains(&encrypted_dek.len()) => Ok(len),
        _ => Err(EncryptedDekLength { len: encrypted_dek.len() }),
    }
}
