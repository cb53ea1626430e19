//! The control plane itself: whether it runs, a tenant made and deleted for a test, a checkout, and its webhook.
//!
//! What it does with its secrets is the best proof that they work. Tests leave nothing behind that is not deleted by
//! [`ControlPlane::delete_org`], and the probe events are of a type that no handler knows.

use rand::{TryRng, rngs::SysRng};
use serde::Deserialize;
use serde_json::json;
use url::{Host, Url};

use super::{
    Patience, ProviderError,
    http::{Auth, BadBase, Client, Manner, Rules},
    stripe,
};
use crate::secret::SecretText;

const RULES: Rules =
    Rules { provider: "the control plane", not_begun: &[], refusals: &[], codes: &["/code"], paces: &[] };

const HEALTH: &str = "answer a health check";

const WEBHOOK: &str = "take a webhook event";

/// The type of the events that [`ControlPlane::accepts_only`] sends.
pub const PROBE_EVENT: &str = "reseal.probe";

/// The control plane's own API.
#[derive(Debug, Clone)]
pub struct ControlPlane {
    /// Without a credential, and each call is sent once: what is asked here is how a single call fares.
    open: Client,
    /// With the session.
    session: Client,
}

impl ControlPlane {
    /// The control plane at `url`; `session` is a bearer token, or a session's cookie as `name=value`.
    ///
    /// # Errors
    /// See [`BadBase`].
    pub fn new(url: &str, session: Option<&SecretText>, manner: Manner) -> Result<Self, BadBase> {
        let open = Client::new(RULES, url, Auth::None, Manner { tries: 1, ..manner })?;
        let session = Client::new(RULES, url, session.map_or(Auth::None, session_auth), manner)?;
        Ok(Self { open, session })
    }

    /// Asks `/health` once.
    ///
    /// # Errors
    /// It did not answer 200.
    pub async fn health(&self) -> Result<(), ProviderError> {
        let reply = self.open.get(HEALTH, &["health"]).reply().await?;
        if reply.status() == 200 { Ok(()) } else { Err(reply.refusal()) }
    }

    /// Waits for three good answers of `/health` on end: one alone can come from a machine that is about to go.
    ///
    /// # Errors
    /// What was wrong last, when that did not happen in time.
    pub async fn healthy_thrice(&self, patience: &Patience) -> Result<(), ProviderError> {
        let (mut wait, mut good) = (patience.begin(), 0);
        loop {
            let last = self.health().await;
            good = if last.is_ok() { good + 1 } else { 0 };
            if good == 3 {
                return Ok(());
            }
            if !wait.pause().await {
                return last.and(Err(ProviderError::Busy {
                    provider: RULES.provider,
                    call: HEALTH,
                    why: "it did not answer three times on end in time".to_owned(),
                    retry_after: None,
                }));
            }
        }
    }

    /// Asks for an organization with its tenant. One that is there already is as good.
    pub async fn provision(&self, slug: &str, name: &str) -> Result<(), ProviderError> {
        let call = self.session.post("create organization", &["cp", "orgs"]);
        let reply = call.json(&json!({ "slug": slug, "name": name })).repeatable().reply().await?;
        if reply.status() == 409 { Ok(()) } else { reply.success().map(drop) }
    }

    /// How far an organization's tenant is, or `None` without such an organization.
    pub async fn org(&self, slug: &str) -> Result<Option<OrgState>, ProviderError> {
        #[derive(Deserialize)]
        struct Org {
            status: OrgState,
        }
        match self.session.get("read organization", &["cp", "orgs", slug]).send().await {
            Ok(reply) => Ok(Some(reply.json::<Org>()?.status)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes an organization with its tenant; the control plane goes on where it failed before. One that is gone is
    /// done.
    pub async fn delete_org(&self, slug: &str) -> Result<(), ProviderError> {
        let call = self.session.delete("delete organization", &["cp", "orgs", slug]);
        match call.repeatable().send().await {
            Err(error) if !error.is_missing() => Err(error),
            _ => Ok(()),
        }
    }

    /// Starts a checkout of `plan` for an organization, and gives the address of its page at Stripe. Nobody pays by it.
    ///
    /// # Errors
    /// [`ProviderError::Unexpected`] when the address is not Stripe's.
    pub async fn checkout(&self, slug: &str, plan: &str) -> Result<Url, ProviderError> {
        #[derive(Deserialize)]
        struct Checkout {
            url: String,
        }
        let back = |outcome: &str| {
            let mut url = self.session.base().clone();
            url.query_pairs_mut().append_pair("checkout", outcome);
            url
        };
        let body = json!({
            "org_slug": slug,
            "plan": plan,
            "success_url": back("success").as_str(),
            "cancel_url": back("cancel").as_str(),
        });
        let call = self.session.post("start checkout", &["cp", "billing", "checkout"]);
        let reply = call.json(&body).repeatable().send().await?;
        let page = Url::parse(&reply.json::<Checkout>()?.url).ok().filter(is_stripes);
        page.ok_or_else(|| reply.unexpected("a checkout page that is not Stripe's"))
    }

    /// Delivers an event to the webhook as Stripe would, and gives the status of the answer.
    pub async fn webhook(&self, payload: &[u8], header: &str) -> Result<u16, ProviderError> {
        let call = self.open.post(WEBHOOK, &["webhooks", "stripe"]);
        let call = call.header("Content-Type", "application/json").header("Stripe-Signature", header);
        Ok(call.body(payload.to_vec()).reply().await?.status())
    }

    /// Whether the webhook takes what is signed under `secret`, and refuses what is signed under a secret that nobody
    /// has. `now` is in Unix seconds. Neither event changes anything.
    ///
    /// # Errors
    /// Answers that tell neither: anything but success and 400.
    pub async fn accepts_only(&self, secret: &SecretText, now: i64) -> Result<Acceptance, ProviderError> {
        let nobodys = SecretText::new(format!("whsec_{}", hex::encode(random()?)));
        let takes_nobodys = self.takes(&nobodys, now).await?;
        let takes_ours = self.takes(secret, now).await?;
        Ok(match (takes_ours, takes_nobodys) {
            (_, true) => Acceptance::CheckIsOff,
            (true, false) => Acceptance::ProvenOn,
            (false, false) => Acceptance::Refused,
        })
    }

    async fn takes(&self, secret: &SecretText, now: i64) -> Result<bool, ProviderError> {
        let event = json!({
            "id": format!("evt_reseal_{}", hex::encode(random()?)),
            "object": "event",
            "type": PROBE_EVENT,
            "created": now,
            "livemode": false,
            "data": { "object": {} },
        });
        let payload = event.to_string();
        let header = stripe::sign(secret, now, payload.as_bytes());
        match self.webhook(payload.as_bytes(), &header).await? {
            200..300 => Ok(true),
            400 => Ok(false),
            _ => Err(ProviderError::Unexpected {
                provider: RULES.provider,
                call: WEBHOOK,
                what: "neither a success nor 400",
            }),
        }
    }
}

/// How far a tenant is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrgState {
    /// Nobody chose a plan yet; nothing is made before.
    AwaitingPayment,
    /// It is being made.
    Provisioning,
    /// It is ready.
    #[serde(alias = "active")]
    Running,
    /// It could not be made.
    Failed,
    /// Something else.
    #[serde(other)]
    Other,
}

/// What the webhook did with two events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acceptance {
    /// It took the good one and refused the forged one.
    ProvenOn,
    /// It took the forged one: signatures are not checked, and no answer of it proves anything.
    CheckIsOff,
    /// It refused both: it doesn't know this secret, or not yet.
    Refused,
}

/// A cookie has a name; a bearer token has no `=` but as padding.
fn session_auth(session: &SecretText) -> Auth {
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
    };
    match session.expose().split_once('=') {
        Some((name, value)) if is_name(name) && value.bytes().any(|byte| byte != b'=') => {
            Auth::Cookie(std::sync::Arc::new(SecretText::new(session.expose().to_owned())))
        }
        _ => Auth::bearer(session),
    }
}

fn is_stripes(url: &Url) -> bool {
    url.scheme() == "https"
        && url.port().is_none()
        && url.username().is_empty()
        && matches!(url.host(), Some(Host::Domain(host)) if host == "stripe.com" || host.ends_with(".stripe.com"))
}

fn random() -> Result<[u8; 16], ProviderError> {
    let mut bytes = [0; 16];
    let without = |_| ProviderError::NotAsked {
        provider: RULES.provider,
        call: WEBHOOK,
        why: "the system has no randomness to give",
    };
    SysRng.try_fill_bytes(&mut bytes).map_err(without)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_page_at_stripe_is_one() {
        let is = |url: &str| is_stripes(&url.parse().unwrap());
        assert!(is("https://checkout.stripe.com/c/pay/cs_test_1#frag"));
        assert!(is("https://stripe.com/x"));
        for other in [
            "http://checkout.stripe.com/x",
            "https://checkoutstripe.com/x",
            "https://stripe.com.evil.example/x",
            "https://stripe.com@evil.example/x",
            "https://x@checkout.stripe.com/x",
            "https://checkout.stripe.com:444/x",
            "https://evil.example/stripe.com",
        ] {
            assert!(!is(other), "{other}");
        }
    }

    #[test]
    fn a_session_is_a_cookie_or_a_token() {
        let auth = |text: &str| session_auth(&SecretText::new(text.to_owned()));
        assert!(matches!(auth("session=abc=="), Auth::Cookie(_)));
        for token in ["mol_pk_live_x", "abc==", "a.b-c_d", "=abc", "a b=c"] {
            assert!(matches!(auth(token), Auth::Bearer(_)), "{token}");
        }
    }
}
