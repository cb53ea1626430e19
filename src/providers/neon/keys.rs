//! API keys, of a person or of an organization.

use async_trait::async_trait;
use serde::Deserialize;

use super::{Neon, PROVIDER};
use crate::{
    providers::{Issued, Issuer, Life, Minted, Probe, ProviderError},
    secret::SecretText,
};

/// The longest name that Neon takes, in characters.
const LONGEST_NAME: usize = 64;

/// The keys of whoever the client's own key belongs to, or of an organization. A key can mint others of its kind;
/// one that is bound to a project can't.
///
/// An old key is revoked with the new one as the client's: a revoked key can't tell that it was revoked.
#[derive(Debug)]
pub struct ApiKeys {
    neon: Neon,
    organization: Option<String>,
}

impl ApiKeys {
    /// Personal keys, or those of `organization`, an id such as `org-cool-breeze-12345678`.
    pub fn new(neon: Neon, organization: Option<String>) -> Self {
        Self { neon, organization }
    }

    /// The same keys, managed with another one of them.
    #[must_use]
    pub fn with_token(&self, token: SecretText) -> Self {
        Self { neon: self.neon.with_token(token), organization: self.organization.clone() }
    }

    fn path<'a>(&'a self, id: Option<&'a str>) -> Vec<&'a str> {
        let owner = self.organization.as_deref().map(|organization| ["organizations", organization]);
        owner.into_iter().flatten().chain(["api_keys"]).chain(id).collect()
    }
}

#[derive(Deserialize)]
struct Listed {
    id: u64,
    name: String,
    created_at: String,
    last_used_at: Option<String>,
}

#[derive(Deserialize)]
struct Created {
    id: u64,
    key: SecretText,
}

#[derive(Deserialize)]
struct Revoked {
    revoked: bool,
}

#[async_trait]
impl Issuer for ApiKeys {
    async fn list(&self) -> Result<Vec<Issued>, ProviderError> {
        let keys: Vec<Listed> = self.neon.get("list the API keys", &self.path(None)).send().await?.json()?;
        let issued = |key: Listed| Issued {
            id: key.id.to_string(),
            name: key.name,
            created: Some(key.created_at),
            last_used: key.last_used_at,
        };
        Ok(keys.into_iter().map(issued).collect())
    }

    async fn mint(&self, name: &str) -> Result<Minted, ProviderError> {
        const CALL: &str = "create an API key";
        if name.chars().count() > LONGEST_NAME {
            let why = "the key's name is longer than 64 characters";
            return Err(ProviderError::NotAsked { provider: PROVIDER, call: CALL, why });
        }
        let body = serde_json::json!({ "key_name": name });
        let key: Created = self.neon.post(CALL, &self.path(None)).json(&body).send().await?.json()?;
        Ok(Minted { id: key.id.to_string(), value: key.key })
    }

    async fn revoke(&self, id: &str) -> Result<(), ProviderError> {
        let call = self.neon.delete("revoke an API key", &self.path(Some(id))).repeatable();
        let reply = match call.send().await {
            Err(error) if error.is_missing() => return Ok(()),
            reply => reply?,
        };
        let key: Revoked = reply.json()?;
        if key.revoked { Ok(()) } else { Err(reply.unexpected("the key is not revoked")) }
    }
}

/// Tries an API key by listing one project with it.
#[derive(Debug)]
pub struct KeyProbe {
    neon: Neon,
    organization: Option<String>,
}

impl KeyProbe {
    /// A probe for keys that see the projects of `organization`, or their owner's own. The client's key is not used.
    pub fn new(neon: Neon, organization: Option<String>) -> Self {
        Self { neon, organization }
    }
}

#[async_trait]
impl Probe for KeyProbe {
    async fn probe(&self, value: &SecretText) -> Life {
        let neon = self.neon.with_token(SecretText::new(value.expose().to_owned()));
        let organization = self.organization.as_deref().map(|organization| ("org_id", organization));
        let query: Vec<_> = [("limit", "1")].into_iter().chain(organization).collect();
        match neon.get("list the projects", &["projects"]).query(&query).send().await {
            Ok(_) => Life::Live,
            Err(ProviderError::Unauthorized { status: 401, .. }) => Life::Dead,
            Err(error) => Life::Unknown(error),
        }
    }
}
