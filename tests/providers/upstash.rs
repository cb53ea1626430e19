//! Upstash: a password without overlap, and databases beside each other.

mod contract;

use std::time::Duration;

use reseal::providers::{
    Issuer, Minted, Outcome, Probe, ProviderError, Recovered,
    login::RedisLogin,
    upstash::{Database, Databases, Upstash},
};

use super::at_hand::{assert_dead, assert_live, manner, secret};
use crate::support::vendors::{
    Fault, Rule,
    upstash::{EMAIL, Upstash as StandIn},
};

fn client(upstash: &StandIn) -> Upstash {
    Upstash::new(upstash.vendor.url(), EMAIL, secret(upstash.token()), manner()).unwrap()
}

/// The one database that there is at first, its password and databases like it.
fn first(upstash: &StandIn) -> (String, Database, Databases) {
    let [(id, _)] = &*upstash.live() else { panic!("one database") };
    let password = Database { upstash: client(upstash), id: id.clone() };
    (id.clone(), password, Databases { upstash: client(upstash), like: id.clone() })
}

#[track_caller]
fn value(recovered: Recovered) -> Minted {
    let Recovered::Value(minted) = recovered else { panic!("{recovered:?}") };
    minted
}

#[track_caller]
fn assert_nothing(recovered: &Recovered) {
    assert!(matches!(recovered, Recovered::Nothing), "{recovered:?}");
}

#[tokio::test]
async fn a_reset_ends_the_old_password_on_the_server() {
    let upstash = StandIn::over_servers();
    let (id, password, _) = first(&upstash);
    let old = secret(&upstash.connection_url(&id));
    let probe = RedisLogin::new(Duration::from_secs(10));
    assert_live(&probe.probe(&old).await);

    let minted = password.mint("unused").await.unwrap();
    assert_eq!(
        (&*minted.id, minted.value.expose()),
        (&*format!("password:{id}"), &*upstash.connection_url(&id))
    );
    assert_live(&probe.probe(&minted.value).await);
    assert_dead(&probe.probe(&old).await);

    password.revoke(&minted.id).await.unwrap();
    assert_dead(&probe.probe(&minted.value).await);
    assert_live(&probe.probe(&secret(&upstash.connection_url(&id))).await);
}

#[tokio::test]
async fn a_password_that_the_answer_lacks_is_read() {
    let upstash = StandIn::start();
    let (id, password, databases) = first(&upstash);
    upstash.set(|knobs| knobs.is_terse = true);
    let minted = password.mint("unused").await.unwrap();
    assert_eq!(minted.value.expose(), upstash.connection_url(&id));
    let minted = databases.mint("another").await.unwrap();
    assert_eq!(minted.value.expose(), upstash.connection_url(minted.id.strip_prefix("database:").unwrap()));
}

#[tokio::test]
async fn a_lost_reset_is_seen_by_the_password() {
    let upstash = StandIn::start();
    let (id, password, _) = first(&upstash);
    let old = secret(&upstash.connection_url(&id));
    assert_nothing(&password.recover("unused", Some(&old)).await.unwrap());

    upstash.vendor.fault(Rule::next("POST", "reset-password", Fault::LoseRequest));
    let error = password.mint("unused").await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown);
    assert_nothing(&password.recover("unused", Some(&old)).await.unwrap());
    upstash.vendor.fault(Rule::next("POST", "reset-password", Fault::LoseReply));
    let error = password.mint("unused").await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown);
    assert_eq!(upstash.vendor.count("POST", "reset-password"), 2, "a reset is not sent again by itself");

    let found = value(password.recover("unused", Some(&old)).await.unwrap());
    assert_eq!((found.id, found.value.expose()), (format!("password:{id}"), &*upstash.connection_url(&id)));
    assert_nothing(&password.recover("unused", None).await.unwrap());
    upstash.set(|knobs| knobs.protects_credentials = true);
    assert_nothing(&password.recover("unused", Some(&old)).await.unwrap());
}

#[tokio::test]
async fn after_a_reset_no_error_says_that_nothing_was_done() {
    let upstash = StandIn::start();
    let (id, password, databases) = first(&upstash);
    upstash.set(|knobs| knobs.is_terse = true);
    upstash.vendor.fault(Rule::every("GET", &id, Fault::Refuse(403, "{}")));
    let error = password.mint("unused").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "upstash gave no answer to reset the password (upstash does not let this credential read the database: \
         403), and may have done it"
    );
    upstash.vendor.heal();
    upstash.vendor.fault(Rule::every("GET", "/redis/database/", Fault::Refuse(500, "{}")).after(1));
    let error = databases.mint("another").await.unwrap_err();
    assert_eq!((error.outcome(), upstash.live().len()), (Outcome::Unknown, 2));
    upstash.vendor.heal();
    upstash.set(|knobs| knobs.protects_credentials = true);
    let error = password.mint("unused").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "upstash answered reset the password with something else than it documents: no password"
    );
    assert_eq!(error.outcome(), Outcome::Unknown);
}

#[tokio::test]
async fn a_new_database_is_like_the_old_one_and_deleted_for_good() {
    let upstash = StandIn::start();
    let (old, _, databases) = first(&upstash);
    let minted = databases.mint("reseal-1-new").await.unwrap();
    let id = minted.id.strip_prefix("database:").unwrap();
    let mut wanted = upstash.wanted(&old);
    wanted["database_name"] = "reseal-1-new".into();
    wanted["tls"] = true.into();
    assert_eq!(upstash.wanted(id), wanted);
    assert_eq!(minted.value.expose(), upstash.connection_url(id));

    let listed = databases.list().await.unwrap();
    let names: Vec<_> = listed.iter().map(|issued| (&*issued.name, &*issued.id)).collect();
    assert_eq!(names, [("tenants", &*format!("database:{old}")), ("reseal-1-new", &*minted.id)]);
    assert_eq!(listed[0].created.as_deref(), Some("2025-07-16T07:06:42Z"));

    let old = format!("database:{old}");
    for _ in 0..2 {
        databases.revoke(&old).await.unwrap();
        assert_eq!(upstash.live(), [(id.to_owned(), "reseal-1-new".to_owned())]);
    }
}

#[tokio::test]
async fn a_lost_database_is_found_by_its_name() {
    let upstash = StandIn::start();
    let (_, _, databases) = first(&upstash);
    upstash.vendor.fault(Rule::next("POST", "/redis/database", Fault::LoseReply));
    let error = databases.mint("reseal-1-new").await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown);

    upstash.set(|knobs| knobs.stale_lists = 1);
    assert_nothing(&databases.recover("reseal-1-new", None).await.unwrap());
    let found = value(databases.recover("reseal-1-new", None).await.unwrap());
    assert_eq!(found.value.expose(), upstash.connection_url(found.id.strip_prefix("database:").unwrap()));
    assert_nothing(&databases.recover("reseal-1", None).await.unwrap());

    // Of two nobody knows which one it is; of one whose password is hidden, not what it is.
    upstash.set(|knobs| knobs.protects_credentials = true);
    let strays = databases.recover("reseal-1-new", None).await.unwrap();
    assert!(matches!(&strays, Recovered::Strays(strays) if strays.len() == 1), "{strays:?}");
    upstash.set(|knobs| knobs.protects_credentials = false);
    upstash.vendor.fault(Rule::next("POST", "/redis/database", Fault::Twice));
    databases.mint("twice").await.unwrap();
    let Recovered::Strays(strays) = databases.recover("twice", None).await.unwrap() else { panic!("two") };
    assert_eq!(strays.len(), 2);
    for stray in strays {
        databases.revoke(&stray.id).await.unwrap();
    }
    assert_eq!(upstash.live().len(), 2);
}

#[tokio::test]
async fn an_id_of_the_other_kind_ends_nothing() {
    let upstash = StandIn::start();
    let (id, password, databases) = first(&upstash);
    let url = upstash.connection_url(&id);
    for id in [format!("database:{id}"), id.clone(), "password:".to_owned()] {
        let error = password.revoke(&id).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "upstash was not asked to reset the password: the id is of something else"
        );
        assert_eq!((error.outcome(), error.is_transient()), (Outcome::NotDone, false));
    }
    assert!(databases.revoke(&format!("password:{id}")).await.is_err());
    assert!(upstash.vendor.seen().is_empty());
    assert_eq!(upstash.connection_url(&id), url);

    assert_eq!(password.list().await.unwrap()[0].id, format!("password:{id}"));
    password.revoke("password:gone").await.unwrap();
    let stranger = Upstash::new(upstash.vendor.url(), EMAIL, secret("no key"), manner()).unwrap();
    let refused = Database { upstash: stranger, id }.mint("unused").await.unwrap_err();
    assert!(matches!(refused, ProviderError::Unauthorized { status: 401, .. }), "{refused}");
    assert!(url.contains(url.split([':', '@']).nth(2).filter(|password| upstash.is_live(password)).unwrap()));
}
