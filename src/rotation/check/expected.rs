//! What a location should look like, by the journal: pure.

use serde_json::Value;

use crate::{
    rotation::{
        SecretName,
        engine::detail_of,
        recipe::{Action, LocationName},
        state::Event,
    },
    store::{Credential, RotationRecord, RotationRow},
    time,
};

use super::place::CLOCKS_DISAGREE;

/// What the journal says of a location.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// Nothing.
    Nothing,
    /// It was known to be right at this time.
    Written {
        /// Unix milliseconds, by the journal's clock.
        at_ms: i64,
        /// The location's own digest of it then.
        digest: Option<String>,
    },
    /// Reseal removed it.
    Gone,
    /// A write of reseal's has no outcome yet.
    InFlight,
}

/// What the journal says of `location`: the whole of the secret's rotations with their records, the oldest first.
pub(super) fn expected(
    secret: SecretName,
    location: LocationName,
    rotations: &[(RotationRow, Vec<RotationRecord>)],
    credentials: &[Credential],
) -> Expected {
    let is_own = location.variable() == secret.as_str();
    let mut now = (0, Expected::Nothing);
    for (row, records) in rotations {
        let Some(strategy) = secret.recipe().strategy(Some(&row.strategy)) else { continue };
        let touches = |record: &&RotationRecord| {
            let step = strategy.steps.iter().find(|step| step.name == record.step);
            step.is_some_and(
                |step| matches!(step.action, Action::Write(at) | Action::Remove(at) if at == location),
            )
        };
        let removes = |record: &RotationRecord| {
            strategy
                .steps
                .iter()
                .any(|step| step.name == record.step && matches!(step.action, Action::Remove(_)))
        };
        let mut before = now.clone();
        let mut intended = 0;
        for record in records.iter().filter(touches) {
            let written = |digest| (record.at_ms, Expected::Written { at_ms: record.at_ms, digest });
            now = match Event::parse(&record.event) {
                Some(Event::Intended) => {
                    intended = record.at_ms;
                    before = now;
                    (record.at_ms, Expected::InFlight)
                }
                Some(Event::Unknown) => {
                    before.1 = Expected::InFlight;
                    (record.at_ms, Expected::InFlight)
                }
                Some(Event::NotDone | Event::Failed) => before.clone(),
                Some(Event::Succeeded) if removes(record) => (record.at_ms, Expected::Gone),
                Some(Event::Succeeded) => written(digest(record, intended)),
                // The old value is back, or what was written beside it is gone again.
                Some(Event::Undone) if is_own => written(None),
                Some(Event::Undone) => (record.at_ms, Expected::Gone),
                _ => now,
            };
        }
    }
    let adopted = credentials.iter().filter(|known| is_own && known.rotation_id.is_none());
    let adopted = adopted.map(|known| known.created_ms).max();
    match adopted {
        Some(at_ms) if at_ms > now.0 => Expected::Written { at_ms, digest: None },
        _ => now.1,
    }
}

/// The digest that the location showed after the write, unless it is that of an older value: such a list may lag.
fn digest(record: &RotationRecord, intended_ms: i64) -> Option<String> {
    let detail = detail_of(record);
    let updated = detail.get("updated").and_then(Value::as_str).and_then(|at| time::parse(at).ok());
    let is_stale = updated.is_some_and(|at| at + CLOCKS_DISAGREE < intended_ms);
    detail.get("digest").and_then(Value::as_str).filter(|_| !is_stale).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::CredentialState;

    const FLY: LocationName = LocationName::Fly("FLY_API_TOKEN");

    fn rotation(records: &[(&str, &str)]) -> (RotationRow, Vec<RotationRecord>) {
        let row = RotationRow {
            rotation_id: "R".to_owned(),
            secret: "FLY_API_TOKEN".to_owned(),
            strategy: "two-tokens".to_owned(),
            options: "{}".to_owned(),
            phase: "running".to_owned(),
            step: None,
            waiting: None,
            until_ms: None,
            holder: None,
            held: false,
            lease_ms: None,
            begun_ms: 0,
            ended_ms: None,
        };
        let record = |(number, (step, event)): (usize, &(&str, &str))| {
            let seq = i64::try_from(number).unwrap_or_default() + 1;
            RotationRecord {
                seq,
                at_ms: 1000 * seq,
                step: (*step).to_owned(),
                event: (*event).to_owned(),
                detail: r#"{"location":"fly","updated":"1970-01-01T00:00:00Z","digest":"d1"}"#.to_owned(),
            }
        };
        (row, records.iter().enumerate().map(record).collect())
    }

    fn of(records: &[(&str, &str)]) -> Expected {
        expected(SecretName::FlyApiToken, FLY, &[rotation(records)], &[])
    }

    fn written(at_ms: i64, digest: Option<&str>) -> Expected {
        Expected::Written { at_ms, digest: digest.map(str::to_owned) }
    }

    #[test]
    fn the_newest_change_of_a_location_is_what_counts() {
        let go = [
            ("write-fly", "intended"),
            ("write-fly", "succeeded"),
            ("deploy", "intended"),
            ("deploy", "succeeded"),
        ];
        assert_eq!(of(&[]), Expected::Nothing);
        assert_eq!(of(&go), written(2000, Some("d1")));
        assert_eq!(of(&go[..1]), Expected::InFlight);
        assert_eq!(of(&[go[0], ("write-fly", "not-done")]), Expected::Nothing);
        assert_eq!(of(&[go[0], ("write-fly", "unknown"), ("write-fly", "not-done")]), Expected::InFlight);
        let undone = [&go[..], &[("deploy", "undone"), ("write-fly", "undone")]].concat();
        assert_eq!(of(&undone), written(6000, None));
        assert_eq!(of(&[("write-github", "intended"), ("write-github", "succeeded")]), Expected::Nothing);
    }

    #[test]
    fn a_digest_of_before_the_write_is_none() {
        let (row, mut records) = rotation(&[("write-fly", "intended"), ("write-fly", "succeeded")]);
        records.iter_mut().for_each(|record| record.at_ms += CLOCKS_DISAGREE);
        let found = expected(SecretName::FlyApiToken, FLY, &[(row, records)], &[]);
        assert_eq!(found, written(2000 + CLOCKS_DISAGREE, None));
    }

    #[test]
    fn an_adoption_vouches_for_what_is_there_until_the_next_write() {
        let adopted = |created_ms| Credential {
            credential_id: "C".to_owned(),
            secret: "FLY_API_TOKEN".to_owned(),
            provider_id: None,
            rotation_id: None,
            state: CredentialState::Current,
            sealed: None,
            created_ms,
        };
        let go = [rotation(&[("write-fly", "intended"), ("write-fly", "succeeded")])];
        let of = |at| expected(SecretName::FlyApiToken, FLY, &go, &[adopted(at)]);
        assert_eq!(of(1999), written(2000, Some("d1")));
        assert_eq!(of(2001), written(2001, None));
    }

    #[test]
    fn what_was_removed_or_taken_back_is_gone() {
        let of = |location, records: &[(&str, &str)]| {
            let (row, records) = rotation(records);
            let row = RotationRow { strategy: "in-place".to_owned(), ..row };
            expected(SecretName::SecretsEncryptionKey, location, &[(row, records)], &[])
        };
        let arn = LocationName::Fly("KMS_KEY_ARN");
        let old = LocationName::Fly("SECRETS_ENCRYPTION_KEY");
        let wrote = [("write-fly", "intended"), ("write-fly", "succeeded")];
        assert_eq!(of(arn, &wrote), written(2000, Some("d1")));
        assert_eq!(of(arn, &[&wrote[..], &[("write-fly", "undone")]].concat()), Expected::Gone);
        assert_eq!(of(old, &wrote), Expected::Nothing);
        assert_eq!(of(old, &[("unset-old", "intended"), ("unset-old", "succeeded")]), Expected::Gone);
    }
}
