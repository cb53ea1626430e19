//! Every key that is on record, and the state that it is in.

use std::collections::BTreeMap;

use serde_json::Value;

use super::standing::keys_of;
use crate::{
    envelope::KeyId,
    rekey::RekeyError,
    store::{DataKeyState, RetirementState, Store},
};

/// A key that runs were from or to, or that is in the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyUse {
    /// `static:` and its id, a KMS key's name, or `data-key:` and its id.
    pub key: String,
    /// Its state. Of static and KMS keys: active while the latest run of a target was to it, or while it wraps a data
    /// key that opens values; draining from then on, until it is retired.
    pub state: DataKeyState,
    /// The targets.
    pub targets: Vec<String>,
    /// Unix milliseconds by the database's clock.
    pub retired_ms: Option<i64>,
    /// Unix milliseconds by the database's clock.
    pub destroyed_ms: Option<i64>,
}

/// Every key on record, by name.
///
/// # Errors
/// The store's.
pub async fn key_uses(store: &dyn Store) -> Result<Vec<KeyUse>, RekeyError> {
    let (runs, known, retirements) =
        (store.runs().await?, store.data_keys(None).await?, store.retirements().await?);
    let mut uses: BTreeMap<String, KeyUse> = BTreeMap::new();
    let mut note = |key: &str, target: &str, state: DataKeyState| {
        let key_use = uses.entry(key.to_owned()).or_insert_with(|| KeyUse {
            key: key.to_owned(),
            state,
            targets: Vec::new(),
            retired_ms: None,
            destroyed_ms: None,
        });
        if state == DataKeyState::Active {
            key_use.state = state;
        }
        if !key_use.targets.iter().any(|known| known == target) {
            key_use.targets.push(target.to_owned());
        }
    };
    // The latest run of each target: the map keeps the last that it is given.
    let latest: BTreeMap<_, _> = runs.iter().map(|run| (run.target.as_str(), run.run_id.as_str())).collect();
    for run in &runs {
        let keys = keys_of(run)?;
        let is_latest = latest.get(run.target.as_str()) == Some(&run.run_id.as_str());
        let state = if is_latest { DataKeyState::Active } else { DataKeyState::Draining };
        note(&keys.new, &run.target, state);
        keys.old.iter().for_each(|old| note(old, &run.target, DataKeyState::Draining));
    }
    for key in &known {
        let state = if key.state.opens() { DataKeyState::Active } else { DataKeyState::Draining };
        note(&key.kms, &key.purpose, state);
    }
    for key in &known {
        let key_use = KeyUse {
            key: format!("data-key:{}", KeyId::from_bytes(key.key_id)),
            state: key.state,
            targets: vec![key.purpose.clone()],
            retired_ms: None,
            destroyed_ms: None,
        };
        uses.insert(key_use.key.clone(), key_use);
    }
    for retirement in retirements {
        // A KMS key that wrapped data keys, until they were wrapped under another, is in no run and no row any more.
        let key_use = uses.entry(retirement.key.clone()).or_insert_with(|| KeyUse {
            key: retirement.key.clone(),
            state: DataKeyState::Retired,
            targets: targets_of(&retirement.certificate),
            retired_ms: None,
            destroyed_ms: None,
        });
        key_use.state = match retirement.state {
            RetirementState::Retired => DataKeyState::Retired,
            RetirementState::Destroyed => DataKeyState::Destroyed,
        };
        (key_use.retired_ms, key_use.destroyed_ms) = (Some(retirement.retired_ms), retirement.destroyed_ms);
    }
    Ok(uses.into_values().collect())
}

fn targets_of(certificate: &str) -> Vec<String> {
    let certificate: Value = serde_json::from_str(certificate).unwrap_or_default();
    let targets = certificate["targets"].as_array();
    let names = targets.into_iter().flatten().filter_map(|target| target["name"].as_str());
    names.map(str::to_owned).collect()
}
