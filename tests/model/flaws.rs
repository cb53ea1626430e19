//! What could be wrong with a protocol like this one. Each flaw is tried, and the checker must notice it.

use super::{
    FENCE_OFF, NOTHING, OUTAGE, OUTAGE_AND_TAKEOVER, Protocol, TAKEOVER, WRITERS,
    properties::{COMPLETE, COUNTED_ONCE, CURSOR, NO_LOST_WRITE, OPENS, RETIRED, VERIFIED},
    state::Budget,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    /// The swap replaces whatever it finds.
    NoCompare,
    /// The swap compares a version column, which the stale program does not know of.
    VersionColumn,
    /// The cell is read again and compared, and then replaced, in two transactions.
    ReadTwice,
    /// The checkpoint commits, then the swap, in two transactions.
    CheckpointFirst,
    /// A batch is committed under any fence number, and from wherever the cursor is.
    NoFence,
    /// A batch is committed under any fence number, from where the cursor is.
    NoFenceNumber,
    /// A batch is committed from wherever the cursor is: one that an outage took away is not missed.
    NoCursorCheck,
    /// The last batch of a shard is not on disk when others may see the shard done.
    LastBatchAsynchronous,
    /// A data key enters the registry after the values under it.
    KeyAfterValues,
    /// `fence enforce` sets a flag that the trigger reads; it waits for nobody.
    FenceAsFlag,
    /// The old key goes when a run is complete and a fence is there, whichever came first.
    FenceAfterLastSweep,
    /// The old key goes when a verify passed and a fence is there, whichever came first.
    VerifyBeforeFence,
    /// A verify is as old as its end, and not as its snapshot.
    VerifyAgeByItsEnd,
    /// The fence goes after the old key, while somebody still writes under it.
    FenceOffAfterRetire,
    /// The old key goes when a run that began under the fence is complete. See [`WITHOUT_VERIFY`].
    NoVerify,
}

const NAP: Protocol = Protocol { budget: Budget { naps: 1, ..NOTHING }, ..TAKEOVER };

const OUTAGE_ALONE: Protocol =
    Protocol { budget: Budget { outages: 1, stale_writes: 1, ..NOTHING }, ..OUTAGE };

const NAP_AND_OUTAGE: Protocol = Protocol { budget: Budget { naps: 1, outages: 1, ..NOTHING }, ..OUTAGE };

/// Where each flaw shows, and every property that it breaks there.
pub(super) const NOTICED: [(Flaw, Protocol, &[&str]); 14] = [
    (Flaw::NoCompare, WRITERS, &[NO_LOST_WRITE]),
    (Flaw::VersionColumn, WRITERS, &[NO_LOST_WRITE]),
    (Flaw::ReadTwice, WRITERS, &[NO_LOST_WRITE]),
    (Flaw::CheckpointFirst, NAP_AND_OUTAGE, &[COMPLETE]),
    // The comparison in the swap keeps the values right, whoever commits.
    (Flaw::NoFence, NAP, &[COUNTED_ONCE, CURSOR]),
    // A stale worker finds the cursor where it left it, but it is another's batch that moved it: its own was lost.
    (Flaw::NoFenceNumber, OUTAGE_AND_TAKEOVER, &[COMPLETE, COUNTED_ONCE]),
    (Flaw::NoCursorCheck, OUTAGE_ALONE, &[COMPLETE, COUNTED_ONCE]),
    (Flaw::LastBatchAsynchronous, OUTAGE_ALONE, &[COMPLETE, COUNTED_ONCE]),
    (Flaw::KeyAfterValues, WRITERS, &[OPENS]),
    (Flaw::FenceAsFlag, WRITERS, &[OPENS, RETIRED, VERIFIED]),
    (Flaw::FenceAfterLastSweep, WRITERS, &[OPENS, RETIRED]),
    (Flaw::VerifyBeforeFence, WRITERS, &[OPENS, RETIRED]),
    (Flaw::VerifyAgeByItsEnd, WRITERS, &[OPENS, RETIRED, VERIFIED]),
    (Flaw::FenceOffAfterRetire, FENCE_OFF, &[OPENS, RETIRED]),
];

/// Where a run that began under the fence is trusted without a verify: which breaks nothing, since verify is for what
/// no model has in it.
pub(super) const WITHOUT_VERIFY: [Protocol; 3] = [
    Protocol { flaw: Some(Flaw::NoVerify), ..WRITERS },
    Protocol { flaw: Some(Flaw::NoVerify), ..OUTAGE },
    Protocol { flaw: Some(Flaw::NoVerify), ..FENCE_OFF },
];
