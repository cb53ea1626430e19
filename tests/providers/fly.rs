//! Fly.io: tokens, vaults, machines and add-ons. The deploy and a machine's life have files of their own.

mod deploy;
mod launch;
mod life;

use std::{
    num::NonZero,
    sync::Arc,
    time::{Duration, Instant},
};

use reseal::{
    providers::{
        Issuer, Life, Location, Observed, Outcome, Probe, ProviderError, Recovered,
        fly::{AppSecret, Environment, Fly, TokenProbe, TokenProfile, Tokens},
        http::Manner,
    },
    secret::SecretText,
};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::at_hand::{PATIENCE, manner as brisk, secret};
use crate::support::vendors::{
    Fault, Rule,
    fly::{Fly as StandIn, Made, ORG},
};

const APP: &str = "molecule-cp";

fn client(stand_in: &StandIn, token: &str, manner: Manner) -> Fly {
    Fly::new(&stand_in.machines_url(), &stand_in.graphql_url(), Arc::new(secret(token)), manner).unwrap()
}

fn person(stand_in: &StandIn) -> Fly {
    client(stand_in, &stand_in.user_token(), brisk())
}

fn tokens(fly: &Fly, like: Option<&str>) -> Tokens {
    Tokens::new(fly, ORG, like.map(str::to_owned), TokenProfile::organization())
}

async fn life(fly: &Fly, value: &str) -> Life {
    TokenProbe::new(fly).probe(&secret(value)).await
}

fn lose_mint(stand_in: &StandIn, fault: Fault) {
    // The list before it goes to the same path.
    stand_in.vendor.fault(Rule::next("POST", "/graphql", fault).after(1));
}

#[tokio::test]
async fn a_token_is_minted_like_the_old_one_and_the_old_one_ends() {
    let stand_in = StandIn::start();
    let (old, old_value) = stand_in.token("hand-made", "deploy", json!({ "app_id": "node" }));
    let fly = person(&stand_in);
    let tokens = tokens(&fly, Some(&old));

    tokens.may_mint().await.unwrap();
    let minted = tokens.mint("reseal-1-mint").await.unwrap();
    assert!(minted.value.expose().starts_with("FlyV1 fm2_"));
    assert_eq!(stand_in.lifetime(&minted.id), "630720000s");
    let profiles = tokens.profiles().await.unwrap();
    let of = |id: &str| profiles.iter().find(|(issued, _)| issued.id == id).unwrap();
    assert_eq!(of(&minted.id).1, of(&old).1);
    assert_eq!(of(&old).1, TokenProfile { profile: "deploy".into(), params: json!({ "app_id": "node" }) });
    assert_eq!(of(&minted.id).0.name, "reseal-1-mint");

    assert!(matches!(life(&fly, minted.value.expose()).await, Life::Live));
    assert!(matches!(life(&fly, &old_value).await, Life::Live));
    tokens.revoke(&old).await.unwrap();
    tokens.revoke(&old).await.unwrap();
    tokens.revoke("lat_of_nobody").await.unwrap();
    assert!(matches!(life(&fly, &old_value).await, Life::Dead));
    assert!(matches!(life(&fly, minted.value.expose()).await, Life::Live));
    assert_eq!(stand_in.live(), [(minted.id.clone(), "reseal-1-mint".to_owned())]);
    assert!(stand_in.is_live(minted.value.expose()) && !stand_in.is_live(&old_value));
    // What an emergency revoked can still be copied.
    let again = tokens.living(Duration::from_secs(3600)).mint("reseal-2-mint").await.unwrap();
    assert_eq!(stand_in.lifetime(&again.id), "3600s");
}

#[tokio::test]
async fn what_a_token_may_do_is_copied_or_said_never_guessed() {
    let stand_in = StandIn::start();
    let fly = person(&stand_in);
    let error = tokens(&fly, Some("lat_of_nobody")).mint("reseal-1-mint").await.unwrap_err();
    assert_eq!(error.to_string(), "Fly.io refused create a token: 404 (no_token_to_copy)");
    assert!(stand_in.live().is_empty());

    tokens(&fly, None).mint("reseal-1-mint").await.unwrap();
    let profiles = tokens(&fly, None).profiles().await.unwrap();
    assert_eq!(profiles[0].1, TokenProfile::organization());

    let elsewhere = Tokens::new(&fly, "nobody", None, TokenProfile::organization());
    assert!(elsewhere.list().await.unwrap_err().is_missing());
}

#[tokio::test]
async fn every_page_is_read_and_the_revoked_are_left_out() {
    let stand_in = StandIn::start();
    let ids: Vec<_> = (0..5).map(|n| stand_in.token(&format!("t{n}"), "deploy", json!({})).0).collect();
    stand_in.page(2);
    let fly = person(&stand_in);
    let tokens = tokens(&fly, None);
    tokens.revoke(&ids[2]).await.unwrap();
    let listed: Vec<_> = tokens.list().await.unwrap().into_iter().map(|token| token.id).collect();
    assert_eq!(listed, [&ids[0], &ids[1], &ids[3], &ids[4]].map(Clone::clone));
    assert_eq!(stand_in.vendor.count("POST", "/graphql"), 4);
}

#[tokio::test]
async fn a_token_that_cannot_mint_is_refused_before_it_tries() {
    let stand_in = StandIn::start();
    let (id, value) = stand_in.token("deployer", "deploy_organization", json!({}));
    let limited = client(&stand_in, &value, brisk());
    let tokens_of_limited = tokens(&limited, None);
    let error = tokens_of_limited.may_mint().await.unwrap_err();
    assert!(matches!(&error, ProviderError::Unauthorized { status: 403, .. }), "{error}");
    let error = tokens_of_limited.mint("reseal-1-mint").await.unwrap_err();
    assert!(matches!(&error, ProviderError::Unauthorized { status: 403, .. }), "{error}");
    assert_eq!(stand_in.live().len(), 1);

    tokens(&person(&stand_in), None).revoke(&id).await.unwrap();
    let error = tokens_of_limited.may_mint().await.unwrap_err();
    assert!(matches!(&error, ProviderError::Unauthorized { status: 401, .. }), "{error}");
}

#[tokio::test]
async fn a_mint_whose_reply_is_lost_is_found_by_its_name() {
    let stand_in = StandIn::start();
    stand_in.token("reseal-1-mint-not", "deploy", json!({}));
    let fly = person(&stand_in);
    let tokens = tokens(&fly, None);

    stand_in.stale_token_lists(0);
    lose_mint(&stand_in, Fault::LoseReply);
    let error = tokens.mint("reseal-1-mint").await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown);
    assert_eq!(stand_in.live().len(), 2, "it was sent once");
    let Recovered::Strays(strays) = tokens.recover("reseal-1-mint", None).await.unwrap() else { panic!() };
    assert_eq!(strays.iter().map(|stray| &*stray.name).collect::<Vec<_>>(), ["reseal-1-mint"]);
    tokens.revoke(&strays[0].id).await.unwrap();

    // A list can be older than the mint.
    stand_in.vendor.heal();
    stand_in.stale_token_lists(2);
    lose_mint(&stand_in, Fault::LoseReply);
    tokens.mint("reseal-2-mint").await.unwrap_err();
    assert!(matches!(tokens.recover("reseal-2-mint", None).await.unwrap(), Recovered::Nothing));
    assert!(matches!(tokens.recover("reseal-2-mint", None).await.unwrap(), Recovered::Strays(_)));

    stand_in.vendor.heal();
    lose_mint(&stand_in, Fault::LoseRequest);
    assert_eq!(tokens.mint("reseal-3-mint").await.unwrap_err().outcome(), Outcome::Unknown);
    assert!(matches!(tokens.recover("reseal-3-mint", None).await.unwrap(), Recovered::Nothing));

    stand_in.vendor.heal();
    lose_mint(&stand_in, Fault::Twice);
    let minted = tokens.mint("reseal-4-mint").await.unwrap();
    let Recovered::Strays(both) = tokens.recover("reseal-4-mint", None).await.unwrap() else { panic!() };
    assert_eq!(both.len(), 2);
    assert!(both.iter().any(|token| token.id == minted.id));
}

#[tokio::test]
async fn a_revocation_that_is_late_is_waited_for() {
    let stand_in = StandIn::start();
    let (id, value) = stand_in.token("old", "deploy", json!({}));
    stand_in.revoke_late(3);
    let fly = person(&stand_in);
    tokens(&fly, None).revoke(&id).await.unwrap();
    let mut looks = 0;
    let dead = PATIENCE.until(async || {
        looks += 1;
        Ok::<_, ()>(matches!(life(&fly, &value).await, Life::Dead).then_some(()))
    });
    assert_eq!(dead.await, Ok(Some(())));
    assert_eq!(looks, 4);

    stand_in.vendor.fault(Rule::every("GET", "/tokens/current", Fault::Refuse(500, "{}")));
    assert!(matches!(life(&fly, &value).await, Life::Unknown(ProviderError::Uncertain { .. })));
    stand_in.vendor.heal();
    stand_in.vendor.fault(Rule::every("GET", "/tokens/current", Fault::Refuse(403, "{}")));
    assert!(matches!(life(&fly, &value).await, Life::Unknown(ProviderError::Unauthorized { .. })));
}

#[tokio::test]
async fn a_secret_is_written_to_the_vault_and_nothing_restarts() {
    let stand_in = StandIn::start();
    stand_in.app(APP, &[Made { id: "m1", state: "started" }]);
    stand_in.set(APP, "OTHER", "theirs");
    let fly = person(&stand_in);
    let location = AppSecret::new(&fly, APP, "FLY_API_TOKEN");
    let digest = async || match location.observe().await.unwrap() {
        Observed::Written { updated, digest } => (updated.unwrap(), digest.unwrap()),
        Observed::Absent => panic!("it was written"),
    };

    assert_eq!(location.observe().await.unwrap(), Observed::Absent);
    let before = fly.vault_version(APP).await.unwrap();
    location.write(&SecretText::new("first".into())).await.unwrap();
    let first = digest().await;
    assert_eq!(fly.vault_version(APP).await.unwrap(), before + 1);
    let environment =
        [("OTHER", "theirs"), ("PORT", "8080")].map(|(name, value)| (name.into(), value.into()));
    assert_eq!(stand_in.environment(APP), [environment.into()]);
    assert_eq!(fly.staged(APP).await.unwrap(), ["FLY_API_TOKEN"]);

    stand_in.vendor.fault(Rule::next("POST", "/secrets", Fault::LoseReply));
    location.write(&SecretText::new("second".into())).await.unwrap();
    assert_eq!(stand_in.secret(APP, "FLY_API_TOKEN").unwrap(), "second");
    assert_ne!(digest().await.1, first.1);

    stand_in.vendor.fault(Rule::next("DELETE", "/secrets", Fault::Twice));
    location.remove().await.unwrap();
    location.remove().await.unwrap();
    assert_eq!(location.observe().await.unwrap(), Observed::Absent);
    assert_eq!(stand_in.secret(APP, "OTHER").unwrap(), "theirs");
}

#[tokio::test]
async fn an_error_names_the_call_and_no_value() {
    let stand_in = StandIn::start();
    let fly = client(&stand_in, "fm2_wrong", brisk());
    let location = AppSecret::new(&fly, APP, "FLY_API_TOKEN");
    let error = location.write(&SecretText::new("precious".into())).await.unwrap_err();
    assert_eq!(error.to_string(), "Fly.io does not let this credential set the secret: 401 (unknown)");
    let person = person(&stand_in);
    let nowhere = AppSecret::new(&person, "nowhere", "X");
    assert!(nowhere.write(&SecretText::new("precious".into())).await.unwrap_err().is_missing());
    let (_, value) = stand_in.token("t", "deploy", json!({}));
    for shown in [format!("{fly:?}{person:?}{nowhere:?}{error:?}"), format!("{:?}", tokens(&person, None))] {
        for value in stand_in.values().iter().chain([&value, &"precious".to_owned()]) {
            assert!(!shown.contains(value.as_str()));
        }
    }
}

#[tokio::test]
async fn what_a_machine_has_is_compared_by_digest() {
    let stand_in = StandIn::start();
    stand_in.app(APP, &[Made { id: "m1", state: "started" }, Made { id: "m2", state: "stopped" }]);
    stand_in.set(APP, "FLY_API_TOKEN", "a token");
    let fly = person(&stand_in);
    let expected = <[u8; 32]>::from(Sha256::digest("a token"));
    assert_eq!(fly.secret_digest(APP, "m1", "FLY_API_TOKEN").await.unwrap(), Some(expected));
    assert_eq!(fly.secret_digest(APP, "m1", "NOT_SET").await.unwrap(), None);
    let error = fly.secret_digest(APP, "m2", "FLY_API_TOKEN").await.unwrap_err();
    assert!(matches!(error, ProviderError::Refused { status: 400, .. }));

    let asked = stand_in.vendor.count("POST", "/exec");
    for name in ["", "1A", "A;reboot", "A-B", "$(id)"] {
        let error = fly.secret_digest(APP, "m1", name).await.unwrap_err();
        assert!(matches!(error, ProviderError::NotAsked { .. }), "{name}");
    }
    assert_eq!(stand_in.vendor.count("POST", "/exec"), asked);
    stand_in.without_shell();
    let error = fly.secret_digest(APP, "m1", "FLY_API_TOKEN").await.unwrap_err();
    assert!(matches!(error, ProviderError::Unexpected { .. }), "{error}");
}

#[tokio::test]
async fn a_variable_of_one_machine_is_set_where_it_has_the_old_value() {
    let stand_in = StandIn::start();
    stand_in.app(APP, &[Made { id: "m1", state: "started" }, Made { id: "m2", state: "started" }]);
    stand_in.configure(APP, "m1", "REDIS_URL", "old");
    let of = |machine: &str| Environment {
        fly: person(&stand_in),
        app: APP.to_owned(),
        machine: machine.to_owned(),
        variable: "REDIS_URL".to_owned(),
        patience: PATIENCE,
    };
    let from = |old: &'static str| move |value: &str| (value == old).then(|| secret("new"));
    assert!(!of("m1").edit(&from("other")).await.unwrap());
    assert!(!of("m2").edit(&|_: &str| Some(secret("new"))).await.unwrap(), "it has none");
    assert_eq!(stand_in.restarts(APP, "m1"), 0);
    assert!(of("m1").edit(&from("old")).await.unwrap());
    assert!(!of("m1").edit(&from("old")).await.unwrap());
    assert_eq!((stand_in.restarts(APP, "m1"), stand_in.restarts(APP, "m2")), (1, 0));
    assert_eq!(stand_in.environment(APP)[0]["REDIS_URL"], "new");
    assert_eq!(stand_in.environment(APP)[0]["PORT"], "8080");
}

#[tokio::test]
async fn an_add_on_gets_another_password() {
    let stand_in = StandIn::start();
    let first = stand_in.add_on("tenants");
    let fly = person(&stand_in);
    assert_eq!(fly.add_on_url("tenants").await.unwrap().expose(), first);
    let second = fly.reset_add_on_password("tenants").await.unwrap();
    assert_ne!(second.expose(), first);
    assert_eq!(second.expose(), stand_in.add_on_url("tenants"));

    stand_in.vendor.fault(Rule::next("POST", "/graphql", Fault::LoseReply));
    let error = fly.reset_add_on_password("tenants").await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown);
    let third = fly.add_on_url("tenants").await.unwrap();
    assert_ne!(third.expose(), second.expose());
    assert_eq!(third.expose(), stand_in.add_on_url("tenants"));
    assert!(fly.add_on_url("nobody's").await.unwrap_err().is_missing());
}

#[tokio::test]
async fn its_rate_limits_are_held_by_us_and_else_obeyed() {
    let stand_in = StandIn::start();
    stand_in.app(APP, &[Made { id: "m1", state: "started" }]);
    stand_in.limit_rate(1);
    let hasty = client(&stand_in, &stand_in.user_token(), Manner { tries: 1, ..brisk() });
    let mut refusals = 0;
    for _ in 0..4 {
        refusals += usize::from(matches!(hasty.secrets(APP).await, Err(ProviderError::Busy { .. })));
    }
    assert_eq!(refusals, 1);

    let stand_in = StandIn::start();
    stand_in.app(APP, &[Made { id: "m1", state: "started" }]);
    stand_in.limit_rate(1);
    let paced = client(&stand_in, &stand_in.user_token(), Manner { tries: 1, paced: true, ..brisk() });
    for _ in 0..5 {
        paced.secrets(APP).await.unwrap();
    }
    assert!(stand_in.vendor.seen().iter().all(|seen| seen.status == 200));
}

#[tokio::test]
async fn an_account_that_was_granted_more_goes_so_many_times_as_fast() {
    let stand_in = StandIn::start();
    stand_in.app(APP, &[Made { id: "m1", state: "started" }]);
    stand_in.limit_rate(100);
    let times = NonZero::new(100).unwrap();
    let paced = client(&stand_in, &stand_in.user_token(), Manner { tries: 1, paced: true, times, ..brisk() });
    let begun = Instant::now();
    for _ in 0..350 {
        paced.secrets(APP).await.unwrap();
    }
    // Three hundred at once, and the rest at a hundred a second.
    assert!(begun.elapsed() > Duration::from_millis(450), "{:?}", begun.elapsed());

    stand_in.limit_rate(1);
    let hasty = client(&stand_in, &stand_in.user_token(), Manner { tries: 1, ..brisk() });
    let mut refused = Vec::new();
    for look in 0..25 {
        if hasty.machine(APP, "m1").await.is_err() {
            refused.push(look);
        }
    }
    // A machine is looked at more often than it is told anything.
    assert!(refused.first().is_some_and(|first| *first >= 10), "{refused:?}");
}
