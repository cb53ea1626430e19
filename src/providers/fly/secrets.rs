//! An app's vault. Writing to it restarts nothing.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Fly, acting};
use crate::{
    providers::{Location, Observed, ProviderError},
    secret::SecretText,
};

/// Unset to learn the vault's version, as `fly secrets sync` does; nobody sets it.
const NOBODYS: &str = "RESEAL_VAULT_VERSION";

/// A secret as the vault lists it: never its value.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct VaultEntry {
    /// The environment variable.
    pub name: String,
    /// By a method that Fly keeps to itself: good for comparing two looks.
    pub digest: Option<String>,
    /// When it was last set (RFC 3339).
    pub updated_at: Option<String>,
}

#[derive(Deserialize)]
struct Vault {
    #[serde(default)]
    secrets: Vec<VaultEntry>,
}

#[derive(Deserialize)]
struct Versioned {
    version: u64,
}

#[derive(Serialize)]
struct Values<'a> {
    values: std::collections::BTreeMap<&'a str, &'a str>,
}

impl Fly {
    /// The secrets in the vault of `app`.
    ///
    /// # Errors
    /// See [`ProviderError`].
    pub async fn secrets(&self, app: &str) -> Result<Vec<VaultEntry>, ProviderError> {
        let call = self.machines.get("list secrets", &["apps", app, "secrets"]);
        Ok(acting(call, "list secrets", &[app]).send().await?.json::<Vault>()?.secrets)
    }

    /// The version that the vault of `app` is at. A machine updated with it as its minimum gets no older values, even
    /// from a host that lags.
    ///
    /// # Errors
    /// See [`ProviderError`].
    pub async fn vault_version(&self, app: &str) -> Result<u64, ProviderError> {
        let path = ["apps", app, "secrets", NOBODYS];
        let call = self.machines.delete("read the vault's version", &path).repeatable();
        Ok(acting(call, "unset", &[app]).send().await?.json::<Versioned>()?.version)
    }
}

/// A secret in an app's vault.
#[derive(Debug, Clone)]
pub struct AppSecret {
    fly: Fly,
    app: String,
    name: String,
}

impl AppSecret {
    /// The secret `name` of `app`.
    pub fn new(fly: &Fly, app: impl Into<String>, name: impl Into<String>) -> Self {
        Self { fly: fly.clone(), app: app.into(), name: name.into() }
    }
}

#[async_trait]
impl Location for AppSecret {
    /// Only the vault is written: machines have the value after a [`Deploy`](super::Deploy), or when they are next
    /// started.
    async fn write(&self, value: &SecretText) -> Result<(), ProviderError> {
        let values = Values { values: [(self.name.as_str(), value.expose())].into() };
        let call = self.fly.machines.post("set the secret", &["apps", &self.app, "secrets"]);
        acting(call.json(&values).repeatable(), "set", &[&self.app]).send().await.map(drop)
    }

    async fn remove(&self) -> Result<(), ProviderError> {
        let path = ["apps", &self.app, "secrets", &self.name];
        let call = self.fly.machines.delete("unset the secret", &path).repeatable();
        match acting(call, "unset", &[&self.app]).send().await {
            Err(error) if error.is_missing() => Ok(()),
            result => result.map(drop),
        }
    }

    async fn observe(&self) -> Result<Observed, ProviderError> {
        let listed = self.fly.secrets(&self.app).await?;
        Ok(listed.into_iter().find(|entry| entry.name == self.name).map_or(Observed::Absent, |entry| {
            Observed::Written { updated: entry.updated_at, digest: entry.digest }
        }))
    }
}
