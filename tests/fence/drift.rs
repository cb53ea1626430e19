//! A fence, or its table, that somebody changed: it is found, named, and mended or refused.

use reseal::store::{FenceMode, StoreError};

use super::field::{Field, KEY, TABLE, bound, bytes, is_fenced, text, v1, v3};

/// What was done to it, and what is said of it.
struct Change {
    sql: &'static str,
    drift: &'static [&'static str],
}

const CHANGES: [Change; 10] = [
    Change { sql: "DROP TRIGGER {stem}_update ON t", drift: &["trigger {stem}_update is gone"] },
    Change {
        sql: "ALTER TABLE t DISABLE TRIGGER {stem}_insert",
        drift: &["trigger {stem}_insert is disabled"],
    },
    Change {
        sql: "ALTER TABLE t DISABLE TRIGGER USER; ALTER TABLE t ENABLE TRIGGER USER",
        drift: &[
            "trigger {stem}_insert does not fire for every session",
            "trigger {stem}_update does not fire for every session",
        ],
    },
    Change {
        sql: "CREATE OR REPLACE FUNCTION {stem}_check(new0 bytea, old0 bytea, new1 text, old1 text) RETURNS boolean \
              LANGUAGE sql AS 'SELECT false'",
        drift: &["function public.{stem}_check(bytea,bytea,text,text) is not as it was made"],
    },
    Change {
        sql: "CREATE OR REPLACE FUNCTION {stem}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        drift: &["function public.{stem}() is not as it was made"],
    },
    Change {
        sql: "CREATE OR REPLACE TRIGGER {stem}_update AFTER UPDATE OF note ON t FOR EACH ROW EXECUTE FUNCTION {stem}(); \
              ALTER TABLE t ENABLE ALWAYS TRIGGER {stem}_update",
        drift: &["trigger {stem}_update is not as it was made"],
    },
    Change {
        sql: "DROP FUNCTION {stem}_check CASCADE",
        drift: &[
            "function public.{stem}_check(bytea,bytea,text,text) is gone",
            "trigger {stem}_insert is gone",
            "trigger {stem}_update is gone",
        ],
    },
    Change {
        sql: "ALTER TABLE t DROP COLUMN b CASCADE",
        drift: &[
            "column b is gone, or has another name",
            "trigger {stem}_insert is gone",
            "trigger {stem}_update is gone",
        ],
    },
    Change {
        sql: "DROP TRIGGER {stem}_insert ON t; DROP TRIGGER {stem}_update ON t; \
              ALTER TABLE t ALTER b TYPE bytea USING decode(b, 'base64')",
        drift: &[
            "column b is of type bytea now",
            "trigger {stem}_insert is gone",
            "trigger {stem}_update is gone",
        ],
    },
    Change {
        sql: "CREATE TABLE u AS TABLE t; DROP TABLE t; ALTER TABLE u RENAME TO t; ALTER TABLE t ADD PRIMARY KEY (k)",
        drift: &[
            "table \"public\".\"t\" was made anew, or restored, since it was registered",
            "trigger {stem}_insert is gone",
            "trigger {stem}_update is gone",
        ],
    },
];

async fn stem(field: &Field) -> String {
    sqlx::query_scalar("SELECT proname::text FROM pg_proc WHERE proname ~ '^reseal_fence_[0-9a-f]+$'")
        .fetch_one(&field.pool)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_named_and_mended_where_the_table_is_the_same() {
    for (number, Change { sql, drift }) in CHANGES.iter().enumerate() {
        let field = Field::new("fence_drift").await;
        let first = field.enforce().await;
        let stem = stem(&field).await;
        field.execute(&sql.replace("{stem}", &stem)).await;
        let found = field.store.fence("t").await.unwrap().unwrap();
        let expected: Vec<String> = drift.iter().map(|what| what.replace("{stem}", &stem)).collect();
        assert_eq!(found.drift, expected, "{sql}");
        assert!(!found.is_intact());

        if number < 7 {
            let mended = field.enforce().await;
            assert!(mended.since_ms > first.since_ms, "it has guarded without a gap only since then");
            is_fenced(field.write(&format!("UPDATE t SET a = {} WHERE k = 1", bytes(&v1(9)))).await);
            is_fenced(field.write(&format!("INSERT INTO t (k, b) VALUES (3, {})", text(&v1(9)))).await);
            field.write(&format!("UPDATE t SET a = {} WHERE k = 1", bytes(&v3(KEY, 1)))).await.unwrap();
        }
        field.store.lower_fence("t").await.unwrap().unwrap();
        let left = "SELECT count(*) FROM pg_proc WHERE proname LIKE 'reseal\\_fence\\_%'";
        assert_eq!(field.number(left).await, 0, "{sql}");
        assert_eq!(
            field.number("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'reseal\\_fence\\_%'").await,
            0
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_itself_keeps_a_fenced_column_as_it_is() {
    let field = Field::new("fence_columns").await;
    field.enforce().await;
    for sql in ["ALTER TABLE t DROP COLUMN a", "ALTER TABLE t ALTER a TYPE text USING encode(a, 'hex')"] {
        assert!(["2BP01", "0A000"].contains(&field.write(sql).await.unwrap_err().code.as_str()), "{sql}");
    }
    // Under another name it is still the same column.
    field.execute("ALTER TABLE t RENAME COLUMN a TO z").await;
    let found = field.store.fence("t").await.unwrap().unwrap();
    assert_eq!(found.drift[0], "column a is gone, or has another name");
    field.write(&format!("UPDATE t SET z = {}", bytes(&v3(KEY, 1)))).await.unwrap();
    field.write(&format!("UPDATE t SET z = {}", bytes(&v1(9)))).await.unwrap_err();
    field.execute("ALTER TABLE t RENAME COLUMN z TO a").await;
    assert!(field.store.fence("t").await.unwrap().unwrap().is_intact());

    field.raise(FenceMode::Observe, bound()).await;
    field.execute("ALTER TABLE t RENAME COLUMN a TO z").await;
    field.write(&format!("UPDATE t SET z = {}", bytes(&v1(9)))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_table_under_the_name_is_refused() {
    let field = Field::new("fence_anew").await;
    field.enforce().await;
    field.execute(&format!("DROP TABLE t; {TABLE}")).await;
    let target = field.target().await;
    let error = field.store.raise_fence(&target, FenceMode::Enforce, bound()).await.unwrap_err();
    assert!(matches!(error, StoreError::OtherTarget { .. }), "{error}");
    field.execute("DROP TABLE t").await;
    let found = field.store.fence("t").await.unwrap().unwrap();
    assert_eq!(found.drift[0], "table \"public\".\"t\" is gone");
    field.store.lower_fence("t").await.unwrap().unwrap();
}

/// Somebody else's function of the check's name can't take its place, nor keep the fence from coming down.
#[tokio::test(flavor = "multi_thread")]
async fn a_function_of_the_same_name_is_in_nobodys_way() {
    let field = Field::new("fence_overload").await;
    field.enforce().await;
    let stem = stem(&field).await;
    field
        .execute(&format!(
            "CREATE FUNCTION {stem}_check(bytea, bytea, bytea, bytea) RETURNS boolean LANGUAGE sql AS 'SELECT false'; \
             CREATE FUNCTION {stem}_check(bytea, bytea, anyelement, anyelement) RETURNS boolean LANGUAGE sql AS 'SELECT false'"
        ))
        .await;
    assert!(field.store.fence("t").await.unwrap().unwrap().is_intact());
    is_fenced(field.write(&format!("UPDATE t SET a = {}", bytes(&v1(9)))).await);
    is_fenced(field.write(&format!("UPDATE t SET b = {}", text(&v1(9)))).await);
    field.raise(FenceMode::Observe, bound()).await;
    field.store.lower_fence("t").await.unwrap().unwrap();
    field.write(&format!("UPDATE t SET a = {}", bytes(&v1(9)))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_that_is_up_already_is_left_as_it_is() {
    let field = Field::new("fence_again").await;
    let first = field.enforce().await;
    let oid = "SELECT sum(oid::bigint)::bigint FROM pg_trigger WHERE tgname LIKE 'reseal\\_fence\\_%'";
    let before = field.number(oid).await;
    assert_eq!(field.enforce().await, first);
    assert_eq!(field.number(oid).await, before);
    assert_eq!(field.number("SELECT count(*) FROM reseal_audit WHERE action LIKE 'fence-%'").await, 1);
    let other = reseal::store::FenceRule::Wrapped;
    assert_eq!(field.raise(FenceMode::Enforce, other).await.rule, other);
    is_fenced(field.write(&format!("UPDATE t SET a = {}", bytes(&v3(KEY, 1)))).await);
}
