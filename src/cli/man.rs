//! `man`: the manual pages.

use clap::{Arg, Command};
use clap_mangen::Man;

use super::{Answer, Call, Fault, commands, stdio};

pub(super) fn command() -> Command {
    let folder = Arg::new("dir").value_name("DIR").help("Write a page for each command into this folder");
    Command::new("man")
        .about("Print the manual page, or write one for each command")
        .arg(folder)
        .after_help("Examples:\n  reseal man | man -l -\n  reseal man /usr/local/share/man/man1")
}

pub(super) fn run(call: &Call) -> Result<Answer, Fault> {
    let Some(folder) = call.args.get_one::<String>("dir") else {
        let mut page = Vec::new();
        Man::new(commands())
            .render(&mut page)
            .map_err(|error| Fault::failed(format!("cannot write the page: {}", error.kind())))?;
        return Ok(Answer::Bytes(page));
    };
    clap_mangen::generate_to(commands(), folder)
        .map_err(|error| Fault::failed(format!("cannot write to {folder}: {}", error.kind())))?;
    stdio::note(format_args!("the manual pages are in {folder}"));
    Ok(Answer::Nothing)
}
