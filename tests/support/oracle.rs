//! A second, independent implementation of the value formats, so that the suite can check every plaintext without
//! trusting the code under test. Written from the specification in `docs/formats.md` and kept as plain as it is
//! there; it shares nothing with `src/envelope` but the cryptographic primitives.
//!
//! A reader returns `None` for whatever it must reject.

use aes_gcm::{
    Aes256Gcm, KeyInit, Nonce,
    aead::{Aead, Payload},
};
use hkdf::Hkdf;
use sha2::Sha256;

/// An AES-256 key: a static key or a data key.
pub(crate) type Key = [u8; 32];

const NONCE: usize = 12;
const TAG: usize = 16;
const KEY_ID: usize = 16;
const LONGEST_ENCRYPTED_DEK: usize = 6144;

/// The place that a v3 value is bound to. `row` is the primary key as text.
#[derive(Clone, Copy)]
pub(crate) struct Cell<'a> {
    pub(crate) table: &'a str,
    pub(crate) column: &'a str,
    pub(crate) row: &'a str,
}

/// `nonce ‖ ct ‖ tag`, under a random nonce unless one is given.
pub(crate) fn seal_v1(key: &Key, nonce: Option<[u8; NONCE]>, plaintext: &[u8]) -> Vec<u8> {
    let nonce = nonce.unwrap_or_else(rand::random);
    let sealed = cipher(key).encrypt(&Nonce::from(nonce), plaintext).expect("far below GCM's limit");
    [&nonce, &*sealed].concat()
}

/// Opens a v1 value under a static key.
pub(crate) fn open_v1(key: &Key, value: &[u8]) -> Option<Vec<u8>> {
    open(key, value, &[])
}

/// A v1 value whose first byte, which is random in the wild, looks like the header of another format.
pub(crate) fn v1_with_first_byte(key: &Key, first: u8, plaintext: &[u8]) -> Vec<u8> {
    let mut nonce: [u8; NONCE] = rand::random();
    nonce[0] = first;
    seal_v1(key, Some(nonce), plaintext)
}

/// A v1 value that is also a well-formed v2 value, up to the tags: its nonce begins with 0x02 and a length that fits.
/// The plaintext must have at least 4 bytes, as no shorter v1 value is long enough for a v2 value.
pub(crate) fn v1_that_parses_as_v2(key: &Key, plaintext: &[u8]) -> Vec<u8> {
    let longest = NONCE + plaintext.len() + TAG - (3 + NONCE + TAG);
    let length = rand::random_range(1..=longest.min(LONGEST_ENCRYPTED_DEK));
    let mut nonce: [u8; NONCE] = rand::random();
    nonce[0] = 0x02;
    nonce[1..3].copy_from_slice(&u16::try_from(length).expect("at most 6144").to_be_bytes());
    seal_v1(key, Some(nonce), plaintext)
}

/// `0x02 ‖ len:u16 ‖ encrypted_dek ‖ nonce ‖ ct ‖ tag`.
pub(crate) fn seal_v2(data_key: &Key, encrypted_dek: &[u8], plaintext: &[u8]) -> Vec<u8> {
    let length = u16::try_from(encrypted_dek.len()).expect("at most 6144");
    [&[0x02], &length.to_be_bytes()[..], encrypted_dek, &seal_v1(data_key, None, plaintext)].concat()
}

/// The two parts of a v2 value: its encrypted data key, and what that data key opens.
pub(crate) fn split_v2(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let (header, rest) = value.split_first_chunk::<3>()?;
    let length = usize::from(u16::from_be_bytes([header[1], header[2]]));
    if header[0] != 0x02 || length == 0 || length > LONGEST_ENCRYPTED_DEK {
        return None;
    }
    let (encrypted_dek, sealed) = rest.split_at_checked(length)?;
    (sealed.len() >= NONCE + TAG).then_some((encrypted_dek, sealed))
}

/// Opens a v2 value with the data key that `unwrap` finds for its encrypted one.
pub(crate) fn open_v2(value: &[u8], unwrap: impl FnOnce(&[u8]) -> Option<Key>) -> Option<Vec<u8>> {
    let (encrypted_dek, sealed) = split_v2(value)?;
    open(&unwrap(encrypted_dek)?, sealed, &[])
}

/// `0x03 ‖ key_id ‖ nonce ‖ ct ‖ tag`, bound to `cell`.
pub(crate) fn seal_v3(data_key: &Key, cell: Cell<'_>, plaintext: &[u8]) -> Vec<u8> {
    let header = [&[0x03][..], &key_id(data_key)].concat();
    let nonce: [u8; NONCE] = rand::random();
    let payload = Payload { msg: plaintext, aad: &header };
    let sealed = cipher(&cell_key(data_key, cell)).encrypt(&Nonce::from(nonce), payload);
    [&header, &nonce[..], &sealed.expect("far below GCM's limit")].concat()
}

/// Opens the v3 value of `cell` with the data key that `find` has for its key id.
pub(crate) fn open_v3(
    value: &[u8],
    cell: Cell<'_>,
    find: impl FnOnce([u8; KEY_ID]) -> Option<Key>,
) -> Option<Vec<u8>> {
    let (header, sealed) = value.split_first_chunk::<{ 1 + KEY_ID }>()?;
    let id = header[1..].try_into().expect("17 bytes less one");
    if header[0] != 0x03 {
        return None;
    }
    let data_key = find(id).filter(|data_key| key_id(data_key) == id)?;
    open(&cell_key(&data_key, cell), sealed, header)
}

/// What names a data key: `HKDF(data key, "", "reseal v3 key id", 16)`.
pub(crate) fn key_id(data_key: &Key) -> [u8; KEY_ID] {
    hkdf(data_key, b"reseal v3 key id")
}

/// What names a static key: `HKDF(key, "", "reseal static key id", 16)`.
pub(crate) fn static_id(key: &Key) -> [u8; KEY_ID] {
    hkdf(key, b"reseal static key id")
}

fn cell_key(data_key: &Key, cell: Cell<'_>) -> Key {
    let mut info = b"reseal v3 value".to_vec();
    for part in [cell.table, cell.column, cell.row] {
        info.extend(u32::try_from(part.len()).expect("names and keys are short").to_be_bytes());
        info.extend(part.as_bytes());
    }
    hkdf(data_key, &info)
}

fn hkdf<const N: usize>(ikm: &Key, info: &[u8]) -> [u8; N] {
    let mut output = [0; N];
    Hkdf::<Sha256>::new(None, ikm).expand(info, &mut output).expect("at most 255 hashes long");
    output
}

fn open(key: &Key, sealed: &[u8], aad: &[u8]) -> Option<Vec<u8>> {
    let (nonce, msg) = sealed.split_first_chunk::<NONCE>()?;
    cipher(key).decrypt(&Nonce::from(*nonce), Payload { msg, aad }).ok()
}

fn cipher(key: &Key) -> Aes256Gcm {
    Aes256Gcm::new(&(*key).into())
}
