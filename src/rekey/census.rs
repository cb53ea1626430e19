//! What a table's values are under, counted on one snapshot without a single write.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::mpsc;

use super::{Job, RekeyError, engine::count};
use crate::{
    envelope::{Shape, is_ambiguous_first_byte},
    keyring::{Attempt, Origin, OriginKey, Reason},
    secret::Plaintext,
    store::Page,
};

/// v2 values whose data keys are unwrapped, to know what the others probably are.
const UNWRAPPED: i64 = 200;

/// What was counted.
#[derive(Debug, Clone, Default)]
pub struct Census {
    /// Rows.
    pub rows: i64,
    /// Values by format and key.
    pub opened: BTreeMap<Origin, i64>,
    /// Values of v2's form whose data keys a remote KMS was not asked for.
    pub wrapped: i64,
    /// Cells that hold nothing.
    pub empty: i64,
    /// Values that can't be opened, by reason.
    pub refused: BTreeMap<Reason, i64>,
    /// The first cells that can't be opened: row, column, reason.
    pub examples: Vec<(String, String, Reason)>,
    /// v1 values whose first byte is 0x02 or 0x03: a reader that branches on it takes them for another format.
    pub ambiguous: i64,
    /// Values that are where they are to end already.
    pub current: i64,
    /// Rows with a value that is not.
    pub rows_to_rekey: i64,
    /// Bytes of all values.
    pub bytes: i64,
}

/// Reads the whole table once and counts; opens every value that a key at hand opens, and a sample of those that a
/// remote KMS would have to be asked for.
///
/// # Errors
/// Trouble with the database or the KMS.
pub async fn census(job: &Arc<Job>) -> Result<Census, RekeyError> {
    let (sender, mut pages) = mpsc::channel(2);
    let reader = tokio::spawn({
        let job = Arc::clone(job);
        async move { job.store.snapshot(&job.target, job.limits(), sender).await }
    });
    let mut counted = Census::default();
    let mut plaintext = Plaintext::new();
    let mut asked = 0;
    while let Some(page) = pages.recv().await {
        count_page(job, &page, &mut counted, &mut plaintext, &mut asked).await?;
    }
    reader.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    Ok(counted)
}

async fn count_page(
    job: &Job,
    page: &Page,
    counted: &mut Census,
    plaintext: &mut Plaintext,
    asked: &mut i64,
) -> Result<(), RekeyError> {
    let (mut buffer, mut row_text) = (Vec::new(), String::new());
    counted.rows += count(page.keys.len());
    counted.bytes += count(page.cells.byte_len());
    for (row, key) in page.keys.iter().enumerate() {
        key.write_to(&mut row_text);
        let settled = counted.current + counted.empty;
        for (column, definition) in job.target.columns.iter().enumerate() {
            let Some(stored) = page.cells.at(row, column) else {
                counted.empty += 1;
                continue;
            };
            let value = definition.encoding.decode(stored, &mut buffer);
            let attempt = match value {
                _ if stored.is_empty() => Attempt::Refused(Reason::TooLarge),
                Some(value) if *asked < UNWRAPPED => {
                    *asked += i64::from(Shape::of(value).v2.is_some());
                    job.opener.open(column, &row_text, value, plaintext).await?
                }
                Some(value) => job.opener.attempt(column, &row_text, value, plaintext),
                None => job.opener.attempt_undecodable(stored, plaintext),
            };
            let value = value.unwrap_or(stored);
            counted.note(job, attempt, value, (&row_text, &definition.name));
        }
        if counted.current + counted.empty - settled < count(job.target.columns.len()) {
            counted.rows_to_rekey += 1;
        }
    }
    plaintext.clear();
    Ok(())
}

impl Census {
    fn note(&mut self, job: &Job, attempt: Attempt, value: &[u8], (row, column): (&str, &str)) {
        match attempt {
            Attempt::Wrapped => self.wrapped += 1,
            Attempt::Opened(origin) => {
                self.current += i64::from(job.sealer.is_current(&origin));
                let ambiguous = matches!(origin.key, OriginKey::Static(_)) && is_ambiguous_first_byte(value);
                self.ambiguous += i64::from(ambiguous);
                *self.opened.entry(origin).or_default() += 1;
            }
            Attempt::Refused(reason) => {
                *self.refused.entry(reason).or_default() += 1;
                if self.examples.len() < 10 {
                    self.examples.push((row.to_owned(), column.to_owned(), reason));
                }
            }
        }
    }
}
