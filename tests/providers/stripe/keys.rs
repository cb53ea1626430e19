//! A key works or not, and is for one account.

use reseal::providers::{Life, Probe, ProviderError};

use super::{ACCOUNT, SPEC, client, secret, start};
use crate::support::{
    prism::Prism,
    vendors::{Fault, Rule},
};

#[tokio::test]
async fn a_key_lives_until_it_expires() {
    let (stripe, key) = start();
    let probe = client(stripe.vendor.url()).key_probe();
    assert!(matches!(probe.probe(&secret(&key)).await, Life::Live));
    stripe.expire(&key, 60);
    assert!(matches!(probe.probe(&secret(&key)).await, Life::Live));
    assert!(stripe.is_live(&key));
    stripe.advance(60);
    assert!(matches!(probe.probe(&secret(&key)).await, Life::Dead));
    assert!(!stripe.is_live(&key));
    assert!(matches!(probe.probe(&secret("sk_live_never")).await, Life::Dead));
}

#[tokio::test]
async fn a_key_that_may_not_read_the_balance_lives() {
    let (stripe, _) = start();
    let restricted = stripe.key("rk_live_", ACCOUNT);
    let probe = client(stripe.vendor.url()).key_probe();
    assert!(matches!(probe.probe(&secret(&restricted)).await, Life::Live));
}

#[tokio::test]
async fn what_stripe_did_not_say_is_neither_life_nor_death() {
    let (stripe, key) = start();
    let probe = client(stripe.vendor.url()).key_probe();
    // A proxy that wants a login of its own, a forbidden address, an outage, and nothing at all.
    for fault in [
        Fault::Refuse(401, "<html>who are you</html>"),
        Fault::Refuse(403, "{}"),
        Fault::Refuse(503, "{\"error\":{\"type\":\"api_error\"}}"),
        Fault::Refuse(302, ""),
        Fault::LoseReply,
    ] {
        stripe.vendor.fault(Rule::every("GET", "/v1/balance", fault.clone()));
        let life = probe.probe(&secret(&key)).await;
        assert!(matches!(life, Life::Unknown(_)), "{fault:?}: {life:?}");
        stripe.vendor.heal();
    }
}

#[tokio::test]
async fn a_key_tells_its_account() {
    let (stripe, key) = start();
    let other = stripe.key("sk_test_", "acct_2");
    let client = client(stripe.vendor.url());
    assert_eq!(client.account(&secret(&key)).await.unwrap(), ACCOUNT);
    assert_eq!(client.account(&secret(&other)).await.unwrap(), "acct_2");
    stripe.expire(&other, 0);
    let error = client.account(&secret(&other)).await.unwrap_err();
    assert_eq!(error.to_string(), "Stripe does not let this credential read account: 401 (api_key_expired)");
    let restricted = stripe.key("rk_live_", ACCOUNT);
    let error = client.account(&secret(&restricted)).await.unwrap_err();
    assert!(matches!(error, ProviderError::Unauthorized { status: 403, .. }));
}

#[tokio::test]
async fn both_sides_keep_to_the_specification() {
    let (stripe, key) = start();
    let Some(prism) = Prism::before(SPEC, stripe.vendor.url()) else { return };
    let probe = client(prism.url()).key_probe();
    assert!(matches!(probe.probe(&secret(&key)).await, Life::Live));
    assert!(matches!(probe.probe(&secret("sk_live_never")).await, Life::Dead));
    assert_eq!(prism.violations(), Vec::<String>::new());
}
