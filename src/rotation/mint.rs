//! Makes the new credential, exactly once however often it is interrupted, and ends what interruptions left.

use serde_json::json;

use super::{
    Rotation, RotationError, engine::detail_of, estate::DatabasePlace, outcome::Taken, recipe::IssuerName,
    state::Event,
};
use crate::{
    providers::{Issued, Issuer, Minted, ProviderError, Recovered},
    store::{Credential, CredentialChange, CredentialState},
};

impl Rotation<'_> {
    /// What everything that this step mints is named.
    pub(super) fn mint_name(&self, step: &str) -> String {
        format!("reseal-{}-{step}", self.id().to_ascii_lowercase())
    }

    /// The provider's id of the old credential. A password has none but its role's.
    pub(super) fn old_id(&self, issuer: IssuerName) -> Option<String> {
        if issuer == IssuerName::NeonOtherRole {
            let place = DatabasePlace::of(self.pair.old_value()?).ok()?;
            return Some(format!("role:{}", place.role));
        }
        self.pair.old_id().map(str::to_owned)
    }

    /// The issuer, with the new value where that is what authorises its calls from now on.
    pub(super) async fn authorised(&self, name: IssuerName) -> Result<Box<dyn Issuer>, RotationError> {
        let estate = self.tools.estate;
        match (name, self.pair.new_value()) {
            (IssuerName::NeonKeys, Some(new)) => Ok(Box::new(estate.neon_keys_as(new)?)),
            _ => estate.issuer(name, &self.pair, self.tools.manner.patience).await,
        }
    }

    pub(super) async fn mint(&self, name: IssuerName, step: &str) -> Result<Taken, RotationError> {
        let issuer = self.tools.estate.issuer(name, &self.pair, self.tools.manner.patience).await?;
        match issuer.mint(&self.mint_name(step)).await {
            Ok(minted) => self.minted(name, minted),
            Err(error) => Ok(Taken::of_change(&error)),
        }
    }

    fn minted(&self, name: IssuerName, minted: Minted) -> Result<Taken, RotationError> {
        if self.pair.old_value() == Some(&minted.value) {
            return Ok(Taken::Unknown("the provider gave the old value again".to_owned()));
        }
        let pending = self.pending(Some(minted.id.clone()), &minted.value)?;
        let note = if name.names() { "minted" } else { "reset" };
        Ok(Taken::Done(json!({"id": minted.id, "note": format!("{note} {}", minted.id)}), vec![pending]))
    }

    /// What became of a mint whose reply was lost.
    pub(super) async fn recover(&self, name: IssuerName, step: &str) -> Result<Taken, RotationError> {
        let issuer = self.tools.estate.issuer(name, &self.pair, self.tools.manner.patience).await?;
        let minted = self.mint_name(step);
        // The password that the other role has is no sign of a reset: it has had one all along.
        if name == IssuerName::NeonOtherRole {
            return Ok(Taken::NotDone("whether the interrupted reset was done can't be seen".to_owned()));
        }
        // One look that shows nothing proves nothing.
        let looked = self.tools.manner.patience.until(async || {
            Ok::<_, ProviderError>(match issuer.recover(&minted, self.pair.old_value()).await? {
                Recovered::Nothing => None,
                seen => Some(seen),
            })
        });
        match looked.await {
            Ok(Some(Recovered::Value(value))) => self.minted(name, value),
            Ok(Some(Recovered::Strays(strays))) => self.end_strays(issuer.as_ref(), strays).await,
            Ok(Some(Recovered::Nothing) | None) => {
                Ok(Taken::NotDone("nothing is to be seen of the interrupted mint".to_owned()))
            }
            Err(error) if error.is_transient() => Ok(Taken::Unknown(error.to_string())),
            Err(error) => Ok(Taken::Failed(error.to_string())),
        }
    }

    /// Revokes what an interrupted mint made: nobody holds its value. Each is in the journal before it is revoked.
    async fn end_strays(&self, issuer: &dyn Issuer, strays: Vec<Issued>) -> Result<Taken, RotationError> {
        for stray in strays {
            self.journal_stray(&stray).await?;
            if let Err(error) = issuer.revoke(&stray.id).await {
                return Ok(match error.is_transient() {
                    true => Taken::Unknown(error.to_string()),
                    false => Taken::Failed(error.to_string()),
                });
            }
        }
        Ok(Taken::NotDone("an interrupted mint had left a credential, which is revoked now".to_owned()))
    }

    async fn journal_stray(&self, stray: &Issued) -> Result<(), RotationError> {
        let known = self.tools.store.credentials(Some(self.recipe.secret.as_str())).await?;
        if known.iter().any(|known| known.provider_id.as_ref() == Some(&stray.id)) {
            return Ok(());
        }
        let credential = Credential {
            credential_id: ulid::Ulid::generate().to_string(),
            secret: self.recipe.secret.as_str().to_owned(),
            provider_id: Some(stray.id.clone()),
            rotation_id: Some(self.id().to_owned()),
            state: CredentialState::Stray,
            sealed: None,
            created_ms: 0,
        };
        if self.tools.store.add_credential(&self.lease, &credential).await? {
            Ok(())
        } else {
            Err(RotationError::Fenced { rotation_id: self.id().to_owned() })
        }
    }

    /// Ends everything that this rotation minted but the credential in use. Two lists, since one proves nothing.
    pub(super) async fn sweep(&self, name: IssuerName) -> Result<Taken, RotationError> {
        let issuer = self.authorised(name).await?;
        let prefix = self.mint_name("");
        let mut ended = Vec::new();
        for look in 0..2 {
            if look > 0 {
                tokio::time::sleep(self.tools.manner.patience.every).await;
            }
            let listed = match issuer.list().await {
                Ok(listed) => listed,
                Err(error) => return Ok(Taken::of_look(&error)),
            };
            let in_use = self.pair.new.as_ref().and_then(|new| new.provider_id.as_ref());
            let strays =
                listed.into_iter().filter(|one| one.name.starts_with(&prefix) && Some(&one.id) != in_use);
            for stray in strays {
                self.journal_stray(&stray).await?;
                if let Err(error) = issuer.revoke(&stray.id).await {
                    return Ok(Taken::of_change(&error));
                }
                ended.push(stray.id);
            }
        }
        let known = self.tools.store.credentials(Some(self.recipe.secret.as_str())).await?;
        let ours = |known: &&Credential| {
            known.rotation_id.as_deref() == Some(self.id()) && known.state == CredentialState::Stray
        };
        let revoked = known.iter().filter(ours).map(|stray| CredentialChange::Set {
            credential_id: stray.credential_id.clone(),
            state: CredentialState::Revoked,
            wipe: true,
        });
        Ok(Taken::Done(json!({"strays": ended}), revoked.collect()))
    }

    /// Ends what this rotation minted, because it turns back.
    pub(super) async fn unmint(&self, name: IssuerName, step: &str) -> Result<Taken, RotationError> {
        let issuer = self.tools.estate.issuer(name, &self.pair, self.tools.manner.patience).await?;
        let new = self.pair.new.as_ref();
        if let Some((new, id)) = new.and_then(|new| Some((new, new.provider_id.as_ref()?))) {
            if let Err(error) = issuer.revoke(id).await {
                return Ok(Taken::of_change(&error));
            }
            let revoked = CredentialChange::Set {
                credential_id: new.credential_id.clone(),
                state: CredentialState::Revoked,
                wipe: true,
            };
            let swept = self.sweep_all(issuer.as_ref(), step).await?;
            return Ok(match swept {
                Taken::Done(detail, mut changes) => {
                    changes.push(revoked);
                    Taken::Done(detail, changes)
                }
                other => other,
            });
        }
        // It was interrupted, and a list may lag behind what it made.
        let name = self.mint_name(step);
        let looked = self.tools.manner.patience.until(async || {
            Ok::<_, ProviderError>(match issuer.recover(&name, self.pair.old_value()).await? {
                Recovered::Strays(_) => Some(()),
                Recovered::Value(_) | Recovered::Nothing => None,
            })
        });
        if let Err(error) = looked.await {
            return Ok(Taken::of_look(&error));
        }
        self.sweep_all(issuer.as_ref(), step).await
    }

    /// Ends everything that was minted under this step's name.
    async fn sweep_all(&self, issuer: &dyn Issuer, step: &str) -> Result<Taken, RotationError> {
        let name = self.mint_name(step);
        let mut seen = Vec::new();
        for look in 0..2 {
            if look > 0 {
                tokio::time::sleep(self.tools.manner.patience.every).await;
            }
            match issuer.recover(&name, self.pair.old_value()).await {
                Ok(Recovered::Strays(strays)) => {
                    seen.extend(strays.iter().map(|stray| stray.id.clone()));
                    if let other @ (Taken::Unknown(_) | Taken::Failed(_)) =
                        self.end_strays(issuer, strays).await?
                    {
                        return Ok(other);
                    }
                }
                Ok(Recovered::Value(_) | Recovered::Nothing) => {}
                Err(error) => return Ok(Taken::of_look(&error)),
            }
        }
        Ok(Taken::done(json!({"revoked": seen})))
    }

    /// A number that an earlier step journaled.
    pub(super) async fn journaled_number(&self, step: &str, key: &str) -> Result<Option<u64>, RotationError> {
        let record = self.recorded(step, Event::Succeeded).await?;
        Ok(record.and_then(|record| detail_of(&record)[key].as_u64()))
    }
}
