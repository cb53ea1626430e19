//! Add-ons: a Redis that Upstash runs and Fly made.

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::json;

use super::{
    Fly, PROVIDER,
    graphql::{ADD_ON, RESET_ADD_ON, Twice},
};
use crate::{
    providers::{Issued, Issuer, Minted, ProviderError, Recovered, password::is_same},
    secret::SecretText,
};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reset {
    reset_add_on_password: Option<Payload>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Payload {
    add_on: Option<AddOn>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AddOn {
    public_url: Option<String>,
}

impl Fly {
    /// Gives the add-on `name` another password, and its URL with it. The old one is dead from then on.
    ///
    /// # Errors
    /// After one whose outcome is unknown, [`add_on_url`](Self::add_on_url) has whichever password is in force.
    pub async fn reset_add_on_password(&self, name: &str) -> Result<SecretText, ProviderError> {
        let call = "reset the add-on's password";
        let reset: Reset = self.ask(call, RESET_ADD_ON, json!({ "name": name }), Twice::Not).await?;
        url(call, reset.reset_add_on_password.and_then(|payload| payload.add_on))
    }

    /// The URL of the add-on `name`, with its password.
    ///
    /// # Errors
    /// See [`ProviderError`].
    pub async fn add_on_url(&self, name: &str) -> Result<SecretText, ProviderError> {
        let call = "read the add-on's URL";
        let payload: Payload = self.ask(call, ADD_ON, json!({ "name": name }), Twice::Fine).await?;
        url(call, payload.add_on)
    }
}

fn url(call: &'static str, add_on: Option<AddOn>) -> Result<SecretText, ProviderError> {
    let url = add_on.and_then(|add_on| add_on.public_url);
    url.map(SecretText::new).ok_or(ProviderError::Unexpected { provider: PROVIDER, call, what: "no URL" })
}

/// The password of one Redis add-on, as a connection URL.
///
/// Minting resets it: the old one is refused from that moment. Its id is `add-on:NAME`.
#[derive(Debug, Clone)]
pub struct RedisPassword {
    fly: Fly,
    name: String,
}

impl RedisPassword {
    /// Of the add-on `name`.
    pub fn new(fly: &Fly, name: impl Into<String>) -> Self {
        Self { fly: fly.clone(), name: name.into() }
    }

    fn id(&self) -> String {
        format!("add-on:{}", self.name)
    }
}

#[async_trait]
impl Issuer for RedisPassword {
    /// The one password.
    async fn list(&self) -> Result<Vec<Issued>, ProviderError> {
        self.fly.add_on_url(&self.name).await?;
        Ok(vec![Issued { id: self.id(), name: self.name.clone(), created: None, last_used: None }])
    }

    /// A password has no name: `name` is not used.
    async fn mint(&self, _: &str) -> Result<Minted, ProviderError> {
        Ok(Minted { id: self.id(), value: self.fly.reset_add_on_password(&self.name).await? })
    }

    /// Reads the password again: whether it is another than that of `old` says whether the reset was done.
    async fn recover(&self, _: &str, old: Option<&SecretText>) -> Result<Recovered, ProviderError> {
        let value = self.fly.add_on_url(&self.name).await?;
        Ok(match old {
            Some(old) if !is_same(&value, old) => Recovered::Value(Minted { id: self.id(), value }),
            _ => Recovered::Nothing,
        })
    }

    /// Resets the password, and forgets the new one.
    async fn revoke(&self, _: &str) -> Result<(), ProviderError> {
        match self.fly.reset_add_on_password(&self.name).await {
            Err(error) if error.is_missing() => Ok(()),
            reset => reset.map(drop),
        }
    }
}
