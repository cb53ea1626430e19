//! One look at the latest run of a target, as the database has it.

use std::collections::BTreeMap;

use reseal::{
    rekey::RunKeys,
    store::{Fence, Process, RunRow, RunState, ShardCount, Store, StoreError, Tally, Verification},
};

/// Everything that a status shows.
pub(super) struct Look {
    pub(super) run: RunRow,
    pub(super) keys: RunKeys,
    /// The counters of the sweep under way, or of the last.
    pub(super) sweep: Tally,
    /// Those of all sweeps.
    pub(super) all: Tally,
    pub(super) shards: ShardCount,
    /// Those that were heard of within the last hour.
    pub(super) processes: Vec<Process>,
    /// Values in quarantine, by reason.
    pub(super) quarantine: BTreeMap<String, i64>,
    /// The fence, where one is up.
    pub(super) fence: Option<Fence>,
    /// The latest verify that ended.
    pub(super) verification: Option<Verification>,
    /// Data keys of the target, by state.
    pub(super) data_keys: BTreeMap<&'static str, i64>,
}

impl Look {
    /// The latest run of `target`, if there was one.
    pub(super) async fn at(store: &dyn Store, target: &str) -> Result<Option<Self>, StoreError> {
        let Some(run) = store.latest_run(target).await? else { return Ok(None) };
        let keys =
            serde_json::from_str(&run.keys).map_err(|_| StoreError::Corrupt { what: "reseal_runs.keys" })?;
        let mut data_keys = BTreeMap::new();
        for key in store.data_keys(Some(target)).await? {
            *data_keys.entry(key.state.as_str()).or_default() += 1;
        }
        Ok(Some(Self {
            sweep: store.tally(&run.run_id, Some(run.sweep)).await?,
            all: store.tally(&run.run_id, None).await?,
            shards: store.shard_count(&run).await?,
            processes: store.processes(&run.run_id).await?,
            quarantine: store.quarantine_by_reason(target).await?.into_iter().collect(),
            fence: store.fence(target).await?,
            verification: store.latest_verification(target).await?,
            data_keys,
            run,
            keys,
        }))
    }

    /// Rows that the sweep under way has still to read. Only a first sweep counts its rows.
    pub(super) fn left(&self) -> i64 {
        if self.run.state.is_open() { (self.run.row_count - self.sweep.scanned).max(0) } else { 0 }
    }

    /// How much of the sweep under way is done, from 0 to 1: by rows in the first, by shards in the others.
    pub(super) fn share(&self) -> f64 {
        let part = |done: i64, all: i64| match (u32::try_from(done), u32::try_from(all)) {
            (Ok(done), Ok(all)) if all > 0 => (f64::from(done) / f64::from(all)).min(1.0),
            _ => 1.0,
        };
        match (self.run.state.is_open(), self.run.sweep) {
            (false, _) => 1.0,
            (true, 1) => part(self.sweep.scanned, self.run.row_count),
            (true, _) => part(self.shards.done, self.shards.done + self.shards.leased + self.shards.free),
        }
    }

    /// Rows a second, of all processes that are heard of.
    pub(super) fn rows_per_second(&self) -> i64 {
        self.processes
            .iter()
            .filter(|process| process.is_alive())
            .map(|one| one.heartbeat.rows_per_second)
            .sum()
    }

    /// How long the first sweep will take at this rate, unless it is paused.
    pub(super) fn seconds_left(&self) -> Option<i64> {
        let rate = self.rows_per_second();
        (self.run.state == RunState::Running && self.run.sweep == 1 && rate > 0).then(|| self.left() / rate)
    }

    /// Values in quarantine.
    pub(super) fn held(&self) -> i64 {
        self.quarantine.values().sum()
    }
}
