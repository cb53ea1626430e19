//! Plain logins with a connection URL: whether the credential in it works, without side effects; and what a tenant's
//! database is asked besides.
//!
//! Dead is only what the server refused for the credential itself. A server that is not there, is full, or is not the
//! one that it should be, says nothing about it. The user and the password stand in the URL before the host: what an
//! environment variable or a file adds would not be what is probed.

mod postgres;
mod redis;
mod tenant;

use url::Url;

pub use self::{postgres::PostgresLogin, redis::RedisLogin, tenant::TenantDatabase};
use super::ProviderError;
use crate::secret::SecretText;

const CALL: &str = "log in";

/// The URL, if it has one of these schemes, a host and a password.
fn checked(value: &SecretText, schemes: &[&str]) -> Option<Url> {
    let url = Url::parse(value.expose()).ok()?;
    let has_password = url.password().is_some_and(|password| !password.is_empty());
    (schemes.contains(&url.scheme()) && url.has_host() && has_password).then_some(url)
}

fn not_asked(provider: &'static str, call: &'static str, why: &'static str) -> ProviderError {
    ProviderError::NotAsked { provider, call, why }
}

fn not_now(provider: &'static str, call: &'static str, why: impl Into<String>) -> ProviderError {
    ProviderError::Busy { provider, call, why: why.into(), retry_after: None }
}
