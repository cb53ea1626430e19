//! `rotate plan`: what a rotation would do, with whose authority, and what is at stake. Changes nothing.

use clap::Command;
use reseal::{
    rotation::{
        FlyApp, Plan,
        recipe::{Rollout, Step, Undo},
    },
    store::{Credential, CredentialState},
    time::about,
};
use serde_json::{Value, json};

use super::{begin, estate, fault, secret};
use crate::cli::{
    Answer, Call, Exit, Fault, args,
    stdio::{shown, wrapped},
};

pub(super) fn command() -> Command {
    let command = Command::new("plan")
        .about("Say what a rotation would do, with whose authority, and what is at stake; changes nothing")
        .arg(super::secret_arg().required(true))
        .args(begin::ways());
    args::with_settings(command, &[args::DATABASE, super::JOURNAL, args::OUTPUT]).after_help(
        "A plan ends with its digest. `rotate SECRET --plan DIGEST` does only what was planned. What is so at the moment is \
         shown as far as the settings reach, and is no part of it.\n\n\
         Example:\n  reseal rotate plan FLY_API_TOKEN",
    )
}

pub(in crate::cli) async fn plan(call: &Call) -> Result<Answer, Fault> {
    let plan = planned(call)?;
    let fly = estate::fly(call)?;
    let is_named = ["state-url", "database-url"].iter().any(|name| call.settings.value(name).is_some());
    let credentials = if is_named {
        Some(super::journal(call).await?.store.credentials(Some(plan.recipe.secret.as_str())).await?)
    } else {
        None
    };
    let live = Live::look(&plan, fly.as_ref(), credentials.as_deref()).await;
    Ok(answer(call, &plan, &live))
}

/// The plan of what the arguments ask for.
pub(super) fn planned(call: &Call) -> Result<Plan, Fault> {
    let Some(secret) = secret(call)? else { return Err(Fault::usage("missing: SECRET")) };
    let strategy = call.args.get_one::<String>("strategy").map(String::as_str);
    Plan::of(secret, strategy, &begin::asked(call)).map_err(|error| fault(call, error))
}

/// What only a look tells, and no digest covers.
#[derive(Debug, Default)]
struct Live {
    /// The other secrets that the deploy would release, or why that is not known; `None` where it does not deploy, or Fly
    /// is not configured.
    staged: Option<Result<Vec<String>, String>>,
    /// What the journal knows of the credential that goes; `None` without a journal.
    old: Option<Old>,
}

/// What the journal knows of the credential that goes.
#[derive(Debug, Default, Clone, Copy)]
struct Old {
    id: bool,
    value: bool,
}

impl Live {
    /// Looks, as far as `fly` and `credentials` are there.
    async fn look(plan: &Plan, fly: Option<&FlyApp>, credentials: Option<&[Credential]>) -> Self {
        let own = plan.recipe.secret.as_str();
        let staged = match fly.filter(|_| plan.rollout == Rollout::Deploy) {
            None => None,
            Some(fly) => Some(match fly.fly.staged(&fly.app).await {
                Ok(names) => Ok(names.into_iter().filter(|name| name != own).collect()),
                Err(error) => Err(error.to_string()),
            }),
        };
        let current = |known: &&Credential| known.secret == own && known.state == CredentialState::Current;
        let old = credentials.map(|credentials| {
            let current = credentials.iter().find(current);
            current.map_or_else(Old::default, |known| Old {
                id: known.provider_id.is_some(),
                value: known.sealed.is_some(),
            })
        });
        Self { staged, old }
    }
}

/// The answer.
fn answer(call: &Call, plan: &Plan, live: &Live) -> Answer {
    let rotate = format!("{} {}", call.again("rotate"), plan.recipe.secret);
    let next = format!("{rotate}{} --plan {}", begin::ways_again(call), plan.digest());
    let digest = format!("Plan {}\n", plan.digest());
    let human =
        [head(plan), stakes(plan), steps(plan), ending(plan), known_live(plan, live), digest].concat();
    let json = document(plan, live, &next);
    Answer::Report { exit: Exit::Done, human, json, hints: vec![next] }
}

fn head(plan: &Plan) -> String {
    let emergency = if plan.emergency { ", as an emergency" } else { "" };
    format!("{} by {}{emergency}.\n", plan.recipe.secret, plan.strategy.name)
        + &wrapped(plan.strategy.when, 2)
        + &wrapped(&format!("Old and new value: {}.", plan.strategy.overlap.in_words()), 2)
        + "\n"
}

fn stakes(plan: &Plan) -> String {
    let recipe = plan.recipe;
    let mut text = "What is at stake:\n".to_owned();
    let mut say = |line: &str| text += &wrapped(line, 2);
    say(&format!("when it stops working: {}", recipe.blast_radius));
    say(&format!("half done: {}", recipe.half_done));
    if let Some(coupled) = recipe.coupled {
        say(&format!("coupled: {coupled}"));
    }
    if let Some(line) = recipe.watch {
        say(&format!("log line to watch afterwards: {line}"));
    }
    let contacts = recipe.contacts.iter().map(|contact| format!("{}: {}", contact.who, contact.how));
    say(&format!("who helps: {}", contacts.collect::<Vec<_>>().join("; ")));
    text + "\n"
}

fn steps(plan: &Plan) -> String {
    let mut text = "Steps:\n".to_owned();
    for (number, step) in plan.steps.iter().enumerate() {
        if number == plan.cut_over {
            text += "  -- from here on there is no way back --\n";
        }
        text += &format!("  {:>2} {}\n", number + 1, step.name);
        text += &wrapped(step.text, 5);
        if step.calls != "-" {
            text += &wrapped(&format!("calls: {}", step.calls), 5);
        }
        text += &wrapped(&particulars(step), 5);
    }
    text + "\n"
}

fn particulars(step: &Step) -> String {
    let by = (step.by.as_str() != "-").then(|| format!("by {}", step.by.as_str()));
    let undo = (step.undo() != Undo::Nothing).then(|| match step.undo() {
        Undo::Never => "irreversible".to_owned(),
        undo => format!("to undo: {}", undo.as_str()),
    });
    let time = (step.seconds > 0).then(|| format!("about {}", about(step.seconds)));
    by.into_iter().chain(time).chain(undo).collect::<Vec<_>>().join(", ")
}

fn ending(plan: &Plan) -> String {
    let waits: String = plan.waits().iter().map(|wait| format!(", besides {wait}")).collect();
    let mut text = wrapped(&format!("About {} in all{waits}.", about(plan.seconds())), 0);
    let outage = plan.outage();
    if let (Some(first), Some(last)) = (outage.first(), outage.last()) {
        let seconds: u32 = outage.iter().map(|step| step.seconds).sum();
        let until = if plan.rollout == Rollout::Stage { " and the next deploy" } else { "" };
        text += &wrapped(
            &format!(
                "Down from {} to {}, about {}{until}: {}",
                first.name,
                last.name,
                about(seconds),
                plan.recipe.blast_radius
            ),
            0,
        );
    }
    text + "\n"
}

fn known_live(plan: &Plan, live: &Live) -> String {
    let mut text = String::new();
    let mut say = |line: &str| text += &wrapped(line, 2);
    match &live.staged {
        Some(Ok(names)) if names.is_empty() => {
            say("nothing else is staged: the deploy releases this secret alone")
        }
        Some(Ok(names)) => {
            say(&format!("the deploy also releases what is staged: {}", shown(&names.join(", "))))
        }
        Some(Err(why)) => say(&format!("what else is staged is not known: {}", shown(why))),
        None => {}
    }
    if let Some(old) = live.old {
        let word = |known: bool| if known { "known" } else { "not known" };
        say(&format!("the old credential: its id is {}, its value is {}", word(old.id), word(old.value)));
        if !(old.id && old.value) {
            say(&format!("what is not known is made so by: reseal rotate adopt {}", plan.recipe.secret));
        }
    }
    if text.is_empty() { text } else { format!("As it is now (no part of the digest):\n{text}\n") }
}

fn document(plan: &Plan, live: &Live, next: &str) -> Value {
    let recipe = plan.recipe;
    let (staged, staged_error) = match &live.staged {
        Some(Ok(names)) => (Some(names), None),
        Some(Err(why)) => (None, Some(why)),
        None => (None, None),
    };
    json!({
        "command": "rotate plan",
        "secret": recipe.secret.as_str(),
        "strategy": plan.strategy.name,
        "digest": plan.digest().to_string(),
        "emergency": plan.emergency,
        "rollout": plan.rollout,
        "overlap": plan.strategy.overlap,
        "blast_radius": recipe.blast_radius,
        "half_done": recipe.half_done,
        "coupled": recipe.coupled,
        "watch": recipe.watch,
        "contacts": recipe.contacts,
        "steps": plan.steps.iter().enumerate().map(|(number, step)| json!({
            "number": number + 1,
            "name": step.name,
            "text": step.text,
            "calls": step.calls,
            "by": step.by.as_str(),
            "undo": step.undo().as_str(),
            "seconds": step.seconds,
        })).collect::<Vec<_>>(),
        "cut_over": plan.steps.get(plan.cut_over).map(|step| step.name),
        "seconds": plan.seconds(),
        "waits": plan.waits(),
        "outage": {
            "steps": plan.outage().iter().map(|step| step.name).collect::<Vec<_>>(),
            "seconds": plan.outage().iter().map(|step| step.seconds).sum::<u32>(),
        },
        "live": {
            "staged": staged,
            "staged_error": staged_error,
            "old_id_is_known": live.old.map(|old| old.id),
            "old_value_is_known": live.old.map(|old| old.value),
        },
        "next": next,
    })
}
