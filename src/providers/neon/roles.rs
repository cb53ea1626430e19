//! The password of a role: reset, read again, ended.

use async_trait::async_trait;
use serde::Deserialize;
use url::Url;

use super::{Neon, PROVIDER};
use crate::{
    providers::{
        Issued, Issuer, Minted, Patience, ProviderError, Recovered,
        password::{is_same, password, with_password},
    },
    secret::SecretText,
};

const READ: &str = "read the connection URI";
const RESET: &str = "reset the password of a role";

/// PostgreSQL lets nobody make a role whose name begins like this.
const NO_ROLE: &str = "pg_no_role_of_this_name";

/// Whether a URL leads through Neon's pooler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// To the compute itself.
    Direct,
    /// Through the pooler.
    Pooled,
}

impl Route {
    /// The one that `url` takes.
    pub fn of(url: &SecretText) -> Self {
        let url = Url::parse(url.expose());
        let host = url.as_ref().ok().and_then(Url::host_str).unwrap_or_default();
        let is_pooled = host.split('.').next().is_some_and(|endpoint| endpoint.ends_with("-pooler"));
        if is_pooled { Self::Pooled } else { Self::Direct }
    }
}

/// The connection URL of a role, whose password Neon makes.
///
/// Minting resets the password. The old one works until the last operation of the reset has finished, and not a moment
/// longer; all connections to the branch are dropped. Children of the branch keep their own passwords.
///
/// Its ids, `role:NAME`, name the role and not the password: revoking resets the role's password once more, whichever
/// it is, and forgets the new one; so it is for any role of the branch whose new password nobody needs. After a reset in
/// place there is nothing to revoke. With alternate roles it is the role that is no longer used.
#[derive(Debug, Clone)]
pub struct RolePassword {
    /// Neon's API.
    pub neon: Neon,
    /// The project's id.
    pub project: String,
    /// The branch's id, `br-…`.
    pub branch: String,
    /// The role's name.
    pub role: String,
    /// The database of the URL.
    pub database: String,
    /// The endpoint of the URL; `None` is the branch's one that writes.
    pub endpoint: Option<String>,
    /// Through the pooler or not.
    pub route: Route,
    /// How long operations are waited for.
    pub patience: Patience,
}

#[derive(Deserialize)]
struct Reset {
    role: Password,
}

#[derive(Deserialize)]
struct Password {
    password: Option<SecretText>,
}

#[derive(Deserialize)]
struct Uri {
    uri: SecretText,
}

impl RolePassword {
    /// Resets a password and waits until it is the one that works. The answer has it even where Neon does not keep it.
    ///
    /// # Errors
    /// None that comes after the reset was taken says that nothing was done.
    async fn reset(&self, role: &str) -> Result<Option<SecretText>, ProviderError> {
        let path = ["projects", &self.project, "branches", &self.branch, "roles", role, "reset_password"];
        let change = || self.neon.post(RESET, &path);
        let reply = self.neon.change(&self.project, RESET, self.patience, change).await?;
        Ok(reply.json::<Reset>()?.role.password)
    }

    /// The URL with the password that Neon has now, or `None` where it keeps none. While a reset runs, that is a
    /// password that does not work yet.
    ///
    /// # Errors
    /// One that [is missing](ProviderError::is_missing) says that the project, the branch, its endpoint or the role is
    /// gone.
    pub async fn read(&self) -> Result<Option<SecretText>, ProviderError> {
        let mut query =
            vec![("branch_id", &*self.branch), ("database_name", &self.database), ("role_name", &self.role)];
        query.extend(self.endpoint.as_deref().map(|endpoint| ("endpoint_id", endpoint)));
        query.extend((self.route == Route::Pooled).then_some(("pooled", "true")));
        let call = self.neon.get(READ, &["projects", &self.project, "connection_uri"]).query(&query);
        let reply = call.reply().await?;
        if reply.status() == 412 {
            return Ok(None);
        }
        let uri = reply.success()?.json::<Uri>()?.uri;
        Ok(password(&uri).is_some().then_some(uri))
    }

    /// The URL as Neon would write it, for a project that keeps no passwords.
    async fn unsaid_uri(&self) -> Result<SecretText, ProviderError> {
        let unexpected = |what| ProviderError::Unexpected { provider: PROVIDER, call: READ, what };
        let endpoints = self.neon.endpoints(&self.project, &self.branch).await?;
        let wanted = endpoints.iter().find(|endpoint| match &self.endpoint {
            Some(id) => endpoint.id == *id,
            None => endpoint.kind == "read_write",
        });
        let endpoint = wanted.ok_or(unexpected("the branch has no such endpoint"))?;
        let host = match (self.route, endpoint.host.split_once('.')) {
            (Route::Pooled, Some((id, region))) => format!("{id}-pooler.{region}"),
            _ => endpoint.host.clone(),
        };
        let mut url = Url::parse(&format!("postgresql://{host}/?sslmode=require"))
            .map_err(|_| unexpected("the endpoint's host is none"))?;
        url.set_path(&self.database);
        url.set_username(&self.role).map_err(|()| unexpected("the endpoint's host is none"))?;
        Ok(SecretText::new(url.into()))
    }

    fn id(&self) -> String {
        format!("role:{}", self.role)
    }
}

impl Neon {
    /// Whether this key may reset passwords on a branch: it asks for a reset of a role that there can't be.
    ///
    /// # Errors
    /// [`ProviderError::Unauthorized`] if it may not. A branch that is gone [is missing](ProviderError::is_missing).
    pub async fn may_change(&self, project: &str, branch: &str) -> Result<(), ProviderError> {
        self.branch(project, branch).await?;
        let path = ["projects", project, "branches", branch, "roles", NO_ROLE, "reset_password"];
        // Whatever else it is refused for, the key was let in.
        match self.post(RESET, &path).repeatable().send().await {
            Err(ProviderError::Refused { .. }) => Ok(()),
            reply => reply.map(drop),
        }
    }
}

#[async_trait]
impl Issuer for RolePassword {
    /// The roles of the branch.
    async fn list(&self) -> Result<Vec<Issued>, ProviderError> {
        let roles = self.neon.roles(&self.project, &self.branch).await?;
        let issued = |role: super::Role| Issued {
            id: format!("role:{}", role.name),
            name: role.name,
            created: Some(role.created_at),
            last_used: None,
        };
        Ok(roles.into_iter().map(issued).collect())
    }

    /// A password has no name: `name` is not used.
    async fn mint(&self, _: &str) -> Result<Minted, ProviderError> {
        let fresh = self.reset(&self.role).await?;
        let value = async {
            let uri = self.read().await?;
            let Some(fresh) = fresh else { return Ok(uri) };
            let uri = match uri {
                Some(uri) => uri,
                None => self.unsaid_uri().await?,
            };
            Ok(with_password(uri.expose(), &fresh))
        };
        let value = value.await.map_err(|error: ProviderError| error.after(PROVIDER, RESET))?;
        let what = "no password";
        let value = value.ok_or(ProviderError::Unexpected { provider: PROVIDER, call: RESET, what })?;
        Ok(Minted { id: self.id(), value })
    }

    /// Reads the URL again, after all that runs in the project: whether its password is another than that of `old` says
    /// whether the reset was done. Where Neon keeps no passwords, or no old one is known, nothing is to be seen, and
    /// only another reset helps.
    async fn recover(&self, _: &str, old: Option<&SecretText>) -> Result<Recovered, ProviderError> {
        self.neon.idle(&self.project, self.patience).await?;
        Ok(match (self.read().await?, old) {
            (Some(value), Some(old)) if !is_same(&value, old) => {
                Recovered::Value(Minted { id: self.id(), value })
            }
            _ => Recovered::Nothing,
        })
    }

    async fn revoke(&self, id: &str) -> Result<(), ProviderError> {
        let why = "the id is not of the form role:NAME";
        let not_asked = ProviderError::NotAsked { provider: PROVIDER, call: RESET, why };
        let role = id.strip_prefix("role:").filter(|role| !role.is_empty()).ok_or(not_asked)?;
        match self.reset(role).await {
            Err(error) if error.is_missing() => Ok(()),
            reset => reset.map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_says_whether_a_url_is_pooled() {
        let route = |url: &str| Route::of(&SecretText::new(url.to_owned()));
        assert_eq!(route("postgresql://u:p@ep-a-1-pooler.eu.aws.neon.tech/db"), Route::Pooled);
        assert_eq!(route("postgresql://u:p@ep-a-1.eu-pooler.aws.neon.tech/db-pooler"), Route::Direct);
        assert_eq!(route("no URL"), Route::Direct);
    }
}
