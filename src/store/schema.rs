//! The table to re-key: what is asked for, what it is, and what stands in the way.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::KeyKind;
use crate::envelope::Encoding;

/// A table as the operator names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetName {
    /// The logical name that v3 values are bound to; the bare table name unless configured.
    pub logical: Option<String>,
    /// The schema; the search path's where not given. SQLite: an attached database, always `main`.
    pub schema: Option<String>,
    /// The table.
    pub table: String,
    /// The primary key's only column.
    pub key_column: String,
    /// The columns that hold values.
    pub columns: Vec<String>,
}

impl TargetName {
    /// The logical name.
    pub fn logical(&self) -> &str {
        self.logical.as_deref().unwrap_or(&self.table)
    }
}

/// A column that holds values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// How it holds a value: bytes, or base64 in text.
    pub encoding: Encoding,
}

/// A table that was found fit to re-key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The logical name.
    pub name: String,
    /// The schema.
    pub schema: String,
    /// The table.
    pub table: String,
    /// Postgres: the table's OID. SQLite: 0.
    pub oid: i64,
    /// The primary key's column.
    pub key_column: String,
    /// Its type.
    pub key_kind: KeyKind,
    /// The columns that hold values.
    pub columns: Vec<Column>,
    /// Whether triggers of somebody else's fire on an update of these columns, so that every row is read again
    /// after it was written.
    #[serde(skip)]
    pub has_triggers: bool,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>();
        let Self { schema, table, key_column, .. } = self;
        write!(f, "{schema}.{table}, key {key_column}, columns {}", columns.join(", "))
    }
}

impl Target {
    /// The position of a column, by name.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    /// Whether this is the same table, key and columns as `other`.
    pub fn is_as(&self, other: &Self) -> bool {
        *self == Self { has_triggers: self.has_triggers, ..other.clone() }
    }

    /// Row and column of a cell that a query gave as the row's key and the column's position, both as text.
    pub(super) fn cell(&self, parts: &[String]) -> (String, String) {
        let position = parts.get(1).and_then(|position| position.parse::<usize>().ok());
        let column = position.and_then(|position| self.columns.get(position));
        let name = column.map(|column| column.name.clone()).unwrap_or_default();
        (parts.first().cloned().unwrap_or_default(), name)
    }
}

/// Something about a table that a re-key must know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Whether it forbids a run.
    pub refuses: bool,
    /// Whether what it forbids is only to write: who reads, as a verify does, may.
    #[serde(skip)]
    pub only_to_write: bool,
    /// What was found; names things, never values.
    pub what: String,
    /// What to do about it.
    pub hint: String,
}

impl Finding {
    /// A finding that forbids a run.
    pub fn refusal(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { refuses: true, only_to_write: false, what: what.into(), hint: hint.into() }
    }

    /// A finding that forbids a run, and nothing that only reads.
    pub fn refusal_to_write(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { only_to_write: true, ..Self::refusal(what, hint) }
    }

    /// A finding to know of.
    pub fn warning(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { refuses: false, only_to_write: false, what: what.into(), hint: hint.into() }
    }
}

/// What [`Store::inspect`](super::Store::inspect) found.
#[derive(Debug)]
pub struct Inspection {
    /// Whether there is such a table at all, or something that has its name.
    pub exists: bool,
    /// The table, when it is clear what it is.
    pub target: Option<Target>,
    /// Everything found, refusals first.
    pub findings: Vec<Finding>,
}

impl Inspection {
    /// The findings that forbid even to read.
    pub fn refusals_to_read(&self) -> impl Iterator<Item = &Finding> {
        self.refusals().filter(|finding| !finding.only_to_write)
    }

    /// The findings that forbid a run.
    pub fn refusals(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.refuses)
    }
}
