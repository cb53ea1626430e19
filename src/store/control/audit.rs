//! The audit log: every change of state is one row of a hash chain.
//!
//! Construction:
//! `hash = SHA-256(previous hash ‖ u64 seq ‖ i64 at ‖ lp(actor) ‖ lp(action) ‖ lp(subject) ‖ lp(detail))`,
//! integers big-endian, `lp` a u32 length and then the UTF-8 bytes, `at` in Unix milliseconds; the first row's previous
//! hash is 32 zero bytes, and its number is 1. The chain is not keyed: who may write the table can write it anew from
//! any row on, and is found out by a head that was noted elsewhere. Every command that changes a state prints it.

use async_trait::async_trait;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::store::StoreError;

/// A change of state.
#[derive(Debug, Clone)]
pub struct AuditEvent<'a> {
    /// What was done, one word with hyphens: `run-opened`.
    pub action: &'a str,
    /// What it was done to: a run's id, a key's id, a target's name.
    pub subject: &'a str,
    /// Particulars. Names, ids and counts, never a secret.
    pub detail: Value,
}

/// A row of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRecord {
    /// From 1, without gaps.
    pub seq: i64,
    /// Unix milliseconds, by the database's clock.
    pub at_ms: i64,
    /// Who: `user@host`, as the process saw itself.
    pub actor: String,
    /// See [`AuditEvent::action`].
    pub action: String,
    /// See [`AuditEvent::subject`].
    pub subject: String,
    /// See [`AuditEvent::detail`], as the JSON text that was hashed.
    pub detail: String,
    /// The row's own hash, as stored.
    pub hash: [u8; 32],
}

impl AuditRecord {
    /// What [`hash`](Self::hash) is when the row and all before it are as they were written.
    pub fn expected_hash(&self, previous: &[u8; 32]) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(previous);
        hash.update(self.seq.to_be_bytes());
        hash.update(self.at_ms.to_be_bytes());
        for text in [&self.actor, &self.action, &self.subject, &self.detail] {
            hash.update(u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
            hash.update(text);
        }
        hash.finalize().into()
    }
}

/// The log's last row: what to note elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditHead {
    /// Its number.
    pub seq: i64,
    /// Its hash.
    pub hash: [u8; 32],
}

impl AuditHead {
    /// Before the first row.
    pub const START: Self = Self { seq: 0, hash: [0; 32] };
}

/// The audit log. Changes of state append to it in their own transactions.
#[async_trait]
pub trait AuditLog {
    /// Appends an event that is not part of another change.
    async fn append_audit(&self, event: &AuditEvent<'_>) -> Result<AuditHead, StoreError>;

    /// The head; `None` when nothing was recorded yet.
    async fn audit_head(&self) -> Result<Option<AuditHead>, StoreError>;

    /// At most `limit` rows after number `after`, in the order of their numbers.
    async fn audit_page(&self, after: i64, limit: u32) -> Result<Vec<AuditRecord>, StoreError>;
}

/// Who we are, for the log.
pub(in crate::store) fn actor() -> String {
    let user =
        std::env::var("USER").unwrap_or_else(|_| format!("uid {}", rustix::process::getuid().as_raw()));
    format!("{user}@{}", rustix::system::uname().nodename().to_string_lossy())
}

macro_rules! audit {
    ($store:ident) => {
        #[async_trait]
        impl AuditLog for $store {
            async fn append_audit(&self, event: &AuditEvent<'_>) -> Result<AuditHead, StoreError> {
                writing!(self, audit, event)
            }

            async fn audit_head(&self) -> Result<Option<AuditHead>, StoreError> {
                reading!(self, audit_head)
            }

            async fn audit_page(&self, after: i64, limit: u32) -> Result<Vec<AuditRecord>, StoreError> {
                reading!(self, audit_page, after, limit)
            }
        }

        /// Appends a row. Its transaction holds the log until it ends, so that numbers have no gaps.
        pub(in crate::store) async fn audit(
            conn: &mut Connection,
            event: &AuditEvent<'_>,
        ) -> Result<AuditHead, StoreError> {
            lock_audit(conn).await?;
            let head = audit_head(conn).await?.unwrap_or(AuditHead::START);
            let at_ms =
                query(concat!("SELECT ", ms_open!(), now!(), ms_close!())).fetch_one(&mut *conn).await?;
            let mut record = AuditRecord {
                seq: head.seq + 1,
                at_ms: at_ms.try_get(0)?,
                actor: $crate::store::control::audit::actor(),
                action: event.action.to_owned(),
                subject: event.subject.to_owned(),
                detail: event.detail.to_string(),
                hash: [0; 32],
            };
            record.hash = record.expected_hash(&head.hash);
            query(
                "INSERT INTO reseal_audit (seq, at_ms, actor, action, subject, detail, hash) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7)",
            )
            .bind(record.seq)
            .bind(record.at_ms)
            .bind(record.actor)
            .bind(record.action)
            .bind(record.subject)
            .bind(record.detail)
            .bind(record.hash.to_vec())
            .execute(&mut *conn)
            .await?;
            Ok(AuditHead { seq: record.seq, hash: record.hash })
        }

        pub(in crate::store) async fn audit_head(
            conn: &mut Connection,
        ) -> Result<Option<AuditHead>, StoreError> {
            let row = query("SELECT seq, hash FROM reseal_audit ORDER BY seq DESC LIMIT 1")
                .fetch_optional(&mut *conn)
                .await?;
            row.map(|row| Ok(AuditHead { seq: row.try_get(0)?, hash: audit_hash(row.try_get(1)?)? }))
                .transpose()
        }

        async fn audit_page(
            conn: &mut Connection,
            after: i64,
            limit: u32,
        ) -> Result<Vec<AuditRecord>, StoreError> {
            let rows = query(
                "SELECT seq, at_ms, actor, action, subject, detail, hash FROM reseal_audit \
                 WHERE seq > $1 ORDER BY seq LIMIT $2",
            )
            .bind(after)
            .bind(i64::from(limit))
            .fetch_all(&mut *conn)
            .await?;
            rows.iter()
                .map(|row| {
                    Ok(AuditRecord {
                        seq: row.try_get(0)?,
                        at_ms: row.try_get(1)?,
                        actor: row.try_get(2)?,
                        action: row.try_get(3)?,
                        subject: row.try_get(4)?,
                        detail: row.try_get(5)?,
                        hash: audit_hash(row.try_get(6)?)?,
                    })
                })
                .collect()
        }

        fn audit_hash(stored: Vec<u8>) -> Result<[u8; 32], StoreError> {
            stored.try_into().map_err(|_| StoreError::Corrupt { what: "reseal_audit.hash" })
        }
    };
}
pub(in crate::store) use audit;
