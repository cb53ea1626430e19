//! Creates and upgrades reseal's own tables.

use sqlx::{
    AssertSqlSafe, SqliteConnection,
    migrate::{Migration, MigrationType, Migrator},
};

use super::Sqlite;
use crate::store::StoreError;

/// Our own table of migrations, so that a control plane that uses sqlx too never meets ours in its own.
const TABLE: &str = "reseal_migrations";

fn migrator() -> Migrator {
    let migrations = [
        (1, "rekey", include_str!("../../../migrations/sqlite/0001_rekey.sql")),
        (2, "audit", include_str!("../../../migrations/sqlite/0002_audit.sql")),
        (3, "fence", include_str!("../../../migrations/sqlite/0003_fence.sql")),
        (4, "control", include_str!("../../../migrations/sqlite/0004_control.sql")),
        (5, "retire", include_str!("../../../migrations/sqlite/0005_retire.sql")),
        (6, "staged", include_str!("../../../migrations/sqlite/0006_staged.sql")),
        (7, "rotations", include_str!("../../../migrations/sqlite/0007_rotations.sql")),
        (8, "reprovision", include_str!("../../../migrations/sqlite/0008_reprovision.sql")),
        (9, "walk", include_str!("../../../migrations/sqlite/0009_walk.sql")),
    ];
    let migrations = migrations
        .into_iter()
        .map(|(version, name, sql)| {
            Migration::new(
                version,
                name.into(),
                MigrationType::Simple,
                sqlx::SqlSafeStr::into_sql_str(sql),
                false,
            )
        })
        .collect();
    let mut migrator = Migrator::with_migrations(migrations);
    migrator.dangerous_set_table_name(TABLE);
    migrator.set_locking(false);
    migrator
}

/// # Crash safety
/// One transaction: all migrations or none. It holds the file's write lock, so that a second process waits and then
/// finds nothing left to do.
pub(super) async fn apply(store: &Sqlite) -> Result<Vec<String>, StoreError> {
    let migrator = migrator();
    let mut tx = store.begin_write().await?;
    let before = applied(&mut tx).await?;
    migrator.run_direct(None, &mut *tx, false).await.map_err(StoreError::of_migration)?;
    tx.commit().await?;
    Ok(migrator
        .iter()
        .filter(|migration| !before.contains(&migration.version))
        .map(|migration| format!("{:04} {}", migration.version, migration.description))
        .collect())
}

pub(super) async fn is_current(store: &Sqlite) -> Result<bool, StoreError> {
    let mut tx = store.begin_read().await?;
    let applied = applied(&mut tx).await?;
    let known = migrator().iter().map(|migration| migration.version).collect::<Vec<_>>();
    StoreError::is_current(&known, &applied)
}

async fn applied(conn: &mut SqliteConnection) -> Result<Vec<i64>, StoreError> {
    let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM main.sqlite_schema WHERE name = ?)")
        .bind(TABLE)
        .fetch_one(&mut *conn)
        .await?;
    if !exists {
        return Ok(Vec::new());
    }
    let sql = format!("SELECT version FROM main.{TABLE} WHERE success");
    Ok(sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(conn).await?)
}
