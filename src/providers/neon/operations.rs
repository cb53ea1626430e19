//! Operations: what a change sets going, and what keeps a project from the next one.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Deserializer, de::Error};
use tokio::sync::OwnedMutexGuard;

use super::{Neon, PROVIDER};
use crate::providers::{
    Patience, ProviderError,
    http::{Call, Reply},
};

/// The status by which a deletion says that there is nothing to delete.
pub(super) const NO_CONTENT: u16 = 204;

/// How many of a project's operations are looked at, newest first.
const LATEST: &str = "100";

/// An operation of a project.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Operation {
    /// Its id, a UUID.
    #[serde(deserialize_with = "code")]
    pub id: String,
    /// What it does, such as `apply_config`.
    #[serde(deserialize_with = "code")]
    pub action: String,
    /// How far it is, such as `running`.
    #[serde(deserialize_with = "code")]
    pub status: String,
}

/// What an operation's status comes to.
enum Progress {
    Running,
    Done,
    Failed,
}

impl Operation {
    fn progress(&self) -> Progress {
        match &*self.status {
            "finished" | "skipped" => Progress::Done,
            "failed" | "error" | "cancelled" => Progress::Failed,
            // `scheduling`, `running`, `cancelling`, and what Neon may add.
            _ => Progress::Running,
        }
    }

    fn shown(&self) -> String {
        format!("operation {} ({}) is {}", self.id, self.action, self.status)
    }
}

#[derive(Deserialize)]
struct One {
    operation: Operation,
}

#[derive(Deserialize)]
struct Operations {
    operations: Vec<Operation>,
}

/// Whose turn it is in each project. Changes of one project queue here, and not at Neon, which would answer all but one
/// of them with 423 again and again.
#[derive(Debug, Clone, Default)]
pub(super) struct Turns(Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>>);

impl Turns {
    /// Waits for a turn; it lasts until the guard is dropped. Whoever has one gives it back within their patience.
    async fn take(&self, project: &str) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(turns.entry(project.to_owned()).or_default())
        };
        turn.lock_owned().await
    }
}

impl Neon {
    /// Changes `project`: waits for its turn among the changes of this process, sends the change as soon as the project
    /// takes one, and waits until every operation of it is finished. The turn's wait is not of the patience.
    ///
    /// # Errors
    /// When the project took no change until the deadline, its last refusal; then nothing was done. None that comes
    /// later says so.
    pub(super) async fn change<'a>(
        &'a self,
        project: &str,
        call: &'static str,
        patience: Patience,
        change: impl Fn() -> Call<'a> + Send + Sync,
    ) -> Result<Reply, ProviderError> {
        let _turn = self.turns.take(project).await;
        let reply = self.send(patience, change).await?;
        if reply.status() != NO_CONTENT {
            let begun: Operations = reply.json()?;
            let finished = self.finish(project, &begun.operations, patience).await;
            finished.map_err(|error| error.after(PROVIDER, call))?;
        }
        Ok(reply)
    }

    /// Waits until no operation of `project` runs, in a turn of its own: changes of this process don't keep it waiting.
    pub(super) async fn idle(&self, project: &str, patience: Patience) -> Result<(), ProviderError> {
        let _turn = self.turns.take(project).await;
        let mut wait = patience.begin();
        loop {
            let call = self.get("list the operations", &["projects", project, "operations"]);
            let latest: Operations = call.query(&[("limit", LATEST)]).send().await?.json()?;
            let mut running =
                latest.operations.iter().filter(|one| matches!(one.progress(), Progress::Running));
            let Some(one) = running.next() else { return Ok(()) };
            if !wait.pause().await {
                let (call, why) = ("come to rest", one.shown());
                return Err(ProviderError::Busy { provider: PROVIDER, call, why, retry_after: None });
            }
        }
    }

    async fn send<'a>(
        &'a self,
        patience: Patience,
        change: impl Fn() -> Call<'a> + Send + Sync,
    ) -> Result<Reply, ProviderError> {
        let mut wait = patience.begin();
        loop {
            let busy = match change().reply().await {
                Ok(reply) if reply.status() == 422 && reply.mentions("branch not ready yet") => {
                    reply.refusal()
                }
                Err(error @ ProviderError::Busy { .. }) => error,
                reply => return reply?.success(),
            };
            if !wait.pause().await {
                return Err(busy);
            }
        }
    }

    /// Waits until every one of these operations is finished or skipped. They run one after the other, so only the
    /// first that may still run is asked about.
    ///
    /// # Errors
    /// An operation that ended otherwise, or still runs at the deadline, is [`ProviderError::Uncertain`] and names the
    /// operation: what it was to change may be changed.
    async fn finish(
        &self,
        project: &str,
        operations: &[Operation],
        patience: Patience,
    ) -> Result<(), ProviderError> {
        let mut wait = patience.begin();
        for known in operations {
            loop {
                let now = self.operation(project, known).await?;
                match now.progress() {
                    Progress::Done => break,
                    Progress::Running if wait.pause().await => {}
                    Progress::Running | Progress::Failed => return Err(uncertain(now.shown())),
                }
            }
        }
        Ok(())
    }

    async fn operation(&self, project: &str, known: &Operation) -> Result<Operation, ProviderError> {
        if !matches!(known.progress(), Progress::Running) {
            return Ok(known.clone());
        }
        let path = ["projects", project, "operations", &known.id];
        match self.get("read an operation", &path).send().await {
            // Lists and reads come after the change that they show.
            Err(error) if error.is_missing() => Ok(known.clone()),
            reply => reply?.json::<One>().map(|one| one.operation),
        }
    }
}

fn uncertain(why: String) -> ProviderError {
    ProviderError::Uncertain { provider: PROVIDER, call: "finish the change", why }
}

/// A word that may stand in an error: no free text.
fn code<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    let is_code = (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    if is_code { Ok(text) } else { Err(D::Error::custom("no code")) }
}
