//! Values of a static key that are kept elsewhere in the same database, where no run of this target would find them.
//!
//! A key must not go while any column still holds values under it, and v1 values do not say whose they are: only
//! opening them tells. A sample is not a proof: a column with few such values among many others can be missed.

use std::sync::Arc;

use serde::Serialize;

use super::RekeyError;
use crate::{
    envelope::{Encoding, v1::StaticCipher},
    secret::Plaintext,
    store::{OtherColumn, Store, Target},
};

/// Values of one column that are looked at.
const SAMPLE: usize = 200;

/// The longest value that is looked at, in bytes.
const LONGEST: usize = 64 << 10;

/// What was found in the other columns of the database.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Elsewhere {
    /// How many columns were sampled.
    pub columns: usize,
    /// Those that hold values which open under one of the keys.
    pub holders: Vec<Holder>,
    /// Those that this role can't read, or that could not be had in time: nothing is known of them.
    pub unread: Vec<OtherColumn>,
}

/// A column that holds values which open under a static key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// The schema; SQLite: `main`.
    pub schema: String,
    /// The table.
    pub table: String,
    /// The column.
    pub column: String,
    /// How many values were tried.
    pub sampled: usize,
    /// How many of them open.
    pub opened: usize,
}

/// Samples every column of the database that could hold values, but for those of `target`, and tries each value under
/// each of `keys`, as bytes and as base64.
///
/// # Errors
/// The store's, when the columns can't be listed or the way to the database is lost.
pub async fn holders(
    store: &dyn Store,
    target: &Target,
    keys: &[Arc<StaticCipher>],
) -> Result<Elsewhere, RekeyError> {
    let mut found = Elsewhere::default();
    if keys.is_empty() {
        return Ok(found);
    }
    let (mut plaintext, mut buffer) = (Plaintext::new(), Vec::new());
    for column in store.other_columns(target).await? {
        let values = match store.sample_column(&column, SAMPLE, LONGEST).await {
            Ok(values) => values,
            // Not this role's to read, or locked by somebody: that is said, and the others are looked at.
            Err(error) if ["42501", "55P03", "57014"].contains(&error.code().unwrap_or_default()) => {
                found.unread.push(column);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        found.columns += 1;
        let mut opens = |value: &Vec<u8>| {
            [Encoding::Bytes, Encoding::Base64].into_iter().any(|encoding| {
                let value = encoding.decode(value, &mut buffer);
                value.is_some_and(|value| keys.iter().any(|key| key.open_into(value, &mut plaintext).is_ok()))
            })
        };
        let opened = values.iter().filter(|value| opens(value)).count();
        if opened > 0 {
            let OtherColumn { schema, table, column } = column;
            found.holders.push(Holder { schema, table, column, sampled: values.len(), opened });
        }
    }
    plaintext.clear();
    Ok(found)
}
