//! The fence, as an operator moves it: which rule a key stands for, and patience with whoever holds the table.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::{Job, RekeyError, RunKeys};
use crate::{
    envelope::{Format, KeyId},
    keyring::{
        kms::{self, ConnectError},
        spec::KeySpec,
    },
    store::{Blocker, DataKeyState, Fence, FenceMode, FenceRule, Store, StoreError, Target},
};

/// Between two attempts at the table's lock, those who queued behind the first get their turn.
const PAUSE: Duration = Duration::from_millis(500);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

/// What the new key's values can be told by: for v3 the active data key under a KMS key, or the one that is named.
///
/// # Errors
/// [`RekeyError::Refused`]: nothing in a v1 value says which key it is under, so no fence can.
pub async fn fence_rule(
    store: &dyn Store,
    target: &str,
    format: Format,
    new: &KeySpec,
) -> Result<FenceRule, RekeyError> {
    match (format, new) {
        (Format::V1, _) => Err(RekeyError::Refused {
            what: "a fence can't guard v1: nothing in a v1 value says which key it is under".to_owned(),
            hint: "show by other means that every program holds the new key; or move to v3: --format v3"
                .to_owned(),
        }),
        (Format::V2, KeySpec::Kms(_)) => Ok(FenceRule::Wrapped),
        (Format::V3, KeySpec::DataKey(key_id)) => {
            let known = store.data_keys(Some(target)).await?;
            let is_it = |key_id: &KeyId| {
                known.iter().any(|key| key.key_id == *key_id.as_bytes() && key.state.opens())
            };
            Some(*key_id).filter(is_it).map(FenceRule::Bound).ok_or_else(|| RekeyError::Refused {
                what: format!("data key {key_id} is not one of {target}'s that values may be under"),
                hint: "reseal keys list".to_owned(),
            })
        }
        (Format::V3, KeySpec::Kms(spec)) => {
            let kms = kms::connect(spec).await.map_err(|error| match error {
                ConnectError::Kms(error) => RekeyError::Kms(error),
                error => RekeyError::Refused {
                    what: format!("{new}: {error}"),
                    hint: "reseal fence enforce --help".to_owned(),
                },
            })?;
            let known = store.data_keys(Some(target)).await?;
            let active =
                known.iter().find(|key| key.state == DataKeyState::Active && key.kms == kms.key_name());
            active.map(|key| FenceRule::Bound(KeyId::from_bytes(key.key_id))).ok_or_else(|| {
                RekeyError::Refused {
                    what: format!("{target} has no active data key under {}", kms.key_name()),
                    hint: format!("make one, or start the run, which does: reseal keys new --new {new}"),
                }
            })
        }
        (format, _) => Err(super::prepare::mismatch(format)),
    }
}

/// Puts the fence up or makes it another, however often others must be let go first, for as long as `patience`.
///
/// `waiting` is told, after each attempt that had to give way, who holds the table.
///
/// # Errors
/// [`RekeyError::Refused`] when a run to another key is open, which an enforced fence would stop. When patience is
/// spent, the store's error, which is resumable: the table is as it was.
pub async fn raise_fence(
    store: &dyn Store,
    target: &Target,
    mode: FenceMode,
    rule: FenceRule,
    patience: Duration,
    waiting: impl FnMut(&[Blocker]),
) -> Result<Fence, RekeyError> {
    if mode == FenceMode::Enforce
        && let Some(run) = store.open_run(&target.name).await?
        && serde_json::from_str::<RunKeys>(&run.keys).is_ok_and(|keys| !admits(rule, &keys))
    {
        return Err(RekeyError::Refused {
            what: format!(
                "run {} of {} is open to another key: the fence would stop it",
                run.run_id, run.target
            ),
            hint: "finish it first: reseal status".to_owned(),
        });
    }
    let raise = || async {
        // In a transaction of its own: who is in the way is asked of a target that is registered.
        store.register(target).await?;
        store.raise_fence(target, mode, rule).await
    };
    Ok(patiently(store, &target.name, Takes::WriteLock, patience, raise, waiting).await?)
}

/// Takes the fence down, with the same patience. `None`: there was none.
///
/// # Errors
/// When patience is spent, the store's error, which is resumable: the fence is as it was.
pub async fn lower_fence(
    store: &dyn Store,
    target: &str,
    patience: Duration,
    waiting: impl FnMut(&[Blocker]),
) -> Result<Option<Fence>, RekeyError> {
    let lower = || store.lower_fence(target);
    Ok(patiently(store, target, Takes::EveryLock, patience, lower, waiting).await?)
}

/// Refuses a job whose writes the fence would refuse.
pub(super) fn require_passable(job: &Job, fence: Option<Fence>) -> Result<(), RekeyError> {
    match fence {
        Some(fence) if fence.mode == FenceMode::Enforce && !admits(fence.rule, &job.keys) => {
            let (target, RunKeys { format, new, .. }) = (&job.target.name, &job.keys);
            Err(RekeyError::Refused {
                what: format!(
                    "the fence of {target} takes only {}: it would refuse {format} under {new}",
                    fence.rule
                ),
                hint: "reseal fence off".to_owned(),
            })
        }
        _ => Ok(()),
    }
}

/// Whether the fence lets a run with these keys write.
fn admits(rule: FenceRule, keys: &RunKeys) -> bool {
    match rule {
        FenceRule::Wrapped => keys.format == Format::V2,
        FenceRule::Bound(key_id) => keys.new == format!("data-key:{key_id}"),
    }
}

/// Whom a change of the fence has to wait for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    /// Who writes the table; but where an older trigger must go first, who reads it too.
    WriteLock,
    /// Who uses it in whatever way.
    EveryLock,
}

async fn patiently<T, F: Future<Output = Result<T, StoreError>>>(
    store: &dyn Store,
    target: &str,
    takes: Takes,
    patience: Duration,
    attempt: impl Fn() -> F,
    mut waiting: impl FnMut(&[Blocker]),
) -> Result<T, StoreError> {
    let (started, mut pause) = (Instant::now(), PAUSE);
    loop {
        match attempt().await {
            Err(error) if error.is_rolled_back() => {
                let mut blockers = store.fence_blockers(target).await?;
                if takes == Takes::WriteLock && blockers.iter().any(|blocker| blocker.writes) {
                    blockers.retain(|blocker| blocker.writes);
                }
                waiting(&blockers);
                if started.elapsed() + pause > patience {
                    return Err(error);
                }
                sleep(pause).await;
                pause = (2 * pause).min(LONGEST_PAUSE);
            }
            done => return done,
        }
    }
}
