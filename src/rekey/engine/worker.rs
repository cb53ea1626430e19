//! One worker of a process, and how it asks for shards.

use std::sync::Arc;

use super::{Step, retry::patiently, workshop::Workshop};
use crate::store::{Claim, Lease, RunRow, RunState, StoreError};

/// One worker of a process.
pub(super) struct Worker {
    pub(super) shop: Arc<Workshop>,
    pub(super) run_id: String,
    /// From 1.
    pub(super) number: usize,
    /// What its leases are under.
    pub(super) name: String,
}

/// What a worker that asks for a shard finds.
pub(super) enum Found {
    /// A shard, now ours for 20 s.
    Shard(Box<Lease>),
    /// Every shard that is left is in another worker's hands, or in its own.
    Busy,
    /// No shard of the run's sweep is left.
    SweepDone(RunRow),
    /// The run is paused.
    Paused,
    /// The run is over.
    Over,
}

impl Worker {
    /// Asks for a shard of the sweep that the run is in.
    pub(super) async fn claim(&self) -> Result<Found, StoreError> {
        let (shop, job, store) = (&self.shop, &self.shop.job, self.shop.job.store.as_ref());
        let read = patiently(&shop.status, || store.run(&self.run_id));
        let run = job.at(Step::ReadRun, read).await?;
        if !run.state.is_open() {
            return Ok(Found::Over);
        }
        if run.state == RunState::Paused {
            return Ok(Found::Paused);
        }
        let claim = || store.claim(&run, &self.name, job.target.key_kind);
        let claim = job.at(Step::Claim, patiently(&shop.status, claim)).await?;
        Ok(match claim {
            Claim::Leased(lease) => Found::Shard(lease),
            Claim::Busy => Found::Busy,
            Claim::SweepDone => Found::SweepDone(run),
        })
    }

    /// Gives a shard back. Best effort: a lease that is not given back runs out.
    pub(super) async fn release(&self, lease: &Lease) {
        let job = &self.shop.job;
        drop(job.at(Step::Release, job.store.release(lease)).await);
    }
}
