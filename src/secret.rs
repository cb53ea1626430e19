//! The types that hold secrets.
//!
//! Each is wiped on drop, compares in constant time, and has no `Clone`, `Display` or `Serialize`; `Debug` prints
//! the type and nothing of the value. Reading one takes the word [`expose`](DataKey::expose), so that every use
//! can be found by searching for it. Keys are filled in place: no copy of a key is left behind on the stack.

use std::fmt;

use rand::{TryRng, rngs::SysRng};
use serde::{Deserialize, Deserializer};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// The length in bytes of every AES-256 key here.
pub const KEY_LEN: usize = 32;

macro_rules! key_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        pub struct $name(Box<Zeroizing<[u8; KEY_LEN]>>);

        impl $name {
            /// A key whose bytes `fill` writes in place; `fill`'s error is passed on and the bytes are wiped.
            pub fn try_filled<E>(fill: impl FnOnce(&mut [u8; KEY_LEN]) -> Result<(), E>) -> Result<Self, E> {
                let mut key = Self(Box::new(Zeroizing::new([0; KEY_LEN])));
                fill(&mut *key.0)?;
                Ok(key)
            }

            /// A key from a slice of exactly 32 bytes, or `None` for any other length.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                if bytes.len() != KEY_LEN {
                    return None;
                }
                Self::try_filled(|key| {
                    key.copy_from_slice(bytes);
                    Ok::<_, std::convert::Infallible>(())
                })
                .ok()
            }

            /// A fresh key from the operating system's generator.
            ///
            /// # Errors
            /// The generator's own error, when the operating system has no randomness to give.
            pub fn generate() -> Result<Self, rand::rngs::SysError> {
                Self::try_filled(|key| SysRng.try_fill_bytes(key))
            }

            /// The key's bytes.
            pub fn expose(&self) -> &[u8; KEY_LEN] {
                &*self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(…)"))
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.expose().ct_eq(other.expose()).into()
            }
        }

        impl Eq for $name {}
    };
}

key_type! {
    /// A static 256-bit key, such as `SECRETS_ENCRYPTION_KEY`, that a program holds in its configuration.
    StaticKey
}

key_type! {
    /// A 256-bit data key as a KMS generated it, in the clear.
    DataKey
}

/// An opened value. Reused as a buffer on hot paths: [`clear`](Plaintext::clear) wipes what it held.
#[derive(Default)]
pub struct Plaintext(Zeroizing<Vec<u8>>);

impl Plaintext {
    /// An empty plaintext.
    pub fn new() -> Self {
        Self::default()
    }

    /// The opened bytes.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The buffer itself, for code that decrypts in place. Growing it reallocates: reserve first, so that no
    /// copy of a plaintext is left in freed memory.
    pub fn expose_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }

    /// Wipes the contents and keeps the allocation.
    pub fn clear(&mut self) {
        zeroize::Zeroize::zeroize(&mut *self.0);
    }
}

impl From<Vec<u8>> for Plaintext {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl fmt::Debug for Plaintext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Plaintext(…)")
    }
}

impl PartialEq for Plaintext {
    fn eq(&self, other: &Self) -> bool {
        self.expose().ct_eq(other.expose()).into()
    }
}

impl Eq for Plaintext {}

/// Secret text: a connection URL, a token, the text of a key.
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// Takes ownership of `text`, which is wiped on drop.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// Takes over the text that was read, without a copy.
impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(…)")
    }
}

impl PartialEq for SecretText {
    fn eq(&self, other: &Self) -> bool {
        self.expose().as_bytes().ct_eq(other.expose().as_bytes()).into()
    }
}

impl Eq for SecretText {}
