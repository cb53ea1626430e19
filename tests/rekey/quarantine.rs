//! Values that can't be opened stop nothing, are named with a reason, count once, and can be mended.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use reseal::{
    envelope::Format,
    keyring::ClearText,
    rekey::{self, Hook, Intent, KeyChoice, Moment, Outcome, Step},
};
use tokio::{runtime::Handle, task::block_in_place};
use uuid::Uuid;

use super::stage::{Database, OLD, Stage, Under};
use crate::support::{
    oracle::{self, Cell, Key},
    tenants::{COLUMNS, Holds, TABLE},
};

const OTHER: Key = [0x55; 32];

async fn store_value(stage: &Stage, row: Uuid, value: &[u8]) {
    let set = "UPDATE org_instances SET database_url_encrypted = $1 WHERE org_id = $2";
    sqlx::query(set).bind(value).bind(row).execute(&stage.on.pool).await.unwrap();
}

async fn stored_value(stage: &Stage, row: Uuid) -> Vec<u8> {
    let get = "SELECT database_url_encrypted FROM org_instances WHERE org_id = $1";
    sqlx::query_scalar(get).bind(row).fetch_one(&stage.on.pool).await.unwrap()
}

async fn reasons(stage: &Stage) -> BTreeMap<Uuid, String> {
    let records = stage.store.quarantine(TABLE, None, 100).await.unwrap();
    assert!(records.iter().all(|record| record.column == COLUMNS[0]));
    records.into_iter().map(|record| (record.row_key.parse().unwrap(), record.reason)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_bad_value_has_its_reason_and_counts_once() {
    let mut stage = Stage::new("bad", 400).await;
    let rows: Vec<Uuid> = stage.expected.0.keys().copied().collect();
    let url = "postgres://in:the@clear/db";
    let unknown = Cell { table: TABLE, column: COLUMNS[0], row: &rows[30].to_string() };
    let long = "x".repeat(5000);
    let bad = [
        ("malformed", b"short".to_vec()),
        ("unopened", oracle::seal_v1(&OTHER, Some([7; 12]), b"postgres://other")),
        ("plaintext", url.as_bytes().to_vec()),
        ("unknown-key", oracle::seal_v3(&OTHER, unknown, b"postgres://bound")),
        ("too-large", oracle::seal_v1(&OLD, None, long.as_bytes())),
    ];
    let mended = ["postgres://again", "postgres://other", url, "postgres://again", &long];
    for (number, (_, value)) in bad.iter().enumerate() {
        store_value(&stage, rows[number * 10], value).await;
        // What the cell holds once it is mended.
        stage.expected.0.get_mut(&rows[number * 10]).unwrap()[0] = Holds::Sealed(mended[number].to_owned());
    }
    let (cells, sealed) = stage.cells();
    stage.options.max_value = 4096;
    let (old, keyring) = (stage.old(), stage.keyring("keyring"));
    let choice = stage.choice(Format::V3, &[&old], &format!("local-kms:{}", keyring.display()));
    let report = stage.run(&choice).await;
    assert_eq!((report.outcome, report.run.sweep), (Outcome::Quarantined, 2));
    assert_eq!((report.tally.total, report.tally.quarantined), (cells, 5), "once, in two sweeps");
    assert_eq!(report.tally.rekeyed, sealed - 5);
    assert!(report.tally.sums());
    let found = reasons(&stage).await;
    assert_eq!(found.len(), bad.len());
    for (number, (reason, value)) in bad.iter().enumerate() {
        assert_eq!(&found[&rows[number * 10]], reason);
        assert_eq!(&stored_value(&stage, rows[number * 10]).await, value, "{reason} is left as it is");
    }
    let verified = stage.verify(&choice).await;
    assert!(!verified.passed() && verified.is_whole());
    assert_eq!(verified.failed, 5);

    // The same again: they are counted by the new run, and recorded once.
    let report = stage.run(&choice).await;
    assert_eq!((report.outcome, report.tally.quarantined), (Outcome::Quarantined, 5));
    assert_eq!(reasons(&stage).await, found);

    // The missing key, a higher limit and leave to seal what is in the clear mend three of them.
    let other = stage.static_key("other", &OTHER);
    stage.options.max_value = 16 << 20;
    let choice = KeyChoice {
        clear_text: ClearText::Seal,
        ..stage.choice(Format::V3, &[&old, &other], &format!("local-kms:{}", keyring.display()))
    };
    let job = Arc::new(stage.job(&choice, Intent::Run).await);
    let retried = rekey::retry_quarantined(&job).await.unwrap();
    assert_eq!((retried.rekeyed, retried.settled, retried.quarantined), (3, 0, 2));
    assert_eq!(reasons(&stage).await.into_values().collect::<Vec<_>>(), ["malformed", "unknown-key"]);

    // The others are replaced by their owners, under the old key; the next run takes them out of quarantine.
    for number in [0, 30] {
        store_value(&stage, rows[number], &oracle::seal_v1(&OLD, None, b"postgres://again")).await;
    }
    let report = stage.run(&choice).await;
    assert_eq!((report.outcome, report.tally.rekeyed), (Outcome::Complete, 2));
    assert_eq!(stage.store.quarantine_size(TABLE).await.unwrap(), 0);
    assert_eq!(stage.differences(Under::Bound(&keyring)).await, [""; 0]);
    assert!(stage.verify(&choice).await.passed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_or_changed_bound_value_is_tampered() {
    let mut stage = Stage::new("tampered", 100).await;
    let (old, keyring) = (stage.old(), stage.keyring("keyring"));
    let new = format!("local-kms:{}", keyring.display());
    let first = stage.choice(Format::V3, &[&old], &new);
    assert_eq!(stage.run(&first).await.outcome, Outcome::Complete);

    let sealed = stage.expected.0.iter().filter(|(_, holds)| matches!(holds[0], Holds::Sealed(_)));
    let rows: Vec<Uuid> = sealed.map(|(row, _)| *row).collect();
    let (one, two) = (stored_value(&stage, rows[1]).await, stored_value(&stage, rows[2]).await);
    store_value(&stage, rows[1], &two).await;
    store_value(&stage, rows[2], &one).await;
    let mut changed = stored_value(&stage, rows[3]).await;
    *changed.last_mut().unwrap() ^= 1;
    store_value(&stage, rows[3], &changed).await;
    for row in &rows[1..4] {
        stage.expected.0.remove(row);
    }
    let verified = stage.verify(&first).await;
    assert_eq!((verified.failed, verified.is_whole()), (3, true));
    assert!(verified.failures.iter().all(|failure| failure.reason == "tampered"));

    let again = KeyChoice { new_data_key: true, ..stage.choice(Format::V3, &[&new], &new) };
    let report = stage.run(&again).await;
    assert_eq!((report.outcome, report.tally.quarantined), (Outcome::Quarantined, 3));
    assert!(report.tally.sums());
    assert_eq!(report.tally.total, 200);
    assert_eq!(reasons(&stage).await.into_values().collect::<Vec<_>>(), ["tampered"; 3]);
    assert_eq!(stage.number("SELECT count(*) FROM reseal_data_keys").await, 2);
    let left_out = stage.differences(Under::Bound(&keyring)).await;
    assert!(
        left_out.iter().all(|line| line.ends_with("not one of the rows, or there twice")),
        "{left_out:?}"
    );
    assert_eq!(left_out.len(), 3);

    // Put back where they belong, they open again.
    store_value(&stage, rows[1], &one).await;
    store_value(&stage, rows[2], &two).await;
    *changed.last_mut().unwrap() ^= 1;
    store_value(&stage, rows[3], &changed).await;
    let job = Arc::new(stage.job(&stage.choice(Format::V3, &[&new], &new), Intent::Run).await);
    let retried = rekey::retry_quarantined(&job).await.unwrap();
    assert_eq!((retried.rekeyed, retried.quarantined), (3, 0));
    assert!(stage.verify(&stage.choice(Format::V3, &[], &new)).await.passed());
}

/// A row that is written while the first sweep goes by is left to the next, which looks into nothing that shows the new
/// key.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_stays_while_nobody_has_opened_its_cell() {
    let mut stage = Stage::new("unvisited", 100).await;
    let (old, keyring) = (stage.old(), stage.keyring("keyring"));
    let new = format!("local-kms:{}", keyring.display());
    assert_eq!(stage.run(&stage.choice(Format::V3, &[&old], &new)).await.outcome, Outcome::Complete);
    let sealed = stage.expected.0.iter().find(|(_, holds)| matches!(holds[0], Holds::Sealed(_)));
    let row = *sealed.unwrap().0;
    let value = stored_value(&stage, row).await;
    let mut tampered = value.clone();
    *tampered.last_mut().unwrap() ^= 1;
    store_value(&stage, row, &tampered).await;
    let choice = stage.choice(Format::V3, &[&new], &new);
    assert_eq!(stage.run(&choice).await.outcome, Outcome::Quarantined);

    // From here on somebody touches the row at the beginning of each run.
    let (pool, runtime, touched) = (stage.on.pool.clone(), Handle::current(), Mutex::new(HashSet::new()));
    stage.options.hook = Hook::new(move |step, moment| {
        if (step, moment) == (Step::ReadPage, Moment::Before) {
            block_in_place(|| {
                runtime.block_on(async {
                    let run = "SELECT run_id FROM reseal_runs WHERE state = 'running'";
                    let run: String = sqlx::query_scalar(run).fetch_one(&pool).await.unwrap();
                    if touched.lock().unwrap().insert(run) {
                        let touch = "UPDATE org_instances SET status = 'touched' WHERE org_id = $1";
                        sqlx::query(touch).bind(row).execute(&pool).await.unwrap();
                    }
                })
            });
        }
    });
    let report = stage.run(&choice).await;
    assert_eq!((report.outcome, report.tally.scanned), (Outcome::Quarantined, 99));
    assert_eq!(reasons(&stage).await, BTreeMap::from([(row, "tampered".to_owned())]));

    store_value(&stage, row, &value).await;
    assert_eq!(stage.run(&choice).await.outcome, Outcome::Complete);
    assert_eq!(stage.store.quarantine_size(TABLE).await.unwrap(), 0);
    assert!(stage.verify(&choice).await.passed());
}

/// A value that is too large to be read is so too when somebody writes it between our read and our batch.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_value_that_is_written_under_a_batch_is_not_read() {
    let set = "UPDATE org_instances SET database_url_encrypted = $1 WHERE org_id = $2";
    let stage = Stage::new("large_late", 100).await;
    let (pool, runtime) = (stage.on.pool.clone(), Handle::current());
    let write = move |row: Uuid, value: Vec<u8>| {
        block_in_place(|| runtime.block_on(sqlx::query(set).bind(value).bind(row).execute(&pool))).unwrap();
    };
    large_value_on(stage, write).await;
    let stage = Stage::on_sqlite(100).await;
    let (pool, runtime) = (stage.on.pool.clone(), Handle::current());
    let write = move |row: Uuid, value: Vec<u8>| {
        let update = sqlx::query(set).bind(value).bind(row.to_string());
        block_in_place(|| runtime.block_on(update.execute(&pool))).unwrap();
    };
    large_value_on(stage, write).await;
}

async fn large_value_on<D: Database>(
    mut stage: Stage<D>,
    write: impl Fn(Uuid, Vec<u8>) + Send + Sync + 'static,
) {
    let row = *stage.expected.0.keys().next().unwrap();
    let written = AtomicBool::new(false);
    stage.options.max_value = 4096;
    stage.options.hook = Hook::new(move |step, moment| {
        if (step, moment) == (Step::Commit, Moment::Before) && !written.swap(true, Ordering::Relaxed) {
            write(row, oracle::seal_v1(&OLD, None, "x".repeat(5000).as_bytes()));
        }
    });
    let (old, new) = (stage.old(), stage.static_key("new", &OTHER));
    let report = stage.run(&stage.choice(Format::V1, &[&old], &new)).await;
    assert_eq!((report.outcome, report.tally.quarantined), (Outcome::Quarantined, 1));
    assert_eq!(stage.store.quarantine(TABLE, None, 100).await.unwrap()[0].reason, "too-large");
}
