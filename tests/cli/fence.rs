//! `fence`, typed.

use serde_json::Value;
use sqlx::AssertSqlSafe;

use super::operator::{Operator, with_keys};

const V3: [&str; 4] = ["--format", "v3", "--new", "local-kms:keyring.json"];

fn fence<'a>(mode: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["fence", mode], &V3 as &[_], more].concat()
}

async fn write(pool: &sqlx::PgPool, value: &str) -> Result<(), String> {
    let sql = format!(
        "SET application_name = 'machine-7'; UPDATE org_instances SET database_url_encrypted = '\\x{value}'"
    );
    let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await;
    done.map(drop).map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn from_observing_to_off() {
    let (operator, _database, pool) = Operator::on_postgres("cli_fence", 20).await;
    let said = operator.reseal(&["fence", "status"]).exits(4);
    assert_eq!(said.hints(), ["reseal init"]);
    operator.reseal(&["init"]).exits(0);
    let said = operator.reseal(&["fence", "status"]).exits(0);
    assert!(said.out.contains("There is no fence on org_instances."), "{}", said.out);

    let said = operator.reseal(&fence("observe", &[])).exits(4);
    let [hint] = said.hints()[..] else { panic!("{}", said.err) };
    let line = hint.split_once(": ").unwrap().1;
    operator.type_line(line).exits(0);

    let said = operator.reseal(&fence("observe", &["--output", "json"])).exits(0).json();
    assert_eq!(
        (&said["fence"]["mode"], &said["fence"]["format"], &said["was"]),
        (&"observe".into(), &"v3".into(), &Value::Null)
    );
    assert!(
        said["audit"].is_object() || said.to_string().contains("audit"),
        "the log's head is said: {said}"
    );
    write(&pool, &"ab".repeat(60)).await.unwrap();
    let said = operator.reseal(&["fence", "status", "--output", "json"]).exits(0).json();
    let writes = said["stale_writes"].as_array().unwrap();
    assert_eq!(writes.len(), 1, "{said}");
    assert_eq!((&writes[0]["application"], &writes[0]["count"]), (&"machine-7".into(), &20.into()));
    assert_eq!(writes[0]["wrote"], "v1 or unknown");
    let said = operator.reseal(&["fence", "status"]).exits(0);
    assert!(said.out.contains("20 × v1 or unknown to database_url_encrypted"), "{}", said.out);
    assert!(said.out.contains("machine-7") && !said.out.contains("abab"), "{}", said.out);

    let said = operator.reseal(&fence("enforce", &[])).exits(0);
    assert!(
        said.out.contains("The fence of org_instances enforces: it refuses a write that is not v3 under"),
        "{}",
        said.out
    );
    assert!(said.out.contains("Every earlier write has ended"), "{}", said.out);
    let refused = write(&pool, &"cd".repeat(60)).await.unwrap_err();
    assert!(
        refused.contains("the reseal fence refuses this write: org_instances.database_url_encrypted"),
        "{refused}"
    );
    let said = operator.reseal(&["status", "--output", "json"]).exits(0).json();
    assert_eq!(
        (&said["run"], &said["fence"]["mode"], &said["fence"]["intact"]),
        (&Value::Null, &"enforce".into(), &true.into())
    );

    // A run to another key is refused, with the way out; one to this key ends.
    let said = operator.reseal(&with_keys(&["run"], &["--format", "v2"])).exits(4);
    assert_eq!(said.hints(), ["reseal fence off"]);
    sqlx::raw_sql("UPDATE org_instances SET database_url_encrypted = ''").execute(&pool).await.unwrap();
    operator.reseal(&with_keys(&["run"], &["--format", "v3"])).exits(0);
    let said = operator.reseal(&["status"]).exits(0);
    assert!(said.out.contains("The fence of org_instances enforces"), "{}", said.out);

    sqlx::raw_sql("ALTER TABLE org_instances DISABLE TRIGGER USER").execute(&pool).await.unwrap();
    let said = operator.reseal(&["fence", "status"]).exits(3);
    assert!(said.out.contains("NOT as it was put up: trigger reseal_fence_"), "{}", said.out);
    let [hint] = said.hints()[..] else { panic!("{}", said.err) };
    let said = operator.type_line(hint.split_once(": ").unwrap().1).exits(0);
    assert!(said.out.contains("mended: trigger reseal_fence_"), "{}", said.out);
    write(&pool, &"cd".repeat(60)).await.unwrap_err();

    let said = operator.reseal(&["fence", "off"]).exits(0);
    assert!(said.out.contains("org_instances: the fence is off."), "{}", said.out);
    write(&pool, &"ef".repeat(60)).await.unwrap();
    let said = operator.reseal(&["fence", "off", "--output", "json"]).exits(0).json();
    assert_eq!((&said["fence"], &said["was"]), (&Value::Null, &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_t_be_fenced_is_refused() {
    let (operator, pool, _) = Operator::on_sqlite(5).await;
    operator.reseal(&["init"]).exits(0);
    for mode in ["observe", "enforce"] {
        let said =
            operator.reseal(&["fence", mode, "--format", "v1", "--new", "static:env:OLD_KEY"]).exits(4);
        assert!(said.err.contains("nothing in a v1 value says which key it is under"), "{}", said.err);
    }
    operator.reseal(&["fence", "enforce", "--format", "v3", "--new", "static:env:OLD_KEY"]).exits(4);
    operator.reseal(&["fence", "enforce"]).exits(2);
    operator.reseal(&["fence"]).exits(2);
    let said = operator.reseal(&["fence", "enforce", "--new", "local-kms:keyring.json"]).exits(0);
    assert!(said.out.contains("it can't tell two KMS keys apart"), "{}", said.out);
    let stale = "UPDATE org_instances SET redis_url_encrypted = zeroblob(60)";
    let refused = sqlx::raw_sql(stale).execute(&pool).await.unwrap_err().to_string();
    assert!(refused.contains("org_instances.redis_url_encrypted takes only v2"), "{refused}");
    operator.reseal(&["fence", "off"]).exits(0);
    sqlx::raw_sql(stale).execute(&pool).await.unwrap();
}

/// Half a minute is what it waits for a table that is in use.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_in_use_is_left_as_it_is() {
    let (operator, _database, pool) = Operator::on_postgres("cli_fence_busy", 5).await;
    operator.reseal(&["init"]).exits(0);
    let mut open = pool.begin().await.unwrap();
    sqlx::raw_sql("SET LOCAL application_name = 'forgotten'; UPDATE org_instances SET status = 'x'")
        .execute(&mut *open)
        .await
        .unwrap();
    let enforce = ["fence", "enforce", "--new", "local-kms:keyring.json"];
    let said = operator.reseal(&enforce).exits(5);
    assert!(said.err.contains("waiting: org_instances is held by server process"), "{}", said.err);
    assert!(said.err.contains("forgotten, idle in transaction, open for"), "{}", said.err);
    assert_eq!(said.hints(), ["reseal fence enforce --new local-kms:keyring.json"]);
    open.commit().await.unwrap();
    operator.type_line(said.hints()[0]).exits(0);
}
