//! `secrets list`, `secrets check` and `secrets contacts`: the secret map, and whether anything is off.

use clap::{Arg, Command};
use reseal::rotation::map;
use serde_json::json;

use super::{Answer, Call, Exit, Fault, args, rotation};

mod check;
mod list;

pub(super) use check::run as check;
pub(super) use list::run as list;

pub(super) fn command() -> Command {
    let list = Command::new("list").about(
        "The secret map: where each secret is kept, what for, when it was rotated, and what is under way",
    );
    let list = args::with_settings(list, &[args::DATABASE, rotation::JOURNAL, args::OUTPUT])
        .after_help("Example:\n  reseal secrets list");
    let since = Arg::new("since")
        .long("since")
        .value_name("TIME")
        .help("After an incident: also find every secret that was not replaced after this time");
    let check = Command::new("check").about("Whether anything is off; changes nothing").arg(since);
    let groups = [args::DATABASE, rotation::JOURNAL, args::NAME, args::COLUMNS, args::OUTPUT];
    let check = args::with_settings(check, &groups).after_help(
        "It tries the values that the journal knows, and compares each location with what the journal says of it. No\n\
         location shows what it holds, so none is ever called right: it is unreadable, and written to since or not.\n\
         TIME is a date or RFC 3339.\n\n\
         Exit codes: 0 nothing is off, 3 something is\n\n\
         Examples:\n  reseal secrets check\n  reseal secrets check --since 2026-11-22T06:30:00Z",
    );
    let contacts = Command::new("contacts").about("Whom to ask in an emergency");
    let contacts =
        args::with_settings(contacts, &[args::OUTPUT]).after_help("Example:\n  reseal secrets contacts");
    Command::new("secrets")
        .about("The secret map")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands([list, check, contacts])
}

pub(super) fn contacts(_: &Call) -> Result<Answer, Fault> {
    let contacts = map::contacts();
    let human = contacts.iter().map(|contact| format!("{:8}  {}\n", contact.who, contact.how)).collect();
    let json = json!({"command": "secrets contacts", "contacts": contacts});
    Ok(Answer::Report { exit: Exit::Done, human, json, hints: Vec::new() })
}
