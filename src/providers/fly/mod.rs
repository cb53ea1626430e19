//! Fly.io: tokens, app secrets, machines and their life, and the deploy that brings a secret to them.
//!
//! Two APIs with one credential: the Machines API (<https://fly.io/docs/machines/api>), and GraphQL for what only that
//! has: tokens and add-ons. Setting a secret only writes the app's vault; a machine sees it when it is next started or
//! updated, which [`Deploy`] does.

mod add_on;
mod change;
mod deploy;
mod environment;
mod graphql;
mod life;
mod machines;
mod secrets;
mod tokens;

pub use add_on::RedisPassword;
pub use change::{Change, Changing, DeployError, Holder, Launch};
pub use deploy::Deploy;
pub use environment::Environment;
pub use graphql::DOCUMENTS;
pub use life::{Created, Creation};
pub use machines::{Check, Lease, Leased, Machine, Update};
pub use secrets::{AppSecret, VaultEntry};
pub use tokens::{TokenProbe, TokenProfile, Tokens};

use std::{num::NonZero, sync::Arc};

use super::http::{Auth, BadBase, Call, Client, Manner, Pace, Rules};
use crate::secret::SecretText;

/// Its name in errors.
const PROVIDER: &str = "Fly.io";

/// One call a second for each action and identifier, three at once; `Get Machine` five, and ten.
///
/// Source: <https://fly.io/docs/machines/api/working-with-machines-api/#rate-limits>
const PACES: &[Pace] = &[
    Pace { class: "action", per_second: NonZero::<u32>::MIN, burst: nonzero(3) },
    Pace { class: "look", per_second: nonzero(5), burst: nonzero(10) },
];

const fn nonzero(number: u32) -> NonZero<u32> {
    NonZero::new(number).expect("the numbers above are not zero")
}

/// The code by which Fly has no room for a machine, with a 409, a 422 or a 503.
///
/// Source: `flaps_error.go` of <https://github.com/superfly/fly-go>
const NO_CAPACITY: &str = "insufficient_capacity";

const MACHINES: Rules = Rules {
    provider: PROVIDER,
    not_begun: &[],
    refusals: &[NO_CAPACITY],
    codes: &["/code", "/status"],
    paces: PACES,
};

const GRAPHQL: Rules = Rules { provider: PROVIDER, not_begun: &[], refusals: &[], codes: &[], paces: &[] };

/// Both APIs of Fly.io with one credential. Clones share connections and rate limits.
#[derive(Debug, Clone)]
pub struct Fly {
    machines: Client,
    graphql: Client,
}

impl Fly {
    /// The Machines API at `machines_url` (`https://api.machines.dev/v1`) and GraphQL at `graphql_url`
    /// (`https://api.fly.io/graphql`), both with `token`.
    ///
    /// # Errors
    /// [`BadBase`] for a URL that no credential may be sent to.
    pub fn new(
        machines_url: &str,
        graphql_url: &str,
        token: Arc<SecretText>,
        manner: Manner,
    ) -> Result<Self, BadBase> {
        Ok(Self {
            machines: Client::new(MACHINES, machines_url, auth(token.clone()), manner)?,
            graphql: Client::new(GRAPHQL, graphql_url, auth(token), manner)?,
        })
    }

    /// The same APIs with another credential; rate limits stay shared.
    #[must_use]
    pub fn with_token(&self, token: Arc<SecretText>) -> Self {
        Self {
            machines: self.machines.with_auth(auth(token.clone())),
            graphql: self.graphql.with_auth(auth(token)),
        }
    }
}

/// How a token authorises: a macaroon has a scheme of its own, and is kept with it or without.
///
/// Source: `tokens.go` of <https://github.com/superfly/fly-go>
fn auth(token: Arc<SecretText>) -> Auth {
    let text = token.expose().trim();
    if text.starts_with("FlyV1 ") || text.starts_with("Bearer ") {
        Auth::Verbatim(token)
    } else if ["fm1r_", "fm1a_", "fm2_"].iter().any(|prefix| text.starts_with(prefix)) {
        Auth::Verbatim(Arc::new(SecretText::new(["FlyV1 ", text].concat())))
    } else {
        Auth::Bearer(token)
    }
}

/// A call that acts, in its turn among those of its name on the same app or machine.
fn acting<'a>(call: Call<'a>, name: &str, on: &[&str]) -> Call<'a> {
    call.paced("action", format!("{name} {}", on.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_keeps_its_scheme_and_a_macaroon_gets_its_own() {
        let header = |text: &str| match auth(Arc::new(SecretText::new(text.to_owned()))) {
            Auth::Verbatim(token) => token.expose().to_owned(),
            Auth::Bearer(token) => format!("Bearer {}", token.expose()),
            _ => panic!("no other scheme"),
        };
        assert_eq!(header("FlyV1 fm2_a,fm2_b"), "FlyV1 fm2_a,fm2_b");
        assert_eq!(header("fm2_a"), "FlyV1 fm2_a");
        assert_eq!(header("fm1r_a"), "FlyV1 fm1r_a");
        assert_eq!(header("fo1_a"), "Bearer fo1_a");
    }
}
