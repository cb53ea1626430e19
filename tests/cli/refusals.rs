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
    let hint = |old: &str| {
        let refused = operator.reseal(&[&["run", "--old", old], &new[..]].concat()).exits(4);
        (refused.err.lines().next().unwrap().to_owned(), refused.hints()[0].to_owned())
    };
    let (what, forms) = hint("static:env:BAD_KEY");
    assert!(what.starts_with("error: static:env:BAD_KEY: key text"), "named once: {what}");
    assert_eq!(forms, "reseal --help lists the forms of a key");
    assert!(hint("static:env:UNSET").1.starts_with("export UNSET, with the key's text"));
    assert!(hint("local-kms:none.json").1.ends_with("reseal keygen --local-kms none.json"));
    // A key in the place of its name, behind a form that is cut short.
    let pasted = format!("static:{wrong}");
    let exposed = operator.reseal(&[&["run", "--old", &pasted], &new[..]].concat()).exits(2);
    assert!(exposed.err.contains("treat it as exposed"), "{}", exposed.err);
    let plan = operator.reseal(&[&["plan", "--old", "static:env:WRONG_KEY"], &new[..]].concat()).exits(4);
    assert!(plan.out.starts_with("org_instances: refused.\n"), "{}", plan.out);
    assert!(plan.out.contains("\nrefused: none of ") && plan.hints().is_empty(), "{}", plan.out);
    let mismatch =
        operator.reseal(&["run", "--old", "static:env:OLD_KEY", "--new", "static:env:OLD_KEY"]).exits(4);
    assert_eq!(mismatch.hints(), ["--format v2 takes --new aws-kms:ARN-OR-ALIAS or local-kms:FILE"]);
    operator.reseal(&["run", "--old", "static:env:OLD_KEY"]).exits(2);
    assert_eq!(bytes(stored_in_postgres(&pool).await), before);
    assert!(operator.reseal(&["status"]).exits(0).out.contains("there was no run yet"));
    let same = ["--format", "v1", "--old", "static:env:OLD_KEY", "--new", "static:env:OLD_KEY"];
    for command in ["run", "plan"] {
        let refused = operator.reseal(&[&[command], &same[..]].concat()).exits(2);
        assert!(
            refused.err.starts_with("error: the old key and the new key are the same, static:"),
            "{}",
            refused.err
        );
    }
}

#[tokio::test]
async fn a_column_is_named_once() {
    let (operator, _pool, _) = Operator::on_sqlite(5).await;
    operator.reseal(&["init"]).exits(0);
    for other in ["redis_url_encrypted", "REDIS_url_encrypted"] {
        let twice = ["--column", "redis_url_encrypted", "--column", other];
        for command in ["run", "plan"] {
            let refused = operator.reseal(&with_keys(&[command], &twice)).exits(2);
            assert!(refused.err.contains(&format!("column {other} is named twice")), "{}", refused.err);
        }
    }
    operator.reseal(&with_keys(&["run"], &["--column", "redis_url_encrypted"])).exits(0);
}

/// What a name stands for is said, with what was asked, and each line that is given does what it says.
#[tokio::test]
async fn a_name_that_stands_for_other_columns_says_which() {
    let (operator, _pool, _) = Operator::on_sqlite(10).await;
    operator.reseal(&["init"]).exits(0);
    let one = operator.reseal(&with_keys(&["run"], &["--column", "redis_url_encrypted"])).exits(0);
    assert!(one.out.contains("complete, nothing in redis_url_encrypted is under"), "{}", one.out);
    let registered = "target org_instances is registered for main.org_instances, key org_id, columns redis_url_encrypted; \
                      asked for is main.org_instances, key org_id, columns database_url_encrypted, redis_url_encrypted";
    let refused = operator.reseal(&with_keys(&["run"], &[])).exits(4);
    assert_eq!(
        refused.err.lines().next().unwrap(),
        format!("error: {registered}"),
        "and nothing of a new run"
    );
    let plan = operator.reseal(&with_keys(&["plan"], &[])).exits(4);
    assert!(plan.out.contains("is registered for main.org_instances, key org_id, columns"), "{}", plan.out);
    let keys = "--old static:env:OLD_KEY --new local-kms:keyring.json";
    let lines = [
        format!("as it is registered: reseal run {keys} --column redis_url_encrypted"),
        format!(
            "the others, as a target of their own: reseal run {keys} --column database_url_encrypted --logical-name OTHER"
        ),
    ];
    assert_eq!(refused.hints(), lines.each_ref().map(String::as_str));
    for line in &lines {
        operator.type_line(line.split_once(": ").unwrap().1).exits(0);
    }
    // What is said next names the columns too, where a command takes no flag for them.
    let status = operator.reseal(&["status"]).exits(0);
    assert_eq!(
        status.hints()[0],
        "reseal fence enforce --column redis_url_encrypted --format v2 --new NEW-KEY"
    );
}

#[tokio::test]
async fn a_table_that_is_not_there_has_no_status() {
    let (mut operator, _pool, _) = Operator::on_sqlite(1).await;
    let refused = operator.reseal(&["status", "--table", "nope"]).exits(4);
    assert!(
        refused.err.contains("there is no table nope in this file (the database is tenants.db)"),
        "{}",
        refused.err
    );
    operator.file("text.db", &"not a database ".repeat(100), 0o600);
    operator.set("DATABASE_URL", "sqlite://text.db");
    let refused = operator.reseal(&["status"]).exits(1);
    assert!(refused.err.starts_with("error: the database text.db refuses: "), "{}", refused.err);
    assert!(refused.hints()[0].contains("DATABASE_URL=sqlite://FILE"), "{}", refused.err);
}

#[tokio::test]
async fn tables_of_another_version_are_named_as_such() {
    let (operator, pool, _) = Operator::on_sqlite(1).await;
    operator.reseal(&["init"]).exits(0);
    let newer = "INSERT INTO reseal_migrations (version, description, success, checksum, execution_time) \
                 VALUES (9999, 'later', TRUE, x'00', 0)";
    sqlx::query(newer).execute(&pool).await.unwrap();
    for command in [vec!["init"], with_keys(&["run"], &[])] {
        let refused = operator.reseal(&command).exits(4);
        assert!(
            refused.err.contains("are of a newer version than this reseal: migration 9999"),
            "{}",
            refused.err
        );
        assert!(refused.hints()[0].starts_with("use the newer reseal"), "{}", refused.err);
    }
    sqlx::query("DELETE FROM reseal_migrations WHERE version = 9999").execute(&pool).await.unwrap();
    sqlx::query("UPDATE reseal_migrations SET checksum = x'00' WHERE version = 2")
        .execute(&pool)
        .await
        .unwrap();
    let refused = operator.reseal(&["init"]).exits(4);
    assert!(refused.err.contains("are not as reseal made them: migration 2"), "{}", refused.err);
    assert!(!refused.err.contains("hint: reseal init"), "{}", refused.err);
}

#[test]
fn a_journal_is_not_made_in_a_folder_that_is_not_there() {
    let operator = Operator::new();
    let refused = operator.reseal(&["init", "--state-url", "sqlite://state/of/reseal.db"]).exits(1);
    assert!(refused.err.starts_with("error: there is no folder state/of for "), "{}", refused.err);
    assert_eq!(refused.hints(), ["mkdir -p state/of"]);
}

#[test]
fn a_number_below_zero_is_out_of_range_and_help_is_a_command() {
    let mut operator = Operator::new();
    operator.set("DATABASE_URL", "sqlite://none.db");
    let refused = operator.reseal(&["set", "rate", "-5"]).exits(2);
    assert!(refused.err.contains("set rate takes a whole number from 1"), "{}", refused.err);
    assert!(operator.reseal(&["help", "run"]).exits(0).out.contains("--rows-limit"));
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
    assert!(failed.err.starts_with("error: the database 127.0.0.1:1/db: "), "{}", failed.err);
    operator.set("DATABASE_URL", "sqlite://none.db");
    operator.reseal(&["status"]).exits(1);
}
