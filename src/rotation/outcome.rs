//! What became of a step.

use serde_json::{Value, json};

use crate::{
    providers::{Outcome, ProviderError, fly::DeployError},
    store::CredentialChange,
};

/// What became of a step that acted.
#[derive(Debug)]
pub(super) enum Taken {
    /// It did what it is for. Particulars for the journal, and what it makes of credentials.
    Done(Value, Vec<CredentialChange>),
    /// It did nothing, and may be tried again.
    NotDone(String),
    /// Nobody knows whether it did it.
    Unknown(String),
    /// It can't succeed as things are.
    Failed(String),
    /// It waits for something that only a person or time brings.
    Waits(Wait),
}

impl Taken {
    pub(super) fn done(detail: Value) -> Self {
        Self::Done(detail, Vec::new())
    }

    /// What an error of a call makes of a step that changes something.
    pub(super) fn of_change(error: &ProviderError) -> Self {
        match error.outcome() {
            Outcome::Unknown => Self::Unknown(error.to_string()),
            Outcome::NotDone if error.is_transient() => Self::NotDone(error.to_string()),
            Outcome::NotDone => Self::Failed(error.to_string()),
        }
    }

    /// What an answer makes of a step that only looks, or that can be tried again.
    pub(super) fn of_answer<T>(seen: Result<T, ProviderError>, then: impl FnOnce(T) -> Self) -> Self {
        seen.map_or_else(|error| Self::of_look(&error), then)
    }

    /// What an error on the way to a machine makes of a step. Each machine that has its update is passed over next time.
    pub(super) fn of_deploy(error: &DeployError) -> Self {
        match error {
            DeployError::Provider(error) => Self::of_look(error),
            DeployError::Held { .. } | DeployError::Contended(_) => Self::NotDone(error.to_string()),
            DeployError::NoMachines(_) | DeployError::NotHealthy(_) => Self::Failed(error.to_string()),
        }
    }

    /// What an error of a call makes of a step that only looks.
    pub(super) fn of_look(error: &ProviderError) -> Self {
        if error.is_transient() { Self::NotDone(error.to_string()) } else { Self::Failed(error.to_string()) }
    }
}

/// What a parked rotation waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// In words.
    pub what: String,
    /// When it is over by itself, in Unix milliseconds.
    pub until_ms: Option<i64>,
    /// What the command that goes on needs besides: an option, as it is typed.
    pub with: Option<String>,
}

impl Wait {
    pub(super) fn for_(what: impl Into<String>) -> Self {
        Self { what: what.into(), until_ms: None, with: None }
    }

    pub(super) fn with(self, option: impl Into<String>) -> Self {
        Self { with: Some(option.into()), ..self }
    }

    pub(super) fn detail(&self) -> Value {
        json!({"waiting": self.what, "until_ms": self.until_ms, "with": self.with})
    }
}
