//! Neon: passwords without overlap, and projects that change one operation at a time; [`keys`] overlap, [`branches`] come
//! and go.

mod branches;
mod contract;
mod keys;

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use reseal::providers::{
    Issuer, Outcome, Patience, Probe, ProviderError, Recovered,
    http::Manner,
    login::PostgresLogin,
    neon::{Neon, RolePassword, Route},
};
use serde_json::Value;
use sqlx::{Connection, PgConnection};

use super::at_hand::{PATIENCE, assert_dead, assert_live, manner, secret};
use crate::support::{
    postgres::TempPostgres,
    vendors::{
        Fault, Rule,
        neon::{BRANCH, DATABASE, ENDPOINT, Neon as StandIn, PROJECT, ROLE},
    },
};

fn client(neon: &StandIn) -> Neon {
    Neon::new(neon.vendor.url(), secret(neon.token()), manner()).unwrap()
}

fn owner(neon: &StandIn) -> RolePassword {
    RolePassword {
        neon: client(neon),
        project: PROJECT.to_owned(),
        branch: BRANCH.to_owned(),
        role: ROLE.to_owned(),
        database: DATABASE.to_owned(),
        endpoint: None,
        route: Route::Direct,
        patience: PATIENCE,
    }
}

fn url(password: &str) -> String {
    let host = format!("{ENDPOINT}.eu-central-1.aws.neon.tech");
    format!("postgresql://{ROLE}:{password}@{host}/{DATABASE}?sslmode=require&channel_binding=require")
}

#[tokio::test]
async fn a_password_is_new_when_its_last_operation_has_finished() {
    let neon = StandIn::start();
    neon.set(|knobs| knobs.operation_time = Duration::from_millis(60));
    let old = neon.password(ROLE);
    let begun = Instant::now();
    let owner = owner(&neon);
    let minted = owner.mint("unused").await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(60));
    assert_eq!(minted.id, format!("role:{ROLE}"));
    assert_eq!(minted.value.expose(), url(&neon.password(ROLE)));
    assert!(!neon.is_live(&old));

    let pooled = RolePassword { route: Route::Pooled, endpoint: Some(ENDPOINT.to_owned()), ..owner.clone() };
    let minted = pooled.mint("unused").await.unwrap();
    assert_eq!(Route::of(&minted.value), Route::Pooled);
    let before = neon.password(ROLE);
    owner.revoke(&minted.id).await.unwrap();
    assert!(neon.is_live(&neon.password(ROLE)) && neon.password(ROLE) != before);
    owner.revoke("role:gone").await.expect("a role that is gone has no password");
    assert!(matches!(owner.revoke(ROLE).await, Err(ProviderError::NotAsked { .. })));

    let listed = owner.list().await.unwrap();
    assert_eq!(
        listed.iter().map(|role| (&*role.id, &*role.name)).collect::<Vec<_>>(),
        [("role:neondb_owner", ROLE)]
    );
}

#[tokio::test]
async fn a_lost_reset_is_seen_by_the_password_once_the_project_rests() {
    let neon = StandIn::start();
    let owner = owner(&neon);
    let old = secret(&url(&neon.password(ROLE)));
    neon.vendor.fault(Rule::next("POST", "reset_password", Fault::LoseRequest));
    assert_eq!(owner.mint("unused").await.unwrap_err().outcome(), Outcome::Unknown);
    let unseen = owner.recover("unused", Some(&old)).await.unwrap();
    assert!(matches!(unseen, Recovered::Nothing), "{unseen:?}");

    neon.set(|knobs| knobs.operation_time = Duration::from_millis(80));
    neon.vendor.fault(Rule::next("POST", "reset_password", Fault::LoseReply));
    assert_eq!(owner.mint("unused").await.unwrap_err().outcome(), Outcome::Unknown);
    assert_eq!(neon.vendor.count("POST", "reset_password"), 2, "a reset is not sent again by itself");
    assert_eq!(url(&neon.password(ROLE)), old.expose(), "the operation still runs");
    let Recovered::Value(found) = owner.recover("unused", Some(&old)).await.unwrap() else {
        panic!("a value")
    };
    assert_eq!(found.value.expose(), url(&neon.password(ROLE)));
    assert_ne!(found.value, old);

    let unseen = owner.recover("unused", None).await.unwrap();
    assert!(matches!(unseen, Recovered::Nothing), "{unseen:?}");
    let unseen = owner.recover("unused", Some(&found.value)).await.unwrap();
    assert!(matches!(unseen, Recovered::Nothing), "{unseen:?}");
}

#[tokio::test]
async fn a_reset_later_than_its_time_out_is_seen_by_then() {
    let neon = StandIn::start();
    let old = secret(&url(&neon.password(ROLE)));
    let brief = Manner { timeout: Duration::from_millis(200), ..manner() };
    let owner = RolePassword {
        neon: Neon::new(neon.vendor.url(), secret(neon.token()), brief).unwrap(),
        ..owner(&neon)
    };
    let (done, is_done) = tokio::sync::oneshot::channel();
    let done = Mutex::new(Some(done));
    neon.vendor.watch(move |seen| {
        if seen.method == "POST" {
            done.lock().unwrap().take().unwrap().send(()).unwrap();
        }
    });
    neon.vendor.fault(Rule::next("POST", "reset_password", Fault::Delay(Duration::from_millis(400))));
    let error = owner.mint("unused").await.unwrap_err();
    assert!(error.to_string().contains("(time-out), and may have done it"), "{error}");
    let early = owner.recover("unused", Some(&old)).await.unwrap();
    assert!(matches!(early, Recovered::Nothing), "one such answer proves nothing: {early:?}");
    is_done.await.unwrap();
    let late = owner.recover("unused", Some(&old)).await.unwrap();
    assert!(matches!(late, Recovered::Value(_)), "{late:?}");
}

#[tokio::test]
async fn a_reset_delivered_twice_gives_the_password_that_works() {
    let neon = StandIn::start();
    for time in [0, 30] {
        neon.set(|knobs| knobs.operation_time = Duration::from_millis(time));
        neon.vendor.fault(Rule::next("POST", "reset_password", Fault::Twice));
        let minted = owner(&neon).mint("unused").await.unwrap();
        assert_eq!(minted.value.expose(), url(&neon.password(ROLE)));
    }
}

#[tokio::test]
async fn a_project_without_stored_passwords_gives_each_once() {
    let neon = StandIn::start();
    assert!(client(&neon).stores_passwords(PROJECT).await.unwrap());
    let old = secret(&url(&neon.password(ROLE)));
    neon.set(|knobs| knobs.stores_passwords = false);
    assert!(!client(&neon).stores_passwords(PROJECT).await.unwrap());
    let minted = owner(&neon).mint("unused").await.unwrap();
    let host = format!("{ENDPOINT}.eu-central-1.aws.neon.tech");
    let wanted = format!("postgresql://{ROLE}:{}@{host}/{DATABASE}?sslmode=require", neon.password(ROLE));
    assert_eq!(minted.value.expose(), wanted);
    let pooled = RolePassword { route: Route::Pooled, ..owner(&neon) }.mint("unused").await.unwrap();
    assert_eq!(Route::of(&pooled.value), Route::Pooled);
    let unseen = owner(&neon).recover("unused", Some(&old)).await.unwrap();
    assert!(matches!(unseen, Recovered::Nothing), "{unseen:?}");

    let elsewhere = RolePassword { endpoint: Some("ep-none".to_owned()), ..owner(&neon) };
    assert_eq!(elsewhere.mint("unused").await.unwrap_err().outcome(), Outcome::Unknown);
}

#[tokio::test]
async fn a_change_waits_until_the_project_takes_it() {
    let neon = StandIn::start();
    neon.set(|knobs| knobs.operation_time = Duration::from_millis(100));
    let owner = owner(&neon);
    client(&neon).create_role(PROJECT, BRANCH, "cp_b", PATIENCE).await.unwrap();
    // Another process.
    let other = RolePassword { neon: client(&neon), role: "cp_b".to_owned(), ..owner.clone() };
    let (minted, beside) = tokio::join!(owner.mint("unused"), other.mint("unused"));
    assert_eq!(minted.unwrap().value.expose(), url(&neon.password(ROLE)));
    assert!(beside.unwrap().value.expose().contains(&neon.password("cp_b")));
    assert!(neon.vendor.seen().iter().any(|seen| seen.status == 423));

    neon.set(|knobs| knobs.operation_time = Duration::ZERO);
    let early = r#"{"code":"","message":"branch not ready yet"}"#;
    for fault in [Fault::Refuse(422, early), Fault::Refuse(503, "{}"), Fault::Refuse(429, "{}")] {
        neon.vendor.fault(Rule::next("POST", "reset_password", fault));
        owner.mint("unused").await.unwrap();
    }
    let hasty = RolePassword { patience: Patience { at_most: Duration::ZERO, ..PATIENCE }, ..owner };
    for (status, body, text) in [
        (422, early, "neon refused reset the password of a role: 422"),
        (422, "{}", "neon refused reset the password of a role: 422"),
        (423, "{}", "neon could not reset the password of a role now: it answered 423"),
    ] {
        let before = neon.password(ROLE);
        neon.vendor.fault(Rule::every("POST", "reset_password", Fault::Refuse(status, body)));
        let error = hasty.mint("unused").await.unwrap_err();
        assert_eq!((error.to_string(), error.outcome()), (text.to_owned(), Outcome::NotDone));
        assert_eq!(neon.password(ROLE), before);
        neon.vendor.heal();
    }
    // Cloudflare's time-out comes from before the server, which may have begun.
    neon.vendor.fault(Rule::next("POST", "reset_password", Fault::Refuse(524, "{}")));
    assert_eq!(hasty.mint("unused").await.unwrap_err().outcome(), Outcome::Unknown);
}

#[tokio::test]
async fn an_operation_that_fails_or_lasts_is_named() {
    let neon = StandIn::start();
    let before = neon.password(ROLE);
    neon.set(|knobs| knobs.failing_operations = 1);
    let error = owner(&neon).mint("unused").await.unwrap_err();
    let (text, id) = (error.to_string(), operation(&neon, 0).await);
    let wanted = format!(
        "neon gave no answer to finish the change (operation {id} (apply_config) is failed), and may have done it"
    );
    assert_eq!((text, error.outcome()), (wanted, Outcome::Unknown));
    assert_eq!(neon.password(ROLE), before, "the compute still takes the old one");

    neon.set(|knobs| knobs.operation_time = Duration::from_secs(600));
    let patience = Patience { at_most: Duration::from_millis(20), ..PATIENCE };
    let hasty = RolePassword { patience, ..owner(&neon) };
    let error = hasty.mint("unused").await.unwrap_err();
    let id = operation(&neon, 2).await;
    assert_eq!(error.outcome(), Outcome::Unknown);
    assert!(error.to_string().contains(&format!("operation {id} (apply_config) is running")), "{error}");
    let error = hasty.recover("unused", Some(&secret(&url(&before)))).await.unwrap_err();
    assert!(error.to_string().starts_with("neon could not come to rest now: operation "), "{error}");
}

/// The id of the project's operation, the oldest being 0.
async fn operation(neon: &StandIn, at: usize) -> String {
    let url = format!("{}/projects/{PROJECT}/operations", neon.vendor.url());
    let reply = reqwest::Client::new().get(url).bearer_auth(neon.token()).send().await.unwrap();
    let all: Value = reply.json().await.unwrap();
    let all = all["operations"].as_array().unwrap();
    all[all.len() - 1 - at]["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn after_a_reset_no_error_says_that_nothing_was_done() {
    let neon = StandIn::start();
    for path in ["operations", "connection_uri"] {
        neon.vendor.fault(Rule::every("GET", path, Fault::Refuse(403, "{}")));
        let error = owner(&neon).mint("unused").await.unwrap_err();
        assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
        assert!(
            error.to_string().starts_with("neon gave no answer to reset the password of a role ("),
            "{error}"
        );
        neon.vendor.heal();
    }
}

#[tokio::test]
async fn a_reset_role_of_a_real_database_logs_in_with_the_new_password_only() {
    let postgres = TempPostgres::shared();
    let database = postgres.database("neon");
    let role = &database.name;
    postgres.login(role, "old");
    let neon = StandIn::over(postgres, role, role, "old");
    neon.set(|knobs| knobs.operation_time = Duration::from_millis(60));
    let owner = RolePassword { role: role.clone(), database: role.clone(), ..owner(&neon) };
    let probe = PostgresLogin::new(Duration::from_secs(10));
    let old = secret(&postgres.tcp_url(role, role, "old"));
    assert_live(&probe.probe(&old).await);
    let mut session = PgConnection::connect(old.expose()).await.unwrap();

    neon.vendor.fault(Rule::next("POST", "reset_password", Fault::LoseReply));
    owner.mint("unused").await.unwrap_err();
    assert_live(&probe.probe(&old).await);
    let Recovered::Value(new) = owner.recover("unused", Some(&old)).await.unwrap() else { panic!("a value") };
    assert_dead(&probe.probe(&old).await);
    assert_live(&probe.probe(&new.value).await);
    assert!(session.ping().await.is_err(), "sessions are dropped");

    owner.revoke(&new.id).await.unwrap();
    assert_dead(&probe.probe(&new.value).await);
    let newest = owner.mint("unused").await.unwrap();
    assert_live(&probe.probe(&newest.value).await);
}

#[tokio::test]
async fn alternate_roles_overlap_until_the_old_one_is_ended() {
    let postgres = TempPostgres::shared();
    let database = postgres.database("neon");
    let a = &database.name;
    let b = format!("{a}_b");
    postgres.login(a, "old");
    let neon = StandIn::over(postgres, a, a, "old");
    let probe = PostgresLogin::new(Duration::from_secs(10));
    let old = secret(&postgres.tcp_url(a, a, "old"));

    for _ in 0..2 {
        client(&neon).create_role(PROJECT, BRANCH, &b, PATIENCE).await.unwrap();
    }
    assert_eq!(neon.vendor.count("POST", "/roles"), 1, "what is there is not made again");
    let names: Vec<_> = client(&neon).roles(PROJECT, BRANCH).await.unwrap();
    assert_eq!(names.iter().map(|role| &*role.name).collect::<Vec<_>>(), [a, &b]);
    let owner = RolePassword { role: b.clone(), database: a.clone(), ..owner(&neon) };
    let new = owner.mint("unused").await.unwrap();
    assert_live(&probe.probe(&old).await);
    assert_live(&probe.probe(&new.value).await);

    owner.revoke(&format!("role:{a}")).await.unwrap();
    assert_dead(&probe.probe(&old).await);
    assert_live(&probe.probe(&new.value).await);
    drop(database);
    postgres.execute(&format!("DROP ROLE {b}"));
}

#[tokio::test]
async fn a_role_that_was_made_by_a_lost_request_is_not_made_again() {
    let neon = StandIn::start();
    let made = client(&neon);
    neon.vendor.fault(Rule::next("POST", "/roles", Fault::LoseReply));
    let error = made.create_role(PROJECT, BRANCH, "cp_b", PATIENCE).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown);
    made.create_role(PROJECT, BRANCH, "cp_b", PATIENCE).await.unwrap();
    neon.vendor.fault(Rule::next("POST", "/roles", Fault::Twice));
    made.create_role(PROJECT, BRANCH, "cp_c", PATIENCE).await.unwrap();
    let roles = made.roles(PROJECT, BRANCH).await.unwrap();
    assert_eq!(roles.iter().map(|role| &*role.name).collect::<Vec<_>>(), [ROLE, "cp_b", "cp_c"]);
    assert!(neon.is_live(&neon.password("cp_c")));
}
