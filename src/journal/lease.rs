//! Who works on a journal, and for how long.

use std::time::Duration;

use tokio::time::sleep;

use crate::store::StoreError;

/// How often a holder says that it is there; the lease lasts 20 s.
const RENEWAL: Duration = Duration::from_secs(5);

/// Who we are, to others who want the lease.
pub(crate) fn holder() -> String {
    let host = rustix::system::uname();
    format!("pid {} on {}", std::process::id(), host.nodename().to_string_lossy())
}

/// Does `work` while `renew` says that the lease is still ours; `None` when it is another's.
pub(crate) async fn while_held<T, R: Future<Output = Result<bool, StoreError>>>(
    work: impl Future<Output = T>,
    renew: impl Fn() -> R,
) -> Option<T> {
    let keeping = async {
        loop {
            sleep(RENEWAL).await;
            // A database that stumbles is not a lost lease: the next record finds out.
            if let Ok(false) = renew().await {
                return;
            }
        }
    };
    tokio::select! {
        done = work => Some(done),
        () = keeping => None,
    }
}
