//! A stand-in for Resend: keys and their permissions, domains, messages, and the errors that its documents leave out.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use serde_json::{Value, json};

use super::{Vendor, fresh};

/// Resend, with one team.
pub(crate) struct Resend {
    pub(crate) vendor: Vendor,
    state: Shared,
    admin: String,
}

type Shared = Arc<Mutex<Team>>;

#[derive(Default)]
struct Team {
    keys: Vec<Key>,
    domains: Vec<Domain>,
    emails: Vec<Email>,
    /// What was sent with an idempotency key, and the id of the message.
    sent: HashMap<String, (Bytes, String)>,
    /// Lists of keys that are answered with what was there before.
    stale: Option<(usize, Vec<Value>)>,
    /// How often a key is still taken after it was deleted.
    lag: usize,
    /// How often a message is asked for before it has arrived, and what is said then.
    fate: (usize, &'static str),
    limit: Option<usize>,
    calls: VecDeque<Instant>,
}

#[derive(Clone)]
struct Key {
    id: String,
    name: String,
    token: String,
    sending_only: bool,
    domain_id: Option<String>,
    last_used: Option<String>,
    /// Uses that are left to it once it was deleted.
    deleted: Option<usize>,
}

struct Domain {
    id: String,
    name: String,
    status: &'static str,
    sending: &'static str,
}

struct Email {
    id: String,
    from: String,
    to: String,
    key: String,
    looks: usize,
}

/// A message that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) from: String,
    pub(crate) to: String,
    /// The id of the key that it was sent with.
    pub(crate) key: String,
}

impl Resend {
    /// A team with one key, an admin's.
    pub(crate) fn start() -> Self {
        let state = Shared::default();
        let router = Router::new()
            .route("/api-keys", get(list_keys).post(create_key))
            .route("/api-keys/{id}", delete(delete_key))
            .route("/domains", get(list_domains))
            .route("/emails", post(send))
            .route("/emails/{id}", get(email))
            .with_state(state.clone());
        let resend = Self { vendor: Vendor::serve(router), state, admin: fresh::value("re_") };
        resend.lock().fate = (0, "delivered");
        resend.lock().keys.push(Key::new("admin", resend.admin.clone(), false, None));
        resend
    }

    fn lock(&self) -> MutexGuard<'_, Team> {
        self.state.lock().unwrap()
    }

    /// The admin's key.
    pub(crate) fn admin(&self) -> &str {
        &self.admin
    }

    /// Makes a key as a person does in the dashboard; gives its id and value.
    pub(crate) fn key(&self, name: &str, sending_only: bool) -> (String, String) {
        let key = Key::new(name, fresh::value("re_"), sending_only, None);
        self.lock().keys.push(key.clone());
        (key.id, key.token)
    }

    /// Adds a domain; gives its id.
    pub(crate) fn domain(&self, name: &str, status: &'static str, sending: &'static str) -> String {
        let id = fresh::value("d91cd9bd-");
        self.lock().domains.push(Domain { id: id.clone(), name: name.to_owned(), status, sending });
        id
    }

    /// Id and name of every key that was not deleted.
    pub(crate) fn live(&self) -> Vec<(String, String)> {
        let team = self.lock();
        team.keys
            .iter()
            .filter(|key| key.deleted.is_none())
            .map(|key| (key.id.clone(), key.name.clone()))
            .collect()
    }

    /// Whether this value would be taken now.
    pub(crate) fn is_live(&self, value: &str) -> bool {
        self.lock().keys.iter().any(|key| key.token == value && key.deleted != Some(0))
    }

    /// The domain to which a key is restricted, when it may only send: `None` for a key that may do everything.
    pub(crate) fn restriction(&self, id: &str) -> Option<Option<String>> {
        let team = self.lock();
        let key = team.keys.iter().find(|key| key.id == id).unwrap();
        key.sending_only.then(|| key.domain_id.clone())
    }

    /// Every message so far.
    pub(crate) fn sent(&self) -> Vec<Sent> {
        let shown =
            |email: &Email| Sent { from: email.from.clone(), to: email.to.clone(), key: email.key.clone() };
        self.lock().emails.iter().map(shown).collect()
    }

    /// Has the next `count` lists of keys say what is true now.
    pub(crate) fn stale_lists(&self, count: usize) {
        let mut team = self.lock();
        let now = team.keys.iter().filter(|key| key.deleted.is_none()).map(Key::listed).collect();
        team.stale = Some((count, now));
    }

    /// Has keys that are deleted from now on be taken `uses` times more.
    pub(crate) fn revoke_late(&self, uses: usize) {
        self.lock().lag = uses;
    }

    /// Deletes a key as a person does in the dashboard; nothing takes it from now on.
    pub(crate) fn delete(&self, id: &str) {
        self.lock().keys.iter_mut().filter(|key| key.id == id).for_each(|key| key.deleted = Some(0));
    }

    /// Has messages be `event` once they were asked for `looks` times.
    pub(crate) fn deliver_after(&self, looks: usize, event: &'static str) {
        self.lock().fate = (looks, event);
    }

    /// Takes no more than `calls` a second.
    pub(crate) fn limit(&self, calls: usize) {
        self.lock().limit = Some(calls);
    }
}

impl Key {
    fn new(name: &str, token: String, sending_only: bool, domain_id: Option<String>) -> Self {
        let id = fresh::value("b6d24b8e-");
        Self { id, name: name.to_owned(), token, sending_only, domain_id, last_used: None, deleted: None }
    }

    fn listed(&self) -> Value {
        json!({
            "id": self.id,
            "name": self.name,
            "created_at": "2026-11-02 09:30:00.123+00",
            "last_used_at": self.last_used,
        })
    }
}

/// What a call asks of its key.
#[derive(PartialEq, Eq)]
enum Need {
    Everything,
    Sending,
}

impl Team {
    /// The id of the key of a call, or why it is turned away.
    fn admit(&mut self, headers: &HeaderMap, need: Need) -> Result<Key, Box<Response>> {
        self.calls.retain(|call| call.elapsed() < Duration::from_secs(1));
        if self.limit.is_some_and(|limit| self.calls.len() >= limit) {
            let message = "Too many requests. You can only make 5 requests per second.";
            let error = error(429, "rate_limit_exceeded", message);
            return Err(Box::new(
                ([("retry-after", "1"), ("ratelimit-remaining", "0")], error).into_response(),
            ));
        }
        self.calls.push_back(Instant::now());
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        if header("user-agent").is_none() {
            return Err(error(403, "validation_error", "A User-Agent header is required").into());
        }
        let Some(token) = header("authorization").and_then(|text| text.strip_prefix("Bearer ")) else {
            return Err(error(401, "missing_api_key", "Missing API key in the authorization header").into());
        };
        let known = self.keys.iter_mut().find(|key| key.token == token && key.deleted != Some(0));
        let Some(key) = known else {
            return Err(error(401, "validation_error", "API key is invalid").into());
        };
        key.deleted = key.deleted.map(|left| left - 1);
        key.last_used = Some("2026-11-22 06:00:00.5+00".to_owned());
        if key.sending_only && need == Need::Everything {
            let message = "This API key is restricted to only send emails";
            return Err(error(401, "restricted_api_key", message).into());
        }
        Ok(key.clone())
    }
}

fn error(status: u16, name: &str, message: &str) -> Response {
    let body = json!({ "statusCode": status, "message": message, "name": name });
    (StatusCode::from_u16(status).unwrap(), Json(body)).into_response()
}

/// One page of a list, in the vendor's frame.
fn page(all: Vec<Value>, query: &BTreeMap<String, String>) -> Response {
    let limit = query.get("limit").map_or(20, |limit| limit.parse().unwrap());
    let first = query
        .get("after")
        .map_or(0, |after| 1 + all.iter().position(|item| item["id"] == after.as_str()).unwrap());
    let data: Vec<_> = all.iter().skip(first).take(limit).collect();
    let has_more = first + data.len() < all.len();
    Json(json!({ "object": "list", "has_more": has_more, "data": data })).into_response()
}

type Asked = Query<BTreeMap<String, String>>;

async fn list_keys(State(team): State<Shared>, Query(query): Asked, headers: HeaderMap) -> Response {
    let mut team = team.lock().unwrap();
    if let Err(refusal) = team.admit(&headers, Need::Everything) {
        return *refusal;
    }
    let now = team.keys.iter().filter(|key| key.deleted.is_none()).map(Key::listed).collect();
    let all = match &mut team.stale {
        Some((left, before)) if *left > 0 => {
            *left -= 1;
            before.clone()
        }
        _ => now,
    };
    page(all, &query)
}

async fn create_key(State(team): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let mut team = team.lock().unwrap();
    if let Err(refusal) = team.admit(&headers, Need::Everything) {
        return *refusal;
    }
    let body: Value = serde_json::from_slice(&body).unwrap();
    let Some(name) = body["name"].as_str().filter(|name| !name.is_empty()) else {
        return error(422, "missing_required_field", "Missing `name` field");
    };
    if name.len() > 50 {
        return error(422, "validation_error", "API key name must be up to 50 characters");
    }
    let sending_only = match body["permission"].as_str() {
        None | Some("full_access") => false,
        Some("sending_access") => true,
        Some(_) => {
            return error(422, "invalid_access", "Access must be \"full_access\" | \"sending_access\"");
        }
    };
    let domain_id = body["domain_id"].as_str().map(str::to_owned);
    if domain_id.as_ref().is_some_and(|id| !team.domains.iter().any(|domain| domain.id == *id)) {
        return error(404, "not_found", "Domain not found");
    }
    let key = Key::new(name, fresh::value("re_"), sending_only, domain_id);
    let reply = json!({ "id": key.id, "token": key.token });
    team.keys.push(key);
    (StatusCode::CREATED, Json(reply)).into_response()
}

async fn delete_key(State(team): State<Shared>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    let mut team = team.lock().unwrap();
    if let Err(refusal) = team.admit(&headers, Need::Everything) {
        return *refusal;
    }
    let lag = team.lag;
    let Some(key) = team.keys.iter_mut().find(|key| key.id == id && key.deleted.is_none()) else {
        return error(404, "not_found", "API key not found");
    };
    key.deleted = Some(lag);
    Json(json!({ "object": "api_key", "id": id, "deleted": true })).into_response()
}

async fn list_domains(State(team): State<Shared>, Query(query): Asked, headers: HeaderMap) -> Response {
    let mut team = team.lock().unwrap();
    if let Err(refusal) = team.admit(&headers, Need::Everything) {
        return *refusal;
    }
    let listed = |domain: &Domain| {
        json!({
            "id": domain.id,
            "name": domain.name,
            "status": domain.status,
            "created_at": "2026-01-26 20:21:26.347412+00",
            "region": "us-east-1",
            "capabilities": { "sending": domain.sending, "receiving": "disabled" },
        })
    };
    page(team.domains.iter().map(listed).collect(), &query)
}

async fn send(State(team): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let mut team = team.lock().unwrap();
    let key = match team.admit(&headers, Need::Sending) {
        Ok(key) => key,
        Err(refusal) => return *refusal,
    };
    let idempotency_key =
        headers.get("idempotency-key").map(|value| format!("{}/{}", key.id, value.to_str().unwrap()));
    if let Some((before, id)) = idempotency_key.as_ref().and_then(|key| team.sent.get(key)) {
        return if *before == body {
            Json(json!({ "id": id })).into_response()
        } else {
            error(
                409,
                "invalid_idempotent_request",
                "Same idempotency key used with a different request payload.",
            )
        };
    }
    let message: Value = serde_json::from_slice(&body).unwrap();
    let (Some(from), Some(to), Some(_)) =
        (message["from"].as_str(), message["to"].as_str(), message["subject"].as_str())
    else {
        return error(422, "missing_required_field", "Missing a required field");
    };
    let domain = from.trim_end_matches('>').rsplit_once('@').unwrap().1.to_ascii_lowercase();
    let known = team.domains.iter().find(|known| known.name == domain);
    let Some(known) = known.filter(|known| known.status == "verified" && known.sending == "enabled") else {
        let message = format!(
            "The {domain} domain is not verified. Please, add and verify your domain on https://resend.com/domains"
        );
        return error(403, "validation_error", &message);
    };
    if key.domain_id.as_ref().is_some_and(|only| *only != known.id) {
        return error(
            403,
            "validation_error",
            "This API key is not authorized to send emails from this domain",
        );
    }
    let id = fresh::value("4ef9a417-");
    let email = Email { id: id.clone(), from: from.to_owned(), to: to.to_owned(), key: key.id, looks: 0 };
    team.emails.push(email);
    if let Some(key) = idempotency_key {
        team.sent.insert(key, (body, id.clone()));
    }
    Json(json!({ "id": id })).into_response()
}

async fn email(State(team): State<Shared>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    let mut team = team.lock().unwrap();
    if let Err(refusal) = team.admit(&headers, Need::Everything) {
        return *refusal;
    }
    let (looks, fate) = team.fate;
    let Some(email) = team.emails.iter_mut().find(|email| email.id == id) else {
        return error(404, "not_found", "Email not found");
    };
    let last_event = if email.looks < looks { "queued" } else { fate };
    email.looks += 1;
    Json(json!({
        "object": "email",
        "id": id,
        "from": email.from,
        "to": [email.to],
        "last_event": last_event,
    }))
    .into_response()
}
