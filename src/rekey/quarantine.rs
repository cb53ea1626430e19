//! Trying quarantined values again, once what was in the way is mended.

use std::sync::Arc;

use super::{Job, RekeyError, Step, engine::Resealer, fence::require_passable};
use crate::store::RowKey;

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
    let mut resealer = Resealer::new(Arc::clone(job));
    let mut retried = Retried::default();
    let mut after: Option<(String, String)> = None;
    loop {
        let from = after.as_ref().map(|(row_key, column)| (row_key.as_str(), column.as_str()));
        let records = job.store.quarantine(&job.target.name, from, STEP);
        let records = job.at(Step::ReadQuarantine, records).await?;
        let Some(last) = records.last() else { return Ok(retried) };
        after = Some((last.row_key.clone(), last.column.clone()));
        for record in &records {
            let key = RowKey::parse(job.target.key_kind, &record.row_key);
            let (Some(key), Some(column)) = (key, job.target.column(&record.column)) else {
                retried.quarantined += 1;
                continue;
            };
            match retry_one(job, &mut resealer, &key, column).await? {
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
    resealer: &mut Resealer,
    key: &RowKey,
    column: usize,
) -> Result<Settled, RekeyError> {
    let store = &job.store;
    let row = store.read_rows(&job.target, std::slice::from_ref(key), job.limits());
    let page = job.at(Step::ReadRow, row).await?;
    if page.keys.is_empty() {
        let gone = store.settle_quarantined(&job.target, key, column, None);
        job.at(Step::SettleQuarantined, gone).await?;
        return Ok(Settled::Already);
    }
    let resealed = job.at(Step::Reseal, resealer.reseal_only(page, &[(0, column)])).await?;
    if !resealed.quarantined.is_empty() {
        return Ok(Settled::No);
    }
    let swap = resealed.page.cells.at(0, column).zip(resealed.new.at(0, column));
    let settled = store.settle_quarantined(&job.target, key, column, swap);
    let settled = job.at(Step::SettleQuarantined, settled).await?;
    Ok(match (settled, swap) {
        (false, _) => Settled::No,
        (true, Some(_)) => Settled::Rekeyed,
        (true, None) => Settled::Already,
    })
}
