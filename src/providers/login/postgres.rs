//! A login to PostgreSQL.

use std::{net::IpAddr, time::Duration};

use async_trait::async_trait;
use sqlx::{
    ConnectOptions, Connection, Error, PgConnection,
    postgres::{PgConnectOptions, PgDatabaseError, PgSslMode},
};

use super::{CALL, checked, not_asked, not_now};
use crate::{
    providers::{Life, Probe, ProviderError},
    secret::SecretText,
};

pub(super) const PROVIDER: &str = "postgres";

const NOT_TRUSTED: &str = "TLS was refused, or the certificate not trusted";

/// Logs in with a URL and runs `SELECT 1`.
///
/// The server's certificate and its name are verified, whatever the URL's `sslmode` says, except on loopback and
/// sockets: a server that anybody could be must not say what is dead. That an endpoint of Neon is gone is unknown, with
/// an error that [is missing](ProviderError::is_missing): a new one may not be known everywhere yet.
#[derive(Debug, Clone, Copy)]
pub struct PostgresLogin {
    timeout: Duration,
}

impl PostgresLogin {
    /// A login that may take `timeout` as a whole. One that wakes a sleeping compute takes some seconds.
    pub fn new(timeout: Duration) -> Self {
        Self { timeout }
    }
}

#[async_trait]
impl Probe for PostgresLogin {
    async fn probe(&self, value: &SecretText) -> Life {
        let asked = match options(CALL, value) {
            Ok(options) => tokio::time::timeout(self.timeout, ask(options)).await,
            Err(error) => return Life::Unknown(error),
        };
        match asked {
            Ok(Ok(())) => Life::Live,
            Ok(Err(error)) => match refusal(CALL, &error) {
                ProviderError::Unauthorized { .. } => Life::Dead,
                error => Life::Unknown(error),
            },
            Err(_) => Life::Unknown(not_now(PROVIDER, CALL, "time-out")),
        }
    }
}

async fn ask(options: PgConnectOptions) -> Result<(), Error> {
    let mut connection = PgConnection::connect_with(&options).await?;
    sqlx::raw_sql("SELECT 1").execute(&mut connection).await?;
    // It has said what was asked of it; how it says goodbye tells nothing.
    connection.close().await.or(Ok(()))
}

/// How a URL is connected to.
pub(super) fn options(call: &'static str, value: &SecretText) -> Result<PgConnectOptions, ProviderError> {
    let url = checked(value, &["postgres", "postgresql"]).filter(|url| !url.username().is_empty());
    let why = "it is not a postgres URL with a user, a password and a host";
    let options: PgConnectOptions =
        url.and_then(|_| value.expose().parse().ok()).ok_or(not_asked(PROVIDER, call, why))?;
    let mode = if is_local(&options) { options.get_ssl_mode() } else { PgSslMode::VerifyFull };
    // A pooler in transaction mode refuses start-up parameters that it doesn't know.
    let options = options.ssl_mode(mode).extra_float_digits(None).statement_cache_capacity(0);
    Ok(options.disable_statement_logging())
}

fn is_local(options: &PgConnectOptions) -> bool {
    let host = options.get_host();
    options.get_socket().is_some()
        || host.starts_with('/')
        || host.eq_ignore_ascii_case("localhost")
        || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// What the failure of a login for `call` says: [`ProviderError::Unauthorized`] is only what was said of the credential.
pub(super) fn refusal(call: &'static str, error: &Error) -> ProviderError {
    let not_now = |why: &str| not_now(PROVIDER, call, why);
    match error {
        Error::Database(error) => {
            let error = error.downcast_ref::<PgDatabaseError>();
            let code = Some(error.code().to_owned());
            match error.code() {
                "28000" if !is_of_the_role(error.message()) => not_now("SQLSTATE 28000"),
                "28P01" | "28000" => {
                    ProviderError::Unauthorized { provider: PROVIDER, call, status: 401, code }
                }
                "XX000" if is_of_the_endpoint(error.message()) => {
                    ProviderError::Refused { provider: PROVIDER, call, status: 404, code }
                }
                code => not_now(&format!("SQLSTATE {code}")),
            }
        }
        Error::Configuration(_) => not_asked(PROVIDER, call, "its URL has a parameter that is none"),
        Error::Tls(_) => not_now(NOT_TRUSTED),
        // rustls's verdict on a certificate comes through the socket.
        Error::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => not_now(NOT_TRUSTED),
        Error::Io(_) => not_now("it was not reached"),
        _ => not_now("it does not speak as a server of PostgreSQL"),
    }
}

/// Whether 28000 is said of the role, and not of where it comes from (`pg_hba.conf`).
fn is_of_the_role(message: &str) -> bool {
    message.starts_with("role \"")
        && (message.ends_with("\" does not exist") || message.ends_with("\" is not permitted to log in"))
}

/// Whether Neon's proxy says that there is no such endpoint. It has not looked at the credential then.
fn is_of_the_endpoint(message: &str) -> bool {
    message.starts_with("The requested endpoint could not be found")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(url: &str) -> Option<PgSslMode> {
        options(CALL, &SecretText::new(url.to_owned())).ok().map(|options| options.get_ssl_mode())
    }

    #[test]
    fn a_remote_server_is_verified_whatever_its_url_says() {
        for host in ["ep-1.neon.tech", "10.0.0.1", "127.0.0.1.example.com"] {
            for tail in ["", "?sslmode=require", "?sslmode=disable"] {
                let mode = mode(&format!("postgresql://u:p@{host}/db{tail}"));
                assert!(matches!(mode, Some(PgSslMode::VerifyFull)), "{host} {tail}");
            }
        }
        assert!(matches!(mode("postgres://u:p@localhost/db?sslmode=disable"), Some(PgSslMode::Disable)));
        assert!(matches!(mode("postgres://u:p@%2Frun%2Fpostgresql/db"), Some(PgSslMode::Prefer)));
    }

    #[test]
    fn what_would_be_completed_from_elsewhere_is_not_probed() {
        for url in ["postgres://u@h/db", "postgres://:p@h/db", "postgres://u:@h/db", "redis://u:p@h", "u:p"] {
            assert!(mode(url).is_none(), "{url}");
        }
    }

    #[test]
    fn a_refusal_of_the_place_says_nothing_of_the_role() {
        assert!(is_of_the_role("role \"cp\" does not exist"));
        assert!(is_of_the_role("role \"cp\" is not permitted to log in"));
        assert!(!is_of_the_role(
            "no pg_hba.conf entry for host \"10.0.0.1\", user \"cp\", database \"d\", no encryption"
        ));
        assert!(!is_of_the_role("database \"d\" does not exist"));
    }
}
