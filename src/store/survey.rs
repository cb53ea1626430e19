//! What a plan looks at beside the target's own values. Everything here only reads.

use std::fmt::Debug;

use async_trait::async_trait;
use serde::Serialize;

use super::{StoreError, Target};

/// Bytes of the shortest sealed value: a nonce and a tag.
pub(super) const SHORTEST: usize = 28;

/// What a database can say of a table's surroundings.
#[async_trait]
pub trait Survey: Debug + Send + Sync {
    /// Every column of the database that could hold values: of bytes or of text, outside reseal's own tables, and none
    /// of the target's.
    async fn other_columns(&self, target: &Target) -> Result<Vec<OtherColumn>, StoreError>;

    /// About `count` values of `column` from all over its table, as stored, that are long enough to be sealed and of at
    /// most `limit` bytes. Of text only what could be base64.
    async fn sample_column(
        &self,
        column: &OtherColumn,
        count: usize,
        limit: usize,
    ) -> Result<Vec<Vec<u8>>, StoreError>;

    /// Values that are there more than once, byte for byte, in one scan that the database keeps on its disk, not in
    /// memory; at most `examples` of them are named.
    async fn repeats(&self, target: &Target, examples: usize) -> Result<Repeats, StoreError>;

    /// At most `limit` different pairs of texts in two columns of the target's table that are not the target's, those
    /// without a NULL, in byte order after `after`.
    async fn pairs(
        &self,
        target: &Target,
        columns: [&str; 2],
        after: Option<&[String; 2]>,
        limit: u32,
    ) -> Result<Vec<[String; 2]>, StoreError>;

    /// What an estimate of the writing starts from.
    async fn footprint(&self, target: &Target) -> Result<Footprint, StoreError>;
}

/// A column that is none of the target's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct OtherColumn {
    /// The schema; SQLite: `main`.
    pub schema: String,
    /// The table.
    pub table: String,
    /// The column.
    pub column: String,
}

/// Values that are there more than once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repeats {
    /// How many different values.
    pub values: i64,
    /// How many cells hold one of them.
    pub cells: i64,
    /// Two cells that hold the same, for the first few: row and column of each.
    pub examples: Vec<[(String, String); 2]>,
}

/// What a table takes on disk, and what an update of its values touches.
#[derive(Debug, Clone, PartialEq)]
pub enum Footprint {
    /// A Postgres table.
    Postgres(PostgresFootprint),
    /// A SQLite table.
    Sqlite {
        /// Bytes a page.
        page_bytes: i64,
    },
}

/// What a Postgres table takes on disk.
#[derive(Debug, Clone, PartialEq)]
pub struct PostgresFootprint {
    /// Blocks of the heap.
    pub heap_blocks: i64,
    /// Bytes of a row as stored, on average over a sample: header, and columns with out-of-line ones as pointers.
    pub row_bytes: f64,
    /// Percent of a block that inserts may fill.
    pub fillfactor: i64,
    /// The indexes.
    pub indexes: Vec<Index>,
    /// Whether every change is logged with the whole old row (`REPLICA IDENTITY FULL`, and `wal_level = logical`).
    pub logs_old_rows: bool,
    /// Whether the first change of a block after a checkpoint logs the whole block.
    pub full_page_writes: bool,
    /// Seconds between checkpoints, at most.
    pub checkpoint_seconds: f64,
}

/// An index of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Its name.
    pub name: String,
    /// Its blocks.
    pub blocks: i64,
    /// Whether it reads one of the target's columns, in its keys, expressions or predicate.
    pub reads_values: bool,
}
