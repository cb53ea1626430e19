//! Neon: API keys, and projects that change one operation at a time.
//!
//! Its endpoints are names that nobody can log in at, unless it has [computes](Neon::with_computes), or a real
//! PostgreSQL is [behind](Neon::behind) a branch: then the branch's roles are roles of that cluster, a reset password
//! begins to work there when its operation finishes, and drops the role's sessions, as Neon does.

mod branches;
mod compute;
mod keys;
mod projects;
mod tenants;

use std::{
    collections::{BTreeMap, HashMap},
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::{Request, State as Extract},
    http::{Method, StatusCode, header::AUTHORIZATION},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use self::compute::Computes;
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
    /// Requests a second, and at once.
    pub(crate) rate: Option<(f64, f64)>,
    /// The next lists of branches lack the newest one.
    pub(crate) stale_branches: usize,
    /// The next lists of branches are empty.
    pub(crate) empty_branches: usize,
    /// The most branches on a page, whatever is asked for.
    pub(crate) page: usize,
}

/// A running Neon.
pub(crate) struct Neon {
    pub(crate) vendor: Vendor,
    state: Shared,
    token: String,
    _computes: Option<Computes>,
}

/// A tenant's branch, and the URL that it has from the beginning.
pub(crate) struct Tenant {
    pub(crate) project: String,
    pub(crate) branch: String,
    pub(crate) role: String,
    pub(crate) database: String,
    pub(crate) url: String,
}

type Shared = Arc<Mutex<State>>;

struct State {
    knobs: Knobs,
    keys: Vec<Key>,
    projects: BTreeMap<String, Project>,
    /// The port of all computes.
    port: Option<u16>,
    /// Project and branch of the endpoint at an address.
    addresses: HashMap<Ipv4Addr, (String, String)>,
    /// How many requests may come at once, and since when.
    allowance: (f64, Instant),
}

struct Key {
    id: u64,
    value: String,
    name: String,
    created: String,
    last_used: Option<String>,
    organization: Option<String>,
    /// Whether it may only read.
    reads: bool,
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
    protected: bool,
    /// Whether its deletion was asked for: the API knows it no more, its computes go on to the end of the operations.
    leaving: bool,
    annotations: BTreeMap<String, String>,
    endpoints: Vec<Endpoint>,
    roles: Vec<Role>,
    /// Names and owners.
    databases: Vec<(String, String)>,
    /// What was written to it, and to its ancestors before it was forked.
    data: Vec<String>,
    /// How many sessions of others its computes have.
    sessions: u64,
    behind: Option<Behind>,
}

/// A real database in a branch's place.
struct Behind {
    cluster: &'static TempPostgres,
    database: String,
}

struct Endpoint {
    id: String,
    /// As the API shows it.
    host: String,
    /// Whether its compute has started.
    up: bool,
    /// As of a branch.
    leaving: bool,
}

#[derive(Clone)]
struct Role {
    name: String,
    /// As the API shows it.
    password: String,
    /// As the compute takes it.
    works: String,
    logs_in: bool,
    /// Made by SQL: the API does not know it.
    by_sql: bool,
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
        Self::launch(None)
    }

    /// One whose endpoints are servers that speak PostgreSQL's protocol.
    pub(crate) fn with_computes() -> Self {
        Self::launch(Some(Computes::bind()))
    }

    /// One whose home project is `database` of a cluster, where `role` logs in with `password`.
    pub(crate) fn over(cluster: &'static TempPostgres, database: &str, role: &str, password: &str) -> Self {
        let neon = Self::start();
        neon.behind(BRANCH, cluster, database, role, password);
        neon
    }

    fn launch(computes: Option<(std::net::TcpListener, u16)>) -> Self {
        let knobs = Knobs {
            stale_lists: 0,
            late_revocation: 0,
            operation_time: Duration::ZERO,
            failing_operations: 0,
            stores_passwords: true,
            rate: None,
            stale_branches: 0,
            empty_branches: 0,
            page: usize::MAX,
        };
        let mut state = State {
            knobs,
            keys: Vec::new(),
            projects: BTreeMap::new(),
            port: computes.as_ref().map(|(_, port)| *port),
            addresses: HashMap::new(),
            allowance: (0.0, Instant::now()),
        };
        let token = state.mint("bootstrap", None).value.clone();
        state.found(PROJECT, BRANCH, ENDPOINT);
        let state = Arc::new(Mutex::new(state));
        let router = Router::new().merge(keys::routes()).merge(projects::routes()).merge(branches::routes());
        let router = router.layer(from_fn_with_state(state.clone(), admit)).with_state(state.clone());
        let computes = computes.map(|(listener, _)| Computes::serve(listener, state.clone()));
        Self { vendor: Vendor::serve(router), state, token, _computes: computes }
    }

    /// The key that there is from the beginning.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// Another one, which may only read.
    pub(crate) fn reading_token(&self) -> String {
        let mut state = locked(&self.state);
        let value = state.mint("reads", None).value.clone();
        let key = state.keys.last_mut().expect("just minted");
        key.reads = true;
        value
    }

    /// Refuses what is over the documented limits, or so many times them: 700 requests a minute, and 40 at once. What
    /// left a client within them may come in a heap, a quarter of a second late.
    pub(crate) fn limit_rate(&self, times: f64) {
        let rate = times * 700.0 / 60.0;
        let burst = times * 40.0 + rate / 4.0;
        self.set(|knobs| knobs.rate = Some((rate, burst)));
        locked(&self.state).allowance = (burst, Instant::now());
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

    /// The names of a project's branches.
    pub(crate) fn branches(&self, project: &str) -> Vec<String> {
        locked(&self.state).projects[project].branches.iter().map(|branch| branch.name.clone()).collect()
    }
}

impl State {
    fn mint(&mut self, name: &str, organization: Option<String>) -> &Key {
        let (id, value) = (160_000 + fresh::number(), fresh::value("napi_"));
        let (created, name) = (now(), name.to_owned());
        let key =
            Key { id, value, name, created, last_used: None, organization, reads: false, revoked: None };
        self.keys.push(key);
        self.keys.last().expect("just pushed")
    }

    /// Whether this request is let in; an error to answer otherwise.
    fn admit(&mut self, token: Option<&str>, method: &Method) -> Result<(), Refusal> {
        if let Some((rate, burst)) = self.knobs.rate {
            let (left, since) = self.allowance;
            let left = (left + since.elapsed().as_secs_f64() * rate).min(burst);
            self.allowance = ((left - 1.0).max(0.0), Instant::now());
            if left < 1.0 {
                return Err(error(429, "too many requests"));
            }
        }
        let known = self.keys.iter_mut().find(|key| Some(&*key.value) == token);
        let Some(key) = known.filter(|key| key.revoked != Some(0)) else {
            return Err(error(401, "supplied credentials do not pass authentication"));
        };
        key.revoked = key.revoked.map(|left| left - 1);
        key.last_used = Some(now());
        if key.reads && method != Method::GET {
            return Err(error(403, "this key may not change anything"));
        }
        Ok(())
    }
}

async fn admit(Extract(state): Extract<Shared>, request: Request, next: Next) -> Response {
    let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = header.and_then(|value| value.strip_prefix("Bearer ")).map(str::to_owned);
    let admitted = locked(&state).admit(token.as_deref(), request.method());
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
