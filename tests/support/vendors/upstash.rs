//! Upstash: databases with one password each.
//!
//! Over real servers, every database is a Redis of its own, and a reset takes effect there.

use std::sync::{Arc, Mutex, MutexGuard};

use axum::{
    Json, Router,
    extract::{Path, Request, State as Extract},
    http::{StatusCode, header::AUTHORIZATION},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{Vendor, fresh};
use crate::support::redis::TempRedis;

/// The account.
pub(crate) const EMAIL: &str = "operator@example.com";

/// What can be turned.
#[derive(Debug, Clone, Default)]
pub(crate) struct Knobs {
    /// The next lists lack the newest database.
    pub(crate) stale_lists: usize,
    /// Answers to changes have no password, as the specification's have none.
    pub(crate) is_terse: bool,
    /// No answer has a password ("credential protection").
    pub(crate) protects_credentials: bool,
}

/// What stands behind databases.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Behind {
    Nothing,
    Servers,
}

/// A running Upstash.
pub(crate) struct Upstash {
    pub(crate) vendor: Vendor,
    state: Shared,
    token: String,
}

type Shared = Arc<Mutex<State>>;

struct State {
    knobs: Knobs,
    token: String,
    databases: Vec<Database>,
    behind: Behind,
}

struct Database {
    id: String,
    name: String,
    password: String,
    wanted: Value,
    server: Option<TempRedis>,
}

impl Upstash {
    /// One with a database named `tenants`.
    pub(crate) fn start() -> Self {
        Self::launch(Behind::Nothing)
    }

    /// The same over real servers.
    pub(crate) fn over_servers() -> Self {
        Self::launch(Behind::Servers)
    }

    fn launch(behind: Behind) -> Self {
        let token = fresh::value("upstash-");
        let (knobs, databases) = (Knobs::default(), Vec::new());
        let mut state = State { knobs, token: token.clone(), databases, behind };
        state.create(&json!({
            "database_name": "tenants", "platform": "aws", "primary_region": "eu-central-1", "eviction": true,
            "plan": "payg", "budget": 20, "read_regions": ["eu-west-1"],
        }));
        let state = Arc::new(Mutex::new(state));
        let router = Router::new()
            .route("/redis/databases", get(list))
            .route("/redis/database", post(create))
            .route("/redis/database/{id}", get(read).delete(delete))
            .route("/redis/reset-password/{id}", post(reset))
            .layer(from_fn_with_state(state.clone(), admit))
            .with_state(state.clone());
        Self { vendor: Vendor::serve(router), state, token }
    }

    /// The management key.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// Turns knobs.
    pub(crate) fn set(&self, turn: impl FnOnce(&mut Knobs)) {
        turn(&mut locked(&self.state).knobs);
    }

    /// Ids and names of the databases.
    pub(crate) fn live(&self) -> Vec<(String, String)> {
        let state = locked(&self.state);
        state.databases.iter().map(|database| (database.id.clone(), database.name.clone())).collect()
    }

    /// Whether this is the password of a database.
    pub(crate) fn is_live(&self, value: &str) -> bool {
        locked(&self.state).databases.iter().any(|database| database.password == value)
    }

    /// The connection URL of a database.
    pub(crate) fn connection_url(&self, id: &str) -> String {
        let state = locked(&self.state);
        let database = state.databases.iter().find(|database| database.id == id).expect("a database");
        let password = &database.password;
        match &database.server {
            Some(server) => format!("redis://default:{password}@127.0.0.1:{}", server.port()),
            None => format!("rediss://default:{password}@{}.upstash.io:6379", database.endpoint()),
        }
    }

    /// What a database was asked to be.
    pub(crate) fn wanted(&self, id: &str) -> Value {
        let state = locked(&self.state);
        state.databases.iter().find(|database| database.id == id).expect("a database").wanted.clone()
    }
}

impl Database {
    fn endpoint(&self) -> String {
        format!("beloved-stallion-{}", &self.id[..5])
    }

    fn shown(&self, with_password: bool) -> Value {
        let (endpoint, port) = match &self.server {
            Some(server) => ("127.0.0.1".to_owned(), server.port()),
            None => (self.endpoint(), 6379),
        };
        let mut shown = json!({
            "database_id": self.id, "database_name": self.name, "region": "global", "port": port,
            "creation_time": 1_752_649_602, "state": "active", "endpoint": endpoint, "tls": self.server.is_none(),
            "type": self.wanted["plan"].as_str().unwrap_or("payg"), "budget": self.wanted["budget"].as_u64().unwrap_or(0),
            "primary_region": self.wanted["primary_region"], "eviction": self.wanted["eviction"] == true,
            "read_regions": self.wanted.get("read_regions").cloned().unwrap_or_else(|| json!([])),
        });
        if with_password {
            shown["password"] = json!(self.password);
        }
        shown
    }
}

impl State {
    fn create(&mut self, wanted: &Value) -> &Database {
        let password = fresh::value("AX");
        let server = (self.behind == Behind::Servers).then(|| TempRedis::start(&password));
        let name = wanted["database_name"].as_str().expect("checked").to_owned();
        let id = uuid::Uuid::new_v4().to_string();
        self.databases.push(Database { id, name, password, wanted: wanted.clone(), server });
        self.databases.last().expect("just pushed")
    }
}

async fn admit(Extract(state): Extract<Shared>, request: Request, next: Next) -> Response {
    let wanted = format!("Basic {}", STANDARD.encode(format!("{EMAIL}:{}", locked(&state).token)));
    if request.headers().get(AUTHORIZATION).is_some_and(|value| *value == *wanted) {
        next.run(request).await
    } else {
        (StatusCode::UNAUTHORIZED, "Unauthorized").into_response()
    }
}

async fn list(Extract(state): Extract<Shared>) -> Response {
    let mut state = locked(&state);
    let mut all: Vec<_> = state.databases.iter().map(|database| database.shown(false)).collect();
    if state.knobs.stale_lists > 0 {
        state.knobs.stale_lists -= 1;
        all.pop();
    }
    Json(all).into_response()
}

async fn read(Extract(state): Extract<Shared>, Path(id): Path<String>) -> Response {
    let state = locked(&state);
    match state.databases.iter().find(|database| database.id == id) {
        Some(database) => Json(database.shown(!state.knobs.protects_credentials)).into_response(),
        None => missing(),
    }
}

async fn create(Extract(state): Extract<Shared>, Json(wanted): Json<Value>) -> Response {
    let mut state = locked(&state);
    if ["database_name", "platform", "primary_region"].iter().any(|field| !wanted[field].is_string()) {
        return (StatusCode::BAD_REQUEST, Json(json!("missing field"))).into_response();
    }
    let shows = !state.knobs.is_terse && !state.knobs.protects_credentials;
    Json(state.create(&wanted).shown(shows)).into_response()
}

async fn delete(Extract(state): Extract<Shared>, Path(id): Path<String>) -> Response {
    let mut state = locked(&state);
    let Some(at) = state.databases.iter().position(|database| database.id == id) else { return missing() };
    state.databases.remove(at);
    Json("OK").into_response()
}

async fn reset(Extract(state): Extract<Shared>, Path(id): Path<String>) -> Response {
    let mut state = locked(&state);
    let shows = !state.knobs.is_terse && !state.knobs.protects_credentials;
    let fresh = fresh::value("AX");
    let Some(database) = state.databases.iter_mut().find(|database| database.id == id) else {
        return missing();
    };
    if let Some(server) = &database.server {
        server.change_password(&database.password, &fresh);
    }
    database.password = fresh;
    Json(database.shown(shows)).into_response()
}

fn missing() -> Response {
    (StatusCode::NOT_FOUND, Json(json!({ "error": "database not found" }))).into_response()
}

fn locked(state: &Shared) -> MutexGuard<'_, State> {
    state.lock().expect("a test that panicked ends anyway")
}
