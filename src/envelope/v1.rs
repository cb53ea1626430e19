//! Format v1, *static*: `nonce[12] ‖ ct ‖ tag[16]` under a key from configuration.
//!
//! There is no header, so nothing in the bytes says which key, or even which format: one value in 256 starts with
//! 0x02 and one with 0x03. Invariant: values sealed here start with neither. Source: docs/formats.md §3.

use hkdf::Hkdf;
use sha2::Sha256;

use super::{StaticId, TagMismatch, aead, aead::Aead, id, is_ambiguous_first_byte};
use crate::secret::{Plaintext, StaticKey};

const ID_INFO: &[u8] = b"reseal static key id";

/// Seals and opens v1 values under one static key, which it holds expanded.
pub struct StaticCipher {
    aead: Aead,
    id: StaticId,
}

impl StaticCipher {
    /// Expands `key`.
    pub fn new(key: &StaticKey) -> Self {
        let hkdf = Hkdf::<Sha256>::new(None, key.expose());
        Self { aead: Aead::new(key.expose()), id: StaticId::from_bytes(id::derive(&hkdf, ID_INFO)) }
    }

    /// The id of the key.
    pub fn id(&self) -> StaticId {
        self.id
    }

    /// Replaces the contents of `out` with a v1 value of `plaintext`.
    ///
    /// Construction: `nonce ‖ AES-256-GCM(key, nonce, plaintext, AAD = "")`. The nonce is drawn again until its first
    /// byte is neither 0x02 nor 0x03, for the sake of readers that take that byte for the format; it keeps 95.99 of
    /// its 96 bits.
    pub fn seal_into(&self, plaintext: &[u8], out: &mut Vec<u8>) {
        let mut nonce = aead::random_nonce();
        while is_ambiguous_first_byte(&nonce) {
            nonce = aead::random_nonce();
        }
        out.clear();
        self.aead.seal_onto(&nonce, b"", plaintext, out);
    }

    /// Opens `value` into `out`, whose old contents are wiped.
    ///
    /// # Errors
    /// The value is not one sealed under this key; `out` is then empty.
    pub fn open_into(&self, value: &[u8], out: &mut Plaintext) -> Result<(), TagMismatch> {
        self.aead.open_into(value, b"", out)
    }
}
