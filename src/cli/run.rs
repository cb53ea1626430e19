//! `run`: starts a run, or goes on with the open one.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Command;
use reseal::{
    envelope::Format,
    rekey::{self, Intent, MOST_WORKERS, Outcome, RekeyError, RunKeys, Status, Stop},
    store::{RunRow, Store, Tally, Target},
};
use tokio::{sync::watch, time::timeout};

use super::{
    Answer, Call, Exit, Fault, args, audit, connect, control, meant,
    metrics::Exporter,
    next, progress,
    report::{self, Report},
    signals::Signals,
    staged, stdio,
};

pub(super) fn command() -> Command {
    let about = "Re-key every value, or go on with the open run of the same keys";
    let own: &[&str] = &[
        "new-data-key",
        "workers",
        "batch",
        "rows-limit",
        "reseal-ambiguous",
        "rewrap",
        "staged",
        "max-changed",
        "plan",
    ];
    let throttles: &[&str] = &["max-rows-per-second", "max-replica-lag", "max-kms-calls-per-second"];
    let metrics: &[&str] = &["metrics-listen", "metrics-file"];
    let groups = [
        args::DATABASE,
        args::NAME,
        args::COLUMNS,
        args::KEYS,
        own,
        args::REWRITE,
        throttles,
        args::READING,
        metrics,
        args::OUTPUT,
    ];
    args::with_settings(Command::new("run").about(about), &groups).after_help(
        "Ctrl-C once: finish the batch and stop; the same command goes on. Twice: stop now; nothing is lost.\n\n\
         Examples:\n  \
         reseal run --old static:env:SECRETS_ENCRYPTION_KEY --new aws-kms:alias/tenants\n  \
         reseal run --format v3 --old static:env:SECRETS_ENCRYPTION_KEY --new local-kms:keyring.json\n  \
         reseal run --rewrap --old aws-kms:alias/tenants --new aws-kms:alias/tenants-2\n  \
         reseal run --max-rows-per-second 500 --workers 4 --old static:file:old.key --new aws-kms:alias/tenants\n  \
         reseal run --old aws-kms:alias/tenants --new aws-kms:alias/tenants \
         --rewrite-url-password-from env:REDIS_URL --rewrite-old-url env:OLD_REDIS_URL",
    )
}

/// What a run works for, kept for what is said at its end.
struct Work {
    store: Arc<dyn Store>,
    target: Arc<Target>,
    keys: RunKeys,
    started: Instant,
}

/// How the work ended.
enum End {
    Ran(Box<Result<rekey::Report, RekeyError>>),
    /// Told to stop a second time.
    Cut,
}

pub(super) async fn run(call: &Call) -> Result<Answer, Fault> {
    if let Some(step) = call.settings.text("staged") {
        return staged::run(call, step).await;
    }
    let (choice, options, name) = (meant::keys(call)?, meant::options(call)?, meant::target_name(call)?);
    let planned = meant::planned(call)?;
    // As many as are opened: `set workers` can ask for more than the process was started with.
    let connections = 2 * MOST_WORKERS + 3;
    let exporter = Exporter::open(call).await?;
    let mut signals = Signals::install()?;
    let resume = call.again("run");
    let job = signals
        .unless_stopped(&resume, async {
            let store = connect::migrated_store(call, connections).await?;
            let target = connect::registered_target(call, store.as_ref(), &name).await?;
            let job = rekey::prepare(store, target, &choice, options, Intent::Run).await?;
            if let Some(planned) = &planned {
                rekey::plan::require_plan(&job, &choice, &name, planned).await.map_err(
                    |error| match error {
                        RekeyError::Refused { what, .. } => Fault::refused(what).hint(call.again("plan")),
                        error => error.into(),
                    },
                )?;
            }
            Ok::<_, Fault>(job)
        })
        .await?;
    let work = Work {
        store: Arc::clone(&job.store),
        target: Arc::clone(&job.target),
        keys: job.keys.clone(),
        started: Instant::now(),
    };
    warn_of_one_key_readers(call, &job).await?;
    let (stop, stopping) = rekey::stop_signal();
    let (status, watching) = watch::channel(Status::default());
    let last = work.store.latest_run(&work.target.name).await?;
    let told = tokio::spawn(tell_last_run(last, watching.clone()));
    let exported = tokio::spawn(exporter.export(watching.clone()));
    let shown = tokio::spawn(progress::show(Arc::clone(&job.store), watching.clone(), call.output));
    let end = {
        let running = rekey::run(job, stopping, status);
        tokio::pin!(running);
        loop {
            tokio::select! {
                ended = &mut running => break End::Ran(Box::new(ended)),
                () = signals.next() => {
                    if stop.send_replace(Stop::AfterBatch) == Stop::AfterBatch {
                        break End::Cut;
                    }
                    stdio::note(format_args!("finishing this batch… (once more: stop now; nothing is lost)"));
                }
            }
        }
    };
    // They end by themselves, now that nothing sends to them; but not while one waits for a database that hangs.
    drop(timeout(Duration::from_secs(1), async { tokio::join!(shown, exported, told) }).await);
    let open = watching.borrow().run.clone();
    match (end, open) {
        (End::Ran(ended), open) => match (*ended, open) {
            (Ok(report), _) => {
                let standing = rekey::standing(work.store.as_ref(), &work.target).await?;
                let next = match standing {
                    Some(standing) => next::hints(call, work.store.as_ref(), &standing).await?,
                    None => Vec::new(),
                };
                audit::with_head(work.store.as_ref(), work.answer(call, &report, next)).await
            }
            (Err(error), None) => Err(error.into()),
            (Err(error), Some(run)) => {
                let outcome = if error.is_resumable() { Outcome::Interrupted } else { Outcome::Failed };
                let document = work.so_far(&run, outcome).await;
                Err(Fault::of_open_run(error, &resume).with(document))
            }
        },
        (End::Cut, Some(run)) => {
            let document = work.so_far(&run, Outcome::Interrupted).await;
            let what = format!("run {} was stopped at once; it stays open and nothing is lost", run.run_id);
            Err(Fault::resumable(what).hint(resume).with(document))
        }
        (End::Cut, None) => Err(Fault::resumable("stopped before this process wrote a value").hint(resume)),
    }
}

/// A program that holds one static key reads nothing that was re-keyed until it is switched.
async fn warn_of_one_key_readers(call: &Call, job: &rekey::Job) -> Result<(), Fault> {
    let is_static = |key: &String| key.starts_with("static:");
    if job.keys.format != Format::V1 || !job.keys.old.iter().any(is_static) {
        return Ok(());
    }
    let staging = job.store.staging(&job.target.name).await?;
    if !staging.is_some_and(|staging| staging.is_swapped) {
        stdio::note(format_args!(
            "note: a program that can hold only one static key can't read a re-keyed value until it has the new one; \
             to swap all at once: {} --staged prepare",
            call.again("run")
        ));
    }
    Ok(())
}

/// Says that a run which is over is not gone on with, once there is a new one: it may yet be refused.
async fn tell_last_run(last: Option<RunRow>, mut watching: watch::Receiver<Status>) {
    let Some(last) = last.filter(|last| !last.state.is_open()) else { return };
    if watching.wait_for(|status| status.run.is_some()).await.is_ok() {
        let ended = last.state.as_str();
        stdio::note(format_args!("run {} is over ({ended}): this is a new one", last.run_id));
    }
}

impl Work {
    fn report<'a>(&'a self, run: &'a RunRow, outcome: Outcome, tally: &Tally, rows_here: u64) -> Report<'a> {
        Report {
            command: "run",
            run: Some(&run.run_id),
            outcome,
            target: &self.target,
            keys: &self.keys,
            scanned: tally.scanned,
            values: report::values(tally),
            conflicts: tally.conflicts,
            kms_calls: tally.kms_calls,
            seconds: self.started.elapsed().as_secs_f64(),
            rows_here,
        }
    }

    /// What was done until it ended by an error, as far as the database can still say.
    async fn so_far(&self, run: &RunRow, outcome: Outcome) -> serde_json::Value {
        let tally = timeout(Duration::from_secs(2), self.store.tally(&run.run_id, None)).await;
        let tally = tally.ok().and_then(Result::ok).unwrap_or_default();
        self.report(run, outcome, &tally, 0).json()
    }

    fn answer(&self, call: &Call, done: &rekey::Report, next: Vec<String>) -> Answer {
        let report = self.report(&done.run, done.outcome, &done.tally, done.rows_here);
        let (exit, ended, mut hints) = self.ending(call, done, next);
        let mut human = format!(
            "{}: {ended}. Run {}, {} under {}.\n",
            self.target.name, done.run.run_id, self.keys.format, self.keys.new
        );
        human += &format!(
            "{} rows read in {} sweeps. Values:\n",
            stdio::commas(done.tally.scanned),
            done.run.sweep
        );
        human += &report::values_in_words(&done.tally);
        human += &format!("{} writes by others met, {}", stdio::commas(done.tally.conflicts), report.pace());
        if done.tally.not_urls > 0 {
            human +=
                &format!("{} re-keyed values do not look like a URL.\n", stdio::commas(done.tally.not_urls));
        }
        if let Some(edits) = &done.edits {
            human += &format!(
                "{} values rewritten by this process.\n",
                stdio::commas(i64::try_from(edits.changed).unwrap_or(i64::MAX))
            );
        }
        human += &control::in_words(&done.run.orders);
        human += "What no re-key answers: a URL that somebody already read. That needs new credentials.\n";
        if self.keys.format == Format::V3 && matches!(exit, Exit::Done | Exit::Attention) {
            human +=
                "The values need the registry's data keys: keep an export of them beside your backups.\n";
            hints.push(call.again("keys export") + " data-keys.json");
        }
        let mut json = report.json();
        if let Some(edits) = &done.edits {
            json["rewritten"] = edits.changed.into();
        }
        Answer::Report { exit, human, json, hints }
    }

    /// The exit code, what is true now in words, and what to type next: `next`, where the run is complete.
    fn ending(&self, call: &Call, done: &rekey::Report, next: Vec<String>) -> (Exit, String, Vec<String>) {
        let columns = self.target.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>();
        match done.outcome {
            Outcome::Complete if done.edits.is_some_and(|edits| edits.is_for_none) => (
                Exit::Attention,
                "complete, and NO password was changed: no value is a URL of the old one's host, port and user"
                    .to_owned(),
                vec![format!("see that --rewrite-old-url is the URL that tenants hold, then: {}", call.again("run"))],
            ),
            Outcome::Complete => {
                (Exit::Done, format!("complete, nothing in {} is under an old key", columns.join(", ")), next)
            }
            Outcome::Quarantined => (
                Exit::Attention,
                "finished, some values are in quarantine and unchanged".to_owned(),
                vec![call.again("quarantine list"), call.again("quarantine retry")],
            ),
            Outcome::Chased => (
                Exit::Resumable,
                "stopped, values under an old key keep appearing".to_owned(),
                vec![
                    "give every instance that writes the table the new key, then:".to_owned(),
                    call.again("run"),
                ],
            ),
            Outcome::Paused => (
                Exit::Resumable,
                "paused".to_owned(),
                vec![format!("{}, then:", call.again("resume")), call.again("run")],
            ),
            Outcome::Interrupted if done.tally.quarantined > 0 => (
                Exit::Resumable,
                "stopped early at a clean checkpoint, some values are in quarantine and unchanged".to_owned(),
                vec![call.again("quarantine list"), call.again("run")],
            ),
            Outcome::Interrupted => (
                Exit::Resumable,
                "stopped early at a clean checkpoint, every value that was read opens".to_owned(),
                vec![call.again("run")],
            ),
            Outcome::Failed => {
                (Exit::Failed, "failed in another process".to_owned(), vec![call.again("status")])
            }
        }
    }
}
