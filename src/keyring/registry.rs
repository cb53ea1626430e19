//! Data keys of the v3 registry: made, proven, and unwrapped under the rules that a reader must follow.

use std::sync::Arc;

use uuid::Uuid;

use super::kms::{Context, Kms, KmsError, Material};
use crate::{
    envelope::{
        KeyId,
        v3::{self, BoundKey},
    },
    store::{DataKeyState, WrappedDataKey},
};

/// Why a registered data key can't be used.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// No configured KMS key is the one that wraps it.
    #[error("data key {key_id} is wrapped under {kms}, which is not among the configured keys")]
    NotConfigured {
        /// The data key.
        key_id: KeyId,
        /// The KMS key that the registry names.
        kms: String,
    },
    /// The wrapped bytes unwrap to another key than the row's id commits to.
    #[error("data key {0} unwraps to another key than its id commits to")]
    OtherKey(KeyId),
    /// The KMS did not give the key.
    #[error("data key {key_id}: {source}")]
    Kms {
        /// The data key.
        key_id: KeyId,
        /// The KMS's answer.
        source: KmsError,
    },
}

/// The encryption context that binds a wrapped data key to its row of the registry.
fn context(purpose: &str, wrap_id: Uuid) -> Context {
    Context::from([
        ("reseal:purpose".to_owned(), purpose.to_owned()),
        ("reseal:wrap".to_owned(), wrap_id.hyphenated().to_string()),
    ])
}

/// Makes a data key for `purpose`, wrapped under `kms`, and proves that the wrapped bytes unwrap to it.
///
/// The row is not stored yet: no value may be sealed under the key before it is.
///
/// # Errors
/// The KMS's, or [`RegistryError::OtherKey`] when it unwraps to something else than it generated.
pub async fn generate(kms: &dyn Kms, purpose: &str) -> Result<(WrappedDataKey, BoundKey), RegistryError> {
    let wrap_id = Uuid::new_v4();
    let context = context(purpose, wrap_id);
    let unknown = KeyId::from_bytes([0; 16]);
    let generated = kms
        .generate_data_key(&context)
        .await
        .map_err(|source| RegistryError::Kms { key_id: unknown, source })?;
    let key_id = v3::key_id(&generated.key);
    let row = WrappedDataKey {
        key_id: *key_id.as_bytes(),
        wrap_id,
        purpose: purpose.to_owned(),
        kms: kms.key_name().to_owned(),
        wrapped: generated.wrapped,
        state: DataKeyState::Active,
        created_ms: 0,
    };
    let unwrapped = unwrap_under(kms, &row).await?;
    Ok((row, unwrapped))
}

/// Unwraps a registered data key under the configured KMS key that the row names, and no other.
///
/// # Errors
/// See [`RegistryError`]. A row can't name a KMS key of its own choosing: only configured ones are asked.
pub async fn unwrap(row: &WrappedDataKey, configured: &[Arc<dyn Kms>]) -> Result<BoundKey, RegistryError> {
    let kms = configured.iter().find(|kms| kms.key_name() == row.kms).ok_or_else(|| {
        RegistryError::NotConfigured { key_id: KeyId::from_bytes(row.key_id), kms: row.kms.clone() }
    })?;
    unwrap_under(kms.as_ref(), row).await
}

/// Wraps a registered data key under `to`, in the same context, and proves that the new bytes unwrap to the key that
/// the row's id commits to. Nothing is stored yet.
///
/// # Errors
/// See [`RegistryError`]; the row's KMS key is `from`, or it is [`RegistryError::NotConfigured`].
pub async fn rewrap(
    row: &WrappedDataKey,
    from: &dyn Kms,
    to: &dyn Kms,
) -> Result<WrappedDataKey, RegistryError> {
    let key_id = KeyId::from_bytes(row.key_id);
    if row.kms != from.key_name() {
        return Err(RegistryError::NotConfigured { key_id, kms: row.kms.clone() });
    }
    let wrapped = to
        .re_encrypt(&row.wrapped, &context(&row.purpose, row.wrap_id), from)
        .await
        .map_err(|source| RegistryError::Kms { key_id, source })?;
    let new = WrappedDataKey { kms: to.key_name().to_owned(), wrapped, ..row.clone() };
    unwrap_under(to, &new).await?;
    Ok(new)
}

/// Whether the backing key that `kms`, the row's own KMS key, wraps with now is the one that wrapped this data key.
///
/// # Errors
/// The KMS's.
pub async fn material(row: &WrappedDataKey, kms: &dyn Kms) -> Result<Option<Material>, RegistryError> {
    let key_id = KeyId::from_bytes(row.key_id);
    kms.material(&row.wrapped, &context(&row.purpose, row.wrap_id))
        .await
        .map_err(|source| RegistryError::Kms { key_id, source })
}

async fn unwrap_under(kms: &dyn Kms, row: &WrappedDataKey) -> Result<BoundKey, RegistryError> {
    let key_id = KeyId::from_bytes(row.key_id);
    let key = kms
        .decrypt(&row.wrapped, &context(&row.purpose, row.wrap_id))
        .await
        .map_err(|source| RegistryError::Kms { key_id, source })?;
    let bound = BoundKey::new(&key);
    if bound.key_id() == key_id { Ok(bound) } else { Err(RegistryError::OtherKey(key_id)) }
}
