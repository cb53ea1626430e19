//! Plain logins with a connection URL: whether the credential in it works, without side effects.
//!
//! Dead is only what the server refused for the credential itself. A server that is not there, is full, or is not the
//! one that it should be, says nothing about it. The user and the password stand in the URL before the host: what an
//! environment variable or a file adds would not be what is probed.

mod postgres;
mod redis;

use url::Url;

pub use self::{postgres::PostgresLogin, redis::RedisLogin};
use super::{Life, ProviderError};
use crate::secret::SecretText;

const CALL: &str = "log in";

/// The URL, if it has one of these schemes, a host and a password.
fn checked(value: &SecretText, schemes: &[&str]) -> Option<Url> {
    let url = Url::parse(value.expose()).ok()?;
    let has_password = url.password().is_some_and(|password| !password.is_empty());
    (schemes.contains(&url.scheme()) && url.has_host() && has_password).then_some(url)
}

fn not_asked(provider: &'static str, why: &'static str) -> Life {
    Life::Unknown(ProviderError::NotAsked { provider, call: CALL, why })
}

fn not_now(provider: &'static str, why: impl Into<String>) -> Life {
    Life::Unknown(ProviderError::Busy { provider, call: CALL, why: why.into(), retry_after: None })
}
