//! `run --staged`: for a control plane that can hold only one static key.

use std::sync::Arc;

use reseal::rekey::{self, Intent, Job, StagePass, Swapped};
use serde_json::json;

use super::{
    Answer, Call, Exit, Fault, audit, connect, meant, report,
    signals::Signals,
    stdio::{commas, duration},
};

/// Rows that may be sealed anew under the lock.
const MOST_CHANGED: usize = 1000;

/// Does the step that `--staged` names.
pub(super) async fn run(call: &Call, step: &str) -> Result<Answer, Fault> {
    let (choice, options, name) = (meant::keys(call)?, meant::options(call)?, meant::target_name(call)?);
    let most = call.settings.number("max-changed", 0..=100_000)?;
    let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(MOST_CHANGED);
    let mut signals = Signals::install()?;
    let resume = again(call, step);
    signals
        .unless_stopped(&resume, async {
            let store = connect::migrated_store(call, 2).await?;
            let target = connect::registered_target(call, store.as_ref(), &name).await?;
            let job = Arc::new(rekey::prepare(store, target, &choice, options, Intent::Run).await?);
            if let Some(run) = job.store.open_run(&job.target.name).await? {
                let what = format!("run {} of {} is open", run.run_id, run.target);
                return Err(Fault::refused(what).hint(call.again("status")));
            }
            let answer = match step {
                "prepare" => prepared(call, &job, rekey::stage(&job).await?),
                "swap" => swapped(call, &job, rekey::swap_staged(&job, most).await?),
                _ => {
                    rekey::drop_staged(&job).await?;
                    dropped(call, &job)
                }
            };
            audit::with_head(job.store.as_ref(), answer).await
        })
        .await
}

/// The same command with another step.
fn again(call: &Call, step: &str) -> String {
    let given = ["prepare", "swap", "drop"].map(|given| format!(" --staged {given}"));
    let line = given.iter().fold(call.again("run"), |line, given| line.replace(given, ""));
    format!("{line} --staged {step}")
}

fn prepared(call: &Call, job: &Job, pass: StagePass) -> Answer {
    let mut human = format!("{}: staged; the table is as it was. This pass:\n", job.target.name);
    human += &report::counts(&[
        (pass.staged, "sealed ahead under the new key, and proven"),
        (pass.current, "under the new key already"),
        (pass.refused, "can't be opened, and will stay as they are"),
    ]);
    human += "Next: have the new key ready to deploy, then swap. From then on a machine with the old key can't read.\n";
    let json = json!({
        "command": "run", "staged": "prepare", "target": job.target.name,
        "values": {"staged": pass.staged, "current": pass.current, "refused": pass.refused},
    });
    let exit = if pass.refused == 0 { Exit::Done } else { Exit::Attention };
    Answer::Report { exit, human, json, hints: vec![again(call, "swap")] }
}

fn swapped(call: &Call, job: &Job, swapped: Swapped) -> Answer {
    let (target, new) = (&job.target.name, &job.keys.new);
    let mut human = match swapped.values {
        Some(values) => format!(
            "{target}: swapped. {} values are under {new} now; writers waited {}.\n{} rows had changed since they were \
             staged.\n",
            commas(values),
            duration(swapped.held.as_secs_f64()),
            swapped.changed
        ),
        None => format!("{target}: the values are swapped already, and under {new}.\n"),
    };
    human += "Deploy the new key NOW: a machine with the old one can't read these values, and writes values under the \
              old key. Once none runs any more, run with both keys, then verify.\n";
    let json = json!({
        "command": "run", "staged": "swap", "target": job.target.name, "new": job.keys.new,
        "values": {"swapped": swapped.values}, "rows": {"changed": swapped.changed},
        "seconds_locked": swapped.held.as_secs_f64(),
    });
    let line = again(call, "");
    let hints = vec![line.trim_end_matches(" --staged ").to_owned(), call.again("verify")];
    Answer::Report { exit: Exit::Done, human, json, hints }
}

fn dropped(call: &Call, job: &Job) -> Answer {
    let human = format!("{}: nothing is staged any more; the table is as it was.\n", job.target.name);
    let json = json!({"command": "run", "staged": "drop", "target": job.target.name});
    Answer::Report { exit: Exit::Done, human, json, hints: vec![again(call, "prepare")] }
}
