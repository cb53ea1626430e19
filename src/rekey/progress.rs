//! What a run tells those who watch it, and how it is told to stop.

use tokio::sync::watch;

use crate::store::RunRow;

/// What a run shows of itself while it works; its counters are in the store.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// The run, once it is open.
    pub run: Option<RunRow>,
    /// Why nothing moves, when nothing moves.
    pub waiting: Option<String>,
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
