//! Machines for which there is no room, that get stuck, or never pass their checks.

use std::{sync::Arc, time::Duration};

use reseal::{
    journal::{Hook, Moment},
    reprovision::{Ending, Strategy},
    store::SagaState,
};

use super::{FIRST, MACHINE, MADE, once, world};
use crate::{
    reprovision::world::{APP, Shape, World, asked, plain, renewed},
    support::vendors::{Fault, Rule},
};

/// The id of the machine with this name.
fn named(world: &World, name: &str) -> Option<String> {
    world.fly.machines(APP).into_iter().find(|machine| machine.name == name).map(|machine| machine.id)
}

/// Has the machine that is made for the first tenant never pass its checks.
fn sick(world: &Arc<World>) -> Hook {
    let world = Arc::clone(world);
    once("launch", Moment::BeforeCall, move || {
        let world = Arc::clone(&world);
        async move {
            let made = named(&world, MADE).expect("it was made");
            world.fly.sicken(APP, &made, true);
        }
    })
}

#[tokio::test]
async fn without_room_in_its_region_a_machine_is_made_in_another() {
    for status in [409, 422, 503] {
        let world = world().await;
        world.fly.fill("fra", 1, status);
        world.tune(|tuning| tuning.regions = vec!["ams".to_owned()]);
        world.goes_through(Strategy::Reset).await;
        let held = world.held(FIRST).await.unwrap();
        assert_eq!(held.region, "ams", "{status}");
    }
}

#[tokio::test]
async fn without_room_anywhere_nothing_of_the_tenant_is_touched() {
    let world = world().await;
    world.tune(|tuning| tuning.regions = vec!["ams".to_owned()]);
    ["fra", "ams"].iter().for_each(|region| world.fly.fill(region, usize::MAX, 409));
    let ending = world.drive(Hook::default(), &asked(Strategy::Branch, false)).await.unwrap();
    assert_eq!(ending, Ending::Parked(2));
    let why = world.saga(FIRST).await.why.unwrap();
    assert!(why.contains("no room for its machine in fra, ams: --fallback-region"), "{why}");
    let asked_for = world.changes();
    assert!(asked_for.iter().all(|seen| seen.path.ends_with("/machines")), "{asked_for:?}");
    assert_eq!(world.serving(&world.tenants[0]), [MACHINE]);
    ["fra", "ams"].iter().for_each(|region| world.fly.fill(region, 0, 409));
    world.goes_through(Strategy::Branch).await;
}

#[tokio::test]
async fn without_room_on_its_host_the_old_machine_is_back_with_the_new_url() {
    let world = world().await;
    let body =
        r#"{"error":"insufficient resources available to fulfill request","status":"insufficient_capacity"}"#;
    // It is left stopped by its update, and then to be started.
    world.fly.settle_slowly(1);
    let strike = Arc::clone(&world);
    let hook = once("launch", Moment::BeforeCall, move || {
        let world = Arc::clone(&strike);
        async move {
            let start = format!("{}/start", named(&world, MADE).expect("it was made"));
            world.fly.vendor.fault(Rule::every("POST", &start, Fault::Refuse(503, body)));
        }
    });
    let ending = world.drive(hook, &asked(Strategy::Reset, false)).await.unwrap();
    world.first_is_parked(ending, "its old machine is in service with the new URL", MACHINE).await;
    world.heal();
    world.goes_through(Strategy::Reset).await;
}

#[tokio::test]
async fn a_machine_that_is_stuck_in_starting_leaves_the_tenant_on_its_old_one() {
    let world = world().await;
    world.fly.stick(MADE, true);
    let ending = world.drive(Hook::default(), &asked(Strategy::Reset, false)).await.unwrap();
    world.first_is_parked(ending, "did not become healthy", MACHINE).await;
    world.fly.stick(MADE, false);
    world.goes_through(Strategy::Reset).await;
}

#[tokio::test]
async fn after_a_reset_the_old_machine_has_the_new_url_and_the_row_too() {
    let world = world().await;
    let ending = world.drive(sick(&world), &asked(Strategy::Reset, false)).await.unwrap();
    world.first_is_parked(ending, "its old machine is in service with the new URL", MACHINE).await;
    world.every_instant("parked").await;
    let first = &world.tenants[0];
    let works = world.works(Hook::default()).await;
    let [database, redis] = world.urls(&works, FIRST).await;
    let (database, redis) = (database.unwrap(), redis.unwrap());
    assert!(world.neon.accepts(&database) && !world.neon.accepts(&first.home.url));
    assert_eq!(plain(world.fly.config(APP, MACHINE)), renewed(first, &database, &redis));
    let saga = world.saga(FIRST).await;
    assert!(saga.down_to_ms >= saga.down_from_ms, "it is up: {saga:?}");
    // What is deployed to the old machine meanwhile is deployed to the new one too.
    world.fly.configure(APP, MACHINE, "DEPLOYED", "since");
    world.fly.sicken(APP, &named(&world, MADE).unwrap(), false);
    let ending = world.drive(Hook::default(), &asked(Strategy::Reset, false)).await.unwrap();
    assert_eq!(ending, Ending::Complete);
    let made = named(&world, MADE).unwrap();
    assert_eq!(world.serving(first), [made.as_str()]);
    assert_eq!(world.fly.config(APP, &made)["env"]["DEPLOYED"], "since");
    world.nothing_is_left(&works, "in the end").await;
}

#[tokio::test]
async fn for_a_fork_the_old_machine_is_started_again_and_the_fork_undone() {
    let world = world().await;
    let ending = world.drive(sick(&world), &asked(Strategy::Branch, false)).await.unwrap();
    world.first_is_parked(ending, "its old machine is in service again, as it was", MACHINE).await;
    let first = &world.tenants[0];
    assert!(world.neon.accepts(&first.home.url), "nothing happened to its URL");
    assert_eq!(world.fly.config(APP, MACHINE), first.config);
    assert!(world.neon.branches(&first.home.project).iter().all(|name| name != MADE), "the fork is undone");
    assert_eq!(named(&world, MADE), None);
    let saga = world.saga(FIRST).await;
    assert!(saga.down_to_ms >= saga.down_from_ms, "it is up: {saga:?}");
    assert_eq!((saga.generation, saga.phase.as_str()), (2, "look"));
    world.neon.write(&first.home.branch, "what was written since");
    world.goes_through(Strategy::Branch).await;
    let held = world.held(FIRST).await.unwrap();
    assert_eq!(world.neon.data(&held.branch).len(), 2, "the fork has what was written since");
}

/// Its configuration is put back before the branch is deleted that it leads to.
#[tokio::test]
async fn a_machine_with_a_volume_that_never_runs_on_the_fork_is_back_on_its_branch() {
    let shape = Shape { volumes: true, ..Shape::default() };
    let world = Arc::new(World::start(shape).await);
    let (neon, old) = (Arc::clone(&world.neon), world.tenants[0].home.url.clone());
    world.fly.judge(move |environment| {
        let url = &environment["DATABASE_URL"];
        (environment["TENANT"] != FIRST || *url == old) && neon.accepts(url)
    });
    let ending = world.drive(Hook::default(), &asked(Strategy::Branch, false)).await.unwrap();
    world.first_is_parked(ending, "its old machine is in service again, as it was", MACHINE).await;
    let first = &world.tenants[0];
    assert_eq!(plain(world.fly.config(APP, MACHINE)), first.config);
    let neon = Arc::clone(&world.neon);
    world.fly.judge(move |environment| neon.accepts(&environment["DATABASE_URL"]));
    world.goes_through(Strategy::Branch).await;
}

#[tokio::test]
async fn an_old_machine_that_never_stops_is_destroyed_all_the_same() {
    let world = world().await;
    world.fly.stick(MACHINE, true);
    world.goes_through(Strategy::Reset).await;
    assert!(world.fly.machines(APP).iter().all(|machine| machine.id != MACHINE));
}

/// Where it has to stop before the fork, it can't be left: whatever it does is on its branch.
#[tokio::test]
async fn an_old_machine_that_never_stops_is_not_forked_away_from() {
    let world = world().await;
    world.fly.stick(MACHINE, true);
    let ending = world.drive(Hook::default(), &asked(Strategy::Branch, false)).await.unwrap();
    assert_eq!(ending, Ending::Parked(1));
    assert!(world.neon.branches(&world.tenants[0].home.project).iter().all(|name| name != MADE));
    assert!(world.neon.accepts(&world.tenants[0].home.url));
    // It stops in the end: then it is started again.
    world.fly.stick(MACHINE, false);
    let ending = world.drive(Hook::default(), &asked(Strategy::Branch, false)).await.unwrap();
    world.first_is_parked(ending, "does not stop; its old machine is in service again", MACHINE).await;
    world.goes_through(Strategy::Branch).await;
}

#[tokio::test]
async fn machines_that_take_their_time_are_waited_for() {
    let world = world().await;
    // Many looks, which a busy machine may not come to in time.
    world.tune(|tuning| tuning.patience.at_most = Duration::from_secs(2));
    world.fly.boot_slowly(3);
    world.fly.stop_slowly(3);
    world.fly.settle_slowly(2);
    world.fly.keep_graves();
    world.goes_through(Strategy::Branch).await;
}

/// A machine of our name that is not ours is nobody's to take.
#[tokio::test]
async fn a_name_that_is_taken_by_another_parks_the_tenant() {
    let world = world().await;
    let works = world.works(Hook::default()).await;
    let config = world.tenants[0].config.clone();
    let creation = reseal::providers::fly::Creation {
        name: MADE,
        region: "fra",
        config: &config,
        min_secrets_version: 1,
    };
    works.fly.create_machine(APP, &creation).await.unwrap();
    let ending = world.drive(Hook::default(), &asked(Strategy::Reset, false)).await.unwrap();
    world.first_is_parked(ending, "was not made by this run", MACHINE).await;
    let other = named(&world, MADE).expect("it is left alone");
    works.fly.destroy(APP, &other).await.unwrap();
    world.goes_through(Strategy::Reset).await;
    assert_eq!(world.saga(FIRST).await.state, SagaState::Done);
}
