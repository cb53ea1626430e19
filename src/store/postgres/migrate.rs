//! Creates and upgrades reseal's own tables.

use sqlx::{
    AssertSqlSafe, Connection, PgConnection, PgPool,
    migrate::{Migration, MigrationType, Migrator},
};

use super::Postgres;
use crate::store::StoreError;

/// Our own table of migrations, so that a control plane that uses sqlx too never meets ours in its own.
const TABLE: &str = "reseal_migrations";

fn migrator() -> Migrator {
    let migrations = [
        (1, "rekey", include_str!("../../../migrations/postgres/0001_rekey.sql")),
        (2, "audit", include_str!("../../../migrations/postgres/0002_audit.sql")),
        (3, "fence", include_str!("../../../migrations/postgres/0003_fence.sql")),
        (4, "control", include_str!("../../../migrations/postgres/0004_control.sql")),
        (5, "retire", include_str!("../../../migrations/postgres/0005_retire.sql")),
        (6, "staged", include_str!("../../../migrations/postgres/0006_staged.sql")),
        (7, "rotations", include_str!("../../../migrations/postgres/0007_rotations.sql")),
        (8, "reprovision", include_str!("../../../migrations/postgres/0008_reprovision.sql")),
        (9, "walk", include_str!("../../../migrations/postgres/0009_walk.sql")),
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
/// One transaction: all migrations or none. A lock of that transaction keeps a second process waiting; sqlx's own
/// lock belongs to a session, which a pooler does not give us.
pub(super) async fn apply(pool: &PgPool) -> Result<Vec<String>, StoreError> {
    // The migrator's statements are named, and a pooler would hand them to the next client. Only a connection that
    // caches them can close them, and the pool's don't.
    let options = pool.connect_options().as_ref().clone().statement_cache_capacity(100);
    let mut conn = PgConnection::connect_with(&options).await?;
    let mut tx =
        conn.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout = '60s'").await?;
    let migrated = apply_in(&mut tx).await;
    tx.clear_cached_statements().await?;
    if migrated.is_ok() {
        tx.commit().await?;
    } else {
        tx.rollback().await?;
    }
    conn.close().await?;
    migrated
}

async fn apply_in(tx: &mut PgConnection) -> Result<Vec<String>, StoreError> {
    let migrator = migrator();
    sqlx::query("SELECT pg_advisory_xact_lock(7526752397)").persistent(false).execute(&mut *tx).await?;
    let before = applied(&mut *tx).await?;
    migrator.run_direct(None, &mut *tx, false).await.map_err(StoreError::of_migration)?;
    Ok(migrator
        .iter()
        .filter(|migration| !before.contains(&migration.version))
        .map(|migration| format!("{:04} {}", migration.version, migration.description))
        .collect())
}

pub(super) async fn is_current(store: &Postgres) -> Result<bool, StoreError> {
    let mut tx = store.begin_read().await?;
    let applied = applied(&mut tx).await?;
    let known = migrator().iter().map(|migration| migration.version).collect::<Vec<_>>();
    StoreError::is_current(&known, &applied)
}

async fn applied(conn: &mut sqlx::PgConnection) -> Result<Vec<i64>, StoreError> {
    let exists: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
        .bind(TABLE)
        .persistent(false)
        .fetch_one(&mut *conn)
        .await?;
    if !exists {
        return Ok(Vec::new());
    }
    let sql = format!("SELECT version FROM {TABLE} WHERE success");
    Ok(sqlx::query_scalar(AssertSqlSafe(sql)).persistent(false).fetch_all(conn).await?)
}
