//! `config`: every setting, its value and where that comes from; secrets masked.

use clap::Command;
use reseal::keyring::spec::KeySpec;
use serde_json::{Value, json};

use super::{Answer, Call, Exit, Fault, args};
use crate::config::{self, DatabaseUrl, SETTINGS, all};

pub(super) fn command() -> Command {
    let names = SETTINGS.iter().map(|setting| setting.name).collect::<Vec<_>>();
    args::with_settings(Command::new("config").about("Show every setting and where it comes from"), &[&names])
        .after_help("Example:\n  reseal config --config production.toml")
}

pub(super) fn run(call: &Call) -> Result<Answer, Fault> {
    let mut rows = Vec::new();
    for setting in all() {
        let value = call.settings.value(setting.name);
        let texts = value.map_or(Ok(Vec::new()), |value| shown(setting.name, value, call))?;
        rows.push((setting.name, texts, value.map(|value| value.origin.to_string())));
    }
    let width = rows.iter().map(|(name, ..)| name.len()).max().unwrap_or_default();
    let human = rows.iter().map(|(name, texts, origin)| match origin {
        Some(origin) => format!("{name:width$}  {}  ({origin})\n", texts.join(", ")),
        None => format!("{name:width$}  -\n"),
    });
    let settings = rows.iter().map(|(name, texts, origin)| {
        let value = origin.as_ref().map(|_| texts);
        ((*name).to_owned(), json!({"value": value, "origin": origin}))
    });
    let json = json!({"command": "config", "settings": Value::Object(settings.collect())});
    Ok(Answer::Report { exit: Exit::Done, human: human.collect(), json, hints: Vec::new() })
}

/// The values as they may be shown: a URL without its password, a key only by its name.
fn shown(name: &str, value: &config::Value, call: &Call) -> Result<Vec<String>, Fault> {
    Ok(match name {
        "database-url" => vec![DatabaseUrl::new("database-url", value)?.masked()],
        "state-url" => vec![DatabaseUrl::new("state-url", value)?.masked()],
        "rewrite-url-password-from" | "rewrite-old-url" => {
            call.settings.place(name)?.into_iter().map(str::to_owned).collect()
        }
        "old" | "new" | "kms" => call.settings.keys(name)?.iter().map(KeySpec::to_string).collect(),
        // Of a secret this is where it is kept.
        _ => value.texts().to_vec(),
    })
}
