//! What an operator approves with a plan.

use std::{fmt, str::FromStr};

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::rekey::plan::NotADigest;

/// A plan's digest: 64 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanDigest([u8; 32]);

impl PlanDigest {
    /// SHA-256 over `domain ‖ 0x00 ‖ JSON`. `approved` has names, texts and lists, and no map but of texts.
    pub(crate) fn of(domain: &str, approved: &impl Serialize) -> Self {
        let json = serde_json::to_vec(approved).expect("names, texts and lists are valid JSON");
        Self(Sha256::new().chain_update(domain).chain_update([0]).chain_update(json).finalize().into())
    }
}

impl fmt::Display for PlanDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for PlanDigest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let mut digest = [0; 32];
        hex::decode_to_slice(text, &mut digest).map_err(|_| NotADigest)?;
        Ok(Self(digest))
    }
}
