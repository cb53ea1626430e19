//! One static key to another for a reader that can hold only one.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use reseal::{
    envelope::Format,
    rekey::{self, Intent, Job, KeyChoice, Outcome, RekeyError, StagePass},
    store::PageLimits,
};
use sqlx::Row;
use uuid::Uuid;

use super::stage::{Database, OLD, Stage, Under};
use crate::support::{
    oracle::{self, Key},
    tenants::Holds,
};

const NEW: Key = [0x22; 32];

fn keys<D: Database>(stage: &Stage<D>) -> KeyChoice {
    stage.choice(Format::V1, &[&stage.old()], &stage.static_key("new", &NEW))
}

async fn job<D: Database>(stage: &Stage<D>) -> Arc<Job> {
    Arc::new(stage.job(&keys(stage), Intent::Run).await)
}

fn rows<D: Database>(stage: &Stage<D>, column: usize, count: usize) -> Vec<Uuid> {
    let sealed = stage.expected.0.iter().filter(|(_, holds)| matches!(holds[column], Holds::Sealed(_)));
    sealed.map(|(row, _)| *row).take(count).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_values_change_at_once() {
    at_once_on(Stage::new("staged", 1500).await).await;
    at_once_on(Stage::on_sqlite(1500).await).await;
}

async fn at_once_on<D: Database>(mut stage: Stage<D>) {
    let job = job(&stage).await;
    let (_, sealed) = stage.cells();
    let pass = rekey::stage(&job).await.unwrap();
    assert_eq!(pass, StagePass { staged: sealed, current: 0, refused: 0 });
    assert_eq!(stage.differences(Under::Static(&OLD)).await, [""; 0], "nothing is changed yet");
    let again = rekey::stage(&job).await.unwrap();
    assert_eq!(again, StagePass::default(), "what is staged is not sealed again");

    // Somebody writes meanwhile: the next pass takes in what changed, and nothing else.
    for (number, row) in rows(&stage, 0, 5).into_iter().enumerate() {
        stage.hold(row, 0, &format!("postgres://written/{number}")).await;
    }
    let swapped = rekey::swap_staged(&job, 0).await.unwrap();
    assert_eq!((swapped.values, swapped.changed), (Some(sealed), 0));
    assert_eq!(stage.differences(Under::Static(&NEW)).await, [""; 0]);
    assert!(stage.verify(&keys(&stage)).await.passed());
    let page = PageLimits { rows: 10, bytes: 1 << 20, value: 1 << 20 };
    assert_eq!(
        job.store.unstaged(&job.target, None, page).await.unwrap().keys.len(),
        10,
        "the side table is empty"
    );

    // A machine that still has the old key writes: the ordinary run, with both keys, mends it.
    let late = rows(&stage, 1, 1)[0];
    stage.hold(late, 1, "rediss://late").await;
    let report = stage.run(&keys(&stage)).await;
    assert_eq!((report.outcome, report.tally.rekeyed), (Outcome::Complete, 1));
    assert_eq!(stage.differences(Under::Static(&NEW)).await, [""; 0]);

    let log = job.store.audit_page(0, 100).await.unwrap();
    let actions: Vec<&str> = log.iter().map(|record| record.action.as_str()).collect();
    for action in ["staging-opened", "staged-values-swapped"] {
        assert_eq!(actions.iter().filter(|done| **done == action).count(), 1, "{actions:?}");
    }

    // The way back is the same, from the new key to the old one.
    let back = stage.choice(Format::V1, &[&stage.static_key("new", &NEW)], &stage.old());
    let back = Arc::new(stage.job(&back, Intent::Run).await);
    rekey::stage(&back).await.unwrap();
    rekey::swap_staged(&back, 0).await.unwrap();
    assert_eq!(stage.differences(Under::Static(&OLD)).await, [""; 0]);
}

/// A writer holds rows while the swap waits for its lock, and commits: those rows changed after the last pass.
#[tokio::test(flavor = "multi_thread")]
async fn what_changed_at_the_last_moment_is_sealed_under_the_lock_or_stops_the_swap() {
    let mut stage = Stage::new("staged_late", 600).await;
    let job = job(&stage).await;
    rekey::stage(&job).await.unwrap();
    let (_, sealed) = stage.cells();
    for most in [3, 10] {
        let late = rows(&stage, 0, 5);
        let mut writer = stage.on.pool.begin().await.unwrap();
        for row in &late {
            let text = format!("postgres://late/{most}");
            sqlx::query("UPDATE org_instances SET database_url_encrypted = $1 WHERE org_id = $2")
                .bind(oracle::seal_v1(&OLD, None, text.as_bytes()))
                .bind(row)
                .execute(&mut *writer)
                .await
                .unwrap();
            stage.expected.0.get_mut(row).unwrap()[0] = Holds::Sealed(text);
        }
        let swap = tokio::spawn({
            let job = Arc::clone(&job);
            async move { rekey::swap_staged(&job, most).await }
        });
        stage
            .wait_for(
                "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database \
                 WHERE NOT granted AND datname = current_database() AND mode = 'ShareRowExclusiveLock'",
            )
            .await;
        writer.commit().await.unwrap();
        let swapped = swap.await.unwrap();
        if most == 3 {
            let refused = swapped.unwrap_err();
            assert!(matches!(&refused, RekeyError::Refused { .. }), "{refused}");
            assert!(refused.to_string().contains("more than 3 rows"), "{refused}");
            assert_eq!(stage.differences(Under::Static(&OLD)).await, [""; 0], "nothing was swapped");
        } else {
            let swapped = swapped.unwrap();
            assert_eq!((swapped.changed, swapped.values), (5, Some(sealed)));
            assert_eq!(stage.differences(Under::Static(&NEW)).await, [""; 0]);
        }
    }
}

/// Before, in and after the transaction.
#[tokio::test(flavor = "multi_thread")]
async fn a_death_on_either_side_of_the_swap_loses_nothing() {
    death_on(Stage::new("staged_death", 500).await).await;
    death_on(Stage::on_sqlite(500).await).await;
}

async fn death_on<D: Database>(mut stage: Stage<D>) {
    let job = job(&stage).await;
    let (_, sealed) = stage.cells();
    // In the middle of staging: some pages are staged, and the next call takes the others.
    let limits = PageLimits { rows: 200, bytes: 4 << 20, value: 1 << 20 };
    rekey::stage(&job).await.unwrap();
    job.store.clear_staged("org_instances", 150).await.unwrap();
    assert!(rekey::stage(&job).await.unwrap().staged > 100);

    // With the lock held, and with the changed rows read.
    drop(job.store.begin_swap(&job.target).await.unwrap());
    let mut swap = job.store.begin_swap(&job.target).await.unwrap();
    assert!(swap.changed(limits).await.unwrap().keys.is_empty());
    drop(swap);
    assert_eq!(stage.differences(Under::Static(&OLD)).await, [""; 0]);
    let row = rows(&stage, 0, 1)[0];
    stage.hold(row, 0, "postgres://writers/are/let/in/again").await;
    rekey::stage(&job).await.unwrap();

    // After the commit, before the side table is cleared.
    let swap = job.store.begin_swap(&job.target).await.unwrap();
    let none = reseal::store::Page::new(2);
    assert_eq!(swap.finish(&[], &none.cells, &none.cells).await.unwrap(), sealed);
    assert_eq!(stage.differences(Under::Static(&NEW)).await, [""; 0]);
    // A row goes on under the new key; what was staged for it must not come back.
    stage.on.put(row, 0, oracle::seal_v1(&NEW, None, b"postgres://later")).await;
    stage.expected.0.get_mut(&row).unwrap()[0] = Holds::Sealed("postgres://later".to_owned());
    assert_eq!(rekey::swap_staged(&job, 0).await.unwrap().values, None);
    assert_eq!(job.store.clear_staged("org_instances", 1).await.unwrap(), 0, "it was cleared");
    assert_eq!(stage.differences(Under::Static(&NEW)).await, [""; 0]);
    assert!(stage.verify(&keys(&stage)).await.passed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_staging_is_swapped_under_its_own_keys_or_dropped() {
    let stage = Stage::on_sqlite(50).await;
    let job = job(&stage).await;
    let nothing = rekey::swap_staged(&job, 0).await.unwrap_err();
    assert_eq!(nothing.to_string(), "nothing is staged for org_instances");
    rekey::stage(&job).await.unwrap();

    let other = stage.choice(Format::V1, &[&stage.old()], &stage.static_key("other", &[0x33; 32]));
    let other = Arc::new(stage.job(&other, Intent::Run).await);
    for refused in [rekey::stage(&other).await.map(drop), rekey::swap_staged(&other, 0).await.map(drop)] {
        assert_eq!(refused.unwrap_err().to_string(), "values of org_instances are staged under other keys");
    }
    rekey::drop_staged(&other).await.unwrap();
    assert_eq!(stage.differences(Under::Static(&OLD)).await, [""; 0]);
    rekey::stage(&other).await.unwrap();
    rekey::swap_staged(&other, 0).await.unwrap();
    assert_eq!(stage.differences(Under::Static(&[0x33; 32])).await, [""; 0]);

    let kms = stage.keyring("keyring");
    let wrapped = stage.choice(Format::V2, &[&stage.old()], &format!("local-kms:{}", kms.display()));
    let wrapped = Arc::new(stage.job(&wrapped, Intent::Run).await);
    assert!(matches!(rekey::stage(&wrapped).await, Err(RekeyError::Refused { .. })));
}

/// Base64 in text, keys of text that another collation takes for equal, NULLs, a value that nothing opens, and one that
/// is too large.
#[tokio::test(flavor = "multi_thread")]
async fn text_columns_text_keys_and_bad_values() {
    let mut stage = Stage::new("staged_text", 10).await;
    stage.options.max_value = 1000;
    stage.execute("CREATE TABLE things (name text PRIMARY KEY, one text, two bytea)").await;
    let sealed = |text: &str| oracle::seal_v1(&OLD, None, text.as_bytes());
    for (name, one, two) in [
        ("a", Some("redis://one"), Some("redis://two")),
        ("A", Some("redis://three"), None),
        ("b'\"\\", None, Some("redis://four")),
        ("empty", None, None),
    ] {
        sqlx::query("INSERT INTO things VALUES ($1, $2, $3)")
            .bind(name)
            .bind(one.map(|text| BASE64_STANDARD.encode(sealed(text))))
            .bind(two.map(sealed))
            .execute(&stage.on.pool)
            .await
            .unwrap();
    }
    sqlx::query("INSERT INTO things VALUES ('bad', 'not base64', $1), ('large', NULL, $2)")
        .bind(vec![7_u8; 60])
        .bind(sealed(&"x".repeat(2000)))
        .execute(&stage.on.pool)
        .await
        .unwrap();
    let target = stage.target_of("things", "name", &["one", "two"]).await;
    let job = Arc::new(stage.job_of(target, &keys(&stage), Intent::Run).await);
    assert_eq!(rekey::stage(&job).await.unwrap(), StagePass { staged: 4, current: 0, refused: 2 });
    let swapped = rekey::swap_staged(&job, 0).await.unwrap();
    assert_eq!((swapped.values, swapped.changed), (Some(4), 0));
    let mut opened = Vec::new();
    for row in sqlx::query("SELECT name, one, two FROM things ORDER BY name COLLATE \"C\"")
        .fetch_all(&stage.on.pool)
        .await
        .unwrap()
    {
        let open = |value: Option<Vec<u8>>| {
            let value = value.and_then(|value| oracle::open_v1(&NEW, &value));
            value.map(|text| String::from_utf8(text).unwrap())
        };
        let one = row.get::<Option<String>, _>(1).and_then(|text| BASE64_STANDARD.decode(text).ok());
        opened.push((row.get::<String, _>(0), open(one), open(row.get(2))));
    }
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        opened,
        [
            ("A".to_owned(), text("redis://three"), None),
            ("a".to_owned(), text("redis://one"), text("redis://two")),
            ("b'\"\\".to_owned(), None, text("redis://four")),
            ("bad".to_owned(), None, None),
            ("empty".to_owned(), None, None),
            ("large".to_owned(), None, None),
        ]
    );
    assert_eq!(
        stage.number("SELECT count(*) FROM things WHERE one = 'not base64' OR length(two) > 1000").await,
        2,
        "what can't be opened stays as it is"
    );
}

/// A trigger that puts the old value back undoes the swap: it is refused as a whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_undoes_the_swap_keeps_every_old_value() {
    let stage = Stage::new("staged_undone", 100).await;
    let row = rows(&stage, 0, 1)[0];
    stage
        .execute(&format!(
            "CREATE FUNCTION undo() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             IF NEW.org_id = '{row}' THEN NEW.database_url_encrypted := OLD.database_url_encrypted; END IF; \
             RETURN NEW; END $$; \
             CREATE TRIGGER undo BEFORE UPDATE ON org_instances FOR EACH ROW EXECUTE FUNCTION undo()"
        ))
        .await;
    let job = job(&stage).await;
    rekey::stage(&job).await.unwrap();
    let error = rekey::swap_staged(&job, 0).await.unwrap_err();
    assert!(error.to_string().contains(&format!("row {row}, column database_url_encrypted")), "{error}");
    assert_eq!(stage.differences(Under::Static(&OLD)).await, [""; 0]);
}

/// The server ends the connection that holds the lock, as when it restarts.
#[tokio::test(flavor = "multi_thread")]
async fn a_swap_that_is_cut_off_swaps_nothing() {
    let stage = Stage::new("staged_cut", 300).await;
    let job = job(&stage).await;
    rekey::stage(&job).await.unwrap();
    let swap = job.store.begin_swap(&job.target).await.unwrap();
    stage
        .execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_database d ON d.oid = database \
             WHERE granted AND datname = current_database() AND mode = 'ShareRowExclusiveLock'",
        )
        .await;
    let none = reseal::store::Page::new(2);
    let error = swap.finish(&[], &none.cells, &none.cells).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert_eq!(stage.differences(Under::Static(&OLD)).await, [""; 0]);
    let swapped = rekey::swap_staged(&job, 0).await.unwrap();
    assert_eq!(swapped.values, Some(stage.cells().1));
    assert_eq!(stage.differences(Under::Static(&NEW)).await, [""; 0]);
}

/// How long writers wait for the swap of 100,000 rows: `cargo test --release -- --ignored --nocapture the_swap_of`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn the_swap_of_100_000_rows_with_writers() {
    let mut stage = Stage::new("staged_100k", 100_000).await;
    stage.options.batch = 1000;
    let job = job(&stage).await;
    let started = Instant::now();
    rekey::stage(&job).await.unwrap();
    let staged_in = started.elapsed();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let rows: Vec<Uuid> = stage.expected.0.keys().copied().collect();
    let mut writers = Vec::new();
    for _ in 0..4 {
        let (pool, rows, stopped) = (stage.on.pool.clone(), rows.clone(), stopped.clone());
        writers.push(tokio::spawn(async move {
            let mut longest = Duration::ZERO;
            let mut writes = 0;
            while !*stopped.borrow() {
                let row = rows[rand::random_range(0..rows.len())];
                let begun = Instant::now();
                sqlx::query("UPDATE org_instances SET status = 'active' WHERE org_id = $1")
                    .bind(row)
                    .execute(&pool)
                    .await
                    .unwrap();
                longest = longest.max(begun.elapsed());
                writes += 1;
            }
            (longest, writes)
        }));
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let swapped = rekey::swap_staged(&job, 1000).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.send_replace(true);
    let (mut longest, mut writes) = (Duration::ZERO, 0);
    for writer in writers {
        let (one, count) = writer.await.unwrap();
        longest = longest.max(one);
        writes += count;
    }
    assert_eq!(stage.differences(Under::Static(&NEW)).await, [""; 0]);
    assert_eq!(swapped.values, Some(stage.cells().1));
    let begun = Instant::now();
    stage
        .execute(
            "UPDATE org_instances SET database_url_encrypted = set_byte(database_url_encrypted, 0, 1), \
             redis_url_encrypted = CASE WHEN length(redis_url_encrypted) > 0 THEN set_byte(redis_url_encrypted, 0, 1) END \
             WHERE length(database_url_encrypted) > 0",
        )
        .await;
    let plain = begun.elapsed();
    println!(
        "staged in {staged_in:?}; {} values swapped, lock held {:?}; {writes} writes, the longest waited {longest:?}; \
         a plain UPDATE of the same columns takes {plain:?}",
        stage.cells().1,
        swapped.held
    );
}
