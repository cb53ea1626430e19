//! Rows that change or go while their tenants are on their way.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use reseal::{
    journal::{Hook, Moment},
    reprovision::{Course, Ending, Phase, Placement, Strategy},
    store::SagaState,
};

use super::{FIRST, MACHINE, MADE, SECOND, once, world};
use crate::reprovision::world::{APP, NEW_REDIS, World, asked};

/// Deletes the first tenant's row when it comes to a phase, and its machine too if the control plane is that thorough.
fn deleted(world: &Arc<World>, phase: Phase, with_machine: bool) -> Hook {
    let world = Arc::clone(world);
    once(phase.as_str(), Moment::BeforeCall, move || {
        let world = Arc::clone(&world);
        async move {
            let held = world.held(FIRST).await.unwrap();
            world.execute(format!("DELETE FROM org_instances WHERE org_id = '{FIRST}'")).await;
            if with_machine {
                world.works(Hook::default()).await.fly.destroy(APP, &held.machine).await.unwrap();
            }
        }
    })
}

#[tokio::test]
async fn of_a_tenant_that_is_deleted_midway_nothing_of_ours_is_left() {
    for strategy in [Strategy::Reset, Strategy::Branch] {
        let course = Course { strategy, placement: Placement::Swap, hard: false };
        for (phase, with_machine) in
            course.phases().iter().flat_map(|phase| [(*phase, false), (*phase, true)])
        {
            let of = format!("{strategy:?} {phase:?} {with_machine}");
            let world = world().await;
            let ending =
                world.drive(deleted(&world, phase, with_machine), &asked(strategy, false)).await.unwrap();
            assert_eq!(ending, Ending::Complete, "{of}: {:?}", world.whys().await);
            assert_eq!(world.saga(FIRST).await.state, SagaState::Gone, "{of}");
            assert_eq!(world.saga(SECOND).await.state, SagaState::Done, "{of}");
            let moved = course.phases().iter().position(|one| *one == Phase::Row)
                < course.phases().iter().position(|one| *one == phase);
            let second = world.held(SECOND).await.unwrap();
            for machine in world.fly.machines(APP) {
                // What its row named is its deleter's.
                let is_others = machine.id == second.machine || (!moved && machine.id == MACHINE);
                assert!(is_others, "{of}: {machine:?}");
            }
            let home = &world.tenants[0].home;
            assert!(world.neon.branches(&home.project).iter().all(|name| name != MADE), "{of}");
            let works = world.works(Hook::default()).await;
            let ways = works.neon.endpoints(&home.project, &home.branch).await.unwrap().len();
            assert_eq!(ways, usize::from(!moved || strategy == Strategy::Reset), "{of}: a way in is left");
            assert!(!world.serving(&world.tenants[1]).is_empty(), "{of}");
        }
    }
}

/// The control plane gives the first tenant another machine, in the place of its own.
async fn replace(world: &World) {
    world.fly.add(APP, "another", "started", "fra", world.tenants[0].config.clone());
    world.works(Hook::default()).await.fly.destroy(APP, MACHINE).await.unwrap();
    world
        .execute(format!("UPDATE org_instances SET fly_machine_id = 'another' WHERE org_id = '{FIRST}'"))
        .await;
}

/// Does so when it comes to a phase.
fn replaced(world: &Arc<World>, phase: &'static str) -> Hook {
    let world = Arc::clone(world);
    once(phase, Moment::BeforeCall, move || {
        let world = Arc::clone(&world);
        async move { replace(&world).await }
    })
}

#[tokio::test]
async fn a_row_that_changes_meanwhile_is_looked_at_anew() {
    for strategy in [Strategy::Reset, Strategy::Branch] {
        for phase in ["create", "launch", "row"] {
            let of = format!("{strategy:?} {phase}");
            let world = world().await;
            let ending = world.drive(replaced(&world, phase), &asked(strategy, false)).await.unwrap();
            assert_eq!(ending, Ending::Complete, "{of}: {:?}", world.whys().await);
            let (saga, facts) = (world.saga(FIRST).await, world.facts(FIRST).await);
            assert_eq!((saga.generation, saga.state), (2, SagaState::Done), "{of}");
            assert_eq!((facts.machine.as_str(), facts.name.as_str()), ("another", "t-org-000-g2"), "{of}");
            let held = world.held(FIRST).await.unwrap();
            assert_eq!(Some(&held.machine), facts.new_machine.as_ref(), "{of}");
            let works = world.works(Hook::default()).await;
            world.nothing_is_left(&works, &of).await;
            let [database, redis] = world.urls(&works, FIRST).await;
            assert!(world.neon.accepts(&database.unwrap()), "{of}");
            assert_eq!(redis.unwrap(), format!("{NEW_REDIS}/0"), "{of}");
            assert_eq!(world.neon.data(&held.branch), ["what the tenant wrote"], "{of}");
            assert!(!world.neon.accepts(&world.tenants[0].home.url), "{of}");
        }
    }
}

/// What is undone is ours alone: a machine that the control plane made for the tenant stays, and so do others'.
#[tokio::test]
async fn what_others_made_meanwhile_is_left_alone() {
    let world = world().await;
    let (there, looked) = (Arc::clone(&world), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&looked);
    let hook = Hook::new(move |phase, moment| {
        let (world, count) = (Arc::clone(&there), Arc::clone(&count));
        async move {
            let begun = count.load(Ordering::Relaxed);
            if (phase, moment, begun) == ("row", Moment::BeforeCall, 0) {
                count.store(1, Ordering::Relaxed);
                replace(&world).await;
            }
            if (phase, moment) == ("undo", Moment::AfterCall) {
                count.store(2, Ordering::Relaxed);
                let ids: Vec<_> = world.fly.machines(APP).into_iter().map(|machine| machine.id).collect();
                assert_eq!(ids, ["machine001", "another"]);
                assert_eq!(world.held(FIRST).await.unwrap().machine, "another");
            }
        }
    });
    let ending = world.drive(hook, &asked(Strategy::Branch, false)).await.unwrap();
    assert_eq!(ending, Ending::Complete);
    assert_eq!(looked.load(Ordering::Relaxed), 2);
}

/// A status or a rank is none of what a swap compares.
#[tokio::test]
async fn what_a_swap_does_not_write_may_change() {
    let world = world().await;
    let seen = Arc::clone(&world);
    let hook = once("row", Moment::BeforeCall, move || {
        let world = Arc::clone(&seen);
        async move { world.execute("UPDATE org_instances SET status = 'busy', slug = 'other'".to_owned()).await }
    });
    let ending = world.drive(hook, &asked(Strategy::Reset, false)).await.unwrap();
    assert_eq!(ending, Ending::Complete);
    world.judge(Strategy::Reset, "status").await;
    assert_eq!(world.facts(FIRST).await.name, MADE);
}
