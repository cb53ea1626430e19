//! Errors of a provider: whose move is next.

use std::time::Duration;

/// What is known of the call's effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The provider did nothing.
    NotDone,
    /// It may have done it, or be about to.
    Unknown,
}

/// Why a call to a provider did not give its answer.
///
/// The text names the provider and the call, a status, and of the reply's body nothing but a code: replies and
/// messages can hold live credentials, and never reach a log (`docs/rotation.md`).
#[derive(Debug, Clone, thiserror::Error)]
pub enum ProviderError {
    /// The call is wrong, or what it asks for does not go: mend it.
    #[error("{provider} refused {call}: {status}{}", shown(.code))]
    Refused {
        /// Whose API.
        provider: &'static str,
        /// Which call, such as `create api key`.
        call: &'static str,
        /// The HTTP status.
        status: u16,
        /// The provider's own code for it, when it is one.
        code: Option<String>,
    },
    /// What was given for the call is not what it takes, so the provider was not asked.
    #[error("{provider} was not asked to {call}: {why}")]
    NotAsked {
        /// Whose API.
        provider: &'static str,
        /// Which call.
        call: &'static str,
        /// What is wrong with it; never content.
        why: &'static str,
    },
    /// The credential that authorised the call is dead, or may not do this.
    #[error("{provider} does not let this credential {call}: {status}{}", shown(.code))]
    Unauthorized {
        /// Whose API.
        provider: &'static str,
        /// Which call.
        call: &'static str,
        /// 401 or 403.
        status: u16,
        /// The provider's own code for it.
        code: Option<String>,
    },
    /// The provider was not reached or asked to come again, and has done nothing.
    #[error("{provider} could not {call} now: {why}")]
    Busy {
        /// Whose API.
        provider: &'static str,
        /// Which call.
        call: &'static str,
        /// `429`, `not reached`.
        why: String,
        /// When it asked to be asked again.
        retry_after: Option<Duration>,
    },
    /// Nobody knows whether it was done: the reply was lost, or is an error of a server that may have acted.
    #[error("{provider} gave no answer to {call} ({why}), and may have done it")]
    Uncertain {
        /// Whose API.
        provider: &'static str,
        /// Which call.
        call: &'static str,
        /// What was seen.
        why: String,
    },
    /// A reply that is not what the provider documents. What was asked for may have been done.
    #[error("{provider} answered {call} with something else than it documents: {what}")]
    Unexpected {
        /// Whose API.
        provider: &'static str,
        /// Which call.
        call: &'static str,
        /// What is missing or odd; never content.
        what: &'static str,
    },
}

fn shown(code: &Option<String>) -> String {
    code.as_ref().map_or_else(String::new, |code| format!(" ({code})"))
}

impl ProviderError {
    /// What is known of the call's effect.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Refused { .. } | Self::NotAsked { .. } | Self::Unauthorized { .. } | Self::Busy { .. } => {
                Outcome::NotDone
            }
            Self::Uncertain { .. } | Self::Unexpected { .. } => Outcome::Unknown,
        }
    }

    /// This error of a later call, seen from `call` that it belongs to and whose effect has begun: nobody knows how
    /// that ends.
    pub(super) fn after(self, provider: &'static str, call: &'static str) -> Self {
        match self.outcome() {
            Outcome::NotDone => Self::Uncertain { provider, call, why: self.to_string() },
            Outcome::Unknown => self,
        }
    }

    /// Whether the same call can succeed later without anybody mending anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::Uncertain { .. })
    }

    /// Whether the provider said that there is no such thing.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Refused { status: 404 | 410, .. })
    }
    /// Whether the provider has no room for what was asked for, there and now.
    pub fn is_capacity(&self) -> bool {
        matches!(self, Self::Refused { code: Some(code), .. } if code == "insufficient_capacity")
    }
}
