//! Why a rotation did not go on, besides the ways that its journal knows.

use super::state::Illegal;
use crate::{
    journal::VaultError,
    keyring::{ProofFailed, RegistryError},
    providers::ProviderError,
    store::StoreError,
};

/// Why a command about a rotation was not done. Trouble with a provider is none of these: it is in the journal.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// A precondition does not hold; nothing was changed.
    #[error("{what}")]
    Refused {
        /// What does not hold.
        what: String,
        /// What would make it hold.
        hint: String,
    },
    /// A setting that a step needs is missing or makes no sense.
    #[error("{what}")]
    Settings {
        /// Which, and what of it.
        what: String,
        /// How to set it.
        hint: String,
    },
    /// A provider did not say what must be known before a step can begin; nothing was changed by it.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// Another process took the rotation over: this one writes no more.
    #[error(
        "another process works on rotation {rotation_id} now, or may: the lease was lost or not renewed in time"
    )]
    Fenced {
        /// The rotation.
        rotation_id: String,
    },
    /// The journal's database is in trouble, or refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The journal's data key can't be made or unwrapped.
    #[error("the journal's data key: {0}")]
    Registry(#[from] RegistryError),
    /// A sealed value did not open again.
    #[error(transparent)]
    Proof(#[from] ProofFailed),
    /// The journal holds what no rotation can have written.
    #[error("the journal of rotation {rotation_id} makes no sense: {why}")]
    Corrupt {
        /// The rotation.
        rotation_id: String,
        /// What is odd.
        why: String,
    },
    /// A bug of ours.
    #[error(transparent)]
    Illegal(#[from] Illegal),
}

impl From<VaultError> for RotationError {
    fn from(error: VaultError) -> Self {
        match error {
            VaultError::Store(error) => Self::Store(error),
            VaultError::Registry(error) => Self::Registry(error),
        }
    }
}

impl RotationError {
    pub(super) fn refused(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Refused { what: what.into(), hint: hint.into() }
    }
}
