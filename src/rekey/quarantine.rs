//! Trying quarantined values again, once what was in the way is mended.

use std::sync::Arc;

use tokio::sync::watch;

use super::{
    Job, RekeyError, Status, Step,
    engine::{Resealer, patiently},
    fence::require_passable,
};
use crate::store::{Quarantined, RowKey, RunRow};

/// Records looked at in one step.
const STEP: u32 = 100;

/// What came of trying again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Retried {
    /// Values that open now and were re-keyed.
    pub rekeyed: u64,
    /// Values that are where they are to end, or gone, or empty: their records were removed.
    pub settled: u64,
    /// Values that still can't be opened.
    pub quarantined: u64,
}

/// Opens every quarantined value of the target again, re-keys those that open, and removes their records.
///
/// # Errors
/// [`RekeyError::Refused`] for a job whose data key is not in the registry: only a run adds it, and a value under it
/// would be lost; and for one whose writes the fence would refuse. Trouble with the database or the KMS; what was
/// settled before stays settled.
pub async fn retry_quarantined(job: &Arc<Job>) -> Result<Retried, RekeyError> {
    if job.new_data_key.is_some() {
        return Err(RekeyError::Refused {
            what: format!("{} has no active data key under the key given as --new", job.target.name),
            hint: "name the key that the run ended under: reseal keys list".to_owned(),
        });
    }
    require_passable(job, job.at(Step::ReadFence, job.store.fence(&job.target.name)).await?)?;
    retry_records(job, Records::All, &watch::Sender::default()).await
}

/// Removes what earlier runs than this one recorded and it did not, where the cells open, when its last sweep was clean.
///
/// That it recorded nothing proves nothing: a row that others wrote behind its first sweep, and that shows the new key, it
/// never looked into. No value is written: whoever ends a run holds no shard, and could not be fenced off.
///
/// # Errors
/// Trouble with the database or the KMS; the run's end can be tried again.
pub(super) async fn retry_earlier(
    job: &Arc<Job>,
    run: &RunRow,
    status: &watch::Sender<Status>,
) -> Result<(), RekeyError> {
    retry_records(job, Records::Before(run), status).await.map(drop)
}

/// Which records are looked at.
#[derive(Clone, Copy)]
enum Records<'a> {
    /// All; values that open are re-keyed.
    All,
    /// Those of runs before this one; values stay as they are.
    Before(&'a RunRow),
}

async fn retry_records(
    job: &Arc<Job>,
    records: Records<'_>,
    status: &watch::Sender<Status>,
) -> Result<Retried, RekeyError> {
    let store = &job.store;
    let mut resealer = Resealer::new(Arc::clone(job));
    let mut retried = Retried::default();
    let mut after: Option<(String, String)> = None;
    loop {
        let from = after.as_ref().map(|(row_key, column)| (row_key.as_str(), column.as_str()));
        let read = || match records {
            Records::All => store.quarantine(&job.target.name, from, STEP),
            Records::Before(run) => store.quarantine_before(run, from, STEP),
        };
        let page = job.at(Step::ReadQuarantine, patiently(status, read)).await?;
        let Some(last) = page.last() else { return Ok(retried) };
        after = Some((last.row_key.clone(), last.column.clone()));
        for record in &page {
            let key = RowKey::parse(job.target.key_kind, &record.row_key);
            let (Some(key), Some(column)) = (key, job.target.column(&record.column)) else {
                retried.quarantined += 1;
                continue;
            };
            match retry_one(job, records, &mut resealer, record, (&key, column)).await? {
                Settled::Rekeyed => retried.rekeyed += 1,
                Settled::Already => retried.settled += 1,
                Settled::No => retried.quarantined += 1,
            }
        }
    }
}

enum Settled {
    Rekeyed,
    Already,
    No,
}

async fn retry_one(
    job: &Arc<Job>,
    records: Records<'_>,
    resealer: &mut Resealer,
    record: &Quarantined,
    (key, column): (&RowKey, usize),
) -> Result<Settled, RekeyError> {
    let store = &job.store;
    let row = store.read_rows(&job.target, std::slice::from_ref(key), job.limits());
    let page = job.at(Step::ReadRow, row).await?;
    if page.keys.is_empty() {
        let gone = store.settle_quarantined(&job.target, key, column, &record.sha256, None);
        let removed = job.at(Step::SettleQuarantined, gone).await?;
        return Ok(if removed { Settled::Already } else { Settled::No });
    }
    let resealed = job.at(Step::Reseal, resealer.reseal_only(page, &[(0, column)])).await?;
    if !resealed.quarantined.is_empty() {
        return Ok(Settled::No);
    }
    let swap = resealed.page.cells.at(0, column).zip(resealed.new.at(0, column));
    if swap.is_some() && matches!(records, Records::Before(_)) {
        return Ok(Settled::No);
    }
    let settled = store.settle_quarantined(&job.target, key, column, &record.sha256, swap);
    let settled = job.at(Step::SettleQuarantined, settled).await?;
    Ok(match (settled, swap) {
        (false, _) => Settled::No,
        (true, Some(_)) => Settled::Rekeyed,
        (true, None) => Settled::Already,
    })
}
