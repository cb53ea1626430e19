//! A replica that falls behind holds the run back, which says so, and lets it go on.

use std::{process::Command, time::Duration};

use super::{LEASED, Running, scanned, wait_until_waiting, within};
use crate::{
    cli::operator::{Operator, with_keys},
    support::postgres::{TempPostgres, programs},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_falls_behind_holds_the_run_until_it_has_caught_up() {
    let cluster = TempPostgres::start_with(&["fsync = off", "wal_receiver_status_interval = 1s"]);
    let database = cluster.database("control_replica");
    let (operator, pool) = Operator::on_database(&database, 2000).await;
    operator.reseal(&["init"]).exits(0);
    let standby = cluster.standby();
    let slowly = ["--batch", "10", "--max-rows-per-second", "100", "--max-replica-lag", "2s"];
    let running = Running::start(&operator, &slowly);
    let query = "SELECT coalesce(sum(scanned), 0)::bigint FROM reseal_shards";
    let enough = Duration::from_secs(20);
    assert_eq!(within(enough, &pool, query, |rows| rows > 100).await, Ok(()));

    standby.execute("SELECT pg_wal_replay_pause()");
    let now = wait_until_waiting(&operator, "a replica is ").await;
    assert!(
        now["processes"][0]["waiting"].as_str().unwrap().ends_with(" s behind, more than 2.0 s"),
        "{now}"
    );
    tokio::time::sleep(Duration::from_millis(200)).await;
    let before = scanned(&pool).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(scanned(&pool).await, before, "nothing is written while it is behind");
    let leased = within(Duration::ZERO, &pool, LEASED, |leased| leased > 0).await;
    assert_eq!(leased, Ok(()), "and the shards stay in hand");

    standby.execute("SELECT pg_wal_replay_resume()");
    assert_eq!(within(enough, &pool, query, |rows| rows > before).await, Ok(()));
    operator.reseal(&["set", "rate", "off"]).exits(0);
    let done = running.said();
    assert_eq!(done.code, 0, "{}{}", done.out, done.err);
    assert!(done.err.contains("waiting: a replica is "), "{}", done.err);
    operator.reseal(&["verify", "--new", "local-kms:keyring.json"]).exits(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_nothing_can_be_told_of_is_refused_and_one_without_a_replica_says_so() {
    let cluster = TempPostgres::start_with(&["fsync = off"]);
    let database = cluster.database("control_blind");
    let (mut operator, pool) = Operator::on_database(&database, 700).await;
    operator.reseal(&["init"]).exits(0);
    let slowly = ["--batch", "10", "--max-rows-per-second", "100", "--max-replica-lag", "500ms"];
    let alone = Running::start(&operator, &slowly).said();
    assert_eq!(alone.code, 0, "{}", alone.err);
    assert!(alone.err.contains("no replica is connected"), "{}", alone.err);

    let _standby = cluster.standby();
    cluster.login("plain", "secret-word");
    sqlx::raw_sql(
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO plain; UPDATE org_instances SET slug = slug; \
         UPDATE reseal_runs SET state = 'running', finished_at = NULL",
    )
    .execute(&pool)
    .await
    .unwrap();
    operator.set("DATABASE_URL", &cluster.tcp_url(&database.name, "plain", "secret-word"));
    let refused = operator.reseal(&with_keys(&["run"], &["--max-replica-lag", "5s"])).exits(4);
    assert!(refused.err.contains("this role can't see how far the replicas are behind"), "{}", refused.err);
    assert!(refused.hints()[0].starts_with("GRANT pg_read_all_stats"));
    for wrong in ["5", "0s", "5h", "s"] {
        operator.reseal(&with_keys(&["run"], &["--max-replica-lag", wrong])).exits(2);
    }
}

/// Whoever keeps the log and replays none of it is no replica.
#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_of_the_log_holds_nothing_back() {
    let cluster = TempPostgres::start_with(&["fsync = off"]);
    let database = cluster.database("control_receiver");
    let (operator, pool) = Operator::on_database(&database, 200).await;
    operator.reseal(&["init"]).exits(0);
    let log = tempfile::tempdir().unwrap();
    let receiver = Command::new(programs().join("pg_receivewal"))
        .args(["--no-password", "--status-interval=1", "--username=postgres", "--directory"])
        .arg(log.path())
        .arg("--host")
        .arg(cluster.folder())
        .arg(format!("--port={}", cluster.port()))
        .spawn()
        .unwrap();
    let _receiver = Running(Some(receiver));
    let receives = "SELECT count(*) FROM pg_stat_replication WHERE write_lsn IS NOT NULL";
    let enough = Duration::from_secs(20);
    assert_eq!(within(enough, &pool, receives, |receivers| receivers == 1).await, Ok(()));
    let running = Running::start(&operator, &["--max-replica-lag", "1s"]);
    let over = "SELECT count(*) FROM reseal_runs WHERE finished_at IS NOT NULL";
    assert_eq!(within(enough, &pool, over, |runs| runs == 1).await, Ok(()));
    let done = running.said();
    assert_eq!(done.code, 0, "{}{}", done.out, done.err);
}
