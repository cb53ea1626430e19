//! `status`: where the latest run stands, once or again and again.

use clap::{Arg, ArgAction, Command};
use reseal::{
    rekey::{self, RunKeys},
    store::{RunState, Staging, Store, TargetName},
};
use serde_json::json;

mod look;
mod screen;
mod watch;

use self::look::Look;
use super::{Answer, Call, Exit, Fault, args, connect, fence, meant, next};

pub(super) fn command() -> Command {
    let about = "Say where the latest run stands, and what to type next";
    let watch = Arg::new("watch")
        .long("watch")
        .action(ArgAction::SetTrue)
        .help("Keep showing it until it is over, or Ctrl-C");
    args::with_settings(Command::new("status").about(about), &[args::DATABASE, args::NAME, args::OUTPUT])
        .arg(watch)
        .after_help("Examples:\n  reseal status --output json\n  reseal status --watch")
}

pub(super) async fn run(call: &Call) -> Result<Answer, Fault> {
    let name = meant::target_name(call)?;
    let target = name.logical();
    let store = connect::store(call, 1).await?;
    let migrated = store.is_migrated().await?;
    if migrated && call.args.get_flag("watch") {
        watch::watch(store.as_ref(), target, call.output).await?;
    }
    let look = if migrated { Look::at(store.as_ref(), target).await? } else { None };
    let Some(look) = look else {
        return before_a_run(call, store.as_ref(), &name, migrated).await;
    };
    let hints = to_type(call, store.as_ref(), &look).await?;
    let (human, json) = (screen::in_words(&look), screen::document(&look));
    Ok(Answer::Report { exit: Exit::Done, human, json, hints })
}

/// Where a target stands that had no run: not there at all, not begun, or staged.
async fn before_a_run(
    call: &Call,
    store: &dyn Store,
    name: &TargetName,
    migrated: bool,
) -> Result<Answer, Fault> {
    let target = name.logical();
    let inspection = store.inspect(name).await?;
    if !inspection.exists {
        let what = inspection.refusals().next().map(|finding| finding.what.clone()).unwrap_or_default();
        let place = connect::place(call).map(|place| format!(" (the database is {place})"));
        return Err(Fault::refused(what + &place.unwrap_or_default())
            .hint("name it with --table, or name its database: DATABASE_URL"));
    }
    let up = if migrated { store.fence(target).await? } else { None };
    let staging = if migrated { store.staging(target).await? } else { None };
    let fence = up.as_ref().map(|up| fence::in_words(target, Some(up))).unwrap_or_default();
    let (human, hint) = match &staging {
        Some(staging) => {
            let known = store.targets().await?.into_iter().find(|known| known.name == target);
            let run = known.map_or_else(|| call.again("run"), |known| call.again_on("run", &known));
            staged_in_words(&run, target, staging)
        }
        None => {
            let next = if migrated { "plan" } else { "init" };
            (format!("{target}: there was no run yet.\n"), call.again(next))
        }
    };
    let staging = staging.as_ref().map(|staging| if staging.is_swapped { "swapped" } else { "preparing" });
    Ok(Answer::Report {
        exit: Exit::Done,
        human: human + &fence,
        json: json!({
            "command": "status", "target": target, "run": null, "staging": staging,
            "fence": fence::json(up.as_ref()),
        }),
        hints: vec![hint],
    })
}

/// Where a staging stands, and the line that goes on with it.
fn staged_in_words(run: &str, target: &str, staging: &Staging) -> (String, String) {
    let run = format!("{run} --format v1 --old OLD-KEY --new NEW-KEY");
    let keys = serde_json::from_str::<RunKeys>(&staging.keys).ok();
    let new = keys.map(|keys| format!(" under {}", keys.new)).unwrap_or_default();
    if staging.is_swapped {
        let human = format!(
            "{target}: its values were swapped{new}. No run has looked for values under the old key since.\n"
        );
        (human, format!("once no machine with the old key runs any more: {run}"))
    } else {
        let human = format!("{target}: values are being sealed ahead{new}; the table is as it was.\n");
        (human, format!("with the new key ready to deploy: {run} --staged swap"))
    }
}

/// What to type next.
async fn to_type(call: &Call, store: &dyn Store, look: &Look) -> Result<Vec<String>, Fault> {
    if look.run.state == RunState::Paused {
        return Ok(vec![call.again("resume")]);
    }
    let targets = store.targets().await?;
    let Some(target) = targets.iter().find(|target| target.name == look.run.target) else {
        return Ok(Vec::new());
    };
    match rekey::standing(store, target).await? {
        Some(standing) => next::hints(call, store, &standing).await,
        None => Ok(Vec::new()),
    }
}
