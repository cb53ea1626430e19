//! `reprovision`: fresh credentials and a fresh machine for every tenant, a command a file.
//!
//! All three work with what [`Parts`] finds in the settings. `run` takes the run's lease and gives it back however it ends;
//! `plan` and `status` write nothing.

use clap::Command;
use reseal::{keyring::RegistryError, reprovision::ReprovisionError};

mod agree;
mod asked;
mod ending;
mod leftovers;
mod plan;
mod run;
mod screen;
mod status;
mod tally;
mod works;

pub(super) use plan::plan;
pub(super) use run::run;
pub(super) use status::status;
pub(super) use works::{Parts, Way};

use super::{Call, Fault, args, rotation::JOURNAL};

pub(super) fn command() -> Command {
    Command::new("reprovision")
        .about("Give every tenant fresh credentials and a fresh machine, after a compromise")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .subcommands([plan::command(), run::command(), status::command()])
        .after_help(
            "For when the key was read, and with it every tenant's URLs. The old key is not needed. Each tenant goes through a \
             journaled saga, many at once within the vendors' rate limits; a crash anywhere loses nothing, and the same \
             command goes on. A tenant that fails is parked, and the others go on.\n\n\
             Examples:\n  \
             reseal reprovision plan --new aws-kms:alias/tenants --kms aws-kms:alias/reseal\n  \
             reseal reprovision run --canary 3 --pause --new aws-kms:alias/tenants --kms aws-kms:alias/reseal\n  \
             reseal reprovision status",
        )
}

/// `command` with the settings of those that look at every tenant.
fn with_works(command: Command) -> Command {
    let groups = [args::DATABASE, JOURNAL, args::NAME, args::COLUMNS, args::KEYS, args::OUTPUT];
    args::with_settings(command, &groups)
}

/// A hint with what was given here, so that it can be typed as it is.
fn typed(call: &Call, hint: &str) -> String {
    let own = ["plan", "run", "status"].map(|command| format!("reprovision {command}"));
    let hint = own.iter().fold(hint.to_owned(), |hint, command| {
        hint.replace(&format!("reseal {command}"), &asked::again(call, command))
    });
    hint.replace("reseal rotate ", &format!("{} ", call.again("rotate")))
}

/// Why a command about a re-provisioning was not done.
fn fault(call: &Call, error: ReprovisionError) -> Fault {
    let what = error.to_string();
    match error {
        ReprovisionError::Refused { what, hint } => Fault::refused(what).hint(typed(call, &hint)),
        ReprovisionError::Fenced { .. } => Fault::refused(what).hint(call.again("reprovision status")),
        ReprovisionError::Store(error) => error.into(),
        ReprovisionError::Rekey(error) => error.into(),
        ReprovisionError::Registry(RegistryError::NotConfigured { .. }) => {
            Fault::refused(what).hint("name the KMS key that the journal is sealed under: --kms KEY")
        }
        ReprovisionError::Registry(RegistryError::Kms { source, .. }) => source.into(),
        ReprovisionError::Provider(error) if error.is_transient() => Fault::failed(what).hint("try again"),
        ReprovisionError::Provider(_) => Fault::failed(what).hint("reseal config shows what is set"),
        ReprovisionError::Registry(RegistryError::OtherKey(_)) | ReprovisionError::Corrupt { .. } => {
            Fault::failed(what)
        }
    }
}
