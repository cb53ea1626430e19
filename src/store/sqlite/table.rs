//! Reading the target's rows.
//!
//! sqlx hands over SQLite's rows one by one from SQLite's own thread, which costs several times what reading them does.
//! So a page is *one* row: the keys and the lengths as JSON arrays, and all cells as one blob.

use futures_util::TryStreamExt;
use sha2::{Digest, Sha256};
use sqlx::{Row, SqliteConnection};

use super::{
    Query, key_of,
    pack::{self, Packed},
    query, quote, table_as_t,
};
use crate::store::{Cells, KeyKind, Page, PageLimits, PageSender, RowKey, Span, StoreError, Stretch, Target};

/// What the rows are read through.
#[derive(Clone, Copy)]
pub(super) enum Through {
    /// Whatever SQLite finds best.
    Any,
    /// The table itself and no index.
    Table,
}

impl Through {
    fn source(self, target: &Target) -> String {
        match self {
            Self::Any => table_as_t(target),
            Self::Table => format!("{} NOT INDEXED", table_as_t(target)),
        }
    }
}

pub(super) async fn count(
    conn: &mut SqliteConnection,
    target: &Target,
    through: Through,
) -> Result<u64, StoreError> {
    let row = query(format!("SELECT count(*) FROM {}", through.source(target))).fetch_one(conn).await?;
    Ok(u64::try_from(row.try_get::<i64, _>(0)?).unwrap_or_default())
}

/// The rows of `span` after `after`: of a stretch of the table by rowid, else in the key's own order.
pub(super) async fn read_page(
    conn: &mut SqliteConnection,
    target: &Target,
    span: &Span,
    after: Option<&RowKey>,
    skip: Option<&[u8]>,
    limits: PageLimits,
) -> Result<Page, StoreError> {
    let (mut conditions, mut select) = (Vec::new(), Select::all(target));
    let (lo, hi) = match span {
        Span::Keys(range) => (range.lo.as_ref(), range.hi.as_ref()),
        Span::Table(_) => (None, None),
    };
    if let Span::Table(stretch) = span {
        select.source = Through::Table.source(target);
        select.rowid = rowid(conn, target).await?;
        conditions.push(format!(
            "{order} >= {} AND {order} < {}",
            stretch.from,
            stretch.to,
            order = select.order()
        ));
    } else if skip.is_some() && after.is_none() {
        select.source = Through::Table.source(target);
    }
    let lower = after.or(lo);
    if lower.is_some() {
        conditions.push(format!("{} > ?1", select.order()));
    }
    if hi.is_some() {
        conditions.push(format!("{} <= ?{}", select.order(), 1 + usize::from(lower.is_some())));
    }
    conditions.extend(skip.map(|prefix| begins_otherwise(target, prefix)));
    if !conditions.is_empty() {
        select.filter = format!("WHERE {}", conditions.join(" AND "));
    }
    let page = [lower, hi].into_iter().flatten().fold(query(select.sql(limits)), bind_key);
    fetch(conn, page, target).await
}

/// The table's rowids from the first to the last; `None` where it has none of its own.
pub(super) async fn whole(
    conn: &mut SqliteConnection,
    target: &Target,
) -> Result<Option<Stretch>, StoreError> {
    let Some(rowid) = rowid(conn, target).await? else { return Ok(None) };
    let table = table_as_t(target);
    let sql = format!("SELECT (SELECT min(t.{rowid}) FROM {table}), (SELECT max(t.{rowid}) FROM {table})");
    let row = query(sql).fetch_one(conn).await?;
    let (first, last): (Option<i64>, Option<i64>) = (row.try_get(0)?, row.try_get(1)?);
    let from = first.unwrap_or_default();
    Ok(Some(Stretch { from, to: last.map_or(from, |last| last.saturating_add(1)), before: 0 }))
}

/// Whether a row holds a value that does not begin with `prefix`; a cell that holds nothing does not count.
fn begins_otherwise(target: &Target, prefix: &[u8]) -> String {
    let conditions = target.columns.iter().map(|column| {
        let (name, prefix) = (quote(&column.name), column.encoding.encode_prefix(prefix));
        let (length, prefix) = (prefix.len(), hex::encode(prefix));
        format!("(length(t.{name}) > 0 AND substr(CAST(t.{name} AS BLOB), 1, {length}) <> x'{prefix}')")
    });
    format!("({})", conditions.collect::<Vec<_>>().join(" OR "))
}

/// Rows that hold a value which begins with `prefix`.
pub(super) async fn count_beginning(
    conn: &mut SqliteConnection,
    target: &Target,
    prefix: &[u8],
) -> Result<u64, StoreError> {
    let conditions = target.columns.iter().map(|column| {
        let (name, prefix) = (quote(&column.name), column.encoding.encode_prefix(prefix));
        let (length, prefix) = (prefix.len(), hex::encode(prefix));
        format!("substr(CAST(t.{name} AS BLOB), 1, {length}) = x'{prefix}'")
    });
    let (source, conditions) = (Through::Table.source(target), conditions.collect::<Vec<_>>().join(" OR "));
    let row = query(format!("SELECT count(*) FROM {source} WHERE {conditions}")).fetch_one(conn).await?;
    Ok(u64::try_from(row.try_get::<i64, _>(0)?).unwrap_or_default())
}

/// The rows with these keys, in no particular order.
pub(super) async fn read_rows(
    conn: &mut SqliteConnection,
    target: &Target,
    keys: &[RowKey],
    limits: PageLimits,
) -> Result<Page, StoreError> {
    if keys.is_empty() {
        return Ok(Page::new(target.columns.len()));
    }
    let mut packed = Packed::new();
    keys.iter().for_each(|key| packed.push(key, []));
    let filter =
        format!("WHERE {} IN ({}SELECT v.k FROM v)", key_of(target), pack::with(target.key_kind, &[]));
    let select = Select { filter, ..Select::all(target) };
    fetch(conn, packed.query(select.sql(limits)), target).await
}

/// `count` rows at random. To choose them reads every key, and no value.
pub(super) async fn sample(
    conn: &mut SqliteConnection,
    target: &Target,
    count: usize,
    limits: PageLimits,
) -> Result<Page, StoreError> {
    let (key, table) = (key_of(target), table_as_t(target));
    let filter = format!("WHERE {key} IN (SELECT {key} FROM {table} ORDER BY random() LIMIT {count})");
    let select = Select { filter, ..Select::all(target) };
    fetch(conn, query(select.sql(limits)), target).await
}

/// Every key that is a whole number of steps from the first, by skipping along the key's index.
pub(super) async fn split_points(
    conn: &mut SqliteConnection,
    target: &Target,
    rows: u64,
    parts: u64,
) -> Result<Vec<RowKey>, StoreError> {
    let skipped = (rows / parts.max(1)).saturating_sub(1);
    let (key, table) = (key_of(target), table_as_t(target));
    let mut points: Vec<RowKey> = Vec::new();
    for _ in 1..parts {
        let filter = if points.is_empty() { String::new() } else { format!("WHERE {key} > ?1") };
        let next =
            query(format!("SELECT {key} FROM {table} {filter} ORDER BY {key} LIMIT 1 OFFSET {skipped}"));
        let Some(row) = points.last().into_iter().fold(next, bind_key).fetch_optional(&mut *conn).await?
        else {
            break;
        };
        points.push(match target.key_kind {
            KeyKind::Integer => RowKey::Integer(row.try_get(0)?),
            KeyKind::Text | KeyKind::Uuid => RowKey::Text(row.try_get(0)?),
        });
    }
    Ok(points)
}

/// Sends every row of the table to `pages`; stops when nobody listens any more.
pub(super) async fn scan(
    conn: &mut SqliteConnection,
    target: &Target,
    limits: PageLimits,
    pages: PageSender,
) -> Result<(), StoreError> {
    let rowid = rowid(conn, target).await?;
    let mut select = Select { source: Through::Table.source(target), rowid, ..Select::all(target) };
    let mut next = query(select.sql(limits));
    select.filter = format!("WHERE {} > ?1", select.order());
    loop {
        let page = fetch(conn, next, target).await?;
        let last_row = page.keys.len().checked_sub(1).map(|last| page.place(last));
        let last_page = page.last;
        if !page.keys.is_empty() && pages.send(page).await.is_err() {
            return Ok(());
        }
        let Some(last_row) = last_row.filter(|_| !last_page) else { return Ok(()) };
        next = bind_key(query(select.sql(limits)), &last_row);
    }
}

/// A name for the number by which the table itself is ordered; `None` where that is the primary key, as in a table
/// `WITHOUT ROWID`.
pub(super) async fn rowid(
    conn: &mut SqliteConnection,
    target: &Target,
) -> Result<Option<String>, StoreError> {
    let sql = "SELECT name.value FROM json_each('[\"rowid\", \"_rowid_\", \"oid\"]') name \
               WHERE (SELECT wr FROM pragma_table_list WHERE schema = 'main' AND name = ?1) = 0 \
               AND name.value NOT IN (SELECT lower(name) FROM pragma_table_xinfo(?1, 'main')) LIMIT 1";
    let row = query(sql.to_owned()).bind(target.table.clone()).fetch_optional(conn).await?;
    Ok(row.map(|row| row.try_get(0)).transpose()?)
}

/// In pieces of 1 MiB, as rows of one statement: SQLite reads the value once.
pub(super) async fn fingerprint(
    conn: &mut SqliteConnection,
    target: &Target,
    key: &RowKey,
    column: usize,
) -> Result<Option<[u8; 32]>, StoreError> {
    const PIECE: usize = 1 << 20;
    let cell = format!("t.{}", quote(&target.columns[column].name));
    let (table, row_key) = (table_as_t(target), key_of(target));
    let sql = format!(
        "WITH RECURSIVE whole(length) AS (SELECT octet_length({cell}) FROM {table} WHERE {row_key} = ?1), \
         piece(at) AS (SELECT 1 UNION ALL SELECT at + {PIECE} FROM piece, whole WHERE at + {PIECE} <= length) \
         SELECT substr(CAST({cell} AS blob), at, {PIECE}) FROM {table} CROSS JOIN piece \
         WHERE {row_key} = ?1 AND {cell} IS NOT NULL"
    );
    let mut pieces = bind_key(query(sql), key).fetch(conn);
    let mut hash = None;
    while let Some(row) = pieces.try_next().await? {
        // A piece of nothing is NULL.
        let piece = row.try_get::<Option<&[u8]>, _>(0)?.unwrap_or_default();
        hash.get_or_insert_with(Sha256::new).update(piece);
    }
    Ok(hash.map(|hash| hash.finalize().into()))
}

/// Which rows make up a page, and in which order.
pub(super) struct Select<'a> {
    pub(super) target: &'a Target,
    pub(super) source: String,
    pub(super) filter: String,
    /// The table's own order, by this name; else the key's.
    pub(super) rowid: Option<String>,
}

impl<'a> Select<'a> {
    /// From the table's first row, in the key's order.
    pub(super) fn all(target: &'a Target) -> Self {
        let source = Through::Any.source(target);
        Self { target, source, filter: String::new(), rowid: None }
    }

    fn order(&self) -> String {
        self.rowid.as_ref().map_or_else(|| key_of(self.target), |rowid| format!("t.{rowid}"))
    }

    /// The statement that [`fetch`] reads.
    ///
    /// The page is cut after `limits.rows` rows, or before the row that brings it above `limits.bytes`, but never
    /// before its first. How many rows that are is found out first, so that no row behind them is looked at again. A
    /// cell that holds nothing has no length, and one above `limits.value` has length 0, so that its bytes are not
    /// read. Bytes stay bytes in `||` and `group_concat`, which never look into text either.
    pub(super) fn sql(&self, limits: PageLimits) -> String {
        let (mut sizes, mut bytes, mut lengths, mut arrays) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (number, column) in self.target.columns.iter().enumerate() {
            let (cell, max) = (format!("t.{}", quote(&column.name)), limits.value);
            let length = format!("octet_length({cell})");
            sizes.push(format!("CASE WHEN {length} <= {max} THEN {length} ELSE 0 END"));
            bytes.push(format!("CASE WHEN {length} <= {max} THEN {cell} ELSE '' END"));
            lengths.push(format!(
                "CASE WHEN {length} BETWEEN 1 AND {max} THEN {length} WHEN {length} > {max} THEN 0 END AS l{number}"
            ));
            arrays.push(format!("json_group_array(l{number})"));
        }
        format!(
            "WITH size(bytes) AS MATERIALIZED (SELECT {sizes} FROM {source} {filter} ORDER BY {order} LIMIT {rows}), \
             cut(rows, found) AS MATERIALIZED (SELECT CASE WHEN sum(bytes) > {max_bytes} THEN \
             max(1, (SELECT count(*) FROM (SELECT sum(bytes) OVER (ROWS UNBOUNDED PRECEDING) AS bytes FROM size) \
             WHERE bytes <= {max_bytes})) ELSE count(*) END, count(*) FROM size), \
             page AS (SELECT {key} AS k, {rowid} AS rowid, {bytes} AS bytes, {lengths} \
             FROM {source} {filter} ORDER BY {order} LIMIT (SELECT rows FROM cut)) \
             SELECT (SELECT rows = found AND found < {rows} FROM cut), {rowids}, json_group_array(k), \
             CAST(group_concat(bytes, '') AS blob), {arrays} FROM page",
            sizes = sizes.join(" + "),
            source = self.source,
            filter = self.filter,
            order = self.order(),
            rowids = if self.rowid.is_some() { "json_group_array(rowid)" } else { "NULL" },
            rowid = if self.rowid.is_some() { self.order() } else { "NULL".to_owned() },
            rows = limits.rows,
            max_bytes = limits.bytes,
            key = key_of(self.target),
            bytes = bytes.join(" || "),
            lengths = lengths.join(", "),
            arrays = arrays.join(", "),
        )
    }
}

/// The page, with its rowids where that is its order.
pub(super) async fn fetch(
    conn: &mut SqliteConnection,
    query: Query,
    target: &Target,
) -> Result<Page, StoreError> {
    let row = query.fetch_one(conn).await?;
    let corrupt = || StoreError::Corrupt { what: "a page's keys and lengths" };
    let keys = match target.key_kind {
        KeyKind::Integer => serde_json::from_str::<Vec<i64>>(row.try_get(2)?)
            .map(|keys| keys.into_iter().map(RowKey::Integer).collect()),
        KeyKind::Text | KeyKind::Uuid => serde_json::from_str::<Vec<String>>(row.try_get(2)?)
            .map(|keys| keys.into_iter().map(RowKey::Text).collect()),
    };
    let keys: Vec<RowKey> = keys.map_err(|_| corrupt())?;
    let rowids = row.try_get::<Option<&str>, _>(1)?.map_or(Ok(Vec::new()), serde_json::from_str);
    let rowids: Vec<i64> = rowids.map_err(|_| corrupt())?;
    let mut lengths = Vec::new();
    for column in 0..target.columns.len() {
        let column: Vec<Option<usize>> =
            serde_json::from_str(row.try_get(4 + column)?).map_err(|_| corrupt())?;
        lengths.push(column);
    }
    let mut bytes = row.try_get::<Option<&[u8]>, _>(3)?.unwrap_or_default();
    let mut cells = Cells::new(target.columns.len());
    for number in 0..keys.len() {
        for column in &lengths {
            let cell = match column.get(number).ok_or_else(corrupt)? {
                None => None,
                Some(length) => {
                    let (cell, rest) = bytes.split_at_checked(*length).ok_or_else(corrupt)?;
                    bytes = rest;
                    Some(cell)
                }
            };
            cells.push(cell);
        }
    }
    if !bytes.is_empty() {
        return Err(corrupt());
    }
    Ok(Page { keys, cells, rowids, last: row.try_get(0)? })
}

/// Binds one key with its own type, so that the key's index serves.
pub(super) fn bind_key(query: Query, key: &RowKey) -> Query {
    match key {
        RowKey::Integer(key) => query.bind(*key),
        RowKey::Text(key) => query.bind(key.clone()),
        RowKey::Uuid(key) => query.bind(key.to_string()),
    }
}
