//! What clap knows: commands and their flags, all from the table of settings, and its errors in our words.

use clap::{
    Arg, ArgAction, Command,
    builder::PossibleValuesParser,
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::{Exit, commands, stdio};
use crate::config::{Kind, definition};

/// Settings of commands that use a database.
pub(super) const DATABASE: &[&str] = &["database-url", "tls"];
/// Settings that name the target.
pub(super) const NAME: &[&str] = &["table", "logical-name"];
/// Settings that say where in the target the values are.
pub(super) const COLUMNS: &[&str] = &["key-column", "column"];
/// Settings that choose keys.
pub(super) const KEYS: &[&str] = &["old", "new", "format", "data-key-scope", "seal-plaintext"];
/// Settings of an edit on the way.
pub(super) const REWRITE: &[&str] = &["rewrite-url-password-from", "rewrite-old-url"];
/// Settings that say how values are read.
pub(super) const READING: &[&str] = &["max-value"];
/// The one that says how to answer.
pub(super) const OUTPUT: &[&str] = &["output"];

/// The root, without its commands.
pub(super) fn root() -> Command {
    Command::new("reseal")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Re-key encrypted database columns in place: online, resumable, provably complete")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .max_term_width(110)
        .after_help(
            "A KEY is named by where it is kept, never by its value:\n  \
             static:env:NAME  static:file:PATH  aws-kms:ARN-OR-ALIAS  local-kms:FILE  data-key:HEX32\n\n\
             Settings come from flags, then the environment (DATABASE_URL, RESEAL_TABLE, …), then reseal.toml.\n\n\
             Examples:\n  \
             reseal init\n  \
             reseal plan --old static:env:SECRETS_ENCRYPTION_KEY --new aws-kms:alias/tenants\n  \
             reseal run --old static:env:SECRETS_ENCRYPTION_KEY --new aws-kms:alias/tenants\n  \
             reseal fence enforce --new aws-kms:alias/tenants\n  \
             reseal verify --new aws-kms:alias/tenants\n  \
             reseal retire static:env:SECRETS_ENCRYPTION_KEY --new aws-kms:alias/tenants\n\n\
             Exit codes: 0 done, 1 failed, 2 usage, 3 needs attention, 4 refused, 5 stopped and resumable",
        )
}

/// `command` with the flags of these groups of settings.
pub(super) fn with_settings(command: Command, groups: &[&[&'static str]]) -> Command {
    let command = command.arg(
        Arg::new("config")
            .long("config")
            .value_name("FILE")
            .help("The file of settings; reseal.toml where it exists"),
    );
    groups.iter().copied().flatten().fold(command, |command, name| command.arg(flag(name)))
}

/// The flag of a setting.
pub(super) fn flag(name: &'static str) -> Arg {
    let setting = definition(name);
    let arg = Arg::new(name).long(name).help(setting.help);
    let arg = match setting.kind {
        Kind::Switch => return arg.action(ArgAction::SetTrue),
        Kind::One | Kind::Secret => arg.action(ArgAction::Set),
        Kind::Many => arg.action(ArgAction::Append),
    };
    let arg = arg.value_name(setting.value_name);
    let arg = if setting.choices.is_empty() {
        arg
    } else {
        arg.value_parser(PossibleValuesParser::new(setting.choices))
    };
    // Not clap's default: a flag that was not given must not hide the environment and the file.
    match setting.default {
        [] => arg,
        default => arg.help(format!("{} [default: {}]", setting.help, default.join(", "))),
    }
}

/// Whether `command`, one word or two, takes the setting `name`.
pub(super) fn takes(command: &str, name: &str) -> bool {
    let mut found = commands();
    for word in command.split(' ') {
        match found.find_subcommand(word) {
            Some(inner) => found = inner.clone(),
            None => return false,
        }
    }
    found.get_arguments().any(|arg| arg.get_id() == name)
}

/// Says what clap found. In our words: clap's repeat what was typed, which may be a key in the wrong place.
pub(super) fn explain(error: &clap::Error) -> Exit {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        drop(stdio::answer(error.render().to_string().as_bytes()));
        return Exit::Done;
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        stdio::note(format_args!("{}", error.render()));
        return Exit::Usage;
    }
    let arg = text(error, ContextKind::InvalidArg);
    let flag = arg.as_deref().and_then(flag_name);
    let what = match (error.kind(), flag) {
        (ErrorKind::UnknownArgument, Some(flag)) => format!("there is no option {flag} here"),
        (ErrorKind::UnknownArgument, None) => "one argument too many, which is not shown here".to_owned(),
        (ErrorKind::InvalidSubcommand, _) => match text(error, ContextKind::InvalidSubcommand) {
            Some(word) if is_word(&word) => format!("there is no command {word}"),
            _ => "there is no such command".to_owned(),
        },
        (ErrorKind::InvalidValue, Some(flag)) => match text(error, ContextKind::ValidValue) {
            Some(choices) if !choices.is_empty() => format!("{flag} takes one of {choices}"),
            _ => format!("{flag} takes a value"),
        },
        (ErrorKind::ArgumentConflict, Some(flag)) => {
            format!("{flag} was given twice, or does not go with another")
        }
        (ErrorKind::MissingRequiredArgument, _) => match &arg {
            Some(arg) => format!("missing: {arg}"),
            None => "an argument is missing".to_owned(),
        },
        (ErrorKind::InvalidUtf8, _) => "an argument is not valid Unicode".to_owned(),
        (_, Some(flag)) => format!("{flag} is not used as it should be"),
        _ => "the arguments make no sense".to_owned(),
    };
    stdio::note(format_args!("error: {what}"));
    let suggested = [ContextKind::SuggestedArg, ContextKind::SuggestedSubcommand]
        .into_iter()
        .find_map(|kind| text(error, kind));
    if let Some(suggested) = suggested {
        stdio::note(format_args!("hint: did you mean {suggested}?"));
    }
    stdio::note(format_args!("hint: reseal --help, or --help after a command"));
    Exit::Usage
}

fn text(error: &clap::Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        ContextValue::Strings(texts) => Some(texts.join(", ")),
        _ => None,
    }
}

/// The flag in `--flag=value` or `--flag <VALUE>`, if it can't be anything else.
fn flag_name(arg: &str) -> Option<&str> {
    let flag = arg.split(['=', ' ']).next()?;
    let name = flag.strip_prefix("--").or_else(|| flag.strip_prefix('-'))?;
    is_word(name).then_some(flag)
}

/// A word as options and commands are: 32 letters may be a key already.
fn is_word(text: &str) -> bool {
    text.len() <= 26 && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
}
