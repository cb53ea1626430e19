//! What a table is, and what stands in the way of re-keying it.

mod role;
mod surroundings;

use sqlx::{PgConnection, Row};

use super::{query, quote};
use crate::{
    envelope::Encoding,
    store::{Column, Finding, Inspection, KeyKind, StoreError, Target, TargetName},
};

/// Looks at everything and reports all of it, so that an operator mends it in one go.
pub(super) async fn inspect(conn: &mut PgConnection, name: &TargetName) -> Result<Inspection, StoreError> {
    let mut findings = Vec::new();
    let (oid, schema, table) = match find_table(conn, name, &mut findings).await? {
        Found::Table(oid, schema, table) => (oid, schema, table),
        Found::Other => return Ok(Inspection { exists: true, target: None, findings }),
        Found::Nothing => return Ok(Inspection { exists: false, target: None, findings }),
    };
    // The server cuts a name off at 63 bytes: what was typed may be longer, and values are bound to this one.
    let name = &TargetName { table, ..name.clone() };
    let key_kind = primary_key(conn, oid, name, &mut findings).await?;
    let columns = columns(conn, oid, name, &mut findings).await?;
    let has_triggers = surroundings::triggers(conn, oid, &name.columns, &mut findings).await?;
    surroundings::generated(conn, oid, &name.columns, &mut findings).await?;
    surroundings::replication(conn, oid, name, &mut findings).await?;
    let qualified = format!("{}.{}", quote(&schema), quote(&name.table));
    role::on_target(conn, oid, &qualified, name, &mut findings).await?;
    role::on_own_tables(conn, &mut findings).await?;
    role::server(conn, &mut findings).await?;
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
    Ok(Inspection { exists: true, target, findings })
}

/// What has the name of the table.
enum Found {
    Nothing,
    /// No table.
    Other,
    /// Its OID, its schema and its own name.
    Table(i64, String, String),
}

async fn find_table(
    conn: &mut PgConnection,
    name: &TargetName,
    findings: &mut Vec<Finding>,
) -> Result<Found, StoreError> {
    let qualified = match &name.schema {
        Some(schema) => format!("{}.{}", quote(schema), quote(&name.table)),
        None => quote(&name.table),
    };
    let sql = "SELECT c.oid::bigint, n.nspname::text, c.relkind::text, \
               EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid OR i.inhrelid = c.oid AND NOT c.relispartition), \
               EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = c.oid AND r.ev_type IN ('2', '3')), \
               row_security_active(c.oid), c.relname::text \
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass($1)";
    let Some(row) = query(sql.to_owned()).bind(&qualified).fetch_optional(conn).await? else {
        findings.push(Finding::refusal(
            format!("there is no table {qualified} on the search path of this role"),
            "name it with --table SCHEMA.TABLE, or point --database-url at the right database",
        ));
        return Ok(Found::Nothing);
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
        return Ok(Found::Other);
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
    Ok(Found::Table(row.try_get(0)?, row.try_get(1)?, row.try_get(6)?))
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
                     WHERE i.indrelid = a.attrelid AND (a.attnum = ANY (i.indkey) OR EXISTS \
                     (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid \
                      AND d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid \
                      AND d.refobjsubid = a.attnum)) ORDER BY 1) \
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
                format!("index {index} reads column {column}"),
                "updates of it can't be HOT: each writes every index of the table; a long value may not fit it. Drop it, \
                 if nothing looks up a ciphertext",
            ));
        }
        columns.push(Column { name: column.clone(), encoding });
    }
    Ok((columns.len() == name.columns.len()).then_some(columns))
}
