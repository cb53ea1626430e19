//! How a re-provisioning is asked for on the command line.

use std::collections::BTreeSet;

use clap::{Arg, ArgAction, Command, builder::PossibleValuesParser, parser::ValueSource};
use reseal::{
    journal::PlanDigest,
    rekey::plan::NotADigest,
    reprovision::{Asked, Order, Strategy},
    rotation::SecretName,
};

use super::works::Way;
use crate::{
    cli::{Call, Fault},
    config::quote,
};

/// The most tenants at once.
const MOST: usize = 64;

/// Options that decide what is done; kept with the run.
const DECIDE: [&str; 10] = [
    "strategy",
    "data-loss-accepted",
    "hard",
    "only",
    "leave-out",
    "first",
    "order",
    "canary",
    "pause",
    "accept-unrotated",
];

/// Options that may be others each time that a run is taken up.
const GO_ABOUT: [&str; 3] = ["concurrency", "fallback-region", "certificate"];

/// `command` with the options of a plan, which are those of its run.
pub(super) fn arguments(command: Command) -> Command {
    command.args([
        one("strategy", "NAME", "Where fresh credentials come from: reset [default], branch or fresh")
            .value_parser(PossibleValuesParser::new(Strategy::ALL.map(Strategy::as_str))),
        switch("data-loss-accepted", "--strategy fresh: every tenant begins with nothing, and that is meant"),
        switch("hard", "Kill a tenant's old credentials before anything new is made for it"),
        many("only", "TENANT", "Only this tenant, by its row's key; repeat for each"),
        many("leave-out", "TENANT", "Not this tenant; repeat for each"),
        many("first", "TENANT", "This tenant first; repeat for each, in their order"),
        one("order", "COLUMN=VALUE,…", "Then those whose column has the first value, then the second, …"),
        one("canary", "N", "So many tenants before all others"),
        switch("pause", "Stop after the canaries, until the same command is given again").requires("canary"),
        many(
            "accept-unrotated",
            "SECRET",
            "A secret that need not have been rotated before; repeat for each",
        ),
        one("concurrency", "N", "So many tenants at once, 1 to 64 [default: 16]"),
        many(
            "fallback-region",
            "REGION",
            "Where a machine goes that has no place in its region; repeat for each",
        ),
    ])
}

fn one(name: &'static str, value_name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value_name).help(help)
}

fn many(name: &'static str, value_name: &'static str, help: &'static str) -> Arg {
    one(name, value_name, help).action(ArgAction::Append)
}

pub(super) fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

/// What the options ask for.
pub(super) fn asked(call: &Call) -> Result<Asked, Fault> {
    let texts = |name: &str| call.args.get_many::<String>(name).into_iter().flatten().cloned();
    let strategy = call.args.get_one::<String>("strategy").and_then(|name| Strategy::parse(name));
    let asked = Asked {
        strategy: strategy.unwrap_or_default(),
        data_loss_accepted: call.args.get_flag("data-loss-accepted"),
        hard: call.args.get_flag("hard"),
        only: texts("only").collect(),
        leave_out: texts("leave-out").collect(),
        first: texts("first").collect(),
        order: call.args.get_one::<String>("order").map(|text| order(text)).transpose()?,
        canary: number(call, "canary", usize::MAX)?.unwrap_or_default(),
        pause: call.args.get_flag("pause"),
        accept_unrotated: unrotated(texts("accept-unrotated"))?,
    };
    if asked.strategy == Strategy::Fresh && !asked.data_loss_accepted {
        return Err(Fault::usage("strategy fresh begins every tenant with nothing: its data is lost to it")
            .hint("--strategy reset or branch keeps it; if the loss is meant: --data-loss-accepted"));
    }
    Ok(asked)
}

/// How the options say that it is gone about.
pub(super) fn way(call: &Call, asked: &Asked) -> Result<Way, Fault> {
    let regions = call.args.get_many::<String>("fallback-region").into_iter().flatten().cloned();
    Ok(Way {
        concurrency: number(call, "concurrency", MOST)?,
        regions: regions.collect(),
        order: asked.order.as_ref().map(|order| order.column.clone()),
    })
}

/// The plan that a run is held to.
pub(super) fn approved(call: &Call) -> Result<Option<PlanDigest>, Fault> {
    let digest =
        |text: &str| text.parse().map_err(|error: NotADigest| Fault::usage(format!("--plan: {error}")));
    call.settings.text("plan").map(digest).transpose()
}

fn number(call: &Call, name: &str, most: usize) -> Result<Option<usize>, Fault> {
    let Some(text) = call.args.get_one::<String>(name) else { return Ok(None) };
    match text.parse() {
        Ok(number) if (1..=most).contains(&number) => Ok(Some(number)),
        _ if most == usize::MAX => Err(Fault::usage(format!("--{name} takes a whole number above 0"))),
        _ => Err(Fault::usage(format!("--{name} takes a whole number from 1 to {most}"))),
    }
}

fn order(text: &str) -> Result<Order, Fault> {
    let parts = text.split_once('=').map(|(column, values)| Order {
        column: column.trim().to_owned(),
        values: values.split(',').map(|value| value.trim().to_owned()).collect(),
    });
    parts
        .filter(|order| !order.column.is_empty() && order.values.iter().all(|value| !value.is_empty()))
        .ok_or_else(|| Fault::usage("--order takes COLUMN=VALUE[,VALUE…], such as plan=paying,trial"))
}

/// What was typed in a name's place may be a secret: only names are taken, and kept.
fn unrotated(names: impl Iterator<Item = String>) -> Result<BTreeSet<String>, Fault> {
    let known = |name: String| {
        let secret = name.parse::<SecretName>();
        let secret = secret.map_err(|error| Fault::usage(format!("--accept-unrotated: {error}")))?;
        Ok(secret.as_str().to_owned())
    };
    names.map(known).collect()
}

/// The first option that was given and asks for something else than an open run was begun with.
pub(super) fn otherwise(call: &Call, given: &Asked, open: &Asked) -> Option<&'static str> {
    let same = |name: &str| match name {
        "strategy" => given.strategy == open.strategy,
        "data-loss-accepted" => given.data_loss_accepted == open.data_loss_accepted,
        "hard" => given.hard == open.hard,
        "only" => given.only == open.only,
        "leave-out" => given.leave_out == open.leave_out,
        "first" => given.first == open.first,
        "order" => given.order == open.order,
        "canary" => given.canary == open.canary,
        "pause" => given.pause == open.pause,
        _ => given.accept_unrotated == open.accept_unrotated,
    };
    DECIDE.into_iter().filter(|name| is_given(call, name)).find(|name| !same(name))
}

fn is_given(call: &Call, name: &str) -> bool {
    let is_there = matches!(call.args.try_contains_id(name), Ok(true));
    is_there && call.args.value_source(name) == Some(ValueSource::CommandLine)
}

/// The line that gives `command` all that was given here.
pub(super) fn again(call: &Call, command: &str) -> String {
    let options = if command.ends_with("status") { &[][..] } else { &DECIDE };
    let ways = if command.ends_with("run") { &GO_ABOUT[..] } else { &[] };
    call.again(command) + &options.iter().chain(ways).map(|name| repeated(call, name)).collect::<String>()
}

/// The line that goes on with an open run: what decides it is kept with it.
pub(super) fn go_on(call: &Call) -> String {
    call.again("reprovision run") + &GO_ABOUT.map(|name| repeated(call, name)).concat()
}

/// An option as it was given; nothing if it was not.
fn repeated(call: &Call, name: &str) -> String {
    if !is_given(call, name) {
        return String::new();
    }
    match call.args.try_get_many::<String>(name) {
        Ok(values) => {
            values.into_iter().flatten().map(|value| format!(" --{name} {}", quote(value))).collect()
        }
        Err(_) => format!(" --{name}"),
    }
}
