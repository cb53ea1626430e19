//! What a re-provisioning would do, before it does anything: which tenants, in which order, what each will feel, and what
//! stands in the way. Nothing here changes anything; but what a token may do is found out by asking for changes that can't
//! be: the deletion of a secret that there is none of, and a new password for a role that there can't be.

mod estimate;
mod look;

pub use estimate::{Calls, Estimate};

use super::{Asked, Course, Placement, ReprovisionError, Works};
use crate::journal::PlanDigest;

/// A tenant, and what would be done for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// The row's key, as text.
    pub tenant: String,
    /// The app of its machine.
    pub app: String,
    /// Its machine.
    pub machine: String,
    /// Its project.
    pub project: String,
    /// Its branch.
    pub branch: String,
    /// What decides its phases.
    pub course: Course,
}

impl Planned {
    /// Why its course is this one, in words.
    pub fn why(&self) -> &'static str {
        match self.course.placement {
            Placement::Swap => "a new machine beside the old one",
            Placement::InPlace => "its machine has a volume, and is updated where it is",
        }
    }
}

/// Something that stands in the way of a run, or is to be known before one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// The tenant, if it is one's.
    pub tenant: Option<String>,
    /// What was found.
    pub what: String,
    /// What to do about it.
    pub hint: String,
}

impl Obstacle {
    fn of_run(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { tenant: None, what: what.into(), hint: hint.into() }
    }

    fn of(tenant: &str, what: impl std::fmt::Display) -> Self {
        Self {
            tenant: Some(tenant.to_owned()),
            what: format!("tenant {tenant}: {what}"),
            hint: format!("mend it, or leave the tenant out: --leave-out {tenant}"),
        }
    }
}

/// A re-provisioning that was not begun.
#[derive(Debug)]
pub struct Plan {
    /// How it is asked for.
    pub asked: Asked,
    /// The tenants, in order.
    pub tenants: Vec<Planned>,
    /// Rows that are nobody's yet: no machine, no branch, no URL.
    pub unprovisioned: u64,
    /// What stands in the way: with one of these no run is opened.
    pub obstacles: Vec<Obstacle>,
    /// What is to be known, and stands in nobody's way.
    pub warnings: Vec<Obstacle>,
}

impl Plan {
    /// Looks at every tenant's row, at its machine and branch, and at whether the credentials may change them.
    ///
    /// # Errors
    /// The table's and the journal's, and a provider that does not answer. What is wrong with a tenant is an obstacle of
    /// the plan, and no error.
    pub async fn of(works: &Works, asked: Asked) -> Result<Self, ReprovisionError> {
        let mut plan = Self {
            asked,
            tenants: Vec::new(),
            unprovisioned: 0,
            obstacles: Vec::new(),
            warnings: Vec::new(),
        };
        plan.look_at_request(works).await?;
        plan.look_at_rows(works).await?;
        plan.look_at_machines(works).await?;
        plan.look_at_branches(works).await?;
        Ok(plan)
    }

    /// The plan's digest: of how it is asked for, and of every tenant in order with what it has and what would be done.
    pub fn digest(&self) -> PlanDigest {
        let tenants: Vec<_> = self
            .tenants
            .iter()
            .map(|one| (&one.tenant, &one.app, &one.machine, &one.project, &one.branch, one.course))
            .collect();
        PlanDigest::of("reseal reprovision plan", &(&self.asked, tenants))
    }

    /// Refuses unless this is the plan that was approved.
    ///
    /// # Errors
    /// [`ReprovisionError::Refused`].
    pub fn require(&self, approved: &PlanDigest) -> Result<(), ReprovisionError> {
        if self.digest() == *approved {
            return Ok(());
        }
        Err(ReprovisionError::refused(
            "this is not what was planned: a tenant, its machine or branch, or how it is asked for is another",
            "look at what is so now: reseal reprovision plan",
        ))
    }
}
