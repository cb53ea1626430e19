//! One worker: claims shards and works through them, sweep by sweep, until the run is over.

use std::{sync::Arc, time::Duration};

use tokio::time::{sleep, timeout};

use super::{
    Step, Waiting,
    crew::Left,
    pipeline::{End, work},
    resealer::count,
    retry::patiently,
    split,
    waiting::Wait,
    workshop::Workshop,
};
use crate::{
    rekey::RekeyError,
    store::{Claim, Lease, RunRow, RunState, StoreError, Tally},
};

/// Sweeps after the first that may find new old-key values, before the run says that it is being chased.
const MOST_CHASED: i64 = 3;

/// How long to wait when other workers hold all that is left.
const BUSY: Duration = Duration::from_millis(300);

/// How long to wait before a sweep whose rows were all locked a moment ago.
const LOCKED: Duration = Duration::from_secs(1);

/// How often a shard may be lost in a row before a worker gives up.
const MOST_LOST: u32 = 20;

/// One worker of a process.
pub(super) struct Worker {
    pub(super) shop: Arc<Workshop>,
    pub(super) run_id: String,
    /// From 1.
    pub(super) number: usize,
    /// What its leases are under.
    pub(super) name: String,
}

/// What a worker that asks for a shard finds.
pub(super) enum Found {
    /// A shard, now ours for 20 s.
    Shard(Box<Lease>),
    /// Every shard that is left is in another worker's hands, or in its own.
    Busy,
    /// No shard of the run's sweep is left.
    SweepDone(RunRow),
    /// The run is paused.
    Paused,
    /// The run is over.
    Over,
}

impl Worker {
    /// Takes shard after shard until the run is over, or this worker is not wanted any more.
    pub(super) async fn run(self) -> Result<Left, RekeyError> {
        let worker = Arc::new(self);
        let shop = &worker.shop;
        let mut lost = 0;
        loop {
            shop.stand_by(worker.number).await;
            if shop.should_stop() {
                return Ok(Left::Over);
            }
            if shop.is_surplus(worker.number) {
                return Ok(Left::Surplus);
            }
            match worker.claim().await? {
                Found::Over => return Ok(Left::Over),
                // The order has not come here yet.
                Found::Paused => sleep(BUSY).await,
                Found::SweepDone(run) => {
                    finish_sweep(shop, &run).await?;
                    shop.ended.notify_waiters();
                }
                Found::Busy => {
                    let _wait = Wait::begin(&shop.status, Waiting::Shards);
                    // Time is up, or there is news: both are a reason to look again.
                    drop(timeout(BUSY, shop.ended.notified()).await);
                }
                Found::Shard(lease) => {
                    let end = work(&worker, lease, &mut lost).await;
                    shop.ended.notify_waiters();
                    let End::Lost(cause) = end? else { continue };
                    lost += 1;
                    if lost > MOST_LOST {
                        return Err(cause.unwrap_or_else(lease_lost).into());
                    }
                    sleep(BUSY).await;
                }
            }
        }
    }

    /// Asks for a shard of the sweep that the run is in.
    pub(super) async fn claim(&self) -> Result<Found, StoreError> {
        let (shop, job, store) = (&self.shop, &self.shop.job, self.shop.job.store.as_ref());
        let read = patiently(&shop.status, || store.run(&self.run_id));
        let run = job.at(Step::ReadRun, read).await?;
        if !run.state.is_open() {
            return Ok(Found::Over);
        }
        if run.state == RunState::Paused {
            return Ok(Found::Paused);
        }
        let claim = || store.claim(&run, &self.name, job.target.key_kind);
        let claim = job.at(Step::Claim, patiently(&shop.status, claim)).await?;
        Ok(match claim {
            Claim::Leased(lease) => Found::Shard(lease),
            Claim::Busy => Found::Busy,
            Claim::SweepDone => Found::SweepDone(run),
        })
    }

    /// Gives a shard back. Best effort: a lease that is not given back runs out.
    pub(super) async fn release(&self, lease: &Lease) {
        let job = &self.shop.job;
        drop(job.at(Step::Release, job.store.release(lease)).await);
    }
}

fn lease_lost() -> StoreError {
    let message = "the shard's lease was lost again and again".to_owned();
    StoreError::Transient { code: "lease".to_owned(), message }
}

/// Ends the run when its sweep found nothing left, else opens the next sweep. Any number of workers may come here
/// at once: each step is a compare-and-swap on the run's row.
async fn finish_sweep(shop: &Workshop, run: &RunRow) -> Result<(), RekeyError> {
    let (job, store) = (&shop.job, shop.job.store.as_ref());
    let sweep = || store.tally(&run.run_id, Some(run.sweep));
    let sweep = job.at(Step::Tally, patiently(&shop.status, sweep)).await?;
    let width = count(job.target.columns.len());
    let visited = sweep.total + sweep.deferred;
    if !sweep.sums() || (run.sweep == 1 && visited != sweep.scanned * width) {
        return Err(RekeyError::Sums { run_id: run.run_id.clone() });
    }
    // A walk over the table's file leaves what is written meanwhile to the next sweep, whatever it is.
    let walks = i64::from(run.horizon.is_some());
    let clean = run.sweep > walks && sweep.rekeyed == 0 && sweep.deferred == 0;
    let chased =
        if run.sweep > 1 + walks && is_chased(shop, run, &sweep).await? { run.chased + 1 } else { 0 };
    if clean {
        let close = || store.close_quarantine(run);
        let held = job.at(Step::CloseQuarantine, patiently(&shop.status, close)).await?;
        let state = if held == 0 { RunState::Complete } else { RunState::Quarantined };
        job.at(Step::MoveRun, patiently(&shop.status, || store.move_run(run, state))).await?;
    } else if chased >= MOST_CHASED {
        let chased = || store.move_run(run, RunState::Chased);
        job.at(Step::MoveRun, patiently(&shop.status, chased)).await?;
    } else {
        if sweep.deferred > 0 && sweep.rekeyed == 0 && sweep.conflicts == 0 {
            let _wait = Wait::begin(&shop.status, Waiting::LockedRows);
            sleep(LOCKED).await;
        }
        let spans = patiently(&shop.status, || split::later_sweep(job)).await?;
        let next = || store.next_sweep(run, chased, &spans);
        job.at(Step::NextSweep, patiently(&shop.status, next)).await?;
    }
    Ok(())
}

/// Whether a sweep met more old-key values than the one before it had to leave behind: somebody writes them.
async fn is_chased(shop: &Workshop, run: &RunRow, sweep: &Tally) -> Result<bool, StoreError> {
    let before = || shop.job.store.tally(&run.run_id, Some(run.sweep - 1));
    let before = shop.job.at(Step::Tally, patiently(&shop.status, before)).await?;
    Ok(sweep.rekeyed + sweep.conflicts > before.deferred)
}
