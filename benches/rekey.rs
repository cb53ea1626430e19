//! Bulk re-key of a real table, beside a plain `UPDATE` of the same columns of the same table.
//!
//! `cargo bench --bench rekey -- [--rows N] [--rounds N] [--only-postgres | --only-sqlite] [--workers N]
//! [--batch N]`. T1 is one `UPDATE` of both columns in one statement, T2 the
//! same split over two connections; neither does any cryptography. Every round measures each of them once, in turn,
//! on a table made afresh, so that a machine whose speed drifts is the same for all; the ratios are of the medians.
//! (Criterion, which `benches/seal.rs` uses, measures one thing after the other.)

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    reason = "a report of timings"
)]

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use reseal::{
    envelope::Format,
    keyring::{ClearText, kms::local::LocalKms},
    rekey::{self, DataKeyScope, Intent, KeyChoice, Options},
    secret::SecretText,
    store::{Store, TargetName, postgres::Postgres, sqlite::Sqlite},
};
use sqlx::{Executor, PgPool, SqlitePool};
use support::{postgres::TempPostgres, tenants};
use tokio::sync::watch;

#[path = "../tests/support/mod.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "the tests' support serves here too, in part")]
mod support;

const OLD: [u8; 32] = [0x11; 32];

/// Halves a table of random uuids.
const MIDDLE: &str = "80000000-0000-0000-0000-000000000000";

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |name: &str, default: usize| {
        let value =
            arguments.iter().position(|argument| argument == name).and_then(|at| arguments.get(at + 1));
        value.and_then(|value| value.parse().ok()).unwrap_or(default)
    };
    let (rows, rounds) = (number("--rows", 500_000), number("--rounds", 5));
    let defaults = Options::default();
    let (workers, batch) = (number("--workers", defaults.workers), number("--batch", defaults.batch));
    let options = Options { workers, batch, ..defaults };
    let only =
        |name: &str| !arguments.iter().any(|argument| argument.starts_with("--only-") && argument != name);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be had");
    if only("--only-postgres") {
        runtime.block_on(postgres(rows, rounds, &options));
    }
    if only("--only-sqlite") {
        runtime.block_on(sqlite(rows, rounds, &options));
    }
    println!("\nPeak resident memory of this process: {} MiB", peak_memory_mib());
}

/// What was measured, round by round.
#[derive(Default)]
struct Times(BTreeMap<&'static str, Vec<Duration>>);

impl Times {
    async fn measure(&mut self, what: &'static str, rows: usize, work: impl Future<Output = ()>) {
        let (cpu, started) = (own_cpu(), Instant::now());
        work.await;
        let elapsed = started.elapsed();
        let cpu = (own_cpu() - cpu).as_secs_f64() * 1e6 / rows as f64;
        eprintln!("{what:6} {:.2} s, {cpu:.1} µs of our CPU a row", elapsed.as_secs_f64());
        self.0.entry(what).or_default().push(elapsed);
    }

    fn median(&self, what: &str) -> f64 {
        let mut sorted = self.0[what].clone();
        sorted.sort();
        sorted[sorted.len() / 2].as_secs_f64()
    }

    fn report(&self, rows: usize, order: &[&str]) {
        println!("| what | seconds | rows/s | × {} |\n|---|---|---|---|", order[0]);
        for what in order {
            let (seconds, base) = (self.median(what), self.median(order[0]));
            println!("| {what} | {seconds:.2} | {:.0} | {:.2} |", rows as f64 / seconds, seconds / base);
        }
    }
}

async fn postgres(rows: usize, rounds: usize, options: &Options) {
    let cluster = TempPostgres::start_with(&[
        "shared_buffers = '1GB'",
        "max_wal_size = '8GB'",
        "checkpoint_timeout = '30min'",
        "autovacuum = off",
    ]);
    let database = cluster.database("bench");
    let pool = database.pool();
    tenants::Tenants { seed: 1, rows, key: &OLD }.fill_postgres(&pool).await;
    pool.execute("ALTER TABLE org_instances RENAME TO template").await.expect("renames");
    let store =
        Arc::new(Postgres::connect(&SecretText::new(database.url()), None, 8).await.expect("connects"));
    store.migrate().await.expect("migrates");
    let folder = tempfile::tempdir().expect("a folder can be had");
    let keys = Keys::new(folder.path());

    let mut times = Times::default();
    for _ in 0..rounds {
        make_table(&pool).await;
        times.measure("T1", rows, update(&pool, "true")).await;
        make_table(&pool).await;
        let (low, high) = (format!("org_id < '{MIDDLE}'"), format!("org_id >= '{MIDDLE}'"));
        let halves = async {
            tokio::join!(update(&pool, &low), update(&pool, &high));
        };
        times.measure("T2", rows, halves).await;
        for (what, format) in [("v1→v3", Format::V3), ("v1→v2", Format::V2)] {
            make_table(&pool).await;
            times
                .measure(
                    what,
                    rows,
                    rekey_table(Arc::clone(&store) as Arc<dyn Store>, &keys, format, options),
                )
                .await;
        }
    }
    println!("\nPostgres, {rows} rows of two columns, median of {rounds}:");
    times.report(rows, &["T1", "T2", "v1→v3", "v1→v2"]);
}

async fn sqlite(rows: usize, rounds: usize, options: &Options) {
    let folder = tempfile::tempdir().expect("a folder can be had");
    let keys = Keys::new(folder.path());
    let template = folder.path().join("template.db");
    let store = Sqlite::create(&template).await.expect("creates");
    store.migrate().await.expect("migrates");
    let url = format!("sqlite://{}", template.display());
    let pool = SqlitePool::connect(&url).await.expect("connects");
    tenants::Tenants { seed: 1, rows, key: &OLD }.fill_sqlite(&pool).await;
    pool.execute("PRAGMA wal_checkpoint(TRUNCATE)").await.expect("checkpoints");
    pool.close().await;
    drop(store);

    let mut times = Times::default();
    for _ in 0..rounds {
        let path = folder.path().join("bench.db");
        for what in ["UPDATE", "v1→v3", "v1→v2"] {
            for suffix in ["", "-wal", "-shm"] {
                drop(std::fs::remove_file(format!("{}{suffix}", path.display())));
            }
            std::fs::copy(&template, &path).expect("copies");
            let store = Arc::new(Sqlite::open(&path).await.expect("opens"));
            match what {
                "UPDATE" => {
                    let pool =
                        SqlitePool::connect(&format!("sqlite://{}", path.display())).await.expect("connects");
                    let sql = "UPDATE org_instances SET database_url_encrypted = database_url_encrypted || x'00', \
                               redis_url_encrypted = redis_url_encrypted || x'00'";
                    let update = async {
                        pool.execute(sql).await.expect("updates");
                    };
                    times.measure(what, rows, update).await;
                    pool.close().await;
                }
                "v1→v3" => times.measure(what, rows, rekey_table(store, &keys, Format::V3, options)).await,
                _ => times.measure(what, rows, rekey_table(store, &keys, Format::V2, options)).await,
            }
        }
    }
    println!("\nSQLite, {rows} rows of two columns, median of {rounds}:");
    times.report(rows, &["UPDATE", "v1→v3", "v1→v2"]);
}

struct Keys {
    old: String,
    new: String,
}

impl Keys {
    fn new(folder: &std::path::Path) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let (old, keyring) = (folder.join("old"), folder.join("keyring"));
        std::fs::write(&old, hex::encode(OLD)).expect("writes");
        std::fs::set_permissions(&old, std::fs::Permissions::from_mode(0o600)).expect("sets the mode");
        LocalKms::create(&keyring).expect("makes a keyring");
        Self {
            old: format!("static:file:{}", old.display()),
            new: format!("local-kms:{}", keyring.display()),
        }
    }
}

/// The table as a restored dump has it: no dead rows, analyzed, in memory.
async fn make_table(pool: &PgPool) {
    for statement in [
        "DROP TABLE IF EXISTS org_instances",
        "CREATE TABLE org_instances (LIKE template INCLUDING ALL)",
        "INSERT INTO org_instances SELECT * FROM template",
        "VACUUM ANALYZE org_instances",
        "DELETE FROM reseal_quarantine",
        "DELETE FROM reseal_shards",
        "DELETE FROM reseal_runs",
        "DELETE FROM reseal_targets",
        "CHECKPOINT",
    ] {
        pool.execute(statement).await.expect("prepares the table");
    }
}

async fn update(pool: &PgPool, rows: &str) {
    let sql = format!(
        "UPDATE org_instances SET database_url_encrypted = database_url_encrypted || '\\x00'::bytea, \
         redis_url_encrypted = redis_url_encrypted || '\\x00'::bytea WHERE {rows}"
    );
    pool.execute(sqlx::AssertSqlSafe(sql)).await.expect("updates");
}

async fn rekey_table(store: Arc<dyn Store>, keys: &Keys, format: Format, options: &Options) {
    let name = TargetName {
        logical: None,
        schema: None,
        table: "org_instances".to_owned(),
        key_column: "org_id".to_owned(),
        columns: tenants::COLUMNS.map(str::to_owned).to_vec(),
    };
    let target = store.inspect(&name).await.expect("inspects").target.expect("is a target");
    let choice = KeyChoice {
        old: vec![keys.old.parse().expect("a key")],
        new: keys.new.parse().expect("a key"),
        format,
        scope: DataKeyScope::Row,
        new_data_key: false,
        clear_text: ClearText::Quarantine,
    };
    let job = rekey::prepare(store, target, &choice, options.clone(), Intent::Run).await.expect("prepares");
    let (_stop, signal) = rekey::stop_signal();
    let report = rekey::run(job, signal, watch::Sender::default()).await.expect("runs");
    assert_eq!(report.outcome, rekey::Outcome::Complete);
}

/// CPU time of this process so far.
fn own_cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks: u64 = stat
        .rsplit(") ")
        .next()
        .unwrap_or_default()
        .split(' ')
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Duration::from_millis(ticks * 10)
}

/// The most memory that this process ever had resident.
fn peak_memory_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or_default() / 1024
}
