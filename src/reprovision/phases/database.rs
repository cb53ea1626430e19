//! The tenant's database: nobody in it, a new branch, new passwords, and the old ones dead.

use url::Url;

use super::{Turn, look::resettable};
use crate::{
    providers::{
        Issuer, Life, Probe,
        neon::{Fork, RolePassword, Route},
    },
    reprovision::{
        Placement, Run, Strategy,
        error::{Trouble, stuck},
        saga::{Saga, copy},
    },
    secret::SecretText,
};

/// Roles of the provider's own that can log in from nowhere.
const OF_NEON: [&str; 4] = ["cloud_admin", "neon_superuser", "neon_service", "postgres"];

impl Run<'_> {
    /// The old machine is stopped and stays so, and the database has no sessions: nothing is written any more.
    pub(super) async fn quiesce(&self, saga: &mut Saga) -> Result<Turn, Trouble> {
        let (fly, patience) = (&self.works.fly, self.works.manner.patience);
        saga.facts.quiesced = true;
        self.begin_outage(saga).await?;
        let facts = &saga.facts;
        // Cordoned first: a request would start it again.
        fly.cordon(&facts.app, &facts.machine).await?;
        fly.stop(&facts.app, &facts.machine).await?;
        if !fly.stopped(&facts.app, &facts.machine, patience).await? {
            return Err(stuck(format!("machine {} does not stop", facts.machine)));
        }
        if self.works.neon.endpoints(&facts.project, &facts.branch).await?.is_empty() {
            return Ok(Turn::Done);
        }
        let Some(way_in) = self.way_in(saga).await? else {
            return Err(stuck(
                "no URL of its database is known, so nobody can see whether it is still written to",
            ));
        };
        let mut wait = patience.begin();
        loop {
            let sessions = self.works.sql().sessions(&way_in).await?;
            if sessions == 0 {
                return Ok(Turn::Done);
            }
            if !wait.pause().await {
                return Err(stuck(format!(
                    "{sessions} sessions stay in its database though its machine is stopped"
                )));
            }
        }
    }

    /// An old URL that still works.
    async fn way_in(&self, saga: &Saga) -> Result<Option<SecretText>, Trouble> {
        let mut trouble = None;
        for url in &saga.urls.old {
            match self.works.login().probe(url).await {
                Life::Live => return Ok(Some(copy(url))),
                Life::Dead => {}
                Life::Unknown(error) => trouble = Some(error),
            }
        }
        trouble.map_or(Ok(None), |error| Err(error.into()))
    }

    /// A child of the tenant's branch; of the default one where the tenant is to begin with nothing.
    pub(super) async fn fork(&self, saga: &mut Saga) -> Result<Turn, Trouble> {
        let facts = &saga.facts;
        let own = [("reseal_run", self.id()), ("reseal_tenant", saga.tenant())];
        let fork = Fork {
            name: &facts.name,
            parent: (facts.course.strategy == Strategy::Branch).then_some(facts.branch.as_str()),
            annotations: own.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        };
        let branch = self.works.neon.fork(&facts.project, &fork, self.works.manner.patience).await?;
        saga.facts.new_branch = Some(branch.id);
        Ok(Turn::Done)
    }

    /// Every role of the branch that the tenant ends on gets a new password, and what else could log in can't any more.
    pub(super) async fn reset(&self, saga: &mut Saga) -> Result<Turn, Trouble> {
        if !saga.facts.course.strategy.forks() {
            self.begin_outage(saga).await?;
        }
        let facts = &saga.facts;
        let (project, branch) = (&facts.project, facts.last_branch());
        let roles = self.works.neon.roles(project, branch).await?;
        let own = self.password(saga, branch);
        if !roles.iter().any(|role| role.name == own.role) {
            return Err(stuck(format!("branch {branch} has no role {}", own.role)));
        }
        for role in resettable(&roles).filter(|role| role.name != own.role) {
            own.revoke(&format!("role:{}", role.name)).await?;
        }
        let minted = own.mint(&facts.name).await?.value;
        let url = like(saga.urls.old.first(), minted);
        self.await_life(&url, true, "the new password is refused").await?;
        let names: Vec<_> = roles.into_iter().map(|role| role.name).collect();
        saga.urls.new = Some(url);
        saga.facts.resets += 1;
        self.shut_out(saga, &names).await?;
        Ok(Turn::Done)
    }

    /// Roles that can log in and that neither the provider nor the operator knows can't any more.
    async fn shut_out(&self, saga: &mut Saga, known: &[String]) -> Result<(), Trouble> {
        let Some(url) = &saga.urls.new else { return Ok(()) };
        for role in self.works.sql().login_roles(url).await? {
            let is_known = known.contains(&role)
                || self.works.known_roles.contains(&role)
                || OF_NEON.contains(&role.as_str());
            if is_known {
                continue;
            }
            match self.works.sql().forbid_login(url, &role).await {
                Ok(()) => {}
                Err(error) if error.is_transient() => return Err(error.into()),
                Err(error) => {
                    return Err(stuck(format!(
                        "role {role} can log in, nobody knows it, and it can't be stopped: {error}"
                    )));
                }
            }
            if !saga.facts.strangers.contains(&role) {
                saga.facts.strangers.push(role);
            }
        }
        Ok(())
    }

    /// The branch that the tenant left: new passwords that nobody gets, and no endpoint to log in at.
    pub(super) async fn retire(&self, saga: &mut Saga) -> Result<Turn, Trouble> {
        if saga.facts.course.hard {
            self.begin_outage(saga).await?;
        }
        let facts = &saga.facts;
        let (neon, patience) = (&self.works.neon, self.works.manner.patience);
        let endpoints = neon.endpoints(&facts.project, &facts.branch).await?;
        if endpoints.is_empty() {
            return Ok(Turn::Done);
        }
        let old = self.password(saga, &facts.branch);
        for role in resettable(&neon.roles(&facts.project, &facts.branch).await?) {
            old.revoke(&format!("role:{}", role.name)).await?;
        }
        saga.facts.refused = self.refused(saga).await?;
        let facts = &saga.facts;
        for endpoint in endpoints {
            neon.delete_endpoint(&facts.project, &endpoint.id, patience).await?;
        }
        Ok(Turn::Done)
    }

    /// Every old URL is refused, or has nothing left to log in to.
    pub(super) async fn death(&self, saga: &mut Saga) -> Result<Turn, Trouble> {
        if saga.facts.course.strategy.forks() {
            let facts = &saga.facts;
            let left = self.works.neon.endpoints(&facts.project, &facts.branch).await?;
            return match left.first() {
                None => Ok(Turn::Done),
                Some(endpoint) => {
                    Err(stuck(format!("endpoint {} of its old branch is there again", endpoint.id)))
                }
            };
        }
        saga.facts.refused = self.refused(saga).await?;
        let facts = &saga.facts;
        let roles = self.works.neon.roles(&facts.project, &facts.branch).await?;
        let names: Vec<_> = roles.into_iter().map(|role| role.name).collect();
        self.shut_out(saga, &names).await?;
        Ok(Turn::Done)
    }

    /// Waits until every old URL is refused; how many there are.
    async fn refused(&self, saga: &Saga) -> Result<usize, Trouble> {
        let old = || saga.urls.old.iter().filter(|url| Some(*url) != saga.urls.new.as_ref());
        for url in old() {
            self.await_life(url, false, "an old URL still works").await?;
        }
        Ok(old().count())
    }

    /// Logs in until that works, or is refused.
    async fn await_life(&self, url: &SecretText, live: bool, otherwise: &str) -> Result<(), Trouble> {
        let mut wait = self.works.manner.patience.begin();
        loop {
            let seen = self.works.login().probe(url).await;
            match &seen {
                Life::Live if live => return Ok(()),
                Life::Dead if !live => return Ok(()),
                Life::Unknown(error) if !error.is_transient() => return Err(error.clone().into()),
                Life::Live | Life::Dead | Life::Unknown(_) => {}
            }
            if !wait.pause().await {
                return Err(match seen {
                    Life::Unknown(error) => error.into(),
                    Life::Live | Life::Dead => stuck(otherwise),
                });
            }
        }
    }

    /// The tenant's own role on a branch.
    fn password(&self, saga: &Saga, branch: &str) -> RolePassword {
        RolePassword {
            neon: self.works.neon.clone(),
            project: saga.facts.project.clone(),
            branch: branch.to_owned(),
            role: saga.facts.role.clone(),
            database: saga.facts.database.clone(),
            endpoint: None,
            route: saga.urls.old.first().map_or(Route::Direct, Route::of),
            patience: self.works.manner.patience,
        }
    }

    /// From here on the tenant can't work, and it is in the journal before it is so.
    pub(super) async fn begin_outage(&self, saga: &mut Saga) -> Result<(), Trouble> {
        let is_down = saga.row.down_from_ms.is_some() && saga.row.down_to_ms.is_none();
        if !is_down {
            // A second outage of a tenant counts from its first.
            if saga.row.down_from_ms.is_none() {
                saga.row.down_from_ms = Some(self.works.journal.now_ms().await?);
            }
            saga.row.down_to_ms = None;
            self.save(saga).await?;
        }
        Ok(())
    }

    /// From here on it works again.
    pub(super) async fn end_outage(&self, saga: &mut Saga) -> Result<(), Trouble> {
        if saga.row.down_from_ms.is_some() && saga.row.down_to_ms.is_none() {
            saga.row.down_to_ms = Some(self.works.journal.now_ms().await?);
        }
        Ok(())
    }

    /// Whether the tenant's own machine stays where it is.
    pub(super) fn is_in_place(saga: &Saga) -> bool {
        saga.facts.course.placement == Placement::InPlace
    }
}

/// The new URL, in the form of the old one where that is known: only server and password are the new one's.
fn like(old: Option<&SecretText>, new: SecretText) -> SecretText {
    let both = old.and_then(|old| Some((Url::parse(old.expose()).ok()?, Url::parse(new.expose()).ok()?)));
    let Some((mut url, minted)) = both else { return new };
    let done = url.set_host(minted.host_str()).is_ok()
        && url.set_port(minted.port()).is_ok()
        && url.set_password(minted.password()).is_ok();
    if done { SecretText::new(url.into()) } else { new }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_url_has_the_form_of_the_old_one() {
        let secret = |text: &str| SecretText::new(text.to_owned());
        let old =
            secret("postgres://owner:one@ep-1-pooler.eu.neon.tech/app?sslmode=require&application_name=x");
        let minted = || secret("postgresql://owner:t%2Fwo@ep-2-pooler.eu.neon.tech/app?sslmode=require");
        let expected =
            "postgres://owner:t%2Fwo@ep-2-pooler.eu.neon.tech/app?sslmode=require&application_name=x";
        assert_eq!(like(Some(&old), minted()), secret(expected));
        assert_eq!(like(None, minted()), minted());
        assert_eq!(like(Some(&secret("nonsense")), minted()), minted());
    }
}
