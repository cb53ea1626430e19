//! What operators order of a run, and what its processes say of themselves.

use async_trait::async_trait;

use crate::store::{Heartbeat, Process, RunRow, Setting, ShardCount, StoreError};

/// Control of an open run from any machine.
#[async_trait]
pub trait Steering {
    /// Pauses a run; `false` when it is not running.
    async fn pause(&self, run: &RunRow) -> Result<bool, StoreError>;

    /// Lets a paused run go on; `false` when it is not paused.
    async fn resume(&self, run: &RunRow) -> Result<bool, StoreError>;

    /// Changes a setting of a run; `false` when it is over.
    async fn set(&self, run: &RunRow, setting: Setting) -> Result<bool, StoreError>;

    /// Says that a process works on a run, and hears what was ordered of it.
    ///
    /// # Crash safety
    /// What is said is for people only and may be lost; nothing depends on it.
    async fn beat(&self, run_id: &str, heartbeat: &Heartbeat) -> Result<RunRow, StoreError>;

    /// Takes back what a process said when it ends, and what others said who were not heard of for an hour.
    async fn leave(&self, run_id: &str, process: &str) -> Result<(), StoreError>;

    /// The processes that work on a run, or did when they were last heard of.
    async fn processes(&self, run_id: &str) -> Result<Vec<Process>, StoreError>;

    /// Where the shards of a run's sweep are.
    async fn shard_count(&self, run: &RunRow) -> Result<ShardCount, StoreError>;
}

macro_rules! steering {
    ($store:ident) => {
        #[async_trait]
        impl Steering for $store {
            async fn pause(&self, run: &RunRow) -> Result<bool, StoreError> {
                writing!(self, pause, run)
            }

            async fn resume(&self, run: &RunRow) -> Result<bool, StoreError> {
                writing!(self, resume, run)
            }

            async fn set(&self, run: &RunRow, setting: Setting) -> Result<bool, StoreError> {
                writing!(self, set, run, setting)
            }

            async fn beat(&self, run_id: &str, heartbeat: &Heartbeat) -> Result<RunRow, StoreError> {
                let mut tx = self.begin_batch().await?;
                beat(&mut tx, run_id, heartbeat).await?;
                let run = run(&mut tx, run_id).await?;
                tx.commit().await?;
                Ok(run)
            }

            async fn leave(&self, run_id: &str, process: &str) -> Result<(), StoreError> {
                let mut tx = self.begin_batch().await?;
                leave(&mut tx, run_id, process).await?;
                Ok(tx.commit().await?)
            }

            async fn processes(&self, run_id: &str) -> Result<Vec<Process>, StoreError> {
                reading!(self, processes, run_id)
            }

            async fn shard_count(&self, run: &RunRow) -> Result<ShardCount, StoreError> {
                reading!(self, shard_count, run)
            }
        }

        /// The orders in a row of `reseal_runs`, from column `at` on: paused_by, paused_at, rate, batch, workers.
        fn orders_from(row: &<Db as Database>::Row, at: usize) -> Result<Orders, StoreError> {
            let number = |column: usize, what| {
                let corrupt = |_| StoreError::Corrupt { what };
                let stored: Option<i64> = row.try_get(column)?;
                stored.map(|number| u32::try_from(number).map_err(corrupt)).transpose()
            };
            let paused_by: Option<String> = row.try_get(at)?;
            let paused_at: Option<i64> = row.try_get(at + 1)?;
            Ok(Orders {
                paused: paused_by.zip(paused_at).map(|(by, since_ms)| Paused { by, since_ms }),
                rate: number(at + 2, "reseal_runs.rate")?
                    .map(|rate| NonZero::new(rate).map_or(RowRate::Unlimited, RowRate::PerSecond)),
                batch: number(at + 3, "reseal_runs.batch")?.and_then(NonZero::new),
                workers: number(at + 4, "reseal_runs.workers")?.and_then(NonZero::new),
            })
        }

        async fn pause(conn: &mut Connection, run: &RunRow) -> Result<bool, StoreError> {
            let by = $crate::store::control::audit::actor();
            let done = query(concat!(
                "UPDATE reseal_runs SET state = 'paused', paused_by = $1, paused_at = ", now!(),
                " WHERE run_id = $2 AND state = 'running'"
            ))
            .bind(by)
            .bind(run.run_id.clone())
            .execute(&mut *conn)
            .await?;
            ordered(conn, done.rows_affected() == 1, run, "run-paused", serde_json::json!({})).await
        }

        async fn resume(conn: &mut Connection, run: &RunRow) -> Result<bool, StoreError> {
            let done = query(
                "UPDATE reseal_runs SET state = 'running', paused_by = NULL, paused_at = NULL \
                 WHERE run_id = $1 AND state = 'paused'",
            )
            .bind(run.run_id.clone())
            .execute(&mut *conn)
            .await?;
            ordered(conn, done.rows_affected() == 1, run, "run-resumed", serde_json::json!({})).await
        }

        async fn set(conn: &mut Connection, run: &RunRow, setting: Setting) -> Result<bool, StoreError> {
            let (name, sql, value) = match setting {
                Setting::Rate(rate) => (
                    "rate",
                    "UPDATE reseal_runs SET rate = $1 WHERE run_id = $2 AND state IN ('running', 'paused')",
                    rate.limit().map_or(0, NonZero::get),
                ),
                Setting::Batch(rows) => (
                    "batch",
                    "UPDATE reseal_runs SET batch = $1 WHERE run_id = $2 AND state IN ('running', 'paused')",
                    rows.get(),
                ),
                Setting::Workers(workers) => (
                    "workers",
                    "UPDATE reseal_runs SET workers = $1 WHERE run_id = $2 AND state IN ('running', 'paused')",
                    workers.get(),
                ),
            };
            let done =
                query(sql).bind(i64::from(value)).bind(run.run_id.clone()).execute(&mut *conn).await?;
            ordered(conn, done.rows_affected() == 1, run, "run-set", serde_json::json!({name: value})).await
        }

        /// Records an order that was given.
        async fn ordered(
            conn: &mut Connection,
            given: bool,
            run: &RunRow,
            action: &str,
            mut detail: serde_json::Value,
        ) -> Result<bool, StoreError> {
            if given {
                detail["target"] = run.target.as_str().into();
                audit(conn, &AuditEvent { action, subject: &run.run_id, detail }).await?;
            }
            Ok(given)
        }

        async fn beat(conn: &mut Connection, run_id: &str, heartbeat: &Heartbeat) -> Result<(), StoreError> {
            query(concat!(
                "INSERT INTO reseal_processes (run_id, process, workers, rows_per_second, waiting) ",
                "VALUES ($1, $2, $3, $4, $5) ON CONFLICT (run_id, process) ",
                "DO UPDATE SET workers = $3, rows_per_second = $4, waiting = $5, last_seen = ", now!()
            ))
            .bind(run_id.to_owned())
            .bind(heartbeat.process.clone())
            .bind(heartbeat.workers)
            .bind(heartbeat.rows_per_second)
            .bind(heartbeat.waiting.clone())
            .execute(&mut *conn)
            .await?;
            Ok(())
        }

        async fn leave(conn: &mut Connection, run_id: &str, process: &str) -> Result<(), StoreError> {
            query(concat!(
                "DELETE FROM reseal_processes WHERE run_id = $1 AND process = $2 OR last_seen < ",
                an_hour_ago!()
            ))
            .bind(run_id.to_owned())
            .bind(process.to_owned())
            .execute(&mut *conn)
            .await?;
            Ok(())
        }

        async fn processes(conn: &mut Connection, run_id: &str) -> Result<Vec<Process>, StoreError> {
            let rows = query(concat!(
                "SELECT process, workers, rows_per_second, waiting, ",
                ms_open!(), now!(), ms_close!(), " - ", ms_open!(), "last_seen", ms_close!(),
                " FROM reseal_processes WHERE run_id = $1 ORDER BY process"
            ))
            .bind(run_id.to_owned())
            .fetch_all(&mut *conn)
            .await?;
            rows.iter()
                .map(|row| {
                    let heartbeat = Heartbeat {
                        process: row.try_get(0)?,
                        workers: row.try_get(1)?,
                        rows_per_second: row.try_get(2)?,
                        waiting: row.try_get(3)?,
                    };
                    Ok(Process { heartbeat, silent_ms: row.try_get(4)? })
                })
                .collect()
        }

        async fn shard_count(conn: &mut Connection, run: &RunRow) -> Result<ShardCount, StoreError> {
            let row = query(concat!(
                "SELECT CAST(coalesce(sum(CASE WHEN done THEN 1 ELSE 0 END), 0) AS bigint), ",
                "CAST(coalesce(sum(CASE WHEN NOT done AND lease_until >= ", now!(),
                " THEN 1 ELSE 0 END), 0) AS bigint), count(*) ",
                "FROM reseal_shards WHERE run_id = $1 AND sweep = $2"
            ))
            .bind(run.run_id.clone())
            .bind(run.sweep)
            .fetch_one(&mut *conn)
            .await?;
            let (done, leased, all): (i64, i64, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            Ok(ShardCount { done, leased, free: all - done - leased })
        }
    };
}
pub(in crate::store) use steering;
