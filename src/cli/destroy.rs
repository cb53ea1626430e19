//! `destroy`: the end of a retired key, after its soak. For a data key, the only step that can't be undone.

use std::{sync::Arc, time::Duration};

use clap::{Arg, Command};
use reseal::{
    keyring::spec::{KeySpec, KmsSpec, StaticSource},
    rekey::{self, OldKey},
};
use serde_json::json;

use super::{Answer, Call, Exit, Fault, args, audit, connect, meant, retire, stdio::time};
use crate::config::ConfigError;

pub(super) fn command() -> Command {
    let command = Command::new("destroy")
        .about("Destroy a retired key, once the last backup that needs it is gone")
        .arg(retire::key_argument("The key, retired before"))
        .arg(
            Arg::new("confirm")
                .long("confirm")
                .value_name("KEYID")
                .help("The key's id, typed back: this can't be undone"),
        );
    args::with_settings(command, &[args::DATABASE, &["soak"], args::READING, args::OUTPUT]).after_help(
        "A backup made before the key was retired has values under it, and is lost with it. So a key soaks first: by\n\
         default 35 days, the longest that common services keep backups (Amazon RDS: 35 days); say --soak where yours\n\
         are kept for longer, or for less. The database's clock counts.\n\n\
         Before anything is destroyed every value is looked at once more: by its header for a data key, by opening for a\n\
         static key; for a KMS key a verify that is younger than the retirement must be on record.\n\
         A data key's wrapped bytes are removed. Other keys are not ours to delete: what to delete, and where, is said.\n\n\
         Example:\n  reseal destroy data-key:6b1f… --confirm 6b1f…",
    )
}

pub(super) async fn run(call: &Call) -> Result<Answer, Fault> {
    let spec = retire::key(call)?;
    let soak = soak(call)?;
    let confirm = call.args.get_one::<String>("confirm").map(String::as_str);
    let longest = meant::max_value(call)?;
    let store = connect::migrated_store(call, 2).await?;
    let key = OldKey::load(&spec).await?;
    let destroyed = rekey::destroy(&store, &key, soak, confirm, longest).await;
    // No target is named here: every line says which one it is about.
    let destroyed = destroyed.map_err(|error| retire::fault(call, &spec, "", &[], error))?;
    let targets = destroyed.targets.join(", ");
    let mut human = format!(
        "{} is destroyed. It was retired on {}, and nothing in {targets} is under it.\n",
        destroyed.key,
        time(destroyed.retired_ms)
    );
    let left = deletion(&spec, &destroyed.key);
    human += &left.iter().map(|line| format!("{line}\n")).collect::<String>();
    let json = json!({
        "command": "destroy",
        "key": destroyed.key,
        "state": "destroyed",
        "targets": destroyed.targets,
        "retired": time(destroyed.retired_ms),
        "now": left,
    });
    let report = Answer::Report { exit: Exit::Done, human, json, hints: Vec::new() };
    audit::with_head(Arc::clone(&store).as_ref(), report).await
}

/// What is left to delete, and where.
fn deletion(spec: &KeySpec, name: &str) -> Vec<String> {
    match spec {
        KeySpec::Static(source) => {
            let place = match source {
                StaticSource::Env(variable) => format!("${variable} of this shell"),
                StaticSource::File(path) => path.display().to_string(),
            };
            vec![
                "It is recorded; the key itself is not ours to delete. Delete now:".to_owned(),
                format!("  {place}, and every offline copy that was kept for the soak"),
                "  its entries in password managers, vaults and old versions of secrets".to_owned(),
            ]
        }
        KeySpec::Kms(KmsSpec::Aws(_)) => vec![
            "It is recorded; the key itself is not ours to delete. Once no other table or service uses it:".to_owned(),
            format!("  aws kms schedule-key-deletion --key-id {name} --pending-window-in-days 30"),
        ],
        KeySpec::Kms(KmsSpec::Local(path)) => vec![
            "It is recorded; the keyring is not ours to delete. Delete now, with every copy:".to_owned(),
            format!("  {}", path.display()),
        ],
        KeySpec::DataKey(_) => vec![
            "Its wrapped bytes are gone from the registry. Exports of data keys and backups of this database hold them"
                .to_owned(),
            "still, for whoever may use the KMS key that wraps them.".to_owned(),
        ],
    }
}

/// A whole number of days, hours, minutes or seconds.
fn soak(call: &Call) -> Result<Duration, Fault> {
    let text = call.settings.text("soak").unwrap_or_default();
    parse_time(text)
        .ok_or_else(|| ConfigError::new("--soak takes a whole number and d, h, m or s: 35d").into())
}

fn parse_time(text: &str) -> Option<Duration> {
    let (number, seconds) = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)]
        .into_iter()
        .find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)))?;
    let number: u64 = number.parse().ok().filter(|_| number.bytes().all(|byte| byte.is_ascii_digit()))?;
    number.checked_mul(seconds).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_number_and_a_unit() {
        let seconds = |text| parse_time(text).map(|time| time.as_secs());
        assert_eq!(["35d", "12h", "30m", "0s"].map(seconds), [3_024_000, 43_200, 1800, 0].map(Some));
        assert_eq!(
            ["", "35", "d", "-1d", "+1d", "1.5d", "1 d", "99999999999999999999d"].map(seconds),
            [None; 8]
        );
    }
}
