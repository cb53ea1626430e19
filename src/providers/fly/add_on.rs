//! Add-ons: a Redis that Upstash runs and Fly made.

use serde::Deserialize;
use serde_json::json;

use super::{
    Fly, PROVIDER,
    graphql::{ADD_ON, RESET_ADD_ON, Twice},
};
use crate::{providers::ProviderError, secret::SecretText};

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
