//! The tenant's database: nobody in it, a new branch, new passwords, and the old ones dead.

use url::Url;

use super::{
    Turn,
    look::{password, resettable},
};
use crate::{
    providers::{
        Issuer, Life, Probe,
        neon::{Fork, RolePassword, Route},
    },
    reprovision::{
        Placement, Run, Strategy,
        error::{Trouble, stuck},
        saga::{RUN, Saga, TENANT, copy},
    },
    secret::SecretText,
};

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
        let has_stopped = fly.stopped(&facts.app, &facts.machine, patience).await?;
        if self.works.neon.endpoints(&facts.project, &facts.branch).await?.is_empty() {
            return Ok(Turn::Done);
        }
        if !has_stopped {
            return Err(stuck(format!("machine {} does not stop", facts.machine)));
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
            // A pooler's, mostly: whoever is still there comes back, and is counted again.
            self.works.sql().end_idle_sessions(&way_in).await?;
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
        let own = [(RUN, self.id()), (TENANT, saga.tenant())];
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
        let mut names: Vec<_> = resettable(&roles).map(|role| role.name.as_str()).collect();
        if !names.contains(&&*facts.role) {
            return Err(stuck(format!(
                "branch {branch} has no role {} whose password can be reset",
                facts.role
            )));
        }
        names.sort_by_key(|name| *name != facts.role);
        let mut new = Vec::with_capacity(names.len());
        for role in names {
            new.push(self.password(saga, branch, role).mint(&facts.name).await?.value);
        }
        if let Some(own) = new.first_mut()
            && let Some(url) = saga.urls.old.first().and_then(|old| like(old, own))
        {
            *own = url;
        }
        saga.urls.new = new;
        saga.facts.resets += 1;
        let Some(url) = saga.urls.new.first() else { return Err(stuck("its new URL is not known")) };
        self.await_life(url, true, "the new password is refused").await?;
        // One that can't be shut out is no reason to keep the tenant down.
        self.shut_out(saga).await?;
        Ok(Turn::Done)
    }

    /// Roles that can log in and that neither the provider nor the operator knows can't any more; those that can't be
    /// kept from it, in words.
    async fn shut_out(&self, saga: &mut Saga) -> Result<Vec<String>, Trouble> {
        let mut left = Vec::new();
        let Some(url) = saga.urls.new.first() else { return Ok(left) };
        let facts = &mut saga.facts;
        let known = self.works.neon.roles(&facts.project, facts.last_branch()).await?;
        for role in self.works.sql().login_roles(url).await? {
            let is_known =
                known.iter().any(|known| known.name == role) || self.works.known_roles.contains(&role);
            if is_known {
                continue;
            }
            match self.works.sql().forbid_login(url, &role).await {
                Ok(()) if facts.strangers.contains(&role) => {}
                Ok(()) => facts.strangers.push(role),
                Err(error) if error.is_transient() => return Err(error.into()),
                Err(error) => left.push(format!(
                    "role {role} can log in, nobody knows it, and it can't be stopped: {error}"
                )),
            }
        }
        Ok(left)
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
        let old = self.password(saga, &facts.branch, &facts.role);
        for role in resettable(&neon.roles(&facts.project, &facts.branch).await?) {
            old.revoke(&format!("role:{}", role.name)).await?;
        }
        saga.facts.refused = self.refused(saga).await?;
        // Where there is no endpoint any more, nothing can be refused: that it was is in the journal before.
        self.save(saga).await?;
        let facts = &saga.facts;
        for endpoint in endpoints {
            neon.delete_endpoint(&facts.project, &endpoint.id, patience).await?;
        }
        Ok(Turn::Done)
    }

    /// Every old URL is refused, or has nothing left to log in to.
    pub(super) async fn death(&self, saga: &mut Saga) -> Result<Turn, Trouble> {
        if self.works.row(saga.tenant()).await?.is_none() {
            return Ok(Turn::Gone);
        }
        if saga.facts.course.strategy.forks() {
            let facts = &saga.facts;
            let left = self.works.neon.endpoints(&facts.project, &facts.branch).await?;
            if let Some(endpoint) = left.first() {
                return Err(stuck(format!("endpoint {} of its old branch is there again", endpoint.id)));
            }
        }
        if let Some(left) = self.shut_out(saga).await?.into_iter().next() {
            return Err(Trouble::Stuck(left));
        }
        if !saga.facts.course.strategy.forks() {
            saga.facts.refused = self.refused(saga).await?;
        }
        Ok(Turn::Done)
    }

    /// Waits until every old URL is refused; how many there are. Once that was so, endpoints were deleted, and one that
    /// is gone refuses its URL as well.
    async fn refused(&self, saga: &Saga) -> Result<usize, Trouble> {
        let old = || saga.urls.old.iter().filter(|url| !saga.urls.new.contains(url));
        for url in old() {
            match self.await_life(url, false, "an old URL still works").await {
                Err(Trouble::Provider(error)) if error.is_missing() && saga.facts.refused > 0 => {}
                seen => seen?,
            }
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
                // An endpoint that was just made is not known everywhere at once.
                Life::Unknown(error) if !(error.is_transient() || live && error.is_missing()) => {
                    return Err(error.clone().into());
                }
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

    /// The password of a role on a branch.
    fn password(&self, saga: &Saga, branch: &str, role: &str) -> RolePassword {
        let (facts, old) = (&saga.facts, saga.urls.old.first());
        password(self, (&facts.project, branch), role, &facts.database, old)
    }

    /// From here on the tenant can't work, and it is in the journal before it is so.
    pub(super) async fn begin_outage(&self, saga: &mut Saga) -> Result<(), Trouble> {
        let is_down = saga.row.down_from_ms.is_some() && saga.row.down_to_ms.is_none();
        if !is_down {
            let before = saga.row.down_from_ms.zip(saga.row.down_to_ms).map_or(0, |(from, to)| to - from);
            // A second outage begins so much earlier as the first one lasted: their sum is what is kept.
            saga.row.down_from_ms = Some(self.works.journal.now_ms().await? - before);
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

/// An old URL with the server and the password of a new one: through the pooler if it was, with its database and its
/// parameters. `None` where they are of two roles.
pub(super) fn like(old: &SecretText, new: &SecretText) -> Option<SecretText> {
    let (mut url, minted) = (Url::parse(old.expose()).ok()?, Url::parse(new.expose()).ok()?);
    if url.username() != minted.username() {
        return None;
    }
    let host = minted.host_str()?;
    let host = match (Route::of(old), Route::of(new)) {
        (Route::Direct, Route::Pooled) => host.replacen("-pooler.", ".", 1),
        (Route::Pooled, Route::Direct) => host.replacen('.', "-pooler.", 1),
        _ => host.to_owned(),
    };
    url.set_host(Some(&host)).ok()?;
    url.set_port(minted.port()).ok()?;
    url.set_password(minted.password()).ok()?;
    Some(SecretText::new(url.into()))
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
        assert_eq!(like(&old, &minted()), Some(secret(expected)));
        let direct = secret("postgres://owner:one@ep-1.eu.neon.tech/other");
        assert_eq!(like(&direct, &minted()), Some(secret("postgres://owner:t%2Fwo@ep-2.eu.neon.tech/other")));
        assert_eq!(like(&old, &like(&direct, &minted()).unwrap()), Some(secret(expected)));
        assert_eq!(like(&secret("postgres://reader:one@ep-1.eu.neon.tech/app"), &minted()), None);
        assert_eq!(like(&secret("nonsense"), &minted()), None);
    }
}
