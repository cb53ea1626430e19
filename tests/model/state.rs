//! What the model remembers: the database as a transaction would see it, the memory of each process, and what only an
//! onlooker knows.

/// Cells in the table: two rows of one column, or one row of two.
pub(super) const CELLS: usize = 2;

/// Shards of a sweep, at most.
pub(super) const SHARDS: usize = 2;

/// Workers of the engine, at most.
pub(super) const WORKERS: usize = 2;

/// Something for some of the cells.
pub(super) type Row = [Option<Value>; CELLS];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Key {
    Old,
    New,
}

/// The bytes of one sealing. A nonce is random and a tag binds the plaintext, so equal bytes hold the same plaintext;
/// it is named by the write that brought it, 0 for what was there at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Value {
    pub(super) key: Key,
    pub(super) write: u8,
}

/// A row of `reseal_shards`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Shard {
    pub(super) fence: u8,
    pub(super) leased: bool,
    /// The first row that was not dealt with.
    pub(super) cursor: usize,
    pub(super) done: bool,
}

/// The shards of one sweep and the sums of their counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Sweep {
    pub(super) shards: [Shard; SHARDS],
    pub(super) first_of_run: bool,
    pub(super) rekeyed: i8,
    /// How often each cell was counted, in a first sweep.
    pub(super) counted: [i8; CELLS],
    /// How often each cell was left for the next sweep.
    pub(super) left: [i8; CELLS],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Run {
    None,
    Open,
    Complete,
}

/// All that is in the database. A transaction changes it in one step.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Database {
    pub(super) cells: [Value; CELLS],
    /// Every sweep of every run; the last is the present one.
    pub(super) sweeps: Vec<Sweep>,
    pub(super) run: Run,
    /// The fence that was in force when the run began.
    pub(super) run_under: Option<u8>,
    /// Which `fence enforce` is in force.
    pub(super) fence: Option<u8>,
    pub(super) fences: u8,
    /// A verify passed, under this fence.
    pub(super) verified: Option<Option<u8>>,
    pub(super) new_key_registered: bool,
    pub(super) old_key_retired: bool,
}

impl Database {
    pub(super) fn all_under_new(&self) -> bool {
        self.cells.iter().all(|cell| cell.key == Key::New)
    }
}

/// What one worker of the engine has in memory. A crash takes all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Worker {
    Working(Work),
    /// Read the sums of a sweep whose shards are all done, and is about to act on them.
    Ending {
        sweep: usize,
        clean: bool,
    },
    Free,
}

/// A worker's part in a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Work {
    pub(super) sweep: usize,
    pub(super) shard: usize,
    pub(super) fence: u8,
    /// Where the cursor is, as far as this worker knows.
    pub(super) cursor: usize,
    /// The rows from the cursor to here were read, and sealed anew; a page is one row.
    pub(super) read: usize,
    pub(super) seen: Row,
    /// What stood where a swap did not hold.
    pub(super) unsettled: Row,
    /// A flawed commit of two parts is between them.
    pub(super) halfway: bool,
}

/// A program that was not told of the new key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Stale {
    Idle,
    /// Read a row, and will save it as it read it.
    Holds(Row),
    /// Wrote in a transaction that is still open, and holds the row's lock.
    Wrote(Row),
}

/// How often what need not happen still may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Budget {
    pub(super) stale_writes: u8,
    pub(super) new_writes: u8,
    /// A worker dies.
    pub(super) crashes: u8,
    /// A worker sleeps past its lease.
    pub(super) naps: u8,
    /// The database's server dies, with the batches that were not on disk.
    pub(super) outages: u8,
    pub(super) fences_off: u8,
    /// A worker leaves a row that is locked.
    pub(super) passes: u8,
}

/// What an onlooker knows, and nobody in the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Truth {
    /// The write that each cell must hold: the last.
    pub(super) last: [u8; CELLS],
    pub(super) writes: u8,
    /// Cells that somebody put under the old key since the present sweep began.
    pub(super) made_old: [bool; CELLS],
    /// A shard's cursor moved back.
    pub(super) went_back: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) database: Database,
    /// The database before each batch that is not on disk yet.
    pub(super) unflushed: Vec<Database>,
    pub(super) workers: [Worker; WORKERS],
    pub(super) stale: Stale,
    /// A verify whose snapshot passed, under this fence, and which has not recorded it yet.
    pub(super) verifying: Option<Option<u8>>,
    pub(super) left: Budget,
    pub(super) truth: Truth,
}

impl State {
    pub(super) fn with(&self, worker: usize, now: Worker) -> Self {
        let mut next = self.clone();
        next.workers[worker] = now;
        next
    }

    pub(super) fn work(&self, worker: usize) -> Option<Work> {
        match self.workers[worker] {
            Worker::Working(work) => Some(work),
            Worker::Free | Worker::Ending { .. } => None,
        }
    }

    /// Forgets what makes no difference any more, so that states that differ only in it are one.
    pub(super) fn simplify(&mut self) {
        // Workers have no names.
        self.workers.sort();
        if !self.unflushed.is_empty() {
            return;
        }
        // A sweep that is over, and to which no worker will come back, is remembered by whether its sums were right.
        let Self { database, workers, truth, .. } = self;
        let sweeps = database.sweeps.len() - usize::from(database.run == Run::Open);
        for (number, sweep) in database.sweeps.iter_mut().enumerate().take(sweeps) {
            let is_held =
                workers.iter().any(|worker| matches!(worker, Worker::Working(work) if work.sweep == number));
            if !is_held && (!sweep.first_of_run || sweep.sums_are_right()) {
                let counted = [i8::from(sweep.first_of_run); CELLS];
                *sweep = Sweep { first_of_run: sweep.first_of_run, counted, ..Sweep::default() };
            }
        }
        for (made_old, cell) in truth.made_old.iter_mut().zip(database.cells) {
            *made_old &= cell.key == Key::Old;
        }
    }
}

impl Sweep {
    /// Each cell was counted, or left, once.
    pub(super) fn sums_are_right(&self) -> bool {
        self.counted
            .iter()
            .zip(self.left)
            .all(|(&counted, left)| counted >= 0 && left >= 0 && counted + left == 1)
    }
}
