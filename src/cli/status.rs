//! `status`: where the latest run stands.

use std::collections::BTreeMap;

use clap::Command;
use reseal::{
    rekey::{self, RunKeys},
    store::{Store, StoreError},
};
use serde_json::json;

use super::{
    Answer, Call, Exit, Fault, args, connect, fence, meant, next, quarantine, report,
    stdio::{commas, time},
};

pub(super) fn command() -> Command {
    let about = "Say where the latest run stands, and what to type next";
    args::with_settings(Command::new("status").about(about), &[args::DATABASE, args::NAME, args::OUTPUT])
        .after_help("Example:\n  reseal status --output json")
}

pub(super) async fn run(call: &Call) -> Result<Answer, Fault> {
    let name = meant::target_name(call);
    let target = name.logical();
    let store = connect::store(call, 1).await?;
    let migrated = store.is_migrated().await?;
    let run = if migrated { store.latest_run(target).await? } else { None };
    let up = if migrated { store.fence(target).await? } else { None };
    let Some(run) = run else {
        let next = if migrated { "plan" } else { "init" };
        return Ok(Answer::Report {
            exit: Exit::Done,
            human: format!("{target}: there was no run yet.\n{}", fence::in_words(target, up.as_ref())),
            json: json!({"command": "status", "target": target, "run": null, "fence": fence::json(up.as_ref())}),
            hints: vec![call.again(next)],
        });
    };
    let sweep = store.tally(&run.run_id, Some(run.sweep)).await?;
    let tally = store.tally(&run.run_id, None).await?;
    let quarantine = quarantine_by_reason(store.as_ref(), target).await?;
    let held = quarantine.values().sum::<i64>();
    let left = if run.state.is_open() { (run.row_count - sweep.scanned).max(0) } else { 0 };
    let keys = serde_json::from_str::<RunKeys>(&run.keys)
        .map_err(|_| Fault::failed("reseal's own tables hold something unexpected: reseal_runs.keys"))?;

    let mut human = format!("{target}: run {} is {}.\n", run.run_id, run.state.as_str());
    human += &format!("  to {} under {}\n", keys.format, keys.new);
    keys.old.iter().for_each(|old| human += &format!("  from {old}\n"));
    human += &format!("  started {}", time(run.created_ms));
    if let Some(finished) = run.finished_ms {
        human += &format!(", ended {}", time(finished));
    }
    human += &format!(
        "\nSweep {}: {} rows read, {} left. Values, in all sweeps:\n",
        run.sweep,
        commas(sweep.scanned),
        commas(left)
    );
    human += &report::values_in_words(&tally);
    human += &format!("{} in quarantine now", commas(held));
    let reasons = quarantine.iter().map(|(reason, count)| format!("{} {reason}", commas(*count)));
    human += &match reasons.collect::<Vec<_>>().join(", ") {
        none if none.is_empty() => ".\n".to_owned(),
        reasons => format!(": {reasons}.\n"),
    };
    human += &fence::in_words(target, up.as_ref());
    let json = json!({
        "command": "status",
        "target": target,
        "run": run.run_id,
        "state": run.state.as_str(),
        "keys": keys,
        "sweep": run.sweep,
        "rows": {"scanned": sweep.scanned, "left": left, "at_start": run.row_count},
        "values": report::values(&tally),
        "conflicts": tally.conflicts,
        "kms_calls": tally.kms_calls,
        "quarantine": report::by_name(quarantine),
        "fence": fence::json(up.as_ref()),
        "started": time(run.created_ms),
        "ended": run.finished_ms.map(time),
    });
    let registered = store.targets().await?.into_iter().find(|registered| registered.name == target);
    let standing = match registered {
        Some(registered) => rekey::standing(store.as_ref(), &registered).await?,
        None => None,
    };
    let hints = match standing {
        Some(standing) => next::hints(call, store.as_ref(), &standing).await?,
        None => Vec::new(),
    };
    Ok(Answer::Report { exit: Exit::Done, human, json, hints })
}

async fn quarantine_by_reason(store: &dyn Store, target: &str) -> Result<BTreeMap<String, i64>, StoreError> {
    let mut counts = BTreeMap::new();
    for record in quarantine::all(store, target).await? {
        *counts.entry(record.reason).or_default() += 1;
    }
    Ok(counts)
}
