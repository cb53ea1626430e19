//! Where a target stands on its way from a run to the end of the old key.

use crate::{
    envelope::Format,
    rekey::{RekeyError, RunKeys, fence::admits},
    store::{
        Failure, Fence, FenceMode, Quarantined, RunRow, RunState, Store, StoreError, Target, Verification,
    },
};

/// Quarantined cells that are named, at most.
const NAMED_CELLS: u32 = 1000;

/// What is on record of a target.
#[derive(Debug, Clone)]
pub struct Standing {
    /// The table, as it was registered.
    pub target: Target,
    /// Its latest run.
    pub run: RunRow,
    /// That run's keys.
    pub keys: RunKeys,
    /// Its fence.
    pub fence: Option<Fence>,
    /// Its latest verify that ended.
    pub verification: Option<Verification>,
    /// How many cells are in quarantine.
    pub held: u64,
    /// The first of them.
    pub quarantined: Vec<Quarantined>,
}

/// What is on record of `target`; `None`: there was no run.
///
/// # Errors
/// The store's.
pub async fn standing(store: &dyn Store, target: &Target) -> Result<Option<Standing>, RekeyError> {
    let name = &target.name;
    let Some(run) = store.latest_run(name).await? else { return Ok(None) };
    Ok(Some(Standing {
        keys: keys_of(&run)?,
        run,
        fence: store.fence(name).await?,
        verification: store.latest_verification(name).await?,
        held: store.quarantine_size(name).await?,
        quarantined: store.quarantine(name, None, NAMED_CELLS).await?,
        target: target.clone(),
    }))
}

/// The keys of a run, as it was opened with.
pub(super) fn keys_of(run: &RunRow) -> Result<RunKeys, StoreError> {
    serde_json::from_str(&run.keys).map_err(|_| StoreError::Corrupt { what: "reseal_runs.keys" })
}

impl RunKeys {
    /// Whether the run was from this key or to it.
    pub(super) fn names(&self, key: &str) -> bool {
        self.new == key || self.old.iter().any(|old| old == key)
    }
}

impl Standing {
    /// Whether there is a fence for the format at all: nothing in a v1 value says which key it is under.
    pub fn has_fences(&self) -> bool {
        self.keys.format != Format::V1
    }

    /// The fence, when it is as it was put up and refuses what is not under the run's new key.
    pub(super) fn standing_fence(&self) -> Option<&Fence> {
        self.fence.as_ref().filter(|fence| {
            fence.mode == FenceMode::Enforce && fence.is_intact() && admits(fence.rule, &self.keys)
        })
    }

    /// The latest verify, when it is of the latest run, whole, of its format and key, and made behind the fence that is
    /// up. Values may have failed it.
    pub(super) fn sound_verification(&self) -> Option<&Verification> {
        self.verification.as_ref().filter(|verification| {
            verification.is_of(&self.run)
                && verification.is_whole()
                && verification.format == self.keys.format.to_string()
                && verification.new_key == self.keys.new
                && self.standing_fence().is_none_or(|fence| verification.is_behind(fence))
        })
    }

    /// The cells that failed a verify and are not in quarantine; all are counted, and the first are named.
    pub(super) fn unexplained<'a>(
        &'a self,
        verification: &'a Verification,
    ) -> (i64, impl Iterator<Item = &'a Failure>) {
        let is_held = |failure: &&Failure| {
            self.quarantined.iter().any(|cell| cell.row_key == failure.row && cell.column == failure.column)
        };
        let held = verification.failures.iter().filter(is_held).count();
        let count = verification.failed - i64::try_from(held).unwrap_or(i64::MAX);
        (count, verification.failures.iter().filter(move |failure| !is_held(failure)))
    }
}

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Start a run, go on with the open one, or start another after one that failed.
    Run,
    /// Look at what is in quarantine.
    Quarantine,
    /// Refuse writes that are not under the new key.
    Fence,
    /// Run once more, behind the fence.
    LastSweep,
    /// Run once more: values failed the latest verify.
    Again,
    /// Verify.
    Verify,
    /// Retire an old key.
    Retire,
    /// Destroy a retired key, once it has soaked.
    Destroy,
    /// Nothing.
    Nothing,
}

/// What is to be done next, by what is on record. `draining` and `retired`: how many of the target's old keys are in
/// these states.
///
/// A run that is older than the fence is not enough: what was written between its last sweep and the fence, only
/// another sweep re-keys. A verify behind the fence that passed shows that there was nothing.
///
/// A key that is retired is not the end of it: a backup that is restored brings its values back, and a verify shows them.
pub fn next_step(standing: &Standing, draining: usize, retired: usize) -> Next {
    let sound = standing.sound_verification();
    let verified = sound.is_some_and(Verification::passed);
    let unexplained = sound.map(|verification| standing.unexplained(verification).0);
    let has_failed = unexplained.is_some_and(|count| count > 0);
    let fence = standing.standing_fence();
    match standing.run.state {
        RunState::Running | RunState::Paused | RunState::Chased | RunState::Failed => Next::Run,
        RunState::Complete | RunState::Quarantined => match () {
            () if draining == 0 && has_failed => Next::Again,
            () if draining == 0 && retired > 0 && unexplained.is_some() => Next::Destroy,
            () if draining == 0 && verified => Next::Nothing,
            () if standing.held > 0 => Next::Quarantine,
            () if draining > 0 && standing.has_fences() && fence.is_none() => Next::Fence,
            () if !verified && fence.is_some_and(|fence| standing.run.created_ms < fence.since_ms) => {
                Next::LastSweep
            }
            () if has_failed => Next::Again,
            () if !verified => Next::Verify,
            () => Next::Retire,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        envelope::Encoding,
        rekey::{DataKeyScope, RunKind},
        store::{Begun, Column, FenceRule, KeyKind, Orders},
    };

    const RAISED: i64 = 2_000;

    /// A run to v2 that ended before any fence was up.
    fn complete() -> Standing {
        let column = Column { name: "url".to_owned(), encoding: Encoding::Bytes };
        Standing {
            target: Target {
                name: "tenants".to_owned(),
                schema: "public".to_owned(),
                table: "tenants".to_owned(),
                oid: 1,
                key_column: "id".to_owned(),
                key_kind: KeyKind::Uuid,
                columns: vec![column],
                has_triggers: false,
            },
            run: RunRow {
                run_id: "1".to_owned(),
                target: "tenants".to_owned(),
                keys: String::new(),
                state: RunState::Complete,
                sweep: 2,
                chased: 0,
                row_count: 1,
                created_ms: 1_000,
                finished_ms: Some(1_500),
                orders: Orders::default(),
                horizon: None,
            },
            keys: RunKeys {
                format: Format::V2,
                new: "kms".to_owned(),
                old: vec!["static:old".to_owned()],
                scope: DataKeyScope::Row,
                kind: RunKind::Rekey,
            },
            fence: None,
            verification: None,
            held: 0,
            quarantined: Vec::new(),
        }
    }

    fn fence() -> Fence {
        Fence { mode: FenceMode::Enforce, rule: FenceRule::Wrapped, since_ms: RAISED, drift: Vec::new() }
    }

    fn verification(fence: Option<&Fence>) -> Verification {
        Verification {
            begun: Begun {
                verification: 1,
                run_id: "1".to_owned(),
                fence: fence.map(|fence| (fence.rule, fence.since_ms)),
                began_ms: 3_000,
                position: None,
            },
            target: "tenants".to_owned(),
            format: "v2".to_owned(),
            new_key: "kms".to_owned(),
            rows: 1,
            opened: 1,
            empty: 0,
            failed: 0,
            cells: 1,
            failures: Vec::new(),
            ended_ms: 3_100,
        }
    }

    #[test]
    fn each_step_leads_to_the_next() {
        let mut standing = complete();
        assert_eq!(next_step(&standing, 1, 0), Next::Fence);
        standing.fence = Some(fence());
        assert_eq!(next_step(&standing, 1, 0), Next::LastSweep);
        (standing.run.run_id, standing.run.created_ms) = ("2".to_owned(), RAISED + 1);
        assert_eq!(next_step(&standing, 1, 0), Next::Verify);
        standing.verification = Some(verification(standing.fence.as_ref()));
        assert_eq!(next_step(&standing, 1, 0), Next::Verify, "it is of the run before");
        standing.run.run_id = "1".to_owned();
        assert_eq!(next_step(&standing, 1, 0), Next::Retire);
        assert_eq!(next_step(&standing, 0, 1), Next::Destroy);
        assert_eq!(next_step(&standing, 0, 0), Next::Nothing);
    }

    #[test]
    fn values_that_failed_the_verify_come_before_any_end() {
        let mut standing = Standing { fence: Some(fence()), ..complete() };
        standing.verification = Some(verification(standing.fence.as_ref()));
        let failure =
            Failure { row: "7".to_owned(), column: "url".to_owned(), reason: "unopened".to_owned() };
        let verification = standing.verification.as_mut().unwrap();
        (verification.opened, verification.failed, verification.failures) = (0, 1, vec![failure]);
        assert_eq!(next_step(&standing, 0, 1), Next::Again);
        assert_eq!(next_step(&standing, 0, 0), Next::Again);
        standing.run.created_ms = RAISED + 1;
        assert_eq!(next_step(&standing, 1, 0), Next::Again, "another verify would find the same");
        let cell = Quarantined {
            row_key: "7".to_owned(),
            column: "url".to_owned(),
            reason: "unopened".to_owned(),
            sha256: [0; 32],
            first_seen_ms: 0,
            last_seen_ms: 0,
        };
        (standing.held, standing.quarantined) = (1, vec![cell]);
        assert_eq!(next_step(&standing, 0, 1), Next::Destroy, "its retirement waived what is in quarantine");
        standing.run.run_id = "2".to_owned();
        standing.held = 0;
        assert_eq!(next_step(&standing, 0, 1), Next::Verify, "nobody has looked since the latest run");
    }

    #[test]
    fn a_run_that_is_not_done_comes_first() {
        for state in [RunState::Running, RunState::Paused, RunState::Chased, RunState::Failed] {
            let mut standing = Standing { fence: Some(fence()), ..complete() };
            standing.verification = Some(verification(standing.fence.as_ref()));
            standing.run.state = state;
            assert_eq!(next_step(&standing, 1, 0), Next::Run, "{state:?}");
        }
        let standing = Standing { held: 1, ..complete() };
        assert_eq!(next_step(&standing, 1, 0), Next::Quarantine);
    }

    #[test]
    fn a_verify_behind_the_fence_makes_the_last_sweep_needless() {
        let fence = fence();
        let mut standing = Standing { verification: Some(verification(Some(&fence))), ..complete() };
        standing.fence = Some(fence);
        assert_eq!(next_step(&standing, 1, 0), Next::Retire);
    }

    #[test]
    fn a_verify_counts_only_as_what_it_was() {
        let sound = |change: fn(&mut Standing)| {
            let mut standing = Standing { fence: Some(fence()), ..complete() };
            standing.verification = Some(verification(standing.fence.as_ref()));
            change(&mut standing);
            standing.sound_verification().is_some()
        };
        assert!(sound(|_| {}));
        assert!(!sound(|standing| standing.verification = None));
        assert!(!sound(|standing| standing.keys.new = "another".to_owned()));
        assert!(!sound(|standing| standing.run.run_id = "2".to_owned()));
        assert!(!sound(|standing| standing.fence.as_mut().unwrap().since_ms += 1), "put up anew since");
        assert!(!sound(|standing| standing.verification.as_mut().unwrap().format = "v3".to_owned()));
        assert!(!sound(|standing| standing.verification.as_mut().unwrap().cells += 1), "a row was hidden");
        assert!(!sound(|standing| standing.verification.as_mut().unwrap().begun.fence = None));
        assert!(sound(|standing| {
            standing.fence = None;
            standing.verification.as_mut().unwrap().begun.fence = None;
        }));
    }
}
