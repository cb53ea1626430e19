//! `rotate SECRETS_ENCRYPTION_KEY --strategy reprovision`, from beginning to end.

use std::{collections::BTreeMap, sync::Arc};

use super::desk::{Desk, UNROTATED};
use crate::support::vendors::{
    control_plane::{ControlPlane, Surroundings},
    fly::{Made, ORG},
    fresh,
    neon::PROJECT,
};

const CONTROL: &str = "molecule-cp";

#[tokio::test]
async fn the_key_is_replaced_and_with_it_every_tenants_urls() {
    let mut desk = Desk::new(3).await;
    let (fly, neon) = (Arc::clone(&desk.world.fly), Arc::clone(&desk.world.neon));
    let judge = Arc::clone(&neon);
    fly.judge(move |environment| match environment.get("TENANT") {
        Some(_) => judge.accepts(&environment["DATABASE_URL"]),
        None => true,
    });
    fly.app(CONTROL, &[Made { id: "e82d", state: "started" }]);
    let session = fresh::value("session_");
    let environment = Arc::clone(&fly);
    let control_plane = ControlPlane::start(Surroundings {
        environment: Box::new(move || {
            environment.environment(CONTROL).into_iter().next().unwrap_or_default()
        }),
        fly: (fly.machines_url(), crate::reprovision::world::APP.to_owned()),
        neon: (neon.vendor.url().to_owned(), PROJECT.to_owned()),
        resend: "http://127.0.0.1:1".to_owned(),
        stripe: "http://127.0.0.1:1".to_owned(),
        session: session.clone(),
    });
    // The first tenant after the test provision finds no room.
    let full = Arc::clone(&fly);
    control_plane.vendor.watch(move |seen| {
        if seen.method == "DELETE" {
            full.fill("fra", 1, 422);
        }
    });
    for (name, value) in [
        ("SECRETS_ENCRYPTION_KEY", "the old key"),
        ("FLY_API_TOKEN", &fly.user_token()),
        ("NEON_API_KEY", neon.token()),
    ] {
        fly.set(CONTROL, name, value);
    }
    desk.operator.set("RESEAL_FLY_ORG", ORG);
    desk.operator.set("RESEAL_CONTROL_PLANE_URL", control_plane.vendor.url());
    desk.operator.set("RESEAL_CONTROL_PLANE_TOKEN", &session);
    desk.operator.guard(&session);

    let secret = "SECRETS_ENCRYPTION_KEY";
    let plan = desk.type_(&[&["plan"], &UNROTATED[..]].concat()).exits(0);
    assert!(
        plan.out.contains("app molecule-cp has no KMS_KEY_ARN, and can't read what a run writes"),
        "{}",
        plan.out
    );
    let begin =
        ["rotate", secret, "--strategy", "reprovision", "--yes", "--accept-unverified", "pause-provisioning"];
    // Two secrets were not rotated before, and nobody said that they need not be.
    let refused = desk.operator.reseal(&begin).exits(1);
    assert!(refused.out.contains("NEON_API_KEY was not rotated in the last day"), "{}", refused.out);
    let accepted = ["--accept-unverified", "NEON_API_KEY", "--accept-unverified", "TENANT_REDIS_URL"];
    let parked = desk.operator.reseal(&[&begin[..], &accepted].concat()).exits(5);
    assert!(parked.out.contains("waits at step 8 of 12, reprovision."), "{}{}", parked.out, parked.err);
    assert!(
        parked.out.contains("for parked tenants, 1 of them: reseal reprovision status"),
        "{}",
        parked.out
    );
    let machines: Vec<BTreeMap<_, _>> = fly.environment(CONTROL);
    assert!(machines[0].contains_key("KMS_KEY_ARN") && machines[0].contains_key(secret));
    let status = desk.type_(&["status", "--no-providers"]).exits(3);
    assert!(status.out.contains(", in create: there is no room for its machine in fra"), "{}", status.out);

    let done = desk.operator.reseal(&["rotate", "resume", secret]).exits(0);
    assert!(done.out.starts_with("SECRETS_ENCRYPTION_KEY is rotated. Rotation "), "{}", done.out);
    assert!(done.out.contains("reprovision-verify: 3 tenants, "), "{}", done.out);
    let machines: Vec<BTreeMap<_, _>> = fly.environment(CONTROL);
    assert!(machines[0].contains_key("KMS_KEY_ARN") && !machines[0].contains_key(secret));
    let status = desk.type_(&["status", "--no-providers", "--output", "json"]).exits(0).json();
    assert_eq!((&status["run"]["open"], &status["run"]["tenants"]["done"]), (&false.into(), &3.into()));
    desk.judge(&[&parked, &done]).await;
}
