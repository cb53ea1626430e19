//! The deploy that brings an app's secrets to its machines: nothing changes but that they restart.
//!
//! What `fly secrets deploy` does: one machine after another, each under a lease, with its own configuration sent back
//! whole. A mark in it says that this deploy has been there, so that one that was cut short goes on where it was.

use serde_json::{Map, Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::sleep;

use super::{
    DeployError, Fly, Machine,
    change::{Change, Changing, Launch},
};
use crate::providers::{Patience, ProviderError};

/// Where the mark is in a machine's metadata.
const MARK: &str = "reseal_deploy";

/// How often all machines are gone through, at most.
const ROUNDS: usize = 5;

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
    /// Restarts every machine that lacks the mark, with the vault as it is now, and waits until it is healthy before
    /// the next. One that is not up stays so, and gets the vault when it is next started.
    ///
    /// # Errors
    /// [`DeployError`]; no machine after the one that failed was touched.
    ///
    /// # Crash safety
    /// A machine's mark comes with its update, in one call; a lease ends by itself. So another run does only what is
    /// left, and looks at the health of those that were done.
    pub async fn run(&self) -> Result<(), DeployError> {
        let (version, mark) = (self.fly.vault_version(&self.app).await?, Mark(&self.mark));
        let (fly, app, patience) = (&self.fly, self.app.as_str(), self.patience);
        let changing = Changing { fly, app, patience, version, change: &mark, launch: Launch::IfUp };
        let mut last = String::new();
        // A list that lags can lack a machine. So the end is two lists in a row that have nothing to do.
        let mut quiet = 0;
        for _ in 0..ROUNDS {
            let mut untouched = true;
            for machine in self.serving().await? {
                if mark.is_done(&machine) {
                    changing.settled(&machine.id).await?;
                } else if changing.bring(&machine.id).await? {
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

    async fn serving(&self) -> Result<Vec<Machine>, DeployError> {
        let mut wait = self.patience.begin();
        loop {
            let mut machines = self.fly.machines(&self.app).await?;
            machines.retain(Machine::serves);
            if !machines.is_empty() {
                return Ok(machines);
            }
            if !wait.pause().await {
                return Err(DeployError::NoMachines(self.app.clone()));
            }
        }
    }
}

struct Mark<'a>(&'a str);

impl Change for Mark<'_> {
    fn is_done(&self, machine: &Machine) -> bool {
        machine.metadata(MARK) == Some(self.0)
    }

    fn apply(&self, config: &mut Map<String, Value>) {
        let metadata = config.entry("metadata").or_insert_with(|| json!({}));
        if !metadata.is_object() {
            *metadata = json!({});
        }
        metadata[MARK] = self.0.into();
    }
}

fn moment(text: &Option<String>) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text.as_deref()?, &Rfc3339).ok()
}

impl Fly {
    /// The names of the secrets of `app` that were set after one of its machines was last updated or started: a deploy
    /// brings these too.
    ///
    /// # Errors
    /// See [`ProviderError`].
    pub async fn staged(&self, app: &str) -> Result<Vec<String>, ProviderError> {
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

    /// Whether none of the machines of `app` was updated or started after its secret `name` was set, so that none has it;
    /// what can't be told counts as seen.
    ///
    /// # Errors
    /// See [`ProviderError`].
    pub async fn is_unseen(&self, app: &str, name: &str) -> Result<bool, ProviderError> {
        let entries = self.secrets(app).await?;
        let set = entries.iter().find(|entry| entry.name == name).and_then(|entry| moment(&entry.updated_at));
        let machines = self.machines(app).await?;
        Ok(machines.iter().all(|machine| match (set, moment(&machine.updated_at)) {
            (Some(set), Some(updated)) => set > updated,
            _ => false,
        }))
    }
}
