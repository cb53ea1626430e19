//! Whether anything is off: each kind of thing is found, and nothing else.

use std::sync::Arc;

use reseal::{
    journal::Hook,
    providers::{Issuer, Observed, resend::Permission},
    rekey::Options,
    rotation::{
        Asked, Ending, Rotation, SecretName, Standing, Table,
        check::{self, Expected, Finding, FindingKind, KeySight, Place, PlaceLook, SecretSight, Sight},
        recipe::LocationName,
    },
    store::{TargetName, sqlite::Sqlite},
};

use super::world::{APP, TENANTS, World, manner};
use crate::support::vendors::{Fault, Rule};

const FLY: SecretName = SecretName::FlyApiToken;
const RESEND: SecretName = SecretName::ResendApiKey;
const WEBHOOK: SecretName = SecretName::StripeWebhookSecret;

async fn look(world: &World) -> Sight {
    check::look(world.store.as_ref(), Some(&world.vault), &world.estate).await.unwrap()
}

/// What is off with one secret.
async fn off(world: &World, secret: SecretName, since: Option<i64>) -> Vec<Finding> {
    let mut found = check::findings(&look(world).await, since);
    found.retain(|finding| finding.secret == secret);
    found
}

async fn kinds(world: &World, secret: SecretName) -> Vec<FindingKind> {
    off(world, secret, None).await.iter().map(|finding| finding.kind).collect()
}

fn places(sight: &Sight, secret: SecretName) -> Vec<&'static str> {
    let seen = sight.secrets.iter().find(|seen| seen.standing.secret == secret).unwrap();
    seen.places.iter().map(|place| place.verdict(secret).as_str()).collect()
}

async fn rotate(world: &World, secret: SecretName, stage: Option<bool>) -> Ending {
    let manner = manner(Hook::default());
    let strategy = secret.recipe().strategy(None).unwrap();
    let asked = Asked { stage, ..Asked::default() };
    Rotation::open(world.tools(&manner), secret, strategy, asked).await.unwrap().advance().await.unwrap()
}

#[tokio::test]
async fn nothing_is_off_where_nothing_happened_and_nothing_is_ever_called_right() {
    let world = World::start(FLY).await;
    assert_eq!(off(&world, FLY, None).await, []);
    assert_eq!(places(&look(&world).await, FLY), ["unreadable", "unreadable"]);
    assert_eq!(rotate(&world, FLY, None).await, Ending::Done { confirmed: Some(true) });
    assert_eq!(off(&world, FLY, None).await, []);
    assert_eq!(places(&look(&world).await, FLY), ["unreadable", "unreadable"]);
}

#[tokio::test]
async fn a_value_that_was_ended_by_others_is_dead_and_one_that_nobody_can_try_unknown() {
    let world = World::start(RESEND).await;
    assert_eq!(kinds(&world, RESEND).await, []);
    world.resend.vendor.fault(Rule::every("GET", "/api-keys", Fault::Refuse(503, "{}")));
    assert_eq!(kinds(&world, RESEND).await, [FindingKind::Unknown]);
    world.resend.vendor.heal();
    let keys =
        world.estate.mailer.as_ref().unwrap().resend.api_keys(Permission::SendingAccess { domain_id: None });
    let (id, _) = world.resend.live().into_iter().find(|(_, name)| name == "molecule-cp production").unwrap();
    keys.revoke(&id).await.unwrap();
    assert_eq!(kinds(&world, RESEND).await, [FindingKind::Dead]);
}

#[tokio::test]
async fn a_revoked_value_that_still_works_is_found() {
    let world = World::start(RESEND).await;
    world.execute("UPDATE reseal_credentials SET state = 'revoked' WHERE secret = 'RESEND_API_KEY'").await;
    assert_eq!(kinds(&world, RESEND).await, [FindingKind::StillAlive]);
    world.execute("UPDATE reseal_credentials SET sealed = NULL WHERE secret = 'RESEND_API_KEY'").await;
    assert_eq!(kinds(&world, RESEND).await, []);
}

#[tokio::test]
async fn a_location_that_others_wrote_to_has_drifted_and_its_twin_is_torn_from_it() {
    let world = World::start(FLY).await;
    rotate(&world, FLY, None).await;
    world.fly.set(APP, "FLY_API_TOKEN", "FlyV1 fm2_by_hand");
    assert_eq!(kinds(&world, FLY).await, [FindingKind::Drift, FindingKind::Coupled]);
    assert_eq!(places(&look(&world).await, FLY), ["changed", "unreadable"]);
    // GitHub has no digest, and tells by the time alone.
    world.execute("UPDATE reseal_rotation_records SET at = at - 3600000 WHERE step = 'write-github'").await;
    world.execute("UPDATE reseal_credentials SET created_at = created_at - 7200000").await;
    assert_eq!(kinds(&world, FLY).await, [FindingKind::Drift, FindingKind::Drift]);
    let known = world.in_use(FLY)[0].clone();
    world.adopt(FLY, None, Some(&known)).await;
    assert_eq!(places(&look(&world).await, FLY), ["unreadable", "unreadable"], "a person said what is there");
}

#[tokio::test]
async fn a_location_that_lost_its_value_is_missing() {
    let world = World::start(RESEND).await;
    let fly = &world.estate.fly.as_ref().unwrap().fly;
    let location = reseal::providers::fly::AppSecret::new(fly, APP, "RESEND_API_KEY");
    reseal::providers::Location::remove(&location).await.unwrap();
    let found = off(&world, RESEND, None).await;
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].kind, found[0].what.as_str()),
        (FindingKind::Drift, "RESEND_API_KEY on fly is missing")
    );
    assert_eq!(places(&look(&world).await, SecretName::SecretsEncryptionKey), ["absent", "absent"]);
}

#[tokio::test]
async fn after_an_incident_everything_is_off_until_it_was_replaced() {
    let world = World::start(RESEND).await;
    let before = world.store.now_ms().await.unwrap() - 1;
    let not_replaced = check::findings(&look(&world).await, Some(before));
    let not_replaced = not_replaced.iter().filter(|finding| finding.kind == FindingKind::NotReplaced);
    let secrets: Vec<_> = not_replaced.map(|finding| finding.secret).collect();
    assert_eq!(secrets, SecretName::ALL[..8], "all but the address, and what rotates itself");
    assert_eq!(rotate(&world, RESEND, Some(false)).await, Ending::Done { confirmed: Some(true) });
    assert_eq!(off(&world, RESEND, Some(before)).await, []);
    let after = world.store.now_ms().await.unwrap() + 1;
    assert_eq!(off(&world, RESEND, Some(after)).await[0].kind, FindingKind::NotReplaced);
}

#[tokio::test]
async fn a_value_may_get_as_old_as_its_recipe_says() {
    let world = World::start(RESEND).await;
    rotate(&world, RESEND, Some(false)).await;
    world.execute("UPDATE reseal_credentials SET created_at = created_at - 180 * 86400000").await;
    assert_eq!(kinds(&world, RESEND).await, []);
    world.execute("UPDATE reseal_credentials SET created_at = created_at - 86400000").await;
    let found = off(&world, RESEND, None).await;
    assert_eq!((found[0].kind, found.len()), (FindingKind::Age, 1));
    assert_eq!(found[0].what, "its value is 181 days old, and may get 180");
}

#[test]
fn a_value_that_no_rotation_brought_is_no_younger_than_its_last_write() {
    let kinds = |now: &str| {
        let now_ms = reseal::time::parse(now).unwrap();
        let updated = Some("2026-01-01T00:00:00Z".to_owned());
        let place = Place {
            location: LocationName::Fly("NEON_API_KEY"),
            expected: Expected::Nothing,
            look: PlaceLook::Seen(Observed::Written { updated, digest: None }),
        };
        let standing = Standing::of(SecretName::NeonApiKey, &[], &[], now_ms);
        let secret = SecretSight {
            standing,
            values: Vec::new(),
            places: vec![place],
            deadline: None,
            strays: Vec::new(),
        };
        let key = KeySight::NotSeen(String::new());
        let found = check::findings(&Sight { now_ms, secrets: vec![secret], key }, None);
        found.into_iter().map(|finding| finding.what).collect::<Vec<_>>()
    };
    assert!(kinds("2026-04-01").is_empty());
    assert_eq!(kinds("2026-04-02"), ["its value is at least 91 days old, and may get 90"]);
}

#[tokio::test]
async fn a_rotation_that_waits_or_was_left_is_found() {
    let world = World::start(RESEND).await;
    let Ending::Parked(_) = rotate(&world, RESEND, None).await else { panic!("it waits for a deploy") };
    let found = off(&world, RESEND, None).await;
    assert_eq!((found[0].kind, found.len()), (FindingKind::Parked, 1));
    assert!(found[0].what.starts_with("its rotation is parked at deploy, and waits for the next deploy"));
    world.execute("UPDATE reseal_rotations SET phase = 'running', waiting = NULL").await;
    assert_eq!(kinds(&world, RESEND).await, [FindingKind::Interrupted]);
    let stray = "INSERT INTO reseal_credentials (credential_id, secret, provider_id, state) \
         VALUES ('C', 'RESEND_API_KEY', 'key_stray', 'stray')";
    world.execute(stray).await;
    assert_eq!(kinds(&world, RESEND).await, [FindingKind::Interrupted, FindingKind::Stray]);
}

#[tokio::test]
async fn a_window_that_ends_before_the_deploy_is_found_and_one_that_goes_by_is_not() {
    let world = World::start(WEBHOOK).await;
    *world.person.gives.lock().unwrap() = Some(world.stripe.roll(&world.endpoint, 86_400));
    let Ending::Parked(_) = rotate(&world, WEBHOOK, None).await else { panic!("it waits for a deploy") };
    let found = off(&world, WEBHOOK, None).await;
    let kinds: Vec<_> = found.iter().map(|finding| finding.kind).collect();
    assert_eq!(kinds, [FindingKind::Parked, FindingKind::Window]);
    assert!(found[1].what.starts_with("the old value ends in 23 h, at "), "{}", found[1].what);

    let world = World::start(WEBHOOK).await;
    *world.person.gives.lock().unwrap() = Some(world.stripe.roll(&world.endpoint, 86_400));
    let Ending::Parked(wait) = rotate(&world, WEBHOOK, Some(false)).await else { panic!("it waits a day") };
    assert!(wait.until_ms.is_some());
    assert_eq!(off(&world, WEBHOOK, None).await, []);
    let sight = look(&world).await;
    let seen = sight.secrets.iter().find(|seen| seen.standing.secret == WEBHOOK).unwrap();
    assert!(
        seen.deadline.is_some_and(|deadline| deadline.is_delivered && Some(deadline.at_ms) == wait.until_ms)
    );
    world.execute("UPDATE reseal_rotations SET until_ms = until_ms - 86400000").await;
    let found = off(&world, WEBHOOK, None).await;
    assert_eq!((found[0].kind, found.len()), (FindingKind::Window, 1));
    assert!(found[0].what.starts_with("the window is over since"));
}

#[tokio::test]
async fn tenants_that_hold_the_control_planes_key_are_a_second_location() {
    let mut world = World::start(FLY).await;
    assert!(matches!(look(&world).await.key, KeySight::NotSeen(_)), "no table is known");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tenants.db");
    std::fs::File::create(&path).unwrap();
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
    let mut conn = <sqlx::SqliteConnection as sqlx::Connection>::connect_with(&options).await.unwrap();
    let table = "CREATE TABLE org_instances (org_id text PRIMARY KEY NOT NULL, database_url_encrypted blob, \
         fly_app text, fly_machine_id text); \
         INSERT INTO org_instances VALUES ('acme', NULL, 'molecule-tenants', 'gone'), \
         ('globex', NULL, 'molecule-tenants', '7a01')";
    sqlx::raw_sql(table).execute(&mut conn).await.unwrap();
    world.estate.table = Some(Table {
        store: Arc::new(Sqlite::open(&path).await.unwrap()),
        name: TargetName {
            logical: None,
            schema: None,
            table: "org_instances".to_owned(),
            key_column: "org_id".to_owned(),
            columns: vec!["database_url_encrypted".to_owned()],
        },
        keys: None,
        options: Options::default(),
        machine_columns: ["fly_app", "fly_machine_id"].map(str::to_owned),
        redis_variable: "REDIS_URL".to_owned(),
    });
    let shared = async |world: &World| {
        let sight = look(world).await;
        assert!(matches!(sight.key, KeySight::Seen { .. }), "{:?}", sight.key);
        let found = check::findings(&sight, None);
        found.iter().any(|finding| finding.kind == FindingKind::SecondLocation)
    };
    assert!(!shared(&world).await, "neither has one");
    let key = "0f".repeat(32);
    world.fly.set(APP, "SECRETS_ENCRYPTION_KEY", &key);
    assert!(!shared(&world).await, "the tenant has none");
    world.fly.set(TENANTS, "SECRETS_ENCRYPTION_KEY", &"1e".repeat(32));
    assert!(!shared(&world).await, "the tenant has its own");
    world.fly.set(TENANTS, "SECRETS_ENCRYPTION_KEY", &key);
    assert!(shared(&world).await);
}
