//! Trying again while the database is in trouble.

use std::{future::Future, time::Duration};

use backon::{ExponentialBuilder, Retryable};
use tokio::sync::watch;

use super::Status;
use crate::store::StoreError;

/// Repeats `operation` while its error is transient: 100 ms to 5 s apart with jitter, for about a minute, which is
/// longer than a server takes to restart. The reason shows in `status` meanwhile.
pub(super) async fn patiently<T, F>(
    status: &watch::Sender<Status>,
    operation: impl FnMut() -> F,
) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let backoff = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(5))
        .with_max_times(18)
        .with_jitter();
    let mut waited = false;
    let answer = operation
        .retry(backoff)
        .when(StoreError::is_transient)
        .notify(|error, _| {
            waited = true;
            status.send_modify(|status| status.waiting = Some(format!("the database: {error}")));
        })
        .await;
    if waited {
        status.send_modify(|status| status.waiting = None);
    }
    answer
}
