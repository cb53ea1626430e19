//! What a table is, and what stands in the way of re-keying it.

use sqlx::{PgConnection, Row};

use super::{query, quote};
use crate::{
    envelope::Encoding,
    store::{Column, Finding, Inspection, KeyKind, StoreError, Target, TargetName},
};

/// Looks at everything and reports all of it, so that an operator mends it in one go.
pub(super) async fn inspect(conn: &mut PgConnection, name: &TargetName) -> Result<Inspection, StoreError> {
    let mut findings = Vec::new();
    let Some((oid, schema)) = find_table(conn, name, &mut findings).await? else {
        return Ok(Inspection { target: None, findings });
    };
    let key_kind = primary_key(conn, oid, name, &mut findings).await?;
    let columns = columns(conn, oid, name, &mut findings).await?;
    let has_triggers = triggers(conn, oid, &name.columns, &mut findings).await?;
    permissions(conn, oid, &format!("{}.{}", quote(&schema), quote(&name.table)), name, &mut findings)
        .await?;
    server(conn, &mut findings).await?;
    findings.sort_by_key(|finding| !finding.refuses);
    let target = key_kind.zip(columns).map(|(key_kind, columns)| Target {
        name: name.logical().to_owned(),
        schema,
        table: name.table.clone(),
        oid,
        key_column: name.key_column.clone(),
        key_kind,
        columns,
        has_triggers,
    });
    Ok(Inspection { target, findings })
}

async fn find_table(
    conn: &mut PgConnection,
    name: &TargetName,
    findings: &mut Vec<Finding>,
) -> Result<Option<(i64, String)>, StoreError> {
    let qualified = match &name.schema {
        Some(schema) => format!("{}.{}", quote(schema), quote(&name.table)),
        None => quote(&name.table),
    };
    let sql = "SELECT c.oid::bigint, n.nspname::text, c.relkind::text, \
               EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid OR i.inhrelid = c.oid AND NOT c.relispartition), \
               EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = c.oid AND r.ev_type IN ('2', '3')), \
               row_security_active(c.oid) \
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass($1)";
    let Some(row) = query(sql.to_owned()).bind(&qualified).fetch_optional(conn).await? else {
        findings.push(Finding::refusal(
            format!("there is no table {qualified} on the search path of this role"),
            "name it with --table SCHEMA.TABLE, or point --database-url at the right database",
        ));
        return Ok(None);
    };
    let refusal = match row.try_get::<&str, _>(2)? {
        "r" => None,
        "v" | "m" => Some(("a view", "name the table that the view reads")),
        "f" => Some(("a foreign table", "run reseal against the database that holds it")),
        "p" => Some(("a partitioned table", "name each partition with --table and --logical-name")),
        _ => Some(("not a table", "name a table")),
    };
    if let Some((kind, hint)) = refusal {
        findings.push(Finding::refusal(format!("{qualified} is {kind}"), hint));
        return Ok(None);
    }
    if row.try_get(3)? {
        findings.push(Finding::refusal(
            format!("{qualified} is part of table inheritance"),
            "its primary key does not hold across its children; re-key a table without inheritance",
        ));
    }
    if row.try_get(4)? {
        findings.push(Finding::refusal(
            format!("{qualified} has a rule that rewrites updates"),
            "drop the rule for the time of the run",
        ));
    }
    if row.try_get(5)? {
        findings.push(Finding::refusal(
            format!("row security filters {qualified} for this role"),
            "connect as the table's owner, or as a role with BYPASSRLS",
        ));
    }
    Ok(Some((row.try_get(0)?, row.try_get(1)?)))
}

async fn primary_key(
    conn: &mut PgConnection,
    oid: i64,
    name: &TargetName,
    findings: &mut Vec<Finding>,
) -> Result<Option<KeyKind>, StoreError> {
    let sql = "SELECT a.attname::text, format_type(a.atttypid, NULL), i.indnkeyatts::int \
               FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] \
               WHERE i.indrelid = $1::oid AND i.indisprimary";
    let Some(row) = query(sql.to_owned()).bind(oid).fetch_optional(conn).await? else {
        findings.push(Finding::refusal(
            format!("{} has no primary key", name.table),
            "add one: without it, a row can't be found again",
        ));
        return Ok(None);
    };
    let (column, kind, width): (String, String, i32) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    if width > 1 {
        findings.push(Finding::refusal(
            format!("the primary key of {} has {width} columns", name.table),
            "reseal needs a primary key of one column",
        ));
        return Ok(None);
    }
    if column != name.key_column {
        findings.push(Finding::refusal(
            format!("the primary key of {} is {column}, not {}", name.table, name.key_column),
            format!("name it with --key-column {column}"),
        ));
        return Ok(None);
    }
    let kind = match kind.as_str() {
        "uuid" => Some(KeyKind::Uuid),
        "smallint" | "integer" | "bigint" => Some(KeyKind::Integer),
        "text" | "character varying" => Some(KeyKind::Text),
        other => {
            findings.push(Finding::refusal(
                format!("the primary key {column} is of type {other}"),
                "reseal knows uuid, integer and text keys",
            ));
            None
        }
    };
    Ok(kind)
}

async fn columns(
    conn: &mut PgConnection,
    oid: i64,
    name: &TargetName,
    findings: &mut Vec<Finding>,
) -> Result<Option<Vec<Column>>, StoreError> {
    let sql = "SELECT a.atttypid::regtype::text, a.atttypmod, a.attgenerated <> '', \
               ARRAY(SELECT c.relname::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid \
                     WHERE i.indrelid = a.attrelid AND a.attnum = ANY (i.indkey)) \
               FROM pg_attribute a WHERE a.attrelid = $1::oid AND a.attname = $2 AND a.attnum > 0 AND NOT a.attisdropped";
    let mut columns = Vec::new();
    for column in &name.columns {
        let Some(row) = query(sql.to_owned()).bind(oid).bind(column).fetch_optional(&mut *conn).await? else {
            findings.push(Finding::refusal(
                format!("{} has no column {column}", name.table),
                "name the encrypted columns with --column, once for each",
            ));
            continue;
        };
        let encoding = match (row.try_get::<&str, _>(0)?, row.try_get::<i32, _>(1)?) {
            ("bytea", _) => Encoding::Bytes,
            ("text", _) | ("character varying", -1) => Encoding::Base64,
            (kind, _) => {
                findings.push(Finding::refusal(
                    format!("column {column} is of type {kind}, or limited in length"),
                    "reseal knows bytea, and text that holds base64",
                ));
                continue;
            }
        };
        if row.try_get(2)? {
            findings.push(Finding::refusal(
                format!("column {column} is generated"),
                "name the column that it is generated from",
            ));
        }
        for index in row.try_get::<Vec<String>, _>(3)? {
            findings.push(Finding::warning(
                format!("column {column} is part of index {index}"),
                "each update writes the index too, which is slower, and a long value may not fit it",
            ));
        }
        columns.push(Column { name: column.clone(), encoding });
    }
    Ok((columns.len() == name.columns.len()).then_some(columns))
}

/// Triggers of somebody else's that fire on an UPDATE of these columns: whether there is one.
async fn triggers(
    conn: &mut PgConnection,
    oid: i64,
    columns: &[String],
    findings: &mut Vec<Finding>,
) -> Result<bool, StoreError> {
    let sql = "SELECT tgname::text FROM pg_trigger WHERE tgrelid = $1::oid AND NOT tgisinternal \
               AND tgenabled <> 'D' AND tgtype & 16 <> 0 AND tgname NOT LIKE 'reseal\\_%' \
               AND (tgattr = ''::int2vector OR EXISTS (SELECT FROM pg_attribute WHERE attrelid = tgrelid \
                    AND attnum = ANY (tgattr) AND attname = ANY ($2))) ORDER BY 1";
    let rows = query(sql.to_owned()).bind(oid).bind(columns).fetch_all(conn).await?;
    for row in &rows {
        findings.push(Finding::warning(
            format!("trigger {} fires on every update of these columns", row.try_get::<&str, _>(0)?),
            "look at what it does: one that sets updated_at has side effects, one that restores old values stops the run",
        ));
    }
    Ok(!rows.is_empty())
}

async fn permissions(
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
        findings.push(Finding::refusal(
            format!("role {role} may not update column {column}"),
            format!("GRANT UPDATE ({}) ON {table} TO {}", quote(&column), quote(&role)),
        ));
    }
    Ok(())
}

async fn server(conn: &mut PgConnection, findings: &mut Vec<Finding>) -> Result<(), StoreError> {
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
