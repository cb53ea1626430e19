//! reseal's own tables in Postgres.

use crate::store::control::{self, reading, writing};

macro_rules! now {
    () => {
        "clock_timestamp()"
    };
}
macro_rules! lease_end {
    () => {
        "clock_timestamp() + interval '20 seconds'"
    };
}
macro_rules! an_hour_ago {
    () => {
        "clock_timestamp() - interval '1 hour'"
    };
}
macro_rules! ms_open {
    () => {
        "CAST(extract(epoch FROM "
    };
}
macro_rules! ms_close {
    () => {
        ") * 1000 AS bigint)"
    };
}
macro_rules! uuid_cast {
    () => {
        "::uuid"
    };
}
macro_rules! text_cast {
    () => {
        "::text"
    };
}
macro_rules! for_share {
    () => {
        "FOR SHARE"
    };
}
macro_rules! skip_locked {
    () => {
        "FOR UPDATE SKIP LOCKED"
    };
}
macro_rules! persistent {
    () => {
        false
    };
}

control::prelude!(Postgres, Postgres);
control::registry::registry!(Postgres);
control::reprovisions::reprovisions!(Postgres);
control::rewraps::rewraps!(Postgres);
control::rotations::rotations!(Postgres);
control::runs::runs!(Postgres);
control::shards::shards!(Postgres);
control::steering::steering!(Postgres);
control::quarantine::quarantine!(Postgres);
control::stagings::stagings!(Postgres);
control::audit::audit!(Postgres);
control::fences::fences!(Postgres);
control::verifications::verifications!(Postgres);
control::retirements::retirements!(Postgres);

/// One appends at a time: who comes second reads the head that the first left.
async fn lock_audit(conn: &mut Connection) -> Result<(), StoreError> {
    query("LOCK TABLE reseal_audit IN SHARE ROW EXCLUSIVE MODE").execute(&mut *conn).await?;
    Ok(())
}

/// A stretch of the heap is walked in the order of its keys.
const fn walk_kind(kind: KeyKind) -> KeyKind {
    kind
}
