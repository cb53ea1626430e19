//! What stands in the way is found before anything is touched.

use std::collections::BTreeSet;

use reseal::{
    journal::Hook,
    providers::fly::Creation,
    reprovision::{Asked, Order, Placement, Plan, ReprovisionError, Run, Strategy, orphans::orphans},
};
use serde_json::json;

use super::{FIRST, MACHINE, SECOND, world};
use crate::reprovision::world::{APP, Shape, UNTOUCHED, World, asked};

impl World {
    /// What a plan says that stands in the way; a run with it is refused, and nothing is touched.
    async fn obstacles(&self, asked: &Asked) -> Vec<String> {
        let works = self.works(Hook::default()).await;
        let plan = Plan::of(&works, asked.clone()).await.unwrap();
        if !plan.obstacles.is_empty() {
            let refused = Run::open(&works, &plan, &|_| ()).await.err();
            assert!(matches!(refused, Some(ReprovisionError::Refused { .. })), "{refused:?}");
        }
        assert_eq!(self.changes(), [], "a plan changes nothing");
        assert!(self.journal.reprovisions(None).await.unwrap().is_empty());
        plan.obstacles.into_iter().map(|obstacle| obstacle.what).collect()
    }

    async fn obstacle(&self, asked: &Asked) -> String {
        let mut obstacles = self.obstacles(asked).await;
        assert_eq!(obstacles.len(), 1, "{obstacles:?}");
        obstacles.remove(0)
    }

    /// A machine that a run made and no row names.
    async fn stray(&self) -> String {
        let works = self.works(Hook::default()).await;
        let config = json!({ "image": "x", "metadata": { "reseal_run": "an earlier one" } });
        let creation = Creation { name: "whatever", region: "fra", config: &config, min_secrets_version: 1 };
        works.fly.create_machine(APP, &creation).await.unwrap();
        self.fly.machines(APP).into_iter().find(|machine| machine.name == "whatever").unwrap().id
    }
}

fn reset() -> Asked {
    asked(Strategy::Reset, false)
}

#[tokio::test]
async fn a_plan_without_obstacles_says_what_is_done_for_whom() {
    let world = World::start(Shape { volumes: true, ..Shape::default() }).await;
    assert_eq!(world.obstacles(&reset()).await, [""; 0]);
    let plan = world.planned(Strategy::Reset).await;
    let tenants: Vec<_> = plan.tenants.iter().map(|planned| planned.tenant.as_str()).collect();
    assert_eq!(tenants, [FIRST, SECOND]);
    assert!(plan.tenants.iter().all(|planned| planned.course.placement == Placement::InPlace));
    assert!(plan.tenants[0].why().contains("volume"));
    assert_eq!(plan.digest(), world.planned(Strategy::Reset).await.digest());
    let other = world.planned(Strategy::Branch).await;
    assert!(matches!(other.require(&plan.digest()), Err(ReprovisionError::Refused { .. })));
    plan.require(&plan.digest()).unwrap();
}

#[tokio::test]
async fn what_was_not_rotated_before_stands_in_the_way() {
    let world = world().await;
    let obstacles = world.obstacles(&Asked { accept_unrotated: BTreeSet::new(), ..reset() }).await;
    assert_eq!(obstacles.len(), 2);
    assert!(obstacles[0].starts_with("NEON_API_KEY was not rotated in the last day"), "{obstacles:?}");
    assert!(obstacles[1].starts_with("TENANT_REDIS_URL was not rotated in the last day"), "{obstacles:?}");
}

#[tokio::test]
async fn to_lose_data_takes_a_word() {
    let world = world().await;
    let fresh = Asked { data_loss_accepted: false, ..asked(Strategy::Fresh, false) };
    assert!(world.obstacle(&fresh).await.contains("its data is lost to it"));
    assert_eq!(world.obstacles(&Asked { data_loss_accepted: true, ..fresh }).await, [""; 0]);
}

#[tokio::test]
async fn rows_that_name_nothing_or_the_same_twice_are_found() {
    let cases = [
        ("fly_machine_id = NULL", "tenant org-000: its row names no machine"),
        ("neon_branch_id = ''", "tenant org-000: its row names no branch"),
        ("neon_project_id = NULL", "tenant org-000: its row names no project"),
        ("fly_machine_id = 'gone'", "its machine gone does not exist in app molecule-tenants"),
        ("neon_branch_id = 'br-gone'", "its branch br-gone does not exist in project"),
        (
            "fly_machine_id = 'machine001'",
            "tenant org-001: machine machine001 is also that of tenant org-000",
        ),
    ];
    for (change, expected) in cases {
        let world = world().await;
        world.execute(format!("UPDATE org_instances SET {change} WHERE org_id = 'org-000'")).await;
        let shares = change.ends_with("'machine001'");
        let obstacles = world.obstacles(&reset()).await;
        assert_eq!(obstacles.len(), if shares { 2 } else { 1 }, "{change}: {obstacles:?}");
        assert!(obstacles[0].contains(expected), "{change}: {obstacles:?}");
        // Who is left out is in nobody's way, but for what others share with it.
        let others = Asked { leave_out: [FIRST.to_owned()].into(), ..reset() };
        assert_eq!(world.obstacles(&others).await.len(), usize::from(shares));
    }
}

#[tokio::test]
async fn an_app_or_a_project_that_is_gone_is_found() {
    for (column, expected) in [("fly_app", "app gone: "), ("neon_project_id", "in project gone")] {
        let world = world().await;
        world.execute(format!("UPDATE org_instances SET {column} = 'gone' WHERE org_id = 'org-000'")).await;
        let obstacle = world.obstacle(&reset()).await;
        assert!(obstacle.contains(expected), "{obstacle}");
    }
}

#[tokio::test]
async fn a_row_that_is_nobodys_yet_is_counted() {
    let world = world().await;
    world
        .execute(
            "UPDATE org_instances SET fly_machine_id = NULL, neon_branch_id = NULL, \
             database_url_encrypted = x'', redis_url_encrypted = NULL WHERE org_id = 'org-001'"
                .to_owned(),
        )
        .await;
    let plan = world.planned(Strategy::Reset).await;
    assert_eq!((plan.unprovisioned, plan.tenants.len(), plan.obstacles.len()), (1, 1, 0));
}

#[tokio::test]
async fn credentials_that_may_only_look_are_found() {
    let world = world().await;
    let (reader, key) = (world.fly.read_only_token(), world.neon.reading_token());
    world.tune(|tuning| tuning.fly_token = Some(reader.clone()));
    let obstacle = world.obstacle(&reset()).await;
    assert!(obstacle.starts_with("app molecule-tenants: ") && !obstacle.contains(&reader), "{obstacle}");
    world.tune(|tuning| (tuning.fly_token, tuning.neon_token) = (None, Some(key.clone())));
    let obstacle = world.obstacle(&reset()).await;
    assert!(obstacle.starts_with("project ") && obstacle.contains("403"), "{obstacle}");
    assert!(!obstacle.contains(&key));
}

#[tokio::test]
async fn tenants_and_columns_that_are_not_there_are_found() {
    let world = world().await;
    let nobody = Asked { only: ["nobody".to_owned()].into(), ..reset() };
    assert_eq!(world.obstacle(&nobody).await, "there is no tenant nobody to re-provision");
    let first = Asked { first: vec![SECOND.to_owned(), "nobody".to_owned()], ..reset() };
    assert_eq!(world.obstacle(&first).await, "there is no tenant nobody to re-provision");
    world.tune(|tuning| tuning.columns.order = Some("plan".to_owned()));
    assert_eq!(world.obstacle(&reset()).await, "org_instances has no column plan");
}

#[tokio::test]
async fn tenants_come_in_the_order_that_was_asked_for() {
    let world = World::start(Shape { tenants: 5, ..Shape::default() }).await;
    world
        .execute("UPDATE org_instances SET slug = 'paying' WHERE org_id IN ('org-002', 'org-004')".to_owned())
        .await;
    world.tune(|tuning| tuning.columns.order = Some("slug".to_owned()));
    let works = world.works(Hook::default()).await;
    let order = Order { column: "slug".to_owned(), values: vec!["paying".to_owned()] };
    let asked = Asked {
        first: vec!["org-003".to_owned()],
        leave_out: [FIRST.to_owned()].into(),
        order: Some(order),
        ..reset()
    };
    let plan = Plan::of(&works, asked).await.unwrap();
    let tenants: Vec<_> = plan.tenants.iter().map(|planned| planned.tenant.as_str()).collect();
    assert_eq!(tenants, ["org-003", "org-002", "org-004", "org-001"]);
}

/// Lists at Fly were seen to be empty, and both vendors' lag.
#[tokio::test]
async fn lists_that_lie_hide_nothing() {
    let world = world().await;
    world.fly.empty_machine_lists(1);
    world.neon.set(|knobs| knobs.empty_branches = 1);
    assert_eq!(world.obstacles(&reset()).await, [""; 0]);

    let stray = world.stray().await;
    let works = world.works(Hook::default()).await;
    for lie in 0..4 {
        match lie {
            0 => world.fly.empty_machine_lists(1),
            1 => world.fly.empty_machine_lists(5),
            2 => world.fly.forgetful_machine_lists(APP, &stray, 1),
            _ => world.neon.set(|knobs| knobs.empty_branches = 2),
        }
        let left = orphans(&works).await.unwrap();
        assert_eq!(left.orphans.iter().map(|orphan| &orphan.id).collect::<Vec<_>>(), [&stray], "{lie}");
    }
    // Only lies.
    world.fly.empty_machine_lists(usize::MAX);
    let never = orphans(&works).await.unwrap_err();
    assert!(never.is_resumable() && never.to_string().contains("its list lacks what is there"), "{never}");
    world.fly.empty_machine_lists(0);
    // What is only in a list is none.
    world.fly.forgetful_machine_lists(APP, MACHINE, 0);
    works.fly.destroy(APP, &stray).await.unwrap();
    assert!(orphans(&works).await.unwrap().orphans.is_empty());
}

#[tokio::test]
async fn only_the_named_are_touched() {
    let world = world().await;
    let only = Asked { only: [SECOND.to_owned()].into(), ..reset() };
    let ending = world.drive(Hook::default(), &only).await.unwrap();
    assert_eq!(ending, reseal::reprovision::Ending::Complete, "{:?}", world.whys().await);
    let first = &world.tenants[0];
    let touched = world.changes().into_iter().filter(|seen| seen.path.contains(&first.home.branch));
    assert_eq!(touched.count(), 0);
    assert_eq!(world.held(FIRST).await.unwrap().updated_at, UNTOUCHED);
    world.judge(Strategy::Reset, "only one").await;
}
