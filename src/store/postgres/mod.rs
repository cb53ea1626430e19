//! Postgres, 13 or later, directly or through a transaction pooler.
//!
//! Every statement runs in an explicit transaction that sets its own time-outs, with no named prepared statement,
//! no start-up parameter and no session state, so that any server connection behind a pooler serves as well as
//! any other.

use async_trait::async_trait;
use sqlx::{PgPool, PgTransaction, postgres::PgPoolOptions};

use super::{
    Batch, Committed, Inspection, Lease, Page, PageLimits, PageSender, Pressure, RowKey, Span, Standby,
    Store, StoreError, Stretch, Target, TargetName,
};

mod begin;
mod connect;
mod control;
mod fence;
mod fence_sql;
mod inspect;
mod migrate;
mod pressure;
mod staged;
mod standby;
mod survey;
mod swap;
mod table;
mod tenants;

pub use connect::Tls;

/// The SQLSTATE of a statement that its time-out, or somebody, cut off.
const QUERY_CANCELED: &str = "57014";

/// A Postgres database.
#[derive(Debug)]
pub struct Postgres {
    pool: PgPool,
}

impl Postgres {
    /// Connects to the server that `url` names, with at most `connections` connections.
    ///
    /// # Errors
    /// A URL that can't be used, a server that can't be reached within 10 s, or one whose certificate or password
    /// exchange fails. No error shows the URL.
    pub async fn connect(
        url: &crate::secret::SecretText,
        tls: Option<Tls>,
        connections: u32,
    ) -> Result<Self, StoreError> {
        let options = connect::options(url, tls)?;
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(std::time::Duration::from_secs(10))
            .connect_with(options)
            .await?;
        Ok(Self { pool })
    }

    /// Begins a transaction, on a task that nobody can cut off: of a BEGIN that was sent and whose answer is not awaited
    /// sqlx 0.9 knows nothing, and the connection goes back to the pool inside the transaction (its `start_rollback`
    /// looks at a depth that was not counted yet).
    async fn begin(&self, statement: &'static str) -> Result<PgTransaction<'static>, StoreError> {
        let pool = self.pool.clone();
        let begun = tokio::spawn(async move { pool.begin_with(statement).await }).await;
        let begun = begun.map_err(|_| StoreError::Transient {
            code: "shutdown".to_owned(),
            message: "the process is ending".to_owned(),
        })?;
        Ok(begun?)
    }

    async fn begin_read(&self) -> Result<PgTransaction<'static>, StoreError> {
        self.begin(begin::READ).await
    }

    async fn begin_write(&self) -> Result<PgTransaction<'static>, StoreError> {
        self.begin(begin::WRITE).await
    }

    async fn begin_ddl(&self) -> Result<PgTransaction<'static>, StoreError> {
        self.begin(begin::DDL).await
    }

    async fn begin_batch(&self) -> Result<PgTransaction<'static>, StoreError> {
        self.begin(begin::BATCH).await
    }
}

#[async_trait]
impl Store for Postgres {
    async fn migrate(&self) -> Result<Vec<String>, StoreError> {
        migrate::apply(&self.pool).await
    }

    async fn is_migrated(&self) -> Result<bool, StoreError> {
        migrate::is_current(self).await
    }

    async fn inspect(&self, name: &TargetName) -> Result<Inspection, StoreError> {
        // Not READ ONLY: it looks at whether this role's transactions are.
        let mut tx = self.begin(begin::SCAN).await?;
        inspect::inspect(&mut tx, name).await
    }

    async fn pressure(&self) -> Result<Pressure, StoreError> {
        let mut tx = self.begin_read().await?;
        pressure::pressure(&mut tx).await
    }

    async fn count_rows(&self, target: &Target) -> Result<u64, StoreError> {
        let mut tx = self.begin(begin::SCAN).await?;
        table::count(&mut tx, target).await
    }

    async fn sample(&self, target: &Target, count: usize, limits: PageLimits) -> Result<Page, StoreError> {
        let mut tx = self.begin(begin::SCAN).await?;
        table::sample(&mut tx, target, count, limits).await
    }

    async fn split_points(&self, target: &Target, rows: u64, parts: u64) -> Result<Vec<RowKey>, StoreError> {
        let mut tx = self.begin(begin::SCAN).await?;
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
        let read = async |begin| {
            let mut tx = self.begin(begin).await?;
            let page = table::read_page(&mut tx, target, span, after, skip, limits).await?;
            tx.commit().await?;
            Ok(page)
        };
        match (span, skip, after) {
            (Span::Table(_), ..) => read(begin::STRETCH).await,
            (Span::Keys(_), None, _) => read(begin::BATCH).await,
            // How many rows are left is what no index tells.
            (Span::Keys(_), Some(_), None) => read(begin::LEFT).await,
            (Span::Keys(_), Some(_), Some(_)) => match read(begin::BEHIND).await {
                // So few that the index is the long way to them.
                Err(error) if error.code() == Some(QUERY_CANCELED) => read(begin::LEFT).await,
                page => page,
            },
        }
    }

    async fn read_rows(
        &self,
        target: &Target,
        keys: &[RowKey],
        limits: PageLimits,
    ) -> Result<Page, StoreError> {
        let mut tx = self.begin_batch().await?;
        let page = table::read_rows(&mut tx, target, keys, limits).await?;
        tx.commit().await?;
        Ok(page)
    }

    async fn snapshot(
        &self,
        target: &Target,
        limits: PageLimits,
        pages: PageSender,
    ) -> Result<u64, StoreError> {
        let mut tx = self.begin(begin::SNAPSHOT).await?;
        let count = table::count(&mut tx, target).await?;
        table::scan(&mut tx, target, limits, pages).await?;
        Ok(count)
    }

    async fn count_beginning(&self, target: &Target, prefix: &[u8]) -> Result<u64, StoreError> {
        let mut tx = self.begin(begin::SNAPSHOT).await?;
        table::count_beginning(&mut tx, target, prefix).await
    }

    async fn standbys(&self, position: &str) -> Result<Vec<Standby>, StoreError> {
        let mut tx = self.begin_read().await?;
        standby::standbys(&mut tx, position).await
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
        let mut tx = self.begin_batch().await?;
        if batch.checkpoint.cursor.is_none() && !batch.checkpoint.done {
            // What it settled is counted nowhere else: no cursor tells that it was lost.
            query("SET LOCAL synchronous_commit = on".to_owned()).execute(&mut *tx).await?;
        }
        let committed = swap::commit(&mut tx, target, lease, batch).await?;
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

/// A query that leaves no named statement behind.
fn query(sql: String) -> sqlx::query::Query<'static, sqlx::Postgres, sqlx::postgres::PgArguments> {
    sqlx::query(sqlx::AssertSqlSafe(sql)).persistent(false)
}

/// `name` as an SQL identifier.
fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
