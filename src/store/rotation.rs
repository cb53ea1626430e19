//! What is kept of a rotation and of the credentials that it knows.

use serde_json::Value;

/// A rotation, as its row says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RotationRow {
    /// Its id, a ULID.
    pub rotation_id: String,
    /// The secret's name.
    pub secret: String,
    /// The strategy's name.
    pub strategy: String,
    /// How it was asked for, as JSON.
    pub options: String,
    /// Where it is in its life: `running`, `parked`, `done`, …
    pub phase: String,
    /// The step it is at.
    pub step: Option<String>,
    /// What it waits for, while it is parked.
    pub waiting: Option<String>,
    /// When that is over by itself, in Unix milliseconds.
    pub until_ms: Option<i64>,
    /// Who works on it.
    pub holder: Option<String>,
    /// Whether that one's lease has not run out.
    pub held: bool,
    /// When it runs out unless it is renewed, in Unix milliseconds.
    pub lease_ms: Option<i64>,
    /// Unix milliseconds.
    pub begun_ms: i64,
    /// Unix milliseconds; `None` while it is open.
    pub ended_ms: Option<i64>,
}

/// A new rotation.
#[derive(Debug, Clone)]
pub struct NewRotation<'a> {
    /// Its id, a ULID.
    pub rotation_id: &'a str,
    /// The secret's name.
    pub secret: &'a str,
    /// The strategy's name.
    pub strategy: &'a str,
    /// How it was asked for.
    pub options: &'a Value,
    /// Who works on it.
    pub holder: &'a str,
}

/// The right to write a rotation's journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RotationLease {
    /// The rotation.
    pub rotation_id: String,
    /// Grows with each holder: an earlier one's writes are refused.
    pub fence: i64,
}

/// A record of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RotationRecord {
    /// From 1, without gaps.
    pub seq: i64,
    /// Unix milliseconds, by the database's clock.
    pub at_ms: i64,
    /// The step's name.
    pub step: String,
    /// What happened.
    pub event: String,
    /// Particulars, as JSON: ids, names and times, never a secret.
    pub detail: String,
}

/// A record to append, and what it makes of the rotation.
#[derive(Debug, Clone)]
pub struct NewRecord<'a> {
    /// The step's name.
    pub step: &'a str,
    /// What happened.
    pub event: &'a str,
    /// Particulars: ids, names and times, never a secret.
    pub detail: Value,
    /// Where the rotation is in its life from now on.
    pub phase: &'a str,
    /// Whether it is over.
    pub over: bool,
    /// The step it is at from now on.
    pub at: Option<&'a str>,
    /// What it waits for.
    pub waiting: Option<&'a str>,
    /// When that is over by itself, in Unix milliseconds.
    pub until_ms: Option<i64>,
    /// What becomes of credentials, with the record or not at all.
    pub credentials: Vec<CredentialChange>,
}

/// What becomes of a credential.
#[derive(Debug, Clone)]
pub enum CredentialChange {
    /// It is known from now on.
    Add(Credential),
    /// It is in this state from now on; its sealed value is kept or wiped.
    Set {
        /// Which.
        credential_id: String,
        /// The state.
        state: CredentialState,
        /// Whether the sealed value is wiped.
        wipe: bool,
    },
}

/// A credential that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// Our id of it, a ULID.
    pub credential_id: String,
    /// The secret it is a value of.
    pub secret: String,
    /// The provider's id, where it has one.
    pub provider_id: Option<String>,
    /// The rotation that brought it.
    pub rotation_id: Option<String>,
    /// What is known of its life.
    pub state: CredentialState,
    /// Its value, sealed; `None` where it is not known, or wiped.
    pub sealed: Option<Vec<u8>>,
    /// Unix milliseconds, by the database's clock; ignored when it is added.
    pub created_ms: i64,
}

/// What is known of a credential's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialState {
    /// A rotation brought it, and is not at its end.
    Pending,
    /// It is the one in use.
    Current,
    /// An interrupted mint left it.
    Stray,
    /// Its provider accepted to end it.
    Revoked,
    /// It was seen to be refused.
    Dead,
    /// Another is in use, and this one needs no ending.
    Replaced,
}

impl CredentialState {
    const ALL: [Self; 6] =
        [Self::Pending, Self::Current, Self::Stray, Self::Revoked, Self::Dead, Self::Replaced];

    /// As it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Current => "current",
            Self::Stray => "stray",
            Self::Revoked => "revoked",
            Self::Dead => "dead",
            Self::Replaced => "replaced",
        }
    }

    /// The state that was stored so.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}
