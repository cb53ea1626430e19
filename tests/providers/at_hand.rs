//! What tests of issuers and probes have at hand.

use std::time::Duration;

use reseal::{
    providers::{Life, Patience, http::Manner},
    secret::SecretText,
};

/// Short pauses, and no rate limits of ours.
pub(crate) fn manner() -> Manner {
    Manner {
        timeout: Duration::from_secs(5),
        tries: 4,
        pause: Duration::from_millis(2),
        paced: false,
        ..Manner::default()
    }
}

pub(crate) const PATIENCE: Patience =
    Patience { every: Duration::from_millis(5), at_most: Duration::from_secs(5) };

pub(crate) fn secret(text: &str) -> SecretText {
    SecretText::new(text.to_owned())
}

#[track_caller]
pub(crate) fn assert_live(life: &Life) {
    assert!(matches!(life, Life::Live), "{life:?}");
}

#[track_caller]
pub(crate) fn assert_dead(life: &Life) {
    assert!(matches!(life, Life::Dead), "{life:?}");
}

/// Why it is not known.
#[track_caller]
pub(crate) fn unknown(life: &Life) -> String {
    let Life::Unknown(error) = life else { panic!("{life:?}") };
    error.to_string()
}
