//! Branches with children, under protection, without a URL that anybody knows; roles that nobody knows.

use std::sync::Arc;

use reseal::{
    envelope::Format,
    journal::{Hook, Moment},
    providers::neon::Fork,
    reprovision::{Ending, Strategy, finish::finish, open_run},
};

use super::{FIRST, MACHINE, once, world};
use crate::{
    reprovision::world::{APP, PATIENCE, Shape, World, asked},
    support::{
        tenants::TABLE,
        vendors::{Fault, Rule},
    },
};

/// The URL of another role on the same branch.
fn url_of(world: &World, role: &str, password: &str) -> String {
    let mut url: url::Url = world.tenants[0].home.url.parse().unwrap();
    url.set_username(role).unwrap();
    url.set_password(Some(password)).unwrap();
    url.into()
}

/// Gives the first tenant's branch a child that is no tenant's; the child's id.
async fn child(world: &World) -> String {
    let works = world.works(Hook::default()).await;
    let home = &world.tenants[0].home;
    let fork = Fork { name: "preview", parent: Some(&home.branch), annotations: [].into() };
    works.neon.fork(&home.project, &fork, PATIENCE).await.unwrap().id
}

#[tokio::test]
async fn children_of_a_branch_are_told_of_and_left_alone() {
    for strategy in [Strategy::Reset, Strategy::Branch] {
        let world = world().await;
        let child = child(&world).await;
        let plan = world.planned(strategy).await;
        assert!(plan.obstacles.is_empty(), "{:?}", plan.obstacles);
        assert_eq!(plan.warnings.len(), 1);
        assert!(
            plan.warnings[0].what.contains("children that are no tenant's, preview"),
            "{:?}",
            plan.warnings
        );
        let ending = world.drive(Hook::default(), &asked(strategy, false)).await.unwrap();
        assert_eq!(ending, Ending::Complete, "{:?}", world.whys().await);
        let works = world.works(Hook::default()).await;
        let home = &world.tenants[0].home;
        assert_eq!(works.neon.endpoints(&home.project, &child).await.unwrap().len(), 1);
        // A branch that was left has no way in.
        let ways = works.neon.endpoints(&home.project, &home.branch).await.unwrap().len();
        assert_eq!(ways, usize::from(strategy == Strategy::Reset));
        assert!(!world.neon.accepts(&home.url));
    }
}

#[tokio::test]
async fn a_protected_branch_can_be_reset_and_not_left() {
    let world = world().await;
    world.neon.protect(&world.tenants[0].home.branch);
    for strategy in [Strategy::Branch, Strategy::Fresh] {
        let plan = world.planned(strategy).await;
        assert_eq!(plan.obstacles.len(), 1);
        assert!(plan.obstacles[0].what.contains("is protected, and can't be left"), "{:?}", plan.obstacles);
        assert_eq!(plan.obstacles[0].tenant.as_deref(), Some(FIRST));
    }
    assert!(world.changes().is_empty());
    world.goes_through(Strategy::Reset).await;
}

#[tokio::test]
async fn roles_that_nobody_knows_are_shut_out_and_named() {
    for strategy in [Strategy::Reset, Strategy::Branch] {
        let world = world().await;
        let branch = &world.tenants[0].home.branch;
        let stranger = world.neon.sql_role(branch, "back\"door");
        let known = world.neon.sql_role(branch, "reporting");
        world.tune(|tuning| tuning.known_roles = vec!["reporting".to_owned()]);
        let ending = world.drive(Hook::default(), &asked(strategy, false)).await.unwrap();
        assert_eq!(ending, Ending::Complete, "{:?}", world.whys().await);
        assert_eq!(world.facts(FIRST).await.strangers, ["back\"door"]);
        assert!(world.facts("org-001").await.strangers.is_empty());
        assert!(!world.neon.accepts(&url_of(&world, "back\"door", &stranger)));
        if strategy == Strategy::Reset {
            assert!(world.neon.accepts(&url_of(&world, "reporting", &known)), "known roles are left alone");
        }
        let works = world.works(Hook::default()).await;
        let row = open_run(world.journal.as_ref(), TABLE).await.unwrap().unwrap();
        let run = reseal::reprovision::Run::resume(&works, &row, &|_| ()).await.unwrap();
        let (found, certificate) = finish(&run).await.unwrap();
        assert_eq!(found.strangers, ["org-000: back\"door"]);
        assert!(certificate.unwrap().contains(r#"org-000: back\"door"#));
    }
}

#[tokio::test]
async fn an_old_url_that_keeps_working_parks_its_tenant() {
    let world = world().await;
    let password = world.neon.sql_role(&world.tenants[0].home.branch, "reader");
    world.fly.configure(APP, MACHINE, "READ_URL", &url_of(&world, "reader", &password));
    world.tune(|tuning| tuning.known_roles = vec!["reader".to_owned()]);
    let ending = world.drive(Hook::default(), &asked(Strategy::Reset, false)).await.unwrap();
    let made = world.held(FIRST).await.unwrap().machine;
    assert_ne!(made, MACHINE);
    world.first_is_parked(ending, "an old URL still works", &made).await;
    // Its operator finds that nobody has to log in as it.
    world.tune(|tuning| tuning.known_roles.clear());
    let ending = world.drive(Hook::default(), &asked(Strategy::Reset, false)).await.unwrap();
    assert_eq!(ending, Ending::Complete);
    assert!(!world.neon.accepts(&url_of(&world, "reader", &password)));
}

/// Stopped between the deletions of two endpoints: what leads to the first one can't be refused any more.
#[tokio::test]
async fn a_branch_is_left_though_one_of_its_endpoints_is_gone_already() {
    let world = world().await;
    let home = &world.tenants[0].home;
    let second = world.neon.add_endpoint(home);
    world.fly.configure(APP, MACHINE, "SECOND_URL", &second);
    let strike = Arc::clone(&world);
    let hook = once("retire", Moment::BeforeCall, move || {
        let refused = Fault::Refuse(422, r#"{"code":"","message":"not now"}"#);
        strike.neon.vendor.fault(Rule::next("DELETE", "/endpoints/", refused).after(1));
        std::future::ready(())
    });
    let ending = world.drive(hook, &asked(Strategy::Branch, false)).await.unwrap();
    assert_eq!(ending, Ending::Parked(1));
    assert!(world.whys().await[0].contains("in retire: neon refused delete an endpoint: 422"));
    let works = world.works(Hook::default()).await;
    assert_eq!(works.neon.endpoints(&home.project, &home.branch).await.unwrap().len(), 1);

    let ending = world.drive(Hook::default(), &asked(Strategy::Branch, false)).await.unwrap();
    assert_eq!(ending, Ending::Complete, "{:?}", world.whys().await);
    assert!(works.neon.endpoints(&home.project, &home.branch).await.unwrap().is_empty());
    assert_eq!(world.facts(FIRST).await.refused, 3, "with that of another database");
}

/// An endpoint that is gone before its URL was ever refused proves nothing: it may be a name that is not known there.
#[tokio::test]
async fn an_endpoint_that_is_gone_too_early_is_no_proof() {
    let world = world().await;
    let second = world.neon.add_endpoint(&world.tenants[0].home);
    world.fly.configure(APP, MACHINE, "SECOND_URL", &second);
    let gone = Arc::clone(&world);
    let hook = once("retire", Moment::BeforeCall, move || {
        let world = Arc::clone(&gone);
        async move {
            let (works, home) = (world.works(Hook::default()).await, &world.tenants[0].home);
            let last = works.neon.endpoints(&home.project, &home.branch).await.unwrap().pop().unwrap();
            works.neon.delete_endpoint(&home.project, &last.id, PATIENCE).await.unwrap();
        }
    });
    let ending = world.drive(hook, &asked(Strategy::Branch, false)).await.unwrap();
    assert_eq!(ending, Ending::Parked(1));
    assert!(world.whys().await[0].starts_with("org-000 in retire: "), "{:?}", world.whys().await);
}

/// Nobody can open the row, and no machine has a URL: the branch has one database, and that an owner.
#[tokio::test]
async fn a_url_that_nobody_knows_is_asked_for() {
    let world = World::start(Shape { bare: true, ..Shape::default() }).await;
    let first = &world.tenants[0];
    world.neon.add_database(&world.tenants[1].home.branch, "other");
    let ending = world.drive(Hook::default(), &asked(Strategy::Reset, false)).await.unwrap();
    assert_eq!(ending, Ending::Parked(1));
    let why = &world.whys().await[0];
    assert!(why.starts_with("org-001 in look: ") && why.contains("has 2 databases"), "{why}");
    let works = world.works(Hook::default()).await;
    let [database, redis] = world.urls(&works, FIRST).await;
    assert!(world.neon.accepts(&database.unwrap()));
    assert_eq!(redis.as_deref(), Some(crate::reprovision::world::NEW_REDIS));
    assert!(!world.neon.accepts(&first.home.url));
    assert_eq!(world.serving(&world.tenants[1]), ["machine001"]);
    assert!(world.neon.accepts(&world.tenants[1].home.url), "nothing of it was touched");
}

#[tokio::test]
async fn with_the_old_key_at_hand_rows_tell_their_urls() {
    let world = World::start(Shape { bare: true, old_key: true, ..Shape::default() }).await;
    world.neon.add_database(&world.tenants[0].home.branch, "other");
    let ending = world.drive(Hook::default(), &asked(Strategy::Branch, false)).await.unwrap();
    assert_eq!(ending, Ending::Complete, "{:?}", world.whys().await);
    let works = world.works(Hook::default()).await;
    for tenant in &world.tenants {
        let [database, redis] = world.urls(&works, &tenant.org).await;
        assert!(world.neon.accepts(&database.unwrap()));
        assert_eq!(redis.unwrap().rsplit('/').next(), tenant.redis.rsplit('/').next());
    }
}

#[tokio::test]
async fn passwords_that_the_provider_does_not_keep_are_taken_from_the_reset() {
    let world = world().await;
    world.neon.set(|knobs| knobs.stores_passwords = false);
    world.goes_through(Strategy::Branch).await;
}

#[tokio::test]
async fn values_in_text_are_sealed_as_text() {
    let shape = Shape { text: true, old_key: true, format: Format::V2, ..Shape::default() };
    World::start(shape).await.goes_through(Strategy::Reset).await;
}

/// A branch is not left while somebody writes to it.
#[tokio::test]
async fn sessions_that_stay_bring_the_tenant_back() {
    let world = world().await;
    world.neon.sessions(&world.tenants[0].home.branch, 2);
    let ending = world.drive(Hook::default(), &asked(Strategy::Branch, false)).await.unwrap();
    world.first_is_parked(ending, "2 sessions stay in its database", MACHINE).await;
    assert!(
        world.neon.branches(&world.tenants[0].home.project).iter().all(|name| !name.starts_with("t-org-000"))
    );
    world.neon.sessions(&world.tenants[0].home.branch, 0);
    world.goes_through(Strategy::Branch).await;
}

/// No room for a branch: the tenant does not stay stopped for one that it can't have.
#[tokio::test]
async fn a_fork_that_is_refused_brings_the_tenant_back() {
    let world = world().await;
    let strike = Arc::clone(&world);
    let hook = once("fork", Moment::BeforeCall, move || {
        let full = Fault::Refuse(422, r#"{"code":"","message":"branches limit exceeded"}"#);
        strike.neon.vendor.fault(Rule::next("POST", "/branches", full));
        std::future::ready(())
    });
    let ending = world.drive(hook, &asked(Strategy::Branch, false)).await.unwrap();
    world.first_is_parked(ending, "neon refused fork a branch: 422", MACHINE).await;
    world.goes_through(Strategy::Branch).await;
}

#[tokio::test]
async fn what_a_provider_asks_to_wait_for_is_waited_out() {
    let world = world().await;
    world.neon.set(|knobs| knobs.operation_time = std::time::Duration::from_millis(5));
    world.tune(|tuning| tuning.concurrency = 2);
    let strike = Arc::clone(&world);
    let hook = once("look", Moment::BeforeCall, move || {
        for status in [423, 429, 503, 423] {
            let neon = &strike.neon.vendor;
            neon.fault(Rule::next("POST", "/reset_password", Fault::Refuse(status, "{}")));
            neon.fault(Rule::next("GET", "/roles", Fault::Refuse(429, "{}")));
            strike.fly.vendor.fault(Rule::next("POST", "/machines", Fault::Refuse(429, "{}")));
        }
        std::future::ready(())
    });
    let ending = world.drive(hook, &asked(Strategy::Branch, false)).await.unwrap();
    assert_eq!(ending, Ending::Complete, "{:?}", world.whys().await);
    assert!(world.vendors().iter().all(|vendor| vendor.seen().iter().any(|seen| seen.status == 429)));
    world.judge(Strategy::Branch, "slowly").await;
}

#[tokio::test]
async fn hard_is_the_old_credentials_dead_before_anything_is_made() {
    for strategy in Strategy::ALL {
        let world = world().await;
        let seen = Arc::clone(&world);
        let hook = once("create", Moment::BeforeCall, move || {
            let world = Arc::clone(&seen);
            async move {
                assert!(!world.neon.accepts(&world.tenants[0].home.url), "it lives");
                assert!(world.neon.accepts(&world.tenants[1].home.url), "it is not its turn");
                assert_eq!(world.fly.machines(APP).len(), 2);
            }
        });
        let ending = world.drive(hook, &asked(strategy, true)).await.unwrap();
        assert_eq!(ending, Ending::Complete, "{:?}", world.whys().await);
        world.judge(strategy, "hard").await;
    }
}
