//! How a key is named on the command line: by where it is kept, never by its value.

use std::{fmt, path::PathBuf, str::FromStr};

pub use super::static_key::StaticSource;
use super::{
    kms::aws::AwsKeyName,
    static_key::{self, KeyTextForm},
};
use crate::envelope::KeyId;

/// A named key. [`FromStr`] reads what [`Display`](fmt::Display) writes; neither holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum KeySpec {
    /// `static:…`: a key that a program holds in its configuration.
    Static(StaticSource),
    /// `aws-kms:…` or `local-kms:…`: a key of a key management service.
    Kms(KmsSpec),
    /// `data-key:HEX32`: a v3 data key of the registry, by its 16-byte id.
    DataKey(KeyId),
}

/// Which key of which key management service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum KmsSpec {
    /// `aws-kms:ARN-OR-ALIAS`.
    Aws(AwsKeyName),
    /// `local-kms:FILE`: a keyring file.
    Local(PathBuf),
}

/// Why a text does not name a key. Never repeats the text, which may be a key pasted by mistake; whoever prints
/// this must not repeat it either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeySpecError {
    /// A key itself.
    #[error(
        "a key itself was given where a key is named: others may have seen it, so treat it as exposed; put a key in an environment variable or a file, and name that (static:env:NAME, static:file:PATH)"
    )]
    RawKey,
    /// None of the forms.
    #[error(
        "a key is named by static:env:NAME, static:file:PATH, aws-kms:ARN-OR-ALIAS, data-key:HEX32 or local-kms:FILE"
    )]
    Form,
    /// A bad `NAME`.
    #[error("static:env: takes the name of an environment variable: letters, digits and _, no digit first")]
    Variable,
    /// An empty `PATH` or `FILE`.
    #[error("static:file: and local-kms: take the path of a file")]
    Path,
    /// A bad `ARN-OR-ALIAS`.
    #[error("aws-kms: takes a key ARN, an alias ARN, alias/NAME or a key id")]
    Aws,
    /// A bad `HEX32`.
    #[error("data-key: takes the id of a data key, 32 hex digits")]
    DataKey,
}

impl FromStr for KeySpec {
    type Err = KeySpecError;

    fn from_str(text: &str) -> Result<Self, KeySpecError> {
        let after = |prefix| text.strip_prefix(prefix).map(refuse_key);
        if let Some(name) = after("static:env:") {
            Ok(Self::Static(StaticSource::Env(variable(name?)?)))
        } else if let Some(path) = after("static:file:") {
            Ok(Self::Static(StaticSource::File(file(path?)?)))
        } else if let Some(name) = after("aws-kms:") {
            Ok(Self::Kms(KmsSpec::Aws(name?.parse().map_err(|_| KeySpecError::Aws)?)))
        } else if let Some(path) = after("local-kms:") {
            Ok(Self::Kms(KmsSpec::Local(file(path?)?)))
        } else if let Some(id) = after("data-key:") {
            Ok(Self::DataKey(id?.to_ascii_lowercase().parse().map_err(|_| KeySpecError::DataKey)?))
        } else {
            // A form that is cut short, such as `static:`, may have a key behind it all the same.
            let last = text.rsplit(':').next().unwrap_or_default();
            refuse_key(last).and(Err(KeySpecError::Form))
        }
    }
}

impl fmt::Display for KeySpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Static(source) => source.fmt(f),
            Self::Kms(kms) => kms.fmt(f),
            Self::DataKey(id) => write!(f, "data-key:{id}"),
        }
    }
}

impl fmt::Display for KmsSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Aws(name) => write!(f, "aws-kms:{name}"),
            Self::Local(path) => write!(f, "local-kms:{}", path.display()),
        }
    }
}

/// Refuses the text of a key where its name belongs: taken for a name, it would be shown in every message about
/// it. 32 raw characters can't be told from a name. A file that is named like a key is reached as `./NAME`.
fn refuse_key(name: &str) -> Result<&str, KeySpecError> {
    match static_key::decode(name.as_bytes()) {
        Ok(configured) if configured.form != KeyTextForm::Raw => Err(KeySpecError::RawKey),
        _ => Ok(name),
    }
}

/// A portable name of an environment variable (POSIX.1-2017, Base Definitions §8.1), in either case.
fn variable(name: &str) -> Result<String, KeySpecError> {
    let legal = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let starts = name.bytes().next().is_some_and(|byte| !byte.is_ascii_digit());
    if legal && starts { Ok(name.to_owned()) } else { Err(KeySpecError::Variable) }
}

fn file(path: &str) -> Result<PathBuf, KeySpecError> {
    if path.is_empty() { Err(KeySpecError::Path) } else { Ok(path.into()) }
}
