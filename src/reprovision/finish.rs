//! The end: every row opens under the new key, every new URL logs in, every old one is refused, nothing is left over.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use serde_json::json;

use super::{
    Facts, ReprovisionError, Run,
    error::Trouble,
    orphans::{Leftovers, orphans},
    saga::Saga,
};
use crate::{
    providers::{Life, Probe},
    rekey::{self, Intent, KeyChoice},
    store::{SagaRow, SagaState, TenantRow},
    time::rfc3339,
};

/// Tenants that are read from the journal at once.
const PAGE: u32 = 200;

/// Problems that are named; all are counted.
const NAMED: usize = 200;

/// What the certificate does not say.
const NOT_COVERED: [&str; 4] = [
    "copies of URLs outside the table, the tenants' machines and the providers",
    "backups, dumps and replicas of the table, and soft-deleted branches that the provider can restore",
    "sessions that were open at a provider's own tools, and data that was read before",
    "tenants that were left out, and rows that had no machine and no branch",
];

/// What the end found.
#[derive(Debug, Clone, Default)]
pub struct Finish {
    /// Tenants that are done.
    pub done: u64,
    /// Tenants that were deleted meanwhile.
    pub gone: u64,
    /// Tenants that are not at their end.
    pub left: u64,
    /// New URLs that log in.
    pub live: u64,
    /// Old URLs that were seen to be refused.
    pub refused: u64,
    /// Values of the whole table that open under the new key, those that do not, and cells without one; `None` where only
    /// some tenants were asked for.
    pub table: Option<TableSeen>,
    /// What is wrong, tenant by tenant; the first ones.
    pub problems: Vec<String>,
    /// How many problems there are.
    pub problem_count: u64,
    /// What is left at the providers.
    pub leftovers: Leftovers,
    /// Roles that nobody knew and that can't log in any more, as `tenant: role`.
    pub strangers: Vec<String>,
    /// The longest time that a tenant could not work, in milliseconds, and whose.
    pub longest: Option<(i64, String)>,
    /// The sum of all.
    pub downtime_ms: i64,
}

/// What a verify of the whole table saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableSeen {
    /// Values that open under the new key.
    pub opened: i64,
    /// Cells without a value.
    pub empty: i64,
    /// Values that do not.
    pub failed: i64,
    /// The cells that there are, by the snapshot's own count.
    pub expected: i64,
}

impl TableSeen {
    /// Whether every cell was seen, and every value opened.
    pub fn passed(&self) -> bool {
        self.failed == 0 && self.is_whole()
    }

    /// Whether the cells seen are the cells there are.
    pub fn is_whole(&self) -> bool {
        self.opened + self.empty + self.failed == self.expected
    }
}

impl Finish {
    /// Whether nothing is left to do.
    pub fn is_clean(&self) -> bool {
        self.left == 0
            && self.problem_count == 0
            && self.leftovers.orphans.is_empty()
            && self.table.is_none_or(|seen| seen.passed())
    }

    fn problem(&mut self, tenant: &str, what: impl std::fmt::Display) {
        self.problem_count += 1;
        if self.problems.len() < NAMED {
            self.problems.push(format!("{tenant}: {what}"));
        }
    }
}

/// What is seen of one tenant at the end.
struct Seen {
    tenant: String,
    refused: usize,
    strangers: Vec<String>,
    downtime_ms: i64,
    problem: Option<String>,
}

/// Proves the end, and ends the run with a certificate if nothing is left.
///
/// # Errors
/// The journal's, the table's, the key's. What is wrong with a tenant is no error: it is counted and named.
///
/// # Crash safety
/// Only reads, until the one record that ends the run.
pub async fn finish(run: &Run<'_>) -> Result<(Finish, Option<String>), ReprovisionError> {
    run.held(async {
        let found = prove(run).await?;
        if !found.is_clean() {
            return Ok((found, None));
        }
        let certificate = certificate(run, &found).await?;
        run.end(&certificate).await?;
        Ok((found, Some(certificate)))
    })
    .await
}

async fn prove(run: &Run<'_>) -> Result<Finish, ReprovisionError> {
    let works = run.works;
    let mut found = Finish { table: table(run).await?, ..Finish::default() };
    if let Some(seen) = found.table.filter(|seen| !seen.is_whole()) {
        let cells = seen.opened + seen.empty + seen.failed;
        let what = format!("{cells} cells were seen, and it has {}", seen.expected);
        found.problem(&works.job.target.name, what);
    }
    let mut after = -1;
    loop {
        let page = works.journal.sagas(run.id(), &[], after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = last.position;
        let mut looks =
            stream::iter(page).map(|row| look(run, row)).buffer_unordered(works.manner.concurrency);
        while let Some(seen) = looks.next().await {
            add(&mut found, seen?);
        }
    }
    found.leftovers = orphans(works).await?;
    found.problems.sort();
    Ok(found)
}

enum Look {
    Left,
    Gone,
    Done(Seen),
}

fn add(found: &mut Finish, look: Look) {
    let seen = match look {
        Look::Left => return found.left += 1,
        Look::Gone => return found.gone += 1,
        Look::Done(seen) => seen,
    };
    found.done += 1;
    found.refused += u64::try_from(seen.refused).unwrap_or(u64::MAX);
    found.downtime_ms += seen.downtime_ms;
    if found.longest.as_ref().is_none_or(|(longest, _)| *longest < seen.downtime_ms) {
        found.longest = Some((seen.downtime_ms, seen.tenant.clone()));
    }
    found.strangers.extend(seen.strangers.iter().map(|role| format!("{}: {role}", seen.tenant)));
    match seen.problem {
        None => found.live += 1,
        Some(problem) => found.problem(&seen.tenant, problem),
    }
}

async fn look(run: &Run<'_>, row: SagaRow) -> Result<Look, ReprovisionError> {
    match row.state {
        SagaState::Gone => return Ok(Look::Gone),
        SagaState::Done => {}
        SagaState::Waiting | SagaState::Running | SagaState::Parked => return Ok(Look::Left),
    }
    let down = row.down_from_ms.zip(row.down_to_ms).map_or(0, |(from, to)| to - from);
    let saga = Saga::load(row, &run.works.vault)?;
    let looked = match run.works.row(saga.tenant()).await {
        Ok(Some(row)) => wrong(run, &saga, &row).await,
        // Deleted since it was done.
        Ok(None) => return Ok(Look::Gone),
        Err(trouble) => Err(trouble),
    };
    let problem = match looked {
        Ok(problem) => problem,
        Err(Trouble::Store(error)) => return Err(error.into()),
        Err(trouble) => Some(trouble.to_string()),
    };
    let Facts { refused, strangers, .. } = saga.facts.clone();
    Ok(Look::Done(Seen { tenant: saga.tenant().to_owned(), refused, strangers, downtime_ms: down, problem }))
}

/// What is wrong with a tenant that is done, if anything.
async fn wrong(run: &Run<'_>, saga: &Saga, row: &TenantRow) -> Result<Option<String>, Trouble> {
    let (works, facts) = (run.works, &saga.facts);
    if row.machine.as_deref() != Some(facts.last_machine())
        || row.branch.as_deref() != Some(facts.last_branch())
    {
        return Ok(Some("its row names another machine or branch than it was left with".to_owned()));
    }
    let opened = works.open(row).await?;
    let is_right = |at: usize, wanted: Option<&_>| {
        wanted.is_none_or(|wanted| matches!(opened.get(at), Some(Some((url, true))) if url == wanted))
    };
    if !is_right(0, saga.urls.new.first()) || !is_right(1, saga.urls.redis.as_ref()) {
        return Ok(Some("its row does not hold its new URLs under the new key".to_owned()));
    }
    let Some(new) = saga.urls.new.first() else { return Ok(Some("its new URL is not known".to_owned())) };
    match works.login().probe(new).await {
        Life::Live => {}
        Life::Dead => return Ok(Some("its new URL is refused".to_owned())),
        Life::Unknown(error) => return Ok(Some(format!("its new URL: {error}"))),
    }
    if facts.course.strategy.forks() {
        return Ok(None);
    }
    for old in saga.urls.old.iter().filter(|old| *old != new) {
        match works.login().probe(old).await {
            Life::Dead => {}
            Life::Live => return Ok(Some("an old URL works".to_owned())),
            Life::Unknown(error) => return Ok(Some(format!("an old URL: {error}"))),
        }
    }
    Ok(None)
}

/// The whole table, on one snapshot; nothing where only some tenants were asked for.
async fn table(run: &Run<'_>) -> Result<Option<TableSeen>, ReprovisionError> {
    if !run.asked().only.is_empty() || !run.asked().leave_out.is_empty() {
        return Ok(None);
    }
    let works = run.works;
    let keys = KeyChoice { old: Vec::new(), ..works.keys.clone() };
    let (store, target) = (Arc::clone(&works.job.store), works.job.target.as_ref().clone());
    let job = rekey::prepare(store, target, &keys, works.job.options.clone(), Intent::Verify).await?;
    let seen = rekey::verify(&Arc::new(job)).await?;
    Ok(Some(TableSeen {
        opened: seen.opened,
        empty: seen.empty,
        failed: seen.failed,
        expected: seen.expected,
    }))
}

/// The certificate, as text that is kept byte for byte.
async fn certificate(run: &Run<'_>, found: &Finish) -> Result<String, ReprovisionError> {
    let journal = &run.works.journal;
    let head = journal.audit_head().await?;
    let table =
        found.table.map(|seen| json!({"opened": seen.opened, "empty": seen.empty, "failed": seen.failed}));
    let retired =
        found.leftovers.retired.iter().map(|branch| json!({"project": branch.place, "branch": branch.id}));
    let certificate = json!({
        "certificate": "reseal reprovision 1",
        "reseal": env!("CARGO_PKG_VERSION"),
        "run": run.id(),
        "issued": rfc3339(journal.now_ms().await?),
        "table": run.works.job.target.name,
        "asked": run.asked(),
        "new_key": run.works.job.keys.new,
        "format": run.works.job.keys.format,
        "tenants": {"done": found.done, "gone": found.gone},
        "new_urls_that_log_in": found.live,
        "old_urls_seen_to_be_refused": found.refused,
        "whole_table": table,
        "roles_shut_out": found.strangers,
        "orphans": found.leftovers.orphans.len(),
        "retired_branches": retired.collect::<Vec<_>>(),
        "downtime": {
            "longest_ms": found.longest.as_ref().map(|(time, _)| time),
            "of_tenant": found.longest.as_ref().map(|(_, tenant)| tenant),
            "sum_ms": found.downtime_ms,
        },
        "not_covered": NOT_COVERED,
        "audit_head": head.map(|head| json!({"seq": head.seq, "hash": hex::encode(head.hash)})),
    });
    Ok(serde_json::to_string_pretty(&certificate).expect("names, numbers and times are valid JSON") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_which_a_part_was_not_seen_is_not_clean() {
        let clean = |opened, failed| {
            let table = Some(TableSeen { opened, empty: 1, failed, expected: 4 });
            Finish { table, ..Finish::default() }.is_clean()
        };
        assert!(clean(3, 0));
        assert!(!clean(2, 0) && !clean(4, 0) && !clean(2, 1));
    }
}
