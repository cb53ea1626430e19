//! Stripe: what keys are, endpoints beside endpoints, and signatures.

mod endpoints;
mod keys;
mod signature;

use std::{num::NonZero, time::Duration};

use reseal::{
    providers::{http::Manner, stripe::Stripe},
    secret::SecretText,
};

use crate::support::vendors::stripe as standin;

/// The vendor's specification.
const SPEC: &str = "stripe-webhooks-balance-subset-2023-09.json";

const ACCOUNT: &str = "acct_1";

const HASTE: Manner = Manner {
    timeout: Duration::from_secs(5),
    tries: 3,
    pause: Duration::from_millis(1),
    paced: false,
    times: NonZero::<u32>::MIN,
};

fn client(url: &str) -> Stripe {
    Stripe::new(url, HASTE).unwrap()
}

fn secret(text: &str) -> SecretText {
    SecretText::new(text.to_owned())
}

/// A stand-in, and a key of [`ACCOUNT`] in live mode.
fn start() -> (standin::Stripe, String) {
    let stripe = standin::Stripe::start();
    let key = stripe.key("sk_live_", ACCOUNT);
    (stripe, key)
}
