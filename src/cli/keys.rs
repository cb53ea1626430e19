//! `keys list`, `new`, `rewrap`, `export` and `import`: the registry of v3 data keys.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    path::Path,
    sync::Arc,
};

use clap::{Arg, ArgMatches, Command};
use reseal::{
    envelope::KeyId,
    keyring::{
        self, RegistryError,
        kms::{Kms, Material},
        spec::KeySpec,
    },
    rekey::{self, KeyUse},
    store::{DataKeyState, WrappedDataKey},
};
use serde_json::{Value, json};

use super::{Answer, Call, Exit, Fault, args, audit, connect, meant, stdio};

mod document;
mod rewrap;

pub(super) use rewrap::rewrap;

pub(super) fn command() -> Command {
    let list = Command::new("list")
        .about("List the data keys of every target, and every other key that runs were from or to");
    let list = args::with_settings(list, &[args::DATABASE, &["old", "new"], args::OUTPUT]).after_help(
        "A KMS key named by --old or --new is asked whether its newest backing key wraps each.\n\n\
             Example:\n  reseal keys list --new aws-kms:alias/tenants",
    );

    let new = Command::new("new").about("Make a data key for the target and seal under it from now on");
    let new = args::with_settings(new, &[args::DATABASE, args::NAME, &["new"], args::OUTPUT])
        .after_help("Example:\n  reseal keys new --new aws-kms:alias/tenants");

    let file = |help| Arg::new("file").value_name("FILE").required(true).help(help);
    let export = Command::new("export")
        .about("Write the data keys, wrapped as they are, to a file")
        .arg(file("The file to make; - for standard output"));
    let export = args::with_settings(export, &[args::DATABASE])
        .after_help("Example:\n  reseal keys export data-keys.json");

    let import = Command::new("import")
        .about("Add the data keys of an export that are missing here")
        .arg(file("The file to read; - for standard input"));
    let import = args::with_settings(import, &[args::DATABASE, &["old", "new"], args::OUTPUT]).after_help(
        "A key that --old or --new unwraps is proven before it is added.\n\n\
         Example:\n  reseal keys import data-keys.json --new aws-kms:alias/tenants",
    );
    Command::new("keys")
        .about("The registry of v3 data keys")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands([list, new, rewrap::command(), export, import])
}

pub(super) async fn list(call: &Call) -> Result<Answer, Fault> {
    let store = connect::migrated_store(call, 1).await?;
    let keys = store.data_keys(None).await?;
    let materials = materials(call, &keys).await?;
    let width = |of: fn(&WrappedDataKey) -> usize| keys.iter().map(of).max().unwrap_or_default().max(7);
    let (purposes, kms) = (width(|key| key.purpose.len()), width(|key| key.kms.len()));
    let mut human = format!(
        "{:32}  {:purposes$}  {:9}  {:20}  {:kms$}  backing key\n",
        "id", "purpose", "state", "created", "kms"
    );
    for (key, material) in keys.iter().zip(&materials) {
        human += &format!(
            "{}  {:purposes$}  {:9}  {}  {:kms$}  {}\n",
            KeyId::from_bytes(key.key_id),
            key.purpose,
            key.state.as_str(),
            stdio::time(key.created_ms),
            key.kms,
            material.map_or("-", Material::as_str)
        );
    }
    if keys.is_empty() {
        human = "There are no data keys.\n".to_owned();
    }
    let others = rekey::key_uses(store.as_ref()).await?;
    let (data_keys, others) =
        others.into_iter().partition::<Vec<_>, _>(|key| key.key.starts_with("data-key:"));
    for key in &others {
        let ended = [("retired", key.retired_ms), ("destroyed", key.destroyed_ms)];
        let ended =
            ended.into_iter().filter_map(|(what, ms)| Some(format!(", {what} on {}", stdio::time(ms?))));
        human += &format!(
            "{} of {}: {}{}\n",
            key.key,
            key.targets.join(", "),
            key.state.as_str(),
            ended.collect::<String>()
        );
    }
    let retirements = store.retirements().await?;
    let certificate = |key: &str| {
        let retirement = retirements.iter().find(|retirement| retirement.key == key)?;
        serde_json::from_str::<Value>(&retirement.certificate).ok()
    };
    let retired = |key: &KeyUse| {
        json!({
            "key": key.key,
            "targets": key.targets,
            "state": key.state.as_str(),
            "retired": key.retired_ms.map(stdio::time),
            "destroyed": key.destroyed_ms.map(stdio::time),
            "certificate": certificate(&key.key),
        })
    };
    let ended = data_keys.iter().filter(|key| key.retired_ms.is_some());
    let json = json!({
        "command": "keys list",
        "other_keys": others.iter().map(retired).collect::<Vec<_>>(),
        "retired_data_keys": ended.map(retired).collect::<Vec<_>>(),
        "keys": keys.iter().zip(&materials).map(|(key, material)| json!({
            "id": KeyId::from_bytes(key.key_id),
            "purpose": key.purpose,
            "kms": key.kms,
            "backing_key": material.map(Material::as_str),
            "state": key.state.as_str(),
            "created": stdio::time(key.created_ms),
        })).collect::<Vec<_>>(),
    });
    let is_stale = |material: &Option<Material>| *material == Some(Material::Stale);
    let hints = if materials.iter().any(is_stale) {
        vec!["to wrap stale ones with the newest backing key: reseal keys rewrap --to KMS".to_owned()]
    } else {
        Vec::new()
    };
    Ok(Answer::Report { exit: Exit::Done, human, json, hints })
}

/// Of each data key, which backing key wraps it, as far as a KMS key that was named says so.
async fn materials(call: &Call, keys: &[WrappedDataKey]) -> Result<Vec<Option<Material>>, Fault> {
    let named = [call.settings.keys("old")?, call.settings.keys("new")?].concat();
    let configured = configured(&named).await?;
    let mut materials = Vec::with_capacity(keys.len());
    for key in keys {
        let kms = configured.iter().find(|kms| kms.key_name() == key.kms && !key.wrapped.is_empty());
        materials.push(match kms {
            Some(kms) => keyring::material(key, kms.as_ref()).await.map_err(registry_fault)?,
            None => None,
        });
    }
    Ok(materials)
}

pub(super) async fn new(call: &Call) -> Result<Answer, Fault> {
    let KeySpec::Kms(spec) = meant::new_key(call)? else {
        return Err(Fault::usage("a data key is made by a KMS key")
            .hint("--new aws-kms:ARN-OR-ALIAS or --new local-kms:FILE"));
    };
    let name = meant::target_name(call)?;
    let purpose = name.logical();
    let store = connect::migrated_store(call, 1).await?;
    let kms = super::open::connect_kms(&spec).await?;
    let (row, key) = keyring::generate(kms.as_ref(), purpose).await.map_err(registry_fault)?;
    store.add_data_key(&row).await?;
    let id = key.key_id();
    let human = format!(
        "{id} is the active data key of {purpose} now, wrapped under {}.\n\
         A key that was active before is draining: it opens values, and seals no more.\n",
        row.kms
    );
    let json =
        json!({"command": "keys new", "id": id, "purpose": purpose, "kms": row.kms, "state": "active"});
    let hints = vec![call.again("keys export") + " data-keys.json"];
    audit::with_head(store.as_ref(), Answer::Report { exit: Exit::Done, human, json, hints }).await
}

pub(super) async fn export(call: &Call) -> Result<Answer, Fault> {
    let store = connect::migrated_store(call, 1).await?;
    let keys = store.data_keys(None).await?;
    let document = document::write(&keys);
    let path = file(&call.args);
    if path == "-" {
        return Ok(Answer::Bytes(document.into_bytes()));
    }
    create(Path::new(path), document.as_bytes()).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            Fault::refused(format!("{path} exists, and an export overwrites nothing"))
                .hint("name another file")
        }
        kind => Fault::failed(format!("cannot write {path}: {kind}")),
    })?;
    stdio::note(format_args!(
        "{} data keys are in {path}. They are wrapped: the file is no secret, and useless without the KMS key.",
        keys.len()
    ));
    Ok(Answer::Nothing)
}

/// # Crash safety
/// The file is on disk, whole, when this returns. If the process dies before, what is there may be cut off, which
/// `import` refuses.
fn create(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

pub(super) async fn import(call: &Call) -> Result<Answer, Fault> {
    let named = [call.settings.keys("old")?, call.settings.keys("new")?].concat();
    let path = file(&call.args);
    let keys = read(path)?;
    let store = connect::migrated_store(call, 1).await?;
    let mut known = store.data_keys(None).await?;
    let mut missing = Vec::new();
    for key in keys {
        match known.iter().find(|known| known.key_id == key.key_id) {
            Some(known) if is_same(known, &key) => {}
            Some(_) => {
                let id = KeyId::from_bytes(key.key_id);
                return Err(Fault::refused(format!(
                    "data key {id} is here already, wrapped otherwise: nothing was added"
                ))
                .hint("reseal keys list"));
            }
            None => missing.push(key),
        }
    }
    let proven = prove(&missing, &named).await?;
    for key in &mut missing {
        let is_active =
            |known: &WrappedDataKey| known.purpose == key.purpose && known.state == DataKeyState::Active;
        if key.state == DataKeyState::Active && known.iter().any(is_active) {
            key.state = DataKeyState::Draining;
        }
        store.add_data_key(key).await?;
        known.push(key.clone());
    }
    let unproven = missing.len() - proven;
    let mut human = format!("{} data keys added, {proven} of them proven to unwrap.\n", missing.len());
    let mut hints = Vec::new();
    if unproven > 0 {
        human += &format!("{unproven} could not be proven: the KMS key that wraps them was not named.\n");
        hints.push(
            "name it with --old or --new when you run, and see that values open: reseal plan".to_owned(),
        );
    }
    let json = json!({
        "command": "keys import",
        "added": missing.iter().map(|key| json!({
            "id": KeyId::from_bytes(key.key_id), "purpose": key.purpose, "state": key.state.as_str(),
        })).collect::<Vec<_>>(),
        "proven": proven,
    });
    audit::with_head(store.as_ref(), Answer::Report { exit: Exit::Done, human, json, hints }).await
}

fn is_same(known: &WrappedDataKey, key: &WrappedDataKey) -> bool {
    (&known.wrapped, known.wrap_id, &known.purpose, &known.kms)
        == (&key.wrapped, key.wrap_id, &key.purpose, &key.kms)
}

/// Unwraps each key whose KMS key is among the named ones; how many there were.
async fn prove(keys: &[WrappedDataKey], named: &[KeySpec]) -> Result<usize, Fault> {
    let configured = configured(named).await?;
    let mut proven = 0;
    for key in keys {
        match keyring::unwrap(key, &configured).await {
            Ok(_) => proven += 1,
            Err(RegistryError::NotConfigured { .. }) => {}
            Err(error) => return Err(registry_fault(error)),
        }
    }
    Ok(proven)
}

/// The KMS keys among the named ones.
async fn configured(named: &[KeySpec]) -> Result<Vec<Arc<dyn Kms>>, Fault> {
    let mut configured = Vec::new();
    for spec in named {
        if let KeySpec::Kms(spec) = spec {
            configured.push(super::open::connect_kms(spec).await?);
        }
    }
    Ok(configured)
}

fn registry_fault(error: RegistryError) -> Fault {
    match error {
        RegistryError::Kms { source: source @ keyring::kms::KmsError::Blob { .. }, key_id } => {
            Fault::refused(format!("data key {key_id}: {source}"))
        }
        RegistryError::Kms { source, .. } => source.into(),
        error => Fault::refused(error.to_string()),
    }
}

fn file(args: &ArgMatches) -> &str {
    args.get_one::<String>("file").expect("clap requires it")
}

/// The longest export that is read, in bytes: room for ten thousand keys.
const LIMIT: usize = 8 << 20;

fn read(path: &str) -> Result<Vec<WrappedDataKey>, Fault> {
    let unreadable = |error: io::Error| Fault::failed(format!("cannot read {path}: {}", error.kind()));
    let too_long = || Fault::refused(format!("{path} is longer than any export"));
    let bytes = if path == "-" {
        stdio::read(LIMIT).map_err(unreadable)?.ok_or_else(too_long)?.expose().to_vec()
    } else {
        let length = std::fs::metadata(path).map_err(unreadable)?.len();
        if usize::try_from(length).map_or(true, |length| length > LIMIT) {
            return Err(too_long());
        }
        std::fs::read(path).map_err(unreadable)?
    };
    document::read(&bytes)
        .map_err(|rule| Fault::refused(format!("{path} is not an export of data keys: {rule}")))
}
