//! Resend: keys that may do everything or only send, domains, and a message from here to there.

use std::{num::NonZero, time::Duration};

use reseal::{
    providers::{
        Issuer, Life, Outcome, Patience, Probe, ProviderError, Recovered,
        http::Manner,
        resend::{DELIVERED, DomainState, DomainStatus, LastEvent, Permission, Resend},
    },
    secret::SecretText,
};

use crate::support::{
    prism::Prism,
    vendors::{Fault, Rule, resend as standin},
};

const NAME: &str = "reseal-01JD2Y3M5Z0000000000000000-mint";
const KEYS: &str = "/api-keys";
const FROM: &str = "Molecule AI <noreply@moleculesai.app>";

const HASTE: Manner = Manner {
    timeout: Duration::from_secs(5),
    tries: 3,
    pause: Duration::from_millis(1),
    paced: false,
    times: NonZero::<u32>::MIN,
};

const PATIENCE: Patience = Patience { every: Duration::from_millis(1), at_most: Duration::from_secs(5) };

fn secret(text: &str) -> SecretText {
    SecretText::new(text.to_owned())
}

fn client(url: &str, token: &str) -> Resend {
    Resend::new(url, &secret(token), HASTE).unwrap()
}

fn start() -> (standin::Resend, Resend) {
    let resend = standin::Resend::start();
    let client = client(resend.vendor.url(), resend.admin());
    (resend, client)
}

#[tokio::test]
async fn a_key_is_minted_listed_used_and_revoked() {
    let (resend, client) = start();
    let keys = client.api_keys(Permission::FullAccess);
    let minted = keys.mint(NAME).await.unwrap();
    assert!(minted.value.expose().starts_with("re_"));
    assert_eq!(resend.restriction(&minted.id), None);
    let probe = client.key_probe();
    assert!(matches!(probe.probe(&minted.value).await, Life::Live));

    let listed = keys.list().await.unwrap();
    assert_eq!(listed.len(), 2);
    assert_eq!((listed[1].id.as_str(), listed[1].name.as_str()), (minted.id.as_str(), NAME));
    assert_eq!(listed[1].created.as_deref(), Some("2026-11-02T09:30:00.123+00:00"));
    assert_eq!(listed[1].last_used.as_deref(), Some("2026-11-22T06:00:00.5+00:00"));

    keys.revoke(&minted.id).await.unwrap();
    keys.revoke(&minted.id).await.unwrap();
    assert!(!resend.is_live(minted.value.expose()));
    assert!(matches!(probe.probe(&minted.value).await, Life::Dead));
    assert_eq!(resend.live().len(), 1);
    assert!(matches!(probe.probe(&secret(resend.admin())).await, Life::Live));
}

#[tokio::test]
async fn a_key_that_may_only_send_lives_and_does_nothing_else() {
    let (resend, client) = start();
    let domain = resend.domain("moleculesai.app", "verified", "enabled");
    for domain_id in [None, Some(domain)] {
        let keys = client.api_keys(Permission::SendingAccess { domain_id: domain_id.clone() });
        let minted = keys.mint(NAME).await.unwrap();
        assert_eq!(resend.restriction(&minted.id), Some(domain_id));
        assert!(matches!(client.key_probe().probe(&minted.value).await, Life::Live));

        let sender = self::client(resend.vendor.url(), minted.value.expose());
        let error = sender.api_keys(Permission::FullAccess).mint(NAME).await.unwrap_err();
        let text = "Resend does not let this credential create api key: 401 (restricted_api_key)";
        assert_eq!(error.to_string(), text);
        assert_eq!(error.outcome(), Outcome::NotDone);
        keys.revoke(&minted.id).await.unwrap();
        assert!(matches!(client.key_probe().probe(&minted.value).await, Life::Dead));
    }
    assert_eq!(resend.live().len(), 1);
}

#[tokio::test]
async fn a_dead_key_is_told_by_status_and_message() {
    let (resend, client) = start();
    let key = secret(resend.admin());
    for (status, body, dead) in [
        (400, r#"{"statusCode":400,"name":"validation_error","message":"API key is invalid"}"#, true),
        (401, r#"{"statusCode":401,"name":"validation_error","message":"API key is invalid"}"#, true),
        (403, r#"{"statusCode":403,"name":"invalid_api_key","message":"API key is not valid."}"#, true),
        (422, r#"{"statusCode":422,"name":"validation_error","message":"API key is invalid"}"#, false),
        // Our header did not arrive: that says nothing of the key.
        (401, r#"{"statusCode":401,"name":"missing_api_key","message":"Missing API key"}"#, false),
        (403, "<html>blocked</html>", false),
        (404, "{}", false),
        (500, r#"{"message":"API key is invalid"}"#, false),
        (429, r#"{"name":"rate_limit_exceeded"}"#, false),
    ] {
        resend.vendor.fault(Rule::every("GET", KEYS, Fault::Refuse(status, body)));
        match client.key_probe().probe(&key).await {
            Life::Dead => assert!(dead, "{status} {body}"),
            Life::Unknown(_) => assert!(!dead, "{status} {body}"),
            Life::Live => panic!("{status} {body}"),
        }
        resend.vendor.heal();
    }
    let error = self::client(resend.vendor.url(), "re_never").sending_domain("a.example").await.unwrap_err();
    assert!(matches!(error, ProviderError::Unauthorized { status: 401, .. }), "{error}");
    assert!(error.to_string().ends_with("(invalid_api_key)"), "{error}");
}

#[tokio::test]
async fn a_revoked_key_dies_late() {
    let (resend, client) = start();
    let (id, value) = resend.key("old", false);
    resend.revoke_late(3);
    client.api_keys(Permission::FullAccess).revoke(&id).await.unwrap();
    let (value, mut lives) = (secret(&value), 0);
    let dead = PATIENCE
        .until(async || {
            match client.key_probe().probe(&value).await {
                Life::Dead => return Ok(Some(())),
                Life::Live => lives += 1,
                Life::Unknown(error) => return Err(error),
            }
            Ok::<_, ProviderError>(None)
        })
        .await;
    assert!(dead.unwrap().is_some());
    assert_eq!(lives, 3);
}

#[tokio::test]
async fn a_mint_whose_reply_is_lost_is_not_repeated_and_leaves_a_stray_to_find() {
    let (resend, client) = start();
    let keys = client.api_keys(Permission::FullAccess);
    resend.stale_lists(2);
    resend.vendor.fault(Rule::next("POST", KEYS, Fault::LoseReply));
    let error = keys.mint(NAME).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown);
    assert_eq!(resend.vendor.count("POST", KEYS), 1);

    assert!(matches!(keys.recover(NAME, None).await.unwrap(), Recovered::Nothing));
    assert!(matches!(keys.recover(NAME, None).await.unwrap(), Recovered::Nothing));
    let Recovered::Strays(strays) = keys.recover(NAME, None).await.unwrap() else { panic!() };
    assert_eq!(strays.len(), 1);
    assert!(matches!(keys.recover("admi", None).await.unwrap(), Recovered::Nothing));
    keys.revoke(&strays[0].id).await.unwrap();
    assert_eq!(resend.live().len(), 1);
}

#[tokio::test]
async fn a_mint_that_takes_too_long_may_be_done_yet() {
    let resend = standin::Resend::start();
    let hurried = Manner { timeout: Duration::from_millis(50), ..HASTE };
    let client = Resend::new(resend.vendor.url(), &secret(resend.admin()), hurried).unwrap();
    resend.vendor.fault(Rule::next("POST", KEYS, Fault::Delay(Duration::from_millis(200))));
    let error = client.api_keys(Permission::FullAccess).mint(NAME).await.unwrap_err();
    assert!(matches!(error, ProviderError::Uncertain { .. }), "{error}");
    assert_eq!(resend.live().len(), 1);
}

#[tokio::test]
async fn a_mint_that_was_delivered_twice_leaves_a_stray_too() {
    let (resend, client) = start();
    let keys = client.api_keys(Permission::FullAccess);
    resend.vendor.fault(Rule::next("POST", KEYS, Fault::Twice));
    let minted = keys.mint(NAME).await.unwrap();
    let Recovered::Strays(strays) = keys.recover(NAME, None).await.unwrap() else { panic!() };
    assert_eq!(strays.len(), 2);
    assert!(strays.iter().any(|stray| stray.id == minted.id));
}

#[tokio::test]
async fn a_revocation_whose_reply_is_lost_is_repeated() {
    let (resend, client) = start();
    let (id, value) = resend.key("old", false);
    resend.vendor.fault(Rule::next("DELETE", KEYS, Fault::LoseReply));
    client.api_keys(Permission::FullAccess).revoke(&id).await.unwrap();
    assert!(!resend.is_live(&value));
    assert_eq!(resend.vendor.count("DELETE", KEYS), 2);
}

#[tokio::test]
async fn all_pages_are_read() {
    let (resend, client) = start();
    for count in 0..130 {
        resend.key(&format!("key-{count}"), true);
        resend.domain(&format!("d{count}.example"), "pending", "enabled");
    }
    resend.domain("last.example", "verified", "enabled");
    let listed = client.api_keys(Permission::FullAccess).list().await.unwrap();
    assert_eq!(listed.len(), 131);
    assert_eq!(listed[130].name, "key-129");
    assert_eq!(resend.vendor.count("GET", KEYS), 2);
    assert!(matches!(client.sending_domain("last.example").await.unwrap(), DomainState::Verified { .. }));

    resend.vendor.fault(Rule::next("GET", KEYS, Fault::Refuse(200, r#"{"data":[],"has_more":true}"#)));
    let error = client.api_keys(Permission::FullAccess).list().await.unwrap_err();
    assert!(matches!(error, ProviderError::Unexpected { .. }));
}

#[tokio::test]
async fn a_page_that_comes_again_ends_the_list_with_an_error() {
    let (resend, client) = start();
    let page = r#"{"data":[{"id":"k","name":"n","created_at":"2026-11-02T09:30:00Z"}],"has_more":true}"#;
    resend.vendor.fault(Rule::every("GET", KEYS, Fault::Refuse(200, page)));
    let keys = client.api_keys(Permission::FullAccess);
    let error = tokio::time::timeout(Duration::from_secs(5), keys.list()).await.unwrap().unwrap_err();
    assert_eq!(
        error.to_string(),
        "Resend answered list api keys with something else than it documents: the same page again, which says there \
         is more"
    );
    assert_eq!(resend.vendor.count("GET", KEYS), 2);
}

#[tokio::test]
async fn only_a_verified_domain_that_sends_will_do() {
    let (resend, client) = start();
    let id = resend.domain("good.example", "verified", "enabled");
    resend.domain("waiting.example", "pending", "enabled");
    resend.domain("half.example", "partially_failed", "enabled");
    resend.domain("new.example", "a_status_of_next_year", "enabled");
    resend.domain("mute.example", "verified", "disabled");
    for (domain, state) in [
        ("good.example", DomainState::Verified { id }),
        ("waiting.example", DomainState::NotVerified(DomainStatus::Pending)),
        ("half.example", DomainState::NotVerified(DomainStatus::PartiallyFailed)),
        ("new.example", DomainState::NotVerified(DomainStatus::Other)),
        ("mute.example", DomainState::SendingDisabled),
        ("sub.good.example", DomainState::Unknown),
        ("example", DomainState::Unknown),
    ] {
        assert_eq!(client.sending_domain(domain).await.unwrap(), state, "{domain}");
    }
}

#[tokio::test]
async fn a_message_is_sent_once_and_followed_until_it_arrived() {
    let (resend, client) = start();
    resend.domain("moleculesai.app", "verified", "enabled");
    resend.deliver_after(2, "delivered");
    let (key, value) = resend.key("new", true);
    let (value, from) = (secret(&value), FROM.parse().unwrap());
    resend.vendor.fault(Rule::next("POST", "/emails", Fault::LoseReply));
    let id = client.send(&value, &from, DELIVERED, NAME).await.unwrap();
    assert_eq!(client.send(&value, &from, DELIVERED, NAME).await.unwrap(), id);
    assert_eq!(resend.vendor.count("POST", "/emails"), 3);
    let sent = resend.sent();
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].from.as_str(), sent[0].to.as_str(), &sent[0].key), (FROM, DELIVERED, &key));

    assert_eq!(client.last_event(&id).await.unwrap(), LastEvent::Queued);
    let arrived =
        PATIENCE.until(async || client.last_event(&id).await.map(LastEvent::arrived)).await.unwrap();
    assert_eq!(arrived, Some(true));
    resend.deliver_after(0, "bounced");
    assert_eq!(client.last_event(&id).await.unwrap().arrived(), Some(false));
    resend.deliver_after(0, "an_event_of_next_year");
    assert_eq!(client.last_event(&id).await.unwrap(), LastEvent::Other);
    assert!(client.last_event("none").await.unwrap_err().is_missing());
}

#[tokio::test]
async fn a_message_that_is_refused_says_whose_fault_it_is() {
    let (resend, client) = start();
    resend.domain("moleculesai.app", "pending", "enabled");
    let from = FROM.parse().unwrap();
    let admin = secret(resend.admin());
    let error = client.send(&admin, &from, DELIVERED, NAME).await.unwrap_err();
    assert_eq!(error.to_string(), "Resend refused send email: 403 (domain_not_verified)");

    let error = client.send(&secret("re_never"), &from, DELIVERED, NAME).await.unwrap_err();
    assert!(matches!(error, ProviderError::Unauthorized { status: 401, .. }), "{error}");

    resend.domain("other.example", "verified", "enabled");
    client.send(&admin, &"a@other.example".parse().unwrap(), DELIVERED, NAME).await.unwrap();
    let error = client.send(&admin, &"b@other.example".parse().unwrap(), DELIVERED, NAME).await.unwrap_err();
    assert_eq!(error.to_string(), "Resend refused send email: 409 (invalid_idempotent_request)");

    let twin = Fault::Refuse(409, r#"{"name":"concurrent_idempotent_requests"}"#);
    resend.vendor.fault(Rule::next("POST", "/emails", twin));
    let error = client.send(&admin, &from, DELIVERED, "other").await.unwrap_err();
    assert!(matches!(error, ProviderError::Busy { .. }), "{error}");
    assert_eq!(resend.sent().len(), 1);
}

#[tokio::test]
async fn a_key_for_one_domain_sends_from_no_other() {
    let (resend, client) = start();
    let domain = resend.domain("moleculesai.app", "verified", "enabled");
    resend.domain("other.example", "verified", "enabled");
    let keys = client.api_keys(Permission::SendingAccess { domain_id: Some(domain) });
    let key = keys.mint(NAME).await.unwrap().value;
    client.send(&key, &FROM.parse().unwrap(), DELIVERED, "1").await.unwrap();
    let from = "a@other.example".parse().unwrap();
    assert!(client.send(&key, &from, DELIVERED, "2").await.is_err());
    assert_eq!(resend.sent().len(), 1);
}

#[tokio::test]
async fn the_rate_limit_of_the_team_is_waited_for() {
    let (resend, _) = start();
    resend.limit(5);
    let paced = Manner { paced: true, tries: 1, ..HASTE };
    let client = Resend::new(resend.vendor.url(), &secret(resend.admin()), paced).unwrap();
    for _ in 0..8 {
        client.sending_domain("a.example").await.unwrap();
    }
    let hasty = self::client(resend.vendor.url(), resend.admin());
    let mut refused = None;
    for _ in 0..6 {
        refused = hasty.api_keys(Permission::FullAccess).revoke("none").await.err().or(refused);
        if resend.vendor.seen().iter().any(|seen| seen.status == 429) {
            break;
        }
    }
    // It was refused once, waited as it was told, and went through.
    assert!(refused.is_none(), "{refused:?}");
    assert!(resend.vendor.seen().iter().any(|seen| seen.status == 429));
}

#[tokio::test]
async fn both_sides_keep_to_the_specification() {
    let resend = standin::Resend::start();
    let Some(prism) = Prism::before("resend.json", resend.vendor.url()) else { return };
    let client = client(prism.url(), resend.admin());
    let domain = resend.domain("moleculesai.app", "verified", "enabled");
    assert_eq!(
        client.sending_domain("moleculesai.app").await.unwrap(),
        DomainState::Verified { id: domain.clone() }
    );
    let keys = client.api_keys(Permission::SendingAccess { domain_id: Some(domain) });
    let minted = keys.mint(NAME).await.unwrap();
    let id = client.send(&minted.value, &FROM.parse().unwrap(), DELIVERED, NAME).await.unwrap();
    assert_eq!(client.last_event(&id).await.unwrap(), LastEvent::Delivered);
    assert_eq!(keys.list().await.unwrap().len(), 2);
    keys.revoke(&minted.id).await.unwrap();
    let minted = client.api_keys(Permission::FullAccess).mint(NAME).await.unwrap();
    assert!(matches!(client.key_probe().probe(&minted.value).await, Life::Live));
    assert_eq!(prism.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn no_value_is_in_anything_shown() {
    let (resend, client) = start();
    let keys = client.api_keys(Permission::FullAccess);
    let minted = keys.mint(NAME).await.unwrap();
    let from = "a@unknown.example".parse().unwrap();
    let error = client.send(&minted.value, &from, DELIVERED, NAME).await.unwrap_err();
    let shown = format!("{client:?} {keys:?} {minted:?} {error:?} {error}");
    assert!(!shown.contains("re_") && !shown.contains(&resend.admin()[3..]), "{shown}");
}
