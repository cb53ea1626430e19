//! The deploy that brings an app's secrets to its machines: nothing changes but that they restart.
//!
//! What `fly secrets deploy` does: one machine after another, each under a lease, with its own configuration sent back
//! whole. A mark in it says that this deploy has been there, so that one that was cut short goes on where it was.

use std::fmt;

use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::sleep;

use super::{Fly, Lease, Leased, Machine, PROVIDER, Update};
use crate::providers::{Patience, ProviderError};

/// Where the mark is in a machine's metadata.
const MARK: &str = "reseal_deploy";

/// How long a lease lasts, in seconds: what a process that died keeps others waiting. It is renewed while we live.
const LEASE: u32 = 30;

/// How often all machines are gone through, at most.
const ROUNDS: usize = 5;

/// Why a deploy ended early. What it did stays; run again, it does the rest.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// Fly did not do as asked.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// The app has no machine that could get a secret, in every list while patience lasted.
    #[error("app {0} has no machines to deploy to")]
    NoMachines(String),
    /// It has its secrets, and did not become healthy. Those after it were left alone.
    #[error("machine {0} did not become healthy")]
    NotHealthy(String),
    /// Somebody else is changing it.
    #[error("machine {machine} is leased by {by}")]
    Held {
        /// The machine.
        machine: String,
        /// Who, as Fly names them.
        by: Holder,
    },
    /// It changes as fast as we update it, or does not keep what it is given.
    #[error("machine {0} is changed by others again and again")]
    Contended(String),
}

impl DeployError {
    /// Whether another look at the machine may find it gone. Where nobody knows what an update did, the machine does.
    fn may_pass(&self) -> bool {
        match self {
            Self::Held { .. } | Self::Contended(_) => true,
            Self::Provider(error) => error.is_transient(),
            Self::NoMachines(_) | Self::NotHealthy(_) => false,
        }
    }
}

/// Who holds a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder(pub Option<String>);

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_deref().unwrap_or("someone unnamed"))
    }
}

/// Brings the vault of an app to its machines.
#[derive(Debug, Clone)]
pub struct Deploy {
    /// Authorised to update the app's machines.
    pub fly: Fly,
    /// The app.
    pub app: String,
    /// Names this deploy, and no other: a machine that has it is passed over.
    pub mark: String,
    /// For each machine: until it is leased and updated, and until it is healthy.
    pub patience: Patience,
}

impl Deploy {
    /// Restarts every machine that lacks the mark, with the vault as it is now, and waits until it is healthy before the next.
    /// One that is not up stays so, and gets the vault when it is next started.
    ///
    /// # Errors
    /// [`DeployError`]; no machine after the one that failed was touched.
    ///
    /// # Crash safety
    /// A machine's mark comes with its update, in one call; a lease ends by itself. So another run does only what is
    /// left, and looks at the health of those that were done.
    pub async fn run(&self) -> Result<(), DeployError> {
        let version = self.fly.vault_version(&self.app).await?;
        let mut last = String::new();
        // A list that lags can lack a machine. So the end is two lists in a row that have nothing to do.
        let mut quiet = 0;
        for _ in 0..ROUNDS {
            let mut untouched = true;
            for machine in self.serving().await? {
                if self.is_done(&machine) {
                    self.settled(&machine.id).await?;
                } else if self.bring(&machine.id, version).await? {
                    untouched = false;
                    last = machine.id;
                }
            }
            quiet = if untouched { quiet + 1 } else { 0 };
            if quiet == 2 {
                return Ok(());
            }
            sleep(self.patience.every).await;
        }
        Err(DeployError::Contended(last))
    }

    fn is_done(&self, machine: &Machine) -> bool {
        machine.metadata(MARK) == Some(&self.mark)
    }

    async fn serving(&self) -> Result<Vec<Machine>, DeployError> {
        let waiting = self.patience.begin();
        loop {
            let mut machines = self.fly.machines(&self.app).await?;
            machines.retain(Machine::serves);
            if !machines.is_empty() {
                return Ok(machines);
            }
            if !waiting.again().await {
                return Err(DeployError::NoMachines(self.app.clone()));
            }
        }
    }

    /// Updates one machine unless that was done, and waits for its health. Whether it had to be updated.
    async fn bring(&self, id: &str, version: u64) -> Result<bool, DeployError> {
        let mut lease = None;
        let done = match self.update(id, version, &mut lease).await {
            Ok(Updated::Launched) => self.healthy(id, &mut lease).await.map(|()| true),
            Ok(Updated::Asleep) => Ok(true),
            Ok(Updated::Before) => self.settled(id).await.map(|()| false),
            Err(error) => Err(error),
        };
        if let Some(lease) = lease {
            // A lease that can't be given back ends by itself.
            let _ = self.fly.release(&self.app, id, &lease).await;
        }
        done
    }

    async fn update(
        &self,
        id: &str,
        version: u64,
        lease: &mut Option<Lease>,
    ) -> Result<Updated, DeployError> {
        let waiting = self.patience.begin();
        let mut sent = Updated::Before;
        loop {
            match self.attempt(id, version, lease, &mut sent).await {
                Ok(()) => return Ok(sent),
                Err(error) if error.may_pass() && waiting.again().await => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads a machine and updates what was read, under a lease. `sent` is what it was told so far.
    async fn attempt(
        &self,
        id: &str,
        version: u64,
        lease: &mut Option<Lease>,
        sent: &mut Updated,
    ) -> Result<(), DeployError> {
        let held = match self.fly.lease(&self.app, id, LEASE, lease.as_ref()).await? {
            Leased::Ours(held) => lease.insert(held),
            Leased::Held(by) => {
                *lease = None;
                return Err(DeployError::Held { machine: id.to_owned(), by: Holder(by) });
            }
        };
        let machine = self.fly.machine(&self.app, id).await?;
        if self.is_done(&machine) {
            return Ok(());
        }
        let config = self.marked(&machine)?;
        let update = Update { of: &machine, config: &config, min_secrets_version: version };
        *sent = if machine.is_up() { Updated::Launched } else { Updated::Asleep };
        match self.fly.update(&self.app, &update, held).await {
            Ok(_) => Ok(()),
            // Somebody deployed after we read: theirs will be read, and kept.
            Err(ProviderError::Refused { status: 409, .. }) => Err(DeployError::Contended(id.to_owned())),
            Err(error) => Err(error.into()),
        }
    }

    /// The machine's whole configuration, and the mark.
    fn marked(&self, machine: &Machine) -> Result<Value, ProviderError> {
        let mut config = machine.config.clone();
        let metadata = config
            .as_object_mut()
            .and_then(|config| config.entry("metadata").or_insert_with(|| json!({})).as_object_mut());
        let Some(metadata) = metadata else {
            let (call, what) = ("look at the machine", "it has no configuration to send back");
            return Err(ProviderError::Unexpected { provider: PROVIDER, call, what });
        };
        metadata.insert(MARK.to_owned(), self.mark.as_str().into());
        Ok(config)
    }

    /// Waits until a machine that we started is healthy, and keeps others from changing it meanwhile.
    async fn healthy(&self, id: &str, lease: &mut Option<Lease>) -> Result<(), DeployError> {
        let waiting = self.patience.begin();
        while !self.fly.machine(&self.app, id).await?.is_healthy() {
            if let Some(held) = lease.as_ref()
                && let Ok(Leased::Ours(renewed)) = self.fly.lease(&self.app, id, LEASE, Some(held)).await
            {
                *lease = Some(renewed);
            }
            if !waiting.again().await {
                return Err(DeployError::NotHealthy(id.to_owned()));
            }
        }
        Ok(())
    }

    /// Waits until a machine that was done before is healthy, or is asleep as many are when nobody asks.
    async fn settled(&self, id: &str) -> Result<(), DeployError> {
        let waiting = self.patience.begin();
        loop {
            let machine = self.fly.machine(&self.app, id).await?;
            if machine.is_healthy() || machine.is_asleep() {
                return Ok(());
            }
            if !waiting.again().await {
                return Err(DeployError::NotHealthy(id.to_owned()));
            }
        }
    }
}

/// What became of a machine.
#[derive(Clone, Copy)]
enum Updated {
    /// It was up, and is being started again.
    Launched,
    /// It was not up, and stays so.
    Asleep,
    /// It was done before.
    Before,
}

impl Fly {
    /// The names of the secrets of `app` that were set after one of its machines was last updated or started: a deploy
    /// brings these too.
    ///
    /// # Errors
    /// See [`ProviderError`].
    pub async fn staged(&self, app: &str) -> Result<Vec<String>, ProviderError> {
        let moment = |text: &Option<String>| OffsetDateTime::parse(text.as_deref()?, &Rfc3339).ok();
        let machines = self.machines(app).await?;
        let oldest = machines.iter().filter(|machine| machine.serves()).map(|m| moment(&m.updated_at)).min();
        let is_newer = |set: Option<OffsetDateTime>| match (set, oldest.flatten()) {
            (Some(set), Some(oldest)) => set > oldest,
            // What can't be told counts.
            _ => true,
        };
        let entries = self.secrets(app).await?.into_iter();
        Ok(entries.filter(|entry| is_newer(moment(&entry.updated_at))).map(|entry| entry.name).collect())
    }
}
