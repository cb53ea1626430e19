//! What the settings mean to the library.

use reseal::{
    envelope::Format,
    keyring::{ClearText, spec::KeySpec},
    rekey::{
        DataKeyScope, KeyChoice, Options,
        plan::{NotADigest, PlanDigest},
    },
    store::TargetName,
};

use super::{Call, Fault};

/// The longest value that `--max-value` may allow, in bytes: `PostgreSQL` holds no longer one.
const LONGEST_VALUE: u64 = 1 << 30;

/// The table, as it is named.
pub(super) fn target_name(call: &Call) -> TargetName {
    let table = call.settings.text("table").unwrap_or_default();
    let (schema, table) = match table.split_once('.') {
        Some((schema, table)) => (Some(schema.to_owned()), table.to_owned()),
        None => (None, table.to_owned()),
    };
    TargetName {
        logical: call.settings.text("logical-name").map(str::to_owned),
        schema,
        table,
        key_column: call.settings.text("key-column").unwrap_or_default().to_owned(),
        columns: call.settings.texts("column").to_vec(),
    }
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
    let size = |number: Option<u64>| number.and_then(|number| usize::try_from(number).ok());
    Ok(Options {
        workers: size(number("workers", 1..=64)?).unwrap_or(defaults.workers),
        batch: size(number("batch", 1..=100_000)?).unwrap_or(defaults.batch),
        max_rows_per_second: number("max-rows-per-second", 1..=u64::from(u32::MAX))?
            .and_then(|rate| u32::try_from(rate).ok()),
        max_value: size(number("max-value", 1..=LONGEST_VALUE)?).unwrap_or(defaults.max_value),
        rows_limit: number("rows-limit", 1..=u64::MAX)?,
        reseal_ambiguous: call.settings.is_on("reseal-ambiguous"),
        ..defaults
    })
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
