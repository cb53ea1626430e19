//! Checks the audit log: a row that was changed, removed or put elsewhere, and a tail that was cut off.
//!
//! The chain itself, and what it can't show, is described with [`AuditLog`]. Nothing here writes.

use crate::store::{AuditHead, AuditLog, AuditRecord, StoreError};

/// Rows read in one step.
const STEP: u32 = 1000;

/// What a check of the whole log found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// The last row that still hangs on the chain.
    pub head: AuditHead,
    /// The first thing that is wrong, if any.
    pub broken: Option<Broken>,
}

/// How the chain is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The row is not what was written, or the one before it is not.
    #[error("record {0} is not what was written, or stands where another did")]
    Changed(i64),
    /// There are later rows.
    #[error("record {0} is missing")]
    Missing(i64),
    /// A head that was noted earlier is in no row.
    #[error("no record has the given head: the log was cut before it, or written anew")]
    HeadUnknown,
}

/// Follows the chain from its first row, and looks for `noted`, the hash of a head that was noted elsewhere.
///
/// # Errors
/// Trouble with the database. A broken chain is no error: it is what the check is for.
pub async fn check<L: AuditLog + ?Sized>(log: &L, noted: Option<&[u8; 32]>) -> Result<Checked, StoreError> {
    let mut head = AuditHead::START;
    let mut seen = noted.is_none();
    loop {
        let page = log.audit_page(head.seq, STEP).await?;
        if page.is_empty() {
            let broken = if seen { None } else { Some(Broken::HeadUnknown) };
            return Ok(Checked { head, broken });
        }
        for record in &page {
            match follow(head, record) {
                Ok(next) => head = next,
                Err(broken) => return Ok(Checked { head, broken: Some(broken) }),
            }
            seen |= noted == Some(&head.hash);
        }
    }
}

fn follow(head: AuditHead, record: &AuditRecord) -> Result<AuditHead, Broken> {
    if record.seq != head.seq + 1 {
        return Err(Broken::Missing(head.seq + 1));
    }
    if record.hash != record.expected_hash(&head.hash) {
        return Err(Broken::Changed(record.seq));
    }
    Ok(AuditHead { seq: record.seq, hash: record.hash })
}
