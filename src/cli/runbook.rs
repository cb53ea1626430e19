//! `runbook`: the whole runbook in Markdown, or the order of an incident.

use clap::{Arg, ArgAction, Command};
use reseal::rotation::runbook;

use super::{Answer, Call, Fault, args};

pub(super) fn command() -> Command {
    let incident = Arg::new("incident")
        .long("incident")
        .action(ArgAction::SetTrue)
        .help("Only the order, with its reasons, when the control plane itself was read");
    let about = "Write the runbook in Markdown, from the recipes that rotate runs";
    args::with_settings(Command::new("runbook").about(about).arg(incident), &[])
        .after_help("Example:\n  reseal runbook >docs/runbook.md")
}

pub(super) fn run(call: &Call) -> Result<Answer, Fault> {
    let text = if call.args.get_flag("incident") { runbook::incident() } else { runbook::runbook() };
    Ok(Answer::Bytes(text.into_bytes()))
}
