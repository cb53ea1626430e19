//! What a fence costs a single-row `UPDATE` of a fenced column, by key, in a transaction of its own.
//!
//! `cargo bench --bench fence -- [--updates N]`. Three copies of one table: without a fence, with one that enforces,
//! with one that observes. Each step updates a row of each, in an order that turns, so that a machine whose speed
//! drifts is the same for all. Every update writes another value under the new key, which both fences have to look
//! at. Once with commits that wait for the disk, as PostgreSQL's do by default, and once with commits that don't,
//! where the fence is a larger part.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a report of timings; a benchmark fails by panicking"
)]

use std::time::{Duration, Instant};

use reseal::{
    envelope::KeyId,
    secret::SecretText,
    store::{FenceMode, FenceRule, Fences, Store, TargetName, postgres::Postgres},
};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use support::{
    postgres::TempPostgres,
    tenants::{COLUMNS, Tenants},
};
use uuid::Uuid;

#[path = "../tests/support/mod.rs"]
#[allow(dead_code, reason = "the tests' support serves here too, in part")]
mod support;

const ROWS: usize = 1000;
const KEY: [u8; 16] = *b"the-new-data-key";

const TABLES: [(&str, Option<FenceMode>); 3] =
    [("none", None), ("enforce", Some(FenceMode::Enforce)), ("observe", Some(FenceMode::Observe))];

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let updates = arguments.iter().position(|argument| argument == "--updates");
    let updates = updates.and_then(|at| arguments.get(at + 1)?.parse().ok()).unwrap_or(10_000);
    let cluster = TempPostgres::start();
    let database = cluster.database("fence");
    let pool = database.pool();
    let expected = Tenants { seed: 5, rows: ROWS, key: &[0x11; 32] }.fill_postgres(&pool).await;
    let rows: Vec<Uuid> = expected.0.keys().copied().collect();
    let store = Postgres::connect(&SecretText::new(database.url()), None, 2).await.unwrap();
    store.migrate().await.unwrap();
    for (table, mode) in TABLES {
        let copy = format!(
            "CREATE TABLE \"{table}\" (LIKE org_instances INCLUDING ALL) WITH (fillfactor = 50); \
             INSERT INTO \"{table}\" SELECT * FROM org_instances"
        );
        pool.execute(AssertSqlSafe(copy)).await.unwrap();
        let Some(mode) = mode else { continue };
        let name = TargetName {
            logical: None,
            schema: None,
            table: table.to_owned(),
            key_column: "org_id".to_owned(),
            columns: COLUMNS.map(str::to_owned).to_vec(),
        };
        let target = store.inspect(&name).await.unwrap().target.unwrap();
        store.raise_fence(&target, mode, FenceRule::Bound(KeyId::from_bytes(KEY))).await.unwrap();
    }
    for commit in ["on", "off"] {
        let mut conn = PgConnection::connect(&database.url()).await.unwrap();
        conn.execute(AssertSqlSafe(format!("SET synchronous_commit = {commit}"))).await.unwrap();
        measure(&mut conn, &rows, 300).await;
        let times = measure(&mut conn, &rows, if commit == "on" { updates / 10 } else { updates }).await;
        let medians = times.map(|mut times| {
            times.sort();
            times[times.len() / 2].as_nanos() as f64 / 1000.0
        });
        println!(
            "\nsynchronous_commit = {commit}\n\n| fence | median µs an update | × none |\n|---|---|---|"
        );
        for ((table, _), median) in TABLES.iter().zip(medians) {
            println!("| {table} | {median:.1} | {:.3} |", median / medians[0]);
        }
    }
}

/// How long each update of each table took.
async fn measure(conn: &mut PgConnection, rows: &[Uuid], updates: usize) -> [Vec<Duration>; 3] {
    let mut value = [&[3], KEY.as_slice(), &[0; 12 + 130 + 16]].concat();
    let mut times = [const { Vec::new() }; 3];
    for number in 0..updates {
        for turn in 0..TABLES.len() {
            let table = (number + turn) % TABLES.len();
            value[17..33].copy_from_slice(Uuid::new_v4().as_bytes());
            let sql =
                format!("UPDATE \"{}\" SET database_url_encrypted = $1 WHERE org_id = $2", TABLES[table].0);
            let update = sqlx::query(AssertSqlSafe(sql)).bind(value.clone()).bind(rows[number % rows.len()]);
            let started = Instant::now();
            update.execute(&mut *conn).await.unwrap();
            times[table].push(started.elapsed());
        }
    }
    times
}
