//! The compare-and-swap of a batch, with its fence check and its checkpoint.

use std::collections::BTreeMap;

use futures_util::TryStreamExt;
use sqlx::{Row, SqliteConnection};

use super::{
    control, key_of,
    pack::{self, Packed},
    quote,
    table::rowid,
    table_as_t,
};
use crate::{
    envelope::Encoding,
    store::{
        Batch, Cells, Checkpoint, Committed, KeyKind, Lease, RowKey, StoreError, Tally, Target, Unsettled,
    },
};

/// Rows of a batch that swap the same columns.
pub(super) struct Swap {
    columns: Vec<usize>,
    rows: Vec<usize>,
    packed: Packed,
}

/// Sorts a batch's rows by the columns they swap and packs them; done before the transaction holds the file's lock.
pub(super) fn prepare(target: &Target, batch: &Batch<'_>) -> Vec<Swap> {
    let mut rows_of: BTreeMap<Vec<usize>, Vec<usize>> = BTreeMap::new();
    for row in batch.rows.clone() {
        let columns: Vec<usize> =
            (0..target.columns.len()).filter(|&column| batch.new.at(row, column).is_some()).collect();
        if !columns.is_empty() {
            rows_of.entry(columns).or_default().push(row);
        }
    }
    let swap = |(columns, rows): (Vec<usize>, Vec<usize>)| {
        let packed = pack(batch, &rows, &columns);
        Swap { columns, rows, packed }
    };
    rows_of.into_iter().map(swap).collect()
}

/// Keys, the old and the new value of each column, and the rowids where the batch has them.
fn pack(batch: &Batch<'_>, rows: &[usize], columns: &[usize]) -> Packed {
    let mut packed = Packed::new();
    for &row in rows {
        let values =
            columns.iter().flat_map(|&column| [batch.old.at(row, column), batch.new.at(row, column)]);
        let rowid = batch.rowids.get(row).map(ToString::to_string);
        let values = values.map(Option::unwrap_or_default).chain(rowid.as_ref().map(String::as_bytes));
        packed.push(&batch.keys[row], values);
    }
    packed
}

/// Everything a batch does, inside the caller's transaction.
///
/// The checkpoint is written first, as if every swap held: it is also the fence check. What did not hold is corrected
/// in the same transaction.
pub(super) async fn commit(
    conn: &mut SqliteConnection,
    target: &Target,
    lease: &Lease,
    batch: &Batch<'_>,
    swaps: Vec<Swap>,
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
    let unsettled = swap_all(conn, target, batch, swaps, &mut correction).await?;
    correction.count_for(lease.sweep);
    if correction != Tally::default() {
        let checkpoint = Checkpoint { cursor: None, done: false, tally: correction };
        control::checkpoint(conn, &lease.moved_to(batch.checkpoint.cursor), &checkpoint).await?;
    }
    Ok(Committed::Done { unsettled, correction })
}

/// Swaps cells; gives those that are not ours any more.
///
/// First whole rows, those where every column still holds what was opened: the number of rows changed then tells
/// whether all did. Where some did not, each column on its own, which leaves the rows that were swapped alone.
async fn swap_all(
    conn: &mut SqliteConnection,
    target: &Target,
    batch: &Batch<'_>,
    swaps: Vec<Swap>,
    correction: &mut Tally,
) -> Result<Vec<Unsettled>, StoreError> {
    let mut unsettled = Vec::new();
    let rowid = if batch.rowids.is_empty() { None } else { rowid(conn, target).await? };
    let rowid = rowid.as_deref();
    for Swap { columns, rows, packed } in swaps {
        let swapped = packed.query(sql(target, &columns, rowid)).execute(&mut *conn).await?.rows_affected();
        let all = u64::try_from(rows.len()) == Ok(swapped);
        if !all && columns.len() > 1 {
            for column in &columns {
                let column = std::slice::from_ref(column);
                pack(batch, &rows, column).query(sql(target, column, rowid)).execute(&mut *conn).await?;
            }
        }
        if !all || target.has_triggers {
            examine(conn, target, batch, &rows, (&columns, rowid), correction, &mut unsettled).await?;
        }
    }
    Ok(unsettled)
}

/// One statement for many rows. Values compare as bytes, whatever the column's collation takes for equal, and keep the
/// storage class that they have. Neither they nor the key can be NULL here.
pub(super) fn sql(target: &Target, columns: &[usize], rowid: Option<&str>) -> String {
    let (mut sets, mut matches) = (Vec::new(), Vec::new());
    for &column in columns {
        let name = quote(&target.columns[column].name);
        let new = match target.columns[column].encoding {
            Encoding::Bytes => format!("v.n{column}"),
            Encoding::Base64 => {
                format!(
                    "CASE typeof(t.{name}) WHEN 'text' THEN CAST(v.n{column} AS text) ELSE v.n{column} END"
                )
            }
        };
        sets.push(format!("{name} = {new}"));
        matches.push(format!("CAST(t.{name} AS blob) = v.o{column}"));
    }
    format!(
        "{with}UPDATE {table} SET {sets} FROM v WHERE {same_row} AND {matches}",
        with = pack::with(target.key_kind, &names(columns, rowid)),
        table = table_as_t(target),
        sets = sets.join(", "),
        same_row = same_row(target, rowid),
        matches = matches.join(" AND "),
    )
}

/// What [`pack`] packs, for [`pack::with`].
fn names(columns: &[usize], rowid: Option<&str>) -> Vec<String> {
    let values = columns.iter().flat_map(|column| [format!("o{column}"), format!("n{column}")]);
    values.chain(rowid.map(|_| "r".to_owned())).collect()
}

/// Finds the row by its rowid where there is one (a table that was vacuumed since may have another row there), else by
/// its key's index, which may have a case-insensitive collation, and then compares the key exactly: a v3 value opens
/// under no other spelling of its row's key.
fn same_row(target: &Target, rowid: Option<&str>) -> String {
    let key = key_of(target);
    if let Some(rowid) = rowid {
        // The sign keeps the key's index out of it.
        return format!("t.{rowid} = CAST(v.r AS integer) AND +{key} = v.k COLLATE binary");
    }
    match target.key_kind {
        KeyKind::Integer => format!("{key} = v.k"),
        KeyKind::Text | KeyKind::Uuid => format!("{key} = v.k AND {key} = v.k COLLATE binary"),
    }
}

/// Asks, in the same transaction, for the rows with a cell that is not ours, and tells what became of each such cell:
/// gone with its row; changed by somebody else; or, by a trigger's doing, what it was before.
async fn examine(
    conn: &mut SqliteConnection,
    target: &Target,
    batch: &Batch<'_>,
    rows: &[usize],
    (columns, rowid): (&[usize], Option<&str>),
    correction: &mut Tally,
    unsettled: &mut Vec<Unsettled>,
) -> Result<(), StoreError> {
    let cells: Vec<String> = columns
        .iter()
        .map(|&column| format!("CAST(t.{} AS blob)", quote(&target.columns[column].name)))
        .collect();
    let readable = batch.readable(rows);
    let shown = cells.iter().map(|cell| {
        format!("CASE WHEN length({cell}) BETWEEN 1 AND {readable} THEN {cell} WHEN length({cell}) > 0 THEN x'' END")
    });
    let shown = shown.collect::<Vec<_>>().join(", ");
    let differs: Vec<String> =
        cells.iter().zip(columns).map(|(cell, column)| format!("{cell} IS NOT v.n{column}")).collect();
    let key = key_of(target);
    let sql = format!(
        "{with}SELECT v.i, {key} IS NULL, {shown} FROM v LEFT JOIN {table} ON {same_row} \
         WHERE {key} IS NULL OR {differs}",
        with = pack::with(target.key_kind, &names(columns, rowid)),
        table = table_as_t(target),
        same_row = same_row(target, rowid),
        differs = differs.join(" OR "),
    );
    let mut answer = pack(batch, rows, columns).query(sql).fetch(conn);
    while let Some(found) = answer.try_next().await? {
        let row = usize::try_from(found.try_get::<i64, _>(0)?).ok().and_then(|row| rows.get(row));
        let &row = row.ok_or(StoreError::Corrupt { what: "the number of a row" })?;
        if found.try_get(1)? {
            correction.vanish(columns.len());
            continue;
        }
        for (position, &column) in (2..).zip(columns) {
            let now: Option<&[u8]> = found.try_get(position)?;
            if now == batch.new.at(row, column) {
                continue;
            }
            if now == batch.old.at(row, column) {
                let (row, column) = (batch.keys[row].to_string(), target.columns[column].name.clone());
                return Err(StoreError::Undone { row, column });
            }
            correction.rekeyed -= 1;
            correction.total -= 1;
            correction.conflicts += 1;
            correction.deferred += 1;
            let now = now.map(<[u8]>::to_vec);
            unsettled.push(Unsettled { row, column, now });
        }
    }
    Ok(())
}

pub(super) async fn settle_quarantined(
    conn: &mut SqliteConnection,
    target: &Target,
    key: &RowKey,
    column: usize,
    sha256: &[u8; 32],
    swap: Option<(&[u8], &[u8])>,
) -> Result<bool, StoreError> {
    if let Some((old, new)) = swap {
        let (mut before, mut after) = (Cells::new(target.columns.len()), Cells::new(target.columns.len()));
        for position in 0..target.columns.len() {
            before.push((position == column).then_some(old));
            after.push((position == column).then_some(new));
        }
        let batch = Batch {
            keys: std::slice::from_ref(key),
            rowids: &[],
            // What it holds now is not asked for.
            max_value: 0,
            old: &before,
            new: &after,
            rows: 0..1,
            quarantined: &[],
            checkpoint: Checkpoint { cursor: None, done: false, tally: Tally::default() },
        };
        let mut correction = Tally::default();
        let swaps = prepare(target, &batch);
        let unsettled = swap_all(conn, target, &batch, swaps, &mut correction).await?;
        if !unsettled.is_empty() || correction.vanished > 0 {
            return Ok(false);
        }
    }
    let column = &target.columns[column].name;
    control::remove_from_quarantine(conn, &target.name, &key.to_string(), column, sha256).await
}
