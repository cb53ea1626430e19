//! What is on a project's branches: endpoints and roles.

use serde::Deserialize;

use super::{Neon, operations::Operations};
use crate::providers::{Patience, ProviderError};

/// The most branches that are asked for at once.
const PAGE: &str = "1000";

/// A branch of a project.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Branch {
    /// Its id, `br-…`.
    pub id: String,
    /// Its name, unique in the project.
    pub name: String,
    /// Whether it is the project's default branch.
    pub default: bool,
}

/// A compute endpoint of a branch.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Endpoint {
    /// Its id, `ep-…`.
    pub id: String,
    /// Its host name, without the pooler.
    pub host: String,
    /// `read_write` or `read_only`.
    #[serde(rename = "type")]
    pub kind: String,
}

/// A role of a branch.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Role {
    /// Its name.
    pub name: String,
    /// When it was made (RFC 3339).
    pub created_at: String,
    /// Whether it is one of Neon's own.
    #[serde(default)]
    pub protected: bool,
}

#[derive(Deserialize)]
struct Branches {
    branches: Vec<Branch>,
    pagination: Option<Pagination>,
}

#[derive(Deserialize)]
struct Pagination {
    next: Option<String>,
}

#[derive(Deserialize)]
struct Endpoints {
    endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
struct Roles {
    roles: Vec<Role>,
}

#[derive(Deserialize)]
struct One {
    project: Project,
}

#[derive(Deserialize)]
struct Project {
    store_passwords: bool,
}

impl Neon {
    /// The default branch of `project`.
    ///
    /// # Errors
    /// A project without one, which Neon does not document, is [`ProviderError::Unexpected`].
    pub async fn default_branch(&self, project: &str) -> Result<Branch, ProviderError> {
        let mut cursor = None;
        loop {
            let call = self.get("list the branches", &["projects", project, "branches"]);
            let query: Vec<_> = [("limit", PAGE.to_owned())]
                .into_iter()
                .chain(cursor.take().map(|cursor: String| ("cursor", cursor)))
                .collect();
            let reply = call.query(&query).send().await?;
            let page: Branches = reply.json()?;
            let is_last = page.branches.is_empty();
            if let Some(branch) = page.branches.into_iter().find(|branch| branch.default) {
                return Ok(branch);
            }
            cursor = page.pagination.and_then(|page| page.next).filter(|_| !is_last);
            if cursor.is_none() {
                return Err(reply.unexpected("no branch is the default one"));
            }
        }
    }

    /// The endpoints of a branch.
    ///
    /// # Errors
    /// See [`ProviderError`].
    pub async fn endpoints(&self, project: &str, branch: &str) -> Result<Vec<Endpoint>, ProviderError> {
        let path = ["projects", project, "branches", branch, "endpoints"];
        Ok(self.get("list the endpoints", &path).send().await?.json::<Endpoints>()?.endpoints)
    }

    /// The roles of a branch. One that was made by SQL may be missing.
    ///
    /// # Errors
    /// See [`ProviderError`].
    pub async fn roles(&self, project: &str, branch: &str) -> Result<Vec<Role>, ProviderError> {
        let path = ["projects", project, "branches", branch, "roles"];
        Ok(self.get("list the roles", &path).send().await?.json::<Roles>()?.roles)
    }

    /// Makes a role of this name, if there is none, and waits until it can log in; its password is read or reset
    /// later. All connections to the branch are dropped.
    ///
    /// # Errors
    /// See [`ProviderError`]; asked again, it goes on.
    pub async fn create_role(
        &self,
        project: &str,
        branch: &str,
        name: &str,
        patience: Patience,
    ) -> Result<(), ProviderError> {
        const CALL: &str = "create a role";
        self.idle(project, patience).await?;
        if self.roles(project, branch).await?.iter().any(|role| role.name == name) {
            return Ok(());
        }
        let path = ["projects", project, "branches", branch, "roles"];
        let body = serde_json::json!({ "role": { "name": name } });
        let reply = match self.change(patience, || self.post(CALL, &path).json(&body)).await {
            // Somebody else's request, or ours that was thought lost.
            Err(ProviderError::Refused { status: 409, .. }) => return self.idle(project, patience).await,
            reply => reply?,
        };
        let changes: Operations = reply.json()?;
        self.finish(project, &changes.operations, patience)
            .await
            .map_err(|error| error.after(super::PROVIDER, CALL))
    }

    /// Whether `project` keeps the passwords of its roles, so that one can be read again after its reset.
    ///
    /// # Errors
    /// See [`ProviderError`].
    pub async fn stores_passwords(&self, project: &str) -> Result<bool, ProviderError> {
        let reply = self.get("read the project", &["projects", project]).send().await?;
        Ok(reply.json::<One>()?.project.store_passwords)
    }
}
