//! Branches: listed late, forked with everything that is on them, deleted with their endpoints.

use std::collections::{BTreeMap, HashMap};

use axum::{
    Json, Router,
    extract::{Path, Query, State as Extract},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};

use super::{
    super::fresh,
    Branch, DATABASE, Endpoint, Project, ROLE, Refusal, Role, Shared, State, compute, error, locked, now,
    projects::{REGION, begin, shown_endpoint, shown_role},
};

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/projects/{p}/branches", get(branches).post(create_branch))
        .route("/projects/{p}/branches/{b}", get(branch).delete(delete_branch))
}

impl State {
    /// A new project with nothing but its default branch.
    pub(super) fn found(&mut self, project: &str, branch: &str, endpoint: &str) {
        let endpoint = self.endpoint(project, branch, endpoint, true);
        let main = Branch {
            id: branch.to_owned(),
            name: "main".to_owned(),
            parent: None,
            protected: false,
            leaving: false,
            annotations: BTreeMap::new(),
            endpoints: vec![endpoint],
            roles: vec![Role::new(ROLE, &fresh::value("npg_"))],
            databases: vec![(DATABASE.to_owned(), ROLE.to_owned())],
            data: Vec::new(),
            sessions: 0,
            behind: None,
        };
        self.projects.insert(project.to_owned(), Project { branches: vec![main], operations: Vec::new() });
    }

    /// A child of a branch: all that is on it, as it is now.
    pub(super) fn fork(&mut self, project: &str, parent: &str, name: &str) -> Result<Branch, Refusal> {
        let tag = fresh::value("");
        let parent = self.branch(project, parent)?;
        let is_protected = parent.protected;
        let inherited = |role: &Role| match role.by_sql || !is_protected {
            true => role.clone(),
            false => Role { logs_in: role.logs_in, ..Role::new(&role.name, &fresh::value("npg_")) },
        };
        Ok(Branch {
            id: format!("br-{tag}"),
            name: name.to_owned(),
            parent: Some(parent.id.clone()),
            protected: false,
            leaving: false,
            annotations: BTreeMap::new(),
            endpoints: Vec::new(),
            roles: parent.roles.iter().map(inherited).collect(),
            databases: parent.databases.clone(),
            data: parent.data.clone(),
            sessions: 0,
            behind: None,
        })
    }

    /// An endpoint for a branch, at an address of its own where there are computes.
    pub(super) fn endpoint(&mut self, project: &str, branch: &str, id: &str, up: bool) -> Endpoint {
        let host = match self.port {
            Some(port) => {
                let address = compute::address(self.addresses.len() + 1);
                self.addresses.insert(address, (project.to_owned(), branch.to_owned()));
                format!("{address}:{port}")
            }
            None => format!("{id}.{REGION}"),
        };
        Endpoint { id: id.to_owned(), host, up, leaving: false }
    }
}

impl Branch {
    /// Host and path of a URL that leads here.
    pub(super) fn place(&self, endpoint: Option<&str>, database: &str, pooled: bool) -> Option<String> {
        if let Some(behind) = &self.behind {
            return Some(format!("localhost:{}/{database}", behind.cluster.port()));
        }
        let is_it = |one: &&Endpoint| !one.leaving && endpoint.is_none_or(|id| one.id == id);
        let host = &self.endpoints.iter().find(is_it)?.host;
        Some(match host.split_once('.') {
            Some((id, REGION)) => {
                let pooler = if pooled { "-pooler" } else { "" };
                format!("{id}{pooler}.{REGION}/{database}?sslmode=require&channel_binding=require")
            }
            _ => format!("{host}/{database}"),
        })
    }

    pub(super) fn shown_databases(&self) -> Vec<Value> {
        let shown = |(name, owner): &(String, String)| {
            json!({
                "id": 1, "branch_id": self.id, "name": name, "owner_name": owner, "created_at": now(),
                "updated_at": now(),
            })
        };
        self.databases.iter().map(shown).collect()
    }

    fn shown(&self, project: &str) -> Value {
        let mut shown = json!({
            "id": self.id, "project_id": project, "name": self.name, "current_state": "ready",
            "state_changed_at": now(), "creation_source": "console", "created_at": now(), "updated_at": now(),
            "default": self.parent.is_none(), "protected": self.protected, "cpu_used_sec": 0,
            "active_time_seconds": 0, "compute_time_seconds": 0, "written_data_bytes": 0,
            "data_transfer_bytes": 0,
        });
        if let Some(parent) = &self.parent {
            shown["parent_id"] = json!(parent);
        }
        shown
    }

    fn shown_annotation(&self) -> Value {
        json!({ "object": { "type": "console/branch", "id": self.id }, "value": self.annotations })
    }
}

async fn branches(
    Extract(state): Extract<Shared>,
    Path(p): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Response, Refusal> {
    let number = |name: &str| query.get(name).and_then(|text| text.parse::<usize>().ok());
    let search = query.get("search").map_or("", String::as_str);
    let mut state = locked(&state);
    let mut seen = state.project(&p)?.branches.len();
    if state.knobs.stale_branches > 0 {
        state.knobs.stale_branches -= 1;
        seen -= 1;
    }
    if state.knobs.empty_branches > 0 {
        state.knobs.empty_branches -= 1;
        seen = 0;
    }
    let limit = number("limit").unwrap_or(100).min(state.knobs.page);
    let from = number("cursor").unwrap_or(0);
    let all = state.project(&p)?.branches[..seen].iter();
    let found = all.filter(|one| !one.leaving && (one.name.contains(search) || one.id.contains(search)));
    let page: Vec<_> = found.skip(from).take(limit).collect();
    let shown: Vec<_> = page.iter().map(|branch| branch.shown(&p)).collect();
    let annotations: HashMap<_, _> = page
        .iter()
        .filter(|branch| !branch.annotations.is_empty())
        .map(|branch| (&branch.id, branch.shown_annotation()))
        .collect();
    // A full page may be the last one, and nobody knows yet.
    let next = if page.len() < limit { json!({}) } else { json!({ "next": (from + limit).to_string() }) };
    Ok(Json(json!({ "branches": shown, "annotations": annotations, "pagination": next })).into_response())
}

async fn branch(
    Extract(state): Extract<Shared>,
    Path((p, b)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    let mut state = locked(&state);
    let branch = state.branch(&p, &b)?;
    Ok(Json(json!({ "branch": branch.shown(&p), "annotation": branch.shown_annotation() })).into_response())
}

async fn create_branch(
    Extract(shared): Extract<Shared>,
    Path(p): Path<String>,
    body: Option<Json<Value>>,
) -> Result<Response, Refusal> {
    let body = body.map_or(Value::Null, |Json(body)| body);
    let mut state = locked(&shared);
    state.free(&p)?;
    let asked = &body["branch"];
    let name = asked["name"].as_str().map_or_else(|| fresh::value("branch-"), str::to_owned);
    let all = &state.project(&p)?.branches;
    if all.iter().any(|branch| branch.name == name) {
        return Err(error(409, "A branch with the provided name already exists"));
    }
    let parent = asked["parent_id"].as_str().unwrap_or(&all[0].id).to_owned();
    let mut branch = state.fork(&p, &parent, &name)?;
    let notes = body["annotation_value"].as_object().into_iter().flatten();
    branch.annotations =
        notes.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect();
    let wanted = body["endpoints"].as_array().map_or(0, Vec::len);
    let id = branch.id.clone();
    let endpoints = (0..wanted).map(|_| state.endpoint(&p, &id, &fresh::value("ep-"), false));
    branch.endpoints = endpoints.collect();

    let endpoints: Vec<_> = branch.endpoints.iter().map(|one| shown_endpoint(&p, &id, one)).collect();
    let known = branch.roles.iter().filter(|role| !role.by_sql);
    let roles: Vec<_> = known.map(|role| shown_role(&id, role, None)).collect();
    let (shown, databases) = (branch.shown(&p), branch.shown_databases());
    state.project(&p)?.branches.push(branch);
    let actions: &[_] = if wanted > 0 { &["create_branch", "start_compute"] } else { &["create_branch"] };
    let (project, made) = (p.clone(), id.clone());
    let effect = move |state: &mut State| {
        if let Ok(branch) = state.branch(&project, &made) {
            branch.endpoints.iter_mut().for_each(|endpoint| endpoint.up = true);
        }
    };
    let operations = begin(&shared, &mut state, &p, &id, actions, Box::new(effect));
    let made = json!({
        "branch": shown, "endpoints": endpoints, "operations": operations, "roles": roles, "databases": databases,
    });
    Ok((StatusCode::CREATED, Json(made)).into_response())
}

async fn delete_branch(
    Extract(shared): Extract<Shared>,
    Path((p, b)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    let mut state = locked(&shared);
    let all = &state.project(&p)?.branches;
    let Some(branch) = all.iter().find(|branch| branch.id == b && !branch.leaving) else {
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    let shown = branch.shown(&p);
    let children: Vec<_> =
        all.iter().filter(|one| one.parent.as_ref() == Some(&b)).map(|one| &*one.id).collect();
    if branch.parent.is_none() {
        return Err(error(422, "cannot delete the default branch"));
    } else if branch.protected {
        return Err(error(422, "cannot delete a protected branch"));
    } else if !children.is_empty() {
        return Err(error(422, &format!("cannot delete branch that has children: {}", children.join(", "))));
    }
    state.free(&p)?;
    state.branch(&p, &b)?.leaving = true;
    let (project, gone) = (p.clone(), b.clone());
    let effect = move |state: &mut State| {
        let project = state.projects.get_mut(&project).expect("projects stay");
        project.branches.retain(|branch| branch.id != gone);
    };
    let actions = ["suspend_compute", "delete_timeline"];
    let operations = begin(&shared, &mut state, &p, &b, &actions, Box::new(effect));
    Ok(Json(json!({ "branch": shown, "operations": operations })).into_response())
}
