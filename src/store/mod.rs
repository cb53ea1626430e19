//! The database: all SQL, and nothing else. A store knows tables, rows and bytes, and a value's first bytes at most: it
//! opens none, and the keys that pass through it are sealed.
//!
//! [`Store`] is implemented for Postgres ([`postgres::Postgres`], production) and SQLite ([`sqlite::Sqlite`], the
//! embedded default). Both keep reseal's own tables (`migrations/`) in the database that holds the values, because
//! a batch must commit its values and its checkpoint together or not at all.

use std::fmt::Debug;

use async_trait::async_trait;

mod cells;
mod control;
mod error;
mod fence;
mod orders;
pub mod postgres;
mod reprovision;
mod rotation;
mod run;
mod schema;
pub mod sqlite;
mod staged;
mod standby;
mod survey;
mod tenants;

pub use cells::{Cells, KeyKind, Page, RowKey};
pub use control::{
    audit::{AuditEvent, AuditHead, AuditLog, AuditRecord},
    fences::Fences,
    quarantine::Quarantine,
    registry::Registry,
    reprovisions::Reprovisions,
    retirements::{NewRetirement, Retirement, RetirementState, Retirements},
    rewraps::Rewraps,
    rotations::Rotations,
    runs::Runs,
    shards::Shards,
    stagings::{Staging, Stagings},
    steering::Steering,
    verifications::{Begun, Failure, Verification, Verifications},
};
pub use error::StoreError;
pub use fence::{Blocker, Fence, FenceMode, FenceRule, StaleWrites};
pub use orders::{Heartbeat, Orders, Paused, Pressure, Process, Replicas, RowRate, Setting, ShardCount};
pub use reprovision::{
    NewReprovision, NewSaga, ReprovisionLease, ReprovisionRow, SagaCount, SagaRow, SagaState,
};
pub use rotation::{
    Credential, CredentialChange, CredentialState, NewRecord, NewRotation, RotationLease, RotationRecord,
    RotationRow,
};
pub use run::{
    Batch, Checkpoint, Claim, Committed, DataKeyState, KeyRange, Lease, NewRun, Quarantined, RunRow,
    RunState, Span, Stretch, Tally, Unsettled, WrappedDataKey,
};
pub use schema::{Column, Finding, Inspection, Target, TargetName};
pub use staged::{Staged, StagedSwap};
pub use standby::Standby;
pub use survey::{Footprint, Index, OtherColumn, PostgresFootprint, Repeats, Survey};
pub use tenants::{TenantChange, TenantColumns, TenantRow, Tenants};

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
/// What is kept in our own tables has a trait for each idea; here is what concerns the target's. Every method
/// is one short transaction, except [`snapshot`](Store::snapshot). Every error says whether trying again can help
/// ([`StoreError::is_transient`]).
#[async_trait]
pub trait Store:
    Registry
    + Verifications
    + Retirements
    + Reprovisions
    + Rewraps
    + Rotations
    + Runs
    + Shards
    + Steering
    + Quarantine
    + Stagings
    + Staged
    + AuditLog
    + Fences
    + Survey
    + Tenants
    + Debug
    + Send
    + Sync
{
    // --- our own tables ---

    /// Creates or upgrades reseal's own tables; gives the names of the migrations that were applied.
    async fn migrate(&self) -> Result<Vec<String>, StoreError>;

    /// Whether every migration was applied.
    async fn is_migrated(&self) -> Result<bool, StoreError>;

    // --- the target ---

    /// Looks at the table that `name` names: what it is, and everything about it that a re-key must know.
    async fn inspect(&self, name: &TargetName) -> Result<Inspection, StoreError>;

    /// What the database has to bear besides us; nothing, for one that can't tell.
    async fn pressure(&self) -> Result<Pressure, StoreError>;

    /// How many rows the table holds now.
    async fn count_rows(&self, target: &Target) -> Result<u64, StoreError>;

    /// About `count` rows from all over the table.
    async fn sample(&self, target: &Target, count: usize, limits: PageLimits) -> Result<Page, StoreError>;

    /// At most `parts - 1` keys that cut the table into ranges of about the same number of rows, in key order.
    async fn split_points(&self, target: &Target, rows: u64, parts: u64) -> Result<Vec<RowKey>, StoreError>;

    /// The whole table as one stretch, when it can be walked so; later rows may lie beyond its end.
    async fn whole(&self, target: &Target) -> Result<Option<Stretch>, StoreError>;

    /// The rows of `span` after the place `after`, in the order of their places; without those whose every value
    /// begins with `skip`.
    ///
    /// The first page with a `skip` is found in one statement that reads the whole table from end to end, so that it
    /// is cheap to learn that hardly a row is left, or none; and so is a later one that is not soon found otherwise.
    async fn read_page(
        &self,
        target: &Target,
        span: &Span,
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

    /// How many rows hold a value that begins with `prefix`, as one snapshot sees it, without any index.
    async fn count_beginning(&self, target: &Target, prefix: &[u8]) -> Result<u64, StoreError>;

    /// The standbys and the slots of standbys that are known, and whether each has on its disk what was on ours at
    /// `position` ([`Begun::position`]). SQLite: none.
    async fn standbys(&self, position: &str) -> Result<Vec<Standby>, StoreError>;

    /// SHA-256 of one stored value, however large; `None` when the row or the value is gone.
    async fn fingerprint(
        &self,
        target: &Target,
        key: &RowKey,
        column: usize,
    ) -> Result<Option<[u8; 32]>, StoreError>;

    // --- changes ---

    /// Commits a batch: each value that still equals, byte for byte, the ciphertext that was opened, the new
    /// quarantine records and the shard's checkpoint; or nothing.
    ///
    /// # Crash safety
    /// One transaction, which begins with the fence check. If the process dies before this returns, a later
    /// worker finds either all of it or none of it. A batch that leaves its shard unfinished may be lost with the
    /// server's memory; the next one under the same lease is refused then, since its cursor is gone too.
    async fn commit(&self, target: &Target, lease: &Lease, batch: Batch<'_>)
    -> Result<Committed, StoreError>;

    /// Swaps one quarantined cell that opens now and removes its record, or only the record when `swap` is `None`.
    /// `false` when the cell no longer holds the old bytes, or its record is not of `sha256` any more; then nothing was
    /// changed.
    async fn settle_quarantined(
        &self,
        target: &Target,
        key: &RowKey,
        column: usize,
        sha256: &[u8; 32],
        swap: Option<(&[u8], &[u8])>,
    ) -> Result<bool, StoreError>;
}
