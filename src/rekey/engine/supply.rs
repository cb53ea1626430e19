//! What a worker is to commit next: a shard is claimed, a page read and a batch re-sealed ahead of it, so that the
//! database never waits for us.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::{sync::mpsc, task::JoinSet};

use super::{
    Step,
    resealer::{Pass, Resealed, Resealer},
    retry::patiently,
    worker::{Found, Worker},
};
use crate::{
    rekey::RekeyError,
    store::{Lease, Page, RowKey, StoreError},
};

/// A batch of the shard that this lease, from when it was claimed, is of.
pub(super) struct Ready {
    pub(super) lease: Box<Lease>,
    pub(super) resealed: Resealed,
}

/// The shards that a worker holds: the one that it commits, and the one that was claimed ahead.
pub(super) struct Held {
    leases: Mutex<Vec<Lease>>,
    /// Whether none is added any more; locked while one is claimed.
    closed: tokio::sync::Mutex<bool>,
}

impl Held {
    pub(super) fn new(first: &Lease) -> Self {
        Self { leases: Mutex::new(vec![first.clone()]), closed: tokio::sync::Mutex::new(false) }
    }

    /// As they were claimed.
    pub(super) fn leases(&self) -> Vec<Lease> {
        self.lock().clone()
    }

    pub(super) fn holds(&self, lease: &Lease) -> bool {
        self.lock().iter().any(|held| held.is_of_the_shard_of(lease))
    }

    pub(super) fn remove(&self, lease: &Lease) {
        self.lock().retain(|held| !held.is_of_the_shard_of(lease));
    }

    /// What is held at last, when nothing is claimed any more.
    pub(super) async fn close(&self) -> Vec<Lease> {
        *self.closed.lock().await = true;
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Lease>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the next page begins.
enum Place {
    /// In this shard, behind this place.
    Behind(Box<Lease>, Option<RowKey>),
    /// In whichever shard is free.
    NextShard,
}

/// Reads and re-seals this shard and those that follow, page by page, until no shard is free or nobody takes the
/// batches any more. The next page is read while one is re-sealed.
pub(super) async fn supply(
    worker: Arc<Worker>,
    held: Arc<Held>,
    first: Box<Lease>,
    batches: mpsc::Sender<Result<Ready, RekeyError>>,
) {
    let mut resealer = Resealer::new(Arc::clone(&worker.shop.job));
    // Of one task at most; what is under way ends with it.
    let mut reads = JoinSet::new();
    let cursor = first.cursor.clone();
    reads.spawn(read(Arc::clone(&worker), Arc::clone(&held), Place::Behind(first, cursor)));
    while let Some(read_page) = reads.join_next().await {
        let (lease, page) =
            match read_page.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())) {
                Ok(Some(read)) => read,
                Ok(None) => return,
                // Whoever would have taken the page tells of it, or is gone and need not know.
                Err(error) => return drop(batches.send(Err(error.into())).await),
            };
        let place = match page.keys.len().checked_sub(1).filter(|_| !page.last) {
            Some(last) => Place::Behind(lease.clone(), Some(page.place(last))),
            None => Place::NextShard,
        };
        reads.spawn(read(Arc::clone(&worker), Arc::clone(&held), place));
        if !send_batches(&worker, &mut resealer, &lease, &page, &batches).await {
            return;
        }
    }
}

/// Reads the page at this place; `None` when no shard is free.
async fn read(
    worker: Arc<Worker>,
    held: Arc<Held>,
    place: Place,
) -> Result<Option<(Box<Lease>, Page)>, StoreError> {
    let (lease, after) = match place {
        Place::Behind(lease, after) => (lease, after),
        Place::NextShard => match claim_ahead(Arc::clone(&worker), held).await? {
            Some(lease) => (lease.clone(), lease.cursor),
            None => return Ok(None),
        },
    };
    let (shop, job) = (&worker.shop, &worker.shop.job);
    let (limits, skip) =
        (shop.page_limits(), job.mark_of_the_settled().filter(|_| pass_of(&lease) == Pass::Later));
    let read = || job.store.read_page(&job.target, &lease.span, after.as_ref(), skip.as_deref(), limits);
    let page = job.at(Step::ReadPage, patiently(&shop.status, read)).await?;
    shop.size_next_page(&page, limits.rows);
    Ok(Some((lease, page)))
}

/// Claims a shard before the one in work is done. On a task of its own: of a claim that is cut off nobody would know
/// what it got.
async fn claim_ahead(worker: Arc<Worker>, held: Arc<Held>) -> Result<Option<Box<Lease>>, StoreError> {
    let claim = tokio::spawn(async move {
        let closed = held.closed.lock().await;
        if *closed || worker.shop.should_leave(worker.number) {
            return Ok(None);
        }
        let Found::Shard(lease) = worker.claim().await? else { return Ok(None) };
        held.lock().push((*lease).clone());
        Ok(Some(lease))
    });
    claim.await.unwrap_or_else(|ended| match ended.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        // The process is ending.
        Err(_) => Ok(None),
    })
}

fn pass_of(lease: &Lease) -> Pass {
    if lease.sweep == 1 { Pass::First } else { Pass::Later }
}

/// Re-seals a page batch by batch; `false` when that ended it.
async fn send_batches(
    worker: &Worker,
    resealer: &mut Resealer,
    lease: &Lease,
    page: &Page,
    batches: &mpsc::Sender<Result<Ready, RekeyError>>,
) -> bool {
    let shop = &worker.shop;
    let mut start = 0;
    loop {
        let end = page.keys.len().min(start + shop.directions.borrow().batch);
        let resealed = resealer.reseal(page.part(start..end), pass_of(lease));
        let ready = shop.job.at(Step::Reseal, resealed).await;
        let ready = ready.map(|resealed| Ready { lease: Box::new(lease.clone()), resealed });
        let failed = ready.is_err();
        if batches.send(ready).await.is_err() || failed {
            return false;
        }
        start = end;
        if start >= page.keys.len() {
            return true;
        }
    }
}
