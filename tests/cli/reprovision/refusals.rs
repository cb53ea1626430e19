//! What is refused, before anything is touched.

use super::desk::{Desk, UNROTATED};
use crate::cli::rotate::terminal::Typist;

#[tokio::test]
async fn what_is_wrong_with_the_command_is_said_before_anything_is_connected_to() {
    let mut desk = Desk::new(1).await;
    let usage = |desk: &Desk, words: &[&str], what: &str| {
        let said = desk.type_(words).exits(2);
        assert!(said.err.contains(what), "{words:?}: {}", said.err);
    };
    let asked = desk.world.fly.vendor.seen().len();
    for command in ["plan", "run"] {
        usage(&desk, &[command, "--strategy", "fresh"], "its data is lost to it");
        usage(&desk, &[command, "--strategy", "magic"], "--strategy takes one of reset, branch, fresh");
        usage(&desk, &[command, "--concurrency", "65"], "--concurrency takes a whole number from 1 to 64");
        usage(&desk, &[command, "--canary", "0"], "--canary takes a whole number above 0");
        usage(&desk, &[command, "--pause"], "missing: --canary <N>");
        usage(&desk, &[command, "--order", "plan"], "--order takes COLUMN=VALUE");
        usage(
            &desk,
            &[command, "--accept-unrotated", "re_0123456789"],
            "no recipe for a secret of this name",
        );
    }
    usage(&desk, &["run", "--plan", "0123"], "--plan: ");
    usage(&desk, &[], "Usage");
    desk.operator.set("RESEAL_TENANT_REDIS_URL", "theoldpassword");
    usage(&desk, &["plan"], "RESEAL_TENANT_REDIS_URL does not hold a Redis URL");
    desk.operator.set("RESEAL_TENANT_REDIS_URL", "");
    desk.operator.set("RESEAL_FLY_RATE_MULTIPLE", "0");
    usage(&desk, &["plan"], "RESEAL_FLY_RATE_MULTIPLE takes a whole number from 1 to 1000");
    desk.operator.set("RESEAL_FLY_RATE_MULTIPLE", "1");
    desk.operator.set("RESEAL_NEON_TOKEN", "");
    usage(&desk, &["run"], "no access to Neon: RESEAL_NEON_TOKEN is not set");
    assert_eq!(desk.world.fly.vendor.seen().len(), asked);
}

#[tokio::test]
async fn every_obstacle_is_named_with_the_line_that_goes_round_it() {
    let desk = Desk::new(6).await;
    let world = &desk.world;
    let set =
        |what: &str, org: usize| format!("UPDATE org_instances SET {what} WHERE org_id = 'org-00{org}'");
    world.execute(set("fly_machine_id = NULL", 1)).await;
    world.execute(set("fly_machine_id = 'nomachine'", 2)).await;
    world.execute(set("neon_branch_id = 'br-none'", 3)).await;
    world.execute(set("fly_machine_id = 'machine005'", 4)).await;
    let before = world.changes();
    for command in ["plan", "run"] {
        let said = desk.type_(&[command]).exits(4);
        let all = [said.out.as_str(), &said.err].concat().replace("\n    ", " ");
        for what in [
            "NEON_API_KEY was not rotated in the last day",
            "TENANT_REDIS_URL was not rotated in the last day",
            "tenant org-001: its row names no machine",
            "tenant org-002: its machine nomachine does not exist",
            "tenant org-003: its branch br-none does not exist",
            "tenant org-004: machine machine005 is also that of tenant org-005",
            "tenant org-005: machine machine005 is also that of tenant org-004",
        ] {
            assert!(all.contains(what), "{command}: {what}: {all}");
        }
        let hints = said.hints();
        assert!(hints.contains(&"reseal rotate NEON_API_KEY"), "{hints:?}");
        let round = "--accept-unrotated NEON_API_KEY --accept-unrotated TENANT_REDIS_URL --leave-out org-001 --leave-out \
                     org-002 --leave-out org-003 --leave-out org-004 --leave-out org-005";
        let round = format!("to go round them: reseal reprovision {command} {round}");
        assert_eq!(hints.last(), Some(&round.as_str()), "{hints:?}");
    }
    assert_eq!(world.sagas().await, []);
    let said = desk.type_(&["plan"]).exits(4);
    let round =
        said.hints().last().and_then(|hint| hint.strip_prefix("to go round them: ")).unwrap().to_owned();
    let plan = desk.operator.type_line(&round).exits(0);
    assert!(plan.out.starts_with("1 tenant of org_instances by reset.\n"), "{}", plan.out);
    assert_eq!(world.changes(), before, "nothing was touched");
}

#[tokio::test]
async fn tokens_that_may_only_look_are_found_by_the_plan() {
    let mut desk = Desk::new(1).await;
    let (fly, neon) = (desk.world.fly.read_only_token(), desk.world.neon.reading_token());
    for (name, token) in [("RESEAL_FLY_TOKEN", fly), ("RESEAL_NEON_TOKEN", neon)] {
        desk.operator.set(name, &token);
        desk.operator.guard(&token);
    }
    let said = desk.type_(&[&["plan", "--output", "json"], &UNROTATED[..]].concat()).exits(4);
    let obstacles = said.json()["obstacles"].clone();
    let hints: Vec<_> =
        obstacles.as_array().unwrap().iter().map(|one| one["hint"].as_str().unwrap()).collect();
    assert_eq!(
        hints,
        [
            "RESEAL_FLY_TOKEN needs a token that may deploy to it",
            "RESEAL_NEON_TOKEN needs a key that may change it"
        ]
    );
    desk.run(&[]).exits(4);
    assert_eq!(desk.world.changes(), []);
}

#[tokio::test]
async fn a_run_is_agreed_to_and_held_to_its_plan() {
    let desk = Desk::new(1).await;
    let nobody = desk.type_(&[&["run"], &UNROTATED[..]].concat()).exits(4);
    assert!(nobody.err.starts_with("error: nobody is there to be asked"), "{}", nobody.err);
    assert!(nobody.hints()[0].ends_with(" --accept-unrotated TENANT_REDIS_URL --yes"), "{}", nobody.err);
    let hard = desk.run(&["--hard"]).exits(4);
    assert!(hard.err.contains("--hard: the old credentials of each tenant die before"), "{}", hard.err);
    assert!(hard.hints()[0].ends_with(" --confirm hard"), "{}", hard.err);
    desk.run(&["--hard", "--confirm", "yes"]).exits(4);
    let plan = desk.type_(&[&["plan", "--output", "json"], &UNROTATED[..]].concat()).exits(0).json();
    let other = desk.run(&["--plan", plan["digest"].as_str().unwrap(), "--strategy", "branch"]).exits(4);
    assert!(other.err.contains("this is not what was planned"), "{}", other.err);
    assert_eq!(desk.world.changes(), []);
    assert_eq!(desk.world.sagas().await, []);
}

#[tokio::test]
async fn at_a_terminal_it_says_what_it_will_do_and_hard_is_typed_back() {
    let mut desk = Desk::new(2).await;
    desk.operator.set("TERM", "xterm");
    let words = ["reprovision", "run", "--hard", "--canary", "1", "--pause"];
    let words = [&words[..], &UNROTATED].concat();
    let answer = |answer: &str, code| {
        let mut typist = Typist::at(&desk.operator, &words);
        typist.sees("Type hard to go on: ");
        typist.types(answer);
        typist.leaves(code)
    };
    let screen = answer("yes\n", 4);
    assert!(screen.contains("nothing was begun: that is not the word"), "{screen}");
    assert_eq!(desk.world.changes(), []);
    let screen = answer("hard\n", 5);
    assert!(screen.contains("2 tenants of org_instances by reset, 16 at once.\r\n"), "{screen}");
    assert!(screen.contains(" of 2 tenants, "), "{screen}");
    assert!(screen.contains("org_instances: the canaries are done"), "{screen}");
}
