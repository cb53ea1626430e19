//! Each precondition, violated alone: the refusal names it, and the command that it gives meets it.

use serde_json::json;

use super::{Road, old_key};
use crate::{cli::operator::OLD, support::oracle};

#[tokio::test]
async fn a_fence_that_is_down_or_tampered_with() {
    let road = Road::verified("finish_fence", "v3").await;
    road.operator.reseal(&["fence", "off"]).exits(0);
    let refused = road.refused("there is no fence on org_instances");
    assert_eq!(refused, "reseal fence enforce --new local-kms:keyring.json --format v3");
    road.operator.type_line(&refused).exits(0);
    let verify = road.refused("was not made behind the fence that is up");
    road.operator.type_line(&verify).exits(0);

    road.type_with(&["fence", "observe"]).exits(0);
    let enforce = road.refused("the fence of org_instances only observes");
    road.operator.type_line(&enforce).exits(0);
    road.operator.type_line(&road.refused("was not made behind the fence")).exits(0);

    road.execute("ALTER TABLE org_instances DISABLE TRIGGER USER").await;
    let mend = road.refused("is not as it was put up: ");
    road.operator.type_line(&mend).exits(0);
    road.operator.type_line(&road.refused("was not made behind the fence")).exits(0);
    road.retire(&[]).exits(0);
    road.unharmed().await;
}

#[tokio::test]
async fn a_waived_fence_is_in_the_certificate_by_name() {
    let road = Road::verified("finish_waived", "v3").await;
    road.operator.reseal(&["fence", "off"]).exits(0);
    road.retire(&["--waive", "holders"]).exits(4);
    let retired = road.retire(&["--waive", "fence", "--output", "json"]).exits(0).json();
    assert_eq!(
        retired["certificate"]["waived"],
        json!([{"waiver": "fence", "what": "there is no fence on org_instances"}])
    );
    assert_eq!(retired["certificate"]["targets"][0]["fence"], "none");
    assert_eq!(road.audited("key-retired").await[0]["waived"], json!(["fence"]));
}

#[tokio::test]
async fn a_verify_that_is_missing_stale_or_failed() {
    let road = Road::new("finish_verify", 25, "v3").await;
    road.sweep().exits(0);
    road.type_with(&["fence", "enforce"]).exits(0);
    let verify = road.refused("no verify of org_instances is on record");
    assert_eq!(verify, "reseal verify --new local-kms:keyring.json --format v3");
    road.operator.type_line(&verify).exits(0);
    road.sweep().exits(0);
    road.operator.type_line(&road.refused("is older than its latest run")).exits(0);

    // A verify of fewer columns proves nothing of the others, and is not put on record.
    let partial = road.type_with(&["verify", "--column", "database_url_encrypted"]).exits(0);
    assert!(partial.out.contains("Not on record"), "{}", partial.out);
    assert_eq!(road.number("SELECT count(*) FROM reseal_verifications").await, 2);

    // Somebody with the fence out of the way writes a stale value; the next verify finds it and takes the proof back.
    road.execute("ALTER TABLE org_instances DISABLE TRIGGER USER").await;
    road.stale_write().await.unwrap();
    road.type_with(&["fence", "enforce"]).exits(0);
    road.type_with(&["verify"]).exits(3);
    assert_eq!(road.audited("verify-failed").await[0]["failed"], 1);
    let sweep = road.refused("1 values of org_instances failed the latest verify");
    assert_eq!(sweep, "reseal run --new local-kms:keyring.json --format v3 --old static:env:OLD_KEY");
    road.operator.type_line(&sweep).exits(0);
    road.operator.type_line(&road.refused("is older than its latest run")).exits(0);
    road.retire(&[]).exits(0);
}

#[tokio::test]
async fn a_run_that_is_open_or_went_back() {
    let road = Road::verified("finish_open", "v3").await;
    // Another way for another key, stopped half-way.
    road.type_with(&["run", "--old", "static:env:OLD_KEY", "--rows-limit", "5", "--batch", "5"]).exits(5);
    let refused = road.retire(&[]).exits(4);
    assert!(refused.err.contains(" of org_instances is open (running)"), "{}", refused.err);
    road.operator.type_line(refused.hints()[0]).exits(0);
    road.operator.type_line(&road.refused("is older than its latest run")).exits(0);

    road.operator.reseal(&["fence", "off"]).exits(0);
    let back = ["run", "--format", "v1", "--old", "local-kms:keyring.json", "--new", "static:env:OLD_KEY"];
    road.operator.reseal(&back).exits(0);
    let refused = road.retire(&[]).exits(4);
    assert!(
        refused.err.contains("the latest run of org_instances was to v1 under static:"),
        "{}",
        refused.err
    );
    road.operator
        .reseal(&["retire", "static:env:OLD_KEY", "--new", "static:env:OLD_KEY", "--format", "v1"])
        .exits(4);
}

#[tokio::test]
async fn a_value_in_quarantine_is_mended_or_waived_by_name() {
    let mut road = Road::new("finish_quarantine", 25, "v3").await;
    let other = [0x77; 32];
    road.operator.set("OTHER_KEY", &hex::encode(other));
    // A nonce that is no header of another format.
    let lost = oracle::seal_v1(&other, Some([7; 12]), b"postgres://lost@h/db");
    let row: String = sqlx::query_scalar(
        "UPDATE org_instances SET redis_url_encrypted = $1 \
         WHERE org_id = (SELECT max(org_id::text)::uuid FROM org_instances) RETURNING org_id::text",
    )
    .bind(lost)
    .fetch_one(&road.pool)
    .await
    .unwrap();
    road.sweep().exits(3);
    road.type_with(&["fence", "enforce"]).exits(0);
    road.type_with(&["verify"]).exits(3);
    let retry = road.refused(&format!(
        "row {row}, column redis_url_encrypted of org_instances is in quarantine (unopened)"
    ));
    let waiver = format!("quarantine:{row}/redis_url_encrypted");
    let refused = road.retire(&["--waive", "quarantine:another/redis_url_encrypted"]).exits(4);
    assert!(refused.hints().last().unwrap().ends_with(&format!(" --waive {waiver}")), "{}", refused.err);

    // Waived: the value is given up. But here it can be mended, by the command that was given.
    road.operator.type_line(&retry.replace("--old KEY", "--old static:env:OTHER_KEY")).exits(0);
    road.operator
        .type_line(
            &road
                .refused("failed the latest verify")
                .replace("run", "verify")
                .replace(" --old static:env:OLD_KEY", ""),
        )
        .exits(0);
    road.retire(&[]).exits(0);

    let road = Road::new("finish_quarantine", 25, "v3").await;
    road.execute(&format!("UPDATE org_instances SET redis_url_encrypted = '\\x05{}'", "00".repeat(40))).await;
    road.execute(&format!("UPDATE org_instances SET redis_url_encrypted = NULL WHERE org_id <> '{row}'"))
        .await;
    road.sweep().exits(3);
    road.type_with(&["fence", "enforce"]).exits(0);
    road.type_with(&["verify"]).exits(3);
    let retired = road.retire(&["--waive", &waiver, "--output", "json"]).exits(0).json();
    assert_eq!(retired["waived"], json!([waiver]));
    assert_eq!(retired["certificate"]["targets"][0]["verify"]["failed"], 1);
}

#[tokio::test]
async fn another_column_that_holds_values_of_the_key() {
    let road = Road::verified("finish_column", "v3").await;
    road.execute("CREATE TABLE invites (id bigint PRIMARY KEY, token text)").await;
    let sealed = oracle::seal_v1(&OLD, None, b"a token under the same key, elsewhere");
    let text = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, sealed);
    road.execute(&format!("INSERT INTO invites VALUES (1, '{text}')")).await;
    let plan = road.refused("public.invites.token holds values under it: 1 of 1 sampled");
    assert_eq!(
        plan,
        "reseal plan --table public.invites --key-column NAME --column token --old static:env:OLD_KEY --new KEY"
    );
    // Made a target, it is asked for as one.
    let invites = ["--table", "invites", "--key-column", "id", "--column", "token"];
    let other = |command: &[&str]| road.type_with(&[command, &invites].concat());
    other(&["run", "--old", "static:env:OLD_KEY"]).exits(0);
    let refused = road.retire(&[]).exits(4);
    for what in ["there is no fence on invites", "no verify of invites is on record"] {
        assert!(refused.err.contains(what), "{what}: {}", refused.err);
    }
    for line in &refused.hints()[..3] {
        let line = line.replace("--new KEY", "--new local-kms:keyring.json --format v3");
        road.operator.type_line(&line).exits(0);
    }
    road.operator
        .type_line(&refused.hints()[2].replace("--new KEY", "--new local-kms:keyring.json --format v3"))
        .exits(0);
    let retired = road.retire(&["--output", "json"]).exits(0).json();
    assert_eq!(retired["targets"], json!(["org_instances", "invites"]));

    let road = Road::verified("finish_column", "v3").await;
    road.execute("CREATE TABLE invites (id bigint PRIMARY KEY, token text)").await;
    road.execute(&format!("INSERT INTO invites VALUES (1, '{text}')")).await;
    let retired =
        road.retire(&["--waive", "column:public.invites.token", "--output", "json"]).exits(0).json();
    assert_eq!(retired["certificate"]["other_columns"]["holders"][0]["opened"], 1);
}

#[tokio::test]
async fn a_standby_that_lags() {
    use crate::support::{postgres::TempPostgres, tenants::Tenants};
    let cluster = TempPostgres::start();
    let database = cluster.database("finish_standby");
    let pool = database.pool();
    Tenants { seed: 11, rows: 10, key: &OLD }.fill_postgres(&pool).await;
    let mut operator = crate::cli::operator::Operator::new();
    operator.set("DATABASE_URL", &database.url());
    operator.reseal(&["init"]).exits(0);
    let new = ["--new", "local-kms:keyring.json", "--format", "v3"];
    let with_new = |command: &[&str]| operator.reseal(&[command, &new].concat());
    let execute = |sql: &'static str| sqlx::query(sql).execute(&pool);
    // The slot of a standby that is away: it is as far as the log was when it left.
    execute("SELECT pg_create_physical_replication_slot('follower', true)").await.unwrap();
    with_new(&["run", "--old", "static:env:OLD_KEY"]).exits(0);
    with_new(&["fence", "enforce"]).exits(0);
    with_new(&["verify"]).exits(0);
    let refused = with_new(&["retire", "static:env:OLD_KEY"]).exits(4);
    assert!(refused.err.contains("standby follower has not flushed what the verify saw"), "{}", refused.err);
    assert_eq!(
        refused.hints()[0],
        "reseal retire --new local-kms:keyring.json --format v3 static:env:OLD_KEY"
    );
    let retired =
        with_new(&["retire", "static:env:OLD_KEY", "--waive", "standby:follower", "--output", "json"]);
    let retired = retired.exits(0).json();
    assert_eq!(
        retired["certificate"]["targets"][0]["standbys"],
        json!([{"name": "follower", "has_flushed": false}])
    );
}

#[tokio::test]
async fn a_key_that_is_unknown_new_or_no_key_at_all() {
    let mut road = Road::verified("finish_unknown", "v3").await;
    let other = hex::encode([0x42; 32]);
    road.operator.set("OTHER_KEY", &other);
    let refused = road.type_with(&["retire", "static:env:OTHER_KEY"]).exits(4);
    assert!(refused.err.contains("is unknown: no run was from it or to it"), "{}", refused.err);
    let nobody = format!("data-key:{}", "00".repeat(16));
    assert!(road.type_with(&["retire", &nobody]).exits(4).err.contains("is unknown"));
    road.type_with(&["destroy", &nobody]).exits(2);
    let refused = road.operator.reseal(&["destroy", &nobody]).exits(4);
    assert!(refused.err.contains("is not retired"), "{}", refused.err);
    road.operator.guard(&other);
    let typed = road.type_with(&["retire", &other]).exits(2);
    assert!(typed.err.contains("KEY: a key itself was given"), "{}", typed.err);

    // The data key that values are sealed under, named as what is to go while another is meant.
    road.type_with(&["keys", "new"]);
    road.operator.reseal(&["keys", "new", "--new", "local-kms:keyring.json"]).exits(0);
    let active: String =
        sqlx::query_scalar("SELECT encode(key_id, 'hex') FROM reseal_data_keys WHERE state = 'active'")
            .fetch_one(&road.pool)
            .await
            .unwrap();
    let draining: String =
        sqlx::query_scalar("SELECT encode(key_id, 'hex') FROM reseal_data_keys WHERE state = 'draining'")
            .fetch_one(&road.pool)
            .await
            .unwrap();
    let (active, draining) = (format!("data-key:{active}"), format!("data-key:{draining}"));
    let refused = road.type_with(&["retire", &draining]).exits(4);
    assert!(
        refused.err.contains(&format!("the latest run of org_instances was to v3 under {draining}")),
        "{}",
        refused.err
    );
    let refused = road.type_with(&["retire", &active]).exits(4);
    assert!(refused.err.contains("is the key given as --new"), "{}", refused.err);
    assert_eq!(road.number("SELECT count(*) FROM reseal_retirements").await, 0);
    assert!(old_key().starts_with("static:"));
}

#[tokio::test]
async fn a_certificate_overwrites_nothing() {
    let road = Road::verified("finish_file", "v3").await;
    road.operator.file("mine.json", "precious", 0o600);
    let refused = road.retire(&["--certificate", "mine.json"]).exits(4);
    assert!(
        refused.err.contains("mine.json exists, and a certificate overwrites nothing"),
        "{}",
        refused.err
    );
    assert_eq!(road.number("SELECT count(*) FROM reseal_retirements").await, 0);
    assert_eq!(std::fs::read_to_string(road.operator.path("mine.json")).unwrap(), "precious");
}
