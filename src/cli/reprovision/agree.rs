//! Says what a run will do, and has somebody agree.

use std::collections::BTreeSet;

use reseal::{
    reprovision::{Asked, Estimate, Placement, Plan, Strategy},
    time::about,
};

use super::{asked, tally::tenants};
use crate::{
    cli::{
        Call, Fault,
        rotation::terminal,
        stdio::{note, shown, wrapped},
    },
    config::quote,
};

/// Obstacles that a person is shown.
const SHOWN: usize = 20;

/// What is typed back for `--hard`.
pub(super) const HARD: &str = "hard";

/// What `--hard` costs.
pub(super) const COST: &str = "--hard: the old credentials of each tenant die before anything new is made for it. It is down from then \
                               until its new machine passes its checks; if there is no room for one, or it never does, it is down \
                               until a person mends it.";

/// Refuses a plan that something stands in the way of.
pub(super) fn require_clear(call: &Call, plan: &Plan) -> Result<(), Fault> {
    let Some(first) = plan.obstacles.first() else {
        return if plan.tenants.is_empty() {
            Err(Fault::refused("there is no tenant to re-provision"))
        } else {
            Ok(())
        };
    };
    let count = plan.obstacles.len();
    if count > 1 {
        plan.obstacles.iter().take(SHOWN).for_each(|one| note(format_args!("- {}", shown(&one.what))));
    }
    if count > SHOWN {
        note(format_args!("- and {} more", count - SHOWN));
    }
    let what = match count {
        1 => first.what.clone(),
        many => format!("{many} things stand in the way, and nothing was begun"),
    };
    let document =
        serde_json::json!({"outcome": "refused", "obstacles": super::plan::obstacles(&plan.obstacles)});
    Err(ways_out(call, plan).into_iter().fold(Fault::refused(what), Fault::hint).with(document))
}

/// What can be done about the obstacles of a plan: a command for each, and the one that goes round them all.
pub(super) fn ways_out(call: &Call, plan: &Plan) -> Vec<String> {
    let (mut lines, mut options) = (Vec::new(), String::new());
    let hints =
        plan.obstacles.iter().filter(|obstacle| obstacle.tenant.is_none()).map(|obstacle| &obstacle.hint);
    for part in hints.flat_map(|hint| hint.split("; or: ")) {
        let line = super::typed(call, part);
        if part.starts_with("--") {
            options += &format!(" {part}");
        } else if !lines.contains(&line) {
            lines.push(line);
        }
    }
    let out: BTreeSet<_> = plan.obstacles.iter().filter_map(|obstacle| obstacle.tenant.as_ref()).collect();
    if out.len() > SHOWN {
        lines.push(format!("all of them: {} --output json", asked::again(call, "reprovision plan")));
    } else {
        options.extend(out.iter().map(|tenant| format!(" --leave-out {}", quote(tenant))));
    }
    if !options.is_empty() {
        lines.push(format!("to go round them: {}{options}", asked::again(call, &call.name)));
    }
    lines
}

/// Shows what is to be done, and has somebody agree: with a word at the terminal, or with the command.
pub(super) async fn agree(call: &Call, plan: &Plan, table: &str, concurrency: usize) -> Result<(), Fault> {
    let is_told = call.args.get_flag("yes");
    for warning in &plan.warnings {
        let line = format!("note: {}: {}", shown(&warning.what), shown(&warning.hint));
        note(format_args!("{}", wrapped(&line, 0).trim_end()));
    }
    if terminal::is_there() || plan.asked.hard {
        note(format_args!("{}", summary(plan, table, concurrency).trim_end()));
    }
    if plan.asked.hard {
        return agree_to_outage(call).await;
    }
    if is_told {
        return Ok(());
    }
    if !terminal::is_there() {
        return Err(Fault::refused("nobody is there to be asked whether to begin")
            .hint(asked::again(call, "reprovision run") + " --yes"));
    }
    match terminal::agrees("Begin now?").await {
        Ok(true) => Ok(()),
        _ => Err(Fault::refused("nothing was begun: nobody said yes")),
    }
}

async fn agree_to_outage(call: &Call) -> Result<(), Fault> {
    let confirmed = match call.args.get_one::<String>("confirm") {
        Some(word) => word == HARD,
        None if terminal::is_there() => {
            let typed = terminal::ask(&format!("Type {HARD} to go on: ")).await.ok().flatten();
            typed.is_some_and(|typed| typed.expose().trim() == HARD)
        }
        None => {
            return Err(Fault::refused(format!("--hard is confirmed by the word {HARD}"))
                .hint(format!("{} --confirm {HARD}", asked::again(call, "reprovision run"))));
        }
    };
    if confirmed { Ok(()) } else { Err(Fault::refused("nothing was begun: that is not the word")) }
}

fn summary(plan: &Plan, table: &str, concurrency: usize) -> String {
    let expected = plan.estimate(concurrency);
    let mut text = format!(
        "{} of {table} by {}, {concurrency} at once.\n",
        tenants(plan.tenants.len()),
        plan.asked.strategy.as_str()
    );
    text += &wrapped(keeps(plan.asked.strategy), 2);
    text += &wrapped(&canaries(&plan.asked), 2);
    text += &length(plan, &expected);
    if plan.asked.hard {
        text += &wrapped(COST, 2);
    }
    text
}

/// What becomes of a tenant's data.
pub(super) fn keeps(strategy: Strategy) -> &'static str {
    match strategy {
        Strategy::Reset => "Every role of a tenant's branch gets a new password; its data stays where it is.",
        Strategy::Branch => {
            "Each tenant moves to a child of its branch, with its data, made while nobody writes; the old branch stays \
             without a way in."
        }
        Strategy::Fresh => {
            "Each tenant begins with nothing, on a child of its project's default branch: its data is lost to it."
        }
    }
}

/// Who comes first.
pub(super) fn canaries(asked: &Asked) -> String {
    match (asked.canary, asked.pause) {
        (0, _) => "All in one go.".to_owned(),
        (canary, true) => {
            format!("Canaries: the first {canary}; then it stops until it is told to go on.")
        }
        (canary, false) => {
            format!("Canaries: the first {canary}; the others are begun once these are done.")
        }
    }
}

/// How long it takes, and what each tenant feels of it.
pub(super) fn length(plan: &Plan, expected: &Estimate) -> String {
    let seconds = |time: std::time::Duration| about(u32::try_from(time.as_secs()).unwrap_or(u32::MAX));
    let mut text = wrapped(
        &format!(
            "About {} in all; what decides it: {}. Each tenant is down for about {} of that at most.",
            seconds(expected.duration),
            expected.bound_by,
            seconds(expected.downtime)
        ),
        2,
    );
    let in_place = plan.tenants.iter().filter(|one| one.course.placement == Placement::InPlace).count();
    if in_place > 0 {
        text += &wrapped(
            &format!(
                "{} with a volume, which only one machine can have: updated where the machine is, and down until it passes \
                 its checks again.",
                tenants(in_place)
            ),
            2,
        );
    }
    text
}
