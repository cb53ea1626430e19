//! A stand-in for Stripe: keys of accounts in two modes, webhook endpoints with their secrets, idempotent creation, and
//! deliveries of events that are signed under every secret that is good.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard},
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, RawQuery, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use url::form_urlencoded;

use super::{Vendor, fresh};

/// Stripe.
pub(crate) struct Stripe {
    pub(crate) vendor: Vendor,
    state: Shared,
}

type Shared = Arc<Mutex<Books>>;

#[derive(Default)]
struct Books {
    keys: Vec<Key>,
    endpoints: Vec<Endpoint>,
    events: Vec<Event>,
    /// By account and idempotency key: what was asked, and what was answered.
    created: HashMap<(String, String), (Form, Value)>,
    /// How far its clock is ahead of ours, in seconds.
    ahead: i64,
}

type Form = Vec<(String, String)>;

#[derive(Clone)]
struct Key {
    value: String,
    account: String,
    /// May do everything but read the balance and the account.
    restricted: bool,
    expires: Option<i64>,
}

impl Key {
    fn is_live(&self) -> bool {
        self.value.contains("_live_")
    }
}

struct Endpoint {
    id: String,
    account: String,
    livemode: bool,
    form: BTreeMap<String, Vec<String>>,
    /// Each with the time at which it ends.
    secrets: Vec<(String, Option<i64>)>,
    created: i64,
}

struct Event {
    id: String,
    account: String,
    created: i64,
    delivered: bool,
}

impl Stripe {
    /// Without keys, endpoints or events.
    pub(crate) fn start() -> Self {
        let state = Shared::default();
        let router = Router::new()
            .route("/v1/balance", get(balance))
            .route("/v1/account", get(account))
            .route("/v1/events", get(events))
            .route("/v1/checkout/sessions", post(checkout))
            .route("/v1/webhook_endpoints", get(list_endpoints).post(create_endpoint))
            .route("/v1/webhook_endpoints/{id}", get(read_endpoint).delete(delete_endpoint))
            .with_state(state.clone());
        Self { vendor: Vendor::serve(router), state }
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.state.lock().unwrap()
    }

    /// Makes a key as a person does in the dashboard; `prefix` says its kind and mode.
    pub(crate) fn key(&self, prefix: &str, account: &str) -> String {
        let value = fresh::value(prefix);
        let restricted = prefix.starts_with("rk_");
        let key = Key { value: value.clone(), account: account.to_owned(), restricted, expires: None };
        self.lock().keys.push(key);
        value
    }

    /// Has a key end after these seconds, as *Roll key* in the dashboard.
    pub(crate) fn expire(&self, value: &str, seconds: i64) {
        let mut books = self.lock();
        let at = books.now() + seconds;
        books.keys.iter_mut().find(|key| key.value == value).unwrap().expires = Some(at);
    }

    /// Whether this value would be taken now.
    pub(crate) fn is_live(&self, value: &str) -> bool {
        let books = self.lock();
        let now = books.now();
        books.keys.iter().any(|key| key.value == value && key.expires.is_none_or(|at| now < at))
    }

    /// Makes an endpoint for all events as a person does in the dashboard; gives its id and secret.
    pub(crate) fn endpoint(&self, prefix: &str, account: &str, form: &[(&str, &str)]) -> (String, String) {
        let form = form.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let made = self.lock().add(account, prefix.contains("_live_"), form);
        (made["id"].as_str().unwrap().to_owned(), made["secret"].as_str().unwrap().to_owned())
    }

    /// *Roll secret* in the dashboard: a new secret, beside which the old one is good for these seconds.
    pub(crate) fn roll(&self, id: &str, seconds: i64) -> String {
        let mut books = self.lock();
        let end = Some(books.now() + seconds);
        let endpoint = books.endpoints.iter_mut().find(|endpoint| endpoint.id == id).unwrap();
        endpoint.secrets.iter_mut().for_each(|secret| secret.1 = secret.1.min(end).or(end));
        let secret = fresh::value("whsec_");
        endpoint.secrets.push((secret.clone(), None));
        secret
    }

    /// Id, URL and the name that a rotation gave it, of every endpoint.
    pub(crate) fn live(&self) -> Vec<(String, String, Option<String>)> {
        let shown = |endpoint: &Endpoint| {
            let name = endpoint.form.get("metadata[reseal_rotation]").map(|name| name[0].clone());
            (endpoint.id.clone(), endpoint.form["url"][0].clone(), name)
        };
        self.lock().endpoints.iter().map(shown).collect()
    }

    /// Whether events are signed under this secret now.
    pub(crate) fn signs_with(&self, secret: &str) -> bool {
        let books = self.lock();
        books.endpoints.iter().any(|endpoint| endpoint.good(books.now()).any(|good| good == secret))
    }

    /// What an endpoint was made with.
    pub(crate) fn form(&self, id: &str) -> BTreeMap<String, Vec<String>> {
        self.lock().endpoints.iter().find(|endpoint| endpoint.id == id).unwrap().form.clone()
    }

    /// Moves its clock on.
    pub(crate) fn advance(&self, seconds: i64) {
        self.lock().ahead += seconds;
    }

    /// An event of this type happens to an account: it is sent to every endpoint that wants it. Gives its id, and the
    /// status that each endpoint answered.
    pub(crate) async fn happen(&self, account: &str, kind: &str) -> (String, Vec<(String, u16)>) {
        let id = fresh::value("evt_");
        let (payload, deliveries) = {
            let mut books = self.lock();
            let now = books.now();
            let payload = json!({
                "id": id,
                "object": "event",
                "type": kind,
                "created": now,
                "data": { "object": { "customer": "cus_1" } },
            })
            .to_string();
            books.events.push(Event {
                id: id.clone(),
                account: account.to_owned(),
                created: now,
                delivered: false,
            });
            let wanted = |endpoint: &&Endpoint| {
                let events = &endpoint.form["enabled_events[]"];
                endpoint.account == account && events.iter().any(|event| event == "*" || event == kind)
            };
            let delivery = |endpoint: &Endpoint| {
                let url = endpoint.form["url"][0].clone();
                (endpoint.id.clone(), url, header(endpoint.good(now), now, payload.as_bytes()))
            };
            let deliveries: Vec<_> = books.endpoints.iter().filter(wanted).map(delivery).collect();
            (payload, deliveries)
        };
        let http = reqwest::Client::new();
        let mut answers = Vec::new();
        for (endpoint, url, header) in deliveries {
            let request = http.post(url).header("stripe-signature", header).body(payload.clone());
            answers.push((endpoint, request.send().await.map_or(0, |reply| reply.status().as_u16())));
        }
        let delivered = answers.iter().all(|(_, status)| (200..300).contains(status));
        self.lock().events.iter_mut().find(|event| event.id == id).unwrap().delivered = delivered;
        (id, answers)
    }
}

/// The signature header for a payload, with one signature for each secret, and one of a scheme for tests.
fn header<'a>(secrets: impl Iterator<Item = &'a str>, now: i64, payload: &[u8]) -> String {
    let mut header = format!("t={now}");
    for secret in secrets {
        header += &format!(",v1={}", signature(secret, &now.to_string(), payload));
    }
    header + ",v0=" + &"0".repeat(64)
}

/// `hex(HMAC-SHA256(secret, t "." payload))`, from RFC 2104.
pub(crate) fn signature(secret: &str, t: &str, payload: &[u8]) -> String {
    let mut key = [0; 64];
    match secret.len() {
        0..=64 => key[..secret.len()].copy_from_slice(secret.as_bytes()),
        _ => key[..32].copy_from_slice(&Sha256::digest(secret)),
    }
    let inner = Sha256::new().chain_update(key.map(|byte| byte ^ 0x36)).chain_update(t).chain_update(".");
    let inner = inner.chain_update(payload).finalize();
    hex::encode(Sha256::new().chain_update(key.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize())
}

impl Endpoint {
    /// The secrets under which events are signed at a time.
    fn good(&self, now: i64) -> impl Iterator<Item = &str> {
        let is_good = move |end: &Option<i64>| end.is_none_or(|end| now < end);
        self.secrets.iter().filter(move |(_, end)| is_good(end)).map(|(secret, _)| secret.as_str())
    }

    fn shown(&self) -> Value {
        let one = |name: &str| self.form.get(name).map(|values| values[0].clone());
        let metadata: BTreeMap<_, _> = self
            .form
            .iter()
            .filter_map(|(name, values)| {
                Some((name.strip_prefix("metadata[")?.strip_suffix(']')?, values[0].clone()))
            })
            .collect();
        json!({
            "id": self.id,
            "object": "webhook_endpoint",
            "api_version": one("api_version"),
            "application": (one("connect").as_deref() == Some("true")).then_some("ca_1"),
            "created": self.created,
            "description": one("description"),
            "enabled_events": self.form["enabled_events[]"],
            "livemode": self.livemode,
            "metadata": metadata,
            "status": "enabled",
            "url": one("url"),
        })
    }
}

impl Books {
    fn now(&self) -> i64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        i64::try_from(now).unwrap() + self.ahead
    }

    /// Makes an endpoint, and shows it with its secret.
    fn add(&mut self, account: &str, livemode: bool, form: Form) -> Value {
        let mut fields = BTreeMap::<_, Vec<_>>::new();
        form.into_iter().for_each(|(name, value)| fields.entry(name).or_default().push(value));
        let secret = fresh::value("whsec_");
        let endpoint = Endpoint {
            id: fresh::value("we_"),
            account: account.to_owned(),
            livemode,
            form: fields,
            secrets: vec![(secret.clone(), None)],
            created: self.now(),
        };
        let mut shown = endpoint.shown();
        shown["secret"] = json!(secret);
        // The newest comes first in every list.
        self.endpoints.insert(0, endpoint);
        shown
    }

    fn admit(&self, headers: &HeaderMap, full: bool) -> Result<Key, Box<Response>> {
        let text = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let value = match text.strip_prefix("Basic ") {
            Some(encoded) => {
                let plain = String::from_utf8(BASE64_STANDARD.decode(encoded).unwrap()).unwrap();
                plain.trim_end_matches(':').to_owned()
            }
            None => text.trim_start_matches("Bearer ").to_owned(),
        };
        if value.is_empty() {
            return Err(error(401, None, "You did not provide an API key.").into());
        }
        let shown =
            format!("{}****{}", &value[..value.len().min(8)], &value[value.len().saturating_sub(4)..]);
        let Some(key) = self.keys.iter().find(|key| key.value == value) else {
            return Err(error(401, None, &format!("Invalid API Key provided: {shown}")).into());
        };
        if key.expires.is_some_and(|at| at <= self.now()) {
            return Err(
                error(401, Some("api_key_expired"), &format!("Expired API Key provided: {shown}")).into()
            );
        }
        if full && key.restricted {
            let message = format!(
                "The provided key '{shown}' does not have the required permissions for this endpoint"
            );
            return Err(error(403, None, &message).into());
        }
        Ok(key.clone())
    }
}

fn error(status: u16, code: Option<&str>, message: &str) -> Response {
    let mut error = json!({ "type": "invalid_request_error", "message": message });
    if let Some(code) = code {
        error["code"] = json!(code);
    }
    (StatusCode::from_u16(status).unwrap(), Json(json!({ "error": error }))).into_response()
}

fn no_such_endpoint() -> Response {
    error(404, Some("resource_missing"), "No such webhook endpoint")
}

fn fields(text: &[u8]) -> Form {
    form_urlencoded::parse(text).into_owned().collect()
}

/// One page of a list, in the vendor's frame.
fn page(url: &str, all: Vec<Value>, query: &Form) -> Response {
    let asked = |name: &str| query.iter().find(|field| field.0 == name).map(|field| field.1.as_str());
    let limit = asked("limit").map_or(10, |limit| limit.parse().unwrap());
    let first = asked("starting_after")
        .map_or(0, |after| 1 + all.iter().position(|item| item["id"] == after).unwrap());
    let data: Vec<_> = all.iter().skip(first).take(limit).collect();
    let has_more = first + data.len() < all.len();
    Json(json!({ "object": "list", "url": url, "has_more": has_more, "data": data })).into_response()
}

async fn balance(State(books): State<Shared>, headers: HeaderMap) -> Response {
    let key = match books.lock().unwrap().admit(&headers, true) {
        Ok(key) => key,
        Err(refusal) => return *refusal,
    };
    let amount = json!([{ "amount": 0, "currency": "usd", "source_types": { "card": 0 } }]);
    let balance =
        json!({ "object": "balance", "available": amount, "pending": amount, "livemode": key.is_live() });
    Json(balance).into_response()
}

async fn account(State(books): State<Shared>, headers: HeaderMap) -> Response {
    match books.lock().unwrap().admit(&headers, true) {
        Ok(key) => Json(json!({ "id": key.account, "object": "account" })).into_response(),
        Err(refusal) => *refusal,
    }
}

async fn events(State(books): State<Shared>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    let books = books.lock().unwrap();
    let key = match books.admit(&headers, false) {
        Ok(key) => key,
        Err(refusal) => return *refusal,
    };
    let query = fields(query.unwrap_or_default().as_bytes());
    let asked = |name: &str| query.iter().find(|field| field.0 == name).map(|field| field.1.as_str());
    let since: i64 = asked("created[gte]").map_or(0, |since| since.parse().unwrap());
    let delivered = asked("delivery_success").map(|text| text == "true");
    let listed = books
        .events
        .iter()
        .rev()
        .filter(|event| event.account == key.account && event.created >= since)
        .filter(|event| delivered.is_none_or(|wanted| event.delivered == wanted))
        .map(|event| json!({ "id": event.id, "object": "event", "created": event.created }))
        .collect();
    page("/v1/events", listed, &query)
}

async fn checkout(State(books): State<Shared>, headers: HeaderMap) -> Response {
    match books.lock().unwrap().admit(&headers, false) {
        Ok(key) => {
            let id = fresh::value(if key.is_live() { "cs_live_" } else { "cs_test_" });
            let url = format!("https://checkout.stripe.com/c/pay/{id}");
            Json(json!({ "id": id, "object": "checkout.session", "url": url })).into_response()
        }
        Err(refusal) => *refusal,
    }
}

async fn list_endpoints(
    State(books): State<Shared>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let books = books.lock().unwrap();
    let key = match books.admit(&headers, false) {
        Ok(key) => key,
        Err(refusal) => return *refusal,
    };
    let own = books.endpoints.iter().filter(|endpoint| endpoint.belongs_to(&key)).map(Endpoint::shown);
    page("/v1/webhook_endpoints", own.collect(), &fields(query.unwrap_or_default().as_bytes()))
}

impl Endpoint {
    fn belongs_to(&self, key: &Key) -> bool {
        self.account == key.account && self.livemode == key.is_live()
    }
}

async fn read_endpoint(State(books): State<Shared>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    let books = books.lock().unwrap();
    let key = match books.admit(&headers, false) {
        Ok(key) => key,
        Err(refusal) => return *refusal,
    };
    let found = books.endpoints.iter().find(|endpoint| endpoint.id == id && endpoint.belongs_to(&key));
    found.map_or_else(no_such_endpoint, |endpoint| Json(endpoint.shown()).into_response())
}

async fn delete_endpoint(
    State(books): State<Shared>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    let mut books = books.lock().unwrap();
    let key = match books.admit(&headers, false) {
        Ok(key) => key,
        Err(refusal) => return *refusal,
    };
    let found = books.endpoints.iter().position(|endpoint| endpoint.id == id && endpoint.belongs_to(&key));
    let Some(found) = found else { return no_such_endpoint() };
    books.endpoints.remove(found);
    Json(json!({ "id": id, "object": "webhook_endpoint", "deleted": true })).into_response()
}

async fn create_endpoint(State(books): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let mut books = books.lock().unwrap();
    let key = match books.admit(&headers, false) {
        Ok(key) => key,
        Err(refusal) => return *refusal,
    };
    let form = fields(&body);
    let idempotency_key =
        headers.get("idempotency-key").map(|value| (key.account.clone(), value.to_str().unwrap().to_owned()));
    if let Some((before, answer)) = idempotency_key.as_ref().and_then(|key| books.created.get(key)) {
        return if *before == form {
            ([("idempotent-replayed", "true")], Json(answer)).into_response()
        } else {
            let error = json!({
                "type": "idempotency_error",
                "message": "Keys for idempotent requests can only be used with the same parameters",
            });
            (StatusCode::BAD_REQUEST, Json(json!({ "error": error }))).into_response()
        };
    }
    for required in ["url", "enabled_events[]"] {
        if !form.iter().any(|field| field.0 == required) {
            let message = format!("Missing required param: {required}.");
            return error(400, Some("parameter_missing"), &message);
        }
    }
    let taken = ["url", "enabled_events[]", "api_version", "connect", "description"];
    if !form.iter().all(|(name, _)| taken.contains(&name.as_str()) || name.starts_with("metadata[")) {
        return error(400, Some("parameter_unknown"), "Received unknown parameter");
    }
    if books.endpoints.iter().filter(|endpoint| endpoint.belongs_to(&key)).count() >= 16 {
        return error(400, None, "You have reached the maximum of 16 webhook endpoints");
    }
    let answer = books.add(&key.account, key.is_live(), form.clone());
    if let Some(key) = idempotency_key {
        books.created.insert(key, (form, answer.clone()));
    }
    Json(answer).into_response()
}
