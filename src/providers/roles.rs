//! The roles that a rotation is made of.

use async_trait::async_trait;

use super::ProviderError;
use crate::secret::SecretText;

/// A credential as its provider lists it: never its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The provider's id.
    pub id: String,
    /// The name it was minted with. Not unique at any provider here.
    pub name: String,
    /// When it was made, as the provider wrote it (RFC 3339).
    pub created: Option<String>,
    /// When it was last used, where the provider tells.
    pub last_used: Option<String>,
}

/// A credential that was just minted.
#[derive(Debug)]
pub struct Minted {
    /// The provider's id. Of a password, which has none, what it belongs to: `role:NAME`.
    pub id: String,
    /// Its value, which the provider shows once.
    pub value: SecretText,
}

/// What became of a mint whose reply was lost.
#[derive(Debug)]
pub enum Recovered {
    /// Its value can still be read: here it is.
    Value(Minted),
    /// These were made, and their values are lost: to be revoked.
    Strays(Vec<Issued>),
    /// Nothing is to be seen of it. One such answer proves nothing: these APIs are eventually consistent.
    Nothing,
}

/// Makes and ends credentials of one kind.
#[async_trait]
pub trait Issuer: Send + Sync {
    /// Every live credential of this kind, all pages of the list.
    async fn list(&self) -> Result<Vec<Issued>, ProviderError>;

    /// Makes one, named `name`.
    ///
    /// # Errors
    /// After one whose [`outcome`](ProviderError::outcome) is unknown, ask [`recover`](Self::recover) before minting
    /// again.
    async fn mint(&self, name: &str) -> Result<Minted, ProviderError>;

    /// Looks for what a mint named `name` made whose reply was lost. `old` is the value before it, where known.
    ///
    /// As it is given here: whatever is listed with that very name, for who shows a value once.
    async fn recover(&self, name: &str, old: Option<&SecretText>) -> Result<Recovered, ProviderError> {
        let _ = old;
        let mut strays = self.list().await?;
        strays.retain(|one| one.name == name);
        Ok(if strays.is_empty() { Recovered::Nothing } else { Recovered::Strays(strays) })
    }

    /// Ends one for good. One that is gone already is done.
    async fn revoke(&self, id: &str) -> Result<(), ProviderError>;
}

/// What a location shows of the value that it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    /// There is none of this name.
    Absent,
    /// It can't be read back, but the location tells when it was last written (RFC 3339), or gives a digest of its own
    /// that is good for comparing two looks.
    Written {
        /// When.
        updated: Option<String>,
        /// Opaque.
        digest: Option<String>,
    },
}

/// Where a secret is kept for its consumer.
#[async_trait]
pub trait Location: Send + Sync {
    /// Writes the value: all of it or nothing. Writing the same again changes nothing.
    async fn write(&self, value: &SecretText) -> Result<(), ProviderError>;

    /// Removes it. One that is gone already is done.
    async fn remove(&self) -> Result<(), ProviderError>;

    /// What is there, as far as it can be seen.
    async fn observe(&self) -> Result<Observed, ProviderError>;
}

/// Whether a credential works.
#[derive(Debug, Clone)]
pub enum Life {
    /// It was accepted.
    Live,
    /// It was refused, for what it is and not for what it asked.
    Dead,
    /// Neither was seen.
    Unknown(ProviderError),
}

/// Tries a credential without side effects.
#[async_trait]
pub trait Probe: Send + Sync {
    /// Uses `value` once.
    async fn probe(&self, value: &SecretText) -> Life;
}
