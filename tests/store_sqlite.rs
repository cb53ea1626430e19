//! The SQLite store: what it refuses, what it reads, and that a commit replaces what was opened and nothing else.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use reseal::store::{
    Batch, Cells, Checkpoint, Claim, Committed, DataKeyState, KeyKind, KeyRange, Lease, NewRun, Page,
    PageLimits, Quarantined, RowKey, RunRow, RunState, Store, StoreError, Tally, Target, TargetName,
    Unsettled, WrappedDataKey, sqlite::Sqlite,
};
use sha2::{Digest, Sha256};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Executor, SqliteConnection, sqlite::SqliteConnectOptions,
};
use tempfile::TempDir;
use uuid::Uuid;

const LIMITS: PageLimits = PageLimits { rows: 1000, bytes: 4 << 20, value: 1 << 20 };

/// The tables that every promise about rows is kept for; `a` and `b` hold the values.
const TABLES: [&str; 5] = [
    "CREATE TABLE t (k INTEGER PRIMARY KEY, a BLOB, b BLOB)",
    "CREATE TABLE t (k BIGINT PRIMARY KEY, a BLOB, b TEXT)",
    "CREATE TABLE t (a BYTEA, b VARCHAR(400), k TEXT PRIMARY KEY)",
    "CREATE TABLE t (k VARCHAR(36) PRIMARY KEY, a TEXT COLLATE NOCASE, b BLOB) WITHOUT ROWID",
    "CREATE TABLE t (k TEXT COLLATE NOCASE PRIMARY KEY, rowid TEXT, oid TEXT, a TEXT, b TEXT)",
];

struct Fixture {
    store: Sqlite,
    path: PathBuf,
    _dir: TempDir,
}

impl Fixture {
    /// A database in WAL mode with `sql` run in it and our own tables.
    async fn new(sql: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.db");
        let store = Sqlite::create(&path).await.unwrap();
        store.migrate().await.unwrap();
        let fixture = Self { store, path, _dir: dir };
        fixture.execute(sql).await;
        fixture
    }

    /// The table `sql` with `rows` rows; `a` and `b` hold what [`old`] says.
    async fn with_rows(sql: &str, rows: u32) -> Self {
        let fixture = Self::new(sql).await;
        let target = fixture.target().await;
        let mut conn = fixture.raw().await;
        let mut tx = conn.begin().await.unwrap();
        for row in 0..rows {
            let insert = sqlx::query("INSERT INTO t (k, a, b) VALUES (?, ?, ?)");
            let insert = match key(target.key_kind, row) {
                RowKey::Integer(key) => insert.bind(key),
                other => insert.bind(other.to_string()),
            };
            // A Rust string is stored as text and a vector as a blob, as any other client would.
            let insert = (0..2).fold(insert, |insert, column| match is_text(&target, column) {
                true => insert.bind(String::from_utf8(old(row, column)).unwrap()),
                false => insert.bind(old(row, column)),
            });
            insert.execute(&mut *tx).await.unwrap();
        }
        tx.commit().await.unwrap();
        fixture
    }

    async fn raw(&self) -> SqliteConnection {
        raw(&self.path).await
    }

    async fn execute(&self, sql: &str) -> u64 {
        self.raw().await.execute(AssertSqlSafe(sql)).await.unwrap().rows_affected()
    }

    /// The one value that `sql` gives, as SQLite's `quote()` writes it.
    async fn ask(&self, sql: &str) -> String {
        let sql = format!("SELECT quote(({sql}))");
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut self.raw().await).await.unwrap()
    }

    async fn target(&self) -> Target {
        let inspection = self.store.inspect(&name(&["a", "b"])).await.unwrap();
        assert_eq!(inspection.refusals().count(), 0, "{:?}", inspection.findings);
        inspection.target.unwrap()
    }

    /// A run of one shard, and that shard.
    async fn lease(&self, target: &Target) -> (RunRow, Lease) {
        let run = self.run(target, vec![KeyRange::ALL]).await;
        let lease = leased(self.store.claim(&run, "w", target.key_kind).await.unwrap());
        (run, lease)
    }

    async fn run(&self, target: &Target, ranges: Vec<KeyRange>) -> RunRow {
        self.store.register(target).await.unwrap();
        let run = NewRun {
            run_id: ulid::Ulid::generate().to_string(),
            target: target.name.clone(),
            keys: "{}".to_owned(),
            row_count: 0,
            ranges,
        };
        self.store.create_run(&run).await.unwrap()
    }

    async fn page(&self, target: &Target) -> Page {
        self.store.read_page(target, &KeyRange::ALL, None, LIMITS).await.unwrap()
    }
}

async fn raw(path: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(path).connect().await.unwrap()
}

fn name(columns: &[&str]) -> TargetName {
    TargetName {
        logical: None,
        schema: None,
        table: "t".to_owned(),
        key_column: "k".to_owned(),
        columns: columns.iter().map(|&column| column.to_owned()).collect(),
    }
}

fn is_text(target: &Target, column: usize) -> bool {
    target.columns[column].encoding == reseal::envelope::Encoding::Base64
}

fn key(kind: KeyKind, row: u32) -> RowKey {
    match kind {
        KeyKind::Integer => RowKey::Integer(i64::from(row) - 3),
        // With everything that a text key can hold, in no order.
        _ => RowKey::Text(format!("{:04}-É\"'\\\u{1}-{row}", row.wrapping_mul(2_654_435_761) % 9973)),
    }
}

fn old(row: u32, column: usize) -> Vec<u8> {
    format!("old {row} {column} {}", "x".repeat(row as usize % 7)).into_bytes()
}

fn leased(claim: Claim) -> Lease {
    match claim {
        Claim::Leased(lease) => *lease,
        other => panic!("{other:?}"),
    }
}

/// The new values for a page: each value's first three bytes become `new`, and one more byte follows.
fn rekeyed(page: &Page) -> Cells {
    let mut new = Cells::new(page.cells.width());
    for row in 0..page.keys.len() {
        for cell in page.cells.row(row) {
            new.push(cell.map(|cell| [b"new", &cell[3..], b"!"].concat()).as_deref());
        }
    }
    new
}

async fn commit(
    store: &Sqlite,
    target: &Target,
    lease: &Lease,
    page: &Page,
    rows: Range<usize>,
) -> Result<(Vec<Unsettled>, bool), StoreError> {
    let new = rekeyed(page);
    let cells = |filled: bool| -> i64 {
        rows.clone()
            .flat_map(|row| new.row(row))
            .filter(|cell| cell.is_some() == filled)
            .count()
            .try_into()
            .unwrap()
    };
    let tally = Tally {
        scanned: rows.len().try_into().unwrap(),
        rekeyed: cells(true),
        empty: cells(false),
        total: cells(true) + cells(false),
        ..Tally::default()
    };
    let checkpoint = Checkpoint {
        cursor: page.keys[rows.clone()].last(),
        done: page.last && rows.end == page.keys.len(),
        tally,
    };
    let batch = Batch { keys: &page.keys, old: &page.cells, new: &new, rows, quarantined: &[], checkpoint };
    match store.commit(target, lease, batch).await? {
        Committed::Done(unsettled) => Ok((unsettled, false)),
        Committed::Fenced => Ok((Vec::new(), true)),
    }
}

/// Commits a page of which every row is ours.
async fn commit_all(fixture: &Fixture, target: &Target, lease: &Lease, page: &Page) {
    let done = commit(&fixture.store, target, lease, page, 0..page.keys.len()).await.unwrap();
    assert!(done.0.is_empty() && !done.1, "{done:?}");
}

fn row_of(page: &Page, key: &RowKey) -> usize {
    page.keys.iter().position(|found| found == key).unwrap()
}

// --- opening and migrating ---

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
    assert_eq!(applied, ["0001 rekey"]);
    assert!(two.is_migrated().await.unwrap());
    assert_eq!(one.migrate().await.unwrap(), Vec::<String>::new());
    let tables =
        "SELECT group_concat(name) FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'reseal_%'";
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

// --- inspecting ---

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

// --- reading ---

#[tokio::test]
async fn pages_cover_every_row_once_in_key_order_under_both_limits() {
    for table in TABLES {
        let fixture = Fixture::with_rows(table, 100).await;
        let target = fixture.target().await;
        let all = fixture.page(&target).await;
        assert_eq!((all.keys.len(), all.last), (100, true), "{table}");
        assert!(all.keys.is_sorted(), "{table}");
        for row in 0..100 {
            let at = row_of(&all, &key(target.key_kind, row));
            assert_eq!(
                all.cells.row(at).collect::<Vec<_>>(),
                [0, 1].map(|c| Some(old(row, c))).each_ref().map(|c| c.as_deref())
            );
        }
        for (rows, bytes, at_most) in
            [(7, 1 << 20, 7), (1000, 120, 6), (1000, 1, 1), (100, 1 << 20, 100), (1, 1, 1)]
        {
            let limits = PageLimits { rows, bytes, ..LIMITS };
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let page =
                    fixture.store.read_page(&target, &KeyRange::ALL, after.as_ref(), limits).await.unwrap();
                assert!(
                    page.keys.len() <= at_most && (page.cells.byte_len() <= bytes || page.keys.len() == 1)
                );
                assert!(!page.keys.is_empty() || page.last, "a page that is not the last makes progress");
                seen.extend(page.keys);
                after = seen.last().cloned();
                if page.last {
                    break;
                }
            }
            assert_eq!(seen, all.keys, "{table} {rows} {bytes}");
        }
        let range = KeyRange { lo: Some(all.keys[9].clone()), hi: Some(all.keys[19].clone()) };
        let part = fixture.store.read_page(&target, &range, None, LIMITS).await.unwrap();
        assert_eq!(part.keys, all.keys[10..20]);
        let part = fixture.store.read_page(&target, &range, Some(&all.keys[14]), LIMITS).await.unwrap();
        assert_eq!(part.keys, all.keys[15..20]);
    }
}

#[tokio::test]
async fn cells_read_as_bytes_whatever_their_storage_class() {
    let fixture = Fixture::new("CREATE TABLE t (k INTEGER PRIMARY KEY, a BLOB, b TEXT)").await;
    fixture
        .execute(
            "INSERT INTO t VALUES (1, NULL, ''), (2, x'', NULL), (3, x'00ff00c3', 'é'), (4, 'text', x'62'), \
             (5, 42, 1.5), (6, zeroblob(11), CAST(x'fffe00' AS text)), (7, zeroblob(10), 'y')",
        )
        .await;
    let target = fixture.target().await;
    let limits = PageLimits { value: 10, ..LIMITS };
    let page = fixture.store.read_page(&target, &KeyRange::ALL, None, limits).await.unwrap();
    let expected: [[Option<&[u8]>; 2]; 7] = [
        [None, None],
        [None, None],
        [Some(b"\0\xff\0\xc3"), Some("é".as_bytes())],
        [Some(b"text"), Some(b"b")],
        [Some(b"42"), Some(b"1.5")],
        [Some(b""), Some(b"\xff\xfe\0")],
        [Some(&[0; 10]), Some(b"y")],
    ];
    for (row, cells) in expected.iter().enumerate() {
        assert_eq!(page.cells.row(row).collect::<Vec<_>>(), cells, "row {}", row + 1);
    }
    let keys = [7, 3, 99].map(RowKey::Integer);
    let rows = fixture.store.read_rows(&target, &keys, limits).await.unwrap();
    assert_eq!(rows.keys, [3, 7].map(RowKey::Integer));
    assert_eq!(rows.cells.at(0, 1), Some("é".as_bytes()));
    assert!(fixture.store.read_rows(&target, &[], limits).await.unwrap().keys.is_empty());
}

#[tokio::test]
async fn samples_and_split_points_fit_tables_of_any_size() {
    for table in TABLES {
        for rows in [0_u32, 1, 2, 50] {
            let fixture = Fixture::with_rows(table, rows).await;
            let target = fixture.target().await;
            let count = fixture.store.count_rows(&target).await.unwrap();
            assert_eq!(count, u64::from(rows));
            let page = fixture.page(&target).await;
            assert!(page.last);
            let sample = fixture.store.sample(&target, 20, LIMITS).await.unwrap();
            assert_eq!(sample.keys.len(), usize::try_from(rows.min(20)).unwrap());
            assert!(sample.keys.iter().all(|key| page.keys.contains(key)));
            let points = fixture.store.split_points(&target, count, 4).await.unwrap();
            let expected: Vec<RowKey> = match rows {
                0 => Vec::new(),
                1 | 2 => page.keys.clone(),
                _ => [11, 23, 35].map(|at| page.keys[at].clone()).to_vec(),
            };
            assert_eq!(points, expected, "{table} {rows}");
            assert_eq!(fixture.store.split_points(&target, count, 1).await.unwrap(), []);
        }
    }
}

async fn snapshot(store: &Sqlite, target: &Target, limits: PageLimits) -> (u64, Vec<RowKey>) {
    let (pages, mut received) = tokio::sync::mpsc::channel::<Page>(1);
    let all = async {
        let mut keys = Vec::new();
        while let Some(page) = received.recv().await {
            keys.extend(page.keys);
        }
        keys
    };
    let (count, keys) = tokio::join!(store.snapshot(target, limits, pages), all);
    (count.unwrap(), keys)
}

#[tokio::test]
async fn a_snapshot_sends_every_row_once_and_counts_the_same() {
    for table in TABLES {
        let fixture = Fixture::with_rows(table, 60).await;
        let target = fixture.target().await;
        for limits in [LIMITS, PageLimits { rows: 7, ..LIMITS }, PageLimits { bytes: 1, ..LIMITS }] {
            let (count, mut keys) = snapshot(&fixture.store, &target, limits).await;
            keys.sort();
            assert_eq!((count, keys), (60, fixture.page(&target).await.keys), "{table}");
        }
        fixture.execute("DELETE FROM t").await;
        assert_eq!(snapshot(&fixture.store, &target, LIMITS).await, (0, Vec::new()));
    }
}

#[tokio::test]
async fn a_snapshot_does_not_see_what_is_written_while_it_is_read() {
    let fixture = Fixture::with_rows(TABLES[0], 10).await;
    let target = fixture.target().await;
    let (pages, mut received) = tokio::sync::mpsc::channel::<Page>(1);
    let read = async {
        let first = received.recv().await.unwrap();
        assert_eq!(first.keys.len(), 1);
        fixture
            .execute("DELETE FROM t WHERE k > 3; UPDATE t SET a = x'ff'; INSERT INTO t (k) VALUES (1000)")
            .await;
        let mut rows = 1;
        while let Some(page) = received.recv().await {
            assert_eq!(page.cells.at(0, 0).unwrap()[..3], *b"old");
            rows += page.keys.len();
        }
        rows
    };
    let (count, rows) =
        tokio::join!(fixture.store.snapshot(&target, PageLimits { rows: 1, ..LIMITS }, pages), read);
    assert_eq!((count.unwrap(), rows), (10, 10));
}

#[tokio::test]
async fn a_snapshot_sees_the_rows_that_a_damaged_index_hides() {
    let fixture = Fixture::with_rows("CREATE TABLE t (k TEXT PRIMARY KEY, a BLOB, b BLOB)", 30).await;
    let target = fixture.target().await;
    fixture
        .execute(
            "CREATE TABLE empty (x TEXT PRIMARY KEY); PRAGMA writable_schema = ON; UPDATE sqlite_schema SET rootpage = \
             (SELECT rootpage FROM sqlite_schema WHERE name = 'sqlite_autoindex_empty_1') \
             WHERE name = 'sqlite_autoindex_t_1'",
        )
        .await;
    let store = Sqlite::open(&fixture.path).await.unwrap();
    let swept = store.read_page(&target, &KeyRange::ALL, None, LIMITS).await.unwrap();
    assert_eq!(swept.keys.len(), 0, "the index hides every row from a sweep");
    let (count, keys) = snapshot(&store, &target, LIMITS).await;
    assert_eq!((count, keys.len()), (30, 30));
}

#[tokio::test]
async fn a_fingerprint_is_the_hash_of_the_stored_bytes() {
    let fixture = Fixture::new(TABLES[3]).await;
    fixture.execute("INSERT INTO t VALUES ('x', 'a€', NULL), ('y', '', zeroblob(3145728 + 5)), ('z', NULL, zeroblob(2097152))").await;
    let target = fixture.target().await;
    let hash = |bytes: &[u8]| -> Option<[u8; 32]> { Some(Sha256::digest(bytes).into()) };
    let cases = [
        ("x", 0, hash("a€".as_bytes())),
        ("x", 1, None),
        ("y", 0, hash(b"")),
        ("y", 1, hash(&vec![0; 3_145_733])),
        ("z", 1, hash(&vec![0; 2_097_152])),
        ("missing", 1, None),
    ];
    for (row, column, expected) in cases {
        let found = fixture.store.fingerprint(&target, &RowKey::Text(row.to_owned()), column).await.unwrap();
        assert_eq!(found, expected, "{row} {column}");
    }
}

// --- committing ---

#[tokio::test]
async fn a_batch_replaces_the_opened_values_and_keeps_their_types() {
    for table in TABLES {
        let fixture = Fixture::with_rows(table, 40).await;
        fixture.execute("UPDATE t SET a = NULL WHERE k = (SELECT min(k) FROM t)").await;
        let target = fixture.target().await;
        let types = "SELECT group_concat(typeof(a) || typeof(b), ' ') FROM (SELECT * FROM t ORDER BY k)";
        let before = fixture.ask(types).await;
        let (run, lease) = fixture.lease(&target).await;
        let page = fixture.page(&target).await;
        commit_all(&fixture, &target, &lease, &page).await;
        let after = fixture.page(&target).await;
        let new = rekeyed(&page);
        for row in 0..40 {
            assert_eq!(after.cells.row(row).collect::<Vec<_>>(), new.row(row).collect::<Vec<_>>(), "{table}");
        }
        assert_eq!(fixture.ask(types).await, before);
        let tally = fixture.store.tally(&run.run_id, None).await.unwrap();
        assert_eq!((tally.scanned, tally.rekeyed, tally.empty, tally.conflicts), (40, 79, 1, 0));
        assert!(tally.sums());
        assert!(matches!(fixture.store.claim(&run, "w", target.key_kind).await.unwrap(), Claim::SweepDone));
    }
}

#[tokio::test]
async fn a_cell_that_somebody_else_changed_is_left_and_its_neighbours_are_swapped() {
    for table in TABLES {
        let fixture = Fixture::with_rows(table, 6).await;
        let target = fixture.target().await;
        let (run, lease) = fixture.lease(&target).await;
        let page = fixture.page(&target).await;
        let text = |row: usize| page.keys[row].to_string().replace('\'', "\'\'");
        // Row 0: one column. Row 1: both. Row 2: set to NULL. Row 3: to nothing. Row 4: gone.
        for (row, change) in [
            (0, "UPDATE t SET b = 'theirs'"),
            (1, "UPDATE t SET a = 'theirs', b = 'theirs'"),
            (2, "UPDATE t SET a = NULL"),
            (3, "UPDATE t SET a = ''"),
            (4, "DELETE FROM t"),
        ] {
            assert_eq!(fixture.execute(&format!("{change} WHERE k = '{}'", text(row))).await, 1);
        }
        let (mut unsettled, fenced) = commit(&fixture.store, &target, &lease, &page, 0..6).await.unwrap();
        assert!(!fenced);
        unsettled.sort_by_key(|cell| (cell.row, cell.column));
        let found: Vec<_> =
            unsettled.iter().map(|cell| (cell.row, cell.column, cell.now.as_deref())).collect();
        let theirs: Option<&[u8]> = Some(b"theirs");
        assert_eq!(found, [(0, 1, theirs), (1, 0, theirs), (1, 1, theirs), (2, 0, None), (3, 0, None)]);

        let after = fixture.page(&target).await;
        let new = rekeyed(&page);
        assert_eq!(after.keys, [&page.keys[..4], &page.keys[5..]].concat());
        assert_eq!(after.cells.row(0).collect::<Vec<_>>(), [new.at(0, 0), theirs]);
        assert_eq!(after.cells.row(1).collect::<Vec<_>>(), [theirs, theirs]);
        assert_eq!(after.cells.row(2).collect::<Vec<_>>(), [None, new.at(2, 1)]);
        assert_eq!(after.cells.row(3).collect::<Vec<_>>(), [None, new.at(3, 1)]);
        assert_eq!(after.cells.row(4).collect::<Vec<_>>(), [new.at(5, 0), new.at(5, 1)]);
        let tally = fixture.store.tally(&run.run_id, None).await.unwrap();
        assert_eq!((tally.rekeyed, tally.vanished, tally.conflicts, tally.deferred), (5, 2, 5, 5), "{table}");
        assert!(tally.sums());
    }
}

#[tokio::test]
async fn one_column_alone_is_a_target_too() {
    let fixture = Fixture::with_rows(TABLES[1], 5).await;
    let target = fixture.store.inspect(&name(&["b"])).await.unwrap().target.unwrap();
    let (_, lease) = fixture.lease(&target).await;
    let page = fixture.page(&target).await;
    assert_eq!(fixture.execute("UPDATE t SET a = NULL; UPDATE t SET b = 'theirs' WHERE k = 0").await, 6);
    let (unsettled, _) = commit(&fixture.store, &target, &lease, &page, 1..5).await.unwrap();
    assert_eq!(unsettled.len(), 1);
    assert_eq!(page.keys[unsettled[0].row], RowKey::Integer(0));
    assert_eq!(
        fixture.ask("SELECT group_concat(substr(b, 1, 3)) FROM t WHERE a IS NULL").await,
        "'old,new,new,the,new'"
    );
}

#[tokio::test]
async fn text_is_compared_by_its_bytes_under_any_collation() {
    let fixture = Fixture::with_rows(
        "CREATE TABLE t (k TEXT PRIMARY KEY, a TEXT COLLATE NOCASE, b TEXT COLLATE RTRIM)",
        1,
    )
    .await;
    let target = fixture.target().await;
    let (_, lease) = fixture.lease(&target).await;
    let page = fixture.page(&target).await;
    fixture.execute("UPDATE t SET a = upper(a), b = b || ' '").await;
    assert_eq!(
        fixture.ask("SELECT a = 'old 0 0 ' AND b = 'old 0 1' FROM t").await,
        "1",
        "equal to their collations"
    );
    let (unsettled, _) = commit(&fixture.store, &target, &lease, &page, 0..1).await.unwrap();
    assert_eq!(unsettled.len(), 2);
    assert_eq!(fixture.ask("SELECT a || b FROM t").await, "'OLD 0 0 old 0 1  '");
}

#[tokio::test]
async fn a_row_whose_key_changed_only_in_case_is_another_row() {
    let fixture = Fixture::new("CREATE TABLE t (k TEXT PRIMARY KEY COLLATE NOCASE, a BLOB, b BLOB)").await;
    fixture.execute("INSERT INTO t VALUES ('acme', 'old', 'old'), ('b', 'old', 'old')").await;
    let target = fixture.target().await;
    let (run, lease) = fixture.lease(&target).await;
    let page = fixture.page(&target).await;
    fixture.execute("UPDATE t SET k = 'Acme' WHERE k = 'acme'").await;
    let (unsettled, _) = commit(&fixture.store, &target, &lease, &page, 0..2).await.unwrap();
    assert_eq!(unsettled.len(), 0);
    assert_eq!(fixture.ask("SELECT group_concat(k || a || b) FROM t").await, "'Acmeoldold,bnew!new!'");
    let tally = fixture.store.tally(&run.run_id, None).await.unwrap();
    assert_eq!((tally.rekeyed, tally.vanished), (2, 2));
}

#[tokio::test]
async fn a_trigger_that_undoes_the_update_stops_the_batch_with_nothing_written() {
    let undoing = [
        "CREATE TRIGGER x AFTER UPDATE OF b ON t BEGIN UPDATE t SET b = OLD.b WHERE k = OLD.k; END",
        "CREATE TRIGGER x BEFORE UPDATE OF b ON t BEGIN SELECT RAISE(IGNORE); END",
        "CREATE TRIGGER x BEFORE UPDATE OF b ON t WHEN OLD.k = 1 BEGIN SELECT RAISE(IGNORE); END",
        "CREATE TRIGGER x AFTER UPDATE OF b ON t WHEN OLD.k = 1 BEGIN UPDATE t SET b = OLD.b WHERE k = 1; END",
    ];
    for trigger in undoing {
        let fixture = Fixture::with_rows(TABLES[0], 6).await;
        fixture.execute(trigger).await;
        let target = fixture.target().await;
        let (run, lease) = fixture.lease(&target).await;
        let page = fixture.page(&target).await;
        let error = commit(&fixture.store, &target, &lease, &page, 4..6).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the table undoes the update: row 1, column b kept its old value",
            "{trigger}"
        );
        assert!(!error.is_transient());
        assert_eq!(
            fixture
                .ask(
                    "SELECT count(*) FROM t WHERE CAST(a AS text) LIKE 'old%' AND CAST(b AS text) LIKE 'old%'"
                )
                .await,
            "6"
        );
        assert_eq!(fixture.store.tally(&run.run_id, None).await.unwrap(), Tally::default());
    }
}

#[tokio::test]
async fn a_trigger_that_does_something_else_is_no_obstacle() {
    let fixture =
        Fixture::with_rows("CREATE TABLE t (k INTEGER PRIMARY KEY, a BLOB, b BLOB, touched)", 6).await;
    fixture
        .execute("CREATE TRIGGER x AFTER UPDATE ON t BEGIN UPDATE t SET touched = 1 WHERE k = OLD.k; END")
        .await;
    let target = fixture.target().await;
    assert!(target.has_triggers);
    let (_, lease) = fixture.lease(&target).await;
    let page = fixture.page(&target).await;
    commit_all(&fixture, &target, &lease, &page).await;
    assert_eq!(fixture.ask("SELECT sum(touched) FROM t WHERE CAST(a AS text) LIKE 'new%'").await, "6");
}

#[tokio::test]
async fn a_value_of_a_mebibyte_is_swapped_and_one_above_the_limit_is_only_seen() {
    let fixture = Fixture::new(TABLES[0]).await;
    fixture
        .execute("INSERT INTO t VALUES (1, randomblob(1048576), zeroblob(1048577)), (2, 'old', 'old')")
        .await;
    let target = fixture.target().await;
    let (_, lease) = fixture.lease(&target).await;
    let page = fixture.page(&target).await;
    assert_eq!(page.cells.at(0, 0).unwrap().len(), 1 << 20);
    assert_eq!(page.cells.at(0, 1), Some(&b""[..]));
    let mut new = Cells::new(2);
    let value = vec![7; 1 << 20];
    [Some(&value[..]), None, Some(b"new"), None].into_iter().for_each(|cell| new.push(cell));
    let checkpoint = Checkpoint { cursor: page.keys.last(), done: true, tally: Tally::default() };
    let batch =
        Batch { keys: &page.keys, old: &page.cells, new: &new, rows: 0..2, quarantined: &[], checkpoint };
    let committed = fixture.store.commit(&target, &lease, batch).await.unwrap();
    assert!(matches!(committed, Committed::Done(unsettled) if unsettled.is_empty()));
    let after = fixture.page(&target).await;
    assert_eq!(after.cells.at(0, 0), Some(&value[..]));
    assert_eq!(fixture.ask("SELECT group_concat(length(b)) FROM t").await, "'1048577,3'");
}

// --- runs, shards and fences ---

#[tokio::test]
async fn a_worker_whose_lease_ran_out_commits_nothing() {
    let fixture = Fixture::with_rows(TABLES[0], 4).await;
    let target = fixture.target().await;
    let (run, first) = fixture.lease(&target).await;
    let page = fixture.page(&target).await;
    commit(&fixture.store, &target, &first, &page, 0..1).await.unwrap();
    assert!(matches!(fixture.store.claim(&run, "w2", target.key_kind).await.unwrap(), Claim::Busy));
    assert!(fixture.store.renew(&first).await.unwrap());

    fixture.execute("UPDATE reseal_shards SET lease_until = lease_until - 20001").await;
    let second = leased(fixture.store.claim(&run, "w2", target.key_kind).await.unwrap());
    assert_eq!((second.fence, second.cursor.as_ref()), (first.fence + 1, Some(&page.keys[0])));
    let before = fixture.ask("SELECT group_concat(a || b) FROM t").await;
    let (unsettled, fenced) = commit(&fixture.store, &target, &first, &page, 1..4).await.unwrap();
    assert!(fenced && unsettled.is_empty());
    assert_eq!(fixture.ask("SELECT group_concat(a || b) FROM t").await, before);
    assert_eq!(fixture.store.tally(&run.run_id, None).await.unwrap().scanned, 1);
    assert!(!fixture.store.renew(&first).await.unwrap());
    fixture.store.release(&first).await.unwrap();
    assert!(matches!(fixture.store.claim(&run, "w3", target.key_kind).await.unwrap(), Claim::Busy));

    let (_, fenced) = commit(&fixture.store, &target, &second, &page, 1..3).await.unwrap();
    assert!(!fenced);
    fixture.store.release(&second).await.unwrap();
    let third = leased(fixture.store.claim(&run, "w3", target.key_kind).await.unwrap());
    assert_eq!(third.cursor.as_ref(), Some(&page.keys[2]));
    commit(&fixture.store, &target, &third, &page, 3..4).await.unwrap();
    let tally = fixture.store.tally(&run.run_id, Some(1)).await.unwrap();
    assert_eq!((tally.rekeyed, tally.scanned), (8, 4));
}

#[tokio::test]
async fn no_two_claims_share_a_shard() {
    let fixture = Fixture::with_rows(TABLES[3], 200).await;
    let target = fixture.target().await;
    let points = fixture.store.split_points(&target, 200, 20).await.unwrap();
    let bounds = || std::iter::once(None).chain(points.iter().cloned().map(Some));
    let ranges = bounds().zip(bounds().skip(1).chain([None])).map(|(lo, hi)| KeyRange { lo, hi }).collect();
    let run = fixture.run(&target, ranges).await;
    let workers = (0..4).map(|worker| {
        let (path, run, kind) = (fixture.path.clone(), run.clone(), target.key_kind);
        tokio::spawn(async move {
            let store = Sqlite::open(&path).await.unwrap();
            let mut shards = Vec::new();
            while let Claim::Leased(lease) = store.claim(&run, &worker.to_string(), kind).await.unwrap() {
                assert_eq!(lease.fence, 1);
                shards.push((lease.shard, lease.range));
            }
            shards
        })
    });
    let mut claimed = Vec::new();
    for worker in workers.collect::<Vec<_>>() {
        claimed.extend(worker.await.unwrap());
    }
    claimed.sort_by_key(|(shard, _)| *shard);
    assert!(claimed.iter().map(|(shard, _)| *shard).eq(1..=20));
    let mut rows = 0;
    for (_, range) in claimed {
        rows += fixture.store.read_page(&target, &range, None, LIMITS).await.unwrap().keys.len();
    }
    assert_eq!(rows, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn workers_on_connections_of_their_own_and_a_busy_writer_lose_nothing() {
    const ROWS: u32 = 3000;
    let fixture = Fixture::with_rows(TABLES[2], ROWS).await;
    let target = fixture.target().await;
    let points = fixture.store.split_points(&target, ROWS.into(), 6).await.unwrap();
    let bounds = || std::iter::once(None).chain(points.iter().cloned().map(Some));
    let ranges = bounds().zip(bounds().skip(1).chain([None])).map(|(lo, hi)| KeyRange { lo, hi }).collect();
    let run = fixture.run(&target, ranges).await;
    let worker = async |name: &str| {
        let store = Sqlite::open(&fixture.path).await.unwrap();
        let limits = PageLimits { rows: 40, ..LIMITS };
        let mut conflicts = 0;
        while let Claim::Leased(lease) = store.claim(&run, name, target.key_kind).await.unwrap() {
            let mut after = None;
            loop {
                let page = store.read_page(&target, &lease.range, after.as_ref(), limits).await.unwrap();
                let (unsettled, fenced) =
                    commit(&store, &target, &lease, &page, 0..page.keys.len()).await.unwrap();
                assert!(!fenced && unsettled.iter().all(|cell| cell.now.as_deref() == Some(b"theirs")));
                conflicts += unsettled.len();
                after = page.keys.last().cloned();
                if page.last {
                    break;
                }
            }
        }
        conflicts
    };
    let writer = async {
        let mut conn = fixture.raw().await;
        let mut written = 0;
        for row in (0..ROWS).step_by(7) {
            let write = sqlx::query("UPDATE t SET a = CAST('theirs' AS blob) WHERE k = ?");
            written += write
                .bind(key(KeyKind::Text, row).to_string())
                .execute(&mut conn)
                .await
                .unwrap()
                .rows_affected();
        }
        written
    };
    let (one, two, written) = tokio::join!(worker("one"), worker("two"), writer);
    let page = fixture
        .store
        .read_page(&target, &KeyRange::ALL, None, PageLimits { rows: 5000, ..LIMITS })
        .await
        .unwrap();
    assert_eq!(page.keys.len(), ROWS as usize);
    let mut theirs = 0;
    for row in 0..ROWS {
        let at = row_of(&page, &key(KeyKind::Text, row));
        let (a, b) = (page.cells.at(at, 0).unwrap(), page.cells.at(at, 1).unwrap());
        let ours = |column| [b"new", &old(row, column)[3..], b"!"].concat();
        assert_eq!(b, ours(1));
        // Theirs came after our read and stayed, or before it and was taken for a value like any other.
        match a {
            b"theirs" => theirs += 1,
            b"newirs!" => theirs += 1,
            a => assert_eq!((a, row % 7 > 0), (&ours(0)[..], true), "row {row}: their write is lost"),
        }
    }
    assert_eq!(theirs, written);
    let tally = fixture.store.tally(&run.run_id, None).await.unwrap();
    assert_eq!(tally.conflicts, i64::try_from(one + two).unwrap());
    assert_eq!((tally.scanned, tally.rekeyed), (3000, 6000 - tally.conflicts));
    assert!(tally.sums());
}

#[tokio::test]
async fn a_target_has_one_open_run_whose_states_move_once() {
    let fixture = Fixture::with_rows(TABLES[0], 3).await;
    let target = fixture.target().await;
    let run = fixture.run(&target, vec![KeyRange::ALL]).await;
    let again = fixture.run(&target, vec![KeyRange::ALL, KeyRange::ALL]).await;
    assert_eq!((&run.run_id, run.state, run.sweep), (&again.run_id, RunState::Running, 1));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    assert!(now.abs_diff(run.created_ms.try_into().unwrap()) < 60_000, "milliseconds since 1970");

    assert!(fixture.store.next_sweep(&run, 0).await.unwrap());
    assert!(!fixture.store.next_sweep(&run, 0).await.unwrap(), "this sweep is over");
    assert!(!fixture.store.move_run(&run, RunState::Paused).await.unwrap(), "this sweep is over");
    let run = fixture.store.run(&run.run_id).await.unwrap();
    assert_eq!(run.sweep, 2);
    assert!(fixture.store.move_run(&run, RunState::Complete).await.unwrap());
    assert!(!fixture.store.move_run(&run, RunState::Failed).await.unwrap());
    assert!(fixture.store.open_run("t").await.unwrap().is_none());
    let latest = fixture.store.latest_run("t").await.unwrap().unwrap();
    assert_eq!((latest.run_id.as_str(), latest.state), (run.run_id.as_str(), RunState::Complete));
    assert!(latest.finished_ms >= Some(latest.created_ms));
    let error = fixture.store.run("none").await.unwrap_err();
    assert_eq!(error.to_string(), "there is no run none");

    let other = Target { columns: target.columns[..1].to_vec(), ..target };
    let error = fixture.store.register(&other).await.unwrap_err();
    assert!(matches!(error, StoreError::OtherTarget { name } if name == "t"));
}

// --- the registry and the quarantine ---

fn data_key(id: u8, state: DataKeyState) -> WrappedDataKey {
    WrappedDataKey {
        key_id: [id; 16],
        wrap_id: Uuid::from_bytes([id; 16]),
        purpose: "t".to_owned(),
        kms: "local".to_owned(),
        wrapped: if state == DataKeyState::Destroyed { Vec::new() } else { vec![id; 40] },
        state,
        created_ms: 0,
    }
}

#[tokio::test]
async fn a_new_active_data_key_sets_the_old_one_draining() {
    let fixture = Fixture::new(TABLES[0]).await;
    fixture.store.add_data_key(&data_key(1, DataKeyState::Active)).await.unwrap();
    fixture.store.add_data_key(&data_key(2, DataKeyState::Destroyed)).await.unwrap();
    let elsewhere = WrappedDataKey { purpose: "other".to_owned(), ..data_key(3, DataKeyState::Active) };
    fixture.store.add_data_key(&elsewhere).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    fixture.store.add_data_key(&data_key(4, DataKeyState::Active)).await.unwrap();
    let keys = fixture.store.data_keys(Some("t")).await.unwrap();
    let mut states: Vec<_> = keys.iter().map(|key| (key.key_id[0], key.state, key.wrapped.len())).collect();
    assert_eq!(states[0], (4, DataKeyState::Active, 40), "newest first");
    states.sort_by_key(|(id, ..)| *id);
    assert_eq!(states[..2], [(1, DataKeyState::Draining, 40), (2, DataKeyState::Destroyed, 0)]);
    assert_eq!(keys[0].wrap_id, Uuid::from_bytes([4; 16]));
    assert_eq!(fixture.store.data_keys(None).await.unwrap().len(), 4);

    let error = fixture.store.add_data_key(&data_key(4, DataKeyState::Draining)).await.unwrap_err();
    assert!(!error.is_transient());
    assert_eq!(fixture.store.data_keys(Some("t")).await.unwrap()[0].state, DataKeyState::Active);
}

#[tokio::test]
async fn no_statement_deletes_a_data_key() {
    let fixture = Fixture::new(TABLES[0]).await;
    fixture.store.add_data_key(&data_key(1, DataKeyState::Active)).await.unwrap();
    let row = "INSERT OR REPLACE INTO reseal_data_keys (key_id, wrap_id, purpose, kms, wrapped, state)";
    for (sql, reason) in [
        ("DELETE FROM reseal_data_keys".to_owned(), "rows of reseal_data_keys are never deleted"),
        (
            format!("{row} SELECT key_id, 'x', 'x', kms, wrapped, state FROM reseal_data_keys"),
            "is there already",
        ),
        (
            format!("{row} SELECT zeroblob(16), wrap_id, 'x', kms, wrapped, state FROM reseal_data_keys"),
            "is there already",
        ),
        (
            format!("{row} SELECT zeroblob(16), 'x', purpose, kms, wrapped, state FROM reseal_data_keys"),
            "is there already",
        ),
    ] {
        let error = fixture.raw().await.execute(AssertSqlSafe(sql.clone())).await.unwrap_err();
        assert!(error.to_string().contains(reason), "{sql}: {error}");
    }
    assert_eq!(fixture.store.data_keys(None).await.unwrap()[0].wrapped, [1; 40]);
}

fn quarantined(row: &str, hash: u8) -> Quarantined {
    Quarantined {
        row_key: row.to_owned(),
        column: "a".to_owned(),
        reason: "unopened".to_owned(),
        sha256: [hash; 32],
        first_seen_ms: 0,
        last_seen_ms: 0,
    }
}

#[tokio::test]
async fn a_quarantined_cell_counts_once() {
    let fixture = Fixture::with_rows(TABLES[0], 3).await;
    let target = fixture.target().await;
    let (mut run, mut lease) = fixture.lease(&target).await;
    let cells = Cells::new(2);
    let commit = async |lease: &Lease, cells_in: &[Quarantined]| {
        let count = i64::try_from(cells_in.len()).unwrap();
        let tally = Tally { quarantined: count, total: count, ..Tally::default() };
        let checkpoint = Checkpoint { cursor: None, done: true, tally };
        let batch =
            Batch { keys: &[], old: &cells, new: &cells, rows: 0..0, quarantined: cells_in, checkpoint };
        fixture.store.commit(&target, lease, batch).await.unwrap()
    };
    commit(&lease, &[quarantined("-3", 1), quarantined("-2", 1)]).await;
    let first = fixture.store.quarantine("t", None, 10).await.unwrap();
    for (sweep, cell, counted) in
        [(2, quarantined("-3", 1), 0), (3, quarantined("-3", 2), 1), (4, quarantined("0", 1), 1)]
    {
        assert!(fixture.store.next_sweep(&run, 0).await.unwrap());
        run = fixture.store.run(&run.run_id).await.unwrap();
        lease = leased(fixture.store.claim(&run, "w", target.key_kind).await.unwrap());
        commit(&lease, &[cell]).await;
        let tally = fixture.store.tally(&run.run_id, Some(sweep)).await.unwrap();
        assert_eq!((tally.quarantined, tally.total), (counted, counted), "sweep {sweep}");
    }
    assert_eq!(fixture.store.quarantine_size("t").await.unwrap(), 3);
    let all = fixture.store.quarantine("t", None, 10).await.unwrap();
    assert!(all.iter().map(|cell| cell.row_key.as_str()).eq(["-2", "-3", "0"]));
    assert_eq!((all[0].first_seen_ms, all[0].sha256), (first[0].first_seen_ms, [1; 32]));
    assert!(all[0].first_seen_ms > 1_600_000_000_000 && all[1].sha256 == [2; 32]);
    let page = fixture.store.quarantine("t", Some(("-2", "a")), 1).await.unwrap();
    assert_eq!(page[0].row_key, "-3");
}

#[tokio::test]
async fn a_quarantined_cell_is_settled_only_while_it_holds_what_was_opened() {
    for table in [TABLES[0], TABLES[2]] {
        let fixture = Fixture::with_rows(table, 2).await;
        let target = fixture.target().await;
        let (_, lease) = fixture.lease(&target).await;
        let keys = [0, 1].map(|row| key(target.key_kind, row));
        let cells = Cells::new(2);
        let records = keys.each_ref().map(|key| quarantined(&key.to_string(), 1));
        let checkpoint = Checkpoint { cursor: None, done: false, tally: Tally::default() };
        let batch =
            Batch { keys: &[], old: &cells, new: &cells, rows: 0..0, quarantined: &records, checkpoint };
        fixture.store.commit(&target, &lease, batch).await.unwrap();

        let settle =
            async |key: &RowKey, swap| fixture.store.settle_quarantined(&target, key, 0, swap).await.unwrap();
        let opened = old(0, 0);
        assert!(!settle(&keys[0], Some((b"other", b"new"))).await);
        assert!(!settle(&key(target.key_kind, 99), Some((b"other", b"new"))).await);
        assert_eq!(fixture.store.quarantine_size("t").await.unwrap(), 2);
        assert!(settle(&keys[0], Some((&opened, b"new"))).await);
        assert!(settle(&keys[1], None).await);
        assert_eq!(fixture.store.quarantine_size("t").await.unwrap(), 0);
        let page = fixture.page(&target).await;
        let at = row_of(&page, &keys[0]);
        assert_eq!(page.cells.row(at).collect::<Vec<_>>(), [Some(&b"new"[..]), Some(&old(0, 1)[..])]);
        assert_eq!(page.cells.at(row_of(&page, &keys[1]), 0), Some(&old(1, 0)[..]));
    }
}
