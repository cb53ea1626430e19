//! Re-keying a table in place, while it is read and written, on machines that may die at any instruction.
//!
//! The shape: shares of the table ([shards](crate::store::Lease)), which are stretches of its file in a first sweep and
//! ranges of its keys in a later one, are swept in batches. A batch reads a page, opens, seals and re-opens each value outside any transaction, and commits by compare-and-swap on the very bytes
//! that were opened, together with its checkpoint. Sweeps follow each other until one finds nothing left; a
//! [`verify`] then proves it on a single snapshot. `docs/protocol.md` tells why this is safe.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    envelope::{Cell, Format},
    keyring::{Opener, ProofFailed, Sealer, kms::KmsError},
    store::{PageLimits, RunRow, Store, StoreError, Tally, Target, WrappedDataKey},
};

mod census;
mod edit;
mod elsewhere;
mod engine;
mod fence;
mod identity;
pub mod plan;
mod prepare;
mod quarantine;
mod registered;
mod retire;
mod rewrap;
mod staged;
mod verify;

pub use census::{Census, census};
pub use edit::{Edit, Edited, SharedUrl, UrlPassword, UrlPasswordError};
pub use elsewhere::{Elsewhere, Holder, holders};
pub use engine::{Hook, Metrics, Moment, Status, Step, Stop, StopSignal, Waiting, run, stop_signal};
pub use fence::{fence_rule, lower_fence, raise_fence};
pub use prepare::{Intent, KeyChoice, prepare};
pub use quarantine::{Retried, retry_quarantined};
pub use registered::{OtherTarget, registered_otherwise};
pub use retire::{
    Destroyed, KeyUse, Next, Obstacle, OldKey, Remedy, RetireError, Retired, Standing, destroy, key_uses,
    next_step, retire, standing,
};
pub use rewrap::{Rewrapped, rewrap_data_keys};
pub use staged::{StagePass, Swapped, drop_staged, stage, swap_staged};
pub use verify::{Recorded, Verified, verify};

/// Workers in one process, at most.
pub const MOST_WORKERS: u32 = 64;

/// Rows a batch, at most.
pub const MOST_BATCH: u32 = 100_000;

/// How many KMS calls one worker keeps under way.
const KMS_CONCURRENCY: usize = 16;

/// How many bytes of values one page may hold.
const PAGE_BYTES: usize = 4 << 20;

/// Everything a run works with.
#[derive(Debug, Clone)]
pub struct Job {
    /// The database.
    pub store: Arc<dyn Store>,
    /// The table, as [`Store::inspect`] found it.
    pub target: Arc<Target>,
    /// Format and keys by name: every worker of a run must bring the same.
    pub keys: RunKeys,
    /// Opens old values, and those that are current.
    pub opener: Arc<Opener>,
    /// Seals new ones.
    pub sealer: Arc<Sealer>,
    /// The data key that the sealer seals under, when it is not in the registry yet: the run that is opened with this
    /// job adds it, in the same transaction.
    pub new_data_key: Option<WrappedDataKey>,
    /// How to go about it.
    pub options: Options,
}

impl Job {
    /// The place of a cell of the target.
    fn cell<'a>(&'a self, column: usize, row: &'a str) -> Cell<'a> {
        Cell { table: &self.target.name, column: &self.target.columns[column].name, row }
    }

    fn limits(&self) -> PageLimits {
        PageLimits { rows: self.options.batch, bytes: PAGE_BYTES, value: self.options.max_value }
    }

    /// What a value begins with that a later sweep need not look at again: one under the new key, where that can be seen,
    /// and where values are not edited on the way.
    fn mark_of_the_settled(&self) -> Option<Vec<u8>> {
        self.sealer.header().filter(|_| self.options.kind.edit().is_none())
    }

    /// Takes a step, under the eyes of the hook.
    async fn at<T>(&self, step: Step, taken: impl Future<Output = T>) -> T {
        self.options.hook.at(step, taken).await
    }
}

/// What identifies the keys of a run, without saying anything of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunKeys {
    /// The format to write.
    pub format: Format,
    /// The key to end under: `static:<id>`, a KMS key's resolved name, or `data-key:<id>`.
    pub new: String,
    /// The keys that values may be under, sorted.
    pub old: Vec<String>,
    /// v2: whose data key a value gets.
    pub scope: DataKeyScope,
    /// What is done besides.
    #[serde(default, skip_serializing_if = "RunKind::is_rekey")]
    pub kind: RunKind,
}

/// The kind of a run, as its row holds it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunKind {
    /// See [`Kind::Rekey`].
    #[default]
    Rekey,
    /// See [`Kind::Rewrap`].
    Rewrap,
    /// See [`Kind::Rewrite`].
    Rewrite {
        /// The edit's name.
        edit: String,
        /// The edit's fingerprint, sealed under the run's new key, in base64.
        sealed: String,
    },
}

impl RunKind {
    /// Whether values are sealed anew as they are.
    pub fn is_rekey(&self) -> bool {
        *self == Self::Rekey
    }
}

/// What a run does with a value.
#[derive(Debug, Clone, Default)]
pub enum Kind {
    /// Seals it under the new key, as it is.
    #[default]
    Rekey,
    /// Edits it on the way. A value that is under the new key and not edited yet is sealed again too, and verify
    /// wants the edit done. Every sweep opens every value: no header tells whether it was edited.
    Rewrite(Arc<dyn Edit>),
    /// v2: a value that is in v2 keeps its data key and its sealed bytes; only the key is wrapped anew, by the KMS. It
    /// is opened all the same, to check its tag with the key as it was wrapped and as it is.
    Rewrap,
}

impl Kind {
    fn edit(&self) -> Option<&dyn Edit> {
        match self {
            Self::Rekey | Self::Rewrap => None,
            Self::Rewrite(edit) => Some(edit.as_ref()),
        }
    }
}

/// How far one v2 data key reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum DataKeyScope {
    /// One row: a tenant's data key opens no other tenant's values.
    #[default]
    Row,
    /// One batch: fewer KMS calls, and no isolation between the batch's tenants.
    Batch,
}

/// How a run goes about its work.
#[derive(Debug, Clone)]
pub struct Options {
    /// Workers in this process; each uses two connections.
    pub workers: usize,
    /// Rows a batch, at most.
    pub batch: usize,
    /// Rows a second, all workers of this process together.
    pub max_rows_per_second: Option<u32>,
    /// Write nothing while a replica is further behind.
    pub max_replica_lag: Option<Duration>,
    /// Calls a second to the KMS of one account, all keys of this process together.
    pub max_kms_calls_per_second: Option<u32>,
    /// Bytes a value; a larger one goes to quarantine.
    pub max_value: usize,
    /// Stop after about so many rows.
    pub rows_limit: Option<u64>,
    /// Give v1 values whose first byte is 0x02 or 0x03 a fresh nonce, even under the key they are under.
    pub reseal_ambiguous: bool,
    /// What to do with a value.
    pub kind: Kind,
    /// Called at every boundary of the run.
    pub hook: Hook,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            workers: 2,
            batch: 1000,
            max_rows_per_second: None,
            max_replica_lag: None,
            max_kms_calls_per_second: None,
            max_value: 16 << 20,
            rows_limit: None,
            reseal_ambiguous: false,
            kind: Kind::default(),
            hook: Hook::default(),
        }
    }
}

/// How a run, or this process's part in it, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// A clean sweep, nothing in quarantine.
    Complete,
    /// A clean sweep; some values are in quarantine.
    Quarantined,
    /// Old-key values kept appearing.
    Chased,
    /// Told to pause.
    Paused,
    /// Told to stop; the run goes on when it is started again.
    Interrupted,
    /// Ended by an error.
    Failed,
}

/// What a run did.
#[derive(Debug, Clone)]
pub struct Report {
    /// The run.
    pub run: RunRow,
    /// How it ended.
    pub outcome: Outcome,
    /// Its counters, over all sweeps and all processes.
    pub tally: Tally,
    /// Rows that this process read in a first sweep.
    pub rows_here: u64,
    /// What came of its edit in this process; `None`: it has none.
    pub edits: Option<Edits>,
    /// How long this process worked.
    pub elapsed: Duration,
}

/// What came of a rewrite's edit in one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edits {
    /// Values that it changed.
    pub changed: u64,
    /// Whether, of all values of the table, there is none that the edit is for.
    pub is_for_none: bool,
}

/// Why a run, a verify or a plan stopped.
#[derive(Debug, thiserror::Error)]
pub enum RekeyError {
    /// A precondition does not hold; nothing was written.
    #[error("{what}")]
    Refused {
        /// What does not hold.
        what: String,
        /// What would make it hold.
        hint: String,
    },
    /// The only old key is the new one.
    #[error("the old key and the new key are the same, {key}: there is nothing to re-key")]
    SameKey {
        /// The key's name.
        key: String,
    },
    /// The database is in trouble, or refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A KMS is in trouble, or refuses a key.
    #[error(transparent)]
    Kms(#[from] KmsError),
    /// A sealed value did not open again.
    #[error(transparent)]
    Proof(#[from] ProofFailed),
    /// An edit changes its own result: the page with this cell was not written.
    #[error("the edit {edit} is not idempotent: row {row}, column {column}")]
    NotIdempotent {
        /// The edit.
        edit: String,
        /// The row's key.
        row: String,
        /// The column.
        column: String,
    },
    /// The counters don't add up.
    #[error("the counters of run {run_id} do not add up")]
    Sums {
        /// The run.
        run_id: String,
    },
}

impl RekeyError {
    /// Whether the same command, given again, goes on where this one stopped.
    pub fn is_resumable(&self) -> bool {
        match self {
            Self::Store(error) => error.is_transient(),
            Self::Kms(_) => true,
            Self::Refused { .. }
            | Self::SameKey { .. }
            | Self::Proof(_)
            | Self::NotIdempotent { .. }
            | Self::Sums { .. } => false,
        }
    }
}
