//! `verify`: the proof that every value opens under the new key, and no other.

use std::{sync::Arc, time::Instant};

use clap::Command;
use reseal::{
    envelope::Format,
    keyring::ClearText,
    rekey::{self, DataKeyScope, Intent, KeyChoice, Outcome, Recorded, Verified},
};
use serde_json::json;

use super::{
    Answer, Call, Exit, Fault, args, audit, connect, meant, next,
    report::{self, Report},
    stdio::{commas, shown, time},
};

/// Failures that are shown; all are counted.
const SHOWN_FAILURES: usize = 20;

const COVERED: &str =
    "every row of one snapshot of this database, read without any index and with row security off";
const NOT_COVERED: &str = "backups, replicas that lag, other databases, other tables and columns, and copies that \
                           programs keep";

pub(super) fn command() -> Command {
    let about = "Prove that every value opens under the new key, and no other";
    let groups = [
        args::DATABASE,
        args::NAME,
        args::COLUMNS,
        args::REWRITE,
        &["new", "format", "max-kms-calls-per-second"],
        args::READING,
        args::OUTPUT,
    ];
    args::with_settings(Command::new("verify").about(about), &groups).after_help(
        "Reads the whole table on one snapshot, without its indexes, and exits 3 if a value fails. What it found is put\n\
         on record, for retire to rely on.\n\n\
         Example:\n  reseal verify --new aws-kms:alias/tenants",
    )
}

pub(super) async fn run(call: &Call) -> Result<Answer, Fault> {
    let started = Instant::now();
    let choice = KeyChoice {
        old: Vec::new(),
        new: meant::new_key(call)?,
        format: meant::format(call)?,
        scope: DataKeyScope::default(),
        new_data_key: false,
        clear_text: ClearText::Quarantine,
    };
    let (options, name) = (meant::options(call)?, meant::target_name(call)?);
    let store = connect::migrated_store(call, 2).await?;
    let target = connect::target_to_read(store.as_ref(), &name).await?;
    let job = Arc::new(rekey::prepare(store, target, &choice, options, Intent::Verify).await?);
    let run = job.store.latest_run(&job.target.name).await?;
    let verified = rekey::verify(&job).await?;
    let calls = job.opener.kms().iter().map(|kms| kms.calls()).sum::<u64>();
    let report = Report {
        command: "verify",
        run: run.as_ref().map(|run| run.run_id.as_str()),
        outcome: if verified.passed() { Outcome::Complete } else { Outcome::Failed },
        target: &job.target,
        keys: &job.keys,
        scanned: verified.rows,
        values: json!({
            "opened": verified.opened,
            "null": verified.empty,
            "failed": verified.failed,
            "total": verified.opened + verified.empty + verified.failed,
        }),
        conflicts: 0,
        kms_calls: i64::try_from(calls).unwrap_or(i64::MAX),
        seconds: started.elapsed().as_secs_f64(),
        rows_here: u64::try_from(verified.rows).unwrap_or_default(),
    };
    if !verified.is_whole() {
        let what =
            format!("verify saw other cells than the {} that the table has", commas(verified.expected));
        let hint = format!("try again; if it repeats, check the table's indexes: {}", call.again("verify"));
        return Err(Fault::failed(what).hint(hint).with(report.json()));
    }
    let store = job.store.as_ref();
    let (exit, hints) = if !verified.passed() {
        (Exit::Attention, vec![call.again("quarantine list"), call.again("run") + " --old OLD-KEY"])
    } else if let Some(standing) = rekey::standing(store, &job.target).await? {
        (Exit::Done, next::hints(call, store, &standing).await?)
    } else {
        (Exit::Done, Vec::new())
    };
    let mut json = report.json();
    json["covered"] = COVERED.into();
    json["not_covered"] = NOT_COVERED.into();
    json["recorded"] = match &verified.recorded {
        Recorded::Yes(verification) => json!({
            "number": verification.begun.verification,
            "run": verification.begun.run_id,
            "began": time(verification.begun.began_ms),
            "fence": verification.begun.fence.map(|(rule, since_ms)| json!({
                "takes": rule.to_string(),
                "since": time(since_ms),
            })),
            "log_position": verification.begun.position,
        }),
        Recorded::NoRun | Recorded::NotAllowed => json!(null),
    };
    let mut human = human(&job, &verified, &report);
    let on_record = matches!(verified.recorded, Recorded::Yes(_));
    if verified.passed() && on_record && job.keys.format == Format::V3 {
        let forgotten = job.store.forget_previous_wraps(&job.target.name).await?;
        if forgotten > 0 {
            human += &format!(
                "{forgotten} data keys were wrapped anew since the last verify: the wrapping from before is forgotten now.\n"
            );
        }
    }
    let answer = Answer::Report { exit, human, json, hints };
    match verified.recorded {
        Recorded::Yes(_) => audit::with_head(store, answer).await,
        Recorded::NoRun | Recorded::NotAllowed => Ok(answer),
    }
}

fn human(job: &rekey::Job, verified: &Verified, report: &Report<'_>) -> String {
    let table = &job.target.name;
    let columns = job.target.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ");
    let verdict = if verified.passed() { "every value opens" } else { "NOT every value opens" };
    let mut text = format!(
        "{table}: {verdict} as {} under {}, and under nothing else was tried.\n",
        job.keys.format, job.keys.new
    );
    text += &report::counts(&[
        (verified.opened, "opened"),
        (verified.empty, "empty (NULL or of zero length)"),
        (verified.failed, "failed"),
        (verified.expected, "in all, by the count of rows in the same snapshot"),
    ]);
    for failure in verified.failures.iter().take(SHOWN_FAILURES) {
        let row = shown(&failure.row);
        text += &format!("  failed: row {row}, column {}: {}\n", failure.column, failure.reason);
    }
    let unshown = verified.failed - i64::try_from(SHOWN_FAILURES).unwrap_or(i64::MAX);
    if unshown > 0 {
        text += &format!("  and {} more\n", commas(unshown));
    }
    text += &report.pace();
    text += &format!("Covered: {columns} of {table}, {COVERED}.\nNot covered: {NOT_COVERED}.\n");
    text += &match &verified.recorded {
        Recorded::Yes(verification) => {
            let behind = match verification.begun.fence {
                Some((rule, since_ms)) => {
                    format!("behind a fence that takes only {rule}, since {}", time(since_ms))
                }
                None => "without an enforced fence".to_owned(),
            };
            format!("On record: verify {}, {behind}.\n", verification.begun.verification)
        }
        Recorded::NoRun => "Not on record: no run of these very columns is over.\n".to_owned(),
        Recorded::NotAllowed => {
            "Not on record: this role may not write reseal's own tables, and retire asks for it.\n".to_owned()
        }
    };
    text
}
