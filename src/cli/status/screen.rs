//! A look at a run, in words and as a document.

use reseal::{rekey::RunKind, store::Process};
use serde_json::{Value, json};

use super::{
    super::{
        control, fence, report,
        stdio::{commas, duration, shown, time},
    },
    look::Look,
};

/// All of it.
pub(super) fn in_words(look: &Look) -> String {
    [run, progress, quarantine, workers, fence, verification, data_keys].map(|part| part(look)).concat()
}

/// What is worth seeing change.
pub(super) fn live(look: &Look) -> String {
    let run = &look.run;
    let head = format!("{}: run {} is {}\n", run.target, run.run_id, run.state.as_str());
    head + &line(look)
        + "\n"
        + &report::values_in_words(&look.all)
        + &[quarantine, workers, fence, data_keys].map(|part| part(look)).concat()
}

/// The same in one line.
pub(super) fn line(look: &Look) -> String {
    let left = look.seconds_left().map(|seconds| format!(", {} left", duration(seconds_of(seconds))));
    format!(
        "sweep {}: {:.1} %, {} of {} rows, {} rows/s{}, {} conflicts, {} in quarantine",
        look.run.sweep,
        look.share() * 100.0,
        commas(look.sweep.scanned),
        commas(look.run.row_count),
        commas(look.rows_per_second()),
        left.unwrap_or_default(),
        commas(look.all.conflicts),
        commas(look.held())
    )
}

fn seconds_of(seconds: i64) -> f64 {
    f64::from(u32::try_from(seconds).unwrap_or(u32::MAX))
}

fn run(look: &Look) -> String {
    let (run, keys) = (&look.run, &look.keys);
    let mut text = format!("{}: run {} is {}.\n", run.target, run.run_id, run.state.as_str());
    text += &format!("  to {} under {}\n", keys.format, keys.new);
    match &keys.kind {
        RunKind::Rekey => {}
        RunKind::Rewrap => text += "  wrapping data keys anew\n",
        RunKind::Rewrite { edit, .. } => text += &format!("  with the edit {edit}\n"),
    }
    keys.old.iter().for_each(|old| text += &format!("  from {old}\n"));
    text += &format!("  started {}", time(run.created_ms));
    if let Some(finished) = run.finished_ms {
        text += &format!(", ended {}", time(finished));
    }
    text + "\n"
}

fn progress(look: &Look) -> String {
    let mut text = format!(
        "Sweep {}: {} rows read, {} left",
        look.run.sweep,
        commas(look.sweep.scanned),
        commas(look.left())
    );
    if let Some(seconds) = look.seconds_left() {
        let rate = commas(look.rows_per_second());
        text += &format!(", {} at {rate} rows/s", duration(seconds_of(seconds)));
    }
    text + ". Values, in all sweeps:\n" + &report::values_in_words(&look.all)
}

fn quarantine(look: &Look) -> String {
    let reasons = look.quarantine.iter().map(|(reason, count)| format!("{} {reason}", commas(*count)));
    let reasons = reasons.collect::<Vec<_>>().join(", ");
    let held = commas(look.held());
    if reasons.is_empty() {
        format!("{held} in quarantine now.\n")
    } else {
        format!("{held} in quarantine now: {reasons}.\n")
    }
}

/// Who works, and why not faster.
fn workers(look: &Look) -> String {
    if !look.run.state.is_open() {
        return String::new();
    }
    let shards = &look.shards;
    let mut text = format!(
        "Shards: {} done, {} in work, {} to be taken.\n",
        commas(shards.done),
        commas(shards.leased),
        commas(shards.free)
    );
    let orders = control::in_words(&look.run.orders);
    if !orders.is_empty() {
        text += &format!("Ordered:\n{orders}");
    }
    text += if look.processes.is_empty() { "No process works on it.\n" } else { "Processes:\n" };
    look.processes.iter().for_each(|process| text += &format!("  {}\n", one_process(process)));
    text
}

fn one_process(process: &Process) -> String {
    let said = &process.heartbeat;
    let name = shown(&said.process);
    if !process.is_alive() {
        return format!("{name}  not heard of for {}", duration(seconds_of(process.silent_ms / 1000)));
    }
    let waiting = said.waiting.as_ref().map(|waiting| format!(", waiting: {}", shown(waiting)));
    format!(
        "{name}  {} workers, {} rows/s{}",
        said.workers,
        commas(said.rows_per_second),
        waiting.unwrap_or_default()
    )
}

fn fence(look: &Look) -> String {
    fence::in_words(&look.run.target, look.fence.as_ref())
}

/// What the latest verify found, and whether a run came after it.
fn verification(look: &Look) -> String {
    let Some(verification) = &look.verification else { return String::new() };
    let found = match verification.failed {
        0 => "every value passed".to_owned(),
        failed => format!("{} values FAILED", commas(failed)),
    };
    let since = if verification.is_of(&look.run) { "" } else { ", and there was a run since" };
    format!(
        "Verify {} of {}: {found}{since}.\n",
        verification.begun.verification,
        time(verification.ended_ms)
    )
}

fn data_keys(look: &Look) -> String {
    let states = look.data_keys.iter().map(|(state, count)| format!("{count} {state}"));
    match states.collect::<Vec<_>>().join(", ") {
        none if none.is_empty() => none,
        states => format!("Data keys: {states}.\n"),
    }
}

/// As one document.
pub(super) fn document(look: &Look) -> Value {
    let run = &look.run;
    json!({
        "command": "status",
        "target": run.target,
        "run": run.run_id,
        "state": run.state.as_str(),
        "keys": look.keys,
        "sweep": run.sweep,
        "rows": {"scanned": look.sweep.scanned, "left": look.left(), "at_start": run.row_count},
        "rows_per_second": look.rows_per_second(),
        "seconds_left": look.seconds_left(),
        "values": report::values(&look.all),
        "conflicts": look.all.conflicts,
        "kms_calls": look.all.kms_calls,
        "quarantine": report::by_name(look.quarantine.clone()),
        "shards": {"done": look.shards.done, "leased": look.shards.leased, "free": look.shards.free},
        "orders": control::document(&run.orders),
        "processes": look.processes.iter().map(|process| json!({
            "process": process.heartbeat.process,
            "workers": process.heartbeat.workers,
            "rows_per_second": process.heartbeat.rows_per_second,
            "waiting": process.heartbeat.waiting,
            "alive": process.is_alive(),
            "silent_ms": process.silent_ms,
        })).collect::<Vec<_>>(),
        "fence": fence::json(look.fence.as_ref()),
        "verify": look.verification.as_ref().map(|verification| json!({
            "number": verification.begun.verification,
            "ended": time(verification.ended_ms),
            "failed": verification.failed,
            "of_latest_run": verification.is_of(&look.run),
        })),
        "data_keys": report::by_name(look.data_keys.clone()),
        "started": time(run.created_ms),
        "ended": run.finished_ms.map(time),
    })
}
