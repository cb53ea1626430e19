//! Upstash Redis: the password of a database, and databases (developer API v2).
//!
//! Only native Upstash accounts have this API; a database that Fly made is reset through Fly. A database has one
//! password, without overlap: a reset ends the old one at once, and the REST tokens with it. Replies that hold a
//! database hold its password.

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    Issued, Issuer, Minted, ProviderError, Recovered,
    http::{Auth, BadBase, Client, Manner, Rules},
    password::{is_same, with_password},
};
use crate::secret::SecretText;

const PROVIDER: &str = "upstash";

/// Its errors are free text, and its limits are not documented.
const RULES: Rules = Rules { provider: PROVIDER, not_begun: &[], refusals: &[], codes: &[], paces: &[] };

/// Upstash's API with one management key. Clones share connections.
#[derive(Debug, Clone)]
pub struct Upstash {
    client: Client,
}

impl Upstash {
    /// The API at `url`, such as `https://api.upstash.com/v2`, for the account of `email` and its management key.
    ///
    /// # Errors
    /// See [`Client::new`].
    pub fn new(url: &str, email: &str, token: SecretText, manner: Manner) -> Result<Self, BadBase> {
        let auth = Auth::Basic(email.to_owned(), Arc::new(token));
        Ok(Self { client: Client::new(RULES, url, auth, manner)? })
    }

    async fn database(&self, id: &str) -> Result<Shown, ProviderError> {
        self.client.get("read the database", &["redis", "database", id]).send().await?.json()
    }

    async fn databases(&self) -> Result<Vec<Shown>, ProviderError> {
        self.client.get("list the databases", &["redis", "databases"]).send().await?.json()
    }
}

/// A database as the API shows it.
#[derive(Deserialize)]
struct Shown {
    database_id: String,
    database_name: String,
    creation_time: Option<i64>,
    endpoint: String,
    port: u16,
    tls: Option<bool>,
    /// Not in every answer, and in none where credentials are protected.
    password: Option<SecretText>,
    #[serde(rename = "type")]
    plan: Option<String>,
    primary_region: Option<String>,
    #[serde(default)]
    read_regions: Vec<String>,
    budget: Option<u64>,
    eviction: Option<bool>,
}

impl Shown {
    /// The URL of the default user, if the password was shown.
    fn url(&self) -> Result<Option<SecretText>, ProviderError> {
        let Some(password) = &self.password else { return Ok(None) };
        // What is no host name yet is its first label.
        let domain = if self.endpoint.contains('.') { "" } else { ".upstash.io" };
        let scheme = if self.tls == Some(false) { "redis" } else { "rediss" };
        let base = format!("{scheme}://default@{}{domain}:{}", self.endpoint, self.port);
        let is_host = self.endpoint.starts_with(|first: char| first.is_ascii_alphanumeric())
            && self.endpoint.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte));
        let url = with_password(&base, password).filter(|_| is_host);
        let what = "the endpoint is no host name";
        url.map(Some).ok_or(ProviderError::Unexpected { provider: PROVIDER, call: "read the database", what })
    }

    fn created(&self) -> Option<String> {
        OffsetDateTime::from_unix_timestamp(self.creation_time?).ok()?.format(&Rfc3339).ok()
    }

    fn issued(self, kind: &str) -> Issued {
        let created = self.created();
        Issued {
            id: format!("{kind}{}", self.database_id),
            name: self.database_name,
            created,
            last_used: None,
        }
    }
}

/// The id that follows `kind` in an id of ours.
fn after<'a>(kind: &str, id: &'a str, call: &'static str) -> Result<&'a str, ProviderError> {
    let why = "the id is of something else";
    let error = ProviderError::NotAsked { provider: PROVIDER, call, why };
    id.strip_prefix(kind).filter(|id| !id.is_empty()).ok_or(error)
}

/// The password of one database, as a connection URL.
///
/// Minting resets it: the old one is refused from that moment. Its id, `password:ID`, names the database: revoking
/// resets the password once more, whichever it is, and forgets the new one. After a reset in place there is nothing to
/// revoke.
#[derive(Debug, Clone)]
pub struct Database {
    /// Upstash's API.
    pub upstash: Upstash,
    /// The database's id.
    pub id: String,
}

impl Database {
    const KIND: &str = "password:";
    const RESET: &str = "reset the password";

    async fn reset(&self, id: &str) -> Result<Shown, ProviderError> {
        self.upstash.client.post(Self::RESET, &["redis", "reset-password", id]).send().await?.json()
    }
}

#[async_trait]
impl Issuer for Database {
    /// The one password.
    async fn list(&self) -> Result<Vec<Issued>, ProviderError> {
        Ok(vec![self.upstash.database(&self.id).await?.issued(Self::KIND)])
    }

    /// A password has no name: `name` is not used.
    ///
    /// # Errors
    /// None that comes after the reset says that nothing was done.
    async fn mint(&self, _: &str) -> Result<Minted, ProviderError> {
        let url = match self.reset(&self.id).await?.url()? {
            Some(url) => Some(url),
            None => {
                let read = self.upstash.database(&self.id).await;
                read.map_err(|error| error.after(PROVIDER, Self::RESET))?.url()?
            }
        };
        let what = "no password";
        let value = url.ok_or(ProviderError::Unexpected { provider: PROVIDER, call: Self::RESET, what })?;
        Ok(Minted { id: format!("{}{}", Self::KIND, self.id), value })
    }

    /// Reads the password again: whether it is another than that of `old` says whether the reset was done. Where it is
    /// protected, or no old one is known, nothing is to be seen, and only another reset helps.
    async fn recover(&self, _: &str, old: Option<&SecretText>) -> Result<Recovered, ProviderError> {
        let url = self.upstash.database(&self.id).await?.url()?;
        Ok(match (url, old) {
            (Some(value), Some(old)) if !is_same(&value, old) => {
                Recovered::Value(Minted { id: format!("{}{}", Self::KIND, self.id), value })
            }
            _ => Recovered::Nothing,
        })
    }

    async fn revoke(&self, id: &str) -> Result<(), ProviderError> {
        match self.reset(after(Self::KIND, id, Self::RESET)?).await {
            Err(error) if error.is_missing() => Ok(()),
            reset => reset.map(drop),
        }
    }
}

/// Databases, as connection URLs: a new one beside an old one, and cold.
///
/// Minting makes one like another; ids are `database:ID`, and revoking deletes the database.
#[derive(Debug, Clone)]
pub struct Databases {
    /// Upstash's API.
    pub upstash: Upstash,
    /// The id of the database that a new one is like.
    pub like: String,
}

/// What a new database is to be.
#[derive(Serialize)]
struct Wanted<'a> {
    database_name: &'a str,
    platform: &'static str,
    primary_region: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    read_regions: &'a [String],
    /// Upstash shows a fixed plan as `paid`, without its size: then it chooses by the account.
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    budget: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    eviction: Option<bool>,
    tls: bool,
}

impl Databases {
    const KIND: &str = "database:";
    const CREATE: &str = "create a database";
}

#[async_trait]
impl Issuer for Databases {
    /// Every database of the account.
    async fn list(&self) -> Result<Vec<Issued>, ProviderError> {
        let databases = self.upstash.databases().await?;
        Ok(databases.into_iter().map(|database| database.issued(Self::KIND)).collect())
    }

    async fn mint(&self, name: &str) -> Result<Minted, ProviderError> {
        let like = self.upstash.database(&self.like).await?;
        let why = "the database that it is to be like shows no region";
        let no_region = ProviderError::NotAsked { provider: PROVIDER, call: Self::CREATE, why };
        let region = like.primary_region.as_deref().ok_or(no_region)?;
        let wanted = Wanted {
            database_name: name,
            platform: platform(region),
            primary_region: region,
            read_regions: &like.read_regions,
            plan: like.plan.as_deref().filter(|plan| ["free", "payg"].contains(plan)),
            budget: like.budget.filter(|budget| *budget > 0),
            eviction: like.eviction,
            tls: true,
        };
        let call = self.upstash.client.post(Self::CREATE, &["redis", "database"]).json(&wanted);
        let made: Shown = call.send().await?.json()?;
        let url = match made.url()? {
            Some(url) => Some(url),
            None => {
                let read = self.upstash.database(&made.database_id).await;
                read.map_err(|error| error.after(PROVIDER, Self::CREATE))?.url()?
            }
        };
        let what = "no password";
        let value = url.ok_or(ProviderError::Unexpected { provider: PROVIDER, call: Self::CREATE, what })?;
        Ok(Minted { id: format!("{}{}", Self::KIND, made.database_id), value })
    }

    /// By its exact name: one such database is adopted, if its password can be read.
    async fn recover(&self, name: &str, _: Option<&SecretText>) -> Result<Recovered, ProviderError> {
        let mut made = self.upstash.databases().await?;
        made.retain(|database| database.database_name == name);
        if let [one] = &*made
            && let Some(value) = self.upstash.database(&one.database_id).await?.url()?
        {
            let id = format!("{}{}", Self::KIND, one.database_id);
            return Ok(Recovered::Value(Minted { id, value }));
        }
        let strays: Vec<_> = made.into_iter().map(|database| database.issued(Self::KIND)).collect();
        Ok(if strays.is_empty() { Recovered::Nothing } else { Recovered::Strays(strays) })
    }

    async fn revoke(&self, id: &str) -> Result<(), ProviderError> {
        const CALL: &str = "delete the database";
        let id = after(Self::KIND, id, CALL)?;
        let call = self.upstash.client.delete(CALL, &["redis", "database", id]).repeatable();
        match call.send().await {
            Err(error) if error.is_missing() => Ok(()),
            reply => reply.map(drop),
        }
    }
}

/// The cloud that a region belongs to: those of AWS end with a dash and a number, `us-east-1`, those of Google in a
/// number alone, `us-east4`.
fn platform(region: &str) -> &'static str {
    let last = region.rsplit('-').next().unwrap_or_default();
    if last.bytes().all(|byte| byte.is_ascii_digit()) { "aws" } else { "gcp" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(endpoint: &str, tls: bool) -> Result<Option<SecretText>, ProviderError> {
        let database = serde_json::json!({
            "database_id": "1", "database_name": "n", "endpoint": endpoint, "port": 6379, "tls": tls, "password": "p/w",
        });
        serde_json::from_value::<Shown>(database).expect("what the API shows").url()
    }

    #[test]
    fn an_endpoint_may_be_a_host_or_its_first_label() {
        let is = |text: &str| Some(SecretText::new(text.to_owned()));
        let short = shown("beloved-stallion-58500", true).expect("a URL");
        assert_eq!(short, is("rediss://default:p%2Fw@beloved-stallion-58500.upstash.io:6379"));
        assert_eq!(shown("127.0.0.1", false).expect("a URL"), is("redis://default:p%2Fw@127.0.0.1:6379"));
        for odd in ["", "a/b.c", "a@b.c", "a b"] {
            assert!(matches!(shown(odd, true), Err(ProviderError::Unexpected { .. })), "{odd}");
        }
    }

    #[test]
    fn a_region_tells_its_cloud() {
        assert_eq!(
            ["us-east-1", "ap-northeast-1", "us-east4", "europe-west1"].map(platform),
            ["aws", "aws", "gcp", "gcp"]
        );
    }
}
