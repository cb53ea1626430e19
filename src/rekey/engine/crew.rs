//! The workers of one process: as many as are asked for now.

use std::{collections::BTreeSet, sync::Arc};

use tokio::{sync::watch, task::JoinSet};

use super::{Stop, workshop::Workshop};
use crate::rekey::RekeyError;

/// Why a worker left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// There is nothing left to do, or the process is to stop.
    Over,
    /// Fewer workers are asked for.
    Surplus,
}

/// Keeps workers number 1 to as many as are asked for at work, until it is over for one of them; then waits for the
/// others. The first error is told to `stop`, so that all end after their batch.
pub(super) async fn work_together<F>(
    shop: &Arc<Workshop>,
    stop: &watch::Sender<Stop>,
    worker: impl Fn(usize) -> F,
) -> Result<(), RekeyError>
where
    F: Future<Output = Result<Left, RekeyError>> + Send + 'static,
{
    let (mut directions, mut workers, mut present) =
        (shop.directions.subscribe(), JoinSet::new(), BTreeSet::new());
    let (mut over, mut first_error) = (false, None);
    loop {
        let asked = directions.borrow_and_update().workers;
        for number in (1..=asked).filter(|_| !over) {
            if present.insert(number) {
                let work = worker(number);
                workers.spawn(async move { (number, work.await) });
            }
        }
        shop.metrics.workers(present.len());
        let ended = tokio::select! {
            ended = workers.join_next() => ended,
            // It is sent from here on: the sender is the shop's.
            _ = directions.changed() => continue,
        };
        let Some(ended) = ended else { break };
        let (number, ended) = ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        present.remove(&number);
        over |= !matches!(ended, Ok(Left::Surplus));
        if let Err(error) = ended {
            stop.send_replace(Stop::AfterBatch);
            first_error.get_or_insert(error);
        }
    }
    first_error.map_or(Ok(()), Err)
}
