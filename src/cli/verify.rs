//! `verify`: the proof that every value opens under the new key, and no other.

use std::{sync::Arc, time::Instant};

use clap::Command;
use reseal::{
    keyring::ClearText,
    rekey::{self, DataKeyScope, Intent, KeyChoice, Outcome, Verified},
};
use serde_json::json;

use super::{
    Answer, Call, Exit, Fault, args, connect, meant,
    report::{self, Report},
    stdio::{commas, shown},
};

pub(super) fn command() -> Command {
    let about = "Prove that every value opens under the new key, and no other";
    let groups = [
        args::DATABASE,
        args::NAME,
        args::COLUMNS,
        &["new", "format", "max-kms-calls-per-second"],
        args::READING,
        args::OUTPUT,
    ];
    args::with_settings(Command::new("verify").about(about), &groups).after_help(
        "Reads the whole table on one snapshot, writes nothing, and exits 3 if a value fails.\n\n\
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
    let (options, name) = (meant::options(call)?, meant::target_name(call));
    let store = connect::migrated_store(call, 2).await?;
    let target = connect::target(store.as_ref(), &name).await?;
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
    let (exit, hints) = if verified.passed() {
        (Exit::Done, Vec::new())
    } else {
        (Exit::Attention, vec![call.again("quarantine list"), call.again("run")])
    };
    Ok(Answer::Report { exit, human: human(&job, &verified, &report), json: report.json(), hints })
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
    for failure in &verified.failures {
        let row = shown(&failure.row);
        text += &format!("  failed: row {row}, column {}: {}\n", failure.column, failure.reason);
    }
    let shown = i64::try_from(verified.failures.len()).unwrap_or(i64::MAX);
    if verified.failed > shown {
        text += &format!("  and {} more\n", commas(verified.failed - shown));
    }
    text += &report.pace();
    text += &format!("Covered: {columns} of {table}, every row of one snapshot of this database.\n");
    text += "Not covered: backups, replicas that lag, other databases, other tables and columns, and copies \
             that programs keep.\n";
    text
}
