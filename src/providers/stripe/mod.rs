//! Stripe: what a key is, webhook endpoints, and signatures of webhook events.
//!
//! Stripe has no API that makes or ends a secret key, and none that rolls the secret of an endpoint: the dashboard has.
//! So keys are only tried here ([`KeyProbe`], [`Stripe::account`]), and the secret of webhooks is replaced by a second
//! endpoint ([`WebhookEndpoints`]). Signatures ([`sign`], [`verify`]) need no API at all.
//!
//! Source: docs.stripe.com/api and its OpenAPI document of version 2023-08-16, which every call asks for.

mod keys;
mod signature;
mod webhook_endpoints;

use crate::{
    providers::{
        ProviderError,
        http::{Auth, BadBase, Call, Client, Manner, Pace, Reply, Rules},
    },
    secret::SecretText,
};

pub use keys::{KeyProbe, Mode, WrongKind, mode};
pub use signature::{Rejected, TOLERANCE, sign, verify};
pub use webhook_endpoints::{Endpoint, WebhookEndpoints};

/// Stripe's public address.
pub const URL: &str = "https://api.stripe.com";

const PROVIDER: &str = "Stripe";

/// The version of the API in which this module reads replies.
const VERSION: &str = "2023-08-16";

/// 409 is the answer while another call with the same idempotency key is under way. A sandbox takes 25 calls a second.
const RULES: Rules = Rules {
    provider: PROVIDER,
    not_begun: &[409],
    refusals: &[],
    codes: &["/error/code", "/error/type"],
    paces: &[Pace { class: "account", per_second: nonzero(20), burst: nonzero(5) }],
};

const fn nonzero(number: u32) -> std::num::NonZero<u32> {
    std::num::NonZero::new(number).expect("a rate limit is not zero")
}

/// Stripe's API. Every call says which key it goes with.
#[derive(Debug, Clone)]
pub struct Stripe {
    client: Client,
}

impl Stripe {
    /// The API at `url`.
    ///
    /// # Errors
    /// See [`BadBase`].
    pub fn new(url: &str, manner: Manner) -> Result<Self, BadBase> {
        Ok(Self { client: Client::new(RULES, url, Auth::None, manner)? })
    }

    /// Tries keys.
    pub fn key_probe(&self) -> KeyProbe {
        KeyProbe { client: self.client.clone() }
    }

    /// The id of the account that the key `value` is for. Whether the key is live or for tests, [`mode`] tells.
    pub async fn account(&self, value: &SecretText) -> Result<String, ProviderError> {
        keys::account(&self.client, value).await
    }

    /// The account's webhook endpoints, seen with `key`; those that it mints are copies of the endpoint `like`.
    pub fn webhook_endpoints(&self, key: &SecretText, like: &str) -> WebhookEndpoints {
        WebhookEndpoints::new(self.client.with_auth(Auth::bearer(key)), like)
    }
}

/// What every call has in common.
async fn reply(call: Call<'_>) -> Result<Reply, ProviderError> {
    call.header("Stripe-Version", VERSION).paced("account", "").reply().await
}

async fn send(call: Call<'_>) -> Result<Reply, ProviderError> {
    reply(call).await?.success()
}
