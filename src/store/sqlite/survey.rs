//! What a plan looks at beside the target's values.

use async_trait::async_trait;
use sqlx::{Connection, Row};

use super::{BEGIN_READ, Sqlite, key_of, query, quote, table_as_t};
use crate::store::{Footprint, OtherColumn, Repeats, StoreError, Survey, Target, survey::SHORTEST};

#[async_trait]
impl Survey for Sqlite {
    /// Every column, whatever its declared type: SQLite stores bytes and text in any.
    async fn other_columns(&self, target: &Target) -> Result<Vec<OtherColumn>, StoreError> {
        let mut tx = self.begin_read().await?;
        let sql = "SELECT list.name, part.name FROM pragma_table_list list, pragma_table_xinfo(list.name, 'main') part \
                   WHERE list.schema = 'main' AND list.type = 'table' AND list.name NOT LIKE 'sqlite\\_%' ESCAPE '\\' \
                   AND list.name NOT LIKE 'reseal\\_%' ESCAPE '\\' ORDER BY list.name, part.cid";
        let rows = query(sql.to_owned()).fetch_all(&mut *tx).await?;
        let mut columns = Vec::new();
        for row in &rows {
            let (table, column): (String, String) = (row.try_get(0)?, row.try_get(1)?);
            if table != target.table || target.column(&column).is_none() {
                columns.push(OtherColumn { schema: "main".to_owned(), table, column });
            }
        }
        Ok(columns)
    }

    async fn sample_column(
        &self,
        column: &OtherColumn,
        count: usize,
        limit: usize,
    ) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut tx = self.begin_read().await?;
        let (table, name) = (quote(&column.table), quote(&column.column));
        let sql = format!(
            "SELECT CAST(t.{name} AS blob) FROM \"main\".{table} AS t \
             WHERE octet_length(t.{name}) BETWEEN {SHORTEST} AND {limit} AND (typeof(t.{name}) = 'blob' \
             OR typeof(t.{name}) = 'text' AND t.{name} NOT GLOB '*[^A-Za-z0-9+/=]*') ORDER BY random() LIMIT {count}"
        );
        let rows = query(sql).fetch_all(&mut *tx).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    async fn repeats(&self, target: &Target, examples: usize) -> Result<Repeats, StoreError> {
        let mut conn = self.readers.acquire().await.map_err(StoreError::from)?;
        // What is sorted here is as large as the table: this connection may go to the disk with it, now and later.
        query("PRAGMA temp_store = FILE".to_owned()).execute(&mut *conn).await?;
        let mut tx = conn.begin_with(BEGIN_READ).await?;
        let (key, table) = (key_of(target), table_as_t(target));
        let cells = target.columns.iter().enumerate().map(|(number, column)| {
            let cell = format!("t.{}", quote(&column.name));
            format!(
                "SELECT json_array(CAST({key} AS text), '{number}') AS cell, CAST({cell} AS blob) AS bytes \
                 FROM {table} WHERE octet_length({cell}) >= {SHORTEST}"
            )
        });
        let sql = format!(
            "SELECT min(cell), max(cell), count(*) OVER (), sum(count(*)) OVER () FROM ({}) \
             GROUP BY bytes HAVING count(*) > 1 ORDER BY 1 LIMIT {examples}",
            cells.collect::<Vec<_>>().join(" UNION ALL ")
        );
        let mut repeats = Repeats::default();
        let named = |json: &str| {
            let parts: Vec<String> = serde_json::from_str(json).unwrap_or_default();
            target.cell(&parts)
        };
        for row in query(sql).fetch_all(&mut *tx).await? {
            (repeats.values, repeats.cells) = (row.try_get(2)?, row.try_get(3)?);
            repeats.examples.push([named(row.try_get(0)?), named(row.try_get(1)?)]);
        }
        Ok(repeats)
    }

    async fn pairs(
        &self,
        target: &Target,
        columns: [&str; 2],
        after: Option<&[String; 2]>,
        limit: u32,
    ) -> Result<Vec<[String; 2]>, StoreError> {
        let mut tx = self.begin_read().await?;
        let [one, other] = columns.map(|column| format!("CAST(t.{} AS text) COLLATE BINARY", quote(column)));
        let sql = format!(
            "SELECT DISTINCT {one}, {other} FROM {} WHERE {one} IS NOT NULL AND {other} IS NOT NULL \
             AND (?1 IS NULL OR ({one}, {other}) > (?1, ?2)) ORDER BY 1, 2 LIMIT {limit}",
            table_as_t(target)
        );
        let [one, other] = after.map_or([None, None], |after| after.clone().map(Some));
        let rows = query(sql).bind(one).bind(other).fetch_all(&mut *tx).await?;
        rows.iter().map(|row| Ok([row.try_get(0)?, row.try_get(1)?])).collect()
    }

    async fn footprint(&self, _: &Target) -> Result<Footprint, StoreError> {
        let mut tx = self.begin_read().await?;
        let row = query("PRAGMA main.page_size".to_owned()).fetch_one(&mut *tx).await?;
        Ok(Footprint::Sqlite { page_bytes: row.try_get(0)? })
    }
}
