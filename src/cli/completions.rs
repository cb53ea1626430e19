//! `completions`: for a shell.

use clap::{Arg, Command, builder::EnumValueParser};
use clap_complete::Shell;

use super::{Answer, Call, Fault, commands};

pub(super) fn command() -> Command {
    let shell = Arg::new("shell")
        .value_name("SHELL")
        .required(true)
        .value_parser(EnumValueParser::<Shell>::new())
        .help("The shell");
    Command::new("completions")
        .about("Print completions for a shell")
        .arg(shell)
        .after_help("Example:\n  reseal completions bash > /etc/bash_completion.d/reseal")
}

pub(super) fn run(call: &Call) -> Result<Answer, Fault> {
    let shell = *call.args.get_one::<Shell>("shell").expect("clap requires it");
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut commands(), "reseal", &mut script);
    Ok(Answer::Bytes(script))
}
