//! Whether a KMS would allow what a run needs, asked before it is needed.
//!
//! What each format needs: v2 and a new v3 data key `GenerateDataKey` and `Decrypt` under the new key; every old v2
//! value, and every v3 data key that is there, `Decrypt` under its own. Nothing here ever needs `Encrypt`.

use std::fmt;

use serde::Serialize;

use super::KmsError;

/// An operation that a run asks of a KMS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Operation {
    /// Makes a data key.
    GenerateDataKey,
    /// Unwraps one.
    Decrypt,
}

impl Operation {
    /// The operation's name, as the services and their policies have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::GenerateDataKey => "GenerateDataKey",
            Self::Decrypt => "Decrypt",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How an operation stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "standing", content = "code")]
pub enum Standing {
    /// It is allowed.
    Allowed,
    /// It is not: the service's own code.
    Refused(String),
    /// The service could not say: its own code, or what went wrong on the way.
    Unknown(String),
}

impl<T> From<Result<T, KmsError>> for Standing {
    fn from(answer: Result<T, KmsError>) -> Self {
        match answer {
            Ok(_) => Self::Allowed,
            // What AWS says instead of an answer to a dry run that would have had one.
            Err(KmsError::Key { code, .. }) if code == "DryRunOperationException" => Self::Allowed,
            // The request was not understood: no word on whether a right one is allowed.
            Err(KmsError::Key { code, .. }) if code == "ValidationException" => Self::Unknown(code),
            Err(KmsError::Key { code, .. }) => Self::Refused(code),
            Err(KmsError::Blob { code, .. } | KmsError::Service { code, .. }) => Self::Unknown(code),
        }
    }
}
