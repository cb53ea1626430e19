//! What a fence costs a single-row `UPDATE` of a fenced column, by key, in a transaction of its own.
//!
//! `cargo bench --bench fence -- [--updates N] [--rounds N]`. Every round measures the table without a fence, with one
//! that enforces and with one that observes, in turn, so that a machine whose speed drifts is the same for all. Every
//! update writes another value under the new key, which both have to look at. Once with commits that wait for the
//! disk, as PostgreSQL's do by default, and once with commits that don't, where the fence is a larger part.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a report of timings; a benchmark fails by panicking"
)]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use reseal::{
    envelope::KeyId,
    secret::SecretText,
    store::{FenceMode, FenceRule, Fences, Runs, Store, Target, TargetName, postgres::Postgres},
};
use sqlx::{Connection, Executor, PgConnection};
use support::{
    postgres::TempPostgres,
    tenants::{COLUMNS, TABLE, Tenants},
};
use uuid::Uuid;

#[path = "../tests/support/mod.rs"]
#[allow(dead_code, reason = "the tests' support serves here too, in part")]
mod support;

const ROWS: usize = 1000;
const KEY: [u8; 16] = *b"the-new-data-key";

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |name: &str, default: usize| {
        let value =
            arguments.iter().position(|argument| argument == name).and_then(|at| arguments.get(at + 1));
        value.and_then(|value| value.parse().ok()).unwrap_or(default)
    };
    let (updates, rounds) = (number("--updates", 1000), number("--rounds", 15));
    let cluster = TempPostgres::start();
    let database = cluster.database("fence");
    let pool = database.pool();
    let expected = Tenants { seed: 5, rows: ROWS, key: &[0x11; 32] }.fill_postgres(&pool).await;
    pool.execute("ALTER TABLE org_instances SET (fillfactor = 50); VACUUM FULL org_instances").await.unwrap();
    let rows: Vec<Uuid> = expected.0.keys().copied().collect();
    let store = Postgres::connect(&SecretText::new(database.url()), None, 2).await.unwrap();
    store.migrate().await.unwrap();
    let target = target(&store).await;
    store.register(&target).await.unwrap();

    for commit in ["on", "off"] {
        let mut conn = PgConnection::connect(&database.url()).await.unwrap();
        conn.execute(sqlx::AssertSqlSafe(format!("SET synchronous_commit = {commit}"))).await.unwrap();
        let mut times: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
        for _ in 0..rounds {
            for fence in [None, Some(FenceMode::Enforce), Some(FenceMode::Observe)] {
                match fence {
                    None => drop(store.lower_fence(&target.name).await.unwrap()),
                    Some(mode) => {
                        let rule = FenceRule::Bound(KeyId::from_bytes(KEY));
                        store.raise_fence(&target, mode, rule).await.unwrap();
                    }
                }
                update(&mut conn, &rows, updates / 10).await;
                let mut taken = update(&mut conn, &rows, updates).await;
                taken.sort();
                let name = fence.map_or("none", FenceMode::as_str);
                times.entry(name).or_default().push(taken[taken.len() / 2]);
            }
        }
        store.lower_fence(&target.name).await.unwrap();
        println!(
            "\nsynchronous_commit = {commit}: median of {rounds} rounds, each the median of {updates} updates\n"
        );
        println!("| fence | µs an update | × none |\n|---|---|---|");
        let median = |name: &str| {
            let mut sorted = times[name].clone();
            sorted.sort();
            sorted[sorted.len() / 2].as_nanos() as f64 / 1000.0
        };
        // The ratio of each round for itself: what slows a round down slows all three.
        let ratio = |name: &str| {
            let pairs = times[name].iter().zip(&times["none"]);
            let mut ratios: Vec<f64> =
                pairs.map(|(with, without)| with.as_secs_f64() / without.as_secs_f64()).collect();
            ratios.sort_by(f64::total_cmp);
            ratios[ratios.len() / 2]
        };
        for name in ["none", "enforce", "observe"] {
            println!("| {name} | {:.1} | {:.3} |", median(name), ratio(name));
        }
    }
}

async fn target(store: &Postgres) -> Target {
    let name = TargetName {
        logical: None,
        schema: None,
        table: TABLE.to_owned(),
        key_column: "org_id".to_owned(),
        columns: COLUMNS.map(str::to_owned).to_vec(),
    };
    store.inspect(&name).await.unwrap().target.unwrap()
}

/// So many updates, each with a value that is new; how long each took.
async fn update(conn: &mut PgConnection, rows: &[Uuid], updates: usize) -> Vec<Duration> {
    let mut value = [&[3], KEY.as_slice(), &[0; 12 + 130 + 16]].concat();
    let mut taken = Vec::with_capacity(updates);
    for number in 0..updates {
        value[17..33].copy_from_slice(Uuid::new_v4().as_bytes());
        let sql = "UPDATE org_instances SET database_url_encrypted = $1 WHERE org_id = $2";
        let update = sqlx::query(sql).bind(value.clone()).bind(rows[number % rows.len()]);
        let started = Instant::now();
        update.execute(&mut *conn).await.unwrap();
        taken.push(started.elapsed());
    }
    taken
}
