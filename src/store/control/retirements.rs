//! Keys that were retired, and those that were destroyed after it.

use std::str::FromStr;

use async_trait::async_trait;
use serde_json::Value;

use crate::store::{AuditHead, RunRow, StoreError, Target};

/// The states of a retired key; it never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetirementState {
    /// Nothing opens under it, and it is kept for the time being.
    Retired,
    /// It is gone, or its holder was told to let it go.
    Destroyed,
}

impl RetirementState {
    /// The state's name, as stored and as shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retired => "retired",
            Self::Destroyed => "destroyed",
        }
    }
}

impl FromStr for RetirementState {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        [Self::Retired, Self::Destroyed].into_iter().find(|state| state.as_str() == name).ok_or(())
    }
}

/// A retired key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retirement {
    /// The key: `static:` and its id, a KMS key's name, or `data-key:` and its id.
    pub key: String,
    /// Its state.
    pub state: RetirementState,
    /// The certificate, as it was written.
    pub certificate: String,
    /// Unix milliseconds by the database's clock.
    pub retired_ms: i64,
    /// Unix milliseconds by the database's clock.
    pub destroyed_ms: Option<i64>,
}

/// A key to retire.
#[derive(Debug)]
pub struct NewRetirement<'a> {
    /// See [`Retirement::key`].
    pub key: &'a str,
    /// Its id in the registry, for a data key.
    pub data_key: Option<[u8; 16]>,
    /// See [`Retirement::certificate`].
    pub certificate: &'a str,
    /// For the audit log.
    pub detail: Value,
}

/// Retired keys, and what tells whether a key may be one.
#[async_trait]
pub trait Retirements {
    /// Every retired key, in the order of their retirement.
    async fn retirements(&self) -> Result<Vec<Retirement>, StoreError>;

    /// Every target that was registered.
    async fn targets(&self) -> Result<Vec<Target>, StoreError>;

    /// Every run of every target, the oldest first.
    async fn runs(&self) -> Result<Vec<RunRow>, StoreError>;

    /// Now, by the database's clock, and the time of the latest record of the audit log; Unix milliseconds.
    async fn clock(&self) -> Result<(i64, Option<i64>), StoreError>;

    /// Retires a key, if no state has changed since the audit log had `head`: every change of one is recorded there. A
    /// data key opens nothing any more. `false`: something has changed, look again.
    ///
    /// # Crash safety
    /// One durable transaction.
    async fn retire(&self, new: &NewRetirement<'_>, head: Option<AuditHead>) -> Result<bool, StoreError>;

    /// Marks a retired key as destroyed, and takes a data key's wrapped bytes away, for good. `false`: it is not
    /// retired.
    ///
    /// # Crash safety
    /// One durable transaction.
    async fn destroy(&self, key: &str, data_key: Option<[u8; 16]>, detail: Value)
    -> Result<bool, StoreError>;
}

macro_rules! retirements {
    ($store:ident) => {
        #[async_trait]
        impl Retirements for $store {
            async fn retirements(&self) -> Result<Vec<Retirement>, StoreError> {
                reading!(self, retirements)
            }

            async fn targets(&self) -> Result<Vec<Target>, StoreError> {
                reading!(self, targets)
            }

            async fn runs(&self) -> Result<Vec<RunRow>, StoreError> {
                reading!(self, runs)
            }

            async fn clock(&self) -> Result<(i64, Option<i64>), StoreError> {
                reading!(self, clock)
            }

            async fn retire(
                &self,
                new: &NewRetirement<'_>,
                head: Option<AuditHead>,
            ) -> Result<bool, StoreError> {
                let mut tx = self.begin_write().await?;
                let retired = retire(&mut tx, new, head).await?;
                if retired {
                    tx.commit().await?;
                }
                Ok(retired)
            }

            async fn destroy(
                &self,
                key: &str,
                data_key: Option<[u8; 16]>,
                detail: serde_json::Value,
            ) -> Result<bool, StoreError> {
                let mut tx = self.begin_write().await?;
                let destroyed = destroy(&mut tx, key, data_key, detail).await?;
                if destroyed {
                    tx.commit().await?;
                }
                Ok(destroyed)
            }
        }

        async fn retirements(conn: &mut Connection) -> Result<Vec<Retirement>, StoreError> {
            let rows = query(concat!(
                "SELECT key, state, certificate, ",
                ms_open!(),
                "retired_at",
                ms_close!(),
                ", ",
                ms_open!(),
                "destroyed_at",
                ms_close!(),
                " FROM reseal_retirements ORDER BY retired_at, key"
            ))
            .fetch_all(&mut *conn)
            .await?;
            rows.iter()
                .map(|row| {
                    let state: String = row.try_get(1)?;
                    let corrupt = |()| StoreError::Corrupt { what: "reseal_retirements.state" };
                    Ok(Retirement {
                        key: row.try_get(0)?,
                        state: state.parse().map_err(corrupt)?,
                        certificate: row.try_get(2)?,
                        retired_ms: row.try_get(3)?,
                        destroyed_ms: row.try_get(4)?,
                    })
                })
                .collect()
        }

        async fn targets(conn: &mut Connection) -> Result<Vec<Target>, StoreError> {
            let rows =
                query("SELECT definition FROM reseal_targets ORDER BY name").fetch_all(&mut *conn).await?;
            let corrupt = |_| StoreError::Corrupt { what: "reseal_targets.definition" };
            rows.iter()
                .map(|row| serde_json::from_str(&row.try_get::<String, _>(0)?).map_err(corrupt))
                .collect()
        }

        async fn runs(conn: &mut Connection) -> Result<Vec<RunRow>, StoreError> {
            let sql = format!("SELECT {RUN_COLUMNS} FROM reseal_runs ORDER BY run_id");
            let rows = query(sqlx::AssertSqlSafe(sql)).fetch_all(&mut *conn).await?;
            rows.iter().map(run_from).collect()
        }

        async fn clock(conn: &mut Connection) -> Result<(i64, Option<i64>), StoreError> {
            let row = query(concat!(
                "SELECT ",
                ms_open!(),
                now!(),
                ms_close!(),
                ", (SELECT max(at_ms) FROM reseal_audit)"
            ))
            .fetch_one(&mut *conn)
            .await?;
            Ok((row.try_get(0)?, row.try_get(1)?))
        }

        async fn retire(
            conn: &mut Connection,
            new: &NewRetirement<'_>,
            head: Option<AuditHead>,
        ) -> Result<bool, StoreError> {
            // Whatever opens a run, moves a fence or records a verify waits here, or has moved the head.
            lock_audit(conn).await?;
            if audit_head(conn).await? != head {
                return Ok(false);
            }
            if let Some(key_id) = new.data_key {
                let sql = "UPDATE reseal_data_keys SET state = 'retired' \
                           WHERE key_id = $1 AND state IN ('draining', 'retired')";
                let moved = query(sql).bind(key_id.to_vec()).execute(&mut *conn).await?;
                if moved.rows_affected() != 1 {
                    return Ok(false);
                }
            }
            query("INSERT INTO reseal_retirements (key, state, certificate) VALUES ($1, 'retired', $2)")
                .bind(new.key.to_owned())
                .bind(new.certificate.to_owned())
                .execute(&mut *conn)
                .await?;
            let detail = new.detail.clone();
            audit(conn, &AuditEvent { action: "key-retired", subject: new.key, detail }).await?;
            Ok(true)
        }

        async fn destroy(
            conn: &mut Connection,
            key: &str,
            data_key: Option<[u8; 16]>,
            detail: serde_json::Value,
        ) -> Result<bool, StoreError> {
            let moved = query(concat!(
                "UPDATE reseal_retirements SET state = 'destroyed', destroyed_at = ",
                now!(),
                " WHERE key = $1 AND state = 'retired'"
            ))
            .bind(key.to_owned())
            .execute(&mut *conn)
            .await?;
            if moved.rows_affected() != 1 {
                return Ok(false);
            }
            if let Some(key_id) = data_key {
                let sql = "UPDATE reseal_data_keys SET state = 'destroyed', wrapped = NULL, \
                           previous_kms = NULL, previous_wrapped = NULL WHERE key_id = $1 AND state = 'retired'";
                let moved = query(sql).bind(key_id.to_vec()).execute(&mut *conn).await?;
                if moved.rows_affected() != 1 {
                    return Ok(false);
                }
            }
            audit(conn, &AuditEvent { action: "key-destroyed", subject: key, detail }).await?;
            Ok(true)
        }

        /// Refuses keys, as a run names them, when the one to seal under, or a data key, was retired. To be asked with
        /// the audit log held.
        async fn refuse_retired(conn: &mut Connection, keys: &serde_json::Value) -> Result<(), StoreError> {
            let names = |key: &str| {
                let is_old = || keys["old"].as_array().is_some_and(|old| old.iter().any(|old| *old == key));
                keys["new"] == key || key.starts_with("data-key:") && is_old()
            };
            match retirements(conn).await?.into_iter().find(|retired| names(&retired.key)) {
                Some(retired) => Err(StoreError::Retired { key: retired.key }),
                None => Ok(()),
            }
        }
    };
}
pub(in crate::store) use retirements;
