//! How long it takes, and what each tenant feels: calls against rate limits, and the time that machines and computes take.

use std::{collections::HashMap, time::Duration};

use super::{Plan, Planned};
use crate::reprovision::{Course, Phase, Placement};

/// Calls a second that Neon grants an account: 700 a minute.
const NEON_A_SECOND: u64 = 11;

/// Calls of one tenant, by provider.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Calls {
    /// To Fly, those on its machines: each has a rate limit of its own.
    pub fly: u64,
    /// To Fly, those that every machine of an app waits for: one a second.
    pub creates: u64,
    /// To Neon: the account's limit.
    pub neon: u64,
}

/// What is expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Estimate {
    /// Calls in all.
    pub calls: Calls,
    /// All of it.
    pub duration: Duration,
    /// What decides the duration.
    pub bound_by: &'static str,
    /// How long a tenant can't work, at most.
    pub downtime: Duration,
    /// Machines that are there beside old ones, at most at once.
    pub machines: usize,
    /// Branches that are made.
    pub branches: usize,
}

impl Course {
    /// Calls of one tenant, whose branch has one role.
    fn calls(self) -> Calls {
        let mut calls = Calls::default();
        for phase in self.phases() {
            let (fly, creates, neon) = match phase {
                Phase::Look => (1, 0, 4),
                Phase::Create => (1, 1, 0),
                Phase::Quiesce => (4, 0, 1),
                Phase::Fork => (0, 0, 4),
                Phase::Reset => (0, 0, 5),
                Phase::Launch => (8, 0, 0),
                Phase::Traffic => (6, 0, 0),
                Phase::Retire => (0, 0, 7),
                Phase::Death => (0, 0, 1),
                Phase::Row | Phase::Undo => (0, 0, 0),
            };
            calls.fly += fly;
            calls.creates += creates;
            calls.neon += neon;
        }
        calls
    }

    /// How long a phase takes where nothing is waited for.
    fn seconds(phase: Phase) -> u64 {
        match phase {
            Phase::Look | Phase::Create | Phase::Row | Phase::Death | Phase::Undo => 2,
            Phase::Quiesce | Phase::Fork | Phase::Traffic => 8,
            Phase::Reset | Phase::Retire => 10,
            Phase::Launch => 20,
        }
    }
}

impl Planned {
    /// How long the tenant can't work, about.
    pub fn downtime(&self) -> Duration {
        Duration::from_secs(self.course.outage().iter().map(|phase| Course::seconds(*phase)).sum())
    }
}

impl Plan {
    /// What is expected of it with so many tenants at once.
    pub fn estimate(&self, concurrency: usize) -> Estimate {
        let mut calls = Calls::default();
        let (mut creates, mut changes) = (HashMap::<&str, u64>::new(), HashMap::<&str, u64>::new());
        let (mut work, mut longest) = (0_u64, 0);
        for planned in &self.tenants {
            let own = planned.course.calls();
            calls = Calls {
                fly: calls.fly + own.fly,
                creates: calls.creates + own.creates,
                neon: calls.neon + own.neon,
            };
            *creates.entry(&planned.app).or_default() += own.creates;
            let phases = planned.course.phases();
            let changing = [Phase::Fork, Phase::Reset, Phase::Retire];
            let in_turn =
                changing.iter().filter(|phase| phases.contains(phase)).map(|one| Course::seconds(*one));
            *changes.entry(&planned.project).or_default() += in_turn.sum::<u64>();
            let own_time = phases.iter().map(|phase| Course::seconds(*phase)).sum();
            work += own_time;
            longest = longest.max(own_time);
        }
        let concurrency = u64::try_from(concurrency.max(1)).unwrap_or(u64::MAX);
        let most = |counts: HashMap<&str, u64>| counts.into_values().max().unwrap_or(0);
        let bounds = [
            (
                work.div_ceil(concurrency).max(longest),
                "the time that machines and databases take, so many tenants at once",
            ),
            (most(creates), "Fly's limit of one machine a second in an app"),
            (calls.neon / NEON_A_SECOND, "Neon's limit of 700 calls a minute"),
            (most(changes), "Neon's one change at a time in a project"),
        ];
        let (seconds, bound_by) = bounds.into_iter().max_by_key(|(seconds, _)| *seconds).unwrap_or_default();
        let swapped = self.tenants.iter().filter(|one| one.course.placement == Placement::Swap).count();
        Estimate {
            calls,
            duration: Duration::from_secs(seconds),
            bound_by,
            downtime: self.tenants.iter().map(Planned::downtime).max().unwrap_or_default(),
            machines: swapped.min(usize::try_from(concurrency).unwrap_or(usize::MAX)),
            branches: self.tenants.iter().filter(|one| one.course.strategy.forks()).count(),
        }
    }
}
