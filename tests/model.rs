//! A model of the protocol (docs/protocol.md): a table of two cells, workers of the engine, a program that was not told
//! of the new key, one that was, an operator, and accidents. A checker takes the steps of all of them in every order
//! there is.
//!
//! A step is one transaction, or what a process does without one. Time is not modelled: a lease runs out whenever it
//! may. Budgets bound the accidents and the writes, so that the orders are finite in number; the instances share the
//! combinations out. Left out, since nothing here depends on them: NULLs, quarantine, vanished rows, `observe`,
//! renewed leases, `chased` runs and what a KMS does. That a sealed value opens to its plaintext is not the protocol's
//! to prove; the engine checks it of every value.

mod boundaries;
mod engine;
mod flaws;
mod others;
mod properties;
mod state;
mod steps;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    time::Instant,
};

use stateright::{Checker, HasDiscoveries, Model, Property};

use flaws::Flaw;
use state::{
    Budget, CELLS, Database, Key, Run, SHARDS, Shard, Stale, State, Sweep, Truth, Value, WORKERS, Worker,
};
use steps::Step;

/// The protocol on one small table, with so many accidents, and perhaps one thing wrong.
#[derive(Debug, Clone, Copy)]
struct Protocol {
    /// Two of one column, or one of two. A page is a row.
    rows: usize,
    shards: usize,
    workers: usize,
    budget: Budget,
    flaw: Option<Flaw>,
}

impl Protocol {
    fn columns(&self) -> usize {
        CELLS / self.rows
    }

    fn cells_of(&self, row: usize) -> Range<usize> {
        row * self.columns()..(row + 1) * self.columns()
    }

    /// The rows of a shard.
    fn range(&self, shard: usize) -> Range<usize> {
        let rows = self.rows / self.shards;
        shard * rows..(shard + 1) * rows
    }

    fn new_sweep(&self, first_of_run: bool) -> Sweep {
        let mut sweep = Sweep { first_of_run, ..Sweep::default() };
        for number in 0..SHARDS {
            let cursor = self.range(number).start;
            sweep.shards[number] = Shard { cursor, done: number >= self.shards, ..Shard::default() };
        }
        sweep
    }

    /// Whether somebody else's open transaction has written to the row.
    fn is_locked(&self, state: &State, row: usize) -> bool {
        let Stale::Wrote(values) = state.stale else { return false };
        self.cells_of(row).any(|cell| values[cell].is_some())
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let database = Database {
            cells: [Value { key: Key::Old, write: 0 }; CELLS],
            sweeps: Vec::new(),
            run: Run::None,
            run_under: None,
            fence: None,
            fences: 0,
            verified: None,
            new_key_registered: false,
            old_key_retired: false,
        };
        let truth = Truth { last: [0; CELLS], writes: 0, made_old: [false; CELLS], went_back: false };
        vec![State {
            database,
            unflushed: Vec::new(),
            workers: [Worker::Free; WORKERS],
            stale: Stale::Idle,
            verifying: None,
            left: self.budget,
            truth,
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        steps.extend(self.every_step(state));
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        self.take(state, step)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}

const NOTHING: Budget =
    Budget { stale_writes: 0, new_writes: 0, crashes: 0, naps: 0, outages: 0, fences_off: 0, passes: 0 };

const WRITERS: Protocol = Protocol {
    rows: 2,
    shards: 1,
    workers: 1,
    budget: Budget { stale_writes: 1, new_writes: 1, crashes: 1, ..NOTHING },
    flaw: None,
};

const LOCKED_ROW: Protocol = Protocol { budget: Budget { stale_writes: 2, passes: 1, ..NOTHING }, ..WRITERS };

const TAKEOVER: Protocol =
    Protocol { workers: 2, budget: Budget { stale_writes: 1, naps: 1, passes: 1, ..NOTHING }, ..WRITERS };

const TAKEOVER_OF_TWO_COLUMNS: Protocol = Protocol {
    rows: 1,
    workers: 2,
    budget: Budget { stale_writes: 1, new_writes: 1, naps: 1, ..NOTHING },
    ..WRITERS
};

const TWO_SHARDS: Protocol = Protocol {
    shards: 2,
    workers: 2,
    budget: Budget { stale_writes: 1, new_writes: 1, ..NOTHING },
    ..WRITERS
};

const TWO_SHARDS_AND_CRASHES: Protocol =
    Protocol { budget: Budget { stale_writes: 1, crashes: 1, ..NOTHING }, ..TWO_SHARDS };

const OUTAGE: Protocol =
    Protocol { workers: 2, budget: Budget { stale_writes: 1, outages: 1, passes: 1, ..NOTHING }, ..WRITERS };

const OUTAGE_AND_TAKEOVER: Protocol =
    Protocol { workers: 2, budget: Budget { new_writes: 1, naps: 1, outages: 1, ..NOTHING }, ..WRITERS };

const FENCE_OFF: Protocol =
    Protocol { rows: 1, budget: Budget { stale_writes: 2, fences_off: 1, ..NOTHING }, ..WRITERS };

const INSTANCES: [(&str, Protocol); 9] = [
    ("a stale program, one that is up to date, a crash", WRITERS),
    ("a stale program that writes twice, a locked row that is passed over", LOCKED_ROW),
    ("two pages, a worker that outlives its lease", TAKEOVER),
    ("two columns, a worker that outlives its lease", TAKEOVER_OF_TWO_COLUMNS),
    ("two shards", TWO_SHARDS),
    ("two shards, a crash", TWO_SHARDS_AND_CRASHES),
    ("the server dies", OUTAGE),
    ("the server dies, a worker outlives its lease", OUTAGE_AND_TAKEOVER),
    ("the fence is taken down and put up again", FENCE_OFF),
];

/// What a checker found out about one instance.
struct Explored {
    states: usize,
    /// The properties that do not hold, each with the steps to a state where it does not.
    broken: BTreeMap<&'static str, Vec<Step>>,
    /// What was met on the way, of what must be.
    met: BTreeSet<&'static str>,
}

impl Protocol {
    /// Takes every order of the steps.
    fn explore(self) -> Explored {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        self.explored(self.checker().threads(threads).spawn_bfs().join())
    }

    /// Takes orders of the steps, the short ones first, until some property does not hold.
    fn explore_until_broken(self) -> Explored {
        self.explored(self.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join())
    }

    fn explored(self, checker: impl Checker<Self>) -> Explored {
        let states = checker.unique_state_count();
        let is_failure = |name: &str| {
            self.properties()
                .iter()
                .any(|property| property.name == name && property.expectation.discovery_is_failure())
        };
        let (broken, met): (BTreeMap<_, _>, BTreeMap<_, _>) = checker
            .discoveries()
            .into_iter()
            .map(|(name, path)| (name, path.into_actions()))
            .partition(|(name, _)| is_failure(name));
        Explored { states, broken, met: met.into_keys().collect() }
    }
}

#[test]
fn the_protocol_holds_in_every_order_of_its_steps() {
    let (mut all, mut met) = (0, BTreeSet::new());
    for (name, protocol) in INSTANCES {
        let started = Instant::now();
        let explored = protocol.explore();
        println!("{name}: {} states, {:.1?}", explored.states, started.elapsed());
        assert!(explored.broken.is_empty(), "{name}: {:#?}", protocol.explore_until_broken().broken);
        all += explored.states;
        met.extend(explored.met);
    }
    println!("{all} states in all");
    assert_eq!(met, BTreeSet::from(properties::MET), "what the instances are for does not happen in them");
}

#[test]
fn every_flaw_is_noticed() {
    for (flaw, instance, expected) in flaws::NOTICED {
        let protocol = Protocol { flaw: Some(flaw), ..instance };
        let explored = protocol.explore();
        println!("{flaw:?}: {} states; broken: {:?}", explored.states, explored.broken.keys());
        if let Some((name, steps)) = protocol.explore_until_broken().broken.first_key_value() {
            println!("    not {name:?} after {} steps: {steps:?}", steps.len());
        }
        let broken: BTreeSet<_> = explored.broken.into_keys().collect();
        assert_eq!(broken, BTreeSet::from_iter(expected.iter().copied()), "{flaw:?}");
    }
}

#[test]
fn the_last_sweep_under_the_fence_leaves_nothing_for_verify_to_find() {
    for protocol in flaws::WITHOUT_VERIFY {
        let explored = protocol.explore();
        assert!(explored.broken.is_empty(), "{:#?}", explored.broken);
    }
}
