//! A table on Postgres with a fence around it, and writers of values that need no key: a fence opens nothing.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_STANDARD};
use reseal::{
    envelope::KeyId,
    secret::SecretText,
    store::{Fence, FenceMode, FenceRule, Store, Target, TargetName, postgres::Postgres},
};
use sqlx::{
    AssertSqlSafe, Connection, PgConnection, PgPool,
    postgres::{PgDatabaseError, PgQueryResult},
};

use crate::support::postgres::{TempPostgres, TestDatabase};

/// The id of the data key that values are to be under.
pub(super) const KEY: [u8; 16] = *b"the-new-data-key";

pub(super) fn bound() -> FenceRule {
    FenceRule::Bound(KeyId::from_bytes(KEY))
}

/// A v3 value under `key`, as far as anybody sees who has no key. `seed` makes it another one.
pub(super) fn v3(key: [u8; 16], seed: u8) -> Vec<u8> {
    [&[3], key.as_slice(), &[seed; 60]].concat()
}

/// A value in v1's form.
pub(super) fn v1(seed: u8) -> Vec<u8> {
    [&[0xa5], [seed; 60].as_slice()].concat()
}

/// These bytes in SQL.
pub(super) fn bytes(value: &[u8]) -> String {
    format!("'\\x{}'::bytea", hex::encode(value))
}

/// The same in base64, for a column of text.
pub(super) fn text(value: &[u8]) -> String {
    format!("'{}'", BASE64_STANDARD.encode(value))
}

/// `k`, the key; `a` and `b`, which hold values; `note`, which is nobody's business.
pub(super) const TABLE: &str = "CREATE TABLE t (k bigint PRIMARY KEY, a bytea, b text, note text)";

pub(super) struct Field {
    pub(super) store: Arc<dyn Store>,
    pub(super) database: TestDatabase<'static>,
    pub(super) pool: PgPool,
}

/// A write that the database refused.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) code: String,
    pub(super) message: String,
    pub(super) hint: String,
    pub(super) column: String,
}

impl Field {
    /// [`TABLE`] with one row, the first, whose values are v1: what a quarantine holds.
    pub(super) async fn new(name: &str) -> Self {
        let database = TempPostgres::shared().database(name);
        let url = database.url();
        Self::through(database, &url).await
    }

    /// The same, where reseal reaches the database by `url`.
    pub(super) async fn through(database: TestDatabase<'static>, url: &str) -> Self {
        let pool = database.pool();
        let store = Postgres::connect(&SecretText::new(url.to_owned()), None, 4).await.unwrap();
        store.migrate().await.unwrap();
        let field = Self { store: Arc::new(store), database, pool };
        field.execute(TABLE).await;
        field.execute(&format!("INSERT INTO t VALUES (1, {}, {}, 'old')", bytes(&v1(1)), text(&v1(1)))).await;
        field
    }

    pub(super) async fn execute(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&self.pool).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    }

    pub(super) async fn number(&self, sql: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&self.pool).await.unwrap()
    }

    pub(super) async fn target(&self) -> Target {
        let name = TargetName {
            logical: None,
            schema: None,
            table: "t".to_owned(),
            key_column: "k".to_owned(),
            columns: vec!["a".to_owned(), "b".to_owned()],
        };
        let inspection = self.store.inspect(&name).await.unwrap();
        assert_eq!(inspection.refusals().count(), 0, "{:?}", inspection.findings);
        inspection.target.unwrap()
    }

    pub(super) async fn raise(&self, mode: FenceMode, rule: FenceRule) -> Fence {
        let target = self.target().await;
        let fence = self.store.raise_fence(&target, mode, rule).await.unwrap();
        assert_eq!((fence.mode, fence.rule, fence.drift.as_slice()), (mode, rule, [].as_slice()));
        fence
    }

    pub(super) async fn enforce(&self) -> Fence {
        self.raise(FenceMode::Enforce, bound()).await
    }

    /// A session of its own.
    pub(super) async fn session(&self) -> PgConnection {
        PgConnection::connect(&self.database.url()).await.unwrap()
    }

    pub(super) async fn write(&self, sql: &str) -> Result<u64, Refusal> {
        write(&mut self.session().await, sql).await
    }

    /// What each row holds, for a comparison.
    pub(super) async fn rows(&self) -> Vec<String> {
        sqlx::query_scalar("SELECT t::text FROM t ORDER BY k").fetch_all(&self.pool).await.unwrap()
    }
}

pub(super) async fn write(conn: &mut PgConnection, sql: &str) -> Result<u64, Refusal> {
    refusal(sqlx::raw_sql(AssertSqlSafe(sql)).execute(conn).await)
}

pub(super) fn refusal(done: sqlx::Result<PgQueryResult>) -> Result<u64, Refusal> {
    done.map(|done| done.rows_affected()).map_err(|error| {
        let error = error.into_database_error().expect("the database answers").downcast::<PgDatabaseError>();
        Refusal {
            code: error.code().to_owned(),
            message: error.message().to_owned(),
            hint: error.hint().unwrap_or_default().to_owned(),
            column: error.column().unwrap_or_default().to_owned(),
        }
    })
}

/// That it was the fence that refused.
#[track_caller]
pub(super) fn is_fenced(done: Result<u64, Refusal>) -> Refusal {
    let refusal = done.unwrap_err();
    assert_eq!(refusal.code, "RK001", "{refusal:?}");
    refusal
}
