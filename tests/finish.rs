//! The end of an old key: provable, refused while anything speaks against it, and never a loss.

mod end;
mod preconditions;
mod races;
mod road;
mod verify;

use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool};

use crate::{
    cli::operator::{OLD, Operator, Said},
    rekey::stage::{IndependentKeys, Under, connect},
    support::{
        oracle,
        postgres::{TempPostgres, TestDatabase},
        tenants::{Expected, Tenants, stored_in_postgres},
    },
};

/// How the new key is named.
const NEW: [&str; 2] = ["--new", "local-kms:keyring.json"];

/// Tenants under the old key on Postgres, reseal's own tables, and a way to a format.
struct Road {
    operator: Operator,
    pool: PgPool,
    expected: Expected,
    url: String,
    format: &'static str,
    _database: TestDatabase<'static>,
}

impl Road {
    async fn new(name: &str, rows: usize, format: &'static str) -> Self {
        let database = TempPostgres::shared().database(name);
        let pool = database.pool();
        let expected = Tenants { seed: 11, rows, key: &OLD }.fill_postgres(&pool).await;
        let mut operator = Operator::new();
        let url = database.url();
        operator.set("DATABASE_URL", &url);
        operator.reseal(&["init"]).exits(0);
        Self { operator, pool, expected, url, format, _database: database }
    }

    /// As far as it goes before `retire`, each command as it is typed.
    async fn verified(name: &str, format: &'static str) -> Self {
        let road = Self::new(name, 25, format).await;
        road.sweep().exits(0);
        road.type_with(&["fence", "enforce"]).exits(0);
        road.type_with(&["verify"]).exits(0);
        road
    }

    /// A command that takes the new key.
    #[track_caller]
    fn type_with(&self, command: &[&str]) -> Said {
        self.operator.reseal(&[command, &NEW, &["--format", self.format]].concat())
    }

    #[track_caller]
    fn sweep(&self) -> Said {
        self.type_with(&["run", "--old", "static:env:OLD_KEY"])
    }

    #[track_caller]
    fn retire(&self, more: &[&str]) -> Said {
        self.type_with(&[&["retire", "static:env:OLD_KEY"], more].concat())
    }

    /// The refusal, which is about nothing but `what`, and the first command that it gives.
    #[track_caller]
    fn refused(&self, what: &str) -> String {
        let refused = self.retire(&[]).exits(4);
        assert!(refused.err.starts_with("error: ") && refused.err.contains(what), "{}", refused.err);
        assert!(!refused.err.lines().next().unwrap().contains("; "), "more than one thing: {}", refused.err);
        refused.hints()[0].to_owned()
    }

    async fn execute(&self, statements: &str) {
        sqlx::raw_sql(AssertSqlSafe(statements)).execute(&self.pool).await.unwrap();
    }

    async fn number(&self, query: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&self.pool).await.unwrap()
    }

    /// Every plaintext is what it was, whatever has happened.
    async fn unharmed(&self) {
        let stored = stored_in_postgres(&self.pool).await;
        let store = connect(&self.url).await;
        let keyring = self.operator.path("keyring.json");
        let under = if self.format == "v3" { Under::Bound(&keyring) } else { Under::Wrapped(&keyring) };
        let keys = IndependentKeys::load(store.as_ref(), &stored, &under).await;
        let differences = self.expected.differences(&stored, |cell, value| keys.open(&under, cell, value));
        assert!(differences.is_empty(), "{differences:?}");
    }

    /// Puts a value under the old key into a column, as a program does that was not restarted.
    async fn stale_write(&self) -> Result<(), sqlx::Error> {
        let value = oracle::seal_v1(&OLD, None, b"postgres://stale@h/db");
        sqlx::query(
            "UPDATE org_instances SET database_url_encrypted = $1 \
             WHERE org_id = (SELECT min(org_id::text)::uuid FROM org_instances)",
        )
        .bind(value)
        .execute(&self.pool)
        .await
        .map(drop)
    }

    /// What the audit log has of an action, the latest first.
    async fn audited(&self, action: &str) -> Vec<Value> {
        let details: Vec<String> =
            sqlx::query_scalar("SELECT detail FROM reseal_audit WHERE action = $1 ORDER BY seq DESC")
                .bind(action)
                .fetch_all(&self.pool)
                .await
                .unwrap();
        details.iter().map(|detail| serde_json::from_str(detail).unwrap()).collect()
    }
}

/// The old key's name.
fn old_key() -> String {
    format!("static:{}", hex::encode(oracle::static_id(&OLD)))
}
