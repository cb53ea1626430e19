//! From a page as read to a page as it should be: opens, seals and re-opens every cell, outside any transaction.

use std::{collections::HashMap, sync::Arc};

use futures_util::{StreamExt, TryStreamExt, stream};
use sha2::{Digest, Sha256};

use super::Step;
use crate::{
    envelope::{Encoding, Format, Shape, is_ambiguous_first_byte},
    keyring::{Attempt, OriginKey, ProofFailed, Reason, RowKeys, Sealer, looks_like_url},
    rekey::{
        DataKeyScope, Job, KMS_CONCURRENCY, Kind, RekeyError,
        edit::{self, Applied},
    },
    secret::Plaintext,
    store::{Cells, Page, Quarantined, Tally},
};

/// Bytes of a plaintext's buffer that are kept for the next value in its place.
const KEPT_PLAINTEXT: usize = 4096;

/// Rows sealed, about 4 µs each, until other tasks may run.
const ROWS_A_BREATH: usize = 16;

/// What becomes of one cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Not looked at: no part of this batch.
    Skipped,
    /// It holds nothing.
    Empty,
    /// It is where it is to end.
    Current,
    /// It is open, and will be sealed anew.
    Open,
    /// It is open, and its data key, which this KMS key of the opener's unwrapped, will be wrapped anew.
    Rewrap(usize),
    /// It waits for its data key.
    Wrapped,
    /// It can't be opened.
    Refused(Reason),
}

/// A page with what is to replace it.
#[derive(Debug)]
pub(in crate::rekey) struct Resealed {
    /// The page as read.
    pub page: Page,
    /// The new cells; `None` leaves a cell as it is.
    pub new: Cells,
    /// The cells that can't be opened, with their rows, in the order of rows.
    pub quarantined: Vec<(usize, Quarantined)>,
    verdicts: Vec<Verdict>,
    not_urls: Vec<usize>,
    /// The rows with a value that the run's edit is for, and whether it was changed.
    edits: Vec<(usize, bool)>,
}

impl Resealed {
    /// What these rows add to the counters if every swap holds.
    ///
    /// A cell is counted once, when its first visit settles; a sweep after the first adds only what it re-keys or
    /// newly quarantines.
    pub(in crate::rekey) fn tally(&self, rows: std::ops::Range<usize>, sweep: i64) -> Tally {
        let width = self.page.cells.width();
        let scanned = if sweep == 1 { count(rows.len()) } else { 0 };
        let mut tally = Tally { scanned, ..Tally::default() };
        for verdict in &self.verdicts[rows.start * width..rows.end * width] {
            match verdict {
                Verdict::Skipped => continue,
                Verdict::Empty | Verdict::Current if sweep > 1 => continue,
                Verdict::Empty => tally.empty += 1,
                Verdict::Current => tally.current += 1,
                Verdict::Open | Verdict::Rewrap(_) | Verdict::Wrapped => tally.rekeyed += 1,
                Verdict::Refused(_) => tally.quarantined += 1,
            }
            tally.total += 1;
        }
        tally.not_urls = count(self.not_urls.iter().filter(|row| rows.contains(row)).count());
        tally
    }

    /// How many values of these rows the run's edit is for, and how many of them it changed.
    pub(super) fn edits(&self, rows: &std::ops::Range<usize>) -> (u64, u64) {
        let edits = || self.edits.iter().filter(|(row, _)| rows.contains(row));
        (edits().count() as u64, edits().filter(|(_, changed)| *changed).count() as u64)
    }

    /// The quarantine records of these rows.
    pub(super) fn quarantined(&self, rows: &std::ops::Range<usize>) -> Vec<Quarantined> {
        self.quarantined
            .iter()
            .filter(|(row, _)| rows.contains(row))
            .map(|(_, record)| record.clone())
            .collect()
    }
}

pub(in crate::rekey) fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Which pass over the table this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::rekey) enum Pass {
    /// Every value is opened.
    First,
    /// Values that show the new key in their header, or have v2's form where only the new key can have made them,
    /// are taken for current: no sweep decrypts them, nor asks a remote KMS about every row, again. A verify does.
    /// Where values are edited on the way, every one is opened again.
    Later,
}

/// Re-seals pages. Keeps its buffers from page to page.
pub(in crate::rekey) struct Resealer {
    job: Arc<Job>,
    plaintexts: Vec<Plaintext>,
    check: Plaintext,
    decoded: Vec<u8>,
    sealed: Vec<u8>,
    encoded: Vec<u8>,
    row_text: String,
    /// Cells of the page that the run's edit is for, and whether it changed them.
    edits: Vec<(usize, bool)>,
}

impl Resealer {
    pub(in crate::rekey) fn new(job: Arc<Job>) -> Self {
        Self {
            job,
            plaintexts: Vec::new(),
            check: Plaintext::new(),
            decoded: Vec::new(),
            sealed: Vec::new(),
            encoded: Vec::new(),
            row_text: String::new(),
            edits: Vec::new(),
        }
    }

    /// Opens every cell of `page` and seals those that are not where they are to end.
    ///
    /// # Errors
    /// Trouble that is no verdict on a value; the page is then as it was, and nothing was written.
    pub(in crate::rekey) async fn reseal(&mut self, page: Page, pass: Pass) -> Result<Resealed, RekeyError> {
        self.edits.clear();
        let width = page.cells.width();
        let cells = page.keys.len() * width;
        self.plaintexts.resize_with(self.plaintexts.len().max(cells), Plaintext::new);
        let mut verdicts = Vec::with_capacity(cells);
        for row in 0..page.keys.len() {
            breathe(row).await;
            page.keys[row].write_to(&mut self.row_text);
            for column in 0..width {
                let verdict = match page.cells.at(row, column) {
                    None => Verdict::Empty,
                    Some([]) => Verdict::Refused(Reason::TooLarge),
                    Some(stored) => self.attempt(column, stored, row * width + column, pass)?,
                };
                verdicts.push(verdict);
            }
        }
        self.open_wrapped(&page, &mut verdicts).await?;
        self.seal(page, verdicts).await
    }

    /// Re-seals single cells of `page`: those that `only` names, by row and column.
    pub(in crate::rekey) async fn reseal_only(
        &mut self,
        page: Page,
        only: &[(usize, usize)],
    ) -> Result<Resealed, RekeyError> {
        self.edits.clear();
        let width = page.cells.width();
        self.plaintexts.resize_with(self.plaintexts.len().max(page.keys.len() * width), Plaintext::new);
        let mut verdicts = vec![Verdict::Skipped; page.keys.len() * width];
        for &(row, column) in only {
            page.keys[row].write_to(&mut self.row_text);
            verdicts[row * width + column] = match page.cells.at(row, column) {
                None => Verdict::Empty,
                Some([]) => Verdict::Refused(Reason::TooLarge),
                Some(stored) => self.attempt(column, stored, row * width + column, Pass::First)?,
            };
        }
        self.open_wrapped(&page, &mut verdicts).await?;
        self.seal(page, verdicts).await
    }

    fn attempt(
        &mut self,
        column: usize,
        stored: &[u8],
        cell: usize,
        pass: Pass,
    ) -> Result<Verdict, RekeyError> {
        let trusts_form =
            pass == Pass::Later && self.job.options.kind.edit().is_none() && self.only_new_key_wraps();
        let opener = &self.job.opener;
        let plaintext = &mut self.plaintexts[cell];
        let encoding = self.job.target.columns[column].encoding;
        let (attempt, value) = match encoding.decode(stored, &mut self.decoded) {
            Some(value) => (opener.attempt(column, &self.row_text, value, plaintext), value),
            None => (opener.attempt_undecodable(stored, plaintext), stored),
        };
        if attempt == Attempt::Wrapped && trusts_form {
            return Ok(Verdict::Current);
        }
        let applied = edit_opened(&self.job, &attempt, column, &self.row_text, plaintext, &mut self.check)?;
        note_edit(&mut self.edits, cell, applied);
        Ok(settle(&self.job, attempt, applied, value))
    }

    /// Whether, of all KMS keys that a value may be under, there is only the new one.
    fn only_new_key_wraps(&self) -> bool {
        let Sealer::Wrapped(new) = self.job.sealer.as_ref() else { return false };
        self.job.opener.kms().iter().all(|kms| kms.key_name() == new.key_name())
    }

    /// Unwraps the data keys that cells wait for, each once, and opens the cells.
    async fn open_wrapped(&mut self, page: &Page, verdicts: &mut [Verdict]) -> Result<(), RekeyError> {
        let width = page.cells.width();
        let waiting: Vec<usize> =
            (0..verdicts.len()).filter(|&cell| verdicts[cell] == Verdict::Wrapped).collect();
        if waiting.is_empty() {
            return Ok(());
        }
        let mut data_keys: HashMap<Vec<u8>, Vec<usize>> = HashMap::new();
        for &cell in &waiting {
            let (row, column) = (cell / width, cell % width);
            let stored = page.cells.at(row, column).unwrap_or_default();
            let value = self.job.target.columns[column].encoding.decode(stored, &mut self.decoded);
            if let Some(wrapped) = Shape::of(value.unwrap_or_default()).v2 {
                data_keys.entry(wrapped.encrypted_dek.to_vec()).or_default().push(cell);
            }
        }
        let job = &self.job;
        let mut unwrapped = stream::iter(data_keys)
            .map(|(encrypted_dek, cells)| async move {
                Ok((job.at(Step::UnwrapValueKey, job.opener.unwrap(&encrypted_dek)).await?, cells))
            })
            .buffer_unordered(KMS_CONCURRENCY);
        while let Some((unwrapped, cells)) = unwrapped.next().await.transpose().map_err(RekeyError::Kms)? {
            for cell in cells {
                let (row, column) = (cell / width, cell % width);
                let stored = page.cells.at(row, column).unwrap_or_default();
                let encoding = self.job.target.columns[column].encoding;
                let value = encoding.decode(stored, &mut self.decoded).unwrap_or_default();
                let plaintext = &mut self.plaintexts[cell];
                let attempt = job.opener.open_unwrapped(value, &unwrapped, plaintext);
                page.keys[row].write_to(&mut self.row_text);
                let (text, check) = (&self.row_text, &mut self.check);
                let applied = edit_opened(&self.job, &attempt, column, text, plaintext, check)?;
                note_edit(&mut self.edits, cell, applied);
                verdicts[cell] = settle(&self.job, attempt, applied, value);
            }
        }
        Ok(())
    }

    /// Seals the open cells, each with its proof, and wipes their plaintexts.
    async fn seal(&mut self, page: Page, mut verdicts: Vec<Verdict>) -> Result<Resealed, RekeyError> {
        let width = page.cells.width();
        let row_keys = self.row_keys(page.keys.len(), width, &verdicts).await?;
        let rewrapped = self.rewrapped(&page, &verdicts).await?;
        let mut new = Cells::new(width);
        let (mut not_urls, mut quarantined) = (Vec::new(), Vec::new());
        for row in 0..page.keys.len() {
            breathe(row).await;
            page.keys[row].write_to(&mut self.row_text);
            for column in 0..width {
                let cell = row * width + column;
                match verdicts[cell] {
                    Verdict::Open | Verdict::Rewrap(_) => {
                        let plaintext = &mut self.plaintexts[cell];
                        let (sealed, check) = (&mut self.sealed, &mut self.check);
                        if verdicts[cell] == Verdict::Open {
                            let keys = row_keys.of(row);
                            self.job.sealer.seal(column, &self.row_text, keys, plaintext, sealed, check)?;
                        } else {
                            let stored = page.cells.at(row, column).unwrap_or_default();
                            let encoding = self.job.target.columns[column].encoding;
                            let value = encoding.decode(stored, &mut self.decoded).unwrap_or_default();
                            let keys = Shape::of(value).v2.and_then(|old| rewrapped.get(old.encrypted_dek));
                            keys.ok_or(ProofFailed)?.carry(value, plaintext, sealed, check)?;
                        }
                        if !looks_like_url(plaintext.expose()) {
                            not_urls.push(row);
                        }
                        forget(plaintext);
                        match self.job.target.columns[column].encoding {
                            Encoding::Bytes => new.push(Some(sealed)),
                            encoding @ Encoding::Base64 => {
                                encoding.encode_into(sealed, &mut self.encoded);
                                new.push(Some(&self.encoded));
                            }
                        }
                    }
                    Verdict::Refused(reason) => {
                        new.push(None);
                        match self.record(&page, row, column, reason).await? {
                            Some(record) => quarantined.push((row, record)),
                            None => verdicts[cell] = Verdict::Empty,
                        }
                    }
                    Verdict::Skipped | Verdict::Empty | Verdict::Current | Verdict::Wrapped => new.push(None),
                }
            }
        }
        self.check.clear();
        let edits = self.edits.drain(..).map(|(cell, changed)| (cell / width, changed)).collect();
        Ok(Resealed { page, new, quarantined, verdicts, not_urls, edits })
    }

    /// The quarantine record of a cell; `None` when a value too large to be read here is gone by now.
    async fn record(
        &self,
        page: &Page,
        row: usize,
        column: usize,
        reason: Reason,
    ) -> Result<Option<Quarantined>, RekeyError> {
        let sha256 = match page.cells.at(row, column) {
            Some(stored) if !stored.is_empty() => Some(Sha256::digest(stored).into()),
            _ => {
                let job = &self.job;
                let sha256 = job.store.fingerprint(&job.target, &page.keys[row], column);
                job.at(Step::Fingerprint, sha256).await?
            }
        };
        Ok(sha256.map(|sha256| Quarantined {
            row_key: page.keys[row].to_string(),
            column: self.job.target.columns[column].name.clone(),
            reason: reason.as_str().to_owned(),
            sha256,
            first_seen_ms: 0,
            last_seen_ms: 0,
        }))
    }

    /// The data keys to be wrapped anew, each once, by how they were wrapped.
    async fn rewrapped(
        &self,
        page: &Page,
        verdicts: &[Verdict],
    ) -> Result<HashMap<Vec<u8>, RowKeys>, RekeyError> {
        let width = page.cells.width();
        let (mut sources, mut buffer) = (HashMap::new(), Vec::new());
        for (cell, verdict) in verdicts.iter().enumerate() {
            let Verdict::Rewrap(source) = *verdict else { continue };
            let stored = page.cells.at(cell / width, cell % width).unwrap_or_default();
            let value = self.job.target.columns[cell % width].encoding.decode(stored, &mut buffer);
            if let Some(wrapped) = Shape::of(value.unwrap_or_default()).v2 {
                sources.insert(wrapped.encrypted_dek.to_vec(), source);
            }
        }
        let (job, kms) = (&self.job, self.job.opener.kms());
        stream::iter(sources)
            .map(|(encrypted_dek, source)| async move {
                let rewrap = job.sealer.rewrap(&encrypted_dek, kms[source].as_ref());
                let keys = job.at(Step::MakeValueKey, rewrap).await?;
                Ok(keys.map(|keys| (encrypted_dek, keys)))
            })
            .buffer_unordered(KMS_CONCURRENCY)
            .try_filter_map(|keys| async move { Ok(keys) })
            .try_collect()
            .await
    }

    /// The data keys that the open cells of a v2 run need: one a row, or one for the whole batch.
    async fn row_keys(
        &self,
        rows: usize,
        width: usize,
        verdicts: &[Verdict],
    ) -> Result<RowKeySet, RekeyError> {
        let sealer = &self.job.sealer;
        let make = || self.job.at(Step::MakeValueKey, sealer.row_keys());
        let needed = (0..rows).filter(|row| verdicts[row * width..][..width].contains(&Verdict::Open));
        if sealer.format() != Format::V2 {
            return Ok(RowKeySet::default());
        }
        if self.job.keys.scope == DataKeyScope::Batch {
            let batch = if needed.count() > 0 { make().await? } else { None };
            return Ok(RowKeySet { batch, rows: HashMap::new() });
        }
        let rows = stream::iter(needed)
            .map(|row| {
                let made = make();
                async move { Ok::<_, RekeyError>(made.await?.map(|keys| (row, keys))) }
            })
            .buffer_unordered(KMS_CONCURRENCY)
            .try_filter_map(|keys| async move { Ok(keys) })
            .try_collect()
            .await?;
        Ok(RowKeySet { batch: None, rows })
    }
}

/// Lets other tasks of this thread run, and the runtime look at its sockets, after every few rows: a batch's commit is six
/// answers of the server, and each would wait until a whole page is sealed.
async fn breathe(row: usize) {
    if row % ROWS_A_BREATH == ROWS_A_BREATH - 1 {
        tokio::task::yield_now().await;
    }
}

/// Wipes a plaintext; one that was large gives its memory back, so that a page of large values costs it only once.
fn forget(plaintext: &mut Plaintext) {
    if plaintext.expose().len() > KEPT_PLAINTEXT {
        *plaintext = Plaintext::new();
    } else {
        plaintext.clear();
    }
}

/// The v2 data keys of one page.
#[derive(Default)]
struct RowKeySet {
    batch: Option<RowKeys>,
    rows: HashMap<usize, RowKeys>,
}

impl RowKeySet {
    fn of(&self, row: usize) -> Option<&RowKeys> {
        self.batch.as_ref().or_else(|| self.rows.get(&row))
    }
}

/// Does the run's edit, if it has one, on a value that was opened.
fn edit_opened(
    job: &Job,
    attempt: &Attempt,
    column: usize,
    row: &str,
    plaintext: &mut Plaintext,
    scratch: &mut Plaintext,
) -> Result<Applied, RekeyError> {
    let (Attempt::Opened(_), Some(edit)) = (attempt, job.options.kind.edit()) else {
        return Ok(Applied::Foreign);
    };
    edit::apply(edit, job.cell(column, row), plaintext, scratch).map_err(|edit::NotIdempotent| {
        let (row, column) = (row.to_owned(), job.target.columns[column].name.clone());
        RekeyError::NotIdempotent { edit: edit.name().to_owned(), row, column }
    })
}

/// Notes a cell that the edit is for.
fn note_edit(edits: &mut Vec<(usize, bool)>, cell: usize, applied: Applied) {
    if applied != Applied::Foreign {
        edits.push((cell, applied == Applied::Changed));
    }
}

/// What an attempt means for the run.
fn settle(job: &Job, attempt: Attempt, applied: Applied, value: &[u8]) -> Verdict {
    match attempt {
        Attempt::Wrapped => Verdict::Wrapped,
        Attempt::Refused(reason) => Verdict::Refused(reason),
        Attempt::Opened(origin) => {
            let ambiguous = job.options.reseal_ambiguous
                && matches!(origin.key, OriginKey::Static(_))
                && is_ambiguous_first_byte(value);
            let stays = job.sealer.is_current(&origin) && !ambiguous && applied != Applied::Changed;
            match (&origin.key, &job.options.kind) {
                _ if stays => Verdict::Current,
                (OriginKey::Kms(name), Kind::Rewrap) => {
                    let source = job.opener.kms().iter().position(|kms| kms.key_name() == name.as_ref());
                    source.map_or(Verdict::Open, Verdict::Rewrap)
                }
                _ => Verdict::Open,
            }
        }
    }
}

impl Drop for Resealer {
    fn drop(&mut self) {
        self.plaintexts.iter_mut().for_each(Plaintext::clear);
    }
}
