//! Values that stand-ins mint: like the vendor's, and no two alike in all tests, so that they can be searched for.

use std::sync::atomic::{AtomicU64, Ordering};

static COUNT: AtomicU64 = AtomicU64::new(1);

/// A number that is given once.
pub(crate) fn number() -> u64 {
    COUNT.fetch_add(1, Ordering::Relaxed)
}

/// A new value that begins with `prefix` and goes on in letters and digits.
pub(crate) fn value(prefix: &str) -> String {
    format!("{prefix}{:04}{}", number(), hex::encode(rand::random::<[u8; 12]>()))
}
