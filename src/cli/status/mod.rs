//! `status`: where the latest run stands, once or again and again.

use clap::{Arg, ArgAction, Command};
use reseal::{
    rekey,
    store::{RunState, Store},
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
    let name = meant::target_name(call);
    let target = name.logical();
    let store = connect::store(call, 1).await?;
    let migrated = store.is_migrated().await?;
    if migrated && call.args.get_flag("watch") {
        watch::watch(store.as_ref(), target, call.output).await?;
    }
    let look = if migrated { Look::at(store.as_ref(), target).await? } else { None };
    let Some(look) = look else {
        let next = if migrated { "plan" } else { "init" };
        let up = if migrated { store.fence(target).await? } else { None };
        return Ok(Answer::Report {
            exit: Exit::Done,
            human: format!(
                "{target}: there was no run yet.\n{}",
                up.as_ref().map(|up| fence::in_words(target, Some(up))).unwrap_or_default()
            ),
            json: json!({"command": "status", "target": target, "run": null, "fence": fence::json(up.as_ref())}),
            hints: vec![call.again(next)],
        });
    };
    let hints = to_type(call, store.as_ref(), &look).await?;
    let (human, json) = (screen::in_words(&look), screen::document(&look));
    Ok(Answer::Report { exit: Exit::Done, human, json, hints })
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
