//! The deploy that brings secrets to machines: whole, once, and none but those that lack it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use reseal::providers::{
    Location, Patience, ProviderError,
    fly::{AppSecret, Deploy, DeployError, Holder},
};
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::{APP, client, person};
use crate::{
    providers::at_hand::{PATIENCE, manner, secret},
    support::vendors::{
        Fault, Rule,
        fly::{Fly as StandIn, Made},
    },
};

const TWO: [Made; 2] = [Made { id: "m1", state: "started" }, Made { id: "m2", state: "started" }];

/// An app whose machines run with the old value, and whose vault has the new one.
async fn staged(machines: &[Made]) -> StandIn {
    let stand_in = StandIn::start();
    stand_in.app(APP, machines);
    stand_in.set(APP, "FLY_API_TOKEN", "old");
    let location = AppSecret::new(&person(&stand_in), APP, "FLY_API_TOKEN");
    location.write(&secret("new")).await.unwrap();
    stand_in
}

fn deploy(stand_in: &StandIn, patience: Patience) -> Deploy {
    Deploy { fly: person(stand_in), app: APP.to_owned(), mark: "reseal-1-deploy".to_owned(), patience }
}

fn tokens_of(stand_in: &StandIn) -> Vec<String> {
    stand_in
        .environment(APP)
        .into_iter()
        .map(|mut environment| environment.remove("FLY_API_TOKEN").unwrap())
        .collect()
}

fn without_mark(mut config: Value) -> Value {
    config["metadata"].as_object_mut().unwrap().remove("reseal_deploy");
    config
}

#[tokio::test]
async fn every_machine_gets_the_secret_and_keeps_the_rest() {
    let stand_in = staged(&[TWO[0].clone(), Made { id: "m2", state: "stopped" }]).await;
    let before = stand_in.config(APP, "m1");
    let deploy = deploy(&stand_in, PATIENCE);
    assert_eq!(deploy.fly.staged(APP).await.unwrap(), ["FLY_API_TOKEN"]);

    // Spawned: whoever drives it must be able to.
    let (deploy, run) = tokio::spawn(async move {
        let run = deploy.run().await;
        (deploy, run)
    })
    .await
    .unwrap();
    run.unwrap();
    assert_eq!(tokens_of(&stand_in), ["new"]);
    assert_eq!(stand_in.config(APP, "m1")["metadata"]["reseal_deploy"], "reseal-1-deploy");
    assert_eq!(without_mark(stand_in.config(APP, "m1")), before);
    assert_eq!((stand_in.restarts(APP, "m1"), stand_in.restarts(APP, "m2")), (1, 0));
    assert!(!stand_in.is_leased(APP, "m1") && !stand_in.is_leased(APP, "m2"));
    assert!(deploy.fly.staged(APP).await.unwrap().is_empty());
    // Asleep, it was told which vault it needs.
    stand_in.wake(APP, "m2");
    assert_eq!(tokens_of(&stand_in), ["new", "new"]);

    let updates = stand_in.vendor.count("POST", "/machines");
    deploy.run().await.unwrap();
    assert_eq!(stand_in.vendor.count("POST", "/machines"), updates, "a second run has nothing to do");
    Deploy { mark: "reseal-2-deploy".to_owned(), ..deploy }.run().await.unwrap();
    assert_eq!((stand_in.restarts(APP, "m1"), stand_in.restarts(APP, "m2")), (2, 1));
}

#[tokio::test]
async fn a_deploy_by_others_between_our_read_and_our_write_is_kept() {
    let stand_in = staged(&TWO).await;
    stand_in.deploy_after_looks(1);
    deploy(&stand_in, PATIENCE).run().await.unwrap();
    let config = stand_in.config(APP, "m1");
    assert_eq!(config["image"], "registry.fly.io/molecule-cp:ci-1");
    assert_eq!(config["metadata"]["reseal_deploy"], "reseal-1-deploy");
    assert_eq!(tokens_of(&stand_in), ["new", "new"]);
    assert_eq!((stand_in.restarts(APP, "m1"), stand_in.restarts(APP, "m2")), (1, 1));
    let conflicts = stand_in.vendor.seen().into_iter().filter(|seen| seen.status == 409);
    assert_eq!(conflicts.count(), 1);

    let stand_in = staged(&TWO).await;
    stand_in.deploy_after_looks(usize::MAX);
    let brief = Patience { at_most: Duration::from_millis(50), ..PATIENCE };
    let error = deploy(&stand_in, brief).run().await.unwrap_err();
    assert!(matches!(&error, DeployError::Contended(machine) if machine == "m1"), "{error}");
}

#[tokio::test]
async fn a_lost_update_is_made_once_more_and_one_whose_reply_is_lost_is_not() {
    for fault in [Fault::LoseReply, Fault::LoseRequest, Fault::Twice, Fault::Refuse(502, "{}")] {
        let stand_in = staged(&TWO).await;
        stand_in.boot_slowly(3);
        let update = "/machines/m1";
        let lease = Rule::next("POST", update, Fault::Delay(Duration::ZERO));
        stand_in.vendor.fault(lease);
        stand_in.vendor.fault(Rule::next("POST", update, fault.clone()));
        deploy(&stand_in, PATIENCE).run().await.unwrap();
        assert_eq!(tokens_of(&stand_in), ["new", "new"]);
        assert_eq!((stand_in.restarts(APP, "m1"), stand_in.restarts(APP, "m2")), (1, 1), "{fault:?}");
    }
}

#[tokio::test]
async fn a_lease_of_somebody_else_is_waited_for_and_not_for_ever() {
    let stand_in = staged(&TWO).await;
    stand_in.hold_lease(APP, "m1", "ci@example.com", Duration::from_millis(60));
    deploy(&stand_in, PATIENCE).run().await.unwrap();
    assert_eq!(tokens_of(&stand_in), ["new", "new"]);

    let stand_in = staged(&TWO).await;
    stand_in.hold_lease(APP, "m1", "ci@example.com", Duration::from_secs(600));
    let brief = Patience { at_most: Duration::from_millis(30), ..PATIENCE };
    let error = deploy(&stand_in, brief).run().await.unwrap_err();
    assert_eq!(error.to_string(), "machine m1 is leased by ci@example.com");
    assert!(matches!(error, DeployError::Held { by: Holder(Some(_)), .. }));
    assert_eq!((stand_in.restarts(APP, "m1"), stand_in.restarts(APP, "m2")), (0, 0));
    assert!(stand_in.is_leased(APP, "m1"));
}

#[tokio::test]
async fn a_lease_whose_reply_is_lost_ends_by_itself() {
    let stand_in = staged(&TWO).await;
    stand_in.hurry_leases();
    stand_in.vendor.fault(Rule::next("POST", "/lease", Fault::LoseReply));
    let patience = Patience { at_most: Duration::from_secs(5), ..PATIENCE };
    deploy(&stand_in, patience).run().await.unwrap();
    assert_eq!((stand_in.restarts(APP, "m1"), stand_in.restarts(APP, "m2")), (1, 1));
}

#[tokio::test]
async fn a_lease_is_renewed_while_a_machine_is_slow_to_start() {
    let stand_in = staged(&TWO[..1]).await;
    stand_in.boot_slowly(20);
    deploy(&stand_in, PATIENCE).run().await.unwrap();
    assert!(stand_in.vendor.count("POST", "/lease") > 10);
    assert!(!stand_in.is_leased(APP, "m1"));
}

#[tokio::test]
async fn a_machine_that_does_not_get_healthy_stops_the_deploy() {
    let stand_in = staged(&TWO).await;
    stand_in.sicken(APP, "m1", true);
    let deploy = deploy(&stand_in, Patience { at_most: Duration::from_millis(50), ..PATIENCE });
    for _ in 0..2 {
        let error = deploy.run().await.unwrap_err();
        assert_eq!(error.to_string(), "machine m1 did not become healthy");
        assert_eq!((stand_in.restarts(APP, "m1"), stand_in.restarts(APP, "m2")), (1, 0));
        assert!(!stand_in.is_leased(APP, "m1"));
    }
    assert_eq!(tokens_of(&stand_in), ["new", "old"]);
    stand_in.sicken(APP, "m1", false);
    deploy.run().await.unwrap();
    assert_eq!(tokens_of(&stand_in), ["new", "new"]);
    assert_eq!((stand_in.restarts(APP, "m1"), stand_in.restarts(APP, "m2")), (1, 1));
}

#[tokio::test]
async fn an_empty_list_and_one_that_lacks_a_machine_prove_nothing() {
    let stand_in = staged(&TWO).await;
    stand_in.empty_machine_lists(3);
    deploy(&stand_in, PATIENCE).run().await.unwrap();
    assert_eq!(tokens_of(&stand_in), ["new", "new"]);

    let stand_in = staged(&TWO).await;
    stand_in.forgetful_machine_lists(APP, "m2", 1);
    deploy(&stand_in, PATIENCE).run().await.unwrap();
    assert_eq!(tokens_of(&stand_in), ["new", "new"]);

    let stand_in = StandIn::start();
    stand_in.app(APP, &[]);
    let error = deploy(&stand_in, Patience { at_most: Duration::from_millis(10), ..PATIENCE }).run().await;
    assert_eq!(error.unwrap_err().to_string(), "app molecule-cp has no machines to deploy to");
}

#[tokio::test]
async fn a_credential_that_may_not_is_an_error_of_the_provider() {
    let stand_in = staged(&TWO).await;
    let (_, value) = stand_in.token("t", "deploy_organization", json!({}));
    let fly = client(&stand_in, &value, manner());
    Deploy { fly, ..deploy(&stand_in, PATIENCE) }.run().await.unwrap();
    let fly = client(&stand_in, "fm2_wrong", manner());
    let error = Deploy { fly, ..deploy(&stand_in, PATIENCE) }.run().await.unwrap_err();
    assert!(matches!(error, DeployError::Provider(ProviderError::Unauthorized { .. })));
}

/// Dies after every request that a deploy makes, in turn, and runs again.
#[tokio::test]
async fn a_deploy_that_died_anywhere_goes_on_where_it_was() {
    let mut died = 0;
    for at in 1.. {
        let stand_in = staged(&TWO).await;
        stand_in.hurry_leases();
        let deploy = deploy(&stand_in, Patience { at_most: Duration::from_secs(5), ..PATIENCE });
        let (now, seen) = (Arc::new(Notify::new()), AtomicUsize::new(0));
        let signal = now.clone();
        stand_in.vendor.watch(move |_| {
            if seen.fetch_add(1, Ordering::Relaxed) + 1 == at {
                signal.notify_one();
            }
        });
        let ended = tokio::select! {
            biased;
            () = now.notified() => false,
            run = deploy.run() => { run.unwrap(); true }
        };
        deploy.run().await.unwrap();
        assert_eq!(tokens_of(&stand_in), ["new", "new"], "died after request {at}");
        assert_eq!((stand_in.restarts(APP, "m1"), stand_in.restarts(APP, "m2")), (1, 1), "request {at}");
        if ended {
            break;
        }
        died += 1;
    }
    println!("a deploy to two machines died after each of its {died} requests");
    assert!(died >= 12, "{died}");
}
