//! Settings: flags, then the environment, then `reseal.toml`, then defaults. Each value remembers its origin.
//!
//! A table gives every setting its name in all layers, its help and its default. Values stay text
//! here; what they mean is read where they are used, so that a key pasted in the wrong place is never echoed by a
//! parser that is not ours.

mod database_url;
mod layers;
mod providers;
mod settings;
mod source;
mod tenants;

pub(crate) use database_url::{DatabaseUrl, SQLITE, place_of};
use layers::Origin;
pub(crate) use layers::{Settings, Value, quote};
use settings::Definition;
pub(crate) use settings::{Kind, SETTINGS, all, definition};
use source::{place_in, secret_at};

/// Why the settings can't be used: what is wrong, never the value, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub(crate) struct ConfigError {
    /// The setting, its origin, and what is wrong with it.
    pub(crate) what: String,
    /// What to do about it.
    pub(crate) hint: Option<String>,
}

impl ConfigError {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), hint: None }
    }

    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}
