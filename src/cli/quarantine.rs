//! `quarantine list` and `retry`: the values that a run could not open.

use std::sync::Arc;

use clap::Command;
use reseal::{
    rekey::{self, Intent, KeyChoice},
    store::{Quarantined, Store, StoreError},
};
use serde_json::json;

use super::{
    Answer, Call, Exit, Fault, args, audit, connect, meant, report,
    stdio::{commas, shown, time},
};

/// Records read in one step.
const STEP: u32 = 1000;

pub(super) fn command() -> Command {
    let list = Command::new("list").about("List the values in quarantine");
    let list = args::with_settings(list, &[args::DATABASE, args::NAME, args::OUTPUT])
        .after_help("Example:\n  reseal quarantine list");
    let retry = Command::new("retry").about("Try them again, once what was in the way is mended");
    let groups =
        [args::DATABASE, args::NAME, args::COLUMNS, args::KEYS, args::REWRITE, args::READING, args::OUTPUT];
    let retry = args::with_settings(retry, &groups).after_help(
        "Example, with one more old key:\n  reseal quarantine retry --old static:env:SECRETS_ENCRYPTION_KEY \
         --old static:file:older.key --new aws-kms:alias/tenants",
    );
    Command::new("quarantine")
        .about("The values that could not be opened")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands([list, retry])
}

pub(super) async fn list(call: &Call) -> Result<Answer, Fault> {
    let name = meant::target_name(call)?;
    let target = name.logical();
    let store = connect::migrated_store(call, 1).await?;
    let records = all(store.as_ref(), target).await?;
    let mut human = format!("{target}: {} values in quarantine.\n", records.len());
    let width = |of: fn(&Quarantined) -> usize| records.iter().map(of).max().unwrap_or_default();
    let (rows, columns, reasons) = (
        width(|record| shown(&record.row_key).chars().count()),
        width(|record| record.column.len()),
        width(|record| record.reason.len()),
    );
    if !records.is_empty() {
        human += &format!(
            "{:rows$}  {:columns$}  {:reasons$}  {:20}  {:20}  sha256\n",
            "row", "column", "reason", "first seen", "last seen"
        );
    }
    for record in &records {
        human += &format!(
            "{:rows$}  {:columns$}  {:reasons$}  {}  {}  {}\n",
            shown(&record.row_key),
            record.column,
            record.reason,
            time(record.first_seen_ms),
            time(record.last_seen_ms),
            hex::encode(&record.sha256[..6])
        );
    }
    let json = json!({
        "command": "quarantine list",
        "target": target,
        "quarantine": records.iter().map(|record| json!({
            "row": record.row_key,
            "column": record.column,
            "reason": record.reason,
            "first_seen": time(record.first_seen_ms),
            "last_seen": time(record.last_seen_ms),
            "sha256": hex::encode(record.sha256),
        })).collect::<Vec<_>>(),
    });
    let known = store.targets().await?.into_iter().find(|known| known.name == target);
    let retry = match &known {
        Some(known) => call.again_on("quarantine retry", known),
        None => call.again("quarantine retry"),
    };
    let hints = if records.is_empty() { Vec::new() } else { vec![retry + " --old OLD-KEY --new NEW-KEY"] };
    Ok(Answer::Report { exit: Exit::Done, human, json, hints })
}

/// Every record of `target`.
pub(super) async fn all(store: &dyn Store, target: &str) -> Result<Vec<Quarantined>, StoreError> {
    let mut records: Vec<Quarantined> = Vec::new();
    loop {
        let after = records.last().map(|last| (last.row_key.clone(), last.column.clone()));
        let after = after.as_ref().map(|(row, column)| (row.as_str(), column.as_str()));
        let step = store.quarantine(target, after, STEP).await?;
        if step.is_empty() {
            return Ok(records);
        }
        records.extend(step);
    }
}

pub(super) async fn retry(call: &Call) -> Result<Answer, Fault> {
    let (options, name) = (meant::options(call)?, meant::target_name(call)?);
    // Values go where the run took the others.
    let choice = KeyChoice { new_data_key: false, ..meant::keys(call)? };
    let store = connect::migrated_store(call, 2).await?;
    let target = connect::registered_target(call, store.as_ref(), &name).await?;
    let job = Arc::new(rekey::prepare(store, target, &choice, options, Intent::Run).await?);
    let retried = rekey::retry_quarantined(&job).await?;
    let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let mut human = format!("{}: tried every value in quarantine again.\n", job.target.name);
    human += &report::counts(&[
        (count(retried.rekeyed), "re-keyed"),
        (count(retried.settled), "settled: where they are to end, gone, or empty"),
        (count(retried.quarantined), "still in quarantine"),
    ]);
    let json = json!({"command": "quarantine retry", "target": job.target.name, "values": retried});
    let (exit, hints) = if retried.quarantined == 0 {
        (Exit::Done, vec![call.again("verify")])
    } else {
        human += &format!("{} values can still not be opened.\n", commas(count(retried.quarantined)));
        (Exit::Attention, vec![call.again("quarantine list")])
    };
    audit::with_head(job.store.as_ref(), Answer::Report { exit, human, json, hints }).await
}
