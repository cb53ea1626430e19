//! What a plan looks at beside the target's values.

use async_trait::async_trait;
use sqlx::Row;

use super::{Postgres, begin, query, quote, table};
use crate::{
    envelope::Encoding,
    store::{
        Footprint, Index, OtherColumn, PostgresFootprint, Repeats, StoreError, Survey, Target,
        survey::SHORTEST,
    },
};

/// Rows whose size is measured.
const SIZED_ROWS: usize = 1000;

/// Above about this many bytes Postgres stores a column out of line, and a pointer of 18 bytes in its place
/// (PostgreSQL, TOAST).
const OUT_OF_LINE: i64 = 2000;

#[async_trait]
impl Survey for Postgres {
    async fn other_columns(&self, target: &Target) -> Result<Vec<OtherColumn>, StoreError> {
        let mut tx = self.begin_read().await?;
        let sql = "SELECT n.nspname::text, c.relname::text, a.attname::text \
                   FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid \
                   JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_type t ON t.oid = a.atttypid \
                   WHERE c.relkind IN ('r', 'm') AND a.attnum > 0 AND NOT a.attisdropped \
                   AND ('bytea'::regtype IN (t.oid, t.typbasetype) OR t.typcategory = 'S' AND t.oid <> 'name'::regtype) \
                   AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%' \
                   AND c.relname NOT LIKE 'reseal\\_%' \
                   AND NOT (c.oid = $1::oid AND a.attname = ANY ($2)) ORDER BY 1, 2, a.attnum";
        let own = target.columns.iter().map(|column| column.name.clone()).collect::<Vec<_>>();
        let rows = query(sql.to_owned()).bind(target.oid).bind(own).fetch_all(&mut *tx).await?;
        rows.iter()
            .map(|row| {
                let (schema, table, column) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
                Ok(OtherColumn { schema, table, column })
            })
            .collect()
    }

    async fn sample_column(
        &self,
        column: &OtherColumn,
        count: usize,
        limit: usize,
    ) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut tx = self.begin(begin::SCAN).await?;
        let table = format!("{}.{}", quote(&column.schema), quote(&column.table));
        let sql = "SELECT t.typcategory::text = 'S' FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid \
                   WHERE a.attrelid = to_regclass($1) AND a.attname = $2";
        let kind = query(sql.to_owned()).bind(&table).bind(&column.column).fetch_optional(&mut *tx).await?;
        let Some(kind) = kind else { return Ok(Vec::new()) };
        let name = quote(&column.column);
        let (bytes, fits) = if kind.try_get(0)? {
            // Not every collation takes a regular expression; this one does, and it is the fastest.
            let text = format!("({name}::text COLLATE \"C\")");
            (format!("convert_to({text}, 'UTF8')"), format!("AND {text} ~ '^[A-Za-z0-9+/]+={{0,2}}$'"))
        } else {
            (format!("{name}::bytea"), String::new())
        };
        let percent = table::sample_percent(&mut tx, &table, 20 * count).await?;
        let sql = format!(
            "SELECT {bytes} FROM {table} TABLESAMPLE SYSTEM ({percent}) \
             WHERE octet_length({name}) BETWEEN {SHORTEST} AND {limit} {fits} ORDER BY random() LIMIT {count}"
        );
        let rows = query(sql).fetch_all(&mut *tx).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    async fn repeats(&self, target: &Target, examples: usize) -> Result<Repeats, StoreError> {
        let mut tx = self.begin(begin::SCAN).await?;
        let (table, key) = (table::table_name(target), quote(&target.key_column));
        let cells = target.columns.iter().enumerate().map(|(number, column)| {
            let name = quote(&column.name);
            let bytes = match column.encoding {
                Encoding::Bytes => name.clone(),
                Encoding::Base64 => format!("convert_to({name}, 'UTF8')"),
            };
            format!(
                "SELECT ARRAY[({key})::text COLLATE \"C\", '{number}'] AS cell, sha256({bytes}) AS hash \
                 FROM {table} WHERE octet_length({name}) >= {SHORTEST}"
            )
        });
        let sql = format!(
            "SELECT min(cell), max(cell), count(*) OVER (), (sum(count(*)) OVER ())::bigint \
             FROM ({}) AS cells GROUP BY hash HAVING count(*) > 1 ORDER BY 1 LIMIT {examples}",
            cells.collect::<Vec<_>>().join(" UNION ALL ")
        );
        let mut repeats = Repeats::default();
        for row in query(sql).fetch_all(&mut *tx).await? {
            (repeats.values, repeats.cells) = (row.try_get(2)?, row.try_get(3)?);
            let (one, other): (Vec<String>, Vec<String>) = (row.try_get(0)?, row.try_get(1)?);
            repeats.examples.push([target.cell(&one), target.cell(&other)]);
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
        let [one, other] = columns.map(|column| format!("{}::text COLLATE \"C\"", quote(column)));
        let sql = format!(
            "SELECT DISTINCT {one}, {other} FROM {} WHERE {one} IS NOT NULL AND {other} IS NOT NULL \
             AND ($1 IS NULL OR ({one}, {other}) > ($1, $2)) ORDER BY 1, 2 LIMIT {limit}",
            table::table_name(target)
        );
        let [one, other] = after.map_or([None, None], |after| after.clone().map(Some));
        let rows = query(sql).bind(one).bind(other).fetch_all(&mut *tx).await?;
        rows.iter().map(|row| Ok([row.try_get(0)?, row.try_get(1)?])).collect()
    }

    async fn footprint(&self, target: &Target) -> Result<Footprint, StoreError> {
        let mut tx = self.begin(begin::SCAN).await?;
        let sql = "SELECT pg_relation_size(c.oid) / current_setting('block_size')::bigint, \
                   coalesce((SELECT option_value::bigint FROM pg_options_to_table(c.reloptions) \
                             WHERE option_name = 'fillfactor'), 100), \
                   c.relreplident = 'f' AND current_setting('wal_level') = 'logical', \
                   current_setting('full_page_writes')::bool, \
                   extract(epoch FROM current_setting('checkpoint_timeout')::interval)::float8, \
                   ARRAY(SELECT quote_ident(attname) FROM pg_attribute \
                         WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum) \
                   FROM pg_class c WHERE c.oid = $1::oid";
        let facts = query(sql.to_owned()).bind(target.oid).fetch_one(&mut *tx).await?;
        let stored = facts.try_get::<Vec<String>, _>(5)?.into_iter().map(|name| {
            let size = format!("coalesce(pg_column_size(t.{name}), 0)");
            format!("CASE WHEN {size} > {OUT_OF_LINE} THEN 18 ELSE {size} END")
        });
        let table = table::table_name(target);
        let percent = table::sample_percent(&mut tx, &table, SIZED_ROWS).await?;
        // A header of 23 bytes and the bitmap of NULLs, aligned to 8.
        let sql = format!(
            "SELECT coalesce(avg(32 + {}), 0)::float8 FROM {table} AS t TABLESAMPLE SYSTEM ({percent})",
            stored.collect::<Vec<_>>().join(" + ")
        );
        let row_bytes = query(sql).fetch_one(&mut *tx).await?.try_get(0)?;
        let sql = "SELECT c.relname::text, pg_relation_size(c.oid) / current_setting('block_size')::bigint, \
                   EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = i.indrelid AND a.attname = ANY ($2) \
                           AND (a.attnum = ANY (i.indkey) OR EXISTS \
                           (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid \
                            AND d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid \
                            AND d.refobjsubid = a.attnum))) \
                   FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = $1::oid ORDER BY 1";
        let own = target.columns.iter().map(|column| column.name.clone()).collect::<Vec<_>>();
        let rows = query(sql.to_owned()).bind(target.oid).bind(own).fetch_all(&mut *tx).await?;
        let indexes = rows
            .iter()
            .map(|row| {
                Ok(Index { name: row.try_get(0)?, blocks: row.try_get(1)?, reads_values: row.try_get(2)? })
            })
            .collect::<Result<_, StoreError>>()?;
        Ok(Footprint::Postgres(PostgresFootprint {
            heap_blocks: facts.try_get(0)?,
            row_bytes,
            fillfactor: facts.try_get(1)?,
            indexes,
            logs_old_rows: facts.try_get(2)?,
            full_page_writes: facts.try_get(3)?,
            checkpoint_seconds: facts.try_get(4)?,
        }))
    }
}
