//! The queries on reseal's own tables, written once and instantiated for each database.
//!
//! `$1` parameters mean the same in Postgres and SQLite. What differs is how each tells the time, and is passed in:
//! Postgres keeps `timestamptz`, SQLite Unix milliseconds. Times are always the database's clock, never ours.

/// Defines the queries for one database. Every function takes a connection that is inside a transaction.
macro_rules! control_queries {
    (
        database: $database:ident,
        now: $now:literal,
        lease_end: $lease_end:literal,
        milliseconds: ($ms_open:literal, $ms_close:literal),
        uuid_cast: $uuid_cast:literal,
        text_cast: $text_cast:literal,
        skip_locked: $skip_locked:literal,
        persistent: $persistent:literal,
    ) => {
        use sqlx::{Database, query::Query};

        use $crate::store::{
            Checkpoint, Claim, DataKeyState, KeyKind, KeyRange, Lease, NewRun, Quarantined, RowKey, RunRow, RunState,
            StoreError, Tally, Target, WrappedDataKey,
        };

        type Db = sqlx::$database;
        type Connection = <Db as Database>::Connection;

        const RUN_COLUMNS: &str = concat!(
            "run_id, target, keys, state, sweep, chased, row_count, ",
            $ms_open, "created_at", $ms_close, ", ", $ms_open, "finished_at", $ms_close
        );

        fn query(sql: impl sqlx::SqlSafeStr) -> Query<'static, Db, <Db as Database>::Arguments> {
            sqlx::query::<Db>(sql).persistent($persistent)
        }

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
            })
        }

        pub(super) async fn register(conn: &mut Connection, target: &Target) -> Result<(), StoreError> {
            use sqlx::Row;
            let definition =
                serde_json::to_string(target).map_err(|_| StoreError::Corrupt { what: "a target's definition" })?;
            query(
                "INSERT INTO reseal_targets (name, table_oid, definition) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            )
            .bind(target.name.clone())
            .bind(target.oid)
            .bind(definition.clone())
            .execute(&mut *conn)
            .await?;
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

        pub(super) async fn data_keys(
            conn: &mut Connection,
            purpose: Option<&str>,
        ) -> Result<Vec<WrappedDataKey>, StoreError> {
            use sqlx::Row;
            let rows = query(concat!(
                "SELECT key_id, wrap_id", $text_cast, ", purpose, kms, wrapped, state, ",
                $ms_open, "created_at", $ms_close,
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

        pub(super) async fn add_data_key(conn: &mut Connection, key: &WrappedDataKey) -> Result<(), StoreError> {
            if key.state == DataKeyState::Active {
                query("UPDATE reseal_data_keys SET state = 'draining' WHERE purpose = $1 AND state = 'active'")
                    .bind(key.purpose.clone())
                    .execute(&mut *conn)
                    .await?;
            }
            query(concat!(
                "INSERT INTO reseal_data_keys (key_id, wrap_id, purpose, kms, wrapped, state) ",
                "VALUES ($1, $2", $uuid_cast, ", $3, $4, $5, $6)"
            ))
            .bind(key.key_id.to_vec())
            .bind(key.wrap_id.to_string())
            .bind(key.purpose.clone())
            .bind(key.kms.clone())
            .bind((key.state != DataKeyState::Destroyed).then(|| key.wrapped.clone()))
            .bind(key.state.as_str())
            .execute(&mut *conn)
            .await?;
            Ok(())
        }

        pub(super) async fn open_run(conn: &mut Connection, target: &str) -> Result<Option<RunRow>, StoreError> {
            let sql = format!(
                "SELECT {RUN_COLUMNS} FROM reseal_runs WHERE target = $1 AND state IN ('running', 'paused')"
            );
            let row = query(sqlx::AssertSqlSafe(sql)).bind(target.to_owned()).fetch_optional(&mut *conn).await?;
            row.as_ref().map(run_from).transpose()
        }

        pub(super) async fn latest_run(conn: &mut Connection, target: &str) -> Result<Option<RunRow>, StoreError> {
            let sql =
                format!("SELECT {RUN_COLUMNS} FROM reseal_runs WHERE target = $1 ORDER BY run_id DESC LIMIT 1");
            let row = query(sqlx::AssertSqlSafe(sql)).bind(target.to_owned()).fetch_optional(&mut *conn).await?;
            row.as_ref().map(run_from).transpose()
        }

        pub(super) async fn run(conn: &mut Connection, run_id: &str) -> Result<RunRow, StoreError> {
            let sql = format!("SELECT {RUN_COLUMNS} FROM reseal_runs WHERE run_id = $1");
            let row = query(sqlx::AssertSqlSafe(sql)).bind(run_id.to_owned()).fetch_optional(&mut *conn).await?;
            run_from(&row.ok_or_else(|| StoreError::Missing { what: format!("run {run_id}") })?)
        }

        /// The run, its shards and its new data key; `false`, and nothing, when the target has an open run already.
        pub(super) async fn create_run(conn: &mut Connection, run: &NewRun) -> Result<bool, StoreError> {
            let inserted = query(
                "INSERT INTO reseal_runs (run_id, target, keys, state, row_count) VALUES ($1, $2, $3, 'running', $4) \
                 ON CONFLICT DO NOTHING",
            )
            .bind(run.run_id.clone())
            .bind(run.target.clone())
            .bind(run.keys.clone())
            .bind(run.row_count)
            .execute(&mut *conn)
            .await?
            .rows_affected();
            if inserted == 0 {
                return Ok(false);
            }
            for (shard, range) in (1_i64..).zip(&run.ranges) {
                query("INSERT INTO reseal_shards (run_id, sweep, shard, lo, hi) VALUES ($1, 1, $2, $3, $4)")
                    .bind(run.run_id.clone())
                    .bind(shard)
                    .bind(range.lo.as_ref().map(RowKey::to_string))
                    .bind(range.hi.as_ref().map(RowKey::to_string))
                    .execute(&mut *conn)
                    .await?;
            }
            if let Some(key) = &run.data_key {
                add_data_key(conn, key).await?;
            }
            Ok(true)
        }

        pub(super) async fn move_run(
            conn: &mut Connection,
            run: &RunRow,
            to: RunState,
        ) -> Result<bool, StoreError> {
            let moved = query(concat!(
                "UPDATE reseal_runs SET state = $1, finished_at = CASE WHEN $2 THEN ", $now, " END ",
                "WHERE run_id = $3 AND state = $4 AND sweep = $5"
            ))
            .bind(to.as_str())
            .bind(!to.is_open())
            .bind(run.run_id.clone())
            .bind(run.state.as_str())
            .bind(run.sweep)
            .execute(&mut *conn)
            .await?;
            Ok(moved.rows_affected() == 1)
        }

        pub(super) async fn next_sweep(
            conn: &mut Connection,
            run: &RunRow,
            chased: i64,
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
            query(
                "INSERT INTO reseal_shards (run_id, sweep, shard, lo, hi) \
                 SELECT run_id, sweep + 1, shard, lo, hi FROM reseal_shards WHERE run_id = $1 AND sweep = $2",
            )
            .bind(run.run_id.clone())
            .bind(run.sweep)
            .execute(&mut *conn)
            .await?;
            Ok(true)
        }

        pub(super) async fn tally(
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

        pub(super) async fn claim(
            conn: &mut Connection,
            run: &RunRow,
            worker: &str,
            kind: KeyKind,
        ) -> Result<Claim, StoreError> {
            use sqlx::Row;
            let row = query(concat!(
                "UPDATE reseal_shards SET fence = fence + 1, worker = $1, lease_until = ", $lease_end,
                " WHERE run_id = $2 AND sweep = $3 AND shard = (SELECT shard FROM reseal_shards ",
                "WHERE run_id = $2 AND sweep = $3 AND NOT done AND (lease_until IS NULL OR lease_until < ", $now,
                ") ORDER BY shard LIMIT 1 ", $skip_locked, ") RETURNING shard, fence, lo, hi, cursor_key"
            ))
            .bind(worker.to_owned())
            .bind(run.run_id.clone())
            .bind(run.sweep)
            .fetch_optional(&mut *conn)
            .await?;
            let Some(row) = row else {
                let left = query(
                    "SELECT count(*) FROM reseal_shards WHERE run_id = $1 AND sweep = $2 AND NOT done",
                )
                .bind(run.run_id.clone())
                .bind(run.sweep)
                .fetch_one(&mut *conn)
                .await?;
                return Ok(if left.try_get::<i64, _>(0)? == 0 { Claim::SweepDone } else { Claim::Busy });
            };
            let key = |column: usize| -> Result<Option<RowKey>, StoreError> {
                let corrupt = StoreError::Corrupt { what: "a key in reseal_shards" };
                match row.try_get::<Option<String>, _>(column)? {
                    None => Ok(None),
                    Some(text) => RowKey::parse(kind, &text).map(Some).ok_or(corrupt),
                }
            };
            Ok(Claim::Leased(Box::new(Lease {
                run_id: run.run_id.clone(),
                sweep: run.sweep,
                shard: row.try_get(0)?,
                fence: row.try_get(1)?,
                range: KeyRange { lo: key(2)?, hi: key(3)? },
                cursor: key(4)?,
            })))
        }

        pub(super) async fn renew(conn: &mut Connection, lease: &Lease) -> Result<bool, StoreError> {
            set_lease_end(conn, lease, concat!(
                "UPDATE reseal_shards SET lease_until = ", $lease_end,
                " WHERE run_id = $1 AND sweep = $2 AND shard = $3 AND fence = $4"
            ))
            .await
        }

        pub(super) async fn release(conn: &mut Connection, lease: &Lease) -> Result<bool, StoreError> {
            set_lease_end(conn, lease, concat!(
                "UPDATE reseal_shards SET lease_until = NULL, worker = NULL",
                " WHERE run_id = $1 AND sweep = $2 AND shard = $3 AND fence = $4"
            ))
            .await
        }

        async fn set_lease_end(
            conn: &mut Connection,
            lease: &Lease,
            sql: &'static str,
        ) -> Result<bool, StoreError> {
            let done = query(sql)
                .bind(lease.run_id.clone())
                .bind(lease.sweep)
                .bind(lease.shard)
                .bind(lease.fence)
                .execute(&mut *conn)
                .await?;
            Ok(done.rows_affected() == 1)
        }

        /// The fence check and the checkpoint in one statement: `false` when the shard was taken over.
        pub(super) async fn checkpoint(
            conn: &mut Connection,
            lease: &Lease,
            checkpoint: &Checkpoint<'_>,
        ) -> Result<bool, StoreError> {
            let tally = &checkpoint.tally;
            let done = query(concat!(
                "UPDATE reseal_shards SET cursor_key = coalesce($5, cursor_key), done = done OR $6, lease_until = ",
                $lease_end,
                ", scanned = scanned + $7, rekeyed = rekeyed + $8, current = current + $9, empty = empty + $10, ",
                "quarantined = quarantined + $11, vanished = vanished + $12, total = total + $13, ",
                "conflicts = conflicts + $14, deferred = deferred + $15, not_urls = not_urls + $16, ",
                "kms_calls = kms_calls + $17 ",
                "WHERE run_id = $1 AND sweep = $2 AND shard = $3 AND fence = $4"
            ))
            .bind(lease.run_id.clone())
            .bind(lease.sweep)
            .bind(lease.shard)
            .bind(lease.fence)
            .bind(checkpoint.cursor.map(RowKey::to_string))
            .bind(checkpoint.done)
            .bind(tally.scanned)
            .bind(tally.rekeyed)
            .bind(tally.current)
            .bind(tally.empty)
            .bind(tally.quarantined)
            .bind(tally.vanished)
            .bind(tally.total)
            .bind(tally.conflicts)
            .bind(tally.deferred)
            .bind(tally.not_urls)
            .bind(tally.kms_calls)
            .execute(&mut *conn)
            .await?;
            Ok(done.rows_affected() == 1)
        }

        /// Records one cell; whether it counts: always in a run's first sweep, later only if it is new there.
        pub(super) async fn put_in_quarantine(
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
                "DO UPDATE SET run_id = $4, reason = $5, sha256 = $6, last_seen = ", $now, ", first_seen = ",
                "CASE WHEN reseal_quarantine.sha256 = $6 THEN reseal_quarantine.first_seen ELSE ", $now, " END"
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

        pub(super) async fn remove_from_quarantine(
            conn: &mut Connection,
            target: &str,
            row_key: &str,
            column: &str,
        ) -> Result<(), StoreError> {
            query("DELETE FROM reseal_quarantine WHERE target = $1 AND row_key = $2 AND column_name = $3")
                .bind(target.to_owned())
                .bind(row_key.to_owned())
                .bind(column.to_owned())
                .execute(&mut *conn)
                .await?;
            Ok(())
        }

        pub(super) async fn quarantine(
            conn: &mut Connection,
            target: &str,
            after: Option<(&str, &str)>,
            limit: u32,
        ) -> Result<Vec<Quarantined>, StoreError> {
            use sqlx::Row;
            let rows = query(concat!(
                "SELECT row_key, column_name, reason, sha256, ",
                $ms_open, "first_seen", $ms_close, ", ", $ms_open, "last_seen", $ms_close,
                " FROM reseal_quarantine WHERE target = $1 AND ($2 IS NULL OR (row_key, column_name) > ($2, $3)) ",
                "ORDER BY row_key, column_name LIMIT $4"
            ))
            .bind(target.to_owned())
            .bind(after.map(|(row_key, _)| row_key.to_owned()))
            .bind(after.map(|(_, column)| column.to_owned()))
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

        pub(super) async fn close_quarantine(conn: &mut Connection, run: &RunRow) -> Result<u64, StoreError> {
            // Run ids sort by time: the records of a run that came after this one are not ours to judge.
            query("DELETE FROM reseal_quarantine WHERE target = $1 AND run_id < $2")
                .bind(run.target.clone())
                .bind(run.run_id.clone())
                .execute(&mut *conn)
                .await?;
            quarantine_size(conn, &run.target).await
        }

        pub(super) async fn quarantine_size(conn: &mut Connection, target: &str) -> Result<u64, StoreError> {
            use sqlx::Row;
            let row = query("SELECT count(*) FROM reseal_quarantine WHERE target = $1")
                .bind(target.to_owned())
                .fetch_one(&mut *conn)
                .await?;
            Ok(row.try_get::<i64, _>(0)?.try_into().unwrap_or_default())
        }
    };
}

pub(crate) use control_queries;
