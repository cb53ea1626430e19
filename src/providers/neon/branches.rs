//! A project's branches, and what is on them: endpoints, roles and databases.

use std::collections::BTreeMap;

use serde::Deserialize;
use url::Url;

use super::{Neon, PROVIDER};
use crate::{
    providers::{Patience, ProviderError},
    secret::SecretText,
};

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
    /// The branch that it was forked from; a root has none.
    pub parent_id: Option<String>,
    /// Whether it is protected: it can't be deleted, and its children get passwords of their own.
    #[serde(default)]
    pub protected: bool,
    /// What was noted of it when it was made.
    #[serde(skip)]
    pub annotations: BTreeMap<String, String>,
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

impl Endpoint {
    /// Whether `url` leads here, through the pooler or not.
    pub fn is_of(&self, url: &SecretText) -> bool {
        let Ok(url) = Url::parse(url.expose()) else { return false };
        let host = url.host_str().unwrap_or_default().replacen("-pooler.", ".", 1);
        // A server that is no name of the provider's may have a port.
        self.host.split(':').next().is_some_and(|one| one.eq_ignore_ascii_case(&host))
    }
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

/// A database of a branch.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Database {
    /// Its name.
    pub name: String,
    /// The role that owns it.
    pub owner_name: String,
}

#[derive(Deserialize)]
struct Branches {
    branches: Vec<Branch>,
    #[serde(default)]
    annotations: BTreeMap<String, Annotation>,
    pagination: Option<Pagination>,
}

#[derive(Deserialize)]
struct OneBranch {
    branch: Branch,
    annotation: Option<Annotation>,
}

#[derive(Deserialize)]
struct Annotation {
    value: BTreeMap<String, String>,
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
struct Databases {
    databases: Vec<Database>,
}

#[derive(Deserialize)]
struct OneProject {
    project: Project,
}

#[derive(Deserialize)]
struct Project {
    store_passwords: bool,
}

impl Neon {
    /// The branches of `project`, every page of the list.
    ///
    /// # Errors
    /// See [`ProviderError`].
    pub async fn branches(&self, project: &str) -> Result<Vec<Branch>, ProviderError> {
        self.list_branches(project, None).await
    }

    /// The branches whose name or id contains `search`.
    pub(super) async fn list_branches(
        &self,
        project: &str,
        search: Option<&str>,
    ) -> Result<Vec<Branch>, ProviderError> {
        let mut all = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let call = self.get("list the branches", &["projects", project, "branches"]);
            let query: Vec<_> = [("limit", PAGE)]
                .into_iter()
                .chain(search.map(|search| ("search", search)))
                .chain(cursor.as_deref().map(|cursor| ("cursor", cursor)))
                .collect();
            let reply = call.query(&query).send().await?;
            let mut page: Branches = reply.json()?;
            let is_last = page.branches.is_empty();
            all.extend(page.branches.into_iter().map(|branch| {
                let annotation = page.annotations.remove(&branch.id);
                branch.annotated(annotation)
            }));
            let next = page.pagination.and_then(|page| page.next).filter(|_| !is_last);
            if next.is_none() {
                return Ok(all);
            }
            // A cursor that stays would have us ask for ever.
            if next == cursor {
                return Err(reply.unexpected("the same page again, which says there is more"));
            }
            cursor = next;
        }
    }

    /// The branch with this id.
    ///
    /// # Errors
    /// One that is gone [is missing](ProviderError::is_missing).
    pub async fn branch(&self, project: &str, id: &str) -> Result<Branch, ProviderError> {
        let reply = self.get("read a branch", &["projects", project, "branches", id]).send().await?;
        let OneBranch { branch, annotation } = reply.json()?;
        Ok(branch.annotated(annotation))
    }

    /// The branch of this name, if the list has it yet.
    ///
    /// # Errors
    /// See [`ProviderError`].
    pub async fn branch_named(&self, project: &str, name: &str) -> Result<Option<Branch>, ProviderError> {
        let found = self.list_branches(project, Some(name)).await?;
        Ok(found.into_iter().find(|branch| branch.name == name))
    }

    /// The default branch of `project`.
    ///
    /// # Errors
    /// A project without one, which Neon does not document, is [`ProviderError::Unexpected`].
    pub async fn default_branch(&self, project: &str) -> Result<Branch, ProviderError> {
        let (call, what) = ("list the branches", "no branch is the default one");
        let default = self.branches(project).await?.into_iter().find(|branch| branch.default);
        default.ok_or(ProviderError::Unexpected { provider: PROVIDER, call, what })
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

    /// The databases of a branch.
    ///
    /// # Errors
    /// See [`ProviderError`].
    pub async fn databases(&self, project: &str, branch: &str) -> Result<Vec<Database>, ProviderError> {
        let path = ["projects", project, "branches", branch, "databases"];
        Ok(self.get("list the databases", &path).send().await?.json::<Databases>()?.databases)
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
        match self.change(project, CALL, patience, || self.post(CALL, &path).json(&body)).await {
            // Somebody else's request, or ours that was thought lost.
            Err(ProviderError::Refused { status: 409, .. }) => self.idle(project, patience).await,
            reply => reply.map(drop),
        }
    }

    /// Whether `project` keeps the passwords of its roles, so that one can be read again after its reset.
    ///
    /// # Errors
    /// See [`ProviderError`].
    pub async fn stores_passwords(&self, project: &str) -> Result<bool, ProviderError> {
        let reply = self.get("read the project", &["projects", project]).send().await?;
        Ok(reply.json::<OneProject>()?.project.store_passwords)
    }
}

impl Branch {
    fn annotated(self, annotation: Option<Annotation>) -> Self {
        Self { annotations: annotation.map(|annotation| annotation.value).unwrap_or_default(), ..self }
    }
}
