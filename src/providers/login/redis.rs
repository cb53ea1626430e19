//! A login to Redis.

use std::time::Duration;

use async_trait::async_trait;
use redis::{AsyncConnectionConfig, Client, ConnectionInfo, RedisConnectionInfo, RedisError, cmd};

use super::{CALL, checked, not_asked, not_now};
use crate::{
    providers::{Life, Probe},
    secret::SecretText,
};

const PROVIDER: &str = "redis";

/// Logs in with a URL (`AUTH`) and asks `PING`.
///
/// With `rediss` the server's certificate and its name are verified. What a server says before it has looked at the
/// credential, such as that it is full, is never taken for a refusal.
#[derive(Debug, Clone, Copy)]
pub struct RedisLogin {
    timeout: Duration,
}

impl RedisLogin {
    /// A login that may take `timeout` as a whole.
    pub fn new(timeout: Duration) -> Self {
        Self { timeout }
    }
}

#[async_trait]
impl Probe for RedisLogin {
    async fn probe(&self, value: &SecretText) -> Life {
        // A fragment could say that certificates don't matter.
        let url = checked(value, &["redis", "rediss"]).filter(|url| url.fragment().is_none());
        let Some(info) = url.and_then(|_| value.expose().parse::<ConnectionInfo>().ok()) else {
            let why = "it is not a redis URL with a password and a host";
            return Life::Unknown(not_asked(PROVIDER, CALL, why));
        };
        match tokio::time::timeout(self.timeout, ask(info)).await {
            Ok(Ok(())) => Life::Live,
            Ok(Err(error)) => judged(&error),
            Err(_) => unknown("time-out"),
        }
    }
}

/// Sends `AUTH` itself: the crate's own login takes every refusal for one of the credential.
async fn ask(info: ConnectionInfo) -> Result<(), RedisError> {
    let login = info.redis_settings().clone();
    let silent = RedisConnectionInfo::default().set_skip_set_lib_name();
    let client = Client::open(info.set_redis_settings(silent))?;
    // The time-out is ours, of the whole.
    let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    let mut auth = cmd("AUTH");
    auth.arg(login.username()).arg(login.password());
    auth.query_async::<()>(&mut connection).await?;
    cmd("PING").query_async(&mut connection).await
}

fn judged(error: &RedisError) -> Life {
    match error.code() {
        Some("WRONGPASS" | "NOAUTH") => Life::Dead,
        // Before version 6, and servers that are like it.
        Some("ERR") if error.detail().is_some_and(names_the_credential) => Life::Dead,
        Some(code) if code.bytes().all(|byte| byte.is_ascii_uppercase()) => {
            unknown(format!("it answered {code}"))
        }
        Some(_) => unknown("it answered with an error"),
        None if error.is_io_error() => unknown("it was not reached, or its certificate not trusted"),
        None => unknown("it does not speak as a server of Redis"),
    }
}

fn unknown(why: impl Into<String>) -> Life {
    Life::Unknown(not_now(PROVIDER, CALL, why))
}

fn names_the_credential(detail: &str) -> bool {
    detail.contains("invalid password") || detail.contains("invalid username-password pair")
}
