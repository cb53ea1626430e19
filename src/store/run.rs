//! What a store keeps of a run: its row, its shards and their leases, its counters, its quarantine.

use std::{
    fmt,
    ops::{AddAssign, Range},
    str::FromStr,
};

use uuid::Uuid;

use super::{Cells, Orders, RowKey};

/// Counters of cells, and of rows where it says so. Deltas may be negative.
///
/// `total = rekeyed + current + empty + quarantined + vanished`, always: [`Tally::sums`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Rows dealt with in the first sweep.
    pub scanned: i64,
    /// Cells replaced by a value under the new key.
    pub rekeyed: i64,
    /// Cells that were under the new key already.
    pub current: i64,
    /// NULL and zero-length cells.
    pub empty: i64,
    /// Cells put into quarantine.
    pub quarantined: i64,
    /// Cells whose row was gone when the batch was committed.
    pub vanished: i64,
    /// Cells settled, each once.
    pub total: i64,
    /// Times that somebody else changed a cell between our read and our commit.
    pub conflicts: i64,
    /// Cells left to the next sweep.
    pub deferred: i64,
    /// Re-keyed values that don't look like a URL.
    pub not_urls: i64,
    /// Calls to a KMS.
    pub kms_calls: i64,
}

impl Tally {
    /// Whether the counts add up.
    pub fn sums(&self) -> bool {
        self.total == self.rekeyed + self.current + self.empty + self.quarantined + self.vanished
    }
}

impl Tally {
    /// Corrects the count of a cell that was taken for re-keyed and was changed by somebody else first.
    pub(super) fn conflict(&mut self) {
        self.rekeyed -= 1;
        self.total -= 1;
        self.conflicts += 1;
        self.deferred += 1;
    }

    /// Corrects the count of `cells` that were taken for re-keyed, and whose row is gone.
    pub(super) fn vanish(&mut self, cells: usize) {
        let cells = i64::try_from(cells).unwrap_or(i64::MAX);
        self.rekeyed -= cells;
        self.vanished += cells;
    }

    /// After the first sweep a cell that vanished counts for nothing: it was counted when it was first met.
    pub(super) fn count_for(&mut self, sweep: i64) {
        if sweep > 1 {
            self.total -= self.vanished;
            self.vanished = 0;
        }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.scanned += other.scanned;
        self.rekeyed += other.rekeyed;
        self.current += other.current;
        self.empty += other.empty;
        self.quarantined += other.quarantined;
        self.vanished += other.vanished;
        self.total += other.total;
        self.conflicts += other.conflicts;
        self.deferred += other.deferred;
        self.not_urls += other.not_urls;
        self.kms_calls += other.kms_calls;
    }
}

/// A range of keys: after `lo`, up to and including `hi`; `None` is without bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    /// Exclusive.
    pub lo: Option<RowKey>,
    /// Inclusive.
    pub hi: Option<RowKey>,
}

/// A stretch of the table as it lies in its file: blocks of the heap in Postgres, rowids in SQLite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// The first block, or rowid.
    pub from: i64,
    /// The first one after it.
    pub to: i64,
    /// Postgres: only rows that transactions before this one (an `xid8`) wrote. A row moves when it is written: those
    /// that the walk itself wrote must not be met again, further on. SQLite, where a row stays: 0.
    pub before: i64,
}

/// What a shard covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Span {
    /// A range of keys: whatever moves, each row is met once.
    Keys(KeyRange),
    /// A stretch of the table's file, read from one end to the other whatever its keys are. A row that is written
    /// meanwhile may be missed: a walk over keys has to follow.
    Table(Stretch),
}

impl Span {
    /// Every row, by key.
    pub const ALL: Self = Self::Keys(KeyRange { lo: None, hi: None });
}

/// The states of a run. `Running` and `Paused` are open; the others are final.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    /// Workers may take shards.
    Running,
    /// Workers finish their batch and wait.
    Paused,
    /// Ended with a clean sweep and an empty quarantine.
    Complete,
    /// Ended with a clean sweep; some values are in quarantine.
    Quarantined,
    /// Ended because old-key values kept appearing.
    Chased,
    /// Ended by an error that no retry mends.
    Failed,
}

impl RunState {
    /// The state's name, as stored and as shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Complete => "complete",
            Self::Quarantined => "quarantined",
            Self::Chased => "chased",
            Self::Failed => "failed",
        }
    }

    /// Whether workers may still join.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }
}

impl FromStr for RunState {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        [Self::Running, Self::Paused, Self::Complete, Self::Quarantined, Self::Chased, Self::Failed]
            .into_iter()
            .find(|state| state.as_str() == name)
            .ok_or(())
    }
}

/// A run as stored.
#[derive(Debug, Clone)]
pub struct RunRow {
    /// A ULID: sorts by time.
    pub run_id: String,
    /// The target's logical name.
    pub target: String,
    /// JSON that names format and keys: recorded with the run, which is refused where one of them was retired.
    pub keys: String,
    /// Where the run stands.
    pub state: RunState,
    /// The sweep under way, from 1.
    pub sweep: i64,
    /// How many sweeps after the first found new old-key values, in a row.
    pub chased: i64,
    /// Rows when the run was opened, for progress only.
    pub row_count: i64,
    /// Unix milliseconds, by the database's clock.
    pub created_ms: i64,
    /// Unix milliseconds, by the database's clock, when the run ended.
    pub finished_ms: Option<i64>,
    /// What operators ordered of it.
    pub orders: Orders,
    /// [`Stretch::before`] of the first sweep, where that walks the table.
    pub horizon: Option<i64>,
}

/// A run to open.
#[derive(Debug)]
pub struct NewRun {
    /// A ULID.
    pub run_id: String,
    /// The target's logical name.
    pub target: String,
    /// See [`RunRow::keys`].
    pub keys: String,
    /// See [`RunRow::row_count`].
    pub row_count: i64,
    /// A data key made for this run, which becomes the active one together with it.
    pub data_key: Option<WrappedDataKey>,
    /// The shards of the first sweep.
    pub spans: Vec<Span>,
    /// See [`RunRow::horizon`].
    pub horizon: Option<i64>,
}

/// A shard that a worker holds. Its fence number grows with every claim: a worker that was presumed dead and comes
/// back holds an old number, and can't commit.
#[derive(Debug, Clone)]
pub struct Lease {
    /// The run.
    pub run_id: String,
    /// The sweep.
    pub sweep: i64,
    /// The shard's number within the sweep.
    pub shard: i64,
    /// The fencing number.
    pub fence: i64,
    /// The shard's rows.
    pub span: Span,
    /// Every row up to this [place](super::Page::place) was dealt with, by this holder or by an earlier one.
    pub cursor: Option<RowKey>,
}

impl Lease {
    /// The lease after a batch that left the shard's cursor at `cursor`, or where it was.
    pub fn moved_to(&self, cursor: Option<&RowKey>) -> Self {
        Self { cursor: cursor.or(self.cursor.as_ref()).cloned(), ..self.clone() }
    }

    /// Whether both are of one shard, of one sweep.
    pub(crate) fn is_of_the_shard_of(&self, other: &Self) -> bool {
        (self.sweep, self.shard) == (other.sweep, other.shard)
    }
}

/// What [`Store::claim`](super::Store::claim) found.
#[derive(Debug)]
pub enum Claim {
    /// A shard, now ours for 20 s.
    Leased(Box<Lease>),
    /// Every shard that is left is in another worker's hands.
    Busy,
    /// No shard of this sweep is left.
    SweepDone,
}

/// Where a batch leaves its shard.
#[derive(Debug)]
pub struct Checkpoint<'a> {
    /// The [place](super::Page::place) of the last row dealt with, or `None` to leave the cursor where it is.
    pub cursor: Option<&'a RowKey>,
    /// Whether the shard is done with this batch.
    pub done: bool,
    /// What the batch adds to the shard's counters if every swap holds; the store corrects it for those that don't.
    pub tally: Tally,
}

/// One batch: cells to swap, cells to quarantine, and the checkpoint.
#[derive(Debug)]
pub struct Batch<'a> {
    /// The rows' keys.
    pub keys: &'a [RowKey],
    /// See [`Page::rowids`](super::Page::rowids).
    pub rowids: &'a [i64],
    /// The stored bytes that were opened, row by row as `keys`.
    pub old: &'a Cells,
    /// The bytes to store, row by row; `None` leaves the cell.
    pub new: &'a Cells,
    /// Which rows of the three above belong to this batch.
    pub rows: Range<usize>,
    /// Cells that could not be opened. In a later sweep a record that is there already, of the same run and the
    /// same bytes, is only touched and not counted again.
    pub quarantined: &'a [Quarantined],
    /// Bytes of a value that is read again, where somebody changed it: see
    /// [`PageLimits::value`](super::PageLimits::value).
    pub max_value: usize,
    /// The shard's next checkpoint.
    pub checkpoint: Checkpoint<'a>,
}

impl Batch<'_> {
    /// How long a value of these rows may be to be read again; those that were opened or sealed may.
    pub(super) fn readable(&self, rows: &[usize]) -> usize {
        let cells = rows.iter().flat_map(|&row| self.old.row(row).chain(self.new.row(row)));
        cells.flatten().map(<[u8]>::len).fold(self.max_value, usize::max)
    }
}

/// How a commit ended.
#[derive(Debug)]
pub enum Committed {
    /// The batch is in.
    Done {
        /// But for these cells, which were not ours any more.
        unsettled: Vec<Unsettled>,
        /// What the checkpoint's tally was corrected by.
        correction: Tally,
    },
    /// The shard is another worker's now, or its cursor is not where the lease has it; nothing was written.
    Fenced,
}

/// A cell that somebody else changed first. It was counted as a conflict and as deferred.
pub struct Unsettled {
    /// Its row, as an index into [`Batch::keys`].
    pub row: usize,
    /// Its column.
    pub column: usize,
    /// What it holds now, read as a page is read; see [`Cells::at`].
    pub now: Option<Vec<u8>>,
}

impl fmt::Debug for Unsettled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.now.as_ref().map(Vec::len);
        write!(f, "Unsettled(row {}, column {}, bytes {bytes:?})", self.row, self.column)
    }
}

/// A cell in quarantine. Never its plaintext, nor its ciphertext.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// The row's key, as text.
    pub row_key: String,
    /// The column's name.
    pub column: String,
    /// Why, one word.
    pub reason: String,
    /// SHA-256 of the stored bytes.
    pub sha256: [u8; 32],
    /// Unix milliseconds by the database's clock; ignored when written.
    pub first_seen_ms: i64,
    /// Unix milliseconds by the database's clock; ignored when written.
    pub last_seen_ms: i64,
}

/// The states of a data key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataKeyState {
    /// Opens values, and seals new ones.
    Active,
    /// Opens values.
    Draining,
    /// Neither; kept until it is destroyed.
    Retired,
    /// Its wrapped bytes are gone.
    Destroyed,
}

impl DataKeyState {
    /// The state's name, as stored and as shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Retired => "retired",
            Self::Destroyed => "destroyed",
        }
    }

    /// Whether a reader may open values under a key in this state.
    pub fn opens(self) -> bool {
        matches!(self, Self::Active | Self::Draining)
    }
}

impl FromStr for DataKeyState {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        [Self::Active, Self::Draining, Self::Retired, Self::Destroyed]
            .into_iter()
            .find(|state| state.as_str() == name)
            .ok_or(())
    }
}

/// A row of the registry of data keys (`docs/formats.md`, v3).
#[derive(Debug, Clone)]
pub struct WrappedDataKey {
    /// The key's id, which commits to the key.
    pub key_id: [u8; 16],
    /// Names this wrapping in the encryption context.
    pub wrap_id: Uuid,
    /// The logical table that the key is for.
    pub purpose: String,
    /// The resolved name of the KMS key that wraps it.
    pub kms: String,
    /// The wrapped bytes; empty once destroyed.
    pub wrapped: Vec<u8>,
    /// Its state.
    pub state: DataKeyState,
    /// Unix milliseconds by the database's clock; ignored when written.
    pub created_ms: i64,
}
