//! Why a re-provisioning, or one tenant's part in it, did not go on.

use crate::{
    journal::VaultError,
    keyring::{ProofFailed, RegistryError, kms::KmsError},
    providers::{ProviderError, fly::DeployError},
    rekey::RekeyError,
    store::StoreError,
};

/// Why a command about a re-provisioning was not done. Trouble with one tenant is none of these: it parks the tenant.
#[derive(Debug, thiserror::Error)]
pub enum ReprovisionError {
    /// A precondition does not hold; nothing was changed.
    #[error("{what}")]
    Refused {
        /// What does not hold.
        what: String,
        /// What would make it hold.
        hint: String,
    },
    /// The run is another process's, or may be: this one does no more.
    #[error(
        "another process works on re-provisioning {run_id} now, or may: the lease was lost or not renewed in time"
    )]
    Fenced {
        /// The run.
        run_id: String,
    },
    /// A database is in trouble, or refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The journal's data key can't be made or unwrapped.
    #[error("the journal's data key: {0}")]
    Registry(#[from] RegistryError),
    /// The new key, or the table.
    #[error(transparent)]
    Rekey(#[from] RekeyError),
    /// A provider did not say what must be known before anything can begin.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// The journal holds what no run can have written.
    #[error("the journal of re-provisioning {run_id} makes no sense: {why}")]
    Corrupt {
        /// The run.
        run_id: String,
        /// What is odd.
        why: &'static str,
    },
}

impl ReprovisionError {
    pub(super) fn refused(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Refused { what: what.into(), hint: hint.into() }
    }

    /// Whether the same command, given again, goes on where this one stopped.
    pub fn is_resumable(&self) -> bool {
        match self {
            Self::Store(error) => error.is_transient(),
            Self::Rekey(error) => error.is_resumable(),
            Self::Provider(error) => error.is_transient(),
            Self::Refused { .. } | Self::Fenced { .. } | Self::Registry(_) | Self::Corrupt { .. } => false,
        }
    }
}

impl From<VaultError> for ReprovisionError {
    fn from(error: VaultError) -> Self {
        match error {
            VaultError::Store(error) => Self::Store(error),
            VaultError::Registry(error) => Self::Registry(error),
        }
    }
}

/// Why a phase of one tenant did not end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// A person has to look at it.
    #[error("{0}")]
    Stuck(String),
    #[error(transparent)]
    Provider(#[from] ProviderError),
    #[error(transparent)]
    Deploy(#[from] DeployError),
    #[error(transparent)]
    Kms(#[from] KmsError),
    #[error(transparent)]
    Proof(#[from] ProofFailed),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The run is another process's: no business of the tenant's.
    #[error("another process works on this run now")]
    Fenced,
}

impl Trouble {
    /// Whether the phase may end when it is begun again.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Provider(error) | Self::Deploy(DeployError::Provider(error)) => error.is_transient(),
            Self::Deploy(DeployError::Held { .. } | DeployError::Contended(_)) => true,
            Self::Deploy(_) | Self::Stuck(_) | Self::Proof(_) | Self::Fenced => false,
            Self::Kms(error) => matches!(error, KmsError::Service { .. }),
            Self::Store(error) => error.is_transient(),
        }
    }
}

pub(super) fn stuck(why: impl Into<String>) -> Trouble {
    Trouble::Stuck(why.into())
}
