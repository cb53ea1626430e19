//! The log of every change of state: whole as it is written, and any meddling found and named.

use serde_json::Value;
use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, PgPool};

use super::operator::{Operator, Said, with_keys};

const V3: [&str; 2] = ["--format", "v3"];

fn head_of(said: &Said) -> String {
    said.json()["audit"]["head"].as_str().unwrap().to_owned()
}

/// Does what a day brings, and gives the heads that were printed.
fn history(operator: &Operator) -> Vec<String> {
    let json = ["--output", "json"];
    let run = with_keys(&["run"], &[&V3[..], &json].concat());
    let new = ["keys", "new", "--new", "local-kms:keyring.json", "--output", "json"];
    vec![
        head_of(&operator.reseal(&run).exits(0)),
        head_of(&operator.reseal(&new).exits(0)),
        head_of(
            &operator.reseal(&with_keys(&["run", "--new-data-key"], &[&V3[..], &json].concat())).exits(0),
        ),
    ]
}

fn lines(operator: &Operator) -> Vec<Value> {
    let exported = operator.reseal(&["audit", "export"]).exits(0).out;
    exported.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The chain by its description, computed apart from the program.
fn chain(lines: &[Value]) -> Vec<String> {
    let mut previous = [0; 32];
    let mut hashes = Vec::new();
    for line in lines {
        let mut bytes = previous.to_vec();
        bytes.extend(line["seq"].as_i64().unwrap().to_be_bytes());
        bytes.extend(line["at_ms"].as_i64().unwrap().to_be_bytes());
        for field in ["actor", "action", "subject", "detail"] {
            let text = line[field].as_str().unwrap();
            bytes.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
            bytes.extend(text.as_bytes());
        }
        previous = Sha256::digest(&bytes).into();
        hashes.push(hex::encode(previous));
    }
    hashes
}

#[tokio::test]
async fn every_change_of_state_is_recorded_in_a_chain_anyone_can_check() {
    let (operator, _database, _pool) = Operator::on_postgres("audit", 30).await;
    operator.reseal(&["init"]).exits(0);
    let heads = history(&operator);
    let lines = lines(&operator);
    let actions = lines.iter().map(|line| line["action"].as_str().unwrap()).collect::<Vec<_>>();
    let expected = [
        "target-registered",
        "data-key-added",
        "run-opened",
        "run-complete",   // the first run
        "data-key-added", // keys new
        "data-key-added",
        "run-opened",
        "run-complete", // under a new data key
    ];
    assert_eq!(actions, expected);
    let hashes = chain(&lines);
    let stored = lines.iter().map(|line| line["hash"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(hashes, stored);
    assert_eq!(heads.iter().collect::<Vec<_>>(), [&hashes[3], &hashes[4], &hashes[7]]);
    for head in &heads {
        let whole = operator.reseal(&["audit", "verify", "--head", head, "--output", "json"]).exits(0).json();
        assert_eq!((&whole["whole"], &whole["audit"]["seq"]), (&true.into(), &8.into()));
    }
    let never = "00".repeat(32);
    let said = operator.reseal(&["audit", "verify", "--head", &never]).exits(3);
    assert!(said.out.contains("no record has the given head"), "{}", said.out);
    operator.reseal(&["audit", "verify", "--head", "abc"]).exits(2);
    // What only looks leaves no record; what a verify finds does.
    operator.reseal(&["status"]).exits(0);
    operator
        .reseal(&["plan", "--format", "v3", "--old", "static:env:OLD_KEY", "--new", "local-kms:keyring.json"])
        .exits(0);
    assert_eq!(self::lines(&operator).len(), 8);
    operator.reseal(&["verify", "--format", "v3", "--new", "local-kms:keyring.json"]).exits(0);
    assert_eq!(self::lines(&operator)[8]["action"], "verified");
}

/// Ways to meddle, and what the check says to each.
const MEDDLING: [(&str, &str); 6] = [
    ("UPDATE reseal_audit SET detail = '{}' WHERE seq = 3", "record 3 is not what was written"),
    ("UPDATE reseal_audit SET actor = 'nobody@host' WHERE seq = 1", "record 1 is not what was written"),
    ("UPDATE reseal_audit SET at_ms = at_ms + 1 WHERE seq = 8", "record 8 is not what was written"),
    ("DELETE FROM reseal_audit WHERE seq = 5", "record 5 is missing"),
    ("DELETE FROM reseal_audit WHERE seq > 6", "no record has the given head"),
    (
        "UPDATE reseal_audit SET seq = 100 WHERE seq = 4; UPDATE reseal_audit SET seq = 4 WHERE seq = 5; \
         UPDATE reseal_audit SET seq = 5 WHERE seq = 100",
        "record 4 is not what was written, or stands where another did",
    ),
];

fn finds(operator: &Operator, head: &str, meddling: &str, found: &str) {
    let said = operator.reseal(&["audit", "verify", "--head", head]).exits(3);
    assert!(said.out.contains(found), "{meddling}: {}", said.out);
    let json = operator.reseal(&["audit", "verify", "--head", head, "--output", "json"]).exits(3).json();
    assert_eq!(json["whole"], false);
}

#[tokio::test]
async fn meddling_on_postgres_is_refused_and_else_found_by_record() {
    let (operator, _database, pool) = Operator::on_postgres("audit_meddling", 5).await;
    operator.reseal(&["init"]).exits(0);
    let head = history(&operator).pop().unwrap();
    let execute = async |sql: &str, pool: &PgPool| sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await;
    execute("CREATE TABLE kept AS SELECT * FROM reseal_audit", &pool).await.unwrap();
    for (meddling, found) in MEDDLING {
        execute(meddling, &pool).await.expect_err("a trigger refuses it");
        let past = format!(
            "ALTER TABLE reseal_audit DISABLE TRIGGER ALL; {meddling}; ALTER TABLE reseal_audit ENABLE TRIGGER ALL"
        );
        execute(&past, &pool).await.unwrap();
        finds(&operator, &head, meddling, found);
        let restore = "ALTER TABLE reseal_audit DISABLE TRIGGER ALL; DELETE FROM reseal_audit; \
             INSERT INTO reseal_audit SELECT * FROM kept; ALTER TABLE reseal_audit ENABLE TRIGGER ALL";
        execute(restore, &pool).await.unwrap();
        operator.reseal(&["audit", "verify", "--head", &head]).exits(0);
    }
}

#[tokio::test]
async fn meddling_on_sqlite_is_refused_and_else_found_by_record() {
    let (operator, pool, _) = Operator::on_sqlite(5).await;
    operator.reseal(&["init"]).exits(0);
    let head = history(&operator).pop().unwrap();
    // One connection: another may not know yet that a trigger is gone, and SQLite asks nobody before it refuses a second.
    let mut conn = pool.acquire().await.unwrap();
    let mut execute = async |sql: &str| sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *conn).await;
    let triggers: Vec<String> = sqlx::query_scalar(
        "SELECT sql FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = 'reseal_audit'",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    execute("CREATE TABLE kept AS SELECT * FROM reseal_audit").await.unwrap();
    for (meddling, found) in MEDDLING {
        execute(meddling).await.expect_err("a trigger refuses it");
        let off = "DROP TRIGGER reseal_audit_keep_updated; DROP TRIGGER reseal_audit_keep_deleted; \
             DROP TRIGGER reseal_audit_no_replace";
        execute(off).await.unwrap();
        execute(meddling).await.unwrap();
        finds(&operator, &head, meddling, found);
        let restore = "DELETE FROM reseal_audit; INSERT INTO reseal_audit SELECT * FROM kept";
        execute(restore).await.unwrap();
        execute(&triggers.join(";")).await.unwrap();
        operator.reseal(&["audit", "verify", "--head", &head]).exits(0);
    }
}

#[tokio::test]
async fn two_that_append_at_once_leave_no_gap() {
    let (operator, _database, _pool) = Operator::on_postgres("audit_at_once", 1).await;
    operator.reseal(&["init"]).exits(0);
    let new = ["keys", "new", "--new", "local-kms:keyring.json"];
    let started = (0..6).map(|_| operator.start(&new)).collect::<Vec<_>>();
    for child in started {
        assert!(child.wait_with_output().unwrap().status.success());
    }
    let lines = lines(&operator);
    assert_eq!(chain(&lines).last().unwrap(), lines.last().unwrap()["hash"].as_str().unwrap());
    assert_eq!(lines.len(), 6);
    operator.reseal(&["audit", "verify"]).exits(0);
}
