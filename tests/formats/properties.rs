//! What holds for every value: it opens where it was sealed, and nothing else does.

use proptest::{collection::vec, prelude::*, sample::Index};
use reseal::envelope::{
    Cell, Encoding, Format, KeyId, Shape, StaticId, TagMismatch, is_ambiguous_first_byte,
    v2::{EncryptedDekLength, MAX_ENCRYPTED_DEK_LEN, Wrapped},
    v3::OpenError,
};
use reseal::secret::Plaintext;

use super::{bound_key, row_cipher, static_cipher};

/// One change that leaves a value different: a bit flipped, bytes cut off, bytes added.
#[derive(Clone, Debug)]
enum Change {
    Flip(Index, u8),
    Truncate(Index),
    Extend(Vec<u8>),
}

impl Change {
    fn apply(&self, value: &[u8]) -> Vec<u8> {
        let mut changed = value.to_vec();
        match self {
            Self::Flip(at, bit) => changed[at.index(value.len())] ^= 1 << bit,
            Self::Truncate(at) => changed.truncate(at.index(value.len())),
            Self::Extend(bytes) => changed.extend_from_slice(bytes),
        }
        changed
    }
}

fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (any::<Index>(), 0..8u8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        1 => any::<Index>().prop_map(Change::Truncate),
        1 => vec(any::<u8>(), 1..40).prop_map(Change::Extend),
    ]
}

fn any_plaintext() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..300)
}

proptest! {
    #[test]
    fn v1_round_trips_and_a_changed_value_fails(plaintext in any_plaintext(), change in any_change()) {
        let (cipher, mut value, mut out) = (static_cipher(1), Vec::new(), Plaintext::new());
        cipher.seal_into(&plaintext, &mut value);
        prop_assert_eq!(value.len(), 28 + plaintext.len());
        cipher.open_into(&value, &mut out).unwrap();
        prop_assert_eq!(out.expose(), &plaintext[..]);

        prop_assert_eq!(cipher.open_into(&change.apply(&value), &mut out), Err(TagMismatch));
        prop_assert_eq!(static_cipher(2).open_into(&value, &mut out), Err(TagMismatch));
        prop_assert_eq!(out.expose(), b"");
    }

    #[test]
    fn v2_round_trips_and_a_changed_value_fails_here_or_at_the_kms(
        dek in vec(any::<u8>(), 1..300),
        plaintext in any_plaintext(),
        change in any_change(),
    ) {
        let (cipher, mut value, mut out) = (row_cipher(1), Vec::new(), Plaintext::new());
        cipher.seal_into(&dek, &plaintext, &mut value).unwrap();
        prop_assert_eq!(value.len(), 31 + dek.len() + plaintext.len());
        let wrapped = Wrapped::parse(&value).unwrap();
        prop_assert_eq!(wrapped.encrypted_dek, &dek[..]);
        cipher.open_into(&wrapped, &mut out).unwrap();
        prop_assert_eq!(out.expose(), &plaintext[..]);
        prop_assert_eq!(row_cipher(2).open_into(&wrapped, &mut out), Err(TagMismatch));

        if let Some(wrapped) = Wrapped::parse(&change.apply(&value)) {
            let refused_here = cipher.open_into(&wrapped, &mut out).is_err();
            prop_assert!(refused_here || wrapped.encrypted_dek != &dek[..]);
        }
    }

    #[test]
    fn v3_round_trips_and_a_changed_value_fails(
        row in ".{0,40}",
        plaintext in any_plaintext(),
        change in any_change(),
    ) {
        let column = bound_key(1).for_column("tenants", "url");
        let (mut value, mut out) = (Vec::new(), Plaintext::new());
        column.seal_into(&row, &plaintext, &mut value);
        prop_assert_eq!(value.len(), 45 + plaintext.len());
        prop_assert_eq!(Shape::of(&value).v3, Some(column.key_id()));
        column.open_into(&row, &value, &mut out).unwrap();
        prop_assert_eq!(out.expose(), &plaintext[..]);

        prop_assert!(column.open_into(&row, &change.apply(&value), &mut out).is_err());
        prop_assert_eq!(out.expose(), b"");
        let other = bound_key(2).for_column("tenants", "url").open_into(&row, &value, &mut out);
        prop_assert_eq!(other, Err(OpenError::OtherKey(column.key_id())));
    }

    /// The names are short, so that many pairs of cells join to the same text.
    #[test]
    fn v3_opens_in_its_own_cell_only(
        own in ("[ab]{0,2}", "[ab]{0,2}", "[ab]{0,2}"),
        other in ("[ab]{0,2}", "[ab]{0,2}", "[ab]{0,2}"),
    ) {
        let (key, mut value, mut out) = (bound_key(1), Vec::new(), Plaintext::new());
        let cell = |names: &'_ (String, String, String)| names.clone();
        let ((table, column, row), (table2, column2, row2)) = (cell(&own), cell(&other));
        key.seal_into(&Cell { table: &table, column: &column, row: &row }, b"secret", &mut value);
        let opened = key.open_into(&Cell { table: &table2, column: &column2, row: &row2 }, &value, &mut out);
        prop_assert_eq!(opened, if own == other { Ok(()) } else { Err(OpenError::Tag(TagMismatch)) });
    }

    /// Any bytes at all, with the first bytes of each format made likely.
    #[test]
    fn a_shape_is_total_and_says_what_the_lengths_allow(
        first in prop_oneof![Just(2), Just(3), any::<u8>()],
        len in 0..80u16,
        rest in vec(any::<u8>(), 0..120),
    ) {
        for value in [&rest[..], &[&[first], &len.to_be_bytes()[..], &rest].concat()] {
            let shape = Shape::of(value);
            prop_assert_eq!(shape.v1, value.len() >= 28);
            prop_assert_eq!(shape.v3.is_some(), value.len() >= 45 && value[0] == 3);
            prop_assert_eq!(shape.v2, Wrapped::parse(value));
            if let Some(wrapped) = shape.v2 {
                prop_assert_eq!(value[0], 2);
                prop_assert!(value.len() >= 31 + wrapped.encrypted_dek.len());
            }
        }
    }

    #[test]
    fn encodings_round_trip(value in vec(any::<u8>(), 0..200)) {
        for encoding in [Encoding::Bytes, Encoding::Base64] {
            let (mut stored, mut buffer) = (b"an earlier value".to_vec(), Vec::new());
            encoding.encode_into(&value, &mut stored);
            prop_assert_eq!(encoding.decode(&stored, &mut buffer), Some(&value[..]));
        }
    }

    /// One value has one stored form, so that comparing stored text compares values.
    #[test]
    fn base64_that_decodes_is_what_encoding_gives(text in "[A-D/+=_ \n-]{0,12}") {
        let (mut buffer, mut again) = (Vec::new(), Vec::new());
        if let Some(value) = Encoding::Base64.decode(text.as_bytes(), &mut buffer) {
            Encoding::Base64.encode_into(value, &mut again);
            prop_assert_eq!(again, text.as_bytes());
        }
    }

    #[test]
    fn ids_read_what_they_print(bytes in any::<[u8; 16]>(), text in "[0-9a-fA]{31,33}") {
        let (key_id, static_id) = (KeyId::from_bytes(bytes), StaticId::from_bytes(bytes));
        prop_assert_eq!(key_id.to_string(), hex::encode(bytes));
        prop_assert_eq!(format!("{static_id:?}"), format!("StaticId({})", hex::encode(bytes)));
        prop_assert_eq!(key_id.to_string().parse(), Ok(key_id));
        prop_assert_eq!(static_id.to_string().parse(), Ok(static_id));
        prop_assert_eq!(serde_json::to_string(&key_id).unwrap(), format!("\"{key_id}\""));
        if let Ok(read) = text.parse::<KeyId>() {
            prop_assert_eq!(read.to_string(), text);
        }
    }
}

/// By chance alone, 20,000 seals would start with 0x02 or 0x03 about 156 times.
#[test]
fn v1_is_never_sealed_with_the_first_byte_of_another_format() {
    let (cipher, mut value) = (static_cipher(1), Vec::new());
    let mut seen = [0u32; 256];
    for _ in 0..20_000 {
        cipher.seal_into(b"", &mut value);
        assert!(!is_ambiguous_first_byte(&value));
        seen[usize::from(value[0])] += 1;
    }
    let missing: Vec<_> = (0..256).filter(|first| seen[*first] == 0).collect();
    assert_eq!(missing, [2, 3], "every other first byte is drawn: 79 times each, on average");
}

#[test]
fn no_nonce_comes_twice() {
    let (v1, v2, v3) = (static_cipher(1), row_cipher(1), bound_key(1).for_column("t", "c"));
    let mut value = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for _ in 0..10_000 {
        v1.seal_into(b"", &mut value);
        assert!(seen.insert(value[..12].to_vec()));
        v2.seal_into(b"k", b"", &mut value).unwrap();
        assert!(seen.insert(value[4..16].to_vec()));
        v3.seal_into("r", b"", &mut value);
        assert!(seen.insert(value[17..29].to_vec()));
    }
}

#[test]
fn a_wrapped_key_that_no_reader_takes_is_not_sealed() {
    let (cipher, mut value) = (row_cipher(1), b"an earlier value".to_vec());
    for len in [0, MAX_ENCRYPTED_DEK_LEN + 1, 70_000] {
        let refused = cipher.seal_into(&vec![0; len], b"secret", &mut value);
        assert_eq!(refused, Err(EncryptedDekLength { len }));
        assert_eq!(value, b"");
    }
    cipher.seal_into(&[0; MAX_ENCRYPTED_DEK_LEN], b"secret", &mut value).unwrap();
    assert_eq!(Wrapped::parse(&value).unwrap().encrypted_dek.len(), MAX_ENCRYPTED_DEK_LEN);
}

#[test]
fn warm_buffers_are_not_allocated_again() {
    let (v1, v3) = (static_cipher(1), bound_key(1).for_column("t", "c"));
    let (mut value, mut out) = (Vec::new(), Plaintext::new());
    v3.seal_into("r", &[0; 500], &mut value);
    v3.open_into("r", &value, &mut out).unwrap();
    let warm = (value.as_ptr(), value.capacity(), out.expose().as_ptr());
    for len in [500, 0, 77, 499] {
        v1.seal_into(&vec![1; len], &mut value);
        v1.open_into(&value, &mut out).unwrap();
        assert_eq!(out.expose().len(), len);
        assert_eq!((value.as_ptr(), value.capacity(), out.expose().as_ptr()), warm);
    }
}

#[test]
fn formats_have_the_names_of_the_specification() {
    for (format, name) in [(Format::V1, "v1"), (Format::V2, "v2"), (Format::V3, "v3")] {
        assert_eq!(format.to_string(), name);
        assert_eq!(name.parse(), Ok(format));
        assert_eq!(serde_json::to_string(&format).unwrap(), format!("\"{name}\""));
    }
    for text in ["", "V1", "v4", "v1 "] {
        let error = text.parse::<Format>().unwrap_err();
        assert_eq!(error.to_string(), "the formats are v1, v2 and v3");
    }
}
