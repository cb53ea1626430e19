//! What an operator approves with a plan, in 64 hex digits, so that a run can be held to it.
//!
//! It covers what decides which bytes are written where and who meets them: the table, the keys, the options, and what
//! surrounds the table. It covers no count and no time, so that a table in use keeps its digest.

use std::{fmt, str::FromStr};

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::{
    envelope::Format,
    keyring::{
        ClearText,
        kms::{self, ConnectError},
        spec::KeySpec,
    },
    rekey::{DataKeyScope, Job, KeyChoice, RekeyError, prepare::refused},
    store::{Column, Finding, KeyKind, TargetName},
};

/// Bytes of each part.
const PART: usize = 8;

/// The parts, in order, as a refusal names them.
const PARTS: [&str; 4] = ["the table", "the keys", "the options", "what surrounds the table"];

/// A plan's digest: for each of four parts the first 8 bytes of SHA-256 over
/// `"reseal plan" ‖ 0x00 ‖ part's name ‖ 0x00 ‖ JSON`, in hex.
///
/// Each part has a digest of its own so that a run that does not match can say which part changed. It guards against
/// change, not against somebody who may choose the table's definition: 64 bits a part are enough for that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanDigest([[u8; PART]; PARTS.len()]);

/// A text that is not a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a plan's digest is 64 hex digits, as plan prints them")]
pub struct NotADigest;

#[derive(Serialize)]
struct TablePart<'a> {
    name: &'a str,
    schema: &'a str,
    table: &'a str,
    oid: i64,
    key_column: &'a str,
    key_kind: KeyKind,
    columns: &'a [Column],
}

#[derive(Serialize)]
struct KeysPart<'a> {
    format: Format,
    new: &'a str,
    old: &'a [String],
    scope: Option<DataKeyScope>,
    new_data_key: bool,
}

#[derive(Serialize)]
struct OptionsPart {
    max_value: usize,
    reseal_ambiguous: bool,
    seals_clear_text: bool,
}

impl PlanDigest {
    /// The digest of what `job` would do, on a table of which `findings` were found.
    ///
    /// # Errors
    /// Those of connecting to the KMS key that is named to end under.
    pub(super) async fn of(job: &Job, choice: &KeyChoice, findings: &[Finding]) -> Result<Self, RekeyError> {
        let target = &job.target;
        let new = new_key(job, choice).await?;
        let v2 = job.keys.format == Format::V2;
        let table = TablePart {
            name: &target.name,
            schema: &target.schema,
            table: &target.table,
            oid: target.oid,
            key_column: &target.key_column,
            key_kind: target.key_kind,
            columns: &target.columns,
        };
        let keys = KeysPart {
            format: job.keys.format,
            new: &new,
            old: &job.keys.old,
            scope: v2.then_some(job.keys.scope),
            new_data_key: choice.new_data_key,
        };
        let options = OptionsPart {
            max_value: job.options.max_value,
            reseal_ambiguous: job.options.reseal_ambiguous,
            seals_clear_text: choice.clear_text == ClearText::Seal,
        };
        let mut found = findings.iter().map(|finding| finding.what.as_str()).collect::<Vec<_>>();
        found.sort_unstable();
        Ok(Self([part(0, &table), part(1, &keys), part(2, &options), part(3, &found)]))
    }

    /// The names of the parts in which the two differ.
    pub fn changed(&self, other: &Self) -> Vec<&'static str> {
        let parts = PARTS.into_iter().zip(self.0.iter().zip(&other.0));
        parts.filter(|(_, (one, other))| one != other).map(|(name, _)| name).collect()
    }
}

fn part(number: usize, content: &impl Serialize) -> [u8; PART] {
    let json = serde_json::to_vec(content).expect("names, numbers and lists are valid JSON");
    let hash = Sha256::new()
        .chain_update(b"reseal plan\0")
        .chain_update(PARTS[number])
        .chain_update([0])
        .chain_update(json)
        .finalize();
    *hash.first_chunk().expect("SHA-256 has 32 bytes")
}

/// The key to end under, by a name that is the same before and after its data key was made.
async fn new_key(job: &Job, choice: &KeyChoice) -> Result<String, RekeyError> {
    match (job.keys.format, &choice.new) {
        (Format::V3, KeySpec::Kms(spec)) => match kms::connect(spec).await {
            Ok(kms) => Ok(kms.key_name().to_owned()),
            Err(ConnectError::Kms(error)) => Err(error.into()),
            Err(error) => Err(refused(&choice.new, &error)),
        },
        _ => Ok(job.keys.new.clone()),
    }
}

/// Refuses unless what `job` would do now is what the plan with `approved` showed.
///
/// # Errors
/// [`RekeyError::Refused`], naming what changed; the store's and the KMS's.
pub async fn require_plan(
    job: &Job,
    choice: &KeyChoice,
    name: &TargetName,
    approved: &PlanDigest,
) -> Result<(), RekeyError> {
    let findings = job.store.inspect(name).await?.findings;
    let changed = approved.changed(&PlanDigest::of(job, choice, &findings).await?);
    if changed.is_empty() {
        return Ok(());
    }
    let mut what = format!("this is not what was planned: {} changed", changed.join(", "));
    if changed.contains(&PARTS[3]) {
        let now = findings.iter().map(|finding| finding.what.as_str()).collect::<Vec<_>>();
        what += &if now.is_empty() {
            " (now: nothing)".to_owned()
        } else {
            format!(" (now: {})", now.join("; "))
        };
    }
    Err(RekeyError::Refused { what, hint: "look at what is so now: reseal plan".to_owned() })
}

impl fmt::Display for PlanDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| f.write_str(&hex::encode(part)))
    }
}

impl FromStr for PlanDigest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let mut parts = [[0; PART]; PARTS.len()];
        let bytes = hex::decode(text).map_err(|_| NotADigest)?;
        if bytes.len() != PART * PARTS.len() {
            return Err(NotADigest);
        }
        for (part, bytes) in parts.iter_mut().zip(bytes.chunks_exact(PART)) {
            part.copy_from_slice(bytes);
        }
        Ok(Self(parts))
    }
}
