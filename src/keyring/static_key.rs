//! Static keys, and the text that a program's configuration holds one in.
//!
//! The text is 64 hex digits, standard base64 of 32 bytes, or exactly 32 raw bytes, tried in that order: 64 hex
//! digits are valid base64 too, of 48 bytes, and are always read as hex. The form is remembered, because programs
//! that share a key do not all accept every form, and a new key has to be written as the old one was. White space
//! is not stripped, for a reader that does not strip it would see another key; only the newline that editors put
//! at the end of a file is passed over, and only after hex and base64, where it can't be part of the key.

use std::{
    env,
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use rand::{
    TryRng,
    rngs::{SysError, SysRng},
};
use zeroize::Zeroizing;

use super::private_file::{self, PrivateFileError};
use crate::secret::{KEY_LEN, SecretText, StaticKey};

/// The longest key file that is read, in bytes. Key text has at most 64; the rest is room to tell what is wrong.
const FILE_LIMIT: usize = 4096;

/// Where a static key is kept.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StaticSource {
    /// `static:env:NAME`: an environment variable.
    Env(String),
    /// `static:file:PATH`: a file that only its owner may read.
    File(PathBuf),
}

impl fmt::Display for StaticSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "static:env:{name}"),
            Self::File(path) => write!(f, "static:file:{}", path.display()),
        }
    }
}

/// How the text of a static key is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyTextForm {
    /// 64 hex digits, as `openssl rand -hex 32` prints.
    Hex,
    /// Standard base64 with padding (RFC 4648 §4) of 32 bytes: 44 characters.
    Base64,
    /// The 32 bytes themselves.
    Raw,
}

/// A static key and the form that its text had.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfiguredKey {
    /// The key.
    pub key: StaticKey,
    /// How its text was written.
    pub form: KeyTextForm,
}

/// Why a text is not a key. Says nothing of the text but its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyTextError {
    /// It would have to be trimmed first, which the programs that read it may not do.
    #[error("key text begins or ends with white space: remove it")]
    WhiteSpace,
    /// It has none of the three forms.
    #[error(
        "key text has to be 64 hex digits, standard base64 of 32 bytes, or exactly 32 raw bytes; these {len} bytes are neither"
    )]
    Form {
        /// The length of the text, in bytes.
        len: usize,
    },
}

/// Why a static key could not be had from where it is kept.
#[derive(Debug, thiserror::Error)]
pub enum StaticKeyError {
    /// No such variable.
    #[error("environment variable {name} is not set")]
    Unset {
        /// The variable.
        name: String,
    },
    /// The variable is there, with nothing in it.
    #[error("environment variable {name} is empty")]
    Empty {
        /// The variable.
        name: String,
    },
    /// The variable holds bytes that are not text.
    #[error("environment variable {name} is not valid Unicode")]
    NotUnicode {
        /// The variable.
        name: String,
    },
    /// The file was not read.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// What was found there is not a key.
    #[error("{place}: {reason}")]
    Text {
        /// The variable or file.
        place: StaticSource,
        /// What is wrong with it.
        reason: KeyTextError,
    },
}

/// Loads the key that `source` names.
pub fn load(source: &StaticSource) -> Result<ConfiguredKey, StaticKeyError> {
    match source {
        StaticSource::Env(name) => from_variable(name, env::var_os(name)),
        StaticSource::File(path) => from_file(path),
    }
}

/// Reads key text.
pub fn decode(text: &[u8]) -> Result<ConfiguredKey, KeyTextError> {
    let found = |key, form| Ok(ConfiguredKey { key, form });
    if let Ok(key) = StaticKey::try_filled(|key| hex::decode_to_slice(text, key)) {
        return found(key, KeyTextForm::Hex);
    }
    if let Some(key) = decode_base64(text) {
        return found(key, KeyTextForm::Base64);
    }
    if let Some(key) = StaticKey::from_slice(text) {
        return found(key, KeyTextForm::Raw);
    }
    let is_space = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_whitespace);
    if is_space(text.first()) || is_space(text.last()) {
        return Err(KeyTextError::WhiteSpace);
    }
    Err(KeyTextError::Form { len: text.len() })
}

/// Writes `key` as text, or `None` if the form is raw and its bytes are not text.
pub fn encode(key: &StaticKey, form: KeyTextForm) -> Option<SecretText> {
    let text = match form {
        KeyTextForm::Hex => hex::encode(key.expose()),
        KeyTextForm::Base64 => BASE64_STANDARD.encode(key.expose()),
        KeyTextForm::Raw => std::str::from_utf8(key.expose()).ok()?.to_owned(),
    };
    Some(SecretText::new(text))
}

/// A fresh key that [`encode`] can write in `form`.
///
/// A raw key has to be text as well, so it is 32 random characters of base64url: 192 bits of the 256 are random.
///
/// # Errors
/// The generator's own error, when the operating system has no randomness to give.
pub fn generate(form: KeyTextForm) -> Result<StaticKey, SysError> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    match form {
        KeyTextForm::Hex | KeyTextForm::Base64 => StaticKey::generate(),
        KeyTextForm::Raw => StaticKey::try_filled(|key| {
            SysRng.try_fill_bytes(key)?;
            for byte in key {
                *byte = ALPHABET[usize::from(*byte & 63)];
            }
            Ok(())
        }),
    }
}

fn from_variable(name: &str, value: Option<OsString>) -> Result<ConfiguredKey, StaticKeyError> {
    let name = || name.to_owned();
    let value = value.ok_or_else(|| StaticKeyError::Unset { name: name() })?;
    let value = Zeroizing::new(value.into_encoded_bytes());
    if value.is_empty() {
        return Err(StaticKeyError::Empty { name: name() });
    }
    if std::str::from_utf8(&value).is_err() {
        return Err(StaticKeyError::NotUnicode { name: name() });
    }
    decode(&value).map_err(|reason| StaticKeyError::Text { place: StaticSource::Env(name()), reason })
}

fn from_file(path: &Path) -> Result<ConfiguredKey, StaticKeyError> {
    let content = private_file::read(path, FILE_LIMIT)?;
    decode(&content).or_else(|reason| {
        let line = content.strip_suffix(b"\n");
        line.and_then(decode_line)
            .ok_or_else(|| StaticKeyError::Text { place: StaticSource::File(path.into()), reason })
    })
}

/// Decodes a line without its `\n`, of a form that can't itself hold the `\r` that may be left.
fn decode_line(line: &[u8]) -> Option<ConfiguredKey> {
    decode(line.strip_suffix(b"\r").unwrap_or(line))
        .ok()
        .filter(|configured| configured.form != KeyTextForm::Raw)
}

fn decode_base64(text: &[u8]) -> Option<StaticKey> {
    // 44 characters decode to 31, 32 or 33 bytes, by their padding.
    let mut bytes = Zeroizing::new([0; KEY_LEN + 1]);
    let len = BASE64_STANDARD.decode_slice(text, bytes.as_mut_slice()).ok()?;
    StaticKey::from_slice(&bytes[..len])
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    #[test]
    fn a_variable_that_is_missing_empty_or_not_text_has_its_own_error() {
        let message = |value| from_variable("SECRETS_KEY", value).unwrap_err().to_string();
        assert_eq!(message(None), "environment variable SECRETS_KEY is not set");
        assert_eq!(message(Some("".into())), "environment variable SECRETS_KEY is empty");
        assert_eq!(
            message(Some(OsString::from_vec(vec![0xff; 32]))),
            "environment variable SECRETS_KEY is not valid Unicode"
        );
    }

    #[test]
    fn a_variable_is_read_as_it_stands() {
        let configured = from_variable("SECRETS_KEY", Some(HEX.into())).unwrap();
        assert_eq!(configured.form, KeyTextForm::Hex);
        assert_eq!(
            from_variable("SECRETS_KEY", Some(format!("{HEX}\n").into())).unwrap_err().to_string(),
            "static:env:SECRETS_KEY: key text begins or ends with white space: remove it"
        );
    }
}
