//! Takes one step back.

use serde_json::json;

use super::{
    Rotation, RotationError,
    engine::detail_of,
    in_place::KMS_KEY,
    outcome::Taken,
    recipe::{Action, InPlace, LocationName, Rollout, Step, Undo},
    state::Event,
};
use crate::providers::{Life, Observed};

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
        let location = self.tools.estate.location(name)?;
        let standing = self.standing(name, step).await?;
        // Not twice: each write has to be deployed, and others may have done that by now.
        if standing.is_there
            && let Err(error) = location.write(old).await
        {
            return Ok(Taken::of_change(&error));
        }
        if standing.is_out { self.redeploy(name, step).await } else { Ok(restored(name)) }
    }

    /// How far what the step wrote has come. What can't be seen is written back, and waited for.
    async fn standing(&self, name: LocationName, step: &str) -> Result<Standing, RotationError> {
        let written = self.recorded(step, Event::Succeeded).await?.map(|record| detail_of(&record));
        let written = written.as_ref().and_then(|detail| detail["digest"].as_str());
        let seen = match self.tools.estate.location(name)?.observe().await {
            Ok(Observed::Written { digest, .. }) => digest,
            Ok(Observed::Absent) | Err(_) => None,
        };
        let is_there = written.is_none_or(|written| seen.as_deref().is_none_or(|seen| seen == written));
        let LocationName::Fly(variable) = name else {
            return Ok(Standing { is_there, is_out: false });
        };
        let deploy = self.steps.iter().find(|step| step.action == Action::Deploy);
        let is_deployed = match deploy {
            Some(step) => self.recorded(step.name, Event::Succeeded).await?.is_some(),
            None => false,
        };
        if is_deployed || !is_there || self.rollout() == Rollout::Deploy {
            return Ok(Standing { is_there, is_out: true });
        }
        let fly = self.tools.estate.fly()?;
        let unseen = fly.fly.is_unseen(&fly.app, variable).await.unwrap_or(false);
        Ok(Standing { is_there, is_out: !unseen })
    }

    /// Removes what was written beside the secret, if nothing needs it.
    async fn take_away(&self, name: LocationName, step: &str) -> Result<Taken, RotationError> {
        if let LocationName::Fly(KMS_KEY) = name
            && let Some(kept) = self.keeps_kms_key().await?
        {
            return Ok(kept);
        }
        if let Err(error) = self.tools.estate.location(name)?.remove().await {
            return Ok(Taken::of_change(&error));
        }
        self.redeploy(name, step).await
    }

    /// Machines may have started with what was taken back: they start once more, or the next deploy of others is waited
    /// for. Until then what they have must go on working.
    async fn redeploy(&self, name: LocationName, step: &str) -> Result<Taken, RotationError> {
        match (name, self.rollout()) {
            (LocationName::Fly(_), Rollout::Deploy) => {
                self.deploy_as(&format!("{}-undo-{step}", self.id())).await
            }
            (LocationName::Fly(_), Rollout::Stage) => self.await_deploy().await,
            (LocationName::GitHub(_), _) => Ok(restored(name)),
        }
    }
}

/// How far what a step wrote has come.
struct Standing {
    /// Whether its location still holds it, as far as can be seen.
    is_there: bool,
    /// Whether machines may have started with it.
    is_out: bool,
}

fn restored(name: LocationName) -> Taken {
    Taken::done(json!({"location": name.as_str(), "restored": true}))
}
