//! `SECRETS_ENCRYPTION_KEY` in place: the re-key of the table as one rotation.

use std::sync::Arc;

use reseal::{
    journal::{Hook, Moment},
    rotation::{Asked, Ending, Rotation, SecretName, open_rotation},
};
use tokio::sync::Notify;

use super::{
    matrix::strategy,
    world::{APP, World, manner},
};

const SECRET: SecretName = SecretName::SecretsEncryptionKey;

/// Goes the whole road; dies once at `step` and `moment`, if at all.
async fn travel(dies: Option<(&'static str, Moment)>) -> World {
    let world = World::start(SECRET).await;
    world.fly.set(APP, "SECRETS_ENCRYPTION_KEY", "the old key");
    let died = Arc::new(Notify::new());
    let told = Arc::clone(&died);
    let hook = Hook::new(move |step, moment| {
        let (hit, told) = (dies == Some((step, moment)), Arc::clone(&told));
        async move {
            if hit {
                told.notify_one();
                std::future::pending::<()>().await;
            }
        }
    });
    let (armed, plain) = (manner(hook), manner(Hook::default()));
    // SQLite and v2: no fence can tell who holds the old key, which a person has to answer for.
    let asked = Asked { accept_unverified: ["holders".to_owned()].into(), ..Asked::default() };
    let mut rotation =
        Rotation::open(world.tools(&armed), SECRET, strategy(SECRET, "in-place"), asked).await.unwrap();
    let ending = tokio::select! {
        ending = rotation.advance() => Some(ending.unwrap()),
        () = died.notified() => None,
    };
    drop(rotation);
    assert_eq!(ending.is_none(), dies.is_some(), "{dies:?} {ending:?}");
    let row = open_rotation(world.store.as_ref(), Some(SECRET)).await.unwrap();
    let ending = match (ending, row) {
        (None, Some(row)) => {
            world.bury().await;
            let mut rotation = Rotation::resume(world.tools(&plain), &row).await.unwrap();
            rotation.advance().await.unwrap()
        }
        (ending, _) => ending.unwrap_or(Ending::Done { confirmed: Some(true) }),
    };
    assert!(matches!(ending, Ending::Done { .. }), "{dies:?}: {ending:?}");
    world
}

/// Everything is under the KMS key, the old one is retired and gone from the app.
async fn judge(world: &World, of: &str) {
    let table = world.estate.table.as_ref().unwrap();
    assert_eq!(
        world.rows.as_ref().unwrap().redis_urls().await.len(),
        0,
        "{of}: a value is under the old key"
    );
    let retired = table.store.retirements().await.unwrap();
    assert_eq!(retired.len(), 1, "{of}: {retired:?}");
    let fence = table.store.fence("org_instances").await.unwrap().unwrap();
    assert_eq!(fence.mode.as_str(), "enforce", "{of}");
    for machine in world.fly.environment(APP) {
        assert!(machine.contains_key("KMS_KEY_ARN"), "{of}: a machine lacks the KMS key");
        assert!(!machine.contains_key("SECRETS_ENCRYPTION_KEY"), "{of}: a machine has the old key");
    }
    assert!(world.control_plane.orgs().is_empty(), "{of}: the test organization is left");
}

#[tokio::test]
async fn the_key_is_replaced_in_one_rotation() {
    let world = travel(None).await;
    judge(&world, "clean").await;
}

#[tokio::test]
async fn it_can_die_at_every_step() {
    for step in strategy(SECRET, "in-place").steps {
        for moment in [Moment::BeforeCall, Moment::AfterCall, Moment::AfterRecord] {
            let world = travel(Some((step.name, moment))).await;
            judge(&world, &format!("{} {moment:?}", step.name)).await;
        }
    }
}

/// A person who has not paused provisioning parks the rotation, with nothing changed.
#[tokio::test]
async fn nothing_is_changed_before_a_person_agrees() {
    let mut world = World::start(SECRET).await;
    world.person = super::world::Person::default();
    let plain = manner(Hook::default());
    let mut tools = world.tools(&plain);
    tools.operator = &reseal::rotation::Nobody;
    let mut rotation =
        Rotation::open(tools, SECRET, strategy(SECRET, "in-place"), Asked::default()).await.unwrap();
    let Ending::Parked(wait) = rotation.advance().await.unwrap() else { panic!("it did not wait") };
    assert!(wait.what.contains("pause provisioning"), "{}", wait.what);
    let table = world.estate.table.as_ref().unwrap();
    assert!(table.store.fence("org_instances").await.unwrap().is_none());
    assert_eq!(world.rows.as_ref().unwrap().redis_urls().await.len(), 3);
    assert_eq!(world.fly.secret(APP, "KMS_KEY_ARN"), None);
    rotation.abort().await.unwrap();
    assert!(matches!(rotation.advance().await.unwrap(), Ending::RolledBack { .. }));
}
