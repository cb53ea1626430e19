//! Key management services: who wraps and unwraps data keys.
//!
//! A [`Kms`] is one configured key of one service. It never sees a value, only data keys.

pub mod aws;
pub mod local;
mod preflight;

use std::{collections::BTreeMap, fmt, sync::Arc};

use async_trait::async_trait;

pub use self::preflight::{Operation, Standing};

use self::{
    aws::AwsKms,
    local::{KeyringError, LocalKms},
};
use super::spec::KmsSpec;
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

    /// Whether `operation` would be allowed under this key with `context`, as far as the service says.
    ///
    /// It is done for real, with a data key that nothing is sealed under, where the service has no dry run.
    async fn preflight(&self, operation: Operation, context: &Context) -> Standing {
        let made = self.generate_data_key(context).await;
        match (operation, made) {
            (Operation::GenerateDataKey, made) => made.into(),
            (Operation::Decrypt, Ok(made)) => self.decrypt(&made.wrapped, context).await.into(),
            (Operation::Decrypt, Err(_)) => Standing::Unknown("no data key to unwrap".to_owned()),
        }
    }

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
    #[error("no usable answer from the KMS to {operation} ({code})")]
    Service {
        /// The call.
        operation: &'static str,
        /// The service's error code, or the kind of transport error.
        code: String,
    },
}

/// Connects to the key that `spec` names.
///
/// # Errors
/// See [`ConnectError`]: in short, that the key is there and can be used, only its first use shows.
pub async fn connect(spec: &KmsSpec) -> Result<Arc<dyn Kms>, ConnectError> {
    Ok(match spec {
        KmsSpec::Aws(name) => Arc::new(AwsKms::connect(name).await?),
        KmsSpec::Local(path) => Arc::new(LocalKms::open(path)?),
    })
}

/// Why a KMS key could not be set up: what is configured is missing or wrong, or the service was asked to resolve
/// the key and did not.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A key that is not named by an ARN is looked up in a region, and none is configured.
    #[error("no AWS region is configured: set AWS_REGION, or name the key by its ARN")]
    NoRegion,
    /// Nothing in the credentials chain gave credentials.
    #[error("no AWS credentials ({reason}): set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")]
    NoCredentials {
        /// What the last provider of the chain said; none of them quotes what it read.
        reason: String,
    },
    /// The keyring file was not opened.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// The service did not resolve the key.
    #[error(transparent)]
    Kms(#[from] KmsError),
}
