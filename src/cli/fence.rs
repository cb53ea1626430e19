//! `fence observe`, `enforce`, `off` and `status`: what the database does to a write that is not under the new key.

use std::{cell::RefCell, time::Duration};

use clap::Command;
use reseal::{
    rekey::{self, RekeyError},
    store::{Blocker, Fence, FenceMode, FenceRule, StaleWrites},
};
use serde_json::{Value, json};

use super::{
    Answer, Call, Exit, Fault, args, audit, connect, meant,
    stdio::{commas, duration, note, shown, time},
};

/// How long the table may be in use before a change of the fence is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Writers shown, the latest first.
const SHOWN_WRITERS: u32 = 50;

pub(super) fn command() -> Command {
    let raising = [args::DATABASE, args::NAME, args::COLUMNS, &["new", "format"], args::OUTPUT];
    let observe = Command::new("observe").about("Record who writes under another key, and let it through");
    let observe = args::with_settings(observe, &raising)
        .after_help("Example:\n  reseal fence observe --format v3 --new aws-kms:alias/tenants");
    let enforce = Command::new("enforce").about("Refuse every write that is not under the new key");
    let enforce = args::with_settings(enforce, &raising)
        .after_help("Example:\n  reseal fence enforce --format v3 --new aws-kms:alias/tenants");
    let lowering = [args::DATABASE, args::NAME, args::OUTPUT];
    let off = Command::new("off").about("Take the fence down, without a trace on the table");
    let off = args::with_settings(off, &lowering).after_help("Example:\n  reseal fence off");
    let status = Command::new("status").about("Say what the fence is, and who wrote under another key");
    let status =
        args::with_settings(status, &lowering).after_help("Example:\n  reseal fence status --output json");
    Command::new("fence")
        .about("Catch writes that are not under the new key")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands([observe, enforce, off, status])
}

pub(super) async fn raise(call: &Call, mode: FenceMode) -> Result<Answer, Fault> {
    let (new, format, name) = (meant::new_key(call)?, meant::format(call)?, meant::target_name(call)?);
    let store = connect::migrated_store(call, 2).await?;
    let rule = rekey::fence_rule(store.as_ref(), name.logical(), format, &new).await?;
    let target = connect::registered_target(call, store.as_ref(), &name).await?;
    let before = store.fence(&target.name).await?;
    let waiting = Waiting::new(&target.name);
    let raised = rekey::raise_fence(store.as_ref(), &target, mode, rule, PATIENCE, |blockers| {
        waiting.tell(blockers);
    });
    let fence = raised.await.map_err(|error| waiting.fault(call, error))?;
    let repaired = before.as_ref().map(|fence| fence.drift.as_slice()).unwrap_or_default();

    let mut human = in_words(&target.name, Some(&fence));
    for what in repaired {
        human += &format!("  mended: {}\n", shown(what));
    }
    let columns = target.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>();
    human += &format!(
        "Covered: {} of {}, on INSERT, and on an UPDATE that changes the column. NULL and zero length pass.\n",
        columns.join(", "),
        target.name
    );
    human += match rule {
        FenceRule::Bound(_) => {
            "It sees exactly that, by what a value begins with. It opens nothing: a forged value that begins so \
             passes, and is for verify to find.\n"
        }
        FenceRule::Wrapped => {
            "It sees the form of v2 only: it can't tell two KMS keys apart, and about one v1 value in 140,000 \
             has that form too. Show by other means that nobody holds the old key.\n"
        }
    };
    human += "Every earlier write has ended, and every later one is checked.\n";
    let json = json!({
        "command": call.name,
        "target": {"table": target.name, "columns": columns},
        "fence": json(Some(&fence)),
        "was": json(before.as_ref()),
    });
    let old = call.again("run") + " --old KEY";
    let hints = match mode {
        FenceMode::Observe => vec![format!("who wrote what: {}", call.again("fence status")), old],
        FenceMode::Enforce => vec![format!("the last sweep: {old}"), call.again("verify")],
    };
    audit::with_head(store.as_ref(), Answer::Report { exit: Exit::Done, human, json, hints }).await
}

pub(super) async fn off(call: &Call) -> Result<Answer, Fault> {
    let name = meant::target_name(call)?;
    let target = name.logical();
    let store = connect::migrated_store(call, 2).await?;
    let waiting = Waiting::new(target);
    let lowered =
        rekey::lower_fence(store.as_ref(), target, PATIENCE, |blockers| waiting.tell(blockers)).await;
    let was = lowered.map_err(|error| waiting.fault(call, error))?;
    let mut human = match &was {
        Some(_) => format!("{target}: the fence is off. What it recorded stays: reseal fence status.\n"),
        None => format!("{target}: there is no fence.\n"),
    };
    let mut hints = Vec::new();
    for key in rekey::key_uses(store.as_ref()).await? {
        if key.retired_ms.is_some() && key.targets.iter().any(|user| user == target) {
            human += &format!(
                "{} is retired: a program that still holds it can write values again that nobody opens.\n",
                key.key
            );
            hints = vec![format!("to have it back: {} --new KEY", call.again("fence enforce"))];
        }
    }
    let json = json!({"command": call.name, "target": target, "fence": null, "was": json(was.as_ref())});
    audit::with_head(store.as_ref(), Answer::Report { exit: Exit::Done, human, json, hints }).await
}

pub(super) async fn status(call: &Call) -> Result<Answer, Fault> {
    let name = meant::target_name(call)?;
    let target = name.logical();
    let store = connect::migrated_store(call, 1).await?;
    let fence = store.fence(target).await?;
    let writes = store.stale_writes(target, SHOWN_WRITERS).await?;
    let mut human = in_words(target, fence.as_ref());
    if writes.is_empty() {
        human += "It recorded no write under another key.\n";
    }
    for writer in &writes {
        human += &writer_in_words(writer);
    }
    if writes.iter().any(|writer| writer.role.is_some()) {
        human += "Behind a pooler, address and server process are the pooler's.\n";
    }
    let drifted = fence.as_ref().filter(|fence| !fence.is_intact());
    let (exit, hints) = match drifted {
        None => (Exit::Done, Vec::new()),
        Some(Fence { mode, rule, .. }) => {
            let key = match rule {
                FenceRule::Wrapped => "--format v2 --new KEY".to_owned(),
                FenceRule::Bound(key_id) => format!("--format v3 --new data-key:{key_id}"),
            };
            let mend = format!("{} {key}", call.again(&format!("fence {}", mode.as_str())));
            (Exit::Attention, vec![format!("to put it up anew: {mend}")])
        }
    };
    let json = json!({
        "command": call.name,
        "target": target,
        "fence": json(fence.as_ref()),
        "stale_writes": writes.iter().map(writer_json).collect::<Vec<_>>(),
    });
    Ok(Answer::Report { exit, human, json, hints })
}

/// The fence in a line, and a line for each way in which it drifted.
pub(super) fn in_words(target: &str, fence: Option<&Fence>) -> String {
    let Some(fence) = fence else { return format!("There is no fence on {target}.\n") };
    let what = match fence.mode {
        FenceMode::Observe => "observes: it records a write that is not",
        FenceMode::Enforce => "enforces: it refuses a write that is not",
    };
    let mut text = format!("The fence of {target} {what} {}, since {}.\n", fence.rule, time(fence.since_ms));
    for what in &fence.drift {
        text += &format!("  NOT as it was put up: {}\n", shown(what));
    }
    text
}

/// The same for a program.
pub(super) fn json(fence: Option<&Fence>) -> Value {
    let Some(fence) = fence else { return Value::Null };
    let (format, key) = match fence.rule {
        FenceRule::Wrapped => ("v2", None),
        FenceRule::Bound(key_id) => ("v3", Some(format!("data-key:{key_id}"))),
    };
    json!({
        "mode": fence.mode.as_str(),
        "format": format,
        "key": key,
        "since": time(fence.since_ms),
        "intact": fence.is_intact(),
        "drift": fence.drift,
    })
}

fn writer_in_words(writer: &StaleWrites) -> String {
    let who = [
        writer.role.as_ref().map(|role| format!("role {role}")),
        writer.application.as_ref().filter(|name| !name.is_empty()).cloned(),
        writer.address.as_ref().map(|address| format!("at {address}")),
        writer.backend.map(|backend| format!("server process {backend}")),
    ];
    let who = who.into_iter().flatten().collect::<Vec<_>>().join(", ");
    let who = if who.is_empty() { "somebody".to_owned() } else { who };
    format!(
        "  {} × {} to {}, {} to {}, last in row {}: {}\n",
        commas(writer.count),
        writer.wrote,
        writer.column,
        time(writer.first_ms),
        time(writer.last_ms),
        shown(writer.row_key.as_deref().unwrap_or("NULL")),
        shown(&who),
    )
}

fn writer_json(writer: &StaleWrites) -> Value {
    json!({
        "role": writer.role,
        "application": writer.application,
        "address": writer.address,
        "backend": writer.backend,
        "column": writer.column,
        "wrote": writer.wrote,
        "row": writer.row_key,
        "count": writer.count,
        "first": time(writer.first_ms),
        "last": time(writer.last_ms),
    })
}

/// Who holds the table, told while waiting and kept for the end.
struct Waiting<'a> {
    target: &'a str,
    holders: RefCell<String>,
}

impl<'a> Waiting<'a> {
    fn new(target: &'a str) -> Self {
        Self { target, holders: RefCell::default() }
    }

    fn tell(&self, blockers: &[Blocker]) {
        let holders = blockers.iter().map(holder).collect::<Vec<_>>().join("; ");
        let holders = if holders.is_empty() { "other programs".to_owned() } else { holders };
        note(format_args!("waiting: {} is held by {}", self.target, shown(&holders)));
        self.holders.replace(holders);
    }

    fn fault(&self, call: &Call, error: RekeyError) -> Fault {
        match error {
            RekeyError::Store(error) if error.is_rolled_back() => Fault::resumable(format!(
                "{} is held by {}; nothing was changed",
                self.target,
                self.holders.borrow()
            ))
            .hint(call.again(&call.name)),
            error => error.into(),
        }
    }
}

/// A session, as its operator can find it.
fn holder(blocker: &Blocker) -> String {
    let Some(pid) = blocker.pid else { return "a prepared transaction (pg_prepared_xacts)".to_owned() };
    let mut text = format!("server process {pid}");
    for part in [&blocker.role, &blocker.application, &blocker.state].into_iter().flatten() {
        if !part.is_empty() {
            text += &format!(", {part}");
        }
    }
    if let Some(seconds) = blocker.open_seconds.and_then(|seconds| u32::try_from(seconds).ok()) {
        text += &format!(", open for {}", duration(f64::from(seconds)));
    }
    text
}
