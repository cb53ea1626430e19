//! Why nothing moves, when nothing moves.

use std::{fmt, time::Duration};

use tokio::sync::watch;

use super::Status;

/// What a worker waits for.
#[derive(Debug, Clone, PartialEq)]
pub enum Waiting {
    /// An operator paused the run.
    Paused {
        /// Who.
        by: String,
        /// Unix milliseconds, by the database's clock.
        since_ms: i64,
    },
    /// The database is in trouble, in its own words.
    Database(String),
    /// A replica is behind.
    ReplicaLag {
        /// How far.
        lag: Duration,
        /// How far it may be.
        most: Duration,
    },
    /// How far the replicas are behind is not known, so it may be too far.
    ReplicaLagUnknown,
    /// Sessions of others wait for rows that batches hold; the batches are smaller meanwhile.
    LockWaits {
        /// How many.
        sessions: u64,
        /// Rows a batch, at most.
        batch: usize,
    },
    /// The KMS, or the limit that is set on calls to it.
    KmsQuota {
        /// What calls are held to.
        calls_per_second: f64,
        /// Whether the service refused calls, and the rate follows what it takes.
        throttled: bool,
    },
    /// The limit on rows.
    Rate {
        /// Rows a second.
        rows_per_second: u32,
    },
    /// Other workers hold the shards that are left.
    Shards,
    /// Others keep the rows that are left locked.
    LockedRows,
}

impl Waiting {
    /// Every [`name`](Self::name), the one first that says most of why nothing moves.
    pub const NAMES: [&'static str; 8] =
        ["paused", "database", "replica-lag", "lock-waits", "kms-quota", "rate", "shards", "locked-rows"];

    /// The reason in a word or two, as metrics have it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Paused { .. } => "paused",
            Self::Database(_) => "database",
            Self::ReplicaLag { .. } | Self::ReplicaLagUnknown => "replica-lag",
            Self::LockWaits { .. } => "lock-waits",
            Self::KmsQuota { .. } => "kms-quota",
            Self::Rate { .. } => "rate",
            Self::Shards => "shards",
            Self::LockedRows => "locked-rows",
        }
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Paused { by, .. } => write!(f, "paused by {by}"),
            Self::Database(error) => write!(f, "the database: {error}"),
            Self::ReplicaLag { lag, most } => {
                write!(
                    f,
                    "a replica is {:.1} s behind, more than {:.1} s",
                    lag.as_secs_f64(),
                    most.as_secs_f64()
                )
            }
            Self::ReplicaLagUnknown => f.write_str("how far the replicas are behind can't be seen"),
            Self::LockWaits { sessions, batch } => {
                write!(f, "{sessions} sessions wait for rows of a batch: batches of {batch} rows for now")
            }
            Self::KmsQuota { calls_per_second, throttled: true } => {
                write!(f, "the KMS throttles: {calls_per_second:.0} calls/s")
            }
            Self::KmsQuota { calls_per_second, throttled: false } => {
                write!(f, "the limit of {calls_per_second:.0} KMS calls/s")
            }
            Self::Rate { rows_per_second } => write!(f, "the limit of {rows_per_second} rows/s"),
            Self::Shards => f.write_str("other workers hold the shards that are left"),
            Self::LockedRows => f.write_str("others keep the rows that are left locked"),
        }
    }
}

/// Shows a reason in the status for as long as it lives.
#[derive(Debug)]
pub(super) struct Wait<'a> {
    status: &'a watch::Sender<Status>,
    id: u64,
}

impl<'a> Wait<'a> {
    pub(super) fn begin(status: &'a watch::Sender<Status>, reason: Waiting) -> Self {
        let mut id = 0;
        status.send_modify(|status| {
            id = status.next_wait;
            status.next_wait += 1;
            status.waits.push((id, reason));
        });
        Self { status, id }
    }

    /// The same wait, for another reason by now.
    pub(super) fn because(&self, reason: Waiting) {
        self.status.send_modify(|status| {
            if let Some((_, shown)) = status.waits.iter_mut().find(|(id, _)| *id == self.id) {
                *shown = reason;
            }
        });
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.status.send_modify(|status| status.waits.retain(|(id, _)| *id != self.id));
    }
}
