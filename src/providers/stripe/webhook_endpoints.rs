//! Webhook endpoints: a second one beside the old, with a secret of its own.
//!
//! Both get every event, so the consumer sees each twice, under one event id. Deleting an endpoint ends the retries of
//! what it could not deliver: ask [`undelivered`](WebhookEndpoints::undelivered) first.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::{Deserialize, de::DeserializeOwned};

use super::{PROVIDER, send};
use crate::{
    providers::{Issued, Issuer, Minted, ProviderError, Recovered, http::Client},
    secret::SecretText,
    time::rfc3339,
};

/// The key in an endpoint's metadata that holds the name it was minted with.
const NAME: &str = "reseal_rotation";

const CREATE: &str = "create webhook endpoint";

/// How many endpoints of one name may have been made and deleted again.
const GENERATIONS: u32 = 8;

/// The length of a page, which is the longest there is.
const PAGE: &str = "100";

/// An endpoint as Stripe describes it, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Endpoint {
    /// Its id, `we_…`.
    pub id: String,
    /// Where events are sent.
    pub url: String,
    /// Their types, or `*`.
    pub enabled_events: Vec<String>,
    /// The version in which events are written; without one it is the account's.
    pub api_version: Option<String>,
    /// Of an endpoint for events of connected accounts, the application.
    pub application: Option<String>,
    /// What a person wrote about it.
    pub description: Option<String>,
    /// What programs noted.
    pub metadata: BTreeMap<String, String>,
    /// `enabled` or `disabled`.
    pub status: String,
    /// When it was made, in Unix seconds.
    pub created: i64,
}

impl Endpoint {
    /// The form that makes another like this.
    fn form(&self, name: &str) -> Vec<(String, String)> {
        let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut form = vec![field("url", &self.url)];
        form.extend(self.enabled_events.iter().map(|event| field("enabled_events[]", event)));
        form.extend(self.api_version.iter().map(|version| field("api_version", version)));
        form.extend(self.description.iter().map(|text| field("description", text)));
        // Stripe does not give `connect` back; only endpoints for connected accounts have an application.
        form.extend(self.application.iter().map(|_| field("connect", "true")));
        let kept = self.metadata.iter().filter(|(key, _)| *key != NAME);
        form.extend(kept.map(|(key, value)| field(&format!("metadata[{key}]"), value)));
        form.push(field(&format!("metadata[{NAME}]"), name));
        form
    }

    fn name(&self) -> Option<&str> {
        self.metadata.get(NAME).map(String::as_str)
    }
}

/// An endpoint that no rotation made goes by its URL.
impl From<Endpoint> for Issued {
    fn from(endpoint: Endpoint) -> Self {
        let name = endpoint.name().unwrap_or(&endpoint.url).to_owned();
        let created = Some(rfc3339(endpoint.created.saturating_mul(1000)));
        Self { id: endpoint.id, name, created, last_used: None }
    }
}

/// An account's webhook endpoints. The secret of one is shown once, when it is made.
#[derive(Debug, Clone)]
pub struct WebhookEndpoints {
    client: Client,
    like: String,
}

impl WebhookEndpoints {
    pub(super) fn new(client: Client, like: &str) -> Self {
        Self { client, like: like.to_owned() }
    }

    /// The endpoints that get their events at exactly this URL.
    pub async fn at(&self, url: &str) -> Result<Vec<Endpoint>, ProviderError> {
        let mut all = self.all().await?;
        all.retain(|endpoint| endpoint.url == url);
        Ok(all)
    }

    /// How many of the account's events since `since`, in Unix seconds, have not reached every endpoint.
    ///
    /// Stripe does not tell which endpoint they failed at.
    pub async fn undelivered(&self, since: i64) -> Result<usize, ProviderError> {
        let query = [("delivery_success", "false".to_owned()), ("created[gte]", since.to_string())];
        let events: Vec<Event> = self.pages("list events", &["v1", "events"], &query).await?;
        Ok(events.len())
    }

    async fn all(&self) -> Result<Vec<Endpoint>, ProviderError> {
        self.pages("list webhook endpoints", &["v1", "webhook_endpoints"], &[]).await
    }

    async fn read(&self, id: &str) -> Result<Endpoint, ProviderError> {
        send(self.client.get("read webhook endpoint", &["v1", "webhook_endpoints", id])).await?.json()
    }

    /// Creates an endpoint, or has Stripe say again what it answered to the same idempotency key before.
    async fn create(&self, form: &[(String, String)], key: &str) -> Result<Minted, ProviderError> {
        #[derive(Deserialize)]
        struct Created {
            id: String,
            secret: Option<SecretText>,
        }
        let call = self.client.post(CREATE, &["v1", "webhook_endpoints"]);
        let reply = send(call.header("Idempotency-Key", key).form(form).repeatable()).await?;
        let Created { id, secret } = reply.json()?;
        let value = secret.ok_or_else(|| reply.unexpected("no secret"))?;
        Ok(Minted { id, value })
    }

    async fn pages<T: Listed>(
        &self,
        call: &'static str,
        path: &[&str],
        query: &[(&str, String)],
    ) -> Result<Vec<T>, ProviderError> {
        #[derive(Deserialize)]
        struct Page<T> {
            data: Vec<T>,
            has_more: bool,
        }
        let mut all: Vec<T> = Vec::new();
        loop {
            let request = self.client.get(call, path).query(&[("limit", PAGE)]).query(query);
            let request = match all.last() {
                Some(last) => request.query(&[("starting_after", last.id())]),
                None => request,
            };
            let reply = send(request).await?;
            let Page { data, has_more } = reply.json::<Page<T>>()?;
            if has_more && data.is_empty() {
                return Err(reply.unexpected("an empty page that says there is more"));
            }
            // The same page again would have us ask for ever.
            if has_more && data.last().map(T::id) == all.last().map(T::id) {
                return Err(reply.unexpected("the same page again, which says there is more"));
            }
            all.extend(data);
            if !has_more {
                return Ok(all);
            }
        }
    }
}

#[async_trait]
impl Issuer for WebhookEndpoints {
    async fn list(&self) -> Result<Vec<Issued>, ProviderError> {
        Ok(self.all().await?.into_iter().map(Issued::from).collect())
    }

    /// Makes an endpoint like the old one.
    ///
    /// # Crash safety
    /// The idempotency key follows from the name, so that within Stripe's 24 hours a second call gets the endpoint of
    /// the first, with its secret. Stripe answers so even when that endpoint was deleted since: one that is found gone
    /// moves on to the next key.
    async fn mint(&self, name: &str) -> Result<Minted, ProviderError> {
        let form = self.read(&self.like).await?.form(name);
        for generation in 1..=GENERATIONS {
            let minted = self.create(&form, &format!("{name}-{generation}")).await?;
            match self.read(&minted.id).await {
                Ok(_) => return Ok(minted),
                Err(error) if error.is_missing() => {}
                Err(error) => return Err(error.after(PROVIDER, CREATE)),
            }
        }
        let what = "every endpoint of this name is gone again";
        Err(ProviderError::Unexpected { provider: PROVIDER, call: CREATE, what })
    }

    async fn recover(&self, name: &str, _old: Option<&SecretText>) -> Result<Recovered, ProviderError> {
        let mut named = self.all().await?;
        named.retain(|endpoint| endpoint.name() == Some(name));
        let strays: Vec<_> = named.into_iter().map(Issued::from).collect();
        Ok(if strays.is_empty() { Recovered::Nothing } else { Recovered::Strays(strays) })
    }

    async fn revoke(&self, id: &str) -> Result<(), ProviderError> {
        let call = self.client.delete("delete webhook endpoint", &["v1", "webhook_endpoints", id]);
        match send(call.repeatable()).await {
            Err(error) if !error.is_missing() => Err(error),
            _ => Ok(()),
        }
    }
}

trait Listed: DeserializeOwned {
    fn id(&self) -> &str;
}

impl Listed for Endpoint {
    fn id(&self) -> &str {
        &self.id
    }
}

#[derive(Deserialize)]
struct Event {
    id: String,
}

impl Listed for Event {
    fn id(&self) -> &str {
        &self.id
    }
}
