//! What a tenant has: its row, its machine, its branch, and every URL that opens its database.

use url::Url;

use super::Turn;
use crate::{
    providers::{
        ProviderError,
        fly::Machine,
        neon::{Endpoint, Role, RolePassword, Route},
    },
    reprovision::{
        Course, Facts, Placement, Run, config,
        error::{Trouble, stuck},
        saga::{Saga, Urls, copy, name_of},
        works::fingerprint,
    },
    secret::SecretText,
    store::TenantRow,
};

const POSTGRES: [&str; 2] = ["postgres", "postgresql"];
const REDIS: [&str; 2] = ["redis", "rediss"];

/// Where a tenant's row says that it is.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::reprovision) struct Whereabouts<'a> {
    pub(in crate::reprovision) app: &'a str,
    pub(in crate::reprovision) machine: &'a str,
    pub(in crate::reprovision) project: &'a str,
    pub(in crate::reprovision) branch: &'a str,
}

impl<'a> Whereabouts<'a> {
    /// # Errors
    /// What the row does not name, in words.
    pub(in crate::reprovision) fn of(row: &'a TenantRow) -> Result<Self, String> {
        let named = |value: &'a Option<String>, what| {
            value.as_deref().filter(|text| !text.is_empty()).ok_or_else(|| format!("its row names no {what}"))
        };
        Ok(Self {
            app: named(&row.app, "app")?,
            machine: named(&row.machine, "machine")?,
            project: named(&row.project, "project")?,
            branch: named(&row.branch, "branch")?,
        })
    }
}

/// A role and a database, as a URL names them.
struct Login {
    role: String,
    database: String,
}

impl Run<'_> {
    pub(super) async fn look(&self, saga: &mut Saga) -> Result<Turn, Trouble> {
        let works = self.works;
        let Some(row) = works.row(saga.tenant()).await? else { return Ok(Turn::Gone) };
        let at = Whereabouts::of(&row).map_err(stuck)?;
        let machine = works.fly.machine(at.app, at.machine).await;
        let machine = machine.map_err(|error| missing(error, format!("machine {}", at.machine)))?;
        let branch = works.neon.branch(at.project, at.branch).await;
        let branch = branch.map_err(|error| missing(error, format!("branch {}", at.branch)))?;
        let placement = if machine.has_volume() { Placement::InPlace } else { Placement::Swap };
        let course = Course { placement, ..self.asked.course() };
        if course.strategy.forks() && branch.protected {
            return Err(stuck(format!("branch {} is protected: its endpoint can't be deleted", branch.id)));
        }
        let endpoints = works.neon.endpoints(at.project, at.branch).await?;
        if endpoints.is_empty() && !course.strategy.forks() {
            return Err(stuck(format!(
                "branch {} has no endpoint to log in at: --strategy branch makes one",
                branch.id
            )));
        }
        let opened = works.open(&row).await?;
        let mut urls = self.known_urls(saga, &endpoints, &opened, &machine)?;
        let login = match urls.old.first().and_then(login) {
            Some(login) => login,
            None => self.only_login(at.project, at.branch).await?,
        };
        let roles = works.neon.roles(at.project, at.branch).await?;
        for role in resettable(&roles).filter(|_| !endpoints.is_empty()) {
            let (place, old) = ((at.project, at.branch), urls.old.first());
            let read = password(self, place, &role.name, &login.database, old).read().await?;
            read.iter().for_each(|url| urls.add_old(url));
        }
        self.redis(&mut urls, &row, &opened, &machine)?;
        // Nobody is taken down for a row that could not be written then.
        works.seal(&row.key, &urls).await?;
        let (app, project) = (at.app.to_owned(), at.project.to_owned());
        saga.facts = Facts {
            course,
            app,
            machine: machine.id,
            region: machine.region,
            project,
            branch: branch.id,
            role: login.role,
            database: login.database,
            row: fingerprint(&row),
            name: name_of(saga.tenant(), saga.row.generation),
            ..Facts::default()
        };
        saga.urls = urls;
        Ok(Turn::Done)
    }

    /// Every URL of the tenant's database that its machine or its row holds: the one that its machine works with first.
    fn known_urls(
        &self,
        saga: &Saga,
        endpoints: &[Endpoint],
        opened: &[Option<(SecretText, bool)>],
        machine: &Machine,
    ) -> Result<Urls, Trouble> {
        // A branch that was left has none, and nothing says whose a URL is.
        let is_own = |url: &SecretText| endpoints.is_empty() || is_of(url, endpoints);
        let of_row = opened.first().and_then(Option::as_ref).map(|(url, _)| url);
        if of_row.is_some_and(|url| !is_own(url)) {
            return Err(stuck("its row's URL is for a server that is none of its branch"));
        }
        let on_machine = config::urls(&machine.config, &POSTGRES);
        let has_name = |name: &str| name.eq_ignore_ascii_case(&self.works.variables.database);
        let (own, others): (Vec<_>, Vec<_>) = on_machine.iter().partition(|(name, _)| has_name(name));
        let own = own.into_iter().map(|(_, url)| url).filter(|url| is_own(url));
        let others = others.into_iter().map(|(_, url)| url).filter(|url| is_of(url, endpoints));
        // Those of a generation before, whose way ended early, have to die too.
        let before = saga.urls.old.iter().chain(&saga.urls.new).filter(|url| is_own(url));
        let mut urls = Urls::default();
        own.chain(of_row).chain(others).chain(before).for_each(|url| urls.add_old(url));
        Ok(urls)
    }

    /// The login of a tenant whose URL nobody knows: its branch has one database, and that has an owner.
    async fn only_login(&self, project: &str, branch: &str) -> Result<Login, Trouble> {
        let mut databases = self.works.neon.databases(project, branch).await?;
        match (databases.pop(), databases.is_empty()) {
            (Some(database), true) => Ok(Login { role: database.owner_name, database: database.name }),
            (only, _) => Err(stuck(format!(
                "its URL opens under no key, no variable of its machine has it, and branch {branch} has {} databases: \
                 which is its own is not known",
                databases.len() + usize::from(only.is_some())
            ))),
        }
    }

    /// The Redis URLs: the new one is the shared one as it is now, with the tenant's own path; or what it was.
    fn redis(
        &self,
        urls: &mut Urls,
        row: &TenantRow,
        opened: &[Option<(SecretText, bool)>],
        machine: &Machine,
    ) -> Result<(), Trouble> {
        if let Some(Some((url, _))) = opened.get(1) {
            urls.add_old_redis(url);
        }
        let variable = &self.works.variables.redis;
        let on_machine = config::urls(&machine.config, &REDIS).into_iter();
        on_machine.filter(|(name, _)| name.eq_ignore_ascii_case(variable)).for_each(|(_, url)| {
            urls.add_old_redis(&url);
        });
        let holds_one = row.cells.get(1).is_some_and(Option::is_some);
        urls.redis = match (&self.works.redis, urls.old_redis.first()) {
            (Some(shared), Some(old)) => Some(with_path_of(shared, old)),
            (Some(shared), None) if holds_one => Some(copy(shared)),
            (None, Some(old)) => Some(copy(old)),
            (None, None) if holds_one => {
                let why = "its Redis URL opens under no key, and its machine has none";
                return Err(stuck(why));
            }
            (_, None) => None,
        };
        Ok(())
    }
}

/// The password of a role on a branch; its URLs go the same way as `like`.
pub(super) fn password(
    run: &Run<'_>,
    (project, branch): (&str, &str),
    role: &str,
    database: &str,
    like: Option<&SecretText>,
) -> RolePassword {
    RolePassword {
        neon: run.works.neon.clone(),
        project: project.to_owned(),
        branch: branch.to_owned(),
        role: role.to_owned(),
        database: database.to_owned(),
        endpoint: None,
        route: like.map_or(Route::Direct, Route::of),
        patience: run.works.manner.patience,
    }
}

/// The roles whose passwords can be reset.
pub(super) fn resettable(roles: &[Role]) -> impl Iterator<Item = &Role> {
    roles.iter().filter(|role| !role.protected)
}

fn missing(error: ProviderError, what: String) -> Trouble {
    if error.is_missing() { stuck(format!("its {what} does not exist")) } else { error.into() }
}

fn login(url: &SecretText) -> Option<Login> {
    let url = Url::parse(url.expose()).ok()?;
    let database = url.path().trim_start_matches('/').to_owned();
    let role = url.username().to_owned();
    (!role.is_empty() && !database.is_empty()).then_some(Login { role, database })
}

/// Whether a URL leads to one of these endpoints.
fn is_of(url: &SecretText, endpoints: &[Endpoint]) -> bool {
    endpoints.iter().any(|endpoint| endpoint.is_of(url))
}

/// The shared server's URL, with the path and the query that a tenant had.
fn with_path_of(shared: &SecretText, old: &SecretText) -> SecretText {
    let (Ok(mut url), Ok(old)) = (Url::parse(shared.expose()), Url::parse(old.expose())) else {
        return copy(shared);
    };
    if old.path().trim_matches('/').is_empty() && old.query().is_none() {
        return copy(shared);
    }
    url.set_path(old.path());
    url.set_query(old.query());
    SecretText::new(url.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> SecretText {
        SecretText::new(text.to_owned())
    }

    #[test]
    fn a_pooled_url_is_of_its_endpoint() {
        let endpoint = |host: &str| Endpoint {
            id: "ep-1".to_owned(),
            host: host.to_owned(),
            kind: "read_write".to_owned(),
        };
        let endpoints = [endpoint("ep-1.eu.aws.neon.tech")];
        assert!(is_of(&secret("postgresql://u:p@ep-1.eu.aws.neon.tech/d"), &endpoints));
        assert!(is_of(&secret("postgresql://u:p@ep-1-pooler.eu.aws.neon.tech/d"), &endpoints));
        assert!(!is_of(&secret("postgresql://u:p@ep-2.eu.aws.neon.tech/d"), &endpoints));
        assert!(!is_of(&secret("no URL"), &endpoints));
    }

    #[test]
    fn a_tenant_keeps_its_part_of_the_shared_redis() {
        let shared = secret("rediss://default:new@r.upstash.io:6379");
        let own = with_path_of(&shared, &secret("rediss://default:old@r.upstash.io:6379/7?x=1"));
        assert_eq!(own, secret("rediss://default:new@r.upstash.io:6379/7?x=1"));
        assert_eq!(with_path_of(&shared, &secret("rediss://default:old@r.upstash.io:6379")), shared);
        assert_eq!(with_path_of(&shared, &secret("nonsense")), shared);
    }
}
