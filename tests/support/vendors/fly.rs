//! Fly.io: tokens over GraphQL, app vaults with versions, machines with leases, and an add-on.
//!
//! A machine's environment is what its app's vault held when it was last started. An updated one may get the vault as
//! it was a version ago, unless the update names a later one: hosts lag. Only a person's token may use GraphQL.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use axum::{
    Router,
    http::{HeaderMap, header::AUTHORIZATION},
    middleware::from_fn_with_state,
    routing::{delete, get, post},
};
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use self::{app::App, life::Ways, rate::Buckets};

use super::Vendor;

mod app;
mod graphql;
mod life;
mod machines;
mod rate;

/// The organisation that everything is in.
pub(crate) const ORG: &str = "molecule";

/// The profile of a token that may only look.
const READER: &str = "read_only";

type Shared = Arc<Mutex<Fleet>>;
/// What a machine has in its environment.
pub(crate) type Environment = BTreeMap<String, String>;

/// A running stand-in.
pub(crate) struct Fly {
    /// The server, for faults and what it saw.
    pub(crate) vendor: Vendor,
    state: Shared,
}

#[derive(Default)]
struct Fleet {
    user: String,
    tokens: Vec<Token>,
    apps: BTreeMap<String, App>,
    add_ons: BTreeMap<String, String>,
    late_uses: usize,
    page: Option<usize>,
    stale_tokens: Stale,
    stale_machines: Stale,
    ci_deploys: usize,
    ways: Ways,
    /// How long a second of a lease takes here.
    second: Duration,
    no_shell: bool,
    limits: Option<Buckets>,
}

/// A list as it was, and how often it is given yet.
#[derive(Default)]
struct Stale {
    left: usize,
    list: Value,
}

impl Stale {
    fn take(&mut self) -> Option<Value> {
        self.left = self.left.checked_sub(1)?;
        Some(self.list.clone())
    }
}

struct Token {
    id: String,
    name: String,
    value: String,
    profile: String,
    params: Value,
    created: String,
    revoked: Option<String>,
    /// How often it is accepted yet, once revoked.
    late_uses: usize,
    lifetime: String,
}

/// A machine that is to be there.
#[derive(Debug, Clone)]
pub(crate) struct Made {
    /// Its id.
    pub(crate) id: &'static str,
    /// `started` or `stopped`.
    pub(crate) state: &'static str,
}

fn now() -> String {
    OffsetDateTime::now_utc().format(&Rfc3339).expect("the present has a year of four digits")
}

fn random() -> String {
    Uuid::new_v4().simple().to_string()
}

fn shared(state: &Shared) -> MutexGuard<'_, Fleet> {
    state.lock().expect("a test that panicked ends anyway")
}

impl Fly {
    /// An organisation with one person in it, and nothing else.
    pub(crate) fn start() -> Self {
        let fleet =
            Fleet { user: format!("fo1_{}", random()), second: Duration::from_secs(1), ..Fleet::default() };
        let state = Arc::new(Mutex::new(fleet));
        let machine = "/apps/{app}/machines/{id}";
        let router = Router::new()
            .route("/tokens/current", get(machines::current))
            .route("/apps/{app}/secrets", get(machines::list_secrets).post(machines::set_secrets))
            .route("/apps/{app}/secrets/{name}", delete(machines::unset_secret))
            .route("/apps/{app}/machines", get(machines::list_machines).post(life::create_machine))
            .route(
                machine,
                get(life::machine_now).post(machines::update_machine).delete(life::destroy_machine),
            )
            .route(&format!("{machine}/{{verb}}"), post(life::obey))
            .route(
                &format!("{machine}/lease"),
                get(machines::see_lease).post(machines::lease).delete(machines::release),
            )
            .route(&format!("{machine}/exec"), post(machines::exec))
            .route_layer(from_fn_with_state(state.clone(), machines::gate))
            .route("/graphql", post(graphql::answer))
            .with_state(state.clone());
        Self { vendor: Vendor::serve(router), state }
    }

    /// Where the Machines API is.
    pub(crate) fn machines_url(&self) -> String {
        self.vendor.url().to_owned()
    }

    /// Where GraphQL is.
    pub(crate) fn graphql_url(&self) -> String {
        format!("{}/graphql", self.vendor.url())
    }

    /// The person's token.
    pub(crate) fn user_token(&self) -> String {
        self.fleet().user.clone()
    }

    /// A token that was there before; its id and value.
    pub(crate) fn token(&self, name: &str, profile: &str, params: Value) -> (String, String) {
        self.fleet().mint(name, profile, params, "175200h")
    }

    /// A token that may only look.
    pub(crate) fn read_only_token(&self) -> String {
        self.token("reader", READER, json!({})).1
    }

    /// Adds an app with these machines, which have health checks.
    pub(crate) fn app(&self, name: &str, machines: &[Made]) {
        let machines = machines.iter().map(|made| app::Machine::new(made.id, made.state)).collect();
        self.fleet().apps.insert(name.to_owned(), App { vaults: vec![BTreeMap::new()], machines });
    }

    /// Adds a Redis; its URL.
    pub(crate) fn add_on(&self, name: &str) -> String {
        let mut fleet = self.fleet();
        fleet.add_ons.insert(name.to_owned(), graphql::add_on_url(name));
        fleet.add_ons[name].clone()
    }

    /// The URL of a Redis, as it is now.
    pub(crate) fn add_on_url(&self, name: &str) -> String {
        self.fleet().add_ons[name].clone()
    }

    /// Sets a secret and restarts every machine that is up, as `fly secrets set` does.
    pub(crate) fn set(&self, app: &str, name: &str, value: &str) {
        let mut fleet = self.fleet();
        let app = fleet.app(app);
        app.set(&json!({ name: value }));
        let environment = app.environment(0);
        for machine in app.machines.iter_mut().filter(|machine| machine.state != "stopped") {
            machine.start(environment.clone());
            machine.updated = now();
        }
    }

    /// Sets a variable in a machine's own configuration, and restarts it.
    pub(crate) fn configure(&self, app: &str, id: &str, name: &str, value: &str) {
        let mut fleet = self.fleet();
        let app = fleet.app(app);
        let environment = app.environment(0);
        let machine = app.machine(id).expect("a machine");
        machine.config["env"][name] = value.into();
        machine.start(environment);
    }

    /// What the vault holds.
    pub(crate) fn secret(&self, app: &str, name: &str) -> Option<String> {
        Some(self.fleet().app(app).vault().get(name)?.value.clone())
    }

    /// What every machine that is up has in its environment: of the vault, and of its own configuration.
    pub(crate) fn environment(&self, app: &str) -> Vec<Environment> {
        let mut fleet = self.fleet();
        let machines = fleet.app(app).machines.iter();
        machines
            .filter(|machine| machine.state != "stopped")
            .map(|machine| machine.environment.clone())
            .collect()
    }

    /// Starts a machine that was asleep, as a request to it does.
    pub(crate) fn wake(&self, app: &str, id: &str) {
        let mut fleet = self.fleet();
        let app = fleet.app(app);
        let environment = app.environment(0);
        let machine = app.machine(id).expect("a machine");
        machine.start(environment);
        machine.state = "started";
    }

    /// Every id and name of a token that is not revoked, but the person's.
    pub(crate) fn live(&self) -> Vec<(String, String)> {
        let fleet = self.fleet();
        let live = fleet.tokens.iter().filter(|token| token.revoked.is_none());
        live.map(|token| (token.id.clone(), token.name.clone())).collect()
    }

    /// Whether a token is accepted, and not only because its end has not got round yet.
    pub(crate) fn is_live(&self, value: &str) -> bool {
        let fleet = self.fleet();
        value == fleet.user
            || fleet.tokens.iter().any(|token| token.value == value && token.revoked.is_none())
    }

    /// How long the token with this id lives, as it was asked for.
    pub(crate) fn lifetime(&self, id: &str) -> String {
        let fleet = self.fleet();
        fleet.tokens.iter().find(|token| token.id == id).expect("a token").lifetime.clone()
    }

    /// Every secret value it ever made.
    pub(crate) fn values(&self) -> Vec<String> {
        let fleet = self.fleet();
        let tokens = fleet.tokens.iter().map(|token| token.value.clone());
        tokens.chain([fleet.user.clone()]).chain(fleet.add_ons.values().cloned()).collect()
    }

    /// A machine's configuration.
    pub(crate) fn config(&self, app: &str, id: &str) -> Value {
        self.fleet().app(app).machine(id).expect("a machine").config.clone()
    }

    /// How often an update started a machine.
    pub(crate) fn restarts(&self, app: &str, id: &str) -> usize {
        self.fleet().app(app).machine(id).expect("a machine").restarts
    }

    /// Whether anybody holds a lease on a machine.
    pub(crate) fn is_leased(&self, app: &str, id: &str) -> bool {
        self.fleet().app(app).machine(id).expect("a machine").held().is_some()
    }

    /// Accepts a token so many times more after it is revoked.
    pub(crate) fn revoke_late(&self, uses: usize) {
        self.fleet().late_uses = uses;
    }

    /// Gives so many tokens a page at most, whatever is asked for.
    pub(crate) fn page(&self, tokens: usize) {
        self.fleet().page = Some(tokens);
    }

    /// Gives the next `count` lists of tokens as they are now.
    pub(crate) fn stale_token_lists(&self, count: usize) {
        let mut fleet = self.fleet();
        let list = fleet.tokens.iter().map(Token::node).collect();
        fleet.stale_tokens = Stale { left: count, list };
    }

    /// Gives the next `count` lists of machines with nothing in them.
    pub(crate) fn empty_machine_lists(&self, count: usize) {
        self.fleet().stale_machines = Stale { left: count, list: json!([]) };
    }

    /// Gives the next `count` lists of machines without this machine.
    pub(crate) fn forgetful_machine_lists(&self, app: &str, id: &str, count: usize) {
        let mut fleet = self.fleet();
        let machines = fleet.app(app).machines.iter().filter(|machine| machine.id != id);
        let list = machines.map(app::Machine::shown).collect();
        fleet.stale_machines = Stale { left: count, list };
    }

    /// Has somebody else hold a machine's lease.
    pub(crate) fn hold_lease(&self, app: &str, id: &str, owner: &str, time: Duration) {
        let held =
            app::Held { nonce: random(), owner: owner.to_owned(), until: Instant::now() + time, seconds: 0 };
        self.fleet().app(app).machine(id).expect("a machine").lease = Some(held);
    }

    /// Never has a machine pass its checks, or does again.
    pub(crate) fn sicken(&self, app: &str, id: &str, sick: bool) {
        self.fleet().app(app).machine(id).expect("a machine").sick = sick;
    }

    /// Has somebody deploy another image after each of the next `count` looks at a machine, without a lease.
    pub(crate) fn deploy_after_looks(&self, count: usize) {
        self.fleet().ci_deploys = count;
    }

    /// Has a second of a lease take a hundredth of one.
    pub(crate) fn hurry_leases(&self) {
        self.lease_seconds(Duration::from_millis(10));
    }

    /// Has a second of a lease take this long.
    pub(crate) fn lease_seconds(&self, second: Duration) {
        self.fleet().second = second;
    }

    /// Has images without a shell.
    pub(crate) fn without_shell(&self) {
        self.fleet().no_shell = true;
    }

    fn fleet(&self) -> MutexGuard<'_, Fleet> {
        shared(&self.state)
    }
}

impl Fleet {
    fn app(&mut self, name: &str) -> &mut App {
        self.apps.get_mut(name).expect("a test names apps that it made")
    }

    fn mint(&mut self, name: &str, profile: &str, params: Value, lifetime: &str) -> (String, String) {
        let token = Token {
            id: format!("lat_{}_{}", self.tokens.len(), random()),
            name: name.to_owned(),
            value: format!("FlyV1 fm2_{}", random()),
            profile: profile.to_owned(),
            params,
            created: now(),
            revoked: None,
            late_uses: 0,
            lifetime: lifetime.to_owned(),
        };
        let minted = (token.id.clone(), token.value.clone());
        self.tokens.push(token);
        minted
    }

    /// Whose credential a request has.
    fn caller(&mut self, headers: &HeaderMap) -> Option<Caller> {
        let header = headers.get(AUTHORIZATION)?.to_str().ok()?;
        if header.strip_prefix("Bearer ") == Some(&self.user) {
            return Some(Caller::Person);
        }
        let token = self.tokens.iter_mut().find(|token| token.value == header)?;
        if token.revoked.is_some() {
            token.late_uses = token.late_uses.checked_sub(1)?;
        }
        Some(if token.profile == READER { Caller::Reader } else { Caller::Token })
    }
}

enum Caller {
    Person,
    Token,
    Reader,
}

impl Token {
    fn node(&self) -> Value {
        json!({
            "id": self.id, "name": self.name, "createdAt": self.created, "revokedAt": self.revoked,
            "profile": self.profile, "profileParams": self.params,
        })
    }
}
