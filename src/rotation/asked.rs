//! How a rotation was asked for, which is part of its journal, and the steps that come of it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{
    recipe::{Recipe, Rollout, Step, Strategy, Undo},
    state::Shape,
};

/// How a rotation was asked for: part of its journal.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Asked {
    /// The old value is revoked first, whatever stops.
    #[serde(default)]
    pub emergency: bool,
    /// Whether machines get the new value at once or with the next deploy; the recipe's own way without.
    #[serde(default)]
    pub stage: Option<bool>,
    /// Steps and locations that may pass without a check, by name.
    #[serde(default)]
    pub accept_unverified: BTreeSet<String>,
    /// Our id of the credential that goes; set when the rotation is opened.
    #[serde(default)]
    pub old: Option<String>,
}

/// What a person adds to what was asked for when a rotation goes on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Added {
    /// Machines get the new value at once after all.
    #[serde(default)]
    pub deploy: bool,
    /// More steps and locations that may pass without a check.
    #[serde(default)]
    pub accept_unverified: BTreeSet<String>,
}

impl Asked {
    /// When machines get the new value. An emergency does not wait for others to deploy, unless it is told to.
    pub fn rollout(&self, recipe: &Recipe) -> Rollout {
        match self.stage {
            Some(true) => Rollout::Stage,
            Some(false) => Rollout::Deploy,
            None if self.emergency => Rollout::Deploy,
            None => recipe.rollout,
        }
    }

    pub(super) fn add(&mut self, added: Added) {
        if added.deploy {
            self.stage = Some(false);
        }
        self.accept_unverified.extend(added.accept_unverified);
    }
}

/// The steps of a strategy, as they were asked for.
pub fn steps(strategy: &Strategy, asked: &Asked) -> Vec<Step> {
    if asked.emergency { strategy.emergency_steps() } else { strategy.steps.to_vec() }
}

/// The shape of these steps.
pub fn shape(steps: &[Step]) -> Shape {
    let cut_over = steps.iter().position(|step| step.undo() == Undo::Never).unwrap_or(steps.len());
    Shape { steps: steps.len(), cut_over }
}
