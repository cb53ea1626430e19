//! Where a rotation is: a pure machine over what the journal says. No I/O, no clock, no secret.
//!
//! A rotation is a list of steps and a place in it. Before a step acts its intent is an event; what became of it is
//! another. From the intent of the first step that can't be undone (the cut-over) on there is only forward: a failure
//! parks the rotation for a person, and never turns it round.

/// What the machine has to know of a strategy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// How many steps there are.
    pub steps: usize,
    /// The first step that can't be undone; `steps` when all can.
    pub cut_over: usize,
}

/// Which way it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Course {
    /// To the end.
    Forward,
    /// To the beginning.
    Back,
}

/// Where it is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// It goes its course.
    Going(Course),
    /// It waits for a person, for a window to end, or for trouble to pass; then it goes its course again.
    Parked(Course),
    /// Every step is done.
    Done,
    /// Every step that was done is undone.
    RolledBack,
}

impl Phase {
    /// Whether nothing more will happen to it.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::RolledBack)
    }

    /// As the journal writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Going(Course::Forward) => "running",
            Self::Going(Course::Back) => "rolling-back",
            Self::Parked(Course::Forward) => "parked",
            Self::Parked(Course::Back) => "parked-rolling-back",
            Self::Done => "done",
            Self::RolledBack => "rolled-back",
        }
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// The step is about to act.
    Intended,
    /// The step did what it is for.
    Succeeded,
    /// The step did nothing, and may be tried again.
    NotDone,
    /// Nobody knows whether the step did it.
    Unknown,
    /// The step can't succeed as things are.
    Failed,
    /// It stops here for now.
    Parked,
    /// It goes on.
    Resumed,
    /// A person turned it round.
    Aborted,
    /// The last step that was done is undone.
    Undone,
}

impl Event {
    /// Every one.
    pub const ALL: [Self; 9] = [
        Self::Intended,
        Self::Succeeded,
        Self::NotDone,
        Self::Unknown,
        Self::Failed,
        Self::Parked,
        Self::Resumed,
        Self::Aborted,
        Self::Undone,
    ];

    /// As the journal writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Intended => "intended",
            Self::Succeeded => "succeeded",
            Self::NotDone => "not-done",
            Self::Unknown => "unknown",
            Self::Failed => "failed",
            Self::Parked => "parked",
            Self::Resumed => "resumed",
            Self::Aborted => "aborted",
            Self::Undone => "undone",
        }
    }

    /// The one that the journal wrote so.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|event| event.as_str() == text)
    }
}

/// A rotation's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct State {
    /// Where it is in its life.
    pub phase: Phase,
    /// The step it is at: every one before it is done.
    pub at: usize,
    /// Whether that step has an intent and no outcome: it may or may not have acted.
    pub open: bool,
    /// Tries of that step that came to nothing, since it was reached or resumed.
    pub tries: u32,
    /// Whether a step that can't be undone may have acted.
    pub cut_over: bool,
    /// Whether the step it is at may have acted in an earlier try.
    pub unsure: bool,
}

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Journal the intent of this step, and act.
    Act(usize),
    /// Find out what became of this step's intent.
    Observe(usize),
    /// Undo this step.
    Undo(usize),
    /// Nothing, until someone says so.
    Rest,
}

/// An event that can't happen in a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a rotation that is {} at step {} can't take the event {}", state.phase.as_str(), state.at, event.as_str())]
pub struct Illegal {
    /// The state.
    pub state: State,
    /// The event.
    pub event: Event,
}

impl State {
    /// Before the first step.
    pub const START: Self = Self {
        phase: Phase::Going(Course::Forward),
        at: 0,
        open: false,
        tries: 0,
        cut_over: false,
        unsure: false,
    };

    /// What is to be done next.
    pub fn decide(self) -> Decision {
        match self.phase {
            Phase::Going(Course::Forward) if self.open => Decision::Observe(self.at),
            Phase::Going(Course::Forward) => Decision::Act(self.at),
            // An open step is undone as a done one is: it may have acted.
            Phase::Going(Course::Back) if self.open => Decision::Undo(self.at),
            Phase::Going(Course::Back) => Decision::Undo(self.at - 1),
            Phase::Parked(_) | Phase::Done | Phase::RolledBack => Decision::Rest,
        }
    }

    /// Whether there is still no way back when the step it is at is known to have done nothing: that takes back the
    /// cut-over that the step's intent was.
    pub fn stands(self, shape: Shape) -> bool {
        self.cut_over && (self.unsure || self.at != shape.cut_over)
    }

    /// The state after `event`.
    ///
    /// # Errors
    /// [`Illegal`], for each pair of which the journal can't hold the second after the first.
    pub fn next(self, event: Event, shape: Shape) -> Result<Self, Illegal> {
        let illegal = Illegal { state: self, event };
        let cut_over = self.stands(shape);
        let state = match (self.phase, event) {
            (Phase::Going(Course::Forward), Event::Intended) if !self.open && self.at < shape.steps => {
                Self { open: true, cut_over: self.cut_over || self.at >= shape.cut_over, ..self }
            }
            (Phase::Going(Course::Forward), Event::Succeeded) if self.open => {
                Self { at: self.at + 1, open: false, tries: 0, unsure: false, ..self }
            }
            (Phase::Going(Course::Forward), Event::NotDone) if self.open => {
                Self { open: false, tries: self.tries + 1, cut_over, ..self }
            }
            (Phase::Going(_), Event::Unknown) if self.open => {
                Self { tries: self.tries + 1, unsure: true, ..self }
            }
            (Phase::Going(Course::Back), Event::NotDone | Event::Unknown) => {
                Self { tries: self.tries + 1, ..self }
            }
            (Phase::Going(Course::Forward), Event::Failed) if self.open && cut_over => {
                Self { phase: Phase::Parked(Course::Forward), open: false, ..self }
            }
            // A step that was refused has nothing to undo, unless an earlier try of it may have acted.
            (Phase::Going(Course::Forward), Event::Failed) if self.open => {
                Self { phase: Phase::Going(Course::Back), open: self.unsure, tries: 0, cut_over, ..self }
            }
            (Phase::Going(Course::Back), Event::Failed) => {
                Self { phase: Phase::Parked(Course::Back), ..self }
            }
            (Phase::Going(course), Event::Parked) => Self { phase: Phase::Parked(course), ..self },
            (Phase::Parked(course), Event::Resumed) => Self { phase: Phase::Going(course), tries: 0, ..self },
            (Phase::Going(Course::Forward) | Phase::Parked(Course::Forward), Event::Aborted)
                if !self.cut_over =>
            {
                Self { phase: Phase::Going(Course::Back), tries: 0, ..self }
            }
            (Phase::Going(Course::Back), Event::Undone) if self.open => {
                Self { open: false, tries: 0, unsure: false, ..self }
            }
            (Phase::Going(Course::Back), Event::Undone) if self.at > 0 => {
                Self { at: self.at - 1, tries: 0, ..self }
            }
            _ => return Err(illegal),
        };
        Ok(state.settled(shape))
    }

    /// The end, where it is reached.
    fn settled(self, shape: Shape) -> Self {
        match self.phase {
            Phase::Going(Course::Forward) if self.at == shape.steps => Self { phase: Phase::Done, ..self },
            Phase::Going(Course::Back) if self.at == 0 && !self.open => {
                Self { phase: Phase::RolledBack, ..self }
            }
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Every state that any sequence of events leads to, with the way there.
    fn reachable(shape: Shape) -> HashSet<State> {
        let (mut seen, mut next) = (HashSet::from([State::START]), vec![State::START]);
        while let Some(state) = next.pop() {
            for event in Event::ALL {
                let Ok(after) = state.next(event, shape) else { continue };
                check(state, event, after);
                if after.tries < 4 && seen.insert(after) {
                    next.push(after);
                }
            }
        }
        seen
    }

    /// What no event may ever do.
    fn check(before: State, event: Event, after: State) {
        assert!(!before.phase.is_over(), "{before:?} is over, and took {event:?}");
        let withdrawn = before.open && !before.unsure && matches!(event, Event::NotDone | Event::Failed);
        assert!(
            !before.cut_over || after.cut_over || withdrawn,
            "a cut-over was forgotten: {before:?} {event:?}"
        );
        let goes_back = matches!(
            after.phase,
            Phase::Going(Course::Back) | Phase::Parked(Course::Back) | Phase::RolledBack
        );
        assert!(!(after.cut_over && goes_back), "back over the cut-over: {before:?} {event:?}");
        assert!(after.at <= before.at + 1, "a step was skipped: {before:?} {event:?}");
        assert!(
            after.at <= before.at || before.open,
            "a step was done without an intent: {before:?} {event:?}"
        );
        assert!(
            after.at >= before.at || event == Event::Undone,
            "a step was forgotten: {before:?} {event:?}"
        );
    }

    #[test]
    fn no_sequence_of_events_breaks_a_rule() {
        for steps in 0..=6 {
            for cut_over in 0..=steps {
                let states = reachable(Shape { steps, cut_over });
                let done = states.iter().filter(|state| state.phase == Phase::Done);
                done.for_each(|state| assert_eq!((state.at, state.open), (steps, false)));
                let undone = states.iter().filter(|state| state.phase == Phase::RolledBack);
                undone
                    .for_each(|state| assert_eq!((state.at, state.open, state.cut_over), (0, false, false)));
                assert!(steps == 0 || states.iter().any(|state| state.phase == Phase::Done));
            }
        }
    }

    /// From wherever it is, a rotation comes to an end if things go well from now on.
    #[test]
    fn every_state_has_a_way_to_an_end() {
        let shape = Shape { steps: 5, cut_over: 3 };
        for mut state in reachable(shape) {
            for _ in 0..40 {
                let event = match (state.phase, state.decide()) {
                    (Phase::Parked(_), _) => Event::Resumed,
                    (_, Decision::Act(_)) => Event::Intended,
                    (_, Decision::Observe(_)) => Event::Succeeded,
                    (_, Decision::Undo(_)) => Event::Undone,
                    (_, Decision::Rest) => break,
                };
                state = state.next(event, shape).expect("what was decided is legal");
            }
            assert!(state.phase.is_over(), "stuck: {state:?}");
        }
    }

    #[test]
    fn an_illegal_event_names_state_and_event() {
        let error =
            State::START.next(Event::Succeeded, Shape { steps: 2, cut_over: 1 }).expect_err("no intent");
        assert_eq!(error.to_string(), "a rotation that is running at step 0 can't take the event succeeded");
    }
}
