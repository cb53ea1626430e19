//! reseal's own tables in SQLite.

use crate::store::control::{self, reading, writing};

macro_rules! now {
    () => {
        "CAST(unixepoch('subsec') * 1000 AS integer)"
    };
}
macro_rules! lease_end {
    () => {
        "CAST(unixepoch('subsec') * 1000 AS integer) + 20000"
    };
}
macro_rules! an_hour_ago {
    () => {
        "CAST(unixepoch('subsec') * 1000 AS integer) - 3600000"
    };
}
macro_rules! persistent {
    () => {
        true
    };
}
macro_rules! nothing {
    () => {
        ""
    };
}
use nothing as ms_open;
use nothing as ms_close;
use nothing as uuid_cast;
use nothing as text_cast;
use nothing as for_share;
use nothing as skip_locked;

control::prelude!(Sqlite, Sqlite);
control::registry::registry!(Sqlite);
control::reprovisions::reprovisions!(Sqlite);
control::rewraps::rewraps!(Sqlite);
control::rotations::rotations!(Sqlite);
control::runs::runs!(Sqlite);
control::shards::shards!(Sqlite);
control::steering::steering!(Sqlite);
control::quarantine::quarantine!(Sqlite);
control::stagings::stagings!(Sqlite);
control::audit::audit!(Sqlite);
control::fences::fences!(Sqlite);
control::verifications::verifications!(Sqlite);
control::retirements::retirements!(Sqlite);

/// The transaction holds the file's only write lock already.
async fn lock_audit(_: &mut Connection) -> Result<(), StoreError> {
    Ok(())
}

/// A stretch of the table is walked by rowid.
const fn walk_kind(_kind: KeyKind) -> KeyKind {
    KeyKind::Integer
}
