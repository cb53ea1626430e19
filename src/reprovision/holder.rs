//! Waits for a process that may have died.

use std::time::Duration;

use tokio::time::sleep;

use super::ReprovisionError;
use crate::store::{ReprovisionRow, Store};

/// How often a holder's lease is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// Returns when the lease of a run is over or given back, or is seen to be renewed: then its holder is at work, and
/// [`Run::resume`](super::Run::resume) refuses. A process that died is let go within 20 s.
///
/// # Errors
/// The journal's.
pub async fn until_let_go(journal: &dyn Store, row: &ReprovisionRow) -> Result<(), ReprovisionError> {
    let is_same = |now: &ReprovisionRow| now.run_id == row.run_id && now.held && now.lease_ms == row.lease_ms;
    while row.held && journal.reprovisions(Some(&row.target)).await?.iter().any(is_same) {
        sleep(LOOK).await;
    }
    Ok(())
}
