//! What a run takes: calls of the KMS, bytes written, time. Estimates, each with its formula.

use serde::Serialize;

use super::Sample;
use crate::{
    envelope::Format,
    keyring::{Sealer, kms::Locality},
    rekey::{Census, DataKeyScope, Job},
    store::{Footprint, PostgresFootprint},
};

/// What AWS asks for 10,000 calls, in US dollars: the list price of symmetric requests, without the free ones.
pub const DOLLARS_PER_10_000_CALLS: f64 = 0.03;

/// Bytes of log a second that a server is taken to write, at worst and at best.
const BYTES_A_SECOND: (f64, f64) = (10e6, 100e6);

/// Bytes of a Postgres block that rows can use: 8192 less the header of 24.
const BLOCK: f64 = 8168.0;

/// A number that is somewhere in between.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Between {
    /// At least about this.
    pub least: f64,
    /// At most about this.
    pub most: f64,
}

/// Calls of a KMS.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Calls {
    /// Of the run.
    pub run: i64,
    /// Of the verify after it.
    pub verify: i64,
    /// Both at the list price, as far as they leave this machine.
    pub dollars: f64,
}

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Writing {
    /// Bytes of write-ahead log.
    pub log: Between,
    /// Bytes by which the table and its indexes grow.
    pub growth: Between,
    /// How large a share of the updates stays within its block and touches no index (Postgres: HOT).
    pub in_place: Between,
}

/// How long a run takes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Duration {
    /// Seconds in all.
    pub seconds: Between,
    /// Measured on the sample: milliseconds of reading a row.
    pub reading_ms: f64,
    /// Measured on the sample: milliseconds of opening, sealing and opening a row again, the KMS included.
    pub sealing_ms: f64,
}

impl Calls {
    /// Counts the calls.
    ///
    /// v2 with a data key a row: one to make it and one to prove that it unwraps, for each row; v2 with one a batch:
    /// the same for each batch; v3: the same once. A verify unwraps each v2 data key, or v3's one. An old v2 value
    /// takes one more; a row's columns share it.
    pub(super) fn of(job: &Job, census: &Census) -> Self {
        let batch = i64::try_from(job.options.batch).unwrap_or(i64::MAX);
        let batches = |rows: i64| rows / batch + i64::from(rows % batch > 0);
        let (rows, all) = (census.rows_to_rekey, census.rows);
        let (seal, verify) = match (job.sealer.as_ref(), job.keys.scope) {
            (Sealer::Static(_), _) => (0, 0),
            (Sealer::Wrapped(_), DataKeyScope::Row) => (2 * rows, all),
            (Sealer::Wrapped(_), DataKeyScope::Batch) => (2 * batches(rows), batches(all)),
            (Sealer::Bound(..), _) => (2, 1),
        };
        let old = census
            .opened
            .iter()
            .filter(|(origin, _)| origin.format == Format::V2 && !job.sealer.is_current(origin));
        let width = i64::try_from(job.target.columns.len()).unwrap_or(1);
        let old = (old.map(|(_, count)| count).sum::<i64>() + census.wrapped) / width;
        let any_remote = job.opener.kms().iter().any(|kms| kms.locality() == Locality::Remote);
        let new_remote = match job.sealer.as_ref() {
            Sealer::Static(_) => false,
            Sealer::Wrapped(kms) => kms.locality() == Locality::Remote,
            Sealer::Bound(..) => any_remote,
        };
        let priced = if new_remote { seal + verify } else { 0 } + if any_remote { old } else { 0 };
        Self { run: seal + old, verify, dollars: float(priced) / 10_000.0 * DOLLARS_PER_10_000_CALLS }
    }
}

impl Writing {
    /// Estimates it from the table's footprint, the rows to re-key, and how much a row grows.
    ///
    /// # Construction
    /// Postgres, with `r` rows of `b` bytes each after they have grown, `i` indexes, `f` the share of a block that is
    /// free or that `fillfactor` keeps free (whichever is seen to be more), and `n = b + 4` the room that a row takes:
    ///
    /// - in place: from `f`, when no block is used a second time before the old versions in it can be dropped, to all;
    ///   from none where an index reads a column, since only updates of the other columns can be.
    /// - log, at least: `r × (72 + b − 23)`: the record of one update is 24 bytes of header, 20 of block reference, 14
    ///   and 5 of headers of the update and the row, some 9 of framing, and the row without its 23-byte header
    ///   (`access/xlogrecord.h`, `heapam_xlog.h`). Rows that leave their block at most add 60 for the lock that is
    ///   logged first and 75 for each index entry. The old row again where it is logged too.
    /// - log, at most: with `full_page_writes` also 8192 for each block of heap and indexes that is written, once for
    ///   the run and once more for each `checkpoint_timeout` that it lasts; but at most once for each row and index
    ///   entry.
    /// - growth: from 0 to `(1 − in place) × r × (n + 24 i)`: later batches and vacuum use the room of dropped versions
    ///   again.
    ///
    /// SQLite: the log is at least the new values and at most two pages a row, one in the log and one at the
    /// checkpoint; the file grows by what the values grow, twice over at most, when rows move to other pages.
    pub(super) fn of(footprint: &Footprint, job: &Job, census: &Census, sample: &Sample) -> Self {
        let r = float(census.rows_to_rekey);
        match footprint {
            Footprint::Postgres(table) => Self::postgres(table, r, sample, work(job, census, sample)),
            Footprint::Sqlite { page_bytes } => {
                let values = r * sample.new_bytes_a_row();
                let grown = (r * sample.growth()).max(0.0);
                Self {
                    log: Between { least: values, most: values + r * 2.0 * float(*page_bytes) },
                    growth: Between { least: 0.0, most: 2.0 * grown },
                    in_place: Between { least: 0.0, most: 1.0 },
                }
            }
        }
    }

    fn postgres(table: &PostgresFootprint, r: f64, sample: &Sample, seconds: f64) -> Self {
        let b = (table.row_bytes + sample.growth()).max(24.0);
        let n = b + 4.0;
        let blocked = table.indexes.iter().any(|index| index.reads_values);
        let free = if blocked { 0.0 } else { table.free_share(r) };
        let in_place = Between { least: free, most: 1.0 };
        let indexes = float(i64::try_from(table.indexes.len()).unwrap_or(i64::MAX));
        let moved = Between { least: 1.0 - in_place.most, most: 1.0 - in_place.least };
        let old = if table.logs_old_rows { table.row_bytes } else { 0.0 };
        let record = 72.0 + b - 23.0 + old;
        let elsewhere = 60.0 + 75.0 * indexes;
        let mut log = Between {
            least: r * (record + moved.least * elsewhere),
            most: r * (record + moved.most * elsewhere),
        };
        if table.full_page_writes {
            let images =
                1.0 + ((seconds + log.most / BYTES_A_SECOND.0) / table.checkpoint_seconds.max(1.0)).floor();
            let index_blocks = table.indexes.iter().map(|index| index.blocks).sum::<i64>();
            // No more blocks are written than rows, and of the indexes none that no row moves to.
            log.most += 8192.0
                * ((images * float(table.heap_blocks)).min(r)
                    + (images * float(index_blocks)).min(r * moved.most * indexes));
        }
        Self { log, growth: Between { least: 0.0, most: moved.most * r * (n + 24.0 * indexes) }, in_place }
    }
}

impl PostgresFootprint {
    /// The share of a block that updates find free: what `fillfactor` keeps, or what is seen to be.
    pub fn free_share(&self, rows: f64) -> f64 {
        let kept = 1.0 - float(self.fillfactor) / 100.0;
        let used = rows * (self.row_bytes + 4.0);
        let seen = if self.heap_blocks > 0 { 1.0 - used / (float(self.heap_blocks) * BLOCK) } else { 0.0 };
        kept.max(seen).clamp(0.0, 1.0)
    }
}

impl Duration {
    /// From the sample, the rows and the writing.
    ///
    /// # Construction
    /// At best the workers share reading and sealing evenly and the log is written at 100 MB a second; at worst one row
    /// follows another and the log is written at 10 MB a second. Never faster than the rate that rows are held to.
    pub(super) fn of(job: &Job, census: &Census, sample: &Sample, writing: &Writing) -> Self {
        let (reading, sealing) = sample.seconds_a_row();
        let work = work(job, census, sample);
        let workers = float(i64::try_from(job.options.workers.max(1)).unwrap_or(i64::MAX));
        let (slow, fast) = BYTES_A_SECOND;
        let seconds = Between {
            least: work / workers + writing.log.least / fast,
            most: work + writing.log.most / slow,
        };
        let seconds = Between { least: seconds.least.max(held(job, census)), ..seconds };
        Self { seconds, reading_ms: reading * 1e3, sealing_ms: sealing * 1e3 }
    }
}

/// Seconds of reading and sealing, one row after another, at the rate that rows are held to.
fn work(job: &Job, census: &Census, sample: &Sample) -> f64 {
    let (reading, sealing) = sample.seconds_a_row();
    (float(census.rows) * reading + float(census.rows_to_rekey) * sealing).max(held(job, census))
}

/// Seconds that the rows take at least, at the rate they are held to.
fn held(job: &Job, census: &Census) -> f64 {
    job.options.max_rows_per_second.map_or(0.0, |rate| float(census.rows) / f64::from(rate))
}

fn float(count: i64) -> f64 {
    f64::from(u32::try_from(count.max(0)).unwrap_or(u32::MAX))
}
