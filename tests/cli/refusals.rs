//! What is refused, with which words and which code, before anything is written.

use sqlx::{AssertSqlSafe, PgPool};

use super::operator::{Operator, with_keys};
use crate::support::{
    postgres::TempPostgres,
    tenants::{Stored, stored_in_postgres},
};

async fn execute(pool: &PgPool, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.unwrap();
}

fn bytes(stored: Vec<Stored>) -> Vec<(String, [Option<Vec<u8>>; 2])> {
    let mut rows = stored.into_iter().map(|row| (row.org_id, row.values)).collect::<Vec<_>>();
    rows.sort();
    rows
}

#[tokio::test]
async fn wrong_keys_are_refused_before_a_byte_is_written() {
    let (mut operator, _database, pool) = Operator::on_postgres("cli_wrong_keys", 20).await;
    let before = bytes(stored_in_postgres(&pool).await);
    let early = operator.reseal(&with_keys(&["run"], &["--output", "json"])).exits(4);
    assert_eq!(early.hints(), ["reseal init"]);
    assert_eq!(early.json()["outcome"], "failed");
    assert_eq!(early.json()["error"], "reseal's own tables are missing or not up to date");
    operator.reseal(&["init"]).exits(0);

    let wrong = "ab".repeat(32);
    operator.guard(&wrong);
    operator.set("WRONG_KEY", &wrong);
    operator.set("BAD_KEY", "correct horse battery staple");
    operator.guard("correct horse");
    operator.file("open.json", &std::fs::read_to_string(operator.path("keyring.json")).unwrap(), 0o644);
    let new = ["--new", "local-kms:keyring.json"];
    for (old, said) in [
        ("static:env:WRONG_KEY", "sampled values of org_instances opens under any of the given keys"),
        ("static:env:BAD_KEY", "these 28 bytes are neither"),
        ("static:env:UNSET", "environment variable UNSET is not set"),
        ("static:file:none", "cannot read none"),
        ("local-kms:open.json", "open.json is open to others (mode 0644)"),
        ("local-kms:none.json", "cannot read none.json"),
    ] {
        let refused = operator.reseal(&[&["run", "--old", old], &new[..]].concat()).exits(4);
        assert!(refused.err.lines().next().unwrap().contains(said), "{old}: {}", refused.err);
        assert!(!refused.hints().is_empty(), "{old}: {}", refused.err);
    }
    let plan = operator.reseal(&[&["plan", "--old", "static:env:WRONG_KEY"], &new[..]].concat()).exits(4);
    assert!(plan.out.starts_with("org_instances: refused.\n"), "{}", plan.out);
    assert!(plan.out.contains("\nrefused: none of ") && plan.hints().is_empty(), "{}", plan.out);
    let mismatch =
        operator.reseal(&["run", "--old", "static:env:OLD_KEY", "--new", "static:env:OLD_KEY"]).exits(4);
    assert_eq!(mismatch.hints(), ["--format v2 takes --new aws-kms:ARN-OR-ALIAS or local-kms:FILE"]);
    operator.reseal(&["run", "--old", "static:env:OLD_KEY"]).exits(2);
    assert_eq!(bytes(stored_in_postgres(&pool).await), before);
    assert!(operator.reseal(&["status"]).exits(0).out.contains("there was no run yet"));
}

#[tokio::test]
async fn tables_that_are_not_fit_are_refused_by_name() {
    let (operator, _database, pool) = Operator::on_postgres("cli_tables", 5).await;
    execute(
        &pool,
        "CREATE VIEW a_view AS SELECT * FROM org_instances;
         CREATE TABLE no_key (org_id uuid, v bytea);
         CREATE TABLE composite (org_id uuid, n int, v bytea, PRIMARY KEY (org_id, n));
         CREATE TABLE wrong_type (org_id uuid PRIMARY KEY, v jsonb);
         CREATE TABLE by_date (org_id date PRIMARY KEY, v bytea);
         CREATE TABLE plain (id bigint PRIMARY KEY, v bytea);",
    )
    .await;
    operator.reseal(&["init"]).exits(0);
    for (args, said) in [
        (vec!["--table", "missing"], "there is no table \"missing\" on the search path of this role"),
        (vec!["--table", "a_view"], "\"a_view\" is a view"),
        (vec!["--table", "no_key", "--column", "v"], "no_key has no primary key"),
        (vec!["--table", "composite", "--column", "v"], "the primary key of composite has 2 columns"),
        (vec!["--table", "wrong_type", "--column", "v"], "column v is of type jsonb, or limited in length"),
        (vec!["--table", "by_date", "--column", "v"], "the primary key org_id is of type date"),
        (vec!["--table", "plain", "--column", "v"], "the primary key of plain is id, not org_id"),
        (vec!["--column", "missing"], "org_instances has no column missing"),
    ] {
        for command in ["run", "plan"] {
            let refused = operator.reseal(&with_keys(&[command], &args)).exits(4);
            let all = refused.out.clone() + &refused.err;
            assert!(all.contains(said), "{args:?}: {all}");
        }
        let refused = operator.reseal(&with_keys(&["run"], &args));
        assert!(refused.out.is_empty() && !refused.hints().is_empty(), "{}", refused.err);
    }
}

#[tokio::test]
async fn a_role_that_may_not_write_is_refused() {
    let (mut operator, database, pool) = Operator::on_postgres("cli_role", 5).await;
    operator.reseal(&["init"]).exits(0);
    let (role, password) = (&database.name, "s3kr1t-of-the-role");
    TempPostgres::shared().login(role, password);
    operator.guard(password);
    execute(&pool, &format!("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")).await;
    operator.set("DATABASE_URL", &TempPostgres::shared().tcp_url(&database.name, role, password));
    let refused = operator.reseal(&with_keys(&["run"], &[])).exits(4);
    let said = format!("role {role} may not update column database_url_encrypted");
    assert!(refused.err.contains(&said), "{}", refused.err);
    let grant =
        format!("GRANT UPDATE (\"database_url_encrypted\") ON \"public\".\"org_instances\" TO \"{role}\"");
    assert!(refused.hints().contains(&grant.as_str()), "{}", refused.err);

    operator.set("DATABASE_URL", &TempPostgres::shared().tcp_url(&database.name, role, "wr0ng-p4ss"));
    operator.guard("wr0ng-p4ss");
    let refused = operator.reseal(&["status"]).exits(1);
    assert_eq!(refused.hints(), ["check the role and the password in the database URL"]);
    execute(&pool, &format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[test]
fn a_database_that_is_not_there_is_no_resumable_run() {
    let mut operator = Operator::new();
    operator.set("DATABASE_URL", "postgres://u:hunter2@127.0.0.1:1/db");
    operator.guard("hunter2");
    let failed = operator.reseal(&with_keys(&["run"], &["--output", "json"])).exits(1);
    assert_eq!(failed.json()["outcome"], "failed");
    assert!(failed.err.starts_with("error: the database: "), "{}", failed.err);
    operator.set("DATABASE_URL", "sqlite://none.db");
    operator.reseal(&["status"]).exits(1);
}
