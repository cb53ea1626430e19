//! Takes one step back.

use serde_json::json;

use super::{
    Rotation, RotationError,
    outcome::Taken,
    recipe::{Action, InPlace, LocationName, Rollout, Step, Undo},
};
use crate::providers::Life;

impl Rotation<'_> {
    pub(super) async fn undo(&self, at: usize) -> Result<Taken, RotationError> {
        let step = self.steps[at];
        match (step.action, step.undo()) {
            (Action::Mint(issuer), Undo::RevokeNew) => self.unmint(issuer, step.name).await,
            (Action::Write(location), _) if self.writes_secret(&step) => {
                self.write_back(location, step.name).await
            }
            (Action::Write(location), _) => self.take_away(location, step.name).await,
            (Action::InPlace(InPlace::Observe), _) => self.stop_observing().await,
            _ => Ok(Taken::done(json!({}))),
        }
    }

    /// Whether the step writes the secret itself, and not something beside it.
    pub(super) fn writes_secret(&self, step: &Step) -> bool {
        match step.action {
            Action::Write(LocationName::Fly(name) | LocationName::GitHub(name)) => {
                name == self.recipe.secret.as_str()
            }
            _ => false,
        }
    }

    /// Puts the old value back, if it works, and has the machines start with it.
    async fn write_back(&self, name: LocationName, step: &str) -> Result<Taken, RotationError> {
        let Some(old) = self.pair.old_value() else {
            return Ok(Taken::Failed("the old value is not known, and can't be written back".to_owned()));
        };
        if let Some(probe) = self.recipe.secret.probe()
            && matches!(self.tools.estate.probe(probe)?.probe(old).await, Life::Dead)
        {
            return Ok(Taken::Failed("the old value is dead: writing it back would help nobody".to_owned()));
        }
        if let Err(error) = self.tools.estate.location(name)?.write(old).await {
            return Ok(Taken::of_change(&error));
        }
        self.redeploy(name, step).await
    }

    /// Removes what was written beside the secret.
    async fn take_away(&self, name: LocationName, step: &str) -> Result<Taken, RotationError> {
        if let Err(error) = self.tools.estate.location(name)?.remove().await {
            return Ok(Taken::of_change(&error));
        }
        self.redeploy(name, step).await
    }

    /// Machines may have started with what was taken back: they start once more.
    async fn redeploy(&self, name: LocationName, step: &str) -> Result<Taken, RotationError> {
        match name {
            LocationName::Fly(_) if self.rollout() == Rollout::Deploy => {
                self.deploy_as(&format!("{}-undo-{step}", self.id())).await
            }
            LocationName::Fly(_) | LocationName::GitHub(_) => {
                Ok(Taken::done(json!({"location": name.as_str(), "restored": true})))
            }
        }
    }
}
