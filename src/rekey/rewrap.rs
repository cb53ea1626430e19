//! Moving the registry's data keys to another KMS key: O(data keys), and no value is opened.

use std::sync::Arc;

use super::RekeyError;
use crate::{
    envelope::KeyId,
    keyring::{
        RegistryError,
        kms::{Kms, KmsError, Material},
        material, rewrap,
    },
    store::{DataKeyState, Store, WrappedDataKey},
};

/// What came of [`rewrap_data_keys`].
#[derive(Debug, Default)]
pub struct Rewrapped {
    /// Wrapped anew, and proven to unwrap.
    pub moved: Vec<KeyId>,
    /// Left as they are: under the newest backing key of the KMS key already.
    pub current: Vec<KeyId>,
    /// Not asked for: under a KMS key that was not named. The key, and that KMS key's name.
    pub elsewhere: Vec<(KeyId, String)>,
    /// Not moved, and why: the wrapped bytes are damaged, or not what the row's id commits to, or were exchanged
    /// meanwhile.
    pub failed: Vec<(KeyId, String)>,
}

/// Wraps every data key that is under one of `from` under `to`, one row at a time. With `to` among `from`, its own are
/// wrapped anew too, unless the KMS says that they are under its newest backing key.
///
/// # Errors
/// Trouble with the database or a KMS; what was moved before stays moved.
///
/// # Crash safety
/// Before a row is exchanged, its new bytes are unwrapped and the key's id is computed again from the key. At every
/// instant a row is wrapped the one way or the other, and the bytes from before stay until a verify. Given again, it
/// goes on with the rows that are left.
pub async fn rewrap_data_keys(
    store: &dyn Store,
    from: &[Arc<dyn Kms>],
    to: &dyn Kms,
) -> Result<Rewrapped, RekeyError> {
    let mut done = Rewrapped::default();
    for row in store.data_keys(None).await? {
        let key_id = KeyId::from_bytes(row.key_id);
        let source = from.iter().find(|kms| kms.key_name() == row.kms);
        match source {
            _ if row.state == DataKeyState::Destroyed => {}
            None if row.kms == to.key_name() => done.current.push(key_id),
            None => done.elsewhere.push((key_id, row.kms)),
            Some(source) => match rewrap_one(store, &row, source.as_ref(), to).await {
                Ok(One::Moved) => done.moved.push(key_id),
                Ok(One::Current) => done.current.push(key_id),
                Ok(One::Changed) => {
                    done.failed.push((key_id, "somebody else wrapped it anew meanwhile".to_owned()));
                }
                Err(Trouble::Row(why)) => done.failed.push((key_id, why)),
                Err(Trouble::Other(error)) => return Err(error),
            },
        }
    }
    Ok(done)
}

enum One {
    Moved,
    Current,
    Changed,
}

enum Trouble {
    /// With this row alone.
    Row(String),
    /// With a KMS or the database.
    Other(RekeyError),
}

impl From<RegistryError> for Trouble {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Kms {
                source: source @ (KmsError::Key { .. } | KmsError::Service { .. }), ..
            } => Self::Other(source.into()),
            error => Self::Row(error.to_string()),
        }
    }
}

async fn rewrap_one(
    store: &dyn Store,
    row: &WrappedDataKey,
    from: &dyn Kms,
    to: &dyn Kms,
) -> Result<One, Trouble> {
    if row.kms == to.key_name() && material(row, to).await? == Some(Material::Current) {
        return Ok(One::Current);
    }
    let new = rewrap(row, from, to).await?;
    let swapped = store.rewrap_data_key(row, &new).await.map_err(|error| Trouble::Other(error.into()))?;
    Ok(if swapped { One::Moved } else { One::Changed })
}
