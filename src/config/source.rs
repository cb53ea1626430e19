//! Secret text where it is kept: `env:NAME` or `file:PATH`.

use std::{env, path::Path};

use reseal::{keyring::private_file, secret::SecretText};

use super::{ConfigError, Settings, Value, definition};

/// The longest file that is read, in bytes: URLs.
const FILE_LIMIT: usize = 4096;

/// What is kept at `place`; `None` if that names no place.
///
/// # Errors
/// A variable that is not set, or a file that can't be read or is open to others.
pub(super) fn secret_at(place: &str) -> Option<Result<SecretText, ConfigError>> {
    if let Some(name) = place.strip_prefix("env:") {
        let unset = |_| ConfigError::new(format!("environment variable {name} is not set, or not text"));
        Some(env::var(name).map(SecretText::new).map_err(unset))
    } else {
        place.strip_prefix("file:").map(|path| {
            let content = private_file::read(Path::new(path), FILE_LIMIT)
                .map_err(|error| ConfigError::new(error.to_string()))?;
            let content = std::str::from_utf8(&content)
                .map_err(|_| ConfigError::new(format!("{path} does not hold text")))?;
            Ok(SecretText::new(content.trim_end_matches(['\n', '\r']).to_owned()))
        })
    }
}

/// The place that `value` names, which may be shown.
///
/// # Errors
/// A text that names none, which is never repeated: it may be the secret itself.
pub(super) fn place_in<'a>(setting: &str, value: &'a Value) -> Result<&'a str, ConfigError> {
    let is_variable = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    match value.text() {
        text if text.strip_prefix("env:").is_some_and(is_variable) => Ok(text),
        text if text.strip_prefix("file:").is_some_and(|path| !path.is_empty()) => Ok(text),
        _ => {
            Err(ConfigError::new(format!("{} names where a secret is kept", value.origin.describe(setting)))
                .hint("env:NAME or file:PATH"))
        }
    }
}

impl Settings {
    /// The place that a setting names, which may be shown.
    ///
    /// # Errors
    /// A text that names none.
    pub(crate) fn place(&self, name: &str) -> Result<Option<&str>, ConfigError> {
        self.value(name).map(|value| place_in(name, value)).transpose()
    }

    /// The secret at the place that a setting names.
    ///
    /// # Errors
    /// Those of [`place`](Self::place), and a place with nothing to read.
    pub(crate) fn secret(&self, name: &str) -> Result<Option<SecretText>, ConfigError> {
        self.place(name)?.and_then(secret_at).transpose()
    }

    /// The credential at the place that a setting names, as it goes into a header.
    ///
    /// # Errors
    /// Those of [`secret`](Self::secret), and what was not pasted whole or alone.
    pub(crate) fn token(&self, name: &str) -> Result<Option<SecretText>, ConfigError> {
        let Some((value, secret)) = self.value(name).zip(self.secret(name)?) else { return Ok(None) };
        let token = secret.expose().trim();
        if token.is_empty() || token.chars().any(char::is_control) {
            let place = value.origin.describe(definition(name).key().as_str());
            return Err(ConfigError::new(format!("{place} holds no token, or one with a line break in it")));
        }
        Ok(Some(SecretText::new(token.to_owned())))
    }
}
