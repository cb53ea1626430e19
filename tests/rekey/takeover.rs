//! Several processes on one run, stops, and workers that are presumed dead.

use std::time::Duration;

use reseal::{
    envelope::Format,
    rekey::{self, Intent, Job, KeyChoice, Outcome, RekeyError, Stop},
    store::{
        Batch, Cells, Checkpoint, Claim, Committed, KeyKind, Lease, RowKey, RunState, Store, Tally, Target,
    },
};
use tokio::sync::watch;

use super::stage::{OLD, OnPostgres, Stage, Under, connect, run_job, try_run_job};
use crate::support::oracle::Key;

const NEW: Key = [0x22; 32];

#[tokio::test(flavor = "multi_thread")]
async fn processes_share_a_run_and_no_cell_counts_twice() {
    let mut stage = Stage::new("share", 3000).await;
    let (old, new) = (stage.old(), stage.static_key("new", &NEW));
    for (workers, from, to, key) in
        [(1, &old, &new, &NEW), (2, &new, &old, &OLD), (3, &old, &new, &NEW), (4, &new, &old, &OLD)]
    {
        stage.options.workers = workers;
        let choice = stage.choice(Format::V1, &[from], to);
        let here = stage.job(&choice, Intent::Run).await;
        let there = Job { store: connect(&stage.on.database.url()).await, ..here.clone() };
        let (here, there) = tokio::join!(run_job(here), run_job(there));
        let (cells, sealed) = stage.cells();
        assert_eq!(here.run.run_id, there.run.run_id);
        for report in [&here, &there] {
            assert_eq!(report.outcome, Outcome::Complete);
            assert_eq!((report.tally.total, report.tally.rekeyed), (cells, sealed), "{workers} workers");
            assert!(report.tally.sums());
        }
        assert_eq!(i64::try_from(here.rows_here + there.rows_here).unwrap(), here.tally.scanned);
        assert_eq!(stage.differences(Under::Static(key)).await, [""; 0]);
    }
}

/// Every lease runs out all the time, under live workers of two processes.
#[tokio::test(flavor = "multi_thread")]
async fn live_workers_that_are_taken_for_dead_write_nothing_twice() {
    let mut stage = Stage::new("zombies", 3000).await;
    stage.options.batch = 20;
    stage.options.max_rows_per_second = Some(1500);
    let (old, keyring) = (stage.old(), stage.keyring("keyring"));
    let choice = stage.choice(Format::V3, &[&old], &format!("local-kms:{}", keyring.display()));
    let here = stage.job(&choice, Intent::Run).await;
    let there = Job { store: connect(&stage.on.database.url()).await, ..here.clone() };
    let reaper = tokio::spawn({
        let pool = stage.on.pool.clone();
        async move {
            loop {
                sqlx::query("UPDATE reseal_shards SET lease_until = clock_timestamp() - interval '1 s'")
                    .execute(&pool)
                    .await
                    .unwrap();
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
        }
    });
    let (here, there) = tokio::join!(run_job(here), run_job(there));
    reaper.abort();
    let fences = stage.number("SELECT sum(fence)::bigint FROM reseal_shards").await;
    let shards = stage.number("SELECT count(*) FROM reseal_shards").await;
    assert!(fences > shards, "no shard was taken over: {fences} claims of {shards}");
    assert_eq!((here.outcome, there.outcome), (Outcome::Complete, Outcome::Complete));
    let (cells, sealed) = stage.cells();
    assert_eq!((here.tally.total, here.tally.rekeyed, here.tally.conflicts), (cells, sealed, 0));
    assert!(here.tally.sums());
    assert_eq!(stage.differences(Under::Bound(&keyring)).await, [""; 0]);
}

/// A batch of one cell.
async fn commit_one(
    store: &dyn Store,
    target: &Target,
    lease: &Lease,
    key: &RowKey,
    [old, new]: [&[u8]; 2],
) -> Committed {
    let (mut before, mut after) = (Cells::new(2), Cells::new(2));
    before.push(Some(old));
    before.push(None);
    after.push(Some(new));
    after.push(None);
    let tally = Tally { scanned: 1, rekeyed: 1, total: 1, ..Tally::default() };
    let keys = std::slice::from_ref(key);
    let checkpoint = Checkpoint { cursor: Some(key), done: false, tally };
    let batch = Batch {
        keys,
        rowids: &[],
        max_value: 1 << 20,
        old: &before,
        new: &after,
        rows: 0..1,
        quarantined: &[],
        checkpoint,
    };
    store.commit(target, lease, batch).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_was_taken_over_commits_nothing() {
    let mut stage = Stage::new("fenced", 10).await;
    stage.options.rows_limit = Some(0);
    let (old, new) = (stage.old(), stage.static_key("new", &NEW));
    let report = stage.run(&stage.choice(Format::V1, &[&old], &new)).await;
    assert_eq!((report.outcome, report.tally.total), (Outcome::Interrupted, 0));

    let (store, target) = (stage.store.as_ref(), stage.target().await);
    let claim = async |worker: &str| match store.claim(&report.run, worker, KeyKind::Uuid).await.unwrap() {
        Claim::Leased(lease) => Some(*lease),
        Claim::Busy | Claim::SweepDone => None,
    };
    let first = claim("first").await.unwrap();
    assert!(claim("second").await.is_none(), "it is held");
    stage.execute("UPDATE reseal_shards SET lease_until = clock_timestamp() - interval '1 s'").await;
    let second = claim("second").await.unwrap();
    assert!(second.fence > first.fence);

    let limits = reseal::store::PageLimits { rows: 1, bytes: 1 << 20, value: 1 << 20 };
    let page = store.read_page(&target, &second.span, None, None, limits).await.unwrap();
    let (key, value) = (&page.keys[0], page.cells.at(0, 0).unwrap());
    let before = store.tally(&report.run.run_id, None).await.unwrap();
    assert!(!store.renew(&first).await.unwrap());
    store.release(&first).await.unwrap();
    assert!(claim("third").await.is_none(), "the first worker can't give away what is the second's");
    let fenced = commit_one(store, &target, &first, key, [value, b"zombie"]).await;
    assert!(matches!(fenced, Committed::Fenced));
    assert_eq!(store.tally(&report.run.run_id, None).await.unwrap(), before);
    assert_eq!(stage.differences(Under::Static(&OLD)).await, [""; 0]);

    let done = commit_one(store, &target, &second, key, [value, b"second"]).await;
    assert!(matches!(done, Committed::Done { unsettled, .. } if unsettled.is_empty()));
    assert_eq!(store.tally(&report.run.run_id, None).await.unwrap().rekeyed, 1);
}

/// A worker learns of an outage between two of its batches from nothing else than the cursor.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_the_server_lost_is_missed_by_the_next() {
    let mut stage = Stage::new("lost", 10).await;
    stage.options.rows_limit = Some(0);
    let (old, new) = (stage.old(), stage.static_key("new", &NEW));
    let report = stage.run(&stage.choice(Format::V1, &[&old], &new)).await;
    let (store, target) = (stage.store.as_ref(), stage.target().await);
    let Claim::Leased(lease) = store.claim(&report.run, "worker", KeyKind::Uuid).await.unwrap() else {
        panic!("the shard is free");
    };
    let limits = reseal::store::PageLimits { rows: 2, bytes: 1 << 20, value: 1 << 20 };
    let page = store.read_page(&target, &lease.span, None, None, limits).await.unwrap();
    let commit = async |lease: &Lease, row: usize| {
        let value = page.cells.at(row, 0).unwrap();
        commit_one(store, &target, lease, &page.keys[row], [value, b"new"]).await
    };
    assert!(matches!(commit(&lease, 0).await, Committed::Done { .. }));
    let after = lease.moved_to(Some(&page.keys[0]));
    let swapped =
        stage.number("SELECT count(*) FROM org_instances WHERE database_url_encrypted = 'new'").await;
    assert_eq!(swapped, 1);

    // What a crash leaves of a batch that was not on disk.
    stage.execute("UPDATE reseal_shards SET cursor_key = NULL, rekeyed = 0, total = 0, scanned = 0").await;
    assert!(matches!(commit(&after, 1).await, Committed::Fenced));
    let swapped =
        stage.number("SELECT count(*) FROM org_instances WHERE database_url_encrypted = 'new'").await;
    assert_eq!(swapped, 1, "the second batch was not written");
    assert!(matches!(commit(&lease, 0).await, Committed::Done { .. }));
    assert!(matches!(commit(&after, 1).await, Committed::Done { unsettled, .. } if unsettled.is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_keys_are_refused_while_a_run_is_open() {
    let mut stage = Stage::new("other_keys", 500).await;
    stage.options.rows_limit = Some(100);
    let (old, new) = (stage.old(), stage.static_key("new", &NEW));
    let choice = stage.choice(Format::V1, &[&old], &new);
    let report = stage.run(&choice).await;
    assert_eq!(report.outcome, Outcome::Interrupted);
    let other = stage.static_key("other", &[0x33; 32]);
    let other = stage.choice(Format::V1, &[&old, &new], &other);
    let refused = try_run_job(stage.job(&other, Intent::Run).await).await.unwrap_err();
    assert!(matches!(&refused, RekeyError::Refused { what, .. } if what.contains(&report.run.run_id)));
    assert!(!refused.is_resumable());

    stage.options.rows_limit = None;
    let report = stage.run(&choice).await;
    assert_eq!((report.outcome, report.tally.total), (Outcome::Complete, stage.cells().0));
    assert_eq!(stage.differences(Under::Static(&NEW)).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_stopped_goes_on_where_it_was() {
    let mut stage = Stage::new("stopped", 1000).await;
    stage.options.batch = 20;
    stage.options.max_rows_per_second = Some(100);
    let (old, keyring) = (stage.old(), stage.keyring("keyring"));
    let new = format!("local-kms:{}", keyring.display());
    let choice = stage.choice(Format::V2, &[&old], &new);
    let mut seen = 0;
    for _ in 0..3 {
        let (stop, signal) = rekey::stop_signal();
        let job = stage.job(&choice, Intent::Run).await;
        let run = tokio::spawn(rekey::run(job, signal, watch::Sender::default()));
        stage
            .wait_for(&format!("SELECT (coalesce(sum(scanned), 0) > {seen})::int::bigint FROM reseal_shards"))
            .await;
        stop.send_replace(Stop::AfterBatch);
        let asked = std::time::Instant::now();
        let report = run.await.unwrap().unwrap();
        assert!(asked.elapsed() < Duration::from_secs(2), "a slow pace delays no stop");
        assert_eq!(report.outcome, Outcome::Interrupted);
        assert!(report.tally.sums());
        assert_eq!(report.tally.total, 2 * report.tally.scanned);
        assert!(report.tally.scanned > seen && report.tally.scanned < 1000);
        seen = report.tally.scanned;
        assert_eq!(stage.number("SELECT count(*) FROM reseal_shards WHERE lease_until IS NOT NULL").await, 0);
    }
    let either = [Under::Static(&OLD), Under::Wrapped(&keyring)];
    assert_eq!(stage.differences_under_any(&either).await, [""; 0]);
    goes_on_to_its_end(&mut stage, &choice, 1000).await;
    assert_eq!(stage.differences(Under::Wrapped(&keyring)).await, [""; 0]);
}

/// Types the command again, at full speed: each of these rows was read once, and each value re-keyed.
async fn goes_on_to_its_end(stage: &mut Stage<OnPostgres>, choice: &KeyChoice, rows: i64) {
    stage.options.max_rows_per_second = None;
    let report = stage.run(choice).await;
    assert_eq!((report.outcome, report.tally.scanned), (Outcome::Complete, rows));
    assert_eq!((report.tally.total, report.tally.rekeyed), stage.cells());
}

/// A worker claims its next shard before it is through with the one at hand: when it stops, both are free at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_was_claimed_ahead_is_given_back() {
    let leased = "FROM reseal_shards WHERE lease_until IS NOT NULL AND NOT done";
    let mut stage = Stage::new("ahead", 4000).await;
    stage.options.workers = 4;
    stage.options.rows_limit = Some(1);
    let (old, new) = (stage.old(), stage.static_key("new", &NEW));
    let choice = stage.choice(Format::V1, &[&old], &new);
    assert_eq!(stage.run(&choice).await.outcome, Outcome::Interrupted);
    assert!(stage.number("SELECT count(*) FROM reseal_shards WHERE NOT done").await >= 3);

    stage.options.workers = 1;
    stage.options.rows_limit = None;
    stage.options.batch = 20;
    stage.options.max_rows_per_second = Some(500);
    let (stop, signal) = rekey::stop_signal();
    let job = stage.job(&choice, Intent::Run).await;
    let run = tokio::spawn(rekey::run(job, signal, watch::Sender::default()));
    stage.wait_for(&format!("SELECT (count(*) = 2)::int::bigint {leased}")).await;
    assert_eq!(stage.number(&format!("SELECT count(DISTINCT worker) {leased}")).await, 1);
    stop.send_replace(Stop::AfterBatch);
    assert_eq!(run.await.unwrap().unwrap().outcome, Outcome::Interrupted);
    assert_eq!(stage.number(&format!("SELECT count(*) {leased}")).await, 0);

    goes_on_to_its_end(&mut stage, &choice, 4000).await;
    assert_eq!(stage.differences(Under::Static(&NEW)).await, [""; 0]);
}

/// A worker that waits for a row of its batch when its shard is taken from it.
#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_worker_that_lost_its_shard_is_fenced() {
    let mut stage = Stage::new("blocked", 200).await;
    stage.options.workers = 1;
    let (old, new) = (stage.old(), stage.static_key("new", &NEW));
    let choice = stage.choice(Format::V1, &[&old], &new);
    let mut holder = stage.on.pool.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM org_instances FOR UPDATE").execute(&mut *holder).await.unwrap();
    let job = stage.job(&choice, Intent::Run).await;
    let there = Job { store: connect(&stage.on.database.url()).await, ..job.clone() };
    let run = tokio::spawn(run_job(job));
    stage.wait_for("SELECT count(*) FROM pg_locks WHERE NOT granted").await;
    // What a take-over does, on the row that the blocked batch holds: it waits for the batch to give up.
    stage.execute("UPDATE reseal_shards SET fence = fence + 1, lease_until = NULL").await;
    let there = tokio::spawn(run_job(there));
    holder.commit().await.unwrap();
    let (here, there) = (run.await.unwrap(), there.await.unwrap());
    assert_eq!((here.outcome, there.outcome), (Outcome::Complete, Outcome::Complete));
    assert_eq!((here.tally.total, here.tally.rekeyed), stage.cells());
    assert_eq!(stage.differences(Under::Static(&NEW)).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_run_that_failed_nothing_is_committed_and_nothing_claimed() {
    let mut stage = Stage::new("failed", 10).await;
    stage.options.rows_limit = Some(0);
    let (old, new) = (stage.old(), stage.static_key("new", &NEW));
    let report = stage.run(&stage.choice(Format::V1, &[&old], &new)).await;
    let (store, target) = (stage.store.as_ref(), stage.target().await);
    let claim = async || store.claim(&report.run, "worker", KeyKind::Uuid).await.unwrap();
    let Claim::Leased(lease) = claim().await else { panic!("the shard is free") };
    let limits = reseal::store::PageLimits { rows: 1, bytes: 1 << 20, value: 1 << 20 };
    let page = store.read_page(&target, &lease.span, None, None, limits).await.unwrap();

    assert!(store.move_run(&report.run, RunState::Failed).await.unwrap());
    let value = page.cells.at(0, 0).unwrap();
    let late = commit_one(store, &target, &lease, &page.keys[0], [value, b"late"]).await;
    assert!(matches!(late, Committed::Fenced), "{late:?}");
    assert!(!store.renew(&lease).await.unwrap());
    assert!(matches!(claim().await, Claim::Busy), "by the run's row as it was");
    assert_eq!(stage.differences(Under::Static(&OLD)).await, [""; 0]);
}

/// A process waits for leave to write while another one's part ends the run.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_waits_leaves_a_run_that_failed() {
    let mut stage = Stage::new("failed_wait", 500).await;
    stage.options.batch = 20;
    stage.options.max_rows_per_second = Some(20);
    let (old, new) = (stage.old(), stage.static_key("new", &NEW));
    let choice = stage.choice(Format::V1, &[&old], &new);
    let waits = tokio::spawn(run_job(stage.job(&choice, Intent::Run).await));
    stage.wait_for("SELECT coalesce(sum(scanned), 0)::bigint FROM reseal_shards").await;
    stage.execute("UPDATE reseal_runs SET rate = 1").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let run = stage.store.open_run("org_instances").await.unwrap().unwrap();
    assert!(stage.store.move_run(&run, RunState::Failed).await.unwrap());
    let failed = std::time::Instant::now();
    let report = waits.await.unwrap();
    assert!(failed.elapsed() < Duration::from_secs(5), "it does not wait for its turn first");
    assert_eq!(report.outcome, Outcome::Failed);
    let scanned = report.tally.scanned;
    assert!(scanned < 500, "{scanned}");

    stage.options.max_rows_per_second = None;
    let back = stage.choice(Format::V1, &[&new], &old);
    assert_eq!(stage.run(&back).await.outcome, Outcome::Complete);
    assert_eq!(stage.differences(Under::Static(&OLD)).await, [""; 0]);
}
