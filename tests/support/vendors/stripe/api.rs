//! What the stand-in answers.

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, RawQuery, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};
use url::form_urlencoded;

use super::{super::fresh, Endpoint, Form, Shared, error};

pub(super) fn router(state: Shared) -> Router {
    Router::new()
        .route("/v1/balance", get(balance))
        .route("/v1/account", get(account))
        .route("/v1/events", get(events))
        .route("/v1/checkout/sessions", post(checkout))
        .route("/v1/webhook_endpoints", get(list_endpoints).post(create_endpoint))
        .route("/v1/webhook_endpoints/{id}", get(read_endpoint).delete(delete_endpoint))
        .with_state(state)
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
