//! Opening, creating and migrating a file.

use super::*;

#[tokio::test]
async fn open_wants_a_file_and_create_wants_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.db");
    let error = Sqlite::open(&path).await.unwrap_err();
    assert_eq!(error.to_string(), format!("there is no database file {}", path.display()));
    assert!(!path.exists(), "opening must not create");

    let store = Sqlite::create(&path).await.unwrap();
    store.migrate().await.unwrap();
    let error = Sqlite::create(&path).await.unwrap_err();
    assert!(!error.is_transient() && error.to_string().contains("can't be created"), "{error}");
    assert!(
        Sqlite::open(&path).await.unwrap().is_migrated().await.unwrap(),
        "the second create changed nothing"
    );

    let text = dir.path().join("text");
    std::fs::write(&text, "not a database, however long this text goes on".repeat(20)).unwrap();
    let error = Sqlite::open(&text).await.unwrap_err();
    assert!(!error.is_transient() && error.to_string().contains("not a database"), "{error}");
}

#[tokio::test]
async fn the_journal_mode_of_a_file_is_kept_and_a_new_file_has_wal() {
    let mode = async |path: &Path| -> String {
        sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut raw(path).await).await.unwrap()
    };
    let fixture = Fixture::with_rows(TABLES[0], 3).await;
    assert_eq!(mode(&fixture.path).await, "wal");
    drop(fixture);

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rollback.db");
    let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let mut conn = options.connect().await.unwrap();
    conn.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, a BLOB, b BLOB)").await.unwrap();
    conn.execute("INSERT INTO t VALUES (1, x'6f6c6431', NULL)").await.unwrap();
    let store = Sqlite::open(&path).await.unwrap();
    store.migrate().await.unwrap();
    let fixture = Fixture { store, path, _dir: dir };
    let inspection = fixture.store.inspect(&name(&["a", "b"])).await.unwrap();
    assert_eq!(inspection.findings[0].what, "the journal mode is delete");
    let target = inspection.target.unwrap();
    let (_, lease) = fixture.lease(&target).await;
    commit_all(&fixture, &target, &lease, &fixture.page(&target).await).await;
    assert_eq!(fixture.ask("SELECT a FROM t").await, "X'6E65773121'");
    assert_eq!(mode(&fixture.path).await, "delete");
}

#[tokio::test]
async fn two_that_migrate_at_once_apply_each_migration_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.db");
    let one = Sqlite::create(&path).await.unwrap();
    let two = Sqlite::open(&path).await.unwrap();
    assert!(!one.is_migrated().await.unwrap());
    let (first, second) = tokio::join!(one.migrate(), two.migrate());
    let mut applied = first.unwrap();
    applied.extend(second.unwrap());
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/sqlite")).unwrap().count();
    assert_eq!((applied.len(), applied[0].as_str()), (files, "0001 rekey"));
    assert!(two.is_migrated().await.unwrap());
    assert_eq!(one.migrate().await.unwrap(), Vec::<String>::new());
    let tables = "SELECT group_concat(name) FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'reseal_%' AND name NOT LIKE 'sqlite_%'";
    let others: Option<String> = sqlx::query_scalar(tables).fetch_one(&mut raw(&path).await).await.unwrap();
    assert_eq!(others, None, "our migrations are kept in a table of our own");
}

#[tokio::test]
async fn a_file_that_stays_locked_is_trouble_that_passes() {
    let fixture = Fixture::with_rows(TABLES[0], 1).await;
    let target = fixture.target().await;
    let (run, _) = fixture.lease(&target).await;
    let mut other = fixture.raw().await;
    let lock = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let error = fixture.store.claim(&run, "w", target.key_kind).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert_eq!(fixture.page(&target).await.keys.len(), 1, "reading goes on");
    lock.rollback().await.unwrap();
    assert!(matches!(fixture.store.claim(&run, "w", target.key_kind).await.unwrap(), Claim::Busy));
}
