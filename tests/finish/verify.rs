//! What can't hide a value from verify, and what is no pass.

use serde_json::json;

use super::{NEW, Road};
use crate::{cli::operator::OLD, support::oracle};

#[tokio::test]
async fn an_index_that_lost_a_row_hides_it_from_a_sweep_and_not_from_verify() {
    let road = Road::new("finish_index", 25, "v3").await;
    // A real gap in the index: while it is marked as not ready, an insert does not enter it.
    let value = hex::encode(oracle::seal_v1(&OLD, None, b"postgres://unseen@h/db"));
    let set_ready = |ready: bool| {
        format!("UPDATE pg_index SET indisready = {ready} WHERE indexrelid = 'org_instances_pkey'::regclass")
    };
    road.execute(&set_ready(false)).await;
    road.execute(&format!(
        "INSERT INTO org_instances (org_id, slug, fly_app, fly_region, status, database_url_encrypted) \
         VALUES ('00000000-0000-4000-8000-000000000001', 'a', 'b', 'c', 'd', '\\x{value}')"
    ))
    .await;
    road.execute(&set_ready(true)).await;
    let mut tx = road.pool.begin().await.unwrap();
    sqlx::raw_sql("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off")
        .execute(&mut *tx)
        .await
        .unwrap();
    let through: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM org_instances WHERE org_id = '00000000-0000-4000-8000-000000000001'",
    )
    .fetch_one(&mut *tx)
    .await
    .unwrap();
    drop(tx);
    assert_eq!((through, road.number("SELECT count(*) FROM org_instances").await), (0, 26));

    road.sweep().exits(0);
    let verify = road.type_with(&["verify", "--output", "json"]).exits(3).json();
    assert_eq!((&verify["values"]["failed"], &verify["values"]["total"]), (&json!(1), &json!(52)));
    road.execute("REINDEX TABLE org_instances").await;
    road.sweep().exits(0);
    road.type_with(&["verify"]).exits(0);
}

#[tokio::test]
async fn a_row_without_a_key_and_a_role_that_sees_less_are_refused() {
    let road = Road::new("finish_hidden", 10, "v3").await;
    road.sweep().exits(0);
    road.execute(
        "ALTER TABLE org_instances DROP CONSTRAINT org_instances_pkey; \
         ALTER TABLE org_instances ALTER COLUMN org_id DROP NOT NULL; \
         UPDATE org_instances SET org_id = NULL WHERE org_id = (SELECT min(org_id::text)::uuid FROM org_instances)",
    )
    .await;
    let refused = road.type_with(&["verify"]).exits(4);
    assert!(refused.err.contains("has no primary key"), "{}", refused.err);

    let mut road = Road::new("finish_hidden", 10, "v3").await;
    road.sweep().exits(0);
    let role = road._database.name.clone();
    let cluster = crate::support::postgres::TempPostgres::shared();
    cluster.login(&role, "pw");
    let grants = format!("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}");
    road.execute(&grants).await;
    let name = road._database.name.clone();
    road.operator.set("DATABASE_URL", &cluster.tcp_url(&name, &role, "pw"));
    // It may read, so it may verify; but what it can't write down is not on record.
    let verified = road.type_with(&["verify"]).exits(0);
    assert!(verified.out.contains("Not on record: this role may not write"), "{}", verified.out);
    assert_eq!(road.number("SELECT count(*) FROM reseal_verifications").await, 0);
    road.execute(&format!(
        "ALTER TABLE org_instances ENABLE ROW LEVEL SECURITY; \
         CREATE POLICY half ON org_instances TO {role} USING (slug > 'm')"
    ))
    .await;
    road.type_with(&["verify"]).exits(4);
    road.execute(&format!("DROP OWNED BY {role}")).await;
    cluster.execute(&format!("DROP ROLE {role}"));
}

#[tokio::test]
async fn a_value_that_merely_opens_is_no_pass() {
    let road = Road::new("finish_merely", 20, "v3").await;
    // Under the right KMS key, in another format.
    road.operator
        .reseal(&[&["run", "--old", "static:env:OLD_KEY", "--format", "v2"], &NEW[..]].concat())
        .exits(0);
    let wrapped: Vec<u8> = sqlx::query_scalar(
        "SELECT database_url_encrypted FROM org_instances WHERE octet_length(database_url_encrypted) > 0 LIMIT 1",
    )
    .fetch_one(&road.pool)
    .await
    .unwrap();
    road.sweep().exits(0);
    road.type_with(&["verify"]).exits(0);
    let one = "UPDATE org_instances SET database_url_encrypted = $1 \
               WHERE org_id = (SELECT min(org_id::text)::uuid FROM org_instances)";
    sqlx::query(one).bind(wrapped).execute(&road.pool).await.unwrap();
    road.type_with(&["verify"]).exits(3);
    road.stale_write().await.unwrap();
    let verify = road.type_with(&["verify", "--output", "json"]).exits(3).json();
    assert_eq!(verify["values"]["failed"], 1);
    assert_eq!(verify["outcome"], "failed");
    let records =
        "SELECT count(*) FROM reseal_verifications WHERE failed = 1 AND cells = 40 AND ended_at >= began_at";
    assert_eq!(road.number(records).await, 2);
    assert_eq!((road.audited("verified").await.len(), road.audited("verify-failed").await.len()), (1, 2));
}

#[tokio::test]
async fn a_verify_that_passed_says_what_it_stood_on() {
    let road = Road::verified("finish_record", "v3").await;
    let verify = road.type_with(&["verify", "--output", "json"]).exits(0).json();
    let recorded = &verify["recorded"];
    assert!(recorded["fence"]["takes"].as_str().unwrap().starts_with("v3 under data-key:"), "{recorded}");
    assert!(recorded["log_position"].as_str().unwrap().contains('/'), "{recorded}");
    assert!(verify["not_covered"].as_str().unwrap().contains("backups"));
    assert!(verify["audit"]["head"].is_string());
    let detail = &road.audited("verified").await[0];
    assert_eq!((&detail["run"], &detail["cells"]), (&recorded["run"], &json!(50)));
    let began_durably = format!(
        "SELECT count(*) FROM reseal_verifications WHERE position::pg_lsn <= pg_current_wal_flush_lsn() \
         AND verification = {}",
        recorded["number"]
    );
    assert_eq!(road.number(&began_durably).await, 1);
}
