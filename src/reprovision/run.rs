//! A run: opened with its plan's tenants, taken up again by whoever comes next, one saga beside the other.
//!
//! # Cancel safety
//! Dropping [`Run::advance`] is like the death of the process: [`Run::resume`] goes on.

use std::{collections::HashMap, sync::Arc};

use futures_util::{TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Mutex, OnceCell, watch},
    time::sleep,
};
use ulid::Ulid;

use super::{
    Asked, Phase, ReprovisionError, Works,
    error::Trouble,
    phases::{CHANGED, Standing, Turn},
    plan::Plan,
    saga::Saga,
};
use crate::{
    journal::{Moment, holder, while_held},
    providers::ProviderError,
    store::{NewReprovision, NewSaga, ReprovisionLease, ReprovisionRow, SagaRow, SagaState, Store},
};

/// Tenants that are read from the journal at once.
const PAGE: u32 = 200;

/// Where a tenant is that went back to what it had.
const BACK: &str = "its old machine is in service again, as it was";
const NOT_BACK: &str = "its old machine was started again and does not pass its checks: the tenant is down";

/// States of tenants that something is left to do for.
const LEFT: [SagaState; 3] = [SagaState::Waiting, SagaState::Running, SagaState::Parked];

/// What a process does next, as it is told from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stop {
    /// Goes on.
    #[default]
    Never,
    /// Begins no other tenant, and brings those that are under way to their end.
    AfterTenants,
}

/// How a run, or this process's part in it, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Every tenant is done or gone.
    Complete,
    /// These many tenants are parked; all others are done or gone.
    Parked(u64),
    /// A canary is parked: the others were not begun.
    CanaryParked,
    /// The canaries are done, and it was asked to stop there.
    AfterCanary,
    /// It was told to stop.
    Interrupted,
}

/// Something that happened to a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The tenant.
    pub tenant: String,
    /// The phase that it is in.
    pub phase: Phase,
    /// What is done about it.
    pub state: SagaState,
    /// Why it is parked, or what is tried again.
    pub why: Option<String>,
    /// How long it could not work, in milliseconds, once that is over.
    pub downtime_ms: Option<i64>,
}

/// A run that this process holds the lease of.
pub struct Run<'a> {
    pub(super) works: &'a Works,
    pub(super) asked: Asked,
    lease: ReprovisionLease,
    tell: &'a (dyn Fn(&Progress) + Sync),
    /// Of each app, the version of its vault that machines must start with at least.
    versions: Mutex<HashMap<String, Arc<OnceCell<u64>>>>,
}

/// How a run was asked for, as its row keeps it.
#[derive(Serialize, Deserialize)]
struct Kept {
    asked: Asked,
    /// The key that rows end under: whoever takes the run up brings the same.
    key: String,
}

/// How a run was asked for.
///
/// # Errors
/// [`ReprovisionError::Corrupt`].
pub fn asked(row: &ReprovisionRow) -> Result<Asked, ReprovisionError> {
    kept(row).map(|kept| kept.asked)
}

fn kept(row: &ReprovisionRow) -> Result<Kept, ReprovisionError> {
    let corrupt = |_| ReprovisionError::Corrupt { run_id: row.run_id.clone(), why: "how it was asked for" };
    serde_json::from_str(&row.options).map_err(corrupt)
}

/// The open run of this table, if there is one.
///
/// # Errors
/// The journal's.
pub async fn open_run(journal: &dyn Store, target: &str) -> Result<Option<ReprovisionRow>, ReprovisionError> {
    let runs = journal.reprovisions(Some(target)).await?;
    Ok(runs.into_iter().find(|row| row.ended_ms.is_none()))
}

impl<'a> Run<'a> {
    /// Opens a run with the tenants of a plan that nothing stands in the way of.
    ///
    /// # Errors
    /// [`ReprovisionError::Refused`] for a plan with obstacles, and when the table has an open run.
    ///
    /// # Crash safety
    /// Opened with all its tenants or not. Nothing is asked of a provider before [`advance`](Self::advance).
    pub async fn open(
        works: &'a Works,
        plan: &Plan,
        tell: &'a (dyn Fn(&Progress) + Sync),
    ) -> Result<Self, ReprovisionError> {
        if let Some(obstacle) = plan.obstacles.first() {
            return Err(ReprovisionError::refused(
                format!("{}, and {} more", obstacle.what, plan.obstacles.len() - 1),
                "reseal reprovision plan",
            ));
        }
        if let Some(key) = &works.job.new_data_key {
            works.job.store.add_data_key(key).await?;
        }
        let target = &works.job.target.name;
        let positions = 0_i64..;
        let tenants = plan.tenants.iter().zip(positions);
        let sagas: Vec<_> =
            tenants.map(|(tenant, position)| NewSaga { tenant: tenant.tenant.clone(), position }).collect();
        let kept = Kept { asked: plan.asked.clone(), key: works.job.keys.new.clone() };
        let run = NewReprovision {
            run_id: &Ulid::generate().to_string(),
            target,
            options: &serde_json::to_value(&kept).unwrap_or_default(),
            plan: &plan.digest().to_string(),
            holder: &holder(),
        };
        let Some(lease) = works.journal.open_reprovision(&run, &sagas).await? else {
            return Err(ReprovisionError::refused(
                format!("{target} has an open re-provisioning"),
                "go on with it: reseal reprovision run",
            ));
        };
        Ok(Self { works, asked: kept.asked, lease, tell, versions: Mutex::default() })
    }

    /// Takes up a run that was opened before.
    ///
    /// # Errors
    /// [`ReprovisionError::Refused`] while another process works on it, and for another key than it was opened with.
    pub async fn resume(
        works: &'a Works,
        row: &ReprovisionRow,
        tell: &'a (dyn Fn(&Progress) + Sync),
    ) -> Result<Self, ReprovisionError> {
        let Kept { asked, key } = kept(row)?;
        if key != works.job.keys.new {
            return Err(ReprovisionError::refused(
                format!("re-provisioning {} ends under {key}, and this key is another", row.run_id),
                format!("name the key that it was begun with: {key}"),
            ));
        }
        let Some(lease) = works.journal.claim_reprovision(&row.run_id, &holder()).await? else {
            let by = row.holder.as_deref().unwrap_or("another process");
            return Err(ReprovisionError::refused(
                format!("re-provisioning {} is being worked on by {by}", row.run_id),
                "wait until it ends; one that died is let go within 20 s: reseal reprovision status",
            ));
        };
        Ok(Self { works, asked, lease, tell, versions: Mutex::default() })
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.lease.run_id
    }

    /// How it was asked for.
    pub fn asked(&self) -> &Asked {
        &self.asked
    }

    /// Gives the lease back, so that another can take the run up at once.
    ///
    /// # Errors
    /// The journal's. A lease that was not given back ends by itself, within 20 s.
    pub async fn release(&self) -> Result<(), ReprovisionError> {
        Ok(self.works.journal.release_reprovision(&self.lease).await?)
    }

    /// Ends it, with the certificate of what it came to.
    ///
    /// # Errors
    /// [`ReprovisionError::Fenced`]; the journal's.
    pub async fn end(&self, certificate: &str) -> Result<(), ReprovisionError> {
        if self.works.journal.end_reprovision(&self.lease, certificate).await? {
            Ok(())
        } else {
            Err(self.fenced())
        }
    }

    /// Brings every tenant to its end, as many at once as the manner says; those that are parked are tried again.
    ///
    /// # Errors
    /// The journal's, and [`ReprovisionError::Fenced`]. Trouble with a tenant parks that tenant, and the others go on.
    pub async fn advance(&self, stop: watch::Receiver<Stop>) -> Result<Ending, ReprovisionError> {
        let work = async {
            let canary = i64::try_from(self.asked.canary).unwrap_or(i64::MAX);
            let canaries = self.left(|saga| saga.position < canary).await?;
            if canaries > 0 {
                self.through(&stop, Some(canary)).await?;
                let left = self.left(|saga| saga.position < canary).await?;
                match () {
                    () if *stop.borrow() != Stop::Never => return Ok(Ending::Interrupted),
                    () if left > 0 => return Ok(Ending::CanaryParked),
                    () if self.asked.pause && self.left(|_| true).await? > 0 => {
                        return Ok(Ending::AfterCanary);
                    }
                    () => {}
                }
            }
            self.through(&stop, None).await?;
            let left = self.left(|_| true).await?;
            Ok(match left {
                0 => Ending::Complete,
                _ if *stop.borrow() != Stop::Never => Ending::Interrupted,
                left => Ending::Parked(left),
            })
        };
        self.held(work).await
    }

    /// Works while the lease is renewed.
    pub(super) async fn held<T>(
        &self,
        work: impl Future<Output = Result<T, ReprovisionError>>,
    ) -> Result<T, ReprovisionError> {
        let renew = || self.works.journal.renew_reprovision(&self.lease);
        while_held(work, renew).await.unwrap_or_else(|| Err(self.fenced()))
    }

    fn fenced(&self) -> ReprovisionError {
        ReprovisionError::Fenced { run_id: self.id().to_owned() }
    }

    /// How many tenants are left to do, of those that `counts`.
    async fn left(&self, counts: impl Fn(&SagaRow) -> bool) -> Result<u64, ReprovisionError> {
        let (mut left, mut after) = (0, -1);
        loop {
            let page = self.works.journal.sagas(self.id(), &LEFT, after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(left) };
            after = last.position;
            left += page.iter().filter(|saga| counts(saga)).map(|_| 1).sum::<u64>();
        }
    }

    /// Goes through the tenants that are left, up to this position.
    async fn through(
        &self,
        stop: &watch::Receiver<Stop>,
        until: Option<i64>,
    ) -> Result<(), ReprovisionError> {
        let pages = stream::try_unfold(-1, |after| async move {
            let page = self.works.journal.sagas(self.id(), &LEFT, after, PAGE).await?;
            let next = page.last().map(|last| last.position);
            Ok::<_, ReprovisionError>(next.map(|next| (stream::iter(page.into_iter().map(Ok)), next)))
        });
        let is_before = |saga: &SagaRow| until.is_none_or(|until| saga.position < until);
        pages
            .try_flatten()
            .try_filter(|saga| std::future::ready(is_before(saga)))
            .try_for_each_concurrent(self.works.manner.concurrency, |row| async move {
                if *stop.borrow() != Stop::Never {
                    return Ok(());
                }
                self.bring(row).await
            })
            .await
    }

    /// Brings one tenant to its end, or as far as it goes.
    async fn bring(&self, row: SagaRow) -> Result<(), ReprovisionError> {
        let mut saga = Saga::load(row, &self.works.vault)?;
        saga.row.why = None;
        self.keep(&mut saga, SagaState::Running).await?;
        loop {
            let phase = saga.phase;
            self.works.manner.hook.at(phase.as_str(), Moment::BeforeCall).await;
            let taken = self.tried(&mut saga).await;
            self.works.manner.hook.at(phase.as_str(), Moment::AfterCall).await;
            let state = match taken {
                Ok(turn) => self.turned(&mut saga, turn),
                Err(Trouble::Fenced) => return Err(self.fenced()),
                Err(Trouble::Store(error)) if error.is_transient() => return Err(error.into()),
                Err(trouble) => self.failed(&mut saga, &trouble).await,
            };
            self.keep(&mut saga, state).await?;
            self.works.manner.hook.at(phase.as_str(), Moment::AfterRecord).await;
            if state != SagaState::Running {
                return Ok(());
            }
        }
    }

    /// Takes the phase, again and again while that can help.
    async fn tried(&self, saga: &mut Saga) -> Result<Turn, Trouble> {
        let (tries, mut pause) = (self.works.manner.tries.max(1), self.works.manner.pause);
        for _ in 1..tries {
            match self.take(saga).await {
                Err(trouble) if trouble.may_pass() => {
                    self.tell(saga, SagaState::Running, Some(trouble.to_string()));
                    sleep(pause).await;
                    pause *= 2;
                }
                taken => return taken,
            }
        }
        self.take(saga).await
    }

    /// What the end of a phase makes of the tenant.
    fn turned(&self, saga: &mut Saga, turn: Turn) -> SagaState {
        match turn {
            Turn::Done if saga.phase == Phase::Undo => {
                saga.row.generation += 1;
                saga.phase = Phase::Look;
                if let Some(why) = saga.facts.gave_up.take() {
                    let is_up = saga.row.down_from_ms.is_none() || saga.row.down_to_ms.is_some();
                    let now = if is_up { BACK } else { NOT_BACK };
                    saga.row.why = Some(format!("{why}; {now}"));
                    return SagaState::Parked;
                }
            }
            Turn::Done => match saga.facts.course.after(saga.phase) {
                Some(next) => saga.phase = next,
                None => return SagaState::Done,
            },
            Turn::Replan(why) => {
                self.tell(saga, SagaState::Running, Some(why.to_owned()));
                saga.phase = Phase::Undo;
            }
            // What was made for it has to go before it is.
            Turn::Gone if matches!(saga.phase, Phase::Look | Phase::Undo) => return SagaState::Gone,
            Turn::Gone => saga.phase = Phase::Undo,
        }
        SagaState::Running
    }

    /// What a phase that failed makes of the tenant.
    async fn failed(&self, saga: &mut Saga, trouble: &Trouble) -> SagaState {
        use Phase::{Create, Fork, Launch, Look, Quiesce, Reset, Row, Undo};
        let is_before_row = matches!(saga.phase, Create | Quiesce | Fork | Reset | Launch);
        match self.standing(saga).await {
            // It may have failed for that.
            Standing::Gone if !matches!(saga.phase, Look | Undo) => return self.turned(saga, Turn::Gone),
            Standing::Other if is_before_row => return self.turned(saga, Turn::Replan(CHANGED)),
            // Its old machine was stopped for a branch that it does not come to: all is as it was, but for that.
            Standing::AsRead
                if saga.facts.quiesced && !saga.facts.course.hard && (is_before_row || saga.phase == Row) =>
            {
                saga.facts.gave_up = Some(trouble.to_string());
                saga.phase = Undo;
                return SagaState::Running;
            }
            _ => {}
        }
        saga.row.why = Some(trouble.to_string());
        SagaState::Parked
    }

    /// Journals the tenant as it is, and tells of it.
    async fn keep(&self, saga: &mut Saga, state: SagaState) -> Result<(), ReprovisionError> {
        match self.write(saga, state).await {
            Ok(()) => {}
            Err(Trouble::Fenced) => return Err(self.fenced()),
            Err(Trouble::Store(error)) => return Err(error.into()),
            Err(trouble) => {
                return Err(ReprovisionError::refused(trouble.to_string(), "report it: a bug of reseal"));
            }
        }
        self.tell(saga, state, saga.row.why.clone());
        Ok(())
    }

    /// Journals the tenant in the middle of a phase.
    pub(super) async fn save(&self, saga: &Saga) -> Result<(), Trouble> {
        self.write(saga, SagaState::Running).await
    }

    async fn write(&self, saga: &Saga, state: SagaState) -> Result<(), Trouble> {
        let row = saga.to_row(state, &self.works.vault)?;
        if self.works.journal.record_saga(&self.lease, &row).await? { Ok(()) } else { Err(Trouble::Fenced) }
    }

    fn tell(&self, saga: &Saga, state: SagaState, why: Option<String>) {
        let down = saga.row.down_from_ms.zip(saga.row.down_to_ms);
        (self.tell)(&Progress {
            tenant: saga.tenant().to_owned(),
            phase: saga.phase,
            state,
            why,
            downtime_ms: down.map(|(from, to)| to - from),
        });
    }

    /// The version of an app's vault, asked for once.
    pub(super) async fn vault_version(&self, app: &str) -> Result<u64, ProviderError> {
        let cell = Arc::clone(self.versions.lock().await.entry(app.to_owned()).or_default());
        cell.get_or_try_init(|| self.works.fly.vault_version(app)).await.copied()
    }
}
