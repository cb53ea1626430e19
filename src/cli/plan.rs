//! `plan`: what a run would do, meet and cost. Writes nothing.

use std::{collections::BTreeMap, sync::Arc};

use clap::Command;
use reseal::{
    envelope::Format,
    keyring::{
        OriginKey, Sealer,
        kms::{Kms, Locality},
        spec::KeySpec,
    },
    rekey::{self, Census, DataKeyScope, Intent, Job, KeyChoice},
    store::Finding,
};
use serde_json::json;

use super::{
    Answer, Call, Exit, Fault, args, connect, meant, report,
    stdio::{commas, duration, shown},
};

/// What AWS asks for 10,000 calls, in dollars.
const DOLLARS_PER_10_000_CALLS: f64 = 0.03;

/// Rows a second that a run is taken to do when nothing holds it back.
const ROWS_PER_SECOND: u32 = 1000;

pub(super) fn command() -> Command {
    let about = "Say what a run would do, meet and cost; writes nothing";
    let own: &[&str] = &["new-data-key", "batch", "max-rows-per-second", "reseal-ambiguous"];
    let groups = [args::DATABASE, args::NAME, args::COLUMNS, args::KEYS, own, args::READING, args::OUTPUT];
    args::with_settings(Command::new("plan").about(about), &groups).after_help(
        "Example:\n  reseal plan --old static:env:SECRETS_ENCRYPTION_KEY --new aws-kms:alias/tenants",
    )
}

pub(super) async fn run(call: &Call) -> Result<Answer, Fault> {
    let (choice, options, name) = (meant::keys(call)?, meant::options(call)?, meant::target_name(call));
    let store = connect::store(call, 2).await?;
    let inspection = store.inspect(&name).await?;
    let mut findings = inspection.findings;
    let target = match inspection.target {
        Some(target) if !findings.iter().any(|finding| finding.refuses) => target,
        _ => return Ok(refused(name.logical(), &findings)),
    };
    let migrated = store.is_migrated().await?;
    let job = Arc::new(rekey::prepare(store, target, &choice, options, Intent::Look).await?);
    let census = rekey::census(&job).await?;
    findings.extend(warnings(&job, &census));
    findings.sort_by_key(|finding| !finding.refuses);
    let cost = Cost::new(&job, &census);
    let back = way_back(call, &choice);

    let mut human = findings_in_words(&findings);
    human += &census_in_words(&job, &census);
    human += &cost.in_words(&job);
    human += &readers(&job, &choice);
    human += &match &back {
        Some(line) => format!("The way back, as long as the old key is kept:\n  {line}\n"),
        None => {
            "There is no way back: no --old key is one that values can be sealed under again.\n".to_owned()
        }
    };
    let json = json!({
        "command": "plan",
        "outcome": if findings.iter().any(|finding| finding.refuses) { "refused" } else { "possible" },
        "target": {"table": job.target.name, "columns": names(&job)},
        "keys": job.keys,
        "findings": findings,
        "rows": {"total": census.rows, "to_rekey": census.rows_to_rekey},
        "values": {
            "by_key": report::by_name(by_key(&census)),
            "wrapped_not_asked_for": census.wrapped,
            "null": census.empty,
            "current": census.current,
            "ambiguous": census.ambiguous,
            "refused": report::by_name(census.refused.iter().map(|(reason, count)| (reason, *count))),
        },
        "examples": census.examples.iter().map(|(row, column, reason)|
            json!({"row": row, "column": column, "reason": reason.as_str()})).collect::<Vec<_>>(),
        "bytes": census.bytes,
        "kms_calls": {"run": cost.run, "verify": cost.verify, "dollars": cost.dollars},
        "seconds": cost.seconds,
        "way_back": back,
    });
    let exit = if findings.iter().any(|finding| finding.refuses) { Exit::Refused } else { Exit::Done };
    let hints = match exit {
        Exit::Refused => Vec::new(),
        _ if migrated => vec![call.again("run")],
        _ => vec![call.again("init"), call.again("run")],
    };
    Ok(Answer::Report { exit, human, json, hints })
}

/// The answer for a table that is not fit: its values were not looked at.
fn refused(table: &str, findings: &[Finding]) -> Answer {
    let human = findings_in_words(findings) + "The values were not looked at.\n";
    let json = json!({
        "command": "plan",
        "outcome": "refused",
        "target": {"table": table},
        "findings": findings,
    });
    Answer::Report { exit: Exit::Refused, human, json, hints: Vec::new() }
}

fn findings_in_words(findings: &[Finding]) -> String {
    let line = |finding: &Finding| {
        let word = if finding.refuses { "refused" } else { "warning" };
        format!("{word}: {}\n  {}\n", finding.what, finding.hint)
    };
    findings.iter().map(line).collect()
}

/// What the values themselves warn of.
fn warnings(job: &Job, census: &Census) -> Vec<Finding> {
    let mut findings = Vec::new();
    let refused = census.refused.values().sum::<i64>();
    if refused > 0 && census.opened.is_empty() && census.wrapped == 0 {
        findings.push(Finding::refusal(
            format!("none of {} values opens under any of the given keys", commas(refused)),
            "check --old: is it the key that the control plane runs with?",
        ));
    } else if refused > 0 {
        findings.push(Finding::warning(
            format!("{} values can't be opened and would go to quarantine", commas(refused)),
            "name every key that values may be under with --old, once for each",
        ));
    }
    if census.ambiguous > 0 {
        findings.push(Finding::warning(
            format!("{} v1 values begin with 0x02 or 0x03", commas(census.ambiguous)),
            "a reader that takes the first byte for the format can't open them; reseal goes by the tag",
        ));
    }
    if job.keys.format == Format::V1 {
        findings.push(Finding::warning(
            "a reader that holds only one static key can't read what is not under it",
            "while the run is under way some values are under the old key and some under the new: \
             give readers both, or stop them for the time of the run",
        ));
    }
    if job.keys.format == Format::V2 && job.keys.scope == DataKeyScope::Batch {
        findings.push(Finding::warning(
            "one data key for a whole batch of rows: a tenant's data key opens other tenants' values",
            "--data-key-scope row keeps tenants apart, at two KMS calls a row",
        ));
    }
    findings
}

fn names(job: &Job) -> Vec<&str> {
    job.target.columns.iter().map(|column| column.name.as_str()).collect()
}

fn by_key(census: &Census) -> BTreeMap<String, i64> {
    let name = |key: &OriginKey| match key {
        OriginKey::Static(id) => format!("static:{id}"),
        OriginKey::Kms(name) => name.to_string(),
        OriginKey::Data(id) => format!("data-key:{id}"),
        OriginKey::Clear => "in the clear".to_owned(),
    };
    let named = |(origin, count): (&reseal::keyring::Origin, &i64)| match &origin.key {
        OriginKey::Clear => (name(&origin.key), *count),
        key => (format!("{} under {}", origin.format, name(key)), *count),
    };
    census.opened.iter().map(named).collect()
}

fn census_in_words(job: &Job, census: &Census) -> String {
    let mut text = format!(
        "{}: {} rows, {} of them to re-key to {} under {}. Values of {}:\n",
        job.target.name,
        commas(census.rows),
        commas(census.rows_to_rekey),
        job.keys.format,
        job.keys.new,
        names(job).join(", ")
    );
    let mut lines = by_key(census).into_iter().map(|(key, count)| (count, key)).collect::<Vec<_>>();
    lines.push((census.wrapped, "of v2's form, whose data keys the KMS was not asked for".to_owned()));
    lines.push((census.empty, "empty (NULL or of zero length)".to_owned()));
    lines.extend(census.refused.iter().map(|(reason, count)| (*count, format!("can't be opened: {reason}"))));
    lines.retain(|(count, _)| *count > 0);
    lines.push((census.current, "of these are where they are to end already".to_owned()));
    text += &report::counts(&lines);
    for (row, column, reason) in &census.examples {
        let row = shown(row);
        text += &format!("  for example row {row}, column {column}: {reason}\n");
    }
    text
}

/// What a run and a verify take.
struct Cost {
    run: i64,
    verify: i64,
    dollars: f64,
    seconds: f64,
}

impl Cost {
    fn new(job: &Job, census: &Census) -> Self {
        let batch = i64::try_from(job.options.batch).unwrap_or(i64::MAX);
        let (rows, all) = (census.rows_to_rekey, census.rows);
        let batches = |rows: i64| rows / batch + i64::from(rows % batch > 0);
        // Making a data key takes one call, and proving that it unwraps another.
        let (seal, verify) = match (&job.sealer.as_ref(), job.keys.scope) {
            (Sealer::Static(_), _) => (0, 0),
            (Sealer::Wrapped(_), DataKeyScope::Row) => (2 * rows, all),
            (Sealer::Wrapped(_), DataKeyScope::Batch) => (2 * batches(rows), batches(all)),
            (Sealer::Bound(..), _) => (2, 1),
        };
        // Old v2 values are unwrapped one by one; a row's columns share their data key.
        let wrapped = census
            .opened
            .iter()
            .filter(|(origin, _)| origin.format == Format::V2 && !job.sealer.is_current(origin));
        let width = i64::try_from(job.target.columns.len()).unwrap_or(1);
        let old = (wrapped.map(|(_, count)| count).sum::<i64>() + census.wrapped) / width;
        let remote = |kms: &Arc<dyn Kms>| kms.locality() == Locality::Remote;
        let priced = match job.sealer.as_ref() {
            Sealer::Static(_) => false,
            Sealer::Wrapped(kms) => remote(kms),
            Sealer::Bound(..) => job.opener.kms().iter().any(remote),
        };
        let seal_calls = if priced { seal + verify } else { 0 };
        let old_calls = if job.opener.kms().iter().any(remote) { old } else { 0 };
        let rate = job.options.max_rows_per_second.map_or(ROWS_PER_SECOND, |rate| rate.min(ROWS_PER_SECOND));
        Self {
            run: seal + old,
            verify,
            dollars: float(seal_calls + old_calls) / 10_000.0 * DOLLARS_PER_10_000_CALLS,
            seconds: float(rows) / f64::from(rate),
        }
    }

    fn in_words(&self, job: &Job) -> String {
        let rate = job.options.max_rows_per_second.map_or(ROWS_PER_SECOND, |rate| rate.min(ROWS_PER_SECOND));
        format!(
            "About {} at {} rows/s, if the KMS and the database keep up.\n\
             About {} KMS calls for the run and {} for verify: ${:.2} at $0.03 for 10,000.\n",
            duration(self.seconds),
            commas(i64::from(rate)),
            commas(self.run),
            commas(self.verify),
            self.dollars
        )
    }
}

fn float(count: i64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Who has to be able to read the new values before the first one is written.
fn readers(job: &Job, choice: &KeyChoice) -> String {
    let who = match (choice.format, &choice.new) {
        (Format::V1, _) => format!("hold the static key {} beside the old one", job.keys.new),
        (Format::V2, _) => format!("read v2 (KMS_KEY_ARN is set) and may call Decrypt on {}", job.keys.new),
        (Format::V3, KeySpec::DataKey(_)) => "read v3 and the table reseal_data_keys".to_owned(),
        (Format::V3, _) => {
            "read v3 and the table reseal_data_keys, and may call Decrypt on the KMS key".to_owned()
        }
    };
    format!("Before the run, every program that reads these columns must {who}.\n")
}

/// The command that takes the values back under an old key.
fn way_back(call: &Call, choice: &KeyChoice) -> Option<String> {
    let old = choice.old.first()?;
    let format = match old {
        KeySpec::Static(_) => Format::V1,
        KeySpec::Kms(_) => Format::V2,
        KeySpec::DataKey(_) => Format::V3,
    };
    let keys = ["old", "new", "format", "data-key-scope", "new-data-key", "output"];
    let flags = call.settings.flags(|name| args::takes("run", name) && !keys.contains(&name));
    let quoted = |key: &KeySpec| crate::config::quote(&key.to_string());
    Some(format!("reseal run{flags} --format {format} --old {} --new {}", quoted(&choice.new), quoted(old)))
}
