//! Many rows of byte strings as the two parameters of one statement.
//!
//! SQLite has no array parameters. A parameter a value costs more than the update itself, and makes the statement's
//! text depend on the number of rows. So all values go as one blob, and a second blob says where each lies, in fixed
//! width: a recursive query walks it with `substr`, which copies only the piece it takes from a blob.

use super::{Query, query};
use crate::store::{KeyKind, RowKey};

/// The digits of a position and of a length; a blob of SQLite's has at most 2³¹ bytes.
const DIGITS: usize = 10;

/// Rows, each of a key and the same number of values.
pub(super) struct Packed {
    values: Vec<u8>,
    index: Vec<u8>,
    key: String,
}

impl Packed {
    pub(super) fn new() -> Self {
        // One byte ahead of the values: substr of an empty blob is NULL.
        Self { values: vec![0], index: Vec::new(), key: String::new() }
    }

    /// Appends a row.
    pub(super) fn push<'a>(&mut self, key: &RowKey, values: impl IntoIterator<Item = &'a [u8]>) {
        let mut text = std::mem::take(&mut self.key);
        key.write_to(&mut text);
        self.push_field(text.as_bytes());
        self.key = text;
        for value in values {
            self.push_field(value);
        }
    }

    fn push_field(&mut self, field: &[u8]) {
        self.push_number(self.values.len() + 1);
        self.push_number(field.len());
        self.values.extend_from_slice(field);
    }

    /// By hand: a formatter takes a tenth of the time of the whole update.
    fn push_number(&mut self, mut number: usize) {
        let mut digits = [0; DIGITS];
        for digit in digits.iter_mut().rev() {
            *digit = b"0123456789"[number % 10];
            number /= 10;
        }
        self.index.extend_from_slice(&digits);
    }

    /// The statement `sql`, which begins with [`with`], on these rows: parameters 1 and 2.
    pub(super) fn query(self, sql: String) -> Query {
        query(sql).bind(self.values).bind(self.index)
    }
}

/// A `WITH` clause that gives the packed rows as `v(i, k, …)`: the row's number from 0, its key in the key's type, and
/// its values, named `names`, as blobs.
pub(super) fn with(kind: KeyKind, names: &[String]) -> String {
    let step = 2 * DIGITS * (names.len() + 1);
    let number = |at: usize| format!("CAST(substr(?2, r.p + {at}, {DIGITS}) AS integer)");
    let field = |position: usize| {
        let at = 2 * DIGITS * position;
        format!("substr(?1, {}, {})", number(at), number(at + DIGITS))
    };
    let key_type = match kind {
        KeyKind::Integer => "integer",
        KeyKind::Text | KeyKind::Uuid => "text",
    };
    let mut columns = String::new();
    for (position, name) in (1..).zip(names) {
        columns.push_str(&format!(", {} AS {name}", field(position)));
    }
    format!(
        "WITH RECURSIVE r(p) AS (SELECT 1 UNION ALL SELECT p + {step} FROM r WHERE p + {step} < length(?2)), \
         v AS (SELECT r.p / {step} AS i, CAST({} AS {key_type}) AS k{columns} FROM r) ",
        field(0)
    )
}
