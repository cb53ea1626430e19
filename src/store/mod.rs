//! The database: all SQL, and nothing else. A store knows tables, rows and bytes; it knows no key and no format.
//!
//! [`Store`] is implemented for Postgres ([`postgres::Postgres`], production) and SQLite ([`sqlite::Sqlite`], the
//! embedded default). Both keep reseal's own tables (`migrations/`) in the database that holds the values, because
//! a batch must commit its values and its checkpoint together or not at all.

use std::fmt::Debug;

use async_trait::async_trait;

mod cells;
mod control;
mod error;
pub mod postgres;
mod run;
mod schema;
pub mod sqlite;
mod survey;

pub use cells::{Cells, KeyKind, Page, RowKey};
pub use error::StoreError;
pub use run::{
    Batch, Checkpoint, Claim, Committed, DataKeyState, KeyRange, Lease, NewRun, Quarantined, RunRow,
    RunState, Tally, Unsettled, WrappedDataKey,
};
pub use schema::{Column, Finding, Inspection, Target, TargetName};
pub use survey::{Footprint, Index, OtherColumn, PostgresFootprint, Repeats, Survey};

/// How many rows and bytes one page may hold, and how large one value may be.
#[derive(Debug, Clone, Copy)]
pub struct PageLimits {
    /// Rows.
    pub rows: usize,
    /// Bytes of values; one row may exceed it, so that a page always makes progress.
    pub bytes: usize,
    /// Bytes of one value; a larger one is read as an empty one (see [`Cells::at`]).
    pub value: usize,
}

/// Receives the pages of a [`Store::snapshot`], in no particular order of rows.
pub type PageSender = tokio::sync::mpsc::Sender<Page>;

/// A database that holds values to re-key, and reseal's own tables beside them.
///
/// Every method is one short transaction, except [`snapshot`](Store::snapshot). Every error says whether trying
/// again can help ([`StoreError::is_transient`]).
#[async_trait]
pub trait Store: Survey + Debug + Send + Sync {
    // --- our own tables ---

    /// Creates or upgrades reseal's own tables; gives the names of the migrations that were applied.
    async fn migrate(&self) -> Result<Vec<String>, StoreError>;

    /// Whether every migration was applied.
    async fn is_migrated(&self) -> Result<bool, StoreError>;

    // --- the target ---

    /// Looks at the table that `name` names: what it is, and everything about it that a re-key must know.
    async fn inspect(&self, name: &TargetName) -> Result<Inspection, StoreError>;

    /// Registers `target` under its logical name, or refuses when that name stands for another table or columns.
    async fn register(&self, target: &Target) -> Result<(), StoreError>;

    /// How many rows the table holds now.
    async fn count_rows(&self, target: &Target) -> Result<u64, StoreError>;

    /// About `count` rows from all over the table.
    async fn sample(&self, target: &Target, count: usize, limits: PageLimits) -> Result<Page, StoreError>;

    /// At most `parts - 1` keys that cut the table into ranges of about the same number of rows, in key order.
    async fn split_points(&self, target: &Target, rows: u64, parts: u64) -> Result<Vec<RowKey>, StoreError>;

    /// The rows of `range` after `after`, in key order; without those whose every value begins with `skip`.
    async fn read_page(
        &self,
        target: &Target,
        range: &KeyRange,
        after: Option<&RowKey>,
        skip: Option<&[u8]>,
        limits: PageLimits,
    ) -> Result<Page, StoreError>;

    /// The rows with these keys that exist, in no particular order.
    async fn read_rows(
        &self,
        target: &Target,
        keys: &[RowKey],
        limits: PageLimits,
    ) -> Result<Page, StoreError>;

    /// Sends every row of the table, as one snapshot sees it, and returns `count(*)` of the same snapshot.
    ///
    /// Row security is off and no index but the heap itself is trusted, so that what hid a row from a sweep can't
    /// hide it here too.
    async fn snapshot(
        &self,
        target: &Target,
        limits: PageLimits,
        pages: PageSender,
    ) -> Result<u64, StoreError>;

    /// SHA-256 of one stored value, however large; `None` when the row or the value is gone.
    async fn fingerprint(
        &self,
        target: &Target,
        key: &RowKey,
        column: usize,
    ) -> Result<Option<[u8; 32]>, StoreError>;

    // --- the registry of data keys ---

    /// The data keys of `purpose`, newest first; those of every purpose for `None`.
    async fn data_keys(&self, purpose: Option<&str>) -> Result<Vec<WrappedDataKey>, StoreError>;

    /// Adds `key`; as `active`, it moves the purpose's active key to `draining` in the same transaction.
    ///
    /// # Crash safety
    /// Durable before this returns (never `synchronous_commit = off`): no value is sealed under a key that a
    /// crash could still take away.
    async fn add_data_key(&self, key: &WrappedDataKey) -> Result<(), StoreError>;

    // --- runs ---

    /// The open run of `target`, if there is one.
    async fn open_run(&self, target: &str) -> Result<Option<RunRow>, StoreError>;

    /// The latest run of `target`, open or not.
    async fn latest_run(&self, target: &str) -> Result<Option<RunRow>, StoreError>;

    /// Opens a run with its first sweep's shards; when another process was faster, gives that process's run.
    async fn create_run(&self, run: &NewRun) -> Result<RunRow, StoreError>;

    /// The run with this id.
    async fn run(&self, run_id: &str) -> Result<RunRow, StoreError>;

    /// Moves a run from the state it was read in to `to`; `false` when it is no longer in that state and sweep.
    async fn move_run(&self, run: &RunRow, to: RunState) -> Result<bool, StoreError>;

    /// Opens the next sweep with the same ranges; `false` when somebody else did.
    async fn next_sweep(&self, run: &RunRow, chased: i64) -> Result<bool, StoreError>;

    /// The counters of one sweep, or of all sweeps for `None`.
    async fn tally(&self, run_id: &str, sweep: Option<i64>) -> Result<Tally, StoreError>;

    // --- shards ---

    /// Takes over a shard of the run's current sweep that is free or whose lease ran out.
    async fn claim(&self, run: &RunRow, worker: &str, kind: KeyKind) -> Result<Claim, StoreError>;

    /// Extends the lease; `false` when the shard was taken over.
    async fn renew(&self, lease: &Lease) -> Result<bool, StoreError>;

    /// Gives the shard back at once, so that nobody waits for the lease to run out.
    async fn release(&self, lease: &Lease) -> Result<(), StoreError>;

    /// Commits a batch: each value that still equals, byte for byte, the ciphertext that was opened, the new
    /// quarantine records and the shard's checkpoint; or nothing.
    ///
    /// # Crash safety
    /// One transaction, which begins with the fence check. If the process dies before this returns, a later
    /// worker finds either all of it or none of it.
    async fn commit(&self, target: &Target, lease: &Lease, batch: Batch<'_>)
    -> Result<Committed, StoreError>;

    // --- quarantine ---

    /// The quarantine records of `target`, at most `limit`, in key order after `after`.
    async fn quarantine(
        &self,
        target: &str,
        after: Option<(&str, &str)>,
        limit: u32,
    ) -> Result<Vec<Quarantined>, StoreError>;

    /// Removes the records of earlier runs: a first sweep recorded each of their cells again that still can't be
    /// opened. Gives how many records of the run's target are left.
    async fn close_quarantine(&self, run: &RunRow) -> Result<u64, StoreError>;

    /// How many cells of `target` are in quarantine.
    async fn quarantine_size(&self, target: &str) -> Result<u64, StoreError>;

    /// Swaps one quarantined cell that opens now and removes its record, or only the record when `new` is `None`.
    /// `false` when the cell no longer holds `old`; then nothing was changed.
    async fn settle_quarantined(
        &self,
        target: &Target,
        key: &RowKey,
        column: usize,
        swap: Option<(&[u8], &[u8])>,
    ) -> Result<bool, StoreError>;
}
