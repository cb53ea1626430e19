//! A run, from its first precondition to its last sweep.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use tokio::sync::{Notify, watch};
use ulid::Ulid;

use super::{
    Status, Step, Stop, StopSignal,
    attend::Attendant,
    crew,
    directions::Directions,
    pipeline::AbortOnDrop,
    retry::patiently,
    split,
    sweeps::work_through,
    throttle::Pace,
    worker::Worker,
    workshop::{FIRST_PAGE, Workshop},
};
use crate::{
    keyring::Attempt,
    rekey::{Edits, Job, Outcome, RekeyError, Report, fence::require_passable, identity},
    secret::Plaintext,
    store::{NewRun, Replicas, RunRow, RunState, Tally},
};

/// Values sampled before the first write.
const SAMPLE: usize = 200;

/// Starts a run on the target, or joins the open one, and works until it is over or `stop` says so.
///
/// # Errors
/// [`RekeyError::Refused`] before anything was written; any other error leaves the run open, to be gone on with.
///
/// # Crash safety
/// At every instant every cell opens, to the same plaintext, under the old keys or the new one. A process that dies
/// leaves leases that run out after 20 s, and nothing else.
pub async fn run(job: Job, stop: StopSignal, status: watch::Sender<Status>) -> Result<Report, RekeyError> {
    let started = Instant::now();
    let job = Arc::new(job);
    let run = open(&job, &status).await?;
    status.send_modify(|status| status.run = Some(run.clone()));
    let (own_stop, stop) = merge(stop);
    let metrics = Arc::clone(&status.borrow().metrics);
    let shop = Arc::new(Workshop {
        directions: watch::Sender::new(Directions::new(&job.options, &run.orders)),
        pace: Mutex::new(Pace::new(started)),
        metrics,
        status,
        stop,
        rows: AtomicU64::new(0),
        kms_calls: AtomicU64::new(0),
        page_rows: AtomicUsize::new(FIRST_PAGE),
        edits: Mutex::default(),
        ended: Notify::new(),
        job,
    });
    if run.state == RunState::Paused {
        return report(&shop, &run.run_id, started).await;
    }
    let process = process_name();
    let (run_id, attended) = (run.run_id.clone(), Arc::clone(&shop));
    let attendant = Attendant::begin(attended, Arc::clone(&own_stop), run_id, process.clone()).await?;
    let attendant = AbortOnDrop::new(tokio::spawn(attendant.attend()));
    let worker = |number| {
        let (run_id, name) = (run.run_id.clone(), format!("{process}:{number}"));
        work_through(Worker { shop: Arc::clone(&shop), run_id, number, name })
    };
    let worked = crew::work_together(&shop, &own_stop, worker).await;
    attendant.end().await;
    // Best effort: who is not heard of any more is forgotten within the hour.
    drop(shop.job.at(Step::Leave, shop.job.store.leave(&run.run_id, &process)).await);
    match worked {
        Err(error) => {
            if !error.is_resumable() {
                fail(&shop, &run.run_id).await;
            }
            Err(error)
        }
        Ok(()) => report(&shop, &run.run_id, started).await,
    }
}

/// Closes the run, best effort: what ended it is what its operator has to see, not that this failed too.
async fn fail(shop: &Workshop, run_id: &str) {
    let (job, store) = (&shop.job, &shop.job.store);
    while let Ok(run) = job.at(Step::ReadRun, store.run(run_id)).await {
        if !run.state.is_open() {
            return;
        }
        // It waits for batches of other processes, which are its shards' until they are committed.
        let close = || store.move_run(&run, RunState::Failed);
        let closed = job.at(Step::MoveRun, patiently(&shop.status, close)).await;
        // Others go on meanwhile: they may have paused it, or opened its next sweep.
        if !matches!(closed, Ok(false)) {
            return;
        }
    }
}

/// A stop of our own that also follows `stop`.
fn merge(mut stop: StopSignal) -> (Arc<watch::Sender<Stop>>, StopSignal) {
    let (own, merged) = watch::channel(Stop::No);
    let own = Arc::new(own);
    let follower = Arc::clone(&own);
    tokio::spawn(async move {
        if stop.wait_for(|stop| *stop == Stop::AfterBatch).await.is_ok() {
            follower.send_replace(Stop::AfterBatch);
        }
    });
    (own, merged)
}

/// A name that tells an operator where this process runs.
fn process_name() -> String {
    format!("{}:{}", rustix::system::uname().nodename().to_string_lossy(), std::process::id())
}

/// The open run of the target, when its keys are ours; else a new one.
async fn open(job: &Arc<Job>, status: &watch::Sender<Status>) -> Result<RunRow, RekeyError> {
    let store = &job.store;
    if !patiently(status, || store.is_migrated()).await? {
        return Err(RekeyError::Refused {
            what: "reseal's own tables are missing or not up to date".to_owned(),
            hint: "reseal init".to_owned(),
        });
    }
    require_visible_replicas(job, status).await?;
    let fence = job.at(Step::ReadFence, patiently(status, || store.fence(&job.target.name))).await?;
    require_passable(job, fence)?;
    let found = job.at(Step::FindRun, patiently(status, || store.open_run(&job.target.name))).await?;
    let run = match found {
        Some(run) => run,
        None => create(job).await?,
    };
    if identity::is_same(job, &run.keys).await? {
        return Ok(run);
    }
    Err(RekeyError::Refused {
        what: format!(
            "run {} of {} is open with other keys or another format, kind or edit",
            run.run_id, run.target
        ),
        hint: "finish it with the keys it was started with: reseal status".to_owned(),
    })
}

/// Refuses a limit on the lag of replicas that can't be seen.
async fn require_visible_replicas(job: &Job, status: &watch::Sender<Status>) -> Result<(), RekeyError> {
    if job.options.max_replica_lag.is_none() {
        return Ok(());
    }
    match patiently(status, || job.store.pressure()).await?.replicas {
        Replicas::None | Replicas::Behind { .. } => Ok(()),
        Replicas::Hidden => Err(RekeyError::Refused {
            what: "this role can't see how far the replicas are behind".to_owned(),
            hint: "GRANT pg_read_all_stats to the role, or run without --max-replica-lag".to_owned(),
        }),
    }
}

async fn create(job: &Arc<Job>) -> Result<RunRow, RekeyError> {
    let store = job.store.as_ref();
    job.at(Step::Sample, require_right_keys(job)).await?;
    job.at(Step::Register, store.register(&job.target)).await?;
    let (rows, shares) = job.at(Step::Split, split::first_sweep(job)).await?;
    let run = NewRun {
        run_id: next_run_id(job.at(Step::FindRun, store.latest_run(&job.target.name)).await?.as_ref()),
        target: job.target.name.clone(),
        keys: serde_json::to_string(&job.keys).expect("names and ids are valid JSON"),
        row_count: i64::try_from(rows).unwrap_or(i64::MAX),
        data_key: job.new_data_key.clone(),
        spans: shares.spans,
        horizon: shares.horizon,
    };
    Ok(job.at(Step::CreateRun, store.create_run(&run)).await?)
}

/// An id above that of every run of the target before. Runs are told apart by it, newest last: a clock that was set
/// back, or that of another machine, must not make a new run look older than one that is over.
fn next_run_id(latest: Option<&RunRow>) -> String {
    let latest = latest.and_then(|run| run.run_id.parse::<Ulid>().ok());
    let above = latest.and_then(|latest| latest.increment().ok());
    let now = Ulid::generate();
    above.map_or(now, |above| Ord::max(above, now)).to_string()
}

/// Refuses keys under which not one of the sampled values opens.
pub(in crate::rekey) async fn require_right_keys(job: &Arc<Job>) -> Result<(), RekeyError> {
    let page = job.store.sample(&job.target, SAMPLE, job.limits()).await?;
    let (mut values, mut plaintext, mut buffer) = (0, Plaintext::new(), Vec::new());
    for (row, key) in page.keys.iter().enumerate() {
        for (column, definition) in job.target.columns.iter().enumerate() {
            let Some(stored) = page.cells.at(row, column) else { continue };
            values += 1;
            let attempt = match definition.encoding.decode(stored, &mut buffer) {
                Some(value) => job.opener.open(column, &key.to_string(), value, &mut plaintext).await?,
                None => job.opener.attempt_undecodable(stored, &mut plaintext),
            };
            if matches!(attempt, Attempt::Opened(_)) {
                return Ok(());
            }
        }
    }
    if values == 0 {
        return Ok(());
    }
    Err(RekeyError::Refused {
        what: format!(
            "none of {values} sampled values of {} opens under any of the given keys",
            job.target.name
        ),
        hint: "check --old: is it the key that the control plane runs with?".to_owned(),
    })
}

async fn report(shop: &Workshop, run_id: &str, started: Instant) -> Result<Report, RekeyError> {
    let (job, store) = (&shop.job, shop.job.store.as_ref());
    let run = job.at(Step::ReadRun, patiently(&shop.status, || store.run(run_id))).await?;
    let tally: Tally = job.at(Step::Tally, patiently(&shop.status, || store.tally(run_id, None))).await?;
    let outcome = match run.state {
        RunState::Complete => Outcome::Complete,
        RunState::Quarantined => Outcome::Quarantined,
        RunState::Chased => Outcome::Chased,
        RunState::Failed => Outcome::Failed,
        RunState::Paused => Outcome::Paused,
        RunState::Running => Outcome::Interrupted,
    };
    let rows_here = shop.rows.load(Ordering::Relaxed);
    Ok(Report { edits: edits(shop, &run), run, outcome, tally, rows_here, elapsed: started.elapsed() })
}

/// What came of the run's edit, if it has one. That it is for no value can be told only where this process has read the
/// last sweep alone: every sweep of a rewrite opens every value.
fn edits(shop: &Workshop, run: &RunRow) -> Option<Edits> {
    shop.job.options.kind.edit()?;
    let count = shop.edits.lock().unwrap_or_else(PoisonError::into_inner);
    let saw_all = i64::try_from(count.rows).is_ok_and(|rows| rows >= run.row_count);
    Some(Edits { changed: count.changed, is_for_none: saw_all && count.met == 0 })
}
