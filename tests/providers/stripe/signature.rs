//! A signature is taken when any of several is right, under any of several secrets, for five minutes.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, UNIX_EPOCH},
};

use axum::{Router, body::Bytes, http::HeaderMap};
use proptest::prelude::*;
use reseal::{
    providers::stripe::{Rejected, TOLERANCE, sign, verify},
    secret::SecretText,
};
use serde::Deserialize;

use super::{ACCOUNT, secret, start};
use crate::support::vendors::{Vendor, stripe::signature};

const NOW: i64 = 1_795_305_694;
const PAYLOAD: &[u8] = br#"{"id":"evt_1","type":"invoice.paid"}"#;

fn check(header: &str, secrets: &[&SecretText]) -> Result<(), Rejected> {
    verify(header, PAYLOAD, secrets, NOW, TOLERANCE)
}

#[derive(Deserialize)]
struct Vector {
    secret: String,
    timestamp: i64,
    payload: String,
    header: String,
}

#[test]
fn signatures_are_those_of_another_implementation() {
    let vectors: Vec<Vector> =
        serde_json::from_str(include_str!("../../vectors/stripe_signatures.json")).unwrap();
    assert_eq!(vectors.len(), 5);
    for Vector { secret: key, timestamp, payload, header } in vectors {
        let key = secret(&key);
        assert_eq!(sign(&key, timestamp, payload.as_bytes()), header);
        assert_eq!(verify(&header, payload.as_bytes(), &[&key], timestamp, Duration::ZERO), Ok(()));
        let theirs = signature(key.expose(), &timestamp.to_string(), payload.as_bytes());
        assert!(header.ends_with(&theirs));
    }
}

#[test]
fn any_of_two_signatures_is_enough_in_either_order() {
    let (old, new, other) = (secret("whsec_old"), secret("whsec_new"), secret("whsec_other"));
    let v1 = |key: &SecretText| signature(key.expose(), &NOW.to_string(), PAYLOAD);
    for (first, second) in [(&old, &new), (&new, &old)] {
        let header = format!("t={NOW},v1={},v1={},v0={}", v1(first), v1(second), v1(&other));
        for secrets in [&[&old][..], &[&new], &[&other, &old], &[&new, &other]] {
            assert_eq!(check(&header, secrets), Ok(()));
        }
        assert_eq!(check(&header, &[&other]), Err(Rejected::NoMatch));
        assert_eq!(check(&header, &[]), Err(Rejected::NoMatch));
    }
    // What is no hex says nothing of the one beside it.
    assert_eq!(check(&format!("t={NOW},v1=zz,v1={}", v1(&new)), &[&new]), Ok(()));
    assert_eq!(check(&format!("v1={}, t={NOW}", v1(&new)), &[&new]), Ok(()));
}

#[test]
fn other_schemes_and_other_forms_are_refused() {
    let key = secret("whsec_1");
    let v1 = signature(key.expose(), &NOW.to_string(), PAYLOAD);
    for malformed in [
        String::new(),
        format!("t={NOW}"),
        format!("v1={v1}"),
        format!("t={NOW},v0={v1}"),
        format!("t=now,v1={v1}"),
        format!("t=,v1={v1}"),
        format!("t={NOW},t={NOW},v1={v1}"),
        format!("t={NOW},v1"),
        format!("t=99999999999999999999,v1={v1}"),
    ] {
        assert_eq!(check(&malformed, &[&key]), Err(Rejected::Malformed), "{malformed}");
    }
    for wrong in ["", "00", &v1[2..], &format!("{v1}00"), &"0".repeat(64)] {
        assert_eq!(check(&format!("t={NOW},v1={wrong}"), &[&key]), Err(Rejected::NoMatch), "{wrong}");
    }
    // The secret is taken whole: what follows its prefix is another key.
    assert_eq!(check(&sign(&secret("1"), NOW, PAYLOAD), &[&key]), Err(Rejected::NoMatch));
}

#[test]
fn it_is_good_for_five_minutes_either_way() {
    let key = secret("whsec_1");
    for (off, verdict) in [
        (300, Ok(())),
        (-300, Ok(())),
        (301, Err(Rejected::TooFarOff)),
        (-301, Err(Rejected::TooFarOff)),
        (-NOW, Err(Rejected::TooFarOff)),
    ] {
        assert_eq!(check(&sign(&key, NOW + off, PAYLOAD), &[&key]), verdict, "{off}");
    }
    let header = sign(&key, i64::MIN, PAYLOAD);
    assert_eq!(verify(&header, PAYLOAD, &[&key], i64::MAX, TOLERANCE), Err(Rejected::TooFarOff));
}

proptest! {
    #[test]
    fn what_was_signed_is_taken_and_what_was_changed_is_not(
        key in "whsec_[a-zA-Z0-9]{1,80}",
        other in "whsec_[a-zA-Z0-9]{1,80}",
        t in 0..4_000_000_000_i64,
        payload in prop::collection::vec(any::<u8>(), 1..200),
        flip in any::<prop::sample::Index>(),
        bit in 0..8_u8,
    ) {
        prop_assume!(key != other);
        let (key, other) = (secret(&key), secret(&other));
        let header = sign(&key, t, &payload);
        let at_once = |header: &str, payload: &[u8], key: &SecretText| verify(header, payload, &[key], t, Duration::ZERO);
        prop_assert_eq!(at_once(&header, &payload, &key), Ok(()));
        prop_assert_eq!(at_once(&header, &payload, &other), Err(Rejected::NoMatch));
        let mut changed = payload.clone();
        changed[flip.index(payload.len())] ^= 1 << bit;
        prop_assert_eq!(at_once(&header, &changed, &key), Err(Rejected::NoMatch));
        let moved = header.replacen(&format!("t={t}"), &format!("t={}", t + 1), 1);
        prop_assert_eq!(verify(&moved, &payload, &[&key], t, TOLERANCE), Err(Rejected::NoMatch));
    }

    #[test]
    fn no_header_is_taken_by_chance(header in "[tv01=, a-f]{0,80}") {
        prop_assert!(check(&header, &[&secret("whsec_1")]).is_err());
    }
}

#[tokio::test]
async fn during_a_roll_events_are_taken_under_either_secret() {
    let (stripe, key) = start();
    let taker = Taker::start();
    let form = [("url", taker.vendor.url()), ("enabled_events[]", "*")];
    let (id, old) = stripe.endpoint(&key, ACCOUNT, &form);
    let new = stripe.roll(&id, 3600);
    assert!(stripe.signs_with(&old) && stripe.signs_with(&new));
    stripe.happen(ACCOUNT, "invoice.paid").await;
    let during = taker.last();
    stripe.advance(3600);
    assert!(!stripe.signs_with(&old) && stripe.signs_with(&new));
    stripe.happen(ACCOUNT, "invoice.paid").await;
    let after = taker.last();

    let (old, new) = (secret(&old), secret(&new));
    let verdict =
        |(header, payload): &Delivery, key: &SecretText, now| verify(header, payload, &[key], now, TOLERANCE);
    let now = i64::try_from(UNIX_EPOCH.elapsed().unwrap().as_secs()).unwrap();
    assert_eq!(verdict(&during, &old, now), Ok(()));
    assert_eq!(verdict(&during, &new, now), Ok(()));
    assert_eq!(verdict(&after, &old, now + 3600), Err(Rejected::NoMatch));
    assert_eq!(verdict(&after, &new, now + 3600), Ok(()));
}

/// A header, and the payload that it signs.
type Delivery = (String, Vec<u8>);

/// Takes events, and keeps the last one with its header.
struct Taker {
    vendor: Vendor,
    last: Arc<Mutex<Option<Delivery>>>,
}

impl Taker {
    fn start() -> Self {
        let last = Arc::<Mutex<Option<Delivery>>>::default();
        let kept = last.clone();
        let take = async move |headers: HeaderMap, body: Bytes| {
            let header = headers["stripe-signature"].to_str().unwrap().to_owned();
            *kept.lock().unwrap() = Some((header, body.to_vec()));
        };
        Self { vendor: Vendor::serve(Router::new().fallback(take)), last }
    }

    fn last(&self) -> Delivery {
        self.last.lock().unwrap().take().unwrap()
    }
}
