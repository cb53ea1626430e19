//! The operator's commands, the programs that write to the table, and accidents.

use super::{
    Protocol,
    flaws::Flaw,
    state::{CELLS, Key, Row, Run, Stale, State, Value, Worker},
};

/// The operator.
impl Protocol {
    /// Run, shards and new data key, in one transaction. Operators start one where there is something for it to do:
    /// values under the old key, or a fence that no run has followed.
    pub(super) fn start_run(&self, state: &State) -> Option<State> {
        let database = &state.database;
        let has_work = !database.all_under_new() || database.run_under != database.fence;
        if database.run == Run::Open || database.old_key_retired || !has_work {
            return None;
        }
        let mut next = state.synchronous();
        next.database.run = Run::Open;
        next.database.run_under = database.fence;
        next.database.new_key_registered = self.flaw != Some(Flaw::KeyAfterValues);
        next.database.sweeps.push(self.new_sweep(true));
        next.truth.made_old = [false; CELLS];
        Some(next)
    }

    /// Drops and creates the trigger: that takes a lock that waits for whoever has written and not ended yet.
    pub(super) fn fence_enforce(&self, state: &State) -> Option<State> {
        let waits = matches!(state.stale, Stale::Wrote(_)) && self.flaw != Some(Flaw::FenceAsFlag);
        if state.database.fence.is_some() || state.database.old_key_retired || waits {
            return None;
        }
        let mut next = state.synchronous();
        next.database.fences += 1;
        next.database.fence = Some(next.database.fences);
        Some(next)
    }

    pub(super) fn fence_off(&self, state: &State) -> Option<State> {
        let too_late = state.database.old_key_retired && self.flaw != Some(Flaw::FenceOffAfterRetire);
        let fences_off = state.left.fences_off.checked_sub(1)?;
        if state.database.fence.is_none() || too_late {
            return None;
        }
        let mut next = state.synchronous();
        next.database.fence = None;
        next.left.fences_off = fences_off;
        Some(next)
    }

    /// Looks at every cell at one instant. One that fails changes nothing.
    pub(super) fn verify_snapshot(&self, state: &State) -> Option<State> {
        let under = state.database.fence;
        let known = state.verifying.is_some() || state.database.verified == Some(under);
        if known
            || state.database.run == Run::Open
            || state.database.old_key_retired
            || !state.database.all_under_new()
        {
            return None;
        }
        let mut next = state.synchronous();
        next.verifying = Some(under);
        Some(next)
    }

    /// Records what the snapshot said, with the age of the snapshot.
    pub(super) fn verify_record(&self, state: &State) -> Option<State> {
        let under = state.verifying?;
        let mut next = state.synchronous();
        next.verifying = None;
        let by_its_end = self.flaw == Some(Flaw::VerifyAgeByItsEnd);
        next.database.verified = Some(if by_its_end { state.database.fence } else { under });
        Some(next)
    }

    /// The old key's end: from here on nobody can open a value under it.
    pub(super) fn retire(&self, state: &State) -> Option<State> {
        let database = &state.database;
        let fence = database.fence;
        let may = match self.flaw {
            Some(Flaw::VerifyBeforeFence) => database.verified.is_some(),
            Some(Flaw::FenceAfterLastSweep) => database.run == Run::Complete,
            Some(Flaw::NoVerify) => database.run == Run::Complete && database.run_under == fence,
            _ => database.verified == Some(fence),
        };
        if fence.is_none() || database.run == Run::Open || database.old_key_retired || !may {
            return None;
        }
        let mut next = state.synchronous();
        next.database.old_key_retired = true;
        Some(next)
    }
}

/// Other programs. The stale one holds only the old key and the new-key one both; neither knows of a run.
impl Protocol {
    pub(super) fn stale_reads(&self, state: &State, row: usize) -> Option<State> {
        if state.stale != Stale::Idle || state.left.stale_writes == 0 {
            return None;
        }
        let mut read = [None; CELLS];
        for cell in self.cells_of(row) {
            read[cell] = Some(state.database.cells[cell]);
        }
        Some(State { stale: Stale::Holds(read), ..state.clone() })
    }

    /// Saves the row as it was read, whatever it holds by now: what an object mapper does when another column changed.
    pub(super) fn stale_saves(&self, state: &State) -> Option<State> {
        let Stale::Holds(read) = state.stale else { return None };
        self.stale_statement(state, read)
    }

    /// Writes a new value without a look.
    pub(super) fn stale_writes(&self, state: &State, cell: usize) -> Option<State> {
        if state.stale != Stale::Idle {
            return None;
        }
        let mut values = [None; CELLS];
        values[cell] = Some(Value { key: Key::Old, write: state.truth.writes + 1 });
        self.stale_statement(state, values)
    }

    /// The statement takes the row's lock and meets the fence; the transaction stays open. A refused program changes
    /// nothing.
    fn stale_statement(&self, state: &State, values: Row) -> Option<State> {
        let stale_writes = state.left.stale_writes.checked_sub(1)?;
        let mut next = state.clone();
        next.left.stale_writes = stale_writes;
        let refused = state.database.fence.is_some()
            && values
                .iter()
                .zip(state.database.cells)
                .any(|(value, now)| value.is_some_and(|value| value != now && value.key == Key::Old));
        next.stale = if refused { Stale::Idle } else { Stale::Wrote(values) };
        Some(next)
    }

    pub(super) fn stale_commits(&self, state: &State) -> Option<State> {
        let Stale::Wrote(values) = state.stale else { return None };
        let mut next = state.synchronous();
        next.stale = Stale::Idle;
        for (cell, value) in values.into_iter().enumerate() {
            let Some(value) = value else { continue };
            next.write(cell, value);
        }
        Some(next)
    }

    pub(super) fn new_key_writes(&self, state: &State, cell: usize) -> Option<State> {
        let new_writes = state.left.new_writes.checked_sub(1)?;
        if !state.database.new_key_registered || self.is_locked(state, cell / self.columns()) {
            return None;
        }
        let mut next = state.synchronous();
        next.left.new_writes = new_writes;
        next.write(cell, Value { key: Key::New, write: state.truth.writes + 1 });
        Some(next)
    }
}

/// Accidents.
impl Protocol {
    /// A worker dies, and so does what it had in memory; its lease runs out.
    pub(super) fn crash(&self, state: &State, worker: usize) -> Option<State> {
        let crashes = state.left.crashes.checked_sub(1)?;
        if state.workers[worker] == Worker::Free {
            return None;
        }
        let mut next = state.with(worker, Worker::Free);
        next.left.crashes = crashes;
        if let Some(work) = state.work(worker) {
            let shard = &mut next.database.sweeps[work.sweep].shards[work.shard];
            shard.leased &= shard.fence != work.fence;
        }
        Some(next)
    }

    /// Time passes. A lease that a living worker holds runs out only if that worker sleeps.
    pub(super) fn lease_runs_out(&self, state: &State, shard: usize) -> Option<State> {
        let sweep = state.database.sweeps.len().checked_sub(1)?;
        let now = state.database.sweeps[sweep].shards[shard];
        if !now.leased || now.done {
            return None;
        }
        let mut next = state.clone();
        next.database.sweeps[sweep].shards[shard].leased = false;
        let holds = |worker: &Worker| matches!(worker, Worker::Working(work) if (work.sweep, work.shard, work.fence) == (sweep, shard, now.fence));
        if state.workers.iter().any(holds) {
            next.left.naps = state.left.naps.checked_sub(1)?;
        }
        Some(next)
    }

    /// The server dies, and a tail of the batches that were not on disk is gone. Open transactions are rolled back. The
    /// workers live: between two transactions nothing tells them.
    pub(super) fn outage(&self, state: &State, before: usize) -> Option<State> {
        let outages = state.left.outages.checked_sub(1)?;
        let mut next = state.clone();
        next.left.outages = outages;
        next.database = state.unflushed[before].clone();
        next.unflushed.clear();
        next.verifying = None;
        if matches!(next.stale, Stale::Wrote(_)) {
            next.stale = Stale::Idle;
        }
        Some(next)
    }
}

impl State {
    /// The state after a transaction that is on disk when it ends, and with it every batch before it.
    pub(super) fn synchronous(&self) -> State {
        State { unflushed: Vec::new(), ..self.clone() }
    }

    fn write(&mut self, cell: usize, value: Value) {
        self.database.cells[cell] = value;
        self.truth.last[cell] = value.write;
        self.truth.writes = self.truth.writes.max(value.write);
        self.truth.made_old[cell] |= value.key == Key::Old;
    }
}
