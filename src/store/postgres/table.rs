//! Reading the target's rows.

use futures_util::{StreamExt, TryStreamExt};
use sqlx::{PgConnection, Row, postgres::PgRow};

use super::{query, quote};
use crate::{
    envelope::Encoding,
    store::{Column, KeyKind, Page, PageLimits, PageSender, RowKey, Span, StoreError, Stretch, Target},
};

type Query = sqlx::query::Query<'static, sqlx::Postgres, sqlx::postgres::PgArguments>;

/// `"schema"."table"`.
pub(super) fn table_name(target: &Target) -> String {
    format!("{}.{}", quote(&target.schema), quote(&target.table))
}

/// The key and the cells, as [`page_from`] reads them: a cell that holds nothing is NULL, and one above the limit is
/// empty, so that its bytes never leave the server.
pub(super) fn select_list(target: &Target, limits: PageLimits) -> String {
    let key = quote(&target.key_column);
    let mut list = match target.key_kind {
        KeyKind::Integer => format!("CAST({key} AS bigint)"),
        KeyKind::Uuid | KeyKind::Text => key,
    };
    for column in &target.columns {
        let (name, max) = (quote(&column.name), limits.value);
        let empty = match column.encoding {
            Encoding::Bytes => "''::bytea",
            Encoding::Base64 => "''",
        };
        list.push_str(&format!(
            ", CASE WHEN octet_length({name}) BETWEEN 1 AND {max} THEN {name} \
             WHEN octet_length({name}) > {max} THEN {empty} END"
        ));
    }
    list
}

pub(super) async fn count(conn: &mut PgConnection, target: &Target) -> Result<u64, StoreError> {
    let row = query(format!("SELECT count(*) FROM {}", table_name(target))).fetch_one(conn).await?;
    Ok(u64::try_from(row.try_get::<i64, _>(0)?).unwrap_or_default())
}

/// The rows of `span` after `after`, in the key's own order.
///
/// A stretch of the heap is read block by block and sorted, so that the batches made of it go through the key's index
/// from one end to the other: rows in the heap's own order cost the swap a third more.
pub(super) async fn read_page(
    conn: &mut PgConnection,
    target: &Target,
    span: &Span,
    after: Option<&RowKey>,
    skip: Option<&[u8]>,
    limits: PageLimits,
) -> Result<Page, StoreError> {
    let key = quote(&target.key_column);
    let (lo, hi) = match span {
        Span::Keys(range) => (range.lo.as_ref(), range.hi.as_ref()),
        Span::Table(_) => (None, None),
    };
    let lower = after.or(lo);
    let mut conditions = Vec::new();
    if lower.is_some() {
        conditions.push(format!("{key} > $1"));
    }
    if hi.is_some() {
        conditions.push(format!("{key} <= ${}", conditions.len() + 1));
    }
    if let Span::Table(stretch) = span {
        conditions.push(lies_in(stretch));
    }
    conditions.extend(skip.map(|prefix| begins_otherwise(target, prefix)));
    let filter =
        if conditions.is_empty() { String::new() } else { format!("WHERE {}", conditions.join(" AND ")) };
    let sql = format!(
        "SELECT {} FROM {} {filter} ORDER BY {key} LIMIT {}",
        select_list(target, limits),
        table_name(target),
        limits.rows
    );
    let query = [lower, hi].into_iter().flatten().fold(query(sql), bind_key);
    page_from(conn, query, target, limits).await
}

/// Whether a row lies in these blocks, and was written before the stretch was cut.
///
/// `age` knows the circle that `xmin` lives on. A row frozen more than 2³¹ transactions ago can look young: then the
/// walk over the keys that follows deals with it.
fn lies_in(stretch: &Stretch) -> String {
    let Stretch { from, to, before } = stretch;
    let before = before & 0xFFFF_FFFF;
    format!("ctid >= '({from},0)' AND ctid < '({to},0)' AND age(xmin) > (SELECT age('{before}'::xid))")
}

/// All blocks of the heap; `None` where a range of blocks can't be read alone: before Postgres 14, or in a table
/// that is kept otherwise.
pub(super) async fn whole(conn: &mut PgConnection, target: &Target) -> Result<Option<Stretch>, StoreError> {
    // The snapshot is older than the size: what lies behind the end was written after the horizon.
    let sql = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint, \
               pg_relation_size(c.oid) / current_setting('block_size')::bigint FROM pg_class c \
               JOIN pg_am a ON a.oid = c.relam WHERE c.oid = $1::oid AND c.relkind = 'r' AND a.amname = 'heap' \
               AND current_setting('server_version_num')::integer >= 140000";
    let row = query(sql.to_owned()).bind(target.oid).fetch_optional(conn).await?;
    row.map(|row| Ok(Stretch { from: 0, to: row.try_get(1)?, before: row.try_get(0)? })).transpose()
}

/// Whether a row holds a value that does not begin with `prefix`.
fn begins_otherwise(target: &Target, prefix: &[u8]) -> String {
    let conditions = target.columns.iter().map(|column| {
        let (name, prefix) = (quote(&column.name), column.encoding.encode_prefix(prefix));
        match column.encoding {
            Encoding::Bytes => {
                format!(
                    "(octet_length({name}) > 0 AND substring({name} FROM 1 FOR {}) <> {})",
                    prefix.len(),
                    bytea(&prefix)
                )
            }
            Encoding::Base64 => {
                let text = String::from_utf8_lossy(&prefix);
                format!(
                    "(octet_length({name}) > 0 AND left({name}, {}) <> '{text}' COLLATE \"C\")",
                    prefix.len()
                )
            }
        }
    });
    format!("({})", conditions.collect::<Vec<_>>().join(" OR "))
}

/// `bytes` as an expression. A literal's backslash is another one where `standard_conforming_strings` is off.
fn bytea(bytes: &[u8]) -> String {
    format!("decode('{}', 'hex')", hex::encode(bytes))
}

/// Rows that hold a value which begins with `prefix`.
pub(super) async fn count_beginning(
    conn: &mut PgConnection,
    target: &Target,
    prefix: &[u8],
) -> Result<u64, StoreError> {
    let conditions = target.columns.iter().map(|column| {
        let (name, prefix) = (quote(&column.name), column.encoding.encode_prefix(prefix));
        match column.encoding {
            Encoding::Bytes => {
                format!("substring({name} FROM 1 FOR {}) = {}", prefix.len(), bytea(&prefix))
            }
            Encoding::Base64 => {
                let text = String::from_utf8_lossy(&prefix);
                format!("left({name}, {}) = '{text}' COLLATE \"C\"", prefix.len())
            }
        }
    });
    let conditions = conditions.collect::<Vec<_>>().join(" OR ");
    let sql = format!("SELECT count(*) FROM {} WHERE {conditions}", table_name(target));
    let row = query(sql).fetch_one(conn).await?;
    Ok(u64::try_from(row.try_get::<i64, _>(0)?).unwrap_or_default())
}

/// The rows with these keys, in no particular order.
pub(super) async fn read_rows(
    conn: &mut PgConnection,
    target: &Target,
    keys: &[RowKey],
    limits: PageLimits,
) -> Result<Page, StoreError> {
    let sql = format!(
        "SELECT {} FROM {} WHERE {} = ANY($1)",
        select_list(target, limits),
        table_name(target),
        quote(&target.key_column)
    );
    page_from(conn, bind_keys(query(sql), target.key_kind, keys.iter()), target, limits).await
}

/// About `count` rows, from blocks all over the heap.
pub(super) async fn sample(
    conn: &mut PgConnection,
    target: &Target,
    count: usize,
    limits: PageLimits,
) -> Result<Page, StoreError> {
    let table = table_name(target);
    let percent = sample_percent(conn, &table, 20 * count).await?;
    let sql = format!(
        "SELECT {} FROM {table} TABLESAMPLE SYSTEM ({percent}) ORDER BY random() LIMIT {count}",
        select_list(target, limits)
    );
    let page = page_from(conn, query(sql), target, limits).await?;
    if !page.keys.is_empty() {
        return Ok(page);
    }
    let sql = format!("SELECT {} FROM {table} LIMIT {count}", select_list(target, limits));
    page_from(conn, query(sql), target, limits).await
}

/// Keys at even distances among a sample of about 300 keys a part.
pub(super) async fn split_points(
    conn: &mut PgConnection,
    target: &Target,
    rows: u64,
    parts: u64,
) -> Result<Vec<RowKey>, StoreError> {
    if parts < 2 {
        return Ok(Vec::new());
    }
    let key = match target.key_kind {
        KeyKind::Integer => format!("CAST({} AS bigint)", quote(&target.key_column)),
        KeyKind::Uuid | KeyKind::Text => quote(&target.key_column),
    };
    let wanted = usize::try_from(parts.saturating_mul(300).min(rows)).unwrap_or(usize::MAX);
    let percent = sample_percent(conn, &table_name(target), wanted).await?;
    let sql = format!(
        "SELECT DISTINCT point FROM unnest((SELECT percentile_disc(ARRAY(SELECT part::float8 / {parts} \
         FROM generate_series(1, {last}) part)) WITHIN GROUP (ORDER BY {key}) \
         FROM {table} TABLESAMPLE SYSTEM ({percent}))) point WHERE point IS NOT NULL ORDER BY 1",
        table = table_name(target),
        last = parts - 1,
    );
    let rows = query(sql).fetch_all(conn).await?;
    rows.iter().map(|row| key_from(row, target.key_kind)).collect()
}

/// How large a share of the heap's blocks, in percent, holds about `wanted` rows.
pub(super) async fn sample_percent(
    conn: &mut PgConnection,
    table: &str,
    wanted: usize,
) -> Result<f64, StoreError> {
    let sql = "SELECT greatest(reltuples, 0)::float8, greatest(pg_relation_size(oid) / 8192, 1)::float8 \
               FROM pg_class WHERE oid = to_regclass($1)";
    let row = query(sql.to_owned()).bind(table.to_owned()).fetch_one(conn).await?;
    // A table that was never analyzed has no row count; some 20 rows of two URLs fit a block.
    let (tuples, blocks): (f64, f64) = (row.try_get(0)?, row.try_get(1)?);
    let rows = if tuples > 0.0 { tuples } else { blocks * 20.0 };
    #[expect(clippy::cast_precision_loss, reason = "a share needs no more than 52 bits")]
    let wanted = wanted as f64;
    // Below some hundred blocks a share of the blocks is no fair share of the rows.
    Ok(if blocks < 200.0 { 100.0 } else { (wanted / rows * 100.0).clamp(0.001, 100.0) })
}

/// Sends every row of the table to `pages` through a server-side cursor; stops when nobody listens any more.
pub(super) async fn scan(
    conn: &mut PgConnection,
    target: &Target,
    limits: PageLimits,
    pages: PageSender,
) -> Result<(), StoreError> {
    let cursor = format!(
        "DECLARE reseal_scan NO SCROLL CURSOR FOR SELECT {} FROM {}",
        select_list(target, limits),
        table_name(target)
    );
    query(cursor).execute(&mut *conn).await?;
    let mut rows = limits.rows.min(100);
    loop {
        let mut fetched = query(format!("FETCH {rows} FROM reseal_scan")).fetch(&mut *conn);
        let mut page = Page::new(target.columns.len());
        let mut total = 0;
        while let Some(row) = fetched.try_next().await? {
            total += 1;
            push_row(&mut page, &row, target)?;
            if page.cells.byte_len() >= limits.bytes {
                // A cursor can't give a row back: hand over what there is, and fetch less next time.
                let full = std::mem::replace(&mut page, Page::new(target.columns.len()));
                rows = (full.keys.len() / 2).max(1);
                if pages.send(full).await.is_err() {
                    return Ok(());
                }
            }
        }
        drop(fetched);
        if total == 0 {
            return Ok(());
        }
        if !page.keys.is_empty() {
            if page.cells.byte_len() < limits.bytes / 2 {
                rows = (rows * 2).min(limits.rows);
            }
            if pages.send(page).await.is_err() {
                return Ok(());
            }
        }
    }
}

pub(super) async fn fingerprint(
    conn: &mut PgConnection,
    target: &Target,
    key: &RowKey,
    column: usize,
) -> Result<Option<[u8; 32]>, StoreError> {
    let Column { name, encoding } = &target.columns[column];
    let bytes = match encoding {
        Encoding::Bytes => quote(name),
        Encoding::Base64 => format!("convert_to({}, 'UTF8')", quote(name)),
    };
    let sql = format!(
        "SELECT sha256({bytes}) FROM {} WHERE {} = $1",
        table_name(target),
        quote(&target.key_column)
    );
    let row = bind_key(query(sql), key).fetch_optional(conn).await?;
    let hash = row.map(|row| row.try_get::<Option<Vec<u8>>, _>(0)).transpose()?.flatten();
    Ok(hash.and_then(|hash| hash.try_into().ok()))
}

/// Reads rows until the page is full; the rest of the answer is read off and dropped, and will be asked for again.
pub(super) async fn page_from(
    conn: &mut PgConnection,
    query: Query,
    target: &Target,
    limits: PageLimits,
) -> Result<Page, StoreError> {
    let mut page = Page::new(target.columns.len());
    let mut rows = query.fetch(conn);
    while let Some(row) = rows.next().await.transpose()? {
        // Rows that have arrived already are read without a pause otherwise.
        tokio::task::coop::consume_budget().await;
        if page.last {
            push_row(&mut page, &row, target)?;
        }
        page.last = page.cells.byte_len() < limits.bytes;
    }
    page.last &= page.keys.len() < limits.rows;
    Ok(page)
}

fn push_row(page: &mut Page, row: &PgRow, target: &Target) -> Result<(), StoreError> {
    page.keys.push(key_from(row, target.key_kind)?);
    for (position, column) in (1..).zip(&target.columns) {
        let cell: Option<&[u8]> = match column.encoding {
            Encoding::Bytes => row.try_get(position)?,
            Encoding::Base64 => row.try_get::<Option<&str>, _>(position)?.map(str::as_bytes),
        };
        page.cells.push(cell);
    }
    Ok(())
}

pub(super) fn key_from(row: &PgRow, kind: KeyKind) -> Result<RowKey, StoreError> {
    Ok(match kind {
        KeyKind::Uuid => RowKey::Uuid(row.try_get(0)?),
        KeyKind::Integer => RowKey::Integer(row.try_get(0)?),
        KeyKind::Text => RowKey::Text(row.try_get(0)?),
    })
}

/// Binds one key with its own type, so that the key's index serves.
pub(super) fn bind_key(query: Query, key: &RowKey) -> Query {
    match key {
        RowKey::Uuid(key) => query.bind(*key),
        RowKey::Integer(key) => query.bind(*key),
        RowKey::Text(key) => query.bind(key.as_str()),
    }
}

/// Binds keys, all of `kind`, as one array.
pub(super) fn bind_keys<'a>(query: Query, kind: KeyKind, keys: impl Iterator<Item = &'a RowKey>) -> Query {
    match kind {
        KeyKind::Uuid => query.bind(
            keys.filter_map(|key| if let RowKey::Uuid(key) = key { Some(*key) } else { None })
                .collect::<Vec<_>>(),
        ),
        KeyKind::Integer => query.bind(
            keys.filter_map(|key| if let RowKey::Integer(key) = key { Some(*key) } else { None })
                .collect::<Vec<_>>(),
        ),
        KeyKind::Text => query.bind(
            keys.filter_map(|key| if let RowKey::Text(key) = key { Some(key.as_str()) } else { None })
                .collect::<Vec<_>>(),
        ),
    }
}
