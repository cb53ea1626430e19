//! `retire`: ends the use of a key that no value is under any more, with a certificate.

use std::sync::Arc;

use clap::{Arg, ArgAction, Command};
use reseal::{
    keyring::{
        ClearText,
        spec::{KeySpec, KmsSpec, StaticSource},
    },
    rekey::{self, DataKeyScope, Intent, KeyChoice, Obstacle, OldKey, Remedy, RetireError, Retired},
};
use serde_json::{Value, json};

use super::{Answer, Call, Exit, Fault, args, audit, certificate, connect, meant, stdio::shown};
use crate::config::quote;

pub(super) fn command() -> Command {
    let command = Command::new("retire")
        .about("Retire a key that no value is under any more, with a certificate")
        .arg(key_argument("The key that is to go"))
        .arg(
            Arg::new("waive")
                .long("waive")
                .value_name("NAME")
                .action(ArgAction::Append)
                .help("A precondition to waive, by the name that the refusal gives it; repeat for each"),
        )
        .arg(certificate::arg());
    let groups = [args::DATABASE, args::NAME, args::COLUMNS, &["new", "format"], args::READING, args::OUTPUT];
    args::with_settings(command, &groups).after_help(
        "Refused, with every precondition that does not hold and the command that meets it, unless of each target\n\
         that was under KEY: the fence is enforced, a verify behind it passed and is of the latest run, no run is\n\
         open, nothing is in quarantine; and no other column holds values under KEY, and every standby has what the\n\
         verify saw. Some can be waived, one by one, when you know better; the certificate and the audit log name each:\n  \
         fence                       writes are kept from KEY by other means\n  \
         holders                     v1 and v2, where no fence can tell: every program that holds KEY is gone\n  \
         quarantine:ROW/COLUMN       this value is lost, or nobody's\n  \
         column:SCHEMA.TABLE.COLUMN  its values may be lost, or have KEY kept for them elsewhere\n  \
         standby:NAME                this standby will never take over\n\
         For another table of the same KEY the name begins with that table's: TABLE:fence.\n\n\
         Nothing is destroyed: that is another command, after a soak.\n\n\
         Example:\n  reseal retire static:env:SECRETS_ENCRYPTION_KEY --new aws-kms:alias/tenants --certificate retired.json",
    )
}

/// A key, as a command's own argument.
pub(super) fn key_argument(help: &'static str) -> Arg {
    Arg::new("key").value_name("KEY").required(true).help(help)
}

/// The key that was named. A text that is not a name is never repeated: it may be a key.
pub(super) fn key(call: &Call) -> Result<KeySpec, Fault> {
    let text = call.args.get_one::<String>("key").expect("clap requires it");
    text.parse().map_err(|error| Fault::usage(format!("KEY: {error}")))
}

pub(super) async fn run(call: &Call) -> Result<Answer, Fault> {
    let spec = key(call)?;
    let waivers: Vec<String> = call.args.get_many("waive").into_iter().flatten().cloned().collect();
    let file = certificate::file(&call.args)?;
    let choice = KeyChoice {
        old: Vec::new(),
        new: meant::new_key(call)?,
        format: meant::format(call)?,
        scope: DataKeyScope::default(),
        new_data_key: false,
        clear_text: ClearText::Quarantine,
    };
    let (options, name) = (meant::options(call)?, meant::target_name(call)?);
    let store = connect::migrated_store(call, 2).await?;
    let target = connect::target(store.as_ref(), &name).await?;
    let old = OldKey::load(&spec).await?;
    let job = Arc::new(rekey::prepare(store, target, &choice, options, Intent::Verify).await?);
    let retired = rekey::retire(&job, &old, &waivers).await;
    let retired = retired.map_err(|error| fault(call, &spec, &job.target.name, &waivers, error))?;
    if let Some(file) = file {
        write(file, &retired.certificate)?;
    }
    answer(call, &job, &spec, &retired, &waivers, file).await
}

async fn answer(
    call: &Call,
    job: &rekey::Job,
    spec: &KeySpec,
    retired: &Retired,
    waivers: &[String],
    file: Option<&str>,
) -> Result<Answer, Fault> {
    let targets = retired.targets.join(", ");
    let mut human = format!("{} is retired: it opens nothing in {targets} any more.\n", retired.key);
    for obstacle in &retired.waived {
        let waiver = obstacle.waiver.as_deref().unwrap_or_default();
        human += &format!("  waived, {}: {}\n", shown(waiver), shown(&obstacle.what));
    }
    let unused = waivers
        .iter()
        .filter(|waiver| retired.waived.iter().all(|obstacle| obstacle.waiver.as_ref() != Some(waiver)));
    unused.for_each(|waiver| human += &format!("  not needed: --waive {}\n", shown(waiver)));
    human += &match file {
        Some(file) => format!("Certificate: {file}, sha256 {}\n", hex::encode(retired.sha256)),
        None => format!("Certificate: kept beside the values, sha256 {}\n", hex::encode(retired.sha256)),
    };
    let removal = removal(spec, &retired.key, &targets);
    human += &removal.iter().map(|line| format!("{line}\n")).collect::<String>();
    human += "Not covered: backups and standbys' disks, other databases, and copies that programs keep.\n";
    let certificate: Value = serde_json::from_str(&retired.certificate).unwrap_or_default();
    let json = json!({
        "command": "retire",
        "key": retired.key,
        "state": "retired",
        "targets": retired.targets,
        "waived": retired.waived.iter().map(|obstacle| &obstacle.waiver).collect::<Vec<_>>(),
        "certificate": certificate,
        "certificate_sha256": hex::encode(retired.sha256),
        "file": file,
        "now": removal,
    });
    let destroy = format!("after the soak: {} {}", call.again("destroy"), quote(&spec.to_string()));
    let report = Answer::Report { exit: Exit::Done, human, json, hints: vec![destroy] };
    audit::with_head(job.store.as_ref(), report).await
}

/// What may be removed now, and from where.
fn removal(spec: &KeySpec, name: &str, targets: &str) -> Vec<String> {
    let keep = "Keep one copy offline, where no program reads it, until it is destroyed: backups made before now need it.";
    match spec {
        KeySpec::Static(source) => {
            let (place, variable) = match source {
                StaticSource::Env(variable) => (format!("${variable}"), variable.as_str()),
                StaticSource::File(path) => (path.display().to_string(), "NAME"),
            };
            let mut lines = vec![
                format!("The key in {place} ({name}) opens nothing in {targets} any more. Remove it now:"),
                format!("  from the control plane:  fly secrets unset {variable} --app APP"),
                format!("  from CI:                 gh secret delete {variable} --repo OWNER/REPO"),
                "  from .env files, shell profiles, images, and every other program that was given it"
                    .to_owned(),
            ];
            // Before the line that destroys what may be the only copy.
            lines.push(keep.to_owned());
            if let StaticSource::File(path) = source {
                lines.push(format!(
                    "Once that copy is made, from this disk:  shred -u {}",
                    quote(&path.to_string_lossy())
                ));
            }
            lines
        }
        KeySpec::Kms(KmsSpec::Aws(_)) => vec![
            format!(
                "{name} opens nothing in {targets} any more. Take it from the programs' configuration, then"
            ),
            "disable it, which can be undone, and see that nothing misses it:".to_owned(),
            format!("  aws kms disable-key --key-id {name}"),
            "Keep it disabled until it is destroyed: backups made before now need it.".to_owned(),
        ],
        KeySpec::Kms(KmsSpec::Local(path)) => vec![
            format!(
                "{name} opens nothing in {targets} any more. Take {} from every program.",
                path.display()
            ),
            keep.to_owned(),
        ],
        KeySpec::DataKey(_) => vec![format!(
            "No reader opens a value under {name} any more. Its wrapped bytes stay in the registry until it is destroyed."
        )],
    }
}

fn write(file: &str, content: &str) -> Result<(), Fault> {
    certificate::write_new(file, content.as_bytes()).map_err(|error| {
        Fault::failed(format!(
            "the key is retired, but its certificate can't be written to {file}: {}",
            error.kind()
        ))
        .hint("it is kept in the database: reseal keys list --output json")
    })
}

/// Every precondition that does not hold, the command that meets each, and the line that waives what can be.
pub(super) fn fault(call: &Call, key: &KeySpec, main: &str, waivers: &[String], error: RetireError) -> Fault {
    let obstacles = match error {
        RetireError::Obstacles(obstacles) => obstacles,
        RetireError::Rekey(error) => return error.into(),
    };
    let what = obstacles.iter().map(|obstacle| obstacle.what.as_str()).collect::<Vec<_>>().join("; ");
    let mut lines: Vec<String> = Vec::new();
    for obstacle in &obstacles {
        let mut remedies = vec![remedy(call, key, main, obstacle)];
        if obstacle.remedy == Remedy::Fence {
            // What was written before the fence: the verify behind it would find it, one step later.
            let sweep = Obstacle { remedy: Remedy::Run, ..obstacle.clone() };
            remedies.push(remedy(call, key, main, &sweep));
        }
        remedies.retain(|line| !lines.contains(line));
        lines.extend(remedies);
    }
    let document = json!({
        "obstacles": obstacles.iter().map(|obstacle| json!({
            "what": obstacle.what,
            "target": obstacle.target.name,
            "command": remedy(call, key, main, obstacle),
            "waiver": obstacle.waiver,
        })).collect::<Vec<_>>(),
    });
    let mut waivable = obstacles.iter().filter_map(|obstacle| obstacle.waiver.as_ref()).peekable();
    if waivable.peek().is_some() {
        let all = waivers.iter().chain(waivable).map(|waiver| format!(" --waive {}", quote(waiver)));
        lines.push(format!("if you know better, by name: {}{}", again(call, key), all.collect::<String>()));
    }
    lines.into_iter().fold(Fault::refused(what), Fault::hint).with(document)
}

/// This command again.
fn again(call: &Call, key: &KeySpec) -> String {
    format!("{} {}", call.again(&call.name), quote(&key.to_string()))
}

/// The command that makes a precondition hold. Where the other tables' keys are kept is not known here: `KEY`.
fn remedy(call: &Call, key: &KeySpec, main: &str, obstacle: &Obstacle) -> String {
    let line = |command: &str| {
        let is_main = obstacle.target.name == main;
        let line = if is_main { call.again(command) } else { call.again_for(command, &obstacle.target) };
        if args::takes(command, "new") && !line.contains(" --new ") {
            format!("{line} --new KEY")
        } else {
            line
        }
    };
    let old = match key {
        KeySpec::DataKey(_) => String::new(),
        KeySpec::Static(_) | KeySpec::Kms(_) => format!(" --old {}", quote(&key.to_string())),
    };
    match &obstacle.remedy {
        Remedy::Run => line("run") + &old,
        Remedy::NewDataKey => line("run") + " --new-data-key",
        Remedy::Fence => line("fence enforce"),
        Remedy::Holders => line("fence status"),
        Remedy::Verify => line("verify"),
        Remedy::Quarantine => line("quarantine retry") + " --old KEY",
        Remedy::Rewrap => call.again("keys rewrap") + " --to KMS",
        Remedy::Column(column) => format!(
            "reseal plan --table {} --key-column NAME --column {}{old} --new KEY",
            quote(&format!("{}.{}", column.schema, column.table)),
            quote(&column.column)
        ),
        Remedy::Later => again(call, key),
        Remedy::Confirm(id) => format!("{} --confirm {}", again(call, key), quote(id)),
    }
}
