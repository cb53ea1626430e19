//! A machine's life: created, looked at, started, stopped, cordoned, destroyed.

use std::collections::{BTreeMap, BTreeSet};

use axum::{
    Json,
    extract::{Path, Query, State},
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use ulid::Ulid;

use super::{
    Environment, Fleet, Fly, Shared,
    app::Machine,
    machines::{at, leased, refused},
    now, shared,
};

/// Whether a machine with this environment passes its checks.
type Judge = Box<dyn Fn(&Environment) -> bool + Send>;

/// How machines go about their lives here.
#[derive(Default)]
pub(super) struct Ways {
    pub(super) paces: Paces,
    /// Ids and names of those that never get out of a state that others pass through.
    stuck: BTreeSet<String>,
    judge: Option<Judge>,
    /// For each region how many more are refused for want of room, and with which status.
    full: BTreeMap<String, (usize, u16)>,
    /// Those destroyed that can still be looked at, if any.
    graves: Option<BTreeMap<String, Value>>,
}

/// How many looks things take.
#[derive(Clone, Copy, Default)]
pub(super) struct Paces {
    pub(super) boot: usize,
    stop: usize,
    /// Until one that was created or updated, and is not up, can be started.
    pub(super) settle: usize,
}

/// A machine, as seen from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) state: &'static str,
    pub(crate) cordoned: bool,
    pub(crate) region: String,
}

impl Fly {
    /// Adds a machine in this state, region and configuration to an app.
    pub(crate) fn add(&self, app: &str, id: &str, state: &'static str, region: &str, config: Value) {
        let mut fleet = self.fleet();
        let app = fleet.app(app);
        let mut machine = Machine { region: region.to_owned(), config, ..Machine::new(id, state) };
        if machine.is_up() {
            machine.start(app.environment(0));
        }
        app.machines.push(machine);
    }

    /// Every machine of an app that is not destroyed.
    pub(crate) fn machines(&self, app: &str) -> Vec<Shown> {
        let mut fleet = self.fleet();
        let shown = |machine: &Machine| Shown {
            id: machine.id.clone(),
            name: machine.name.clone(),
            state: machine.state,
            cordoned: machine.cordoned,
            region: machine.region.clone(),
        };
        fleet.app(app).machines.iter().map(shown).collect()
    }

    /// The ids of those that get requests: started, not cordoned, and passing their checks.
    pub(crate) fn routed(&self, app: &str) -> Vec<String> {
        let mut fleet = self.fleet();
        fleet.examine(app);
        let routed = fleet.app(app).machines.iter().filter(|machine| machine.passes() && !machine.cordoned);
        routed.map(|machine| machine.id.clone()).collect()
    }

    /// Has machines that are started pass their checks only with an environment that `judge` finds good, whenever they
    /// are looked at.
    pub(crate) fn judge(&self, judge: impl Fn(&Environment) -> bool + Send + 'static) {
        self.fleet().ways.judge = Some(Box::new(judge));
    }

    /// Has machines take so many looks to start.
    pub(crate) fn boot_slowly(&self, looks: usize) {
        self.fleet().ways.paces.boot = looks;
    }

    /// Has machines take so many looks to stop.
    pub(crate) fn stop_slowly(&self, looks: usize) {
        self.fleet().ways.paces.stop = looks;
    }

    /// Has machines that were created or updated, and are not up, refuse to start for so many looks, and be left stopped
    /// then, whatever they were told.
    pub(crate) fn settle_slowly(&self, looks: usize) {
        self.fleet().ways.paces.settle = looks;
    }

    /// Has the machine with this id or name stay in whichever state it should pass through, or no longer.
    pub(crate) fn stick(&self, machine: &str, sticks: bool) {
        let stuck = &mut self.fleet().ways.stuck;
        if sticks {
            stuck.insert(machine.to_owned());
        } else {
            stuck.remove(machine);
        }
    }

    /// Has no room in a region for the next `count` machines, and says so with this status.
    pub(crate) fn fill(&self, region: &str, count: usize, status: u16) {
        self.fleet().ways.full.insert(region.to_owned(), (count, status));
    }

    /// Shows machines after they were destroyed.
    pub(crate) fn keep_graves(&self) {
        self.fleet().ways.graves = Some(BTreeMap::new());
    }
}

impl Fleet {
    /// Looks into the environment of every machine of an app.
    pub(super) fn examine(&mut self, app: &str) {
        if let Some(app) = self.apps.get_mut(app) {
            app.machines.iter_mut().for_each(|machine| self.ways.examine(machine));
        }
    }
}

impl Ways {
    fn is_full(&mut self, region: &str) -> Option<Response> {
        let (left, status) = self.full.get_mut(region)?;
        *left = left.checked_sub(1)?;
        let body = json!({
            "error": "insufficient resources available to fulfill request", "status": "insufficient_capacity",
        });
        let mut response = Json(body).into_response();
        *response.status_mut() = (*status).try_into().expect("a status");
        Some(response)
    }

    /// Lets a machine go on to its next state, and looks into its environment.
    fn attend(&self, machine: &mut Machine) {
        if !self.stuck.contains(&machine.id) && !self.stuck.contains(&machine.name) {
            machine.go_on();
        }
        self.examine(machine);
    }

    fn examine(&self, machine: &mut Machine) {
        if let Some(judge) = self.judge.as_ref().filter(|_| machine.state == "started") {
            machine.sound = judge(&machine.environment);
        }
    }
}

/// A machine whose name is taken is refused, with the id of the one that has it.
pub(super) async fn create_machine(
    State(state): State<Shared>,
    Path(app): Path<String>,
    Json(wanted): Json<Value>,
) -> Response {
    let mut fleet = shared(&state);
    let Fleet { apps, ways, .. } = &mut *fleet;
    let Some(app) = apps.get_mut(&app) else { return refused(404, "app not found") };
    let name = wanted["name"].as_str().map_or_else(|| format!("name-of-{}", Ulid::generate()), str::to_owned);
    if let Some(taken) = app.machines.iter().find(|machine| machine.name == name) {
        let id = &taken.id;
        let what = format!(
            "already_exists: unique machine name violation, machine ID {id} already exists with name \"{name}\""
        );
        return refused(409, &what);
    }
    let least = wanted["min_secrets_version"].as_u64().and_then(|least| usize::try_from(least).ok());
    if least.is_some_and(|least| least > app.version()) {
        return refused(422, "no such secrets version");
    }
    if !wanted["config"]["image"].is_string() {
        return refused(422, "config.image is required");
    }
    let volume = &wanted["config"]["mounts"][0]["volume"];
    if app
        .machines
        .iter()
        .any(|machine| volume.is_string() && machine.config["mounts"][0]["volume"] == *volume)
    {
        return refused(412, "failed_precondition: volume already claimed by machine");
    }
    let region = wanted["region"].as_str().unwrap_or("fra").to_owned();
    if let Some(refusal) = ways.is_full(&region) {
        return refusal;
    }
    let id = Ulid::generate().to_string().to_ascii_lowercase().split_off(12);
    let made = Machine::new(&id, "created");
    let cordoned = wanted["skip_service_registration"] == true;
    let mut machine = Machine { name, region, cordoned, config: wanted["config"].clone(), ..made };
    if wanted["skip_launch"] == true {
        machine.looks_left = ways.paces.settle;
    } else {
        machine.launch(app.environment(0), ways.paces.boot);
    }
    let shown = Json(machine.shown()).into_response();
    app.machines.push(machine);
    shown
}

pub(super) async fn machine_now(
    State(state): State<Shared>,
    Path((app, id)): Path<(String, String)>,
) -> Response {
    let mut fleet = shared(&state);
    let Fleet { apps, ways, ci_deploys, .. } = &mut *fleet;
    let Some(app) = apps.get_mut(&app) else { return refused(404, "app not found") };
    let Some(place) = app.machines.iter().position(|machine| machine.id == id) else {
        return match ways.graves.as_ref().and_then(|graves| graves.get(&id)) {
            Some(shown) => Json(shown).into_response(),
            None => refused(404, "machine not found"),
        };
    };
    ways.attend(&mut app.machines[place]);
    let shown = Json(app.machines[place].shown()).into_response();
    if *ci_deploys > 0 {
        let newest = app.environment(0);
        let machine = &mut app.machines[place];
        machine.config["image"] = format!("registry.fly.io/molecule-cp:ci-{ci_deploys}").into();
        machine.config["metadata"] = json!({ "fly_process_group": "app" });
        machine.version = Ulid::generate().to_string();
        machine.start(newest);
        *ci_deploys -= 1;
    }
    shown
}

/// Does what the path ends with. What a machine is already is refused as what it can't be is.
pub(super) async fn obey(
    State(state): State<Shared>,
    Path((app, id, verb)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Response {
    let paces = shared(&state).ways.paces;
    at(&state, &(app, id), |app, place| {
        let vault = app.environment(0);
        let machine = &mut app.machines[place];
        if machine.is_barred_to(&headers) {
            return leased(&machine.id);
        }
        let settles = machine.state == "created" && machine.looks_left > 0;
        match (verb.as_str(), machine.state) {
            ("cordon", _) => machine.cordoned = true,
            ("uncordon", _) => machine.cordoned = false,
            ("start", "stopped" | "suspended" | "created") if !settles => machine.launch(vault, paces.boot),
            ("stop", "started" | "starting" | "failed") => {
                (machine.state, machine.looks_left, machine.updated) = ("stopping", paces.stop, now());
            }
            ("start" | "stop", state) => {
                let what =
                    format!("failed_precondition: unable to {verb} machine from current state: '{state}'");
                return refused(412, &what);
            }
            _ => return refused(404, "page not found"),
        }
        Json(json!({ "ok": true })).into_response()
    })
}

/// A machine that runs is only destroyed by force.
pub(super) async fn destroy_machine(
    State(state): State<Shared>,
    Path((app, id)): Path<(String, String)>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let mut fleet = shared(&state);
    let Fleet { apps, ways, .. } = &mut *fleet;
    let Some(app) = apps.get_mut(&app) else { return refused(404, "app not found") };
    let Some(place) = app.machines.iter().position(|machine| machine.id == id) else {
        return refused(404, "machine not found");
    };
    if app.machines[place].is_barred_to(&headers) {
        return leased(&id);
    }
    if app.machines[place].state == "started" && query.get("force").map(String::as_str) != Some("true") {
        return refused(412, "failed_precondition: unable to destroy machine, not currently stopped");
    }
    let machine = Machine { state: "destroyed", ..app.machines.remove(place) };
    if let Some(graves) = &mut ways.graves {
        graves.insert(id, machine.shown());
    }
    Json(json!({ "ok": true })).into_response()
}
