//! The target's rows as tenants.

use std::collections::HashMap;

use async_trait::async_trait;
use sqlx::{PgConnection, Row, postgres::PgRow};

use super::{
    Postgres, query, quote,
    table::{bind_key, key_from, table_name},
};
use crate::{
    envelope::Encoding,
    store::{Column, KeyKind, RowKey, StoreError, Target, TenantChange, TenantColumns, TenantRow, Tenants},
};

type Query = sqlx::query::Query<'static, sqlx::Postgres, sqlx::postgres::PgArguments>;

#[async_trait]
impl Tenants for Postgres {
    async fn missing_columns(
        &self,
        target: &Target,
        columns: &TenantColumns,
    ) -> Result<Vec<String>, StoreError> {
        let mut tx = self.begin_read().await?;
        let layout = Layout::look(&mut tx, target, columns).await?;
        let missing = columns.names().into_iter().filter(|name| !layout.types.contains_key(*name));
        Ok(missing.map(str::to_owned).collect())
    }

    async fn tenants(
        &self,
        target: &Target,
        columns: &TenantColumns,
        after: Option<&RowKey>,
        limit: u32,
    ) -> Result<Vec<TenantRow>, StoreError> {
        let mut tx = self.begin_read().await?;
        let layout = Layout::look(&mut tx, target, columns).await?;
        let key = quote(&target.key_column);
        let filter = after.map_or_else(String::new, |_| format!("WHERE t.{key} > $1"));
        let sql = format!("{} {filter} ORDER BY t.{key} LIMIT {limit}", layout.select());
        let rows = after.into_iter().fold(query(sql), bind_key).fetch_all(&mut *tx).await?;
        rows.iter().map(|row| layout.tenant_from(row)).collect()
    }

    async fn tenant(
        &self,
        target: &Target,
        columns: &TenantColumns,
        key: &RowKey,
    ) -> Result<Option<TenantRow>, StoreError> {
        let mut tx = self.begin_read().await?;
        let layout = Layout::look(&mut tx, target, columns).await?;
        let sql = format!("{} WHERE {}", layout.select(), same_key(target));
        let row = bind_key(query(sql), key).fetch_optional(&mut *tx).await?;
        row.as_ref().map(|row| layout.tenant_from(row)).transpose()
    }

    async fn swap_tenant(
        &self,
        target: &Target,
        columns: &TenantColumns,
        old: &TenantRow,
        change: &TenantChange<'_>,
    ) -> Result<bool, StoreError> {
        let mut tx = self.begin_write().await?;
        let layout = Layout::look(&mut tx, target, columns).await?;
        if !layout.lock(&mut tx, old).await? {
            return Ok(false);
        }
        let writes = layout.writes(change);
        layout.update(&mut tx, &old.key, &writes).await?;
        if let Some(column) = layout.differs(&mut tx, &old.key, &writes).await? {
            return Err(StoreError::Undone { row: old.key.to_string(), column });
        }
        tx.commit().await?;
        Ok(true)
    }
}

/// The target's columns, and the types of those that say where a tenant runs, as far as it has them.
struct Layout<'a> {
    target: &'a Target,
    columns: &'a TenantColumns,
    types: HashMap<String, String>,
}

/// What a column is to hold.
struct Write<'a> {
    column: &'a str,
    encoding: Encoding,
    /// From the parameter to the column's type.
    cast: String,
    new: &'a [u8],
}

impl Write<'_> {
    fn value(&self, parameter: usize) -> String {
        format!("${parameter}{}", self.cast)
    }

    fn bind(&self, query: Query) -> Result<Query, StoreError> {
        Ok(match self.encoding {
            Encoding::Bytes => query.bind(self.new.to_vec()),
            Encoding::Base64 => query.bind(as_text(self.new)?.to_owned()),
        })
    }
}

impl<'a> Layout<'a> {
    async fn look(
        conn: &mut PgConnection,
        target: &'a Target,
        columns: &'a TenantColumns,
    ) -> Result<Self, StoreError> {
        // Without the modifier: a cast to a type with a length would cut off what an assignment refuses.
        let sql = "SELECT attname::text, format_type(atttypid, -1) FROM pg_attribute \
                   WHERE attrelid = to_regclass($1) AND attname = ANY ($2) AND attnum > 0 AND NOT attisdropped";
        let rows =
            query(sql.to_owned()).bind(table_name(target)).bind(columns.names()).fetch_all(conn).await?;
        let types = rows
            .iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
            .collect::<Result<_, StoreError>>()?;
        Ok(Self { target, columns, types })
    }

    /// The statement whose rows [`tenant_from`](Self::tenant_from) reads.
    fn select(&self) -> String {
        let key = quote(&self.target.key_column);
        let key = match self.target.key_kind {
            KeyKind::Integer => format!("CAST(t.{key} AS bigint)"),
            KeyKind::Uuid | KeyKind::Text => format!("t.{key}"),
        };
        let [app, machine, region, project, branch] = self.columns.places().map(|name| self.place(name));
        let status = self.place(&self.columns.status);
        let rank = self.columns.order.as_ref().map_or_else(nothing, |name| self.place(name));
        let list = [vec![key, app, machine, region, project, branch, status, rank], self.cells()].concat();
        format!("SELECT {} FROM {} t", list.join(", "), table_name(self.target))
    }

    fn tenant_from(&self, row: &PgRow) -> Result<TenantRow, StoreError> {
        let cell = |(position, column): (usize, &Column)| {
            Ok(match column.encoding {
                Encoding::Bytes => row.try_get(position)?,
                Encoding::Base64 => row.try_get::<Option<String>, _>(position)?.map(String::into_bytes),
            })
        };
        Ok(TenantRow {
            key: key_from(row, self.target.key_kind)?,
            app: row.try_get(1)?,
            machine: row.try_get(2)?,
            region: row.try_get(3)?,
            project: row.try_get(4)?,
            branch: row.try_get(5)?,
            status: row.try_get(6)?,
            rank: row.try_get(7)?,
            cells: (8..).zip(&self.target.columns).map(cell).collect::<Result<_, StoreError>>()?,
        })
    }

    /// What the row holds in this column, as text.
    fn place(&self, name: &str) -> String {
        if self.types.contains_key(name) {
            held(&format!("t.{}", quote(name)), Encoding::Base64)
        } else {
            nothing()
        }
    }

    fn cells(&self) -> Vec<String> {
        let cell = |column: &Column| held(&format!("t.{}", quote(&column.name)), column.encoding);
        self.target.columns.iter().map(cell).collect()
    }

    /// Locks the row if it is still as it was: an update that comes to nothing after this is a trigger's doing.
    async fn lock(&self, conn: &mut PgConnection, old: &TenantRow) -> Result<bool, StoreError> {
        let held = self.columns.places().map(|name| self.place(name)).into_iter().chain(self.cells());
        let same =
            (2..).zip(held).map(|(parameter, held)| format!("{held} IS NOT DISTINCT FROM ${parameter}"));
        let sql = format!(
            "SELECT {} FROM {} t WHERE {} FOR NO KEY UPDATE",
            same.collect::<Vec<_>>().join(" AND "),
            table_name(self.target),
            same_key(self.target)
        );
        let mut same = bind_key(query(sql), &old.key);
        for place in old.places() {
            same = same.bind(place);
        }
        for (column, cell) in self.target.columns.iter().zip(&old.cells) {
            same = match column.encoding {
                Encoding::Bytes => same.bind(cell.clone()),
                Encoding::Base64 => same.bind(cell.as_deref().map(as_text).transpose()?.map(str::to_owned)),
            };
        }
        let row = same.fetch_optional(conn).await?;
        Ok(row.map(|row| row.try_get(0)).transpose()?.unwrap_or(false))
    }

    fn writes<'b>(&'b self, change: &'b TenantChange<'_>) -> Vec<Write<'b>> {
        let place = |(column, new): (&'b str, &'b str)| {
            let cast = self.types.get(column).map_or_else(String::new, |kind| format!("::{kind}"));
            Write { column, encoding: Encoding::Base64, cast, new: new.as_bytes() }
        };
        let cells = self.target.columns.iter().zip(change.cells).filter(|(_, new)| !new.is_empty());
        let cell = |(column, new): (&'b Column, &'b Vec<u8>)| Write {
            column: &column.name,
            encoding: column.encoding,
            cast: String::new(),
            new,
        };
        self.columns.written().into_iter().zip(change.places()).map(place).chain(cells.map(cell)).collect()
    }

    async fn update(
        &self,
        conn: &mut PgConnection,
        key: &RowKey,
        writes: &[Write<'_>],
    ) -> Result<(), StoreError> {
        let mut sets: Vec<String> = (2..)
            .zip(writes)
            .map(|(parameter, write)| format!("{} = {}", quote(write.column), write.value(parameter)))
            .collect();
        let updated_at = &self.columns.updated_at;
        sets.extend(
            self.types
                .get(updated_at)
                .and_then(|kind| now(kind))
                .map(|now| format!("{} = {now}", quote(updated_at))),
        );
        let sql = format!(
            "UPDATE {} t SET {} WHERE {}",
            table_name(self.target),
            sets.join(", "),
            same_key(self.target)
        );
        let update = writes.iter().try_fold(bind_key(query(sql), key), |update, write| write.bind(update))?;
        update.execute(conn).await?;
        Ok(())
    }

    /// The first column that does not hold what was written.
    async fn differs(
        &self,
        conn: &mut PgConnection,
        key: &RowKey,
        writes: &[Write<'_>],
    ) -> Result<Option<String>, StoreError> {
        let same = (2..).zip(writes).map(|(parameter, write)| {
            let held_now = held(&format!("t.{}", quote(write.column)), write.encoding);
            format!("{held_now} IS NOT DISTINCT FROM {}", held(&write.value(parameter), write.encoding))
        });
        let sql = format!(
            "SELECT {} FROM {} t WHERE {}",
            same.collect::<Vec<_>>().join(", "),
            table_name(self.target),
            same_key(self.target)
        );
        let same = writes.iter().try_fold(bind_key(query(sql), key), |same, write| write.bind(same))?;
        let row = same.fetch_optional(conn).await?;
        for (position, write) in writes.iter().enumerate() {
            if !row.as_ref().map(|row| row.try_get(position)).transpose()?.unwrap_or(false) {
                return Ok(Some(write.column.to_owned()));
            }
        }
        Ok(None)
    }
}

/// `value` as it is read and compared: text byte for byte, whatever its collation takes for equal, and NULL where it holds
/// nothing.
fn held(value: &str, encoding: Encoding) -> String {
    match encoding {
        Encoding::Bytes => format!("nullif({value}, ''::bytea)"),
        Encoding::Base64 => format!("nullif(({value})::text COLLATE \"C\", '')"),
    }
}

/// Of a column that the table lacks.
fn nothing() -> String {
    "NULL::text".to_owned()
}

/// Finds the row by its key's index, which may have a case-insensitive collation, and then compares the key exactly.
fn same_key(target: &Target) -> String {
    let key = quote(&target.key_column);
    match target.key_kind {
        KeyKind::Text => format!("t.{key} = $1 AND t.{key} = $1 COLLATE \"C\""),
        KeyKind::Uuid | KeyKind::Integer => format!("t.{key} = $1"),
    }
}

/// The time, for a column of a type that holds one. Without a time zone it is UTC.
fn now(kind: &str) -> Option<&'static str> {
    match kind {
        "timestamp with time zone" => Some("clock_timestamp()"),
        "timestamp without time zone" => Some("clock_timestamp() AT TIME ZONE 'UTC'"),
        _ => None,
    }
}

fn as_text(cell: &[u8]) -> Result<&str, StoreError> {
    std::str::from_utf8(cell).map_err(|_| StoreError::Corrupt { what: "a text column" })
}
