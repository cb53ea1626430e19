//! The target's rows as tenants.

use async_trait::async_trait;
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use super::{Query, Sqlite, key_of, query, quote, table::bind_key, table_as_t};
use crate::{
    envelope::Encoding,
    store::{Column, KeyKind, RowKey, StoreError, Target, TenantChange, TenantColumns, TenantRow, Tenants},
};

#[async_trait]
impl Tenants for Sqlite {
    async fn missing_columns(
        &self,
        target: &Target,
        columns: &TenantColumns,
    ) -> Result<Vec<String>, StoreError> {
        let mut tx = self.begin_read().await?;
        let layout = Layout::look(&mut tx, target, columns).await?;
        let missing = columns.names().into_iter().filter(|name| !layout.has(name));
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
        let key = key_of(target);
        let filter = after.map_or_else(String::new, |_| format!("WHERE {key} > ?1"));
        let sql = format!("{} {filter} ORDER BY {key} LIMIT {limit}", layout.select());
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

    /// The transaction holds the file's only write lock, so that an update that comes to nothing after the comparison is
    /// a trigger's doing.
    async fn swap_tenant(
        &self,
        target: &Target,
        columns: &TenantColumns,
        old: &TenantRow,
        change: &TenantChange<'_>,
    ) -> Result<bool, StoreError> {
        let mut tx = self.begin_write().await?;
        let layout = Layout::look(&mut tx, target, columns).await?;
        if !layout.is(&mut tx, old).await? {
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

/// The target's columns, and which of those that say where a tenant runs it has.
struct Layout<'a> {
    target: &'a Target,
    columns: &'a TenantColumns,
    there: Vec<String>,
}

/// What a column is to hold.
struct Write<'a> {
    column: &'a str,
    encoding: Encoding,
    new: &'a [u8],
}

impl<'a> Layout<'a> {
    async fn look(
        conn: &mut SqliteConnection,
        target: &'a Target,
        columns: &'a TenantColumns,
    ) -> Result<Self, StoreError> {
        let sql = "SELECT name FROM pragma_table_xinfo(?1, 'main')";
        let rows = query(sql.to_owned()).bind(target.table.clone()).fetch_all(conn).await?;
        let there = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
        Ok(Self { target, columns, there })
    }

    /// As SQLite looks for it: in any case.
    fn has(&self, name: &str) -> bool {
        self.there.iter().any(|column| column.eq_ignore_ascii_case(name))
    }

    /// The statement whose rows [`tenant_from`](Self::tenant_from) reads.
    fn select(&self) -> String {
        let [app, machine, region, project, branch] = self.columns.places().map(|name| self.place(name));
        let status = self.place(&self.columns.status);
        let rank = self.columns.order.as_ref().map_or_else(nothing, |name| self.place(name));
        let key = key_of(self.target);
        let list = [vec![key, app, machine, region, project, branch, status, rank], self.cells()].concat();
        format!("SELECT {} FROM {}", list.join(", "), table_as_t(self.target))
    }

    fn tenant_from(&self, row: &SqliteRow) -> Result<TenantRow, StoreError> {
        let key = match self.target.key_kind {
            KeyKind::Integer => RowKey::Integer(row.try_get(0)?),
            KeyKind::Text | KeyKind::Uuid => RowKey::Text(row.try_get(0)?),
        };
        let cells = (8..8 + self.target.columns.len()).map(|position| row.try_get(position));
        Ok(TenantRow {
            key,
            app: row.try_get(1)?,
            machine: row.try_get(2)?,
            region: row.try_get(3)?,
            project: row.try_get(4)?,
            branch: row.try_get(5)?,
            status: row.try_get(6)?,
            rank: row.try_get(7)?,
            cells: cells.collect::<Result<_, _>>()?,
        })
    }

    /// What the row holds in this column, as text.
    fn place(&self, name: &str) -> String {
        if self.has(name) { text_held(&format!("t.{}", quote(name))) } else { nothing() }
    }

    fn cells(&self) -> Vec<String> {
        let cell = |column: &Column| bytes_held(&format!("t.{}", quote(&column.name)));
        self.target.columns.iter().map(cell).collect()
    }

    /// Whether the row is still as it was.
    async fn is(&self, conn: &mut SqliteConnection, old: &TenantRow) -> Result<bool, StoreError> {
        let held = self.columns.places().map(|name| self.place(name)).into_iter().chain(self.cells());
        let same = (2..).zip(held).map(|(parameter, held)| format!("{held} IS ?{parameter}"));
        let sql = format!(
            "SELECT {} FROM {} WHERE {}",
            same.collect::<Vec<_>>().join(" AND "),
            table_as_t(self.target),
            same_key(self.target)
        );
        let mut same = bind_key(query(sql), &old.key);
        for place in old.places() {
            same = same.bind(place);
        }
        for cell in &old.cells {
            same = same.bind(cell.clone());
        }
        let row = same.fetch_optional(conn).await?;
        Ok(row.map(|row| row.try_get(0)).transpose()?.unwrap_or(false))
    }

    fn writes<'b>(&'b self, change: &'b TenantChange<'_>) -> Vec<Write<'b>> {
        let place = |(column, new): (&'b str, &'b str)| Write {
            column,
            encoding: Encoding::Base64,
            new: new.as_bytes(),
        };
        let cells = self.target.columns.iter().zip(change.cells).filter(|(_, new)| !new.is_empty());
        let cell = |(column, new): (&'b Column, &'b Vec<u8>)| Write {
            column: &column.name,
            encoding: column.encoding,
            new,
        };
        self.columns.written().into_iter().zip(change.places()).map(place).chain(cells.map(cell)).collect()
    }

    /// Text stays text; bytes in a column of text stay bytes.
    async fn update(
        &self,
        conn: &mut SqliteConnection,
        key: &RowKey,
        writes: &[Write<'_>],
    ) -> Result<(), StoreError> {
        let mut sets: Vec<String> = (2..)
            .zip(writes)
            .map(|(parameter, write)| {
                let name = quote(write.column);
                match write.encoding {
                    Encoding::Bytes => format!("{name} = ?{parameter}"),
                    Encoding::Base64 => format!(
                        "{name} = CASE typeof(t.{name}) WHEN 'blob' THEN ?{parameter} \
                         ELSE CAST(?{parameter} AS text) END"
                    ),
                }
            })
            .collect();
        if self.has(&self.columns.updated_at) {
            sets.push(now(&quote(&self.columns.updated_at)));
        }
        let sql = format!(
            "UPDATE {} SET {} WHERE {}",
            table_as_t(self.target),
            sets.join(", "),
            same_key(self.target)
        );
        bind_all(query(sql), key, writes).execute(conn).await?;
        Ok(())
    }

    /// The first column that does not hold what was written.
    async fn differs(
        &self,
        conn: &mut SqliteConnection,
        key: &RowKey,
        writes: &[Write<'_>],
    ) -> Result<Option<String>, StoreError> {
        let same = (2..)
            .zip(writes)
            .map(|(parameter, write)| format!("CAST(t.{} AS blob) IS ?{parameter}", quote(write.column)));
        let sql = format!(
            "SELECT {} FROM {} WHERE {}",
            same.collect::<Vec<_>>().join(", "),
            table_as_t(self.target),
            same_key(self.target)
        );
        let row = bind_all(query(sql), key, writes).fetch_optional(conn).await?;
        for (position, write) in writes.iter().enumerate() {
            if !row.as_ref().map(|row| row.try_get(position)).transpose()?.unwrap_or(false) {
                return Ok(Some(write.column.to_owned()));
            }
        }
        Ok(None)
    }
}

fn bind_all(statement: Query, key: &RowKey, writes: &[Write<'_>]) -> Query {
    writes.iter().fold(bind_key(statement, key), |statement, write| statement.bind(write.new.to_vec()))
}

/// As it is read and compared: NULL where it holds nothing.
fn text_held(value: &str) -> String {
    format!("nullif(CAST({value} AS text) COLLATE binary, '')")
}

fn bytes_held(value: &str) -> String {
    format!("nullif(CAST({value} AS blob), x'')")
}

/// Of a column that the table lacks.
fn nothing() -> String {
    "NULL".to_owned()
}

/// Finds the row by its key's index, which may have a case-insensitive collation, and then compares the key exactly.
fn same_key(target: &Target) -> String {
    let key = key_of(target);
    match target.key_kind {
        KeyKind::Integer => format!("{key} = ?1"),
        KeyKind::Text | KeyKind::Uuid => format!("{key} = ?1 AND {key} = ?1 COLLATE binary"),
    }
}

/// Sets the column to the time, in the form of what it holds: a Unix time in milliseconds or in seconds, or a text as
/// RFC 3339 or as SQLite itself writes it. Anything else is left.
fn now(name: &str) -> String {
    format!(
        "{name} = CASE typeof(t.{name}) \
         WHEN 'integer' THEN CASE WHEN t.{name} > 100000000000 THEN CAST(unixepoch('subsec') * 1000 AS integer) \
         ELSE unixepoch() END \
         WHEN 'text' THEN CASE WHEN t.{name} LIKE '%T%' THEN strftime('%Y-%m-%dT%H:%M:%SZ') \
         ELSE CURRENT_TIMESTAMP END ELSE t.{name} END"
    )
}
