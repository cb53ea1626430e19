//! A plan: what a run would do, meet and cost. It writes nothing, and no run takes anything from it but its digest.

mod cost;
mod digest;
mod permissions;
mod sample;

use std::sync::Arc;

pub use cost::{Between, Calls, DOLLARS_PER_10_000_CALLS, Duration, Writing};
pub use digest::{NotADigest, PlanDigest, require_plan};
pub use permissions::Permission;
pub use sample::Sample;

use super::{
    Census, DataKeyScope, Elsewhere, Intent, Job, KeyChoice, Options, RekeyError, census, holders, prepare,
    registered_otherwise,
};
use crate::{
    envelope::Format,
    store::{DataKeyState, Finding, Footprint, Repeats, Store, TargetName},
};

/// Repeated values that are named.
const EXAMPLES: usize = 5;

/// What came of planning.
#[derive(Debug)]
pub enum Planned {
    /// It can't be done, and the values were not looked at.
    Refused {
        /// Everything found, refusals first.
        findings: Vec<Finding>,
        /// How the KMS keys stand, as far as they were asked.
        permissions: Vec<Permission>,
    },
    /// Everything was looked at. A finding may still refuse: when no value opens, say.
    Looked(Box<Plan>),
}

/// What a run would do, meet and cost.
#[derive(Debug)]
pub struct Plan {
    /// The table, the keys and the options, as the run would have them.
    pub job: Arc<Job>,
    /// Whether reseal's own tables are there.
    pub migrated: bool,
    /// Everything found, refusals first.
    pub findings: Vec<Finding>,
    /// How the KMS keys stand.
    pub permissions: Vec<Permission>,
    /// What the values are under.
    pub census: Census,
    /// Values that are there more than once.
    pub repeats: Repeats,
    /// Values under an old static key in other columns of the database.
    pub elsewhere: Elsewhere,
    /// What the table takes on disk.
    pub footprint: Footprint,
    /// What was measured on real rows.
    pub sample: Sample,
    /// Calls of the KMS.
    pub calls: Calls,
    /// Calls of the KMS that this plan made: for the census, and for the sample.
    pub calls_made: u64,
    /// Bytes written.
    pub writing: Writing,
    /// Time.
    pub duration: Duration,
    /// What a run can be held to.
    pub digest: PlanDigest,
}

impl Plan {
    /// Whether a run would be refused.
    pub fn is_refused(&self) -> bool {
        self.findings.iter().any(|finding| finding.refuses)
    }
}

/// Looks at the table, its surroundings, its values and the keys, and says what a run would do.
///
/// # Errors
/// Keys that can't be loaded, and trouble with the database or the KMS. What stands in the way of a run is no error,
/// but a finding.
pub async fn plan(
    store: Arc<dyn Store>,
    name: &TargetName,
    choice: &KeyChoice,
    options: Options,
) -> Result<Planned, RekeyError> {
    let inspection = store.inspect(name).await?;
    let mut findings = inspection.findings;
    let is_refused = |findings: &[Finding]| findings.iter().any(|finding| finding.refuses);
    let target = match inspection.target {
        Some(target) if !is_refused(&findings) => target,
        _ => return Ok(Planned::Refused { findings, permissions: Vec::new() }),
    };
    if let Some(other) = registered_otherwise(store.as_ref(), &target).await? {
        findings.insert(0, Finding::refusal(other.to_string(), other.way_out()));
        return Ok(Planned::Refused { findings, permissions: Vec::new() });
    }
    let migrated = store.is_migrated().await?;
    let rows = if migrated { store.data_keys(Some(&target.name)).await? } else { Vec::new() };
    let active = rows.into_iter().filter(|row| row.state == DataKeyState::Active).map(|row| row.kms);
    let permissions = permissions::preflight(choice, &target.name, &active.collect::<Vec<_>>()).await?;
    let surroundings = findings.clone();
    findings.extend(permissions.iter().filter_map(Permission::finding));
    findings.sort_by_key(|finding| !finding.refuses);
    if is_refused(&findings) {
        return Ok(Planned::Refused { findings, permissions });
    }
    let job = Arc::new(prepare(store, target, choice, options, Intent::Look).await?);
    let digest = PlanDigest::of(&job, choice, &surroundings).await?;
    let census = census(&job).await?;
    let repeats = job.store.repeats(&job.target, EXAMPLES).await?;
    let old_statics =
        job.opener.statics().iter().filter(|key| job.keys.new != format!("static:{}", key.id()));
    let elsewhere =
        holders(job.store.as_ref(), &job.target, &old_statics.cloned().collect::<Vec<_>>()).await?;
    let footprint = job.store.footprint(&job.target).await?;
    let sample = sample::take(&job).await?;
    let calls = Calls::of(&job, &census);
    let calls_made = job.opener.kms().iter().map(|kms| kms.calls()).sum();
    let writing = Writing::of(&footprint, &job, &census, &sample);
    let duration = Duration::of(&job, &census, &sample, &writing);
    findings.extend(of_the_choice(&job));
    findings.extend(of_the_values(&census, &repeats, &elsewhere));
    findings.sort_by_key(|finding| !finding.refuses);
    Ok(Planned::Looked(Box::new(Plan {
        job,
        migrated,
        findings,
        permissions,
        census,
        repeats,
        elsewhere,
        footprint,
        sample,
        calls,
        calls_made,
        writing,
        duration,
        digest,
    })))
}

/// What follows from formats and keys alone.
fn of_the_choice(job: &Job) -> Option<Finding> {
    match (job.keys.format, job.keys.scope) {
        (Format::V1, _) => Some(Finding::warning(
            "a reader that holds only one static key can't read what is not under it",
            "while the run is under way some values are under the old key and some under the new: \
             give readers both, or stop them for the time of the run",
        )),
        (Format::V2, DataKeyScope::Batch) => Some(Finding::warning(
            "one data key for a whole batch of rows: a tenant's data key opens other tenants' values",
            "--data-key-scope row keeps tenants apart, at two KMS calls a row",
        )),
        _ => None,
    }
}

/// What the values themselves warn of.
fn of_the_values(census: &Census, repeats: &Repeats, elsewhere: &Elsewhere) -> Vec<Finding> {
    let mut findings = Vec::new();
    let refused = census.refused.values().sum::<i64>();
    if refused > 0 && census.opened.is_empty() && census.wrapped == 0 {
        findings.push(Finding::refusal(
            format!("none of {refused} values opens under any of the given keys"),
            "check --old: is it the key that the control plane runs with?",
        ));
    } else if refused > 0 {
        findings.push(Finding::warning(
            format!("{refused} values can't be opened and would go to quarantine"),
            "name every key that values may be under with --old, once for each",
        ));
    }
    if census.ambiguous > 0 {
        findings.push(Finding::warning(
            format!("{} v1 values begin with 0x02 or 0x03", census.ambiguous),
            "a reader that takes the first byte for the format can't open them; reseal goes by the tag",
        ));
    }
    if let [[one, other], ..] = repeats.examples.as_slice() {
        findings.push(Finding::warning(
            format!(
                "{} cells hold a ciphertext that another cell holds too: row {} column {} and row {} column {}",
                repeats.cells, one.0, one.1, other.0, other.1
            ),
            "no two seals are alike: one was copied or moved there. v1 and v2 can't tell which is right, and a re-key \
             makes the copy good: look at them first",
        ));
    }
    for holder in &elsewhere.holders {
        findings.push(Finding::warning(
            format!(
                "{}.{}, column {}: {} of {} sampled values open under an old static key",
                holder.schema, holder.table, holder.column, holder.opened, holder.sampled
            ),
            "this run does not re-key them: they need a run of their own before that key may go",
        ));
    }
    if !elsewhere.unread.is_empty() {
        let names = elsewhere.unread.iter().map(|at| format!("{}.{}.{}", at.schema, at.table, at.column));
        findings.push(Finding::warning(
            format!("these columns could not be sampled: {}", names.collect::<Vec<_>>().join(", ")),
            "whether they hold values under an old static key is not known; plan as a role that may read them",
        ));
    }
    findings
}
