//! The certificate of a retirement: what was shown, by what, and what was not.

use serde::Serialize;
use serde_json::{Value, json};

use super::{Obstacle, OldKey, RetireError, Standing, sample::Sampled};
use crate::{
    rekey::Elsewhere,
    store::{AuditHead, Standby, Store},
    time::rfc3339,
};

/// What no look at this database can show.
const NOT_COVERED: [&str; 4] = [
    "backups, exports and snapshots of disks made before: restoring one brings values under the old key back, \
     and needs that key",
    "other databases, and standbys that are not known to this one",
    "other tables and columns of this database, but for the sample of them that is given here",
    "values and keys that programs or people copied elsewhere",
];

/// What a certificate states, as it is gathered.
pub(super) struct Evidence {
    key: String,
    head: Option<AuditHead>,
    issued_ms: i64,
    sampled: Sampled,
    elsewhere: Elsewhere,
    targets: Vec<Value>,
}

impl Evidence {
    pub(super) fn new(
        key: &OldKey,
        head: Option<AuditHead>,
        issued_ms: i64,
        elsewhere: &Elsewhere,
        sampled: Sampled,
    ) -> Self {
        let (key, elsewhere) = (key.name.clone(), elsewhere.clone());
        Self { key, head, issued_ms, sampled, elsewhere, targets: Vec::new() }
    }

    /// Adds a target.
    pub(super) async fn add(
        &mut self,
        store: &dyn Store,
        standing: Standing,
        standbys: Vec<Standby>,
    ) -> Result<(), RetireError> {
        let Standing { target, run, keys, fence, verification, .. } = &standing;
        let tally = store.tally(&run.run_id, None).await?;
        self.targets.push(json!({
            "name": target.name,
            "table": format!("{}.{}", target.schema, target.table),
            "oid": target.oid,
            "key_column": target.key_column,
            "columns": target.columns.iter().map(|column| &column.name).collect::<Vec<_>>(),
            "format": keys.format,
            "old_keys": keys.old,
            "new_key": keys.new,
            "run": {
                "id": run.run_id,
                "outcome": run.state.as_str(),
                "sweeps": run.sweep,
                "started": rfc3339(run.created_ms),
                "ended": run.finished_ms.map(rfc3339),
                "values": {
                    "rekeyed": tally.rekeyed,
                    "current": tally.current,
                    "null": tally.empty,
                    "quarantined": tally.quarantined,
                    "vanished": tally.vanished,
                    "total": tally.total,
                },
            },
            "fence": if standing.has_fences() { fence.as_ref().map_or(json!("none"), |fence| json!({
                "mode": fence.mode.as_str(),
                "takes": fence.rule.to_string(),
                "since": rfc3339(fence.since_ms),
                "intact": fence.is_intact(),
            })) } else { json!("not possible: nothing in a v1 value says which key it is under") },
            "verify": verification.as_ref().map(|verification| json!({
                "number": verification.begun.verification,
                "of_run": verification.begun.run_id,
                "began": rfc3339(verification.begun.began_ms),
                "ended": rfc3339(verification.ended_ms),
                "format": verification.format,
                "key": verification.new_key,
                "rows": verification.rows,
                "opened": verification.opened,
                "null": verification.empty,
                "failed": verification.failed,
                "cells": verification.cells,
                "log_position": verification.begun.position,
            })),
            "standbys": standbys.iter().map(|standby| json!({
                "name": standby.name,
                "has_flushed": standby.is_caught_up,
            })).collect::<Vec<_>>(),
            "in_quarantine": standing.held,
        }));
        Ok(())
    }

    /// The certificate, as text that is kept byte for byte.
    pub(super) fn certificate(&self, waived: &[Obstacle]) -> String {
        #[derive(Serialize)]
        struct Certificate<'a> {
            certificate: &'static str,
            reseal: &'static str,
            key: &'a str,
            issued: String,
            statement: String,
            targets: &'a [Value],
            new_key_now: Value,
            other_columns: &'a Elsewhere,
            waived: Vec<Value>,
            not_covered: [&'static str; 4],
            audit_head: Value,
        }
        let waived = waived.iter().map(|obstacle| json!({"waiver": obstacle.waiver, "what": obstacle.what}));
        let certificate = Certificate {
            certificate: "reseal retirement 1",
            reseal: env!("CARGO_PKG_VERSION"),
            key: &self.key,
            issued: rfc3339(self.issued_ms),
            statement: format!(
                "no value of these columns was under {} when they were verified, but for what was waived",
                self.key
            ),
            targets: &self.targets,
            new_key_now: json!({"values_tried": self.sampled.tried, "opened": self.sampled.opened}),
            other_columns: &self.elsewhere,
            waived: waived.collect(),
            not_covered: NOT_COVERED,
            audit_head: json!(self.head.map(|head| json!({"seq": head.seq, "hash": hex::encode(head.hash)}))),
        };
        serde_json::to_string_pretty(&certificate).expect("names, numbers and times are valid JSON") + "\n"
    }
}
