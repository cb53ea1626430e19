//! What a secret key is, and whether it works.

use async_trait::async_trait;
use serde::Deserialize;

use super::{reply, send};
use crate::{
    providers::{
        Life, Probe, ProviderError,
        http::{Auth, Client},
    },
    secret::SecretText,
};

/// Whose money moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// That of customers.
    Live,
    /// Nobody's.
    Test,
}

/// Text that is no secret key of an account. Says what it looks like, and nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WrongKind {
    /// Another of Stripe's kinds.
    #[error("this looks like the {0}, not like a secret key (sk_live_…, rk_live_…)")]
    Is(&'static str),
    /// None of Stripe's kinds.
    #[error("this does not look like a secret key of Stripe (sk_live_…, rk_live_…)")]
    Unknown,
    /// A secret key's beginning, and then characters that none has.
    #[error("this begins like a secret key of Stripe, and goes on with characters that none has")]
    Garbled,
}

/// What else Stripe gives out, by its beginning.
const OTHER_KINDS: [(&str, &str); 9] = [
    ("sk_org_", "key of an organization (sk_org_)"),
    ("pk_", "publishable key (pk_)"),
    ("whsec_", "signing secret of a webhook endpoint (whsec_)"),
    ("we_", "id of a webhook endpoint (we_)"),
    ("mk_", "id of a key (mk_)"),
    ("ek_", "ephemeral key of a customer (ek_)"),
    ("ak_", "key of a Stripe app (ak_)"),
    ("acct_", "id of an account (acct_)"),
    ("cs_", "id of a checkout session (cs_)"),
];

/// Whether the secret or restricted key `value` is for live or for test mode, by how it begins.
///
/// # Errors
/// It is something else.
pub fn mode(value: &SecretText) -> Result<Mode, WrongKind> {
    let kinds = [
        ("sk_live_", Mode::Live),
        ("rk_live_", Mode::Live),
        ("sk_test_", Mode::Test),
        ("rk_test_", Mode::Test),
    ];
    let value = value.expose();
    for (prefix, mode) in kinds {
        if let Some(rest) = value.strip_prefix(prefix) {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            return if !rest.is_empty() && rest.bytes().all(fits) {
                Ok(mode)
            } else {
                Err(WrongKind::Garbled)
            };
        }
    }
    let other = OTHER_KINDS.iter().find(|(prefix, _)| value.starts_with(prefix));
    Err(other.map_or(WrongKind::Unknown, |(_, kind)| WrongKind::Is(kind)))
}

pub(super) async fn account(client: &Client, value: &SecretText) -> Result<String, ProviderError> {
    #[derive(Deserialize)]
    struct Account {
        id: String,
    }
    let client = client.with_auth(Auth::bearer(value));
    Ok(send(client.get("read account", &["v1", "account"])).await?.json::<Account>()?.id)
}

/// Tries a key by reading the balance, which changes nothing.
#[derive(Debug, Clone)]
pub struct KeyProbe {
    pub(super) client: Client,
}

#[async_trait]
impl Probe for KeyProbe {
    async fn probe(&self, value: &SecretText) -> Life {
        let client = self.client.with_auth(Auth::bearer(value));
        match reply(client.get("read balance", &["v1", "balance"])).await {
            Ok(reply) => match reply.status() {
                200 => Life::Live,
                // Only Stripe's own errors have a type or a code: a proxy's refusal says nothing of the key.
                401 if reply.code().is_some() => Life::Dead,
                // A restricted key that may not read the balance was recognised for that.
                403 if reply.code().is_some() => Life::Live,
                _ => Life::Unknown(reply.refusal()),
            },
            Err(error) => Life::Unknown(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_its_mode_and_other_things_their_kind() {
        let of = |text: &str| mode(&SecretText::new(text.to_owned()));
        assert_eq!(of("sk_live_51Abc"), Ok(Mode::Live));
        assert_eq!(of("rk_live_51Abc"), Ok(Mode::Live));
        assert_eq!(of("sk_test_51Abc"), Ok(Mode::Test));
        assert_eq!(of("rk_test_51Abc"), Ok(Mode::Test));
        for (prefix, kind) in OTHER_KINDS {
            assert_eq!(of(&format!("{prefix}live_51Abc")), Err(WrongKind::Is(kind)));
        }
        for garbled in ["sk_live_", "sk_live_51Abc\n", "sk_live_51 Abc", "sk_live_…"] {
            assert_eq!(of(garbled), Err(WrongKind::Garbled), "{garbled:?}");
        }
        for unknown in ["", "re_51Abc", " sk_live_51Abc", "SK_LIVE_51Abc", "sk_51Abc"] {
            assert_eq!(of(unknown), Err(WrongKind::Unknown), "{unknown:?}");
        }
    }
}
