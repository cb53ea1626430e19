//! `audit verify` and `audit export`: the log of every change of state.

use clap::{Arg, ArgMatches, Command};
use reseal::{
    audit,
    store::{AuditHead, AuditRecord, Store},
};
use serde_json::{Value, json};

use super::{Answer, Call, Exit, Fault, args, connect, stdio};

/// Records written in one step.
const STEP: u32 = 1000;

pub(super) fn command() -> Command {
    let verify = Command::new("verify")
        .about("Find the first record that was changed, removed or moved, and a tail that was cut off")
        .arg(Arg::new("head").long("head").value_name("HEX").help("A head that was noted earlier"));
    let verify = args::with_settings(verify, &[args::DATABASE, args::OUTPUT]).after_help(
        "Every command that changes a state prints the log's head. Who can write the table can write the whole log\n\
         anew, or cut off its end; only a head that was noted elsewhere shows that.\n\n\
         Example:\n  reseal audit verify --head 5f0c…",
    );
    let export = Command::new("export").about("Write every record to standard output, a line of JSON each");
    let export = args::with_settings(export, &[args::DATABASE])
        .after_help("Example:\n  reseal audit export >audit.jsonl");
    Command::new("audit")
        .about("The log of every change of state")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands([verify, export])
}

pub(super) async fn verify(call: &Call) -> Result<Answer, Fault> {
    let noted = noted_head(&call.args)?;
    let store = connect::migrated_store(call, 1).await?;
    let checked = audit::check(store.as_ref(), noted.as_ref()).await?;
    let (exit, human, hints) = match &checked.broken {
        None => (Exit::Done, format!("The audit log is whole: {} records.\n", checked.head.seq), Vec::new()),
        Some(broken) => (
            Exit::Attention,
            format!("The audit log is broken: {broken}. Up to record {} it is whole.\n", checked.head.seq),
            vec![
                "compare it with an export or a backup, and find who wrote to reseal_audit".to_owned(),
                call.again("audit export"),
            ],
        ),
    };
    let json = json!({
        "command": "audit verify",
        "whole": checked.broken.is_none(),
        "broken": checked.broken.map(|broken| broken.to_string()),
        "audit": head_json(&checked.head),
    });
    Ok(Answer::Report { exit, human: human + &head_line(&checked.head), json, hints })
}

fn noted_head(args: &ArgMatches) -> Result<Option<[u8; 32]>, Fault> {
    let Some(text) = args.get_one::<String>("head") else { return Ok(None) };
    let mut head = [0; 32];
    match hex::decode_to_slice(text.trim(), &mut head) {
        Ok(()) => Ok(Some(head)),
        Err(_) => Err(Fault::usage("--head is not 64 hexadecimal digits")
            .hint("the head as a command printed it, whole: reseal audit verify --head HEX")),
    }
}

pub(super) async fn export(call: &Call) -> Result<Answer, Fault> {
    let store = connect::migrated_store(call, 1).await?;
    let mut after = 0;
    loop {
        let page = store.audit_page(after, STEP).await?;
        let Some(last) = page.last() else { return Ok(Answer::Nothing) };
        after = last.seq;
        let lines: String = page.iter().map(|record| format!("{}\n", line(record))).collect();
        stdio::answer(lines.as_bytes())
            .map_err(|error| Fault::failed(format!("cannot write the answer: {}", error.kind())))?;
    }
}

/// Times stay in milliseconds and the detail stays text: both are hashed so.
fn line(record: &AuditRecord) -> Value {
    json!({
        "seq": record.seq,
        "at_ms": record.at_ms,
        "time": stdio::time(record.at_ms),
        "actor": record.actor,
        "action": record.action,
        "subject": record.subject,
        "detail": record.detail,
        "hash": hex::encode(record.hash),
    })
}

/// The answer of a command that changed a state, with the log's head for the operator to note.
pub(super) async fn with_head(store: &dyn Store, answer: Answer) -> Result<Answer, Fault> {
    let Answer::Report { exit, mut human, mut json, hints } = answer else { return Ok(answer) };
    if let Some(head) = store.audit_head().await? {
        human += &head_line(&head);
        json["audit"] = head_json(&head);
    }
    Ok(Answer::Report { exit, human, json, hints })
}

fn head_line(head: &AuditHead) -> String {
    format!("Audit head: {} {}\n", head.seq, hex::encode(head.hash))
}

fn head_json(head: &AuditHead) -> Value {
    json!({"seq": head.seq, "head": hex::encode(head.hash)})
}
