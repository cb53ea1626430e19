//! The proof: every value, as one snapshot sees it, opens under the new key and no other.

use std::{collections::HashMap, sync::Arc};

use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;

use super::{
    Job, KMS_CONCURRENCY, RekeyError, Step,
    edit::{self, Applied},
    engine::count,
};
use crate::{
    envelope::Shape,
    keyring::{Attempt, Opener, Reason},
    secret::Plaintext,
    store::{Begun, Failure, Page, StoreError, Verification},
};

/// Failures kept by name; all are counted.
const KEPT_FAILURES: usize = 1000;

/// SQLSTATE `insufficient_privilege`.
const NOT_ALLOWED: &str = "42501";

/// What a verify found.
#[derive(Debug, Clone, Default)]
pub struct Verified {
    /// Values that opened, in the target's format and under its key.
    pub opened: i64,
    /// Cells that hold nothing.
    pub empty: i64,
    /// Values that did not pass.
    pub failed: i64,
    /// `count(*)` of the same snapshot, times the columns.
    pub expected: i64,
    /// Rows seen.
    pub rows: i64,
    /// The first failures.
    pub failures: Vec<Failure>,
    /// Whether it is on record, for `retire` to rely on.
    pub recorded: Recorded,
}

/// Whether a verify is on record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Recorded {
    /// It is.
    Yes(Box<Verification>),
    /// No run of these very columns is over: there is nothing that it would prove.
    #[default]
    NoRun,
    /// This role may not write reseal's own tables.
    NotAllowed,
}

impl Verified {
    /// Whether every cell was seen, and every value passed.
    pub fn passed(&self) -> bool {
        self.failed == 0 && self.is_whole()
    }

    /// Whether the cells seen are the cells there are.
    pub fn is_whole(&self) -> bool {
        self.opened + self.empty + self.failed == self.expected
    }
}

/// Opens every value of the table under the key that `job` seals with.
///
/// `job.opener` must hold that key alone, unwrapped afresh: with any other key in it, a value that merely opens could
/// pass. One snapshot, read without any index. That it began is written before it, which brings every commit before it
/// to the disk, and what it found after it; the reading itself writes nothing. Of a rewrite, a value
/// passes only if the edit would change nothing more.
///
/// # Errors
/// Trouble with the database or the KMS. A value that does not pass is no error: it is counted and named.
pub async fn verify(job: &Arc<Job>) -> Result<Verified, RekeyError> {
    let begun = job.at(Step::BeginVerify, job.store.begin_verification(&job.target)).await;
    let begun = match begun {
        Err(error) if error.code() == Some(NOT_ALLOWED) => Err(Recorded::NotAllowed),
        begun => begun?.ok_or(Recorded::NoRun),
    };
    let mut verified = read(job).await?;
    verified.recorded = match begun {
        Ok(begun) => record(job, &verified, begun).await?,
        Err(why) => why,
    };
    Ok(verified)
}

async fn record(job: &Job, verified: &Verified, begun: Begun) -> Result<Recorded, StoreError> {
    let verification = Verification {
        begun,
        target: job.target.name.clone(),
        format: job.keys.format.to_string(),
        new_key: job.keys.new.clone(),
        rows: verified.rows,
        opened: verified.opened,
        empty: verified.empty,
        failed: verified.failed,
        cells: verified.expected,
        failures: verified.failures.clone(),
        ended_ms: 0,
    };
    job.at(Step::EndVerify, job.store.end_verification(&verification)).await?;
    Ok(Recorded::Yes(Box::new(verification)))
}

async fn read(job: &Arc<Job>) -> Result<Verified, RekeyError> {
    let (sender, mut pages) = mpsc::channel(2);
    let reader = tokio::spawn({
        let job = Arc::clone(job);
        async move { job.at(Step::Snapshot, job.store.snapshot(&job.target, job.limits(), sender)).await }
    });
    let mut verified = Verified::default();
    let mut plaintext = Plaintext::new();
    while let Some(page) = pages.recv().await {
        verify_page(job, &page, &mut verified, &mut plaintext).await?;
    }
    let rows = reader.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    verified.expected =
        i64::try_from(rows).unwrap_or(i64::MAX).saturating_mul(count(job.target.columns.len()));
    Ok(verified)
}

async fn verify_page(
    job: &Job,
    page: &Page,
    verified: &mut Verified,
    plaintext: &mut Plaintext,
) -> Result<(), RekeyError> {
    let (mut buffer, mut row_text) = (Vec::new(), String::new());
    let mut waiting: HashMap<Vec<u8>, Vec<(usize, usize)>> = HashMap::new();
    verified.rows += count(page.keys.len());
    for (row, key) in page.keys.iter().enumerate() {
        key.write_to(&mut row_text);
        for (column, definition) in job.target.columns.iter().enumerate() {
            let attempt = match page.cells.at(row, column) {
                None => {
                    verified.empty += 1;
                    continue;
                }
                Some([]) => {
                    verified.fail(job, page, row, column, Reason::TooLarge.as_str());
                    continue;
                }
                Some(stored) => definition
                    .encoding
                    .decode(stored, &mut buffer)
                    .map(|value| (job.opener.attempt(column, &row_text, value, plaintext), value)),
            };
            match attempt {
                Some((Attempt::Wrapped, value)) => {
                    let wrapped = Shape::of(value).v2.map(|wrapped| wrapped.encrypted_dek.to_vec());
                    waiting.entry(wrapped.unwrap_or_default()).or_default().push((row, column));
                }
                Some((attempt, _)) => verified.note(job, page, row, column, attempt, plaintext),
                None => verified.fail(job, page, row, column, Reason::Malformed.as_str()),
            }
        }
    }
    let opener: &Opener = &job.opener;
    let mut unwrapped = stream::iter(waiting)
        .map(|(encrypted_dek, cells)| async move {
            Ok((job.at(Step::UnwrapValueKey, opener.unwrap(&encrypted_dek)).await?, cells))
        })
        .buffer_unordered(KMS_CONCURRENCY);
    while let Some((unwrapped, cells)) = unwrapped.next().await.transpose().map_err(RekeyError::Kms)? {
        for (row, column) in cells {
            let stored = page.cells.at(row, column).unwrap_or_default();
            let value = job.target.columns[column].encoding.decode(stored, &mut buffer).unwrap_or_default();
            let attempt = opener.open_unwrapped(value, &unwrapped, plaintext);
            verified.note(job, page, row, column, attempt, plaintext);
        }
    }
    plaintext.clear();
    Ok(())
}

/// Whether the run's edit, if it has one, would leave this plaintext as it is.
fn is_edited(job: &Job, page: &Page, row: usize, column: usize, plaintext: &mut Plaintext) -> bool {
    job.options.kind.edit().is_none_or(|edit| {
        let row = page.keys[row].to_string();
        let edited = edit::apply(edit, job.cell(column, &row), plaintext, &mut Plaintext::new());
        matches!(edited, Ok(Applied::Foreign | Applied::Already))
    })
}

impl Verified {
    fn note(
        &mut self,
        job: &Job,
        page: &Page,
        row: usize,
        column: usize,
        attempt: Attempt,
        plaintext: &mut Plaintext,
    ) {
        match attempt {
            Attempt::Opened(origin) if job.sealer.is_current(&origin) => {
                if is_edited(job, page, row, column, plaintext) {
                    self.opened += 1;
                } else {
                    self.fail(job, page, row, column, "not-edited");
                }
            }
            Attempt::Refused(reason) => self.fail(job, page, row, column, reason.as_str()),
            Attempt::Opened(_) | Attempt::Wrapped => self.fail(job, page, row, column, "not-current"),
        }
    }

    fn fail(&mut self, job: &Job, page: &Page, row: usize, column: usize, reason: &str) {
        self.failed += 1;
        if self.failures.len() < KEPT_FAILURES {
            self.failures.push(Failure {
                row: page.keys[row].to_string(),
                column: job.target.columns[column].name.clone(),
                reason: reason.to_owned(),
            });
        }
    }
}
