//! What operators order of a run from outside, and what its processes say of themselves.

use std::{num::NonZero, time::Duration};

/// What was ordered of a run while it is open; `None` leaves every process with what it was started with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Orders {
    /// Who paused it, where it is paused.
    pub paused: Option<Paused>,
    /// Rows a second, of each process.
    pub rate: Option<RowRate>,
    /// Rows a batch, at most.
    pub batch: Option<NonZero<u32>>,
    /// Workers in each process.
    pub workers: Option<NonZero<u32>>,
}

/// A pause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paused {
    /// Who asked for it.
    pub by: String,
    /// Unix milliseconds, by the database's clock.
    pub since_ms: i64,
}

/// How many rows a process may write a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowRate {
    /// As many as it can.
    Unlimited,
    /// At most so many.
    PerSecond(NonZero<u32>),
}

impl RowRate {
    /// The limit, if there is one.
    pub fn limit(self) -> Option<NonZero<u32>> {
        match self {
            Self::Unlimited => None,
            Self::PerSecond(limit) => Some(limit),
        }
    }
}

/// One setting of a run that an operator changes while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// See [`Orders::rate`].
    Rate(RowRate),
    /// See [`Orders::batch`].
    Batch(NonZero<u32>),
    /// See [`Orders::workers`].
    Workers(NonZero<u32>),
}

/// What a process says of itself, about once a second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    /// Host and process id.
    pub process: String,
    /// Workers that it has now.
    pub workers: i64,
    /// Rows a second, of late.
    pub rows_per_second: i64,
    /// Why it waits, where it does.
    pub waiting: Option<String>,
}

/// A process that works on a run, as the database last heard of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// What it said.
    pub heartbeat: Heartbeat,
    /// How long ago, in milliseconds by the database's clock.
    pub silent_ms: i64,
}

impl Process {
    /// Whether it was heard of within the time of a lease; whatever it held is another's to take otherwise.
    pub fn is_alive(&self) -> bool {
        self.silent_ms < 20_000
    }
}

/// How many shards of a sweep are where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ShardCount {
    /// Every row was dealt with.
    pub done: i64,
    /// In a worker's hands.
    pub leased: i64,
    /// To be taken.
    pub free: i64,
}

/// What the database has to bear besides us.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Sessions of others that wait for locks which batches hold.
    pub lock_waits: u64,
    /// How far behind replicas are.
    pub replicas: Replicas,
}

/// How far behind the slowest replica is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Replicas {
    /// There is none.
    #[default]
    None,
    /// There are some, and the role may not see how far behind they are.
    Hidden,
    /// The slowest.
    Behind {
        /// Where the log ends, in bytes.
        end: u64,
        /// Up to where the slowest has replayed it.
        replayed: u64,
        /// How far behind the server says it is.
        reported: Option<Duration>,
    },
}
