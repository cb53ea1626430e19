//! `rotate`: secrets through their vendors' APIs, a command a file.
//!
//! A [`Session`] is what a rotation works with here: the journal, the vault that seals it, what the settings reach, and the
//! person who types. All but `status` take the rotation's lease, and give it back however they end.

use std::{collections::BTreeSet, sync::Arc};

use clap::{Arg, ArgAction, Command, value_parser};
use reseal::{
    journal::{Owner, Vault},
    keyring::{RegistryError, kms::Kms, spec::KeySpec},
    rekey::Intent,
    rotation::{
        Estate, Manner, RotationError, SecretName, Tools, UnknownSecret,
        recipe::{Action, Step},
    },
    store::Store,
};

mod adopt;
mod begin;
mod drive;
pub(super) mod estate;
mod go_on;
mod operator;
mod plan;
mod screen;
mod status;
pub(super) mod terminal;

pub(super) use adopt::adopt;
pub(super) use begin::begin;
pub(super) use go_on::{abort, resume};
pub(super) use plan::plan;
pub(super) use status::status;

use super::{
    Call, Fault, args, connect, open,
    reprovision::{Parts, Way},
};
use estate::Journal;
use operator::Person;
use screen::Screen;

/// Connections to the journal: a re-provisioning writes it for many tenants at once.
const CONNECTIONS: u32 = 8;

/// Where the journal is, and what it is sealed under.
pub(super) const JOURNAL: &[&str] = &["state-url", "kms"];

pub(super) fn command() -> Command {
    let own = begin::arguments(Command::new("rotate"));
    with_journal(own.about("Rotate a secret at its vendor and wherever it is kept, or go on with a rotation"))
        .args_conflicts_with_subcommands(true)
        .subcommand_negates_reqs(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .subcommands([plan::command(), go_on::resume_command(), go_on::abort_command(), status::command(), adopt::command()])
        .after_help(
            "A rotation is journaled before each thing it does, and can be interrupted anywhere. Nothing is revoked before the \
             new value is proven in every place. Credentials of the vendors come from the environment, RESEAL_FLY_TOKEN \
             and others: reseal config lists them.\n\n\
             Examples:\n  \
             reseal rotate adopt RESEND_API_KEY\n  \
             reseal rotate RESEND_API_KEY --state-url sqlite://state.db --kms aws-kms:alias/reseal\n  \
             reseal rotate DATABASE_URL --strategy alternate --state-url sqlite://state.db --kms aws-kms:alias/reseal\n  \
             reseal rotate resume",
        )
}

/// `command` with the settings of every command that works on a rotation.
fn with_journal(command: Command) -> Command {
    let groups = [args::DATABASE, JOURNAL, args::NAME, args::COLUMNS, args::KEYS, args::OUTPUT];
    args::with_settings(command, &groups)
}

fn secret_arg() -> Arg {
    Arg::new("secret").value_name("SECRET").help("Its name, such as FLY_API_TOKEN")
}

fn accept_arg() -> Arg {
    Arg::new("accept-unverified")
        .long("accept-unverified")
        .value_name("NAME")
        .action(ArgAction::Append)
        .help("A step that may pass without its check; recorded. Repeat for each")
}

fn value_file_arg() -> Arg {
    Arg::new("value-file")
        .long("value-file")
        .value_name("FILE")
        .value_parser(value_parser!(String))
        .help("Where the value is that a person gives: a file of mode 0600, or - for standard input")
}

/// The secret that is named.
fn secret(call: &Call) -> Result<Option<SecretName>, Fault> {
    let Some(text) = call.args.get_one::<String>("secret") else { return Ok(None) };
    // What was typed may be the secret itself.
    let secret = text.parse().map_err(|error: UnknownSecret| {
        let names = SecretName::ALL.map(SecretName::as_str).join(", ");
        Fault::usage(error.to_string()).hint(format!("one of {names}"))
    })?;
    Ok(Some(secret))
}

/// The names that may pass without a check.
fn accepted(call: &Call) -> Result<BTreeSet<String>, Fault> {
    let given = call.args.get_many::<String>("accept-unverified").into_iter().flatten();
    given.map(|name| if is_known(name) { Ok(name.clone()) } else { Err(unknown_name()) }).collect()
}

/// Whether it is the name of a step, of a secret, or of what a retirement can be waived.
fn is_known(name: &str) -> bool {
    let recipes = SecretName::ALL.into_iter().map(SecretName::recipe);
    let mut steps = recipes.flat_map(|recipe| recipe.strategies).flat_map(|strategy| strategy.steps);
    steps.any(|step| step.name == name) || name.parse::<SecretName>().is_ok() || is_waiver(name)
}

/// As `reseal retire --help` has them, with the name of a table before them or without.
fn is_waiver(name: &str) -> bool {
    let whole = |kind: &&str| name == *kind || name.ends_with(&format!(":{kind}"));
    let of_thing = |kind: &&str| name.starts_with(*kind) || name.contains(&format!(":{kind}"));
    ["fence", "holders"].iter().any(whole) || ["quarantine:", "column:", "standby:"].iter().any(of_thing)
}

fn unknown_name() -> Fault {
    // What was typed may be a secret, and would be recorded.
    Fault::usage("--accept-unverified: what was given is the name of nothing that could be checked")
        .hint("the name is in what the rotation waits for: reseal rotate status")
}

/// The store of the journal, with reseal's own tables in it.
pub(super) async fn store(call: &Call) -> Result<Arc<dyn Store>, Fault> {
    journal(call).await.map(|journal| journal.store)
}

/// The journal, with reseal's own tables in it.
pub(super) async fn journal(call: &Call) -> Result<Journal, Fault> {
    let database = connect::url(call, "database-url")?;
    let copy = |url: &reseal::secret::SecretText| reseal::secret::SecretText::new(url.expose().to_owned());
    let url = connect::url(call, "state-url")?.or_else(|| database.as_ref().map(copy));
    let url = url.ok_or_else(|| {
        Fault::usage("nothing says where the journal is")
            .hint("--state-url sqlite://FILE, or another place as --database-url takes it")
    })?;
    let store = connect::open(call, &url, CONNECTIONS).await?;
    if store.is_migrated().await? {
        Ok(Journal { store, url, database })
    } else {
        Err(Fault::refused("reseal's own tables are missing in the journal, or not up to date")
            .hint(call.again("init")))
    }
}

/// What `secrets check` looks with: the journal, its values where a KMS key is named, and what the settings reach.
pub(super) async fn sight(call: &Call) -> Result<(Arc<dyn Store>, Option<Vault>, Estate), Fault> {
    let journal = journal(call).await?;
    let steps: Vec<_> = SecretName::ALL
        .into_iter()
        .flat_map(|secret| secret.recipe().strategies)
        .flat_map(|strategy| strategy.steps)
        .copied()
        .collect();
    let estate = estate::estate(call, &journal, &steps).await?;
    let has_values = journal.store.credentials(None).await?.iter().any(|known| known.sealed.is_some());
    let vault = if has_values && call.settings.value("kms").is_some() {
        Some(vault(call, &journal).await?)
    } else {
        None
    };
    Ok((journal.store, vault, estate))
}

/// What opens and seals the values in the journal.
pub(super) async fn vault(call: &Call, journal: &Journal) -> Result<Vault, Fault> {
    let kms = kms(call).await?;
    Vault::unlock(journal.store.as_ref(), &kms).await.map_err(|error| fault(call, error.into()))
}

/// What opens the values in the journal, for a command that writes nothing.
pub(super) async fn vault_to_look(call: &Call, journal: &Journal) -> Result<Vault, Fault> {
    let kms = kms(call).await?;
    Vault::look(journal.store.as_ref(), &kms).await.map_err(|error| fault(call, error.into()))
}

/// The KMS key of the journal.
async fn kms(call: &Call) -> Result<Arc<dyn Kms>, Fault> {
    let spec = call.settings.keys("kms")?.pop().ok_or_else(|| {
        Fault::usage("no KMS key is named for the values in the journal")
            .hint("--kms aws-kms:ARN-OR-ALIAS, or --kms local-kms:FILE")
    })?;
    let KeySpec::Kms(spec) = spec else {
        return Err(
            Fault::usage("--kms takes a KMS key").hint("--kms aws-kms:ARN-OR-ALIAS, or --kms local-kms:FILE")
        );
    };
    open::connect_kms(&spec).await
}

/// What a rotation works with.
struct Session {
    journal: Journal,
    vault: Vault,
    estate: Estate,
    manner: Manner,
}

impl Session {
    /// What `steps` of a rotation of `secret` work with.
    async fn open(call: &Call, journal: Journal, secret: SecretName, steps: &[Step]) -> Result<Self, Fault> {
        let vault = vault(call, &journal).await?;
        let mut estate = estate::estate(call, &journal, steps).await?;
        if secret == SecretName::DatabaseUrl {
            estate.journal_in_database |= is_within_current(&journal, &vault).await?;
        }
        if steps.iter().any(|step| matches!(step.action, Action::Reprovision(_))) {
            let own = self::vault(call, &journal).await?;
            let works = Parts::of(call, Way::default())?.assemble(call, &journal, own, Intent::Run).await?;
            estate.reprovision = Some(works);
        }
        Ok(Self { journal, vault, estate, manner: Manner::default() })
    }

    fn tools<'a>(
        &'a self,
        person: &'a Person<'_>,
        tell: &'a (dyn Fn(&reseal::rotation::Progress) + Sync),
    ) -> Tools<'a> {
        Tools {
            store: self.store(),
            vault: &self.vault,
            estate: &self.estate,
            operator: person,
            tell,
            manner: &self.manner,
        }
    }

    fn store(&self) -> &dyn Store {
        self.journal.store.as_ref()
    }
}

/// Whether the journal is in the database that the control plane's URL, as it is known, is for.
async fn is_within_current(journal: &Journal, vault: &Vault) -> Result<bool, Fault> {
    let known = journal.store.credentials(Some(SecretName::DatabaseUrl.as_str())).await?;
    let values = known
        .iter()
        .filter_map(|known| vault.open(Owner::Credential(&known.credential_id), known.sealed.as_deref()?));
    Ok(values.into_iter().any(|value| estate::is_within(&journal.url, &value)))
}

/// The line that goes on with, ends or looks at a rotation of `secret`.
fn line(call: &Call, command: &str, secret: &str) -> String {
    format!("{} {secret}", call.again(&format!("rotate {command}")))
}

/// A hint with the flags that were given here, so that it can be typed as it is.
fn typed(call: &Call, hint: &str) -> String {
    ["plan", "resume", "abort", "adopt", "status"].iter().fold(hint.to_owned(), |hint, command| {
        hint.replace(&format!("reseal rotate {command}"), &call.again(&format!("rotate {command}")))
    })
}

/// Why a command about a rotation was not done.
pub(super) fn fault(call: &Call, error: RotationError) -> Fault {
    let what = error.to_string();
    match error {
        RotationError::Refused { what, hint } => Fault::refused(what).hint(typed(call, &hint)),
        RotationError::Settings { what, hint } => Fault::usage(what).hint(hint),
        RotationError::Fenced { .. } => Fault::refused(what).hint(call.again("rotate status")),
        RotationError::Store(error) => error.into(),
        RotationError::Registry(RegistryError::NotConfigured { .. }) => {
            Fault::refused(what).hint("name the KMS key that the journal is sealed under: --kms KEY")
        }
        RotationError::Registry(RegistryError::Kms { source, .. }) => source.into(),
        RotationError::Provider(error) if error.is_transient() => Fault::failed(what).hint("try again"),
        RotationError::Provider(_) => Fault::failed(what).hint("reseal config shows what is set"),
        RotationError::Registry(RegistryError::OtherKey(_))
        | RotationError::Proof(_)
        | RotationError::Corrupt { .. }
        | RotationError::Illegal(_) => Fault::failed(what),
    }
}
