//! The tenant's machine: made, launched with the new URLs, given the old one's place.

use serde_json::{Map, Value, json};

use super::{Turn, database::like};
use crate::{
    providers::{
        ProviderError,
        fly::{Change, Changing, Created, Creation, DeployError, Launch, Machine},
    },
    reprovision::{
        Phase, Run,
        config::{Replacement, replace},
        error::{Trouble, stuck},
        saga::{RUN, Saga, TENANT, copy},
    },
};

/// With which URLs a machine of ours was launched: a name, never a value.
const LAUNCH: &str = "reseal_launch";

/// The configuration that a machine is to run with.
struct Configured<'a> {
    /// All of it; where there is none, what the machine has is changed.
    whole: Option<Map<String, Value>>,
    replacements: &'a [Replacement],
    marks: [(&'static str, &'a str); 3],
}

impl Change for Configured<'_> {
    fn is_done(&self, machine: &Machine) -> bool {
        self.marks.iter().all(|(name, value)| machine.metadata(name) == Some(value))
    }

    fn apply(&self, config: &mut Map<String, Value>) {
        if let Some(whole) = &self.whole {
            config.clone_from(whole);
        }
        replace(config, self.replacements);
        self.marks.iter().for_each(|(name, value)| mark(config, name, value));
    }
}

fn mark(config: &mut Map<String, Value>, name: &str, value: &str) {
    let metadata = config.entry("metadata").or_insert_with(|| json!({}));
    if !metadata.is_object() {
        *metadata = json!({});
    }
    metadata[name] = value.into();
}

impl Run<'_> {
    /// A machine beside the old one, with all that the old one has, which is neither started nor routed to.
    pub(super) async fn create(&self, saga: &mut Saga) -> Result<Turn, Trouble> {
        let (fly, facts) = (&self.works.fly, &saga.facts);
        let old = fly.machine(&facts.app, &facts.machine).await?;
        let mut config = whole(&old)?;
        mark(&mut config, RUN, self.id());
        mark(&mut config, TENANT, saga.tenant());
        let config = Value::Object(config);
        let version = self.vault_version(&facts.app).await?;
        let regions = || [&facts.region].into_iter().chain(&self.works.regions);
        let mut made = None;
        for region in regions() {
            let creation =
                Creation { name: &facts.name, region, config: &config, min_secrets_version: version };
            let machine = match fly.create_machine(&facts.app, &creation).await {
                Ok(Created::Made(machine)) => machine,
                Ok(Created::Taken { id }) => self.adopted(saga, &id).await?,
                Err(error) if error.is_capacity() => continue,
                Err(error) => return Err(error.into()),
            };
            made = Some(machine);
            break;
        }
        let Some(machine) = made else {
            let regions: Vec<_> = regions().map(String::as_str).collect();
            let regions = regions.join(", ");
            return Err(stuck(format!(
                "there is no room for its machine in {regions}: --fallback-region REGION"
            )));
        };
        (saga.facts.new_machine, saga.facts.new_region) = (Some(machine.id), Some(machine.region));
        Ok(Turn::Done)
    }

    /// The machine that has the name already, if it was made for this tenant by this run.
    async fn adopted(&self, saga: &Saga, id: &str) -> Result<Machine, Trouble> {
        let machine = self.works.fly.machine(&saga.facts.app, id).await?;
        let is_ours =
            machine.metadata(RUN) == Some(self.id()) && machine.metadata(TENANT) == Some(saga.tenant());
        if is_ours {
            return Ok(machine);
        }
        Err(stuck(format!("machine {id} has the name {}, and was not made by this run", saga.facts.name)))
    }

    /// The machine runs with the new URLs, and its checks pass. If they never do, the tenant is back on its old machine, as
    /// far as there is a way.
    pub(super) async fn launch(&self, saga: &mut Saga) -> Result<Turn, Trouble> {
        let (replacements, course) = (self.replacements(saga), saga.facts.course);
        let machine = saga.facts.last_machine();
        let launched = if Self::is_in_place(saga) {
            self.configure(saga, machine, None, &replacements, "").await
        } else {
            let old = self.old_machine(saga).await?;
            // What was deployed to the old one since is deployed to the new one too.
            let version = old.as_ref().map_or("", |old| &*old.instance_id);
            self.configure(saga, machine, old.as_ref().map(whole).transpose()?, &replacements, version).await
        };
        match launched {
            Ok(()) if !course.phases().contains(&Phase::Traffic) => self.end_outage(saga).await?,
            Ok(()) => {}
            Err(trouble) if trouble.may_pass() || (course.strategy.forks() && !course.hard) => {
                return Err(trouble);
            }
            Err(trouble) => {
                let back = self.fall_back(saga, &replacements).await?;
                return Err(stuck(format!("{trouble}; {back}")));
            }
        }
        Ok(Turn::Done)
    }

    /// The old machine as it is now; where it is gone, the new one has a copy of what it was.
    async fn old_machine(&self, saga: &Saga) -> Result<Option<Machine>, Trouble> {
        match self.works.fly.machine(&saga.facts.app, &saga.facts.machine).await {
            Ok(old) => Ok(Some(old)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn replacements(&self, saga: &Saga) -> Vec<Replacement> {
        let (urls, variables) = (&saga.urls, &self.works.variables);
        let new_of = |old: &_| urls.new.iter().find_map(|new| like(old, new));
        let pairs = urls.old.iter().filter_map(|old| Some((copy(old), new_of(old)?)));
        let database = urls.new.first().map(|new| Replacement {
            variable: variables.database.clone(),
            new: copy(new),
            pairs: pairs.collect(),
        });
        let redis = urls.redis.as_ref().map(|new| Replacement {
            variable: variables.redis.clone(),
            new: copy(new),
            pairs: urls.old_redis.iter().map(|old| (copy(old), copy(new))).collect(),
        });
        database.into_iter().chain(redis).collect()
    }

    /// The machine has this configuration, runs, and is healthy.
    async fn configure(
        &self,
        saga: &Saga,
        machine: &str,
        whole: Option<Map<String, Value>>,
        replacements: &[Replacement],
        tag: &str,
    ) -> Result<(), Trouble> {
        let facts = &saga.facts;
        let launch = format!("{}-{}-{tag}", facts.name, facts.resets);
        let marks = [(RUN, self.id()), (TENANT, saga.tenant()), (LAUNCH, launch.as_str())];
        let change = Configured { whole, replacements, marks };
        let changing = Changing {
            fly: &self.works.fly,
            app: &facts.app,
            patience: self.works.manner.patience,
            version: self.vault_version(&facts.app).await?,
            change: &change,
            launch: Launch::Always,
        };
        changing.bring(machine).await?;
        Ok(())
    }

    /// The old machine is in service with the new URL, if that can be; what became of it, in words.
    async fn fall_back(
        &self,
        saga: &mut Saga,
        replacements: &[Replacement],
    ) -> Result<&'static str, Trouble> {
        if Self::is_in_place(saga) || saga.facts.course.strategy.forks() {
            return Ok("the tenant is down: its old credentials are dead");
        }
        let (fly, facts) = (&self.works.fly, &saga.facts);
        fly.stop(&facts.app, facts.last_machine()).await?;
        match self.configure(saga, &saga.facts.machine, None, replacements, "").await {
            Ok(()) => {}
            Err(Trouble::Deploy(DeployError::NotHealthy(_))) => {
                return Ok("nor does its old machine with the new URL: the tenant is down");
            }
            Err(trouble) => return Err(trouble),
        }
        self.end_outage(saga).await?;
        self.record_old_machine(saga).await?;
        Ok("its old machine is in service with the new URL")
    }

    /// The old machine runs with what it had before it was taken out of service, and is routed to.
    pub(super) async fn back_in_service(&self, saga: &mut Saga) -> Result<(), Trouble> {
        let (fly, facts) = (&self.works.fly, &saga.facts);
        if Self::is_in_place(saga) {
            let back: Vec<_> =
                self.replacements(saga).into_iter().filter_map(Replacement::reversed).collect();
            match self.configure(saga, &facts.machine, None, &back, "back").await {
                Ok(()) | Err(Trouble::Deploy(DeployError::NotHealthy(_))) => {}
                Err(trouble) => return Err(trouble),
            }
        } else {
            fly.start(&facts.app, &facts.machine).await?;
        }
        fly.uncordon(&facts.app, &facts.machine).await?;
        if fly.healthy(&facts.app, &facts.machine, self.works.manner.patience).await? {
            self.end_outage(saga).await?;
        }
        Ok(())
    }

    /// The machine that was launched is routed to, and one whose place it took is gone.
    pub(super) async fn traffic(&self, saga: &mut Saga) -> Result<Turn, Trouble> {
        let (fly, patience) = (&self.works.fly, self.works.manner.patience);
        fly.uncordon(&saga.facts.app, saga.facts.last_machine()).await?;
        self.end_outage(saga).await?;
        let facts = &saga.facts;
        if Self::is_in_place(saga) {
            return Ok(Turn::Done);
        }
        fly.cordon(&facts.app, &facts.machine).await?;
        fly.stop(&facts.app, &facts.machine).await?;
        // One that does not stop is destroyed all the same: it has no credential that works.
        fly.stopped(&facts.app, &facts.machine, patience).await?;
        self.destroy(&facts.app, &facts.machine).await?;
        Ok(Turn::Done)
    }

    /// Destroys a machine, and sees that it is gone.
    pub(super) async fn destroy(&self, app: &str, machine: &str) -> Result<(), Trouble> {
        let fly = &self.works.fly;
        let mut wait = self.works.manner.patience.begin();
        loop {
            fly.destroy(app, machine).await?;
            match fly.machine(app, machine).await {
                Ok(seen) if seen.state == "destroyed" => return Ok(()),
                Ok(_) => {}
                Err(error) if error.is_missing() => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            if !wait.pause().await {
                return Err(stuck(format!("machine {machine} is not destroyed")));
            }
        }
    }
}

fn whole(machine: &Machine) -> Result<Map<String, Value>, Trouble> {
    machine.config.as_object().cloned().ok_or_else(|| {
        let (provider, call) = ("Fly.io", "look at the machine");
        Trouble::Provider(ProviderError::Busy {
            provider,
            call,
            why: "its host does not show its configuration".to_owned(),
            retry_after: None,
        })
    })
}
