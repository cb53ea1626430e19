//! Signatures of webhook events: `Stripe-Signature: t=…,v1=…`.
//!
//! Construction: `v1 = hex(HMAC-SHA256(secret, t ‖ "." ‖ body))`; the secret whole, with its `whsec_`; `t` in Unix
//! seconds. While a secret is being rolled the header has one `v1` for each, so a reader MUST take any of them: one
//! that keeps only the first or the last refuses good events for as long as the window lasts. Other schemes MUST be
//! ignored: `v0` is for tests, and taking it would be a downgrade.
//!
//! Source: docs.stripe.com/webhooks, "Verify webhook signatures manually".

use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::secret::SecretText;

/// How far the time of an event may be from ours, as Stripe's own libraries have it.
pub const TOLERANCE: Duration = Duration::from_secs(300);

/// Why an event is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// The header has no time, two of them, or no signature of a known scheme.
    #[error("the signature header is not of the form t=…,v1=…")]
    Malformed,
    /// No signature is one of ours.
    #[error("no signature matches")]
    NoMatch,
    /// One is, from another time: an event that was recorded and is sent again, or a clock that is wrong.
    #[error("the signature is from another time than now")]
    TooFarOff,
}

/// The header with which Stripe would send `payload` at `timestamp`, in Unix seconds, under `secret`.
pub fn sign(secret: &SecretText, timestamp: i64, payload: &[u8]) -> String {
    let timestamp = timestamp.to_string();
    let signature = mac(secret, &timestamp, payload).finalize().into_bytes();
    format!("t={timestamp},v1={}", hex::encode(signature))
}

/// Checks that the raw `payload` was signed under one of `secrets`, at most `tolerance` from `now` (Unix seconds).
///
/// How long it takes depends on how many signatures and secrets there are, not on whether or which of them match.
///
/// # Errors
/// See [`Rejected`].
pub fn verify(
    header: &str,
    payload: &[u8],
    secrets: &[&SecretText],
    now: i64,
    tolerance: Duration,
) -> Result<(), Rejected> {
    let Header { timestamp, at, signatures } = Header::parse(header).ok_or(Rejected::Malformed)?;
    let mut matches = false;
    for secret in secrets {
        let mac = mac(secret, timestamp, payload);
        for signature in &signatures {
            matches |= mac.clone().verify_slice(signature).is_ok();
        }
    }
    if !matches {
        return Err(Rejected::NoMatch);
    }
    if now.abs_diff(at) > tolerance.as_secs() { Err(Rejected::TooFarOff) } else { Ok(()) }
}

struct Header<'a> {
    /// As it was signed.
    timestamp: &'a str,
    at: i64,
    signatures: Vec<Vec<u8>>,
}

impl<'a> Header<'a> {
    fn parse(header: &'a str) -> Option<Self> {
        let (mut timestamp, mut signatures) = (None, Vec::new());
        for item in header.split(',') {
            match item.trim().split_once('=')? {
                ("t", _) if timestamp.is_some() => return None,
                ("t", text) => timestamp = Some(text),
                // One that is not hex can't match, and another may.
                ("v1", text) => signatures.push(hex::decode(text).unwrap_or_default()),
                _ => {}
            }
        }
        let timestamp = timestamp?;
        let at = timestamp.parse().ok()?;
        (!signatures.is_empty()).then_some(Self { timestamp, at, signatures })
    }
}

fn mac(secret: &SecretText, timestamp: &str, payload: &[u8]) -> Hmac<Sha256> {
    Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes())
        .expect("HMAC takes keys of any length")
        .chain_update(timestamp)
        .chain_update(".")
        .chain_update(payload)
}
