//! Clocks that are set back, and processes for which time stood still.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use reseal::{
    envelope::Format,
    rekey::{self, Hook, Intent, Moment, Options, Outcome, Step},
    store::{Claim, KeyKind, TargetName},
};
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, waitpid};
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use super::stage::{OLD, Stage, Under, connect, try_run_job};
use crate::support::{
    oracle::{self, Key},
    tenants::{COLUMNS, Holds, TABLE},
};

const NEW: Key = [0x22; 32];

/// Leases are times of the database's clock. One that ends later than any could be granted now is from before that
/// clock was set back, and must not keep everybody waiting until it comes round again.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_from_before_the_clock_was_set_back_has_run_out() {
    let mut stage = Stage::new("clock_lease", 40).await;
    stage.options.rows_limit = Some(0);
    let (old, new) = (stage.old(), stage.static_key("new", &NEW));
    let choice = stage.choice(Format::V1, &[&old], &new);
    let run = stage.run(&choice).await.run;
    let claim = async |worker: &str| match stage.store.claim(&run, worker, KeyKind::Uuid).await.unwrap() {
        Claim::Leased(lease) => Some(*lease),
        Claim::Busy | Claim::SweepDone => None,
    };
    let first = claim("first").await.unwrap();
    assert!(claim("second").await.is_none(), "it was granted a moment ago");
    stage.execute("UPDATE reseal_shards SET lease_until = lease_until + interval '1 hour'").await;
    let second = claim("second").await.unwrap();
    assert!(second.fence > first.fence);
    assert!(!stage.store.renew(&first).await.unwrap(), "whoever held it before is fenced");
    assert!(claim("third").await.is_none(), "the second is as good as any");

    stage.execute("UPDATE reseal_shards SET lease_until = lease_until + interval '1 hour'").await;
    stage.options.rows_limit = None;
    let report = stage.run(&choice).await;
    assert_eq!((report.outcome, report.tally.total), (Outcome::Complete, 80));
    assert_eq!(stage.differences(Under::Static(&NEW)).await, [""; 0]);
}

/// Runs are told apart by their ids, newest last, and an id begins with the time of the machine that made it.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_after_one_from_the_future_is_the_latest() {
    let stage = Stage::new("clock_run", 40).await;
    let (old, new) = (stage.old(), stage.static_key("new", &NEW));
    let choice = stage.choice(Format::V1, &[&old], &new);
    stage.store.register(&stage.target().await).await.unwrap();
    let ahead =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap() + Duration::from_secs(86400);
    let ahead = Ulid::from_parts(u64::try_from(ahead.as_millis()).unwrap(), 0).to_string();
    let row = *stage.expected.0.keys().next().unwrap();
    stage
        .execute(&format!(
            "INSERT INTO reseal_runs (run_id, target, keys, state, row_count)
                 VALUES ('{ahead}', 'org_instances', '{{}}', 'quarantined', 40);
             INSERT INTO reseal_quarantine (target, row_key, column_name, run_id, reason, sha256)
                 VALUES ('org_instances', '{row}', 'database_url_encrypted', '{ahead}', 'unopened', sha256('gone'))"
        ))
        .await;
    let report = stage.run(&choice).await;
    assert_eq!(report.outcome, Outcome::Complete, "what the run before it had to leave is mended");
    assert!(report.run.run_id > ahead);
    let latest = stage.store.latest_run("org_instances").await.unwrap().unwrap();
    assert_eq!(latest.run_id, report.run.run_id);
    assert_eq!(stage.differences(Under::Static(&NEW)).await, [""; 0]);
}

/// What the process that sleeps is told, in its environment.
#[derive(Serialize, Deserialize)]
struct Orders {
    url: String,
    folder: PathBuf,
}

const ORDERS: &str = "RESEAL_TEST_SLEEP";

const BATCH: usize = 25;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the half of the test below that sleeps, which starts it in a process of its own"]
async fn the_half_that_sleeps() {
    let Ok(orders) = std::env::var(ORDERS) else { return };
    let Orders { url, folder } = serde_json::from_str(&orders).unwrap();
    let hook = Hook::new(|step, moment| {
        if (step, moment) == (Step::Commit, Moment::Before) {
            kill_process(getpid(), Signal::STOP).unwrap();
        }
    });
    let options = Options { workers: 1, batch: BATCH, hook, ..Options::default() };
    let store = connect(&url).await;
    let name = TargetName {
        logical: None,
        schema: None,
        table: TABLE.to_owned(),
        key_column: "org_id".to_owned(),
        columns: COLUMNS.map(str::to_owned).to_vec(),
    };
    let target = store.inspect(&name).await.unwrap().target.unwrap();
    let key = |name: &str| format!("static:file:{}", folder.join(name).display()).parse().unwrap();
    let choice = rekey::KeyChoice {
        old: vec![key("old")],
        new: key("new"),
        format: Format::V1,
        scope: rekey::DataKeyScope::Row,
        new_data_key: false,
        clear_text: reseal::keyring::ClearText::Quarantine,
    };
    let job = rekey::prepare(store, target, &choice, options, Intent::Run).await.unwrap();
    let report = try_run_job(job).await.unwrap();
    assert_eq!((report.outcome, report.rows_here), (Outcome::Complete, 0), "its one commit was refused");
}

/// A process that has read and sealed its batch sleeps on the very brink of its commit, for longer than its lease.
/// Others take over when the lease has run out, and not sooner; what it wakes up with is worth nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_sleeps_on_the_brink_of_its_commit_is_fenced() {
    let mut stage = Stage::new("brink", 200).await;
    let (old, new) = (stage.old(), stage.static_key("new", &NEW));
    let orders = Orders { url: stage.on.database.url(), folder: stage.folder.path().to_owned() };
    let mut sleeper = Command::new(std::env::current_exe().unwrap())
        .args(["rekey::clock::the_half_that_sleeps", "--exact", "--ignored", "--nocapture"])
        .env(ORDERS, serde_json::to_string(&orders).unwrap())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_until_stopped(&sleeper).await;
    let asleep = Instant::now();

    // The first row of its batch gets a value that it has not seen.
    let row = *stage.expected.0.keys().next().unwrap();
    let value = oracle::seal_v1(&OLD, None, b"postgres://while/it/slept");
    let set = "UPDATE org_instances SET database_url_encrypted = $1 WHERE org_id = $2";
    sqlx::query(set).bind(value).bind(row).execute(&stage.on.pool).await.unwrap();
    stage.expected.0.get_mut(&row).unwrap()[0] = Holds::Sealed("postgres://while/it/slept".to_owned());

    stage.options.batch = BATCH;
    let report = stage.run(&stage.choice(Format::V1, &[&old], &new)).await;
    let waited = asleep.elapsed().as_secs();
    assert!((15..30).contains(&waited), "a lease lasts 20 s, and was waited for {waited} s");
    assert_eq!(
        (report.outcome, report.tally.scanned),
        (Outcome::Complete, 199),
        "all but the one that was written"
    );
    assert_eq!((report.tally.total, report.tally.rekeyed), stage.cells());
    let before = stored_bytes(&stage).await;

    kill_process(Pid::from_child(&sleeper), Signal::CONT).unwrap();
    let ended = loop {
        if let Some(ended) = sleeper.try_wait().unwrap() {
            break ended;
        }
        assert!(asleep.elapsed() < Duration::from_secs(90), "it does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(ended.success(), "it says what it should have found: {ended}");
    assert_eq!(stored_bytes(&stage).await, before, "it wrote nothing");
    assert_eq!(stage.differences(Under::Static(&NEW)).await, [""; 0]);
    assert_eq!(stage.store.tally(&report.run.run_id, None).await.unwrap(), report.tally);
}

async fn wait_until_stopped(child: &Child) {
    let started = Instant::now();
    loop {
        let options = WaitOptions::UNTRACED | WaitOptions::NOHANG;
        if let Some((_, status)) = waitpid(Some(Pid::from_child(child)), options).unwrap() {
            assert!(status.stopped(), "it ended");
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "it does not come to its commit");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn stored_bytes(stage: &Stage) -> Vec<(String, Option<Vec<u8>>, Option<Vec<u8>>)> {
    let all =
        "SELECT org_id::text, database_url_encrypted, redis_url_encrypted FROM org_instances ORDER BY 1";
    sqlx::query_as(all).fetch_all(&stage.on.pool).await.unwrap()
}
