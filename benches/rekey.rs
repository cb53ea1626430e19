//! Bulk re-key of a real table, beside a plain `UPDATE` of the same columns of the same table.
//!
//! `cargo bench --bench rekey -- [--rows N] [--rounds N]`. T1 is one `UPDATE` of both columns in one statement, T2 the
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
    store::{Store, TargetName, postgres::Postgres},
};
use sqlx::{Executor, PgPool};
use support::{postgres::TempPostgres, tenants};
use tokio::sync::watch;

#[path = "../tests/support/mod.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "the tests' support serves here too, in part")]
mod support;

const OLD: [u8; 32] = [0x11; 32];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |name: &str, default: usize| {
        let value =
            arguments.iter().position(|argument| argument == name).and_then(|at| arguments.get(at + 1));
        value.and_then(|value| value.parse().ok()).unwrap_or(default)
    };
    let (rows, rounds) = (number("--rows", 500_000), number("--rounds", 5));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be had");
    runtime.block_on(postgres(rows, rounds));
}

async fn postgres(rows: usize, rounds: usize) {
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

    let mut times: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    for round in 1..=rounds {
        for what in ["T1", "T2", "v1→v3", "v1→v2"] {
            make_table(&pool).await;
            let cpu_before = own_cpu();
            let started = Instant::now();
            match what {
                "T1" => update(&pool, "true").await,
                "T2" => {
                    let (low, high) = (
                        "org_id < '80000000-0000-0000-0000-000000000000'",
                        "org_id >= '80000000-0000-0000-0000-000000000000'",
                    );
                    tokio::join!(update(&pool, low), update(&pool, high));
                }
                "v1→v3" => rekey_table(Arc::clone(&store), &keys, Format::V3).await,
                _ => rekey_table(Arc::clone(&store), &keys, Format::V2).await,
            }
            let elapsed = started.elapsed();
            let cpu = (own_cpu() - cpu_before).as_secs_f64() * 1e6 / rows as f64;
            eprintln!("round {round}: {what:6} {:.2} s, {cpu:.1} µs of our CPU a row", elapsed.as_secs_f64());
            times.entry(what).or_default().push(elapsed);
        }
    }
    let median = |what: &str| {
        let mut sorted = times[what].clone();
        sorted.sort();
        sorted[sorted.len() / 2].as_secs_f64()
    };
    println!("\nPostgres, {rows} rows of two columns, median of {rounds}:");
    println!("| what | seconds | rows/s | × T1 |\n|---|---|---|---|");
    for what in ["T1", "T2", "v1→v3", "v1→v2"] {
        let seconds = median(what);
        println!("| {what} | {seconds:.2} | {:.0} | {:.2} |", rows as f64 / seconds, seconds / median("T1"));
    }
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

async fn rekey_table(store: Arc<Postgres>, keys: &Keys, format: Format) {
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
    let job =
        rekey::prepare(store, target, &choice, Options::default(), Intent::Run).await.expect("prepares");
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
