//! `pause`, `resume` and `set`, given by one process and obeyed by another.

use std::{
    io::{BufRead, BufReader},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::json;
use sqlx::PgPool;

use super::{LEASED, Running, number, scanned, status, wait_until_waiting, within};
use crate::cli::operator::{Operator, with_keys};

/// How soon an order must have arrived everywhere.
const SOON: Duration = Duration::from_secs(2);

/// Waits until the run has committed more rows than `before`.
async fn moves(pool: &PgPool, before: i64) {
    let query = "SELECT coalesce(sum(scanned), 0)::bigint FROM reseal_shards";
    let moved = within(Duration::from_secs(20), pool, query, |now| now > before).await;
    assert_eq!(moved, Ok(()), "it never moved");
}

/// Rows in the next `time`.
async fn rows_in(pool: &PgPool, time: Duration) -> i64 {
    let before = scanned(pool).await;
    tokio::time::sleep(time).await;
    scanned(pool).await - before
}

const SLOWLY: [&str; 6] = ["--workers", "2", "--batch", "10", "--max-rows-per-second", "100"];

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_reaches_a_running_process_within_two_seconds_and_nothing_is_written_after() {
    let (operator, _database, pool) = Operator::on_postgres("control_pause", 2500).await;
    operator.reseal(&["init"]).exits(0);
    let running = Running::start(&operator, &SLOWLY);
    moves(&pool, 0).await;

    let said = operator.reseal(&["pause"]).exits(0);
    let ordered = Instant::now();
    assert!(said.out.contains("is paused now"), "{}", said.out);
    assert_eq!(said.hints(), ["reseal resume"]);
    assert_eq!(within(SOON, &pool, LEASED, |leased| leased == 0).await, Ok(()), "shards are given back");
    assert!(ordered.elapsed() <= SOON);
    assert_eq!(rows_in(&pool, Duration::from_secs(2)).await, 0);

    let paused = wait_until_waiting(&operator, "paused by ").await;
    assert_eq!((&paused["state"], &paused["seconds_left"]), (&json!("paused"), &json!(null)));
    let rate = "SELECT rows_per_second FROM reseal_processes";
    assert_eq!(within(SOON, &pool, rate, |rate| rate == 0).await, Ok(()));
    assert!(paused["orders"]["paused"]["by"].as_str().unwrap().contains('@'));
    assert!(operator.reseal(&["pause"]).exits(0).out.contains("was paused already"));

    let joining = operator.reseal(&with_keys(&["run"], &["--output", "json"])).exits(5);
    assert_eq!(joining.json()["outcome"], "paused");
    assert_eq!(joining.hints()[0], "reseal resume, then:");

    operator.reseal(&["set", "rate", "off"]).exits(0);
    let before = scanned(&pool).await;
    assert!(operator.reseal(&["resume"]).exits(0).out.contains("goes on"));
    moves(&pool, before).await;
    let done = running.said();
    assert_eq!(done.code, 0, "{}{}", done.out, done.err);
    operator.reseal(&["verify", "--new", "local-kms:keyring.json"]).exits(0);

    let refused = operator.reseal(&["resume"]).exits(4);
    assert!(refused.err.contains("is complete since 2"), "{}", refused.err);
    operator.reseal(&["pause"]).exits(4);
    operator.reseal(&["set", "rate", "5"]).exits(4);
    assert_eq!(number(&pool, "SELECT count(*) FROM reseal_processes").await, 0, "who ended has left");
    let audited: Vec<String> =
        sqlx::query_scalar("SELECT action FROM reseal_audit WHERE action LIKE 'run-%' ORDER BY seq")
            .fetch_all(&pool)
            .await
            .unwrap();
    assert_eq!(audited, ["run-opened", "run-paused", "run-set", "run-resumed", "run-complete"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_run_survives_its_processes() {
    let (operator, _database, pool) = Operator::on_postgres("control_pause_kill", 600).await;
    operator.reseal(&["init"]).exits(0);
    let running = Running::start(&operator, &SLOWLY);
    moves(&pool, 0).await;
    operator.reseal(&["pause"]).exits(0);
    wait_until_waiting(&operator, "paused by ").await;
    running.signal(Signal::KILL);
    assert_eq!(running.said().code, -1);

    let before = scanned(&pool).await;
    operator.reseal(&with_keys(&["run"], &[])).exits(5);
    assert_eq!(scanned(&pool).await, before);
    let status = operator.reseal(&["status"]).exits(0);
    assert_eq!(status.hints(), ["reseal resume"]);
    operator.reseal(&["resume"]).exits(0);
    operator.reseal(&with_keys(&["run"], &[])).exits(0);
    operator.reseal(&["verify", "--new", "local-kms:keyring.json"]).exits(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_ends_a_process_that_waits_for_a_resume() {
    let (operator, _database, pool) = Operator::on_postgres("control_pause_stop", 600).await;
    operator.reseal(&["init"]).exits(0);
    let mut running = Running::start(&operator, &[SLOWLY.as_slice(), &["--output", "json"]].concat());
    let mut errors = BufReader::new(running.0.as_mut().unwrap().stderr.take().unwrap()).lines();
    moves(&pool, 0).await;
    operator.reseal(&["pause"]).exits(0);
    // The progress says what it waits for, and how to end that.
    let waits =
        |line: String| line.contains("\"waiting\":\"paused by ") && line.contains("; reseal resume\"");
    assert!(errors.by_ref().map(Result::unwrap).any(waits));
    running.signal(Signal::INT);
    let hint = errors.map(Result::unwrap).find(|line| line.starts_with("hint: "));
    assert_eq!(hint.as_deref(), Some("hint: reseal resume, then:"));
    let said = running.said();
    assert_eq!((said.code, &said.json()["outcome"]), (5, &json!("paused")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_that_is_set_is_kept() {
    let (operator, _database, pool) = Operator::on_postgres("control_rate", 6000).await;
    operator.reseal(&["init"]).exits(0);
    let quickly = ["--workers", "2", "--batch", "10", "--max-rows-per-second", "400"];
    let _running = Running::start(&operator, &quickly);
    moves(&pool, 0).await;
    let time = Duration::from_secs(4);
    let before = rows_in(&pool, time).await;
    assert!((1400..=1700).contains(&before), "{before} rows in 4 s at 400 a second");
    operator.reseal(&["set", "rate", "200"]).exits(0);
    tokio::time::sleep(SOON).await;
    let after = rows_in(&pool, time).await;
    assert!((700..=850).contains(&after), "{after} rows in 4 s at 200 a second");
    let now = wait_until_waiting(&operator, "the limit of 200 rows/s").await;
    assert_eq!(now["orders"]["rate"], 200);
    let seen = now["rows_per_second"].as_i64().unwrap();
    assert!((150..=420).contains(&seen), "{seen}");
    assert!(operator.reseal(&["status"]).exits(0).out.contains("waiting: the limit of 200 rows/s"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_set_is_the_next_batch() {
    let (operator, _database, pool) = Operator::on_postgres("control_batch", 4000).await;
    operator.reseal(&["init"]).exits(0);
    let _running =
        Running::start(&operator, &["--workers", "1", "--batch", "40", "--max-rows-per-second", "200"]);
    moves(&pool, 0).await;
    assert_eq!(scanned(&pool).await % 40, 0);
    operator.reseal(&["set", "batch", "7"]).exits(0);
    // What was read before is two pages at most, of a second's rows each, and three batches: all cut into batches of 7.
    tokio::time::sleep(SOON + Duration::from_secs(3)).await;
    let (mut last, mut steps) = (scanned(&pool).await, Vec::new());
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(2) {
        let now = scanned(&pool).await;
        if now != last {
            steps.push(now - last);
            last = now;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // A look that came late sees two batches at once.
    assert!(steps.len() > 20 && steps.iter().all(|&step| step % 7 == 0 && step < 40), "{steps:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_come_and_go_as_is_set() {
    let (operator, _database, pool) = Operator::on_postgres("control_workers", 8000).await;
    operator.reseal(&["init"]).exits(0);
    let running =
        Running::start(&operator, &["--workers", "4", "--batch", "10", "--max-rows-per-second", "200"]);
    let enough = Duration::from_secs(20);
    assert_eq!(within(enough, &pool, LEASED, |leased| leased == 4).await, Ok(()));
    operator.reseal(&["set", "workers", "1"]).exits(0);
    assert_eq!(within(SOON, &pool, LEASED, |leased| leased == 1).await, Ok(()));
    let before = scanned(&pool).await;
    moves(&pool, before).await;
    // More than there are shards: four of them work.
    operator.reseal(&["set", "workers", "6"]).exits(0);
    assert_eq!(within(SOON, &pool, LEASED, |leased| leased == 4).await, Ok(()));
    let said = within(SOON, &pool, "SELECT workers FROM reseal_processes", |workers| workers == 6).await;
    assert_eq!(said, Ok(()));
    let now = status(&operator);
    assert_eq!((&now["shards"]["leased"], &now["orders"]["workers"]), (&json!(4), &json!(6)));
    operator.reseal(&["set", "workers", "3"]).exits(0);
    operator.reseal(&["set", "rate", "off"]).exits(0);
    let done = running.said();
    assert_eq!(done.code, 0, "{}{}", done.out, done.err);
    operator.reseal(&["verify", "--new", "local-kms:keyring.json"]).exits(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_t_be_is_refused_before_anything_is_ordered() {
    let (operator, _database, pool) = Operator::on_postgres("control_refused", 5).await;
    assert_eq!(operator.reseal(&["pause"]).exits(4).hints(), ["reseal init"]);
    operator.reseal(&["init"]).exits(0);
    let no_run = operator.reseal(&["pause"]).exits(4);
    assert!(no_run.err.contains("org_instances has no run"), "{}", no_run.err);
    operator.reseal(&with_keys(&["run"], &["--rows-limit", "1", "--batch", "1"])).exits(5);
    for (name, value) in [
        ("workers", "0"),
        ("workers", "65"),
        ("batch", "0"),
        ("batch", "-1"),
        ("batch", "many"),
        ("rate", "0"),
        ("rate", "99999999999"),
    ] {
        let refused = operator.reseal(&["set", name, "--", value]).exits(2);
        assert!(
            refused.err.contains(&format!("set {name} takes a whole number from 1 to ")),
            "{}",
            refused.err
        );
    }
    let ordered = "SELECT count(*) FROM reseal_runs WHERE coalesce(rate, batch, workers) IS NOT NULL";
    assert_eq!(number(&pool, ordered).await, 0);
    assert_eq!(number(&pool, "SELECT count(*) FROM reseal_audit WHERE action = 'run-set'").await, 0);
    let not_paused = operator.reseal(&["resume"]).exits(0);
    assert!(not_paused.out.contains("was not paused"), "{}", not_paused.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_obeys_as_well() {
    let (operator, pool, _expected) = Operator::on_sqlite(800).await;
    operator.reseal(&["init"]).exits(0);
    let running = Running::start(&operator, &SLOWLY);
    let rows = || async {
        let sum = "SELECT coalesce(sum(scanned), 0) FROM reseal_shards";
        sqlx::query_scalar::<_, i64>(sum).fetch_one(&pool).await.unwrap_or_default()
    };
    let started = Instant::now();
    while rows().await == 0 {
        assert!(started.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    operator.reseal(&["pause"]).exits(0);
    wait_until_waiting(&operator, "paused by ").await;
    let before = rows().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(rows().await, before);
    operator.reseal(&["set", "rate", "off"]).exits(0);
    operator.reseal(&["resume"]).exits(0);
    let done = running.said();
    assert_eq!(done.code, 0, "{}{}", done.out, done.err);
}
