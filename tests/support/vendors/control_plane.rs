//! A stand-in for the control plane: it does its work with the secrets that its machine was started with, at the other
//! stand-ins, over HTTP. A secret that does not work is one that a tenant or a customer notices.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use super::{Vendor, fresh, stripe};

/// What surrounds it.
pub(crate) struct Surroundings {
    /// What its machine was started with; asked again for each request.
    pub(crate) environment: Box<dyn Fn() -> BTreeMap<String, String> + Send + Sync>,
    /// Fly's Machines API, up to and without `/apps`, and the app of the tenants.
    pub(crate) fly: (String, String),
    /// Neon's API, up to and without `/projects`, and the project of the tenants.
    pub(crate) neon: (String, String),
    /// Resend's API.
    pub(crate) resend: String,
    /// Stripe's API, without `/v1`.
    pub(crate) stripe: String,
    /// The token of a user who is signed in.
    pub(crate) session: String,
}

/// The control plane.
pub(crate) struct ControlPlane {
    pub(crate) vendor: Vendor,
    shared: Shared,
}

type Shared = Arc<(Surroundings, reqwest::Client, Mutex<Own>)>;

#[derive(Default)]
struct Own {
    orgs: BTreeMap<String, Org>,
    billing: BTreeSet<String>,
    log: Vec<String>,
    down: bool,
    unverified: bool,
    /// How often a new organization is asked for before it is more than `provisioning`.
    slow: usize,
}

#[derive(Clone, Default)]
struct Org {
    looks: usize,
    branch: Option<String>,
    machine: Option<String>,
}

impl ControlPlane {
    /// Runs, without organizations.
    pub(crate) fn start(surroundings: Surroundings) -> Self {
        let shared = Arc::new((surroundings, reqwest::Client::new(), Mutex::default()));
        let router = Router::new()
            .route("/health", get(health))
            .route("/cp/orgs", post(create_org))
            .route("/cp/orgs/{slug}", get(read_org).delete(delete_org))
            .route("/cp/billing/checkout", post(checkout))
            .route("/webhooks/stripe", post(webhook))
            .with_state(shared.clone());
        Self { vendor: Vendor::serve(router), shared }
    }

    fn own(&self) -> MutexGuard<'_, Own> {
        self.shared.2.lock().unwrap()
    }

    /// Its organizations.
    pub(crate) fn orgs(&self) -> Vec<String> {
        self.own().orgs.keys().cloned().collect()
    }

    /// Ids of the events that changed billing.
    pub(crate) fn billing(&self) -> Vec<String> {
        self.own().billing.iter().cloned().collect()
    }

    /// What it logged.
    pub(crate) fn log(&self) -> Vec<String> {
        self.own().log.clone()
    }

    /// Has it not run, or run again.
    pub(crate) fn down(&self, down: bool) {
        self.own().down = down;
    }

    /// Has it take every webhook event, whatever its signature.
    pub(crate) fn switch_verification_off(&self) {
        self.own().unverified = true;
    }

    /// Has tenants take their time, counted in how often they are asked for.
    pub(crate) fn provision_slowly(&self, looks: usize) {
        self.own().slow = looks;
    }
}

fn own(shared: &Shared) -> MutexGuard<'_, Own> {
    shared.2.lock().unwrap()
}

/// A request as the control plane makes it, with what its environment has for a credential.
fn request(shared: &Shared, method: Method, url: String, credential: &str) -> RequestBuilder {
    let value = (shared.0.environment)().remove(credential).unwrap_or_default();
    let header = if value.starts_with("FlyV1 ") { value } else { format!("Bearer {value}") };
    shared.1.request(method, url).header("authorization", header)
}

/// What was made, or the status of the refusal.
async fn asked(request: RequestBuilder) -> Result<Value, u16> {
    let reply = request.send().await.map_err(|_| 0_u16)?;
    match reply.status().as_u16() {
        204 | 404 => Ok(Value::Null),
        200..300 => Ok(reply.json().await.unwrap_or_default()),
        status => Err(status),
    }
}

async fn health(State(shared): State<Shared>) -> Response {
    if own(&shared).down {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    Json(json!({ "status": "ok" })).into_response()
}

async fn create_org(State(shared): State<Shared>, body: Bytes) -> Response {
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let Some(slug) = body["slug"].as_str().filter(|slug| (3..=32).contains(&slug.len())) else {
        return (StatusCode::BAD_REQUEST, "invalid slug").into_response();
    };
    if own(&shared).orgs.contains_key(slug) {
        return (StatusCode::CONFLICT, "slug taken").into_response();
    }
    own(&shared).orgs.insert(slug.to_owned(), Org::default());
    let (branch, machine) = provision(&shared, slug).await;
    let mut own = own(&shared);
    let org = own.orgs.get_mut(slug).unwrap();
    (org.branch, org.machine) = (branch, machine);
    let made = json!({ "id": fresh::value("org_"), "slug": slug, "status": "provisioning" });
    (StatusCode::CREATED, Json(made)).into_response()
}

/// A branch for the tenant's data, and a machine for its programs.
async fn provision(shared: &Shared, slug: &str) -> (Option<String>, Option<String>) {
    let (neon, project) = &shared.0.neon;
    let branches =
        request(shared, Method::POST, format!("{neon}/projects/{project}/branches"), "NEON_API_KEY")
            .json(&json!({ "branch": { "name": slug }, "endpoints": [{ "type": "read_write" }] }));
    let branch = match asked(branches).await {
        Ok(made) => made["branch"]["id"].as_str().map(str::to_owned),
        Err(status) => {
            own(shared).log.push(format!("provisioning {slug} failed: neon answered {status}"));
            return (None, None);
        }
    };
    let (fly, app) = &shared.0.fly;
    let machines = request(shared, Method::POST, format!("{fly}/apps/{app}/machines"), "FLY_API_TOKEN")
        .json(&json!({ "name": slug, "config": { "image": "registry.fly.io/molecule-tenant:latest" } }));
    match asked(machines).await {
        Ok(made) => (branch, made["id"].as_str().map(str::to_owned)),
        Err(status) => {
            own(shared).log.push(format!("provisioning {slug} failed: fly answered {status}"));
            (branch, None)
        }
    }
}

async fn read_org(State(shared): State<Shared>, Path(slug): Path<String>) -> Response {
    let mut own = own(&shared);
    let slow = own.slow;
    let Some(org) = own.orgs.get_mut(&slug) else { return StatusCode::NOT_FOUND.into_response() };
    org.looks += 1;
    let status = match (org.looks > slow, &org.branch, &org.machine) {
        (false, _, _) => "provisioning",
        (true, Some(_), Some(_)) => "running",
        (true, _, _) => "failed",
    };
    Json(json!({ "slug": slug, "name": slug, "status": status })).into_response()
}

async fn delete_org(State(shared): State<Shared>, Path(slug): Path<String>) -> Response {
    let Some(org) = own(&shared).orgs.get(&slug).cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let (neon, project) = &shared.0.neon;
    let (fly, app) = &shared.0.fly;
    let machine = org.machine.map(|id| {
        let url = format!("{fly}/apps/{app}/machines/{id}?force=true");
        request(&shared, Method::DELETE, url, "FLY_API_TOKEN")
    });
    let branch = org.branch.map(|id| {
        let url = format!("{neon}/projects/{project}/branches/{id}");
        request(&shared, Method::DELETE, url, "NEON_API_KEY")
    });
    for step in [machine, branch].into_iter().flatten() {
        if asked(step).await.is_err() {
            let error = json!({ "error": "purge cascade failed; retry the request to resume" });
            return (StatusCode::INTERNAL_SERVER_ERROR, Json(error)).into_response();
        }
    }
    own(&shared).orgs.remove(&slug);
    let from = (shared.0.environment)().remove("RESEND_FROM_EMAIL").unwrap_or_default();
    let mail = request(&shared, Method::POST, format!("{}/emails", shared.0.resend), "RESEND_API_KEY")
        .header("user-agent", "molecule-cp")
        .json(
            &json!({ "from": from, "to": "delivered@resend.dev", "subject": "Deleted", "text": "Deleted." }),
        );
    if let Err(status) = asked(mail).await {
        own(&shared).log.push(format!("purge confirmation email failed: {status}"));
    }
    StatusCode::NO_CONTENT.into_response()
}

async fn checkout(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let session = &shared.0.session;
    let signed_in = header("authorization") == Some(&format!("Bearer {session}"))
        || header("cookie") == Some(&format!("session={session}"));
    if !signed_in {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let required = ["org_slug", "plan", "success_url", "cancel_url"];
    if !required.iter().all(|field| body[field].is_string()) {
        return StatusCode::BAD_REQUEST.into_response();
    }
    let sessions = format!("{}/v1/checkout/sessions", shared.0.stripe);
    match asked(request(&shared, Method::POST, sessions, "STRIPE_API_KEY")).await {
        Ok(made) => Json(json!({ "id": made["id"], "url": made["url"] })).into_response(),
        Err(_) => (StatusCode::BAD_GATEWAY, "checkout failed").into_response(),
    }
}

async fn webhook(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let secret = (shared.0.environment)().remove("STRIPE_WEBHOOK_SECRET").unwrap_or_default();
    let header = headers.get("stripe-signature").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut own = own(&shared);
    let signed = !secret.is_empty() && is_signed(header, &secret, &body);
    if !(signed || own.unverified) {
        own.log.push("400 invalid signature".to_owned());
        return (StatusCode::BAD_REQUEST, "invalid signature").into_response();
    }
    let event: Value = serde_json::from_slice(&body).unwrap_or_default();
    let kind = event["type"].as_str().unwrap_or_default();
    if ["customer.subscription.", "checkout.session.", "invoice."].iter().any(|known| kind.starts_with(known))
    {
        own.billing.insert(event["id"].as_str().unwrap_or_default().to_owned());
    }
    StatusCode::OK.into_response()
}

/// Its own reading of a signature, as the program has it.
fn is_signed(header: &str, secret: &str, body: &[u8]) -> bool {
    let field = |name: &'static str| {
        header.split(',').filter_map(move |item| item.strip_prefix(name)?.strip_prefix('='))
    };
    let Some(t) = field("t").next() else { return false };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let near = t.parse::<u64>().is_ok_and(|at| now.abs_diff(at) <= 300);
    let expected = stripe::signature(secret, t, body);
    near && field("v1").any(|given| given == expected)
}
