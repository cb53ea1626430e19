//! The compare-and-swap of a batch, with its fence check and its checkpoint.

use std::collections::HashMap;

use futures_util::TryStreamExt;
use sqlx::{PgConnection, Row, postgres::PgRow};

use super::{
    control, query, quote,
    table::{bind_keys, key_from, select_list, table_name},
};
use crate::{
    envelope::Encoding,
    store::{
        Batch, Cells, Checkpoint, Committed, KeyKind, Lease, PageLimits, RowKey, StoreError, Tally, Target,
        Unsettled,
    },
};

/// Everything a batch does, inside the caller's transaction.
///
/// The checkpoint is written first, as if every swap held: it is also the fence check, and locks the shard's row
/// against whoever takes it over. What did not hold is corrected in the same transaction.
pub(super) async fn commit(
    conn: &mut PgConnection,
    target: &Target,
    lease: &Lease,
    batch: Batch<'_>,
) -> Result<Committed, StoreError> {
    if !control::checkpoint(conn, lease, &batch.checkpoint).await? {
        return Ok(Committed::Fenced);
    }
    let mut correction = Tally::default();
    for cell in batch.quarantined {
        if !control::put_in_quarantine(conn, &target.name, lease, cell).await? {
            correction.quarantined -= 1;
            correction.total -= 1;
        }
    }
    let unsettled = swap(conn, target, &batch, &mut correction).await?;
    correction.count_for(lease.sweep);
    if correction != Tally::default() {
        let checkpoint = Checkpoint { cursor: None, done: false, tally: correction };
        control::checkpoint(conn, &lease.moved_to(batch.checkpoint.cursor), &checkpoint).await?;
    }
    Ok(Committed::Done { unsettled, correction })
}

/// Swaps the batch's cells; gives those that are not ours any more.
///
/// A cell that keeps its old value is swapped a second time before the table is blamed for it: a row that somebody
/// deletes and inserts again under our update is passed over by it, and holds just what it held before. Since the row
/// is locked by then, the second update has nobody to lose against.
async fn swap(
    conn: &mut PgConnection,
    target: &Target,
    batch: &Batch<'_>,
    correction: &mut Tally,
) -> Result<Vec<Unsettled>, StoreError> {
    let rows: Vec<usize> =
        batch.rows.clone().filter(|&row| batch.new.row(row).any(|cell| cell.is_some())).collect();
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    if update(conn, target, batch, &rows).await? == Swapped::All && !target.has_triggers {
        return Ok(Vec::new());
    }
    let mut unsettled = Vec::new();
    let kept = examine(conn, target, batch, &rows, correction, &mut unsettled).await?;
    if kept.is_empty() {
        return Ok(unsettled);
    }
    let rows: Vec<usize> = kept.iter().map(|&(row, _)| row).collect();
    update(conn, target, batch, &rows).await?;
    match examine(conn, target, batch, &rows, correction, &mut unsettled).await?.first() {
        None => Ok(unsettled),
        Some(&(row, column)) => {
            let (row, column) = (batch.keys[row].to_string(), target.columns[column].name.clone());
            Err(StoreError::Undone { row, column })
        }
    }
}

/// Whether an update swapped every cell that it was to swap.
#[derive(PartialEq, Eq)]
enum Swapped {
    All,
    NotAll,
}

async fn update(
    conn: &mut PgConnection,
    target: &Target,
    batch: &Batch<'_>,
    rows: &[usize],
) -> Result<Swapped, StoreError> {
    let expected: usize = rows.iter().map(|&row| batch.new.row(row).flatten().count()).sum();
    let mut update = query(swap_sql(target));
    update = bind_keys(update, target.key_kind, rows.iter().map(|&row| &batch.keys[row]));
    for (column, definition) in target.columns.iter().enumerate() {
        let new = || rows.iter().map(|&row| batch.new.at(row, column));
        let old = rows.iter().zip(new()).map(|(&row, new)| new.and(batch.old.at(row, column)));
        update = bind_cells(update, definition.encoding, old)?;
        update = bind_cells(update, definition.encoding, new())?;
    }
    let swapped: i64 = update.fetch_one(&mut *conn).await?.try_get(0)?;
    Ok(if usize::try_from(swapped) == Ok(expected) { Swapped::All } else { Swapped::NotAll })
}

/// One statement for the whole batch. Each column is swapped on its own, and only where it still equals the bytes
/// that were opened; a NULL on either side never matches, and leaves the column as it is. Text is compared byte for
/// byte, whatever the column's collation takes for equal.
fn swap_sql(target: &Target) -> String {
    let (mut types, mut names, mut sets, mut matches, mut counts) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (number, column) in target.columns.iter().enumerate() {
        let (name, collate, array) = match column.encoding {
            Encoding::Bytes => (quote(&column.name), "", "bytea[]"),
            Encoding::Base64 => (quote(&column.name), " COLLATE \"C\"", "text[]"),
        };
        let parameter = 2 * number + 2;
        types.push(format!("${parameter}::{array}, ${}::{array}", parameter + 1));
        names.push(format!("o{number}, n{number}"));
        sets.push(format!(
            "{name} = CASE WHEN t.{name}{collate} = v.o{number} THEN v.n{number} ELSE t.{name} END"
        ));
        matches.push(format!("t.{name}{collate} = v.o{number}"));
        counts.push(format!("(CASE WHEN t.{name}{collate} = v.n{number} THEN 1 ELSE 0 END)"));
    }
    let key_array = match target.key_kind {
        KeyKind::Uuid => "uuid[]",
        KeyKind::Integer => "bigint[]",
        KeyKind::Text => "text[]",
    };
    // The index may have a case-insensitive collation: a v3 value opens under no other spelling of its row's key.
    let same_key = match target.key_kind {
        KeyKind::Text => format!(" AND t.{} = v.k COLLATE \"C\"", quote(&target.key_column)),
        KeyKind::Uuid | KeyKind::Integer => String::new(),
    };
    format!(
        "WITH swapped AS (UPDATE {table} t SET {sets} \
         FROM unnest($1::{key_array}, {types}) AS v(k, {names}) WHERE t.{key} = v.k{same_key} AND ({matches}) \
         RETURNING {counts} AS ours) SELECT coalesce(sum(ours), 0)::bigint FROM swapped",
        table = table_name(target),
        sets = sets.join(", "),
        types = types.join(", "),
        names = names.join(", "),
        key = quote(&target.key_column),
        matches = matches.join(" OR "),
        counts = counts.join(" + "),
    )
}

fn bind_cells<'a>(
    update: sqlx::query::Query<'static, sqlx::Postgres, sqlx::postgres::PgArguments>,
    encoding: Encoding,
    cells: impl Iterator<Item = Option<&'a [u8]>>,
) -> Result<sqlx::query::Query<'static, sqlx::Postgres, sqlx::postgres::PgArguments>, StoreError> {
    Ok(match encoding {
        Encoding::Bytes => update.bind(cells.collect::<Vec<_>>()),
        Encoding::Base64 => {
            update.bind(cells.map(|cell| cell.map(as_text).transpose()).collect::<Result<Vec<_>, _>>()?)
        }
    })
}

fn as_text(cell: &[u8]) -> Result<&str, StoreError> {
    std::str::from_utf8(cell).map_err(|_| StoreError::Corrupt { what: "a text column" })
}

/// Reads the rows again, in the same transaction, locks them, and tells what became of each cell: ours; gone with its
/// row; or changed by somebody else. Gives, of the rows where a cell is still what it was before, that cell; nothing
/// else is said of them.
async fn examine(
    conn: &mut PgConnection,
    target: &Target,
    batch: &Batch<'_>,
    rows: &[usize],
    correction: &mut Tally,
    unsettled: &mut Vec<Unsettled>,
) -> Result<Vec<(usize, usize)>, StoreError> {
    let mut missing: HashMap<&RowKey, usize> = rows.iter().map(|&row| (&batch.keys[row], row)).collect();
    let limits = PageLimits { rows: rows.len(), bytes: usize::MAX, value: batch.readable(rows) };
    let sql = format!(
        "SELECT {} FROM {} WHERE {} = ANY($1) FOR NO KEY UPDATE",
        select_list(target, limits),
        table_name(target),
        quote(&target.key_column)
    );
    let again = bind_keys(query(sql), target.key_kind, rows.iter().map(|&row| &batch.keys[row]));
    let mut again = again.fetch(&mut *conn);
    let mut kept = Vec::new();
    while let Some(found) = again.try_next().await? {
        let Some(row) = missing.remove(&key_from(&found, target.key_kind)?) else { continue };
        let mut changed = Vec::new();
        let mut kept_cell = None;
        for (column, definition) in target.columns.iter().enumerate() {
            let Some(new) = batch.new.at(row, column) else { continue };
            let now = cell_of(&found, column, definition.encoding)?;
            if now == batch.old.at(row, column) {
                kept_cell.get_or_insert(column);
            } else if now != Some(new) {
                changed.push((column, now.map(<[u8]>::to_vec)));
            }
        }
        if let Some(column) = kept_cell {
            kept.push((row, column));
            continue;
        }
        for (column, now) in changed {
            correction.conflict();
            unsettled.push(Unsettled { row, column, now });
        }
    }
    for row in missing.into_values() {
        correction.vanish(batch.new.row(row).flatten().count());
    }
    Ok(kept)
}

fn cell_of(row: &PgRow, column: usize, encoding: Encoding) -> Result<Option<&[u8]>, StoreError> {
    Ok(match encoding {
        Encoding::Bytes => row.try_get(column + 1)?,
        Encoding::Base64 => row.try_get::<Option<&str>, _>(column + 1)?.map(str::as_bytes),
    })
}

pub(super) async fn settle_quarantined(
    conn: &mut PgConnection,
    target: &Target,
    key: &RowKey,
    column: usize,
    sha256: &[u8; 32],
    swap: Option<(&[u8], &[u8])>,
) -> Result<bool, StoreError> {
    if let Some((old, new)) = swap {
        let (mut keys, mut before, mut after) =
            (Vec::new(), Cells::new(target.columns.len()), Cells::new(target.columns.len()));
        keys.push(key.clone());
        for position in 0..target.columns.len() {
            before.push((position == column).then_some(old));
            after.push((position == column).then_some(new));
        }
        let checkpoint = Checkpoint { cursor: None, done: false, tally: Tally::default() };
        let batch = Batch {
            keys: &keys,
            rowids: &[],
            // What it holds now is not asked for.
            max_value: 0,
            old: &before,
            new: &after,
            rows: 0..1,
            quarantined: &[],
            checkpoint,
        };
        let mut correction = Tally::default();
        let unsettled = self::swap(conn, target, &batch, &mut correction).await?;
        if !unsettled.is_empty() || correction.vanished > 0 {
            return Ok(false);
        }
    }
    let column = &target.columns[column].name;
    control::remove_from_quarantine(conn, &target.name, &key.to_string(), column, sha256).await
}
