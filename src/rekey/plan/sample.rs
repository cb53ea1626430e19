//! A few hundred real rows, read and re-sealed in memory as a run would, and dropped.

use std::time::{Duration, Instant};

use crate::{
    rekey::{
        Job, RekeyError,
        engine::{Pass, Resealer},
    },
    store::{PageLimits, Span},
};

/// Rows that are read, from the first key on.
const ROWS: usize = 200;

/// What was measured on the sample.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    /// Rows read.
    pub rows: usize,
    /// Rows with a value that was sealed anew.
    pub resealed_rows: usize,
    /// How long the reading took.
    pub reading: Duration,
    /// How long opening, sealing and opening again took, the KMS included.
    pub sealing: Duration,
    /// Bytes of the values that were sealed anew, as stored.
    pub old_bytes: usize,
    /// Bytes of the new values, as they would be stored.
    pub new_bytes: usize,
}

impl Sample {
    /// By how many bytes a row grows, on average over those with a value to seal anew.
    pub fn growth(&self) -> f64 {
        let rows = float(self.resealed_rows.max(1));
        (float(self.new_bytes) - float(self.old_bytes)) / rows
    }

    /// Bytes of new values a row, on the same average.
    pub fn new_bytes_a_row(&self) -> f64 {
        float(self.new_bytes) / float(self.resealed_rows.max(1))
    }

    /// Seconds that a row took: reading it, and sealing it.
    pub fn seconds_a_row(&self) -> (f64, f64) {
        let reading = self.reading.as_secs_f64() / float(self.rows.max(1));
        (reading, self.sealing.as_secs_f64() / float(self.resealed_rows.max(1)))
    }
}

/// Takes the sample. Nothing of it is kept: a run makes data keys of its own.
pub(super) async fn take(job: &Job) -> Result<Sample, RekeyError> {
    let limits = PageLimits { rows: ROWS.min(job.options.batch), ..job.limits() };
    let started = Instant::now();
    let page = job.store.read_page(&job.target, &Span::ALL, None, None, limits).await?;
    let reading = started.elapsed();
    let started = Instant::now();
    let resealed = Resealer::new(job.clone().into()).reseal(page, Pass::First).await?;
    let mut sample =
        Sample { rows: resealed.page.keys.len(), reading, sealing: started.elapsed(), ..Sample::default() };
    for row in 0..sample.rows {
        let mut any = false;
        for column in 0..job.target.columns.len() {
            if let Some(new) = resealed.new.at(row, column) {
                any = true;
                sample.new_bytes += new.len();
                sample.old_bytes += resealed.page.cells.at(row, column).map_or(0, <[u8]>::len);
            }
        }
        sample.resealed_rows += usize::from(any);
    }
    Ok(sample)
}

fn float(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
