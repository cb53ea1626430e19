//! The GraphQL API: tokens and add-ons. Its errors have the status 200.

use axum::{
    Json,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{Caller, Fleet, ORG, Shared, Token, now, random, shared};

pub(super) fn add_on_url(name: &str) -> String {
    format!("redis://default:{}@fly-{name}.upstash.io:6379", random())
}

/// What is asked for is told by the field; the documents themselves are checked against the schema elsewhere.
pub(super) async fn answer(
    State(state): State<Shared>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Response {
    let mut fleet = shared(&state);
    let query = body["query"].as_str().unwrap_or_default();
    let variables = &body["variables"];
    let answer = match fleet.caller(&headers) {
        None => error("You must be authenticated to view this.", Some("UNAUTHORIZED")),
        Some(Caller::Token | Caller::Reader) if query.contains("viewer") => {
            json!({ "data": { "viewer": { "__typename": "Macaroon" } } })
        }
        Some(Caller::Token | Caller::Reader) => {
            error("Not authorized to access this createlimitedaccesstoken", None)
        }
        Some(Caller::Person) => fleet.answer(query, variables),
    };
    Json(answer).into_response()
}

fn error(message: &str, code: Option<&str>) -> Value {
    let extensions = code.map_or(json!({}), |code| json!({ "code": code }));
    json!({ "data": null, "errors": [{ "message": message, "path": [], "extensions": extensions }] })
}

impl Fleet {
    fn answer(&mut self, query: &str, variables: &Value) -> Value {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        if query.contains("viewer") {
            return json!({ "data": { "viewer": { "__typename": "User" } } });
        }
        if query.contains("createLimitedAccessToken") {
            let input = &variables["input"];
            let expiry = text(&input["expiry"]);
            let (id, value) = self.mint(
                &text(&input["name"]),
                &text(&input["profile"]),
                input["profileParams"].clone(),
                &expiry,
            );
            let token = json!({ "id": id, "tokenHeader": value });
            return json!({ "data": { "createLimitedAccessToken": { "limitedAccessToken": token } } });
        }
        if query.contains("deleteLimitedAccessToken") {
            return self.revoke(&text(&variables["id"]));
        }
        if query.contains("resetAddOnPassword") || query.contains("addOn(") {
            let name = text(&variables["name"]);
            let Some(url) = self.add_ons.get_mut(&name) else {
                return error("Could not find AddOn", Some("NOT_FOUND"));
            };
            if !query.contains("resetAddOnPassword") {
                return json!({ "data": { "addOn": { "publicUrl": url } } });
            }
            *url = add_on_url(&name);
            return json!({ "data": { "resetAddOnPassword": { "addOn": { "publicUrl": url } } } });
        }
        if variables["slug"] != ORG {
            return error("Could not find Organization", Some("NOT_FOUND"));
        }
        self.token_page(variables)
    }

    fn token_page(&mut self, variables: &Value) -> Value {
        let all = match self.stale_tokens.take() {
            Some(Value::Array(stale)) => stale,
            _ => self.tokens.iter().map(Token::node).collect(),
        };
        let asked = variables["first"].as_u64().and_then(|first| usize::try_from(first).ok()).unwrap_or(25);
        let size = self.page.unwrap_or(asked).min(asked);
        let after = variables["after"].as_str().and_then(|after| after.parse().ok()).unwrap_or(0);
        let nodes: Vec<_> = all.iter().skip(after).take(size).cloned().collect();
        let end = after + nodes.len();
        let page = json!({ "hasNextPage": end < all.len(), "endCursor": end.to_string() });
        let tokens = json!({ "nodes": nodes, "pageInfo": page });
        json!({ "data": { "organization": { "id": "org_node", "limitedAccessTokens": tokens } } })
    }

    fn revoke(&mut self, id: &str) -> Value {
        let late_uses = self.late_uses;
        match self.tokens.iter_mut().find(|token| token.id == id) {
            None => error("Could not find LimitedAccessToken", Some("NOT_FOUND")),
            Some(token) => {
                if token.revoked.is_none() {
                    token.revoked = Some(now());
                    token.late_uses = late_uses;
                }
                json!({ "data": { "deleteLimitedAccessToken": { "clientMutationId": null } } })
            }
        }
    }
}
