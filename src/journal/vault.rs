//! Values at rest: every credential that the journal keeps is sealed (v3), and bound to its row.

use std::sync::Arc;

use crate::{
    envelope::{Cell, v3::BoundKey},
    keyring::{self, ProofFailed, RegistryError, kms::Kms},
    secret::{Plaintext, SecretText},
    store::{DataKeyState, Store, StoreError, WrappedDataKey},
};

/// The purpose of the journal's data keys in the registry.
const PURPOSE: &str = "reseal_credentials";

/// Whose row a value is in; it opens in no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner<'a> {
    /// A credential, by our id of it.
    Credential(&'a str),
    /// A tenant of a re-provisioning, by the ids of the run and the tenant.
    Tenant {
        /// The run.
        run_id: &'a str,
        /// The tenant.
        tenant: &'a str,
    },
}

/// Why the vault can't be used.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The journal's database is in trouble, or refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The journal's data key can't be made or unwrapped.
    #[error("the journal's data key: {0}")]
    Registry(#[from] RegistryError),
}

/// Seals and opens the values in the journal.
pub struct Vault {
    /// The active data key first.
    keys: Vec<BoundKey>,
}

impl Vault {
    /// Unwraps the data keys of the journal; makes one where there is none.
    ///
    /// # Errors
    /// The store's and the registry's; among them a data key that is wrapped under another KMS key than `kms`.
    pub async fn unlock(store: &dyn Store, kms: &Arc<dyn Kms>) -> Result<Self, VaultError> {
        let mut rows = data_keys(store).await?;
        if !rows.iter().any(|row| row.state == DataKeyState::Active) {
            let (row, _) = keyring::generate(kms.as_ref(), PURPOSE).await?;
            store.add_data_key(&row).await?;
            rows.push(row);
        }
        Self::of(rows, kms).await
    }

    /// The same for whoever only looks: where there is no data key it makes none, and then it seals nothing.
    ///
    /// # Errors
    /// Those of [`unlock`](Self::unlock).
    pub async fn look(store: &dyn Store, kms: &Arc<dyn Kms>) -> Result<Self, VaultError> {
        Self::of(data_keys(store).await?, kms).await
    }

    async fn of(mut rows: Vec<WrappedDataKey>, kms: &Arc<dyn Kms>) -> Result<Self, VaultError> {
        rows.sort_by_key(|row| row.state != DataKeyState::Active);
        let mut keys = Vec::with_capacity(rows.len());
        for row in &rows {
            keys.push(keyring::unwrap(row, std::slice::from_ref(kms)).await?);
        }
        Ok(Self { keys })
    }

    /// Seals `value` for its owner, and opens it again to see that it is the same.
    ///
    /// # Errors
    /// [`ProofFailed`].
    pub fn seal(&self, owner: Owner<'_>, value: &SecretText) -> Result<Vec<u8>, ProofFailed> {
        let key = self.keys.first().ok_or(ProofFailed)?;
        let (mut sealed, mut check) = (Vec::new(), Plaintext::new());
        let mut row = String::new();
        let cell = owner.cell(&mut row);
        key.seal_into(&cell, value.expose().as_bytes(), &mut sealed);
        key.open_into(&cell, &sealed, &mut check).map_err(|_| ProofFailed)?;
        if check.expose() == value.expose().as_bytes() { Ok(sealed) } else { Err(ProofFailed) }
    }

    /// Opens what was sealed for this owner; `None` when no data key does.
    pub fn open(&self, owner: Owner<'_>, sealed: &[u8]) -> Option<SecretText> {
        let (mut value, mut row) = (Plaintext::new(), String::new());
        let cell = owner.cell(&mut row);
        let opens = |key: &BoundKey| key.open_into(&cell, sealed, &mut value).is_ok();
        if !self.keys.iter().any(opens) {
            return None;
        }
        std::str::from_utf8(value.expose()).ok().map(|text| SecretText::new(text.to_owned()))
    }
}

/// The journal's data keys that still open something.
async fn data_keys(store: &dyn Store) -> Result<Vec<WrappedDataKey>, StoreError> {
    let mut rows = store.data_keys(Some(PURPOSE)).await?;
    rows.retain(|row| row.state.opens());
    Ok(rows)
}

impl<'a> Owner<'a> {
    /// The cell that a value of this owner is bound to; `row` holds what is put together for it.
    fn cell(self, row: &'a mut String) -> Cell<'a> {
        let (table, row) = match self {
            Self::Credential(id) => ("reseal_credentials", id),
            Self::Tenant { run_id, tenant } => {
                // A run's id is a ULID: no two pairs give one text.
                *row = format!("{run_id}/{tenant}");
                ("reseal_sagas", &**row)
            }
        };
        Cell { table, column: "sealed", row }
    }
}
