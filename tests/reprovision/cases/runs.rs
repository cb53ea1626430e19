//! Runs: canaries, who works on one, and how it stops.

use std::sync::Arc;

use reseal::{
    journal::{Hook, Moment},
    reprovision::{Asked, Ending, Plan, ReprovisionError, Run, Stop, Strategy, finish::finish, open_run},
    store::SagaState,
};
use tokio::sync::watch;

use super::{FIRST, MADE, SECOND, once, world};
use crate::{
    reprovision::world::{Shape, World, asked},
    support::tenants::TABLE,
};

fn canary(pause: bool) -> Asked {
    Asked { canary: 1, pause, ..asked(Strategy::Reset, false) }
}

async fn states(world: &World) -> Vec<SagaState> {
    world.sagas().await.into_iter().map(|saga| saga.state).collect()
}

#[tokio::test]
async fn after_its_canaries_a_run_can_wait_for_a_word() {
    let world = World::start(Shape { tenants: 3, ..Shape::default() }).await;
    world.tune(|tuning| tuning.concurrency = 3);
    let ending = world.drive(Hook::default(), &canary(true)).await.unwrap();
    assert_eq!(ending, Ending::AfterCanary);
    assert_eq!(states(&world).await, [SagaState::Done, SagaState::Waiting, SagaState::Waiting]);
    assert!(world.tenants[1..].iter().all(|tenant| world.neon.accepts(&tenant.home.url)));
    world.goes_through(Strategy::Reset).await;
}

#[tokio::test]
async fn a_canary_that_fails_keeps_the_others_from_being_begun() {
    let world = World::start(Shape { tenants: 3, ..Shape::default() }).await;
    world.fly.stick(MADE, true);
    for _ in 0..2 {
        let ending = world.drive(Hook::default(), &canary(false)).await.unwrap();
        assert_eq!(ending, Ending::CanaryParked);
        assert_eq!(states(&world).await, [SagaState::Parked, SagaState::Waiting, SagaState::Waiting]);
    }
    assert!(world.tenants[1..].iter().all(|tenant| world.neon.accepts(&tenant.home.url)));
    world.fly.stick(MADE, false);
    world.goes_through(Strategy::Reset).await;
}

#[tokio::test]
async fn one_process_works_on_one_run() {
    let world = world().await;
    let works = world.works(Hook::default()).await;
    let plan = world.planned(Strategy::Reset).await;
    let run = Run::open(&works, &plan, &|_| ()).await.unwrap();
    let refused = |result: Result<Run<'_>, _>| match result.err() {
        Some(ReprovisionError::Refused { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    let what = refused(Run::open(&works, &plan, &|_| ()).await);
    assert_eq!(what, "org_instances has an open re-provisioning");
    let row = open_run(world.journal.as_ref(), TABLE).await.unwrap().unwrap();
    assert!(row.held);
    let what = refused(Run::resume(&works, &row, &|_| ()).await);
    assert!(what.contains("is being worked on by pid"), "{what}");
    run.release().await.unwrap();
    world.goes_through(Strategy::Reset).await;
}

/// Whoever takes a run up brings the key that it was begun with.
#[tokio::test]
async fn a_run_ends_under_one_key() {
    let world = world().await;
    let works = world.works(Hook::default()).await;
    let run = Run::open(&works, &world.planned(Strategy::Reset).await, &|_| ()).await.unwrap();
    run.release().await.unwrap();
    crate::reprovision::world::keep(&world.file("new.key"), &rand::random());
    let other = world.works(Hook::default()).await;
    let row = open_run(world.journal.as_ref(), TABLE).await.unwrap().unwrap();
    let refused = Run::resume(&other, &row, &|_| ()).await.err();
    assert!(matches!(refused, Some(ReprovisionError::Refused { .. })), "{refused:?}");
}

/// A process that slept past its lease, while another took the run up, writes nothing any more.
#[tokio::test]
async fn who_lost_the_lease_writes_nothing() {
    let world = world().await;
    let taken = Arc::clone(&world);
    let hook = once("create", Moment::AfterCall, move || {
        let world = Arc::clone(&taken);
        async move {
            world.bury().await;
            let row = open_run(world.journal.as_ref(), TABLE).await.unwrap().unwrap();
            world.journal.claim_reprovision(&row.run_id, "another").await.unwrap().expect("it is free");
        }
    });
    let ending = world.drive(hook, &asked(Strategy::Reset, false)).await;
    assert!(matches!(ending, Err(ReprovisionError::Fenced { .. })), "{ending:?}");
    let saga = world.saga(FIRST).await;
    assert_eq!((saga.phase.as_str(), saga.state), ("create", SagaState::Running));
    assert_eq!(states(&world).await[1], SagaState::Waiting);
    let head = world.journal.audit_head().await.unwrap().unwrap().seq;
    let last = world.journal.audit_page(head - 1, 1).await.unwrap().remove(0);
    assert_eq!((last.action.as_str(), last.subject.as_str()), ("tenant-create", FIRST));
    world.bury().await;
    world.goes_through(Strategy::Reset).await;
}

#[tokio::test]
async fn told_to_stop_it_brings_to_an_end_what_is_under_way() {
    let world = world().await;
    let works = {
        let (told, stop) = watch::channel(Stop::Never);
        let hook = once("reset", Moment::BeforeCall, move || {
            told.send_replace(Stop::AfterTenants);
            std::future::ready(())
        });
        (world.works(hook).await, stop)
    };
    let (works, stop) = works;
    let plan = Plan::of(&works, asked(Strategy::Reset, false)).await.unwrap();
    let run = Run::open(&works, &plan, &|_| ()).await.unwrap();
    assert_eq!(run.advance(stop).await.unwrap(), Ending::Interrupted);
    run.release().await.unwrap();
    assert_eq!(states(&world).await, [SagaState::Done, SagaState::Waiting]);
    assert!(world.neon.accepts(&world.tenants[1].home.url));
    world.goes_through(Strategy::Reset).await;
}

/// A tenant that was deleted after it was done has no URL that logs in.
#[tokio::test]
async fn who_is_deleted_since_is_gone_at_the_end() {
    let world = world().await;
    let ending = world.drive(Hook::default(), &asked(Strategy::Reset, false)).await.unwrap();
    assert_eq!(ending, Ending::Complete);
    world.execute(format!("DELETE FROM {TABLE} WHERE org_id = '{FIRST}'")).await;
    let works = world.works(Hook::default()).await;
    let row = open_run(world.journal.as_ref(), TABLE).await.unwrap().unwrap();
    let run = Run::resume(&works, &row, &|_| ()).await.unwrap();
    let (found, _) = finish(&run).await.unwrap();
    assert_eq!((found.done, found.gone, found.live), (1, 1, 1));
}

/// Of several tenants at once, one that fails keeps nobody else.
#[tokio::test]
async fn many_at_once_do_not_wait_for_one_that_fails() {
    let world = World::start(Shape { tenants: 8, apart: true, ..Shape::default() }).await;
    world.tune(|tuning| tuning.concurrency = 4);
    world.fly.stick(MADE, true);
    let ending = world.drive(Hook::default(), &asked(Strategy::Branch, false)).await.unwrap();
    assert_eq!(ending, Ending::Parked(1));
    let states = states(&world).await;
    assert_eq!(states.iter().filter(|state| **state == SagaState::Done).count(), 7);
    assert_eq!(world.saga(SECOND).await.state, SagaState::Done);
    world.fly.stick(MADE, false);
    world.goes_through(Strategy::Branch).await;
}
