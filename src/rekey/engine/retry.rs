//! Trying again while the database is in trouble.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use backon::{ExponentialBuilder, Retryable};
use tokio::sync::watch;

use super::{Status, Waiting, waiting::Wait};
use crate::store::StoreError;

/// How long the database may be in trouble: longer than a server takes to restart.
const PATIENCE: Duration = Duration::from_secs(60);

/// Repeats `operation` while its error is transient, 100 ms to 5 s apart with jitter, until [`PATIENCE`] is spent. The
/// reason shows in `status` meanwhile.
pub(in crate::rekey) async fn patiently<T, F>(
    status: &watch::Sender<Status>,
    operation: impl FnMut() -> F,
) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let backoff = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(5))
        .without_max_times()
        .with_jitter();
    let (mut wait, started) = (None, Instant::now());
    operation
        .retry(backoff)
        .when(|error| error.is_transient() && started.elapsed() < PATIENCE)
        .notify(|error, _| {
            wait.get_or_insert_with(|| Wait::begin(status, Waiting::Database(error.to_string())));
        })
        .await
}
