//! Values at rest: every credential that the journal keeps is sealed (v3), and bound to its row.

use std::sync::Arc;

use super::RotationError;
use crate::{
    envelope::{Cell, v3::BoundKey},
    keyring::{self, ProofFailed, kms::Kms},
    secret::{Plaintext, SecretText},
    store::{DataKeyState, Store},
};

/// The table that the values are bound to, and the purpose of their data keys in the registry.
const TABLE: &str = "reseal_credentials";

/// Seals and opens the values of credentials.
pub struct Vault {
    /// The active data key first.
    keys: Vec<BoundKey>,
}

impl Vault {
    /// Unwraps the data keys of the journal; makes one where there is none.
    ///
    /// # Errors
    /// The store's and the registry's; among them a data key that is wrapped under another KMS key than `kms`.
    pub async fn unlock(store: &dyn Store, kms: &Arc<dyn Kms>) -> Result<Self, RotationError> {
        let mut rows = store.data_keys(Some(TABLE)).await?;
        rows.retain(|row| row.state.opens());
        if !rows.iter().any(|row| row.state == DataKeyState::Active) {
            let (row, _) = keyring::generate(kms.as_ref(), TABLE).await?;
            store.add_data_key(&row).await?;
            rows.push(row);
        }
        rows.sort_by_key(|row| row.state != DataKeyState::Active);
        let mut keys = Vec::with_capacity(rows.len());
        for row in &rows {
            keys.push(keyring::unwrap(row, std::slice::from_ref(kms)).await?);
        }
        Ok(Self { keys })
    }

    /// Seals `value` for the credential of this id, and opens it again to see that it is the same.
    ///
    /// # Errors
    /// [`ProofFailed`].
    pub fn seal(&self, credential_id: &str, value: &SecretText) -> Result<Vec<u8>, ProofFailed> {
        let key = self.keys.first().ok_or(ProofFailed)?;
        let (mut sealed, mut check) = (Vec::new(), Plaintext::new());
        let cell = cell(credential_id);
        key.seal_into(&cell, value.expose().as_bytes(), &mut sealed);
        key.open_into(&cell, &sealed, &mut check).map_err(|_| ProofFailed)?;
        if check.expose() == value.expose().as_bytes() { Ok(sealed) } else { Err(ProofFailed) }
    }

    /// Opens what was sealed for the credential of this id; `None` when no data key does.
    pub fn open(&self, credential_id: &str, sealed: &[u8]) -> Option<SecretText> {
        let mut value = Plaintext::new();
        let opens = |key: &BoundKey| key.open_into(&cell(credential_id), sealed, &mut value).is_ok();
        if !self.keys.iter().any(opens) {
            return None;
        }
        std::str::from_utf8(value.expose()).ok().map(|text| SecretText::new(text.to_owned()))
    }
}

fn cell(credential_id: &str) -> Cell<'_> {
    Cell { table: TABLE, column: "sealed", row: credential_id }
}
