//! From one static key to another for a reader that can hold only one: every value is sealed ahead into a side table,
//! and one short transaction puts all of them in place while the new key is deployed.
//!
//! The truth is in the values here too: a staged value counts only for the very bytes that it was sealed from. Staging
//! takes whatever is not staged as it is now, so the same pass starts it, resumes it and brings it up to date.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::{
    Job, RekeyError, Step,
    engine::{Pass, Resealer, require_right_keys},
};
use crate::{
    envelope::Format,
    store::{PageLimits, StagedSwap, StoreError, Tally},
};

/// Bytes of values that may be sealed anew while the table is locked.
const SWAP_BYTES: usize = 16 << 20;

/// How often the lock is asked for, 2 s each time. Whoever writes meanwhile waits behind the request.
const LOCK_TRIES: u32 = 5;

/// A pause between two requests, for those who waited.
const LOCK_PAUSE: Duration = Duration::from_secs(1);

/// Staged rows removed in one step.
const CLEAR_STEP: u32 = 10_000;

/// What one pass of staging found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StagePass {
    /// Values sealed ahead, each proven.
    pub staged: i64,
    /// Values under the new key already.
    pub current: i64,
    /// Values that can't be opened; they stay as they are.
    pub refused: i64,
}

/// What a swap did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Swapped {
    /// Values put in place; `None` when that was done before, or its reply was lost.
    pub values: Option<i64>,
    /// Rows that were sealed anew under the lock.
    pub changed: usize,
    /// How long writers were kept out.
    pub held: Duration,
}

/// Seals every value ahead that is not staged as it is now. The table is not changed.
///
/// # Errors
/// [`RekeyError::Refused`] for a job that is not from static keys to v1, for a staging under other keys, or for keys
/// that open nothing; trouble with the database.
///
/// # Crash safety
/// What is staged stays so; the same call goes on.
pub async fn stage(job: &Arc<Job>) -> Result<StagePass, RekeyError> {
    require_static(job)?;
    job.at(Step::Sample, require_right_keys(job)).await?;
    let (store, target) = (&job.store, &job.target.name);
    job.at(Step::Register, store.register(&job.target)).await?;
    if store.staging(target).await?.is_some_and(|staging| staging.is_swapped) {
        clear(job).await?;
    }
    let keys = keys_of(job);
    let staging = job.at(Step::OpenStaging, store.open_staging(target, &keys)).await?;
    if staging.keys != keys {
        return Err(other_keys(target));
    }
    pass(job).await
}

/// Puts every staged value in place, in one transaction that keeps writers out, after sealing anew what changed since:
/// at most `most` rows.
///
/// # Errors
/// [`RekeyError::Refused`], with nothing changed, when nothing is staged under these keys or more rows changed. A table
/// that stays busy, or other trouble with the database: nothing is changed either, or the staging says that it was
/// swapped.
///
/// # Crash safety
/// Before the commit every value is as it was, after it every one is under the new key; no value is in neither state.
/// What is left in the side table is removed by the same call.
pub async fn swap_staged(job: &Arc<Job>, most: usize) -> Result<Swapped, RekeyError> {
    require_static(job)?;
    let (store, target) = (&job.store, &job.target.name);
    match store.staging(target).await? {
        Some(staging) if staging.keys != keys_of(job) => return Err(other_keys(target)),
        Some(staging) if !staging.is_swapped => {}
        Some(_) => {
            clear(job).await?;
            return Ok(Swapped { values: None, changed: 0, held: Duration::ZERO });
        }
        None => {
            return Err(RekeyError::Refused {
                what: format!("nothing is staged for {target}"),
                hint: "stage it first: --staged prepare".to_owned(),
            });
        }
    }
    pass(job).await?;
    let mut swap = lock(job).await?;
    let locked = Instant::now();
    let limits = PageLimits { rows: most + 1, bytes: SWAP_BYTES, value: job.options.max_value };
    let page = job.at(Step::ReadChanged, swap.changed(limits)).await?;
    if !page.last {
        return Err(RekeyError::Refused {
            what: format!(
                "more than {most} rows of {target} changed since they were staged; nothing was swapped"
            ),
            hint: "try again at a quieter time, or allow more with --max-changed".to_owned(),
        });
    }
    let changed = page.keys.len();
    let mut resealer = Resealer::new(Arc::clone(job));
    let resealed = job.at(Step::Reseal, resealer.reseal(page, Pass::First)).await?;
    let finish = swap.finish(&resealed.page.keys, &resealed.page.cells, &resealed.new);
    let values = match job.at(Step::FinishSwap, finish).await {
        Ok(values) => Some(values),
        // The reply to a commit may be lost: the staging knows.
        Err(error) if error.is_transient() && is_swapped(job).await => None,
        Err(error) => return Err(error.into()),
    };
    let held = locked.elapsed();
    clear(job).await?;
    Ok(Swapped { values, changed, held })
}

/// Forgets what is staged for the job's target, under whatever keys. The table is not changed.
///
/// # Errors
/// Trouble with the database; the same call goes on.
pub async fn drop_staged(job: &Arc<Job>) -> Result<(), RekeyError> {
    clear(job).await?;
    Ok(job.at(Step::CloseStaging, job.store.close_staging(&job.target.name)).await?)
}

async fn pass(job: &Arc<Job>) -> Result<StagePass, RekeyError> {
    let mut resealer = Resealer::new(Arc::clone(job));
    let (mut after, mut total) = (None, Tally::default());
    loop {
        let unstaged = job.store.unstaged(&job.target, after.as_ref(), job.limits());
        let page = job.at(Step::ReadUnstaged, unstaged).await?;
        let resealed = job.at(Step::Reseal, resealer.reseal(page, Pass::First)).await?;
        let page = &resealed.page;
        total += resealed.tally(0..page.keys.len(), 1);
        if let Some(last) = page.keys.last() {
            let stage = job.store.stage(&job.target, &page.keys, &page.cells, &resealed.new);
            job.at(Step::Stage, stage).await?;
            after = Some(last.clone());
        }
        if page.last {
            return Ok(StagePass {
                staged: total.rekeyed,
                current: total.current,
                refused: total.quarantined,
            });
        }
    }
}

async fn lock(job: &Job) -> Result<Box<dyn StagedSwap>, StoreError> {
    let mut tries = 0;
    loop {
        tries += 1;
        match job.at(Step::BeginSwap, job.store.begin_swap(&job.target)).await {
            Err(error) if error.is_transient() && tries < LOCK_TRIES => sleep(LOCK_PAUSE).await,
            answer => return answer,
        }
    }
}

async fn is_swapped(job: &Job) -> bool {
    let staging = job.store.staging(&job.target.name).await;
    matches!(staging, Ok(Some(staging)) if staging.is_swapped)
}

async fn clear(job: &Job) -> Result<(), StoreError> {
    loop {
        let cleared = job.store.clear_staged(&job.target.name, CLEAR_STEP);
        if job.at(Step::ClearStaged, cleared).await? == 0 {
            return Ok(());
        }
    }
}

fn keys_of(job: &Job) -> String {
    serde_json::to_string(&job.keys).expect("names and ids are valid JSON")
}

/// While the table is locked nothing may be waited for, a KMS least of all.
fn require_static(job: &Job) -> Result<(), RekeyError> {
    if job.sealer.format() == Format::V1 && job.opener.kms().is_empty() && job.keys.kind.is_rekey() {
        return Ok(());
    }
    Err(RekeyError::Refused {
        what: "a staged run goes from static keys to a static key".to_owned(),
        hint: "--format v1 --old static:env:NAME --new static:env:NAME".to_owned(),
    })
}

fn other_keys(target: &str) -> RekeyError {
    RekeyError::Refused {
        what: format!("values of {target} are staged under other keys"),
        hint: "swap them with those keys, or forget them: --staged drop".to_owned(),
    }
}
