//! GitHub: the secrets of a repository's Actions, which it really opens, and runs of its workflows.
//!
//! A run goes on by one step with every look at runs. It takes the secrets when it starts, and succeeds when whoever
//! made the stand-in finds, as it ends, that what it took still works. Times are whole seconds.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    Json, Router,
    extract::{Path, Query, Request, State},
    http::{StatusCode, header::AUTHORIZATION},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use crypto_box::{SecretKey, aead::OsRng};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use super::Vendor;

/// The repository that is there.
pub(crate) const REPOSITORY: &str = "Molecule-AI/molecule-monorepo";

type Shared = Arc<Mutex<Repository>>;
type Secrets = BTreeMap<String, String>;

/// Whether what a run took works.
type Checker = Box<dyn Fn(&Secrets) -> bool + Send>;

/// A running stand-in.
pub(crate) struct GitHub {
    /// The server, for faults and what it saw.
    pub(crate) vendor: Vendor,
    state: Shared,
}

struct Repository {
    token: String,
    key: SecretKey,
    key_id: u32,
    /// Replace the key after its next reading.
    replace_key: bool,
    secrets: BTreeMap<String, Kept>,
    workflows: Vec<Workflow>,
    runs: Vec<Run>,
    check: Checker,
    /// Looks that a run is queued, and then in progress.
    queued: usize,
    duration: usize,
    knows_run_details: bool,
    /// The key and the box of the last value that was set.
    last_sealed: Option<([u8; 32], Vec<u8>)>,
}

struct Kept {
    value: String,
    created: OffsetDateTime,
    updated: OffsetDateTime,
}

struct Workflow {
    file: String,
    state: &'static str,
}

struct Run {
    id: u64,
    file: String,
    event: &'static str,
    created: OffsetDateTime,
    queued: usize,
    left: usize,
    /// What it took when it started.
    secrets: Option<Secrets>,
    conclusion: Option<&'static str>,
}

impl Run {
    fn status(&self) -> &'static str {
        match (&self.secrets, self.conclusion) {
            (_, Some(_)) => "completed",
            (Some(_), None) => "in_progress",
            (None, None) => "queued",
        }
    }
}

fn rfc3339(time: OffsetDateTime) -> String {
    let whole = OffsetDateTime::from_unix_timestamp(time.unix_timestamp()).expect("a time of our own");
    whole.format(&Rfc3339).expect("a year of four digits")
}

fn shared(state: &Shared) -> MutexGuard<'_, Repository> {
    state.lock().expect("a test that panicked ends anyway")
}

impl GitHub {
    /// A repository with these workflows, whose runs succeed when `check` finds the secrets they took to work.
    pub(crate) fn start(workflows: &[&str], check: impl Fn(&Secrets) -> bool + Send + 'static) -> Self {
        let workflows = workflows.iter().map(|file| Workflow { file: (*file).to_owned(), state: "active" });
        let state = Arc::new(Mutex::new(Repository {
            token: format!("github_pat_{}", Uuid::new_v4().simple()),
            key: SecretKey::generate(&mut OsRng),
            key_id: 1,
            replace_key: false,
            secrets: BTreeMap::new(),
            workflows: workflows.collect(),
            runs: Vec::new(),
            check: Box::new(check),
            queued: 1,
            duration: 1,
            knows_run_details: true,
            last_sealed: None,
        }));
        let actions = format!("/repos/{REPOSITORY}/actions");
        let router = Router::new()
            .route(&format!("{actions}/secrets/public-key"), get(public_key))
            .route(&format!("{actions}/secrets/{{name}}"), get(secret).put(put_secret).delete(delete_secret))
            .route(&format!("{actions}/workflows/{{file}}"), get(workflow))
            .route(&format!("{actions}/workflows/{{file}}/dispatches"), post(dispatch))
            .route(&format!("{actions}/workflows/{{file}}/runs"), get(runs))
            .route(&format!("{actions}/runs/{{id}}"), get(run))
            .fallback(async || refused(404, "Not Found"))
            .layer(from_fn_with_state(state.clone(), gate))
            .with_state(state.clone());
        Self { vendor: Vendor::serve(router), state }
    }

    /// The credential that may do all this.
    pub(crate) fn token(&self) -> String {
        self.repository().token.clone()
    }

    /// Takes the credential away.
    pub(crate) fn revoke(&self) {
        self.repository().token = String::new();
    }

    /// What a secret holds.
    pub(crate) fn secret(&self, name: &str) -> Option<String> {
        Some(self.repository().secrets.get(name)?.value.clone())
    }

    /// Sets a secret, as a person does.
    pub(crate) fn set(&self, name: &str, value: &str) {
        self.repository().set(name, value.to_owned());
    }

    /// What runs have succeeded and failed with, the oldest first: a run's id, its conclusion, and the secrets it took.
    pub(crate) fn ended(&self) -> Vec<(u64, &'static str, Secrets)> {
        let repository = self.repository();
        let ended = |run: &Run| Some((run.id, run.conclusion?, run.secrets.clone().unwrap_or_default()));
        repository.runs.iter().filter_map(ended).collect()
    }

    /// Every run so far.
    pub(crate) fn runs(&self) -> Vec<u64> {
        self.repository().runs.iter().map(|run| run.id).collect()
    }

    /// Starts runs by a push an hour ago, with the secrets as they are now.
    pub(crate) fn push(&self, file: &str, count: usize) -> Vec<u64> {
        let mut repository = self.repository();
        let secrets = repository.held();
        let hour = OffsetDateTime::now_utc() - Duration::HOUR;
        let mut started = Vec::new();
        for _ in 0..count {
            let id = repository.begin(file, "push", hour);
            repository.runs.last_mut().expect("just begun").secrets = Some(secrets.clone());
            started.push(id);
        }
        started
    }

    /// Has runs wait for so many looks, and then go on for so many.
    pub(crate) fn take(&self, queued: usize, duration: usize) {
        let mut repository = self.repository();
        (repository.queued, repository.duration) = (queued, duration);
    }

    /// Disables a workflow, as a person can.
    pub(crate) fn disable(&self, file: &str) {
        let mut repository = self.repository();
        let workflow = repository.workflows.iter_mut().find(|workflow| workflow.file == file);
        workflow.expect("a workflow").state = "disabled_manually";
    }

    /// Knows no `return_run_details`, as GitHub Enterprise Server up to 3.20.
    pub(crate) fn age(&self) {
        self.repository().knows_run_details = false;
    }

    /// Replaces the key for secrets after it is next read.
    pub(crate) fn replace_key(&self) {
        self.repository().replace_key = true;
    }

    /// The secret key for the last value that was set, and the value as it came.
    pub(crate) fn last_sealed(&self) -> ([u8; 32], Vec<u8>) {
        self.repository().last_sealed.clone().expect("a value was set")
    }

    fn repository(&self) -> MutexGuard<'_, Repository> {
        shared(&self.state)
    }
}

impl Repository {
    fn set(&mut self, name: &str, value: String) -> StatusCode {
        let now = OffsetDateTime::now_utc();
        let before = self.secrets.get(name);
        let created = before.map_or(now, |kept| kept.created);
        let status = if before.is_some() { StatusCode::NO_CONTENT } else { StatusCode::CREATED };
        self.secrets.insert(name.to_owned(), Kept { value, created, updated: now });
        status
    }

    fn held(&self) -> Secrets {
        self.secrets.iter().map(|(name, kept)| (name.clone(), kept.value.clone())).collect()
    }

    fn begin(&mut self, file: &str, event: &'static str, created: OffsetDateTime) -> u64 {
        let id = 30_433_642 + u64::try_from(self.runs.len()).expect("few runs");
        let (queued, left) = (self.queued, self.duration);
        let file = file.to_owned();
        self.runs.push(Run { id, file, event, created, queued, left, secrets: None, conclusion: None });
        id
    }

    /// A look: every run goes on by a step.
    fn tick(&mut self) {
        let held = self.held();
        for run in self.runs.iter_mut().filter(|run| run.conclusion.is_none()) {
            match &run.secrets {
                None if run.queued > 0 => run.queued -= 1,
                None => run.secrets = Some(held.clone()),
                Some(_) if run.left > 0 => run.left -= 1,
                Some(taken) => run.conclusion = Some(if (self.check)(taken) { "success" } else { "failure" }),
            }
        }
    }
}

async fn gate(State(state): State<Shared>, request: Request, next: Next) -> Response {
    let wanted = format!("Bearer {}", shared(&state).token);
    let given = request.headers().get(AUTHORIZATION).and_then(|given| given.to_str().ok());
    if given == Some(&wanted) { next.run(request).await } else { refused(401, "Bad credentials") }
}

fn refused(status: u16, message: &str) -> Response {
    let body = json!({
        "message": message,
        "documentation_url": "https://docs.github.com/rest",
        "status": status.to_string(),
    });
    (StatusCode::from_u16(status).expect("a status"), Json(body)).into_response()
}

async fn public_key(State(state): State<Shared>) -> Response {
    let mut repository = shared(&state);
    let key = BASE64_STANDARD.encode(repository.key.public_key().as_bytes());
    let answer = Json(json!({ "key_id": repository.key_id.to_string(), "key": key })).into_response();
    if std::mem::take(&mut repository.replace_key) {
        repository.key = SecretKey::generate(&mut OsRng);
        repository.key_id += 1;
    }
    answer
}

async fn put_secret(
    State(state): State<Shared>,
    Path(name): Path<String>,
    Json(body): Json<Value>,
) -> Response {
    let mut repository = shared(&state);
    if body["key_id"].as_str() != Some(&repository.key_id.to_string()) {
        return refused(422, "The key_id is not that of the repository's public key");
    }
    let sealed = BASE64_STANDARD.decode(body["encrypted_value"].as_str().unwrap_or_default());
    let sealed = sealed.unwrap_or_default();
    let opened = repository.key.unseal(&sealed).ok();
    repository.last_sealed = Some((repository.key.to_bytes(), sealed));
    let Some(value) = opened.and_then(|opened| String::from_utf8(opened).ok()) else {
        return refused(422, "The value was not properly encrypted");
    };
    match repository.set(&name, value) {
        StatusCode::CREATED => (StatusCode::CREATED, Json(json!({}))).into_response(),
        status => status.into_response(),
    }
}

async fn secret(State(state): State<Shared>, Path(name): Path<String>) -> Response {
    match shared(&state).secrets.get(&name) {
        Some(kept) => Json(json!({
            "name": name, "created_at": rfc3339(kept.created), "updated_at": rfc3339(kept.updated),
        }))
        .into_response(),
        None => refused(404, "Not Found"),
    }
}

async fn delete_secret(State(state): State<Shared>, Path(name): Path<String>) -> Response {
    match shared(&state).secrets.remove(&name) {
        Some(_) => StatusCode::NO_CONTENT.into_response(),
        None => refused(404, "Not Found"),
    }
}

async fn workflow(State(state): State<Shared>, Path(file): Path<String>) -> Response {
    let repository = shared(&state);
    let Some(workflow) = repository.workflows.iter().find(|workflow| workflow.file == file) else {
        return refused(404, "Not Found");
    };
    let url = "https://api.github.com/somewhere";
    Json(json!({
        "id": 161_335, "node_id": "MDg6V29ya2Zsb3cxNjEzMzU=", "name": file, "state": workflow.state,
        "path": format!(".github/workflows/{file}"), "url": url, "html_url": url, "badge_url": url,
        "created_at": "2026-01-08T23:48:37.000-08:00", "updated_at": "2026-01-08T23:50:21.000-08:00",
    }))
    .into_response()
}

/// A workflow here has a bare `workflow_dispatch`.
async fn dispatch(
    State(state): State<Shared>,
    Path(file): Path<String>,
    Json(body): Json<Value>,
) -> Response {
    let mut repository = shared(&state);
    let Some(workflow) = repository.workflows.iter().find(|workflow| workflow.file == file) else {
        return refused(404, "Not Found");
    };
    if body["inputs"].as_object().is_some_and(|inputs| !inputs.is_empty()) {
        return refused(422, "Unexpected inputs provided");
    }
    if body["ref"] != "main" {
        return refused(422, "No ref found");
    }
    if workflow.state != "active" {
        return refused(422, "Cannot trigger a 'workflow_dispatch' on a disabled workflow");
    }
    if !repository.knows_run_details && body.get("return_run_details").is_some() {
        return refused(400, "Invalid request. \"return_run_details\" is not a permitted key.");
    }
    let id = repository.begin(&file, "workflow_dispatch", OffsetDateTime::now_utc());
    if body["return_run_details"] != true {
        return StatusCode::NO_CONTENT.into_response();
    }
    let url = format!("https://api.github.com/repos/{REPOSITORY}/actions/runs/{id}");
    Json(json!({ "workflow_run_id": id, "run_url": url, "html_url": url })).into_response()
}

async fn runs(
    State(state): State<Shared>,
    Path(file): Path<String>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let mut repository = shared(&state);
    repository.tick();
    let is_asked = |run: &&Run| {
        run.file == file
            && query.get("event").is_none_or(|event| event == run.event)
            && query.get("status").is_none_or(|status| status == run.status())
    };
    let number =
        |name: &str, default| query.get(name).map_or(default, |text| text.parse().unwrap_or(default));
    let (size, page) = (number("per_page", 30).min(100), number("page", 1));
    let asked: Vec<_> = repository.runs.iter().rev().filter(is_asked).map(shown).collect();
    let runs: Vec<_> = asked.iter().skip(size * (page - 1)).take(size).collect();
    Json(json!({ "total_count": asked.len(), "workflow_runs": runs })).into_response()
}

async fn run(State(state): State<Shared>, Path(id): Path<u64>) -> Response {
    let mut repository = shared(&state);
    repository.tick();
    match repository.runs.iter().find(|run| run.id == id) {
        Some(run) => Json(shown(run)).into_response(),
        None => refused(404, "Not Found"),
    }
}

/// A run with everything that GitHub documents as always there.
fn shown(run: &Run) -> Value {
    let created = rfc3339(run.created);
    let mut shown = json!({
        "id": run.id, "node_id": "WFR", "name": "publish", "head_branch": "main", "run_number": 7, "run_attempt": 1,
        "display_title": "publish", "event": run.event, "status": run.status(), "conclusion": run.conclusion,
        "head_sha": "009b8a3a9ccbb128af87f9b1c0f4c62e8a304f6d", "path": format!(".github/workflows/{}", run.file),
        "workflow_id": 161_335, "created_at": created, "updated_at": created, "pull_requests": [],
        "head_commit": null, "repository": repository(), "head_repository": repository(),
    });
    for name in [
        "url",
        "html_url",
        "jobs_url",
        "logs_url",
        "check_suite_url",
        "cancel_url",
        "rerun_url",
        "artifacts_url",
        "workflow_url",
    ] {
        shown[name] = "https://api.github.com/somewhere".into();
    }
    shown
}

fn repository() -> Value {
    const URLS: &str = "archive assignees blobs branches collaborators comments commits compare contents contributors \
        deployments downloads events forks git_commits git_refs git_tags hooks html issue_comment issue_events issues \
        keys labels languages merges milestones notifications pulls releases stargazers statuses subscribers \
        subscription tags teams trees";
    const OWNER_URLS: &str = "avatar events followers following gists html organizations received_events repos starred \
        subscriptions";
    let (owner, name) = REPOSITORY.split_once('/').expect("it has an owner");
    let mut repository = json!({
        "id": 1, "node_id": "R", "name": name, "full_name": REPOSITORY, "private": true, "fork": false,
        "description": null, "url": "https://api.github.com/somewhere",
        "owner": {
            "login": owner, "id": 1, "node_id": "O", "gravatar_id": "", "type": "Organization", "site_admin": false,
            "url": "https://api.github.com/somewhere",
        },
    });
    for url in URLS.split_whitespace() {
        repository[format!("{url}_url")] = "https://api.github.com/somewhere".into();
    }
    for url in OWNER_URLS.split_whitespace() {
        repository["owner"][format!("{url}_url")] = "https://api.github.com/somewhere".into();
    }
    repository
}
