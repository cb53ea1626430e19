//! A location, as it was seen, against what the journal expects: pure.

use super::Expected;
use crate::{
    providers::Observed,
    rotation::{
        SecretName,
        recipe::{Action, LocationName},
    },
    time,
};

/// How far the journal's clock and a vendor's may disagree, in milliseconds.
pub(super) const CLOCKS_DISAGREE: i64 = 60_000;

/// What was seen of a location.
#[derive(Debug)]
pub struct Place {
    /// Which.
    pub location: LocationName,
    /// What the journal says of it.
    pub expected: Expected,
    /// What it shows.
    pub look: PlaceLook,
}

/// What looking at a location gave.
#[derive(Debug)]
pub enum PlaceLook {
    /// Its provider is not configured.
    NotConfigured(String),
    /// It could not be looked at.
    Failed(String),
    /// It was looked at.
    Seen(Observed),
}

/// What can be said of a location.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It can't be read, and nobody has written to it since reseal did.
    Untouched,
    /// It can't be read, and there is nothing to compare it with.
    Unreadable,
    /// It can't be read, and somebody has written to it since.
    Changed {
        /// When, where the location tells.
        at: Option<String>,
    },
    /// It holds nothing, as it should.
    Absent,
    /// It holds nothing, and should hold the value.
    Missing,
    /// It holds what was removed.
    Back,
    /// It was not looked at, as nothing is configured for it.
    NotSeen(String),
    /// It could not be looked at.
    Failed(String),
}

impl Verdict {
    /// In a word, for programs.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Untouched | Self::Unreadable => "unreadable",
            Self::Changed { .. } => "changed",
            Self::Absent => "absent",
            Self::Missing => "missing",
            Self::Back => "back",
            Self::NotSeen(_) => "not-seen",
            Self::Failed(_) => "failed",
        }
    }

    /// In a few words, for people.
    pub fn in_words(&self) -> String {
        match self {
            Self::Untouched => {
                "unreadable, as every secret there; not written to since reseal did".to_owned()
            }
            Self::Unreadable => "unreadable, and nothing is known to compare it with".to_owned(),
            Self::Changed { at: Some(at) } => format!("unreadable, and written to at {at}, since reseal did"),
            Self::Changed { at: None } => "unreadable, and written to since reseal did".to_owned(),
            Self::Absent => "absent".to_owned(),
            Self::Missing => "missing".to_owned(),
            Self::Back => "there again, after reseal removed it".to_owned(),
            Self::NotSeen(why) => format!("not looked at: {why}"),
            Self::Failed(why) => format!("can't be looked at: {why}"),
        }
    }
}

impl Place {
    /// What can be said of it, as a location of `secret`.
    pub fn verdict(&self, secret: SecretName) -> Verdict {
        let (updated, digest) = match &self.look {
            PlaceLook::NotConfigured(why) => return Verdict::NotSeen(why.clone()),
            PlaceLook::Failed(why) => return Verdict::Failed(why.clone()),
            PlaceLook::Seen(Observed::Absent) => {
                let is_missing = match self.expected {
                    Expected::Written { .. } => true,
                    Expected::Nothing => self.must_be_there(secret),
                    Expected::Gone | Expected::InFlight => false,
                };
                return if is_missing { Verdict::Missing } else { Verdict::Absent };
            }
            PlaceLook::Seen(Observed::Written { updated, digest }) => (updated, digest),
        };
        match &self.expected {
            Expected::Gone => Verdict::Back,
            Expected::Nothing | Expected::InFlight => Verdict::Unreadable,
            Expected::Written { at_ms, digest: then } => {
                let is_same = digest.as_ref().zip(then.as_ref()).map(|(now, then)| now == then);
                let is_later = self.updated_ms().map(|now| now > at_ms + CLOCKS_DISAGREE);
                match (is_same, is_later) {
                    (Some(true), _) | (None, Some(false)) => Verdict::Untouched,
                    (Some(false), _) | (None, Some(true)) => Verdict::Changed { at: updated.clone() },
                    (None, None) => Verdict::Unreadable,
                }
            }
        }
    }

    /// When it was written to, in Unix milliseconds, where it tells.
    pub fn updated_ms(&self) -> Option<i64> {
        match &self.look {
            PlaceLook::Seen(Observed::Written { updated, .. }) => time::parse(updated.as_deref()?).ok(),
            _ => None,
        }
    }

    /// Whether the consumer is without the secret when the location holds none: it is kept there, and no strategy ends
    /// with its removal.
    fn must_be_there(&self, secret: SecretName) -> bool {
        let mut steps = secret.recipe().strategies.iter().flat_map(|strategy| strategy.steps);
        let removed = steps.any(|step| step.action == Action::Remove(self.location));
        self.location.variable() == secret.as_str() && !removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITTEN: &str = "2026-11-22T00:00:00Z";

    fn verdict(expected: Expected, updated: Option<&str>, digest: Option<&str>) -> Verdict {
        let seen =
            Observed::Written { updated: updated.map(str::to_owned), digest: digest.map(str::to_owned) };
        let location = LocationName::Fly("RESEND_API_KEY");
        Place { location, expected, look: PlaceLook::Seen(seen) }.verdict(SecretName::ResendApiKey)
    }

    fn written(digest: Option<&str>) -> Expected {
        let at_ms = time::parse(WRITTEN).expect("it is RFC 3339");
        Expected::Written { at_ms, digest: digest.map(str::to_owned) }
    }

    #[test]
    fn a_write_since_ours_is_told_by_time_and_by_digest() {
        let later = Some("2026-11-22T01:00:00Z");
        assert_eq!(verdict(written(Some("a")), Some(WRITTEN), Some("a")), Verdict::Untouched);
        assert_eq!(verdict(written(Some("a")), later, Some("a")), Verdict::Untouched);
        assert_eq!(verdict(written(Some("a")), later, Some("b")).as_str(), "changed");
        assert_eq!(verdict(written(None), later, None).as_str(), "changed");
        assert_eq!(verdict(written(Some("a")), None, Some("b")).as_str(), "changed");
        let soon = Some("2026-11-22T00:00:30Z");
        assert_eq!(verdict(written(Some("a")), soon, Some("b")).as_str(), "changed");
        assert_eq!(
            verdict(written(None), soon, Some("b")),
            Verdict::Untouched,
            "clocks may disagree so much"
        );
    }

    #[test]
    fn what_can_not_be_compared_is_unreadable_and_never_right() {
        for expected in [Expected::Nothing, Expected::InFlight, written(None)] {
            let verdict = verdict(expected, None, None);
            assert_eq!((verdict.as_str(), verdict.clone()), ("unreadable", Verdict::Unreadable));
        }
        assert!(Verdict::Untouched.in_words().starts_with("unreadable"));
    }

    #[test]
    fn what_is_absent_is_missing_where_its_consumer_needs_it() {
        let absent = |secret: SecretName, variable, expected| {
            let location = LocationName::Fly(variable);
            Place { location, expected, look: PlaceLook::Seen(Observed::Absent) }.verdict(secret)
        };
        let resend = |expected| absent(SecretName::ResendApiKey, "RESEND_API_KEY", expected);
        assert_eq!(resend(Expected::Nothing), Verdict::Missing);
        assert_eq!(resend(written(None)), Verdict::Missing);
        assert_eq!(resend(Expected::InFlight), Verdict::Absent);
        let key = |variable, expected| absent(SecretName::SecretsEncryptionKey, variable, expected);
        assert_eq!(key("KMS_KEY_ARN", Expected::Nothing), Verdict::Absent);
        assert_eq!(key("SECRETS_ENCRYPTION_KEY", Expected::Nothing), Verdict::Absent);
        assert_eq!(verdict(Expected::Gone, Some(WRITTEN), None), Verdict::Back);
    }
}
