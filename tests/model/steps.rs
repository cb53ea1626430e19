//! The steps: each is one transaction of the engine, of an operator's command or of another program, or one accident.
//! A function gives the state after its step, or nothing where the step can't be taken.

use super::{
    Protocol,
    state::{CELLS, State},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    // The operator.
    StartRun,
    FenceEnforce,
    FenceOff,
    VerifySnapshot,
    VerifyRecord,
    Retire,
    // A worker of the engine.
    Claim {
        worker: usize,
        shard: usize,
    },
    ReadPage {
        worker: usize,
    },
    CommitBatch {
        worker: usize,
    },
    SettleConflicts {
        worker: usize,
    },
    PassOverLocked {
        worker: usize,
    },
    JudgeSweep {
        worker: usize,
    },
    EndSweep {
        worker: usize,
    },
    /// The other half of a commit that a flaw took apart.
    OtherHalf {
        worker: usize,
    },
    // A program that holds only the old key, and one that writes under the new.
    StaleReads {
        row: usize,
    },
    StaleSaves,
    StaleWrites {
        cell: usize,
    },
    StaleCommits,
    NewKeyWrites {
        cell: usize,
    },
    // Accidents.
    Crash {
        worker: usize,
    },
    LeaseRunsOut {
        shard: usize,
    },
    Outage {
        before: usize,
    },
}

impl Protocol {
    pub(super) fn every_step(&self, state: &State) -> Vec<Step> {
        use Step::{
            Claim, CommitBatch, Crash, EndSweep, FenceEnforce, FenceOff, JudgeSweep, LeaseRunsOut,
            NewKeyWrites, OtherHalf, Outage, PassOverLocked, ReadPage, Retire, SettleConflicts, StaleCommits,
            StaleReads, StaleSaves, StaleWrites, StartRun, VerifyRecord, VerifySnapshot,
        };
        let mut steps = vec![StartRun, FenceEnforce, FenceOff, VerifySnapshot, VerifyRecord, Retire];
        for worker in 0..self.workers {
            steps.extend((0..self.shards).map(|shard| Claim { worker, shard }));
            steps.extend([ReadPage { worker }, CommitBatch { worker }, OtherHalf { worker }]);
            steps.extend([SettleConflicts { worker }, PassOverLocked { worker }]);
            steps.extend([JudgeSweep { worker }, EndSweep { worker }, Crash { worker }]);
        }
        steps.extend((0..self.rows).map(|row| StaleReads { row }));
        steps.extend([StaleSaves, StaleCommits]);
        steps.extend((0..CELLS).flat_map(|cell| [StaleWrites { cell }, NewKeyWrites { cell }]));
        steps.extend((0..self.shards).map(|shard| LeaseRunsOut { shard }));
        steps.extend((0..state.unflushed.len()).map(|before| Outage { before }));
        steps
    }

    pub(super) fn take(&self, state: &State, step: Step) -> Option<State> {
        let mut next = match step {
            Step::StartRun => self.start_run(state),
            Step::FenceEnforce => self.fence_enforce(state),
            Step::FenceOff => self.fence_off(state),
            Step::VerifySnapshot => self.verify_snapshot(state),
            Step::VerifyRecord => self.verify_record(state),
            Step::Retire => self.retire(state),
            Step::Claim { worker, shard } => self.claim(state, worker, shard),
            Step::ReadPage { worker } => self.read_page(state, worker),
            Step::CommitBatch { worker } => self.commit_batch(state, worker),
            Step::SettleConflicts { worker } => self.settle_conflicts(state, worker),
            Step::PassOverLocked { worker } => self.pass_over_locked(state, worker),
            Step::JudgeSweep { worker } => self.judge_sweep(state, worker),
            Step::EndSweep { worker } => self.end_sweep(state, worker),
            Step::OtherHalf { worker } => self.other_half(state, worker),
            Step::StaleReads { row } => self.stale_reads(state, row),
            Step::StaleSaves => self.stale_saves(state),
            Step::StaleWrites { cell } => self.stale_writes(state, cell),
            Step::StaleCommits => self.stale_commits(state),
            Step::NewKeyWrites { cell } => self.new_key_writes(state, cell),
            Step::Crash { worker } => self.crash(state, worker),
            Step::LeaseRunsOut { shard } => self.lease_runs_out(state, shard),
            Step::Outage { before } => self.outage(state, before),
        }?;
        next.simplify();
        Some(next)
    }
}
