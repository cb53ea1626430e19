//! The target's rows as tenants: where each runs, read whole, and swapped whole for where it runs from now on.
//!
//! A swap is a compare-and-swap on everything that was read of the row except its status and rank, so that what the
//! control plane changed meanwhile is never overwritten.

use std::fmt::Debug;

use async_trait::async_trait;

use super::{RowKey, StoreError, Target};

/// The names of the columns that say where a tenant runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantColumns {
    /// The Fly app.
    pub app: String,
    /// The id of its machine.
    pub machine: String,
    /// The machine's region.
    pub region: String,
    /// The Neon project.
    pub project: String,
    /// The id of its branch.
    pub branch: String,
    /// The tenant's status, which is only read.
    pub status: String,
    /// When the row was last changed. A swap sets it where it is a time: a `timestamp` of Postgres with or without time
    /// zone (UTC then), or in SQLite a text or a Unix time, in the form of what is there.
    pub updated_at: String,
    /// What tenants are ranked by, if by anything.
    pub order: Option<String>,
}

impl Default for TenantColumns {
    fn default() -> Self {
        Self {
            app: "fly_app".to_owned(),
            machine: "fly_machine_id".to_owned(),
            region: "fly_region".to_owned(),
            project: "neon_project_id".to_owned(),
            branch: "neon_branch_id".to_owned(),
            status: "status".to_owned(),
            updated_at: "updated_at".to_owned(),
            order: None,
        }
    }
}

impl TenantColumns {
    /// Every column's name, once.
    pub(super) fn names(&self) -> Vec<&str> {
        let Self { app, machine, region, project, branch, status, updated_at, order } = self;
        let mut names = Vec::new();
        for name in [app, machine, region, project, branch, status, updated_at].into_iter().chain(order) {
            if !names.contains(&name.as_str()) {
                names.push(name.as_str());
            }
        }
        names
    }

    /// Those that a swap compares, in the order of [`TenantRow::places`].
    pub(super) fn places(&self) -> [&str; 5] {
        [&self.app, &self.machine, &self.region, &self.project, &self.branch]
    }

    /// Those that a swap writes, in the order of [`TenantChange::places`].
    pub(super) fn written(&self) -> [&str; 3] {
        [&self.machine, &self.region, &self.branch]
    }
}

/// A tenant as its row says. What a column holds is its text, whatever its type; `None` for NULL, for no text at all, and
/// where the table lacks the column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantRow {
    /// The row's key.
    pub key: RowKey,
    /// The Fly app.
    pub app: Option<String>,
    /// The id of its machine.
    pub machine: Option<String>,
    /// The machine's region.
    pub region: Option<String>,
    /// The Neon project.
    pub project: Option<String>,
    /// The id of its branch.
    pub branch: Option<String>,
    /// The tenant's status.
    pub status: Option<String>,
    /// What it is ranked by.
    pub rank: Option<String>,
    /// The values as they are stored, in the order of [`Target::columns`]; `None` for NULL and for one of no bytes.
    pub cells: Vec<Option<Vec<u8>>>,
}

impl TenantRow {
    /// What a swap compares, beside the cells.
    pub(super) fn places(&self) -> [Option<String>; 5] {
        [&self.app, &self.machine, &self.region, &self.project, &self.branch].map(Clone::clone)
    }
}

/// Where a tenant runs from now on.
#[derive(Debug, Clone, Copy)]
pub struct TenantChange<'a> {
    /// The id of its machine.
    pub machine: &'a str,
    /// The machine's region.
    pub region: &'a str,
    /// The id of its branch.
    pub branch: &'a str,
    /// The values as they are to be stored, in the order of [`Target::columns`]; one of no bytes leaves its column as
    /// it is.
    pub cells: &'a [Vec<u8>],
}

impl TenantChange<'_> {
    /// What a swap writes, beside the cells.
    pub(super) fn places(&self) -> [&str; 3] {
        [self.machine, self.region, self.branch]
    }
}

/// The target's rows as tenants.
#[async_trait]
pub trait Tenants: Debug + Send + Sync {
    /// The names of those `columns` that the table lacks.
    async fn missing_columns(
        &self,
        target: &Target,
        columns: &TenantColumns,
    ) -> Result<Vec<String>, StoreError>;

    /// At most `limit` tenants after `after`, in the order of their keys.
    async fn tenants(
        &self,
        target: &Target,
        columns: &TenantColumns,
        after: Option<&RowKey>,
        limit: u32,
    ) -> Result<Vec<TenantRow>, StoreError>;

    /// The tenant with this key.
    async fn tenant(
        &self,
        target: &Target,
        columns: &TenantColumns,
        key: &RowKey,
    ) -> Result<Option<TenantRow>, StoreError>;

    /// Writes the change, and the time into `updated_at` where the table has one, if the row is as `old` says in
    /// everything but status and rank. `false` when it is not, or not there any more; then nothing was changed.
    ///
    /// # Errors
    /// [`StoreError::Undone`] when the row does not hold afterwards what was written, by a trigger's doing. A fence
    /// refuses what is not under its key (`RK001` on Postgres). After any error nothing was changed; except that a commit
    /// whose answer was lost may have gone through, which the row itself shows.
    ///
    /// # Crash safety
    /// One transaction, durable before this returns: the row is all old or all new.
    async fn swap_tenant(
        &self,
        target: &Target,
        columns: &TenantColumns,
        old: &TenantRow,
        change: &TenantChange<'_>,
    ) -> Result<bool, StoreError>;
}
