//! What each secret's procedure promises beside the matrix, and what it does with bad input.

use std::sync::{Arc, Mutex};

use reseal::{
    journal::{Hook, Moment},
    providers::fly::Fly as FlyClient,
    rotation::{Asked, Ending, Nobody, Rotation, RotationError, SecretName, Tools, Wait, open_rotation},
    secret::SecretText,
};
use serde_json::json;

use super::{
    matrix::strategy,
    world::{APP, BRISK, WORKFLOW, World, manner},
};

fn at_once() -> Asked {
    Asked { stage: Some(false), ..Asked::default() }
}

/// Opens a rotation and goes as far as it goes.
async fn go(tools: Tools<'_>, secret: SecretName, name: &str, asked: Asked) -> Result<Ending, RotationError> {
    Rotation::open(tools, secret, strategy(secret, name), asked).await?.advance().await
}

/// Goes on with the open rotation.
async fn go_on(tools: Tools<'_>, secret: SecretName) -> Ending {
    let row = open_rotation(tools.store, Some(secret)).await.unwrap().expect("an open rotation");
    let mut rotation = Rotation::resume(tools, &row).await.unwrap();
    rotation.unpark().await.unwrap();
    rotation.advance().await.unwrap()
}

fn rolled_back(ending: Ending) -> String {
    let Ending::RolledBack { why } = ending else { panic!("{ending:?}") };
    why
}

fn parked(ending: Ending) -> Wait {
    let Ending::Parked(wait) = ending else { panic!("{ending:?}") };
    wait
}

#[tokio::test]
async fn fly_comes_before_github_and_runs_that_hold_the_old_token_end_first() {
    const SECRET: SecretName = SecretName::FlyApiToken;
    let world = Arc::new(World::start(SECRET).await);
    let old = world.in_use(SECRET)[0].clone();
    world.github.take(3, 5);
    world.github.push(WORKFLOW, 2);
    let order = Arc::new(Mutex::new(Vec::new()));
    let (watched, told, was) = (Arc::clone(&world), Arc::clone(&order), old.clone());
    let hook = Hook::new(move |step, moment| {
        let machines_have_it = watched.in_use(SECRET).iter().all(|value| *value != was);
        let workflow_has_it = watched.github.secret(SECRET.as_str()).unwrap() != was;
        let runs_with_old = watched.github.runs().len() - watched.github.ended().len();
        if moment == Moment::AfterCall {
            told.lock().unwrap().push((
                step,
                machines_have_it,
                workflow_has_it,
                watched.fly.is_live(&was),
                runs_with_old,
            ));
        }
        async {}
    });
    let manner = manner(hook);
    let ending = go(world.tools(&manner), SECRET, "two-tokens", at_once()).await.unwrap();
    assert_eq!(ending, Ending::Done { confirmed: Some(true) });
    for (step, machines, workflow, old_lives, runs) in order.lock().unwrap().iter() {
        assert!(*machines || !*workflow, "{step}: GitHub was first");
        assert!(*old_lives || (*machines && *workflow), "{step}: revoked before both were written");
        assert!(*old_lives || *runs == 0, "{step}: revoked while a run was under way");
    }
    assert!(world.github.ended().iter().all(|(_, conclusion, _)| *conclusion == "success"));
}

#[tokio::test]
async fn a_domain_that_is_not_verified_stops_before_anything_is_minted() {
    const SECRET: SecretName = SecretName::ResendApiKey;
    let mut world = World::start(SECRET).await;
    world.resend.domain("other.example", "pending", "enabled");
    world.estate.mailer.as_mut().unwrap().from = Some("Other <x@other.example>".parse().unwrap());
    let plain = manner(Hook::default());
    let why = rolled_back(go(world.tools(&plain), SECRET, "two-keys", at_once()).await.unwrap());
    assert!(why.contains("other.example is not verified"), "{why}");
    assert_eq!(world.resend.vendor.count("POST", "/api-keys"), 0);
    assert_eq!(world.fly.vendor.count("POST", "/secrets"), 0);
}

#[tokio::test]
async fn a_staged_value_waits_for_the_next_deploy() {
    const SECRET: SecretName = SecretName::ResendApiKey;
    let world = World::start(SECRET).await;
    let old = world.in_use(SECRET);
    let plain = manner(Hook::default());
    let wait = parked(go(world.tools(&plain), SECRET, "two-keys", Asked::default()).await.unwrap());
    assert!(wait.what.contains("next deploy of molecule-cp"), "{}", wait.what);
    assert_eq!(world.in_use(SECRET), old, "no machine was restarted");
    assert!(world.is_live(SECRET, &old[0]), "the old one was revoked too early");
    assert!(matches!(go_on(world.tools(&plain), SECRET).await, Ending::Parked(_)), "nobody has deployed");
    world.fly.set(APP, "UNRELATED", "a release");
    assert_eq!(go_on(world.tools(&plain), SECRET).await, Ending::Done { confirmed: Some(true) });
    assert!(!world.is_live(SECRET, &old[0]));
}

#[tokio::test]
async fn both_webhook_secrets_work_until_the_deadline_which_is_shown() {
    const SECRET: SecretName = SecretName::StripeWebhookSecret;
    let world = World::start(SECRET).await;
    let old = world.in_use(SECRET)[0].clone();
    let new = world.stripe.roll(&world.endpoint, 86_400);
    *world.person.gives.lock().unwrap() = Some(new.clone());
    let plain = manner(Hook::default());
    let wait = parked(go(world.tools(&plain), SECRET, "dashboard", at_once()).await.unwrap());
    let left = wait.until_ms.expect("a deadline") - world.store.now_ms().await.unwrap();
    assert!((86_000_000..=86_400_000).contains(&left), "{left} ms are left");
    assert!(world.stripe.signs_with(&old) && world.stripe.signs_with(&new));
    // Stripe signs with both, and the control plane, which has the new one, takes every event of the window.
    let (_, answers) = world.stripe.happen("acct_1", "customer.subscription.updated").await;
    assert!(answers.iter().all(|(_, status)| *status == 200), "{answers:?}");
    assert_eq!(world.control_plane.billing().len(), 1, "only the real event changed billing");
    assert!(matches!(go_on(world.tools(&plain), SECRET).await, Ending::Parked(_)), "a day is not over");
    let row = &world.store.rotations(Some(SECRET.as_str())).await.unwrap()[0];
    assert_eq!(row.until_ms, wait.until_ms, "the deadline does not move when it is looked at");
}

#[tokio::test]
async fn what_was_not_delivered_is_counted_before_an_endpoint_is_deleted() {
    const SECRET: SecretName = SecretName::StripeWebhookSecret;
    let world = World::start(SECRET).await;
    let plain = manner(Hook::default());
    let wait = Asked { stage: Some(true), ..Asked::default() };
    parked(go(world.tools(&plain), SECRET, "second-endpoint", wait).await.unwrap());
    // The new endpoint's delivery is refused: the control plane has the old secret still.
    let (_, answers) = world.stripe.happen("acct_1", "customer.subscription.updated").await;
    assert_eq!(answers.iter().filter(|(_, status)| *status == 400).count(), 1, "{answers:?}");
    world.fly.set(APP, "UNRELATED", "a release");
    go_on(world.tools(&plain), SECRET).await;
    let row = &world.store.rotations(Some(SECRET.as_str())).await.unwrap()[0];
    let records = world.store.rotation_records(&row.rotation_id).await.unwrap();
    let revoked =
        records.iter().find(|record| record.step == "revoke" && record.event == "succeeded").unwrap();
    assert!(revoked.detail.contains("1 events had not reached every endpoint"), "{}", revoked.detail);
    assert!(world.stripe.live().iter().all(|(id, ..)| *id != world.endpoint));
}

#[tokio::test]
async fn a_control_plane_that_takes_forged_events_proves_nothing() {
    const SECRET: SecretName = SecretName::StripeWebhookSecret;
    let world = World::start(SECRET).await;
    world.control_plane.switch_verification_off();
    let plain = manner(Hook::default());
    let why = rolled_back(go(world.tools(&plain), SECRET, "second-endpoint", at_once()).await.unwrap());
    assert!(why.contains("forged"), "{why}");
    assert_eq!(world.stripe.live().len(), 1, "the second endpoint is gone again");
}

#[tokio::test]
async fn without_an_id_nothing_begins_and_without_a_value_the_end_is_not_confirmed() {
    const SECRET: SecretName = SecretName::NeonApiKey;
    let world = World::start(SECRET).await;
    let plain = manner(Hook::default());
    let (id, value) = {
        let known = world.store.credentials(Some(SECRET.as_str())).await.unwrap();
        (known[0].provider_id.clone(), world.in_use(SECRET)[0].clone())
    };
    world.adopt(SECRET, None, Some(&value)).await;
    let why = rolled_back(go(world.tools(&plain), SECRET, "two-keys", at_once()).await.unwrap());
    assert!(why.contains("reseal rotate adopt NEON_API_KEY"), "{why}");
    assert_eq!(world.neon.vendor.count("POST", "/api_keys"), 1, "only the world itself has minted");

    world.adopt(SECRET, id, None).await;
    let ending = go(world.tools(&plain), SECRET, "two-keys", at_once()).await.unwrap();
    assert_eq!(ending, Ending::Done { confirmed: Some(false) });
    assert!(!world.is_live(SECRET, &value));
}

/// Without the old value there is no way back over a write: the rotation waits for a person instead of guessing.
#[tokio::test]
async fn without_the_old_value_a_failure_after_a_write_parks() {
    const SECRET: SecretName = SecretName::NeonApiKey;
    let world = World::start(SECRET).await;
    let id = world.store.credentials(Some(SECRET.as_str())).await.unwrap()[0].provider_id.clone();
    world.adopt(SECRET, id, None).await;
    world.control_plane.down(true);
    let patient = reseal::rotation::Manner { tries: 1, ..manner(Hook::default()) };
    let wait = parked(go(world.tools(&patient), SECRET, "two-keys", at_once()).await.unwrap());
    let row = open_rotation(world.store.as_ref(), Some(SECRET)).await.unwrap().unwrap();
    let mut rotation = Rotation::resume(world.tools(&patient), &row).await.unwrap();
    let Err(RotationError::Refused { what, .. }) = rotation.abort().await else {
        panic!("there is no way back")
    };
    assert!(what.contains("can't be written back"), "{what} {wait:?}");
    drop(rotation);
    world.bury().await;
    world.control_plane.down(false);
    assert_eq!(go_on(world.tools(&patient), SECRET).await, Ending::Done { confirmed: Some(false) });
}

#[tokio::test]
async fn a_rotation_can_be_aborted_until_its_cut_over() {
    const SECRET: SecretName = SecretName::NeonApiKey;
    let world = World::start(SECRET).await;
    let (old, live) = (world.in_use(SECRET), world.live(SECRET));
    let plain = manner(Hook::default());
    world.control_plane.down(true);
    let hasty = reseal::rotation::Manner { tries: 1, ..manner(Hook::default()) };
    let ending = go(world.tools(&hasty), SECRET, "two-keys", at_once()).await.unwrap();
    assert!(matches!(ending, Ending::Parked(_)), "{ending:?}");
    assert_ne!(world.in_use(SECRET), old, "it is past the write");
    let row = open_rotation(world.store.as_ref(), Some(SECRET)).await.unwrap().unwrap();
    let mut rotation = Rotation::resume(world.tools(&plain), &row).await.unwrap();
    rotation.abort().await.unwrap();
    assert!(matches!(rotation.advance().await.unwrap(), Ending::RolledBack { .. }));
    assert_eq!((world.in_use(SECRET), world.live(SECRET)), (old, live));

    world.control_plane.down(false);
    world.neon.set(|knobs| knobs.late_revocation = usize::MAX);
    let ending = go(world.tools(&plain), SECRET, "two-keys", at_once()).await.unwrap();
    let wait = parked(ending);
    assert!(wait.what.contains("still works"), "{}", wait.what);
    let row = open_rotation(world.store.as_ref(), Some(SECRET)).await.unwrap().unwrap();
    let mut rotation = Rotation::resume(world.tools(&plain), &row).await.unwrap();
    let Err(RotationError::Refused { what, hint }) = rotation.abort().await else {
        panic!("it is past the cut-over")
    };
    assert!(
        what.contains("past its cut-over (step revoke)")
            && hint.contains("reseal rotate resume NEON_API_KEY")
    );
}

#[tokio::test]
async fn a_password_is_reset_only_where_the_old_url_leads() {
    const SECRET: SecretName = SecretName::DatabaseUrl;
    let world = World::start(SECRET).await;
    let elsewhere = "postgresql://molecule_a:pw@ep-of-another-project.eu-central-1.aws.neon.tech/app";
    world.adopt(SECRET, None, Some(elsewhere)).await;
    let plain = manner(Hook::default());
    for name in ["reset", "alternate"] {
        let why = rolled_back(go(world.tools(&plain), SECRET, name, at_once()).await.unwrap());
        assert!(why.contains("leads to no endpoint of the default branch"), "{why}");
    }
    assert_eq!(world.neon.vendor.count("POST", "reset_password"), 0);
}

#[tokio::test]
async fn two_operators_do_not_work_on_one_rotation() {
    const SECRET: SecretName = SecretName::ResendApiKey;
    let world = World::start(SECRET).await;
    let plain = manner(Hook::default());
    let first =
        Rotation::open(world.tools(&plain), SECRET, strategy(SECRET, "two-keys"), at_once()).await.unwrap();
    let again = Rotation::open(world.tools(&plain), SECRET, strategy(SECRET, "two-keys"), at_once()).await;
    let Err(RotationError::Refused { what, .. }) = again else { panic!("two rotations of one secret") };
    assert!(what.contains(first.id()), "{what}");
    let row = open_rotation(world.store.as_ref(), Some(SECRET)).await.unwrap().unwrap();
    let Err(RotationError::Refused { what, .. }) = Rotation::resume(world.tools(&plain), &row).await else {
        panic!("two holders of one lease")
    };
    assert!(what.contains("is being worked on by pid"), "{what}");
    // One who was presumed dead and comes back writes nothing, and asks no provider for anything.
    let mut first = first;
    world.bury().await;
    let mut second = Rotation::resume(world.tools(&plain), &row).await.unwrap();
    assert!(matches!(first.advance().await, Err(RotationError::Fenced { .. })));
    assert_eq!(world.resend.vendor.seen().len(), 0);
    assert_eq!(second.advance().await.unwrap(), Ending::Done { confirmed: Some(true) });
}

#[tokio::test]
async fn a_bootstrap_token_that_cannot_mint_is_found_before_anything_is_done() {
    const SECRET: SecretName = SecretName::FlyApiToken;
    let mut world = World::start(SECRET).await;
    let (_, limited) = world.fly.token("limited", "deploy", json!({}));
    let limited = Arc::new(SecretText::new(limited));
    let fly =
        FlyClient::new(&world.fly.machines_url(), &world.fly.graphql_url(), limited.clone(), BRISK).unwrap();
    let part = world.estate.fly.as_mut().unwrap();
    (part.fly, part.token) = (fly, limited);
    let (before, plain) = (world.live(SECRET), manner(Hook::default()));
    let why = rolled_back(go(world.tools(&plain), SECRET, "two-tokens", at_once()).await.unwrap());
    assert!(why.contains("does not let this credential"), "{why}");
    assert_eq!(world.live(SECRET), before);
}

#[tokio::test]
async fn a_rotation_does_not_end_its_own_authority() {
    const SECRET: SecretName = SecretName::FlyApiToken;
    let mut world = World::start(SECRET).await;
    world.estate.fly.as_mut().unwrap().token = Arc::new(SecretText::new(world.in_use(SECRET)[0].clone()));
    let plain = manner(Hook::default());
    let refused = go(world.tools(&plain), SECRET, "two-tokens", at_once()).await;
    let Err(RotationError::Refused { what, .. }) = refused else { panic!("{refused:?}") };
    assert!(what.contains("RESEAL_FLY_TOKEN holds the very value"), "{what}");
}

#[tokio::test]
async fn a_repository_without_the_workflow_is_found_before_minting() {
    const SECRET: SecretName = SecretName::FlyApiToken;
    let mut world = World::start(SECRET).await;
    world.estate.publisher.as_mut().unwrap().workflow = "other.yml".to_owned();
    let (before, plain) = (world.live(SECRET), manner(Hook::default()));
    let why = rolled_back(go(world.tools(&plain), SECRET, "two-tokens", at_once()).await.unwrap());
    assert!(why.contains("no such workflow"), "{why}");
    assert_eq!(world.live(SECRET), before);
}

#[tokio::test]
async fn a_key_of_another_mode_or_account_is_not_installed() {
    const SECRET: SecretName = SecretName::StripeApiKey;
    for (prefix, account, problem) in
        [("sk_test_", "acct_1", "another mode"), ("sk_live_", "acct_2", "another Stripe account")]
    {
        let world = World::start(SECRET).await;
        let old = world.in_use(SECRET);
        *world.person.gives.lock().unwrap() = Some(world.stripe.key(prefix, account));
        let plain = manner(Hook::default());
        let why = rolled_back(go(world.tools(&plain), SECRET, "dashboard", at_once()).await.unwrap());
        assert!(why.contains(problem), "{why}");
        assert_eq!(world.in_use(SECRET), old);
    }
}

#[tokio::test]
async fn a_wrong_paste_is_asked_for_again_and_never_shown() {
    const SECRET: SecretName = SecretName::StripeApiKey;
    let world = World::start(SECRET).await;
    let plain = manner(Hook::default());
    let old = world.in_use(SECRET)[0].clone();
    for (pasted, problem) in [
        ("pk_live_0123456789abcdefghij".to_owned(), "publishable"),
        (format!(" {old}"), "space"),
        (format!("{old}\n"), "in use already"),
        (String::new(), "nothing was given"),
    ] {
        *world.person.gives.lock().unwrap() = Some(pasted.clone());
        let wait = match open_rotation(world.store.as_ref(), Some(SECRET)).await.unwrap() {
            None => parked(go(world.tools(&plain), SECRET, "dashboard", at_once()).await.unwrap()),
            Some(_) => parked(go_on(world.tools(&plain), SECRET).await),
        };
        assert!(wait.what.contains(problem), "{}", wait.what);
        assert!(pasted.is_empty() || !wait.what.contains(pasted.trim()), "the value is shown");
    }
    assert_eq!(*world.person.asked.lock().unwrap(), 12, "three times each");
    let mut tools = world.tools(&plain);
    tools.operator = &Nobody;
    let wait = parked(go_on(tools, SECRET).await);
    assert!(wait.what.contains("dashboard"), "{}", wait.what);
    assert_eq!(world.fly.vendor.count("POST", "/secrets"), 0);
}

#[tokio::test]
async fn an_emergency_revokes_first() {
    const SECRET: SecretName = SecretName::FlyApiToken;
    let world = World::start(SECRET).await;
    let old = world.in_use(SECRET)[0].clone();
    let first = Arc::new(Mutex::new(None));
    let told = Arc::clone(&first);
    world.fly.vendor.watch(move |seen| {
        if seen.path.ends_with("/secrets") && seen.method == "POST" {
            told.lock().unwrap().get_or_insert(seen.path.clone());
        }
    });
    let (watched, dead) = (Arc::clone(&world.fly), Arc::new(Mutex::new(Vec::new())));
    let (was, deaths) = (old.clone(), Arc::clone(&dead));
    let hook = Hook::new(move |step, moment| {
        if moment == Moment::AfterRecord && !watched.is_live(&was) {
            deaths.lock().unwrap().push(step);
        }
        async {}
    });
    let manner = manner(hook);
    let asked = Asked { emergency: true, ..at_once() };
    let ending = go(world.tools(&manner), SECRET, "two-tokens", asked).await.unwrap();
    assert_eq!(ending, Ending::Done { confirmed: Some(true) });
    assert_eq!(dead.lock().unwrap()[..2], ["revoke", "mint"], "dead before another was minted");
    assert!(first.lock().unwrap().is_some());
}

#[tokio::test]
async fn a_deploy_by_others_between_read_and_write_is_kept() {
    const SECRET: SecretName = SecretName::NeonApiKey;
    let world = World::start(SECRET).await;
    world.fly.deploy_after_looks(2);
    let plain = manner(Hook::default());
    let ending = go(world.tools(&plain), SECRET, "two-keys", at_once()).await.unwrap();
    assert_eq!(ending, Ending::Done { confirmed: Some(true) });
    let images: Vec<_> =
        ["e82d", "e82e"].map(|id| world.fly.config(APP, id)["image"].as_str().unwrap().to_owned()).into();
    assert!(images.iter().any(|image| image.contains("ci-")), "what CI deployed was reverted: {images:?}");
}

#[tokio::test]
async fn no_value_is_in_the_journal_in_clear() {
    for (secret, name) in [(SecretName::FlyApiToken, "two-tokens"), (SecretName::DatabaseUrl, "reset")] {
        let world = World::start(secret).await;
        let mut values = world.in_use(secret);
        let plain = manner(Hook::default());
        let ending = go(world.tools(&plain), secret, name, at_once()).await.unwrap();
        assert_eq!(ending, Ending::Done { confirmed: Some(true) });
        values.extend(world.in_use(secret));
        values.extend(world.fly.values());
        values.push(world.neon.token().to_owned());
        for file in [world.journal(), world.journal().with_extension("db-wal")] {
            let Ok(bytes) = std::fs::read(&file) else { continue };
            for value in &values {
                let secret_part = value.rsplit_once(' ').map_or(value.as_str(), |(_, token)| token);
                let found = bytes.windows(secret_part.len()).any(|window| window == secret_part.as_bytes());
                assert!(!found, "a value of {secret} is in {}", file.display());
            }
        }
    }
}
