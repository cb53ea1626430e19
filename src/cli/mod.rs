//! The command line: the only place that prints, asks who is listening, or reads the clock.
//!
//! What was typed ([`Typed`]) becomes what is meant ([`Call`]: a command, its own arguments, and the settings of all
//! layers), is done, and ends as an [`Exit`]. One file a command: each has `command`, what clap knows of it, and
//! `run`, which gives an [`Answer`] or a [`Fault`].

use std::ffi::OsString;

use clap::{ArgMatches, Command};
use reseal::store::{FenceMode, Target};

mod answer;
mod args;
mod audit;
mod certificate;
mod completions;
mod config;
mod connect;
mod control;
mod destroy;
mod drill;
mod fault;
mod fence;
mod init;
mod keygen;
mod keys;
mod man;
mod meant;
mod metrics;
mod next;
mod open;
mod plan;
mod progress;
mod quarantine;
mod report;
mod reprovision;
mod retire;
mod rotation;
mod run;
mod runbook;
mod seal;
mod secrets;
mod signals;
mod staged;
mod status;
mod stdio;
mod verify;

pub(crate) use answer::Exit;
use answer::{Answer, Output};
use fault::Fault;

use crate::config::{Settings, quote};

/// What was typed, as clap understands it.
pub(crate) struct Typed(ArgMatches);

/// What is meant.
pub(crate) struct Call {
    /// The command, one word or two.
    name: String,
    /// Its own arguments.
    args: ArgMatches,
    /// The settings of all layers.
    settings: Settings,
    /// How to answer.
    output: Output,
}

impl Call {
    /// The line that gives `command` the same flags as were given here, as far as it takes them. A limit on rows has
    /// done its work, and the next line is for a person to type.
    fn again(&self, command: &str) -> String {
        let repeats = |name: &str| !["rows-limit", "output"].contains(&name) && args::takes(command, name);
        format!("reseal {command}{}", self.settings.flags(repeats))
    }

    /// The line that gives `command` the same flags, and says where in `target` the values are, if this command takes no
    /// flags for that and they are not where the other layers of settings say.
    fn again_on(&self, command: &str, target: &Target) -> String {
        let columns = target.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>();
        let mut line = self.again(command);
        for (name, values) in [("key-column", vec![target.key_column.as_str()]), ("column", columns)] {
            let is_set = self.settings.texts(name).iter().map(String::as_str).eq(values.iter().copied());
            if !is_set && args::takes(command, name) && !args::takes(&self.name, name) {
                values.iter().for_each(|value| line += &format!(" --{name} {}", quote(value)));
            }
        }
        line
    }

    /// This command again, with these columns, and what else it was given but for the target's name.
    fn again_with_columns(&self, columns: &[&str]) -> String {
        let repeats = |name: &str| {
            !["rows-limit", "output", "column", "logical-name"].contains(&name)
                && args::takes(&self.name, name)
        };
        let line = format!("reseal {}{}", self.name, self.settings.flags(repeats));
        columns.iter().fold(line, |line, column| format!("{line} --column {}", quote(column)))
    }

    /// The line that gives `command` the same database, and this other table.
    fn again_for(&self, command: &str, target: &Target) -> String {
        let repeats = |name: &str| {
            [args::DATABASE, args::READING].concat().contains(&name) && args::takes(command, name)
        };
        let mut line = format!("reseal {command}{}", self.settings.flags(repeats));
        let mut add = |name: &str, value: &str| {
            if args::takes(command, name) {
                line += &format!(" --{name} {}", quote(value));
            }
        };
        add("table", &format!("{}.{}", target.schema, target.table));
        if target.name != target.table {
            add("logical-name", &target.name);
        }
        add("key-column", &target.key_column);
        target.columns.iter().for_each(|column| add("column", &column.name));
        line
    }
}

/// Every command, in the order of help.
fn commands() -> Command {
    let [pause, resume, set] = control::commands();
    args::root().subcommands([
        drill::command(),
        init::command(),
        plan::command(),
        run::command(),
        status::command(),
        pause,
        resume,
        set,
        verify::command(),
        fence::command(),
        retire::command(),
        destroy::command(),
        quarantine::command(),
        keys::command(),
        rotation::command(),
        reprovision::command(),
        audit::command(),
        secrets::command(),
        runbook::command(),
        open::command(),
        seal::command(),
        keygen::command(),
        config::command(),
        completions::command(),
        man::command(),
    ])
}

/// Reads the arguments. `Err`: all is said already, as for `--help`.
pub(crate) fn typed(args: impl Iterator<Item = OsString>) -> Result<Typed, Exit> {
    commands().try_get_matches_from(args).map(Typed).map_err(|error| args::explain(&error))
}

/// Adds the environment and the file of settings.
pub(crate) fn meant(typed: Typed) -> Result<Call, Exit> {
    let (mut name, mut args) = (String::new(), typed.0);
    while let Some((word, inner)) = args.remove_subcommand() {
        name = if name.is_empty() { word } else { format!("{name} {word}") };
        args = inner;
    }
    let settings = Settings::load(&args, |name| std::env::var_os(name))
        .map_err(|error| Fault::from(error).report(&name, Output::Human))?;
    let json = args::takes(&name, "output") && settings.text("output") == Some("json");
    let output = if json { Output::Json } else { Output::Human };
    Ok(Call { name, args, settings, output })
}

/// Does it.
pub(crate) fn done(call: &Call) -> Exit {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            return Fault::failed(format!("no threads to work with: {error}"))
                .report(&call.name, call.output);
        }
    };
    let answer = runtime.block_on(async {
        match call.name.as_str() {
            "drill" => drill::run(call).await,
            "init" => init::run(call).await,
            "plan" => plan::run(call).await,
            "run" => run::run(call).await,
            "status" => status::run(call).await,
            "pause" => control::pause(call).await,
            "resume" => control::resume(call).await,
            "set rate" => control::set(call, "rate").await,
            "set batch" => control::set(call, "batch").await,
            "set workers" => control::set(call, "workers").await,
            "verify" => verify::run(call).await,
            "fence observe" => fence::raise(call, FenceMode::Observe).await,
            "fence enforce" => fence::raise(call, FenceMode::Enforce).await,
            "fence off" => fence::off(call).await,
            "fence status" => fence::status(call).await,
            "retire" => retire::run(call).await,
            "destroy" => destroy::run(call).await,
            "quarantine list" => quarantine::list(call).await,
            "quarantine retry" => quarantine::retry(call).await,
            "keys list" => keys::list(call).await,
            "keys rewrap" => keys::rewrap(call).await,
            "keys new" => keys::new(call).await,
            "keys export" => keys::export(call).await,
            "keys import" => keys::import(call).await,
            "rotate" => rotation::begin(call).await,
            "rotate plan" => rotation::plan(call).await,
            "rotate resume" => rotation::resume(call).await,
            "rotate abort" => rotation::abort(call).await,
            "rotate status" => rotation::status(call).await,
            "rotate adopt" => rotation::adopt(call).await,
            "reprovision plan" => reprovision::plan(call).await,
            "reprovision run" => reprovision::run(call).await,
            "reprovision status" => reprovision::status(call).await,
            "audit verify" => audit::verify(call).await,
            "audit export" => audit::export(call).await,
            "secrets list" => secrets::list(call).await,
            "secrets check" => secrets::check(call).await,
            "secrets contacts" => secrets::contacts(call),
            "runbook" => runbook::run(call),
            "open" => open::run(call).await,
            "seal" => seal::run(call).await,
            "keygen" => keygen::run(call),
            "config" => config::run(call),
            "completions" => completions::run(call),
            "man" => man::run(call),
            _ => unreachable!("clap takes no other command"),
        }
    });
    // What was told to stop at once does not wait for a database that hangs.
    runtime.shutdown_background();
    match answer {
        Ok(answer) => answer.give(call.output),
        Err(fault) => fault.naming(connect::place(call)).report(&call.name, call.output),
    }
}
