//! API keys of a person and of organizations.

use axum::{
    Json, Router,
    extract::{Path, State as Extract},
    routing::{delete, get},
};
use serde_json::{Value, json};

use super::{Key, Refusal, Shared, error, locked};

const OWNER: &str = "629982cc-de05-43db-ae16-28f2399c4910";

pub(super) fn routes() -> Router<Shared> {
    let of_an_organization = "/organizations/{organization}/api_keys";
    Router::new()
        .route("/api_keys", get(|state| list(state, None)).post(|state, Json(body)| mint(state, None, body)))
        .route("/api_keys/{id}", delete(|state, Path(id): Path<u64>| revoke(state, None, id)))
        .route(
            of_an_organization,
            get(|state, Path(of): Path<String>| list(state, Some(of)))
                .post(|state, Path(of): Path<String>, Json(body)| mint(state, Some(of), body)),
        )
        .route(
            &format!("{of_an_organization}/{{id}}"),
            delete(|state, Path((of, id)): Path<(String, u64)>| revoke(state, Some(of), id)),
        )
}

async fn list(Extract(state): Extract<Shared>, of: Option<String>) -> Json<Vec<Value>> {
    let mut state = locked(&state);
    let mut keys: Vec<_> =
        state.keys.iter().filter(|key| key.revoked.is_none() && key.organization == of).map(shown).collect();
    if state.knobs.stale_lists > 0 {
        state.knobs.stale_lists -= 1;
        keys.pop();
    }
    Json(keys)
}

fn shown(key: &Key) -> Value {
    json!({
        "id": key.id,
        "name": key.name,
        "created_at": key.created,
        "created_by": { "id": OWNER, "name": "An Operator", "image": "" },
        "last_used_at": key.last_used,
        "last_used_from_addr": "192.0.2.255",
    })
}

async fn mint(
    Extract(state): Extract<Shared>,
    of: Option<String>,
    body: Value,
) -> Result<Json<Value>, Refusal> {
    let Some(name) = body["key_name"].as_str().filter(|name| name.len() <= 64) else {
        return Err(error(400, "key_name is missing or too long"));
    };
    let mut state = locked(&state);
    let key = state.mint(name, of);
    let made = json!({
        "id": key.id, "key": key.value, "name": key.name, "created_at": key.created, "created_by": OWNER,
    });
    Ok(Json(made))
}

async fn revoke(
    Extract(state): Extract<Shared>,
    of: Option<String>,
    id: u64,
) -> Result<Json<Value>, Refusal> {
    let mut state = locked(&state);
    let late = state.knobs.late_revocation;
    let mut keys = state.keys.iter_mut();
    let key = keys.find(|key| key.id == id && key.organization == of && key.revoked.is_none());
    let Some(key) = key else { return Err(error(404, "API key not found")) };
    key.revoked = Some(late);
    let revoked = json!({
        "id": id,
        "name": key.name,
        "created_at": key.created,
        "created_by": OWNER,
        "last_used_at": key.last_used,
        "last_used_from_addr": "192.0.2.255",
        "revoked": true,
    });
    Ok(Json(revoked))
}
