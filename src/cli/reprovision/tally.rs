//! Where the tenants of a run are, by its journal.

use std::collections::BTreeMap;

use reseal::{
    reprovision::Facts,
    store::{SagaRow, SagaState, Store, StoreError},
};
use serde_json::{Value, json};

use crate::cli::{
    report::counts,
    stdio::{duration, shown, wrapped},
};

/// Tenants that are read at once.
const PAGE: u32 = 500;

/// Parked tenants that a person is shown.
const SHOWN: usize = 20;

/// A tenant that waits for a person.
pub(super) struct Parked {
    tenant: String,
    phase: String,
    why: String,
}

/// How long tenants could not work.
#[derive(Default)]
pub(super) struct Downtime {
    /// Those whose time is over, the shortest first, in milliseconds.
    over: Vec<(i64, String)>,
    /// Those who are down now, and since when, in Unix milliseconds.
    now: Vec<(i64, String)>,
}

/// Where the tenants of a run are.
#[derive(Default)]
pub(super) struct Tally {
    /// By state, in the order of a tenant's way.
    states: [(u64, &'static str); 5],
    /// By phase, of those that are under way or parked.
    phases: BTreeMap<String, u64>,
    pub(super) parked: Vec<Parked>,
    pub(super) down: Downtime,
    /// Tenants whose old credentials were not seen to be dead yet, in order.
    pub(super) alive: Vec<String>,
    /// Roles that nobody knew and that can't log in any more, as `tenant: role`.
    pub(super) strangers: Vec<String>,
}

impl Tally {
    /// As the journal has it.
    pub(super) async fn of(journal: &dyn Store, run_id: &str) -> Result<Self, StoreError> {
        let mut tally = Self {
            states: [(0, "waiting"), (0, "running"), (0, "parked"), (0, "done"), (0, "gone")],
            ..Self::default()
        };
        let mut after = -1;
        loop {
            let page = journal.sagas(run_id, &[], after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = last.position;
            page.into_iter().for_each(|saga| tally.add(saga));
        }
        tally.down.over.sort();
        tally.down.now.sort();
        Ok(tally)
    }

    fn add(&mut self, saga: SagaRow) {
        if let Some((count, _)) = self.states.iter_mut().find(|(_, name)| *name == saga.state.as_str()) {
            *count += 1;
        }
        let facts: Facts = serde_json::from_str(&saga.detail).unwrap_or_default();
        self.strangers.extend(facts.strangers.iter().map(|role| format!("{}: {role}", saga.tenant)));
        match (saga.down_from_ms, saga.down_to_ms) {
            (Some(from), Some(to)) => self.down.over.push((to - from, saga.tenant.clone())),
            (Some(from), None) if saga.state != SagaState::Gone => {
                self.down.now.push((from, saga.tenant.clone()));
            }
            _ => {}
        }
        if matches!(saga.state, SagaState::Done | SagaState::Gone) {
            return;
        }
        self.alive.push(saga.tenant.clone());
        if saga.state != SagaState::Waiting {
            *self.phases.entry(saga.phase.clone()).or_default() += 1;
        }
        if saga.state == SagaState::Parked {
            let why = saga.why.unwrap_or_default();
            self.parked.push(Parked { tenant: saga.tenant, phase: saga.phase, why });
        }
    }

    /// How many tenants there are.
    pub(super) fn total(&self) -> u64 {
        self.states.iter().map(|(count, _)| count).sum()
    }

    /// How many are done or gone.
    pub(super) fn ended(&self) -> u64 {
        self.total() - self.left()
    }

    /// How many something is left to do for.
    pub(super) fn left(&self) -> u64 {
        u64::try_from(self.alive.len()).unwrap_or(u64::MAX)
    }

    pub(super) fn states_json(&self) -> Value {
        let mut json: Value =
            self.states.iter().map(|(count, name)| ((*name).to_owned(), json!(count))).collect();
        json["total"] = json!(self.total());
        json
    }

    pub(super) fn phases_json(&self) -> Value {
        json!(self.phases)
    }

    pub(super) fn parked_json(&self) -> Value {
        let parked = self.parked.iter();
        parked.map(|one| json!({"tenant": one.tenant, "phase": one.phase, "why": one.why})).collect()
    }

    /// The states, those under way by phase, and who is parked.
    pub(super) fn in_words(&self) -> String {
        let lines = self.states.iter().filter(|(count, _)| *count > 0);
        let lines: Vec<_> =
            lines.map(|(count, name)| (i64::try_from(*count).unwrap_or(i64::MAX), *name)).collect();
        let mut text = counts(&lines);
        if !self.phases.is_empty() {
            let phases: Vec<_> =
                self.phases.iter().map(|(phase, count)| format!("{count} in {phase}")).collect();
            text += &wrapped(&format!("under way or parked: {}", phases.join(", ")), 2);
        }
        for one in self.parked.iter().take(SHOWN) {
            let line = format!("parked: {}, in {}: {}", shown(&one.tenant), one.phase, shown(&one.why));
            text += &wrapped(&line, 2);
        }
        if self.parked.len() > SHOWN {
            text += &format!("  and {} more that are parked\n", self.parked.len() - SHOWN);
        }
        text
    }
}

impl Downtime {
    fn median(&self) -> Option<i64> {
        self.over.get(self.over.len().checked_sub(1)? / 2).map(|(time, _)| *time)
    }

    fn sum(&self) -> i64 {
        self.over.iter().map(|(time, _)| time).sum()
    }

    pub(super) fn json(&self) -> Value {
        let longest = self.over.last();
        json!({
            "tenants": self.over.len(),
            "longest_ms": longest.map(|(time, _)| time),
            "of_tenant": longest.map(|(_, tenant)| tenant),
            "median_ms": self.median(),
            "sum_ms": self.sum(),
            "down_now": self.now.iter().map(|(_, tenant)| tenant).collect::<Vec<_>>(),
        })
    }

    /// What was measured, and who is down at this time.
    pub(super) fn in_words(&self, now_ms: i64) -> String {
        let mut text = String::new();
        if let (Some((longest, tenant)), Some(median)) = (self.over.last(), self.median()) {
            text += &format!(
                "Downtime of {}: {} at most ({}), {} in the middle, {} in all.\n",
                tenants(self.over.len()),
                seconds(*longest),
                shown(tenant),
                seconds(median),
                seconds(self.sum())
            );
        }
        if let Some((since, tenant)) = self.now.first() {
            let time = seconds(now_ms - since);
            let many = tenants(self.now.len());
            text += &format!("Down now: {many}, the longest {} for {time}.\n", shown(tenant));
        }
        text
    }
}

/// So many of them.
pub(super) fn tenants(count: usize) -> String {
    if count == 1 { "1 tenant".to_owned() } else { format!("{count} tenants") }
}

/// Milliseconds in words.
pub(super) fn seconds(ms: i64) -> String {
    let (seconds, rest) = (ms.max(0) / 1000, ms.max(0) % 1000);
    let whole = f64::from(u32::try_from(seconds).unwrap_or(u32::MAX));
    duration(whole + f64::from(i32::try_from(rest).unwrap_or_default()) / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saga(tenant: &str, state: SagaState, down: (Option<i64>, Option<i64>)) -> SagaRow {
        SagaRow {
            run_id: "R".to_owned(),
            tenant: tenant.to_owned(),
            position: 0,
            generation: 1,
            phase: "launch".to_owned(),
            state,
            why: (state == SagaState::Parked).then(|| "it does not start".to_owned()),
            detail: r#"{"strangers":["intruder"]}"#.to_owned(),
            sealed: None,
            down_from_ms: down.0,
            down_to_ms: down.1,
            begun_ms: None,
            ended_ms: None,
        }
    }

    #[test]
    fn what_is_not_over_counts_as_alive_and_as_left() {
        let mut tally = Tally {
            states: [(0, "waiting"), (0, "running"), (0, "parked"), (0, "done"), (0, "gone")],
            ..Tally::default()
        };
        for (tenant, state, down) in [
            ("a", SagaState::Done, (Some(1000), Some(3000))),
            ("b", SagaState::Parked, (Some(5000), None)),
            ("c", SagaState::Waiting, (None, None)),
            ("d", SagaState::Gone, (Some(1000), None)),
            ("e", SagaState::Done, (Some(0), Some(9500))),
        ] {
            tally.add(saga(tenant, state, down));
        }
        tally.down.over.sort();
        assert_eq!((tally.total(), tally.ended(), tally.left()), (5, 3, 2));
        assert_eq!(tally.alive, ["b", "c"]);
        let words = tally.in_words();
        assert!(words.contains("  parked: b, in launch: it does not start\n"), "{words}");
        assert!(words.contains("under way or parked: 1 in launch"), "{words}");
        let words = tally.down.in_words(7000);
        assert_eq!(
            words,
            "Downtime of 2 tenants: 9.5 s at most (e), 2.0 s in the middle, 11.5 s in all.\n\
             Down now: 1 tenant, the longest b for 2.0 s.\n"
        );
        assert_eq!(tally.strangers.len(), 5);
    }
}
