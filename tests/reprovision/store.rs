//! What the store knows of tenants and of their sagas, in both databases.

mod journal;
mod rows;
mod shapes;

use std::sync::Arc;

use reseal::{
    secret::SecretText,
    store::{
        RowKey, Store, StoreError, Target, TargetName, TenantChange, TenantColumns, TenantRow,
        postgres::Postgres, sqlite::Sqlite,
    },
};
use sqlx::{AssertSqlSafe, PgPool, SqlitePool, sqlite::SqlitePoolOptions};
use tempfile::TempDir;

use crate::support::postgres::{TempPostgres, TestDatabase};

/// A database with reseal's own tables.
struct Ground {
    store: Arc<dyn Store>,
    on: On,
}

enum On {
    Postgres { pool: PgPool, _database: TestDatabase<'static> },
    Sqlite { pool: SqlitePool, _folder: TempDir },
}

impl Ground {
    async fn on_postgres() -> Self {
        let database = TempPostgres::shared().database("reprovision");
        let url = SecretText::new(database.url());
        let store = Postgres::connect(&url, None, 8).await.unwrap();
        store.migrate().await.unwrap();
        Self { store: Arc::new(store), on: On::Postgres { pool: database.pool(), _database: database } }
    }

    async fn on_sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tenants.db");
        let store = Sqlite::create(&path).await.unwrap();
        store.migrate().await.unwrap();
        // One connection: another's would not hear of a trigger that was dropped before it makes one of that name.
        let pool = SqlitePoolOptions::new().max_connections(1);
        let pool = pool.connect(&format!("sqlite://{}", path.display())).await.unwrap();
        Self { store: Arc::new(store), on: On::Sqlite { pool, _folder: folder } }
    }

    async fn both() -> [Self; 2] {
        [Self::on_postgres().await, Self::on_sqlite().await]
    }

    /// Both, with [`TENANTS`].
    async fn both_with_tenants() -> [Self; 2] {
        let grounds = Self::both().await;
        for ground in &grounds {
            ground.execute(&ground.spelled(TENANTS)).await;
        }
        grounds
    }

    fn is_postgres(&self) -> bool {
        matches!(self.on, On::Postgres { .. })
    }

    /// `sql` with this database's word for a column of bytes, and for the bytes of `<hex>`.
    fn spelled(&self, sql: &str) -> String {
        match self.on {
            On::Postgres { .. } => sql.replace("BYTES", "bytea").replace('<', "'\\x").replace('>', "'"),
            On::Sqlite { .. } => sql.replace("BYTES", "blob").replace('<', "x'").replace('>', "'"),
        }
    }

    async fn execute(&self, sql: &str) {
        let sql = AssertSqlSafe(sql);
        match &self.on {
            On::Postgres { pool, .. } => drop(sqlx::raw_sql(sql).execute(pool).await.unwrap()),
            On::Sqlite { pool, .. } => drop(sqlx::raw_sql(sql).execute(pool).await.unwrap()),
        }
    }

    /// The one text that `sql` gives.
    async fn ask(&self, sql: &str) -> String {
        let sql = AssertSqlSafe(sql);
        let answer: Option<String> = match &self.on {
            On::Postgres { pool, .. } => sqlx::query_scalar(sql).fetch_one(pool).await.unwrap(),
            On::Sqlite { pool, .. } => sqlx::query_scalar(sql).fetch_one(pool).await.unwrap(),
        };
        answer.unwrap_or_else(|| "NULL".to_owned())
    }

    /// Every row of [`TENANTS`]' table, whole.
    async fn dump(&self) -> String {
        self.ask(match self.on {
            On::Postgres { .. } => "SELECT string_agg(t::text, ' ' ORDER BY k) FROM t",
            On::Sqlite { .. } => {
                "SELECT group_concat(k || quote(slug) || quote(fly_app) || quote(fly_machine_id) || quote(fly_region) \
                 || quote(neon_project_id) || quote(neon_branch_id) || quote(status) || quote(plan) || quote(d) \
                 || quote(r) || quote(updated_at), ' ') FROM (SELECT * FROM t ORDER BY k)"
            }
        })
        .await
    }

    async fn target_named(&self, table: &str, key: &str, columns: [&str; 2]) -> Target {
        let name = TargetName {
            logical: None,
            schema: None,
            table: table.to_owned(),
            key_column: key.to_owned(),
            columns: columns.map(str::to_owned).to_vec(),
        };
        let inspection = self.store.inspect(&name).await.unwrap();
        assert_eq!(inspection.refusals().count(), 0, "{:?}", inspection.findings);
        inspection.target.unwrap()
    }

    async fn target(&self) -> Target {
        self.target_named("t", "k", ["d", "r"]).await
    }

    async fn tenant(&self, target: &Target, key: &str) -> TenantRow {
        let key = RowKey::parse(target.key_kind, key).unwrap();
        self.store.tenant(target, &columns(), &key).await.unwrap().unwrap()
    }

    async fn swap(&self, target: &Target, old: &TenantRow, cells: [&[u8]; 2]) -> Result<bool, StoreError> {
        let cells = cells.map(<[u8]>::to_vec);
        let change = TenantChange { machine: "m-new", region: "ams", branch: "br-new", cells: &cells };
        self.store.swap_tenant(target, &columns(), old, &change).await
    }
}

fn columns() -> TenantColumns {
    TenantColumns { order: Some("plan".to_owned()), ..TenantColumns::default() }
}

/// Five tenants: a plain one, one without anything, one that holds nothing in another way, and two more.
const TENANTS: &str = "
    CREATE TABLE t (k text PRIMARY KEY, slug text, fly_app text, fly_machine_id text, fly_region text,
        neon_project_id text, neon_branch_id text, status text, plan integer, d BYTES, r BYTES, updated_at text);
    INSERT INTO t VALUES
        ('a', 'acme', 'tenants', 'm1', 'fra', 'p1', 'br1', 'active', 7, <d1>, <e1>, 'before'),
        ('b', 'bolt', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
        ('c', 'cane', '', '', '', '', '', '', 0, <>, <>, ''),
        ('d', 'dune', 'tenants', 'm4', 'fra', 'p4', 'br4', 'active', 9, <d4>, NULL, 'before'),
        ('e', 'ever', 'tenants', 'm5', 'iad', 'p5', 'br5', 'paused', 1, <d5>, <e5>, 'before');
";

fn text(value: &str) -> Option<String> {
    Some(value.to_owned())
}
