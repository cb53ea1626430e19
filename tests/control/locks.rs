//! Sessions that wait for rows that a batch holds make the batches smaller.

use std::time::Duration;

use super::{Running, number, wait_until_waiting, within};
use crate::cli::operator::Operator;

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_others_wait_for_is_followed_by_smaller_ones() {
    let (operator, _database, pool) = Operator::on_postgres("control_locks", 1500).await;
    operator.reseal(&["init"]).exits(0);
    // A table that is slow to write: a batch of 200 rows holds them for two seconds.
    sqlx::raw_sql(
        "CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_sleep(0.01); RETURN NEW; END $$;
         CREATE TRIGGER slowly BEFORE UPDATE OF database_url_encrypted ON org_instances
             FOR EACH ROW EXECUTE FUNCTION slowly()",
    )
    .execute(&pool)
    .await
    .unwrap();
    let running = Running::start(&operator, &["--workers", "1", "--batch", "200"]);
    let writer = {
        let pool = pool.clone();
        tokio::spawn(async move {
            // The control plane, which saves every row again and again.
            loop {
                let saved = sqlx::query("UPDATE org_instances SET slug = slug || ''").execute(&pool).await;
                assert!(saved.is_ok() || saved.is_err_and(|error| error.to_string().contains("deadlock")));
            }
        })
    };
    let now = wait_until_waiting(&operator, "1 sessions wait for rows of a batch: batches of ").await;
    let waiting = now["processes"][0]["waiting"].as_str().unwrap();
    let batch = waiting.rsplit("batches of ").next().and_then(|rest| rest.split(' ').next()).unwrap();
    assert!(batch.parse::<usize>().unwrap() <= 100, "{waiting}");
    writer.abort();

    // Nobody waits any more: the batches grow again, and there is no reason left to show.
    let quiet =
        "SELECT count(*) FROM reseal_processes WHERE waiting IS NULL OR waiting NOT LIKE '% sessions %'";
    let recovered = within(Duration::from_secs(20), &pool, quiet, |processes| processes == 1).await;
    let over = number(&pool, "SELECT count(*) FROM reseal_runs WHERE finished_at IS NOT NULL").await;
    assert!(recovered.is_ok() || over == 1);
    let done = running.said();
    assert_eq!(done.code, 0, "{}{}", done.out, done.err);
    operator.reseal(&["verify", "--new", "local-kms:keyring.json"]).exits(0);
}
