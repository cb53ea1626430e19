//! Tokens with limited access: what `fly tokens create org` and `fly tokens create deploy` make.
//!
//! They are minted with a person's token; one with limited access can't mint. A revoked token stays listed.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Fly, PROVIDER,
    graphql::{CREATE_TOKEN, DELETE_TOKEN, TOKENS, Twice, VIEWER},
};
use crate::{
    providers::{Issued, Issuer, Life, Minted, Probe, ProviderError},
    secret::SecretText,
};

/// Tokens asked for at once.
const PAGE: u32 = 100;

/// How long `fly tokens create` lets a token live: 20 years.
const TWENTY_YEARS: Duration = Duration::from_secs(175_200 * 3600);

/// What a token may do.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct TokenProfile {
    /// `deploy_organization`, `deploy`.
    pub profile: String,
    /// What narrows it: `{}`, or `{"app_id": …}` with the app's node id.
    #[serde(rename = "profileParams")]
    pub params: Value,
}

impl TokenProfile {
    /// What `fly tokens create org` makes: every app of the organisation.
    pub fn organization() -> Self {
        Self { profile: "deploy_organization".to_owned(), params: json!({}) }
    }
}

/// An organisation's tokens.
#[derive(Debug, Clone)]
pub struct Tokens {
    fly: Fly,
    org: String,
    like: Option<String>,
    fallback: TokenProfile,
    lifetime: Duration,
}

#[derive(Deserialize)]
struct Page {
    organization: Option<Organization>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Organization {
    id: String,
    limited_access_tokens: Connection,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Connection {
    nodes: Vec<Token>,
    page_info: PageInfo,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageInfo {
    has_next_page: bool,
    end_cursor: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Token {
    id: String,
    name: String,
    created_at: String,
    revoked_at: Option<String>,
    #[serde(flatten)]
    profile: TokenProfile,
}

impl Token {
    fn issued(self) -> Issued {
        Issued { id: self.id, name: self.name, created: Some(self.created_at), last_used: None }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Created {
    create_limited_access_token: Option<CreatedPayload>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CreatedPayload {
    limited_access_token: CreatedToken,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CreatedToken {
    id: String,
    token_header: Option<String>,
}

#[derive(Deserialize)]
struct Viewer {
    viewer: Principal,
}

#[derive(Deserialize)]
struct Principal {
    #[serde(rename = "__typename")]
    kind: String,
}

impl Tokens {
    /// The tokens of the organisation `org` (its slug), minted through `fly`, which holds a person's token. A new one
    /// may do what the token with the id `like` may, or what `fallback` says where no such token is known. It lives 20
    /// years, as one of `fly tokens create`.
    pub fn new(fly: &Fly, org: impl Into<String>, like: Option<String>, fallback: TokenProfile) -> Self {
        Self { fly: fly.clone(), org: org.into(), like, fallback, lifetime: TWENTY_YEARS }
    }

    /// Has new ones live for `lifetime`.
    #[must_use]
    pub fn living(self, lifetime: Duration) -> Self {
        Self { lifetime, ..self }
    }

    /// Every live token and what it may do.
    ///
    /// # Errors
    /// See [`ProviderError`].
    pub async fn profiles(&self) -> Result<Vec<(Issued, TokenProfile)>, ProviderError> {
        let (_, tokens) = self.all("list tokens").await?;
        let live = tokens.into_iter().filter(|token| token.revoked_at.is_none());
        Ok(live
            .map(|mut token| {
                let profile = std::mem::replace(&mut token.profile, TokenProfile::organization());
                (token.issued(), profile)
            })
            .collect())
    }

    /// Whether the credential is a person's, asked without side effects.
    ///
    /// # Errors
    /// [`ProviderError::Unauthorized`] when it is one with limited access, or dead.
    pub async fn may_mint(&self) -> Result<(), ProviderError> {
        let Viewer { viewer } = self.fly.ask("see whose it is", VIEWER, json!({}), Twice::Fine).await?;
        if viewer.kind == "User" {
            return Ok(());
        }
        Err(ProviderError::Unauthorized {
            provider: PROVIDER,
            call: "create a token",
            status: 403,
            code: Some("not_a_user_token".to_owned()),
        })
    }

    /// The organisation's id and all its tokens, the revoked too.
    async fn all(&self, call: &'static str) -> Result<(String, Vec<Token>), ProviderError> {
        let mut tokens = Vec::new();
        let mut after = None;
        loop {
            let variables = json!({ "slug": self.org, "first": PAGE, "after": after });
            let page: Page = self.fly.ask(call, TOKENS, variables, Twice::Fine).await?;
            let Some(organization) = page.organization else {
                return Err(ProviderError::Refused { provider: PROVIDER, call, status: 404, code: None });
            };
            let Connection { nodes, page_info } = organization.limited_access_tokens;
            tokens.extend(nodes);
            if !page_info.has_next_page {
                return Ok((organization.id, tokens));
            }
            // A cursor that stays would have us ask for ever.
            if page_info.end_cursor.is_none() || page_info.end_cursor == after {
                return Err(unexpected(call, "a next page without a cursor to it"));
            }
            after = page_info.end_cursor;
        }
    }
}

#[async_trait]
impl Issuer for Tokens {
    async fn list(&self) -> Result<Vec<Issued>, ProviderError> {
        Ok(self.profiles().await?.into_iter().map(|(issued, _)| issued).collect())
    }

    /// The value is the token with its scheme (`FlyV1 fm2_…`), as Fly hands it out.
    async fn mint(&self, name: &str) -> Result<Minted, ProviderError> {
        let call = "create a token";
        let (organization, tokens) = self.all("look for the token to copy").await?;
        // One that was revoked in an emergency still says what it might do.
        let profile = match &self.like {
            None => self.fallback.clone(),
            Some(id) => tokens.into_iter().find(|token| token.id == *id).map(|token| token.profile).ok_or(
                ProviderError::Refused {
                    provider: PROVIDER,
                    call,
                    status: 404,
                    code: Some("no_token_to_copy".to_owned()),
                },
            )?,
        };
        let input = json!({
            "name": name,
            "organizationId": organization,
            "profile": profile.profile,
            "profileParams": profile.params,
            "expiry": format!("{}s", self.lifetime.as_secs()),
        });
        let created: Created =
            self.fly.ask(call, CREATE_TOKEN, json!({ "input": input }), Twice::Not).await?;
        let payload = created.create_limited_access_token.ok_or(unexpected(call, "no token"))?;
        let CreatedToken { id, token_header } = payload.limited_access_token;
        let value = SecretText::new(token_header.ok_or(unexpected(call, "no tokenHeader"))?);
        Ok(Minted { id, value })
    }

    async fn revoke(&self, id: &str) -> Result<(), ProviderError> {
        match self.fly.ask::<Value>("revoke a token", DELETE_TOKEN, json!({ "id": id }), Twice::Fine).await {
            Err(error) if error.is_missing() => Ok(()),
            result => result.map(drop),
        }
    }
}

fn unexpected(call: &'static str, what: &'static str) -> ProviderError {
    ProviderError::Unexpected { provider: PROVIDER, call, what }
}

/// Asks Fly who a token is, with that token.
#[derive(Debug, Clone)]
pub struct TokenProbe {
    fly: Fly,
}

impl TokenProbe {
    /// Probes at the same API as `fly`, whose own credential is not used.
    pub fn new(fly: &Fly) -> Self {
        Self { fly: fly.clone() }
    }
}

#[async_trait]
impl Probe for TokenProbe {
    async fn probe(&self, value: &SecretText) -> Life {
        let fly = self.fly.with_token(Arc::new(SecretText::new(value.expose().to_owned())));
        match fly.machines.get("tell whose token it is", &["tokens", "current"]).reply().await {
            Err(error) => Life::Unknown(error),
            Ok(reply) if reply.status() == 200 => Life::Live,
            Ok(reply) if reply.status() == 401 => Life::Dead,
            Ok(reply) => Life::Unknown(reply.refusal()),
        }
    }
}
