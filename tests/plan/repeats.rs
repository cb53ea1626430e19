//! A ciphertext in two cells: one of them was put there by somebody who can't seal.

use reseal::store::Repeats;

use crate::rekey::stage::Stage;

/// What both databases take.
const COPIES: &str = "
    UPDATE org_instances SET redis_url_encrypted = database_url_encrypted WHERE slug = (SELECT min(slug) FROM org_instances);
    UPDATE org_instances SET database_url_encrypted = (SELECT database_url_encrypted FROM org_instances WHERE slug = (SELECT min(slug) FROM org_instances))
    WHERE slug = (SELECT max(slug) FROM org_instances)";

#[tokio::test]
async fn copied_values_are_found_on_postgres() {
    let stage = Stage::new("repeats", 300).await;
    let target = stage.target().await;
    assert_eq!(stage.store.repeats(&target, 5).await.unwrap(), Repeats::default());
    stage.execute(COPIES).await;
    let repeats = stage.store.repeats(&target, 5).await.unwrap();
    assert_eq!((repeats.values, repeats.cells, repeats.examples.len()), (1, 3, 1));
    let rows = "SELECT count(*) FROM org_instances WHERE slug IN (SELECT min(slug) FROM org_instances UNION SELECT max(slug) FROM org_instances) AND org_id::text IN ";
    let [one, other] = &repeats.examples[0];
    assert_ne!(one, other);
    for (row, column) in [one, other] {
        assert_eq!(stage.number(&format!("{rows} ('{row}')")).await, 1, "{row}");
        assert!(target.column(column).is_some(), "{column}");
    }

    // In base64 too; NULLs and empty values are no copies of each other.
    stage
        .execute(
            "CREATE TABLE texts (id int PRIMARY KEY, v text COLLATE \"C\");
             INSERT INTO texts SELECT n, encode(sha256(n::text::bytea), 'base64') FROM generate_series(1, 9) n;
             INSERT INTO texts SELECT 10, v FROM texts WHERE id = 3; INSERT INTO texts VALUES (11, NULL), (12, NULL), (13, ''), (14, '')",
        )
        .await;
    let texts = stage.target_of("texts", "id", &["v"]).await;
    let repeats = stage.store.repeats(&texts, 5).await.unwrap();
    assert_eq!((repeats.values, repeats.cells), (1, 2));
    assert_eq!(repeats.examples, [[("10".to_owned(), "v".to_owned()), ("3".to_owned(), "v".to_owned())]]);
}

#[tokio::test]
async fn copied_values_are_found_on_sqlite() {
    let stage = Stage::on_sqlite(300).await;
    let target = stage.target().await;
    assert_eq!(stage.store.repeats(&target, 5).await.unwrap(), Repeats::default());
    stage.execute(COPIES).await;
    let repeats = stage.store.repeats(&target, 5).await.unwrap();
    assert_eq!((repeats.values, repeats.cells, repeats.examples.len()), (1, 3, 1));
    let [one, other] = &repeats.examples[0];
    assert!(one != other && target.column(&one.1).is_some(), "{repeats:?}");
}
