//! The side table of values sealed ahead, and their swap.

use async_trait::async_trait;
use sqlx::{PgConnection, PgTransaction, Row};

use super::{
    Postgres, begin, control, query, quote,
    table::{bind_key, page_from, select_list, table_name},
};
use crate::{
    envelope::Encoding,
    store::{Cells, Page, PageLimits, RowKey, Staged, StagedSwap, StoreError, Target},
};

#[async_trait]
impl Staged for Postgres {
    async fn unstaged(
        &self,
        target: &Target,
        after: Option<&RowKey>,
        limits: PageLimits,
    ) -> Result<Page, StoreError> {
        let mut tx = self.begin_batch().await?;
        let page = unstaged(&mut tx, target, after, limits).await?;
        tx.commit().await?;
        Ok(page)
    }

    async fn stage(
        &self,
        target: &Target,
        keys: &[RowKey],
        old: &Cells,
        new: &Cells,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin_batch().await?;
        stage(&mut tx, target, keys, old, new).await?;
        tx.commit().await?;
        Ok(())
    }

    async fn begin_swap(&self, target: &Target) -> Result<Box<dyn StagedSwap>, StoreError> {
        // Else the planner knows nothing of a table that was filled a moment ago, and the lock is held for the longer.
        let mut tx = self.begin_write().await?;
        query("ANALYZE reseal_staged".to_owned()).execute(&mut *tx).await?;
        tx.commit().await?;
        let mut tx = self.begin(begin::SWAP).await?;
        let lock = format!("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE", table_name(target));
        query(lock).execute(&mut *tx).await?;
        Ok(Box::new(Swap { tx, target: target.clone() }))
    }
}

struct Swap {
    tx: PgTransaction<'static>,
    target: Target,
}

#[async_trait]
impl StagedSwap for Swap {
    async fn changed(&mut self, limits: PageLimits) -> Result<Page, StoreError> {
        unstaged(&mut self.tx, &self.target, None, limits).await
    }

    async fn finish(
        mut self: Box<Self>,
        keys: &[RowKey],
        old: &Cells,
        new: &Cells,
    ) -> Result<i64, StoreError> {
        let (tx, target) = (&mut *self.tx, &self.target);
        if !keys.is_empty() {
            stage(tx, target, keys, old, new).await?;
        }
        let (swapped, kept) = swap(tx, target).await?;
        if kept > 0 || target.has_triggers {
            refuse_undone(tx, target).await?;
        }
        if !control::end_staging(tx, &target.name, swapped).await? {
            return Err(StoreError::Missing { what: format!("open staging of {}", target.name) });
        }
        self.tx.commit().await?;
        Ok(swapped)
    }
}

/// The cell of a column, as the bytes that are staged.
fn bytes_of(target: &Target, column: usize) -> String {
    let name = quote(&target.columns[column].name);
    match target.columns[column].encoding {
        Encoding::Bytes => format!("t.{name}"),
        Encoding::Base64 => format!("convert_to(t.{name}, 'UTF8')"),
    }
}

/// A staged row is the target's by its key's text, byte for byte, as a v3 value would be bound to it.
fn same_row(target: &Target) -> String {
    format!("s.target = $1 AND s.row_key = CAST(t.{} AS text) COLLATE \"C\"", quote(&target.key_column))
}

async fn unstaged(
    conn: &mut PgConnection,
    target: &Target,
    after: Option<&RowKey>,
    limits: PageLimits,
) -> Result<Page, StoreError> {
    let (key, max) = (quote(&target.key_column), limits.value);
    let (mut holds, mut same) = (Vec::new(), Vec::new());
    for (column, definition) in target.columns.iter().enumerate() {
        let length = format!("octet_length(t.{})", quote(&definition.name));
        holds.push(format!("{length} BETWEEN 1 AND {max}"));
        same.push(format!(
            "(({length} BETWEEN 1 AND {max}) IS NOT TRUE OR s.old[{}] = {})",
            column + 1,
            bytes_of(target, column)
        ));
    }
    let sql = format!(
        "SELECT {list} FROM {table} t WHERE ({holds}) AND {after} NOT EXISTS (SELECT 1 FROM reseal_staged s \
         WHERE {same_row} AND {same}) ORDER BY {key} LIMIT {rows}",
        list = select_list(target, limits),
        table = table_name(target),
        holds = holds.join(" OR "),
        after = if after.is_some() { format!("{key} > $2 AND") } else { String::new() },
        same_row = same_row(target),
        same = same.join(" AND "),
        rows = limits.rows,
    );
    let query = after.into_iter().fold(query(sql).bind(target.name.clone()), bind_key);
    page_from(conn, query, target, limits).await
}

async fn stage(
    conn: &mut PgConnection,
    target: &Target,
    keys: &[RowKey],
    old: &Cells,
    new: &Cells,
) -> Result<(), StoreError> {
    let (mut types, mut names, mut olds, mut news) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for column in 0..target.columns.len() {
        types.push(format!("${}::bytea[], ${}::bytea[]", 2 * column + 3, 2 * column + 4));
        names.push(format!("o{column}, n{column}"));
        olds.push(format!("v.o{column}"));
        news.push(format!("v.n{column}"));
    }
    let sql = format!(
        "INSERT INTO reseal_staged (target, row_key, old, new) \
         SELECT $1, v.k, ARRAY[{}]::bytea[], ARRAY[{}]::bytea[] FROM unnest($2::text[], {}) AS v(k, {}) \
         ON CONFLICT (target, row_key) DO UPDATE SET old = excluded.old, new = excluded.new",
        olds.join(", "),
        news.join(", "),
        types.join(", "),
        names.join(", ")
    );
    let keys_text: Vec<String> = keys.iter().map(RowKey::to_string).collect();
    let mut insert = query(sql).bind(target.name.clone()).bind(keys_text);
    for column in 0..target.columns.len() {
        for cells in [old, new] {
            let cells = (0..keys.len()).map(|row| cells.at(row, column).map(<[u8]>::to_vec));
            insert = insert.bind(cells.collect::<Vec<_>>());
        }
    }
    insert.execute(conn).await?;
    Ok(())
}

/// One statement for the whole table; gives how many cells are swapped, and how many were to be and kept their value.
async fn swap(conn: &mut PgConnection, target: &Target) -> Result<(i64, i64), StoreError> {
    let (mut sets, mut matches, mut swapped, mut kept) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (column, definition) in target.columns.iter().enumerate() {
        let (name, cell, at) = (quote(&definition.name), bytes_of(target, column), column + 1);
        let staged = match definition.encoding {
            Encoding::Bytes => format!("s.new[{at}]"),
            Encoding::Base64 => format!("convert_from(s.new[{at}], 'UTF8')"),
        };
        let fits = format!("{cell} = s.old[{at}] AND s.new[{at}] IS NOT NULL");
        sets.push(format!("{name} = CASE WHEN {fits} THEN {staged} ELSE t.{name} END"));
        swapped.push(format!("(CASE WHEN {cell} = s.new[{at}] THEN 1 ELSE 0 END)"));
        kept.push(format!("(CASE WHEN {fits} THEN 1 ELSE 0 END)"));
        matches.push(format!("({fits})"));
    }
    let sql = format!(
        "WITH swapped AS (UPDATE {} t SET {} FROM reseal_staged s WHERE {} AND ({}) \
         RETURNING {} AS swapped, {} AS kept) \
         SELECT coalesce(sum(swapped), 0)::bigint, coalesce(sum(kept), 0)::bigint FROM swapped",
        table_name(target),
        sets.join(", "),
        same_row(target),
        matches.join(" OR "),
        swapped.join(" + "),
        kept.join(" + "),
    );
    let row = query(sql).bind(target.name.clone()).fetch_one(conn).await?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}

/// A cell that still holds what it held, and was to be swapped: a trigger of the table's doing.
async fn refuse_undone(conn: &mut PgConnection, target: &Target) -> Result<(), StoreError> {
    for (column, definition) in target.columns.iter().enumerate() {
        let (cell, at) = (bytes_of(target, column), column + 1);
        let sql = format!(
            "SELECT s.row_key FROM {} t JOIN reseal_staged s ON {} \
             WHERE {cell} = s.old[{at}] AND s.new[{at}] IS NOT NULL LIMIT 1",
            table_name(target),
            same_row(target)
        );
        if let Some(row) = query(sql).bind(target.name.clone()).fetch_optional(&mut *conn).await? {
            return Err(StoreError::Undone { row: row.try_get(0)?, column: definition.name.clone() });
        }
    }
    Ok(())
}
