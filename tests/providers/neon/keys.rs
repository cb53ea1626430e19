//! API keys overlap: a new one works beside the old one until that is revoked.

use reseal::providers::{
    Issued, Issuer, Outcome, Probe, Recovered,
    neon::{ApiKeys, KeyProbe},
};

use super::{
    super::at_hand::{assert_dead, assert_live, secret, unknown},
    client,
};
use crate::support::vendors::{Fault, Rule, neon::Neon as StandIn};

fn keys(neon: &StandIn) -> ApiKeys {
    ApiKeys::new(client(neon), None)
}

fn names(live: &[(String, String)]) -> Vec<&str> {
    live.iter().map(|(_, name)| &**name).collect()
}

#[tokio::test]
async fn a_key_is_minted_tried_and_ended_by_its_successor() {
    for organization in [None, Some("org-cool-breeze-12345678".to_owned())] {
        let neon = StandIn::start();
        let keys = ApiKeys::new(client(&neon), organization.clone());
        let probe = KeyProbe::new(client(&neon), organization);
        let old = keys.mint("reseal-1-old").await.unwrap();
        let new = keys.mint("reseal-1-new").await.unwrap();
        assert!(old.value.expose().starts_with("napi_"));
        for key in [&old, &new] {
            assert_live(&probe.probe(&key.value).await);
        }
        let listed = keys.list().await.unwrap();
        let listed: Vec<_> = listed.iter().filter(|key| key.name.starts_with("reseal-1-")).collect();
        assert_eq!(listed.iter().map(|key| &*key.id).collect::<Vec<_>>(), [&*old.id, &*new.id]);
        assert!(listed.iter().all(|key| key.created.is_some() && key.last_used.is_some()));

        let keys = keys.with_token(secret(new.value.expose()));
        neon.set(|knobs| knobs.late_revocation = 2);
        keys.revoke(&old.id).await.unwrap();
        for _ in 0..2 {
            assert!(neon.is_live(old.value.expose()));
            assert_live(&probe.probe(&old.value).await);
        }
        assert_dead(&probe.probe(&old.value).await);
        assert!(!neon.is_live(old.value.expose()));
        keys.revoke(&old.id).await.expect("one that is gone is done");
        assert_live(&probe.probe(&new.value).await);
        assert_eq!(names(&neon.live()), ["bootstrap", "reseal-1-new"]);
    }
}

#[tokio::test]
async fn a_lost_key_is_found_by_its_name_and_ended() {
    let neon = StandIn::start();
    let keys = keys(&neon);
    neon.vendor.fault(Rule::next("POST", "/api_keys", Fault::LoseReply));
    let error = keys.mint("reseal-1-new").await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown);
    assert_eq!(neon.vendor.count("POST", "/api_keys"), 1, "it is not sent again by itself");

    neon.set(|knobs| knobs.stale_lists = 1);
    let unseen = keys.recover("reseal-1-new", None).await.unwrap();
    assert!(matches!(unseen, Recovered::Nothing), "{unseen:?}");
    let other = keys.recover("reseal-1-ne", None).await.unwrap();
    assert!(matches!(other, Recovered::Nothing), "{other:?}");
    let Recovered::Strays(strays) = keys.recover("reseal-1-new", None).await.unwrap() else {
        panic!("a stray")
    };
    let [Issued { id, .. }] = &*strays else { panic!("{strays:?}") };
    neon.vendor.fault(Rule::next("DELETE", "/api_keys", Fault::LoseReply));
    keys.revoke(id).await.expect("its end may be asked for twice");
    assert_eq!(names(&neon.live()), ["bootstrap"]);

    neon.vendor.fault(Rule::next("POST", "/api_keys", Fault::Twice));
    keys.mint("twice").await.unwrap();
    let Recovered::Strays(strays) = keys.recover("twice", None).await.unwrap() else { panic!("strays") };
    assert_eq!(strays.len(), 2);
}

#[tokio::test]
async fn what_is_no_refusal_of_the_key_is_unknown() {
    let neon = StandIn::start();
    let probe = KeyProbe::new(client(&neon), None);
    let key = keys(&neon).mint("key").await.unwrap();
    for (status, text) in [
        (400, "neon refused list the projects: 400"),
        (403, "neon does not let this credential list the projects: 403"),
        (500, "neon gave no answer to list the projects (it answered 500), and may have done it"),
        (503, "neon could not list the projects now: it answered 503"),
    ] {
        neon.vendor.fault(Rule::every("GET", "/projects", Fault::Refuse(status, "{}")));
        assert_eq!(unknown(&probe.probe(&key.value).await), text);
        neon.vendor.heal();
    }
    let why = keys(&neon).mint(&"x".repeat(65)).await.unwrap_err().to_string();
    assert_eq!(why, "neon was not asked to create an API key: the key's name is longer than 64 characters");
    assert_eq!(neon.vendor.count("POST", "/api_keys"), 1);
}

#[tokio::test]
async fn a_rate_limit_is_waited_out() {
    let neon = StandIn::start();
    neon.set(|knobs| knobs.rate = Some((3.0, 3.0)));
    let keys = keys(&neon);
    for _ in 0..5 {
        keys.list().await.unwrap();
    }
    assert!(neon.vendor.seen().iter().any(|seen| seen.status == 429));
    let dead = KeyProbe::new(client(&neon), None);
    assert_dead(&dead.probe(&secret("napi_none")).await);
}
