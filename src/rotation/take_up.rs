//! Opens a rotation, or takes one up where its journal left it.

use serde_json::json;
use ulid::Ulid;

use super::{
    Asked, Rotation, RotationError, SecretName, Tools,
    asked::{shape, steps},
    engine::{detail_of, error_of},
    estate::Pair,
    recipe::Strategy,
    state::{Event, Phase, State},
};
use crate::{
    journal::holder,
    store::{CredentialState, NewRotation, RotationLease, RotationRow, Store},
};

impl<'a> Rotation<'a> {
    /// Opens a rotation.
    ///
    /// # Errors
    /// [`RotationError::Refused`] when the secret has an open one, or the rotation would end what it needs itself.
    ///
    /// # Crash safety
    /// Opened or not. Nothing is asked of a provider before the first [`advance`](Self::advance).
    pub async fn open(
        tools: Tools<'a>,
        secret: SecretName,
        strategy: &'static Strategy,
        mut asked: Asked,
    ) -> Result<Self, RotationError> {
        let known = tools.store.credentials(Some(secret.as_str())).await?;
        let current = known.into_iter().find(|known| known.state == CredentialState::Current);
        let current = current.map(|current| tools.held(secret, current)).transpose()?;
        tools.require_authority_outlives(secret, current.as_ref())?;
        tools.require_journal_outlives(&steps(strategy, &asked))?;
        asked.old = current.map(|current| current.credential_id);
        let rotation_id = Ulid::generate().to_string();
        let options = serde_json::to_value(&asked).unwrap_or_default();
        let new = NewRotation {
            rotation_id: &rotation_id,
            secret: secret.as_str(),
            strategy: strategy.name,
            options: &options,
            holder: &holder(),
        };
        let Some(lease) = tools.store.open_rotation(&new).await? else {
            let open = open_rotation(tools.store, Some(secret)).await?;
            let id = open.map_or_else(String::new, |row| format!(" {}", row.rotation_id));
            return Err(RotationError::refused(
                format!("{secret} has an open rotation{id}"),
                format!("reseal rotate resume {secret}, or: reseal rotate abort {secret}"),
            ));
        };
        Self::load(tools, secret, strategy, asked, lease).await
    }

    /// Takes up a rotation that was opened before.
    ///
    /// # Errors
    /// [`RotationError::Refused`] while another process works on it.
    pub async fn resume(tools: Tools<'a>, row: &RotationRow) -> Result<Self, RotationError> {
        let corrupt =
            |why: &str| RotationError::Corrupt { rotation_id: row.rotation_id.clone(), why: why.to_owned() };
        let secret: SecretName = row.secret.parse().map_err(|_| corrupt("no such secret"))?;
        let strategy = secret.recipe().strategy(Some(&row.strategy));
        let strategy = strategy.ok_or_else(|| corrupt("no such strategy in this version of reseal"))?;
        let asked = serde_json::from_str(&row.options).map_err(|_| corrupt("its options"))?;
        let Some(lease) = tools.store.claim_rotation(&row.rotation_id, &holder()).await? else {
            let by = row.holder.as_deref().unwrap_or("another process");
            return Err(RotationError::refused(
                format!("rotation {} of {secret} is being worked on by {by}", row.rotation_id),
                "wait until it ends; one that died is let go within 20 s: reseal rotate status",
            ));
        };
        Self::load(tools, secret, strategy, asked, lease).await
    }

    async fn load(
        tools: Tools<'a>,
        secret: SecretName,
        strategy: &'static Strategy,
        asked: Asked,
        lease: RotationLease,
    ) -> Result<Self, RotationError> {
        let recipe = secret.recipe();
        let steps = steps(strategy, &asked);
        let mut rotation = Self {
            tools,
            recipe,
            steps,
            asked,
            lease,
            pair: Pair::default(),
            state: State::START,
            trouble: None,
        };
        rotation.replay().await?;
        rotation.pair = rotation.load_pair().await?;
        tools.require_authority_outlives(secret, rotation.pair.old.as_ref())?;
        Ok(rotation)
    }

    /// Brings the state to where the journal is.
    async fn replay(&mut self) -> Result<(), RotationError> {
        let corrupt = |seq: i64, why: &str| RotationError::Corrupt {
            rotation_id: self.lease.rotation_id.clone(),
            why: format!("record {seq}: {why}"),
        };
        let shape = shape(&self.steps);
        for record in self.tools.store.rotation_records(&self.lease.rotation_id).await? {
            let event = Event::parse(&record.event).ok_or_else(|| corrupt(record.seq, "no such event"))?;
            let named = self.steps.get(self.place()).map_or("", |step| step.name);
            if named != record.step {
                return Err(corrupt(record.seq, "another step than this version of reseal has there"));
            }
            self.state = self.state.next(event, shape)?;
            if let Some(error) = error_of(&record) {
                self.trouble = Some(error);
            }
            if let Ok(added) = serde_json::from_value(detail_of(&record)["added"].take()) {
                self.asked.add(added);
            }
        }
        if self.state.open && matches!(self.state.phase, Phase::Going(_)) {
            // Whoever wrote that intent is gone: from here on nobody knows what became of it.
            self.record(Event::Unknown, json!({"found": "an intent without an outcome"}), Vec::new()).await?;
        }
        Ok(())
    }

    pub(super) async fn load_pair(&self) -> Result<Pair, RotationError> {
        let id = Some(self.lease.rotation_id.as_str());
        let credentials = self.tools.store.credentials(Some(self.recipe.secret.as_str())).await?;
        let mut pair = Pair::default();
        for credential in credentials {
            let ours = credential.rotation_id.as_deref() == id;
            let comes = ours && credential.state == CredentialState::Pending && pair.new.is_none();
            if self.asked.old.as_ref() == Some(&credential.credential_id) {
                pair.old = Some(self.tools.held(self.recipe.secret, credential)?);
            } else if comes {
                pair.new = Some(self.tools.held(self.recipe.secret, credential)?);
            }
        }
        Ok(pair)
    }
}

/// The newest open rotation, of one secret or of any.
pub async fn open_rotation(
    store: &dyn Store,
    secret: Option<SecretName>,
) -> Result<Option<RotationRow>, RotationError> {
    let rows = store.rotations(secret.map(SecretName::as_str)).await?;
    Ok(rows.into_iter().find(|row| row.ended_ms.is_none()))
}
