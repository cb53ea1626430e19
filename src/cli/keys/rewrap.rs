//! `keys rewrap`: the registry's data keys to another KMS key, or to the newest backing key of their own.

use clap::Command;
use reseal::{
    keyring::spec::KeySpec,
    rekey::{self, Rewrapped},
};
use serde_json::json;

use super::configured;
use crate::cli::{Answer, Call, Exit, Fault, args, audit, connect, open};

pub(super) fn command() -> Command {
    let about = "Move the data keys to another KMS key, without opening a value";
    args::with_settings(Command::new("rewrap").about(about), &[args::DATABASE, &["to", "from"], args::OUTPUT])
        .after_help(
            "Without --from the data keys under --to itself are wrapped anew, by its newest backing key. Answers a leaked or \
             retired KMS key; a leaked data key needs: reseal run --new-data-key.\n\n\
             Example:\n  reseal keys rewrap --from aws-kms:alias/tenants --to aws-kms:alias/tenants-2",
        )
}

pub(in crate::cli) async fn rewrap(call: &Call) -> Result<Answer, Fault> {
    let Some(KeySpec::Kms(to)) = call.settings.keys("to")?.pop() else {
        return Err(Fault::usage("no KMS key to move the data keys to is named")
            .hint("--to aws-kms:ARN-OR-ALIAS, or --to local-kms:FILE"));
    };
    let from = call.settings.keys("from")?;
    if from.iter().any(|key| !matches!(key, KeySpec::Kms(_))) {
        return Err(Fault::usage("data keys are wrapped under KMS keys alone")
            .hint("--from aws-kms:ARN-OR-ALIAS, or --from local-kms:FILE"));
    }
    let store = connect::migrated_store(call, 1).await?;
    let to = open::connect_kms(&to).await?;
    let from = if from.is_empty() { vec![to.clone()] } else { configured(&from).await? };
    let done = rekey::rewrap_data_keys(store.as_ref(), &from, to.as_ref()).await?;
    audit::with_head(store.as_ref(), answer(call, to.key_name(), &done)).await
}

fn answer(call: &Call, to: &str, done: &Rewrapped) -> Answer {
    let mut human = format!(
        "{} data keys are wrapped anew under {to}, each proven to unwrap; {} were so already.\n",
        done.moved.len(),
        done.current.len()
    );
    for (key_id, kms) in &done.elsewhere {
        human += &format!("left: {key_id} is under {kms}, which --from does not name\n");
    }
    for (key_id, why) in &done.failed {
        human += &format!("not moved: {key_id}: {why}\n");
    }
    let mut hints = Vec::new();
    if !done.moved.is_empty() {
        human += "The bytes from before are kept until a verify passes. Exports and backups from before need the old KMS key.\n";
        hints.push("reseal verify --format v3 --new KMS, with the key given as --to".to_owned());
        hints.push(call.again("keys export") + " data-keys.json");
    }
    let whole = done.failed.is_empty() && done.elsewhere.is_empty();
    if !whole {
        hints.push(format!("name the KMS key that wraps them: {} --from KMS", call.again("keys rewrap")));
    }
    let pairs = |pairs: &[(reseal::envelope::KeyId, String)], what: &str| {
        pairs.iter().map(|(key_id, text)| json!({"id": key_id, what: text})).collect::<Vec<_>>()
    };
    let json = json!({
        "command": "keys rewrap",
        "kms": to,
        "moved": done.moved,
        "current": done.current,
        "elsewhere": pairs(&done.elsewhere, "kms"),
        "failed": pairs(&done.failed, "why"),
    });
    let exit = if whole { Exit::Done } else { Exit::Attention };
    Answer::Report { exit, human, json, hints }
}
