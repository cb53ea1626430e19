//! A workflow and its runs.

use std::fmt;

use serde::Deserialize;
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{GitHub, versioned};
use crate::providers::ProviderError;

/// Runs asked for at once; GitHub gives no more.
const PAGE: usize = 100;

/// A workflow of the repository.
#[derive(Debug, Clone)]
pub struct Workflow {
    github: GitHub,
    file: String,
}

/// A run that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dispatched {
    /// The run, where GitHub says which; where it does not, [`Workflow::find`] looks for it.
    pub run_id: Option<u64>,
    /// When it was asked for, by the clock of this machine.
    pub asked_at: OffsetDateTime,
}

/// What a run is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    /// It has not ended.
    Underway,
    /// It has.
    Ended(Conclusion),
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conclusion {
    /// Every job did what it should.
    Success,
    /// Anything else, by GitHub's word for it.
    Other(&'static str),
}

impl fmt::Display for Conclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Success => "success",
            Self::Other(word) => word,
        })
    }
}

#[derive(Deserialize)]
struct Described {
    state: String,
}

#[derive(Deserialize)]
struct RunDetails {
    workflow_run_id: u64,
}

#[derive(Deserialize)]
struct Runs {
    workflow_runs: Vec<Run>,
}

#[derive(Deserialize)]
struct Run {
    id: u64,
    status: Option<String>,
    conclusion: Option<String>,
    created_at: String,
}

impl Workflow {
    /// The workflow in `.github/workflows/FILE`.
    pub fn new(github: &GitHub, file: impl Into<String>) -> Self {
        Self { github: github.clone(), file: file.into() }
    }

    /// Whether it is there, and not disabled.
    ///
    /// # Errors
    /// See [`ProviderError`].
    pub async fn exists(&self) -> Result<bool, ProviderError> {
        let path = self.github.actions(&["workflows", &self.file]);
        match versioned(self.github.client.get("look at the workflow", &path)).send().await {
            Err(error) if error.is_missing() => Ok(false),
            Err(error) => Err(error),
            Ok(reply) => Ok(reply.json::<Described>()?.state == "active"),
        }
    }

    /// Starts a run of it, on the branch or tag `reference`, without inputs.
    ///
    /// # Errors
    /// Refused where the workflow has no bare `workflow_dispatch`. After one whose outcome is unknown,
    /// [`find`](Self::find) looks for the run: a second call starts a second.
    pub async fn dispatch(&self, reference: &str) -> Result<Dispatched, ProviderError> {
        let asked_at = OffsetDateTime::now_utc();
        let path = self.github.actions(&["workflows", &self.file, "dispatches"]);
        let post = || versioned(self.github.client.post("start the workflow", &path));
        let reply = post().json(&json!({ "ref": reference, "return_run_details": true })).reply().await?;
        if matches!(reply.status(), 400 | 422) {
            // Servers up to GitHub Enterprise 3.20 don't know the field, and have done nothing.
            post().json(&json!({ "ref": reference })).send().await?;
            return Ok(Dispatched { run_id: None, asked_at });
        }
        let reply = reply.success()?;
        let run_id = match reply.status() {
            204 => None,
            _ => Some(reply.json::<RunDetails>()?.workflow_run_id),
        };
        Ok(Dispatched { run_id, asked_at })
    }

    /// The first run that was dispatched at `since` or later, if there is one yet.
    ///
    /// GitHub gives whole seconds of its own clock. To find a run that has a secret, the time at which GitHub says that
    /// the secret was written is a better `since` than any of this machine's clock.
    ///
    /// # Errors
    /// See [`ProviderError`].
    pub async fn find(&self, since: OffsetDateTime) -> Result<Option<u64>, ProviderError> {
        // GitHub's own filter by time is left alone: here it would only save what is one page anyway.
        let runs = self.page("look for the run", &[("event", "workflow_dispatch")], 1).await?;
        let since = since.unix_timestamp();
        let later = runs.into_iter().filter_map(|run| {
            let created = OffsetDateTime::parse(&run.created_at, &Rfc3339).ok()?.unix_timestamp();
            (created >= since).then_some((created, run.id))
        });
        Ok(later.min().map(|(_, id)| id))
    }

    /// What the run `id` is doing.
    ///
    /// # Errors
    /// See [`ProviderError`].
    pub async fn state(&self, id: u64) -> Result<RunState, ProviderError> {
        let id = id.to_string();
        let path = self.github.actions(&["runs", &id]);
        let reply = versioned(self.github.client.get("look at the run", &path)).send().await?;
        let run: Run = reply.json()?;
        if run.status.as_deref() != Some("completed") {
            return Ok(RunState::Underway);
        }
        let conclusion = run.conclusion.ok_or(reply.unexpected("a run that ended, without how"))?;
        Ok(RunState::Ended(named(&conclusion)))
    }

    /// The runs that hold, or are about to read, the secrets of before: those queued or in progress.
    ///
    /// # Errors
    /// See [`ProviderError`].
    pub async fn underway(&self) -> Result<Vec<u64>, ProviderError> {
        let mut underway = Vec::new();
        // In this order, one that goes from the first to the second between the two looks is seen in both.
        for status in ["queued", "in_progress"] {
            for page in 1.. {
                let runs = self.page("list runs", &[("status", status)], page).await?;
                let is_last = runs.len() < PAGE;
                underway.extend(runs.into_iter().map(|run| run.id));
                if is_last {
                    break;
                }
            }
        }
        underway.sort_unstable();
        underway.dedup();
        Ok(underway)
    }

    async fn page(
        &self,
        call: &'static str,
        filter: &[(&str, &str)],
        page: usize,
    ) -> Result<Vec<Run>, ProviderError> {
        let path = self.github.actions(&["workflows", &self.file, "runs"]);
        let get =
            self.github.client.get(call, &path).query(filter).query(&[("per_page", PAGE), ("page", page)]);
        Ok(versioned(get).send().await?.json::<Runs>()?.workflow_runs)
    }
}

fn named(conclusion: &str) -> Conclusion {
    const OTHERS: [&str; 7] =
        ["failure", "cancelled", "timed_out", "action_required", "skipped", "neutral", "stale"];
    match conclusion {
        "success" => Conclusion::Success,
        _ => Conclusion::Other(
            OTHERS.into_iter().find(|word| *word == conclusion).unwrap_or("an unknown conclusion"),
        ),
    }
}
