//! `rotate status`: the open rotations, and the last one of each secret.

use clap::Command;
use reseal::{
    rotation::{Asked, SecretName, steps},
    store::{RotationRecord, RotationRow},
};
use serde_json::{Value, json};

use super::{JOURNAL, drive::until_text, line, secret};
use crate::cli::{Answer, Call, Exit, Fault, args, stdio};

pub(super) fn command() -> Command {
    let command = Command::new("status")
        .about("Show open rotations, and how the last ones ended")
        .arg(super::secret_arg());
    args::with_settings(command, &[args::DATABASE, JOURNAL, args::OUTPUT])
        .after_help("Example:\n  reseal rotate status --output json")
}

pub(in crate::cli) async fn status(call: &Call) -> Result<Answer, Fault> {
    let secret = secret(call)?;
    let journal = super::journal(call).await?;
    let store = journal.store.as_ref();
    let now = store.now_ms().await?;
    let mut seen = Vec::new();
    let mut shown = Vec::new();
    for row in store.rotations(secret.map(SecretName::as_str)).await? {
        // The newest first: of each secret the last one, which is the only one that can be open.
        if !seen.contains(&row.secret) {
            seen.push(row.secret.clone());
            let records = store.rotation_records(&row.rotation_id).await?;
            shown.push((row, records));
        }
    }
    let human = if shown.is_empty() {
        "No rotation yet.\n".to_owned()
    } else {
        shown.iter().map(|(row, records)| in_words(row, records, now)).collect()
    };
    let open = shown.iter().filter(|(row, _)| row.ended_ms.is_none());
    let hints = open.filter(|(row, _)| !row.held).map(|(row, records)| {
        let with = last_wait(records).and_then(|wait| wait["with"].as_str().map(str::to_owned));
        format!(
            "{}{}",
            line(call, "resume", &row.secret),
            with.map_or_else(String::new, |with| format!(" {with}"))
        )
    });
    let hints = hints.collect();
    let rotations = shown.iter().map(|(row, records)| document(row, records, now)).collect::<Vec<_>>();
    let json = json!({"command": call.name, "rotations": rotations});
    Ok(Answer::Report { exit: Exit::Done, human, json, hints })
}

/// The number of the step that a rotation is at, from 1, and how many there are.
fn place(row: &RotationRow) -> Option<(usize, usize)> {
    let secret: SecretName = row.secret.parse().ok()?;
    let asked: Asked = serde_json::from_str(&row.options).ok()?;
    let steps = steps(secret.recipe().strategy(Some(&row.strategy))?, &asked);
    let at = row.step.as_deref().map_or(Some(0), |at| steps.iter().position(|step| step.name == at))?;
    Some((at + 1, steps.len()))
}

fn last_wait(records: &[RotationRecord]) -> Option<Value> {
    let details =
        records.iter().rev().filter_map(|record| serde_json::from_str::<Value>(&record.detail).ok());
    details.into_iter().find(|detail| detail["waiting"].is_string())
}

fn in_words(row: &RotationRow, records: &[RotationRecord], now: i64) -> String {
    let mut text = format!("{}: {}", row.secret, row.phase);
    match (row.ended_ms, place(row)) {
        (Some(ended), _) => text += &format!(" since {}", stdio::time(ended)),
        (None, Some((number, of))) => {
            text += &format!(" at step {number} of {of}, {}", row.step.as_deref().unwrap_or("the first"));
        }
        (None, None) => {}
    }
    text +=
        &format!(". Rotation {}, {}, begun {}\n", row.rotation_id, row.strategy, stdio::time(row.begun_ms));
    if let Some(waiting) = &row.waiting {
        text += &stdio::wrapped(&format!("waits for {}", stdio::shown(waiting)), 2);
    }
    if let Some(until) = row.until_ms {
        text += &until_text(until, now);
    }
    if let Some(holder) = row.holder.as_ref().filter(|_| row.held) {
        text += &format!("  held by {}\n", stdio::shown(holder));
    }
    text += &format!("  {} records in its journal\n", records.len());
    text
}

fn document(row: &RotationRow, records: &[RotationRecord], now: i64) -> Value {
    let place = place(row).filter(|_| row.ended_ms.is_none());
    let journal = records.iter().map(|record| {
        let detail: Value = serde_json::from_str(&record.detail).unwrap_or_default();
        json!({
            "seq": record.seq,
            "at": stdio::time(record.at_ms),
            "step": record.step,
            "event": record.event,
            "detail": detail,
        })
    });
    json!({
        "rotation": row.rotation_id,
        "secret": row.secret,
        "strategy": row.strategy,
        "phase": row.phase,
        "open": row.ended_ms.is_none(),
        "step": row.step,
        "number": place.map(|(number, _)| number),
        "of": place.map(|(_, of)| of),
        "waiting": row.waiting,
        "until": row.until_ms.map(stdio::time),
        "seconds_left": row.until_ms.map(|until| (until - now).max(0) / 1000),
        "holder": row.holder.as_ref().filter(|_| row.held),
        "begun": stdio::time(row.begun_ms),
        "ended": row.ended_ms.map(stdio::time),
        "journal": journal.collect::<Vec<_>>(),
    })
}
