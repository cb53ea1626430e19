//! From the plan to the certificate.

use std::{
    fs,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::desk::{Desk, UNROTATED};
use crate::{
    cli::{operator::Said, rotate::desk::ended},
    reprovision::world::APP,
    support::vendors::{Fault, Rule},
};

#[tokio::test]
async fn every_tenant_is_planned_run_by_the_plan_and_certified() {
    let desk = Desk::new(10).await;
    let plan = desk.type_(&[&["plan"], &UNROTATED[..]].concat()).exits(0);
    assert!(plan.out.starts_with("10 tenants of org_instances by reset.\n"), "{}", plan.out);
    assert!(
        plan.out.contains("10 tenants: look → create → reset → launch → row → traffic → death\n"),
        "{}",
        plan.out
    );
    let json = desk.type_(&[&["plan", "--output", "json"], &UNROTATED[..]].concat()).exits(0).json();
    let digest = json["digest"].as_str().unwrap();
    assert!(plan.out.ends_with(&format!("Plan {digest}\n")), "{}", plan.out);
    assert_eq!(json["tenants"].as_array().unwrap().len(), 10);
    assert_eq!((&json["redis"], &json["for_a_while"]["machines"]), (&"replaced".into(), &10.into()));
    assert_eq!(desk.world.changes(), [], "a plan changes nothing");
    assert!(desk.world.journal.data_keys(None).await.unwrap().is_empty(), "and writes nothing");
    assert!(desk.world.journal.audit_head().await.unwrap().is_none());
    assert_eq!(desk.world.sagas().await, []);
    let status = desk.type_(&["status", "--no-providers"]).exits(0);
    assert!(status.out.starts_with("org_instances: no re-provisioning yet.\n"), "{}", status.out);

    let next = plan.hints()[0];
    assert!(
        next.ends_with(&format!(
            "--accept-unrotated NEON_API_KEY --accept-unrotated TENANT_REDIS_URL --plan {digest}"
        )),
        "{next}"
    );
    let certificate = desk.operator.path("certificate.json");
    let line = format!("{next} --yes --certificate {}", certificate.display());
    let run = desk.operator.type_line(&line).exits(0);
    assert!(
        run.out.starts_with("org_instances: every tenant is re-provisioned, and nothing old is alive. Run "),
        "{}",
        run.out
    );
    assert!(run.out.contains("10 new URLs log in, "), "{}", run.out);
    assert!(
        run.out.contains("20 values open under the new key, 0 do not, 0 cells are empty.\n"),
        "{}",
        run.out
    );
    assert!(run.out.contains("Orphans: none, in two lists of every app and project.\n"), "{}", run.out);
    let ended = run.err.lines().filter(|line| line.contains(": done, down for ")).count();
    assert_eq!(ended, 10, "a line a tenant: {}", run.err);
    let written = fs::read_to_string(&certificate).unwrap();
    let document: Value = serde_json::from_str(&written).unwrap();
    assert_eq!((&document["tenants"]["done"], &document["orphans"]), (&10.into(), &0.into()));

    let status = desk.type_(&["status", "--no-providers", "--output", "json"]).exits(0).json();
    let of_run = &status["run"];
    assert_eq!((&of_run["open"], &of_run["tenants"]["done"]), (&false.into(), &10.into()));
    assert_eq!(of_run["certificate"], document);
    assert_eq!(of_run["downtime"]["tenants"], 10);
    assert_eq!(of_run["old_credentials_alive"]["tenants"], 0);
    let again = desk.type_(&["run", "--certificate", "certificate.json"]).exits(4);
    assert!(again.err.contains("a certificate overwrites nothing"), "{}", again.err);
    desk.judge(&[&plan, &run]).await;
}

#[tokio::test]
async fn the_canaries_come_first_and_the_rest_after_a_word() {
    let desk = Desk::new(3).await;
    let paused = desk.run(&["--canary", "1", "--pause", "--first", "org-002", "--output", "json"]).exits(5);
    let document = paused.json();
    assert_eq!((&document["outcome"], &document["tenants"]["done"]), (&"after-canary".into(), &1.into()));
    assert_eq!(paused.hints(), ["reseal reprovision run"]);
    let [first, ..] = &desk.world.sagas().await[..] else { panic!("no tenants") };
    assert_eq!((first.tenant.as_str(), first.state.as_str()), ("org-002", "done"));
    let untouched = &desk.world.tenants[0];
    assert!(desk.world.neon.accepts(&untouched.home.url));
    let status = desk.type_(&["status", "--no-providers"]).exits(3);
    assert!(
        status.out.contains(
            "Old credentials: those of 2 tenants were not seen to be refused yet, org-000 first.\n"
        ),
        "{}",
        status.out
    );
    assert_eq!(status.hints(), ["reseal reprovision run"]);

    // What is decided is decided.
    let other = desk.type_(&["run", "--strategy", "branch"]).exits(4);
    assert!(other.err.contains("was begun with another --strategy"), "{}", other.err);
    assert_eq!(other.hints(), ["go on with it: reseal reprovision run"]);
    let done = desk.type_(&["run", "--canary", "1", "--concurrency", "2"]).exits(0);
    assert!(done.err.contains("going on with run "), "{}", done.err);
    desk.judge(&[&paused, &done]).await;
}

#[tokio::test]
async fn a_tenant_that_fails_is_parked_and_the_others_go_on() {
    let desk = Desk::new(3).await;
    let stuck = &desk.world.tenants[1];
    desk.world
        .execute(format!("UPDATE org_instances SET fly_region = 'xyz' WHERE org_id = '{}'", stuck.org))
        .await;
    desk.world.neon.sql_role(&stuck.home.branch, "intruder");
    desk.world.fly.fill("fra", 1, 422);
    let parked = desk.run(&["--concurrency", "1", "--first", &stuck.org]).exits(3);
    assert!(
        parked.out.starts_with("org_instances: 1 tenant parked, all others at their end. Run "),
        "{}",
        parked.out
    );
    assert!(
        parked.out.contains("  parked: org-001, in create: there is no room for its machine in fra"),
        "{}",
        parked.out
    );
    assert!(parked.err.contains("org-001: parked in create: there is no room"), "{}", parked.err);
    assert_eq!(parked.hints(), ["once the cause is mended: reseal reprovision run --concurrency 1"]);
    assert!(desk.world.neon.accepts(&stuck.home.url), "it works as it did");
    let done = desk.type_(&["run"]).exits(0);
    assert!(
        done.out.contains("Roles that nobody knew, and that can't log in any more: org-001: intruder.\n"),
        "{}",
        done.out
    );
    desk.judge(&[&parked, &done]).await;
}

#[tokio::test]
async fn what_nobody_uses_is_listed_with_the_command_that_ends_it() {
    let desk = Desk::new(1).await;
    let fly = &desk.world.fly;
    fly.add(APP, "orphan01", "started", "fra", json!({"image": "x", "metadata": {"reseal_run": "R"}}));
    let none = desk.type_(&["status"]).exits(0);
    assert_eq!(none.out, "org_instances: no re-provisioning yet.\n");
    assert!(desk.world.vendors().iter().all(|vendor| vendor.seen().is_empty()), "nobody was asked");
    desk.run(&[]).exits(3);
    let before = desk.world.changes();
    let found = desk.type_(&["status"]).exits(3);
    assert!(found.out.contains("Orphans: 1, made for a tenant and in nobody's use.\n"), "{}", found.out);
    assert_eq!(found.hints()[1..], [format!("fly machine destroy --force --app {APP} orphan01")]);
    assert_eq!(desk.world.changes(), before);
}

#[tokio::test]
async fn a_provider_in_trouble_hides_nothing_that_the_journal_knows() {
    let desk = Desk::new(1).await;
    desk.run(&[]).exits(0);
    desk.world.neon.vendor.fault(Rule::every("GET", "", Fault::Refuse(403, "{}")));
    let said = desk.type_(&["status"]).exits(3);
    assert!(said.out.starts_with("org_instances: 1 of 1 tenant at their end. Run "), "{}", said.out);
    let why = "Orphans: not looked for: neon does not let this credential ";
    assert!(said.out.contains(why), "{}", said.out);
    let alone = "the journal alone: reseal reprovision status --no-providers";
    assert!(said.hints().contains(&alone), "{:?}", said.hints());
    let json = desk.type_(&["status", "--output", "json"]).exits(3).json();
    assert!(json["orphans_not_looked_for"].is_string() && json["run"]["open"] == false, "{json}");
    desk.type_(&["status", "--no-providers"]).exits(0);
}

/// However many tenants there are, only those under way are in memory.
#[tokio::test]
async fn a_hundred_tenants_take_less_than_64_mib() {
    let desk = Desk::new(100).await;
    let (said, peak) = watched(&desk).await;
    assert_eq!(said.json()["tenants"]["done"], 100);
    assert!((1..64 << 10).contains(&peak), "{peak} KiB");
    println!("100 tenants, 16 at once: {peak} KiB at most");
    desk.judge(&[&said]).await;
}

/// The vendors refuse what is above their limits, times `RESEAL_FLEET_TIMES`; 1 is real time, and takes ten minutes.
#[tokio::test]
#[ignore = "measures: wants the machine for itself"]
async fn five_hundred_tenants_take_what_the_limits_take() {
    let times: u32 = std::env::var("RESEAL_FLEET_TIMES").map_or(20, |text| text.parse().unwrap());
    let mut desk = Desk::new(500).await;
    desk.world.fly.limit_rate(times);
    desk.world.neon.limit_rate(f64::from(times));
    ["RESEAL_FLY_RATE_MULTIPLE", "RESEAL_NEON_RATE_MULTIPLE"]
        .into_iter()
        .for_each(|name| desk.operator.set(name, &times.to_string()));
    let begun = Instant::now();
    let (said, peak) = watched(&desk).await;
    let took = begun.elapsed().as_secs_f64();
    let (fly, neon) = (desk.world.fly.vendor.seen(), desk.world.neon.vendor.seen());
    let refused = fly.iter().chain(&neon).filter(|seen| seen.status == 429).count();
    let creates = fly.iter().filter(|seen| seen.method == "POST" && seen.path.ends_with("/machines")).count();
    let number = |count: usize| f64::from(u32::try_from(count).unwrap());
    let (by_neon, by_fly) = (number(neon.len()) * 60.0 / 700.0, number(creates));
    let allowed = by_neon.max(by_fly) / f64::from(times);
    println!(
        "500 tenants, 16 at once, limits x{times}: {took:.1} s; the limits allow {allowed:.1} s \
         ({} calls to Neon, {creates} creations in one app, {} calls to Fly); {refused} refused by a limit; {peak} KiB at most",
        neon.len(),
        fly.len()
    );
    for line in said.err.lines().filter(|line| line.contains(": done, down for ")).step_by(50) {
        println!("  {line}");
    }
    assert_eq!(said.json()["tenants"]["done"], 500);
    assert!(took < 1.2 * allowed, "{took} s");
    assert!((1..64 << 10).contains(&peak), "{peak} KiB");
}

/// A run to its end, and the most memory that it had resident, in KiB.
async fn watched(desk: &Desk) -> (Said, u64) {
    let mut child = desk.start(&["--output", "json"]);
    let (mut peak, status) = (0, format!("/proc/{}/status", child.id()));
    while child.try_wait().unwrap().is_none() {
        let seen = fs::read_to_string(&status).unwrap_or_default();
        let line = seen.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or_default());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (ended(&desk.operator, child).exits(0), peak)
}
