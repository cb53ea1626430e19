//! The engine's transactions (docs/protocol.md, section 2) and what a worker does between them.

use super::{
    Protocol,
    flaws::Flaw,
    state::{CELLS, Database, Key, Run, State, Sweep, Value, Work, Worker},
};

impl Protocol {
    /// Takes a shard that is not done and that nobody holds; its fence number grows.
    pub(super) fn claim(&self, state: &State, worker: usize, shard: usize) -> Option<State> {
        let sweep = state.database.sweeps.len().checked_sub(1)?;
        let row = &state.database.sweeps[sweep].shards[shard];
        let can = state.database.run == Run::Open && state.workers[worker] == Worker::Free;
        if !can || row.leased || row.done {
            return None;
        }
        let mut next = state.synchronous();
        let row = &mut next.database.sweeps[sweep].shards[shard];
        (row.fence, row.leased) = (row.fence + 1, true);
        next.workers[worker] = Worker::Working(Work {
            sweep,
            shard,
            fence: row.fence,
            cursor: row.cursor,
            read: row.cursor,
            seen: [None; CELLS],
            unsettled: [None; CELLS],
            halfway: false,
        });
        Some(next)
    }

    /// Reads the next row and seals its values anew; nobody sees the sealing, so it is no step of its own.
    pub(super) fn read_page(&self, state: &State, worker: usize) -> Option<State> {
        let mut work = state.work(worker)?;
        if work.read == self.range(work.shard).end {
            return None;
        }
        for cell in self.cells_of(work.read) {
            work.seen[cell] = Some(state.database.cells[cell]);
        }
        work.read += 1;
        Some(state.with(worker, Worker::Working(work)))
    }

    /// Fence check and checkpoint, then the swap, in one transaction.
    pub(super) fn commit_batch(&self, state: &State, worker: usize) -> Option<State> {
        let mut work = state.work(worker)?;
        let row = work.cursor;
        if row == work.read || work.unsettled != [None; CELLS] || work.halfway {
            return None;
        }
        let sealed = self.cells_of(row).any(|cell| work.seen[cell].is_some_and(|seen| seen.key == Key::Old));
        if sealed && self.is_locked(state, row) {
            return None;
        }
        if self.flaw == Some(Flaw::ReadTwice) {
            return Some(self.look_again(state, worker, work));
        }
        if !self.may_commit(&state.database, &work) {
            return Some(self.give_up(state, worker, &work));
        }
        let mut next = self.begin_batch(state, self.is_last(&work));
        let moved = self.checkpoint(&mut next.database, &mut work);
        next.truth.went_back |= moved == Moved::Back;
        if self.flaw == Some(Flaw::CheckpointFirst) {
            work.halfway = true;
            next.workers[worker] = Worker::Working(work);
            return Some(next);
        }
        self.swap(&mut next.database, &mut work, row);
        next.workers[worker] = self.go_on(work);
        Some(next)
    }

    /// What others changed first was read again in that transaction; it is sealed anew and swapped once.
    pub(super) fn settle_conflicts(&self, state: &State, worker: usize) -> Option<State> {
        let mut work = state.work(worker)?;
        let row = work.cursor.checked_sub(1)?;
        if work.unsettled == [None; CELLS] || self.is_locked(state, row) {
            return None;
        }
        if !self.may_commit(&state.database, &work) {
            return Some(self.give_up(state, worker, &work));
        }
        let mut next = self.begin_batch(state, true);
        for cell in self.cells_of(row) {
            let Some(seen) = work.unsettled[cell].take() else { continue };
            let now = &mut next.database.cells[cell];
            let sweep = &mut next.database.sweeps[work.sweep];
            if seen.key == Key::Old && !self.is_unchanged(seen, *now) {
                continue;
            }
            if seen.key == Key::Old {
                *now = Value { key: Key::New, write: seen.write };
                sweep.rekeyed += 1;
            }
            sweep.left[cell] -= 1;
            sweep.count(cell, 1);
        }
        next.workers[worker] = self.go_on(work);
        Some(next)
    }

    /// A row that stays locked is left to the next sweep, and so is what was to be settled in it.
    pub(super) fn pass_over_locked(&self, state: &State, worker: usize) -> Option<State> {
        let mut work = state.work(worker)?;
        let row = work.cursor;
        if work.unsettled != [None; CELLS] {
            let locked = row.checked_sub(1).is_some_and(|row| self.is_locked(state, row));
            let work = Work { unsettled: [None; CELLS], ..work };
            let mut next = state.with(worker, self.go_on(work));
            next.left.passes = next.left.passes.checked_sub(1)?;
            return locked.then_some(next);
        }
        if row == work.read || !self.is_locked(state, row) || work.halfway {
            return None;
        }
        if !self.may_commit(&state.database, &work) {
            return Some(self.give_up(state, worker, &work));
        }
        let mut next = self.begin_batch(state, self.is_last(&work));
        next.left.passes = next.left.passes.checked_sub(1)?;
        for cell in self.cells_of(row) {
            work.seen[cell] = None;
            next.database.sweeps[work.sweep].left[cell] += 1;
        }
        self.checkpoint(&mut next.database, &mut work);
        next.workers[worker] = self.go_on(work);
        Some(next)
    }

    /// Reads the sums of a sweep whose every shard is done.
    pub(super) fn judge_sweep(&self, state: &State, worker: usize) -> Option<State> {
        let sweep = state.database.sweeps.last()?;
        let over = sweep.shards.iter().all(|shard| shard.done);
        if state.database.run != Run::Open || state.workers[worker] != Worker::Free || !over {
            return None;
        }
        let clean = sweep.rekeyed == 0 && sweep.left == [0; CELLS];
        Some(state.with(worker, Worker::Ending { sweep: state.database.sweeps.len() - 1, clean }))
    }

    /// A compare-and-swap on the run's state and sweep: of several workers one succeeds.
    pub(super) fn end_sweep(&self, state: &State, worker: usize) -> Option<State> {
        let Worker::Ending { sweep, clean } = state.workers[worker] else { return None };
        let mut next = state.with(worker, Worker::Free);
        if state.database.run != Run::Open || state.database.sweeps.len() != sweep + 1 {
            return Some(next);
        }
        next.unflushed.clear();
        if clean {
            next.database.run = Run::Complete;
            next.database.new_key_registered = true;
        } else {
            let later = self.new_sweep(false);
            next.database.sweeps.push(later);
            next.truth.made_old = [false; CELLS];
        }
        Some(next)
    }

    /// The second part of a commit that a flaw took apart: after the second look, or after the checkpoint.
    pub(super) fn other_half(&self, state: &State, worker: usize) -> Option<State> {
        let mut work = state.work(worker)?;
        let looked = self.flaw == Some(Flaw::ReadTwice);
        let row = if looked { work.cursor } else { work.cursor.checked_sub(1)? };
        if !work.halfway || self.is_locked(state, row) {
            return None;
        }
        if looked && !self.may_commit(&state.database, &work) {
            return Some(self.give_up(state, worker, &work));
        }
        work.halfway = false;
        let mut next = self.begin_batch(state, row + 1 == self.range(work.shard).end);
        if looked {
            self.checkpoint(&mut next.database, &mut work);
        }
        self.swap(&mut next.database, &mut work, row);
        next.workers[worker] = self.go_on(work);
        Some(next)
    }

    /// The flaw's first part: the row is read a second time, and compared, and nothing holds it from then on.
    fn look_again(&self, state: &State, worker: usize, mut work: Work) -> State {
        for cell in self.cells_of(work.cursor) {
            work.seen[cell] = Some(state.database.cells[cell]);
        }
        work.halfway = true;
        state.with(worker, Worker::Working(work))
    }

    /// A batch is not on disk when it commits, unless it is the last that its worker has for the shard.
    fn begin_batch(&self, state: &State, is_last: bool) -> State {
        if is_last && self.flaw != Some(Flaw::LastBatchAsynchronous) {
            return state.synchronous();
        }
        let mut next = state.clone();
        if state.left.outages > 0 {
            next.unflushed.push(state.database.clone());
        }
        next
    }

    /// The conditions of the checkpoint's UPDATE: the shard was not taken over, and its cursor is where this worker
    /// left it.
    fn may_commit(&self, database: &Database, work: &Work) -> bool {
        let shard = &database.sweeps[work.sweep].shards[work.shard];
        let (fence, cursor) = (shard.fence == work.fence, shard.cursor == work.cursor);
        match self.flaw {
            Some(Flaw::NoFence) => true,
            Some(Flaw::NoFenceNumber) => cursor,
            Some(Flaw::NoCursorCheck) => fence,
            _ => fence && cursor,
        }
    }

    /// The lease is lost: the pages are dropped, and the lease, if it is still this worker's, is given back.
    fn give_up(&self, state: &State, worker: usize, work: &Work) -> State {
        let mut next = state.with(worker, Worker::Free);
        let shard = &mut next.database.sweeps[work.sweep].shards[work.shard];
        if shard.fence == work.fence {
            shard.leased = false;
            next.unflushed.clear();
        }
        next
    }

    /// Moves the cursor past a row, and counts its cells as if every swap held.
    fn checkpoint(&self, database: &mut Database, work: &mut Work) -> Moved {
        let last = self.is_last(work);
        let row = work.cursor;
        let sweep = &mut database.sweeps[work.sweep];
        for cell in self.cells_of(row) {
            let Some(seen) = work.seen[cell] else { continue };
            sweep.count(cell, 1);
            sweep.rekeyed += i8::from(seen.key == Key::Old);
        }
        work.cursor = row + 1;
        let shard = &mut sweep.shards[work.shard];
        let moved = if work.cursor > shard.cursor { Moved::Forward } else { Moved::Back };
        (shard.cursor, shard.done) = (work.cursor, shard.done || last);
        moved
    }

    /// Replaces each cell that is still what was opened; corrects the counts for the others.
    fn swap(&self, database: &mut Database, work: &mut Work, row: usize) {
        for cell in self.cells_of(row) {
            let Some(seen) = work.seen[cell].take().filter(|seen| seen.key == Key::Old) else { continue };
            let now = &mut database.cells[cell];
            if self.is_unchanged(seen, *now) {
                *now = Value { key: Key::New, write: seen.write };
            } else {
                let sweep = &mut database.sweeps[work.sweep];
                sweep.rekeyed -= 1;
                sweep.count(cell, -1);
                sweep.left[cell] += 1;
                work.unsettled[cell] = Some(*now);
            }
        }
    }

    fn is_unchanged(&self, seen: Value, now: Value) -> bool {
        match self.flaw {
            Some(Flaw::NoCompare | Flaw::ReadTwice) => true,
            // Whoever writes under the new key counts the version up. The stale program knows of no such column.
            Some(Flaw::VersionColumn) => seen.key == now.key,
            _ => seen == now,
        }
    }

    fn go_on(&self, work: Work) -> Worker {
        let over = work.cursor == self.range(work.shard).end && work.unsettled == [None; CELLS];
        if over { Worker::Free } else { Worker::Working(work) }
    }

    fn is_last(&self, work: &Work) -> bool {
        work.cursor + 1 == self.range(work.shard).end
    }
}

#[derive(PartialEq, Eq)]
enum Moved {
    Forward,
    Back,
}

impl Sweep {
    /// Later sweeps count only what they re-key.
    fn count(&mut self, cell: usize, by: i8) {
        if self.first_of_run {
            self.counted[cell] += by;
        }
    }
}
