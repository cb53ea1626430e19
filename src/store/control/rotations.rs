//! Rotations, their journal, and the credentials that they know.

use async_trait::async_trait;

use crate::store::{
    Credential, NewRecord, NewRotation, RotationLease, RotationRecord, RotationRow, StoreError,
};

/// The journal of rotations.
///
/// # Crash safety
/// Each method is one transaction, durable when it returns. A record and what it says of credentials are there
/// together or not at all.
#[async_trait]
pub trait Rotations {
    /// Opens a rotation and gives its lease; `None` when the secret has an open one already.
    async fn open_rotation(&self, rotation: &NewRotation<'_>) -> Result<Option<RotationLease>, StoreError>;

    /// Takes the lease of an open rotation; `None` while another holds it, or when it is over.
    async fn claim_rotation(
        &self,
        rotation_id: &str,
        holder: &str,
    ) -> Result<Option<RotationLease>, StoreError>;

    /// Holds the lease for another 20 s; `false` when it is another's.
    async fn renew_rotation(&self, lease: &RotationLease) -> Result<bool, StoreError>;

    /// Gives the lease back, if it is still held.
    async fn release_rotation(&self, lease: &RotationLease) -> Result<(), StoreError>;

    /// Appends to the journal; `false` when the lease is another's, and then nothing was written.
    async fn append_record(&self, lease: &RotationLease, record: &NewRecord<'_>) -> Result<bool, StoreError>;

    /// The whole journal of a rotation, in order.
    async fn rotation_records(&self, rotation_id: &str) -> Result<Vec<RotationRecord>, StoreError>;

    /// Every rotation, or those of one secret; the newest first.
    async fn rotations(&self, secret: Option<&str>) -> Result<Vec<RotationRow>, StoreError>;

    /// Every credential that is known, or those of one secret; the newest first.
    async fn credentials(&self, secret: Option<&str>) -> Result<Vec<Credential>, StoreError>;

    /// Adds a credential that a rotation found; `false` when the lease is another's, and then nothing was written.
    async fn add_credential(
        &self,
        lease: &RotationLease,
        credential: &Credential,
    ) -> Result<bool, StoreError>;

    /// Puts a credential that no rotation brought in the place of the current one; `false` while a rotation of its secret
    /// is open, and then nothing was written.
    async fn adopt_credential(&self, credential: &Credential) -> Result<bool, StoreError>;

    /// Now, by the database's clock, in Unix milliseconds.
    async fn now_ms(&self) -> Result<i64, StoreError>;
}

macro_rules! rotations {
    ($store:ident) => {
        #[async_trait]
        impl Rotations for $store {
            async fn open_rotation(
                &self,
                rotation: &NewRotation<'_>,
            ) -> Result<Option<RotationLease>, StoreError> {
                writing!(self, open_rotation, rotation)
            }

            async fn claim_rotation(
                &self,
                rotation_id: &str,
                holder: &str,
            ) -> Result<Option<RotationLease>, StoreError> {
                writing!(self, claim_rotation, rotation_id, holder)
            }

            async fn renew_rotation(&self, lease: &RotationLease) -> Result<bool, StoreError> {
                writing!(self, renew_rotation, lease)
            }

            async fn release_rotation(&self, lease: &RotationLease) -> Result<(), StoreError> {
                writing!(self, release_rotation, lease)
            }

            async fn append_record(
                &self,
                lease: &RotationLease,
                record: &NewRecord<'_>,
            ) -> Result<bool, StoreError> {
                writing!(self, append_record, lease, record)
            }

            async fn rotation_records(&self, rotation_id: &str) -> Result<Vec<RotationRecord>, StoreError> {
                reading!(self, rotation_records, rotation_id)
            }

            async fn rotations(&self, secret: Option<&str>) -> Result<Vec<RotationRow>, StoreError> {
                reading!(self, rotations, secret)
            }

            async fn credentials(&self, secret: Option<&str>) -> Result<Vec<Credential>, StoreError> {
                reading!(self, credentials, secret)
            }

            async fn add_credential(
                &self,
                lease: &RotationLease,
                credential: &Credential,
            ) -> Result<bool, StoreError> {
                writing!(self, add_found_credential, lease, credential)
            }

            async fn adopt_credential(&self, credential: &Credential) -> Result<bool, StoreError> {
                writing!(self, adopt_credential, credential)
            }

            async fn now_ms(&self) -> Result<i64, StoreError> {
                reading!(self, now_ms)
            }
        }

        async fn open_rotation(
            conn: &mut Connection,
            rotation: &NewRotation<'_>,
        ) -> Result<Option<RotationLease>, StoreError> {
            let opened = query(concat!(
                "INSERT INTO reseal_rotations ",
                "(rotation_id, secret, strategy, options, phase, fence, holder, lease_until) ",
                "VALUES ($1, $2, $3, $4, 'running', 1, $5, ", lease_end!(), ") ",
                "ON CONFLICT (secret) WHERE ended_at IS NULL DO NOTHING"
            ))
            .bind(rotation.rotation_id.to_owned())
            .bind(rotation.secret.to_owned())
            .bind(rotation.strategy.to_owned())
            .bind(rotation.options.to_string())
            .bind(rotation.holder.to_owned())
            .execute(&mut *conn)
            .await?;
            if opened.rows_affected() == 0 {
                return Ok(None);
            }
            let detail = serde_json::json!({
                "secret": rotation.secret, "strategy": rotation.strategy, "options": rotation.options,
            });
            let event = AuditEvent { action: "rotation-opened", subject: rotation.rotation_id, detail };
            audit(conn, &event).await?;
            Ok(Some(RotationLease { rotation_id: rotation.rotation_id.to_owned(), fence: 1 }))
        }

        $crate::store::control::leases::leases!(
            "reseal_rotations", RotationLease { rotation_id }, claim_rotation, renew_rotation, release_rotation
        );

        async fn append_record(
            conn: &mut Connection,
            lease: &RotationLease,
            record: &NewRecord<'_>,
        ) -> Result<bool, StoreError> {
            // First of all, and it locks the row: who lost the lease writes nothing.
            let mine = query(concat!(
                "UPDATE reseal_rotations SET phase = $1, step = $2, waiting = $3, until_ms = $4, ",
                "lease_until = ", lease_end!(), ", ended_at = CASE WHEN $5 THEN ", now!(),
                " ELSE NULL END WHERE rotation_id = $6 AND fence = $7 RETURNING secret"
            ))
            .bind(record.phase.to_owned())
            .bind(record.at.map(str::to_owned))
            .bind(record.waiting.map(str::to_owned))
            .bind(record.until_ms)
            .bind(record.over)
            .bind(lease.rotation_id.clone())
            .bind(lease.fence)
            .fetch_optional(&mut *conn)
            .await?;
            let Some(row) = mine else { return Ok(false) };
            let secret: String = row.try_get(0)?;
            query(
                "INSERT INTO reseal_rotation_records (rotation_id, seq, fence, step, event, detail) \
                 SELECT $1, coalesce(max(seq), 0) + 1, $2, $3, $4, $5 \
                 FROM reseal_rotation_records WHERE rotation_id = $1",
            )
            .bind(lease.rotation_id.clone())
            .bind(lease.fence)
            .bind(record.step.to_owned())
            .bind(record.event.to_owned())
            .bind(record.detail.to_string())
            .execute(&mut *conn)
            .await?;
            for change in &record.credentials {
                change_credential(conn, change).await?;
            }
            let detail = serde_json::json!({
                "secret": secret, "step": record.step, "event": record.event, "phase": record.phase,
                "detail": record.detail,
            });
            audit(conn, &AuditEvent { action: "rotation", subject: &lease.rotation_id, detail }).await?;
            Ok(true)
        }

        async fn change_credential(
            conn: &mut Connection,
            change: &CredentialChange,
        ) -> Result<(), StoreError> {
            match change {
                CredentialChange::Add(credential) => add_credential(conn, credential).await,
                CredentialChange::Set { credential_id, state, wipe } => {
                    query(concat!(
                        "UPDATE reseal_credentials SET state = $1, ",
                        "sealed = CASE WHEN $2 THEN NULL ELSE sealed END, ",
                        "ended_at = CASE WHEN $3 THEN ", now!(), " ELSE NULL END WHERE credential_id = $4"
                    ))
                    .bind(state.as_str())
                    .bind(*wipe)
                    .bind(matches!(
                        state,
                        CredentialState::Revoked | CredentialState::Dead | CredentialState::Replaced
                    ))
                    .bind(credential_id.clone())
                    .execute(&mut *conn)
                    .await?;
                    Ok(())
                }
            }
        }

        async fn add_credential(conn: &mut Connection, credential: &Credential) -> Result<(), StoreError> {
            query(
                "INSERT INTO reseal_credentials \
                 (credential_id, secret, provider_id, rotation_id, state, sealed) \
                 VALUES ($1, $2, $3, $4, $5, $6)",
            )
            .bind(credential.credential_id.clone())
            .bind(credential.secret.clone())
            .bind(credential.provider_id.clone())
            .bind(credential.rotation_id.clone())
            .bind(credential.state.as_str())
            .bind(credential.sealed.clone())
            .execute(&mut *conn)
            .await?;
            Ok(())
        }

        async fn add_found_credential(
            conn: &mut Connection,
            lease: &RotationLease,
            credential: &Credential,
        ) -> Result<bool, StoreError> {
            if !renew_rotation(conn, lease).await? {
                return Ok(false);
            }
            add_credential(conn, credential).await?;
            let detail = serde_json::json!({
                "secret": credential.secret, "provider_id": credential.provider_id,
                "state": credential.state.as_str(),
            });
            audit(conn, &AuditEvent { action: "credential-found", subject: &lease.rotation_id, detail }).await?;
            Ok(true)
        }

        async fn adopt_credential(conn: &mut Connection, credential: &Credential) -> Result<bool, StoreError> {
            // Whoever opens a rotation locks the audit log too.
            lock_audit(conn).await?;
            let open = query("SELECT 1 FROM reseal_rotations WHERE secret = $1 AND ended_at IS NULL")
                .bind(credential.secret.clone())
                .fetch_optional(&mut *conn)
                .await?;
            if open.is_some() {
                return Ok(false);
            }
            query(concat!(
                "UPDATE reseal_credentials SET state = 'replaced', sealed = NULL, ended_at = ", now!(),
                " WHERE secret = $1 AND state = 'current'"
            ))
            .bind(credential.secret.clone())
            .execute(&mut *conn)
            .await?;
            add_credential(conn, credential).await?;
            let detail = serde_json::json!({
                "secret": credential.secret, "provider_id": credential.provider_id,
                "value_is_known": credential.sealed.is_some(),
            });
            let subject = &credential.credential_id;
            audit(conn, &AuditEvent { action: "credential-adopted", subject, detail }).await?;
            Ok(true)
        }

        async fn rotation_records(
            conn: &mut Connection,
            rotation_id: &str,
        ) -> Result<Vec<RotationRecord>, StoreError> {
            let rows = query(concat!(
                "SELECT CAST(seq AS bigint), ", ms_open!(), "at", ms_close!(), ", step, event, detail ",
                "FROM reseal_rotation_records WHERE rotation_id = $1 ORDER BY seq"
            ))
            .bind(rotation_id.to_owned())
            .fetch_all(&mut *conn)
            .await?;
            rows.iter()
                .map(|row| {
                    Ok(RotationRecord {
                        seq: row.try_get(0)?,
                        at_ms: row.try_get(1)?,
                        step: row.try_get(2)?,
                        event: row.try_get(3)?,
                        detail: row.try_get(4)?,
                    })
                })
                .collect()
        }

        async fn rotations(
            conn: &mut Connection,
            secret: Option<&str>,
        ) -> Result<Vec<RotationRow>, StoreError> {
            let rows = query(concat!(
                "SELECT rotation_id, secret, strategy, options, phase, step, waiting, until_ms, holder, ",
                "coalesce(holder IS NOT NULL AND lease_until >= ", now!(), ", false), ",
                ms_open!(), "begun_at", ms_close!(), ", ", ms_open!(), "ended_at", ms_close!(), ", ",
                ms_open!(), "lease_until", ms_close!(),
                " FROM reseal_rotations WHERE $1 IS NULL OR secret = $1 ORDER BY begun_at DESC, rotation_id DESC"
            ))
            .bind(secret.map(str::to_owned))
            .fetch_all(&mut *conn)
            .await?;
            rows.iter()
                .map(|row| {
                    Ok(RotationRow {
                        rotation_id: row.try_get(0)?,
                        secret: row.try_get(1)?,
                        strategy: row.try_get(2)?,
                        options: row.try_get(3)?,
                        phase: row.try_get(4)?,
                        step: row.try_get(5)?,
                        waiting: row.try_get(6)?,
                        until_ms: row.try_get(7)?,
                        holder: row.try_get(8)?,
                        held: row.try_get(9)?,
                        begun_ms: row.try_get(10)?,
                        ended_ms: row.try_get(11)?,
                        lease_ms: row.try_get(12)?,
                    })
                })
                .collect()
        }

        async fn credentials(
            conn: &mut Connection,
            secret: Option<&str>,
        ) -> Result<Vec<Credential>, StoreError> {
            let rows = query(concat!(
                "SELECT credential_id, secret, provider_id, rotation_id, state, sealed, ",
                ms_open!(), "created_at", ms_close!(), " FROM reseal_credentials ",
                "WHERE $1 IS NULL OR secret = $1 ORDER BY created_at DESC, credential_id DESC"
            ))
            .bind(secret.map(str::to_owned))
            .fetch_all(&mut *conn)
            .await?;
            rows.iter()
                .map(|row| {
                    let state: String = row.try_get(4)?;
                    let corrupt = StoreError::Corrupt { what: "reseal_credentials.state" };
                    Ok(Credential {
                        credential_id: row.try_get(0)?,
                        secret: row.try_get(1)?,
                        provider_id: row.try_get(2)?,
                        rotation_id: row.try_get(3)?,
                        state: CredentialState::parse(&state).ok_or(corrupt)?,
                        sealed: row.try_get(5)?,
                        created_ms: row.try_get(6)?,
                    })
                })
                .collect()
        }

        async fn now_ms(conn: &mut Connection) -> Result<i64, StoreError> {
            let row =
                query(concat!("SELECT ", ms_open!(), now!(), ms_close!())).fetch_one(&mut *conn).await?;
            Ok(row.try_get(0)?)
        }
    };
}
pub(in crate::store) use rotations;
