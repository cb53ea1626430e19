//! Retiring a key that no value is under any more, and destroying it after a soak.
//!
//! The order is fence, last sweep, [`verify`](super::verify()), [`retire`], [`destroy`]. A key retires only when every
//! precondition holds or was waived by name; each that does not is an [`Obstacle`], and all are told at once. Every
//! change of state is in the audit log, so a log whose head is the one that was there when the preconditions were
//! looked at shows that they hold still: that is how the decision and its record are one step.
//!
//! What is proven is the database as it is. Backups made before need the old key to be restored, and whoever copied a
//! value elsewhere has it still: the certificate says so.

use std::{collections::BTreeSet, sync::Arc};

use sha2::{Digest, Sha256};

use super::{
    Job, RekeyError, Step,
    elsewhere::{Elsewhere, holders},
    prepare::{Named, Ring},
};
use crate::{
    envelope::{KeyId, v1::StaticCipher},
    keyring::spec::KeySpec,
    store::{NewRetirement, Retirement, RetirementState, Standby, Store, StoreError, Target},
    time::rfc3339,
};

mod certificate;
mod destroy;
mod obstacles;
mod sample;
mod standing;
mod uses;

use certificate::Evidence;
pub use destroy::{Destroyed, destroy};
pub use obstacles::{Obstacle, Remedy};
use obstacles::{Subject, of_columns, of_standbys, of_target, of_the_key, without_run};
pub use standing::{Next, Standing, next_step, standing};
pub use uses::{KeyUse, key_uses};

/// How often the preconditions are looked at anew because a state changed meanwhile.
const ATTEMPTS: usize = 10;

/// Records of the audit log read in one step.
const AUDIT_STEP: u32 = 1000;

/// A key that is to go.
pub struct OldKey {
    name: String,
    kind: OldKind,
}

enum OldKind {
    Static(Arc<StaticCipher>),
    Kms,
    Data(KeyId),
}

impl OldKey {
    /// Loads a static key, or resolves the name of a KMS key.
    ///
    /// # Errors
    /// As [`prepare`](super::prepare()).
    pub async fn load(spec: &KeySpec) -> Result<Self, RekeyError> {
        let named = Ring::default().add(spec).await?;
        let name = named.name();
        let kind = match named {
            Named::Static(cipher) => OldKind::Static(cipher),
            Named::Kms(_) => OldKind::Kms,
            Named::Data(key_id) => OldKind::Data(key_id),
        };
        Ok(Self { name, kind })
    }

    /// `static:` and its id, a KMS key's name, or `data-key:` and its id.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn data_key(&self) -> Option<[u8; 16]> {
        match &self.kind {
            OldKind::Data(key_id) => Some(*key_id.as_bytes()),
            OldKind::Static(_) | OldKind::Kms => None,
        }
    }
}

/// Why a key was not retired, or not destroyed.
#[derive(Debug, thiserror::Error)]
pub enum RetireError {
    /// Preconditions that do not hold, each of them; nothing was written.
    #[error("{} of the preconditions do not hold", .0.len())]
    Obstacles(Vec<Obstacle>),
    /// Anything else.
    #[error(transparent)]
    Rekey(#[from] RekeyError),
}

impl From<StoreError> for RetireError {
    fn from(error: StoreError) -> Self {
        Self::Rekey(error.into())
    }
}

fn refused(what: String, hint: &str) -> RetireError {
    RetireError::Rekey(RekeyError::Refused { what, hint: hint.to_owned() })
}

/// A key that was retired.
#[derive(Debug, Clone)]
pub struct Retired {
    /// Its name.
    pub key: String,
    /// The targets that were under it.
    pub targets: Vec<String>,
    /// The certificate: JSON, as it is kept.
    pub certificate: String,
    /// SHA-256 of the certificate, as it is in the audit log.
    pub sha256: [u8; 32],
    /// The preconditions that did not hold, and were waived by name.
    pub waived: Vec<Obstacle>,
}

/// Retires `key`, when every precondition holds or is among `waivers` by its name.
///
/// `job` is of the key that the target ended under, as for a verify: that it is at hand and opens values now is one of
/// the preconditions.
///
/// # Errors
/// [`RetireError::Obstacles`]; [`RekeyError::Refused`] for a key that is unknown, active or retired already.
///
/// # Crash safety
/// One transaction at the end: the key is retired, with its certificate, or nothing was written.
pub async fn retire(job: &Arc<Job>, key: &OldKey, waivers: &[String]) -> Result<Retired, RetireError> {
    let store = job.store.as_ref();
    // Early: what follows reads values.
    subjects(job, key).await?;
    let sampled = sample::under_new_key(job).await?;
    let columns = match &key.kind {
        OldKind::Static(cipher) => holders(store, &job.target, &[Arc::clone(cipher)]).await?,
        OldKind::Kms | OldKind::Data(_) => Elsewhere::default(),
    };
    for _ in 0..ATTEMPTS {
        let head = store.audit_head().await?;
        let targets = subjects(job, key).await?;
        let mut evidence = Evidence::new(key, head, store.clock().await?.0, &columns, sampled);
        let mut obstacles = of_the_key(store, key, &targets[0]).await?;
        obstacles.extend(sampled.obstacle(&targets[0]));
        for (number, target) in targets.iter().enumerate() {
            let Some(standing) = standing(store, target).await? else {
                obstacles.push(without_run(target));
                continue;
            };
            if number == 0 {
                require_same_key(job, &standing)?;
            }
            obstacles.extend(of_target(&standing, &Subject::new(key, number == 0)));
            let standbys = standbys(store, &standing).await?;
            obstacles.extend(of_standbys(target, &standbys));
            evidence.add(store, standing, standbys).await?;
        }
        obstacles.extend(of_columns(&targets[0], &columns));
        let (waived, standing) = obstacles.into_iter().partition::<Vec<_>, _>(|obstacle| {
            obstacle.waiver.as_ref().is_some_and(|waiver| waivers.contains(waiver))
        });
        if !standing.is_empty() {
            return Err(RetireError::Obstacles(standing));
        }
        let certificate = evidence.certificate(&waived);
        let sha256: [u8; 32] = Sha256::digest(&certificate).into();
        let detail = serde_json::json!({
            "certificate": hex::encode(sha256),
            "targets": targets.iter().map(|target| &target.name).collect::<Vec<_>>(),
            "waived": waived.iter().filter_map(|obstacle| obstacle.waiver.as_ref()).collect::<Vec<_>>(),
        });
        let new =
            NewRetirement { key: &key.name, data_key: key.data_key(), certificate: &certificate, detail };
        if job.at(Step::Retire, store.retire(&new, head)).await? {
            let targets = targets.into_iter().map(|target| target.name).collect();
            return Ok(Retired { key: key.name.clone(), targets, certificate, sha256, waived });
        }
    }
    Err(refused("states keep changing while the preconditions are looked at".to_owned(), "try again"))
}

/// The targets that were, or may have been, under the key; the job's first.
///
/// # Errors
/// Refused: a key that is unknown or retired already, or has nothing to do with the job's target, or is its new one.
async fn subjects(job: &Job, key: &OldKey) -> Result<Vec<Target>, RetireError> {
    let store = job.store.as_ref();
    require_not_retired(&key.name, &store.retirements().await?)?;
    let mut targets = concerned(store, key).await?;
    let main = targets.iter().position(|target| target.name == job.target.name);
    let main = main.ok_or_else(|| elsewhere(&job.target.name, key, &targets))?;
    targets.swap(0, main);
    if key.name == job.keys.new {
        return Err(refused(
            format!("{} is the key given as --new", key.name),
            "name the key that is to go first, and the one that replaced it as --new",
        ));
    }
    Ok(targets)
}

/// Those that a run took from the key or to it; for a data key, the one that it was made for.
async fn concerned(store: &dyn Store, key: &OldKey) -> Result<Vec<Target>, RetireError> {
    let unknown =
        || refused(format!("{} is unknown: no run was from it or to it", key.name), "reseal keys list");
    let mut targets = store.targets().await?;
    if let OldKind::Data(key_id) = &key.kind {
        let known = store.data_keys(None).await?;
        let known = known.into_iter().find(|known| known.key_id == *key_id.as_bytes()).ok_or_else(unknown)?;
        targets.retain(|target| target.name == known.purpose);
    } else {
        let mut names = wrapped_for(store, key).await?;
        for run in store.runs().await? {
            if standing::keys_of(&run)?.names(&key.name) {
                names.insert(run.target);
            }
        }
        targets.retain(|target| names.contains(&target.name));
    }
    if targets.is_empty() { Err(unknown()) } else { Ok(targets) }
}

/// The targets whose data keys were made under a KMS key, by the audit log: the registry forgets it when they are
/// wrapped under another.
async fn wrapped_for(store: &dyn Store, key: &OldKey) -> Result<BTreeSet<String>, StoreError> {
    let (mut targets, mut after) = (BTreeSet::new(), 0);
    if !matches!(key.kind, OldKind::Kms) {
        return Ok(targets);
    }
    loop {
        let page = store.audit_page(after, AUDIT_STEP).await?;
        let Some(last) = page.last() else { return Ok(targets) };
        after = last.seq;
        for record in page.iter().filter(|record| record.action == "data-key-added") {
            let detail: serde_json::Value = serde_json::from_str(&record.detail).unwrap_or_default();
            if detail["kms"] == key.name.as_str() {
                targets.extend(detail["purpose"].as_str().map(str::to_owned));
            }
        }
    }
}

/// Refuses a `--new` that is not what the target ended under: nothing that is on record is of that key.
fn require_same_key(job: &Job, standing: &Standing) -> Result<(), RetireError> {
    let (given, ended) = (&job.keys, &standing.keys);
    if (given.format, &given.new) == (ended.format, &ended.new) {
        return Ok(());
    }
    Err(refused(
        format!(
            "the latest run of {} was to {} under {}, and --new is {} under {}",
            standing.target.name, ended.format, ended.new, given.format, given.new
        ),
        "name the key and the format that the run was to: --new, --format",
    ))
}

fn elsewhere(target: &str, key: &OldKey, targets: &[Target]) -> RetireError {
    let names = targets.iter().map(|target| target.name.as_str()).collect::<Vec<_>>().join(", ");
    refused(
        format!("no run of {target} was from {} or to it; it is a key of {names}", key.name),
        "name one of those: --table, --key-column and --column",
    )
}

fn require_not_retired(key: &str, retirements: &[Retirement]) -> Result<(), RetireError> {
    let Some(retirement) = retirements.iter().find(|retirement| retirement.key == key) else { return Ok(()) };
    Err(match (retirement.state, retirement.destroyed_ms) {
        (RetirementState::Destroyed, Some(at)) => {
            refused(format!("{key} was destroyed on {}", rfc3339(at)), "reseal keys list")
        }
        _ => refused(
            format!("{key} was retired already, on {}", rfc3339(retirement.retired_ms)),
            "after the soak: reseal destroy KEY",
        ),
    })
}

async fn standbys(store: &dyn Store, standing: &Standing) -> Result<Vec<Standby>, StoreError> {
    match standing.verification.as_ref().and_then(|verification| verification.begun.position.as_ref()) {
        Some(position) => store.standbys(position).await,
        None => Ok(Vec::new()),
    }
}
