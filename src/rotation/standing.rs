//! How a secret stands, by the journal alone: pure.

use super::{
    SecretName,
    state::{Course, Phase},
};
use crate::store::{Credential, CredentialState, RotationRow};

/// Milliseconds of a day.
const DAY: i64 = 86_400_000;

/// How a secret stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The secret.
    pub secret: SecretName,
    /// What is under way.
    pub state: StandingState,
    /// When the value in use was made by a rotation, in Unix milliseconds.
    pub replaced_ms: Option<i64>,
    /// Its age in whole days.
    pub age_days: Option<i64>,
}

/// What is under way with a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StandingState {
    /// Its issuer rotates it.
    Automatic,
    /// Nothing; a rotation brought the value in use.
    Current,
    /// Nothing; a person made the value in use known.
    Adopted,
    /// Nothing, and nothing is known of the value in use.
    NeverRotated,
    /// A rotation.
    Rotating {
        /// The step it is at.
        step: String,
        /// Which way it goes.
        course: Course,
        /// Whether a process works on it; otherwise it was interrupted.
        held: bool,
    },
    /// A rotation that waits.
    Parked {
        /// The step it is at.
        step: String,
        /// For what.
        waiting: String,
        /// When that is over by itself, in Unix milliseconds.
        until_ms: Option<i64>,
    },
}

impl StandingState {
    /// In a word or two.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Automatic => "automatic",
            Self::Current => "current",
            Self::Adopted => "adopted",
            Self::NeverRotated => "never rotated here",
            Self::Rotating { held: false, .. } => "interrupted",
            Self::Rotating { course: Course::Forward, .. } => "rotating",
            Self::Rotating { course: Course::Back, .. } => "rolling back",
            Self::Parked { .. } => "parked",
        }
    }
}

impl Standing {
    /// How `secret` stands at `now_ms`, by its rotations and credentials, the newest first each.
    pub fn of(
        secret: SecretName,
        rotations: &[RotationRow],
        credentials: &[Credential],
        now_ms: i64,
    ) -> Self {
        let done = |row: &&RotationRow| row.phase == Phase::Done.as_str();
        let current = credentials.iter().find(|known| known.state == CredentialState::Current);
        // Without a credential of its own (a key that left a table), what a rotation brought was made after its beginning.
        let replaced_ms = match current {
            Some(known) => known.rotation_id.as_ref().map(|_| known.created_ms),
            None => rotations.iter().find(done).map(|row| row.begun_ms),
        };
        let open = rotations.iter().find(|row| row.ended_ms.is_none());
        let state = match (open, current) {
            _ if secret.recipe().strategies.is_empty() => StandingState::Automatic,
            (Some(open), _) => under_way(open),
            (None, Some(known)) if known.rotation_id.is_none() => StandingState::Adopted,
            (None, _) if replaced_ms.is_some() => StandingState::Current,
            (None, _) => StandingState::NeverRotated,
        };
        let age_days = replaced_ms.map(|then| (now_ms - then).max(0) / DAY);
        Self { secret, state, replaced_ms, age_days }
    }

    /// Whether the value in use is older than the recipe wants it.
    pub fn is_over_age(&self) -> bool {
        let most = self.secret.recipe().max_age_days;
        self.age_days.zip(most).is_some_and(|(age, most)| age > i64::from(most))
    }
}

fn under_way(row: &RotationRow) -> StandingState {
    let step = row.step.clone().unwrap_or_default();
    let is = |phase: Phase| row.phase == phase.as_str();
    if is(Phase::Parked(Course::Forward)) || is(Phase::Parked(Course::Back)) {
        let waiting = row.waiting.clone().unwrap_or_else(|| "a person".to_owned());
        return StandingState::Parked { step, waiting, until_ms: row.until_ms };
    }
    let course = if is(Phase::Going(Course::Back)) { Course::Back } else { Course::Forward };
    StandingState::Rotating { step, course, held: row.held }
}
