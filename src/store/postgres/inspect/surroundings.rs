//! What lives around a table and meets its updates: triggers, generated columns, replication.

use sqlx::{PgConnection, Row};

use super::query;
use crate::store::{Finding, StoreError, TargetName};

/// Triggers of somebody else's that fire on an UPDATE of these columns: whether there is one.
pub(super) async fn triggers(
    conn: &mut PgConnection,
    oid: i64,
    columns: &[String],
    findings: &mut Vec<Finding>,
) -> Result<bool, StoreError> {
    // The bits of tgtype: src/include/catalog/pg_trigger.h. Without a list of columns, tgattr is empty.
    let sql = "SELECT t.tgname::text, CASE WHEN t.tgtype & 2 <> 0 THEN 'before' ELSE 'after' END, \
               CASE WHEN t.tgtype & 1 <> 0 THEN 'each row' ELSE 'each statement' END, \
               coalesce((SELECT string_agg(attname::text, ', ' ORDER BY attnum) FROM pg_attribute \
                         WHERE attrelid = t.tgrelid AND attnum = ANY (t.tgattr)), 'any column'), \
               t.tgfoid::regproc::text \
               FROM pg_trigger t WHERE t.tgrelid = $1::oid AND NOT t.tgisinternal \
               AND t.tgenabled NOT IN ('D', 'R') AND t.tgtype & 16 <> 0 AND t.tgname NOT LIKE 'reseal\\_%' \
               AND (t.tgattr = ''::int2vector OR EXISTS (SELECT FROM pg_attribute WHERE attrelid = t.tgrelid \
                    AND attnum = ANY (t.tgattr) AND attname = ANY ($2))) ORDER BY 1";
    let rows = query(sql.to_owned()).bind(oid).bind(columns).fetch_all(conn).await?;
    for row in &rows {
        let name: &str = row.try_get(0)?;
        let (timing, level): (&str, &str) = (row.try_get(1)?, row.try_get(2)?);
        let (on, function): (&str, &str) = (row.try_get(3)?, row.try_get(4)?);
        findings.push(Finding::warning(
            format!("trigger {name} fires {timing} {level} on update of {on} and calls {function}"),
            "look at what it does: one that sets updated_at has side effects, one that restores old values stops the run",
        ));
    }
    Ok(!rows.is_empty())
}

/// Generated columns that read the values: each update computes them again, from ciphertext.
pub(super) async fn generated(
    conn: &mut PgConnection,
    oid: i64,
    columns: &[String],
    findings: &mut Vec<Finding>,
) -> Result<(), StoreError> {
    let sql = "SELECT DISTINCT g.attname::text FROM pg_attribute g \
               JOIN pg_attrdef f ON f.adrelid = g.attrelid AND f.adnum = g.attnum \
               JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid AND d.refobjid = g.attrelid \
               JOIN pg_attribute a ON a.attrelid = g.attrelid AND a.attnum = d.refobjsubid \
               WHERE g.attrelid = $1::oid AND g.attgenerated <> '' AND a.attname = ANY ($2) AND a.attnum <> g.attnum \
               UNION SELECT DISTINCT g.attname::text FROM pg_attribute g \
               JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = g.attrelid AND d.objsubid = g.attnum \
               AND d.refclassid = 'pg_class'::regclass AND d.refobjid = g.attrelid \
               JOIN pg_attribute a ON a.attrelid = g.attrelid AND a.attnum = d.refobjsubid \
               WHERE g.attrelid = $1::oid AND g.attgenerated <> '' AND a.attname = ANY ($2) ORDER BY 1";
    for row in query(sql.to_owned()).bind(oid).bind(columns).fetch_all(conn).await? {
        findings.push(Finding::warning(
            format!("generated column {} reads these columns", row.try_get::<&str, _>(0)?),
            "its values change with every re-sealed value, though no plaintext does: see who uses them",
        ));
    }
    Ok(())
}

/// Who receives every change by replication, and what that adds.
pub(super) async fn replication(
    conn: &mut PgConnection,
    oid: i64,
    name: &TargetName,
    findings: &mut Vec<Finding>,
) -> Result<(), StoreError> {
    let sql = "SELECT c.relreplident::text, ARRAY(SELECT a.attname::text FROM pg_index i \
                   JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) \
                   WHERE i.indrelid = c.oid AND i.indisreplident AND a.attname = ANY ($2) ORDER BY 1), \
               ARRAY(SELECT p.pubname::text FROM pg_publication p WHERE p.pubupdate AND EXISTS \
                     (SELECT FROM pg_publication_tables t JOIN pg_namespace n ON n.nspname = t.schemaname \
                      WHERE t.pubname = p.pubname AND t.tablename = c.relname AND n.oid = c.relnamespace) ORDER BY 1) \
               FROM pg_class c WHERE c.oid = $1::oid";
    let row = query(sql.to_owned()).bind(oid).bind(&name.columns).fetch_one(&mut *conn).await?;
    let (identity, indexed): (String, Vec<String>) = (row.try_get(0)?, row.try_get(1)?);
    let publications: Vec<String> = row.try_get(2)?;
    let table = &name.table;
    if identity == "f" {
        findings.push(Finding::warning(
            format!("the replica identity of {table} is FULL"),
            "with wal_level = logical every change logs the whole old row too, so that subscribers receive old and new \
             ciphertext and the write-ahead log about doubles",
        ));
    }
    for column in indexed {
        findings.push(Finding::warning(
            format!("the replica identity of {table} is an index over column {column}"),
            "a subscriber finds rows by their ciphertext: every change carries the old value too",
        ));
    }
    if identity == "n" && !publications.is_empty() {
        findings.push(Finding::refusal(
            format!("{table} is published with updates and has no replica identity"),
            format!("ALTER TABLE {} REPLICA IDENTITY DEFAULT", super::quote(table)),
        ));
    }
    for publication in publications {
        findings.push(Finding::warning(
            format!("publication {publication} carries every update of {table}"),
            "its subscribers receive every new value: they need the new key before the run, as other readers do",
        ));
    }
    let sql = "SELECT slot_name::text, coalesce(plugin, '')::text, active, \
               pg_size_pretty(CASE WHEN pg_is_in_recovery() THEN NULL \
                              ELSE pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) END) \
               FROM pg_replication_slots WHERE slot_type = 'logical' AND database = current_database() \
               AND NOT temporary ORDER BY 1";
    for row in query(sql.to_owned()).fetch_all(conn).await? {
        let (slot, plugin): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
        let kept = row.try_get::<Option<&str>, _>(3)?.unwrap_or("an unknown amount");
        // How it stands changes by the minute: it is said in the hint, which no plan's digest covers.
        findings.push(Finding::warning(
            format!("logical replication slot {slot} ({plugin}) decodes every change"),
            if row.try_get(2)? {
                format!("its consumer is connected and {kept} of log is kept for it: watch that it keeps up")
            } else {
                format!(
                    "nobody reads it and {kept} of log is kept for it: the log of the whole run stays on the primary's \
                     disk until somebody does, or drops the slot"
                )
            },
        ));
    }
    Ok(())
}
