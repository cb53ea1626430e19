//! Standbys of a Postgres server, as their primary knows them.

use sqlx::{PgConnection, Row};

use super::query;
use crate::store::{Standby, StoreError};

/// How far the write-ahead log is on disk.
pub(super) async fn position(conn: &mut PgConnection) -> Result<Option<String>, StoreError> {
    let row = query("SELECT pg_current_wal_flush_lsn()::text".to_owned()).fetch_one(conn).await?;
    Ok(Some(row.try_get(0)?))
}

/// Those that are connected and do not just take a backup, and the physical slots that nobody uses now. What a
/// connected one has flushed, a role without `pg_monitor` does not see.
pub(super) async fn standbys(conn: &mut PgConnection, position: &str) -> Result<Vec<Standby>, StoreError> {
    let sql = "SELECT coalesce(nullif(application_name, ''), 'process ' || pid), flush_lsn >= $1::pg_lsn \
               FROM pg_stat_replication WHERE state IS DISTINCT FROM 'backup' \
               UNION ALL SELECT slot_name::text, restart_lsn >= $1::pg_lsn FROM pg_replication_slots \
               WHERE slot_type = 'physical' AND NOT active AND restart_lsn IS NOT NULL ORDER BY 1";
    let rows = query(sql.to_owned()).bind(position).fetch_all(conn).await?;
    rows.iter().map(|row| Ok(Standby { name: row.try_get(0)?, is_caught_up: row.try_get(1)? })).collect()
}
