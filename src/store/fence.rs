//! The fence: what the database itself does to a write that is not under the new key.
//!
//! A fence is triggers on the target's table. What it is to do is in the triggers, never in a row that they read: it
//! changes by DDL alone, so that a change has a moment, and every write comes before or after it.

use std::{collections::BTreeMap, fmt, str::FromStr};

use sha2::{Digest, Sha256};

use crate::envelope::KeyId;

/// What a fence does with a write that breaks its rule. No fence at all is the third state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FenceMode {
    /// Records it, and lets it through.
    Observe,
    /// Refuses it.
    Enforce,
}

impl FenceMode {
    /// The mode's name, as stored and as shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Enforce => "enforce",
        }
    }
}

impl FromStr for FenceMode {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        [Self::Observe, Self::Enforce].into_iter().find(|mode| mode.as_str() == name).ok_or(())
    }
}

/// What a written value must be, as far as its bytes can show without a key. [`FromStr`] reads what `Display` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FenceRule {
    /// Of v2's structure, under whatever KMS key. About one v1 value in 140,000 is too, by chance.
    Wrapped,
    /// v3 under this data key: it begins with `0x03 ‖ key_id`.
    Bound(KeyId),
}

impl fmt::Display for FenceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wrapped => f.write_str("v2"),
            Self::Bound(key_id) => write!(f, "v3 under data-key:{key_id}"),
        }
    }
}

impl FromStr for FenceRule {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.strip_prefix("v3 under data-key:") {
            Some(key_id) => key_id.parse().map(Self::Bound).map_err(|_| ()),
            None if text == "v2" => Ok(Self::Wrapped),
            None => Err(()),
        }
    }
}

/// A fence that is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// What it does.
    pub mode: FenceMode,
    /// What it demands.
    pub rule: FenceRule,
    /// Unix milliseconds by the database's clock: every write that was checked by nothing, or by another fence, had
    /// ended by then.
    pub since_ms: i64,
    /// In what the database is not as it was when the fence went up. Empty: the fence is intact.
    pub drift: Vec<String>,
}

impl Fence {
    /// Whether nothing was changed since it went up.
    pub fn is_intact(&self) -> bool {
        self.drift.is_empty()
    }
}

/// Writes that an observing fence let through, all by the same writer, of the same kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaleWrites {
    /// The role that logged in. SQLite: `None`, as the next three.
    pub role: Option<String>,
    /// The name that the program gave itself.
    pub application: Option<String>,
    /// The address that it came from; `None` for a socket, and the pooler's behind a pooler.
    pub address: Option<String>,
    /// The server process of the last one.
    pub backend: Option<i64>,
    /// The column.
    pub column: String,
    /// What the values look like: `v2`, `v3 under data-key:HEX`, `v1 or unknown`.
    pub wrote: String,
    /// The key of the last one's row.
    pub row_key: Option<String>,
    /// How many.
    pub count: i64,
    /// Unix milliseconds by the database's clock.
    pub first_ms: i64,
    /// Unix milliseconds by the database's clock.
    pub last_ms: i64,
}

/// A session that holds a lock on the target's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocker {
    /// The server process; `None` for a prepared transaction.
    pub pid: Option<i64>,
    /// The role. `None`, as the rest, where this role may not see it.
    pub role: Option<String>,
    /// The name that the program gave itself.
    pub application: Option<String>,
    /// What it is doing: `active`, `idle in transaction`.
    pub state: Option<String>,
    /// How long its transaction has been open, in seconds.
    pub open_seconds: Option<i64>,
    /// Whether it holds a lock of those that writing takes.
    pub writes: bool,
}

/// The triggers and functions of a fence, by name, as the catalog shows them.
pub(super) type Objects = BTreeMap<String, String>;

/// What of a fence is in the database.
pub(super) struct Found {
    pub(super) objects: Objects,
    /// What is wrong with it whatever it was.
    pub(super) complaints: Vec<String>,
}

impl Found {
    /// In what it is not what `recorded` says, and in what that is not what would be `made` today.
    pub(super) fn drift(self, recorded: &Objects, made: &Objects) -> Vec<String> {
        let mut drift = self.complaints;
        for (name, definition) in recorded {
            match self.objects.get(name) {
                None => drift.push(format!("{name} is gone")),
                Some(found) if found != definition => drift.push(format!("{name} is not as it was made")),
                Some(found) if made.get(name).is_some_and(|made| made != found) => {
                    drift.push(format!("{name} was made by another version of reseal"));
                }
                Some(_) => {}
            }
        }
        drift
    }
}

/// What the names of a target's fence begin with. A hash, so that any logical name fits into an identifier.
pub(super) fn stem(target: &str) -> String {
    format!("reseal_fence_{}", hex::encode(&Sha256::digest(target)[..6]))
}

/// What the writer's developer is told: the message, and the hint.
pub(super) fn refusal(target: &str, column: &str, rule: FenceRule) -> (String, String) {
    (
        format!("the reseal fence refuses this write: {target}.{column} takes only {rule}"),
        "the program that writes still has an old key or format: give it the new one and restart it; \
         reseal fence status says more"
            .to_owned(),
    )
}
