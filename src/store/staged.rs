//! Values sealed ahead into a side table, and the one transaction that puts them in place.

use async_trait::async_trait;

use super::{Cells, Page, PageLimits, RowKey, StoreError, Target};

/// The side table, next to the target's.
#[async_trait]
pub trait Staged {
    /// Rows after `after`, in key order, with a value that is not staged as it is now. Values above `limits.value`
    /// don't count.
    async fn unstaged(
        &self,
        target: &Target,
        after: Option<&RowKey>,
        limits: PageLimits,
    ) -> Result<Page, StoreError>;

    /// Stages rows: what each cell held, and what is to replace it (`None` where it stays). Replaces what was staged
    /// for them.
    async fn stage(
        &self,
        target: &Target,
        keys: &[RowKey],
        old: &Cells,
        new: &Cells,
    ) -> Result<(), StoreError>;

    /// Locks the table against writers, and readers not, and begins the swap. Dropping it changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Transient`] when somebody keeps the table busy for 2 s.
    async fn begin_swap(&self, target: &Target) -> Result<Box<dyn StagedSwap>, StoreError>;
}

/// A swap under way: nobody writes the table until it is over.
#[async_trait]
pub trait StagedSwap: Send {
    /// The rows that changed since they were staged. The page is its last if these are all of them.
    async fn changed(&mut self, limits: PageLimits) -> Result<Page, StoreError>;

    /// Stages these rows too, and puts every staged value in the place of the one that it was sealed from; gives how
    /// many.
    ///
    /// # Crash safety
    /// One transaction, durable before this returns: every value is as it was, or every one is swapped and the staging
    /// says so.
    async fn finish(self: Box<Self>, keys: &[RowKey], old: &Cells, new: &Cells) -> Result<i64, StoreError>;
}
