//! From `init` to `verify`, and what each step says.

use serde_json::json;

use super::operator::{Operator, with_keys};
use crate::support::{oracle, tenants::stored_in_postgres};

#[tokio::test]
async fn from_a_static_key_to_a_kms_on_postgres() {
    let (operator, _database, pool) = Operator::on_postgres("cli_life", 120).await;

    let plan = operator.reseal(&with_keys(&["plan"], &["--output", "json"])).exits(0);
    assert_eq!(plan.json()["rows"], json!({"total": 120, "to_rekey": 120}));
    assert_eq!(plan.json()["kms_calls"], json!({"run": 240, "verify": 120, "dollars": 0.0}));
    assert_eq!(
        plan.json()["way_back"],
        "reseal run --format v1 --old local-kms:keyring.json --new static:env:OLD_KEY"
    );
    let run = format!(
        "reseal run --old static:env:OLD_KEY --new local-kms:keyring.json --plan {}",
        plan.json()["digest"].as_str().unwrap()
    );
    assert_eq!((plan.hints()[0], plan.hints()[2]), ("reseal init", run.as_str()));
    let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_class WHERE relname LIKE 'reseal%'")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(tables, 0, "a plan writes nothing");

    let status = operator.reseal(&["status"]).exits(0);
    assert_eq!(
        (status.out.as_str(), status.hints()),
        ("org_instances: there was no run yet.\n", vec!["reseal init"])
    );
    assert_eq!(operator.reseal(&["init"]).exits(0).hints(), ["reseal plan"]);
    assert_eq!(operator.reseal(&["init"]).exits(0).out, "reseal's own tables are up to date.\n");

    let run = operator.reseal(&with_keys(&["run"], &["--output", "json"])).exits(0);
    let document = run.json();
    let keys = document.as_object().unwrap().keys().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(
        keys,
        [
            "audit",
            "command",
            "conflicts",
            "format",
            "kms_calls",
            "outcome",
            "rows",
            "rows_per_second",
            "run",
            "seconds",
            "target",
            "values"
        ]
    );
    assert_eq!(document["command"], "run");
    assert_eq!(document["outcome"], "complete");
    assert_eq!(document["format"], "v2");
    assert_eq!(
        document["target"],
        json!({"table": "org_instances", "columns": ["database_url_encrypted", "redis_url_encrypted"]})
    );
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let count = |name: &str| document["values"][name].as_i64().unwrap();
    assert_eq!(count("total"), 240);
    assert_eq!(count("rekeyed") + count("null"), 240);
    assert_eq!((count("current"), count("quarantined"), count("vanished")), (0, 0, 0));
    assert_eq!(
        run.hints(),
        ["reseal fence enforce --new local-kms:keyring.json", "reseal verify --new local-kms:keyring.json"]
    );
    let under_the_old = |value: &Vec<u8>| oracle::open_v1(&super::operator::OLD, value).is_some();
    assert!(
        !stored_in_postgres(&pool)
            .await
            .iter()
            .flat_map(|row| row.values.iter().flatten())
            .any(under_the_old)
    );

    let verify = operator.reseal(&["verify", "--new", "local-kms:keyring.json", "--output", "json"]).exits(0);
    let values = &verify.json()["values"];
    assert_eq!(values["opened"].as_i64().unwrap(), count("rekeyed"));
    assert_eq!(
        (&values["null"], &values["failed"], &values["total"]),
        (&document["values"]["null"], &json!(0), &json!(240))
    );
    assert_eq!(verify.json()["run"], document["run"]);
    let said = operator.reseal(&["verify", "--new", "local-kms:keyring.json"]).exits(0).out;
    assert!(said.contains("\nNot covered: backups, replicas that lag, other databases"), "{said}");

    let status = operator.reseal(&["status", "--output", "json"]).exits(0).json();
    assert_eq!((&status["state"], &status["run"]), (&json!("complete"), &document["run"]));
    assert_eq!(status["rows"]["left"], 0);

    let again = operator.reseal(&with_keys(&["run"], &[])).exits(0);
    let complete = "org_instances: complete, nothing in database_url_encrypted, redis_url_encrypted is under an old key.";
    assert!(again.out.starts_with(complete), "{}", again.out);
    assert!(
        again
            .err
            .starts_with(&format!("run {} is over (complete): this is a new one\n", text(&document["run"])))
    );
    assert!(again.out.contains("\n    0  re-keyed\n"), "{}", again.out);
}

#[tokio::test]
async fn a_value_that_does_not_open_is_kept_named_and_tried_again() {
    let (mut operator, _database, pool) = Operator::on_postgres("cli_quarantine", 30).await;
    let other = [0x77; 32];
    operator.set("OTHER_KEY", &hex::encode(other));
    operator.guard(&hex::encode(other));
    let lost = oracle::seal_v1(&other, Some([0x44; 12]), b"postgres://u:hunter2@h/db");
    operator.guard("hunter2");
    let org: String = sqlx::query_scalar(
        "UPDATE org_instances SET database_url_encrypted = $1 \
         WHERE org_id = (SELECT min(org_id::text)::uuid FROM org_instances) RETURNING org_id::text",
    )
    .bind(&lost)
    .fetch_one(&pool)
    .await
    .unwrap();
    operator.reseal(&["init"]).exits(0);

    let plan = operator.reseal(&with_keys(&["plan"], &["--output", "json"])).exits(0).json();
    assert_eq!(
        plan["examples"],
        json!([{"row": org, "column": "database_url_encrypted", "reason": "unopened"}])
    );

    let run = operator.reseal(&with_keys(&["run"], &["--output", "json"])).exits(3);
    assert_eq!(run.json()["outcome"], "quarantined");
    assert_eq!(run.json()["values"]["quarantined"], 1);
    assert_eq!(run.hints()[0], "reseal quarantine list");

    let list = operator.reseal(&["quarantine", "list", "--output", "json"]).exits(0).json();
    assert_eq!(list["quarantine"][0]["row"], org);
    assert_eq!(list["quarantine"][0]["reason"], "unopened");
    assert_eq!(list["quarantine"][0]["sha256"].as_str().unwrap().len(), 64);
    let table = operator.reseal(&["quarantine", "list"]).exits(0).out;
    assert!(
        table.lines().nth(2).unwrap().starts_with(&format!("{org}  database_url_encrypted  unopened  ")),
        "{table}"
    );
    assert_eq!(
        operator.reseal(&["status", "--output", "json"]).exits(0).json()["quarantine"],
        json!({"unopened": 1})
    );

    let verify = operator.reseal(&["verify", "--new", "local-kms:keyring.json"]).exits(3);
    assert!(
        verify.out.contains(&format!("failed: row {org}, column database_url_encrypted: unopened")),
        "{}",
        verify.out
    );

    let retry = with_keys(&["quarantine", "retry"], &[]);
    assert_eq!(operator.reseal(&retry).exits(3).hints(), ["reseal quarantine list"]);
    let retry = with_keys(&["quarantine", "retry"], &["--old", "static:env:OTHER_KEY", "--output", "json"]);
    assert_eq!(
        operator.reseal(&retry).exits(0).json()["values"],
        json!({"rekeyed": 1, "settled": 0, "quarantined": 0})
    );
    operator.reseal(&["verify", "--new", "local-kms:keyring.json"]).exits(0);
}

#[tokio::test]
async fn empty_and_tiny_tables_are_done_like_any_other() {
    for rows in [0, 1] {
        let (operator, _database, _pool) = Operator::on_postgres("cli_tiny", rows).await;
        operator.reseal(&["init"]).exits(0);
        operator.reseal(&with_keys(&["plan"], &[])).exits(0);
        let run = operator.reseal(&with_keys(&["run"], &["--output", "json"])).exits(0).json();
        assert_eq!(run["values"]["total"], 2 * rows);
        let verify = ["verify", "--new", "local-kms:keyring.json", "--output", "json"];
        assert_eq!(operator.reseal(&verify).exits(0).json()["values"]["total"], 2 * rows);
    }
}

#[tokio::test]
async fn the_same_on_sqlite() {
    let (operator, _pool, _expected) = Operator::on_sqlite(60).await;
    operator.reseal(&with_keys(&["plan"], &[])).exits(0);
    operator.reseal(&["init"]).exits(0);
    let run = operator.reseal(&with_keys(&["run"], &["--output", "json"])).exits(0).json();
    assert_eq!((&run["outcome"], &run["values"]["total"]), (&json!("complete"), &json!(120)));
    operator.reseal(&["verify", "--new", "local-kms:keyring.json"]).exits(0);
    let back = ["run", "--format", "v1", "--old", "local-kms:keyring.json", "--new", "static:env:OLD_KEY"];
    operator.reseal(&back).exits(0);
    operator.reseal(&["verify", "--format", "v1", "--new", "static:env:OLD_KEY"]).exits(0);
}

#[tokio::test]
async fn an_early_end_does_not_praise_what_is_in_quarantine() {
    let (operator, pool, _) = Operator::on_sqlite(40).await;
    let garbage = "UPDATE org_instances SET database_url_encrypted = zeroblob(60)";
    sqlx::query(garbage).execute(&pool).await.unwrap();
    operator.reseal(&["init"]).exits(0);
    let some = ["--rows-limit", "10", "--batch", "5", "--workers", "1"];
    let early = operator.reseal(&with_keys(&["run"], &some)).exits(5);
    let said =
        "org_instances: stopped early at a clean checkpoint, some values are in quarantine and unchanged.";
    assert!(early.out.starts_with(said), "{}", early.out);
    assert_eq!(early.hints()[0], "reseal quarantine list");
}
