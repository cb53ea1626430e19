//! The fence in Postgres: a trigger for INSERT and one for UPDATE, and two functions.
//!
//! The triggers are AFTER ROW, since nothing can change the row any more then, and ENABLE ALWAYS, so that a session
//! of the role `replica` fires them too. Their WHEN asks the function that tells a write that breaks the rule; only for
//! such a write the trigger's own function is called, which refuses or records it. A condition that is spelled out in
//! WHEN would be read and planned again by each statement, at three times the cost of a function's kept plan.
//!
//! A column that is renamed keeps its fence, because WHEN knows it by number; one can't be dropped or change its type
//! without the triggers, because Postgres won't.

use sqlx::{PgConnection, Row};

use super::{fence_sql, query, table::table_name};
use crate::{
    envelope::Encoding,
    store::{
        Blocker, FenceMode, FenceRule, StoreError, Target,
        fence::{Found, Objects, stem},
    },
};

/// The path on which the catalog shows every name but its own with its schema, and on which nobody else's operator
/// or function is found.
const PINNED: &str = "pg_catalog, pg_temp";

/// Where our own tables are, and the search path that found them.
struct Home {
    schema: String,
    search_path: String,
}

impl Home {
    async fn find(conn: &mut PgConnection) -> Result<Self, StoreError> {
        let sql = "SELECT n.nspname::text, current_setting('search_path') FROM pg_class c \
                   JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass('reseal_fences')";
        let row = query(sql.to_owned()).fetch_optional(conn).await?.ok_or(StoreError::NotMigrated)?;
        Ok(Self { schema: row.try_get(0)?, search_path: row.try_get(1)? })
    }
}

async fn set_search_path(conn: &mut PgConnection, path: &str) -> Result<(), StoreError> {
    query("SELECT set_config('search_path', $1, true)".to_owned()).bind(path).execute(conn).await?;
    Ok(())
}

/// Makes the fence, or makes it anew over one that is intact.
///
/// When the transaction commits, every earlier write of the table has ended: SHARE ROW EXCLUSIVE waits for each
/// transaction that wrote it, and lets none begin to. One that is open and has not written yet must take its lock
/// first when it does, and learns of the triggers then, whatever its snapshot shows it: they are no rows that it reads.
pub(super) async fn make(
    conn: &mut PgConnection,
    target: &Target,
    mode: FenceMode,
    rule: FenceRule,
) -> Result<(), StoreError> {
    let home = Home::find(conn).await?;
    let version: i32 = query("SELECT current_setting('server_version_num')::int".to_owned())
        .fetch_one(&mut *conn)
        .await?
        .try_get(0)?;
    let replaces = version >= 140_000;
    if !replaces {
        remove(conn, &target.name).await?;
    }
    let lock = format!("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE", table_name(target));
    query(lock).execute(&mut *conn).await?;
    set_search_path(conn, PINNED).await?;
    for statement in fence_sql::statements(target, &home.schema, mode, rule, replaces) {
        query(statement).execute(&mut *conn).await?;
    }
    set_search_path(conn, &home.search_path).await
}

/// Nothing: the catalog does not show a fence as it was written, and what made it does not say how it does.
pub(super) fn made(_: &Target, _: FenceMode, _: FenceRule) -> Objects {
    Objects::new()
}

/// Drops the fence's functions, and with them every trigger that calls them, on whatever table. One of the same name
/// that another role made, to be in our way, stays.
pub(super) async fn remove(conn: &mut PgConnection, target: &str) -> Result<(), StoreError> {
    let home = Home::find(conn).await?;
    for function in functions(conn, &home, target).await?.iter().filter(|function| function.is_ours) {
        query(format!("DROP FUNCTION {} CASCADE", function.signature)).execute(&mut *conn).await?;
    }
    Ok(())
}

struct Function {
    /// `schema.name(types)`, quoted.
    signature: String,
    definition: String,
    /// Whether this role may act as its owner.
    is_ours: bool,
}

async fn functions(conn: &mut PgConnection, home: &Home, target: &str) -> Result<Vec<Function>, StoreError> {
    set_search_path(conn, PINNED).await?;
    let sql = "SELECT p.oid::regprocedure::text, pg_get_functiondef(p.oid), pg_has_role(p.proowner, 'USAGE') \
               FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace \
               WHERE n.nspname = $1 AND p.proname IN ($2, $2 || '_check')";
    let rows = query(sql.to_owned()).bind(&home.schema).bind(stem(target)).fetch_all(&mut *conn).await?;
    set_search_path(conn, &home.search_path).await?;
    rows.iter()
        .map(|row| {
            Ok(Function { signature: row.try_get(0)?, definition: row.try_get(1)?, is_ours: row.try_get(2)? })
        })
        .collect()
}

/// What of the fence is there.
pub(super) async fn find(conn: &mut PgConnection, target: &Target) -> Result<Found, StoreError> {
    let home = Home::find(conn).await?;
    let mut complaints = changes(conn, target).await?;
    let mut objects = Objects::new();
    set_search_path(conn, PINNED).await?;
    let sql = "SELECT t.tgname::text, pg_get_triggerdef(t.oid), t.tgenabled::text FROM pg_trigger t \
               WHERE t.tgrelid = to_regclass($1) AND t.tgname IN ($2 || '_insert', $2 || '_update') ORDER BY 1";
    let triggers = query(sql.to_owned()).bind(table_name(target)).bind(stem(&target.name));
    for row in triggers.fetch_all(&mut *conn).await? {
        let name = format!("trigger {}", row.try_get::<&str, _>(0)?);
        match row.try_get::<&str, _>(2)? {
            "A" => {}
            "D" => complaints.push(format!("{name} is disabled")),
            _ => complaints.push(format!("{name} does not fire for every session")),
        }
        objects.insert(name, row.try_get(1)?);
    }
    set_search_path(conn, &home.search_path).await?;
    let functions = functions(conn, &home, &target.name).await?;
    let functions = functions.into_iter();
    objects
        .extend(functions.map(|function| (format!("function {}", function.signature), function.definition)));
    Ok(Found { objects, complaints })
}

/// In what the table is not what was registered.
async fn changes(conn: &mut PgConnection, target: &Target) -> Result<Vec<String>, StoreError> {
    let table = table_name(target);
    let oid: Option<i64> = query("SELECT to_regclass($1)::oid::bigint".to_owned())
        .bind(&table)
        .fetch_one(&mut *conn)
        .await?
        .try_get(0)?;
    let Some(oid) = oid else { return Ok(vec![format!("table {table} is gone")]) };
    let mut changes = Vec::new();
    if oid != target.oid {
        changes.push(format!("table {table} was made anew, or restored, since it was registered"));
    }
    for column in &target.columns {
        let sql = "SELECT atttypid::regtype::text FROM pg_attribute \
                   WHERE attrelid = $1::oid AND attname = $2 AND attnum > 0 AND NOT attisdropped";
        let row = query(sql.to_owned()).bind(oid).bind(&column.name).fetch_optional(&mut *conn).await?;
        let kind: Option<String> = row.map(|row| row.try_get(0)).transpose()?;
        match (kind.as_deref(), column.encoding) {
            (Some("bytea"), Encoding::Bytes) | (Some("text" | "character varying"), Encoding::Base64) => {}
            (Some(kind), _) => changes.push(format!("column {} is of type {kind} now", column.name)),
            (None, _) => changes.push(format!("column {} is gone, or has another name", column.name)),
        }
    }
    Ok(changes)
}

/// The sessions that hold a lock on the table. What somebody else's session is, an unprivileged role sees in part.
pub(super) async fn blockers(conn: &mut PgConnection, target: &Target) -> Result<Vec<Blocker>, StoreError> {
    let sql = "SELECT l.pid::bigint, a.usename::text, a.application_name, a.state, \
               floor(extract(epoch FROM clock_timestamp() - a.xact_start))::bigint, \
               bool_or(l.mode NOT IN ('AccessShareLock', 'RowShareLock')) \
               FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid \
               WHERE l.locktype = 'relation' AND l.granted AND l.relation = to_regclass($1) \
               AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
               AND l.pid IS DISTINCT FROM pg_backend_pid() GROUP BY 1, 2, 3, 4, 5 ORDER BY 5 DESC NULLS LAST, 1";
    let rows = query(sql.to_owned()).bind(table_name(target)).fetch_all(conn).await?;
    rows.iter()
        .map(|row| {
            Ok(Blocker {
                pid: row.try_get(0)?,
                role: row.try_get(1)?,
                application: row.try_get(2)?,
                state: row.try_get(3)?,
                open_seconds: row.try_get(4)?,
                writes: row.try_get(5)?,
            })
        })
        .collect()
}
