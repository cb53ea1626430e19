//! A second endpoint is like the first, is made once, and only what is asked for is deleted.

use std::time::Duration;

use reseal::providers::{Issuer, Outcome, ProviderError, Recovered, stripe::WebhookEndpoints};

use super::{ACCOUNT, SPEC, client, secret, standin::Stripe, start};
use crate::support::{
    prism::Prism,
    vendors::{Fault, Rule},
};

const URL: &str = "https://molecule-cp.fly.dev/webhooks/stripe";
const NAME: &str = "reseal-01-mint";
const CREATE: &str = "/v1/webhook_endpoints";

/// A page that is not the last one.
const PAGE: &str = r#"{"has_more":true,"data":[{"id":"we_1","url":"https://x","enabled_events":["*"],"metadata":{},
    "status":"enabled","created":1}]}"#;

/// The endpoint that a person made, and those of its account.
fn with_old(stripe: &Stripe, key: &str, url: &str) -> (String, WebhookEndpoints) {
    let form = [
        ("url", URL),
        ("enabled_events[]", "customer.subscription.updated"),
        ("enabled_events[]", "invoice.paid"),
        ("api_version", "2023-08-16"),
        ("description", "billing & plans"),
        ("metadata[team]", "billing"),
    ];
    let (old, _) = stripe.endpoint(key, ACCOUNT, &form);
    let endpoints = client(url).webhook_endpoints(&secret(key), &old);
    (old, endpoints)
}

#[tokio::test]
async fn the_second_endpoint_is_like_the_first() {
    let (stripe, key) = start();
    let (old, endpoints) = with_old(&stripe, &key, stripe.vendor.url());
    let minted = endpoints.mint(NAME).await.unwrap();
    assert!(minted.value.expose().starts_with("whsec_"));
    assert!(stripe.signs_with(minted.value.expose()));
    let mut expected = stripe.form(&old);
    expected.insert("metadata[reseal_rotation]".to_owned(), vec![NAME.to_owned()]);
    assert_eq!(stripe.form(&minted.id), expected);
    // One that is minted like a minted one has one name, its own.
    let third = client(stripe.vendor.url()).webhook_endpoints(&secret(&key), &minted.id);
    let third = third.mint("reseal-02-mint").await.unwrap();
    assert_eq!(stripe.form(&third.id)["metadata[reseal_rotation]"], ["reseal-02-mint"]);
}

#[tokio::test]
async fn one_for_connected_accounts_stays_one() {
    let (stripe, key) = start();
    let form = [("url", URL), ("enabled_events[]", "*"), ("connect", "true")];
    let (old, _) = stripe.endpoint(&key, ACCOUNT, &form);
    let endpoints = client(stripe.vendor.url()).webhook_endpoints(&secret(&key), &old);
    let minted = endpoints.mint(NAME).await.unwrap();
    assert_eq!(stripe.form(&minted.id)["connect"], ["true"]);
    assert_eq!(endpoints.at(URL).await.unwrap().len(), 2);
}

#[tokio::test]
async fn it_is_made_once_whatever_is_lost() {
    for fault in [Fault::LoseReply, Fault::LoseRequest, Fault::Twice, Fault::Refuse(409, "{}")] {
        let (stripe, key) = start();
        let (old, endpoints) = with_old(&stripe, &key, stripe.vendor.url());
        stripe.vendor.fault(Rule::next("POST", CREATE, fault.clone()));
        let minted = endpoints.mint(NAME).await.unwrap();
        let live: Vec<_> = stripe.live().into_iter().map(|endpoint| endpoint.0).collect();
        assert_eq!(live, [minted.id.clone(), old], "{fault:?}");
        assert!(stripe.signs_with(minted.value.expose()));
        // As after a crash that kept nothing of it.
        assert_eq!(endpoints.mint(NAME).await.unwrap().id, minted.id);
        assert_eq!(stripe.live().len(), 2);
    }
}

#[tokio::test]
async fn what_a_lost_reply_left_behind_is_found_and_not_given_again() {
    let (stripe, key) = start();
    let (old, endpoints) = with_old(&stripe, &key, stripe.vendor.url());
    stripe.vendor.fault(Rule::every("POST", CREATE, Fault::LoseReply));
    let error = endpoints.mint(NAME).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown);
    assert_eq!(stripe.vendor.count("POST", CREATE), 3);
    stripe.vendor.heal();

    let Recovered::Strays(strays) = endpoints.recover(NAME, None).await.unwrap() else { panic!() };
    assert_eq!(strays.len(), 1);
    assert_eq!(strays[0].name, NAME);
    endpoints.revoke(&strays[0].id).await.unwrap();
    assert!(matches!(endpoints.recover(NAME, None).await.unwrap(), Recovered::Nothing));

    // Stripe says again what it answered about the one that is gone.
    let minted = endpoints.mint(NAME).await.unwrap();
    assert_ne!(minted.id, strays[0].id);
    let live: Vec<_> = stripe.live().into_iter().map(|endpoint| endpoint.0).collect();
    assert_eq!(live, [minted.id, old]);
    assert!(stripe.signs_with(minted.value.expose()));
}

#[tokio::test]
async fn one_that_was_made_and_cannot_be_looked_at_is_uncertain() {
    let (stripe, key) = start();
    let (_, endpoints) = with_old(&stripe, &key, stripe.vendor.url());
    stripe.vendor.fault(Rule::every("GET", "/v1/webhook_endpoints/we_", Fault::Refuse(429, "{}")).after(1));
    let error = endpoints.mint(NAME).await.unwrap_err();
    assert!(matches!(error, ProviderError::Uncertain { .. }), "{error}");
    assert_eq!(stripe.live().len(), 2);
}

#[tokio::test]
async fn a_refusal_makes_nothing() {
    let (stripe, key) = start();
    let (old, endpoints) = with_old(&stripe, &key, stripe.vendor.url());
    let elsewhere = stripe.key("sk_live_", "acct_2");
    let test_mode = stripe.key("sk_test_", ACCOUNT);
    for foreign in [elsewhere, test_mode] {
        let foreign = client(stripe.vendor.url()).webhook_endpoints(&secret(&foreign), &old);
        let error = foreign.mint(NAME).await.unwrap_err();
        assert!(error.is_missing(), "{error}");
        // Gone is done, and what is not ours to see stays.
        foreign.revoke(&old).await.unwrap();
        assert!(foreign.list().await.unwrap().is_empty());
    }
    stripe.expire(&key, 0);
    let error = endpoints.mint(NAME).await.unwrap_err();
    assert!(matches!(error, ProviderError::Unauthorized { status: 401, .. }));
    assert_eq!(error.outcome(), Outcome::NotDone);
    assert!(endpoints.revoke(&old).await.is_err());
    assert_eq!(stripe.live().len(), 1);
}

#[tokio::test]
async fn a_reply_without_a_secret_is_no_success() {
    let (stripe, key) = start();
    let (_, endpoints) = with_old(&stripe, &key, stripe.vendor.url());
    stripe.vendor.fault(Rule::next("POST", CREATE, Fault::Refuse(200, r#"{"id":"we_1","secret":null}"#)));
    let error = endpoints.mint(NAME).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown);
}

#[tokio::test]
async fn all_pages_are_read() {
    let (stripe, key) = start();
    let (old, endpoints) = with_old(&stripe, &key, stripe.vendor.url());
    for count in 1..=3 {
        endpoints.mint(&format!("reseal-{count}")).await.unwrap();
    }
    let listed = endpoints.list().await.unwrap();
    assert_eq!(listed.len(), 4);
    assert_eq!(listed[0].name, "reseal-3");
    assert_eq!((listed[3].id.as_str(), listed[3].name.as_str()), (old.as_str(), URL));
    assert!(listed.iter().all(|endpoint| endpoint.created.as_ref().is_some_and(|time| time.ends_with('Z'))));

    // Events come in more than one page of 100.
    let before = 1_700_000_000;
    assert_eq!(endpoints.undelivered(before).await.unwrap(), 0);
    for _ in 0..101 {
        // Nobody wants these, so each is delivered.
        stripe.happen(ACCOUNT, "charge.failed").await;
    }
    assert_eq!(endpoints.undelivered(before).await.unwrap(), 0);
    let nowhere = [("url", "http://127.0.0.1:9/nobody"), ("enabled_events[]", "*")];
    stripe.endpoint(&key, ACCOUNT, &nowhere);
    for _ in 0..101 {
        let (_, answers) = stripe.happen(ACCOUNT, "charge.failed").await;
        assert_eq!(answers[0].1, 0);
    }
    assert_eq!(endpoints.undelivered(before).await.unwrap(), 101);
    assert_eq!(endpoints.undelivered(9_999_999_999).await.unwrap(), 0);
    assert_eq!(stripe.vendor.count("GET", "starting_after"), 1);
}

#[tokio::test]
async fn a_page_that_leads_nowhere_ends_the_list_with_an_error() {
    let (stripe, key) = start();
    let (_, endpoints) = with_old(&stripe, &key, stripe.vendor.url());
    stripe.vendor.fault(Rule::next("GET", CREATE, Fault::Refuse(200, r#"{"data":[],"has_more":true}"#)));
    assert!(matches!(endpoints.list().await, Err(ProviderError::Unexpected { .. })));

    stripe.vendor.fault(Rule::every("GET", CREATE, Fault::Refuse(200, PAGE)));
    let asked = stripe.vendor.count("GET", CREATE);
    let error = tokio::time::timeout(Duration::from_secs(5), endpoints.list()).await.unwrap().unwrap_err();
    assert_eq!(
        error.to_string(),
        "Stripe answered list webhook endpoints with something else than it documents: the same page again, which \
         says there is more"
    );
    assert_eq!(stripe.vendor.count("GET", CREATE) - asked, 2);
}

#[tokio::test]
async fn revoking_is_done_once_and_again() {
    let (stripe, key) = start();
    let (old, endpoints) = with_old(&stripe, &key, stripe.vendor.url());
    let minted = endpoints.mint(NAME).await.unwrap();
    stripe.vendor.fault(Rule::next("DELETE", CREATE, Fault::LoseReply));
    endpoints.revoke(&old).await.unwrap();
    endpoints.revoke(&old).await.unwrap();
    assert_eq!(stripe.live().len(), 1);
    assert!(stripe.signs_with(minted.value.expose()));
}

#[tokio::test]
async fn both_sides_keep_to_the_specification() {
    let (stripe, key) = start();
    let Some(prism) = Prism::before(SPEC, stripe.vendor.url()) else { return };
    // Prism knows no space in a form, however it is written.
    let form = [
        ("url", URL),
        ("enabled_events[]", "customer.subscription.updated"),
        ("enabled_events[]", "invoice.paid"),
        ("api_version", "2023-08-16"),
        ("description", "billing"),
        ("connect", "true"),
        ("metadata[team]", "billing"),
    ];
    let (old, _) = stripe.endpoint(&key, ACCOUNT, &form);
    let endpoints = client(prism.url()).webhook_endpoints(&secret(&key), &old);
    let minted = endpoints.mint(NAME).await.unwrap();
    assert_eq!(endpoints.list().await.unwrap().len(), 2);
    endpoints.revoke(&old).await.unwrap();
    endpoints.revoke(&old).await.unwrap();
    assert_eq!(stripe.live()[0].0, minted.id);
    assert_eq!(prism.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn no_value_is_in_anything_shown() {
    let (stripe, key) = start();
    let (_, endpoints) = with_old(&stripe, &key, stripe.vendor.url());
    let minted = endpoints.mint(NAME).await.unwrap();
    stripe.expire(&key, 0);
    let shown = format!("{:?} {:?} {:?}", endpoints, minted, endpoints.list().await.unwrap_err());
    assert!(!shown.contains(&minted.value.expose()[6..]) && !shown.contains(&key[8..]), "{shown}");
}
