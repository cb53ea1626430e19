//! Writers at work during a run: what each of them wrote last is what each cell holds at the end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use reseal::{
    envelope::Format,
    keyring::Sealer,
    rekey::{self, Hook, Intent, Moment, Outcome, Step, Stop},
    secret::Plaintext,
};
use sqlx::{AssertSqlSafe, PgPool, Row};
use tokio::{runtime::Handle, sync::watch};
use uuid::Uuid;

use super::stage::{OLD, Stage, Under, run_job};
use crate::support::{
    oracle,
    tenants::{COLUMNS, Holds},
};

/// What a writer has committed, in its order: a cell and what it holds since, or a row and that it is gone.
#[derive(Default)]
struct Ledger {
    cells: Vec<(Uuid, usize, Holds)>,
    gone: Vec<Uuid>,
}

impl Ledger {
    fn settle(self, stage: &mut Stage) -> usize {
        let entries = self.cells.len() + self.gone.len();
        for (row, column, holds) in self.cells {
            stage.expected.0.entry(row).or_insert([Holds::ZeroLength, Holds::Null])[column] = holds;
        }
        for row in self.gone {
            stage.expected.0.remove(&row);
        }
        entries
    }
}

/// One program that writes the table, and when it stops.
struct Writer {
    pool: PgPool,
    until: Instant,
    ledger: Ledger,
}

impl Writer {
    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    async fn write(&mut self, row: Uuid, column: usize, value: Option<Vec<u8>>, holds: Holds) {
        let sql = format!("UPDATE org_instances SET {} = $1 WHERE org_id = $2", COLUMNS[column]);
        let done = sqlx::query(AssertSqlSafe(sql)).bind(value).bind(row).execute(&self.pool).await.unwrap();
        assert_eq!(done.rows_affected(), 1);
        self.ledger.cells.push((row, column, holds));
    }

    async fn write_old(&mut self, row: Uuid, column: usize, text: String) {
        let sealed = oracle::seal_v1(&OLD, None, text.as_bytes());
        self.write(row, column, Some(sealed), Holds::Sealed(text)).await;
    }

    /// Values under the old key, over and over the same rows.
    async fn old_key(mut self, rows: Vec<Uuid>, column: usize) -> Ledger {
        for round in 0.. {
            for &row in &rows {
                if self.is_over() {
                    return self.ledger;
                }
                self.write_old(row, column, format!("postgres://old/{column}/{round}/{row}")).await;
            }
        }
        self.ledger
    }

    /// Values under the new key, as a reader of the library seals them.
    async fn new_key(mut self, rows: Vec<Uuid>, sealer: Arc<Sealer>) -> Ledger {
        for round in 0.. {
            for &row in &rows {
                if self.is_over() {
                    return self.ledger;
                }
                let column = round % 2;
                let text = format!("postgres://new/{column}/{round}/{row}");
                let (mut plaintext, mut check, mut sealed) = (Plaintext::new(), Plaintext::new(), Vec::new());
                plaintext.expose_mut().extend_from_slice(text.as_bytes());
                sealer
                    .seal(column, &row.to_string(), None, &plaintext, &mut sealed, &mut check)
                    .expect("the library opens what it seals");
                self.write(row, column, Some(sealed), Holds::Sealed(text)).await;
            }
        }
        self.ledger
    }

    /// A Redis URL that comes and goes.
    async fn coming_and_going(mut self, rows: Vec<Uuid>) -> Ledger {
        for round in 0.. {
            for &row in &rows {
                if self.is_over() {
                    return self.ledger;
                }
                match round % 3 {
                    0 => self.write(row, 1, None, Holds::Null).await,
                    1 => self.write_old(row, 1, format!("rediss://{round}/{row}")).await,
                    _ => self.write(row, 1, Some(Vec::new()), Holds::ZeroLength).await,
                }
            }
        }
        self.ledger
    }

    /// A column that is none of ours.
    async fn status(self) -> Ledger {
        let sql = "UPDATE org_instances SET status = $1 WHERE org_id IN \
                   (SELECT org_id FROM org_instances ORDER BY random() LIMIT 5)";
        for round in 0.. {
            if self.is_over() {
                break;
            }
            sqlx::query(sql).bind(format!("status {round}")).execute(&self.pool).await.unwrap();
        }
        self.ledger
    }

    /// New rows, anywhere among the others.
    async fn inserting(mut self) -> Ledger {
        while !self.is_over() {
            let row = Uuid::new_v4();
            let text = format!("postgres://inserted/{row}");
            let sql = "INSERT INTO org_instances (org_id, slug, fly_app, fly_region, status, database_url_encrypted) \
                       VALUES ($1, 'new', 'new', 'fra', 'active', $2)";
            let sealed = oracle::seal_v1(&OLD, None, text.as_bytes());
            sqlx::query(sql).bind(row).bind(sealed).execute(&self.pool).await.unwrap();
            self.ledger.cells.push((row, 0, Holds::Sealed(text)));
            self.ledger.cells.push((row, 1, Holds::Null));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.ledger
    }

    async fn deleting(mut self, rows: Vec<Uuid>) -> Ledger {
        for row in rows {
            if self.is_over() {
                break;
            }
            sqlx::query("DELETE FROM org_instances WHERE org_id = $1")
                .bind(row)
                .execute(&self.pool)
                .await
                .unwrap();
            self.ledger.gone.push(row);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.ledger
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_each_writer_wrote_last_is_what_each_cell_holds() {
    let mut stage = Stage::new("writers", 2400).await;
    stage.options.batch = 50;
    stage.options.max_rows_per_second = Some(1200);
    let (old, keyring) = (stage.old(), stage.keyring("keyring"));
    let choice = stage.choice(Format::V3, &[&old], &format!("local-kms:{}", keyring.display()));
    let job = stage.job(&choice, Intent::Run).await;

    let rows: Vec<Uuid> = stage.expected.0.keys().copied().collect();
    let hot = rows[0];
    let part = |remainder: usize| rows.iter().copied().skip(1 + remainder).step_by(4).collect::<Vec<_>>();
    let until = Instant::now() + Duration::from_millis(1500);
    let writer = || Writer { pool: stage.on.pool.clone(), until, ledger: Ledger::default() };
    let writers = [
        tokio::spawn(writer().old_key(vec![hot], 0)),
        tokio::spawn(writer().old_key(part(0), 0)),
        tokio::spawn(writer().old_key(part(0), 1)),
        tokio::spawn(writer().new_key(part(1), Arc::clone(&job.sealer))),
        tokio::spawn(writer().coming_and_going(part(2))),
        tokio::spawn(writer().deleting(part(3))),
        tokio::spawn(writer().inserting()),
        tokio::spawn(writer().status()),
    ];
    let report = run_job(job).await;
    for writer in writers {
        let ledger = writer.await.unwrap();
        ledger.settle(&mut stage);
    }
    assert_eq!(report.outcome, Outcome::Complete);
    assert!(report.tally.sums(), "{:?}", report.tally);
    assert!(report.tally.conflicts > 0, "{:?}", report.tally);
    assert!(report.tally.vanished > 0 || report.tally.scanned < 2400, "{:?}", report.tally);
    assert!(report.run.sweep > 1);
    assert_eq!(stage.differences(Under::Bound(&keyring)).await, [""; 0]);
    let verified = stage.verify(&choice).await;
    assert!(verified.passed(), "{:?}", verified.failures);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_of_old_values_that_never_stops_is_a_chase() {
    let mut stage = Stage::new("chase", 300).await;
    let (old, new) = (stage.old(), stage.static_key("new", &[0x22; 32]));
    let choice = stage.choice(Format::V1, &[&old], &new);
    let (over, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    // However slow the writer is: behind every sweep it has written once more.
    stage.options.hook = Hook::new({
        let written = Arc::clone(&written);
        move |step, moment| {
            if (step, moment) == (Step::NextSweep, Moment::Before) {
                let (before, started) = (written.load(Ordering::Relaxed), Instant::now());
                // The first of two may have been committed before the sweep's end.
                while written.load(Ordering::Relaxed) < before + 2 {
                    assert!(started.elapsed() < Duration::from_secs(60), "the writer has stopped");
                    tokio::task::block_in_place(|| thread::sleep(Duration::from_millis(1)));
                }
            }
        }
    });
    let writer = tokio::spawn({
        let rows: Vec<Uuid> = stage.expected.0.keys().copied().collect();
        let until = Instant::now() + Duration::from_secs(60);
        let mut writer = Writer { pool: stage.on.pool.clone(), until, ledger: Ledger::default() };
        let over = Arc::clone(&over);
        async move {
            while !over.load(Ordering::Relaxed) {
                let row = rows[rand::random_range(0..rows.len())];
                writer.write_old(row, 0, format!("postgres://chase/{}", writer.ledger.cells.len())).await;
                written.fetch_add(1, Ordering::Relaxed);
            }
            writer.ledger
        }
    });
    let report = stage.run(&choice).await;
    assert_eq!((report.outcome, report.run.sweep), (Outcome::Chased, 5));
    assert!(report.tally.sums());
    over.store(true, Ordering::Relaxed);
    assert!(writer.await.unwrap().settle(&mut stage) > 10);
    let either = [Under::Static(&OLD), Under::Static(&[0x22; 32])];
    assert_eq!(stage.differences_under_any(&either).await, [""; 0]);

    stage.options.hook = Hook::default();
    let report = stage.run(&choice).await;
    assert_eq!(report.outcome, Outcome::Complete);
    assert_eq!(stage.differences(Under::Static(&[0x22; 32])).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_stays_locked_is_done_once_it_is_free() {
    let mut stage = Stage::new("locked", 12).await;
    stage.options.batch = 1;
    let (old, new) = (stage.old(), stage.static_key("new", &[0x22; 32]));
    let choice = stage.choice(Format::V1, &[&old], &new);
    let mut holder = stage.on.pool.begin().await.unwrap();
    let locked = *stage.expected.0.keys().nth(5).unwrap();
    let lock = "SELECT 1 FROM org_instances WHERE org_id = $1 FOR UPDATE";
    sqlx::query(lock).bind(locked).execute(&mut *holder).await.unwrap();

    let ((stop, signal), (status, mut waiting)) = (rekey::stop_signal(), watch::channel(Default::default()));
    let run = tokio::spawn(rekey::run(stage.job(&choice, Intent::Run).await, signal, status));
    stage.wait_for("SELECT count(*) FROM reseal_runs WHERE sweep > 1").await;
    let (_, sealed) = stage.cells();
    let rekeyed = stage.number("SELECT sum(rekeyed)::bigint FROM reseal_shards").await;
    assert!((sealed - 2..sealed).contains(&rekeyed), "all but the locked row's: {rekeyed} of {sealed}");
    // That a row is locked sweep after sweep is no chase.
    stage.wait_for("SELECT count(*) FROM reseal_runs WHERE sweep > 2").await;
    let locked = |status: &rekey::Status| status.waits_for("locked-rows") > 0;
    tokio::time::timeout(Duration::from_secs(60), waiting.wait_for(locked)).await.unwrap().unwrap();
    // The pause before the next sweep is no reason not to stop.
    stop.send_replace(Stop::AfterBatch);
    let stopped = tokio::time::timeout(Duration::from_secs(2), run).await.unwrap().unwrap().unwrap();
    assert_eq!(stopped.outcome, Outcome::Interrupted);
    holder.commit().await.unwrap();
    let report = stage.run(&choice).await;
    assert_eq!((report.outcome, report.tally.rekeyed), (Outcome::Complete, sealed));
    assert!(report.tally.sums());
    assert!(report.tally.deferred > 0);
    assert_eq!(stage.differences(Under::Static(&[0x22; 32])).await, [""; 0]);
}

/// The old key's values have the form of the new one's: only unwrapping tells them apart, in every sweep.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_value_in_the_new_format_behind_the_cursor_is_found() {
    let mut stage = Stage::new("behind", 400).await;
    let (old, first, second) = (stage.old(), stage.keyring("first"), stage.keyring("second"));
    let (from, to) = (format!("local-kms:{}", first.display()), format!("local-kms:{}", second.display()));
    stage.run(&stage.choice(Format::V2, &[&old], &from)).await;
    let row = *stage.expected.0.keys().next().unwrap();
    let before: Vec<u8> =
        sqlx::query_scalar("SELECT database_url_encrypted FROM org_instances WHERE org_id = $1")
            .bind(row)
            .fetch_one(&stage.on.pool)
            .await
            .unwrap();

    stage.options.batch = 20;
    stage.options.max_rows_per_second = Some(200);
    let choice = stage.choice(Format::V2, &[&from], &to);
    let run = tokio::spawn(run_job(stage.job(&choice, Intent::Run).await));
    let shard = "reseal_shards WHERE cursor_key IS NOT NULL AND run_id = (SELECT run_id FROM reseal_runs WHERE state = 'running')";
    stage.wait_for(&format!("SELECT count(*) FROM {shard}")).await;
    let back = "UPDATE org_instances SET database_url_encrypted = $1 WHERE org_id = $2";
    sqlx::query(back).bind(before).bind(row).execute(&stage.on.pool).await.unwrap();
    let report = run.await.unwrap();
    assert_eq!(report.outcome, Outcome::Complete);
    assert_eq!(report.tally.rekeyed, stage.cells().1 + 1);
    assert_eq!(stage.differences(Under::Wrapped(&second)).await, [""; 0]);
    assert!(stage.verify(&choice).await.passed());
}

/// A program that saves every column of a row, changed or not, between our read of it and our batch.
#[tokio::test(flavor = "multi_thread")]
async fn whole_rows_that_are_saved_under_a_batch_are_settled_with_it() {
    const ROWS: i64 = 20;
    let mut stage = Stage::new("saved", 1).await;
    let sealed = |column: &str, id: i64| oracle::seal_v1(&OLD, None, format!("{column}://{id}").as_bytes());
    stage.execute("CREATE TABLE three (id bigint PRIMARY KEY, a bytea, b bytea, c bytea)").await;
    let save = "INSERT INTO three VALUES ($1, $2, $3, $4) \
                ON CONFLICT (id) DO UPDATE SET a = excluded.a, b = excluded.b, c = excluded.c";
    let save_all = move |pool: PgPool, [a, b, c]: [&'static str; 3]| async move {
        for id in 0..ROWS {
            let row = sqlx::query(save).bind(id).bind(sealed(a, id)).bind(sealed(b, id)).bind(sealed(c, id));
            row.execute(&pool).await.unwrap();
        }
    };
    save_all(stage.on.pool.clone(), ["a", "b", "c"]).await;
    let (pool, runtime, saved) = (stage.on.pool.clone(), Handle::current(), AtomicBool::new(false));
    stage.options.hook = Hook::new(move |step, moment| {
        if (step, moment) == (Step::Commit, Moment::Before) && !saved.swap(true, Ordering::Relaxed) {
            let save = save_all(pool.clone(), ["x", "y", "z"]);
            tokio::task::block_in_place(|| runtime.block_on(save));
        }
    });
    let (old, new) = (stage.old(), stage.static_key("new", &[0x22; 32]));
    let choice = stage.choice(Format::V1, &[&old], &new);
    let target = stage.target_of("three", "id", &["a", "b", "c"]).await;
    let report = run_job(stage.job_of(target, &choice, Intent::Run).await).await;
    let (tally, cells) = (report.tally, 3 * ROWS);
    assert_eq!((report.outcome, report.run.sweep), (Outcome::Complete, 2), "{tally:?}");
    assert_eq!((tally.total, tally.rekeyed), (cells, cells));
    assert_eq!((tally.conflicts, tally.deferred), (cells, 0));
    for row in sqlx::query("SELECT a, b, c, id FROM three").fetch_all(&stage.on.pool).await.unwrap() {
        let opened = [0, 1, 2].map(|column| oracle::open_v1(&[0x22; 32], row.get(column)));
        let id: i64 = row.get(3);
        assert_eq!(opened, ["x", "y", "z"].map(|column| Some(format!("{column}://{id}").into_bytes())));
    }
}
