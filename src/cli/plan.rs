//! `plan`: what a run would do, meet and cost. Writes nothing.

use std::collections::BTreeMap;

use clap::Command;
use reseal::{
    envelope::Format,
    keyring::{Origin, OriginKey, kms::Standing, spec::KeySpec},
    rekey::{
        Census, KeyChoice,
        plan::{self, Between, DOLLARS_PER_10_000_CALLS, Permission, Plan, Planned},
    },
    store::{Finding, Footprint},
};

use super::{
    Answer, Call, Exit, Fault, args, connect, meant, report,
    stdio::{commas, duration, shown, wrapped},
};

mod document;

pub(super) fn command() -> Command {
    let about = "Say what a run would do, meet and cost; writes nothing";
    let own: &[&str] = &["new-data-key", "workers", "batch", "max-rows-per-second", "reseal-ambiguous"];
    let groups = [args::DATABASE, args::NAME, args::COLUMNS, args::KEYS, own, args::READING, args::OUTPUT];
    args::with_settings(Command::new("plan").about(about), &groups).after_help(
        "A plan ends with its digest. `run --plan DIGEST` does only what was planned: it is refused where the table, the \
         keys, the options or what surrounds the table (triggers, indexes, replication) has changed since.\n\n\
         Example:\n  reseal plan --old static:env:SECRETS_ENCRYPTION_KEY --new aws-kms:alias/tenants",
    )
}

pub(super) async fn run(call: &Call) -> Result<Answer, Fault> {
    let (choice, options, name) = (meant::keys(call)?, meant::options(call)?, meant::target_name(call)?);
    let store = connect::store(call, 2).await?;
    let plan = match plan::plan(store, &name, &choice, options).await? {
        Planned::Looked(plan) => plan,
        Planned::Refused { findings, permissions } => {
            let human = format!("{}: refused; the values were not looked at.\n\n", shown(name.logical()))
                + &findings_in_words(&findings)
                + &permissions_in_words(&permissions);
            let json = document::refused(name.logical(), &findings, &permissions);
            return Ok(Answer::Report { exit: Exit::Refused, human, json, hints: Vec::new() });
        }
    };
    let back = way_back(call, &choice);
    let next = if plan.is_refused() { Vec::new() } else { next(call, &choice, &plan) };
    let human = [
        verdict(&plan),
        census_in_words(&plan, &plan.census),
        permissions_in_words(&plan.permissions),
        readers(&plan, &choice),
        back_in_words(back.as_deref()),
        cost_in_words(&plan),
        findings_in_words(&plan.findings),
        format!("Plan {}\n", plan.digest),
    ];
    Ok(Answer::Report {
        exit: if plan.is_refused() { Exit::Refused } else { Exit::Done },
        human: human.concat(),
        json: document::looked(&plan, back.as_deref(), &next),
        hints: next,
    })
}

fn verdict(plan: &Plan) -> String {
    let (job, census) = (&plan.job, &plan.census);
    let verdict = match census.rows_to_rekey {
        _ if plan.is_refused() => "refused".to_owned(),
        0 => "nothing to re-key".to_owned(),
        rows => format!("{} of {} rows can be re-keyed", commas(rows), commas(census.rows)),
    };
    let mut text = format!("{}: {verdict}.\n", shown(&job.target.name));
    text += &format!("  to {} under {}\n", job.keys.format, job.keys.new);
    job.keys.old.iter().for_each(|old| text += &format!("  from {old}\n"));
    text + "\n"
}

/// A paragraph of findings, refusals first.
fn findings_in_words(findings: &[Finding]) -> String {
    let line = |finding: &Finding| {
        let word = if finding.refuses { "refused" } else { "warning" };
        wrapped(&format!("{word}: {}", shown(&finding.what)), 0) + &wrapped(&shown(&finding.hint), 2)
    };
    let lines = findings.iter().map(line).collect::<String>();
    if lines.is_empty() { lines } else { lines + "\n" }
}

fn permissions_in_words(permissions: &[Permission]) -> String {
    let line = |permission: &Permission| {
        let standing = match &permission.standing {
            Standing::Allowed => "allowed".to_owned(),
            Standing::Refused(code) => format!("refused ({code})"),
            Standing::Unknown(code) => format!("not known ({code})"),
        };
        wrapped(&format!("{} under {}: {standing}", permission.operation, permission.key), 2)
    };
    if permissions.is_empty() {
        return String::new();
    }
    "Permissions of the KMS:\n".to_owned() + &permissions.iter().map(line).collect::<String>() + "\n"
}

/// Values by the format and key they are under.
fn by_key(census: &Census) -> BTreeMap<String, i64> {
    let named = |(origin, count): (&Origin, &i64)| {
        let name = match &origin.key {
            OriginKey::Static(id) => format!("{} under static:{id}", origin.format),
            OriginKey::Kms(name) => format!("{} under {name}", origin.format),
            OriginKey::Data(id) => format!("{} under data-key:{id}", origin.format),
            OriginKey::Clear => "in the clear".to_owned(),
        };
        (name, *count)
    };
    census.opened.iter().map(named).collect()
}

fn census_in_words(plan: &Plan, census: &Census) -> String {
    let names = plan.job.target.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>();
    let mut text = format!("Values of {}:\n", shown(&names.join(", ")));
    let mut lines = by_key(census).into_iter().map(|(key, count)| (count, key)).collect::<Vec<_>>();
    lines.push((census.wrapped, "of v2's form, whose data keys the KMS was not asked for".to_owned()));
    lines.push((census.empty, "empty (NULL or of zero length)".to_owned()));
    lines.extend(census.refused.iter().map(|(reason, count)| (*count, format!("can't be opened: {reason}"))));
    lines.retain(|(count, _)| *count > 0);
    lines.push((census.current, "of these are where they are to end already".to_owned()));
    text += &report::counts(&lines);
    for (row, column, reason) in &census.examples {
        text += &format!("  for example row {}, column {}: {reason}\n", shown(row), shown(column));
    }
    text + "\n"
}

/// Who has to be able to read the new values before the first one is written.
fn readers(plan: &Plan, choice: &KeyChoice) -> String {
    let keys = &plan.job.keys;
    let who = match (choice.format, &choice.new) {
        (Format::V1, _) => format!("hold the static key {} beside the old one", keys.new),
        (Format::V2, _) => format!("read v2 (KMS_KEY_ARN is set) and may call Decrypt on {}", keys.new),
        (Format::V3, KeySpec::DataKey(_)) => "read v3 and the table reseal_data_keys".to_owned(),
        (Format::V3, _) => {
            "read v3 and the table reseal_data_keys, and may call Decrypt on the KMS key".to_owned()
        }
    };
    wrapped(&format!("Before the run, every program that reads these columns must {who}."), 0) + "\n"
}

fn back_in_words(back: Option<&str>) -> String {
    match back {
        Some(line) => format!("The way back, as long as the old key is kept:\n  {line}\n\n"),
        None => {
            "There is no way back: no --old key is one that values can be sealed under again.\n\n".to_owned()
        }
    }
}

fn cost_in_words(plan: &Plan) -> String {
    let (calls, writing, time) = (&plan.calls, &plan.writing, &plan.duration);
    let mut lines = vec![format!(
        "{} to {}: {:.2} ms to read and {:.2} ms to re-seal a row were measured on {} rows; writing is estimated, \
         at 10 to 100 MB a second.",
        duration(time.seconds.least),
        duration(time.seconds.most),
        time.reading_ms,
        time.sealing_ms,
        plan.sample.rows
    )];
    if calls.run > 0 {
        let price = match calls.dollars {
            0.0 => String::new(),
            dollars => format!(
                ": ${dollars:.2} at AWS's list price of ${DOLLARS_PER_10_000_CALLS} for 10,000 (check yours)"
            ),
        };
        lines.push(format!(
            "{} KMS calls for the run and {} for verify{price}. This plan made {}.",
            commas(calls.run),
            commas(calls.verify),
            plan.calls_made
        ));
    }
    if calls.dollars > 0.0 && time.seconds.least > 0.0 {
        let rate = f64::from(u32::try_from(calls.run).unwrap_or(u32::MAX)) / time.seconds.least;
        lines.push(format!("Up to {rate:.0} KMS calls a second: the account's quota may make it slower."));
    }
    lines.push(format!(
        "{} of write-ahead log; the table and its indexes grow by {}.",
        bytes(writing.log),
        bytes(writing.growth)
    ));
    lines.extend(in_place_in_words(plan));
    "What it takes, about:\n".to_owned()
        + &lines.iter().map(|line| wrapped(line, 2)).collect::<String>()
        + "\n"
}

/// Whether updates can be HOT, and what to do about it.
fn in_place_in_words(plan: &Plan) -> Option<String> {
    let Footprint::Postgres(table) = &plan.footprint else { return None };
    let blocking = table.indexes.iter().filter(|index| index.reads_values).map(|index| index.name.as_str());
    let blocking = blocking.collect::<Vec<_>>();
    if !blocking.is_empty() {
        return Some(format!(
            "Updates can't be HOT: {} read what is updated. A row is written to all {} indexes.",
            shown(&blocking.join(", ")),
            table.indexes.len()
        ));
    }
    Some(format!(
        "At least {:.0} % of the updates are HOT (fillfactor {}, no index reads the values). VACUUM before the run frees \
         room; a lower fillfactor helps only blocks written from then on.",
        100.0 * plan.writing.in_place.least,
        table.fillfactor
    ))
}

fn bytes(between: Between) -> String {
    let megabytes = |bytes: f64| bytes / 1e6;
    format!("{:.1} to {:.1} MB", megabytes(between.least), megabytes(between.most))
}

/// The commands to type, in order.
fn next(call: &Call, choice: &KeyChoice, plan: &Plan) -> Vec<String> {
    let run = format!("{} --plan {}", call.again("run"), plan.digest);
    let mut lines = Vec::new();
    if !plan.migrated {
        lines.push(call.again("init"));
    }
    // Of v1 a fence can tell nothing.
    if choice.format == Format::V1 {
        lines.push(run);
    } else {
        lines.extend([call.again("fence observe"), run.clone(), call.again("fence enforce"), run]);
    }
    lines.push(call.again("verify"));
    lines.extend(choice.old.iter().map(|old| format!("{} {}", call.again("retire"), quoted(old))));
    lines
}

/// The command that takes the values back under an old key.
fn way_back(call: &Call, choice: &KeyChoice) -> Option<String> {
    let old = choice.old.first()?;
    let format = match old {
        KeySpec::Static(_) => Format::V1,
        KeySpec::Kms(_) => Format::V2,
        KeySpec::DataKey(_) => Format::V3,
    };
    let keys = ["old", "new", "format", "data-key-scope", "new-data-key", "plan", "output"];
    let flags = call.settings.flags(|name| args::takes("run", name) && !keys.contains(&name));
    Some(format!("reseal run{flags} --format {format} --old {} --new {}", quoted(&choice.new), quoted(old)))
}

fn quoted(key: &KeySpec) -> String {
    crate::config::quote(&key.to_string())
}
