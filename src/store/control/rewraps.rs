//! Moving data keys to another KMS key: the wrapped bytes are exchanged, and those from before are kept for a while.

use async_trait::async_trait;

use crate::store::{StoreError, WrappedDataKey};

/// Data keys that are wrapped anew.
#[async_trait]
pub trait Rewraps {
    /// Puts the wrapped bytes and the KMS key of `new` in the place of those of `old`, which are kept until
    /// [`forget_previous_wraps`](Self::forget_previous_wraps). Refuses a KMS key that was
    /// retired. `false`, and nothing, when the row is not as in `old` any more.
    ///
    /// # Crash safety
    /// One statement, durable before this returns: the key is wrapped the one way or the other, and unwraps from both.
    async fn rewrap_data_key(&self, old: &WrappedDataKey, new: &WrappedDataKey) -> Result<bool, StoreError>;

    /// Forgets how the data keys of `purpose` were wrapped before, once a verify has opened every value with what they
    /// are wrapped as now. Gives how many there were.
    async fn forget_previous_wraps(&self, purpose: &str) -> Result<u64, StoreError>;
}

macro_rules! rewraps {
    ($store:ident) => {
        #[async_trait]
        impl Rewraps for $store {
            async fn rewrap_data_key(&self, old: &WrappedDataKey, new: &WrappedDataKey) -> Result<bool, StoreError> {
                writing!(self, rewrap_data_key, old, new)
            }

            async fn forget_previous_wraps(&self, purpose: &str) -> Result<u64, StoreError> {
                writing!(self, forget_previous_wraps, purpose)
            }
        }

        /// What is kept of several wrappings before a verify is the first: the one that values were last proven with.
        async fn rewrap_data_key(
            conn: &mut Connection,
            old: &WrappedDataKey,
            new: &WrappedDataKey,
        ) -> Result<bool, StoreError> {
            let done = query(
                "UPDATE reseal_data_keys SET kms = $1, wrapped = $2, previous_kms = coalesce(previous_kms, kms), \
                 previous_wrapped = coalesce(previous_wrapped, wrapped) \
                 WHERE key_id = $3 AND kms = $4 AND wrapped = $5",
            )
            .bind(new.kms.clone())
            .bind(new.wrapped.clone())
            .bind(old.key_id.to_vec())
            .bind(old.kms.clone())
            .bind(old.wrapped.clone())
            .execute(&mut *conn)
            .await?;
            if done.rows_affected() == 0 {
                return Ok(false);
            }
            let detail = serde_json::json!({"purpose": old.purpose, "from": old.kms, "to": new.kms});
            audit(conn, &AuditEvent { action: "data-key-rewrapped", subject: &hex::encode(old.key_id), detail }).await?;
            refuse_retired(conn, &serde_json::json!({"new": new.kms})).await?;
            Ok(true)
        }

        async fn forget_previous_wraps(conn: &mut Connection, purpose: &str) -> Result<u64, StoreError> {
            let done = query(
                "UPDATE reseal_data_keys SET previous_kms = NULL, previous_wrapped = NULL \
                 WHERE purpose = $1 AND previous_wrapped IS NOT NULL",
            )
            .bind(purpose.to_owned())
            .execute(&mut *conn)
            .await?
            .rows_affected();
            if done > 0 {
                let detail = serde_json::json!({"data_keys": done});
                audit(conn, &AuditEvent { action: "previous-wraps-forgotten", subject: purpose, detail }).await?;
            }
            Ok(done)
        }
    };
}
pub(in crate::store) use rewraps;
