//! What a rotation works with, and how it goes about it.

use std::time::Duration;

use super::{
    Operator,
    estate::Estate,
    recipe::Step,
    state::{Course, Event},
};
use crate::{
    journal::{Hook, Vault},
    providers::Patience,
    store::Store,
};

/// How a process goes about a rotation.
#[derive(Debug, Clone)]
pub struct Manner {
    /// How long an observed state of a provider is waited for.
    pub patience: Patience,
    /// How long a workflow run is waited for.
    pub workflow: Patience,
    /// How often a step is tried before the rotation parks.
    pub tries: u32,
    /// The first pause between two tries; it doubles.
    pub pause: Duration,
    /// Awaited at every boundary.
    pub hook: Hook,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            patience: Patience { every: Duration::from_secs(1), at_most: Duration::from_secs(180) },
            workflow: Patience { every: Duration::from_secs(10), at_most: Duration::from_secs(3600) },
            tries: 5,
            pause: Duration::from_secs(1),
            hook: Hook::default(),
        }
    }
}

/// What a rotation works with.
#[derive(Clone, Copy)]
pub struct Tools<'a> {
    /// Where the journal is.
    pub store: &'a dyn Store,
    /// Seals the values in it.
    pub vault: &'a Vault,
    /// What it can reach.
    pub estate: &'a Estate,
    /// Whom it can ask.
    pub operator: &'a dyn Operator,
    /// Told each step that is begun, for people.
    pub tell: &'a (dyn Fn(&Progress) + Sync),
    /// How it goes about it.
    pub manner: &'a Manner,
}

/// A step that begins, or ended.
#[derive(Debug, Clone)]
pub struct Progress {
    /// Its number, from 1.
    pub number: usize,
    /// How many there are.
    pub of: usize,
    /// The step.
    pub step: Step,
    /// What happens.
    pub event: Event,
    /// What there is to say of it.
    pub note: Option<String>,
    /// Which way the rotation goes.
    pub course: Course,
}
