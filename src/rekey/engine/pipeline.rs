//! A worker commits, batch by batch, what its supply has ready.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use rand::RngExt;
use tokio::{sync::mpsc, task::JoinHandle, time::sleep};

use super::{
    Step, Waiting,
    resealer::{Resealed, Resealer, count},
    supply::{Held, Ready, supply},
    waiting::Wait,
    worker::Worker,
    workshop::Workshop,
};
use crate::{
    rekey::RekeyError,
    store::{Batch, Checkpoint, Committed, Lease, Page, RowKey, StoreError, Tally, Unsettled},
};

/// How often a lease of 20 s is renewed while no batch renews it.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// How often one row's commit may be rolled back before the row is left to the next sweep.
const TRIES_PER_ROW: u32 = 3;

/// How work on shards ended.
#[derive(Debug)]
pub(super) enum End {
    /// Every row of them was dealt with.
    Done,
    /// A lease was lost, or it is not known whether a commit went through, for this reason: claim again, and go on
    /// from the cursor.
    Lost(Option<StoreError>),
    /// Told to stop.
    Stopped,
}

/// Works through a shard, from its cursor to its end, and through those that follow while there are any to be had at
/// once. Tells `lost` of each that is done: nothing was lost in a row any more.
///
/// # Crash safety
/// Nothing is kept here that the store does not have: dying anywhere costs at most the pages under way, and leases that
/// run out.
pub(super) async fn work(worker: &Arc<Worker>, lease: Box<Lease>, lost: &mut u32) -> Result<End, RekeyError> {
    let held = Arc::new(Held::new(&lease));
    let (sender, ready) = mpsc::channel(1);
    let supplier = tokio::spawn(supply(Arc::clone(worker), Arc::clone(&held), lease, sender));
    let supplier = AbortOnDrop::new(supplier);
    let end = tokio::select! {
        end = commit_all(worker, &held, ready, lost) => end,
        () = keep_alive(&worker.shop, &held) => Ok(End::Lost(None)),
    };
    supplier.end().await;
    for lease in held.close().await {
        worker.release(&lease).await;
    }
    end
}

/// A task that ends with its owner.
pub(super) struct AbortOnDrop(JoinHandle<()>);

impl AbortOnDrop {
    pub(super) fn new(task: JoinHandle<()>) -> Self {
        Self(task)
    }

    /// Ends it, and waits until it has ended. If it had panicked, so does this: of a task that is gone nobody else tells.
    pub(super) async fn end(mut self) {
        self.0.abort();
        let ended = (&mut self.0).await;
        if let Some(panic) = ended.err().and_then(|ended| ended.try_into_panic().ok()) {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Renews the leases until one is lost. Trouble with the database is no loss: the next commit will tell.
async fn keep_alive(shop: &Workshop, held: &Held) {
    loop {
        sleep(HEARTBEAT).await;
        for lease in held.leases() {
            let renewed = shop.job.at(Step::Renew, shop.job.store.renew(&lease)).await;
            // It may be done by now.
            if matches!(renewed, Ok(false)) && held.holds(&lease) {
                return;
            }
        }
    }
}

async fn commit_all(
    worker: &Worker,
    held: &Held,
    mut ready: mpsc::Receiver<Result<Ready, RekeyError>>,
    lost: &mut u32,
) -> Result<End, RekeyError> {
    let shop = &worker.shop;
    let mut current: Option<Lease> = None;
    while let Some(ready) = ready.recv().await {
        let Ready { lease, resealed } = ready?;
        // The one at hand has moved since.
        let lease = current.get_or_insert(*lease);
        shop.admit(worker.number, resealed.page.keys.len()).await;
        if let Some(end) = commit_page(shop, worker.number, lease, &resealed).await? {
            return Ok(end);
        }
        if resealed.page.last {
            held.remove(lease);
            current = None;
            *lost = 0;
            shop.ended.notify_waiters();
        }
    }
    Ok(if current.is_none() { End::Done } else { End::Lost(None) })
}

/// Commits a page, in one batch where nothing is in the way, else in smaller ones; `None` when all of it is in. The
/// lease's cursor follows.
async fn commit_page(
    shop: &Workshop,
    worker: usize,
    lease: &mut Lease,
    resealed: &Resealed,
) -> Result<Option<End>, RekeyError> {
    let rows = resealed.page.keys.len();
    let (mut start, mut size, mut tries) = (0, rows, 0);
    loop {
        if shop.should_leave(worker) {
            return Ok(Some(End::Stopped));
        }
        // The page was read for the batch of a while ago.
        size = size.min(shop.directions.borrow().batch);
        let chunk = start..rows.min(start + size);
        let committed = if rows > 0 && size == 1 && tries >= TRIES_PER_ROW {
            defer_row(shop, lease, resealed, start).await
        } else {
            commit_chunk(shop, lease, resealed, chunk.clone()).await
        };
        match committed {
            Ok(Committed::Fenced) => return Ok(Some(End::Lost(None))),
            Ok(Committed::Done { unsettled, .. }) => {
                *lease = lease.moved_to(place_of_last(&resealed.page, &chunk).as_ref());
                if lease.sweep == 1 {
                    shop.rows.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                }
                shop.note_edits(lease.sweep, &chunk, resealed);
                if !unsettled.is_empty()
                    && let Some(end) = settle_conflicts(shop, lease, resealed, unsettled).await?
                {
                    return Ok(Some(end));
                }
                (start, size, tries) = (chunk.end, (size * 2).min(rows), 0);
                if start >= rows {
                    return Ok(None);
                }
            }
            // Not even the checkpoint of an empty page gets through: somebody locks our own tables.
            Err(error) if rows == 0 && tries >= TRIES_PER_ROW => return Ok(Some(End::Lost(Some(error)))),
            Err(error) if error.is_rolled_back() => {
                let _wait = Wait::begin(&shop.status, Waiting::Database(error.to_string()));
                tries = if size == 1 { tries + 1 } else { 0 };
                size = (size / 2).max(1);
                let pause = rand::rng().random_range(20..200);
                sleep(Duration::from_millis(pause)).await;
            }
            Err(error) if error.is_transient() => return Ok(Some(End::Lost(Some(error)))),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Where these rows end; `None` for no rows.
fn place_of_last(page: &Page, rows: &Range<usize>) -> Option<RowKey> {
    rows.clone().next_back().map(|last| page.place(last))
}

async fn commit_chunk(
    shop: &Workshop,
    lease: &Lease,
    resealed: &Resealed,
    chunk: Range<usize>,
) -> Result<Committed, StoreError> {
    let page = &resealed.page;
    let mut tally = resealed.tally(chunk.clone(), lease.sweep);
    let kms_calls = shop.take_kms_calls();
    tally.kms_calls = i64::try_from(kms_calls).unwrap_or(i64::MAX);
    let place = place_of_last(page, &chunk);
    let checkpoint =
        Checkpoint { cursor: place.as_ref(), done: page.last && chunk.end == page.keys.len(), tally };
    let batch = Batch {
        keys: &page.keys,
        rowids: &page.rowids,
        max_value: shop.job.options.max_value,
        old: &page.cells,
        new: &resealed.new,
        quarantined: &resealed.quarantined(&chunk),
        rows: chunk,
        checkpoint,
    };
    let committed = shop.commit(Step::Commit, lease, batch).await;
    if !matches!(committed, Ok(Committed::Done { .. })) {
        shop.give_back_kms_calls(kms_calls);
    }
    committed
}

/// Passes over a row that somebody keeps locked; the next sweep comes back to it.
async fn defer_row(
    shop: &Workshop,
    lease: &Lease,
    resealed: &Resealed,
    row: usize,
) -> Result<Committed, StoreError> {
    let page = &resealed.page;
    let tally = Tally {
        scanned: i64::from(lease.sweep == 1),
        deferred: count(page.cells.width()),
        ..Tally::default()
    };
    let done = page.last && row + 1 == page.keys.len();
    let batch = Batch {
        keys: &page.keys,
        rowids: &page.rowids,
        max_value: shop.job.options.max_value,
        old: &page.cells,
        new: &resealed.new,
        quarantined: &[],
        rows: row..row,
        checkpoint: Checkpoint { cursor: Some(&page.place(row)), done, tally },
    };
    shop.commit(Step::DeferRow, lease, batch).await
}

/// Re-seals at once what somebody else changed under us; what is changed again meanwhile waits for the next sweep.
/// Gives the end of the work on the shard, when this is it.
async fn settle_conflicts(
    shop: &Workshop,
    lease: &Lease,
    resealed: &Resealed,
    unsettled: Vec<Unsettled>,
) -> Result<Option<End>, RekeyError> {
    let job = &shop.job;
    let (page, cells) = page_of(&resealed.page, unsettled);
    let mut resealer = Resealer::new(Arc::clone(job));
    let changed = job.at(Step::Reseal, resealer.reseal_only(page, &cells)).await?;
    let rows = 0..changed.page.keys.len();
    let mut tally = changed.tally(rows.clone(), lease.sweep);
    tally.scanned = 0;
    tally.deferred = -count(cells.len());
    let batch = Batch {
        keys: &changed.page.keys,
        rowids: &[],
        max_value: job.options.max_value,
        old: &changed.page.cells,
        new: &changed.new,
        quarantined: &changed.quarantined(&rows),
        rows,
        checkpoint: Checkpoint { cursor: None, done: false, tally },
    };
    match shop.commit(Step::SettleConflicts, lease, batch).await {
        Ok(Committed::Done { .. }) => Ok(None),
        Ok(Committed::Fenced) => Ok(Some(End::Lost(None))),
        // They are counted as deferred: the next sweep comes back to them.
        Err(error) if error.is_rolled_back() => Ok(None),
        Err(error) if error.is_transient() => Ok(Some(End::Lost(Some(error)))),
        Err(error) => Err(error.into()),
    }
}

/// These cells as a page of their own, and where they are in it. A row is in it once, however many of its cells are: an
/// UPDATE takes only one of several new versions of a row.
fn page_of(read: &Page, unsettled: Vec<Unsettled>) -> (Page, Vec<(usize, usize)>) {
    let mut rows: BTreeMap<usize, BTreeMap<usize, Option<Vec<u8>>>> = BTreeMap::new();
    for Unsettled { row, column, now } in unsettled {
        rows.entry(row).or_default().insert(column, now);
    }
    let width = read.cells.width();
    let (mut page, mut cells) = (Page::new(width), Vec::new());
    for (here, (row, columns)) in rows.iter().enumerate() {
        page.keys.push(read.keys[*row].clone());
        for column in 0..width {
            page.cells.push(columns.get(&column).and_then(Option::as_deref));
        }
        cells.extend(columns.keys().map(|&column| (here, column)));
    }
    (page, cells)
}
