//! Stopping a run, and going on with it.

use std::{
    io::{BufRead, BufReader},
    process::Child,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use sqlx::PgPool;

use super::operator::{Operator, Said, with_keys};
use crate::support::tenants::stored_in_postgres;

/// Rows that the run has committed.
async fn scanned(pool: &PgPool) -> i64 {
    sqlx::query_scalar("SELECT coalesce(sum(scanned), 0)::bigint FROM reseal_shards")
        .fetch_one(pool)
        .await
        .unwrap()
}

/// Waits until the run has committed more rows than `before`.
async fn wait_for_a_batch(pool: &PgPool, before: i64) {
    while scanned(pool).await <= before {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

fn ended(child: Child) -> Said {
    let output = child.wait_with_output().unwrap();
    Said {
        code: output.status.code().expect("it ends by itself"),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

#[tokio::test]
async fn ctrl_c_ends_at_a_checkpoint_and_says_how_to_go_on() {
    let (mut operator, _database, pool) = Operator::on_postgres("cli_stop", 400).await;
    operator.set("OTHER_KEY", &"cd".repeat(32));
    operator.reseal(&["init"]).exits(0);
    let slowly = ["--batch", "10", "--max-rows-per-second", "50", "--workers", "1"];
    for stop in [Signal::INT, Signal::TERM] {
        let before = scanned(&pool).await;
        let child = operator.start(&with_keys(&["run"], &slowly));
        wait_for_a_batch(&pool, before).await;
        signal(&child, stop);
        let said = ended(child).exits(5);
        operator.watch(&said);
        assert!(said.err.starts_with("finishing this batch…"), "{}", said.err);
        assert!(
            said.out.starts_with(
                "org_instances: stopped early at a clean checkpoint, every value that was read opens."
            ),
            "{}",
            said.out
        );
        let resume = "reseal run --old static:env:OLD_KEY --new local-kms:keyring.json --workers 1 --batch 10 --max-rows-per-second 50";
        assert_eq!(said.hints(), [resume]);
    }
    let status = operator.reseal(&["status", "--output", "json"]).exits(0).json();
    assert_eq!(status["state"], "running");
    assert!(status["rows"]["left"].as_i64().unwrap() > 0);

    let other = [
        "run",
        "--old",
        "static:env:OLD_KEY",
        "--old",
        "static:env:OTHER_KEY",
        "--new",
        "local-kms:keyring.json",
    ];
    let refused = operator.reseal(&other).exits(4);
    assert!(refused.err.contains("is open with other keys or another format"), "{}", refused.err);

    let limited = operator.reseal(&with_keys(&["run"], &["--rows-limit", "20", "--batch", "10"])).exits(5);
    assert_eq!(
        limited.hints(),
        ["reseal run --old static:env:OLD_KEY --new local-kms:keyring.json --batch 10"]
    );
    let resumed = operator.type_line(limited.hints()[0]).exits(0);
    assert!(resumed.out.starts_with("org_instances: complete"), "{}", resumed.out);
    let done = operator.reseal(&["status", "--output", "json"]).exits(0).json();
    assert_eq!(done["run"], status["run"], "it was the same run throughout");
    assert_eq!(done["values"]["total"], 800);
    operator.reseal(&["verify", "--new", "local-kms:keyring.json"]).exits(0);
}

#[tokio::test]
async fn a_run_that_is_over_is_not_gone_on_with() {
    let (operator, _database, pool) = Operator::on_postgres("cli_over", 40).await;
    operator.reseal(&["init"]).exits(0);
    let first = operator.reseal(&with_keys(&["run"], &["--output", "json"])).exits(0);
    assert!(!first.err.contains("is over"), "{}", first.err);
    let before = stored_in_postgres(&pool).await;

    let second = operator.reseal(&with_keys(&["run"], &["--output", "json"])).exits(0);
    let (first, document) = (first.json(), second.json());
    let said = format!("run {} is over (complete): this is a new one\n", first["run"].as_str().unwrap());
    assert!(second.err.contains(&said), "{}", second.err);
    assert!(document["run"].as_str() > first["run"].as_str());
    assert_eq!((&document["values"]["rekeyed"], &document["values"]["total"]), (&json!(0), &json!(80)));
    let after = stored_in_postgres(&pool).await;
    assert!(before.iter().zip(&after).all(|(before, after)| before.values == after.values));
}

#[tokio::test]
async fn a_second_ctrl_c_stops_at_once_and_loses_nothing() {
    let (operator, _database, pool) = Operator::on_postgres("cli_stop_now", 300).await;
    operator.reseal(&["init"]).exits(0);
    // At two rows a second the batch that is to be finished waits for half a minute.
    let slowly = ["--batch", "60", "--max-rows-per-second", "2", "--workers", "1", "--output", "json"];
    let mut child = operator.start(&with_keys(&["run"], &slowly));
    wait_for_a_batch(&pool, 0).await;
    signal(&child, Signal::INT);
    let mut errors = BufReader::new(child.stderr.take().unwrap()).lines();
    let first = errors.by_ref().map(Result::unwrap).find(|line| line.starts_with("finishing this batch…"));
    assert!(first.is_some());
    signal(&child, Signal::INT);
    let said = ended(child).exits(5);
    operator.watch(&said);
    assert_eq!(said.json()["outcome"], "interrupted");
    assert!(said.json()["error"].as_str().unwrap().ends_with("stays open and nothing is lost"));
    operator.reseal(&with_keys(&["run"], &[])).exits(0);
    operator.reseal(&["verify", "--new", "local-kms:keyring.json"]).exits(0);
}
