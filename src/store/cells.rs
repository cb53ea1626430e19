//! Pages of rows: keys, and the cells' bytes in one allocation.

use std::{fmt, ops::Range};

use uuid::Uuid;

/// What type a primary key has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyKind {
    /// `uuid`.
    Uuid,
    /// `smallint`, `integer`, `bigint`; `INTEGER` in SQLite.
    Integer,
    /// `text`, `varchar`; `TEXT` in SQLite, where uuids are kept so too.
    Text,
}

/// A row's primary key. As text (`Display`) it is what a v3 value is bound to: uuid in lower case with hyphens,
/// integer in decimal, text exactly as stored.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RowKey {
    /// A uuid.
    Uuid(Uuid),
    /// An integer.
    Integer(i64),
    /// Text.
    Text(String),
}

impl RowKey {
    /// Reads a key back from its text, or `None` when it isn't of this kind.
    pub fn parse(kind: KeyKind, text: &str) -> Option<Self> {
        match kind {
            KeyKind::Uuid => text.parse().ok().map(Self::Uuid),
            KeyKind::Integer => text.parse().ok().map(Self::Integer),
            KeyKind::Text => Some(Self::Text(text.to_owned())),
        }
    }

    /// Writes the key's text into `out`, replacing what it held.
    pub fn write_to(&self, out: &mut String) {
        out.clear();
        match self {
            Self::Uuid(uuid) => out.push_str(uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer())),
            Self::Integer(integer) => {
                fmt::Write::write_fmt(out, format_args!("{integer}"))
                    .expect("writing to a string can't fail");
            }
            Self::Text(text) => out.push_str(text),
        }
    }
}

impl fmt::Display for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uuid(uuid) => uuid.hyphenated().fmt(f),
            Self::Integer(integer) => integer.fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// Rows × columns of optional byte strings, row by row, in one buffer that is reused from page to page.
#[derive(Default)]
pub struct Cells {
    width: usize,
    spans: Vec<Option<(usize, usize)>>,
    bytes: Vec<u8>,
}

impl Cells {
    /// No rows yet, of `width` columns each.
    pub fn new(width: usize) -> Self {
        Self { width, spans: Vec::new(), bytes: Vec::new() }
    }

    /// Appends the next cell of the current row.
    pub fn push(&mut self, cell: Option<&[u8]>) {
        self.spans.push(cell.map(|cell| {
            let start = self.bytes.len();
            self.bytes.extend_from_slice(cell);
            (start, self.bytes.len())
        }));
    }

    /// The cell at `row` and `column`. A page that was read gives `None` for NULL and for a zero-length value,
    /// which hold nothing, and an empty slice for a value above [`PageLimits::value`](super::PageLimits::value).
    pub fn at(&self, row: usize, column: usize) -> Option<&[u8]> {
        self.spans[row * self.width + column].map(|(start, end)| &self.bytes[start..end])
    }

    /// The cells of one row.
    pub fn row(&self, row: usize) -> impl ExactSizeIterator<Item = Option<&[u8]>> {
        (0..self.width).map(move |column| self.at(row, column))
    }

    /// How many columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// How many bytes all cells hold together.
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }
}

/// How much there is, and none of it: a value may be kept in the clear.
impl fmt::Debug for Cells {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cells({} of {} bytes)", self.spans.len(), self.bytes.len())
    }
}

/// Rows as they were read.
#[derive(Debug, Default)]
pub struct Page {
    /// The rows' keys.
    pub keys: Vec<RowKey>,
    /// Their cells, in the target's order of columns.
    pub cells: Cells,
    /// SQLite, walking the table: the rows' rowids. Empty where a row's place is its key.
    pub rowids: Vec<i64>,
    /// Whether the span ends with this page.
    pub last: bool,
}

impl Page {
    /// An empty page of rows of `width` columns.
    pub fn new(width: usize) -> Self {
        Self { keys: Vec::new(), cells: Cells::new(width), rowids: Vec::new(), last: true }
    }

    /// Where this row stands in its [span](super::Span): what a shard's cursor holds.
    pub fn place(&self, row: usize) -> RowKey {
        self.rowids.get(row).map_or_else(|| self.keys[row].clone(), |&rowid| RowKey::Integer(rowid))
    }

    /// These rows as a page of their own, which is the last when it has the last row of the last page.
    pub fn part(&self, rows: Range<usize>) -> Self {
        let mut cells = Cells::new(self.cells.width());
        rows.clone().for_each(|row| self.cells.row(row).for_each(|cell| cells.push(cell)));
        Self {
            rowids: self.rowids.get(rows.clone()).unwrap_or_default().to_vec(),
            last: self.last && rows.end == self.keys.len(),
            keys: self.keys[rows].to_vec(),
            cells,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_is_shown_by_a_page() {
        let mut page = Page::new(1);
        page.keys.push(RowKey::Integer(7));
        page.cells.push(Some(b"AAA"));
        let shown = format!("{page:?} {:?}", page.part(0..1));
        assert!(shown.contains("Cells(1 of 3 bytes)") && !shown.contains("65, 65"), "{shown}");
    }
}
