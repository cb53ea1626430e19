//! Resend: API keys, sending domains, a message and what became of it.
//!
//! Source: resend.com/docs/api-reference and its OpenAPI document, which has no errors in it. A dead key is answered
//! with 400, 401 or 403, by different names but one sentence; a key that may only send with 401 on everything else.
//! Nothing here deletes a domain or reads anybody's mail.

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::json;

use super::{
    Issued, Issuer, Life, Mailbox, Minted, Probe, ProviderError,
    http::{Auth, BadBase, Call, Client, Manner, Pace, Reply, Rules},
};
use crate::secret::SecretText;

/// Resend's public address.
pub const URL: &str = "https://api.resend.com";

/// Takes every message and does nothing with it; a From of a verified domain is asked for all the same.
pub const DELIVERED: &str = "delivered@resend.dev";

const PROVIDER: &str = "Resend";

/// 5 calls a second for the whole team, of which the control plane gets a share too.
const RULES: Rules = Rules {
    provider: PROVIDER,
    not_begun: &[],
    refusals: &[],
    codes: &["/name"],
    paces: &[Pace { class: "team", per_second: nonzero(4), burst: nonzero(1) }],
};

const fn nonzero(number: u32) -> std::num::NonZero<u32> {
    std::num::NonZero::new(number).expect("a rate limit is not zero")
}

/// The length of a page, which is the longest there is.
const PAGE: &str = "100";

/// Resend's API with an admin key, which has full access.
#[derive(Debug, Clone)]
pub struct Resend {
    client: Client,
}

impl Resend {
    /// The API at `url`.
    ///
    /// # Errors
    /// See [`BadBase`].
    pub fn new(url: &str, token: &SecretText, manner: Manner) -> Result<Self, BadBase> {
        Ok(Self { client: Client::new(RULES, url, Auth::bearer(token), manner)? })
    }

    /// Keys of the team; those that it mints have this permission.
    pub fn api_keys(&self, permission: Permission) -> ApiKeys {
        ApiKeys { client: self.client.clone(), permission }
    }

    /// Tries keys.
    pub fn key_probe(&self) -> KeyProbe {
        KeyProbe { client: self.client.clone() }
    }

    /// Whether messages from addresses at exactly this domain are sent.
    pub async fn sending_domain(&self, domain: &str) -> Result<DomainState, ProviderError> {
        let domains = pages::<Domain>(&self.client, "list domains", "domains").await?;
        let Some(found) = domains.into_iter().find(|known| known.name.eq_ignore_ascii_case(domain)) else {
            return Ok(DomainState::Unknown);
        };
        Ok(match (found.status, found.capabilities.sending) {
            (DomainStatus::Verified, Switch::Enabled) => DomainState::Verified { id: found.id },
            (DomainStatus::Verified, Switch::Disabled) => DomainState::SendingDisabled,
            (status, _) => DomainState::NotVerified(status),
        })
    }

    /// Sends one message with the key `value`, and gives its id. Within 24 hours, calls with the same
    /// `idempotency_key` (up to 256 characters) send one message.
    ///
    /// # Errors
    /// `domain_not_verified` is the code for a From that may not send.
    pub async fn send(
        &self,
        value: &SecretText,
        from: &Mailbox,
        to: &str,
        idempotency_key: &str,
    ) -> Result<String, ProviderError> {
        const CALL: &str = "send email";
        let client = self.client.with_auth(Auth::bearer(value));
        let body = json!({
            "from": from.as_str(),
            "to": to,
            "subject": "Test of a new key",
            "text": "This message shows that a new key sends. Nothing needs to be done.",
        });
        let call = client.post(CALL, &["emails"]).header("Idempotency-Key", idempotency_key).json(&body);
        let reply = paced(call.repeatable()).reply().await?;
        if reply.status() == 409 && reply.code().as_deref() != Some("invalid_idempotent_request") {
            let why = "the same call is under way".to_owned();
            return Err(ProviderError::Busy { provider: PROVIDER, call: CALL, why, retry_after: None });
        }
        #[derive(Deserialize)]
        struct Sent {
            id: String,
        }
        Ok(accepted(CALL, reply)?.json::<Sent>()?.id)
    }

    /// What last happened to a message.
    pub async fn last_event(&self, id: &str) -> Result<LastEvent, ProviderError> {
        #[derive(Deserialize)]
        struct Email {
            last_event: LastEvent,
        }
        let call = "read email";
        let reply = paced(self.client.get(call, &["emails", id])).reply().await?;
        Ok(accepted(call, reply)?.json::<Email>()?.last_event)
    }
}

/// What a key may do. It can't be widened later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Permission {
    /// Everything, keys and domains included.
    FullAccess,
    /// Sending, from one domain or from all of the team.
    SendingAccess {
        /// The id of that one domain.
        domain_id: Option<String>,
    },
}

/// Whether a domain can be sent from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DomainState {
    /// It can.
    Verified {
        /// Resend's id of the domain.
        id: String,
    },
    /// Its DNS records are not, or no longer, as they should be.
    NotVerified(DomainStatus),
    /// It is verified, and sending is switched off.
    SendingDisabled,
    /// The team has no such domain. That of a parent is not enough.
    Unknown,
}

/// How far the verification of a domain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DomainStatus {
    /// All records are there.
    Verified,
    /// They are being looked for.
    Pending,
    /// They were not found.
    Failed,
    /// Nobody asked for it.
    NotStarted,
    /// Some are there.
    PartiallyVerified,
    /// Some were not found.
    PartiallyFailed,
    /// One that Resend did not have when this was written.
    #[serde(other)]
    Other,
}

/// What last happened to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "Resend's own words")]
pub enum LastEvent {
    Queued,
    Scheduled,
    Sent,
    DeliveryDelayed,
    Delivered,
    Opened,
    Clicked,
    Complained,
    Bounced,
    Canceled,
    Failed,
    Suppressed,
    #[serde(other)]
    Other,
}

impl LastEvent {
    /// Whether it arrived: `None` while that is open.
    pub fn arrived(self) -> Option<bool> {
        match self {
            Self::Delivered | Self::Opened | Self::Clicked | Self::Complained => Some(true),
            Self::Bounced | Self::Canceled | Self::Failed | Self::Suppressed => Some(false),
            Self::Queued | Self::Scheduled | Self::Sent | Self::DeliveryDelayed | Self::Other => None,
        }
    }
}

/// The team's API keys. A name can be given twice, and no list shows which key a program uses.
#[derive(Debug, Clone)]
pub struct ApiKeys {
    client: Client,
    permission: Permission,
}

#[async_trait]
impl Issuer for ApiKeys {
    async fn list(&self) -> Result<Vec<Issued>, ProviderError> {
        let keys = pages::<ApiKey>(&self.client, "list api keys", "api-keys").await?;
        Ok(keys.into_iter().map(Issued::from).collect())
    }

    async fn mint(&self, name: &str) -> Result<Minted, ProviderError> {
        #[derive(Deserialize)]
        struct Created {
            id: String,
            token: SecretText,
        }
        let body = match &self.permission {
            Permission::FullAccess => json!({ "name": name, "permission": "full_access" }),
            Permission::SendingAccess { domain_id: None } => {
                json!({ "name": name, "permission": "sending_access" })
            }
            Permission::SendingAccess { domain_id: Some(domain) } => {
                json!({ "name": name, "permission": "sending_access", "domain_id": domain })
            }
        };
        let call = "create api key";
        let reply = paced(self.client.post(call, &["api-keys"]).json(&body)).reply().await?;
        let Created { id, token: value } = accepted(call, reply)?.json()?;
        Ok(Minted { id, value })
    }

    async fn revoke(&self, id: &str) -> Result<(), ProviderError> {
        let call = "delete api key";
        let reply = paced(self.client.delete(call, &["api-keys", id]).repeatable()).reply().await?;
        match accepted(call, reply) {
            Err(error) if !error.is_missing() => Err(error),
            _ => Ok(()),
        }
    }
}

/// Tries a key by asking for a list, which changes nothing.
#[derive(Debug, Clone)]
pub struct KeyProbe {
    client: Client,
}

#[async_trait]
impl Probe for KeyProbe {
    async fn probe(&self, value: &SecretText) -> Life {
        let client = self.client.with_auth(Auth::bearer(value));
        let call = client.get("list api keys", &["api-keys"]).query(&[("limit", "1")]);
        match paced(call).reply().await {
            Ok(reply) if (200..300).contains(&reply.status()) => Life::Live,
            // It may send and nothing else, which it was recognised for.
            Ok(reply) if reply.code().as_deref() == Some("restricted_api_key") => Life::Live,
            Ok(reply) if says_dead(&reply) => Life::Dead,
            Ok(reply) => Life::Unknown(reply.refusal()),
            Err(error) => Life::Unknown(error),
        }
    }
}

fn paced(call: Call<'_>) -> Call<'_> {
    call.paced("team", "")
}

/// Whether the key of the call is no key: by status and message, since the names differ between documents and replies.
fn says_dead(reply: &Reply) -> bool {
    matches!(reply.status(), 400 | 401 | 403)
        && (reply.mentions("API key is invalid") || reply.code().as_deref() == Some("invalid_api_key"))
}

/// The reply when it is a success; an error that blames the key only where Resend does.
fn accepted(call: &'static str, reply: Reply) -> Result<Reply, ProviderError> {
    let status = reply.status();
    let code = |text: &str| Some(text.to_owned());
    if says_dead(&reply) {
        let code = code("invalid_api_key");
        return Err(ProviderError::Unauthorized { provider: PROVIDER, call, status, code });
    }
    if status == 403 && reply.mentions("domain is not verified") {
        let code = code("domain_not_verified");
        return Err(ProviderError::Refused { provider: PROVIDER, call, status, code });
    }
    reply.success()
}

/// All pages of a list.
async fn pages<T: Listed>(
    client: &Client,
    call: &'static str,
    path: &'static str,
) -> Result<Vec<T>, ProviderError> {
    #[derive(Deserialize)]
    struct Page<T> {
        data: Vec<T>,
        #[serde(default)]
        has_more: bool,
    }
    let mut all: Vec<T> = Vec::new();
    loop {
        let request = client.get(call, &[path]).query(&[("limit", PAGE)]);
        let request = match all.last() {
            Some(last) => request.query(&[("after", last.id())]),
            None => request,
        };
        let reply = accepted(call, paced(request).reply().await?)?;
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

trait Listed: serde::de::DeserializeOwned {
    fn id(&self) -> &str;
}

#[derive(Deserialize)]
struct ApiKey {
    id: String,
    name: String,
    created_at: Option<String>,
    last_used_at: Option<String>,
}

impl Listed for ApiKey {
    fn id(&self) -> &str {
        &self.id
    }
}

impl From<ApiKey> for Issued {
    fn from(key: ApiKey) -> Self {
        let time = |text: Option<String>| text.map(|text| rfc3339(&text));
        Self { id: key.id, name: key.name, created: time(key.created_at), last_used: time(key.last_used_at) }
    }
}

#[derive(Deserialize)]
struct Domain {
    id: String,
    name: String,
    status: DomainStatus,
    capabilities: Capabilities,
}

#[derive(Deserialize)]
struct Capabilities {
    sending: Switch,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Switch {
    Enabled,
    #[serde(other)]
    Disabled,
}

impl Listed for Domain {
    fn id(&self) -> &str {
        &self.id
    }
}

/// Resend's times are PostgreSQL's: `2023-10-06 23:47:56.678+00`.
fn rfc3339(text: &str) -> String {
    let text = text.replacen(' ', "T", 1);
    let hours_only = text.len() > 3 && text.is_char_boundary(text.len() - 3) && {
        let zone = &text[text.len() - 3..];
        zone.starts_with(['+', '-'])
            && zone[1..].bytes().all(|byte| byte.is_ascii_digit())
            && text.contains(':')
    };
    if hours_only { text + ":00" } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_become_those_of_rfc_3339() {
        assert_eq!(rfc3339("2023-10-06 23:47:56.678+00"), "2023-10-06T23:47:56.678+00:00");
        assert_eq!(rfc3339("2023-04-26T20:21:26.347412+00:00"), "2023-04-26T20:21:26.347412+00:00");
        assert_eq!(rfc3339("2023-04-26T20:21:26Z"), "2023-04-26T20:21:26Z");
        assert_eq!(rfc3339("2023-04-26 20:21:26.347412"), "2023-04-26T20:21:26.347412");
    }
}
