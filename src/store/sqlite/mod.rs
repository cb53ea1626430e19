//! SQLite, the embedded default: one file, no server.
//!
//! SQLite has one writer at a time, so every write goes through one connection, whose pool is a fair queue, and only
//! other processes are met at the file's lock. A transaction that will write takes that lock when it begins
//! (`BEGIN IMMEDIATE`): one that read first could not go on after somebody else wrote. Reads have connections of
//! their own that can't write.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use sqlx::{
    ConnectOptions, SqlitePool, SqliteTransaction,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions},
};

use super::{
    Batch, Committed, Inspection, Lease, Page, PageLimits, PageSender, Pressure, RowKey, Span, Standby,
    Store, StoreError, Stretch, Target, TargetName,
};

mod control;
mod fence;
mod inspect;
mod migrate;
mod pack;
mod staged;
mod standby;
mod survey;
mod swap;
mod table;
mod tenants;

/// How a transaction begins that reads: its snapshot is taken by its first statement.
const BEGIN_READ: &str = "BEGIN";

/// How a transaction begins that writes the registry, a run, a lease or the quarantine: on the disk when it has
/// committed.
const BEGIN_WRITE: &str = "PRAGMA synchronous = FULL; BEGIN IMMEDIATE";

/// How the commit of a batch begins in WAL mode: after a power cut the file is whole, and a batch that is missing is
/// done again. The next transaction under [`BEGIN_WRITE`] syncs the log with every batch before it. With a rollback
/// journal `NORMAL` could cost the file itself, and is not used.
const BEGIN_BATCH_WAL: &str = "PRAGMA synchronous = NORMAL; BEGIN IMMEDIATE";

const READERS: u32 = 4;

/// A SQLite database file.
#[derive(Debug)]
pub struct Sqlite {
    path: PathBuf,
    writer: SqlitePool,
    readers: SqlitePool,
    begin_batch: &'static str,
}

impl Sqlite {
    /// Opens the database file at `path`, which exists, and leaves its journal mode as it is.
    ///
    /// # Errors
    /// No file, or one that is not a SQLite database.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let missing = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                StoreError::Missing { what: format!("database file {}", path.display()) }
            }
            kind => StoreError::Refused {
                code: "io".to_owned(),
                message: format!("{} can't be opened: {kind}", path.display()),
            },
        };
        // Without its links resolved the path's directory is not where SQLite puts the journal.
        let path = path.canonicalize().map_err(missing)?;
        Self::connect(path, None).await
    }

    /// Creates an empty database file at `path`, in WAL mode.
    ///
    /// # Errors
    /// A file that exists already, or a directory that can't be written.
    pub async fn create(path: &Path) -> Result<Self, StoreError> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.exists());
        if let Some(folder) = folder {
            return Err(StoreError::Missing {
                what: format!("folder {} for {}", folder.display(), path.display()),
            });
        }
        let refused = |error: std::io::Error| StoreError::Refused {
            code: "io".to_owned(),
            message: format!("{} can't be created: {}", path.display(), error.kind()),
        };
        std::fs::File::create_new(path).map_err(refused)?;
        let path = path.canonicalize().map_err(refused)?;
        Self::connect(path, Some(SqliteJournalMode::Wal)).await
    }

    async fn connect(path: PathBuf, journal: Option<SqliteJournalMode>) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .busy_timeout(Duration::from_secs(5))
            // The swap looks each row up by its key; an index made on the fly would scan the table for each batch.
            .pragma("automatic_index", "OFF")
            // What a batch sets aside to undo one statement is never larger than the batch.
            .pragma("temp_store", "MEMORY")
            // Rows on their way from SQLite's thread can be as large as a page.
            .row_buffer_size(2)
            .disable_statement_logging();
        let pool = |connections| {
            SqlitePoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(Duration::from_secs(10))
                .test_before_acquire(false)
        };
        let writing = match journal {
            Some(mode) => options.clone().journal_mode(mode),
            None => options.clone(),
        };
        let writer = pool(1).connect_with(writing).await?;
        let mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&writer).await?;
        let readers = pool(READERS).connect_lazy_with(options.pragma("query_only", "ON"));
        let begin_batch = if mode == "wal" { BEGIN_BATCH_WAL } else { BEGIN_WRITE };
        Ok(Self { path, writer, readers, begin_batch })
    }

    async fn begin_read(&self) -> Result<SqliteTransaction<'static>, StoreError> {
        Ok(self.readers.begin_with(BEGIN_READ).await?)
    }

    /// A change of the schema is a write like any other.
    async fn begin_ddl(&self) -> Result<SqliteTransaction<'static>, StoreError> {
        self.begin_write().await
    }

    async fn begin_write(&self) -> Result<SqliteTransaction<'static>, StoreError> {
        Ok(self.writer.begin_with(BEGIN_WRITE).await?)
    }

    async fn begin_batch(&self) -> Result<SqliteTransaction<'static>, StoreError> {
        Ok(self.writer.begin_with(self.begin_batch).await?)
    }
}

#[async_trait]
impl Store for Sqlite {
    async fn migrate(&self) -> Result<Vec<String>, StoreError> {
        migrate::apply(self).await
    }

    async fn is_migrated(&self) -> Result<bool, StoreError> {
        migrate::is_current(self).await
    }

    async fn inspect(&self, name: &TargetName) -> Result<Inspection, StoreError> {
        inspect::inspect(self, name).await
    }

    async fn pressure(&self) -> Result<Pressure, StoreError> {
        Ok(Pressure::default())
    }

    async fn count_rows(&self, target: &Target) -> Result<u64, StoreError> {
        let mut tx = self.begin_read().await?;
        table::count(&mut tx, target, table::Through::Any).await
    }

    async fn sample(&self, target: &Target, count: usize, limits: PageLimits) -> Result<Page, StoreError> {
        let mut tx = self.begin_read().await?;
        table::sample(&mut tx, target, count, limits).await
    }

    async fn split_points(&self, target: &Target, rows: u64, parts: u64) -> Result<Vec<RowKey>, StoreError> {
        let mut tx = self.begin_read().await?;
        table::split_points(&mut tx, target, rows, parts).await
    }

    async fn whole(&self, target: &Target) -> Result<Option<Stretch>, StoreError> {
        let mut tx = self.begin_read().await?;
        table::whole(&mut tx, target).await
    }

    async fn read_page(
        &self,
        target: &Target,
        span: &Span,
        after: Option<&RowKey>,
        skip: Option<&[u8]>,
        limits: PageLimits,
    ) -> Result<Page, StoreError> {
        let mut tx = self.begin_read().await?;
        table::read_page(&mut tx, target, span, after, skip, limits).await
    }

    async fn read_rows(
        &self,
        target: &Target,
        keys: &[RowKey],
        limits: PageLimits,
    ) -> Result<Page, StoreError> {
        let mut tx = self.begin_read().await?;
        table::read_rows(&mut tx, target, keys, limits).await
    }

    async fn snapshot(
        &self,
        target: &Target,
        limits: PageLimits,
        pages: PageSender,
    ) -> Result<u64, StoreError> {
        let mut tx = self.begin_read().await?;
        let count = table::count(&mut tx, target, table::Through::Table).await?;
        table::scan(&mut tx, target, limits, pages).await?;
        Ok(count)
    }

    async fn count_beginning(&self, target: &Target, prefix: &[u8]) -> Result<u64, StoreError> {
        let mut tx = self.begin_read().await?;
        table::count_beginning(&mut tx, target, prefix).await
    }

    async fn standbys(&self, _: &str) -> Result<Vec<Standby>, StoreError> {
        Ok(Vec::new())
    }

    async fn fingerprint(
        &self,
        target: &Target,
        key: &RowKey,
        column: usize,
    ) -> Result<Option<[u8; 32]>, StoreError> {
        let mut tx = self.begin_read().await?;
        table::fingerprint(&mut tx, target, key, column).await
    }

    async fn commit(
        &self,
        target: &Target,
        lease: &Lease,
        batch: Batch<'_>,
    ) -> Result<Committed, StoreError> {
        let swaps = swap::prepare(target, &batch);
        let mut tx = self.begin_batch().await?;
        let committed = swap::commit(&mut tx, target, lease, &batch, swaps).await?;
        if matches!(committed, Committed::Done { .. }) {
            tx.commit().await?;
        }
        Ok(committed)
    }

    async fn settle_quarantined(
        &self,
        target: &Target,
        key: &RowKey,
        column: usize,
        sha256: &[u8; 32],
        swap: Option<(&[u8], &[u8])>,
    ) -> Result<bool, StoreError> {
        let mut tx = self.begin_write().await?;
        let settled = swap::settle_quarantined(&mut tx, target, key, column, sha256, swap).await?;
        if settled {
            tx.commit().await?;
        }
        Ok(settled)
    }
}

type Query = sqlx::query::Query<'static, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>;

fn query(sql: String) -> Query {
    sqlx::query(sqlx::AssertSqlSafe(sql))
}

/// `name` as an SQL identifier. A column is always written `t."name"`: SQLite takes a lone `"name"` that is no column
/// for a string.
fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `"main"."table" AS t`.
fn table_as_t(target: &Target) -> String {
    format!("\"main\".{} AS t", quote(&target.table))
}

/// `t."key"`.
fn key_of(target: &Target) -> String {
    format!("t.{}", quote(&target.key_column))
}
