//! The tenant's row: what it is to say, by compare-and-swap on what was looked at.

use super::Turn;
use crate::{
    reprovision::{
        Run,
        error::{Trouble, stuck},
        saga::Saga,
        works::fingerprint,
    },
    store::{TenantChange, TenantRow},
};

/// Why a tenant is looked at anew.
pub(in crate::reprovision) const CHANGED: &str = "its row was changed by somebody else meanwhile";

/// What a row is, beside what it was when it was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::reprovision) enum Standing {
    /// The same.
    AsRead,
    /// Another, by somebody else or by us.
    Other,
    /// No more.
    Gone,
    /// It can't be read now.
    Unknown,
}

/// What became of a row that was to change.
enum Swapped {
    /// It is as it is to be.
    Done,
    /// Somebody else changed it.
    Other,
    /// It is gone.
    Gone,
}

/// Where a row is to say that its tenant is.
struct Aim<'a> {
    machine: &'a str,
    region: &'a str,
    branch: &'a str,
}

impl Run<'_> {
    /// The row says where the tenant is now, and holds its new URLs under the new key.
    pub(super) async fn row(&self, saga: &mut Saga) -> Result<Turn, Trouble> {
        let facts = &saga.facts;
        let aim =
            Aim { machine: facts.last_machine(), region: facts.last_region(), branch: facts.last_branch() };
        Ok(match self.swap(saga, &aim).await? {
            Swapped::Done => {
                saga.facts.moved = true;
                Turn::Done
            }
            Swapped::Other => Turn::Replan(CHANGED),
            Swapped::Gone => Turn::Gone,
        })
    }

    /// What has become of the row of a tenant whose phase failed.
    pub(in crate::reprovision) async fn standing(&self, saga: &Saga) -> Standing {
        match self.works.row(saga.tenant()).await {
            Ok(None) => Standing::Gone,
            Ok(Some(row)) if fingerprint(&row) == saga.facts.row => Standing::AsRead,
            Ok(Some(_)) => Standing::Other,
            Err(_) => Standing::Unknown,
        }
    }

    /// The row keeps its machine, and holds the new URL: the old machine is in service with it.
    pub(super) async fn record_old_machine(&self, saga: &mut Saga) -> Result<(), Trouble> {
        let facts = &saga.facts;
        let aim = Aim { machine: &facts.machine, region: &facts.region, branch: &facts.branch };
        if !matches!(self.swap(saga, &aim).await?, Swapped::Done) {
            return Err(stuck(
                "its row was changed by somebody else while its old machine was put back in service",
            ));
        }
        // What the next try compares with.
        if let Some(row) = self.works.row(saga.tenant()).await? {
            saga.facts.row = fingerprint(&row);
        }
        Ok(())
    }

    async fn swap(&self, saga: &Saga, aim: &Aim<'_>) -> Result<Swapped, Trouble> {
        let Some(row) = self.works.row(saga.tenant()).await? else { return Ok(Swapped::Gone) };
        if self.is_as_aimed(saga, &row, aim).await? {
            return Ok(Swapped::Done);
        }
        if fingerprint(&row) != saga.facts.row {
            return Ok(Swapped::Other);
        }
        let cells = self.works.seal(&row.key, &saga.urls).await?;
        let Aim { machine, region, branch } = *aim;
        let change = TenantChange { machine, region, branch, cells: &cells };
        let (job, columns) = (&self.works.job, &self.works.columns);
        let swapped = job.store.swap_tenant(&job.target, columns, &row, &change).await?;
        Ok(if swapped { Swapped::Done } else { Swapped::Other })
    }

    /// Whether a row is what it is to be: after a reply that was lost, its bytes tell nothing, since each sealing has others.
    async fn is_as_aimed(&self, saga: &Saga, row: &TenantRow, aim: &Aim<'_>) -> Result<bool, Trouble> {
        let says = |value: &Option<String>, wanted: &str| value.as_deref() == Some(wanted);
        if !says(&row.machine, aim.machine) || !says(&row.branch, aim.branch) {
            return Ok(false);
        }
        let wanted = [saga.urls.new.first(), saga.urls.redis.as_ref()];
        let opened = self.works.open(row).await?;
        Ok(opened.iter().zip(wanted).all(|(opened, wanted)| match (opened, wanted) {
            (Some((url, is_current)), Some(wanted)) => *is_current && url == wanted,
            (_, None) => true,
            (None, Some(_)) => false,
        }))
    }
}
