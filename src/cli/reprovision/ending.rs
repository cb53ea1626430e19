//! How a run, or this process's part in it, ended: what is said, and what to type next.

use std::time::Duration;

use reseal::{
    reprovision::{Ending, ReprovisionError, Run, Works, finish::Finish},
    store::StoreError,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::time::timeout;

use super::{
    asked, fault, leftovers,
    run::Finished,
    tally::{Tally, tenants},
};
use crate::cli::{
    Answer, Call, Exit, Fault, audit, certificate,
    stdio::{shown, time, wrapped},
};

/// How long a database may take to say how far it came, once it is over.
const LAST_LOOK: Duration = Duration::from_secs(2);

/// Problems that a person is shown.
const SHOWN: usize = 20;

/// What there is to tell of a run.
pub(super) struct Told<'a> {
    pub(super) call: &'a Call,
    pub(super) works: &'a Works,
    pub(super) run: &'a Run<'a>,
    /// Where the certificate is to be written to besides.
    pub(super) file: Option<&'a str>,
}

impl Told<'_> {
    /// The run's state when an error ended this process's part.
    pub(super) async fn failed(&self, error: ReprovisionError) -> Fault {
        if !error.is_resumable() {
            return fault(self.call, error).with(self.so_far("failed").await);
        }
        Fault::resumable(format!("{error}; the run stays open and nothing is lost"))
            .hint(asked::go_on(self.call))
            .with(self.so_far("interrupted").await)
    }

    /// The same when somebody stopped it at once.
    pub(super) async fn cut(&self) -> Fault {
        Fault::resumable(format!(
            "run {} was stopped at once; it stays open and nothing is lost",
            self.run.id()
        ))
        .hint(asked::go_on(self.call))
        .with(self.so_far("interrupted").await)
    }

    async fn so_far(&self, outcome: &str) -> Value {
        let tally = timeout(LAST_LOOK, self.tally()).await.ok().and_then(Result::ok);
        tally.map_or_else(|| json!({"outcome": outcome}), |tally| self.document(outcome, &tally))
    }

    async fn tally(&self) -> Result<Tally, StoreError> {
        Tally::of(self.works.journal.as_ref(), self.run.id()).await
    }

    pub(super) async fn answer(&self, ending: Ending, finished: Option<&Finished>) -> Result<Answer, Fault> {
        let (tally, store) = (self.tally().await?, self.works.journal.as_ref());
        let (exit, outcome, what) = match (ending, finished) {
            (Ending::Complete, Some((_, Some(_)))) => (
                Exit::Done,
                "complete",
                "every tenant is re-provisioned, and nothing old is alive".to_owned(),
            ),
            (Ending::Complete, _) => (
                Exit::Attention,
                "complete",
                "every tenant is at its end, and something is left: the run stays open".to_owned(),
            ),
            (Ending::Parked(parked), _) => {
                let parked = tenants(usize::try_from(parked).unwrap_or(usize::MAX));
                (Exit::Attention, "parked", format!("{parked} parked, all others at their end"))
            }
            (Ending::CanaryParked, _) => (
                Exit::Attention,
                "canary-parked",
                "a canary is parked, and no other tenant was begun".to_owned(),
            ),
            (Ending::AfterCanary, _) => (
                Exit::Resumable,
                "after-canary",
                "the canaries are done, and it stops here as it was asked to".to_owned(),
            ),
            (Ending::Interrupted, _) => (
                Exit::Resumable,
                "interrupted",
                "stopped, with no tenant in the middle of its way".to_owned(),
            ),
        };
        let mut human = format!(
            "{}: {what}. Run {}, {}{}.\n",
            self.works.job.target.name,
            self.run.id(),
            self.run.asked().strategy.as_str(),
            if self.run.asked().hard { ", hard" } else { "" }
        );
        human += &tally.in_words();
        human += &tally.down.in_words(store.now_ms().await?);
        let mut json = self.document(outcome, &tally);
        let mut hints = Vec::new();
        if let Some((finish, certificate)) = finished {
            human += &finish_in_words(finish);
            json["finish"] = finish_json(finish);
            hints.extend(leftovers::removal(&finish.leftovers));
            if let Some(text) = certificate {
                let sha256 = hex::encode(Sha256::digest(text));
                self.write(text)?;
                let place = self.file.unwrap_or("kept in the journal");
                human += &format!("Certificate: {}, sha256 {sha256}\n", shown(place));
                json["certificate"] = serde_json::from_str(text).unwrap_or_default();
                json["certificate_sha256"] = json!(sha256);
                json["file"] = json!(self.file);
            }
        }
        let go_on = asked::go_on(self.call);
        match (ending, exit) {
            (_, Exit::Done) => {}
            (Ending::AfterCanary | Ending::Interrupted, _) => hints.push(go_on),
            (Ending::Complete | Ending::Parked(_) | Ending::CanaryParked, _) => {
                hints.push(format!("once the cause is mended: {go_on}"));
            }
        }
        audit::with_head(store, Answer::Report { exit, human, json, hints }).await
    }

    /// The file of the certificate, if one was named.
    fn write(&self, text: &str) -> Result<(), Fault> {
        let Some(file) = self.file else { return Ok(()) };
        certificate::write_new(file, text.as_bytes()).map_err(|error| {
            let kind = error.kind();
            Fault::failed(format!("all is done, but the certificate can't be written to {file}: {kind}"))
                .hint(format!(
                    "it is kept in the journal: {} --output json",
                    self.call.again("reprovision status")
                ))
        })
    }

    fn document(&self, outcome: &str, tally: &Tally) -> Value {
        json!({
            "command": self.call.name,
            "run": self.run.id(),
            "outcome": outcome,
            "target": self.works.job.target.name,
            "strategy": self.run.asked().strategy,
            "tenants": tally.states_json(),
            "phases": tally.phases_json(),
            "parked": tally.parked_json(),
            "downtime": tally.down.json(),
        })
    }
}

fn finish_in_words(finish: &Finish) -> String {
    let mut text =
        format!("{} new URLs log in, {} old ones were seen to be refused.\n", finish.live, finish.refused);
    match finish.table {
        Some(seen) => {
            text += &format!(
                "The whole table, on one snapshot: {} values open under the new key, {} do not, {} cells are empty.\n",
                seen.opened, seen.failed, seen.empty
            );
        }
        None => text += "The whole table was not looked at: only some tenants were asked for.\n",
    }
    for problem in finish.problems.iter().take(SHOWN) {
        text += &wrapped(&format!("wrong: {}", shown(problem)), 2);
    }
    if finish.problem_count > 0 {
        text += &format!("  {} in all\n", finish.problem_count);
    }
    text += &strangers(&finish.strangers);
    text + &leftovers::in_words(&finish.leftovers)
}

/// Roles that nobody knew.
pub(super) fn strangers(strangers: &[String]) -> String {
    if strangers.is_empty() {
        return String::new();
    }
    let names: Vec<_> = strangers.iter().map(|name| shown(name)).collect();
    wrapped(&format!("Roles that nobody knew, and that can't log in any more: {}.", names.join(", ")), 0)
}

fn finish_json(finish: &Finish) -> Value {
    let (orphans, retired) = leftovers::json(&finish.leftovers);
    let table =
        finish.table.map(|seen| json!({"opened": seen.opened, "empty": seen.empty, "failed": seen.failed}));
    json!({
        "clean": finish.is_clean(),
        "new_urls_that_log_in": finish.live,
        "old_urls_seen_to_be_refused": finish.refused,
        "table": table,
        "problems": finish.problems,
        "problem_count": finish.problem_count,
        "orphans": orphans,
        "retired_branches": retired,
        "roles_shut_out": finish.strangers,
    })
}

/// When, in words.
pub(super) fn since(begun_ms: i64, ended_ms: Option<i64>) -> String {
    match ended_ms {
        Some(ended) => format!("begun {}, ended {}", time(begun_ms), time(ended)),
        None => format!("begun {}, open", time(begun_ms)),
    }
}
