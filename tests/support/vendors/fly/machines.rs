//! The Machines API.

use std::time::Instant;

use axum::{
    Json,
    extract::{Path, Request, State},
    http::{HeaderMap, Method, StatusCode, header::AUTHORIZATION},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use ulid::Ulid;

use super::{
    Caller, ORG, Shared,
    app::{App, Held, Machine},
    now, random, shared,
};

/// Lets those through to the Machines API who may, and not too often.
pub(super) async fn gate(State(state): State<Shared>, request: Request, next: Next) -> Response {
    let refusal = {
        let mut fleet = shared(&state);
        if fleet.limits.as_mut().is_some_and(|limits| limits.is_too_fast(&request)) {
            Some(refused(429, "rate limit exceeded"))
        } else {
            match fleet.caller(request.headers()) {
                None => Some(refused(401, "Authenticate: token validation error")),
                Some(Caller::Reader) if request.method() != Method::GET => Some(refused(403, "unauthorized")),
                Some(_) => None,
            }
        }
    };
    match refusal {
        Some(refusal) => refusal,
        None => next.run(request).await,
    }
}

pub(super) fn refused(status: u16, error: &str) -> Response {
    let status = StatusCode::from_u16(status).expect("a status");
    (status, Json(json!({ "error": error, "status": "unknown" }))).into_response()
}

pub(super) fn leased(id: &str) -> Response {
    let message = format!("machine ID {id} lease currently held by somebody, expires at a time");
    let body = json!({ "status": "error", "message": message, "code": "invalid" });
    (StatusCode::CONFLICT, Json(body)).into_response()
}

/// The answer of `act` for the app's machine, when both are there.
pub(super) fn at(
    state: &Shared,
    (app, id): &(String, String),
    act: impl FnOnce(&mut App, usize) -> Response,
) -> Response {
    let mut fleet = shared(state);
    let Some(app) = fleet.apps.get_mut(app) else { return refused(404, "app not found") };
    match app.machines.iter().position(|machine| machine.id == *id) {
        Some(place) => act(app, place),
        None => refused(404, "machine not found"),
    }
}

pub(super) async fn current(State(state): State<Shared>, headers: HeaderMap) -> Response {
    let fleet = shared(&state);
    // A use that the gate has counted is not counted twice.
    let header = headers.get(AUTHORIZATION).and_then(|header| header.to_str().ok()).unwrap_or_default();
    let id = fleet.tokens.iter().find(|token| token.value == header).map(|token| token.id.clone());
    let token = match id {
        Some(id) => json!({ "token_id": id, "organization": "1", "org_slug": ORG, "apps": [] }),
        None => json!({ "token_id": "user", "organization": "1", "org_slug": ORG, "user": "1" }),
    };
    Json(json!({ "tokens": [token] })).into_response()
}

pub(super) async fn list_secrets(State(state): State<Shared>, Path(app): Path<String>) -> Response {
    match shared(&state).apps.get(&app) {
        Some(app) => Json(json!({ "secrets": app.listed() })).into_response(),
        None => refused(404, "app not found"),
    }
}

pub(super) async fn set_secrets(
    State(state): State<Shared>,
    Path(app): Path<String>,
    Json(body): Json<Value>,
) -> Response {
    match shared(&state).apps.get_mut(&app) {
        Some(app) => {
            app.set(&body["values"]);
            Json(json!({ "secrets": app.listed(), "version": app.version() })).into_response()
        }
        None => refused(404, "app not found"),
    }
}

pub(super) async fn unset_secret(
    State(state): State<Shared>,
    Path((app, name)): Path<(String, String)>,
) -> Response {
    match shared(&state).apps.get_mut(&app) {
        Some(app) => {
            if app.vault().contains_key(&name) {
                app.set(&json!({ name: null }));
            }
            Json(json!({ "version": app.version() })).into_response()
        }
        None => refused(404, "app not found"),
    }
}

pub(super) async fn list_machines(State(state): State<Shared>, Path(app): Path<String>) -> Response {
    let mut fleet = shared(&state);
    if !fleet.apps.contains_key(&app) {
        return refused(404, "app not found");
    }
    if let Some(stale) = fleet.stale_machines.take() {
        return Json(stale).into_response();
    }
    fleet.examine(&app);
    Json(fleet.app(&app).machines.iter().map(Machine::shown).collect::<Value>()).into_response()
}

pub(super) async fn update_machine(
    State(state): State<Shared>,
    Path(path): Path<(String, String)>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Response {
    let paces = shared(&state).ways.paces;
    at(&state, &path, |app, place| {
        let least = body["min_secrets_version"].as_u64().and_then(|least| usize::try_from(least).ok());
        if least.is_some_and(|least| least > app.version()) {
            return refused(422, "no such secrets version");
        }
        let environment = app.environment(usize::from(least != Some(app.version())));
        let machine = &mut app.machines[place];
        if machine.is_barred_to(&headers) {
            return leased(&machine.id);
        }
        if body["current_version"].as_str().is_some_and(|version| version != machine.version) {
            return refused(409, "machine version mismatch");
        }
        if !body["config"]["image"].is_string() {
            return refused(422, "config.image is required");
        }
        machine.config = body["config"].clone();
        machine.version = Ulid::generate().to_string();
        machine.updated = now();
        if !machine.is_up() && paces.settle > 0 {
            (machine.state, machine.looks_left) = ("replacing", paces.settle);
        } else if body["skip_launch"] != true {
            machine.launch(environment, paces.boot);
            machine.restarts += 1;
        }
        Json(machine.shown()).into_response()
    })
}

pub(super) async fn see_lease(State(state): State<Shared>, Path(path): Path<(String, String)>) -> Response {
    at(&state, &path, |app, place| match app.machines[place].held() {
        Some(held) => {
            Json(json!({ "status": "success", "data": lease_data(held, &app.machines[place], false) }))
                .into_response()
        }
        None => refused(404, "no lease"),
    })
}

pub(super) async fn lease(
    State(state): State<Shared>,
    Path(path): Path<(String, String)>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Response {
    let second = shared(&state).second;
    at(&state, &path, |app, place| {
        let machine = &mut app.machines[place];
        if machine.is_barred_to(&headers) {
            return leased(&machine.id);
        }
        let nonce = machine.held().map_or_else(random, |held| held.nonce.clone());
        let seconds = body["ttl"].as_u64().and_then(|ttl| u32::try_from(ttl).ok()).unwrap_or(30);
        let until = Instant::now() + second * seconds;
        let held = Held { nonce, owner: "reseal@example.com".to_owned(), until, seconds };
        let data = lease_data(&held, machine, true);
        machine.lease = Some(held);
        (StatusCode::CREATED, Json(json!({ "status": "success", "data": data }))).into_response()
    })
}

fn lease_data(held: &Held, machine: &Machine, own: bool) -> Value {
    let ends = OffsetDateTime::now_utc().unix_timestamp() + i64::from(held.seconds);
    let nonce = if own { held.nonce.as_str() } else { "" };
    json!({
        "nonce": nonce, "expires_at": ends, "owner": held.owner, "description": "a lease",
        "version": machine.version,
    })
}

pub(super) async fn release(
    State(state): State<Shared>,
    Path(path): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    at(&state, &path, |app, place| {
        let machine = &mut app.machines[place];
        if machine.is_barred_to(&headers) {
            return leased(&machine.id);
        }
        match machine.lease.take() {
            Some(_) => Json(json!({ "status": "success" })).into_response(),
            None => refused(404, "no lease"),
        }
    })
}

pub(super) async fn exec(
    State(state): State<Shared>,
    Path(path): Path<(String, String)>,
    Json(body): Json<Value>,
) -> Response {
    let no_shell = shared(&state).no_shell;
    at(&state, &path, |app, place| {
        let machine = &app.machines[place];
        if machine.state != "started" {
            return refused(400, "machine not started");
        }
        if no_shell {
            return Json(json!({ "exit_code": 127, "stdout": "", "stderr": "sh: not found" }))
                .into_response();
        }
        let script = body["command"][2].as_str().unwrap_or_default();
        let name = script.strip_prefix("printf %s \"$").unwrap_or_default();
        let of = |name: &str| machine.environment.get(name).cloned().unwrap_or_default();
        let stdout = match name.strip_suffix("\" | sha256sum") {
            Some(name) => format!("{}  -\n", hex::encode(Sha256::digest(of(name)))),
            None => of(name.trim_end_matches('"')),
        };
        Json(json!({ "exit_code": 0, "stdout": stdout, "stderr": "" })).into_response()
    })
}
