//! What is staged for which target, under which keys.

use async_trait::async_trait;

use crate::store::StoreError;

/// Values of one target that are being sealed ahead, or were swapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Staging {
    /// JSON that names the keys, as of a run.
    pub keys: String,
    /// Whether the swap was done.
    pub is_swapped: bool,
}

/// Stagings, at most one a target.
#[async_trait]
pub trait Stagings {
    /// The target's staging.
    async fn staging(&self, target: &str) -> Result<Option<Staging>, StoreError>;

    /// Opens a staging of the registered `target` under `keys`, in the place of one that was swapped; gives the one
    /// that is open then, which is the one from before if it was not swapped.
    async fn open_staging(&self, target: &str, keys: &str) -> Result<Staging, StoreError>;

    /// Removes at most `limit` staged rows of the target; gives how many were removed.
    async fn clear_staged(&self, target: &str, limit: u32) -> Result<u64, StoreError>;

    /// Removes the target's staging, once nothing is staged any more.
    async fn close_staging(&self, target: &str) -> Result<(), StoreError>;
}

macro_rules! stagings {
    ($store:ident) => {
        #[async_trait]
        impl Stagings for $store {
            async fn staging(&self, target: &str) -> Result<Option<Staging>, StoreError> {
                reading!(self, staging, target)
            }

            async fn open_staging(&self, target: &str, keys: &str) -> Result<Staging, StoreError> {
                writing!(self, open_staging, target, keys)
            }

            async fn clear_staged(&self, target: &str, limit: u32) -> Result<u64, StoreError> {
                writing!(self, clear_staged, target, limit)
            }

            async fn close_staging(&self, target: &str) -> Result<(), StoreError> {
                writing!(self, close_staging, target)
            }
        }

        async fn staging(conn: &mut Connection, target: &str) -> Result<Option<Staging>, StoreError> {
            let row = query("SELECT keys, state FROM reseal_stagings WHERE target = $1")
                .bind(target.to_owned())
                .fetch_optional(&mut *conn)
                .await?;
            row.map(|row| {
                let is_swapped = row.try_get::<String, _>(1)? == "swapped";
                Ok(Staging { keys: row.try_get(0)?, is_swapped })
            })
            .transpose()
        }

        async fn open_staging(conn: &mut Connection, target: &str, keys: &str) -> Result<Staging, StoreError> {
            let opened = query(
                "INSERT INTO reseal_stagings (target, keys, state) VALUES ($1, $2, 'preparing') \
                 ON CONFLICT (target) DO UPDATE SET keys = $2, state = 'preparing', swapped_at = NULL \
                 WHERE reseal_stagings.state = 'swapped' \
                 AND NOT EXISTS (SELECT 1 FROM reseal_staged WHERE target = $1)",
            )
            .bind(target.to_owned())
            .bind(keys.to_owned())
            .execute(&mut *conn)
            .await?;
            if opened.rows_affected() == 1 {
                let keys = serde_json::from_str::<serde_json::Value>(keys).unwrap_or_default();
                let detail = serde_json::json!({"keys": keys});
                audit(conn, &AuditEvent { action: "staging-opened", subject: target, detail }).await?;
            }
            let open = staging(conn, target).await?;
            open.ok_or_else(|| StoreError::Missing { what: format!("staging of {target}") })
        }

        async fn clear_staged(conn: &mut Connection, target: &str, limit: u32) -> Result<u64, StoreError> {
            let done = query(
                "DELETE FROM reseal_staged WHERE target = $1 \
                 AND row_key IN (SELECT row_key FROM reseal_staged WHERE target = $1 LIMIT $2)",
            )
            .bind(target.to_owned())
            .bind(i64::from(limit))
            .execute(&mut *conn)
            .await?;
            Ok(done.rows_affected())
        }

        async fn close_staging(conn: &mut Connection, target: &str) -> Result<(), StoreError> {
            let done = query("DELETE FROM reseal_stagings WHERE target = $1")
                .bind(target.to_owned())
                .execute(&mut *conn)
                .await?;
            if done.rows_affected() == 1 {
                let detail = serde_json::json!({});
                audit(conn, &AuditEvent { action: "staging-dropped", subject: target, detail }).await?;
            }
            Ok(())
        }

        /// The last words of a swap, in its transaction. `false` when the staging is not open any more.
        pub(in crate::store) async fn end_staging(
            conn: &mut Connection,
            target: &str,
            values: i64,
        ) -> Result<bool, StoreError> {
            let done = query(concat!(
                "UPDATE reseal_stagings SET state = 'swapped', swapped_at = ", now!(),
                " WHERE target = $1 AND state = 'preparing'"
            ))
            .bind(target.to_owned())
            .execute(&mut *conn)
            .await?;
            if done.rows_affected() == 0 {
                return Ok(false);
            }
            let detail = serde_json::json!({"values": values});
            audit(conn, &AuditEvent { action: "staged-values-swapped", subject: target, detail }).await?;
            Ok(true)
        }
    };
}
pub(in crate::store) use stagings;
