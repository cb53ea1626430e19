//! A plan as one JSON document: all that is said in words, and more.

use reseal::{
    rekey::plan::{Permission, Plan},
    store::{Finding, Footprint},
};
use serde_json::{Value, json};

use super::{super::report, by_key};

/// Of a plan that did not look at the values.
pub(super) fn refused(table: &str, findings: &[Finding], permissions: &[Permission]) -> Value {
    json!({
        "command": "plan",
        "outcome": "refused",
        "target": {"table": table},
        "findings": findings,
        "permissions": permissions,
    })
}

/// Of a plan that did.
pub(super) fn looked(plan: &Plan, way_back: Option<&str>, next: &[String]) -> Value {
    let (job, census, sample) = (&plan.job, &plan.census, &plan.sample);
    json!({
        "command": "plan",
        "outcome": if plan.is_refused() { "refused" } else { "possible" },
        "digest": plan.digest.to_string(),
        "target": {
            "table": job.target.name,
            "columns": job.target.columns.iter().map(|column| &column.name).collect::<Vec<_>>(),
        },
        "keys": job.keys,
        "findings": plan.findings,
        "permissions": plan.permissions,
        "rows": {"total": census.rows, "to_rekey": census.rows_to_rekey},
        "values": {
            "by_key": report::by_name(by_key(census)),
            "wrapped_not_asked_for": census.wrapped,
            "null": census.empty,
            "current": census.current,
            "ambiguous": census.ambiguous,
            "refused": report::by_name(census.refused.iter().map(|(reason, count)| (reason, *count))),
        },
        "examples": census.examples.iter().map(|(row, column, reason)|
            json!({"row": row, "column": column, "reason": reason.as_str()})).collect::<Vec<_>>(),
        "repeats": {
            "values": plan.repeats.values,
            "cells": plan.repeats.cells,
            "examples": plan.repeats.examples.iter().map(|cells| cells.clone().map(|(row, column)|
                json!({"row": row, "column": column}))).collect::<Vec<_>>(),
        },
        "elsewhere": plan.elsewhere,
        "bytes": census.bytes,
        "kms_calls": plan.calls,
        "log_bytes": plan.writing.log,
        "growth_bytes": plan.writing.growth,
        "in_place": plan.writing.in_place,
        "seconds": plan.duration.seconds,
        "measured": {
            "rows": sample.rows,
            "kms_calls": plan.calls_made,
            "reading_ms": plan.duration.reading_ms,
            "sealing_ms": plan.duration.sealing_ms,
            "old_bytes": sample.old_bytes,
            "new_bytes": sample.new_bytes,
        },
        "disk": disk(&plan.footprint),
        "way_back": way_back,
        "next": next,
    })
}

fn disk(footprint: &Footprint) -> Value {
    match footprint {
        Footprint::Sqlite { page_bytes } => json!({"page_bytes": page_bytes}),
        Footprint::Postgres(table) => json!({
            "heap_blocks": table.heap_blocks,
            "row_bytes": table.row_bytes,
            "fillfactor": table.fillfactor,
            "indexes": table.indexes.iter().map(|index|
                json!({"name": index.name, "blocks": index.blocks, "reads_values": index.reads_values}))
                .collect::<Vec<_>>(),
            "logs_old_rows": table.logs_old_rows,
            "full_page_writes": table.full_page_writes,
        }),
    }
}
