//! How transactions begin (`docs/protocol.md`, short transactions).

/// `BEGIN` and what every transaction sets: how long it waits for a lock, how long a statement may take, how long it may
/// stand idle, and that row security is no filter; then what this one sets besides.
macro_rules! begin {
    ($isolation:literal, lock $lock:literal, statement $statement:literal, idle $idle:literal $(, $set:literal)*) => {
        concat!(
            "BEGIN ISOLATION LEVEL ", $isolation,
            "; SET LOCAL lock_timeout = '", $lock, "'; SET LOCAL statement_timeout = '", $statement,
            "'; SET LOCAL idle_in_transaction_session_timeout = '", $idle, "'; SET LOCAL row_security = off",
            $("; SET LOCAL ", $set),*
        )
    };
}

/// For what looks something up.
pub(super) const READ: &str = begin!("READ COMMITTED READ ONLY", lock "2s", statement "30s", idle "5s");

/// For what writes the registry, a run, a lease or the quarantine: on the disk when it has committed.
pub(super) const WRITE: &str =
    begin!("READ COMMITTED", lock "2s", statement "30s", idle "5s", "synchronous_commit = on");

/// For what changes the target's triggers. Whoever writes the table waits behind it, so it does not wait long itself;
/// but longer than `deadlock_timeout` is by default, when the server sends an autovacuum out of the way.
pub(super) const DDL: &str =
    begin!("READ COMMITTED", lock "1200ms", statement "30s", idle "5s", "synchronous_commit = on");

/// For the swap of what was staged: writers wait behind the lock from its first statement on.
pub(super) const SWAP: &str =
    begin!("READ COMMITTED", lock "2s", statement "60s", idle "5s", "synchronous_commit = on");

/// For what looks at a whole table once and locks nothing.
pub(super) const SCAN: &str = begin!("READ COMMITTED", lock "2s", statement "10min", idle "5s");

/// For the commit of a batch: lost with the server's memory, it is done again. The plan is pinned to one index
/// look-up a row: with the row estimate of an array the planner may otherwise scan the whole table for each batch.
pub(super) const BATCH: &str = begin!(
    "READ COMMITTED", lock "2s", statement "30s", idle "5s", "synchronous_commit = off",
    "enable_seqscan = off", "enable_hashjoin = off", "enable_mergejoin = off", "enable_sort = off", "jit = off",
    "max_parallel_workers_per_gather = 0"
);

/// For a stretch of the heap, which is read by its blocks alone. A page, with what its sort needs besides, fits.
pub(super) const STRETCH: &str = begin!(
    "READ COMMITTED READ ONLY", lock "2s", statement "30s", idle "5s", "enable_seqscan = off",
    "enable_indexscan = off", "enable_indexonlyscan = off", "enable_bitmapscan = off", "work_mem = '16MB'",
    "jit = off", "max_parallel_workers_per_gather = 0"
);

/// For what is left to do behind a key, in the order of the index: soon found where much is left. Where hardly anything
/// is, it would meet the whole table row by row, and is cut off.
pub(super) const BEHIND: &str = begin!(
    "READ COMMITTED READ ONLY", lock "2s", statement "10s", idle "5s", "enable_seqscan = off", "enable_sort = off",
    "jit = off", "max_parallel_workers_per_gather = 0"
);

/// For what is left to do in a whole table, as one statement sees it: from the heap alone.
pub(super) const LEFT: &str = begin!(
    "READ COMMITTED READ ONLY", lock "2s", statement "10min", idle "5s", "enable_indexscan = off",
    "enable_indexonlyscan = off", "enable_bitmapscan = off", "jit = off"
);

/// For the one long transaction: everything as one snapshot sees it, from the heap alone.
pub(super) const SNAPSHOT: &str = begin!(
    "REPEATABLE READ READ ONLY", lock "2s", statement "10min", idle "10min", "enable_indexscan = off",
    "enable_indexonlyscan = off", "enable_bitmapscan = off"
);
