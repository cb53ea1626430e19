//! What the server has to bear besides us: who waits for our locks, and how far replicas are behind.

use std::time::Duration;

use sqlx::{PgConnection, Row};

use super::query;
use crate::store::{Pressure, Replicas, StoreError};

/// Sessions that wait for a lock which a batch holds. A batch is told by its first statement, which locks a row of
/// `reseal_shards`: that serves behind a pooler too, and every role may see it.
const LOCK_WAITS: &str = "
    SELECT count(DISTINCT waiting.pid)
    FROM pg_locks waiting
    WHERE NOT waiting.granted
      AND EXISTS (
          SELECT FROM pg_locks batch
          WHERE batch.pid = ANY (pg_blocking_pids(waiting.pid))
            AND batch.relation = to_regclass('reseal_shards')
            AND batch.database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND batch.mode = 'RowExclusiveLock' AND batch.granted)
      AND NOT EXISTS (
          SELECT FROM pg_locks ours
          WHERE ours.pid = waiting.pid AND ours.relation = to_regclass('reseal_shards'))";

/// The slowest replica. A role that may not see the details is shown the rows without them. Who has said how far it has
/// written and never says that it has replayed anything keeps the log and is no replica: `pg_receivewal`.
const REPLICAS: &str = "
    SELECT count(*), count(*) FILTER (WHERE state IS NULL),
           CAST(pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0') AS bigint),
           CAST(min(pg_wal_lsn_diff(replay_lsn, '0/0')) AS bigint),
           CAST(extract(epoch FROM max(replay_lag)) * 1000 AS bigint)
    FROM pg_stat_replication
    WHERE state IS DISTINCT FROM 'backup' AND (replay_lsn IS NOT NULL OR write_lsn IS NULL)";

pub(super) async fn pressure(conn: &mut PgConnection) -> Result<Pressure, StoreError> {
    let waits: i64 = query(LOCK_WAITS.to_owned()).fetch_one(&mut *conn).await?.try_get(0)?;
    let row = query(REPLICAS.to_owned()).fetch_one(&mut *conn).await?;
    let (all, hidden): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    let (end, replayed): (i64, Option<i64>) = (row.try_get(2)?, row.try_get(3)?);
    let reported: Option<i64> = row.try_get(4)?;
    let unsigned = |number: i64| u64::try_from(number).unwrap_or_default();
    let replicas = match (all, hidden, replayed) {
        (0, ..) => Replicas::None,
        (_, 1.., _) => Replicas::Hidden,
        // It has connected, and has not said yet where it is: behind everything, for all we know.
        (_, _, replayed) => Replicas::Behind {
            end: unsigned(end),
            replayed: unsigned(replayed.unwrap_or_default()),
            reported: reported.map(|lag| Duration::from_millis(unsigned(lag))),
        },
    };
    Ok(Pressure { lock_waits: unsigned(waits), replicas })
}
