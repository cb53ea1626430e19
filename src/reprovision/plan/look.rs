//! Looks at the rows, the machines, the branches, and at what the credentials may do.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use futures_util::{StreamExt, TryStreamExt, stream};

use super::{Obstacle, Plan, Planned};
use crate::{
    keyring::kms::KmsError,
    providers::{ProviderError, fly::Machine, neon::Branch},
    rekey::RekeyError,
    reprovision::{
        Placement, ReprovisionError, Strategy, Works, error::Trouble, phases::Whereabouts, saga::is_ours,
    },
    store::TenantRow,
};

/// Rows that are read at once.
const PAGE: u32 = 500;

/// How long ago a secret may have been rotated to count as rotated for this compromise.
const LATELY_MS: i64 = 24 * 3_600_000;

/// What opens the way to every tenant's new password, or is in every tenant's machine: rotated before the first tenant.
const BEFORE: [(&str, &str); 2] = [
    ("NEON_API_KEY", "who has the old one reads every new password"),
    ("TENANT_REDIS_URL", "every new machine would get the old one"),
];

impl Plan {
    /// Whether what is asked for can be asked for.
    pub(super) async fn look_at_request(&mut self, works: &Works) -> Result<(), ReprovisionError> {
        if self.asked.strategy == Strategy::Fresh && !self.asked.data_loss_accepted {
            self.obstacles.push(Obstacle::of_run(
                "strategy fresh begins every tenant with nothing: its data is lost to it",
                "--data-loss-accepted; or --strategy reset, which keeps it",
            ));
        }
        let (store, target) = (&works.job.store, &works.job.target);
        for column in store.missing_columns(target, &works.columns).await? {
            self.obstacles.push(Obstacle::of_run(
                format!("{} has no column {column}", target.table),
                "name the columns: [tenants] in reseal.toml",
            ));
        }
        match works.try_new_key().await {
            Ok(()) => {}
            Err(Trouble::Kms(error @ KmsError::Service { .. })) => return Err(RekeyError::from(error).into()),
            Err(trouble) => self.obstacles.push(Obstacle::of_run(
                format!("nothing can be sealed under the new key: {trouble}"),
                "allow GenerateDataKey and Decrypt on it, and check that it is enabled",
            )),
        }
        let now = works.journal.now_ms().await?;
        for (secret, why) in BEFORE {
            let rotated = works.journal.rotations(Some(secret)).await?;
            let lately = rotated
                .iter()
                .any(|row| row.phase == "done" && row.ended_ms.is_some_and(|ended| now - ended < LATELY_MS));
            if !lately && !self.asked.accept_unrotated.contains(secret) {
                self.obstacles.push(Obstacle::of_run(
                    format!("{secret} was not rotated in the last day: {why}"),
                    format!("reseal rotate {secret}; or: --accept-unrotated {secret}"),
                ));
            }
        }
        Ok(())
    }

    /// The tenants of the table, in order; none of two that share a machine or a branch.
    pub(super) async fn look_at_rows(&mut self, works: &Works) -> Result<(), ReprovisionError> {
        let (store, target) = (&works.job.store, &works.job.target);
        let (mut ranked, mut after) = (Vec::new(), None);
        let mut holders: HashMap<String, String> = HashMap::new();
        let mut named: BTreeSet<String> = BTreeSet::new();
        loop {
            let page = store.tenants(target, &works.columns, after.as_ref(), PAGE).await?;
            for row in &page {
                let tenant = row.key.to_string();
                if is_unprovisioned(row) {
                    self.unprovisioned += 1;
                    continue;
                }
                let at = Whereabouts::of(row);
                if let Ok(at) = &at {
                    let places = [format!("machine {}", at.machine), format!("branch {}", at.branch)];
                    for place in places {
                        let Some(other) = holders.insert(place.clone(), tenant.clone()) else { continue };
                        // Whoever of the two is left alone loses nothing.
                        for (one, other) in [(&tenant, &other), (&other, &tenant)] {
                            if self.asked.is_for(one) {
                                let what = format!("{place} is also that of tenant {other}");
                                self.obstacles.push(Obstacle::of(one, what));
                            }
                        }
                    }
                }
                if !self.asked.is_for(&tenant) {
                    continue;
                }
                named.insert(tenant.clone());
                match at {
                    Ok(at) => ranked.push((
                        self.asked.place(&tenant, row.rank.as_deref()),
                        Planned {
                            app: at.app.to_owned(),
                            machine: at.machine.to_owned(),
                            project: at.project.to_owned(),
                            branch: at.branch.to_owned(),
                            course: self.asked.course(),
                            tenant,
                        },
                    )),
                    Err(why) => self.obstacles.push(Obstacle::of(&tenant, why)),
                }
            }
            after = page.last().map(|row| row.key.clone());
            if page.len() < PAGE as usize {
                break;
            }
        }
        ranked.sort_by_key(|(place, _)| *place);
        self.tenants = ranked.into_iter().map(|(_, planned)| planned).collect();
        for tenant in self.asked.only.iter().chain(&self.asked.first).filter(|name| !named.contains(*name)) {
            self.obstacles.push(Obstacle::of_run(
                format!("there is no tenant {tenant} to re-provision"),
                "a tenant is named by its row's key",
            ));
        }
        Ok(())
    }

    /// Whether each machine is there, whether it has a volume, and whether the token may change its app.
    pub(super) async fn look_at_machines(&mut self, works: &Works) -> Result<(), ReprovisionError> {
        let apps: BTreeSet<_> = self.tenants.iter().map(|planned| planned.app.clone()).collect();
        let looks = stream::iter(apps).map(|app| async move {
            // Unsets a secret that there is none of: allowed to those only who may write.
            match works.fly.vault_version(&app).await {
                Ok(_) => {}
                Err(error) if error.is_transient() => return Err(error),
                Err(error) => return Ok((app, Err(error))),
            }
            let listed = works.fly.machines(&app).await?;
            let volumes: HashMap<_, _> = listed
                .into_iter()
                .filter(Machine::serves)
                .map(|one| (one.has_volume(), one.id))
                .map(|(v, id)| (id, v))
                .collect();
            Ok::<_, ProviderError>((app, Ok(volumes)))
        });
        let mut looks = looks.buffer_unordered(works.manner.concurrency);
        let mut seen: HashMap<String, HashMap<String, bool>> = HashMap::new();
        while let Some((app, look)) = looks.try_next().await? {
            match look {
                Ok(volumes) => drop(seen.insert(app, volumes)),
                Err(error) => self.obstacles.push(Obstacle::of_run(
                    format!("app {app}: {error}"),
                    "RESEAL_FLY_TOKEN needs a token that may deploy to it",
                )),
            }
        }
        drop(looks);
        for at in 0..self.tenants.len() {
            let planned = &self.tenants[at];
            let Some(volumes) = seen.get(&planned.app) else { continue };
            let has_volume = match volumes.get(&planned.machine) {
                Some(has_volume) => Ok(*has_volume),
                // A list that lags proves nothing.
                None => works.fly.machine(&planned.app, &planned.machine).await.map(|one| one.has_volume()),
            };
            match has_volume {
                Ok(true) => self.tenants[at].course.placement = Placement::InPlace,
                Ok(false) => {}
                Err(error) if error.is_missing() => {
                    let what =
                        format!("its machine {} does not exist in app {}", planned.machine, planned.app);
                    self.obstacles.push(Obstacle::of(&planned.tenant, what));
                }
                Err(error) if error.is_transient() => return Err(error.into()),
                Err(error) => self.obstacles.push(Obstacle::of(&planned.tenant, error)),
            }
        }
        Ok(())
    }

    /// Whether each branch is there and can be left, who hangs on it, and whether the key may change its project.
    pub(super) async fn look_at_branches(&mut self, works: &Works) -> Result<(), ReprovisionError> {
        let mut projects: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for planned in &self.tenants {
            projects.entry(planned.project.clone()).or_default().push(planned.branch.clone());
        }
        let looks = stream::iter(projects).map(|(project, wanted)| async move {
            match branches_of(works, &project, wanted).await {
                Err(error) if ProviderError::is_transient(&error) => Err(error),
                look => Ok((project, look)),
            }
        });
        let mut looks = looks.buffer_unordered(works.manner.concurrency);
        while let Some((project, look)) = looks.try_next().await? {
            match look {
                Ok(branches) => self.compare(&project, &branches),
                Err(error) if error.is_missing() => self.compare(&project, &[]),
                Err(error) => self.obstacles.push(Obstacle::of_run(
                    format!("project {project}: {error}"),
                    "RESEAL_NEON_TOKEN needs a key that may change it",
                )),
            }
        }
        Ok(())
    }

    fn compare(&mut self, project: &str, branches: &[Branch]) {
        let by_id: HashMap<_, _> = branches.iter().map(|branch| (branch.id.as_str(), branch)).collect();
        let in_use: HashSet<_> = self.tenants.iter().map(|planned| planned.branch.as_str()).collect();
        let mut children: HashMap<&str, Vec<&str>> = HashMap::new();
        for branch in branches.iter().filter(|one| !in_use.contains(one.id.as_str()) && !is_ours(&one.name)) {
            if let Some(parent) = &branch.parent_id {
                children.entry(parent).or_default().push(&branch.name);
            }
        }
        let (mut obstacles, mut warnings) = (Vec::new(), Vec::new());
        for planned in self.tenants.iter().filter(|planned| planned.project == project) {
            match by_id.get(planned.branch.as_str()) {
                None => {
                    let what = format!("its branch {} does not exist in project {project}", planned.branch);
                    obstacles.push(Obstacle::of(&planned.tenant, what));
                }
                Some(branch) if branch.protected && planned.course.strategy.forks() => {
                    let what =
                        format!("its branch {} is protected, and can't be left: --strategy reset", branch.id);
                    obstacles.push(Obstacle::of(&planned.tenant, what));
                }
                Some(_) => {}
            }
            if let Some(children) = children.get(planned.branch.as_str()) {
                let what = format!(
                    "branch {} has children that are no tenant's, {}: they keep the passwords they were made with",
                    planned.branch,
                    children.join(", ")
                );
                warnings.push(Obstacle {
                    hint: "delete them, or reset their roles".to_owned(),
                    ..Obstacle::of(&planned.tenant, what)
                });
            }
        }
        self.obstacles.append(&mut obstacles);
        self.warnings.append(&mut warnings);
    }
}

/// The branches of a project that this key may change, those that are wanted among them as far as they are there.
async fn branches_of(
    works: &Works,
    project: &str,
    wanted: Vec<String>,
) -> Result<Vec<Branch>, ProviderError> {
    let mut branches = works.neon.branches(project).await?;
    for id in wanted {
        if branches.iter().any(|branch| branch.id == id) {
            continue;
        }
        // A list that lags proves nothing.
        match works.neon.branch(project, &id).await {
            Ok(branch) => branches.push(branch),
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error),
        }
    }
    if let Some(branch) = branches.first() {
        works.neon.may_change(project, &branch.id).await?;
    }
    Ok(branches)
}

/// Whether a row is nobody's yet.
fn is_unprovisioned(row: &TenantRow) -> bool {
    row.machine.is_none() && row.branch.is_none() && row.cells.iter().all(Option::is_none)
}
