//! The value formats are what docs/formats.md says, and nothing else opens.

mod properties;
mod secrets;
mod specification;
mod vectors;

use reseal::{
    envelope::{v1::StaticCipher, v2::RowCipher, v3::BoundKey},
    secret::{DataKey, StaticKey},
};
use serde::Deserialize;

/// tests/vectors/formats.json, which an independent implementation wrote.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vectors {
    example: serde_json::Map<String, serde_json::Value>,
    ids: Vec<vectors::Ids>,
    cases: Vec<vectors::Case>,
    base64: Vec<vectors::Base64Case>,
}

impl Vectors {
    fn load() -> Self {
        serde_json::from_str(include_str!("vectors/formats.json")).unwrap()
    }
}

fn static_cipher(byte: u8) -> StaticCipher {
    StaticCipher::new(&StaticKey::from_slice(&[byte; 32]).unwrap())
}

fn row_cipher(byte: u8) -> RowCipher {
    RowCipher::new(&DataKey::from_slice(&[byte; 32]).unwrap())
}

fn bound_key(byte: u8) -> BoundKey {
    BoundKey::new(&DataKey::from_slice(&[byte; 32]).unwrap())
}
