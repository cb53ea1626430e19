//! Key management services: who wraps and unwraps data keys.
//!
//! A [`Kms`] is one configured key of one service. It never sees a value, only data keys.

use std::{collections::BTreeMap, fmt};

use async_trait::async_trait;

use crate::secret::DataKey;

/// The encryption context: authenticated, not secret, and logged in clear by the services.
pub type Context = BTreeMap<String, String>;

/// A data key and the bytes that unwrap to it.
#[derive(Debug)]
pub struct GeneratedKey {
    /// The data key in the clear.
    pub key: DataKey,
    /// The same key wrapped: the service's ciphertext blob, opaque to us.
    pub wrapped: Vec<u8>,
}

/// One key of a key management service.
#[async_trait]
pub trait Kms: Send + Sync + fmt::Debug {
    /// The key's resolved name, never an alias: a key ARN, or `local-kms:<uuid>`.
    fn key_name(&self) -> &str;

    /// Whether a call leaves the machine. Keys that are local are tried before one that is remote is asked.
    fn locality(&self) -> Locality;

    /// A fresh data key, wrapped under this key and bound to `context`.
    async fn generate_data_key(&self, context: &Context) -> Result<GeneratedKey, KmsError>;

    /// Unwraps `wrapped` under this key, and no other, with the `context` it was wrapped with.
    async fn decrypt(&self, wrapped: &[u8], context: &Context) -> Result<DataKey, KmsError>;

    /// How many calls were sent to the service so far, retries included.
    fn calls(&self) -> u64;
}

/// Where a KMS answers from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locality {
    /// In this process, from a keyring file.
    Local,
    /// Over the network, at a price and with a quota.
    Remote,
}

/// Why a KMS call did not give a key: by whose move is next (`docs/formats.md`, errors of a KMS).
///
/// `operation` is the call (`Decrypt`), `code` the service's own error code. Never a message body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KmsError {
    /// A verdict on these wrapped bytes: they are not this key's, or were changed.
    #[error("{operation} refused the wrapped key ({code})")]
    Blob {
        /// The call.
        operation: &'static str,
        /// The service's error code.
        code: String,
    },
    /// A verdict on the key: denied, unknown, disabled, pending deletion.
    #[error("{operation} under {key} is not possible ({code})")]
    Key {
        /// The call.
        operation: &'static str,
        /// The key's name.
        key: String,
        /// The service's error code.
        code: String,
    },
    /// Trouble with the service: throttled, timed out, unreachable, 5xx; the retries are spent.
    #[error("the KMS did not answer {operation} ({code})")]
    Service {
        /// The call.
        operation: &'static str,
        /// The service's error code, or the kind of transport error.
        code: String,
    },
}
