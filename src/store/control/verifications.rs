//! Verifies on record: what a retirement relies on.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::store::{Fence, FenceMode, FenceRule, RunRow, StoreError, Target};

/// A verify that began: its run, and the fence that was up, are those of before its snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    /// Its number.
    pub verification: i64,
    /// The latest run, which was over.
    pub run_id: String,
    /// The fence, if one was enforced and intact: its rule, and since when, in Unix milliseconds by the database's
    /// clock.
    pub fence: Option<(FenceRule, i64)>,
    /// Unix milliseconds by the database's clock.
    pub began_ms: i64,
    /// How far the log of writes was on disk before the snapshot; SQLite: `None`.
    pub position: Option<String>,
}

/// A cell that did not pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The row's key.
    pub row: String,
    /// The column.
    pub column: String,
    /// What is wrong with it: a reason as in quarantine, `not-current`, or `not-edited`.
    pub reason: String,
}

/// A verify that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verification {
    /// How it began.
    pub begun: Begun,
    /// The target's logical name.
    pub target: String,
    /// The format that was wanted.
    pub format: String,
    /// The only key that was tried.
    pub new_key: String,
    /// Rows seen.
    pub rows: i64,
    /// Values that opened.
    pub opened: i64,
    /// Cells that hold nothing.
    pub empty: i64,
    /// Values that did not pass.
    pub failed: i64,
    /// `count(*)` of the same snapshot, times the columns.
    pub cells: i64,
    /// Those values, all of them unless they were too many to keep.
    pub failures: Vec<Failure>,
    /// Unix milliseconds by the database's clock; ignored when written.
    pub ended_ms: i64,
}

impl Verification {
    /// Whether every cell was seen, whether it passed or not.
    pub fn is_whole(&self) -> bool {
        self.opened + self.empty + self.failed == self.cells
    }

    /// Whether every cell was seen, and every value passed.
    pub fn passed(&self) -> bool {
        self.failed == 0 && self.is_whole()
    }

    /// Whether it was made behind this very fence, as it was put up.
    pub fn is_behind(&self, fence: &Fence) -> bool {
        fence.mode == FenceMode::Enforce && self.begun.fence == Some((fence.rule, fence.since_ms))
    }

    /// Whether it is of this run, and nothing was run since.
    pub fn is_of(&self, run: &RunRow) -> bool {
        self.begun.run_id == run.run_id
    }
}

/// Verifies on record.
#[async_trait]
pub trait Verifications {
    /// Begins a verify, on the disk when this returns, and with it every commit before it. `None`: there is no run
    /// of these very columns, or it is open, and nothing is recorded.
    async fn begin_verification(&self, target: &Target) -> Result<Option<Begun>, StoreError>;

    /// Records what it found.
    async fn end_verification(&self, verification: &Verification) -> Result<(), StoreError>;

    /// The latest verify of the target that ended.
    async fn latest_verification(&self, target: &str) -> Result<Option<Verification>, StoreError>;
}

macro_rules! verifications {
    ($store:ident) => {
        #[async_trait]
        impl Verifications for $store {
            async fn begin_verification(&self, target: &Target) -> Result<Option<Begun>, StoreError> {
                let mut tx = self.begin_write().await?;
                let Some(begun) = begin_verification(&mut tx, target).await? else { return Ok(None) };
                tx.commit().await?;
                let mut tx = self.begin_read().await?;
                Ok(Some(Begun { position: super::standby::position(&mut tx).await?, ..begun }))
            }

            async fn end_verification(&self, verification: &Verification) -> Result<(), StoreError> {
                writing!(self, end_verification, verification)
            }

            async fn latest_verification(&self, target: &str) -> Result<Option<Verification>, StoreError> {
                reading!(self, latest_verification, target)
            }
        }

        async fn begin_verification(
            conn: &mut Connection,
            target: &Target,
        ) -> Result<Option<Begun>, StoreError> {
            let registered = registered_target(conn, &target.name).await?;
            if registered != Some(Target { has_triggers: false, ..target.clone() }) {
                return Ok(None);
            }
            let target = &target.name;
            let Some(run) = latest_run(conn, target).await?.filter(|run| !run.state.is_open()) else {
                return Ok(None);
            };
            let up = fence(conn, target).await?;
            let up = up.filter(|fence| fence.mode == FenceMode::Enforce && fence.is_intact());
            let row = query(concat!(
                "INSERT INTO reseal_verifications (target, run_id, fence_rule, fence_since) ",
                "VALUES ($1, $2, $3, $4) RETURNING verification, ", ms_open!(), "began_at", ms_close!()
            ))
            .bind(target.to_owned())
            .bind(run.run_id.clone())
            .bind(up.as_ref().map(|fence| fence.rule.to_string()))
            .bind(up.as_ref().map(|fence| fence.since_ms))
            .fetch_one(&mut *conn)
            .await?;
            Ok(Some(Begun {
                verification: row.try_get(0)?,
                run_id: run.run_id,
                fence: up.map(|fence| (fence.rule, fence.since_ms)),
                began_ms: row.try_get(1)?,
                position: None,
            }))
        }

        async fn end_verification(conn: &mut Connection, ended: &Verification) -> Result<(), StoreError> {
            let failures = serde_json::to_string(&ended.failures).expect("names are valid JSON");
            query(concat!(
                "UPDATE reseal_verifications SET format = $1, new_key = $2, position = $3, row_count = $4, ",
                "opened = $5, empty = $6, failed = $7, cells = $8, failures = $9, ended_at = ", now!(),
                " WHERE verification = $10"
            ))
            .bind(ended.format.clone())
            .bind(ended.new_key.clone())
            .bind(ended.begun.position.clone())
            .bind(ended.rows)
            .bind(ended.opened)
            .bind(ended.empty)
            .bind(ended.failed)
            .bind(ended.cells)
            .bind(failures)
            .bind(ended.begun.verification)
            .execute(&mut *conn)
            .await?;
            let action = if ended.passed() { "verified" } else { "verify-failed" };
            let detail = serde_json::json!({
                "verification": ended.begun.verification,
                "run": ended.begun.run_id,
                "format": ended.format,
                "new": ended.new_key,
                "rows": ended.rows,
                "opened": ended.opened,
                "null": ended.empty,
                "failed": ended.failed,
                "cells": ended.cells,
                "fence": ended.begun.fence.map(|(rule, _)| rule.to_string()),
                "position": ended.begun.position,
            });
            audit(conn, &AuditEvent { action, subject: &ended.target, detail }).await?;
            Ok(())
        }

        async fn latest_verification(
            conn: &mut Connection,
            target: &str,
        ) -> Result<Option<Verification>, StoreError> {
            let row = query(concat!(
                "SELECT verification, run_id, fence_rule, fence_since, ", ms_open!(), "began_at", ms_close!(),
                ", position, format, new_key, row_count, opened, empty, failed, cells, failures, ",
                ms_open!(), "ended_at", ms_close!(),
                " FROM reseal_verifications WHERE target = $1 AND ended_at IS NOT NULL ",
                "ORDER BY verification DESC LIMIT 1"
            ))
            .bind(target.to_owned())
            .fetch_optional(&mut *conn)
            .await?;
            let Some(row) = row else { return Ok(None) };
            let corrupt = |what| StoreError::Corrupt { what };
            let rule: Option<String> = row.try_get(2)?;
            let rule = rule.map(|rule| rule.parse()).transpose();
            let rule = rule.map_err(|()| corrupt("reseal_verifications.fence_rule"))?;
            Ok(Some(Verification {
                begun: Begun {
                    verification: row.try_get(0)?,
                    run_id: row.try_get(1)?,
                    fence: rule.zip(row.try_get(3)?),
                    began_ms: row.try_get(4)?,
                    position: row.try_get(5)?,
                },
                target: target.to_owned(),
                format: row.try_get(6)?,
                new_key: row.try_get(7)?,
                rows: row.try_get(8)?,
                opened: row.try_get(9)?,
                empty: row.try_get(10)?,
                failed: row.try_get(11)?,
                cells: row.try_get(12)?,
                failures: serde_json::from_str(&row.try_get::<String, _>(13)?)
                    .map_err(|_| corrupt("reseal_verifications.failures"))?,
                ended_ms: row.try_get(14)?,
            }))
        }
    };
}
pub(in crate::store) use verifications;
