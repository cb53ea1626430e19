//! `reprovision run`: opens a run, or takes the open one up, and brings every tenant as far as it goes.

use clap::{Arg, Command};
use reseal::{
    journal::PlanDigest,
    rekey::Intent,
    reprovision::{
        self, Asked, Ending, Progress, ReprovisionError, Run, Stop, Works,
        finish::{Finish, finish},
        open_run, until_let_go,
    },
    store::ReprovisionRow,
};
use tokio::{sync::watch, time::timeout};

use super::{Parts, agree, asked, ending::Told, fault, plan, screen::Screen, tally::Tally, with_works};
use crate::cli::{Answer, Call, Fault, args, certificate, rotation, signals::Signals, stdio};

/// How long giving the lease back may take before it is left to end by itself.
const RELEASE: std::time::Duration = std::time::Duration::from_secs(2);

pub(super) fn command() -> Command {
    let command =
        Command::new("run").about("Re-provision every tenant, or go on with the open run of the table");
    with_works(asked::arguments(command))
        .args([
            args::flag("plan"),
            asked::switch("yes", "Begin without asking"),
            Arg::new("confirm").long("confirm").value_name("WORD").help("--hard without a terminal: the word hard"),
            certificate::arg(),
        ])
        .after_help(
            "The control plane must have the new key first: what a run writes is under it. reseal rotate SECRETS_ENCRYPTION_KEY \
             --strategy reprovision does both.\n\n\
             Ctrl-C once: begins no other tenant, and brings those under way to their end; the same command goes on. Twice: \
             stops now; nothing is lost. What is done is decided when a run is begun; --concurrency, --fallback-region and \
             --certificate may be others each time.\n\n\
             Examples:\n  \
             reseal reprovision run --plan DIGEST --new aws-kms:alias/tenants --kms aws-kms:alias/reseal\n  \
             reseal reprovision run --canary 3 --pause --order plan=paying,trial --new aws-kms:alias/tenants",
        )
}

/// What the end came to, and its certificate if nothing is left.
pub(super) type Finished = (Finish, Option<String>);

pub(in crate::cli) async fn run(call: &Call) -> Result<Answer, Fault> {
    let asked = asked::asked(call)?;
    let (parts, approved) = (Parts::of(call, asked::way(call, &asked)?)?, asked::approved(call)?);
    let file = certificate::file(&call.args)?;
    let mut signals = Signals::install()?;
    let stopped = || {
        let line = asked::again(call, "reprovision run");
        Fault::resumable("stopped before the first tenant").hint(line)
    };
    let assembled = async {
        let journal = rotation::journal(call).await?;
        let vault = rotation::vault(call, &journal).await?;
        parts.assemble(call, &journal, vault, Intent::Run).await
    };
    let works = tokio::select! {
        works = assembled => works?,
        () = signals.next() => return Err(stopped()),
    };
    let screen = Screen::new();
    let tell = |progress: &Progress| screen.show(progress);
    let run = tokio::select! {
        run = begin(call, &works, asked, approved.as_ref(), &tell) => run?,
        () = signals.next() => return Err(stopped()),
    };
    let tally = Tally::of(works.journal.as_ref(), run.id()).await?;
    screen.begin(tally.total(), tally.ended());
    let came = through(&run, &mut signals, &screen).await;
    screen.clear();
    // Where it ended by itself there is no lease any more, and this does nothing.
    drop(timeout(RELEASE, run.release()).await);
    let told = Told { call, works: &works, run: &run, file };
    match came {
        Some(Ok((ending, finished))) => told.answer(ending, finished.as_ref()).await,
        Some(Err(error)) => Err(told.failed(error).await),
        None => Err(told.cut().await),
    }
}

/// Takes the open run of the table up; without one opens one, once it is planned and somebody agreed.
async fn begin<'a>(
    call: &Call,
    works: &'a Works,
    asked: Asked,
    approved: Option<&PlanDigest>,
    tell: &'a (dyn Fn(&Progress) + Sync),
) -> Result<Run<'a>, Fault> {
    let table = &works.job.target.name;
    let open = open_run(works.journal.as_ref(), table).await.map_err(|error| fault(call, error))?;
    if let Some(row) = open {
        require_same(call, &asked, approved, &row)?;
        if row.held {
            let by = row.holder.as_deref().unwrap_or("another process");
            stdio::note(format_args!(
                "{} holds the run: waiting up to 20 s, in case it died",
                stdio::shown(by)
            ));
            until_let_go(works.journal.as_ref(), &row).await.map_err(|error| fault(call, error))?;
        }
        let run = Run::resume(works, &row, tell).await.map_err(|error| fault(call, error))?;
        stdio::note(format_args!("going on with run {}, begun {}", row.run_id, stdio::time(row.begun_ms)));
        return Ok(run);
    }
    let plan = plan::planned(call, works, asked).await?;
    agree::require_clear(call, &plan)?;
    if let Some(approved) = approved {
        plan.require(approved).map_err(|error| fault(call, error))?;
    }
    agree::agree(call, &plan, table, works.manner.concurrency).await?;
    Run::open(works, &plan, tell).await.map_err(|error| fault(call, error))
}

/// What an open run does was decided when it was begun.
fn require_same(
    call: &Call,
    given: &Asked,
    approved: Option<&PlanDigest>,
    row: &ReprovisionRow,
) -> Result<(), Fault> {
    let open = reprovision::asked(row).map_err(|error| fault(call, error))?;
    let refused =
        |what: String| Err(Fault::refused(what).hint(format!("go on with it: {}", asked::go_on(call))));
    if let Some(option) = asked::otherwise(call, given, &open) {
        return refused(format!("run {} is open, and was begun with another --{option}", row.run_id));
    }
    if approved.is_some_and(|approved| approved.to_string() != row.plan) {
        return refused(format!("run {} is open, and follows another plan", row.run_id));
    }
    Ok(())
}

/// Brings every tenant as far as it goes, and proves the end; `None` when it was told to stop at once.
async fn through(
    run: &Run<'_>,
    signals: &mut Signals,
    screen: &Screen,
) -> Option<Result<(Ending, Option<Finished>), ReprovisionError>> {
    let (stop, stopping) = watch::channel(Stop::Never);
    let work = async {
        let ending = run.advance(stopping).await?;
        if ending != Ending::Complete {
            return Ok((ending, None));
        }
        screen.note("every tenant is at its end: proving it");
        Ok((ending, Some(finish(run).await?)))
    };
    tokio::pin!(work);
    loop {
        tokio::select! {
            came = &mut work => return Some(came),
            () = signals.next() => {
                if stop.send_replace(Stop::AfterTenants) == Stop::AfterTenants {
                    return None;
                }
                screen.note(
                    "beginning no other tenant; those under way are brought to their end… (once more: stop now; nothing \
                     is lost)",
                );
            }
        }
    }
}
