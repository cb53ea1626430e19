//! Neon: API keys, and projects that change one operation at a time.
//!
//! With a real PostgreSQL behind it, the home project's roles are roles of that cluster: a reset password begins to
//! work there when its operation finishes, and drops the role's sessions, as Neon does.

mod keys;
mod projects;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::{Request, State as Extract},
    http::{StatusCode, header::AUTHORIZATION},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Vendor, fresh};
use crate::support::postgres::TempPostgres;

/// The project that every stand-in has, its branch, endpoint, role and database.
pub(crate) const PROJECT: &str = "cool-sea-89357706";
pub(crate) const BRANCH: &str = "br-main-a1b2c3d4";
pub(crate) const ENDPOINT: &str = "ep-still-moon-a1b2c3d4";
pub(crate) const ROLE: &str = "neondb_owner";
pub(crate) const DATABASE: &str = "neondb";

/// What can be turned.
#[derive(Debug, Clone)]
pub(crate) struct Knobs {
    /// The next lists of keys lack the newest one.
    pub(crate) stale_lists: usize,
    /// So many requests are let in after a key was revoked.
    pub(crate) late_revocation: usize,
    /// How long an operation runs.
    pub(crate) operation_time: Duration,
    /// The next operations fail, and change nothing.
    pub(crate) failing_operations: usize,
    /// Whether passwords can be read again.
    pub(crate) stores_passwords: bool,
    /// Requests a second.
    pub(crate) rate: Option<usize>,
}

/// A running Neon.
pub(crate) struct Neon {
    pub(crate) vendor: Vendor,
    state: Shared,
    token: String,
}

type Shared = Arc<Mutex<State>>;

struct State {
    knobs: Knobs,
    keys: Vec<Key>,
    projects: BTreeMap<String, Project>,
    behind: Option<(&'static TempPostgres, String)>,
    second: (Instant, usize),
}

struct Key {
    id: u64,
    value: String,
    name: String,
    created: String,
    last_used: Option<String>,
    organization: Option<String>,
    /// How many requests are still let in, once it is revoked.
    revoked: Option<usize>,
}

#[derive(Default)]
struct Project {
    branches: Vec<Branch>,
    operations: Vec<Operation>,
}

struct Branch {
    id: String,
    name: String,
    parent: Option<String>,
    endpoints: Vec<String>,
    roles: Vec<Role>,
}

#[derive(Clone)]
struct Role {
    name: String,
    /// As the API shows it.
    password: String,
    /// As the compute takes it.
    works: String,
}

struct Operation {
    id: String,
    branch: String,
    action: &'static str,
    status: &'static str,
}

impl Neon {
    /// One with a project and a key to begin with.
    pub(crate) fn start() -> Self {
        Self::launch(None, ROLE, None)
    }

    /// One whose home project is `database` of a cluster, where `role` logs in with `password`.
    pub(crate) fn over(cluster: &'static TempPostgres, database: &str, role: &str, password: &str) -> Self {
        Self::launch(Some((cluster, database.to_owned())), role, Some(password))
    }

    fn launch(behind: Option<(&'static TempPostgres, String)>, role: &str, password: Option<&str>) -> Self {
        let knobs = Knobs {
            stale_lists: 0,
            late_revocation: 0,
            operation_time: Duration::ZERO,
            failing_operations: 0,
            stores_passwords: true,
            rate: None,
        };
        let mut state =
            State { knobs, keys: Vec::new(), projects: BTreeMap::new(), behind, second: (Instant::now(), 0) };
        let token = state.mint("bootstrap", None).value.clone();
        let password = password.map_or_else(|| fresh::value("npg_"), str::to_owned);
        let main = Branch {
            id: BRANCH.to_owned(),
            name: "main".to_owned(),
            parent: None,
            endpoints: vec![ENDPOINT.to_owned()],
            roles: vec![Role { name: role.to_owned(), works: password.clone(), password }],
        };
        let home = Project { branches: vec![main], operations: Vec::new() };
        state.projects.insert(PROJECT.to_owned(), home);
        let state = Arc::new(Mutex::new(state));
        let router = Router::new().merge(keys::routes()).merge(projects::routes());
        let router = router.layer(from_fn_with_state(state.clone(), admit)).with_state(state.clone());
        Self { vendor: Vendor::serve(router), state, token }
    }

    /// The key that there is from the beginning.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// Turns knobs.
    pub(crate) fn set(&self, turn: impl FnOnce(&mut Knobs)) {
        turn(&mut locked(&self.state).knobs);
    }

    /// Ids and names of the keys that are not revoked.
    pub(crate) fn live(&self) -> Vec<(String, String)> {
        let state = locked(&self.state);
        let live = state.keys.iter().filter(|key| key.revoked.is_none());
        live.map(|key| (key.id.to_string(), key.name.clone())).collect()
    }

    /// Whether this key, or this password of a role of the home branch, is accepted.
    pub(crate) fn is_live(&self, value: &str) -> bool {
        let state = locked(&self.state);
        let is_key =
            state.keys.iter().any(|key| key.value == value && key.revoked.is_none_or(|left| left > 0));
        let roles = &state.projects[PROJECT].branches[0].roles;
        is_key || roles.iter().any(|role| role.works == value)
    }

    /// The password that works for a role of the home branch.
    pub(crate) fn password(&self, role: &str) -> String {
        let state = locked(&self.state);
        let role = state.projects[PROJECT].branches[0].roles.iter().find(|one| one.name == role);
        role.expect("a role of the home branch").works.clone()
    }

    /// The names of the home project's branches.
    pub(crate) fn branches(&self) -> Vec<String> {
        locked(&self.state).projects[PROJECT].branches.iter().map(|branch| branch.name.clone()).collect()
    }
}

impl State {
    fn mint(&mut self, name: &str, organization: Option<String>) -> &Key {
        let (id, value) = (160_000 + fresh::number(), fresh::value("napi_"));
        let (created, name) = (now(), name.to_owned());
        self.keys.push(Key { id, value, name, created, last_used: None, organization, revoked: None });
        self.keys.last().expect("just pushed")
    }

    /// Whether this request is let in; an error to answer otherwise.
    fn admit(&mut self, token: Option<&str>) -> Result<(), Refusal> {
        if self.second.0.elapsed() >= Duration::from_secs(1) {
            self.second = (Instant::now(), 0);
        }
        self.second.1 += 1;
        if self.knobs.rate.is_some_and(|rate| self.second.1 > rate) {
            return Err(error(429, "too many requests"));
        }
        let known = self.keys.iter_mut().find(|key| Some(&*key.value) == token);
        let Some(key) = known.filter(|key| key.revoked != Some(0)) else {
            return Err(error(401, "supplied credentials do not pass authentication"));
        };
        key.revoked = key.revoked.map(|left| left - 1);
        key.last_used = Some(now());
        Ok(())
    }
}

async fn admit(Extract(state): Extract<Shared>, request: Request, next: Next) -> Response {
    let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = header.and_then(|value| value.strip_prefix("Bearer ")).map(str::to_owned);
    let admitted = locked(&state).admit(token.as_deref());
    match admitted {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

fn locked(state: &Shared) -> MutexGuard<'_, State> {
    state.lock().expect("a test that panicked ends anyway")
}

/// A refusal, as Neon words it.
#[derive(Debug)]
struct Refusal(u16, String);

fn error(status: u16, message: &str) -> Refusal {
    Refusal(status, message.to_owned())
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self(status, message) = self;
        let body =
            json!({ "request_id": "5b1a2f4e-0000-4000-8000-000000000000", "code": "", "message": message });
        let reply = (StatusCode::from_u16(status).expect("a status"), Json(body));
        if status == 429 { ([("retry-after", "1")], reply).into_response() } else { reply.into_response() }
    }
}

fn now() -> String {
    OffsetDateTime::now_utc().replace_nanosecond(0).unwrap().format(&Rfc3339).unwrap()
}
