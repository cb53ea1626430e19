//! Cells that could not be opened.

use async_trait::async_trait;

use crate::store::{Quarantined, RunRow, StoreError};

/// What is kept of cells that could not be opened.
#[async_trait]
pub trait Quarantine {
    /// The quarantine records of `target`, at most `limit`, in key order after `after`.
    async fn quarantine(
        &self,
        target: &str,
        after: Option<(&str, &str)>,
        limit: u32,
    ) -> Result<Vec<Quarantined>, StoreError>;

    /// The same of those that earlier runs than this one recorded, and it did not: their cells open by now, or it never
    /// looked into them.
    async fn quarantine_before(
        &self,
        run: &RunRow,
        after: Option<(&str, &str)>,
        limit: u32,
    ) -> Result<Vec<Quarantined>, StoreError>;

    /// How many cells of `target` are in quarantine.
    async fn quarantine_size(&self, target: &str) -> Result<u64, StoreError>;

    /// How many they are of each reason, by its name.
    async fn quarantine_by_reason(&self, target: &str) -> Result<Vec<(String, i64)>, StoreError>;
}

macro_rules! quarantine {
    ($store:ident) => {
        #[async_trait]
        impl Quarantine for $store {
            async fn quarantine(
                &self,
                target: &str,
                after: Option<(&str, &str)>,
                limit: u32,
            ) -> Result<Vec<Quarantined>, StoreError> {
                reading!(self, quarantine, target, None, after, limit)
            }

            async fn quarantine_before(
                &self,
                run: &RunRow,
                after: Option<(&str, &str)>,
                limit: u32,
            ) -> Result<Vec<Quarantined>, StoreError> {
                reading!(self, quarantine, &run.target, Some(&run.run_id), after, limit)
            }

            async fn quarantine_size(&self, target: &str) -> Result<u64, StoreError> {
                reading!(self, quarantine_size, target)
            }

            async fn quarantine_by_reason(&self, target: &str) -> Result<Vec<(String, i64)>, StoreError> {
                reading!(self, quarantine_by_reason, target)
            }
        }

        /// Records one cell; whether it counts: always in a run's first sweep, later only if it is new there.
        pub(in crate::store) async fn put_in_quarantine(
            conn: &mut Connection,
            target: &str,
            lease: &Lease,
            cell: &Quarantined,
        ) -> Result<bool, StoreError> {
            let known = query(
                "SELECT 1 FROM reseal_quarantine \
                 WHERE target = $1 AND row_key = $2 AND column_name = $3 AND run_id = $4 AND sha256 = $5",
            )
            .bind(target.to_owned())
            .bind(cell.row_key.clone())
            .bind(cell.column.clone())
            .bind(lease.run_id.clone())
            .bind(cell.sha256.to_vec())
            .fetch_optional(&mut *conn)
            .await?
            .is_some();
            query(concat!(
                "INSERT INTO reseal_quarantine (target, row_key, column_name, run_id, reason, sha256) ",
                "VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (target, row_key, column_name) ",
                "DO UPDATE SET run_id = $4, reason = $5, sha256 = $6, last_seen = ", now!(), ", first_seen = ",
                "CASE WHEN reseal_quarantine.sha256 = $6 THEN reseal_quarantine.first_seen ELSE ", now!(), " END"
            ))
            .bind(target.to_owned())
            .bind(cell.row_key.clone())
            .bind(cell.column.clone())
            .bind(lease.run_id.clone())
            .bind(cell.reason.clone())
            .bind(cell.sha256.to_vec())
            .execute(&mut *conn)
            .await?;
            Ok(lease.sweep == 1 || !known)
        }

        /// Removes the record of a cell, if it is of these bytes still; `false` when somebody recorded others since.
        pub(in crate::store) async fn remove_from_quarantine(
            conn: &mut Connection,
            target: &str,
            row_key: &str,
            column: &str,
            sha256: &[u8; 32],
        ) -> Result<bool, StoreError> {
            let removed = query(
                "DELETE FROM reseal_quarantine \
                 WHERE target = $1 AND row_key = $2 AND column_name = $3 AND sha256 = $4",
            )
            .bind(target.to_owned())
            .bind(row_key.to_owned())
            .bind(column.to_owned())
            .bind(sha256.to_vec())
            .execute(&mut *conn)
            .await?;
            if removed.rows_affected() == 0 {
                return Ok(false);
            }
            let detail = serde_json::json!({"row": row_key, "column": column});
            audit(conn, &AuditEvent { action: "quarantine-settled", subject: target, detail }).await?;
            Ok(true)
        }

        pub(in crate::store) async fn quarantine(
            conn: &mut Connection,
            target: &str,
            before: Option<&str>,
            after: Option<(&str, &str)>,
            limit: u32,
        ) -> Result<Vec<Quarantined>, StoreError> {
            use sqlx::Row;
            let rows = query(concat!(
                "SELECT row_key, column_name, reason, sha256, ",
                ms_open!(), "first_seen", ms_close!(), ", ", ms_open!(), "last_seen", ms_close!(),
                " FROM reseal_quarantine WHERE target = $1 AND ($2 IS NULL OR (row_key, column_name) > ($2, $3)) ",
                // Run ids sort by time.
                "AND ($4 IS NULL OR run_id < $4) ORDER BY row_key, column_name LIMIT $5"
            ))
            .bind(target.to_owned())
            .bind(after.map(|(row_key, _)| row_key.to_owned()))
            .bind(after.map(|(_, column)| column.to_owned()))
            .bind(before.map(str::to_owned))
            .bind(i64::from(limit))
            .fetch_all(&mut *conn)
            .await?;
            rows.iter()
                .map(|row| {
                    Ok(Quarantined {
                        row_key: row.try_get(0)?,
                        column: row.try_get(1)?,
                        reason: row.try_get(2)?,
                        sha256: row
                            .try_get::<Vec<u8>, _>(3)?
                            .try_into()
                            .map_err(|_| StoreError::Corrupt { what: "reseal_quarantine.sha256" })?,
                        first_seen_ms: row.try_get(4)?,
                        last_seen_ms: row.try_get(5)?,
                    })
                })
                .collect()
        }

        async fn quarantine_by_reason(
            conn: &mut Connection,
            target: &str,
        ) -> Result<Vec<(String, i64)>, StoreError> {
            let rows = query(
                "SELECT reason, count(*) FROM reseal_quarantine WHERE target = $1 GROUP BY reason ORDER BY reason",
            )
            .bind(target.to_owned())
            .fetch_all(&mut *conn)
            .await?;
            rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
        }

        pub(in crate::store) async fn quarantine_size(conn: &mut Connection, target: &str) -> Result<u64, StoreError> {
            use sqlx::Row;
            let row = query("SELECT count(*) FROM reseal_quarantine WHERE target = $1")
                .bind(target.to_owned())
                .fetch_one(&mut *conn)
                .await?;
            Ok(row.try_get::<i64, _>(0)?.try_into().unwrap_or_default())
        }
    };
}
pub(in crate::store) use quarantine;
