//! A change that launches: a machine that was never started gets its configuration, starts, and is healthy.

use std::time::Duration;

use reseal::providers::{
    Patience, ProviderError,
    fly::{Change, Changing, Created, Creation, DeployError, Fly, Launch, Machine},
};
use serde_json::{Map, Value, json};

use super::{APP, person};
use crate::{
    providers::at_hand::PATIENCE,
    support::vendors::{Fault, Rule, fly::Fly as StandIn},
};

/// Sets the database URL.
struct Url(&'static str);

impl Change for Url {
    fn is_done(&self, machine: &Machine) -> bool {
        machine.config["env"]["DATABASE_URL"] == self.0
    }

    fn apply(&self, config: &mut Map<String, Value>) {
        config["env"]["DATABASE_URL"] = self.0.into();
    }
}

fn config(url: &str) -> Value {
    json!({
        "image": "registry.fly.io/tenant:1",
        "env": { "DATABASE_URL": url, "PORT": "8080" },
        "files": [{ "guest_path": "/etc/a", "raw_value": "YQ==" }],
        "checks": { "alive": { "type": "http", "port": 8080 } },
    })
}

/// An app with one machine that was just created, and its id; only the new URL is good.
async fn created() -> (StandIn, Fly, String) {
    let stand_in = StandIn::start();
    stand_in.app(APP, &[]);
    stand_in.judge(|environment| environment["DATABASE_URL"] == "new");
    let fly = person(&stand_in);
    let config = config("old");
    let creation = Creation { name: "t-acme-g1", region: "ams", config: &config, min_secrets_version: 1 };
    let Created::Made(machine) = fly.create_machine(APP, &creation).await.unwrap() else { panic!() };
    (stand_in, fly, machine.id)
}

fn changing<'a>(fly: &'a Fly, change: &'a Url, patience: Patience) -> Changing<'a> {
    Changing { fly, app: APP, patience, version: 1, change, launch: Launch::Always }
}

fn brief() -> Patience {
    Patience { at_most: Duration::from_millis(50), ..PATIENCE }
}

#[tokio::test]
async fn a_machine_that_was_never_started_gets_its_change_and_is_launched() {
    for settle in [0, 1, 4] {
        let (stand_in, fly, id) = created().await;
        // Fly leaves what was not up asleep, and starts nothing while it prepares the new version.
        stand_in.settle_slowly(settle);
        stand_in.boot_slowly(2);
        assert!(changing(&fly, &Url("new"), PATIENCE).bring(&id).await.unwrap(), "{settle}");
        assert_eq!(stand_in.config(APP, &id), config("new"));
        let machine = &stand_in.machines(APP)[0];
        assert_eq!((machine.state, machine.cordoned, &*machine.region), ("started", true, "ams"));
        assert!(!stand_in.is_leased(APP, &id));

        let updates = stand_in.vendor.count("POST", &format!("/machines/{id}"));
        assert!(!changing(&fly, &Url("new"), PATIENCE).bring(&id).await.unwrap());
        let calls = stand_in.vendor.count("POST", &format!("/machines/{id}"));
        assert_eq!(calls, updates + 1, "only the lease");
    }
}

#[tokio::test]
async fn a_change_that_is_there_is_still_launched() {
    let (stand_in, fly, id) = created().await;
    stand_in.settle_slowly(1);
    // We die after the update: the machine is left asleep.
    let asleep = Changing { launch: Launch::IfUp, ..changing(&fly, &Url("new"), PATIENCE) };
    assert!(asleep.bring(&id).await.unwrap());
    assert!(stand_in.routed(APP).is_empty());
    assert!(!changing(&fly, &Url("new"), PATIENCE).bring(&id).await.unwrap());
    assert_eq!((stand_in.machines(APP)[0].state, stand_in.restarts(APP, &id)), ("started", 0));
}

#[tokio::test]
async fn a_lost_launch_is_made_once_more() {
    for fault in [Fault::LoseReply, Fault::LoseRequest, Fault::Twice, Fault::Refuse(502, "{}")] {
        // The update goes to the same path as the lease before it.
        for (path, skip) in [("/lease", 0), ("", 1), ("/start", 0)] {
            let (stand_in, fly, id) = created().await;
            stand_in.hurry_leases();
            stand_in.settle_slowly(2);
            let rule = Rule::next("POST", &format!("/machines/{id}{path}"), fault.clone());
            stand_in.vendor.fault(rule.after(skip));
            assert!(changing(&fly, &Url("new"), PATIENCE).bring(&id).await.unwrap(), "{fault:?} {path}");
            assert_eq!(stand_in.config(APP, &id), config("new"));
            assert_eq!(stand_in.machines(APP)[0].state, "started");
            assert_eq!(stand_in.machines(APP).len(), 1);
        }
    }
}

#[tokio::test]
async fn a_launch_that_never_gets_healthy_says_so() {
    let (stand_in, fly, id) = created().await;
    let error = changing(&fly, &Url("wrong"), brief()).bring(&id).await.unwrap_err();
    assert!(matches!(&error, DeployError::NotHealthy(machine) if *machine == id), "{error}");
    assert!(!stand_in.is_leased(APP, &id));

    let (stand_in, fly, id) = created().await;
    stand_in.stick("t-acme-g1", true);
    let error = changing(&fly, &Url("new"), brief()).bring(&id).await.unwrap_err();
    assert!(matches!(&error, DeployError::NotHealthy(machine) if *machine == id), "{error}");
    stand_in.stick("t-acme-g1", false);
    assert!(!changing(&fly, &Url("new"), PATIENCE).bring(&id).await.unwrap());

    let full = r#"{"error":"aborted: insufficient memory available to fulfill request"}"#;
    for (path, skip) in [("", 1), ("/start", 0)] {
        let (stand_in, fly, id) = created().await;
        stand_in.settle_slowly(1);
        let path = format!("/machines/{id}{path}");
        stand_in.vendor.fault(Rule::next("POST", &path, Fault::Refuse(409, full)).after(skip));
        let error = changing(&fly, &Url("new"), PATIENCE).bring(&id).await.unwrap_err();
        assert!(matches!(&error, DeployError::Provider(error) if error.is_capacity()), "{error}");
        assert!(!stand_in.is_leased(APP, &id));
    }
}

#[tokio::test]
async fn a_machine_that_is_gone_is_not_launched() {
    let (stand_in, fly, id) = created().await;
    fly.destroy(APP, &id).await.unwrap();
    let error = changing(&fly, &Url("new"), PATIENCE).bring(&id).await.unwrap_err();
    assert!(matches!(&error, DeployError::Provider(ProviderError::Refused { status: 404, .. })), "{error}");
    assert!(stand_in.machines(APP).is_empty());
}
