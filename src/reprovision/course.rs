//! A tenant's way through its phases: data, and nothing that acts.

use serde::{Deserialize, Serialize};

/// Where a tenant's fresh database credentials come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// Every role of the tenant's branch gets a new password. The data stays where it is.
    #[default]
    Reset,
    /// A child of the tenant's branch, made while nobody writes. The data is the branch's; the old branch stays, without
    /// a way in.
    Branch,
    /// A child of the project's default branch: the tenant begins with nothing.
    Fresh,
}

impl Strategy {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Reset, Self::Branch, Self::Fresh];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Branch => "branch",
            Self::Fresh => "fresh",
        }
    }

    /// The strategy of this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|strategy| strategy.as_str() == text)
    }

    /// Whether the tenant ends on another branch.
    pub fn forks(self) -> bool {
        self != Self::Reset
    }
}

/// How a tenant's machine comes by its new URLs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    /// A new machine takes the old one's place.
    #[default]
    Swap,
    /// It has a volume, which only one machine can have: it is updated where it is.
    InPlace,
}

/// What decides a tenant's phases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Course {
    /// See [`Strategy`].
    pub strategy: Strategy,
    /// See [`Placement`].
    pub placement: Placement,
    /// Whether the old credentials die before anything else is made.
    pub hard: bool,
}

/// A phase of a tenant. A process that dies in one begins it again: each looks at what is there, and does what is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// What the tenant has now is read.
    Look,
    /// The new machine is made, and not started.
    Create,
    /// The old machine is stopped, and nobody is left in the database.
    Quiesce,
    /// The new branch is made.
    Fork,
    /// Every role of the branch that the tenant ends on has a new password, and nobody else can log in.
    Reset,
    /// The machine runs with the new URLs, and its checks pass.
    Launch,
    /// The row says so, sealed under the new key.
    Row,
    /// The machine with the new URLs is routed to, and one whose place it took is gone.
    Traffic,
    /// The branch that the tenant left has no way in.
    Retire,
    /// Every old URL is refused.
    Death,
    /// What was made for the tenant is taken away again, because its row was changed by somebody else, or what was made
    /// does not work. It is looked at anew afterwards.
    Undo,
}

impl Phase {
    /// Every one.
    pub const ALL: [Self; 11] = [
        Self::Look,
        Self::Create,
        Self::Quiesce,
        Self::Fork,
        Self::Reset,
        Self::Launch,
        Self::Row,
        Self::Traffic,
        Self::Retire,
        Self::Death,
        Self::Undo,
    ];

    /// Its name, as stored and as shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Look => "look",
            Self::Create => "create",
            Self::Quiesce => "quiesce",
            Self::Fork => "fork",
            Self::Reset => "reset",
            Self::Launch => "launch",
            Self::Row => "row",
            Self::Traffic => "traffic",
            Self::Retire => "retire",
            Self::Death => "death",
            Self::Undo => "undo",
        }
    }

    /// The phase of this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.as_str() == text)
    }
}

impl Course {
    /// The phases, in order.
    pub fn phases(self) -> &'static [Phase] {
        use Phase::{Create, Death, Fork, Launch, Look, Quiesce, Reset, Retire, Row, Traffic};
        match (self.strategy.forks(), self.placement, self.hard) {
            (false, Placement::Swap, false) => &[Look, Create, Reset, Launch, Row, Traffic, Death],
            (false, Placement::Swap, true) => &[Look, Reset, Create, Launch, Row, Traffic, Death],
            (false, Placement::InPlace, _) => &[Look, Reset, Launch, Row, Death],
            (true, Placement::Swap, false) => {
                &[Look, Create, Quiesce, Fork, Reset, Launch, Row, Traffic, Retire, Death]
            }
            (true, Placement::Swap, true) => {
                &[Look, Retire, Create, Quiesce, Fork, Reset, Launch, Row, Traffic, Death]
            }
            (true, Placement::InPlace, false) => {
                &[Look, Quiesce, Fork, Reset, Launch, Row, Traffic, Retire, Death]
            }
            (true, Placement::InPlace, true) => {
                &[Look, Retire, Quiesce, Fork, Reset, Launch, Row, Traffic, Death]
            }
        }
    }

    /// The phase after this one; `None` after the last.
    pub fn after(self, phase: Phase) -> Option<Phase> {
        let phases = self.phases();
        let at = phases.iter().position(|one| *one == phase)?;
        phases.get(at + 1).copied()
    }

    /// The phases in which the tenant has no machine that works.
    pub fn outage(self) -> &'static [Phase] {
        let phases = self.phases();
        let begins = |phase: &Phase| matches!(phase, Phase::Quiesce | Phase::Reset | Phase::Retire);
        let from = phases.iter().position(begins).unwrap_or(0);
        let at = |wanted: Phase| phases.iter().position(|phase| *phase == wanted);
        // A machine that was never cordoned is in service as soon as it is launched.
        let until = at(Phase::Traffic).or(at(Phase::Launch).map(|launch| launch + 1)).unwrap_or(from);
        &phases[from..until]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every() -> impl Iterator<Item = Course> {
        Strategy::ALL.into_iter().flat_map(|strategy| {
            [Placement::Swap, Placement::InPlace]
                .into_iter()
                .flat_map(move |placement| [false, true].map(|hard| Course { strategy, placement, hard }))
        })
    }

    fn at(course: Course, phase: Phase) -> Option<usize> {
        course.phases().iter().position(|one| *one == phase)
    }

    #[test]
    fn every_course_looks_first_and_sees_the_old_dead_last() {
        for course in every() {
            let phases = course.phases();
            assert_eq!(
                (phases.first(), phases.last()),
                (Some(&Phase::Look), Some(&Phase::Death)),
                "{course:?}"
            );
            let mut seen = phases.to_vec();
            seen.sort();
            seen.dedup();
            assert_eq!(seen.len(), phases.len(), "{course:?} does no phase twice");
            assert!(!phases.contains(&Phase::Undo));
        }
    }

    #[test]
    fn what_a_phase_needs_comes_before_it() {
        for course in every() {
            let before = |one, other| {
                if let (Some(one), Some(other)) = (at(course, one), at(course, other)) {
                    assert!(one < other, "{course:?}");
                }
            };
            before(Phase::Reset, Phase::Launch);
            before(Phase::Create, Phase::Launch);
            before(Phase::Quiesce, Phase::Fork);
            before(Phase::Fork, Phase::Reset);
            before(Phase::Launch, Phase::Row);
            before(Phase::Row, Phase::Traffic);
            if !course.hard {
                before(Phase::Row, Phase::Retire);
            }
            assert_eq!(at(course, Phase::Create).is_some(), course.placement == Placement::Swap);
            assert_eq!(at(course, Phase::Fork).is_some(), course.strategy.forks());
            assert_eq!(at(course, Phase::Retire).is_some(), course.strategy.forks());
            // What was cordoned is routed to again.
            let is_cordoned = course.strategy.forks() || course.placement == Placement::Swap;
            assert_eq!(at(course, Phase::Traffic).is_some(), is_cordoned);
        }
    }

    #[test]
    fn a_hard_course_ends_the_old_credentials_before_it_makes_anything() {
        for course in every().filter(|course| course.hard) {
            assert!(matches!(course.phases()[1], Phase::Reset | Phase::Retire), "{course:?}");
        }
    }

    #[test]
    fn names_are_read_back() {
        assert!(Phase::ALL.into_iter().all(|phase| Phase::parse(phase.as_str()) == Some(phase)));
        assert!(Strategy::ALL.into_iter().all(|one| Strategy::parse(one.as_str()) == Some(one)));
    }
}
