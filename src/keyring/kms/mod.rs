//! Key management services: who wraps and unwraps data keys.
//!
//! A [`Kms`] is one configured key of one service. It never sees a value, only data keys.

pub mod aws;
pub mod local;
mod preflight;
mod quota;

use std::{collections::BTreeMap, fmt, sync::Arc};

use async_trait::async_trait;

pub use self::{
    preflight::{Operation, Standing},
    quota::{Quota, QuotaState},
};

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

    /// Wraps under this key, with the same `context`, what `wrapped` unwraps to under `source`: the data key does not
    /// leave the service, where it is one for both.
    ///
    /// # Errors
    /// Those of a Decrypt under `source` and of wrapping under this key. [`KmsError::Key`] for keys that no one call
    /// reaches.
    async fn re_encrypt(
        &self,
        wrapped: &[u8],
        context: &Context,
        source: &dyn Kms,
    ) -> Result<Vec<u8>, KmsError>;

    /// Whether the backing key that wraps now is the one that wrapped these bytes; `None` where the service doesn't
    /// say.
    async fn material(&self, wrapped: &[u8], context: &Context) -> Result<Option<Material>, KmsError>;

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

    /// What the calls are held to, where the service has a quota.
    fn quota(&self) -> Option<&Quota> {
        None
    }
}

/// Which of its backing keys a KMS key wrapped something with: rotation adds one, and wraps nothing anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Material {
    /// The one that wraps now.
    Current,
    /// An earlier one.
    Stale,
}

impl Material {
    /// As it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Stale => "stale",
        }
    }
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
    connect_within(spec, Arc::default()).await
}

/// Connects to the key that `spec` names, which shares the quota of its account with others.
///
/// # Errors
/// As of [`connect`].
pub async fn connect_within(spec: &KmsSpec, quota: Arc<Quota>) -> Result<Arc<dyn Kms>, ConnectError> {
    Ok(match spec {
        KmsSpec::Aws(name) => {
            let settings = AwsKms::settings().load().await;
            Arc::new(AwsKms::connect_within(name, &settings, quota).await?)
        }
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
