//! How far back a rotation may turn, and what it must not take away on the way.

use std::sync::Arc;

use reseal::{
    journal::{Hook, Moment},
    rotation::{Asked, Ending, Rotation, RotationError, SecretName, open_rotation},
};
use tokio::sync::Notify;

use super::{
    matrix::strategy,
    world::{APP, World, manner},
};
use crate::support::vendors::{Fault, Rule};

const KEY: SecretName = SecretName::SecretsEncryptionKey;

/// A process that dies there.
fn dying(at: &'static str, moment: Moment) -> (Hook, Arc<Notify>) {
    let died = Arc::new(Notify::new());
    let told = Arc::clone(&died);
    let hook = Hook::new(move |step, now| {
        let (hit, told) = ((step, now) == (at, moment), Arc::clone(&told));
        async move {
            if hit {
                told.notify_one();
                std::future::pending::<()>().await;
            }
        }
    });
    (hook, died)
}

/// Goes as far as it goes, or to where it dies.
async fn go(
    world: &World,
    secret: SecretName,
    name: &str,
    asked: Asked,
    dies: Option<(&'static str, Moment)>,
) {
    let (hook, died) =
        dies.map_or_else(|| (Hook::default(), Arc::new(Notify::new())), |(step, moment)| dying(step, moment));
    let armed = manner(hook);
    let mut rotation =
        Rotation::open(world.tools(&armed), secret, strategy(secret, name), asked).await.unwrap();
    tokio::select! {
        ending = rotation.advance() => assert!(dies.is_none(), "{dies:?}: {:?}", ending.unwrap()),
        () = died.notified() => (),
    }
    drop(rotation);
    world.bury().await;
}

/// Turns the open rotation round.
async fn abort(world: &World, secret: SecretName) -> Result<Ending, RotationError> {
    let plain = manner(Hook::default());
    let row = open_rotation(world.store.as_ref(), Some(secret)).await?.expect("an open rotation");
    let mut rotation = Rotation::resume(world.tools(&plain), &row).await?;
    let turned = rotation.abort().await;
    let ending = match turned {
        Ok(()) => rotation.advance().await,
        Err(error) => Err(error),
    };
    rotation.release().await?;
    ending
}

async fn start(secret: SecretName) -> World {
    let world = World::start(secret).await;
    world.fly.set(APP, "SECRETS_ENCRYPTION_KEY", "the old key");
    world
}

fn is_past(ending: Result<Ending, RotationError>, step: &str) -> bool {
    matches!(ending, Err(RotationError::Refused { what, .. }) if what.contains(&format!("past its cut-over (step {step})")))
}

#[tokio::test]
async fn from_the_first_value_under_the_new_key_on_there_is_only_forward() {
    for step in ["run", "enforce", "last-run", "verify", "retire"] {
        let world = start(KEY).await;
        go(&world, KEY, "in-place", Asked::default(), Some((step, Moment::AfterCall))).await;
        assert!(is_past(abort(&world, KEY).await, "run"), "{step}");
        assert!(world.fly.secret(APP, "KMS_KEY_ARN").is_some(), "{step}: rows are under it");
    }
    let world = start(KEY).await;
    go(&world, KEY, "in-place", Asked::default(), Some(("readers", Moment::BeforeCall))).await;
    assert!(matches!(abort(&world, KEY).await.unwrap(), Ending::RolledBack { .. }));
    assert_eq!(world.fly.secret(APP, "KMS_KEY_ARN"), None);
}

#[tokio::test]
async fn the_name_of_the_kms_key_stays_where_it_was_before() {
    let world = start(KEY).await;
    world.fly.set(APP, "KMS_KEY_ARN", "arn:another");
    go(&world, KEY, "in-place", Asked::default(), Some(("readers", Moment::BeforeCall))).await;
    assert!(matches!(abort(&world, KEY).await.unwrap(), Ending::RolledBack { .. }));
    assert!(world.fly.secret(APP, "KMS_KEY_ARN").is_some());
}

/// The control plane wrote it between the deploy and the way back.
#[tokio::test]
async fn the_name_of_the_kms_key_stays_while_a_value_is_under_it() {
    let world = start(KEY).await;
    go(&world, KEY, "in-place", Asked::default(), Some(("readers", Moment::BeforeCall))).await;
    let rows = world.rows.as_ref().unwrap();
    rows.rekey(false).await;
    let Ending::Parked(wait) = abort(&world, KEY).await.unwrap() else { panic!("it took the key away") };
    assert!(wait.what.starts_with("6 values are under the new key already"), "{}", wait.what);
    assert!(world.fly.secret(APP, "KMS_KEY_ARN").is_some());
    rows.rekey(true).await;
    assert!(matches!(abort(&world, KEY).await.unwrap(), Ending::RolledBack { .. }));
    assert_eq!(world.fly.secret(APP, "KMS_KEY_ARN"), None);
}

/// A value that no key opens stops the run of the tenants' rows, after it has rewritten others.
#[tokio::test]
async fn rows_that_were_rewritten_keep_the_new_database() {
    const SECRET: SecretName = SecretName::TenantRedisUrl;
    let world = World::start(SECRET).await;
    let live = world.live(SECRET).len();
    world.rows.as_ref().unwrap().poison("own").await;
    go(&world, SECRET, "new-database", Asked { stage: Some(false), ..Asked::default() }, None).await;
    assert!(is_past(abort(&world, SECRET).await, "tenant-rows"));
    assert_eq!(world.live(SECRET).len(), live + 1, "both databases are there");
}

#[tokio::test]
async fn a_staged_value_that_machines_have_works_until_the_old_one_is_deployed() {
    const SECRET: SecretName = SecretName::ResendApiKey;
    let world = World::start(SECRET).await;
    let old = world.in_use(SECRET);
    go(&world, SECRET, "two-keys", Asked::default(), None).await;
    world.fly.set(APP, "UNRELATED", "a release");
    let new = world.in_use(SECRET);
    assert_ne!(new, old);
    world.resend.vendor.fault(Rule::every("POST", "/emails", Fault::Refuse(403, "{}")));
    let plain = manner(Hook::default());
    let resume = async || {
        let row = open_rotation(world.store.as_ref(), Some(SECRET)).await.unwrap().unwrap();
        let mut rotation = Rotation::resume(world.tools(&plain), &row).await.unwrap();
        rotation.unpark().await.unwrap();
        rotation.advance().await.unwrap()
    };
    for _ in 0..2 {
        let ending = resume().await;
        let Ending::Parked(wait) = ending else { panic!("{ending:?}") };
        assert!(wait.what.contains("the next deploy"), "{}", wait.what);
        assert_eq!(world.in_use(SECRET), new, "nobody has deployed");
        assert!(world.is_live(SECRET, &new[0]), "every machine has a dead key");
    }
    world.fly.set(APP, "UNRELATED", "another release");
    assert_eq!(world.in_use(SECRET), old);
    assert!(matches!(resume().await, Ending::RolledBack { .. }));
    assert!(!world.is_live(SECRET, &new[0]) && world.is_live(SECRET, &old[0]));
}

#[tokio::test]
async fn a_staged_value_that_no_machine_has_is_taken_back_at_once() {
    const SECRET: SecretName = SecretName::ResendApiKey;
    let world = World::start(SECRET).await;
    let (old, live) = (world.in_use(SECRET), world.live(SECRET));
    go(&world, SECRET, "two-keys", Asked::default(), None).await;
    assert_eq!(world.live(SECRET).len(), live.len() + 1);
    assert!(matches!(abort(&world, SECRET).await.unwrap(), Ending::RolledBack { .. }));
    assert_eq!(world.fly.secret(APP, SECRET.as_str()).as_ref(), old.first());
    assert_eq!(world.live(SECRET), live);
}

/// The other role has a password already, which somebody may know.
#[tokio::test]
async fn an_interrupted_reset_of_the_other_role_is_made_for_certain() {
    const SECRET: SecretName = SecretName::DatabaseUrl;
    for moment in [Moment::BeforeCall, Moment::AfterCall] {
        let world = World::start(SECRET).await;
        world.prepare(SECRET, "alternate").await;
        let resets = || world.neon.vendor.count("POST", "reset_password");
        let before = resets();
        let mint = strategy(SECRET, "alternate")
            .steps
            .iter()
            .find(|step| matches!(step.action, reseal::rotation::recipe::Action::Mint(_)))
            .unwrap();
        let asked = Asked { stage: Some(false), ..Asked::default() };
        go(&world, SECRET, "alternate", asked, Some((mint.name, moment))).await;
        let made = resets() - before;
        let plain = manner(Hook::default());
        let row = open_rotation(world.store.as_ref(), Some(SECRET)).await.unwrap().unwrap();
        let mut rotation = Rotation::resume(world.tools(&plain), &row).await.unwrap();
        assert!(matches!(rotation.advance().await.unwrap(), Ending::Done { .. }));
        assert!(resets() - before > made, "{moment:?}: the password that was there was taken for a new one");
    }
}
