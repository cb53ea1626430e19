//! Values of a static key in columns that no run of this target visits.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_STANDARD};
use reseal::{
    envelope::v1::StaticCipher,
    rekey::{self, Holder},
    secret::StaticKey,
    store::OtherColumn,
};

use crate::{
    rekey::stage::{OLD, Stage},
    support::{oracle, postgres::TempPostgres},
};

fn cipher(key: &[u8; 32]) -> Arc<StaticCipher> {
    Arc::new(StaticCipher::new(&StaticKey::from_slice(key).unwrap()))
}

fn holder(schema: &str, table: &str, column: &str, sampled: usize, opened: usize) -> Holder {
    Holder { schema: schema.into(), table: table.into(), column: column.into(), sampled, opened }
}

/// A value under [`OLD`], in hex and in base64.
fn sealed() -> (String, String) {
    let value = oracle::seal_v1(&OLD, None, b"redis://elsewhere");
    (hex::encode(&value), BASE64_STANDARD.encode(&value))
}

#[tokio::test]
async fn columns_that_hold_values_under_the_old_key_are_found_on_postgres() {
    let stage = Stage::new("elsewhere", 40).await;
    let ((hex, base64), (other, _)) = (sealed(), {
        let value = oracle::seal_v1(&[9; 32], None, b"redis://elsewhere");
        (hex::encode(&value), ())
    });
    let long = format!("{}{}", base64, " ".repeat(70_000));
    stage
        .execute(&format!(
            "CREATE SCHEMA crm; CREATE DOMAIN sealed AS bytea;
             CREATE TABLE crm.\"Odd \"\"names\" (id int, \"the value\" sealed, note text, short varchar(20), n numeric);
             INSERT INTO crm.\"Odd \"\"names\" SELECT n, '\\x{hex}', CASE WHEN n % 10 = 0 THEN '{base64}' ELSE 'a note of a length ' || n END, 'x', n
             FROM generate_series(1, 50) n;
             CREATE TABLE others (v bytea, w text); INSERT INTO others VALUES ('\\x{other}', 'plain text of more than 28 bytes'), (NULL, '{long}');
             CREATE TABLE hidden (v bytea); INSERT INTO hidden VALUES ('\\x{hex}');
             CREATE MATERIALIZED VIEW kept AS SELECT v FROM hidden;
             ALTER TABLE org_instances ADD COLUMN backup bytea; UPDATE org_instances SET backup = database_url_encrypted;
             ANALYZE",
        ))
        .await;
    let target = stage.target().await;
    let found =
        rekey::holders(stage.store.as_ref(), &target, &[cipher(&[9; 32]), cipher(&OLD)]).await.unwrap();
    let rows = 40;
    let backups = usize::try_from(
        stage.number("SELECT count(*) FROM org_instances WHERE octet_length(backup) > 0").await,
    )
    .unwrap();
    assert!(backups <= rows && backups > 0);
    assert_eq!(
        found.holders,
        [
            holder("crm", "Odd \"names", "the value", 50, 50),
            holder("crm", "Odd \"names", "note", 5, 5),
            holder("public", "hidden", "v", 1, 1),
            holder("public", "kept", "v", 1, 1),
            holder("public", "org_instances", "backup", backups, backups),
            holder("public", "others", "v", 1, 1),
        ]
    );
    assert_eq!(found.unread, []);
    // Under a key that nothing is under, nothing is found; and without a key nobody looks.
    assert_eq!(rekey::holders(stage.store.as_ref(), &target, &[cipher(&[8; 32])]).await.unwrap().holders, []);
    assert_eq!(
        rekey::holders(stage.store.as_ref(), &target, &[]).await.unwrap(),
        rekey::Elsewhere::default()
    );
}

#[tokio::test]
async fn a_column_that_may_not_be_read_is_named_and_not_passed_over() {
    let stage = Stage::new("unread", 5).await;
    let (role, (hex, _)) = (stage.on.database.name.clone(), sealed());
    TempPostgres::shared().login(&role, "secret-of-a-role");
    stage
        .execute(&format!(
            "CREATE TABLE closed (v bytea); INSERT INTO closed VALUES ('\\x{hex}');
             CREATE TABLE guarded (v bytea); INSERT INTO guarded VALUES ('\\x{hex}');
             ALTER TABLE guarded ENABLE ROW LEVEL SECURITY; GRANT SELECT ON guarded TO {role};
             CREATE TABLE open (v bytea); INSERT INTO open VALUES ('\\x{hex}'); GRANT SELECT ON open TO {role};
             GRANT SELECT ON org_instances TO {role}",
        ))
        .await;
    let url = TempPostgres::shared().tcp_url(&role, &role, "secret-of-a-role");
    let store = crate::rekey::stage::connect(&url).await;
    let target = stage.target().await;
    let found = rekey::holders(store.as_ref(), &target, &[cipher(&OLD)]).await.unwrap();
    assert_eq!(found.holders, [holder("public", "open", "v", 1, 1)]);
    let unread =
        |table: &str| OtherColumn { schema: "public".into(), table: table.into(), column: "v".into() };
    assert_eq!(found.unread, [unread("closed"), unread("guarded")]);
    drop(store);
    stage.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[tokio::test]
async fn columns_that_hold_values_under_the_old_key_are_found_on_sqlite() {
    let stage = Stage::on_sqlite(20).await;
    let (hex, base64) = sealed();
    stage
        .execute(&format!(
            "CREATE TABLE \"odd \"\"names\" (id INTEGER PRIMARY KEY, anything, note TEXT);
             INSERT INTO \"odd \"\"names\" VALUES (1, x'{hex}', 'a note of more than twenty-eight bytes'), (2, '{base64}', '{base64}'), (3, 12, NULL);
             CREATE VIEW seen AS SELECT * FROM \"odd \"\"names\"",
        ))
        .await;
    let target = stage.target().await;
    let found = rekey::holders(stage.store.as_ref(), &target, &[cipher(&OLD)]).await.unwrap();
    assert_eq!(
        found.holders,
        [holder("main", "odd \"names", "anything", 2, 2), holder("main", "odd \"names", "note", 1, 1)]
    );
}
