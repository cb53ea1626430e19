//! The registry of v3 data keys.

use async_trait::async_trait;

use crate::store::{StoreError, WrappedDataKey};

/// The registry of data keys, wrapped.
#[async_trait]
pub trait Registry {
    /// The data keys of `purpose`, newest first; those of every purpose for `None`.
    async fn data_keys(&self, purpose: Option<&str>) -> Result<Vec<WrappedDataKey>, StoreError>;

    /// Adds `key`; as `active`, it moves the purpose's active key to `draining` in the same transaction.
    ///
    /// # Crash safety
    /// Durable before this returns (never `synchronous_commit = off`): no value is sealed under a key that a
    /// crash could still take away.
    async fn add_data_key(&self, key: &WrappedDataKey) -> Result<(), StoreError>;
}

macro_rules! registry {
    ($store:ident) => {
        #[async_trait]
        impl Registry for $store {
            async fn data_keys(&self, purpose: Option<&str>) -> Result<Vec<WrappedDataKey>, StoreError> {
                reading!(self, data_keys, purpose)
            }

            async fn add_data_key(&self, key: &WrappedDataKey) -> Result<(), StoreError> {
                writing!(self, add_data_key, key)
            }
        }

        pub(in crate::store) async fn data_keys(
            conn: &mut Connection,
            purpose: Option<&str>,
        ) -> Result<Vec<WrappedDataKey>, StoreError> {
            use sqlx::Row;
            let rows = query(concat!(
                "SELECT key_id, wrap_id", text_cast!(), ", purpose, kms, wrapped, state, ",
                ms_open!(), "created_at", ms_close!(),
                " FROM reseal_data_keys WHERE $1 IS NULL OR purpose = $1 ORDER BY created_at DESC, key_id"
            ))
            .bind(purpose.map(str::to_owned))
            .fetch_all(&mut *conn)
            .await?;
            rows.iter()
                .map(|row| {
                    let corrupt = |what| StoreError::Corrupt { what };
                    let state: String = row.try_get(5)?;
                    Ok(WrappedDataKey {
                        key_id: row
                            .try_get::<Vec<u8>, _>(0)?
                            .try_into()
                            .map_err(|_| corrupt("reseal_data_keys.key_id"))?,
                        wrap_id: row
                            .try_get::<String, _>(1)?
                            .parse()
                            .map_err(|_| corrupt("reseal_data_keys.wrap_id"))?,
                        purpose: row.try_get(2)?,
                        kms: row.try_get(3)?,
                        wrapped: row.try_get::<Option<Vec<u8>>, _>(4)?.unwrap_or_default(),
                        state: state.parse().map_err(|()| corrupt("reseal_data_keys.state"))?,
                        created_ms: row.try_get(6)?,
                    })
                })
                .collect()
        }

        pub(in crate::store) async fn add_data_key(conn: &mut Connection, key: &WrappedDataKey) -> Result<(), StoreError> {
            // Taken before the look at what is active: of two that add at once, the second sees the first's key.
            lock_audit(conn).await?;
            if key.state == DataKeyState::Active {
                query("UPDATE reseal_data_keys SET state = 'draining' WHERE purpose = $1 AND state = 'active'")
                    .bind(key.purpose.clone())
                    .execute(&mut *conn)
                    .await?;
            }
            query(concat!(
                "INSERT INTO reseal_data_keys (key_id, wrap_id, purpose, kms, wrapped, state) ",
                "VALUES ($1, $2", uuid_cast!(), ", $3, $4, $5, $6)"
            ))
            .bind(key.key_id.to_vec())
            .bind(key.wrap_id.to_string())
            .bind(key.purpose.clone())
            .bind(key.kms.clone())
            .bind((key.state != DataKeyState::Destroyed).then(|| key.wrapped.clone()))
            .bind(key.state.as_str())
            .execute(&mut *conn)
            .await?;
            let detail = serde_json::json!({"purpose": key.purpose, "kms": key.kms, "state": key.state.as_str()});
            audit(conn, &AuditEvent { action: "data-key-added", subject: &hex::encode(key.key_id), detail }).await?;
            Ok(())
        }
    };
}
pub(in crate::store) use registry;
