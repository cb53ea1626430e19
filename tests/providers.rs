//! Each vendor's client, against a stand-in that remembers and fails as the vendor does.

mod contract;
mod fly;
mod github;

use std::{sync::Arc, time::Duration};

use reseal::{
    providers::{Patience, http::Manner},
    secret::SecretText,
};

/// In no time, and as fast as it goes.
const BRISK: Manner =
    Manner { timeout: Duration::from_secs(5), tries: 3, pause: Duration::from_millis(1), paced: false };

/// Enough for a server of this machine.
const PATIENCE: Patience = Patience { every: Duration::from_millis(2), at_most: Duration::from_millis(500) };

fn secret(text: &str) -> Arc<SecretText> {
    Arc::new(SecretText::new(text.to_owned()))
}
