//! The file of an export: JSON, one object a data key. Nothing in it is secret; every field is checked when read.

use std::collections::HashSet;

use base64::{Engine, prelude::BASE64_STANDARD};
use reseal::{
    envelope::KeyId,
    store::{DataKeyState, WrappedDataKey},
};
use serde::{Deserialize, Serialize};

use crate::cli::stdio;

const FORMAT: &str = "reseal data keys 1";

/// The longest wrapped key, in bytes: what AWS KMS allows for a ciphertext blob.
const LONGEST_WRAPPED: usize = 6144;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: String,
    note: String,
    keys: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: String,
    wrap_id: String,
    purpose: String,
    kms: String,
    state: String,
    created: String,
    /// Base64.
    wrapped: String,
}

/// The document of every key that still has its wrapped bytes.
pub(super) fn write(keys: &[WrappedDataKey]) -> String {
    let kept = keys.iter().filter(|key| key.state != DataKeyState::Destroyed);
    let document = Document {
        format: FORMAT.to_owned(),
        note: "wrapped data keys: not secret, and needed to open v3 values; the KMS key unwraps them"
            .to_owned(),
        keys: kept
            .map(|key| Entry {
                id: KeyId::from_bytes(key.key_id).to_string(),
                wrap_id: key.wrap_id.to_string(),
                purpose: key.purpose.clone(),
                kms: key.kms.clone(),
                state: key.state.as_str().to_owned(),
                created: stdio::time(key.created_ms),
                wrapped: BASE64_STANDARD.encode(&key.wrapped),
            })
            .collect(),
    };
    serde_json::to_string_pretty(&document).expect("names and ids are valid JSON") + "\n"
}

/// The keys of a document.
///
/// # Errors
/// The rule that it breaks.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<WrappedDataKey>, String> {
    // serde's messages quote values; where the document is broken is enough.
    let document: Document = serde_json::from_slice(bytes)
        .map_err(|error| format!("line {}, column {}", error.line(), error.column()))?;
    if document.format != FORMAT {
        return Err(format!("its format is not {FORMAT:?}"));
    }
    let mut seen = HashSet::new();
    let keys = document.keys.into_iter().zip(1..).map(|(entry, number)| {
        let key = entry.parse().map_err(|field| format!("key {number}: {field}"))?;
        let is_new = seen.insert(key.key_id.to_vec()) && seen.insert(key.wrap_id.as_bytes().to_vec());
        if is_new { Ok(key) } else { Err(format!("key {number}: it is there twice")) }
    });
    keys.collect()
}

impl Entry {
    /// The key, or the field that is wrong.
    fn parse(self) -> Result<WrappedDataKey, &'static str> {
        let id: KeyId = self.id.parse().map_err(|_| "id is not 32 lower-case hex digits")?;
        let wrap_id = self.wrap_id.parse().map_err(|_| "wrap_id is not a uuid")?;
        let wrapped = BASE64_STANDARD.decode(&self.wrapped).map_err(|_| "wrapped is not base64")?;
        let state = self.state.parse().map_err(|()| "state is not active, draining or retired")?;
        let is_name =
            |text: &str| !text.is_empty() && text.len() <= 2048 && !text.chars().any(char::is_control);
        match () {
            () if wrapped.is_empty() || wrapped.len() > LONGEST_WRAPPED => {
                Err("wrapped is not 1 to 6144 bytes")
            }
            () if state == DataKeyState::Destroyed => Err("state is not active, draining or retired"),
            () if !is_name(&self.purpose) => Err("purpose is not a name"),
            () if !is_name(&self.kms) => Err("kms is not a name"),
            () => Ok(WrappedDataKey {
                key_id: *id.as_bytes(),
                wrap_id,
                purpose: self.purpose,
                kms: self.kms,
                wrapped,
                state,
                created_ms: 0,
            }),
        }
    }
}
