//! What a run tells those who watch it, and how it is told to stop.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Metrics, Waiting};
use crate::store::RunRow;

/// What a run shows of itself while it works; its counters are in the store.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// The run, once it is open.
    pub run: Option<RunRow>,
    /// What this process did so far, for a monitoring system.
    pub metrics: Arc<Metrics>,
    /// What is to be known besides, such as a throttle that has nothing to go by.
    pub note: Option<String>,
    /// Each wait under way.
    pub(super) waits: Vec<(u64, Waiting)>,
    pub(super) next_wait: u64,
}

impl Status {
    /// Why nothing moves, or not as fast as it could: of all reasons, the first of [`Waiting::NAMES`].
    pub fn waiting(&self) -> Option<&Waiting> {
        let rank = |waiting: &Waiting| Waiting::NAMES.iter().position(|name| *name == waiting.name());
        self.waits.iter().map(|(_, reason)| reason).min_by_key(|reason| rank(reason))
    }

    /// How many waits are under way for the reason of this name.
    pub fn waits_for(&self, name: &str) -> usize {
        self.waits.iter().filter(|(_, reason)| reason.name() == name).count()
    }
}

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stop {
    /// Go on.
    #[default]
    No,
    /// Finish the batch, commit the checkpoint, give the shard back.
    AfterBatch,
}

/// Sent by whoever may stop a run; see [`stop_signal`].
pub type StopSignal = watch::Receiver<Stop>;

/// A way to stop a run, and what the run listens to.
pub fn stop_signal() -> (watch::Sender<Stop>, StopSignal) {
    watch::channel(Stop::No)
}
