//! A machine's life: each of its steps once, twice, too early, and where there is no machine any more.

use std::{sync::Arc, time::Duration};

use reseal::providers::{
    Patience, ProviderError,
    fly::{Created, Creation, Fly},
};
use serde_json::{Value, json};

use super::{APP, client, person};
use crate::{
    providers::at_hand::{PATIENCE, manner},
    support::vendors::{
        Fault, Rule,
        fly::{Fly as StandIn, Made},
    },
};

const BRIEF: Patience = Patience { every: Duration::from_millis(2), at_most: Duration::from_millis(20) };

fn config() -> Value {
    json!({
        "image": "registry.fly.io/tenant:1",
        "env": { "DATABASE_URL": "postgres://new", "PORT": "8080" },
        "files": [{ "guest_path": "/etc/a", "raw_value": "YQ==" }],
        "metadata": { "reseal_run": "1" },
        "checks": { "alive": { "type": "http", "port": 8080 } },
    })
}

async fn create(fly: &Fly, name: &str, region: &str) -> Result<Created, ProviderError> {
    let config = config();
    fly.create_machine(APP, &Creation { name, region, config: &config, min_secrets_version: 1 }).await
}

async fn made(fly: &Fly) -> String {
    match create(fly, "t-acme-g1", "ams").await.unwrap() {
        Created::Made(machine) => machine.id,
        Created::Taken { .. } => panic!("nobody has the name"),
    }
}

/// An app with the machine `m1`, and a client.
fn with(state: &'static str) -> (StandIn, Fly) {
    let stand_in = StandIn::start();
    stand_in.app(APP, &[]);
    stand_in.add(APP, "m1", state, "fra", config());
    let fly = person(&stand_in);
    (stand_in, fly)
}

fn state(stand_in: &StandIn) -> &'static str {
    stand_in.machines(APP)[0].state
}

#[track_caller]
fn assert_busy(outcome: Result<(), ProviderError>, why: &str) {
    let error = outcome.unwrap_err();
    assert!(matches!(&error, ProviderError::Busy { .. }) && error.to_string().ends_with(why), "{error}");
}

#[tokio::test]
async fn a_machine_is_created_asleep_and_without_traffic() {
    let (stand_in, fly) = with("started");
    let Created::Made(machine) = create(&fly, "t-acme-g1", "ams").await.unwrap() else { panic!() };
    assert_eq!((&*machine.name, &*machine.state, &*machine.region), ("t-acme-g1", "created", "ams"));
    assert_eq!((machine.config, machine.cordoned), (config(), Some(true)));
    assert_eq!(stand_in.config(APP, &machine.id), config());
    assert_eq!(stand_in.routed(APP), ["m1"]);

    let again = create(&fly, "t-acme-g1", "ams").await.unwrap();
    assert_eq!(again, Created::Taken { id: machine.id.clone() });
    assert_eq!(stand_in.machines(APP).len(), 2);
    assert!(create(&fly, "t-acme-g2", "ams").await.is_ok_and(|it| matches!(it, Created::Made(_))));
}

#[tokio::test]
async fn a_machine_whose_reply_is_lost_is_taken_and_not_made_twice() {
    let faults = [
        (Fault::LoseReply, true),
        (Fault::Twice, true),
        (Fault::LoseRequest, false),
        (Fault::Refuse(502, "{}"), false),
        (Fault::Refuse(429, "{}"), false),
    ];
    for (fault, is_taken) in faults {
        let (stand_in, fly) = with("started");
        stand_in.vendor.fault(Rule::next("POST", "/machines", fault.clone()));
        let id = match create(&fly, "t-acme-g1", "ams").await.unwrap() {
            Created::Taken { id } if is_taken => id,
            Created::Made(machine) if !is_taken => machine.id,
            other => panic!("{fault:?}: {other:?}"),
        };
        let machines = stand_in.machines(APP);
        assert_eq!(machines.len(), 2, "{fault:?}");
        assert_eq!((&machines[1].id, &*machines[1].name), (&id, "t-acme-g1"));
    }
}

#[tokio::test]
async fn who_has_the_name_is_told_by_the_refusal_or_by_the_list() {
    let (stand_in, fly) = with("started");
    let id = made(&fly).await;
    let taken = Created::Taken { id: id.clone() };
    let refuse =
        |status, body| stand_in.vendor.fault(Rule::next("POST", "/machines", Fault::Refuse(status, body)));
    refuse(
        422,
        r#"{"error":"already_exists: unique machine name violation, machine ID abc1 already exists with name"}"#,
    );
    assert_eq!(create(&fly, "t-acme-g1", "ams").await.unwrap(), Created::Taken { id: "abc1".to_owned() });

    let unnamed = r#"{"error":"Validation failed: Name has already been taken","status":"unknown"}"#;
    refuse(422, unnamed);
    assert_eq!(create(&fly, "t-acme-g1", "ams").await.unwrap(), taken);
    refuse(409, r#"{"error":"unique machine name violation, machine ID ../x already exists"}"#);
    assert_eq!(create(&fly, "t-acme-g1", "ams").await.unwrap(), taken);
    // A list that lags proves nothing.
    refuse(409, unnamed);
    stand_in.forgetful_machine_lists(APP, &id, 1);
    assert_busy(create(&fly, "t-acme-g1", "ams").await.map(drop), "no machine of that name is listed");

    let invalid = r#"{"error":"invalid config: SECRET","status":"unknown"}"#;
    refuse(422, invalid);
    let error = create(&fly, "t-acme-g1", "ams").await.unwrap_err();
    assert_eq!(error.to_string(), "Fly.io refused create the machine: 422 (unknown)");
}

#[tokio::test]
async fn no_room_is_a_refusal_whatever_its_status_and_its_words() {
    let (stand_in, fly) = with("started");
    for status in [409, 422, 503] {
        stand_in.fill("ams", 1, status);
        let before = stand_in.vendor.count("POST", "/machines");
        let error = create(&fly, "t-acme-g1", "ams").await.unwrap_err();
        assert!(error.is_capacity(), "{error}");
        assert!(!error.is_transient());
        assert_eq!(stand_in.vendor.count("POST", "/machines"), before + 1, "it is not sent again");
    }
    let refuse = |path, status, body| {
        stand_in.vendor.fault(Rule::next("POST", path, Fault::Refuse(status, body)));
    };
    let host = r#"{"error":"aborted: could not reserve resource for machine: insufficient CPUs available to fulfill request"}"#;
    refuse("/machines", 409, host);
    assert!(create(&fly, "t-acme-g1", "ams").await.unwrap_err().is_capacity());
    refuse("/start", 409, host);
    assert!(fly.start(APP, "m1").await.unwrap_err().is_capacity());
    let quoting =
        r#"{"error":"gave up after: Name has already been taken","status":"insufficient_capacity"}"#;
    refuse("/machines", 422, quoting);
    assert!(create(&fly, "t-acme-g1", "ams").await.unwrap_err().is_capacity());

    // Elsewhere there is room, and a server's error without the code says nothing.
    assert!(create(&fly, "t-acme-g1", "fra").await.is_ok());
    stand_in.vendor.fault(Rule::every("POST", "/machines", Fault::Refuse(503, r#"{"status":"unknown"}"#)));
    let error = create(&fly, "t-acme-g2", "ams").await.unwrap_err();
    assert!(matches!(error, ProviderError::Uncertain { .. }), "{error}");
    assert!(!error.is_capacity());
}

#[tokio::test]
async fn a_machine_starts_and_stops_and_may_be_told_so_twice() {
    let (stand_in, fly) = with("started");
    let id = made(&fly).await;
    stand_in.boot_slowly(3);
    stand_in.stop_slowly(3);
    assert!(!fly.healthy(APP, &id, BRIEF).await.unwrap());
    for _ in 0..2 {
        fly.start(APP, &id).await.unwrap();
    }
    assert!(fly.healthy(APP, &id, PATIENCE).await.unwrap());
    fly.start(APP, &id).await.unwrap();
    assert_eq!(stand_in.environment(APP)[1]["DATABASE_URL"], "postgres://new");

    assert!(!fly.stopped(APP, "m1", BRIEF).await.unwrap());
    fly.stop(APP, "m1").await.unwrap();
    assert_eq!(state(&stand_in), "stopping");
    assert_busy(fly.stop(APP, "m1").await, "could not stop the machine now: it is not ready for that");
    assert!(fly.stopped(APP, "m1", PATIENCE).await.unwrap());
    fly.stop(APP, "m1").await.unwrap();
    assert_eq!((state(&stand_in), stand_in.vendor.count("POST", "/m1/stop")), ("stopped", 3));

    for fault in [Fault::LoseReply, Fault::LoseRequest, Fault::Twice] {
        stand_in.vendor.fault(Rule::next("POST", "/m1/start", fault));
        fly.start(APP, "m1").await.unwrap();
        assert!(fly.healthy(APP, "m1", PATIENCE).await.unwrap());
        fly.stop(APP, "m1").await.unwrap();
        assert!(fly.stopped(APP, "m1", PATIENCE).await.unwrap());
    }
}

#[tokio::test]
async fn a_machine_that_is_stuck_is_waited_for_and_not_for_ever() {
    let (stand_in, fly) = with("stopped");
    stand_in.stick("m1", true);
    fly.start(APP, "m1").await.unwrap();
    assert!(!fly.healthy(APP, "m1", BRIEF).await.unwrap());
    assert_eq!(state(&stand_in), "starting");
    stand_in.stick("m1", false);
    assert!(fly.healthy(APP, "m1", PATIENCE).await.unwrap());

    stand_in.stick("name-of-m1", true);
    fly.stop(APP, "m1").await.unwrap();
    assert!(!fly.stopped(APP, "m1", BRIEF).await.unwrap());
    assert_eq!(state(&stand_in), "stopping");
    // By force it ends all the same.
    fly.destroy(APP, "m1").await.unwrap();
    assert!(fly.stopped(APP, "m1", BRIEF).await.unwrap());
}

#[tokio::test]
async fn what_cannot_be_done_yet_is_said_again_later() {
    let (stand_in, fly) = with("started");
    stand_in.settle_slowly(2);
    let id = made(&fly).await;
    assert_busy(fly.start(APP, &id).await, "could not start the machine now: it is not ready for that");
    assert!(fly.stopped(APP, &id, BRIEF).await.unwrap());
    fly.start(APP, &id).await.unwrap();
    assert!(fly.healthy(APP, &id, PATIENCE).await.unwrap());

    stand_in.hold_lease(APP, "m1", "ci@example.com", Duration::from_secs(600));
    for outcome in [fly.stop(APP, "m1").await, fly.cordon(APP, "m1").await, fly.destroy(APP, "m1").await] {
        assert_busy(outcome, "now: somebody holds its lease");
    }
    assert_eq!(stand_in.routed(APP), ["m1"]);
    // What is so already needs no lease.
    fly.start(APP, "m1").await.unwrap();
    fly.uncordon(APP, "m1").await.unwrap();
}

#[tokio::test]
async fn traffic_goes_where_it_is_told() {
    let (stand_in, fly) = with("started");
    let id = made(&fly).await;
    fly.start(APP, &id).await.unwrap();
    assert!(fly.healthy(APP, &id, PATIENCE).await.unwrap());
    assert_eq!(stand_in.routed(APP), ["m1"]);
    for _ in 0..2 {
        fly.uncordon(APP, &id).await.unwrap();
        fly.cordon(APP, "m1").await.unwrap();
    }
    assert_eq!(stand_in.routed(APP), [&*id]);
    assert_eq!(fly.machine(APP, "m1").await.unwrap().cordoned, Some(true));
    assert_eq!(fly.machine(APP, &id).await.unwrap().cordoned, Some(false));
}

#[tokio::test]
async fn a_machine_is_destroyed_once_however_often_it_is_told() {
    for graves in [false, true] {
        let (stand_in, fly) = with("started");
        if graves {
            stand_in.keep_graves();
        }
        stand_in.vendor.fault(Rule::next("DELETE", "/m1", Fault::LoseReply));
        fly.destroy(APP, "m1").await.unwrap();
        fly.destroy(APP, "m1").await.unwrap();
        assert!(stand_in.machines(APP).is_empty());

        fly.stop(APP, "m1").await.unwrap();
        fly.cordon(APP, "m1").await.unwrap();
        assert!(fly.stopped(APP, "m1", BRIEF).await.unwrap());
        assert!(fly.start(APP, "m1").await.unwrap_err().is_missing());
        assert!(fly.uncordon(APP, "m1").await.unwrap_err().is_missing());
        assert_eq!(fly.healthy(APP, "m1", BRIEF).await.is_ok(), graves);
        // Nor is it waited for where Fly still refuses by what it was.
        stand_in.vendor.fault(Rule::every("POST", "/m1/", Fault::Refuse(412, "{}")));
        fly.cordon(APP, "m1").await.unwrap();
        let error = fly.start(APP, "m1").await.unwrap_err();
        assert!(matches!(error, ProviderError::Refused { status: 412, .. }), "{error}");
    }
}

#[tokio::test]
async fn only_a_good_environment_passes_the_checks() {
    let (stand_in, fly) = with("started");
    let live = Arc::new(std::sync::Mutex::new("postgres://old".to_owned()));
    let judged = live.clone();
    stand_in.judge(move |environment| environment.get("DATABASE_URL") == Some(&*judged.lock().unwrap()));
    assert!(!fly.healthy(APP, "m1", BRIEF).await.unwrap());
    assert!(stand_in.routed(APP).is_empty());
    "postgres://new".clone_into(&mut live.lock().unwrap());
    assert!(fly.machines(APP).await.unwrap()[0].is_healthy());
    assert!(fly.healthy(APP, "m1", BRIEF).await.unwrap());
    assert_eq!(stand_in.routed(APP), ["m1"]);
}

#[tokio::test]
async fn a_token_that_may_only_look_changes_nothing() {
    let (stand_in, _) = with("started");
    let fly = client(&stand_in, &stand_in.read_only_token(), manner());
    assert_eq!(fly.machines(APP).await.unwrap().len(), 1);
    assert!(fly.healthy(APP, "m1", BRIEF).await.unwrap());
    let outcomes = [
        create(&fly, "t-acme-g1", "ams").await.map(drop),
        fly.start(APP, "m1").await,
        fly.stop(APP, "m1").await,
        fly.cordon(APP, "m1").await,
        fly.destroy(APP, "m1").await,
        fly.vault_version(APP).await.map(drop),
    ];
    for outcome in outcomes {
        let error = outcome.unwrap_err();
        assert!(matches!(error, ProviderError::Unauthorized { status: 403, .. }), "{error}");
    }
    assert_eq!(stand_in.routed(APP), ["m1"]);
    assert_eq!(stand_in.machines(APP).len(), 1);
}

#[tokio::test]
async fn a_volume_is_one_machines() {
    let stand_in = StandIn::start();
    stand_in.app(APP, &[Made { id: "m0", state: "started" }]);
    let mut config = config();
    config["mounts"] = json!([{ "volume": "vol_1", "path": "/data" }]);
    stand_in.add(APP, "m1", "started", "fra", config.clone());
    let fly = person(&stand_in);
    assert!(fly.machine(APP, "m1").await.unwrap().has_volume());
    assert!(!fly.machine(APP, "m0").await.unwrap().has_volume());
    let creation = Creation { name: "beside", region: "fra", config: &config, min_secrets_version: 0 };
    let error = fly.create_machine(APP, &creation).await.unwrap_err();
    assert!(matches!(error, ProviderError::Refused { status: 412, .. }), "{error}");
    assert_eq!(stand_in.machines(APP).len(), 2);
}
