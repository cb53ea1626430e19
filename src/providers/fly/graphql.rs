//! Fly's GraphQL API: its documents, and how its errors are sorted. Their status is 200.

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{Fly, PROVIDER};
use crate::providers::{ProviderError, http::Reply};

/// Tokens of an organisation, a page; and the organisation's id.
pub(super) const TOKENS: &str = "\
query Tokens($slug: String!, $first: Int!, $after: String) {
  organization(slug: $slug) {
    id
    limitedAccessTokens(first: $first, after: $after) {
      nodes { id name createdAt revokedAt profile profileParams }
      pageInfo { hasNextPage endCursor }
    }
  }
}";

/// Mints a token.
pub(super) const CREATE_TOKEN: &str = "\
mutation CreateToken($input: CreateLimitedAccessTokenInput!) {
  createLimitedAccessToken(input: $input) { limitedAccessToken { id tokenHeader } }
}";

/// Revokes a token. Its reply can hold the root of the macaroon, so nothing of it is asked for.
pub(super) const DELETE_TOKEN: &str = "\
mutation DeleteToken($id: ID!) {
  deleteLimitedAccessToken(input: { id: $id }) { clientMutationId }
}";

/// Whose credential this is.
pub(super) const VIEWER: &str = "query Viewer { viewer { __typename } }";

/// Gives an add-on another password.
pub(super) const RESET_ADD_ON: &str = "\
mutation ResetAddOn($name: String!) {
  resetAddOnPassword(input: { name: $name }) { addOn { publicUrl } }
}";

/// An add-on's URL, with its password.
pub(super) const ADD_ON: &str = "query AddOn($name: String!) { addOn(name: $name) { publicUrl } }";

/// Every document that is ever sent, for whoever has the schema to check them with.
pub const DOCUMENTS: &[&str] = &[TOKENS, CREATE_TOKEN, DELETE_TOKEN, VIEWER, RESET_ADD_ON, ADD_ON];

/// Whether asking twice is as good as asking once.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Twice {
    /// It reads, or ends in the same state.
    Fine,
    /// It would make a second thing.
    Not,
}

#[derive(Deserialize)]
struct Errors {
    #[serde(default)]
    errors: Vec<GraphqlError>,
}

#[derive(Deserialize)]
struct GraphqlError {
    #[serde(default)]
    message: String,
    #[serde(default)]
    extensions: Extensions,
}

#[derive(Default, Deserialize)]
struct Extensions {
    code: Option<String>,
}

#[derive(Deserialize)]
struct Data<T> {
    data: T,
}

impl Fly {
    /// Sends `document` and gives its data.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        name: &'static str,
        document: &'static str,
        variables: Value,
        twice: Twice,
    ) -> Result<T, ProviderError> {
        let call = self.graphql.post(name, &[]).json(&json!({ "query": document, "variables": variables }));
        let call = if twice == Twice::Fine { call.repeatable() } else { call };
        let reply = call.send().await?;
        let Errors { errors } = reply.json()?;
        match errors.first() {
            Some(error) => Err(sorted(name, error)),
            None => data(&reply),
        }
    }
}

fn data<T: DeserializeOwned>(reply: &Reply) -> Result<T, ProviderError> {
    Ok(reply.json::<Data<T>>()?.data)
}

/// What an error says, as the status that HTTP has for it. Its text is looked at and not kept.
///
/// One that names no kind, or calls itself the server's, leaves open what was done before it.
fn sorted(call: &'static str, error: &GraphqlError) -> ProviderError {
    let says = |text| error.message.contains(text);
    let code = error.extensions.code.as_deref();
    let refused = |status| ProviderError::Refused { provider: PROVIDER, call, status, code: None };
    let unauthorized = |status| ProviderError::Unauthorized { provider: PROVIDER, call, status, code: None };
    match code {
        _ if says("Not authorized") => unauthorized(403),
        _ if says("must be authenticated") => unauthorized(401),
        Some("UNAUTHORIZED") => unauthorized(401),
        Some("FORBIDDEN") => unauthorized(403),
        Some("NOT_FOUND") => refused(404),
        Some("SERVER_ERROR" | "INTERNAL_SERVER_ERROR") | None => {
            ProviderError::Uncertain { provider: PROVIDER, call, why: "a GraphQL error".to_owned() }
        }
        Some(_) => refused(422),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::providers::Outcome;

    fn of(error: Value) -> ProviderError {
        sorted("do it", &serde_json::from_value(error).unwrap())
    }

    #[test]
    fn an_error_is_sorted_by_whose_move_is_next_and_its_text_is_not_kept() {
        let denied = of(json!({ "message": "Not authorized to access this createlimitedaccesstoken" }));
        assert!(matches!(denied, ProviderError::Unauthorized { status: 403, .. }));
        let unknown = of(json!({ "message": "You must be authenticated to view this." }));
        assert!(matches!(unknown, ProviderError::Unauthorized { status: 401, .. }));
        assert!(of(json!({ "message": "x", "extensions": { "code": "NOT_FOUND" } })).is_missing());
        let invalid = of(json!({ "message": "fm2_secret", "extensions": { "code": "UNPROCESSABLE" } }));
        assert_eq!(invalid.to_string(), "Fly.io refused do it: 422");
        assert_eq!(of(json!({ "message": "Something went wrong" })).outcome(), Outcome::Unknown);
    }
}
