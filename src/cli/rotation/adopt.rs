//! `rotate adopt`: tells the journal which credential is in use.

use clap::{Arg, ArgAction, Command};
use reseal::{
    providers::Issued,
    rotation::{SecretName, adopt as put_in_place},
    secret::SecretText,
};
use serde_json::json;

use super::{Person, Screen, Session, fault, operator, secret, terminal, with_journal};
use crate::cli::{Answer, Call, Exit, Fault, audit, signals::Signals, stdio};

pub(super) fn command() -> Command {
    let command = Command::new("adopt")
        .about("Say which credential is in use, before a first rotation: its id, its value, or both")
        .args([
            super::secret_arg().required(true),
            Arg::new("id").long("id").value_name("ID").help("Its id at the vendor"),
            super::value_file_arg(),
            Arg::new("from-machine")
                .long("from-machine")
                .action(ArgAction::SetTrue)
                .conflicts_with("value-file")
                .help("Read its value from a running machine of the control plane"),
        ]);
    with_journal(command).after_help(
        "Without the id nothing can be revoked; without the value the old one's end can be accepted, and not confirmed. At \
         a terminal the id is chosen from the vendor's list.\n\n\
         Examples:\n  reseal rotate adopt RESEND_API_KEY\n  \
         reseal rotate adopt FLY_API_TOKEN --id ID --from-machine\n  \
         reseal rotate adopt DATABASE_URL --value-file old-url",
    )
}

pub(in crate::cli) async fn adopt(call: &Call) -> Result<Answer, Fault> {
    let Some(secret) = secret(call)? else { return Err(Fault::usage("missing: SECRET")) };
    if secret.recipe().strategies.is_empty() {
        return Err(Fault::refused(format!("{secret} is automatic: there is nothing to adopt")));
    }
    let mut signals = Signals::install()?;
    tokio::select! {
        adopted = adopted(call, secret) => adopted,
        () = signals.next() => Err(Fault::failed("stopped, and nothing was adopted")),
    }
}

async fn adopted(call: &Call, secret: SecretName) -> Result<Answer, Fault> {
    let journal = super::journal(call).await?;
    let session = Session::open(call, journal, secret, &[]).await?;
    let screen = Screen::new();
    let (person, tell) = (Person::new(None, &screen), |_: &_| {});
    let tools = session.tools(&person, &tell);
    let id = match call.args.get_one::<String>("id") {
        Some(id) => Some(id.clone()),
        None if terminal::is_there() => {
            let candidates = session.estate.candidates(secret, session.manner.patience).await;
            choose(candidates.map_err(|error| fault(call, error))?.unwrap_or_default()).await?
        }
        None => None,
    };
    let value = value(call, secret, &session).await?;
    let adopted = put_in_place(tools, secret, id.as_deref(), value).await;
    let adopted = adopted.map_err(|error| fault(call, error))?;
    let human = match (&adopted.provider_id, &adopted.sealed) {
        (Some(id), Some(_)) => format!("{secret} in use: {id}, and its value is kept sealed.\n"),
        (Some(id), None) => {
            format!("{secret} in use: {id}. Its value is not known: its end will not be confirmed.\n")
        }
        _ => format!("{secret} in use: its value is kept sealed.\n"),
    };
    let json = json!({
        "command": call.name,
        "secret": secret.as_str(),
        "credential": adopted.credential_id,
        "id": adopted.provider_id,
        "value_is_known": adopted.sealed.is_some(),
    });
    let hints = vec![format!("{} {secret}", call.again("rotate"))];
    audit::with_head(session.store(), Answer::Report { exit: Exit::Done, human, json, hints }).await
}

/// The one that somebody at the terminal points at.
async fn choose(candidates: Vec<Issued>) -> Result<Option<String>, Fault> {
    if candidates.is_empty() {
        return Ok(None);
    }
    for (number, one) in candidates.iter().enumerate() {
        let or_never = |time: &Option<String>| time.clone().unwrap_or_else(|| "?".to_owned());
        stdio::note(format_args!(
            "{:>3}. {}  {}  made {}, last used {}",
            number + 1,
            stdio::shown(&one.id),
            stdio::shown(&one.name),
            stdio::shown(&or_never(&one.created)),
            stdio::shown(&or_never(&one.last_used)),
        ));
    }
    let question = format!("Which one is in use? [1-{}, nothing if none is] ", candidates.len());
    let answer = terminal::ask(&question).await.ok().flatten();
    let answer = answer.as_ref().map_or("", |answer| answer.expose().trim());
    if answer.is_empty() {
        return Ok(None);
    }
    let chosen = answer.parse::<usize>().ok().and_then(|number| candidates.get(number.checked_sub(1)?));
    let chosen =
        chosen.ok_or_else(|| Fault::usage(format!("not a number from 1 to {}", candidates.len())))?;
    Ok(Some(chosen.id.clone()))
}

async fn value(call: &Call, secret: SecretName, session: &Session) -> Result<Option<SecretText>, Fault> {
    if call.args.get_flag("from-machine") {
        let value = session.estate.value_on_machine(secret).await;
        return value.map(Some).map_err(|error| fault(call, error));
    }
    if let Some(value) = operator::given(call)? {
        return Ok(Some(value));
    }
    if !terminal::is_there() {
        return Ok(None);
    }
    let question = format!("The {secret} in use (not shown; nothing if it is not known): ");
    let answer = terminal::ask_hidden(&question).await.ok().flatten();
    Ok(answer.filter(|answer| !answer.expose().trim().is_empty()))
}
