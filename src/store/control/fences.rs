//! Fences: what is kept of them, and how one goes up and comes down.

use async_trait::async_trait;

use crate::store::{Blocker, Fence, FenceMode, FenceRule, StaleWrites, StoreError, Target};

/// The fence of each target.
#[async_trait]
pub trait Fences {
    /// The fence of the target with this logical name, compared with what is in the catalog; `None`: it is off.
    async fn fence(&self, target: &str) -> Result<Option<Fence>, StoreError>;

    /// Puts the fence up, or makes it what it is to be. One that is so already, and intact, is left as it is.
    ///
    /// When this returns, every write that was checked by nothing, or by the fence before, has ended, and every
    /// later one is checked by this one.
    ///
    /// # Errors
    /// [`StoreError::is_rolled_back`] where others keep the table locked for more than a second: see
    /// [`fence_blockers`](Fences::fence_blockers), and try again.
    ///
    /// # Crash safety
    /// One transaction: this fence, or the one before.
    async fn raise_fence(
        &self,
        target: &Target,
        mode: FenceMode,
        rule: FenceRule,
    ) -> Result<Fence, StoreError>;

    /// Takes the fence down, without a trace on the table. Gives what it was; what it recorded stays.
    ///
    /// # Errors
    /// As [`raise_fence`](Fences::raise_fence).
    ///
    /// # Crash safety
    /// One transaction: the fence, or none.
    async fn lower_fence(&self, target: &str) -> Result<Option<Fence>, StoreError>;

    /// What an observing fence let through, by writer; the latest first.
    async fn stale_writes(&self, target: &str, limit: u32) -> Result<Vec<StaleWrites>, StoreError>;

    /// The sessions that hold a lock on the target's table now; the longest first.
    async fn fence_blockers(&self, target: &str) -> Result<Vec<Blocker>, StoreError>;
}

macro_rules! fences {
    ($store:ident) => {
        #[async_trait]
        impl Fences for $store {
            async fn fence(&self, target: &str) -> Result<Option<Fence>, StoreError> {
                reading!(self, fence, target)
            }

            async fn raise_fence(
                &self,
                target: &Target,
                mode: FenceMode,
                rule: FenceRule,
            ) -> Result<Fence, StoreError> {
                let mut tx = self.begin_ddl().await?;
                let fence = raise_fence(&mut tx, target, mode, rule).await?;
                tx.commit().await?;
                Ok(fence)
            }

            async fn lower_fence(&self, target: &str) -> Result<Option<Fence>, StoreError> {
                let mut tx = self.begin_ddl().await?;
                let fence = lower_fence(&mut tx, target).await?;
                tx.commit().await?;
                Ok(fence)
            }

            async fn stale_writes(&self, target: &str, limit: u32) -> Result<Vec<StaleWrites>, StoreError> {
                reading!(self, stale_writes, target, limit)
            }

            async fn fence_blockers(&self, target: &str) -> Result<Vec<Blocker>, StoreError> {
                let mut tx = self.begin_read().await?;
                match registered_target(&mut tx, target).await? {
                    Some(target) => super::fence::blockers(&mut tx, &target).await,
                    None => Ok(Vec::new()),
                }
            }
        }

        async fn fence(conn: &mut Connection, name: &str) -> Result<Option<Fence>, StoreError> {
            let row = query(concat!(
                "SELECT mode, rule, objects, ", ms_open!(), "since", ms_close!(),
                " FROM reseal_fences WHERE target = $1"
            ))
            .bind(name.to_owned())
            .fetch_optional(&mut *conn)
            .await?;
            let (Some(row), Some(target)) = (row, registered_target(conn, name).await?) else {
                return Ok(None);
            };
            let corrupt = |what| StoreError::Corrupt { what };
            let mode: String = row.try_get(0)?;
            let rule: String = row.try_get(1)?;
            let recorded = serde_json::from_str(&row.try_get::<String, _>(2)?)
                .map_err(|_| corrupt("reseal_fences.objects"))?;
            let mode = mode.parse().map_err(|()| corrupt("reseal_fences.mode"))?;
            let rule = rule.parse().map_err(|()| corrupt("reseal_fences.rule"))?;
            let found = super::fence::find(conn, &target).await?;
            let drift = found.drift(&recorded, &super::fence::made(&target, mode, rule));
            Ok(Some(Fence { mode, rule, since_ms: row.try_get(3)?, drift }))
        }

        async fn raise_fence(
            conn: &mut Connection,
            target: &Target,
            mode: FenceMode,
            rule: FenceRule,
        ) -> Result<Fence, StoreError> {
            register(conn, target).await?;
            let before = fence(conn, &target.name).await?;
            let intact = before.as_ref().is_some_and(Fence::is_intact);
            match before {
                Some(fence) if intact && (fence.mode, fence.rule) == (mode, rule) => return Ok(fence),
                _ => {}
            }
            if !intact {
                super::fence::remove(conn, &target.name).await?;
            }
            super::fence::make(conn, target, mode, rule).await?;
            let found = super::fence::find(conn, target).await?;
            let objects = serde_json::to_string(&found.objects).expect("names and definitions are valid JSON");
            query(concat!(
                "INSERT INTO reseal_fences (target, mode, rule, objects) VALUES ($1, $2, $3, $4) ",
                "ON CONFLICT (target) DO UPDATE SET mode = $2, rule = $3, objects = $4, since = ", now!()
            ))
            .bind(target.name.clone())
            .bind(mode.as_str())
            .bind(rule.to_string())
            .bind(objects)
            .execute(&mut *conn)
            .await?;
            let detail = serde_json::json!({ "rule": rule.to_string() });
            let action = match mode {
                FenceMode::Observe => "fence-observe",
                FenceMode::Enforce => "fence-enforce",
            };
            audit(conn, &AuditEvent { action, subject: &target.name, detail }).await?;
            let raised = fence(conn, &target.name).await?;
            raised.ok_or_else(|| StoreError::Missing { what: format!("fence of {}", target.name) })
        }

        async fn lower_fence(conn: &mut Connection, target: &str) -> Result<Option<Fence>, StoreError> {
            let Some(fence) = fence(conn, target).await? else { return Ok(None) };
            super::fence::remove(conn, target).await?;
            query("DELETE FROM reseal_fences WHERE target = $1")
                .bind(target.to_owned())
                .execute(&mut *conn)
                .await?;
            let detail = serde_json::json!({ "was": fence.mode.as_str(), "rule": fence.rule.to_string() });
            audit(conn, &AuditEvent { action: "fence-off", subject: target, detail }).await?;
            Ok(Some(fence))
        }

        async fn registered_target(conn: &mut Connection, name: &str) -> Result<Option<Target>, StoreError> {
            let row = query("SELECT definition FROM reseal_targets WHERE name = $1")
                .bind(name.to_owned())
                .fetch_optional(&mut *conn)
                .await?;
            let corrupt = |_| StoreError::Corrupt { what: "reseal_targets.definition" };
            row.map(|row| serde_json::from_str(&row.try_get::<String, _>(0)?).map_err(corrupt)).transpose()
        }

        async fn stale_writes(
            conn: &mut Connection,
            target: &str,
            limit: u32,
        ) -> Result<Vec<StaleWrites>, StoreError> {
            let rows = query(concat!(
                "SELECT last.role, last.application, last.address, last.backend, last.column_name, last.wrote, ",
                "last.row_key, writer.count, ", ms_open!(), "writer.first_at", ms_close!(), ", ",
                ms_open!(), "last.at", ms_close!(),
                " FROM (SELECT max(event_id) AS last_id, min(at) AS first_at, count(*) AS count ",
                "FROM reseal_fence_events WHERE target = $1 ",
                "GROUP BY role, application, address, column_name, wrote) writer ",
                "JOIN reseal_fence_events last ON last.event_id = writer.last_id ",
                "ORDER BY writer.last_id DESC LIMIT $2"
            ))
            .bind(target.to_owned())
            .bind(i64::from(limit))
            .fetch_all(&mut *conn)
            .await?;
            rows.iter()
                .map(|row| {
                    Ok(StaleWrites {
                        role: row.try_get(0)?,
                        application: row.try_get(1)?,
                        address: row.try_get(2)?,
                        backend: row.try_get(3)?,
                        column: row.try_get(4)?,
                        wrote: row.try_get(5)?,
                        row_key: row.try_get(6)?,
                        count: row.try_get(7)?,
                        first_ms: row.try_get(8)?,
                        last_ms: row.try_get(9)?,
                    })
                })
                .collect()
        }
    };
}
pub(in crate::store) use fences;
