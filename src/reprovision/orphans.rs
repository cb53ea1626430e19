//! What was made for a tenant and is in nobody's use: looked for at the providers, by name and by metadata, in two lists.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::time::sleep;

use super::{
    Facts, Manner, Placement, ReprovisionError, Works,
    saga::{RUN, is_ours},
};
use crate::{
    providers::{ProviderError, fly::Fly, neon::Neon},
    store::{SagaState, Store, Target, TenantColumns, TenantRow},
};

/// Rows and sagas that are read at once.
const PAGE: u32 = 500;

/// What kind of thing is in nobody's use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A machine, which costs, and has a tenant's URLs.
    Machine,
    /// A branch with an endpoint, where somebody can log in.
    Branch,
}

impl Kind {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Machine => "machine",
            Self::Branch => "branch",
        }
    }
}

/// Something that is in nobody's use.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Orphan {
    /// What it is.
    pub kind: Kind,
    /// The app or the project that it is in.
    pub place: String,
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// What is left at the providers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// In nobody's use.
    pub orphans: Vec<Orphan>,
    /// Branches that tenants left: they have no endpoint, and their children need them.
    pub retired: Vec<Orphan>,
}

/// What is in use, and what must not be there any more.
#[derive(Default)]
struct Known {
    /// Every app, with the machines in it that rows name.
    apps: BTreeMap<String, BTreeSet<String>>,
    /// Every project, with the branches in it that rows name.
    projects: BTreeMap<String, BTreeSet<String>>,
    machines: HashSet<String>,
    branches: HashSet<String>,
    /// Names that are being given.
    names: HashSet<String>,
    /// Machines whose place was taken.
    replaced: HashSet<String>,
    /// Branches that were left.
    left: HashSet<String>,
}

/// Where orphans are looked for: no key is needed for it.
#[derive(Debug, Clone, Copy)]
pub struct Search<'a> {
    /// The Machines API.
    pub fly: &'a Fly,
    /// The branches' API.
    pub neon: &'a Neon,
    /// The database of the tenants' table.
    pub store: &'a dyn Store,
    /// The table.
    pub target: &'a Target,
    /// Where it says what a tenant has.
    pub columns: &'a TenantColumns,
    /// Where the journal is.
    pub journal: &'a dyn Store,
    /// How many apps or projects at once, how long between the two lists, and how long one that lacks what is there is asked
    /// for again.
    pub manner: &'a Manner,
}

impl<'a> From<&'a Works> for Search<'a> {
    fn from(works: &'a Works) -> Self {
        Self {
            fly: &works.fly,
            neon: &works.neon,
            store: works.job.store.as_ref(),
            target: &works.job.target,
            columns: &works.columns,
            journal: works.journal.as_ref(),
            manner: &works.manner,
        }
    }
}

/// Looks for orphans in every app and project of the table and of its last run. Changes nothing.
///
/// # Errors
/// The table's, the journal's, and a provider's that does not answer.
pub async fn orphans(works: &Works) -> Result<Leftovers, ReprovisionError> {
    Search::from(works).orphans().await
}

impl Search<'_> {
    /// What [`orphans`] finds.
    ///
    /// # Errors
    /// Those of [`orphans`].
    pub async fn orphans(&self) -> Result<Leftovers, ReprovisionError> {
        let known = Known::of(self).await?;
        let once = self.look(&known).await?;
        sleep(self.manner.apart).await;
        let twice = self.look(&known).await?;
        let known_now = Known::of(self).await?;
        let either: BTreeSet<_> = once.orphans.into_iter().chain(twice.orphans).collect();
        let mut orphans = Vec::new();
        // What a tenant came to use between the two lists is none, and neither is what only a list still has.
        for orphan in either.into_iter().filter(|orphan| !known_now.uses(orphan)) {
            if self.is_there(orphan.kind, &orphan.place, &orphan.id).await? {
                orphans.push(orphan);
            }
        }
        Ok(Leftovers { orphans, retired: twice.retired })
    }

    async fn look(&self, known: &Known) -> Result<Leftovers, ReprovisionError> {
        let machines = stream::iter(&known.apps).map(|(app, in_use)| self.in_app(known, app, in_use));
        let machines: Vec<_> = machines.buffer_unordered(self.manner.concurrency).try_collect().await?;
        let branches = stream::iter(&known.projects).map(|(at, in_use)| self.in_project(known, at, in_use));
        let branches: Vec<_> = branches.buffer_unordered(self.manner.concurrency).try_collect().await?;
        let mut found = Leftovers { orphans: machines.into_iter().flatten().collect(), retired: Vec::new() };
        for leftovers in branches {
            found.orphans.extend(leftovers.orphans);
            found.retired.extend(leftovers.retired);
        }
        found.orphans.sort();
        found.retired.sort();
        Ok(found)
    }

    async fn in_app(
        &self,
        known: &Known,
        app: &str,
        in_use: &BTreeSet<String>,
    ) -> Result<Vec<Orphan>, ProviderError> {
        let mut wait = self.manner.patience.begin();
        let listed = loop {
            let listed = match self.fly.machines(app).await {
                Err(error) if error.is_missing() => return Ok(Vec::new()),
                listed => listed?,
            };
            let ids = listed.iter().map(|machine| machine.id.as_str()).collect();
            if self.is_whole(Kind::Machine, app, in_use, &ids).await? {
                break listed;
            }
            if !wait.pause().await {
                return Err(incomplete("Fly.io", "list machines"));
            }
        };
        let strays = listed.into_iter().filter(|machine| machine.state != "destroyed").filter(|machine| {
            let is_ours = is_ours(&machine.name) || machine.metadata(RUN).is_some();
            (is_ours || known.replaced.contains(&machine.id)) && !known.machines.contains(&machine.id)
        });
        let orphan = |id, name| Orphan { kind: Kind::Machine, place: app.to_owned(), id, name };
        let orphans = strays.map(|machine| orphan(machine.id, machine.name));
        Ok(orphans.filter(|orphan| !known.uses(orphan)).collect())
    }

    async fn in_project(
        &self,
        known: &Known,
        project: &str,
        in_use: &BTreeSet<String>,
    ) -> Result<Leftovers, ProviderError> {
        let mut wait = self.manner.patience.begin();
        let listed = loop {
            let listed = match self.neon.branches(project).await {
                Err(error) if error.is_missing() => return Ok(Leftovers::default()),
                listed => listed?,
            };
            let ids = listed.iter().map(|branch| branch.id.as_str()).collect();
            if self.is_whole(Kind::Branch, project, in_use, &ids).await? {
                break listed;
            }
            if !wait.pause().await {
                return Err(incomplete("neon", "list the branches"));
            }
        };
        let mut found = Leftovers::default();
        let parents: HashSet<_> = listed.iter().filter_map(|one| one.parent_id.clone()).collect();
        for branch in listed {
            let is_ours = is_ours(&branch.name) || branch.annotations.contains_key(RUN);
            let was_left = known.left.contains(&branch.id);
            let has_children = parents.contains(&branch.id);
            let orphan =
                Orphan { kind: Kind::Branch, place: project.to_owned(), id: branch.id, name: branch.name };
            if known.uses(&orphan) || !(is_ours || was_left) {
                continue;
            }
            let has_endpoint = !self.neon.endpoints(project, &orphan.id).await?.is_empty();
            if !has_endpoint && (was_left || has_children) {
                found.retired.push(orphan);
            } else {
                found.orphans.push(orphan);
            }
        }
        Ok(found)
    }

    /// Whether a list has all that rows name and that is there. One that has not says nothing of the rest either.
    async fn is_whole(
        &self,
        kind: Kind,
        place: &str,
        in_use: &BTreeSet<String>,
        listed: &HashSet<&str>,
    ) -> Result<bool, ProviderError> {
        for id in in_use.iter().filter(|id| !listed.contains(id.as_str())) {
            if self.is_there(kind, place, id).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn is_there(&self, kind: Kind, place: &str, id: &str) -> Result<bool, ProviderError> {
        let seen = match kind {
            Kind::Machine => self.fly.machine(place, id).await.map(|machine| machine.state != "destroyed"),
            Kind::Branch => self.neon.branch(place, id).await.map(|_| true),
        };
        match seen {
            Err(error) if error.is_missing() => Ok(false),
            seen => seen,
        }
    }
}

impl Known {
    async fn of(search: &Search<'_>) -> Result<Self, ReprovisionError> {
        let mut known = Self::default();
        let mut after = None;
        loop {
            let page = search.store.tenants(search.target, search.columns, after.as_ref(), PAGE).await?;
            page.iter().for_each(|row| known.add_row(row));
            after = page.last().map(|row| row.key.clone());
            if page.len() < PAGE as usize {
                break;
            }
        }
        let runs = search.journal.reprovisions(Some(&search.target.name)).await?;
        let Some(last) = runs.first() else { return Ok(known) };
        let mut after = -1;
        loop {
            let page = search.journal.sagas(&last.run_id, &[], after, PAGE).await?;
            for saga in &page {
                if let Ok(facts) = serde_json::from_str::<Facts>(&saga.detail) {
                    known.add_facts(facts, saga.state);
                }
            }
            let Some(last) = page.last() else { return Ok(known) };
            after = last.position;
        }
    }

    fn add_row(&mut self, row: &TenantRow) {
        if let Some(app) = &row.app {
            self.apps.entry(app.clone()).or_default().extend(row.machine.clone());
        }
        if let Some(project) = &row.project {
            self.projects.entry(project.clone()).or_default().extend(row.branch.clone());
        }
        self.machines.extend(row.machine.clone());
        self.branches.extend(row.branch.clone());
    }

    fn add_facts(&mut self, facts: Facts, state: SagaState) {
        if facts.name.is_empty() {
            return;
        }
        let is_over = matches!(state, SagaState::Done | SagaState::Gone);
        self.apps.entry(facts.app).or_default();
        self.projects.entry(facts.project).or_default();
        if !is_over {
            self.names.insert(facts.name);
            self.machines.extend([facts.machine].into_iter().chain(facts.new_machine));
            self.branches.extend([facts.branch].into_iter().chain(facts.new_branch));
        } else if state == SagaState::Done {
            if facts.course.placement == Placement::Swap {
                self.replaced.insert(facts.machine);
            }
            if facts.course.strategy.forks() {
                self.left.insert(facts.branch);
            }
        }
    }

    fn uses(&self, orphan: &Orphan) -> bool {
        let ids = match orphan.kind {
            Kind::Machine => &self.machines,
            Kind::Branch => &self.branches,
        };
        ids.contains(&orphan.id) || self.names.contains(&orphan.name)
    }
}

/// A list that lacks what is in use, and was seen to be there, says nothing of the rest either.
fn incomplete(provider: &'static str, call: &'static str) -> ProviderError {
    let why = "its list lacks what is there".to_owned();
    ProviderError::Busy { provider, call, why, retry_after: None }
}
