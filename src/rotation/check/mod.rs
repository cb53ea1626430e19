//! Whether anything is off with the secrets: what was seen ([`Sight`]), judged.
//!
//! [`look`] asks the journal and the providers, and changes nothing; [`findings`] is pure. What can't be read is never
//! called right: a location that takes secrets and shows none is *unreadable*, and all that can be said of it is whether
//! somebody has written to it since reseal did.

mod expected;
mod findings;
mod look;
mod place;

pub use expected::Expected;
pub use findings::{Finding, FindingKind, findings};
pub use look::look;
pub use place::{Place, PlaceLook, Verdict};

use super::Standing;
use crate::providers::Life;

/// Everything that was seen.
#[derive(Debug)]
pub struct Sight {
    /// When, in Unix milliseconds, by the journal's clock.
    pub now_ms: i64,
    /// Each secret, in the order of the map.
    pub secrets: Vec<SecretSight>,
    /// Whether tenants hold the control plane's key.
    pub key: KeySight,
}

/// What was seen of one secret.
#[derive(Debug)]
pub struct SecretSight {
    /// How it stands by the journal.
    pub standing: Standing,
    /// Its values, as far as the journal knows any: the one in use first.
    pub values: Vec<Value>,
    /// Its locations.
    pub places: Vec<Place>,
    /// When the old value ends of which a rotation under way has the successor.
    pub deadline: Option<Deadline>,
    /// Credentials that interrupted mints left and that are not revoked, by the provider's ids.
    pub strays: Vec<String>,
}

/// What was seen of a value.
#[derive(Debug)]
pub struct Value {
    /// Which.
    pub which: Which,
    /// The provider's id of it, where it is known.
    pub id: Option<String>,
    /// What trying it gave.
    pub look: ValueLook,
}

/// A value's place in the life of its secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// It is the one in use, and must work.
    InUse,
    /// Its provider accepted to end it, and it must not.
    Revoked,
}

/// What trying a value gave.
#[derive(Debug)]
pub enum ValueLook {
    /// The journal does not know the value, or was opened without its key.
    NotKnown,
    /// No value of this secret can be tried without side effects.
    NoProbe,
    /// The provider is not configured.
    NotConfigured(String),
    /// It was tried.
    Tried(Life),
}

impl ValueLook {
    /// In a few words.
    pub fn in_words(&self) -> String {
        match self {
            Self::NotKnown => "not known".to_owned(),
            Self::NoProbe => "can't be tried".to_owned(),
            Self::NotConfigured(why) => format!("not tried: {why}"),
            Self::Tried(Life::Live) => "live".to_owned(),
            Self::Tried(Life::Dead) => "dead".to_owned(),
            Self::Tried(Life::Unknown(error)) => format!("unknown: {error}"),
        }
    }
}

/// The end of an old value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    /// When, in Unix milliseconds.
    pub at_ms: i64,
    /// Whether the machines have the new value.
    pub is_delivered: bool,
}

/// `SECRETS_ENCRYPTION_KEY` on a machine of the control plane and on one of a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySight {
    /// It was not looked at.
    NotSeen(String),
    /// The SHA-256 of what each has in its environment; `None` where it has none.
    Seen {
        /// The control plane's machine.
        control_plane: Option<[u8; 32]>,
        /// The tenant's machine.
        tenant: Option<[u8; 32]>,
    },
}

impl KeySight {
    /// Whether tenants are a second location, and a second reader, of the key.
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Seen { control_plane: Some(one), tenant: Some(other) } if one == other)
    }
}
