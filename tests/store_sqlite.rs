//! The SQLite store: what it refuses, what it reads, and that a commit replaces what was opened and nothing else.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod inspect;
mod open;
mod read;
mod registry;
mod run;
mod swap;

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use reseal::store::{
    Batch, Cells, Checkpoint, Claim, Committed, DataKeyState, KeyKind, KeyRange, Lease, NewRun, Page,
    PageLimits, Quarantine, Quarantined, Registry, RowKey, RunRow, RunState, Runs, Shards, Span, Store,
    StoreError, Tally, Target, TargetName, Unsettled, WrappedDataKey, sqlite::Sqlite,
};
use sha2::{Digest, Sha256};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Executor, SqliteConnection, sqlite::SqliteConnectOptions,
};
use tempfile::TempDir;
use uuid::Uuid;

use crate::support::folder_in_memory;

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
        let dir = folder_in_memory();
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
        let run = self.run(target, vec![Span::ALL]).await;
        let lease = leased(self.store.claim(&run, "w", target.key_kind).await.unwrap());
        (run, lease)
    }

    async fn run(&self, target: &Target, spans: Vec<Span>) -> RunRow {
        self.store.register(target).await.unwrap();
        let run = NewRun {
            data_key: None,
            run_id: ulid::Ulid::generate().to_string(),
            target: target.name.clone(),
            keys: "{}".to_owned(),
            row_count: 0,
            spans,
            horizon: None,
        };
        self.store.create_run(&run).await.unwrap()
    }

    async fn page(&self, target: &Target) -> Page {
        self.store.read_page(target, &Span::ALL, None, None, LIMITS).await.unwrap()
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
    let batch = Batch {
        keys: &page.keys,
        rowids: &page.rowids,
        max_value: 1 << 20,
        old: &page.cells,
        new: &new,
        rows,
        quarantined: &[],
        checkpoint,
    };
    match store.commit(target, lease, batch).await? {
        Committed::Done { unsettled, .. } => Ok((unsettled, false)),
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
