//! Branches that come and go.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::json;

use super::{Branch, Neon, PROVIDER, operations::NO_CONTENT};
use crate::providers::{Patience, ProviderError};

const FORK: &str = "fork a branch";

/// A branch that is wanted.
#[derive(Debug, Clone)]
pub struct Fork<'a> {
    /// Its name, unique in the project.
    pub name: &'a str,
    /// The branch whose data, roles and passwords it begins with; `None` is the project's default one.
    pub parent: Option<&'a str>,
    /// What is noted of it. It tells a fork that was begun before from another's of the same name.
    pub annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Made {
    branch: Branch,
}

impl Neon {
    /// Makes a branch with an endpoint that writes, unless it is there, and waits until it can be used.
    ///
    /// It has the passwords of its parent as they were. Neon has no key for a request that comes twice, but takes a name
    /// only once (409). So what a lost request has made is found by its name, and asking again makes no second one.
    ///
    /// # Errors
    /// A branch of this name that has another parent or other annotations is not taken over
    /// ([`ProviderError::NotAsked`]): its data would be others, or older. After an error whose
    /// [`outcome`](ProviderError::outcome) is unknown, the same call goes on.
    pub async fn fork(
        &self,
        project: &str,
        fork: &Fork<'_>,
        patience: Patience,
    ) -> Result<Branch, ProviderError> {
        let parent = match fork.parent {
            Some(parent) => parent.to_owned(),
            None => self.default_branch(project).await?.id,
        };
        if let Some(branch) = self.find_fork(project, fork, &parent).await? {
            self.idle(project, patience).await?;
            return Ok(branch);
        }
        let path = ["projects", project, "branches"];
        let body = json!({
            "branch": { "name": fork.name, "parent_id": parent },
            "endpoints": [{ "type": "read_write" }],
            "annotation_value": fork.annotations,
        });
        let branch = match self.change(project, FORK, patience, || self.post(FORK, &path).json(&body)).await {
            Ok(reply) => reply.json::<Made>()?.branch,
            // It is there, though lists lag behind.
            Err(error @ ProviderError::Refused { status: 409, .. }) => {
                let mut wait = patience.begin();
                loop {
                    if let Some(branch) = self.find_fork(project, fork, &parent).await? {
                        self.idle(project, patience).await?;
                        break branch;
                    }
                    if !wait.pause().await {
                        return Err(error);
                    }
                }
            }
            Err(error) => return Err(error),
        };
        Ok(Branch { annotations: fork.annotations.clone(), ..branch })
    }

    /// Deletes a branch and waits until its computes are gone. One that is gone already is done.
    ///
    /// # Errors
    /// Neon keeps the default branch, a protected one, and one with children: [`ProviderError::Refused`].
    pub async fn delete_branch(
        &self,
        project: &str,
        id: &str,
        patience: Patience,
    ) -> Result<(), ProviderError> {
        self.remove("delete a branch", project, &["projects", project, "branches", id], patience).await
    }

    /// Deletes an endpoint and waits until its compute is gone: nobody can log in by its host any more. One that is gone
    /// already is done.
    ///
    /// # Errors
    /// See [`ProviderError`].
    pub async fn delete_endpoint(
        &self,
        project: &str,
        id: &str,
        patience: Patience,
    ) -> Result<(), ProviderError> {
        self.remove("delete an endpoint", project, &["projects", project, "endpoints", id], patience).await
    }

    async fn remove(
        &self,
        call: &'static str,
        project: &str,
        path: &[&str],
        patience: Patience,
    ) -> Result<(), ProviderError> {
        match self.change(project, call, patience, || self.delete(call, path).repeatable()).await {
            // Perhaps by a request of ours whose reply was lost, and which still goes on.
            Err(error) if error.is_missing() => self.idle(project, patience).await,
            Ok(reply) if reply.status() == NO_CONTENT => self.idle(project, patience).await,
            reply => reply.map(drop),
        }
    }

    async fn find_fork(
        &self,
        project: &str,
        fork: &Fork<'_>,
        parent: &str,
    ) -> Result<Option<Branch>, ProviderError> {
        let Some(branch) = self.branch_named(project, fork.name).await? else { return Ok(None) };
        let mut notes = fork.annotations.iter();
        if branch.parent_id.as_deref() == Some(parent)
            && notes.all(|(key, value)| branch.annotations.get(key) == Some(value))
        {
            return Ok(Some(branch));
        }
        let why = "a branch of this name is there, with another parent or other annotations";
        Err(ProviderError::NotAsked { provider: PROVIDER, call: FORK, why })
    }
}
