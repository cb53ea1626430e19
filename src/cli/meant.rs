//! What the settings mean to the library.

use std::{sync::Arc, time::Duration};

use reseal::{
    envelope::Format,
    keyring::{ClearText, spec::KeySpec},
    rekey::{
        DataKeyScope, KeyChoice, Kind, MOST_BATCH, MOST_WORKERS, Options, UrlPassword,
        plan::{NotADigest, PlanDigest},
    },
    store::TargetName,
};

use super::{Call, Fault, args, connect};

/// The longest value that `--max-value` may allow, in bytes: `PostgreSQL` holds no longer one.
const LONGEST_VALUE: u64 = 1 << 30;

/// The table, as it is named. A column that is named twice is one operator's slip, and would be counted twice.
///
/// # Errors
/// A column that is there twice: on SQLite, whose names are the same in either case, in any.
pub(super) fn target_name(call: &Call) -> Result<TargetName, Fault> {
    let columns = call.settings.texts("column");
    let is_sqlite = connect::is_sqlite(call);
    let is_same = |one: &String, other: &String| one == other || is_sqlite && one.eq_ignore_ascii_case(other);
    let twice =
        columns.iter().enumerate().find(|(at, name)| columns[..*at].iter().any(|one| is_same(one, name)));
    if let Some((_, name)) = twice {
        return Err(Fault::usage(format!("column {name} is named twice")).hint("give each --column once"));
    }
    let table = call.settings.text("table").unwrap_or_default();
    let (schema, table) = match table.split_once('.') {
        Some((schema, table)) => (Some(schema.to_owned()), table.to_owned()),
        None => (None, table.to_owned()),
    };
    Ok(TargetName {
        logical: call.settings.text("logical-name").map(str::to_owned),
        schema,
        table,
        key_column: call.settings.text("key-column").unwrap_or_default().to_owned(),
        columns: columns.to_vec(),
    })
}

/// The keys, as they are named.
pub(super) fn keys(call: &Call) -> Result<KeyChoice, Fault> {
    Ok(KeyChoice {
        old: call.settings.keys("old")?,
        new: new_key(call)?,
        format: format(call)?,
        scope: match call.settings.text("data-key-scope") {
            Some("batch") => DataKeyScope::Batch,
            _ => DataKeyScope::Row,
        },
        new_data_key: call.settings.is_on("new-data-key"),
        clear_text: clear_text(call),
    })
}

/// The key to end under.
pub(super) fn new_key(call: &Call) -> Result<KeySpec, Fault> {
    let missing = || {
        Fault::usage("no key to end under is named")
            .hint("--new aws-kms:ARN-OR-ALIAS, or --new local-kms:FILE, or --format v1 --new static:env:NAME")
    };
    call.settings.keys("new")?.pop().ok_or_else(missing)
}

/// The format to write.
pub(super) fn format(call: &Call) -> Result<Format, Fault> {
    let text = call.settings.text("format").unwrap_or_default();
    text.parse().map_err(|error: reseal::envelope::UnknownFormat| Fault::usage(error.to_string()))
}

/// What to make of URLs in the clear.
pub(super) fn clear_text(call: &Call) -> ClearText {
    if call.settings.is_on("seal-plaintext") { ClearText::Seal } else { ClearText::Quarantine }
}

/// How to go about it.
pub(super) fn options(call: &Call) -> Result<Options, Fault> {
    let defaults = Options::default();
    let number = |name, range| call.settings.number(name, range);
    let rate =
        |name| Ok::<_, Fault>(number(name, 1..=u32::MAX.into())?.and_then(|rate| u32::try_from(rate).ok()));
    let size = |number: Option<u64>| number.and_then(|number| usize::try_from(number).ok());
    Ok(Options {
        workers: size(number("workers", 1..=MOST_WORKERS.into())?).unwrap_or(defaults.workers),
        batch: size(number("batch", 1..=MOST_BATCH.into())?).unwrap_or(defaults.batch),
        max_rows_per_second: rate("max-rows-per-second")?,
        max_replica_lag: max_replica_lag(call)?,
        max_kms_calls_per_second: rate("max-kms-calls-per-second")?,
        max_value: size(number("max-value", 1..=LONGEST_VALUE)?).unwrap_or(defaults.max_value),
        rows_limit: number("rows-limit", 1..=u64::MAX)?,
        reseal_ambiguous: call.settings.is_on("reseal-ambiguous"),
        kind: kind(call)?,
        ..defaults
    })
}

/// A number with its unit.
fn max_replica_lag(call: &Call) -> Result<Option<Duration>, Fault> {
    let Some(value) = call.settings.value("max-replica-lag") else { return Ok(None) };
    let text = value.text();
    let unit = text.find(|char: char| !char.is_ascii_digit()).unwrap_or(text.len());
    let lag = text[..unit].parse().ok().and_then(|number: u32| match &text[unit..] {
        "ms" => Some(Duration::from_millis(number.into())),
        "s" => Some(Duration::from_secs(number.into())),
        "min" => Some(Duration::from_secs(number.into()) * 60),
        _ => None,
    });
    let place = value.origin.describe("max-replica-lag");
    lag.filter(|lag| !lag.is_zero())
        .map(Some)
        .ok_or_else(|| Fault::usage(format!("{place} takes a time above zero, such as 500ms, 5s or 1min")))
}

/// What to do with a value, by the flags of the command.
fn kind(call: &Call) -> Result<Kind, Fault> {
    if !args::takes(&call.name, "rewrite-old-url") {
        return Ok(Kind::Rekey);
    }
    let new = call.settings.secret("rewrite-url-password-from")?;
    let old = call.settings.secret("rewrite-old-url")?;
    match (old, new) {
        (None, None) if call.settings.is_on("rewrap") => Ok(Kind::Rewrap),
        (None, None) => Ok(Kind::Rekey),
        _ if call.settings.is_on("rewrap") => {
            Err(Fault::usage("--rewrap opens no value to rewrite: give one or the other"))
        }
        (Some(old), Some(new)) => {
            let edit = UrlPassword::new(old, &new).map_err(|error| Fault::usage(error.to_string()))?;
            Ok(Kind::Rewrite(Arc::new(edit)))
        }
        _ => Err(Fault::usage("--rewrite-url-password-from and --rewrite-old-url go together")
            .hint("name where the shared URL is, as it will be and as it was: env:NAME or file:PATH")),
    }
}

/// The plan that a run is held to.
pub(super) fn planned(call: &Call) -> Result<Option<PlanDigest>, Fault> {
    let digest =
        |text: &str| text.parse().map_err(|error: NotADigest| Fault::usage(format!("--plan: {error}")));
    call.settings.text("plan").map(digest).transpose()
}

/// The longest value that is read, in bytes.
pub(super) fn max_value(call: &Call) -> Result<usize, Fault> {
    Ok(options(call)?.max_value)
}
