//! The first sweep, which walks the table as it lies in its file, while rows move in it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use reseal::{
    envelope::Format,
    rekey::{Hook, Moment, Outcome, Step},
    store::{PageLimits, RowKey, Span},
};
use tokio::{runtime::Handle, task::block_in_place};

use super::stage::{Stage, Under, connect};

const NEW: [u8; 32] = [0x22; 32];

/// Runs `statement` once: when the run is open, and none of its pages was read.
fn once_before_the_first_page(run: impl Fn() + Send + Sync + 'static) -> Hook {
    let done = Arc::new(AtomicBool::new(false));
    Hook::new(move |step, moment| {
        if (step, moment) == (Step::ReadPage, Moment::Before) && !done.swap(true, Ordering::Relaxed) {
            run();
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn new_row_versions_that_land_ahead_of_the_walk_are_not_counted_again() {
    let mut stage = Stage::new("holes", 3000).await;
    // All over the file there is room for what the run writes.
    stage.execute("UPDATE org_instances SET status = status").await;
    stage.execute("VACUUM ANALYZE org_instances").await;
    let (old, keyring) = (stage.old(), stage.keyring("keyring"));
    let mut choice = stage.choice(Format::V3, &[&old], &format!("local-kms:{}", keyring.display()));
    for workers in [1, 3] {
        stage.options.workers = workers;
        let report = stage.run(&choice).await;
        let (cells, sealed) = stage.cells();
        assert_eq!((report.outcome, report.run.sweep, report.tally.scanned), (Outcome::Complete, 2, 3000));
        assert_eq!((report.tally.total, report.tally.rekeyed), (cells, sealed), "{workers} workers");
        assert_eq!(stage.differences(Under::Bound(&keyring)).await, [""; 0]);
        choice.new_data_key = true;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_move_under_the_walk_are_left_to_the_next_sweep_and_are_no_chase() {
    let mut stage = Stage::new("moved", 500).await;
    let (old, new) = (stage.old(), stage.static_key("new", &NEW));
    let choice = stage.choice(Format::V1, &[&old], &new);
    let (pool, runtime) = (stage.on.pool.clone(), Handle::current());
    stage.options.hook = once_before_the_first_page(move || {
        let touch = sqlx::query(
            "UPDATE org_instances SET status = 'moved' WHERE org_id < '80000000-0000-0000-0000-000000000000'",
        );
        block_in_place(|| runtime.block_on(touch.execute(&pool))).unwrap();
    });
    let report = stage.run(&choice).await;
    let moved = stage.number("SELECT count(*) FROM org_instances WHERE status = 'moved'").await;
    assert!(moved > 100);
    assert_eq!((report.outcome, report.tally.scanned), (Outcome::Complete, 500 - moved));
    assert_eq!(
        (report.run.sweep, report.run.chased),
        (3, 0),
        "what the second had to re-key, nobody chased it with"
    );
    assert_eq!((report.tally.rekeyed, report.tally.conflicts), (stage.cells().1, 0));
    assert_eq!(stage.differences(Under::Static(&NEW)).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_vacuumed_under_the_walk_gives_its_rows_other_numbers_and_loses_none() {
    let mut stage = Stage::on_sqlite(400).await;
    // Without the first rows the others move up.
    stage.execute("DELETE FROM org_instances WHERE rowid <= 100").await;
    let left = sqlx::query_scalar::<_, String>("SELECT org_id FROM org_instances");
    let left: Vec<_> =
        left.fetch_all(&stage.on.pool).await.unwrap().iter().map(|id| id.parse().unwrap()).collect();
    stage.expected.0.retain(|row, _| left.contains(row));
    let (old, new) = (stage.old(), stage.static_key("new", &NEW));
    let choice = stage.choice(Format::V1, &[&old], &new);
    let (pool, runtime) = (stage.on.pool.clone(), Handle::current());
    let vacuumed = Arc::new(AtomicBool::new(false));
    stage.options.hook = Hook::new(move |step, moment| {
        // Between a page and its commit: the rowids that the batch goes by are other rows' by then.
        if (step, moment) == (Step::Commit, Moment::Before) && !vacuumed.swap(true, Ordering::Relaxed) {
            block_in_place(|| runtime.block_on(sqlx::query("VACUUM").execute(&pool))).unwrap();
        }
    });
    let report = stage.run(&choice).await;
    assert_eq!(report.outcome, Outcome::Complete);
    assert!(report.tally.sums());
    assert_eq!(stage.differences(Under::Static(&NEW)).await, [""; 0]);
}

/// What is left of a table is found without its index where the index is the long way to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_later_page_that_the_index_does_not_find_in_time_is_found_in_the_table() {
    let stage = Stage::new("sparse", 300).await;
    // Stands for a table that is not in memory: only whoever goes by the index reads it row by row.
    stage
        .execute(&format!(
            "CREATE SCHEMA slow; CREATE FUNCTION slow.octet_length(bytea) RETURNS integer LANGUAGE plpgsql AS $$ BEGIN \
             IF current_setting('enable_seqscan') = 'off' THEN PERFORM pg_sleep(0.1); END IF; RETURN length($1); END $$; \
             ALTER DATABASE {} SET search_path = slow, pg_catalog, public",
            stage.on.database.name
        ))
        .await;
    let store = connect(&stage.on.database.url()).await;
    let mut rows: Vec<_> = stage.expected.0.keys().copied().collect();
    rows.sort_unstable();
    let target = stage.target().await;
    let limits = PageLimits { rows: 1000, bytes: 4 << 20, value: 1 << 20 };
    let after = RowKey::Uuid(rows[9]);
    let page = store.read_page(&target, &Span::ALL, Some(&after), Some(&[3; 17]), limits).await.unwrap();
    let behind: Vec<_> = rows[10..].iter().copied().map(RowKey::Uuid).collect();
    assert_eq!((page.keys, page.last), (behind, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_is_told_by_its_first_bytes_whatever_a_backslash_means() {
    let stage = Stage::new("backslash", 50).await;
    let (old, keyring) = (stage.old(), stage.keyring("keyring"));
    let choice = stage.choice(Format::V3, &[&old], &format!("local-kms:{}", keyring.display()));
    assert_eq!(stage.run(&choice).await.outcome, Outcome::Complete);
    let sql = format!("ALTER DATABASE {} SET standard_conforming_strings = off", stage.on.database.name);
    stage.execute(&sql).await;
    let (store, target) = (connect(&stage.on.database.url()).await, stage.target().await);
    let key_id = store.data_keys(None).await.unwrap()[0].key_id;
    let mark = [&[3], key_id.as_slice()].concat();
    assert_eq!(store.count_beginning(&target, &mark).await.unwrap(), 50);
    let limits = PageLimits { rows: 1000, bytes: 4 << 20, value: 1 << 20 };
    let left = store.read_page(&target, &Span::ALL, None, Some(&mark), limits).await.unwrap();
    assert!(left.keys.is_empty());
}
