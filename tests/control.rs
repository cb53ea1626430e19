//! A run obeys: operators on any machine, replicas that fall behind, sessions that wait for its locks, the KMS's quota;
//! and it says why it waits.

mod locks;
mod metrics;
mod orders;
mod quota;
mod replica;
mod watch;

use std::{
    process::Child,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool};

use crate::cli::operator::{Operator, Said, with_keys};

/// One number out of the database.
async fn number(pool: &PgPool, query: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(pool).await.unwrap()
}

/// Rows that the run has committed.
async fn scanned(pool: &PgPool) -> i64 {
    number(pool, "SELECT coalesce(sum(scanned), 0)::bigint FROM reseal_shards").await
}

/// Waits until the number is one that will do, for as long as an order may take to arrive and a batch to end. The
/// last number, if it never does.
async fn within(
    limit: Duration,
    pool: &PgPool,
    query: &str,
    will_do: impl Fn(i64) -> bool,
) -> Result<(), i64> {
    let started = Instant::now();
    loop {
        let now = number(pool, query).await;
        if will_do(now) {
            return Ok(());
        }
        if started.elapsed() > limit {
            return Err(now);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Shards in a worker's hands.
const LEASED: &str = "SELECT count(*) FROM reseal_shards WHERE NOT done AND lease_until > clock_timestamp()";

/// A run in a process of its own; killed on drop, as a test that fails leaves it.
struct Running(Option<Child>);

impl Running {
    /// Starts `run` with these flags besides the keys.
    fn start(operator: &Operator, more: &[&str]) -> Self {
        Self(Some(operator.start(&with_keys(&["run"], more))))
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.0.as_ref().unwrap()), signal).unwrap();
    }

    /// Waits until it ends.
    fn said(mut self) -> Said {
        let output = self.0.take().unwrap().wait_with_output().unwrap();
        Said {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The document of `status`.
fn status(operator: &Operator) -> Value {
    operator.reseal(&["status", "--output", "json"]).exits(0).json()
}

/// Asks for the status until what the first process waits for begins with `reason`; the status.
async fn wait_until_waiting(operator: &Operator, reason: &str) -> Value {
    let started = Instant::now();
    loop {
        let now = status(operator);
        if now["processes"][0]["waiting"].as_str().is_some_and(|waiting| waiting.starts_with(reason)) {
            return now;
        }
        assert!(started.elapsed() < Duration::from_secs(20), "it never waited: {reason}: {now}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
