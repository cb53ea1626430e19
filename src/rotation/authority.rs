//! What a rotation needs outlives it: the credential that cleans up, and the journal.

use super::{
    RotationError, SecretName, Tools,
    estate::Held,
    recipe::{Action, Check, Step},
};
use crate::{journal::Owner, store::Credential};

impl Tools<'_> {
    /// A credential of the journal, with its value.
    pub(super) fn held(&self, secret: SecretName, credential: Credential) -> Result<Held, RotationError> {
        let value = credential.sealed.as_deref().map(|sealed| {
            self.vault.open(Owner::Credential(&credential.credential_id), sealed).ok_or_else(|| {
                RotationError::refused(
                    format!("a sealed value of {secret} opens under none of the journal's data keys"),
                    "name the KMS key that the journal is sealed under: --kms KEY",
                )
            })
        });
        let value = value.transpose()?;
        Ok(Held { credential_id: credential.credential_id, provider_id: credential.provider_id, value })
    }

    /// A rotation may not end the credential that it needs to clean up with.
    pub(super) fn require_authority_outlives(
        &self,
        secret: SecretName,
        old: Option<&Held>,
    ) -> Result<(), RotationError> {
        let old = old.and_then(|old| old.value.as_ref());
        match (old, self.estate.authority(secret)) {
            (Some(old), Some((setting, token))) if old == token => Err(RotationError::refused(
                format!("{setting} holds the very value of {secret} that is to be revoked"),
                format!("give reseal a credential of its own in {setting}"),
            )),
            _ => Ok(()),
        }
    }

    /// Nor the login to its own journal.
    pub(super) fn require_journal_outlives(&self, steps: &[Step]) -> Result<(), RotationError> {
        let asks = steps.iter().any(|step| step.action == Action::Check(Check::JournalIsElsewhere));
        if asks && self.estate.journal_in_database {
            return Err(RotationError::refused(
                "the journal is in the database whose password changes",
                "name another place for it: --state-url sqlite://FILE",
            ));
        }
        Ok(())
    }
}
