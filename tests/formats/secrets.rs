//! Secrets compare, and print nothing of themselves.

use std::fmt::Debug;

use reseal::secret::{DataKey, Plaintext, SecretText, StaticKey};

/// Bytes that are text too, so that they would be seen however they were printed.
const SECRET: [u8; 32] = *b"hunter2-hunter2-hunter2-hunter2-";

/// Every way to print the secret: as text, as hexadecimal, and as a list of numbers.
fn assert_prints_nothing(secret: &dyn Debug) {
    for printed in [format!("{secret:?}"), format!("{secret:#?}"), format!("{:?}", Some(secret))] {
        assert!(!printed.contains("hunter"), "{printed}");
        assert!(!printed.to_lowercase().contains("68756e"), "{printed}");
        assert!(!printed.contains("104") && !printed.contains("117"), "{printed}");
        assert!(printed.contains("(…)"), "{printed}");
    }
}

#[test]
fn debug_prints_the_type_and_nothing_of_the_value() {
    assert_prints_nothing(&StaticKey::from_slice(&SECRET).unwrap());
    assert_prints_nothing(&DataKey::from_slice(&SECRET).unwrap());
    assert_prints_nothing(&Plaintext::from(SECRET.to_vec()));
    assert_prints_nothing(&SecretText::new(String::from_utf8(SECRET.to_vec()).unwrap()));
}

#[test]
fn exposing_gives_what_was_put_in() {
    assert_eq!(*StaticKey::from_slice(&SECRET).unwrap().expose(), SECRET);
    assert_eq!(*DataKey::from_slice(&SECRET).unwrap().expose(), SECRET);
    assert_eq!(Plaintext::from(SECRET.to_vec()).expose(), SECRET);
    assert_eq!(SecretText::new("hunter2".to_owned()).expose(), "hunter2");
}

#[test]
fn a_key_is_32_bytes() {
    for len in [0, 16, 31, 33, 64] {
        assert_eq!(DataKey::from_slice(&vec![0; len]), None);
        assert_eq!(StaticKey::from_slice(&vec![0; len]), None);
    }
    assert_ne!(DataKey::generate().unwrap(), DataKey::generate().unwrap());
    assert_eq!(StaticKey::try_filled(|_| Err("no randomness")), Err("no randomness"));
}

#[test]
fn a_plaintext_is_empty_once_cleared() {
    let mut plaintext = Plaintext::from(SECRET.to_vec());
    assert_ne!(plaintext, Plaintext::from(b"hunter2".to_vec()));
    plaintext.clear();
    assert_eq!(plaintext, Plaintext::new());
    assert!(plaintext.expose_mut().capacity() >= SECRET.len(), "the allocation is kept");
}
