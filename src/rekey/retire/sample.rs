//! A last look before the old key goes: does the new one open values, now and here?

use super::{Obstacle, Remedy};
use crate::{
    keyring::Attempt,
    rekey::{Job, RekeyError},
    secret::Plaintext,
    store::Target,
};

/// Rows that are looked at.
const ROWS: usize = 50;

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sampled {
    /// Values tried.
    pub(super) tried: usize,
    /// Values that opened under the new key.
    pub(super) opened: usize,
}

impl Sampled {
    /// A verify that passed says that all open: that none does now is trouble with the key, not with values.
    pub(super) fn obstacle(self, target: &Target) -> Option<Obstacle> {
        (self.opened == 0 && self.tried > 0).then(|| Obstacle {
            what: format!(
                "none of {} sampled values of {} opens under the new key now",
                self.tried, target.name
            ),
            target: target.clone(),
            remedy: Remedy::Verify,
            waiver: None,
        })
    }
}

/// Opens a few values of the job's target under its new key.
pub(super) async fn under_new_key(job: &Job) -> Result<Sampled, RekeyError> {
    let page = job.store.sample(&job.target, ROWS, job.limits()).await?;
    let (mut sampled, mut plaintext, mut buffer) =
        (Sampled { tried: 0, opened: 0 }, Plaintext::new(), Vec::new());
    for (row, key) in page.keys.iter().enumerate() {
        for (column, definition) in job.target.columns.iter().enumerate() {
            let Some(stored) = page.cells.at(row, column) else { continue };
            sampled.tried += 1;
            let Some(value) = definition.encoding.decode(stored, &mut buffer) else { continue };
            let attempt = job.opener.open(column, &key.to_string(), value, &mut plaintext).await?;
            if matches!(attempt, Attempt::Opened(origin) if job.sealer.is_current(&origin)) {
                sampled.opened += 1;
            }
        }
    }
    plaintext.clear();
    Ok(sampled)
}
