//! The queries on reseal's own tables, written once and instantiated for each database.
//!
//! One file an idea: a trait, which [`Store`](super::Store) has among its own, and a macro of the same name that holds
//! its implementation and the SQL below it. Each database has a module `control` that says in macros how it tells
//! the time and the like (`now!`), and instantiates every file's macro there; [`leases`] is part of two of them. `$1`
//! parameters mean the same in both. Postgres keeps `timestamptz`, SQLite Unix milliseconds; times are always the
//! database's clock, never ours.
//!
//! A function takes a connection that is inside a transaction; a trait's method begins one, with `reading!` or
//! `writing!`. What changes a state says so to the audit log, in the same transaction: [`audit`].

pub(super) mod audit;
pub(super) mod fences;
pub(super) mod leases;
pub(super) mod quarantine;
pub(super) mod registry;
pub(super) mod reprovisions;
pub(super) mod retirements;
pub(super) mod rewraps;
pub(super) mod rotations;
pub(super) mod runs;
pub(super) mod shards;
pub(super) mod stagings;
pub(super) mod steering;
pub(super) mod verifications;

/// What the other files' macros need in scope, for the store type `$store` of sqlx's `$database`.
macro_rules! prelude {
    ($store:ident, $database:ident) => {
        use std::num::NonZero;

        use async_trait::async_trait;
        use sqlx::{Database, Row, query::Query};

        use super::$store;
        use $crate::store::{
            AuditEvent, AuditHead, AuditLog, AuditRecord, Begun, Blocker, Checkpoint, Claim, Credential,
            CredentialChange, CredentialState, DataKeyState, Fence, FenceMode, FenceRule, Fences, Heartbeat,
            KeyKind, KeyRange, Lease, NewRecord, NewReprovision, NewRetirement, NewRotation, NewRun, NewSaga,
            Orders, Paused, Process, Quarantine, Quarantined, Registry, ReprovisionLease, ReprovisionRow,
            Reprovisions, Retirement, Retirements, Rewraps, RotationLease, RotationRecord, RotationRow,
            Rotations, RowKey, RowRate, RunRow, RunState, Runs, SagaCount, SagaRow, SagaState, Setting,
            ShardCount, Shards, Span, Staging, Stagings, StaleWrites, Steering, StoreError, Stretch, Tally,
            Target, Verification, Verifications, WrappedDataKey,
        };

        type Db = sqlx::$database;
        type Connection = <Db as Database>::Connection;

        fn query(sql: impl sqlx::SqlSafeStr) -> Query<'static, Db, <Db as Database>::Arguments> {
            sqlx::query::<Db>(sql).persistent(persistent!())
        }
    };
}
pub(in crate::store) use prelude;

/// Runs one query that only reads, in a transaction of its own.
macro_rules! reading {
    ($self:ident, $query:ident $(, $argument:expr)*) => {{
        let mut tx = $self.begin_read().await?;
        let answer = $query(&mut tx $(, $argument)*).await?;
        tx.commit().await?;
        Ok(answer)
    }};
}
pub(in crate::store) use reading;

/// Runs one query that writes, in a transaction of its own, which is durable when this returns.
macro_rules! writing {
    ($self:ident, $query:ident $(, $argument:expr)*) => {{
        let mut tx = $self.begin_write().await?;
        let answer = $query(&mut tx $(, $argument)*).await?;
        tx.commit().await?;
        Ok(answer)
    }};
}
pub(in crate::store) use writing;
