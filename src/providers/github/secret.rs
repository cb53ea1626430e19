//! A secret of a repository's Actions. GitHub takes it encrypted, and never shows it.

use async_trait::async_trait;
use base64::{Engine, prelude::BASE64_STANDARD};
use crypto_box::{PublicKey, aead::OsRng};
use serde::Deserialize;
use serde_json::json;

use super::{GitHub, versioned};
use crate::{
    providers::{Location, Observed, ProviderError, http::Reply},
    secret::SecretText,
};

/// A secret of the repository's Actions.
#[derive(Debug, Clone)]
pub struct ActionsSecret {
    github: GitHub,
    name: String,
}

/// The key that GitHub wants values encrypted under.
struct SealingKey {
    id: String,
    key: PublicKey,
}

#[derive(Deserialize)]
struct PublicKeyReply {
    key_id: String,
    key: String,
}

#[derive(Deserialize)]
struct Metadata {
    updated_at: Option<String>,
}

impl ActionsSecret {
    /// The secret `name`.
    pub fn new(github: &GitHub, name: impl Into<String>) -> Self {
        Self { github: github.clone(), name: name.into() }
    }

    async fn key(&self) -> Result<SealingKey, ProviderError> {
        let path = self.github.actions(&["secrets", "public-key"]);
        let reply = versioned(self.github.client.get("read the public key", &path)).send().await?;
        let PublicKeyReply { key_id, key } = reply.json()?;
        let key = BASE64_STANDARD.decode(key).ok().and_then(|key| PublicKey::from_slice(&key).ok());
        Ok(SealingKey { id: key_id, key: key.ok_or(reply.unexpected("no key of 32 bytes"))? })
    }

    /// Construction: `base64(epk ‖ XSalsa20-Poly1305(X25519(esk, key), BLAKE2b-24(epk ‖ key), value))`, libsodium's
    /// `crypto_box_seal`.
    async fn put(&self, key: &SealingKey, value: &SecretText) -> Result<Reply, ProviderError> {
        let sealed = key
            .key
            .seal(&mut OsRng, value.expose().as_bytes())
            .expect("a buffer that grows takes every value");
        let path = self.path();
        let call = self.github.client.put("set the secret", &path).repeatable();
        let body = json!({ "encrypted_value": BASE64_STANDARD.encode(sealed), "key_id": key.id });
        versioned(call).json(&body).reply().await
    }

    fn path(&self) -> Vec<&str> {
        self.github.actions(&["secrets", &self.name])
    }
}

#[async_trait]
impl Location for ActionsSecret {
    async fn write(&self, value: &SecretText) -> Result<(), ProviderError> {
        let key = self.key().await?;
        let reply = self.put(&key, value).await?;
        if !matches!(reply.status(), 400 | 409 | 422) {
            return reply.success().map(drop);
        }
        // The repository's key may have been replaced since it was read.
        let newer = self.key().await?;
        if newer.id == key.id {
            return Err(reply.refusal());
        }
        self.put(&newer, value).await?.success().map(drop)
    }

    async fn remove(&self) -> Result<(), ProviderError> {
        let path = self.path();
        let call = self.github.client.delete("delete the secret", &path).repeatable();
        match versioned(call).send().await {
            Err(error) if error.is_missing() => Ok(()),
            result => result.map(drop),
        }
    }

    async fn observe(&self) -> Result<Observed, ProviderError> {
        let path = self.path();
        match versioned(self.github.client.get("look at the secret", &path)).send().await {
            Err(error) if error.is_missing() => Ok(Observed::Absent),
            Err(error) => Err(error),
            Ok(reply) => {
                let Metadata { updated_at } = reply.json()?;
                Ok(Observed::Written { updated: updated_at, digest: None })
            }
        }
    }
}
