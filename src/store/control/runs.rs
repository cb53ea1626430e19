//! Targets and runs.

use async_trait::async_trait;

use crate::store::{NewRun, RunRow, RunState, Span, StoreError, Tally, Target};

/// What is kept of targets and of runs.
#[async_trait]
pub trait Runs {
    /// Registers `target` under its logical name, or refuses when that name stands for another table or columns.
    async fn register(&self, target: &Target) -> Result<(), StoreError>;

    /// The open run of `target`, if there is one.
    async fn open_run(&self, target: &str) -> Result<Option<RunRow>, StoreError>;

    /// The latest run of `target`, open or not.
    async fn latest_run(&self, target: &str) -> Result<Option<RunRow>, StoreError>;

    /// Opens a run with its first sweep's shards; when another process was faster, gives that process's run.
    async fn create_run(&self, run: &NewRun) -> Result<RunRow, StoreError>;

    /// The run with this id.
    async fn run(&self, run_id: &str) -> Result<RunRow, StoreError>;

    /// Moves a run from the state it was read in to `to`; `false` when it is no longer in that state and sweep. Of a run
    /// that is over no lease is good any more, whoever holds it.
    async fn move_run(&self, run: &RunRow, to: RunState) -> Result<bool, StoreError>;

    /// Opens the next sweep, with these shards; `false` when somebody else did.
    async fn next_sweep(&self, run: &RunRow, chased: i64, spans: &[Span]) -> Result<bool, StoreError>;

    /// The counters of one sweep, or of all sweeps for `None`.
    async fn tally(&self, run_id: &str, sweep: Option<i64>) -> Result<Tally, StoreError>;
}

macro_rules! runs {
    ($store:ident) => {
        #[async_trait]
        impl Runs for $store {
            async fn register(&self, target: &Target) -> Result<(), StoreError> {
                writing!(self, register, target)
            }

            async fn open_run(&self, target: &str) -> Result<Option<RunRow>, StoreError> {
                reading!(self, open_run, target)
            }

            async fn latest_run(&self, target: &str) -> Result<Option<RunRow>, StoreError> {
                reading!(self, latest_run, target)
            }

            async fn create_run(&self, new: &NewRun) -> Result<RunRow, StoreError> {
                writing!(self, create_run, new)
            }

            async fn run(&self, run_id: &str) -> Result<RunRow, StoreError> {
                reading!(self, run, run_id)
            }

            async fn move_run(&self, run: &RunRow, to: RunState) -> Result<bool, StoreError> {
                writing!(self, move_run, run, to)
            }

            async fn next_sweep(&self, run: &RunRow, chased: i64, spans: &[Span]) -> Result<bool, StoreError> {
                writing!(self, next_sweep, run, chased, spans)
            }

            async fn tally(&self, run_id: &str, sweep: Option<i64>) -> Result<Tally, StoreError> {
                reading!(self, tally, run_id, sweep)
            }
        }

        const RUN_COLUMNS: &str = concat!(
            "run_id, target, keys, state, sweep, chased, row_count, ",
            ms_open!(), "created_at", ms_close!(), ", ", ms_open!(), "finished_at", ms_close!(), ", ",
            "paused_by, ", ms_open!(), "paused_at", ms_close!(), ", rate, batch, workers, horizon"
        );

        fn run_from(row: &<Db as Database>::Row) -> Result<RunRow, StoreError> {
            use sqlx::Row;
            let state: String = row.try_get(3)?;
            Ok(RunRow {
                run_id: row.try_get(0)?,
                target: row.try_get(1)?,
                keys: row.try_get(2)?,
                state: state.parse().map_err(|()| StoreError::Corrupt { what: "reseal_runs.state" })?,
                sweep: row.try_get(4)?,
                chased: row.try_get(5)?,
                row_count: row.try_get(6)?,
                created_ms: row.try_get(7)?,
                finished_ms: row.try_get(8)?,
                orders: orders_from(row, 9)?,
                horizon: row.try_get("horizon")?,
            })
        }

        pub(in crate::store) async fn register(conn: &mut Connection, target: &Target) -> Result<(), StoreError> {
            use sqlx::Row;
            let definition =
                serde_json::to_string(target).map_err(|_| StoreError::Corrupt { what: "a target's definition" })?;
            let added = query(
                "INSERT INTO reseal_targets (name, table_oid, definition) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            )
            .bind(target.name.clone())
            .bind(target.oid)
            .bind(definition.clone())
            .execute(&mut *conn)
            .await?;
            if added.rows_affected() == 1 {
                let detail = serde_json::json!({"schema": target.schema, "table": target.table, "oid": target.oid});
                audit(conn, &AuditEvent { action: "target-registered", subject: &target.name, detail }).await?;
            }
            let row = query("SELECT definition FROM reseal_targets WHERE name = $1")
                .bind(target.name.clone())
                .fetch_one(&mut *conn)
                .await?;
            if row.try_get::<String, _>(0)? == definition {
                Ok(())
            } else {
                Err(StoreError::OtherTarget { name: target.name.clone() })
            }
        }

        pub(in crate::store) async fn open_run(conn: &mut Connection, target: &str) -> Result<Option<RunRow>, StoreError> {
            let sql = format!(
                "SELECT {RUN_COLUMNS} FROM reseal_runs WHERE target = $1 AND state IN ('running', 'paused')"
            );
            let row = query(sqlx::AssertSqlSafe(sql)).bind(target.to_owned()).fetch_optional(&mut *conn).await?;
            row.as_ref().map(run_from).transpose()
        }

        pub(in crate::store) async fn latest_run(conn: &mut Connection, target: &str) -> Result<Option<RunRow>, StoreError> {
            let sql =
                format!("SELECT {RUN_COLUMNS} FROM reseal_runs WHERE target = $1 ORDER BY run_id DESC LIMIT 1");
            let row = query(sqlx::AssertSqlSafe(sql)).bind(target.to_owned()).fetch_optional(&mut *conn).await?;
            row.as_ref().map(run_from).transpose()
        }

        pub(in crate::store) async fn run(conn: &mut Connection, run_id: &str) -> Result<RunRow, StoreError> {
            let sql = format!("SELECT {RUN_COLUMNS} FROM reseal_runs WHERE run_id = $1");
            let row = query(sqlx::AssertSqlSafe(sql)).bind(run_id.to_owned()).fetch_optional(&mut *conn).await?;
            run_from(&row.ok_or_else(|| StoreError::Missing { what: format!("run {run_id}") })?)
        }

        /// The open run of the new one's target: the new one, with its shards and its new data key, or the one that
        /// was there before.
        pub(in crate::store) async fn create_run(conn: &mut Connection, run: &NewRun) -> Result<RunRow, StoreError> {
            let inserted = query(
                "INSERT INTO reseal_runs (run_id, target, keys, state, row_count, horizon) \
                 VALUES ($1, $2, $3, 'running', $4, $5) ON CONFLICT DO NOTHING",
            )
            .bind(run.run_id.clone())
            .bind(run.target.clone())
            .bind(run.keys.clone())
            .bind(run.row_count)
            .bind(run.horizon)
            .execute(&mut *conn)
            .await?
            .rows_affected();
            if inserted == 1 {
                fill_run(conn, run).await?;
            }
            let open = open_run(conn, &run.target).await?;
            open.ok_or_else(|| StoreError::Missing { what: format!("open run of {}", run.target) })
        }

        async fn fill_run(conn: &mut Connection, run: &NewRun) -> Result<(), StoreError> {
            add_shards(conn, &run.run_id, 1, &run.spans).await?;
            if let Some(key) = &run.data_key {
                add_data_key(conn, key).await?;
            }
            let keys = serde_json::from_str::<serde_json::Value>(&run.keys).unwrap_or_default();
            let detail = serde_json::json!({"target": run.target, "keys": &keys, "rows": run.row_count});
            audit(conn, &AuditEvent { action: "run-opened", subject: &run.run_id, detail }).await?;
            refuse_retired(conn, &keys).await?;
            Ok(())
        }

        async fn add_shards(
            conn: &mut Connection,
            run_id: &str,
            sweep: i64,
            spans: &[Span],
        ) -> Result<(), StoreError> {
            let numbered: Vec<(i64, &Span)> = (1..).zip(spans).collect();
            for spans in numbered.chunks(1000) {
                let insert = "INSERT INTO reseal_shards (run_id, sweep, shard, walk, lo, hi) ";
                let mut insert = sqlx::QueryBuilder::<Db>::new(insert);
                insert.push_values(spans, |mut row, (shard, span)| {
                    let (walk, lo, hi) = match span {
                        Span::Keys(KeyRange { lo, hi }) => {
                            ("keys", lo.as_ref().map(RowKey::to_string), hi.as_ref().map(RowKey::to_string))
                        }
                        Span::Table(Stretch { from, to, .. }) => {
                            ("table", Some(from.to_string()), Some(to.to_string()))
                        }
                    };
                    row.push_bind(run_id).push_bind(sweep).push_bind(shard);
                    row.push_bind(walk).push_bind(lo).push_bind(hi);
                });
                insert.build().persistent(persistent!()).execute(&mut *conn).await?;
            }
            Ok(())
        }

        pub(in crate::store) async fn move_run(
            conn: &mut Connection,
            run: &RunRow,
            to: RunState,
        ) -> Result<bool, StoreError> {
            let moved = query(concat!(
                "UPDATE reseal_runs SET state = $1, finished_at = CASE WHEN $2 THEN ", now!(), " END ",
                "WHERE run_id = $3 AND state = $4 AND sweep = $5"
            ))
            .bind(to.as_str())
            .bind(!to.is_open())
            .bind(run.run_id.clone())
            .bind(run.state.as_str())
            .bind(run.sweep)
            .execute(&mut *conn)
            .await?;
            if moved.rows_affected() == 0 {
                return Ok(false);
            }
            if !to.is_open() {
                fence_off(conn, &run.run_id).await?;
            }
            let detail = serde_json::json!({"target": run.target, "sweep": run.sweep, "from": run.state.as_str()});
            let action = format!("run-{}", to.as_str());
            audit(conn, &AuditEvent { action: &action, subject: &run.run_id, detail }).await?;
            Ok(true)
        }

        pub(in crate::store) async fn next_sweep(
            conn: &mut Connection,
            run: &RunRow,
            chased: i64,
            spans: &[Span],
        ) -> Result<bool, StoreError> {
            let moved = query(
                "UPDATE reseal_runs SET sweep = sweep + 1, chased = $1 \
                 WHERE run_id = $2 AND sweep = $3 AND state = 'running'",
            )
            .bind(chased)
            .bind(run.run_id.clone())
            .bind(run.sweep)
            .execute(&mut *conn)
            .await?;
            if moved.rows_affected() == 0 {
                return Ok(false);
            }
            add_shards(conn, &run.run_id, run.sweep + 1, spans).await?;
            Ok(true)
        }

        pub(in crate::store) async fn tally(
            conn: &mut Connection,
            run_id: &str,
            sweep: Option<i64>,
        ) -> Result<Tally, StoreError> {
            use sqlx::Row;
            let row = query(
                "SELECT CAST(coalesce(sum(scanned), 0) AS bigint), CAST(coalesce(sum(rekeyed), 0) AS bigint), \
                 CAST(coalesce(sum(current), 0) AS bigint), CAST(coalesce(sum(empty), 0) AS bigint), \
                 CAST(coalesce(sum(quarantined), 0) AS bigint), CAST(coalesce(sum(vanished), 0) AS bigint), \
                 CAST(coalesce(sum(total), 0) AS bigint), CAST(coalesce(sum(conflicts), 0) AS bigint), \
                 CAST(coalesce(sum(deferred), 0) AS bigint), CAST(coalesce(sum(not_urls), 0) AS bigint), \
                 CAST(coalesce(sum(kms_calls), 0) AS bigint) \
                 FROM reseal_shards WHERE run_id = $1 AND ($2 IS NULL OR sweep = $2)",
            )
            .bind(run_id.to_owned())
            .bind(sweep)
            .fetch_one(&mut *conn)
            .await?;
            Ok(Tally {
                scanned: row.try_get(0)?,
                rekeyed: row.try_get(1)?,
                current: row.try_get(2)?,
                empty: row.try_get(3)?,
                quarantined: row.try_get(4)?,
                vanished: row.try_get(5)?,
                total: row.try_get(6)?,
                conflicts: row.try_get(7)?,
                deferred: row.try_get(8)?,
                not_urls: row.try_get(9)?,
                kms_calls: row.try_get(10)?,
            })
        }
    };
}
pub(in crate::store) use runs;
