//! Standbys: where a value under an old key can come back from.

/// A standby, or the slot of one that is not there now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standby {
    /// The name that it gave itself, or its slot's.
    pub name: String,
    /// Whether it has flushed that far; `None` where this role can't see it.
    pub is_caught_up: Option<bool>,
}
