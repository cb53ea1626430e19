//! Tenants: a branch each, and what tests do to it behind Neon's API.

use std::net::Ipv4Addr;

use url::{Position, Url};

use super::{super::fresh, Behind, Branch, Neon, ROLE, Role, State, Tenant, locked};
use crate::support::postgres::TempPostgres;

impl Role {
    /// One that logs in with this password.
    pub(super) fn new(name: &str, password: &str) -> Self {
        let (name, password) = (name.to_owned(), password.to_owned());
        Self { name, works: password.clone(), password, logs_in: true, by_sql: false }
    }
}

impl Neon {
    /// Makes a branch for a tenant: a child of the project's default one, with a password of its own. A project that is
    /// not there is made too.
    pub(crate) fn tenant(&self, project: &str, name: &str) -> Tenant {
        let mut state = locked(&self.state);
        if !state.projects.contains_key(project) {
            state.found(project, &fresh::value("br-"), &fresh::value("ep-"));
        }
        let main = state.projects[project].branches[0].id.clone();
        let mut branch = state.fork(project, &main, name).expect("it is there");
        let endpoint = state.endpoint(project, &branch.id, &fresh::value("ep-"), true);
        branch.endpoints.push(endpoint);
        branch.roles = vec![Role::new(ROLE, &fresh::value("npg_"))];
        let (database, password) = (&branch.databases[0].0, &branch.roles[0].works);
        let place = branch.place(None, database, false).expect("it has an endpoint");
        let tenant = Tenant {
            project: project.to_owned(),
            branch: branch.id.clone(),
            role: ROLE.to_owned(),
            database: database.clone(),
            url: format!("postgresql://{ROLE}:{password}@{place}"),
        };
        state.projects.get_mut(project).expect("it is there").branches.push(branch);
        tenant
    }

    /// Puts a database of a cluster in a branch's place, where `role` logs in with `password`. Its forks are none.
    pub(crate) fn behind(
        &self,
        branch: &str,
        cluster: &'static TempPostgres,
        database: &str,
        role: &str,
        password: &str,
    ) {
        self.with(branch, |branch| {
            branch.behind = Some(Behind { cluster, database: database.to_owned() });
            branch.endpoints.iter_mut().for_each(|endpoint| endpoint.host = "localhost".to_owned());
            branch.roles = vec![Role::new(role, password)];
            branch.databases = vec![(database.to_owned(), role.to_owned())];
        });
    }

    /// Keeps a branch from being deleted, and its passwords from its children.
    pub(crate) fn protect(&self, branch: &str) {
        self.with(branch, |branch| branch.protected = true);
    }

    /// Makes a role that the API does not know, and gives its password.
    pub(crate) fn sql_role(&self, branch: &str, name: &str) -> String {
        let password = fresh::value("sql_");
        let role = Role { by_sql: true, ..Role::new(name, &password) };
        self.with(branch, |branch| branch.roles.push(role));
        password
    }

    /// Gives a tenant's branch another endpoint; a URL that leads there as the tenant's own does.
    pub(crate) fn add_endpoint(&self, home: &Tenant) -> String {
        let endpoint = locked(&self.state).endpoint(&home.project, &home.branch, &fresh::value("ep-"), true);
        let server = |url: &Url| url[Position::BeforeHost..Position::AfterPort].to_owned();
        let own = server(&home.url.parse().expect("a URL"));
        let url = home.url.replacen(&own, &endpoint.host, 1);
        self.with(&home.branch, |branch| branch.endpoints.push(endpoint));
        url
    }

    /// Makes another database, of the same owner.
    pub(crate) fn add_database(&self, branch: &str, name: &str) {
        self.with(branch, |branch| {
            let owner = branch.databases[0].1.clone();
            branch.databases.push((name.to_owned(), owner));
        });
    }

    /// Says how many sessions a branch's computes have.
    pub(crate) fn sessions(&self, branch: &str, count: u64) {
        self.with(branch, |branch| branch.sessions = count);
    }

    /// Writes to a branch.
    pub(crate) fn write(&self, branch: &str, what: &str) {
        self.with(branch, |branch| branch.data.push(what.to_owned()));
    }

    /// What was written to a branch, and to its ancestors before it was forked.
    pub(crate) fn data(&self, branch: &str) -> Vec<String> {
        self.with(branch, |branch| branch.data.clone())
    }

    /// Whether a URL logs in now.
    pub(crate) fn accepts(&self, url: &str) -> bool {
        let Ok(url) = Url::parse(url) else { return false };
        let mut state = locked(&self.state);
        let address: Option<Ipv4Addr> = url.host_str().and_then(|host| host.parse().ok());
        let branch = match address {
            Some(address) => state.behind_address(address).map(|branch| &*branch),
            None => state.behind_name(&url),
        };
        branch.is_some_and(|branch| branch.admit(url.username(), url.password().unwrap_or_default()).is_ok())
    }

    fn with<T>(&self, branch: &str, act: impl FnOnce(&mut Branch) -> T) -> T {
        let mut state = locked(&self.state);
        let mut all = state.projects.values_mut().flat_map(|project| &mut project.branches);
        act(all.find(|one| one.id == branch).expect("a branch that is there"))
    }
}

impl State {
    /// The branch whose endpoint has this address.
    pub(super) fn behind_address(&mut self, address: Ipv4Addr) -> Option<&mut Branch> {
        let (project, branch) = self.addresses.get(&address)?;
        let all = &mut self.projects.get_mut(project)?.branches;
        let found = all.iter_mut().find(|one| one.id == *branch)?;
        let host = format!("{address}:{}", self.port?);
        found.endpoints.iter().any(|endpoint| endpoint.up && endpoint.host == host).then_some(found)
    }

    /// The branch that a URL leads to by the name of its endpoint, or by the real database in its place.
    fn behind_name(&self, url: &Url) -> Option<&Branch> {
        let host = url.host_str()?.replacen("-pooler.", ".", 1);
        let port = url.port();
        let leads_there = |branch: &&Branch| match &branch.behind {
            Some(behind) => {
                port == Some(behind.cluster.port()) && url.path().trim_start_matches('/') == behind.database
            }
            None => branch.endpoints.iter().any(|endpoint| endpoint.up && endpoint.host == host),
        };
        self.projects.values().flat_map(|project| &project.branches).find(leads_there)
    }
}
