//! The boundaries of a run: every point at which it asks the database or a KMS for something, by name, and a hook
//! that is called at each.
//!
//! A process may die before or after any of these, and nothing is lost: that is what the list is for. A test walks
//! it and dies at every one; a program that embeds this crate can trace or time a run with it.

use std::{fmt, future::Future, sync::Arc};

macro_rules! steps {
    ($($(#[doc = $doc:literal])+ $step:ident => $name:literal,)+) => {
        /// What a run, a verify, a retirement or the like is about to ask for, or has asked for.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Step {
            $($(#[doc = $doc])+ $step,)+
        }

        impl Step {
            /// Every step, in about the order in which a run first comes to it.
            pub const ALL: &[Self] = &[$(Self::$step),+];

            /// Its name, for logs.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$step => $name,)+
                }
            }
        }
    };
}

steps! {
    /// The registry's data keys of the target are read.
    ReadRegistry => "read-registry",
    /// A registered data key is unwrapped by the KMS.
    UnwrapDataKey => "unwrap-data-key",
    /// A data key is made by the KMS, and unwrapped again from the bytes to be stored. It is not stored yet.
    MakeDataKey => "make-data-key",
    /// The target's fence is looked at, to see that it would let the run write.
    ReadFence => "read-fence",
    /// The target's open run is looked for.
    FindRun => "find-run",
    /// Values are sampled, and opened, before a run is created.
    Sample => "sample",
    /// The target is registered under its logical name.
    Register => "register",
    /// The table's rows are counted, and its keys cut into ranges.
    Split => "split",
    /// The run, its first shards and its new data key are stored, in one transaction.
    CreateRun => "create-run",
    /// The process says for the first time that it is there, and hears what was ordered.
    Beat => "beat",
    /// The run's row is read.
    ReadRun => "read-run",
    /// A shard is claimed, and its fence number grows.
    Claim => "claim",
    /// The lease is renewed, where no batch has done it for 5 s.
    Renew => "renew",
    /// A page of rows is read.
    ReadPage => "read-page",
    /// A page's values are opened, sealed and opened again.
    Reseal => "reseal",
    /// A value's data key is unwrapped by the KMS; in a verify too.
    UnwrapValueKey => "unwrap-value-key",
    /// A data key for one row, or one batch, of v2 values is made by the KMS, or wrapped anew, and unwrapped again.
    MakeValueKey => "make-value-key",
    /// A value that is too large to be read is hashed by the database.
    Fingerprint => "fingerprint",
    /// A batch is committed with its checkpoint, in one transaction.
    Commit => "commit",
    /// Cells that somebody else changed first are committed, re-sealed from what they hold now.
    SettleConflicts => "settle-conflicts",
    /// The cursor passes over a row that stays locked.
    DeferRow => "defer-row",
    /// A shard is given back.
    Release => "release",
    /// A sweep's counters, or the run's, are read.
    Tally => "tally",
    /// The next sweep's shards are stored.
    NextSweep => "next-sweep",
    /// The quarantine records that are left are counted.
    CloseQuarantine => "close-quarantine",
    /// The run's state changes.
    MoveRun => "move-run",
    /// The process takes back what it said of itself.
    Leave => "leave",
    /// Quarantine records are read, to try their values again.
    ReadQuarantine => "read-quarantine",
    /// A quarantined row is read again.
    ReadRow => "read-row",
    /// A quarantined value that opens now is replaced and its record removed, in one transaction.
    SettleQuarantined => "settle-quarantined",
    /// The fence is raised. No job is needed for that, so its caller takes the step: [`Hook::at`].
    RaiseFence => "raise-fence",
    /// It is recorded that a verify has begun, which brings every commit before it to the disk.
    BeginVerify => "begin-verify",
    /// The snapshot of a verify is read.
    Snapshot => "snapshot",
    /// What a verify found is recorded.
    EndVerify => "end-verify",
    /// A key is retired, with its certificate, in one transaction.
    Retire => "retire",
    /// A staging is opened, or the open one found.
    OpenStaging => "open-staging",
    /// A page of rows is read that are not staged as they are now.
    ReadUnstaged => "read-unstaged",
    /// A page of values, sealed ahead, is put into the side table.
    Stage => "stage",
    /// The table is locked for a swap; the transaction stays open.
    BeginSwap => "begin-swap",
    /// Under the lock, the rows are read that changed since they were staged.
    ReadChanged => "read-changed",
    /// Every staged value is put in place, and the transaction committed.
    FinishSwap => "finish-swap",
    /// Rows of the side table that are of no more use are removed.
    ClearStaged => "clear-staged",
    /// It is recorded that nothing is staged any more.
    CloseStaging => "close-staging",
}

/// Before a step or after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Moment {
    /// Nothing has been asked for yet.
    Before,
    /// The answer is here, a refusal too.
    After,
}

/// Called before and after every [`Step`]; [`Hook::default`] calls nothing.
///
/// It is called on the task that takes the step, which waits for it. A step that is cut off, because another part of
/// the run has ended, has a before and no after. Trying again while the database is in trouble belongs to the step.
#[derive(Clone, Default)]
pub struct Hook(Option<Arc<dyn Fn(Step, Moment) + Send + Sync>>);

impl Hook {
    /// Calls `observe`.
    pub fn new(observe: impl Fn(Step, Moment) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(observe)))
    }

    /// Takes a step under the eyes of the hook.
    pub async fn at<T>(&self, step: Step, taken: impl Future<Output = T>) -> T {
        self.call(step, Moment::Before);
        let answer = taken.await;
        self.call(step, Moment::After);
        answer
    }

    fn call(&self, step: Step, moment: Moment) {
        if let Some(observe) = &self.0 {
            observe(step, moment);
        }
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Hook(set)" } else { "Hook(none)" })
    }
}
