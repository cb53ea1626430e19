//! Shard after shard, sweep after sweep, until the run is over.

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
    worker::{Found, Worker},
    workshop::Workshop,
};
use crate::{
    rekey::{RekeyError, quarantine::retry_earlier},
    store::{RunRow, RunState, StoreError, Tally},
};

/// Sweeps after the first that may find new old-key values, before the run says that it is being chased.
const MOST_CHASED: i64 = 3;

/// How long to wait when other workers hold all that is left. Those of this process say when a shard ends; those of
/// others don't.
const BUSY: Duration = Duration::from_millis(100);

/// How long to wait before a shard that was lost is claimed again, and before a pause that was ordered shows.
const AGAIN: Duration = Duration::from_millis(300);

/// How long to wait before a sweep that comes back to rows which were locked a moment ago: at first, and at most.
const LOCKED: Duration = Duration::from_secs(1);
const MOST_LOCKED: Duration = Duration::from_secs(60);

/// How often a shard may be lost in a row before a worker gives up.
const MOST_LOST: u32 = 20;

/// Takes shard after shard until the run is over, or this worker is not wanted any more.
pub(super) async fn work_through(worker: Worker) -> Result<Left, RekeyError> {
    let worker = Arc::new(worker);
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
            Found::Paused => sleep(AGAIN).await,
            Found::SweepDone(run) => {
                finish_sweep(&worker, &run).await?;
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
                sleep(AGAIN).await;
            }
        }
    }
}

fn lease_lost() -> StoreError {
    let message = "the shard's lease was lost again and again".to_owned();
    StoreError::Transient { code: "lease".to_owned(), message }
}

/// Ends the run when its sweep found nothing left, else opens the next sweep. Any number of workers may come here
/// at once: each step is a compare-and-swap on the run's row.
async fn finish_sweep(worker: &Worker, run: &RunRow) -> Result<(), RekeyError> {
    let shop = &worker.shop;
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
        retry_earlier(job, run, &shop.status).await?;
        let held = || store.quarantine_size(&run.target);
        let held = job.at(Step::CloseQuarantine, patiently(&shop.status, held)).await?;
        let state = if held == 0 { RunState::Complete } else { RunState::Quarantined };
        job.at(Step::MoveRun, patiently(&shop.status, || store.move_run(run, state))).await?;
    } else if chased >= MOST_CHASED {
        let chased = || store.move_run(run, RunState::Chased);
        job.at(Step::MoveRun, patiently(&shop.status, chased)).await?;
    } else {
        if sweep.deferred > 0 {
            let _wait = Wait::begin(&shop.status, Waiting::LockedRows);
            shop.rest(worker.number, before_locked_rows(run.sweep)).await;
            if shop.should_leave(worker.number) {
                return Ok(());
            }
        }
        let split = || split::later_sweep(job, run.row_count);
        let spans = job.at(Step::Split, patiently(&shop.status, split)).await?;
        let next = || store.next_sweep(run, chased, &spans);
        job.at(Step::NextSweep, patiently(&shop.status, next)).await?;
    }
    Ok(())
}

/// How long to wait after this sweep: twice as long as after the one before. Each costs a look at the whole table.
fn before_locked_rows(sweep: i64) -> Duration {
    let doubled = u32::try_from(sweep - 1).unwrap_or(u32::MAX);
    LOCKED.saturating_mul(2_u32.saturating_pow(doubled)).min(MOST_LOCKED)
}

/// Whether a sweep met more old-key values than the one before it had to leave behind: somebody writes them.
async fn is_chased(shop: &Workshop, run: &RunRow, sweep: &Tally) -> Result<bool, StoreError> {
    let before = || shop.job.store.tally(&run.run_id, Some(run.sweep - 1));
    let before = shop.job.at(Step::Tally, patiently(&shop.status, before)).await?;
    Ok(sweep.rekeyed + sweep.conflicts > before.deferred)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sweeps_that_come_back_to_locked_rows_are_ever_further_apart_up_to_a_minute() {
        let seconds = [1, 2, 3, 6, 7, 100, i64::MAX].map(|sweep| before_locked_rows(sweep).as_secs());
        assert_eq!(seconds, [1, 2, 4, 32, 60, 60, 60]);
    }
}
