//! What the workers of one process share: when to stop, when to wait, and what was done.

use std::{
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::{Notify, watch},
    time::timeout,
};

use super::{
    Metrics, Status, Step, Stop, StopSignal, Waiting, directions::Directions, resealer::Resealed,
    throttle::Pace, waiting::Wait,
};
use crate::{
    rekey::Job,
    store::{Batch, Committed, Lease, Page, PageLimits, StoreError},
};

/// What the workers of one process share.
pub(super) struct Workshop {
    pub(super) job: Arc<Job>,
    pub(super) status: watch::Sender<Status>,
    pub(super) stop: StopSignal,
    pub(super) directions: watch::Sender<Directions>,
    pub(super) pace: Mutex<Pace>,
    pub(super) metrics: Arc<Metrics>,
    /// Rows of first sweeps that this process dealt with.
    pub(super) rows: AtomicU64,
    /// KMS calls that a checkpoint has counted.
    pub(super) kms_calls: AtomicU64,
    /// Rows that the next page may hold: it grows once the values turn out to be small.
    pub(super) page_rows: AtomicUsize,
    /// What the run's edit has met.
    pub(super) edits: Mutex<EditCount>,
    /// Told when a worker is through with a shard, or with a sweep.
    pub(super) ended: Notify,
}

/// What a run's edit has met in this process.
#[derive(Debug, Default)]
pub(super) struct EditCount {
    /// Values that it changed, in all sweeps.
    pub(super) changed: u64,
    /// The latest sweep.
    sweep: i64,
    /// Rows of that sweep.
    pub(super) rows: u64,
    /// Values of that sweep that the edit is for.
    pub(super) met: u64,
}

/// [`Workshop::page_rows`] to begin with.
pub(super) const FIRST_PAGE: usize = 128;

/// Rows a page, at most: more than a shard of a first sweep has, which is then read once.
const MOST_PAGE: usize = 8192;

/// Rows of the pages that all workers of a process read, at most: two workers keep within 64 MiB, and so do four.
const MOST_ROWS: usize = 2 * MOST_PAGE;

impl Workshop {
    /// Whether to stop at the next boundary between batches.
    pub(super) fn should_stop(&self) -> bool {
        let limit = self.job.options.rows_limit.unwrap_or(u64::MAX);
        *self.stop.borrow() == Stop::AfterBatch || self.rows.load(Ordering::Relaxed) >= limit
    }

    /// Counts what the run's edit has met in rows that were committed.
    pub(super) fn note_edits(&self, sweep: i64, rows: &Range<usize>, resealed: &Resealed) {
        let (met, changed) = resealed.edits(rows);
        let mut count = self.edits.lock().unwrap_or_else(PoisonError::into_inner);
        if count.sweep != sweep {
            (count.sweep, count.rows, count.met) = (sweep, 0, 0);
        }
        count.rows += rows.len() as u64;
        count.met += met;
        count.changed += changed;
    }

    /// How large the next page may be: where rows are limited, none holds more than a second lets through. It is a whole
    /// number of batches, where it is as large as one.
    pub(super) fn page_limits(&self) -> PageLimits {
        let Directions { workers, batch, rate, .. } = *self.directions.borrow();
        let rate = rate.and_then(|rate| usize::try_from(rate.get()).ok()).unwrap_or(MOST_PAGE);
        let most = rate.min(MOST_ROWS / workers.max(1)).max(batch);
        let rows = self.page_rows.load(Ordering::Relaxed).min(most);
        let rows = if rows > batch { rows - rows % batch } else { rows };
        PageLimits { rows, ..self.job.limits() }
    }

    /// Twice as many rows as this page could have held, or as many as another held, unless it was cut off by its bytes.
    pub(super) fn size_next_page(&self, page: &Page, rows: usize) {
        let cut_off = !page.last && page.keys.len() < rows;
        if cut_off {
            self.page_rows.store(page.keys.len().max(1), Ordering::Relaxed);
        } else {
            self.page_rows.fetch_max((rows * 2).min(MOST_PAGE), Ordering::Relaxed);
        }
    }

    /// KMS calls that no checkpoint has counted yet, for one that will.
    pub(super) fn take_kms_calls(&self) -> u64 {
        let calls: u64 = self.job.opener.kms().iter().map(|kms| kms.calls()).sum();
        let before = self.kms_calls.fetch_max(calls, Ordering::Relaxed);
        calls.saturating_sub(before)
    }

    /// Gives back what [`take_kms_calls`](Self::take_kms_calls) gave, when the checkpoint was not written.
    pub(super) fn give_back_kms_calls(&self, calls: u64) {
        self.kms_calls.fetch_sub(calls, Ordering::Relaxed);
    }

    /// Commits a batch, and counts what it did.
    pub(super) async fn commit(
        &self,
        step: Step,
        lease: &Lease,
        batch: Batch<'_>,
    ) -> Result<Committed, StoreError> {
        let (mut tally, started) = (batch.checkpoint.tally, Instant::now());
        let committed = self.job.at(step, self.job.store.commit(&self.job.target, lease, batch)).await;
        if let Ok(Committed::Done { correction, .. }) = &committed {
            tally += *correction;
            self.metrics.committed(&tally, started.elapsed());
        }
        committed
    }

    /// Whether the worker of this number is to give its shard back at the next boundary between batches.
    pub(super) fn should_leave(&self, worker: usize) -> bool {
        self.should_stop() || self.is_surplus(worker) || self.directions.borrow().paused.is_some()
    }

    /// Waits until these rows may be written, or the worker is to leave its shard.
    pub(super) async fn admit(&self, worker: usize, rows: usize) {
        let (mut directions, mut stop) = (self.directions.subscribe(), self.stop.clone());
        let rate = self.directions.borrow().rate;
        let ticket = self.pace().book(rows, Instant::now(), rate);
        let mut shown: Option<Wait<'_>> = None;
        while !self.should_leave(worker) {
            let (rate, hold) = {
                let now = directions.borrow_and_update();
                (now.rate, now.hold.clone())
            };
            let wait = self.pace().wait(ticket, Instant::now(), rate);
            let (reason, time) = match (hold, wait, rate) {
                (Some(reason), _, _) => (reason, Duration::MAX),
                (None, Some(time), Some(rate)) => (Waiting::Rate { rows_per_second: rate.get() }, time),
                (None, ..) => return,
            };
            match &shown {
                Some(wait) => wait.because(reason),
                None => shown = Some(Wait::begin(&self.status, reason)),
            }
            let news = async {
                tokio::select! {
                    _ = directions.changed() => {}
                    _ = stop.changed() => {}
                }
            };
            // Time is up, or there is news: both are a reason to look again.
            drop(timeout(time, news).await);
        }
    }

    /// Waits so long, or until the worker is to leave.
    pub(super) async fn rest(&self, worker: usize, time: Duration) {
        let (mut directions, mut stop) = (self.directions.subscribe(), self.stop.clone());
        let told_to_leave = async {
            while !self.should_leave(worker) {
                tokio::select! {
                    _ = directions.changed() => {}
                    _ = stop.changed() => {}
                }
            }
        };
        // Either is what was waited for.
        drop(timeout(time, told_to_leave).await);
    }

    /// Waits while the run is paused and this worker is wanted.
    pub(super) async fn stand_by(&self, worker: usize) {
        let (mut directions, mut stop) = (self.directions.subscribe(), self.stop.clone());
        let mut shown = None;
        loop {
            let paused = directions.borrow_and_update().paused.clone();
            let Some(paused) = paused.filter(|_| !self.should_stop() && !self.is_surplus(worker)) else {
                return;
            };
            shown.get_or_insert_with(|| {
                let reason = Waiting::Paused { by: paused.by, since_ms: paused.since_ms };
                Wait::begin(&self.status, reason)
            });
            tokio::select! {
                _ = directions.changed() => {}
                _ = stop.changed() => {}
            }
        }
    }

    /// Whether fewer workers are asked for than it takes to come to this number.
    pub(super) fn is_surplus(&self, worker: usize) -> bool {
        worker > self.directions.borrow().workers
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
