//! Goes on with a rotation that this process holds, and says how that ended.

use std::time::Duration;

use reseal::{
    rotation::{
        Ending, Rotation, RotationError, SecretName, Wait,
        recipe::{Action, Recipe},
        state::{Course, Event, Phase},
    },
    store::RotationRecord,
};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{Screen, Session, fault, line};
use crate::cli::{Answer, Call, Exit, Fault, audit, signals::Signals, stdio};

/// How long giving the lease back may take before it is left to end by itself.
const RELEASE: Duration = Duration::from_secs(2);

/// Goes on until it ends or parks, or until somebody stops it here.
pub(super) async fn drive(
    call: &Call,
    session: &Session,
    secret: SecretName,
    strategy: &str,
    rotation: &mut Rotation<'_>,
    signals: &mut Signals,
    screen: &Screen,
) -> Result<Answer, Fault> {
    let ended = tokio::select! {
        ended = rotation.advance() => Some(ended),
        () = signals.next() => None,
    };
    screen.clear();
    let told = Told { call, session, secret, strategy, rotation };
    match ended {
        Some(Ok(ending)) => audit::with_head(session.store(), told.answer(&ending).await?).await,
        Some(Err(error)) => {
            told.release().await;
            Err(told.failed(error))
        }
        None => {
            told.release().await;
            let step = told.step().unwrap_or_default();
            let what = format!("rotation {} was stopped at step {step}; it stays open", told.rotation.id());
            Err(Fault::resumable(what)
                .hint(line(call, "resume", secret.as_str()))
                .with(told.document("interrupted")))
        }
    }
}

/// What there is to tell of a rotation.
struct Told<'a> {
    call: &'a Call,
    session: &'a Session,
    secret: SecretName,
    strategy: &'a str,
    rotation: &'a Rotation<'a>,
}

impl Told<'_> {
    fn recipe(&self) -> &'static Recipe {
        self.secret.recipe()
    }

    /// The step it is at.
    fn step(&self) -> Option<&'static str> {
        self.rotation.steps().get(self.rotation.state().at).map(|step| step.name)
    }

    /// So that another can take it up at once. A database that does not answer lets it go within 20 s.
    async fn release(&self) {
        drop(timeout(RELEASE, self.rotation.release()).await);
    }

    fn failed(&self, error: RotationError) -> Fault {
        let resume = line(self.call, "resume", self.secret.as_str());
        let document = self.document("interrupted");
        match error {
            RotationError::Store(error) if error.is_transient() => {
                Fault::resumable(format!("the database: {error}; the rotation stays open"))
                    .hint(resume)
                    .with(document)
            }
            error @ (RotationError::Settings { .. } | RotationError::Refused { .. }) => {
                fault(self.call, error).hint(format!("then: {resume}")).with(document)
            }
            error => fault(self.call, error),
        }
    }

    fn document(&self, outcome: &str) -> Value {
        let state = self.rotation.state();
        json!({
            "command": self.call.name,
            "rotation": self.rotation.id(),
            "secret": self.secret.as_str(),
            "strategy": self.strategy,
            "outcome": outcome,
            "step": self.step(),
            "number": (!state.phase.is_over()).then_some(state.at + 1),
            "of": self.rotation.steps().len(),
        })
    }

    async fn answer(&self, ending: &Ending) -> Result<Answer, Fault> {
        let records = self.session.store().rotation_records(self.rotation.id()).await?;
        let (secret, id) = (self.secret, self.rotation.id());
        let (exit, outcome, mut human, hints) = match ending {
            Ending::Done { confirmed } => {
                let (exit, outcome) = if *confirmed == Some(false) {
                    (Exit::Attention, "unconfirmed")
                } else {
                    (Exit::Done, "done")
                };
                let mut human = format!("{secret} is rotated. Rotation {id}, {}.\n", self.strategy);
                human += &stdio::wrapped(self.old_one(*confirmed), 2);
                if let Some(watch) = self.recipe().watch {
                    human += &format!("  watch the control plane's log for: {watch}\n");
                }
                (exit, outcome, human, Vec::new())
            }
            Ending::RolledBack { why } => {
                let aborted = self.call.name == "rotate abort";
                let human = format!(
                    "{secret} is as it was before. Rotation {id}, {}, was taken back.\n  why: {}\n",
                    self.strategy,
                    stdio::shown(why)
                );
                (if aborted { Exit::Done } else { Exit::Failed }, "rolled-back", human, Vec::new())
            }
            Ending::Parked(wait) => {
                let human = self.parked(wait).await?;
                (Exit::Resumable, "parked", human, self.ways_on(wait))
            }
        };
        human += &steps_done(&records);
        let mut json = self.document(outcome);
        json["steps"] = records.iter().filter_map(done).collect();
        match ending {
            Ending::Done { confirmed } => json["old_confirmed_dead"] = json!(confirmed),
            Ending::RolledBack { why } => json["why"] = json!(why),
            Ending::Parked(wait) => {
                json["waiting"] = json!(wait.what);
                json["until"] = json!(wait.until_ms.map(stdio::time));
                json["with"] = json!(wait.with);
            }
        }
        Ok(Answer::Report { exit, human, json, hints })
    }

    /// What became of the old credential.
    fn old_one(&self, confirmed: Option<bool>) -> &'static str {
        let has = |is: fn(&Action) -> bool| self.rotation.steps().iter().any(|step| is(&step.action));
        match () {
            () if confirmed == Some(false) => {
                "the old one: its end was accepted, and is not confirmed, since its value is not known"
            }
            () if has(|action| matches!(action, Action::AwaitDeath(_))) => "the old one: seen to be refused",
            () if has(|action| matches!(action, Action::Revoke(_))) => "the old one: its end was accepted",
            () if has(|action| matches!(action, Action::AwaitWindow(_))) => {
                "the old one: its window is over, and its vendor has forgotten it"
            }
            () => "the old one: replaced",
        }
    }

    async fn parked(&self, wait: &Wait) -> Result<String, Fault> {
        let (state, of) = (self.rotation.state(), self.rotation.steps().len());
        let back = state.phase == Phase::Parked(Course::Back);
        let mut human = format!(
            "{} waits at step {} of {of}, {}{}. Rotation {}, {}.\n",
            self.secret,
            state.at + 1,
            self.step().unwrap_or_default(),
            if back { ", on its way back" } else { "" },
            self.rotation.id(),
            self.strategy
        );
        human += &stdio::wrapped(&format!("for {}", stdio::shown(&wait.what)), 2);
        if let Some(until) = wait.until_ms {
            human += &until_text(until, self.session.store().now_ms().await?);
        }
        Ok(human)
    }

    /// The command that goes on, and the one that goes back where there is a way back.
    fn ways_on(&self, wait: &Wait) -> Vec<String> {
        let with = wait.with.as_ref().map_or_else(String::new, |with| format!(" {with}"));
        let mut hints = vec![format!("{}{with}", line(self.call, "resume", self.secret.as_str()))];
        let state = self.rotation.state();
        if !state.cut_over && state.phase == Phase::Parked(Course::Forward) {
            hints.push(format!("to take it back: {}", line(self.call, "abort", self.secret.as_str())));
        }
        hints
    }
}

/// Until when, and how long that is from now.
pub(super) fn until_text(until_ms: i64, now_ms: i64) -> String {
    let left = u32::try_from((until_ms - now_ms).max(0) / 1000).unwrap_or(u32::MAX);
    let left = if left == 0 { "over".to_owned() } else { format!("{} left", stdio::duration(left.into())) };
    format!("  until {} ({left})\n", stdio::time(until_ms))
}

/// A record of a step that was done or undone.
fn done(record: &RotationRecord) -> Option<Value> {
    let event =
        Event::parse(&record.event).filter(|event| matches!(event, Event::Succeeded | Event::Undone))?;
    let detail: Value = serde_json::from_str(&record.detail).unwrap_or_default();
    Some(json!({
        "step": record.step,
        "event": event.as_str(),
        "at": stdio::time(record.at_ms),
        "note": detail["note"],
    }))
}

fn steps_done(records: &[RotationRecord]) -> String {
    let lines = records.iter().filter_map(done).map(|done| {
        let note = done["note"].as_str().map_or_else(String::new, |note| format!(": {}", stdio::shown(note)));
        let step = done["step"].as_str().unwrap_or_default();
        let taken_back = if done["event"] == Event::Undone.as_str() { " taken back" } else { "" };
        format!("  {}  {step}{taken_back}{note}\n", done["at"].as_str().unwrap_or_default())
    });
    lines.collect()
}
