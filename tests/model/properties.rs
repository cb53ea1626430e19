//! What must hold in every state, what must be reached in the end, and what must be met on the way for the rest to mean
//! anything.

use stateright::Property;

use super::{
    Protocol,
    state::{CELLS, Key, Run, Shard, Stale, State, Value, WORKERS, Work},
};

pub(super) const OPENS: &str = "every value opens";
pub(super) const NO_LOST_WRITE: &str = "no write is lost";
pub(super) const COUNTED_ONCE: &str = "each cell is counted once";
pub(super) const CURSOR: &str = "a cursor never moves back";
pub(super) const COMPLETE: &str = "a complete run missed nothing";
pub(super) const VERIFIED: &str = "what verify passed under a fence stays so";
pub(super) const RETIRED: &str = "nothing is under a retired key";
pub(super) const ENDS: &str = "the old key is retired in the end";

/// What the instances must meet between them.
pub(super) const MET: [&str; 6] =
    [CONFLICT, STALE_WORKER, LOST_BATCH, STALE_SAVE, COMPLETE_IS_NOT_DONE, RETIRED_UNDER_A_STALE_PROGRAM];

const CONFLICT: &str = "a swap met another's write";
const STALE_WORKER: &str = "a worker's shard was taken over, and it has a page to commit";
const LOST_BATCH: &str = "a worker's batch was lost, and it has the next page to commit";
const STALE_SAVE: &str = "a program is about to save an old value over its re-keyed one";
const COMPLETE_IS_NOT_DONE: &str = "a run is complete, and a value is under the old key";
const RETIRED_UNDER_A_STALE_PROGRAM: &str = "the old key is retired, and a program still writes under it";

pub(super) fn all() -> Vec<Property<Protocol>> {
    vec![
        Property::always(OPENS, |_, state: &State| state.every_value_opens()),
        Property::always(NO_LOST_WRITE, |_, state: &State| state.no_write_is_lost()),
        Property::always(COUNTED_ONCE, |_, state: &State| state.each_cell_is_counted_once()),
        Property::always(CURSOR, |_, state: &State| !state.truth.went_back),
        Property::always(COMPLETE, |_, state: &State| state.a_complete_run_missed_nothing()),
        Property::always(VERIFIED, |_, state: &State| state.what_verify_passed_stays_so()),
        Property::always(RETIRED, |_, state: &State| state.nothing_is_under_a_retired_key()),
        Property::eventually(ENDS, |_, state: &State| state.database.old_key_retired),
        Property::sometimes(CONFLICT, |_, state: &State| {
            state.working().any(|work| work.unsettled != [None; CELLS])
        }),
        Property::sometimes(STALE_WORKER, |_, state: &State| {
            state.working().any(|work| work.read > work.cursor && state.shard_of(&work).fence > work.fence)
        }),
        Property::sometimes(LOST_BATCH, |_, state: &State| {
            state.working().any(|work| work.read > work.cursor && state.shard_of(&work).cursor < work.cursor)
        }),
        Property::sometimes(STALE_SAVE, |_, state: &State| state.an_old_value_is_about_to_be_saved()),
        Property::sometimes(COMPLETE_IS_NOT_DONE, |_, state: &State| {
            state.database.run == Run::Complete && !state.database.all_under_new()
        }),
        Property::sometimes(RETIRED_UNDER_A_STALE_PROGRAM, |_, state: &State| {
            state.database.old_key_retired && state.left.stale_writes > 0
        }),
    ]
}

/// The keys that exist are enough to open what is stored.
impl State {
    fn every_value_opens(&self) -> bool {
        self.database.cells.iter().all(|cell| match cell.key {
            Key::Old => !self.database.old_key_retired,
            Key::New => self.database.new_key_registered,
        })
    }

    /// Each cell holds what was written to it last, whoever sealed it since.
    fn no_write_is_lost(&self) -> bool {
        self.database.cells.iter().zip(self.truth.last).all(|(cell, last)| cell.write == last)
    }

    /// In a run's first sweep each cell is counted, or left, at most once, and exactly once when the sweep is over: so
    /// the sums are those of the table.
    fn each_cell_is_counted_once(&self) -> bool {
        let sweeps = &self.database.sweeps;
        let over = sweeps.len() - usize::from(self.database.run == Run::Open);
        sweeps.iter().enumerate().filter(|(_, sweep)| sweep.first_of_run).all(|(number, sweep)| {
            let met = |cell: usize| {
                sweep.counted[cell] >= 0
                    && sweep.left[cell] >= 0
                    && sweep.counted[cell] + sweep.left[cell] <= 1
            };
            if number < over { sweep.sums_are_right() } else { (0..CELLS).all(met) }
        })
    }

    /// A value under the old key in the table of a complete run was put there after its last sweep began.
    fn a_complete_run_missed_nothing(&self) -> bool {
        let cells = self.database.cells.iter().zip(self.truth.made_old);
        self.database.run != Run::Complete
            || cells.into_iter().all(|(cell, made_old)| cell.key == Key::New || made_old)
    }

    /// Nobody gets past the fence that the passing snapshot was taken under.
    fn what_verify_passed_stays_so(&self) -> bool {
        let fence = self.database.fence;
        fence.is_none() || self.database.verified != Some(fence) || self.database.all_under_new()
    }

    fn working(&self) -> impl Iterator<Item = Work> {
        (0..WORKERS).filter_map(|worker| self.work(worker))
    }

    fn shard_of(&self, work: &Work) -> Shard {
        self.database.sweeps[work.sweep].shards[work.shard]
    }

    fn an_old_value_is_about_to_be_saved(&self) -> bool {
        let Stale::Holds(row) = self.stale else { return false };
        row.iter().zip(self.database.cells).any(|(read, now)| {
            read.is_some_and(|read| read.key == Key::Old && now == Value { key: Key::New, ..read })
        })
    }

    fn nothing_is_under_a_retired_key(&self) -> bool {
        !self.database.old_key_retired || self.database.all_under_new()
    }
}
