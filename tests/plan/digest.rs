//! A run can be held to a plan, and a plan writes nothing.

use std::process::Command;

use serde_json::json;
use sqlx::{AssertSqlSafe, PgPool};

use crate::{
    cli::operator::{Operator, with_keys},
    support::{
        oracle,
        postgres::{TestDatabase, programs},
        tenants::{stored_in_postgres, stored_in_sqlite},
    },
};

async fn execute(pool: &PgPool, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.unwrap();
}

fn digest(operator: &Operator, more: &[&str]) -> String {
    let plan = operator.reseal(&with_keys(&["plan", "--output", "json"], more)).exits(0).json();
    plan["digest"].as_str().unwrap().to_owned()
}

/// Everything in the database, as `pg_dump` has it.
fn dump(database: &TestDatabase<'_>) -> String {
    let dump = Command::new(programs().join("pg_dump")).args(["--dbname", &database.url()]).output().unwrap();
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    let text = String::from_utf8(dump.stdout).unwrap();
    // Newer versions guard the dump with a random word.
    text.lines().filter(|line| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict")).collect()
}

#[tokio::test]
async fn a_plan_writes_nothing() {
    let (operator, database, _pool) = Operator::on_postgres("plan_quiet", 50).await;
    let before = dump(&database);
    for format in ["v2", "v3"] {
        operator.reseal(&with_keys(&["plan", "--format", format], &[])).exits(0);
    }
    assert!(before == dump(&database), "the plan changed the database");
    operator.reseal(&["init"]).exits(0);
    let before = dump(&database);
    operator.reseal(&with_keys(&["plan", "--format", "v3", "--new-data-key"], &[])).exits(0);
    assert!(before == dump(&database), "the plan changed the database");

    let (operator, pool, _expected) = Operator::on_sqlite(50).await;
    let schema = || async {
        let rows: Vec<String> =
            sqlx::query_scalar("SELECT name || coalesce(sql, '') FROM sqlite_schema ORDER BY 1")
                .fetch_all(&pool)
                .await
                .unwrap();
        let values =
            stored_in_sqlite(&pool).await.into_iter().map(|row| format!("{}{:?}", row.org_id, row.values));
        (rows, values.collect::<Vec<_>>())
    };
    let before = schema().await;
    let said = operator.reseal(&with_keys(&["plan", "--format", "v3"], &[])).exits(0);
    assert!(
        said.out.contains("to v3 under a new data key of local-kms:"),
        "it names none that no run makes: {}",
        said.out
    );
    assert!(before == schema().await, "the plan changed the database");
}

#[tokio::test]
async fn a_table_in_use_keeps_its_digest() {
    let (operator, _database, pool) = Operator::on_postgres("plan_steady", 20).await;
    let planned = digest(&operator, &[]);
    assert_eq!(planned.len(), 64);
    assert_eq!(digest(&operator, &[]), planned);
    operator.reseal(&["init"]).exits(0);
    // A value that can't be opened, a copied one, one that begins with 0x02; a fence; statistics.
    let ambiguous = oracle::seal_v1(&crate::cli::operator::OLD, Some([2; 12]), b"redis://h");
    execute(
        &pool,
        &format!(
            "UPDATE org_instances SET redis_url_encrypted = '\\x{}' WHERE slug = (SELECT min(slug) FROM org_instances);
             UPDATE org_instances SET redis_url_encrypted = database_url_encrypted WHERE slug = (SELECT max(slug) FROM org_instances);
             DELETE FROM org_instances WHERE org_id IN (SELECT org_id FROM org_instances ORDER BY slug LIMIT 3 OFFSET 5);
             CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
             CREATE TRIGGER reseal_fence BEFORE UPDATE ON org_instances FOR EACH ROW EXECUTE FUNCTION f();
             ANALYZE org_instances",
            hex::encode(ambiguous)
        ),
    )
    .await;
    assert_eq!(digest(&operator, &[]), planned);
    // How fast is not what; which values and how they are sealed is.
    assert_eq!(
        digest(&operator, &["--workers", "3", "--batch", "7", "--max-rows-per-second", "1000"]),
        planned
    );
    for other in [
        &["--format", "v3"][..],
        &["--data-key-scope", "batch"],
        &["--column", "redis_url_encrypted"],
        &["--reseal-ambiguous"],
        &["--seal-plaintext"],
        &["--max-value", "1000"],
        &["--logical-name", "tenants"],
    ] {
        assert_ne!(digest(&operator, other), planned, "{other:?}");
    }
}

#[tokio::test]
async fn a_run_that_is_not_the_planned_one_is_refused_before_it_writes() {
    let (operator, _database, pool) = Operator::on_postgres("plan_held", 20).await;
    operator.reseal(&["init"]).exits(0);
    let planned = digest(&operator, &[]);
    let before = stored_in_postgres(&pool).await;
    let refused = |more: &[&str], said: &str| {
        let args = [&["run", "--plan", &planned], more].concat();
        let refused = operator.reseal(&with_keys(&args, &[])).exits(4);
        assert!(refused.err.contains(said), "{said}: {}", refused.err);
        assert!(refused.hints()[0].starts_with("reseal plan --"), "{}", refused.err);
    };
    refused(&["--format", "v3"], "this is not what was planned: the keys changed");
    refused(&["--column", "redis_url_encrypted", "--seal-plaintext"], "the table, the options changed");
    execute(
        &pool,
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
         CREATE TRIGGER touch BEFORE UPDATE ON org_instances FOR EACH ROW EXECUTE FUNCTION f()",
    )
    .await;
    refused(
        &[],
        "what surrounds the table changed (now: trigger touch fires before each row on update of any column and calls f)",
    );
    for (one, other) in before.iter().zip(&stored_in_postgres(&pool).await) {
        assert!(one.values == other.values);
    }
    let runs: i64 = sqlx::query_scalar("SELECT count(*) FROM reseal_runs").fetch_one(&pool).await.unwrap();
    assert_eq!(runs, 0);
    execute(&pool, "DROP TRIGGER touch ON org_instances").await;
    operator.reseal(&with_keys(&["run", "--plan", "abc"], &[])).exits(2);

    // The planned run, stopped and gone on with, and the last sweep after it, all under one digest.
    let stopped = operator
        .reseal(&with_keys(&["run", "--plan", &planned, "--rows-limit", "5", "--batch", "5"], &[]))
        .exits(5);
    let resume = stopped.hints()[0].to_owned();
    assert!(resume.contains(&planned), "{resume}");
    operator.type_line(&resume).exits(0);
    operator.reseal(&with_keys(&["run", "--plan", &planned], &[])).exits(0);
}

#[tokio::test]
async fn a_v3_run_stays_the_planned_one_after_its_data_key_was_made() {
    let (operator, _database, _pool) = Operator::on_postgres("plan_v3", 20).await;
    operator.reseal(&["init"]).exits(0);
    let planned = digest(&operator, &["--format", "v3"]);
    let run = ["run", "--format", "v3", "--plan", &planned, "--output", "json"];
    let first = operator.reseal(&with_keys(&run, &["--rows-limit", "5", "--batch", "5"])).exits(5).json();
    let second = operator.reseal(&with_keys(&run, &[])).exits(0).json();
    assert_eq!((&second["run"], &second["outcome"]), (&first["run"], &json!("complete")));
}
