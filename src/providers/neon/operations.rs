//! Operations: what a change sets going, and what keeps a project from the next one.

use serde::{Deserialize, Deserializer, de::Error};

use super::{Neon, PROVIDER};
use crate::providers::{
    Patience, ProviderError,
    http::{Call, Reply},
};

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
pub(super) struct Operations {
    pub(super) operations: Vec<Operation>,
}

impl Neon {
    /// Waits until every one of these operations of `project` is finished or skipped.
    ///
    /// # Errors
    /// An operation that ended otherwise, or still runs at the deadline, is [`ProviderError::Uncertain`] and names the
    /// operation: what it was to change may be changed.
    pub async fn finish(
        &self,
        project: &str,
        operations: &[Operation],
        patience: Patience,
    ) -> Result<(), ProviderError> {
        let mut left = operations.to_vec();
        let mut wait = patience.begin();
        loop {
            let mut running = Vec::new();
            for known in &left {
                let now = self.operation(project, known).await?;
                match now.progress() {
                    Progress::Done => {}
                    Progress::Running => running.push(now),
                    Progress::Failed => return Err(uncertain(now.shown())),
                }
            }
            left = running;
            let Some(first) = left.first() else { return Ok(()) };
            if !wait.pause().await {
                return Err(uncertain(first.shown()));
            }
        }
    }

    /// Waits until no operation of `project` runs.
    pub(super) async fn idle(&self, project: &str, patience: Patience) -> Result<(), ProviderError> {
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

    /// Sends a change as soon as the project takes one.
    ///
    /// # Errors
    /// The last refusal when it took none until the deadline; then nothing was done.
    pub(super) async fn change<'a>(
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
