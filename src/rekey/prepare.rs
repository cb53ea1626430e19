//! From named keys to a job: loads static keys, asks the KMS, unwraps the registry's data keys.

use std::{env, num::NonZero, sync::Arc};

use super::{DataKeyScope, Hook, Job, Kind, Options, RekeyError, RunKeys, Step, identity};
use crate::{
    envelope::{Format, KeyId, v1::StaticCipher, v3::BoundKey},
    keyring::{
        ClearText, Opener, RegistryError, Sealer, generate,
        kms::{self, Kms, KmsError, Quota},
        spec::{KeySpec, KmsSpec, StaticSource},
        static_key, unwrap,
    },
    secret::DataKey,
    store::{DataKeyState, Store, Target, WrappedDataKey},
    time::rfc3339,
};

/// The keys that an operator chose.
#[derive(Debug, Clone)]
pub struct KeyChoice {
    /// Every key that a stored value may be under.
    pub old: Vec<KeySpec>,
    /// The key to end under.
    pub new: KeySpec,
    /// The format to write.
    pub format: Format,
    /// v2: how far a data key reaches.
    pub scope: DataKeyScope,
    /// v3: make a new data key, even where there is an active one.
    pub new_data_key: bool,
    /// What to make of a URL in the clear.
    pub clear_text: ClearText,
}

/// What a job is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// To write: takes the open run's data key, or the active one, or makes one.
    Run,
    /// To look: writes nothing, and makes no data key.
    Look,
    /// To verify: opens values under the new key, unwrapped afresh, and under no other.
    Verify,
}

/// Builds the job.
///
/// # Errors
/// [`RekeyError::Refused`] for keys that can't be loaded or don't go with the format; the KMS's and the store's.
///
/// # Crash safety
/// Writes nothing. A data key that is made here enters the registry with the run ([`Job::new_data_key`]).
pub async fn prepare(
    store: Arc<dyn Store>,
    target: Target,
    choice: &KeyChoice,
    options: Options,
    intent: Intent,
) -> Result<Job, RekeyError> {
    if matches!(options.kind, Kind::Rewrap) && choice.format != Format::V2 {
        return Err(RekeyError::Refused {
            what: format!("values of format {} hold no wrapped key to wrap anew", choice.format),
            hint: "for the data keys of v3: reseal keys rewrap --to KMS".to_owned(),
        });
    }
    let quota = Quota::new(options.max_kms_calls_per_second.and_then(NonZero::new));
    let mut ring = Ring { quota: Arc::new(quota), ..Ring::default() };
    let new = ring.add(&choice.new).await?;
    let mut old = Vec::new();
    for spec in &choice.old {
        old.push(ring.add(spec).await?.name());
    }
    old.sort();
    old.dedup();
    if intent != Intent::Verify {
        require_living(store.as_ref(), &new.name(), &old).await?;
        require_another(choice, &options, &new.name(), &old)?;
    }
    let columns = target.columns.iter().map(|column| column.name.clone());
    let mut opener = Opener::new(target.name.clone(), columns);
    opener.set_clear_text(choice.clear_text);
    let mut registry = Registry::load(store.as_ref(), &target.name, &ring, &options.hook).await?;
    let (sealer, name) = match (choice.format, &new) {
        (Format::V1, Named::Static(cipher)) => (Sealer::Static(Arc::clone(cipher)), new.name()),
        (Format::V2, Named::Kms(kms)) => {
            opener.add_kms(Arc::clone(kms));
            (Sealer::Wrapped(Arc::clone(kms)), new.name())
        }
        (Format::V3, Named::Kms(_) | Named::Data(_)) => {
            let key = registry.target(store.as_ref(), &target, &new, choice, intent, &options.hook).await?;
            let key_id = key.key_id();
            let is_registered = registry.rows.iter().any(|row| row.key_id == *key_id.as_bytes());
            // A look has no right to name a key that no run will make.
            let name = if intent == Intent::Look && !is_registered {
                format!("a new data key of {}", new.name())
            } else {
                format!("data-key:{key_id}")
            };
            let columns = target.columns.iter().map(|column| column.name.as_str());
            let sealer = Sealer::bound(&key, &target.name, columns);
            registry.opened.push(key);
            (sealer, name)
        }
        (format, _) => return Err(mismatch(format)),
    };
    match (intent, &sealer) {
        (Intent::Verify, Sealer::Static(cipher)) => opener.add_static(Arc::clone(cipher)),
        (Intent::Verify, Sealer::Wrapped(_)) => {}
        (Intent::Verify, Sealer::Bound(key_id, _)) => {
            registry
                .opened
                .iter()
                .filter(|key| key.key_id() == *key_id)
                .for_each(|key| opener.add_data_key(key));
        }
        _ => {
            ring.statics.into_iter().for_each(|cipher| opener.add_static(cipher));
            ring.kms.into_iter().for_each(|kms| opener.add_kms(kms));
            registry.opened.iter().for_each(|key| opener.add_data_key(key));
            registry.unavailable.iter().for_each(|&key_id| opener.add_unavailable(key_id));
        }
    }
    let kind = identity::of(&options.kind, &sealer).await?;
    let keys = RunKeys { format: choice.format, new: name, old, scope: choice.scope, kind };
    let (opener, sealer, target) = (Arc::new(opener), Arc::new(sealer), Arc::new(target));
    Ok(Job { store, target, keys, opener, sealer, new_data_key: registry.new, options })
}

/// Refuses to seal under a key that was retired. As an old key it opens what came back under it, from a backup or by a
/// program that still holds it: a run away from it is the only way on. Not so a data key: no reader opens one that is
/// retired (`docs/formats.md`, what readers reject).
async fn require_living(store: &dyn Store, new: &str, old: &[String]) -> Result<(), RekeyError> {
    let retired = if store.is_migrated().await? { store.retirements().await? } else { Vec::new() };
    let is_gone = |key: &str| key == new || key.starts_with("data-key:") && old.iter().any(|old| old == key);
    let Some(key) = retired.iter().find(|retired| is_gone(&retired.key)) else { return Ok(()) };
    Err(RekeyError::Refused {
        what: format!("{} was retired on {}", key.key, rfc3339(key.retired_ms)),
        hint: match key.key == new {
            true => "nothing may be sealed under it any more: name another key as --new".to_owned(),
            false => "a retired data key opens nothing: leave it out of --old".to_owned(),
        },
    })
}

/// Refuses a run from a static key to the very same one, which would re-key nothing and call that complete. What has
/// something else to do with values under the new key may name it as the old one too.
fn require_another(
    choice: &KeyChoice,
    options: &Options,
    new: &str,
    old: &[String],
) -> Result<(), RekeyError> {
    let does_more = options.reseal_ambiguous || choice.clear_text == ClearText::Seal;
    let is_plain = matches!(options.kind, Kind::Rekey) && choice.format == Format::V1 && !does_more;
    match old {
        [only] if is_plain && only == new => Err(RekeyError::SameKey { key: new.to_owned() }),
        _ => Ok(()),
    }
}

pub(super) fn mismatch(format: Format) -> RekeyError {
    let hint = match format {
        Format::V1 => "--format v1 takes --new static:env:NAME or static:file:PATH",
        Format::V2 => "--format v2 takes --new aws-kms:ARN-OR-ALIAS or local-kms:FILE",
        Format::V3 => "--format v3 takes --new aws-kms:ARN-OR-ALIAS, local-kms:FILE or data-key:HEX32",
    };
    RekeyError::Refused {
        what: format!("format {format} can't be written under the key given as --new"),
        hint: hint.to_owned(),
    }
}

/// A key that was named, loaded.
pub(super) enum Named {
    Static(Arc<StaticCipher>),
    Kms(Arc<dyn Kms>),
    Data(KeyId),
}

impl Named {
    pub(super) fn name(&self) -> String {
        match self {
            Self::Static(cipher) => format!("static:{}", cipher.id()),
            Self::Kms(kms) => kms.key_name().to_owned(),
            Self::Data(key_id) => format!("data-key:{key_id}"),
        }
    }
}

/// The keys that were named, each loaded once.
#[derive(Default)]
pub(super) struct Ring {
    statics: Vec<Arc<StaticCipher>>,
    kms: Vec<Arc<dyn Kms>>,
    connected: Vec<(KmsSpec, Arc<dyn Kms>)>,
    quota: Arc<Quota>,
}

impl Ring {
    pub(super) async fn add(&mut self, spec: &KeySpec) -> Result<Named, RekeyError> {
        match spec {
            KeySpec::Static(source) => {
                let key = static_key::load(source).map_err(|error| refused(spec, &error))?.key;
                let cipher = Arc::new(StaticCipher::new(&key));
                self.statics.push(Arc::clone(&cipher));
                Ok(Named::Static(cipher))
            }
            KeySpec::Kms(name) => {
                if let Some((_, kms)) = self.connected.iter().find(|(known, _)| known == name) {
                    return Ok(Named::Kms(Arc::clone(kms)));
                }
                let kms =
                    kms::connect_within(name, Arc::clone(&self.quota)).await.map_err(
                        |error| match error {
                            kms::ConnectError::Kms(error) => RekeyError::Kms(error),
                            error => refused(spec, &error),
                        },
                    )?;
                self.connected.push((name.clone(), Arc::clone(&kms)));
                self.kms.push(Arc::clone(&kms));
                Ok(Named::Kms(kms))
            }
            KeySpec::DataKey(key_id) => Ok(Named::Data(*key_id)),
        }
    }
}

pub(super) fn refused(spec: &KeySpec, error: &dyn std::error::Error) -> RekeyError {
    let (name, error) = (spec.to_string(), error.to_string());
    let what = if error.starts_with(&format!("{name}: ")) { error } else { format!("{name}: {error}") };
    RekeyError::Refused { what, hint: where_to_keep(spec) }
}

/// What to type so that there is a key where `spec` says.
fn where_to_keep(spec: &KeySpec) -> String {
    match spec {
        KeySpec::Static(StaticSource::Env(name)) if env::var_os(name).is_none() => {
            format!("export {name}, with the key's text, to this shell: read -rs {name}; export {name}")
        }
        KeySpec::Kms(KmsSpec::Local(path)) if !path.exists() => {
            format!("the path of a keyring; a new one: reseal keygen --local-kms {}", path.display())
        }
        _ => "reseal --help lists the forms of a key".to_owned(),
    }
}

/// The registry's data keys of a target, as far as the named KMS keys unwrap them.
struct Registry {
    rows: Vec<WrappedDataKey>,
    opened: Vec<BoundKey>,
    unavailable: Vec<KeyId>,
    /// Made here, not stored yet.
    new: Option<WrappedDataKey>,
}

impl Registry {
    async fn load(store: &dyn Store, purpose: &str, ring: &Ring, hook: &Hook) -> Result<Self, RekeyError> {
        let rows = match store.is_migrated().await? {
            true => hook.at(Step::ReadRegistry, store.data_keys(Some(purpose))).await?,
            false => Vec::new(),
        };
        let mut registry = Self { rows: Vec::new(), opened: Vec::new(), unavailable: Vec::new(), new: None };
        for row in rows.into_iter().filter(|row| row.state.opens()) {
            match hook.at(Step::UnwrapDataKey, unwrap(&row, &ring.kms)).await {
                Ok(key) => registry.opened.push(key),
                // Nobody named its KMS key: a value under it goes to quarantine by that name.
                Err(RegistryError::NotConfigured { key_id, .. }) => registry.unavailable.push(key_id),
                // A verdict on this row of the registry alone.
                Err(
                    RegistryError::Kms { key_id, source: KmsError::Blob { .. } }
                    | RegistryError::OtherKey(key_id),
                ) => registry.unavailable.push(key_id),
                Err(RegistryError::Kms { source, .. }) => return Err(source.into()),
            }
            registry.rows.push(row);
        }
        Ok(registry)
    }

    /// The data key to seal under: the one named; the open run's; the active one under the named KMS key; a new one.
    async fn target(
        &mut self,
        store: &dyn Store,
        target: &Target,
        new: &Named,
        choice: &KeyChoice,
        intent: Intent,
        hook: &Hook,
    ) -> Result<BoundKey, RekeyError> {
        let kms = match new {
            Named::Data(key_id) => return self.take(*key_id),
            Named::Kms(kms) => kms,
            Named::Static(_) => return Err(mismatch(choice.format)),
        };
        let open = if store.is_migrated().await? { store.open_run(&target.name).await? } else { None };
        if let (Intent::Run, Some(run)) = (intent, open)
            && let Ok(keys) = serde_json::from_str::<RunKeys>(&run.keys)
            && let Some(key_id) = keys.new.strip_prefix("data-key:").and_then(|id| id.parse().ok())
            && self
                .rows
                .iter()
                .any(|row| row.kms == kms.key_name() && row.key_id == *KeyId::as_bytes(&key_id))
        {
            return self.take(key_id);
        }
        let active = self
            .rows
            .iter()
            .find(|row| row.state == DataKeyState::Active && row.kms == kms.key_name())
            .map(|row| KeyId::from_bytes(row.key_id));
        match (active, intent) {
            (Some(key_id), Intent::Look | Intent::Verify) => self.take(key_id),
            (Some(key_id), Intent::Run) if !choice.new_data_key => self.take(key_id),
            (None, Intent::Verify) => Err(RekeyError::Refused {
                what: format!("{} has no active data key under {}", target.name, kms.key_name()),
                hint: "reseal keys list".to_owned(),
            }),
            (None, Intent::Look) => throw_away_key(),
            (_, Intent::Run) => {
                let made = hook.at(Step::MakeDataKey, generate(kms.as_ref(), &target.name)).await;
                let (row, key) = made.map_err(registry_error)?;
                self.new = Some(row);
                Ok(key)
            }
        }
    }

    fn take(&mut self, key_id: KeyId) -> Result<BoundKey, RekeyError> {
        match self.opened.iter().position(|key| key.key_id() == key_id) {
            Some(position) => Ok(self.opened.swap_remove(position)),
            None => Err(RekeyError::Refused {
                what: format!(
                    "data key {key_id} is not in the registry, or none of the given KMS keys unwraps it"
                ),
                hint: "reseal keys list".to_owned(),
            }),
        }
    }
}

/// A key that no value is under, for a look at a table that has no data key yet.
fn throw_away_key() -> Result<BoundKey, RekeyError> {
    let key = DataKey::generate().map_err(|_| RekeyError::Refused {
        what: "the operating system gave no randomness".to_owned(),
        hint: "try again".to_owned(),
    })?;
    Ok(BoundKey::new(&key))
}

fn registry_error(error: RegistryError) -> RekeyError {
    match error {
        RegistryError::Kms { source, .. } => source.into(),
        error => RekeyError::Refused { what: error.to_string(), hint: "reseal keys list".to_owned() },
    }
}
