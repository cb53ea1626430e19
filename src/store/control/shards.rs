//! Shards and their leases.

use async_trait::async_trait;

use crate::store::{Claim, KeyKind, Lease, RunRow, StoreError};

/// Who works on which share of a run.
#[async_trait]
pub trait Shards {
    /// Takes over a shard of the run's current sweep that is free or whose lease ran out. A lease that ends more than
    /// 20 s from now was granted before the database's clock was set back, and counts as run out. Of a run that does
    /// not run any more nothing is to be had: [`Claim::Busy`].
    async fn claim(&self, run: &RunRow, worker: &str, kind: KeyKind) -> Result<Claim, StoreError>;

    /// Extends the lease; `false` when the shard was taken over.
    async fn renew(&self, lease: &Lease) -> Result<bool, StoreError>;

    /// Gives the shard back at once, so that nobody waits for the lease to run out; `false` when it was taken over.
    async fn release(&self, lease: &Lease) -> Result<bool, StoreError>;
}

macro_rules! shards {
    ($store:ident) => {
        #[async_trait]
        impl Shards for $store {
            async fn claim(&self, run: &RunRow, worker: &str, kind: KeyKind) -> Result<Claim, StoreError> {
                writing!(self, claim, run, worker, kind)
            }

            async fn renew(&self, lease: &Lease) -> Result<bool, StoreError> {
                writing!(self, renew, lease)
            }

            async fn release(&self, lease: &Lease) -> Result<bool, StoreError> {
                writing!(self, release, lease)
            }
        }

        pub(in crate::store) async fn claim(
            conn: &mut Connection,
            run: &RunRow,
            worker: &str,
            kind: KeyKind,
        ) -> Result<Claim, StoreError> {
            use sqlx::Row;
            if !keep_running(conn, run).await? {
                return Ok(Claim::Busy);
            }
            let row = query(concat!(
                "UPDATE reseal_shards SET fence = fence + 1, worker = $1, lease_until = ", lease_end!(),
                " WHERE run_id = $2 AND sweep = $3 AND shard = (SELECT shard FROM reseal_shards ",
                "WHERE run_id = $2 AND sweep = $3 AND NOT done AND (lease_until IS NULL OR lease_until < ", now!(),
                // Nobody grants a lease that long: the database's clock was set back since.
                " OR lease_until > ", lease_end!(), ") ORDER BY shard LIMIT 1 ", skip_locked!(), ") RETURNING shard, fence, lo, hi, cursor_key, walk"
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
            let corrupt = || StoreError::Corrupt { what: "a place in reseal_shards" };
            let place = |column: usize, kind: KeyKind| -> Result<Option<RowKey>, StoreError> {
                match row.try_get::<Option<String>, _>(column)? {
                    None => Ok(None),
                    Some(text) => RowKey::parse(kind, &text).map(Some).ok_or_else(corrupt),
                }
            };
            let number = |column: usize| -> Result<i64, StoreError> {
                row.try_get::<Option<&str>, _>(column)?.and_then(|text| text.parse().ok()).ok_or_else(corrupt)
            };
            let (span, cursor_kind) = match row.try_get::<&str, _>(5)? {
                "table" => {
                    let (from, to) = (number(2)?, number(3)?);
                    (Span::Table(Stretch { from, to, before: run.horizon.ok_or_else(corrupt)? }), walk_kind(kind))
                }
                _ => (Span::Keys(KeyRange { lo: place(2, kind)?, hi: place(3, kind)? }), kind),
            };
            Ok(Claim::Leased(Box::new(Lease {
                run_id: run.run_id.clone(),
                sweep: run.sweep,
                shard: row.try_get(0)?,
                fence: row.try_get(1)?,
                span,
                cursor: place(4, cursor_kind)?,
            })))
        }

        /// Whether the run is running, as it then is until the transaction ends: whoever ends it comes after the claim,
        /// and takes the shard away, or before it.
        async fn keep_running(conn: &mut Connection, run: &RunRow) -> Result<bool, StoreError> {
            let running = query(concat!(
                "SELECT 1 FROM reseal_runs WHERE run_id = $1 AND state = 'running' ", for_share!()
            ))
            .bind(run.run_id.clone())
            .fetch_optional(&mut *conn)
            .await?;
            Ok(running.is_some())
        }

        /// Takes every shard that is not done from whoever holds it: a batch that is committed later is refused.
        pub(in crate::store) async fn fence_off(conn: &mut Connection, run_id: &str) -> Result<(), StoreError> {
            query(
                "UPDATE reseal_shards SET fence = fence + 1, lease_until = NULL, worker = NULL \
                 WHERE run_id = $1 AND NOT done",
            )
            .bind(run_id.to_owned())
            .execute(&mut *conn)
            .await?;
            Ok(())
        }

        pub(in crate::store) async fn renew(conn: &mut Connection, lease: &Lease) -> Result<bool, StoreError> {
            set_lease_end(conn, lease, concat!(
                "UPDATE reseal_shards SET lease_until = ", lease_end!(),
                " WHERE run_id = $1 AND sweep = $2 AND shard = $3 AND fence = $4"
            ))
            .await
        }

        pub(in crate::store) async fn release(conn: &mut Connection, lease: &Lease) -> Result<bool, StoreError> {
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

        /// The fence check and the checkpoint in one statement: `false` when the shard was taken over, or when its
        /// cursor is not where the lease has it, because the server lost batches that were not on disk.
        pub(in crate::store) async fn checkpoint(
            conn: &mut Connection,
            lease: &Lease,
            checkpoint: &Checkpoint<'_>,
        ) -> Result<bool, StoreError> {
            let tally = &checkpoint.tally;
            let done = query(concat!(
                "UPDATE reseal_shards SET cursor_key = coalesce($5, cursor_key), done = done OR $6, lease_until = ",
                lease_end!(),
                ", scanned = scanned + $7, rekeyed = rekeyed + $8, current = current + $9, empty = empty + $10, ",
                "quarantined = quarantined + $11, vanished = vanished + $12, total = total + $13, ",
                "conflicts = conflicts + $14, deferred = deferred + $15, not_urls = not_urls + $16, ",
                "kms_calls = kms_calls + $17 ",
                "WHERE run_id = $1 AND sweep = $2 AND shard = $3 AND fence = $4 ",
                "AND cursor_key IS NOT DISTINCT FROM $18"
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
            .bind(lease.cursor.as_ref().map(RowKey::to_string))
            .execute(&mut *conn)
            .await?;
            Ok(done.rows_affected() == 1)
        }
    };
}
pub(in crate::store) use shards;
