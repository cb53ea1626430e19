//! What the role may do, and whether the server takes writes.

use sqlx::{PgConnection, Row};

use super::{query, quote};
use crate::store::{Finding, StoreError, TargetName};

/// What the role may do with the target.
pub(super) async fn on_target(
    conn: &mut PgConnection,
    oid: i64,
    table: &str,
    name: &TargetName,
    findings: &mut Vec<Finding>,
) -> Result<(), StoreError> {
    let row = query("SELECT current_user::text, has_table_privilege($1::oid, 'SELECT')".to_owned())
        .bind(oid)
        .fetch_one(&mut *conn)
        .await?;
    let role: String = row.try_get(0)?;
    if !row.try_get::<bool, _>(1)? {
        findings.push(Finding::refusal(
            format!("role {role} may not read {}", name.table),
            format!("GRANT SELECT ON {table} TO {}", quote(&role)),
        ));
    }
    let sql = "SELECT attname::text FROM pg_attribute WHERE attrelid = $1::oid AND attname = ANY ($2) \
               AND attnum > 0 AND NOT has_column_privilege($1::oid, attnum, 'UPDATE')";
    for row in query(sql.to_owned()).bind(oid).bind(&name.columns).fetch_all(&mut *conn).await? {
        let column: String = row.try_get(0)?;
        findings.push(Finding::refusal_to_write(
            format!("role {role} may not update column {column}"),
            format!("GRANT UPDATE ({}) ON {table} TO {}", quote(&column), quote(&role)),
        ));
    }
    Ok(())
}

/// What a run asks of reseal's own tables. Of the audit log it changes no row: whoever appends locks it, and may not
/// without UPDATE.
const NEEDS: [(&str, &str); 10] = [
    ("reseal_audit", "SELECT, INSERT, UPDATE"),
    ("reseal_data_keys", "SELECT, INSERT, UPDATE"),
    ("reseal_fences", "SELECT"),
    ("reseal_migrations", "SELECT"),
    ("reseal_processes", "SELECT, INSERT, UPDATE, DELETE"),
    ("reseal_quarantine", "SELECT, INSERT, UPDATE, DELETE"),
    ("reseal_retirements", "SELECT"),
    ("reseal_runs", "SELECT, INSERT, UPDATE"),
    ("reseal_shards", "SELECT, INSERT, UPDATE"),
    ("reseal_targets", "SELECT, INSERT"),
];

/// What the role may do with reseal's own tables: those that are there, or, where there are none yet, their schema.
pub(super) async fn on_own_tables(
    conn: &mut PgConnection,
    findings: &mut Vec<Finding>,
) -> Result<(), StoreError> {
    let sql = "SELECT current_user::text, to_regclass('reseal_migrations') IS NOT NULL, current_schema()::text, \
               coalesce(has_schema_privilege(current_schema(), 'CREATE'), false)";
    let row = query(sql.to_owned()).fetch_one(&mut *conn).await?;
    let (role, schema): (String, Option<String>) = (row.try_get(0)?, row.try_get(2)?);
    if !row.try_get::<bool, _>(1)? {
        // Before `init`, which may be another role's to run: nothing to refuse a run for.
        if !row.try_get::<bool, _>(3)? {
            let schema = schema.unwrap_or_else(|| "public".to_owned());
            findings.push(Finding::warning(
                format!("role {role} may not create reseal's own tables"),
                format!(
                    "run init as a role that may, or GRANT CREATE ON SCHEMA {} TO {}",
                    quote(&schema),
                    quote(&role)
                ),
            ));
        }
        return Ok(());
    }
    let sql = "SELECT own.needs, string_agg(own.name, ', ' ORDER BY own.name) FROM unnest($1, $2) AS own (name, needs) \
               JOIN pg_class c ON c.relname = own.name AND c.relnamespace = \
               (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('reseal_migrations')) \
               WHERE EXISTS (SELECT FROM unnest(string_to_array(own.needs, ', ')) AS need \
               WHERE NOT has_table_privilege(c.oid, need)) GROUP BY own.needs ORDER BY own.needs";
    let (names, needs): (Vec<&str>, Vec<&str>) = NEEDS.into_iter().unzip();
    let (mut denied, mut grants) = (Vec::new(), Vec::new());
    for row in query(sql.to_owned()).bind(names).bind(needs).fetch_all(conn).await? {
        let (needs, names): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        grants.push(format!("GRANT {needs} ON {names} TO {}", quote(&role)));
        denied.push(names);
    }
    if !denied.is_empty() {
        findings.push(Finding::refusal_to_write(
            format!("role {role} may not read and write {}", denied.join(", ")),
            grants.join("; "),
        ));
    }
    Ok(())
}

/// Whether the server and this role write at all.
pub(super) async fn server(conn: &mut PgConnection, findings: &mut Vec<Finding>) -> Result<(), StoreError> {
    let sql = "SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on', \
               current_setting('server_version_num')::int";
    let row = query(sql.to_owned()).fetch_one(conn).await?;
    if row.try_get(0)? {
        findings.push(Finding::refusal("this server is a standby", "connect to the primary"));
    } else if row.try_get(1)? {
        findings.push(Finding::refusal(
            "transactions of this role are read-only",
            "connect as another role, or unset default_transaction_read_only",
        ));
    }
    if row.try_get::<i32, _>(2)? < 130_000 {
        findings
            .push(Finding::warning("this server is older than Postgres 13", "reseal is tested from 13 on"));
    }
    Ok(())
}
