//! What a table is, and what stands in the way of re-keying it.

use std::{collections::BTreeSet, path::Path};

use rustix::fs::{Access, access};
use sqlx::{Row, SqliteConnection};

use super::{Query, Sqlite, query, quote, swap};
use crate::{
    envelope::Encoding,
    store::{Column, Finding, Inspection, KeyKind, StoreError, Target, TargetName},
};

/// Looks at everything and reports all of it, so that an operator mends it in one go.
pub(super) async fn inspect(store: &Sqlite, name: &TargetName) -> Result<Inspection, StoreError> {
    let mut findings = Vec::new();
    file(store, &mut findings).await?;
    let mut tx = store.begin_read().await?;
    database(&mut tx, &mut findings).await?;
    let found = find_table(&mut tx, name, &mut findings).await?;
    if found != Found::Table {
        findings.sort_by_key(|finding| !finding.refuses);
        return Ok(Inspection { exists: found != Found::Nothing, target: None, findings });
    }
    let declared = declared(&mut tx, &name.table).await?;
    let key_kind = primary_key(&mut tx, name, &declared, &mut findings).await?;
    let columns = columns(&mut tx, name, &declared, &mut findings).await?;
    let mut target = key_kind.zip(columns).map(|(key_kind, columns)| Target {
        name: name.logical().to_owned(),
        schema: "main".to_owned(),
        table: name.table.clone(),
        oid: 0,
        key_column: name.key_column.clone(),
        key_kind,
        columns,
        has_triggers: false,
    });
    if let Some(target) = &mut target {
        target.has_triggers = update(&mut tx, target, &mut findings).await?;
    }
    findings.sort_by_key(|finding| !finding.refuses);
    Ok(Inspection { exists: true, target, findings })
}

/// Whether the file can be written, by SQLite's own word: a write that is rolled back, since of a read-only file even
/// `BEGIN IMMEDIATE` only begins to read. In WAL mode that does not show whether the directory can be written too.
async fn file(store: &Sqlite, findings: &mut Vec<Finding>) -> Result<(), StoreError> {
    // SQLITE_READONLY and SQLITE_CANTOPEN, the primary codes of several.
    let is_denied = |error: &StoreError| {
        error
            .code()
            .and_then(|code| code.parse::<u32>().ok())
            .is_some_and(|code| matches!(code & 0xff, 8 | 14))
    };
    let mut tx = store.begin_write().await?;
    let probe = query("CREATE TABLE main.reseal_probe (x)".to_owned()).execute(&mut *tx).await;
    tx.rollback().await?;
    match probe.map_err(StoreError::from) {
        Ok(_) => {}
        Err(error) if is_denied(&error) => findings.push(Finding::refusal(
            format!("{} is read-only", store.path.display()),
            "give this user write permission on the file, or restore it to where it is writable",
        )),
        Err(error) => return Err(error),
    }
    let directory = store.path.parent().unwrap_or(Path::new("/"));
    if access(directory, Access::WRITE_OK).is_err() {
        findings.push(Finding::refusal(
            format!("the directory {} is read-only", directory.display()),
            "SQLite keeps its journal beside the file: give this user write permission on the directory",
        ));
    }
    Ok(())
}

async fn database(conn: &mut SqliteConnection, findings: &mut Vec<Finding>) -> Result<(), StoreError> {
    let encoding: String =
        query("PRAGMA main.encoding".to_owned()).fetch_one(&mut *conn).await?.try_get(0)?;
    if encoding != "UTF-8" {
        findings.push(Finding::refusal(
            format!("this database stores text as {encoding}"),
            "SQLite can't change that in place: dump it into a new file, whose encoding is UTF-8",
        ));
    }
    let journal: String = query("PRAGMA main.journal_mode".to_owned()).fetch_one(conn).await?.try_get(0)?;
    if journal != "wal" {
        findings.push(Finding::warning(
            format!("the journal mode is {journal}"),
            "readers and the run will wait for each other; PRAGMA journal_mode = WAL lifts that",
        ));
    }
    Ok(())
}

/// What has the name of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    /// No table, or one that is spelled otherwise.
    Other,
    Table,
}

/// Whether `name` is a table, spelled so.
async fn find_table(
    conn: &mut SqliteConnection,
    name: &TargetName,
    findings: &mut Vec<Finding>,
) -> Result<Found, StoreError> {
    let table = &name.table;
    if let Some(schema) = name.schema.as_ref().filter(|schema| *schema != "main") {
        findings.push(Finding::refusal(
            format!("there is no schema {schema}: the tables of a SQLite file are in main"),
            format!("name it with --table {table}"),
        ));
        return Ok(Found::Nothing);
    }
    let sql = "SELECT name, type FROM pragma_table_list WHERE schema = 'main' AND name = ? COLLATE nocase";
    let Some(row) = query(sql.to_owned()).bind(table.clone()).fetch_optional(conn).await? else {
        findings.push(Finding::refusal(
            format!("there is no table {table} in this file"),
            "name it with --table, or point --database-url at the right file",
        ));
        return Ok(Found::Nothing);
    };
    let spelled: String = row.try_get(0)?;
    let refusal = match row.try_get::<&str, _>(1)? {
        "table" if spelled == *table => return Ok(Found::Table),
        "table" => (format!("the table is spelled {spelled}"), format!("name it with --table {spelled}")),
        "view" => (format!("{table} is a view"), "name the table that the view reads".to_owned()),
        _ => (format!("{table} is a virtual table, or part of one"), "name an ordinary table".to_owned()),
    };
    findings.push(Finding::refusal(refusal.0, refusal.1));
    Ok(Found::Other)
}

/// A column as its table declares it.
struct Declared {
    name: String,
    /// In upper case, without a length.
    kind: String,
    in_key: bool,
    is_generated: bool,
}

async fn declared(conn: &mut SqliteConnection, table: &str) -> Result<Vec<Declared>, StoreError> {
    let sql = "SELECT name, upper(type), pk > 0, hidden IN (2, 3) FROM pragma_table_xinfo(?, 'main')";
    let rows = query(sql.to_owned()).bind(table.to_owned()).fetch_all(conn).await?;
    rows.iter()
        .map(|row| {
            let kind: &str = row.try_get(1)?;
            let kind = kind.split('(').next().unwrap_or_default().trim().to_owned();
            Ok(Declared {
                name: row.try_get(0)?,
                kind,
                in_key: row.try_get(2)?,
                is_generated: row.try_get(3)?,
            })
        })
        .collect()
}

async fn primary_key(
    conn: &mut SqliteConnection,
    name: &TargetName,
    declared: &[Declared],
    findings: &mut Vec<Finding>,
) -> Result<Option<KeyKind>, StoreError> {
    let table = &name.table;
    let key: Vec<&Declared> = declared.iter().filter(|column| column.in_key).collect();
    let column = match key.as_slice() {
        [column] => *column,
        [] => {
            findings.push(Finding::refusal(
                format!("{table} has no primary key"),
                "add one: without it, a row can't be found again",
            ));
            return Ok(None);
        }
        columns => {
            findings.push(Finding::refusal(
                format!("the primary key of {table} has {} columns", columns.len()),
                "reseal needs a primary key of one column",
            ));
            return Ok(None);
        }
    };
    if column.name != name.key_column {
        findings.push(Finding::refusal(
            format!("the primary key of {table} is {}, not {}", column.name, name.key_column),
            format!("name it with --key-column {}", column.name),
        ));
        return Ok(None);
    }
    // The first two rules by which SQLite itself reads a declared type (sqlite.org/datatype3.html, section 3.1).
    let kind = if column.kind.contains("INT") {
        KeyKind::Integer
    } else if ["CHAR", "CLOB", "TEXT"].iter().any(|text| column.kind.contains(text)) {
        KeyKind::Text
    } else {
        findings.push(Finding::refusal(
            format!("the primary key {} is of type {}", column.name, shown(&column.kind)),
            "reseal knows integer and text keys",
        ));
        return Ok(None);
    };
    let (storage, key) = (if kind == KeyKind::Integer { "integer" } else { "text" }, quote(&column.name));
    let sql = format!(
        "SELECT count(*) FILTER (WHERE t.{key} IS NULL), \
         count(*) FILTER (WHERE typeof(t.{key}) NOT IN ('null', '{storage}')) FROM \"main\".{} AS t",
        quote(table)
    );
    let row = query(sql).fetch_one(conn).await?;
    let (nulls, others): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    if nulls > 0 {
        findings.push(Finding::refusal(
            format!("{nulls} rows of {table} have a NULL primary key"),
            format!("SQLite allows that; give each of them a {} of its own", column.name),
        ));
    }
    if others > 0 {
        findings.push(Finding::refusal(
            format!("{others} rows of {table} have a primary key that is not {storage}"),
            format!("SQLite allows that; store each {} as {storage}", column.name),
        ));
    }
    Ok(Some(kind))
}

async fn columns(
    conn: &mut SqliteConnection,
    name: &TargetName,
    declared: &[Declared],
    findings: &mut Vec<Finding>,
) -> Result<Option<Vec<Column>>, StoreError> {
    let sql = "SELECT DISTINCT list.name FROM pragma_index_list(?1, 'main') list, \
               pragma_index_xinfo(list.name, 'main') part WHERE part.key AND part.name = ?2 ORDER BY 1";
    let mut columns = Vec::new();
    for wanted in &name.columns {
        let Some(column) = declared.iter().find(|column| column.name.eq_ignore_ascii_case(wanted)) else {
            findings.push(Finding::refusal(
                format!("{} has no column {wanted}", name.table),
                "name the encrypted columns with --column, once for each",
            ));
            continue;
        };
        if column.name != *wanted {
            findings.push(Finding::refusal(
                format!("the column {wanted} is spelled {}", column.name),
                format!("name it with --column {}", column.name),
            ));
            continue;
        }
        let encoding = match column.kind.as_str() {
            "BLOB" | "BYTEA" => Encoding::Bytes,
            "TEXT" | "VARCHAR" => Encoding::Base64,
            kind => {
                findings.push(Finding::refusal(
                    format!("column {wanted} is of type {}", shown(kind)),
                    "reseal knows BLOB, and TEXT that holds base64",
                ));
                continue;
            }
        };
        let refusal = if column.in_key {
            Some(("part of the primary key", "name the encrypted columns with --column"))
        } else if column.is_generated {
            Some(("generated", "name the column that it is generated from"))
        } else {
            None
        };
        if let Some((what, hint)) = refusal {
            findings.push(Finding::refusal(format!("column {wanted} is {what}"), hint));
            continue;
        }
        let indexes = query(sql.to_owned()).bind(name.table.clone()).bind(wanted.clone());
        for row in indexes.fetch_all(&mut *conn).await? {
            findings.push(Finding::warning(
                format!("column {wanted} is part of index {}", row.try_get::<&str, _>(0)?),
                "each update writes the index too, which is slower",
            ));
        }
        columns.push(Column { name: wanted.clone(), encoding });
    }
    Ok((columns.len() == name.columns.len()).then_some(columns))
}

fn shown(kind: &str) -> &str {
    if kind.is_empty() { "none at all" } else { kind }
}

/// Has SQLite compile the update of a batch: whether it can, which triggers of somebody else's fire, and whether rows
/// are looked up by their key. Gives whether there is such a trigger. It must follow a statement that read the file in
/// the same transaction, and so brought the connection's schema up to date.
async fn update(
    conn: &mut SqliteConnection,
    target: &Target,
    findings: &mut Vec<Finding>,
) -> Result<bool, StoreError> {
    let columns: Vec<usize> = (0..target.columns.len()).collect();
    let sql = swap::sql(target, &columns, None);
    let program = match explain("EXPLAIN", &sql).fetch_all(&mut *conn).await {
        Ok(program) => program,
        Err(error) => {
            findings.push(Finding::refusal(
                format!("{} can't be updated by this program: {}", target.table, StoreError::from(error)),
                "its triggers, indexes and checks may use only what SQLite has built in",
            ));
            return Ok(false);
        }
    };
    // Each trigger is a program of its own, whose first instruction names it (SQLite: codeRowTrigger).
    let fired: BTreeSet<&str> = program
        .iter()
        .filter_map(|instruction| instruction.try_get::<&str, _>("p4").ok()?.strip_prefix("-- TRIGGER "))
        .filter(|name| !name.starts_with("reseal_"))
        .collect();
    let own = "SELECT 1 FROM main.sqlite_schema WHERE type = 'trigger' AND name = ? AND tbl_name = ? COLLATE nocase";
    let mut has_triggers = false;
    for name in fired {
        let on_target = query(own.to_owned()).bind(name.to_owned()).bind(target.table.clone());
        if on_target.fetch_optional(&mut *conn).await?.is_some() {
            has_triggers = true;
            findings.push(Finding::warning(
                format!("trigger {name} fires on every update"),
                "look at what it does: one that sets updated_at has side effects, one that restores old values stops the run",
            ));
        }
    }
    let plan = explain("EXPLAIN QUERY PLAN", &sql).fetch_all(conn).await?;
    let scans =
        plan.iter().any(|step| step.try_get("detail").is_ok_and(|detail: &str| detail.starts_with("SCAN t")));
    if scans {
        findings.push(Finding::warning(
            format!("SQLite would read all of {} for each batch", target.table),
            format!("its statistics say that the table has one row; ANALYZE {} mends them", target.table),
        ));
    }
    Ok(has_triggers)
}

/// Never from the statement cache: SQLite compiles a cached statement again after the schema changed, but not one
/// that only explains, which would go on naming things that are freed.
fn explain(verb: &str, sql: &str) -> Query {
    query(format!("{verb} {sql}")).persistent(false)
}
