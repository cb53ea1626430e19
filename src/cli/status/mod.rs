//! `status`: where the latest run stands, once or again and again.

use clap::{Arg, ArgAction, Command};
use reseal::{
    rekey::RunKeys,
    store::{RunRow, RunState},
};
use serde_json::json;

mod look;
mod screen;
mod watch;

use self::look::Look;
use super::{Answer, Call, Exit, Fault, args, connect, fence, meant};

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
    Ok(Answer::Report {
        exit: Exit::Done,
        human: screen::in_words(&look),
        json: screen::document(&look),
        hints: next(call, &look.run, &look.keys, look.held()),
    })
}

/// What to type next. A run knows its keys by their ids, not where the operator keeps them.
fn next(call: &Call, run: &RunRow, keys: &RunKeys, held: i64) -> Vec<String> {
    let again = |command: &str| format!("{} --format {} --new KEY", call.again(command), keys.format);
    match run.state {
        RunState::Paused => vec![call.again("resume")],
        RunState::Running => {
            vec![format!("to go on, with the keys above: {} --old KEY", again("run"))]
        }
        RunState::Chased | RunState::Failed => {
            vec![format!("once the cause is mended, with the keys above: {} --old KEY", again("run"))]
        }
        RunState::Complete | RunState::Quarantined if held > 0 => vec![call.again("quarantine list")],
        RunState::Complete | RunState::Quarantined => vec![again("verify")],
    }
}
