//! Projects: endpoints, roles, databases, and the operations that change them.

use std::{collections::HashMap, thread};

use axum::{
    Json, Router,
    extract::{Path, Query, State as Extract},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use serde_json::{Value, json};

use super::{
    super::fresh, Behind, Branch, Endpoint, Operation, Project, Refusal, Role, Shared, State, error, locked,
    now,
};

pub(super) const REGION: &str = "eu-central-1.aws.neon.tech";

/// What an operation does when it finishes.
pub(super) type Effect = Box<dyn FnOnce(&mut State) + Send>;

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/projects", get(projects))
        .route("/projects/{p}", get(project))
        .route("/projects/{p}/operations", get(operations))
        .route("/projects/{p}/operations/{o}", get(operation))
        .route("/projects/{p}/connection_uri", get(connection_uri))
        .route("/projects/{p}/branches/{b}/endpoints", get(endpoints))
        .route("/projects/{p}/endpoints/{e}", delete(delete_endpoint))
        .route("/projects/{p}/branches/{b}/databases", get(databases))
        .route("/projects/{p}/branches/{b}/roles", get(roles).post(create_role))
        .route("/projects/{p}/branches/{b}/roles/{r}/reset_password", post(reset_password))
}

impl State {
    pub(super) fn project(&mut self, id: &str) -> Result<&mut Project, Refusal> {
        self.projects.get_mut(id).ok_or_else(|| error(404, "project not found"))
    }

    pub(super) fn branch(&mut self, project: &str, id: &str) -> Result<&mut Branch, Refusal> {
        let mut branch = self.project(project)?.branches.iter_mut();
        let branch = branch.find(|branch| branch.id == id && !branch.leaving);
        branch.ok_or_else(|| error(404, "branch not found"))
    }

    fn role(&mut self, project: &str, branch: &str, name: &str) -> Result<&mut Role, Refusal> {
        let mut role = self.branch(project, branch)?.roles.iter_mut();
        let role = role.find(|role| role.name == name && !role.by_sql);
        role.ok_or_else(|| error(404, "role not found"))
    }

    /// Refuses a change while another runs.
    pub(super) fn free(&mut self, project: &str) -> Result<(), Refusal> {
        let busy = self.project(project)?.operations.iter().any(|operation| operation.status == "running");
        let why = "project already has running conflicting operations, scheduling of new ones is prohibited";
        if busy { Err(error(423, why)) } else { Ok(()) }
    }

    /// Makes the compute take the password that the API shows.
    fn apply(&mut self, project: &str, branch: &str, name: &str, is_new: bool) {
        let Ok(role) = self.role(project, branch, name) else { return };
        role.works.clone_from(&role.password);
        let password = role.works.clone();
        let Ok(Branch { behind: Some(Behind { cluster, database }), .. }) = self.branch(project, branch)
        else {
            return;
        };
        let change = if is_new { "CREATE" } else { "ALTER" };
        cluster.execute(&format!("{change} ROLE {name} LOGIN PASSWORD '{password}'"));
        cluster.execute(&format!(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity \
             WHERE datname = '{database}' AND usename <> 'postgres'"
        ));
    }
}

/// Begins operations, and shows them; the last one's end has the effect.
pub(super) fn begin(
    shared: &Shared,
    state: &mut State,
    project: &str,
    branch: &str,
    actions: &[&'static str],
    effect: Effect,
) -> Vec<Value> {
    let fails = state.knobs.failing_operations > 0;
    state.knobs.failing_operations -= usize::from(fails);
    let time = state.knobs.operation_time;
    let all = &mut state.projects.get_mut(project).expect("its changes are begun").operations;
    let from = all.len();
    all.extend(actions.iter().map(|action| Operation {
        id: uuid::Uuid::new_v4().to_string(),
        branch: branch.to_owned(),
        action,
        status: "running",
    }));
    let shown = all[from..].iter().map(|operation| shown_operation(project, operation)).collect();
    let (project, count) = (project.to_owned(), actions.len());
    let finish = move |state: &mut State| {
        let all = &mut state.projects.get_mut(&project).expect("projects stay").operations;
        all[from..from + count]
            .iter_mut()
            .for_each(|one| one.status = if fails { "failed" } else { "finished" });
        if !fails {
            effect(state);
        }
    };
    if time.is_zero() {
        finish(state);
    } else {
        let shared = shared.clone();
        thread::spawn(move || {
            thread::sleep(time);
            finish(&mut locked(&shared));
        });
    }
    shown
}

async fn projects(Extract(state): Extract<Shared>) -> Response {
    let state = locked(&state);
    let all: Vec<_> = state.projects.keys().map(|id| shown_project(id, &state)).collect();
    Json(json!({ "projects": all, "applications": {}, "integrations": {}, "unavailable_project_ids": [] }))
        .into_response()
}

async fn project(Extract(state): Extract<Shared>, Path(p): Path<String>) -> Result<Response, Refusal> {
    let mut state = locked(&state);
    state.project(&p)?;
    Ok(Json(json!({ "project": shown_project(&p, &state) })).into_response())
}

fn shown_project(id: &str, state: &State) -> Value {
    json!({
        "id": id, "name": id, "platform_id": "aws", "region_id": "aws-eu-central-1", "pg_version": 16,
        "proxy_host": REGION, "branch_logical_size_limit": 0, "branch_logical_size_limit_bytes": 0,
        "provisioner": "k8s-neonvm", "store_passwords": state.knobs.stores_passwords, "active_time": 0,
        "cpu_used_sec": 0, "creation_source": "console", "created_at": now(), "updated_at": now(), "owner_id": "1",
        "consumption_period_start": now(), "consumption_period_end": now(), "active_time_seconds": 0,
        "compute_time_seconds": 0, "written_data_bytes": 0, "data_transfer_bytes": 0,
        "data_storage_bytes_hour": 0, "history_retention_seconds": 86400,
    })
}

async fn operations(
    Extract(state): Extract<Shared>,
    Path(p): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Response, Refusal> {
    let limit = query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(50);
    let mut state = locked(&state);
    let newest = state.project(&p)?.operations.iter().rev().take(limit);
    let shown: Vec<_> = newest.map(|operation| shown_operation(&p, operation)).collect();
    Ok(Json(json!({ "operations": shown })).into_response())
}

async fn operation(
    Extract(state): Extract<Shared>,
    Path((p, o)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    let mut state = locked(&state);
    let operation = state.project(&p)?.operations.iter().rev().find(|operation| operation.id == o);
    let operation = operation.ok_or_else(|| error(404, "operation not found"))?;
    Ok(Json(json!({ "operation": shown_operation(&p, operation) })).into_response())
}

fn shown_operation(project: &str, operation: &Operation) -> Value {
    json!({
        "id": operation.id, "project_id": project, "branch_id": operation.branch, "action": operation.action,
        "status": operation.status, "failures_count": 0, "created_at": now(), "updated_at": now(),
        "total_duration_ms": 0,
    })
}

async fn endpoints(
    Extract(state): Extract<Shared>,
    Path((p, b)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    let mut state = locked(&state);
    let all = state.branch(&p, &b)?.endpoints.iter().filter(|one| !one.leaving);
    let all = all.map(|one| shown_endpoint(&p, &b, one));
    Ok(Json(json!({ "endpoints": all.collect::<Vec<_>>() })).into_response())
}

pub(super) fn shown_endpoint(project: &str, branch: &str, endpoint: &Endpoint) -> Value {
    json!({
        "host": endpoint.host, "id": endpoint.id, "project_id": project, "branch_id": branch,
        "region_id": "aws-eu-central-1", "autoscaling_limit_min_cu": 0.25, "autoscaling_limit_max_cu": 1,
        "type": "read_write", "current_state": "active", "pooler_enabled": false, "pooler_mode": "transaction",
        "disabled": false, "passwordless_access": true, "creation_source": "console", "created_at": now(),
        "updated_at": now(), "settings": {}, "proxy_host": REGION, "suspend_timeout_seconds": 0,
        "provisioner": "k8s-neonvm",
    })
}

async fn delete_endpoint(
    Extract(shared): Extract<Shared>,
    Path((p, e)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    let mut state = locked(&shared);
    let mut all = state.project(&p)?.branches.iter().filter(|branch| !branch.leaving);
    let found = all.find_map(|branch| {
        let endpoint = branch.endpoints.iter().find(|one| one.id == e && !one.leaving)?;
        Some((branch.id.clone(), shown_endpoint(&p, &branch.id, endpoint)))
    });
    let Some((branch, shown)) = found else { return Ok(StatusCode::NO_CONTENT.into_response()) };
    state.free(&p)?;
    let endpoints = &mut state.branch(&p, &branch)?.endpoints;
    endpoints.iter_mut().filter(|one| one.id == e).for_each(|one| one.leaving = true);
    let (project, of) = (p.clone(), branch.clone());
    let effect = move |state: &mut State| {
        if let Ok(branch) = state.branch(&project, &of) {
            branch.endpoints.retain(|one| one.id != e);
        }
    };
    let operations = begin(&shared, &mut state, &p, &branch, &["suspend_compute"], Box::new(effect));
    Ok(Json(json!({ "endpoint": shown, "operations": operations })).into_response())
}

async fn databases(
    Extract(state): Extract<Shared>,
    Path((p, b)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    let mut state = locked(&state);
    let shown = state.branch(&p, &b)?.shown_databases();
    Ok(Json(json!({ "databases": shown })).into_response())
}

async fn roles(
    Extract(state): Extract<Shared>,
    Path((p, b)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    let mut state = locked(&state);
    let all = state.branch(&p, &b)?.roles.iter().filter(|role| !role.by_sql);
    let all = all.map(|role| shown_role(&b, role, None));
    Ok(Json(json!({ "roles": all.collect::<Vec<_>>() })).into_response())
}

pub(super) fn shown_role(branch: &str, role: &Role, password: Option<&str>) -> Value {
    let mut shown = json!({
        "branch_id": branch, "name": role.name, "protected": false, "created_at": now(), "updated_at": now(),
    });
    if let Some(password) = password {
        shown["password"] = json!(password);
    }
    shown
}

async fn create_role(
    Extract(shared): Extract<Shared>,
    Path((p, b)): Path<(String, String)>,
    Json(body): Json<Value>,
) -> Result<Response, Refusal> {
    let name = body["role"]["name"].as_str().ok_or_else(|| error(400, "role.name is missing"))?.to_owned();
    let mut state = locked(&shared);
    state.free(&p)?;
    if state.branch(&p, &b)?.roles.iter().any(|role| role.name == name) {
        return Err(error(409, "role already exists"));
    }
    let password = fresh::value("npg_");
    let role = Role { works: String::new(), ..Role::new(&name, &password) };
    let shown = shown_role(&b, &role, Some(&password));
    state.branch(&p, &b)?.roles.push(role);
    let (project, branch) = (p.clone(), b.clone());
    let effect = Box::new(move |state: &mut State| state.apply(&project, &branch, &name, true));
    let operations = begin(&shared, &mut state, &p, &b, &["apply_config"], effect);
    Ok((StatusCode::CREATED, Json(json!({ "role": shown, "operations": operations }))).into_response())
}

async fn reset_password(
    Extract(shared): Extract<Shared>,
    Path((p, b, r)): Path<(String, String, String)>,
) -> Result<Response, Refusal> {
    let mut state = locked(&shared);
    state.role(&p, &b, &r)?;
    state.free(&p)?;
    let password = fresh::value("npg_");
    let role = state.role(&p, &b, &r)?;
    role.password.clone_from(&password);
    let shown = shown_role(&b, role, Some(&password));
    let (project, branch) = (p.clone(), b.clone());
    let effect = Box::new(move |state: &mut State| state.apply(&project, &branch, &r, false));
    let operations = begin(&shared, &mut state, &p, &b, &["apply_config", "suspend_compute"], effect);
    Ok(Json(json!({ "role": shown, "operations": operations })).into_response())
}

async fn connection_uri(
    Extract(state): Extract<Shared>,
    Path(p): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Response, Refusal> {
    let asked = |name: &str| query.get(name).map(String::as_str);
    let (Some(database), Some(role)) = (asked("database_name"), asked("role_name")) else {
        return Err(error(400, "database_name and role_name are required"));
    };
    let mut state = locked(&state);
    let default = state.project(&p)?.branches[0].id.clone();
    let branch = asked("branch_id").unwrap_or(&default);
    let password = state.role(&p, branch, role)?.password.clone();
    let pooled = asked("pooled") == Some("true");
    let branch = state.branch(&p, branch)?;
    let place = branch.place(asked("endpoint_id"), database, pooled);
    let place = place.ok_or_else(|| error(404, "endpoint not found"))?;
    stored(&state)?;
    Ok(Json(json!({ "uri": format!("postgresql://{role}:{password}@{place}") })).into_response())
}

fn stored(state: &State) -> Result<(), Refusal> {
    if state.knobs.stores_passwords { Ok(()) } else { Err(error(412, "Storing passwords is disabled")) }
}
