//! What is printed from the recipes: the plan, the runbook, the secret map.

use std::fs;

use reseal::{
    providers::{Location, fly::AppSecret},
    rotation::{
        SecretName,
        map::OUTSIDE,
        runbook::{self, INCIDENT},
    },
    secret::SecretText,
};

use serde_json::Value;

use crate::{
    cli::operator::Operator,
    rotation::world::{APP, World},
};

fn file(path: &str) -> String {
    fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap_or_default()
}

#[test]
fn the_runbook_in_the_documentation_is_the_one_that_the_recipes_give() {
    let how = "docs/runbook.md is stale; to make it anew: reseal runbook >docs/runbook.md";
    let operator = Operator::new();
    assert!(operator.reseal(&["runbook"]).exits(0).out == file("docs/runbook.md"), "{how}");
    assert_eq!(operator.reseal(&["runbook", "--incident"]).exits(0).out, runbook::incident());
}

#[test]
fn the_runbook_has_every_step_of_every_strategy_and_the_whole_map() {
    let text = runbook::runbook();
    let has = |part: &str| assert!(text.contains(part), "{part}");
    for secret in SecretName::ALL {
        let recipe = secret.recipe();
        [recipe.purpose, recipe.blast_radius, recipe.half_done, recipe.by_hand].into_iter().for_each(has);
        recipe.kept.iter().for_each(|kept| has(kept));
        recipe.coupled.into_iter().chain(recipe.watch).for_each(has);
        recipe.contacts.iter().for_each(|contact| has(&format!("- **{}**: {}", contact.who, contact.how)));
        for strategy in recipe.strategies {
            has(&format!("### {secret}: {}\n\n{}", strategy.name, strategy.when));
            // Of a staged secret the deploy is somebody else's.
            let own = strategy.steps.iter().filter(|step| step.name != "deploy");
            own.for_each(|step| has(&format!("`{}`: {}", step.name, step.text)));
        }
    }
    OUTSIDE.iter().for_each(|outside| has(&format!("`{}`", outside.name)));
    INCIDENT.iter().for_each(|stage| has(stage.why));
}

#[test]
fn the_commands_by_hand_are_shell() {
    for secret in SecretName::ALL {
        let checked = std::process::Command::new("bash").args(["-n", "-c", secret.recipe().by_hand]).status();
        assert!(checked.unwrap().success(), "{secret}");
    }
}

#[test]
fn a_plan_says_what_is_done_with_whose_authority_and_what_is_at_stake() {
    let operator = Operator::new();
    let how = "tests/rotation_map/plan.txt is stale; if the change is meant: \
               reseal rotate plan FLY_API_TOKEN >tests/rotation_map/plan.txt";
    let said = operator.reseal(&["rotate", "plan", "FLY_API_TOKEN"]).exits(0);
    assert!(said.out == file("tests/rotation_map/plan.txt"), "{how}\n{}", said.out);
    let json = operator.reseal(&["rotate", "plan", "FLY_API_TOKEN", "--output", "json"]).exits(0).json();
    let digest = json["digest"].as_str().unwrap();
    assert!(said.out.ends_with(&format!("Plan {digest}\n")));
    assert_eq!(said.hints(), [format!("reseal rotate FLY_API_TOKEN --plan {digest}")]);
    assert_eq!((&json["cut_over"], &json["steps"][13]["undo"]), (&"revoke".into(), &"irreversible".into()));
    assert_eq!(json["outage"]["steps"], serde_json::json!([]));
}

#[test]
fn a_plan_is_of_what_was_asked_for() {
    let operator = Operator::new();
    let json = |args: &[&str]| {
        operator.reseal(&[&["rotate", "plan"], args, &["--output", "json"]].concat()).exits(0).json()
    };
    let digest = |args: &[&str]| json(args)["digest"].as_str().unwrap().to_owned();
    let plain = digest(&["RESEND_API_KEY"]);
    assert_eq!(digest(&["RESEND_API_KEY", "--stage"]), plain, "it is staged anyway");
    assert_eq!(digest(&["RESEND_API_KEY", "--strategy", "two-keys"]), plain);
    let deployed = digest(&["RESEND_API_KEY", "--deploy"]);
    let emergency = json(&["RESEND_API_KEY", "--emergency"]);
    assert_ne!(deployed, plain);
    assert_ne!(emergency["digest"], deployed);
    assert_eq!((&emergency["rollout"], &emergency["cut_over"]), (&"deploy".into(), &"revoke".into()));
    let redis = json(&["TENANT_REDIS_URL", "--strategy", "new-database"]);
    assert_eq!((&redis["strategy"], &redis["outage"]["seconds"]), (&"new-database".into(), &0.into()));
    let next = redis["next"].as_str().unwrap();
    assert!(next.starts_with("reseal rotate TENANT_REDIS_URL --strategy new-database --plan "), "{next}");
}

#[test]
fn what_can_not_be_planned_is_refused() {
    let operator = Operator::new();
    let said = operator.reseal(&["rotate", "plan", "GITHUB_TOKEN"]).exits(4);
    assert!(said.err.contains("GITHUB_TOKEN is rotated by its issuer"), "{}", said.err);
    operator.reseal(&["rotate", "plan", "re_0123456789"]).exits(2);
    let said = operator.reseal(&["rotate", "plan", "DATABASE_URL", "--strategy", "magic"]).exits(2);
    assert_eq!(said.hints(), ["--strategy reset or alternate"]);
    operator.reseal(&["rotate", "plan", "RESEND_API_KEY", "--stage", "--deploy"]).exits(2);
}

#[tokio::test]
async fn the_map_has_every_secret_and_everything_else_that_somebody_holds() {
    let (operator, _pool, _) = Operator::on_sqlite(1).await;
    operator.reseal(&["init"]).exits(0);
    let json = operator.reseal(&["secrets", "list", "--output", "json"]).exits(0).json();
    let names = |list: &str, name: &str| -> Vec<String> {
        json[list].as_array().unwrap().iter().map(|row| row[name].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("secrets", "secret"), SecretName::ALL.map(|secret| secret.as_str().to_owned()));
    let outside: Vec<_> = OUTSIDE.iter().map(|outside| outside.name).collect();
    assert_eq!(names("outside", "name"), outside);
    for row in json["secrets"].as_array().unwrap() {
        let state = if row["secret"] == "GITHUB_TOKEN" { "automatic" } else { "never rotated here" };
        assert_eq!(row["rotation"]["state"], state, "{row}");
        assert!(!row["kept"].as_array().unwrap().is_empty() && !row["purpose"].as_str().unwrap().is_empty());
    }
    let human = operator.reseal(&["secrets", "list"]).exits(0).out;
    for name in SecretName::ALL.map(SecretName::as_str).into_iter().chain(outside) {
        assert!(human.contains(&format!("{name}: ")), "{name}");
    }
    let contacts = operator.reseal(&["secrets", "contacts"]).exits(0).out;
    let who: Vec<_> = contacts.lines().map(|line| line.split("  ").next().unwrap().trim()).collect();
    assert_eq!(who, ["Fly", "GHCR", "Neon", "Upstash", "Stripe", "Resend"]);
}

/// An operator of a world: its journal, its keyring, and what its vendors are reached with.
fn operator_of(world: &World) -> Operator {
    let mut operator = Operator::new();
    let journal = world.journal();
    let keyring = journal.with_file_name("keyring.json");
    let resend = world.resend.admin().to_owned();
    let settings = [
        ("RESEAL_STATE_URL", format!("sqlite://{}", journal.display())),
        ("RESEAL_KMS", format!("local-kms:{}", keyring.display())),
        ("RESEAL_FLY_TOKEN", world.fly.user_token()),
        ("RESEAL_FLY_MACHINES_URL", world.fly.machines_url()),
        ("RESEAL_FLY_GRAPHQL_URL", world.fly.graphql_url()),
        ("RESEAL_GITHUB_TOKEN", world.github.token()),
        ("RESEAL_GITHUB_URL", world.github.vendor.url().to_owned()),
        ("RESEAL_GITHUB_REPO", crate::support::vendors::github::REPOSITORY.to_owned()),
        ("RESEAL_RESEND_TOKEN", resend),
        ("RESEAL_RESEND_URL", world.resend.vendor.url().to_owned()),
    ];
    for (name, value) in &settings {
        operator.set(name, value);
    }
    for name in ["RESEAL_FLY_TOKEN", "RESEAL_GITHUB_TOKEN", "RESEAL_RESEND_TOKEN"] {
        operator.guard(&settings.iter().find(|(setting, _)| *setting == name).unwrap().1);
    }
    for secret in SecretName::ALL {
        world.in_use(secret).iter().filter(|value| !value.is_empty()).for_each(|value| operator.guard(value));
    }
    operator
}

#[tokio::test]
async fn a_plan_shows_what_is_so_now_and_has_the_same_digest() {
    let world = World::start(SecretName::FlyApiToken).await;
    let fly = &world.estate.fly.as_ref().unwrap().fly;
    let staged = AppSecret::new(fly, APP, "STRIPE_API_KEY");
    staged.write(&SecretText::new("sk_live_staged".to_owned())).await.unwrap();
    let operator = operator_of(&world);
    let asked = ["rotate", "plan", "FLY_API_TOKEN", "--output", "json"];
    let json = operator.reseal(&asked).exits(0).json();
    assert_eq!(json["digest"], Operator::new().reseal(&asked).exits(0).json()["digest"]);
    let live = &json["live"];
    assert_eq!((&live["old_id_is_known"], &live["old_value_is_known"]), (&true.into(), &true.into()));
    assert_eq!(live["staged"], serde_json::json!(["STRIPE_API_KEY"]));
    let human = operator.reseal(&["rotate", "plan", "FLY_API_TOKEN"]).exits(0).out;
    assert!(human.contains("the deploy also releases what is staged: STRIPE_API_KEY\n"), "{human}");
    assert!(human.contains("its id is known, its value is known"), "{human}");
}

#[test]
fn a_rotation_is_held_to_its_plan() {
    let operator = Operator::new();
    let plan = operator.reseal(&["rotate", "plan", "RESEND_API_KEY", "--output", "json"]).exits(0).json();
    let digest = plan["digest"].as_str().unwrap();
    let rotate = |args: &[&str]| operator.reseal(&[&["rotate", "RESEND_API_KEY", "--yes"], args].concat());
    let said = rotate(&["--plan", digest, "--emergency"]).exits(4);
    assert!(said.err.contains("this is not what was planned"), "{}", said.err);
    assert_eq!(said.hints(), ["look at what is so now: reseal rotate plan RESEND_API_KEY"]);
    rotate(&["--plan", &digest[1..]]).exits(2);
    // What was planned gets as far as the next thing that is missing.
    let said = rotate(&["--plan", digest]).exits(2);
    assert!(said.err.contains("nothing says where the journal is"), "{}", said.err);
}

#[tokio::test]
async fn a_check_ends_with_3_when_something_is_off_and_with_0_otherwise() {
    let world = World::start(SecretName::ResendApiKey).await;
    // What this operator has no access to is not looked at; this one can be, and has no server here.
    world
        .execute("DELETE FROM reseal_credentials WHERE secret IN ('DATABASE_URL', 'TENANT_REDIS_URL')")
        .await;
    world.execute("DELETE FROM reseal_credentials WHERE secret = 'STRIPE_API_KEY'").await;
    let operator = operator_of(&world);
    let said = operator.reseal(&["secrets", "check"]).exits(0);
    assert!(said.out.ends_with("Nothing is off, as far as can be seen.\n"), "{}", said.out);
    assert!(
        said.out.contains("\n  value in use: live\n") && said.out.contains("not tried: no access to Neon")
    );
    world.fly.set(APP, "RESEND_API_KEY", "re_by_hand");
    world.execute("UPDATE reseal_credentials SET created_at = created_at - 3600000").await;
    let json = operator.reseal(&["secrets", "check", "--output", "json"]).exits(3).json();
    let kinds = |json: &Value| -> Vec<String> {
        let findings = json["findings"].as_array().unwrap().iter();
        findings
            .map(|finding| {
                format!("{} {}", finding["secret"].as_str().unwrap(), finding["kind"].as_str().unwrap())
            })
            .collect()
    };
    assert!(kinds(&json).contains(&"RESEND_API_KEY drift".to_owned()), "{json}");
    let since = ["secrets", "check", "--since", "2026-01-01", "--output", "json"];
    let json = operator.reseal(&since).exits(3).json();
    assert_eq!(json["since"], "2026-01-01T00:00:00Z");
    assert!(kinds(&json).contains(&"DATABASE_URL not-replaced".to_owned()), "{json}");
    operator.reseal(&["secrets", "check", "--since", "yesterday"]).exits(2);
}

#[tokio::test]
async fn a_check_without_any_access_says_that_it_saw_nothing() {
    let (operator, _pool, _) = Operator::on_sqlite(1).await;
    operator.reseal(&["secrets", "check"]).exits(4);
    operator.reseal(&["init"]).exits(0);
    // For who goes by the exit code alone, silence is not health.
    let said = operator.reseal(&["secrets", "check"]).exits(3);
    assert!(
        said.out.ends_with("Nothing could be looked at: that nothing is off is not known.\n"),
        "{}",
        said.out
    );
    assert!(said.hints()[0].contains("reseal rotate adopt SECRET"), "{}", said.err);
    let json = operator.reseal(&["secrets", "check", "--output", "json"]).exits(3).json();
    assert_eq!(json["ok"], false);
    for secret in json["secrets"].as_array().unwrap() {
        let places = secret["places"].as_array().unwrap();
        assert!(places.iter().all(|place| place["seen"] == "not-seen"), "{secret}");
    }
    operator.reseal(&["secrets", "check", "--since", "2026-01-01"]).exits(3);
}
