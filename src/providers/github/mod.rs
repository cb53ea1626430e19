//! GitHub: the secrets of a repository's Actions, and the workflow runs that use them.
//!
//! Source: <https://docs.github.com/en/rest/actions>

mod secret;
mod workflow;

pub use secret::ActionsSecret;
pub use workflow::{Conclusion, Dispatched, RunState, Workflow};

use std::{str::FromStr, sync::Arc};

use super::http::{Auth, BadBase, Call, Client, Manner, Rules};
use crate::secret::SecretText;

const RULES: Rules = Rules { provider: "GitHub", not_begun: &[], refusals: &[], codes: &[], paces: &[] };

/// A repository, as `owner/name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    owner: String,
    name: String,
}

/// A text that names no repository.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a repository is given as owner/name")]
pub struct BadRepository;

impl FromStr for Repository {
    type Err = BadRepository;

    fn from_str(text: &str) -> Result<Self, BadRepository> {
        let is_a_name = |part: &str| {
            !matches!(part, "" | "." | "..")
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        match text.split_once('/') {
            Some((owner, name)) if is_a_name(owner) && is_a_name(name) => {
                Ok(Self { owner: owner.to_owned(), name: name.to_owned() })
            }
            _ => Err(BadRepository),
        }
    }
}

/// GitHub's API for one repository, with one credential.
#[derive(Debug, Clone)]
pub struct GitHub {
    client: Client,
    repository: Repository,
}

impl GitHub {
    /// The API at `url` (`https://api.github.com`) with `token`, which may write secrets and dispatch workflows.
    ///
    /// # Errors
    /// [`BadBase`] for a URL that no credential may be sent to.
    pub fn new(
        url: &str,
        token: Arc<SecretText>,
        repository: Repository,
        manner: Manner,
    ) -> Result<Self, BadBase> {
        Ok(Self { client: Client::new(RULES, url, Auth::Bearer(token), manner)?, repository })
    }

    /// A path under the repository's Actions.
    fn actions<'a>(&'a self, path: &[&'a str]) -> Vec<&'a str> {
        let repository = ["repos", &self.repository.owner, &self.repository.name, "actions"];
        repository.into_iter().chain(path.iter().copied()).collect()
    }
}

/// In the version of the API that this crate knows.
fn versioned(call: Call<'_>) -> Call<'_> {
    call.header("accept", "application/vnd.github+json").header("x-github-api-version", "2022-11-28")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_has_an_owner_and_a_name() {
        assert!("Molecule-AI/molecule-monorepo".parse::<Repository>().is_ok());
        for text in ["", "molecule", "a/b/c", "/b", "a/", "a/..", "a/b c", "https://github.com/a/b"] {
            assert_eq!(text.parse::<Repository>(), Err(BadRepository), "{text}");
        }
    }
}
