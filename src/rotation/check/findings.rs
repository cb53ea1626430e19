//! What is off, of all that was seen: pure.

use super::{Place, SecretSight, Sight, Value, ValueLook, Verdict, Which};
use crate::{
    providers::Life,
    rotation::{SecretName, StandingState, runbook::INCIDENT},
    time::rfc3339,
};

/// Places of one secret that were written more than this apart, in milliseconds, were hardly written together.
const APART: i64 = 3_600_000;

/// Milliseconds of a day.
const DAY: i64 = 86_400_000;

/// Something that is off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What kind of thing.
    pub kind: FindingKind,
    /// Of which secret.
    pub secret: SecretName,
    /// What, in words.
    pub what: String,
    /// What to do about it.
    pub hint: String,
}

/// Kinds of findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FindingKind {
    /// The value in use is refused.
    Dead,
    /// Nobody knows whether the value in use works, or what a location shows.
    Unknown,
    /// A revoked value still works.
    StillAlive,
    /// A location was written to by others, or lacks its value.
    Drift,
    /// Locations that hold one value were not written together.
    Coupled,
    /// The old value's window ends before the new one is in use, or is over.
    Window,
    /// A rotation waits for a person.
    Parked,
    /// A rotation was interrupted, and nobody goes on with it.
    Interrupted,
    /// The value is older than it may get.
    Age,
    /// A credential that nobody holds is not revoked.
    Stray,
    /// The value was not replaced since the incident.
    NotReplaced,
    /// Tenants hold the control plane's key.
    SecondLocation,
}

impl FindingKind {
    /// In a word, for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dead => "dead",
            Self::Unknown => "unknown",
            Self::StillAlive => "still-alive",
            Self::Drift => "drift",
            Self::Coupled => "coupled",
            Self::Window => "window",
            Self::Parked => "parked",
            Self::Interrupted => "interrupted",
            Self::Age => "age",
            Self::Stray => "stray",
            Self::NotReplaced => "not-replaced",
            Self::SecondLocation => "second-location",
        }
    }
}

/// Everything that is off. With `since_ms`, also each secret that was not replaced after that time.
pub fn findings(sight: &Sight, since_ms: Option<i64>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for secret in &sight.secrets {
        let mut add = |kind, what: String, hint: String| {
            findings.push(Finding { kind, secret: secret.standing.secret, what, hint });
        };
        secret.values.iter().for_each(|value| of_value(secret, value, &mut add));
        of_places(secret, &mut add);
        of_rotation(secret, sight.now_ms, &mut add);
        of_age(secret, sight.now_ms, since_ms, &mut add);
    }
    if sight.key.is_shared() {
        findings.push(shared_key());
    }
    findings
}

type Add<'a> = dyn FnMut(FindingKind, String, String) + 'a;

fn of_value(sight: &SecretSight, value: &Value, add: &mut Add<'_>) {
    let secret = sight.standing.secret;
    let id = value.id.as_ref().map(|id| format!(" ({id})")).unwrap_or_default();
    match (value.which, &value.look) {
        (Which::InUse, ValueLook::Tried(Life::Dead)) => add(
            FindingKind::Dead,
            format!("the value in use{id} is refused by its provider"),
            format!("reseal rotate {secret} --emergency"),
        ),
        (Which::Revoked, ValueLook::Tried(Life::Live)) => add(
            FindingKind::StillAlive,
            format!("the old value{id} was accepted as revoked, and still works"),
            "revoke it at its vendor, and see why it was not".to_owned(),
        ),
        (which, ValueLook::Tried(Life::Unknown(error))) => add(
            FindingKind::Unknown,
            match which {
                Which::InUse => format!("whether the value in use{id} works: {error}"),
                Which::Revoked => format!("whether the old value{id} is dead: {error}"),
            },
            "look again: reseal secrets check".to_owned(),
        ),
        _ => {}
    }
}

fn of_places(sight: &SecretSight, add: &mut Add<'_>) {
    let secret = sight.standing.secret;
    let mut own = Vec::new();
    for place in &sight.places {
        let verdict = place.verdict(secret);
        let name = format!("{} on {}", place.location.variable(), place.location.as_str());
        match &verdict {
            Verdict::Changed { .. } | Verdict::Missing | Verdict::Back => add(
                FindingKind::Drift,
                format!("{name} is {}", verdict.in_words()),
                format!(
                    "if that is right, make it known: reseal rotate adopt {secret}; if not: reseal rotate {secret}"
                ),
            ),
            Verdict::Failed(why) => {
                add(
                    FindingKind::Unknown,
                    format!("{name}: {why}"),
                    "look again: reseal secrets check".to_owned(),
                );
            }
            Verdict::Untouched | Verdict::Unreadable | Verdict::Absent | Verdict::NotSeen(_) => {}
        }
        if place.location.variable() == secret.as_str() {
            own.push((place, verdict));
        }
    }
    if sight.is_at_rest() && is_torn(&own) {
        let places: Vec<_> = own.iter().map(|(place, _)| place.location.as_str()).collect();
        add(
            FindingKind::Coupled,
            format!("{} hold one value, and were not written together", places.join(" and ")),
            format!("reseal rotate {secret}"),
        );
    }
}

/// Whether of several places that hold one value some were changed and others not.
fn is_torn(places: &[(&Place, Verdict)]) -> bool {
    let count = |is: fn(&Verdict) -> bool| places.iter().filter(|(_, verdict)| is(verdict)).count();
    let changed = count(|verdict| matches!(verdict, Verdict::Changed { .. } | Verdict::Missing));
    if changed > 0 && count(|verdict| *verdict == Verdict::Untouched) > 0 {
        return true;
    }
    // Without a journal there is only the time of each.
    let times: Vec<_> = places.iter().filter_map(|(place, _)| place.updated_ms()).collect();
    let apart = times.iter().max().zip(times.iter().min()).is_some_and(|(last, first)| last - first > APART);
    apart && count(|verdict| *verdict == Verdict::Unreadable) == places.len()
}

impl SecretSight {
    fn is_at_rest(&self) -> bool {
        !matches!(self.standing.state, StandingState::Rotating { .. } | StandingState::Parked { .. })
    }
}

fn of_rotation(sight: &SecretSight, now_ms: i64, add: &mut Add<'_>) {
    let secret = sight.standing.secret;
    match &sight.standing.state {
        StandingState::Parked { step, waiting, until_ms } => match until_ms {
            Some(until) if *until > now_ms => {}
            Some(until) => add(
                FindingKind::Window,
                format!("the window is over since {}, and its rotation was not ended", rfc3339(*until)),
                format!("reseal rotate resume {secret}"),
            ),
            None => add(
                FindingKind::Parked,
                format!("its rotation is parked at {step}, and waits for {waiting}"),
                format!("reseal rotate resume {secret}"),
            ),
        },
        StandingState::Rotating { step, held: false, .. } => add(
            FindingKind::Interrupted,
            format!("its rotation was interrupted at {step}"),
            format!("reseal rotate resume {secret}"),
        ),
        _ => {}
    }
    if let Some(deadline) = sight.deadline.filter(|deadline| !deadline.is_delivered) {
        let left = (deadline.at_ms - now_ms) / 3_600_000;
        let left = if deadline.at_ms > now_ms { format!("in {left} h") } else { "by now".to_owned() };
        add(
            FindingKind::Window,
            format!(
                "the old value ends {left}, at {}, and machines do not have the new one",
                rfc3339(deadline.at_ms)
            ),
            format!("reseal rotate resume {secret} --deploy"),
        );
    }
    for stray in &sight.strays {
        add(
            FindingKind::Stray,
            format!("an interrupted mint left {stray}, which is not revoked"),
            format!("reseal rotate resume {secret}, or revoke it at its vendor"),
        );
    }
}

fn of_age(sight: &SecretSight, now_ms: i64, since_ms: Option<i64>, add: &mut Add<'_>) {
    let standing = &sight.standing;
    let secret = standing.secret;
    // What no rotation brought is no younger than its last write.
    let written = sight.places.iter().filter_map(Place::updated_ms).min();
    let (age, at_least) = match standing.age_days {
        Some(age) => (Some(age), ""),
        None => (written.map(|at| (now_ms - at).max(0) / DAY), "at least "),
    };
    if let Some((age, most)) = age.zip(secret.recipe().max_age_days)
        && age > i64::from(most)
    {
        add(
            FindingKind::Age,
            format!("its value is {at_least}{age} days old, and may get {most}"),
            format!("reseal rotate plan {secret}"),
        );
    }
    let Some(since) = since_ms else { return };
    let is_wanted = INCIDENT.iter().any(|stage| stage.replaces.contains(&secret));
    // What is under way is not replaced yet: the old value may still work.
    if !is_wanted || (standing.replaced_ms.is_some_and(|then| then > since) && sight.is_at_rest()) {
        return;
    }
    let last = match standing.replaced_ms {
        Some(then) => format!("last at {}", rfc3339(then)),
        None => "never by reseal".to_owned(),
    };
    add(
        FindingKind::NotReplaced,
        format!("it was not replaced since {}: {last}", rfc3339(since)),
        "the order, with its reasons: reseal runbook --incident".to_owned(),
    );
}

fn shared_key() -> Finding {
    Finding {
        kind: FindingKind::SecondLocation,
        secret: SecretName::SecretsEncryptionKey,
        what:
            "tenants' machines hold the control plane's key: they are a second location of it, and a reader"
                .to_owned(),
        hint: "a rotation must give them the new key too, or take the old one from them first".to_owned(),
    }
}
