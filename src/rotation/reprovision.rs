//! `SECRETS_ENCRYPTION_KEY` by re-provisioning: the run of every tenant, as steps of a rotation.
//!
//! The run has a journal of its own, and can be gone on with by `reseal reprovision run` too: the rotation takes up the one
//! that is open, and takes one that ended since it began for its own.

use serde_json::json;
use tokio::sync::watch;

use super::{
    Rotation, RotationError, SecretName,
    outcome::{Taken, Wait},
    recipe::Reprovision,
};
use crate::{
    reprovision::{
        Asked, Ending, Plan, Progress, ReprovisionError, Run, Stop, Works,
        finish::{Finish, finish},
        until_let_go,
    },
    store::ReprovisionRow,
};

/// Where a person sees what is left.
const STATUS: &str = "reseal reprovision status";

impl Rotation<'_> {
    pub(super) async fn reprovision(&self, part: Reprovision) -> Result<Taken, RotationError> {
        let works = self.tools.estate.reprovision()?;
        let run = self.own_run(works).await?;
        let taken = match (part, &run) {
            (_, Some(row)) if row.ended_ms.is_some() => Ok(ended(row)),
            (Reprovision::Plan, Some(row)) => {
                Ok(Taken::done(json!({"run": row.run_id, "note": "open already"})))
            }
            (Reprovision::Plan, None) => self.plan_tenants(works).await,
            (Reprovision::Run, row) => self.run_tenants(works, row.as_ref()).await,
            (Reprovision::Verify, Some(row)) => prove(works, row).await,
            (Reprovision::Verify, None) => {
                Ok(Taken::Failed("the journal has no run of the tenants".to_owned()))
            }
        };
        Ok(taken.unwrap_or_else(|error| of_error(part, &error)))
    }

    /// The run that is open, or one that ended and is not older than this rotation.
    async fn own_run(&self, works: &Works) -> Result<Option<ReprovisionRow>, RotationError> {
        let records = self.tools.store.rotation_records(self.id()).await?;
        let since = records.first().map_or(i64::MAX, |record| record.at_ms);
        let newest = works.journal.reprovisions(Some(&works.job.target.name)).await?.into_iter().next();
        Ok(newest.filter(|row| row.ended_ms.is_none() || row.begun_ms >= since))
    }

    /// How the run is asked for: an emergency kills the old credentials first.
    fn tenants_asked(&self) -> Asked {
        let names = self.asked.accept_unverified.iter();
        let secrets = names.filter(|name| name.parse::<SecretName>().is_ok());
        Asked { hard: self.asked.emergency, accept_unrotated: secrets.cloned().collect(), ..Asked::default() }
    }

    async fn plan_tenants(&self, works: &Works) -> Result<Taken, ReprovisionError> {
        let plan = Plan::of(works, self.tenants_asked()).await?;
        Ok(match in_the_way(&plan) {
            Some(what) => Taken::Failed(what),
            None => {
                let note = format!("{} tenants, nothing in the way", plan.tenants.len());
                Taken::done(json!({"plan": plan.digest().to_string(), "note": note}))
            }
        })
    }

    async fn run_tenants(
        &self,
        works: &Works,
        row: Option<&ReprovisionRow>,
    ) -> Result<Taken, ReprovisionError> {
        let tell = |_: &Progress| {};
        let run = match row {
            Some(row) => {
                until_let_go(works.journal.as_ref(), row).await?;
                Run::resume(works, row, &tell).await?
            }
            None => {
                let plan = Plan::of(works, self.tenants_asked()).await?;
                if let Some(what) = in_the_way(&plan) {
                    return Ok(Taken::Waits(Wait::for_(format!("what stands in the way: {what}"))));
                }
                Run::open(works, &plan, &tell).await?
            }
        };
        let ending = run.advance(watch::channel(Stop::Never).1).await;
        run.release().await?;
        Ok(match ending? {
            Ending::Complete => Taken::done(json!({"run": run.id(), "note": "every tenant is at its end"})),
            Ending::Parked(parked) => {
                Taken::Waits(Wait::for_(format!("parked tenants, {parked} of them: {STATUS}")))
            }
            Ending::CanaryParked => Taken::Waits(Wait::for_(format!("a canary that is parked: {STATUS}"))),
            Ending::AfterCanary => {
                Taken::Waits(Wait::for_("a person who has looked at the canaries, which are done"))
            }
            Ending::Interrupted => Taken::NotDone("the run was stopped".to_owned()),
        })
    }
}

/// What stands in the way of a plan.
fn in_the_way(plan: &Plan) -> Option<String> {
    let (first, others) = plan.obstacles.split_first()?;
    let more = if others.is_empty() { String::new() } else { format!("; and {} more", others.len()) };
    Some(format!("{}{more}: reseal reprovision plan", first.what))
}

async fn prove(works: &Works, row: &ReprovisionRow) -> Result<Taken, ReprovisionError> {
    let tell = |_: &Progress| {};
    until_let_go(works.journal.as_ref(), row).await?;
    let run = Run::resume(works, row, &tell).await?;
    let found = finish(&run).await;
    // A run that is over has no lease.
    run.release().await?;
    Ok(match found? {
        (found, Some(_)) => Taken::done(json!({
            "run": run.id(),
            "note": format!("{} tenants, {} old URLs seen to be refused", found.done, found.refused),
        })),
        (found, None) => Taken::Waits(Wait::for_(format!("what is left: {}: {STATUS}", left(&found)))),
    })
}

fn left(found: &Finish) -> String {
    let orphans = found.leftovers.orphans.len();
    let failed = found.table.map_or(0, |seen| seen.failed);
    format!(
        "{} tenants not at their end, {} with something wrong, {failed} values not under the new key, {orphans} orphans",
        found.left, found.problem_count
    )
}

/// A run that is over, with its certificate.
fn ended(row: &ReprovisionRow) -> Taken {
    Taken::done(json!({"run": row.run_id, "note": "proven, with a certificate"}))
}

/// What an error makes of a step. Past the cut-over what is refused is a person's to mend.
fn of_error(part: Reprovision, error: &ReprovisionError) -> Taken {
    match (part, error) {
        (_, error) if error.is_resumable() => Taken::NotDone(error.to_string()),
        (Reprovision::Run | Reprovision::Verify, ReprovisionError::Refused { what, .. }) => {
            Taken::Waits(Wait::for_(what.clone()))
        }
        (_, ReprovisionError::Fenced { .. }) => Taken::NotDone(error.to_string()),
        _ => Taken::Failed(error.to_string()),
    }
}
