//! The control plane: what it does with its secrets shows which of them work.

use std::{
    collections::BTreeMap,
    num::NonZero,
    sync::{Arc, Mutex},
    time::{Duration, UNIX_EPOCH},
};

use axum::{
    Json, Router,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use reseal::{
    providers::{
        Patience, ProviderError,
        control_plane::{Acceptance, ControlPlane, OrgState},
        http::Manner,
        stripe::sign,
    },
    secret::SecretText,
};
use serde_json::json;

use crate::support::vendors::{
    Fault, Rule, Vendor,
    control_plane::{self as standin, Surroundings},
    resend::Resend,
    stripe::Stripe,
};

const HASTE: Manner = Manner {
    timeout: Duration::from_secs(5),
    tries: 3,
    pause: Duration::from_millis(1),
    paced: false,
    times: NonZero::<u32>::MIN,
};

const PATIENCE: Patience = Patience { every: Duration::from_millis(1), at_most: Duration::from_secs(5) };

const SESSION: &str = "mol_pk_live_1";
const SLUG: &str = "keytest-1";

/// The stand-in, the vendors that it uses, and what its machine was started with.
struct World {
    plane: standin::ControlPlane,
    fly: Vendor,
    neon: Vendor,
    resend: Resend,
    stripe: Stripe,
    environment: Arc<Mutex<BTreeMap<String, String>>>,
}

impl World {
    fn start() -> Self {
        let (fly, neon) = (taker("FlyV1 fm2_good"), taker("Bearer napi_good"));
        let (resend, stripe) = (Resend::start(), Stripe::start());
        resend.domain("moleculesai.app", "verified", "enabled");
        let environment = Arc::new(Mutex::new(BTreeMap::new()));
        let of_machine = environment.clone();
        let surroundings = Surroundings {
            environment: Box::new(move || of_machine.lock().unwrap().clone()),
            fly: (format!("{}/v1", fly.url()), "molecule-tenants".to_owned()),
            neon: (format!("{}/api/v2", neon.url()), "cool-sea".to_owned()),
            resend: resend.vendor.url().to_owned(),
            stripe: stripe.vendor.url().to_owned(),
            session: SESSION.to_owned(),
        };
        let plane = standin::ControlPlane::start(surroundings);
        let world = Self { plane, fly, neon, resend, stripe, environment };
        world.set("FLY_API_TOKEN", "FlyV1 fm2_good");
        world.set("NEON_API_KEY", "napi_good");
        world.set("RESEND_API_KEY", &world.resend.key("old", true).1);
        world.set("RESEND_FROM_EMAIL", "Molecule AI <noreply@moleculesai.app>");
        world.set("STRIPE_API_KEY", &world.stripe.key("sk_live_", "acct_1"));
        world.set("STRIPE_WEBHOOK_SECRET", "whsec_old");
        world
    }

    fn set(&self, name: &str, value: &str) {
        self.environment.lock().unwrap().insert(name.to_owned(), value.to_owned());
    }

    fn client(&self, session: Option<&str>) -> ControlPlane {
        let session = session.map(secret);
        ControlPlane::new(self.plane.vendor.url(), session.as_ref(), HASTE).unwrap()
    }
}

/// A vendor that makes things for this credential.
fn taker(credential: &'static str) -> Vendor {
    let make = async move |headers: HeaderMap| -> Response {
        if headers["authorization"] != credential {
            return StatusCode::UNAUTHORIZED.into_response();
        }
        Json(json!({ "id": "e2865", "branch": { "id": "br-1" } })).into_response()
    };
    Vendor::serve(Router::new().fallback(make))
}

fn secret(text: &str) -> SecretText {
    SecretText::new(text.to_owned())
}

fn now() -> i64 {
    i64::try_from(UNIX_EPOCH.elapsed().unwrap().as_secs()).unwrap()
}

async fn settled(client: &ControlPlane) -> OrgState {
    let ask = async || {
        let state = client.org(SLUG).await?;
        Ok::<_, ProviderError>(state.filter(|state| *state != OrgState::Provisioning))
    };
    PATIENCE.until(ask).await.unwrap().unwrap()
}

#[tokio::test]
async fn it_is_healthy_when_it_was_three_times_on_end() {
    let world = World::start();
    let client = world.client(None);
    world.plane.vendor.fault(Rule::next("GET", "/health", Fault::Refuse(503, "{}")).after(2));
    client.health().await.unwrap();
    client.healthy_thrice(&PATIENCE).await.unwrap();
    // One before; then good, bad, and three good ones.
    assert_eq!(world.plane.vendor.count("GET", "/health"), 6);

    world.plane.down(true);
    let short = Patience { every: Duration::from_millis(1), at_most: Duration::from_millis(30) };
    let error = client.healthy_thrice(&short).await.unwrap_err();
    assert!(error.to_string().contains("503"), "{error}");
    world.plane.down(false);
    // A redirection to a page that says sorry is not 200.
    world.plane.vendor.fault(Rule::every("GET", "/health", Fault::Refuse(302, "")));
    assert!(client.healthy_thrice(&short).await.is_err());
    world.plane.vendor.heal();
    let once = Patience { every: Duration::ZERO, at_most: Duration::ZERO };
    let error = client.healthy_thrice(&once).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    client.healthy_thrice(&PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_test_tenant_is_made_watched_and_deleted() {
    let world = World::start();
    let client = world.client(None);
    world.plane.provision_slowly(2);
    world.plane.vendor.fault(Rule::next("POST", "/cp/orgs", Fault::LoseReply));
    client.provision(SLUG, "Rotation test").await.unwrap();
    client.provision(SLUG, "Rotation test").await.unwrap();
    assert_eq!(world.plane.orgs(), [SLUG]);
    assert_eq!(client.org(SLUG).await.unwrap(), Some(OrgState::Provisioning));
    assert_eq!(settled(&client).await, OrgState::Running);
    assert_eq!(world.fly.count("POST", "/v1/apps/molecule-tenants/machines"), 1);
    assert_eq!(world.neon.count("POST", "/api/v2/projects/cool-sea/branches"), 1);

    world.plane.vendor.fault(Rule::next("DELETE", "/cp/orgs", Fault::LoseReply));
    client.delete_org(SLUG).await.unwrap();
    client.delete_org(SLUG).await.unwrap();
    assert_eq!(client.org(SLUG).await.unwrap(), None);
    assert_eq!(world.fly.count("DELETE", "/machines/e2865?force=true"), 1);
    assert_eq!(world.neon.count("DELETE", "/branches/br-1"), 1);
    assert_eq!(world.resend.sent().len(), 1);
    assert_eq!(world.plane.log(), Vec::<String>::new());
    let error = client.provision("a", "too short").await.unwrap_err();
    assert!(matches!(error, ProviderError::Refused { status: 400, .. }));
}

#[tokio::test]
async fn a_credential_that_does_not_work_shows() {
    for (name, wrong) in [("FLY_API_TOKEN", "FlyV1 fm2_revoked"), ("NEON_API_KEY", "napi_revoked")] {
        let world = World::start();
        let client = world.client(None);
        world.set(name, wrong);
        client.provision(SLUG, "Rotation test").await.unwrap();
        assert_eq!(settled(&client).await, OrgState::Failed);
        assert_eq!(world.plane.log().len(), 1);
    }

    // A purge that stops half-way is gone on with.
    let world = World::start();
    let client = world.client(None);
    client.provision(SLUG, "Rotation test").await.unwrap();
    assert_eq!(settled(&client).await, OrgState::Running);
    world.set("NEON_API_KEY", "napi_revoked");
    let error = client.delete_org(SLUG).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    world.set("NEON_API_KEY", "napi_good");
    world.set("RESEND_API_KEY", "re_revoked");
    client.delete_org(SLUG).await.unwrap();
    assert_eq!(world.plane.log(), ["purge confirmation email failed: 401"]);
    assert!(world.resend.sent().is_empty());
}

#[tokio::test]
async fn states_are_those_that_tenants_have() {
    let world = World::start();
    let client = world.client(None);
    for (body, state) in [
        (r#"{"status":"awaiting_payment"}"#, OrgState::AwaitingPayment),
        (r#"{"status":"active"}"#, OrgState::Running),
        (r#"{"status":"on_holiday"}"#, OrgState::Other),
    ] {
        world.plane.vendor.fault(Rule::next("GET", "/cp/orgs/", Fault::Refuse(200, body)));
        assert_eq!(client.org(SLUG).await.unwrap(), Some(state));
    }
    world.plane.vendor.fault(Rule::next("GET", "/cp/orgs/", Fault::Refuse(200, "{}")));
    assert!(matches!(client.org(SLUG).await, Err(ProviderError::Unexpected { .. })));
}

#[tokio::test]
async fn a_checkout_leads_to_stripe_for_who_is_signed_in() {
    let world = World::start();
    for session in [SESSION.to_owned(), format!("session={SESSION}")] {
        let url = world.client(Some(&session)).checkout("acme", "pro").await.unwrap();
        assert_eq!(url.host_str(), Some("checkout.stripe.com"));
    }
    for session in [None, Some("session=other"), Some("other")] {
        let error = world.client(session).checkout("acme", "pro").await.unwrap_err();
        assert!(matches!(error, ProviderError::Unauthorized { status: 401, .. }), "{session:?}: {error}");
    }
    let client = world.client(Some(SESSION));
    for body in [r#"{"url":"https://stripe.com.evil.example/pay"}"#, r#"{"url":"/pay"}"#, "{}"] {
        world.plane.vendor.fault(Rule::next("POST", "/cp/billing/checkout", Fault::Refuse(200, body)));
        let error = client.checkout("acme", "pro").await.unwrap_err();
        assert!(matches!(error, ProviderError::Unexpected { .. }), "{body}: {error}");
    }
    world.set("STRIPE_API_KEY", "sk_live_expired");
    assert!(client.checkout("acme", "pro").await.is_err());
}

#[tokio::test]
async fn the_webhook_takes_the_new_secret_and_no_other() {
    let world = World::start();
    let client = world.client(Some(SESSION));
    let (old, new) = (secret("whsec_old"), secret("whsec_new"));
    assert_eq!(client.accepts_only(&new, now()).await.unwrap(), Acceptance::Refused);
    assert_eq!(client.accepts_only(&old, now()).await.unwrap(), Acceptance::ProvenOn);
    world.set("STRIPE_WEBHOOK_SECRET", "whsec_new");
    assert_eq!(client.accepts_only(&new, now()).await.unwrap(), Acceptance::ProvenOn);
    assert_eq!(client.accepts_only(&old, now()).await.unwrap(), Acceptance::Refused);
    // A clock that is wrong is no proof either.
    assert_eq!(client.accepts_only(&new, now() - 3600).await.unwrap(), Acceptance::Refused);
    assert!(world.plane.billing().is_empty());
    assert_eq!(world.plane.log().iter().filter(|line| *line == "400 invalid signature").count(), 8);

    world.plane.switch_verification_off();
    assert_eq!(client.accepts_only(&new, now()).await.unwrap(), Acceptance::CheckIsOff);
    assert_eq!(client.accepts_only(&old, now()).await.unwrap(), Acceptance::CheckIsOff);
    assert!(world.plane.billing().is_empty());
}

#[tokio::test]
async fn an_answer_that_tells_neither_is_none() {
    let world = World::start();
    let client = world.client(None);
    for fault in [Fault::Refuse(404, ""), Fault::Refuse(401, ""), Fault::Refuse(502, ""), Fault::LoseReply] {
        world.plane.vendor.fault(Rule::next("POST", "/webhooks/stripe", fault.clone()));
        assert!(client.accepts_only(&secret("whsec_old"), now()).await.is_err(), "{fault:?}");
        world.plane.vendor.fault(Rule::next("POST", "/webhooks/stripe", fault.clone()).after(1));
        assert!(client.accepts_only(&secret("whsec_old"), now()).await.is_err(), "{fault:?}");
    }
}

#[tokio::test]
async fn stripes_own_events_are_taken_during_a_roll_and_with_two_endpoints() {
    let world = World::start();
    let key = world.stripe.key("sk_live_", "acct_1");
    let url = format!("{}/webhooks/stripe", world.plane.vendor.url());
    let form = [("url", url.as_str()), ("enabled_events[]", "*")];
    let (first, old) = world.stripe.endpoint(&key, "acct_1", &form);
    world.set("STRIPE_WEBHOOK_SECRET", &old);
    let kind = "customer.subscription.updated";
    let (event, answers) = world.stripe.happen("acct_1", kind).await;
    assert_eq!(answers, [(first.clone(), 200)]);
    assert_eq!(world.plane.billing(), [event]);

    // One endpoint with two secrets: the machine may have either.
    let new = world.stripe.roll(&first, 3600);
    for held in [&old, &new] {
        world.set("STRIPE_WEBHOOK_SECRET", held);
        assert_eq!(world.stripe.happen("acct_1", kind).await.1, [(first.clone(), 200)]);
        let client = world.client(None);
        assert_eq!(client.accepts_only(&secret(held), now()).await.unwrap(), Acceptance::ProvenOn);
    }
    world.stripe.advance(3600);
    world.stripe.advance(-3600 - 1);
    world.stripe.roll(&first, 0);
    assert_eq!(world.stripe.happen("acct_1", kind).await.1, [(first.clone(), 400)]);

    // Two endpoints: whoever holds one secret takes one delivery, of an event that counts once.
    let (second, other) = world.stripe.endpoint(&key, "acct_1", &form);
    world.set("STRIPE_WEBHOOK_SECRET", &other);
    let before = world.plane.billing().len();
    let (_, answers) = world.stripe.happen("acct_1", kind).await;
    assert_eq!(answers, [(second, 200), (first, 400)]);
    assert_eq!(world.plane.billing().len(), before + 1);
}

#[tokio::test]
async fn the_webhook_is_asked_as_stripe_asks_it() {
    let world = World::start();
    let client = world.client(Some(SESSION));
    let payload = br#"{"id":"evt_1","type":"invoice.paid"}"#;
    let header = sign(&secret("whsec_old"), now(), payload);
    assert_eq!(client.webhook(payload, &header).await.unwrap(), 200);
    assert_eq!(world.plane.billing(), ["evt_1"]);
    assert_eq!(client.webhook(b"{}", &header).await.unwrap(), 400);
}
