//! Runs a rotation: decides, journals the intent, acts, journals what became of it, and begins again.
//!
//! All that it knows of the past is the journal. A rotation that was interrupted anywhere is loaded from it; a step
//! whose intent has no outcome is looked into before anything else is done (`observe`).
//!
//! # Cancel safety
//! Dropping [`Rotation::advance`] is like the death of the process: [`Rotation::resume`] goes on.

use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    Added, Asked, Progress, RotationError, Tools,
    asked::shape,
    estate::{Held, Pair},
    outcome::{Taken, Wait},
    recipe::{Action, Recipe, Rollout, Step, Undo},
    state::{Course, Decision, Event, Phase, State},
};
use crate::{
    journal::{Moment, while_held},
    providers::ProviderError,
    store::{CredentialChange, CredentialState, NewRecord, RotationLease, RotationRecord},
};

/// How a rotation, or this process's part in it, ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Every step is done; whether the old credential was seen to be dead.
    Done {
        /// `Some(false)`: its end was accepted by its provider, and not confirmed; `None`: no step looks.
        confirmed: Option<bool>,
    },
    /// It failed before the cut-over, and all is as before.
    RolledBack {
        /// Why.
        why: String,
    },
    /// It waits.
    Parked(Wait),
}

/// A rotation that this process holds the lease of.
pub struct Rotation<'a> {
    pub(super) tools: Tools<'a>,
    pub(super) recipe: &'static Recipe,
    pub(super) steps: Vec<Step>,
    pub(super) asked: Asked,
    pub(super) lease: RotationLease,
    pub(super) pair: Pair,
    pub(super) state: State,
    /// What went wrong last, for whoever asks why it rolled back.
    pub(super) trouble: Option<String>,
}

impl Rotation<'_> {
    /// The number of the step that the next event is about.
    pub(super) fn place(&self) -> usize {
        match self.state.decide() {
            Decision::Undo(step) => step,
            _ => self.state.at.min(self.steps.len().saturating_sub(1)),
        }
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.lease.rotation_id
    }

    /// What it does, in order.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Where it is.
    pub fn state(&self) -> State {
        self.state
    }

    /// Adds to what was asked for, for good: the rotation stops, if it does not already, and goes on with it.
    pub async fn add(&mut self, added: Added) -> Result<(), RotationError> {
        if added == Added::default() || self.state.phase.is_over() {
            return Ok(());
        }
        if matches!(self.state.phase, Phase::Going(_)) {
            self.record(Event::Parked, Wait::for_("a person's word").detail(), Vec::new()).await?;
        }
        self.record(Event::Resumed, json!({"added": added}), Vec::new()).await?;
        self.asked.add(added);
        Ok(())
    }

    /// Gives the lease back, so that another can take the rotation up at once.
    ///
    /// # Errors
    /// The journal's. A lease that was not given back ends by itself, within 20 s.
    pub async fn release(&self) -> Result<(), RotationError> {
        Ok(self.tools.store.release_rotation(&self.lease).await?)
    }

    /// Lets a parked rotation go on.
    pub async fn unpark(&mut self) -> Result<(), RotationError> {
        if matches!(self.state.phase, Phase::Parked(_)) {
            self.record(Event::Resumed, json!({}), Vec::new()).await?;
        }
        Ok(())
    }

    /// Turns the rotation round.
    ///
    /// # Errors
    /// [`RotationError::Refused`] after the cut-over, or when the old value could not be written back.
    pub async fn abort(&mut self) -> Result<(), RotationError> {
        if matches!(self.state.phase, Phase::Going(Course::Back) | Phase::Parked(Course::Back)) {
            return self.unpark().await;
        }
        if self.state.cut_over {
            let at = shape(&self.steps).cut_over;
            let step = self.steps.get(at).map_or("", |step| step.name);
            return Err(RotationError::refused(
                format!("rotation {} is past its cut-over (step {step}): there is no way back", self.id()),
                format!("go on: reseal rotate resume {}", self.recipe.secret),
            ));
        }
        self.require_way_back()?;
        self.record(Event::Aborted, json!({}), Vec::new()).await
    }

    /// That what was written can be written back.
    fn require_way_back(&self) -> Result<(), RotationError> {
        let touched = self.steps.iter().take(self.state.at + usize::from(self.state.open));
        let needs_old =
            touched.into_iter().any(|step| step.undo() == Undo::WriteBack && self.writes_secret(step));
        if !needs_old || self.pair.old_value().is_some() {
            return Ok(());
        }
        Err(RotationError::refused(
            format!("the old value of {} is not known, and can't be written back", self.recipe.secret),
            format!(
                "go on, both values work: reseal rotate resume {0}; or make it known: reseal rotate adopt {0}",
                self.recipe.secret
            ),
        ))
    }

    /// Goes on until it ends or parks.
    ///
    /// # Errors
    /// The journal's, and [`RotationError::Fenced`]. Trouble with providers ends in [`Ending::Parked`]. A setting that is
    /// missing, and what does not hold on our side, park the rotation too, and are the error.
    pub async fn advance(&mut self) -> Result<Ending, RotationError> {
        loop {
            let decision = self.state.decide();
            let taken = match decision {
                Decision::Rest => return self.ending().await,
                Decision::Act(at) => {
                    self.tell(at, Event::Intended, None);
                    self.record(Event::Intended, json!({}), Vec::new()).await?;
                    self.tools.manner.hook.at(self.steps[at].name, Moment::BeforeCall).await;
                    self.held(self.act(at)).await
                }
                Decision::Observe(at) => self.held(self.observe(at)).await,
                Decision::Undo(at) => {
                    self.tell(at, Event::Intended, None);
                    self.held(self.undo(at)).await
                }
            };
            let at = self.place();
            let taken = match taken {
                Ok(taken) => taken,
                Err(RotationError::Provider(error)) => Self::unbegun(decision, &error),
                Err(error @ (RotationError::Settings { .. } | RotationError::Refused { .. })) => {
                    // A setting is looked for before any call: a step that was only begun did nothing.
                    let is_setting = matches!(error, RotationError::Settings { .. });
                    let event = if is_setting { Event::NotDone } else { self.stopped() };
                    if matches!(decision, Decision::Act(_)) {
                        self.record(event, json!({}), Vec::new()).await?;
                    }
                    self.park(Wait::for_(error.to_string())).await?;
                    self.release().await?;
                    return Err(error);
                }
                Err(error) => return Err(error),
            };
            self.tools.manner.hook.at(self.steps[at].name, Moment::AfterCall).await;
            self.settle(at, taken).await?;
            self.tools.manner.hook.at(self.steps[at].name, Moment::AfterRecord).await;
        }
    }

    /// What it means that a provider would not say what a step must know to begin. Nothing is known then of a try
    /// before.
    fn unbegun(decision: Decision, error: &ProviderError) -> Taken {
        match decision {
            Decision::Observe(_) if error.is_transient() => Taken::Unknown(error.to_string()),
            _ => Taken::of_look(error),
        }
    }

    /// Does `work` while it keeps the lease.
    async fn held<T>(
        &self,
        work: impl Future<Output = Result<T, RotationError>>,
    ) -> Result<T, RotationError> {
        let renew = || self.tools.store.renew_rotation(&self.lease);
        while_held(work, renew).await.unwrap_or_else(|| Err(self.fenced()))
    }

    fn fenced(&self) -> RotationError {
        RotationError::Fenced { rotation_id: self.lease.rotation_id.clone() }
    }

    /// What it is for a step to stop before its end: one that does many things may have done some of them, and then its
    /// intent stays, with the cut-over that it may be.
    fn stopped(&self) -> Event {
        if self.steps[self.place()].does_many() { Event::Unknown } else { Event::NotDone }
    }

    /// Journals what became of a step.
    async fn settle(&mut self, at: usize, taken: Taken) -> Result<(), RotationError> {
        let back = self.state.phase == Phase::Going(Course::Back);
        match taken {
            Taken::Done(detail, mut credentials) => {
                let event = if back { Event::Undone } else { Event::Succeeded };
                self.tell(at, event, note(&detail));
                if !back && at + 1 == self.steps.len() {
                    credentials.extend(self.succession());
                }
                self.record(event, detail, credentials).await?;
                self.pair = self.load_pair().await?;
            }
            Taken::NotDone(why) => {
                self.again(at, if back { Event::NotDone } else { self.stopped() }, why).await?
            }
            Taken::Unknown(why) => self.again(at, Event::Unknown, why).await?,
            Taken::Failed(why) => {
                if !back && self.stopped() == Event::Unknown {
                    self.record(Event::Unknown, json!({"error": why}), Vec::new()).await?;
                }
                self.tell(at, Event::Failed, Some(why.clone()));
                self.trouble = Some(why.clone());
                let turns = !back && !self.state.stands(shape(&self.steps));
                if turns && let Err(RotationError::Refused { what, .. }) = self.require_way_back() {
                    self.record(Event::NotDone, json!({"error": why}), Vec::new()).await?;
                    return self.park(Wait::for_(format!("{why}; {what}"))).await;
                }
                self.record(Event::Failed, json!({"error": why, "waiting": why}), Vec::new()).await?;
            }
            Taken::Waits(wait) => {
                if self.state.open {
                    self.record(self.stopped(), json!({}), Vec::new()).await?;
                }
                self.park(wait).await?;
            }
        }
        Ok(())
    }

    /// Tries the step again after a pause, or parks when the budget is spent.
    async fn again(&mut self, at: usize, event: Event, why: String) -> Result<(), RotationError> {
        self.tell(at, event, Some(why.clone()));
        self.record(event, json!({"error": why}), Vec::new()).await?;
        if self.state.tries >= self.tools.manner.tries {
            return self.park(Wait::for_(why)).await;
        }
        let doubled =
            self.tools.manner.pause * 2_u32.saturating_pow(self.state.tries.saturating_sub(1).min(6));
        self.held(async {
            sleep(doubled).await;
            Ok(())
        })
        .await
    }

    async fn park(&mut self, wait: Wait) -> Result<(), RotationError> {
        self.tell(self.place(), Event::Parked, Some(wait.what.clone()));
        self.record(Event::Parked, wait.detail(), Vec::new()).await
    }

    /// The end of the last step: the new credential takes the old one's place.
    fn succession(&self) -> Vec<CredentialChange> {
        let set = |held: &Held, state, wipe| CredentialChange::Set {
            credential_id: held.credential_id.clone(),
            state,
            wipe,
        };
        // What was revoked or seen dead says so already; wiping it is all that is left.
        let leaves = self.pair.old.as_ref().filter(|_| !self.ends_old());
        let leaves = leaves.map(|old| set(old, CredentialState::Replaced, true));
        let comes = self.pair.new.as_ref().map(|new| set(new, CredentialState::Current, false));
        leaves.into_iter().chain(comes).collect()
    }

    /// Whether a step of this strategy ends the old credential.
    fn ends_old(&self) -> bool {
        self.steps.iter().any(|step| matches!(step.action, Action::Revoke(_) | Action::AwaitDeath(_)))
    }

    /// Appends to the journal, and follows.
    pub(super) async fn record(
        &mut self,
        event: Event,
        detail: Value,
        credentials: Vec<CredentialChange>,
    ) -> Result<(), RotationError> {
        let step = self.steps[self.place()].name;
        let state = self.state.next(event, shape(&self.steps))?;
        let waiting = detail.get("waiting").and_then(Value::as_str).map(str::to_owned);
        let parked = matches!(state.phase, Phase::Parked(_));
        let record = NewRecord {
            step,
            event: event.as_str(),
            phase: state.phase.as_str(),
            over: state.phase.is_over(),
            at: self.steps.get(state.at).map(|step| step.name),
            waiting: waiting.as_deref().filter(|_| parked),
            until_ms: detail.get("until_ms").and_then(Value::as_i64).filter(|_| parked),
            detail,
            credentials,
        };
        if !self.tools.store.append_record(&self.lease, &record).await? {
            return Err(self.fenced());
        }
        self.state = state;
        Ok(())
    }

    async fn ending(&self) -> Result<Ending, RotationError> {
        self.tools.store.release_rotation(&self.lease).await?;
        Ok(match self.state.phase {
            Phase::Done => Ending::Done { confirmed: self.is_confirmed().await? },
            Phase::RolledBack => Ending::RolledBack {
                why: self.trouble.clone().unwrap_or_else(|| "it was aborted".to_owned()),
            },
            Phase::Parked(_) | Phase::Going(_) => {
                let records = self.tools.store.rotation_records(&self.lease.rotation_id).await?;
                Ending::Parked(
                    records.iter().rev().find_map(wait_of).unwrap_or_else(|| Wait::for_("a person")),
                )
            }
        })
    }

    /// Whether the old credential was seen to be dead, where the recipe asks for it.
    async fn is_confirmed(&self) -> Result<Option<bool>, RotationError> {
        let Some(step) = self.steps.iter().find(|step| matches!(step.action, Action::AwaitDeath(_))) else {
            return Ok(None);
        };
        let seen = self.recorded(step.name, Event::Succeeded).await?;
        Ok(Some(seen.is_some_and(|record| detail_of(&record)["confirmed"] == json!(true))))
    }

    /// The last record of this kind.
    pub(super) async fn recorded(
        &self,
        step: &str,
        event: Event,
    ) -> Result<Option<RotationRecord>, RotationError> {
        let records = self.tools.store.rotation_records(&self.lease.rotation_id).await?;
        Ok(records.into_iter().rev().find(|record| record.step == step && record.event == event.as_str()))
    }

    /// When that was, in Unix milliseconds; 0 where nothing is recorded of it.
    pub(super) async fn recorded_ms(&self, step: Option<&Step>, event: Event) -> Result<i64, RotationError> {
        let Some(step) = step else { return Ok(0) };
        Ok(self.recorded(step.name, event).await?.map_or(0, |record| record.at_ms))
    }

    /// When machines get the new value.
    pub(super) fn rollout(&self) -> Rollout {
        self.asked.rollout(self.recipe)
    }

    fn tell(&self, at: usize, event: Event, note: Option<String>) {
        let back = matches!(self.state.phase, Phase::Going(Course::Back) | Phase::Parked(Course::Back));
        (self.tools.tell)(&Progress {
            number: at + 1,
            of: self.steps.len(),
            step: self.steps[at],
            event,
            note,
            course: if back { Course::Back } else { Course::Forward },
        });
    }
}

/// The particulars of a record.
pub(super) fn detail_of(record: &RotationRecord) -> Value {
    serde_json::from_str(&record.detail).unwrap_or_default()
}

pub(super) fn error_of(record: &RotationRecord) -> Option<String> {
    detail_of(record)["error"].as_str().map(str::to_owned)
}

fn wait_of(record: &RotationRecord) -> Option<Wait> {
    let detail = detail_of(record);
    let what = detail["waiting"].as_str()?.to_owned();
    let with = detail["with"].as_str().map(str::to_owned);
    Some(Wait { what, until_ms: detail["until_ms"].as_i64(), with })
}

fn note(detail: &Value) -> Option<String> {
    detail["note"].as_str().map(str::to_owned)
}
