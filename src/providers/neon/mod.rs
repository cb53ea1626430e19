//! Neon: API keys, branches, passwords of roles, and the operations by which a project changes (API v2).
//!
//! A project makes one change at a time: while an operation of it runs, another change is answered with 423 and not
//! begun. Changes of one project by this process queue, and those of others are waited out. Changes are neither idempotent nor safe to send again, except after 423, 429 and 503 (Neon's specification,
//! "general error"). A reply with a password or a connection URI is a secret as a whole.

mod branches;
mod fork;
mod keys;
mod operations;
mod roles;

use std::{num::NonZero, sync::Arc};

pub use branches::{Branch, Database, Endpoint, Role};
pub use fork::Fork;
pub use keys::{ApiKeys, KeyProbe};
pub use operations::Operation;
pub use roles::{RolePassword, Route};

use super::http::{Auth, BadBase, Call, Client, Manner, Pace, Rules};
use crate::secret::SecretText;

const PROVIDER: &str = "neon";

/// 700 requests a minute, and 40 a second at once.
const PACE: Pace =
    Pace { class: "account", per_second: NonZero::new(11).unwrap(), burst: NonZero::new(40).unwrap() };

const RULES: Rules =
    Rules { provider: PROVIDER, not_begun: &[423, 503], refusals: &[], codes: &["/code"], paces: &[PACE] };

/// Neon's API with one API key. Clones share connections, rate limits, and the queue of each project's changes.
#[derive(Debug, Clone)]
pub struct Neon {
    client: Client,
    turns: operations::Turns,
}

impl Neon {
    /// The API at `url`, such as `https://console.neon.tech/api/v2`.
    ///
    /// # Errors
    /// See [`Client::new`].
    pub fn new(url: &str, token: SecretText, manner: Manner) -> Result<Self, BadBase> {
        let client = Client::new(RULES, url, Auth::Bearer(Arc::new(token)), manner)?;
        Ok(Self { client, turns: operations::Turns::default() })
    }

    /// The same with another API key: a key is revoked with its successor, which outlives it.
    #[must_use]
    pub fn with_token(&self, token: SecretText) -> Self {
        Self { client: self.client.with_auth(Auth::Bearer(Arc::new(token))), turns: self.turns.clone() }
    }

    fn get(&self, name: &'static str, path: &[&str]) -> Call<'_> {
        self.client.get(name, path).paced(PACE.class, "")
    }

    fn post(&self, name: &'static str, path: &[&str]) -> Call<'_> {
        self.client.post(name, path).paced(PACE.class, "")
    }

    fn delete(&self, name: &'static str, path: &[&str]) -> Call<'_> {
        self.client.delete(name, path).paced(PACE.class, "")
    }
}
