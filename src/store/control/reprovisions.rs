//! Re-provisioning: its runs, and each tenant's saga.

use async_trait::async_trait;

use crate::store::{
    NewReprovision, NewSaga, ReprovisionLease, ReprovisionRow, SagaCount, SagaRow, SagaState, StoreError,
};

/// Tenants that one statement adds; SQLite binds at most 32,766 values.
pub(in crate::store) const SAGAS_A_STATEMENT: usize = 1000;

/// The journal of re-provisioning.
///
/// # Crash safety
/// Each method is one transaction, durable when it returns. What is written of a tenant and what the audit log says of
/// it are there together or not at all.
#[async_trait]
pub trait Reprovisions {
    /// Opens a run, with its tenants, and gives its lease; `None` when the target has an open one already.
    async fn open_reprovision(
        &self,
        run: &NewReprovision<'_>,
        sagas: &[NewSaga],
    ) -> Result<Option<ReprovisionLease>, StoreError>;

    /// Takes the lease of an open run; `None` while another holds it, or when it is over.
    async fn claim_reprovision(
        &self,
        run_id: &str,
        holder: &str,
    ) -> Result<Option<ReprovisionLease>, StoreError>;

    /// Holds the lease for another 20 s; `false` when it is another's.
    async fn renew_reprovision(&self, lease: &ReprovisionLease) -> Result<bool, StoreError>;

    /// Gives the lease back, if it is still held.
    async fn release_reprovision(&self, lease: &ReprovisionLease) -> Result<(), StoreError>;

    /// Writes where a tenant of the lease's run is; `false` when the lease is another's, and then nothing was written.
    /// Its run and its position stay as they are.
    async fn record_saga(&self, lease: &ReprovisionLease, saga: &SagaRow) -> Result<bool, StoreError>;

    /// At most `limit` tenants of the run after position `after`, in its order: those in one of these states, or all
    /// when none is given.
    async fn sagas(
        &self,
        run_id: &str,
        states: &[SagaState],
        after: i64,
        limit: u32,
    ) -> Result<Vec<SagaRow>, StoreError>;

    /// One tenant of the run.
    async fn saga(&self, run_id: &str, tenant: &str) -> Result<Option<SagaRow>, StoreError>;

    /// How many tenants of the run are where.
    async fn saga_counts(&self, run_id: &str) -> Result<Vec<SagaCount>, StoreError>;

    /// Ends the run and wipes what is sealed of its tenants; `false` when the lease is another's, and then nothing was
    /// written.
    async fn end_reprovision(&self, lease: &ReprovisionLease, certificate: &str) -> Result<bool, StoreError>;

    /// Every run, or those of one target; the newest first.
    async fn reprovisions(&self, target: Option<&str>) -> Result<Vec<ReprovisionRow>, StoreError>;
}

macro_rules! reprovisions {
    ($store:ident) => {
        #[async_trait]
        impl Reprovisions for $store {
            async fn open_reprovision(
                &self,
                run: &NewReprovision<'_>,
                sagas: &[NewSaga],
            ) -> Result<Option<ReprovisionLease>, StoreError> {
                writing!(self, open_reprovision, run, sagas)
            }

            async fn claim_reprovision(
                &self,
                run_id: &str,
                holder: &str,
            ) -> Result<Option<ReprovisionLease>, StoreError> {
                writing!(self, claim_reprovision, run_id, holder)
            }

            async fn renew_reprovision(&self, lease: &ReprovisionLease) -> Result<bool, StoreError> {
                writing!(self, renew_reprovision, lease)
            }

            async fn release_reprovision(&self, lease: &ReprovisionLease) -> Result<(), StoreError> {
                writing!(self, release_reprovision, lease)
            }

            async fn record_saga(
                &self,
                lease: &ReprovisionLease,
                saga: &SagaRow,
            ) -> Result<bool, StoreError> {
                writing!(self, record_saga, lease, saga)
            }

            async fn sagas(
                &self,
                run_id: &str,
                states: &[SagaState],
                after: i64,
                limit: u32,
            ) -> Result<Vec<SagaRow>, StoreError> {
                reading!(self, sagas, run_id, states, after, limit)
            }

            async fn saga(&self, run_id: &str, tenant: &str) -> Result<Option<SagaRow>, StoreError> {
                reading!(self, saga, run_id, tenant)
            }

            async fn saga_counts(&self, run_id: &str) -> Result<Vec<SagaCount>, StoreError> {
                reading!(self, saga_counts, run_id)
            }

            async fn end_reprovision(
                &self,
                lease: &ReprovisionLease,
                certificate: &str,
            ) -> Result<bool, StoreError> {
                writing!(self, end_reprovision, lease, certificate)
            }

            async fn reprovisions(&self, target: Option<&str>) -> Result<Vec<ReprovisionRow>, StoreError> {
                reading!(self, reprovisions, target)
            }
        }

        async fn open_reprovision(
            conn: &mut Connection,
            run: &NewReprovision<'_>,
            sagas: &[NewSaga],
        ) -> Result<Option<ReprovisionLease>, StoreError> {
            let opened = query(concat!(
                "INSERT INTO reseal_reprovisions ",
                "(run_id, target, options, plan, fence, holder, lease_until) ",
                "VALUES ($1, $2, $3, $4, 1, $5, ", lease_end!(), ") ",
                "ON CONFLICT (target) WHERE ended_at IS NULL DO NOTHING"
            ))
            .bind(run.run_id.to_owned())
            .bind(run.target.to_owned())
            .bind(run.options.to_string())
            .bind(run.plan.to_owned())
            .bind(run.holder.to_owned())
            .execute(&mut *conn)
            .await?;
            if opened.rows_affected() == 0 {
                return Ok(None);
            }
            for sagas in sagas.chunks($crate::store::control::reprovisions::SAGAS_A_STATEMENT) {
                add_sagas(conn, run, sagas).await?;
            }
            let detail = serde_json::json!({
                "target": run.target, "options": run.options, "plan": run.plan, "tenants": sagas.len(),
            });
            audit(conn, &AuditEvent { action: "reprovision-opened", subject: run.run_id, detail }).await?;
            Ok(Some(ReprovisionLease { run_id: run.run_id.to_owned(), fence: 1 }))
        }

        async fn add_sagas(
            conn: &mut Connection,
            run: &NewReprovision<'_>,
            sagas: &[NewSaga],
        ) -> Result<(), StoreError> {
            let values: Vec<String> =
                (0..sagas.len()).map(|saga| format!("(${}, ${})", 2 * saga + 3, 2 * saga + 4)).collect();
            let sql = format!(
                "INSERT INTO reseal_sagas (run_id, tenant, position, generation) \
                 SELECT $1, v.column1, v.column2, 1 + coalesce((SELECT max(s.generation) FROM reseal_sagas s \
                 JOIN reseal_reprovisions r ON r.run_id = s.run_id \
                 WHERE s.tenant = v.column1 AND r.target = $2), 0) FROM (VALUES {}) AS v",
                values.join(", ")
            );
            let insert =
                query(sqlx::AssertSqlSafe(sql)).bind(run.run_id.to_owned()).bind(run.target.to_owned());
            let insert =
                sagas.iter().fold(insert, |insert, saga| insert.bind(saga.tenant.clone()).bind(saga.position));
            insert.execute(&mut *conn).await?;
            Ok(())
        }

        $crate::store::control::leases::leases!(
            "reseal_reprovisions", ReprovisionLease { run_id }, claim_reprovision, renew_reprovision, release_reprovision
        );

        async fn record_saga(
            conn: &mut Connection,
            lease: &ReprovisionLease,
            saga: &SagaRow,
        ) -> Result<bool, StoreError> {
            // First of all, and it locks the run: who lost the lease writes nothing.
            if !renew_reprovision(conn, lease).await? {
                return Ok(false);
            }
            let written = query(concat!(
                "UPDATE reseal_sagas SET generation = $1, phase = $2, state = $3, why = $4, detail = $5, ",
                "sealed = $6, down_from = $7, down_to = $8, begun_at = coalesce(begun_at, ", now!(), "), ",
                "ended_at = CASE WHEN $9 THEN coalesce(ended_at, ", now!(), ") ELSE NULL END ",
                "WHERE run_id = $10 AND tenant = $11"
            ))
            .bind(saga.generation)
            .bind(saga.phase.clone())
            .bind(saga.state.as_str())
            .bind(saga.why.clone())
            .bind(saga.detail.clone())
            .bind(saga.sealed.clone())
            .bind(saga.down_from_ms)
            .bind(saga.down_to_ms)
            .bind(matches!(saga.state, SagaState::Done | SagaState::Gone))
            .bind(lease.run_id.clone())
            .bind(saga.tenant.clone())
            .execute(&mut *conn)
            .await?;
            if written.rows_affected() == 0 {
                return Err(StoreError::Missing { what: format!("tenant {} in run {}", saga.tenant, lease.run_id) });
            }
            let at = match saga.state {
                SagaState::Running => &saga.phase,
                state => state.as_str(),
            };
            let mut detail = serde_json::json!({
                "run": lease.run_id, "generation": saga.generation, "phase": saga.phase,
            });
            if let Some(why) = &saga.why {
                detail["why"] = why.as_str().into();
            }
            let action = format!("tenant-{at}");
            audit(conn, &AuditEvent { action: &action, subject: &saga.tenant, detail }).await?;
            Ok(true)
        }

        const SAGA_COLUMNS: &str = concat!(
            "run_id, tenant, position, generation, phase, state, why, detail, sealed, down_from, down_to, ",
            ms_open!(), "begun_at", ms_close!(), ", ", ms_open!(), "ended_at", ms_close!()
        );

        fn saga_from(row: &<Db as Database>::Row) -> Result<SagaRow, StoreError> {
            Ok(SagaRow {
                run_id: row.try_get(0)?,
                tenant: row.try_get(1)?,
                position: row.try_get(2)?,
                generation: row.try_get(3)?,
                phase: row.try_get(4)?,
                state: saga_state(row.try_get(5)?)?,
                why: row.try_get(6)?,
                detail: row.try_get(7)?,
                sealed: row.try_get(8)?,
                down_from_ms: row.try_get(9)?,
                down_to_ms: row.try_get(10)?,
                begun_ms: row.try_get(11)?,
                ended_ms: row.try_get(12)?,
            })
        }

        fn saga_state(stored: &str) -> Result<SagaState, StoreError> {
            SagaState::parse(stored).ok_or(StoreError::Corrupt { what: "reseal_sagas.state" })
        }

        async fn sagas(
            conn: &mut Connection,
            run_id: &str,
            states: &[SagaState],
            after: i64,
            limit: u32,
        ) -> Result<Vec<SagaRow>, StoreError> {
            let names: Vec<String> = states.iter().map(|state| format!("'{}'", state.as_str())).collect();
            let filter = match names.as_slice() {
                [] => String::new(),
                names => format!("AND state IN ({})", names.join(", ")),
            };
            let sql = format!(
                "SELECT {SAGA_COLUMNS} FROM reseal_sagas WHERE run_id = $1 AND position > $2 {filter} \
                 ORDER BY position LIMIT $3"
            );
            let rows = query(sqlx::AssertSqlSafe(sql))
                .bind(run_id.to_owned())
                .bind(after)
                .bind(i64::from(limit))
                .fetch_all(&mut *conn)
                .await?;
            rows.iter().map(saga_from).collect()
        }

        async fn saga(
            conn: &mut Connection,
            run_id: &str,
            tenant: &str,
        ) -> Result<Option<SagaRow>, StoreError> {
            let sql = format!("SELECT {SAGA_COLUMNS} FROM reseal_sagas WHERE run_id = $1 AND tenant = $2");
            let row = query(sqlx::AssertSqlSafe(sql))
                .bind(run_id.to_owned())
                .bind(tenant.to_owned())
                .fetch_optional(&mut *conn)
                .await?;
            row.as_ref().map(saga_from).transpose()
        }

        async fn saga_counts(conn: &mut Connection, run_id: &str) -> Result<Vec<SagaCount>, StoreError> {
            let rows = query(
                "SELECT phase, state, count(*) FROM reseal_sagas WHERE run_id = $1 \
                 GROUP BY phase, state ORDER BY phase, state",
            )
            .bind(run_id.to_owned())
            .fetch_all(&mut *conn)
            .await?;
            rows.iter()
                .map(|row| {
                    let state = saga_state(row.try_get(1)?)?;
                    Ok(SagaCount { phase: row.try_get(0)?, state, tenants: row.try_get(2)? })
                })
                .collect()
        }

        async fn end_reprovision(
            conn: &mut Connection,
            lease: &ReprovisionLease,
            certificate: &str,
        ) -> Result<bool, StoreError> {
            let ended = query(concat!(
                "UPDATE reseal_reprovisions SET ended_at = ", now!(), ", certificate = $1, ",
                "holder = NULL, lease_until = NULL WHERE run_id = $2 AND fence = $3 AND holder IS NOT NULL ",
                "RETURNING target"
            ))
            .bind(certificate.to_owned())
            .bind(lease.run_id.clone())
            .bind(lease.fence)
            .fetch_optional(&mut *conn)
            .await?;
            let Some(row) = ended else { return Ok(false) };
            query("UPDATE reseal_sagas SET sealed = NULL WHERE run_id = $1 AND sealed IS NOT NULL")
                .bind(lease.run_id.clone())
                .execute(&mut *conn)
                .await?;
            let hash = <sha2::Sha256 as sha2::Digest>::digest(certificate);
            let detail = serde_json::json!({
                "target": row.try_get::<String, _>(0)?, "certificate": hex::encode(hash),
            });
            audit(conn, &AuditEvent { action: "reprovision-ended", subject: &lease.run_id, detail }).await?;
            Ok(true)
        }

        async fn reprovisions(
            conn: &mut Connection,
            target: Option<&str>,
        ) -> Result<Vec<ReprovisionRow>, StoreError> {
            let rows = query(concat!(
                "SELECT run_id, target, options, plan, holder, ",
                "coalesce(holder IS NOT NULL AND lease_until >= ", now!(), ", false), ",
                ms_open!(), "begun_at", ms_close!(), ", ", ms_open!(), "ended_at", ms_close!(), ", certificate, ",
                ms_open!(), "lease_until", ms_close!(), " FROM reseal_reprovisions WHERE $1 IS NULL OR target = $1 ORDER BY begun_at DESC, run_id DESC"
            ))
            .bind(target.map(str::to_owned))
            .fetch_all(&mut *conn)
            .await?;
            rows.iter()
                .map(|row| {
                    Ok(ReprovisionRow {
                        run_id: row.try_get(0)?,
                        target: row.try_get(1)?,
                        options: row.try_get(2)?,
                        plan: row.try_get(3)?,
                        holder: row.try_get(4)?,
                        held: row.try_get(5)?,
                        begun_ms: row.try_get(6)?,
                        ended_ms: row.try_get(7)?,
                        certificate: row.try_get(8)?,
                        lease_ms: row.try_get(9)?,
                    })
                })
                .collect()
        }
    };
}
pub(in crate::store) use reprovisions;
