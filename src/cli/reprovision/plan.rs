//! `reprovision plan`: which tenants, in which order, what each will feel, and what stands in the way. Changes nothing.

use std::collections::BTreeMap;

use clap::Command;
use reseal::{
    keyring::spec::KeySpec,
    rekey::Intent,
    reprovision::{Asked, Estimate, Obstacle, Placement, Plan, Planned, Works},
    time::about,
};
use serde_json::{Value, json};

use super::{Parts, agree, asked, fault, tally::tenants, with_works};
use crate::cli::{
    Answer, Call, Exit, Fault, rotation,
    stdio::{commas, shown, wrapped},
};

/// What the control plane calls the new key.
const KEY: &str = "KMS_KEY_ARN";

/// Tenants that a person is shown.
const SHOWN: usize = 50;

pub(super) fn command() -> Command {
    let command = Command::new("plan").about(
        "Say what a run would do, what each tenant will feel, and what stands in the way; changes nothing",
    );
    with_works(asked::arguments(command)).after_help(
        "Every tenant's row, machine and branch is looked at, and whether the tokens may change them. A plan ends with its \
         digest; `run --plan DIGEST` does only what was planned. Exit 4 while something stands in the way.\n\n\
         Example:\n  reseal reprovision plan --new aws-kms:alias/tenants --kms aws-kms:alias/reseal",
    )
}

pub(in crate::cli) async fn plan(call: &Call) -> Result<Answer, Fault> {
    let asked = asked::asked(call)?;
    let parts = Parts::of(call, asked::way(call, &asked)?)?;
    let journal = rotation::journal(call).await?;
    let vault = rotation::vault_to_look(call, &journal).await?;
    let works = parts.assemble(call, &journal, vault, Intent::Look).await?;
    Ok(answer(call, &works, &planned(call, &works, asked).await?))
}

/// The plan, and what is to be known of the control plane.
pub(super) async fn planned(call: &Call, works: &Works, asked: Asked) -> Result<Plan, Fault> {
    let mut plan = Plan::of(works, asked).await.map_err(|error| fault(call, error))?;
    plan.warnings.extend(key_is_missing(call, works).await);
    Ok(plan)
}

/// What the control plane reads from now on is under the new key. Where its app can't be looked at, nothing is known.
async fn key_is_missing(call: &Call, works: &Works) -> Option<Obstacle> {
    let app = call.settings.text("fly-app").filter(|_| matches!(works.keys.new, KeySpec::Kms(_)))?;
    let secrets = works.fly.secrets(app).await.ok()?;
    if secrets.iter().any(|secret| secret.name == KEY) {
        return None;
    }
    Some(Obstacle {
        tenant: None,
        what: format!("app {app} has no {KEY}, and can't read what a run writes"),
        hint: "set and deploy it first; or have all of it done: reseal rotate SECRETS_ENCRYPTION_KEY --strategy reprovision"
            .to_owned(),
    })
}

fn answer(call: &Call, works: &Works, plan: &Plan) -> Answer {
    let expected = plan.estimate(works.manner.concurrency);
    let next = format!("{} --plan {}", asked::again(call, "reprovision run"), plan.digest());
    let is_clear = plan.obstacles.is_empty() && !plan.tenants.is_empty();
    let human = [
        head(works, plan),
        table(plan),
        stakes(works, plan, &expected),
        findings("To be known", &plan.warnings),
        findings("In the way", &plan.obstacles),
        format!("Plan {}\n", plan.digest()),
    ]
    .concat();
    let json = document(call, works, plan, &expected, is_clear.then_some(&next));
    let (exit, hints) =
        if is_clear { (Exit::Done, vec![next]) } else { (Exit::Refused, agree::ways_out(call, plan)) };
    Answer::Report { exit, human, json, hints }
}

fn head(works: &Works, plan: &Plan) -> String {
    let mut text = format!(
        "{} of {} by {}{}.\n",
        tenants(plan.tenants.len()),
        works.job.target.name,
        plan.asked.strategy.as_str(),
        if plan.asked.hard { ", hard" } else { "" }
    );
    text += &wrapped(agree::keeps(plan.asked.strategy), 2);
    text += &wrapped(
        match works.redis {
            Some(_) => "Redis: each gets TENANT_REDIS_URL as it is now, with its own path.",
            None => "Redis: each keeps the URL it has; no TENANT_REDIS_URL is known here.",
        },
        2,
    );
    if plan.unprovisioned > 0 {
        let rows = if plan.unprovisioned == 1 { "row has" } else { "rows have" };
        text += &wrapped(
            &format!(
                "{} {rows} no machine, no branch and no URL yet, and nothing to be done.",
                plan.unprovisioned
            ),
            2,
        );
    }
    text + "\n"
}

/// The tenants, those of one course with what their way is.
fn table(plan: &Plan) -> String {
    let rows = plan.tenants.iter().take(SHOWN);
    let width = rows.clone().map(|one| shown(&one.tenant).chars().count()).max().unwrap_or_default();
    let rows = rows.enumerate().map(|(number, one)| {
        let canary = if number < plan.asked.canary { ", canary" } else { "" };
        format!(
            "  {:>3} {:width$}  down {:>4}  {}{canary}\n",
            number + 1,
            shown(&one.tenant),
            downtime(one),
            one.why()
        )
    });
    let mut text: String = rows.collect();
    if plan.tenants.len() > SHOWN {
        text += &format!("      and {} more\n", plan.tenants.len() - SHOWN);
    }
    let mut ways = BTreeMap::<String, usize>::new();
    plan.tenants.iter().for_each(|one| *ways.entry(way(one)).or_default() += 1);
    for (way, count) in ways {
        text += &wrapped(&format!("{}: {way}", tenants(count)), 2);
    }
    text + "\n"
}

fn downtime(planned: &Planned) -> String {
    about(u32::try_from(planned.downtime().as_secs()).unwrap_or(u32::MAX))
}

/// A tenant's phases.
fn way(planned: &Planned) -> String {
    let names: Vec<_> = planned.course.phases().iter().map(|phase| phase.as_str()).collect();
    names.join(" → ")
}

fn stakes(works: &Works, plan: &Plan, expected: &Estimate) -> String {
    let mut text = "What it takes:\n".to_owned();
    let mut say = |line: &str| text += &wrapped(line, 2);
    say(&agree::canaries(&plan.asked));
    let concurrency = works.manner.concurrency;
    say(&format!("{concurrency} tenants at once, in the order above."));
    let calls = |count: u64| commas(i64::try_from(count).unwrap_or(i64::MAX));
    say(&format!(
        "Calls, about: {} to Fly, of each kind one a second for a machine; {} that make machines, one a second for an app; {} to \
         Neon, 700 a minute, and one change at a time in a project.",
        calls(expected.calls.fly),
        calls(expected.calls.creates),
        calls(expected.calls.neon)
    ));
    if expected.machines > 0 {
        say(&format!(
            "Machines besides those there are now, for a while: up to {}. What that costs is not known here: the price of \
             machines like those there are, for about as long as a tenant takes.",
            expected.machines
        ));
    }
    if expected.branches > 0 {
        say(&format!("New branches, each with a compute: {}; the old ones lose theirs.", expected.branches));
    }
    if plan.asked.hard {
        say(agree::COST);
    }
    text += &agree::length(plan, expected);
    text + "\n"
}

fn findings(title: &str, found: &[Obstacle]) -> String {
    const SHOWN: usize = 20;
    if found.is_empty() {
        return String::new();
    }
    let mut text = format!("{title}, {}:\n", found.len());
    for one in found.iter().take(SHOWN) {
        text += &wrapped(&shown(&one.what), 2);
        text += &wrapped(&format!("→ {}", shown(&one.hint)), 4);
    }
    if found.len() > SHOWN {
        text += &format!("  and {} more\n", found.len() - SHOWN);
    }
    text + "\n"
}

/// Obstacles or warnings.
pub(super) fn obstacles(found: &[Obstacle]) -> Value {
    found.iter().map(|one| json!({"tenant": one.tenant, "what": one.what, "hint": one.hint})).collect()
}

fn document(call: &Call, works: &Works, plan: &Plan, expected: &Estimate, next: Option<&String>) -> Value {
    let tenant = |one: &Planned| {
        json!({
            "tenant": one.tenant,
            "app": one.app,
            "machine": one.machine,
            "project": one.project,
            "branch": one.branch,
            "in_place": one.course.placement == Placement::InPlace,
            "why": one.why(),
            "phases": one.course.phases(),
            "downtime_seconds": one.downtime().as_secs(),
        })
    };
    json!({
        "command": call.name,
        "digest": plan.digest().to_string(),
        "target": works.job.target.name,
        "strategy": plan.asked.strategy,
        "hard": plan.asked.hard,
        "canary": plan.asked.canary,
        "pause": plan.asked.pause,
        "concurrency": works.manner.concurrency,
        "redis": if works.redis.is_some() { "replaced" } else { "kept" },
        "tenants": plan.tenants.iter().map(tenant).collect::<Vec<_>>(),
        "unprovisioned": plan.unprovisioned,
        "calls": {
            "fly_machines": expected.calls.fly,
            "fly_creates": expected.calls.creates,
            "neon": expected.calls.neon,
        },
        "seconds": expected.duration.as_secs(),
        "bound_by": expected.bound_by,
        "downtime_seconds": expected.downtime.as_secs(),
        "for_a_while": {"machines": expected.machines, "branches": expected.branches},
        "warnings": obstacles(&plan.warnings),
        "obstacles": obstacles(&plan.obstacles),
        "next": next,
    })
}
