//! The side table of values sealed ahead, and their swap.

use async_trait::async_trait;
use sqlx::{Row, SqliteConnection, SqliteTransaction};

use super::{
    Sqlite, control, key_of,
    pack::{self, Packed},
    query, quote,
    table::{Select, bind_key, fetch},
    table_as_t,
};
use crate::{
    envelope::Encoding,
    store::{Cells, KeyKind, Page, PageLimits, RowKey, Staged, StagedSwap, StoreError, Target},
};

#[async_trait]
impl Staged for Sqlite {
    async fn unstaged(
        &self,
        target: &Target,
        after: Option<&RowKey>,
        limits: PageLimits,
    ) -> Result<Page, StoreError> {
        let mut tx = self.begin_read().await?;
        unstaged(&mut tx, target, after, limits).await
    }

    async fn stage(
        &self,
        target: &Target,
        keys: &[RowKey],
        old: &Cells,
        new: &Cells,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin_write().await?;
        stage(&mut tx, target, keys, old, new).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The file's one write lock is the table's.
    async fn begin_swap(&self, target: &Target) -> Result<Box<dyn StagedSwap>, StoreError> {
        Ok(Box::new(Swap { tx: self.begin_write().await?, target: target.clone() }))
    }
}

struct Swap {
    tx: SqliteTransaction<'static>,
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
        stage(tx, target, keys, old, new).await?;
        let mut swapped = 0;
        for column in 0..target.columns.len() {
            swapped += swap(tx, target, column).await?;
            if target.has_triggers {
                refuse_undone(tx, target, column).await?;
            }
        }
        if !control::end_staging(tx, &target.name, swapped).await? {
            return Err(StoreError::Missing { what: format!("open staging of {}", target.name) });
        }
        self.tx.commit().await?;
        Ok(swapped)
    }
}

/// The staged value `s` of this cell, as long as the cell holds what it was sealed from.
fn staged_of(target: &Target, column: usize) -> String {
    format!(
        "s.target = ?1 AND s.row_key = CAST({} AS text) AND s.column_no = {column} AND s.old = CAST(t.{} AS blob)",
        key_of(target),
        quote(&target.columns[column].name)
    )
}

async fn unstaged(
    conn: &mut SqliteConnection,
    target: &Target,
    after: Option<&RowKey>,
    limits: PageLimits,
) -> Result<Page, StoreError> {
    let changed = target.columns.iter().enumerate().map(|(column, definition)| {
        format!(
            "octet_length(t.{}) BETWEEN 1 AND {} AND NOT EXISTS (SELECT 1 FROM reseal_staged s WHERE {})",
            quote(&definition.name),
            limits.value,
            staged_of(target, column)
        )
    });
    let changed = changed.collect::<Vec<_>>().join(" OR ");
    let after_key = if after.is_some() { format!("{} > ?2 AND ", key_of(target)) } else { String::new() };
    let select = Select { filter: format!("WHERE {after_key}({changed})"), ..Select::all(target) };
    let query = query(select.sql(limits)).bind(target.name.clone());
    fetch(conn, after.into_iter().fold(query, bind_key), target).await
}

async fn stage(
    conn: &mut SqliteConnection,
    target: &Target,
    keys: &[RowKey],
    old: &Cells,
    new: &Cells,
) -> Result<(), StoreError> {
    for column in 0..target.columns.len() {
        let mut packed = Packed::new();
        let mut rows = 0;
        for (row, key) in keys.iter().enumerate() {
            let Some(old) = old.at(row, column) else { continue };
            packed.push(key, [old, new.at(row, column).unwrap_or_default()]);
            rows += 1;
        }
        if rows == 0 {
            continue;
        }
        let sql = format!(
            "{}INSERT INTO reseal_staged (target, row_key, column_no, old, new) \
             SELECT ?3, v.k, {column}, v.o, CASE WHEN length(v.n) > 0 THEN v.n END FROM v WHERE true \
             ON CONFLICT (target, row_key, column_no) DO UPDATE SET old = excluded.old, new = excluded.new",
            pack::with(KeyKind::Text, &["o".to_owned(), "n".to_owned()])
        );
        packed.query(sql).bind(target.name.clone()).execute(&mut *conn).await?;
    }
    Ok(())
}

async fn swap(conn: &mut SqliteConnection, target: &Target, column: usize) -> Result<i64, StoreError> {
    let name = quote(&target.columns[column].name);
    let new = match target.columns[column].encoding {
        Encoding::Bytes => "s.new".to_owned(),
        Encoding::Base64 => {
            format!("CASE typeof(t.{name}) WHEN 'text' THEN CAST(s.new AS text) ELSE s.new END")
        }
    };
    let sql = format!(
        "UPDATE {} SET {name} = {new} FROM reseal_staged s WHERE {} AND s.new IS NOT NULL",
        table_as_t(target),
        staged_of(target, column)
    );
    let swapped = query(sql).bind(target.name.clone()).execute(conn).await?.rows_affected();
    Ok(i64::try_from(swapped).unwrap_or(i64::MAX))
}

/// A cell that still holds what it held, and was to be swapped: a trigger of the table's doing.
async fn refuse_undone(
    conn: &mut SqliteConnection,
    target: &Target,
    column: usize,
) -> Result<(), StoreError> {
    let sql = format!(
        "SELECT s.row_key FROM {} CROSS JOIN reseal_staged s WHERE {} AND s.new IS NOT NULL LIMIT 1",
        table_as_t(target),
        staged_of(target, column)
    );
    match query(sql).bind(target.name.clone()).fetch_optional(conn).await? {
        None => Ok(()),
        Some(row) => {
            let column = target.columns[column].name.clone();
            Err(StoreError::Undone { row: row.try_get(0)?, column })
        }
    }
}
