//! Adoption: the journal learns of the credential in use, which no rotation of its own brought.
//!
//! Fly and GitHub show no value and no id of what they hold, so a first rotation knows neither. Without the id nothing can
//! be revoked; without the value its end can only be accepted, and not be seen.

use ulid::Ulid;

use super::{
    RotationError, SecretName, Tools,
    estate::{Estate, Pair},
    recipe::{Action, Check, IssuerName, Recipe},
    take_up::open_rotation,
    values,
};
use crate::{
    journal::Owner,
    providers::{Issued, Life, Patience, ProviderError},
    secret::SecretText,
    store::{Credential, CredentialState},
};

impl Recipe {
    /// Whose list the old credential is in; none for what has no id.
    pub fn lister(&self) -> Option<IssuerName> {
        let steps = self.strategies.iter().flat_map(|strategy| strategy.steps);
        steps.into_iter().find_map(|step| match step.action {
            Action::Check(Check::OldIsKnown(issuer)) => Some(issuer),
            Action::Check(Check::OldEndpoint) => Some(IssuerName::StripeEndpoints),
            _ => None,
        })
    }
}

impl Estate {
    /// The live credentials that the one in use is among; `None` for a secret whose credentials have no ids.
    ///
    /// # Errors
    /// The provider's, and that it is not configured.
    pub async fn candidates(
        &self,
        secret: SecretName,
        patience: Patience,
    ) -> Result<Option<Vec<Issued>>, RotationError> {
        let Some(lister) = secret.recipe().lister() else { return Ok(None) };
        Ok(Some(self.issuer(lister, &Pair::default(), patience).await?.list().await?))
    }

    /// What a running machine of the control plane has in its environment.
    ///
    /// # Errors
    /// Fly's, and that no machine runs or has it.
    pub async fn value_on_machine(&self, secret: SecretName) -> Result<SecretText, RotationError> {
        let fly = self.fly()?;
        let machines = fly.fly.machines(&fly.app).await?;
        let Some(machine) = machines.iter().find(|machine| machine.serves() && machine.state == "started")
        else {
            return Err(RotationError::refused(
                format!("no machine of {} is running", fly.app),
                "give the value with --value-file FILE",
            ));
        };
        fly.fly.secret_value(&fly.app, &machine.id, secret.as_str()).await?.ok_or_else(|| {
            RotationError::refused(
                format!("machine {} of {} has no {secret}", machine.id, fly.app),
                "give the value with --value-file FILE",
            )
        })
    }
}

/// Puts a credential that a person knows of in the place of the current one, by its provider's id, its value, or both.
///
/// # Errors
/// [`RotationError::Refused`] while a rotation of the secret is open, and for what its provider does not know as live.
///
/// # Crash safety
/// One transaction, after all looks.
pub async fn adopt(
    tools: Tools<'_>,
    secret: SecretName,
    id: Option<&str>,
    value: Option<SecretText>,
) -> Result<Credential, RotationError> {
    if secret == SecretName::SecretsEncryptionKey {
        return Err(RotationError::refused(
            "SECRETS_ENCRYPTION_KEY is not kept in the journal",
            "name where it is when it is rotated: --old static:env:NAME or --old static:file:PATH",
        ));
    }
    if open_rotation(tools.store, Some(secret)).await?.is_some() {
        return Err(is_open(secret));
    }
    if id.is_none() && value.is_none() {
        return Err(RotationError::refused(
            format!("nothing was said of the {secret} in use"),
            format!("reseal rotate adopt {secret} --id ID, or --value-file FILE, or both"),
        ));
    }
    if let Some(id) = id {
        require_listed(&tools, secret, id).await?;
    }
    let value = value.map(|value| well_formed(secret, value)).transpose()?;
    if let Some(value) = &value {
        require_live(tools.estate, secret, value).await?;
    }
    let credential_id = Ulid::generate().to_string();
    let sealed =
        value.map(|value| tools.vault.seal(Owner::Credential(&credential_id), &value)).transpose()?;
    let credential = Credential {
        credential_id,
        secret: secret.as_str().to_owned(),
        provider_id: id.map(str::to_owned),
        rotation_id: None,
        state: CredentialState::Current,
        sealed,
        created_ms: 0,
    };
    // One may have been opened since.
    if tools.store.adopt_credential(&credential).await? { Ok(credential) } else { Err(is_open(secret)) }
}

fn is_open(secret: SecretName) -> RotationError {
    RotationError::refused(
        format!("a rotation of {secret} is open, and knows its credentials"),
        format!("reseal rotate resume {secret}, or: reseal rotate abort {secret}"),
    )
}

async fn require_listed(tools: &Tools<'_>, secret: SecretName, id: &str) -> Result<(), RotationError> {
    let Some(lister) = secret.recipe().lister() else {
        return Err(RotationError::refused(
            format!("credentials of {secret} have no ids"),
            format!("reseal rotate adopt {secret} --value-file FILE"),
        ));
    };
    let patience = tools.manner.patience;
    let issuer = tools.estate.issuer(lister, &Pair::default(), patience).await?;
    // A list that lacks it may be stale.
    let listed = patience.until(async || {
        let listed = issuer.list().await?;
        Ok::<_, ProviderError>(listed.iter().any(|one| one.id == id).then_some(()))
    });
    listed.await?.ok_or_else(|| {
        RotationError::refused(
            format!("{id} is not among the live credentials of {secret}'s provider"),
            format!("choose from its list at a terminal: reseal rotate adopt {secret}"),
        )
    })
}

/// The value as its consumer has it: without the line break that ends a file.
fn well_formed(secret: SecretName, value: SecretText) -> Result<SecretText, RotationError> {
    let steps = secret.recipe().strategies.iter().flat_map(|strategy| strategy.steps);
    let kind = steps.into_iter().find_map(|step| match step.action {
        Action::Ask(ask) => Some(ask.value),
        _ => None,
    });
    values::check(kind, value, None).map_err(|wrong| {
        RotationError::refused(wrong.to_string(), "give it as it is, with at most a line break behind it")
    })
}

async fn require_live(estate: &Estate, secret: SecretName, value: &SecretText) -> Result<(), RotationError> {
    let Some(probe) = secret.probe() else { return Ok(()) };
    match estate.probe(probe)?.probe(value).await {
        Life::Live => Ok(()),
        Life::Dead => Err(RotationError::refused(
            format!("the value that was given is refused: it is not the {secret} in use"),
            format!("give its id alone: reseal rotate adopt {secret} --id ID"),
        )),
        Life::Unknown(error) => Err(error.into()),
    }
}
