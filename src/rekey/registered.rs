//! A target by the name that it is registered under: from the first run or fence on, it stands for one table, its key
//! and its columns.

use std::fmt;

use super::RekeyError;
use crate::store::{Store, Target};

/// A target whose name stands for something else.
#[derive(Debug, Clone)]
pub struct OtherTarget {
    /// What the name stands for.
    pub registered: Target,
    /// What was asked for.
    pub asked: Target,
}

impl fmt::Display for OtherTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { registered, asked } = self;
        let (was, is) = (registered.to_string(), asked.to_string());
        write!(f, "target {} is registered for {was}; ", asked.name)?;
        if was == is {
            f.write_str("the table that has these names now is another one, or has other types")
        } else {
            write!(f, "asked for is {is}")
        }
    }
}

impl OtherTarget {
    /// The columns that were asked for and are not among those registered, where the rest is the same.
    pub fn columns_left(&self) -> Vec<&str> {
        let Self { registered, asked } = self;
        let place =
            |target: &Target| (target.schema.clone(), target.table.clone(), target.key_column.clone());
        let columns = asked.columns.iter().map(|column| column.name.as_str());
        let columns = columns.filter(|name| registered.column(name).is_none());
        if place(registered) == place(asked) { columns.collect() } else { Vec::new() }
    }

    /// What to give instead, as flags.
    pub fn way_out(&self) -> String {
        let flags = |names: &[&str]| names.iter().map(|name| format!(" --column {name}")).collect::<String>();
        let registered =
            self.registered.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>();
        match self.columns_left().as_slice() {
            [] => format!(
                "as it is registered:{}; or as a target of its own: --logical-name OTHER",
                flags(&registered)
            ),
            left => format!(
                "as it is registered:{}; the others as a target of their own: --logical-name OTHER{}",
                flags(&registered),
                flags(left)
            ),
        }
    }
}

/// What the name of `target` is registered for, where that is something else.
///
/// # Errors
/// The store's.
pub async fn registered_otherwise(
    store: &dyn Store,
    target: &Target,
) -> Result<Option<OtherTarget>, RekeyError> {
    let targets = if store.is_migrated().await? { store.targets().await? } else { Vec::new() };
    let other = targets.into_iter().find(|known| known.name == target.name && !known.is_as(target));
    Ok(other.map(|registered| OtherTarget { registered, asked: target.clone() }))
}
