//! How a connection is made: the URL's options, the pooler's needs, and TLS.

use std::net::IpAddr;

use sqlx::{
    ConnectOptions,
    postgres::{PgConnectOptions, PgSslMode},
};

use crate::{secret::SecretText, store::StoreError};

/// How much of the server's identity is checked, where it is less than everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Tls {
    /// The certificate's chain and its name: the default, except on loopback or a socket.
    VerifyFull,
    /// The certificate's chain, not its name.
    VerifyCa,
    /// Encryption, and no check of who is at the other end.
    Require,
    /// No encryption.
    Disable,
}

/// The options that `url` asks for, with TLS decided by us.
///
/// A weaker `sslmode` in the URL is not enough to weaken TLS: connection URLs are copied around, and providers hand
/// out `sslmode=require`. Only `tls`, an explicit choice, does that.
pub(super) fn options(url: &SecretText, tls: Option<Tls>) -> Result<PgConnectOptions, StoreError> {
    let options: PgConnectOptions = url.expose().parse().map_err(StoreError::from)?;
    let mode = match tls {
        Some(Tls::VerifyFull) => PgSslMode::VerifyFull,
        Some(Tls::VerifyCa) => PgSslMode::VerifyCa,
        Some(Tls::Require) => PgSslMode::Require,
        Some(Tls::Disable) => PgSslMode::Disable,
        None if is_local(&options) => options.get_ssl_mode(),
        None => PgSslMode::VerifyFull,
    };
    let name = options.get_application_name().unwrap_or("reseal").to_owned();
    // A pooler in transaction mode refuses start-up parameters that it doesn't know.
    Ok(options
        .ssl_mode(mode)
        .application_name(&name)
        .extra_float_digits(None)
        .statement_cache_capacity(0)
        .disable_statement_logging())
}

fn is_local(options: &PgConnectOptions) -> bool {
    let host = options.get_host();
    options.get_socket().is_some()
        || host.starts_with('/')
        || host.eq_ignore_ascii_case("localhost")
        || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(url: &str, tls: Option<Tls>) -> PgSslMode {
        options(&SecretText::new(url.to_owned()), tls).unwrap().get_ssl_mode()
    }

    #[test]
    fn a_remote_host_gets_verify_full_whatever_its_url_says() {
        for url in [
            "postgres://u@ep-1.neon.tech/db",
            "postgres://u@ep-1.neon.tech/db?sslmode=require",
            "postgres://u@ep-1.neon.tech/db?sslmode=disable",
            "postgres://u@127.0.0.1.example.com/db",
            "postgres://u@10.0.0.1/db",
        ] {
            assert!(matches!(mode(url, None), PgSslMode::VerifyFull), "{url}");
        }
    }

    #[test]
    fn loopback_and_sockets_keep_what_the_url_says() {
        for url in ["postgres://u@localhost/db", "postgres://u@127.0.0.1/db", "postgres://u@[::1]/db"] {
            assert!(matches!(mode(url, None), PgSslMode::Prefer), "{url}");
        }
        assert!(matches!(mode("postgres:///db?host=/run/postgresql", None), PgSslMode::Prefer));
        assert!(matches!(mode("postgres://localhost/db?sslmode=verify-full", None), PgSslMode::VerifyFull));
    }

    #[test]
    fn only_an_explicit_choice_weakens_tls() {
        assert!(matches!(mode("postgres://u@ep-1.neon.tech/db", Some(Tls::Require)), PgSslMode::Require));
    }
}
