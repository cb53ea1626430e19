//! One change to the configuration of a machine: under a lease, with everything else as it is, and until it is healthy.

use std::fmt;

use serde_json::{Map, Value};

use super::{Fly, Lease, Leased, Machine, PROVIDER, Update};
use crate::providers::{Patience, ProviderError};

/// How long a lease lasts, in seconds: what a process that died keeps others waiting. It is renewed while we live.
const LEASE: u32 = 30;

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

/// What a configuration is to become.
pub trait Change: Sync {
    /// Whether the machine has it.
    fn is_done(&self, machine: &Machine) -> bool;

    /// Makes it so; what else is in `config` stays.
    fn apply(&self, config: &mut Map<String, Value>);
}

/// Which machines a change starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Launch {
    /// Those that are up, which restart.
    IfUp,
    /// One that is asleep or was never started, too.
    Always,
}

/// A change on its way to machines of an app.
pub struct Changing<'a> {
    /// Authorised to update them.
    pub fly: &'a Fly,
    /// The app.
    pub app: &'a str,
    /// For each machine: until it is leased and updated, and until it is healthy.
    pub patience: Patience,
    /// The version of the vault that a machine must start with at least.
    pub version: u64,
    /// What is changed.
    pub change: &'a dyn Change,
    /// Whether it is only for machines that are up.
    pub launch: Launch,
}

impl Changing<'_> {
    /// Updates one machine unless that was done, and waits for its health. Whether it had to be updated.
    ///
    /// # Errors
    /// [`DeployError`].
    ///
    /// # Crash safety
    /// One call changes the machine, and a lease ends by itself. Brought again, a change that is there is not made again:
    /// only its start and its health are seen to.
    pub async fn bring(&self, id: &str) -> Result<bool, DeployError> {
        let mut lease = None;
        let done = match self.update(id, &mut lease).await {
            Ok(Updated::Launched) => self.healthy(id, &mut lease).await.map(|()| true),
            Ok(Updated::Asleep) => Ok(true),
            Ok(Updated::Before) if self.launch == Launch::Always => {
                self.healthy(id, &mut lease).await.map(|()| false)
            }
            Ok(Updated::Before) => self.settled(id).await.map(|()| false),
            Err(error) => Err(error),
        };
        if let Some(lease) = lease {
            // A lease that can't be given back ends by itself.
            let _ = self.fly.release(self.app, id, &lease).await;
        }
        done
    }

    async fn update(&self, id: &str, lease: &mut Option<Lease>) -> Result<Updated, DeployError> {
        let mut wait = self.patience.begin();
        let mut sent = Updated::Before;
        loop {
            match self.attempt(id, lease, &mut sent).await {
                Ok(()) => return Ok(sent),
                Err(error) if error.may_pass() && wait.pause().await => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads a machine and updates what was read, under a lease. `sent` is what it was told so far.
    async fn attempt(
        &self,
        id: &str,
        lease: &mut Option<Lease>,
        sent: &mut Updated,
    ) -> Result<(), DeployError> {
        let held = match self.fly.lease(self.app, id, LEASE, lease.as_ref()).await? {
            Leased::Ours(held) => lease.insert(held),
            Leased::Held(by) => {
                *lease = None;
                return Err(DeployError::Held { machine: id.to_owned(), by: Holder(by) });
            }
        };
        let machine = self.fly.machine(self.app, id).await?;
        if self.change.is_done(&machine) {
            return Ok(());
        }
        let config = self.changed(&machine)?;
        let launch = machine.is_up() || self.launch == Launch::Always;
        let update = Update { of: &machine, config: &config, min_secrets_version: self.version, launch };
        *sent = if launch { Updated::Launched } else { Updated::Asleep };
        match self.fly.update(self.app, &update, held).await {
            Ok(_) => Ok(()),
            // Somebody deployed after we read: theirs will be read, and kept.
            Err(error @ ProviderError::Refused { status: 409, .. }) if !error.is_capacity() => {
                Err(DeployError::Contended(id.to_owned()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The machine's whole configuration, changed.
    fn changed(&self, machine: &Machine) -> Result<Value, ProviderError> {
        let mut config = machine.config.clone();
        let Some(entries) = config.as_object_mut() else {
            let (call, what) = ("look at the machine", "it has no configuration to send back");
            return Err(ProviderError::Unexpected { provider: PROVIDER, call, what });
        };
        self.change.apply(entries);
        Ok(config)
    }

    /// Waits until a machine that we started is healthy, and keeps others from changing it meanwhile.
    async fn healthy(&self, id: &str, lease: &mut Option<Lease>) -> Result<(), DeployError> {
        let mut wait = self.patience.begin();
        loop {
            let machine = self.fly.machine(self.app, id).await?;
            if machine.is_healthy() {
                return Ok(());
            }
            if self.launch == Launch::Always && machine.is_down() {
                self.wake(id, lease.as_ref()).await?;
            }
            if let Some(held) = lease.as_ref()
                && let Ok(Leased::Ours(renewed)) = self.fly.lease(self.app, id, LEASE, Some(held)).await
            {
                *lease = Some(renewed);
            }
            if !wait.pause().await {
                return Err(DeployError::NotHealthy(id.to_owned()));
            }
        }
    }

    /// Starts a machine that its update left asleep, as Fly does with those that were not up. What it can't do yet, as
    /// while it prepares the new version, is asked for again at the next look.
    async fn wake(&self, id: &str, lease: Option<&Lease>) -> Result<(), DeployError> {
        match self.fly.start_under(self.app, id, lease).await {
            Err(error) if !error.is_transient() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Waits until a machine that was done before is healthy, or is asleep as many are when nobody asks.
    pub(super) async fn settled(&self, id: &str) -> Result<(), DeployError> {
        let mut wait = self.patience.begin();
        loop {
            let machine = self.fly.machine(self.app, id).await?;
            if machine.is_healthy() || machine.is_asleep() {
                return Ok(());
            }
            if !wait.pause().await {
                return Err(DeployError::NotHealthy(id.to_owned()));
            }
        }
    }
}

/// What became of a machine.
#[derive(Clone, Copy)]
enum Updated {
    /// It is being started.
    Launched,
    /// It was not up, and stays so.
    Asleep,
    /// It was done before.
    Before,
}
