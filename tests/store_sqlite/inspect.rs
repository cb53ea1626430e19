//! What is refused, and what is shown.

use super::*;

#[tokio::test]
async fn what_can_t_be_re_keyed_is_refused_with_its_reason() {
    let cases: [(&str, &str); 20] = [
        ("CREATE TABLE other (k)", "there is no table t in this file"),
        ("CREATE TABLE T (k INTEGER PRIMARY KEY, a BLOB)", "the table is spelled T"),
        ("CREATE TABLE x (k, a); CREATE VIEW t AS SELECT * FROM x", "t is a view"),
        ("CREATE VIRTUAL TABLE t USING fts5(k, a)", "t is a virtual table, or part of one"),
        ("CREATE TABLE t (k TEXT, a BLOB)", "t has no primary key"),
        ("CREATE TABLE t (k TEXT, j TEXT, a BLOB, PRIMARY KEY (k, j))", "the primary key of t has 2 columns"),
        ("CREATE TABLE t (id TEXT PRIMARY KEY, k TEXT, a BLOB)", "the primary key of t is id, not k"),
        ("CREATE TABLE t (k UUID PRIMARY KEY, a BLOB)", "the primary key k is of type UUID"),
        ("CREATE TABLE t (k PRIMARY KEY, a BLOB)", "the primary key k is of type none at all"),
        (
            "CREATE TABLE t (k TEXT PRIMARY KEY, a BLOB); INSERT INTO t (k) VALUES (NULL), (NULL), ('x')",
            "2 rows of t have a NULL primary key",
        ),
        (
            "CREATE TABLE t (k TEXT PRIMARY KEY, a BLOB); INSERT INTO t (k) VALUES (x'41'), ('x')",
            "1 rows of t have a primary key that is not text",
        ),
        (
            "CREATE TABLE t (k BIGINT PRIMARY KEY, a BLOB); INSERT INTO t (k) VALUES ('one'), (1.5), (2)",
            "2 rows of t have a primary key that is not integer",
        ),
        ("CREATE TABLE t (k INTEGER PRIMARY KEY, b BLOB)", "t has no column a"),
        ("CREATE TABLE t (k INTEGER PRIMARY KEY, A BLOB)", "the column a is spelled A"),
        ("CREATE TABLE t (k INTEGER PRIMARY KEY, a INTEGER)", "column a is of type INTEGER"),
        ("CREATE TABLE t (k INTEGER PRIMARY KEY, a)", "column a is of type none at all"),
        (
            "CREATE TABLE t (k INTEGER PRIMARY KEY, x BLOB, a BLOB GENERATED ALWAYS AS (x) STORED)",
            "column a is generated",
        ),
        ("CREATE TABLE t (k INTEGER PRIMARY KEY, x BLOB, a BLOB AS (x))", "column a is generated"),
        (
            "CREATE TABLE t (k INTEGER PRIMARY KEY, a BLOB); \
             CREATE TRIGGER x AFTER UPDATE ON t BEGIN SELECT secret_function(NEW.a); END",
            "t can't be updated by this program: the database refuses: no such function: secret_function (1)",
        ),
        (
            "PRAGMA encoding = 'UTF-16le'; CREATE TABLE t (k INTEGER PRIMARY KEY, a TEXT)",
            "this database stores text as UTF-16le",
        ),
    ];
    for (sql, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.db");
        let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
        options.connect().await.unwrap().execute(sql).await.unwrap();
        let store = Sqlite::open(&path).await.unwrap();
        let inspection = store.inspect(&name(&["a"])).await.unwrap();
        let refusals: Vec<&str> = inspection.refusals().map(|finding| finding.what.as_str()).collect();
        assert_eq!(refusals, [expected], "{sql}");
        assert!(inspection.findings[0].refuses && !inspection.findings[0].hint.is_empty());
    }
}

#[tokio::test]
async fn a_schema_other_than_main_and_the_key_as_a_target_are_refused() {
    let fixture = Fixture::new(TABLES[2]).await;
    let other = TargetName { schema: Some("public".to_owned()), ..name(&["a"]) };
    let inspection = fixture.store.inspect(&other).await.unwrap();
    let expected = "there is no schema public: the tables of a SQLite file are in main";
    assert_eq!(inspection.refusals().next().unwrap().what, expected);
    assert!(inspection.target.is_none());
    let inspection = fixture.store.inspect(&name(&["a", "k"])).await.unwrap();
    assert_eq!(inspection.refusals().next().unwrap().what, "column k is part of the primary key");
    let main = TargetName { schema: Some("main".to_owned()), ..name(&["a"]) };
    assert_eq!(fixture.store.inspect(&main).await.unwrap().refusals().count(), 0);
}

#[tokio::test]
async fn a_file_that_can_t_be_written_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.db");
    let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    options.connect().await.unwrap().execute(TABLES[0]).await.unwrap();
    // The write version in the header, beyond any that SQLite knows: a file that it may read and must not write,
    // for the superuser too, whom no permission stops (sqlite.org/fileformat2.html, section 1.3.3).
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[18] = 3;
    std::fs::write(&path, bytes).unwrap();
    let inspection = Sqlite::open(&path).await.unwrap().inspect(&name(&["a"])).await.unwrap();
    let refusals: Vec<&str> = inspection.refusals().map(|finding| finding.what.as_str()).collect();
    assert_eq!(refusals, [format!("{} is read-only", path.canonicalize().unwrap().display())]);
}

#[tokio::test]
async fn triggers_and_indexes_on_the_columns_are_shown_and_others_are_not() {
    let fixture = Fixture::new(
        "CREATE TABLE t (k INTEGER PRIMARY KEY, a BLOB, b BLOB, c, touched); CREATE TABLE other (x); \
         CREATE INDEX by_b ON t (c, b); CREATE INDEX by_c ON t (c); \
         CREATE TRIGGER touch AFTER UPDATE ON t BEGIN UPDATE t SET touched = 1 WHERE k = NEW.k; \
             UPDATE other SET x = 1; END; \
         CREATE TRIGGER of_a BEFORE UPDATE OF c, a ON T WHEN NEW.c > 1 BEGIN SELECT 1; END; \
         CREATE TRIGGER of_c AFTER UPDATE OF c ON t BEGIN SELECT 1; END; \
         CREATE TRIGGER on_insert AFTER INSERT ON t BEGIN UPDATE t SET touched = 1; END; \
         CREATE TRIGGER of_other AFTER UPDATE ON other BEGIN SELECT 1; END; \
         CREATE TRIGGER reseal_fence BEFORE UPDATE OF a ON t BEGIN SELECT 1; END",
    )
    .await;
    let inspection = fixture.store.inspect(&name(&["a", "b"])).await.unwrap();
    let what: Vec<&str> = inspection.findings.iter().map(|finding| finding.what.as_str()).collect();
    let expected = [
        "column b is part of index by_b",
        "trigger of_a fires on every update",
        "trigger touch fires on every update",
    ];
    assert_eq!(what, expected);
    assert_eq!(inspection.refusals().count(), 0);
    assert!(inspection.target.unwrap().has_triggers);
    fixture.execute("DROP TRIGGER touch; DROP TRIGGER of_a").await;
    assert!(!fixture.target().await.has_triggers);
}

#[tokio::test]
async fn statistics_that_would_make_a_batch_scan_the_table_are_shown() {
    let fixture = Fixture::with_rows(TABLES[0], 1).await;
    fixture.execute("ANALYZE").await;
    let store = Sqlite::open(&fixture.path).await.unwrap();
    let inspection = store.inspect(&name(&["a", "b"])).await.unwrap();
    assert_eq!(inspection.findings[0].what, "SQLite would read all of t for each batch");
    assert!(!inspection.findings[0].refuses);
    let fixture = Fixture::with_rows(TABLES[0], 20).await;
    fixture.execute("ANALYZE").await;
    let store = Sqlite::open(&fixture.path).await.unwrap();
    assert_eq!(store.inspect(&name(&["a", "b"])).await.unwrap().findings, []);
}
